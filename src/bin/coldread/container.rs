//! What `coldread bundle` gives a container beyond its image's config, in the words of docker's command line.
//!
//! Values of variables can be secrets, so no error repeats them.

use std::path::Path;
use std::str::FromStr;

use clap::{Args, ValueEnum};
use coldpress::bundle::{CPU_PERIOD, ContainerMount, MountKind, Options, clean, host_files, scratch};
use coldpress::fs::ext4::read::Ext4;
use coldpress::{Error, ErrorKind};

use crate::shared::failure::{CommandResult, Failure};
use crate::shared::size::Size;

/// The longest host name: HOST_NAME_MAX of Linux.
const MAX_HOSTNAME: usize = 64;
/// PATH_MAX of Linux, with the end of the path.
const MAX_PATH: usize = 4096;

/// The container that the runtime starts.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Container")]
pub struct ContainerArgs {
    /// Set an environment variable (repeatable)
    ///
    /// Replaces the image's variable of the same name. KEY alone takes the value of the variable here. Other users of this host can see the
    /// command line: prefer KEY alone for secrets.
    #[arg(long, value_name = "KEY[=VALUE]")]
    env: Vec<String>,

    /// Run as this user, by name or number [default: the image's]
    ///
    /// Names are looked up in the image's /etc/passwd and /etc/group.
    #[arg(long, value_name = "USER[:GROUP]")]
    user: Option<String>,

    /// Working directory of the program [default: the image's]
    #[arg(long, value_name = "DIR", hide_short_help = true, value_parser = absolute)]
    workdir: Option<String>,

    /// Mount a path of the host, or a tmpfs (repeatable)
    ///
    /// As in Docker: type=bind,src=PATH,dst=PATH mounts a file or directory of the host with all mounts below it, read-only with ,ro;
    /// type=tmpfs,dst=PATH mounts an empty file system in memory, with ,tmpfs-size=SIZE and ,tmpfs-mode=MODE if needed. Paths with commas
    /// are not possible.
    #[arg(long, value_name = "MOUNT")]
    mount: Vec<MountArg>,

    /// Network: none or host
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Network::None)]
    network: Network,

    /// The same as --network host
    #[arg(long, hide_short_help = true, conflicts_with = "network")]
    host_network: bool,

    /// Maximum memory of the container
    ///
    /// Content of tmpfs counts. A program that needs more is killed. (--memory is the memory cache of `coldread`.)
    #[arg(long, value_name = "SIZE")]
    memory_limit: Option<Size>,

    /// Maximum number of CPUs, such as 1.5
    #[arg(long, value_name = "N", hide_short_help = true)]
    cpus: Option<Cpus>,

    /// Host name in the container [default: start of the root digest]
    #[arg(long, value_name = "NAME", hide_short_help = true, value_parser = hostname)]
    hostname: Option<String>,

    /// Give the program the runtime's terminal
    #[arg(long)]
    pub terminal: bool,

    /// Write DIR/config.json and create DIR/rootfs without mounting the image
    #[arg(long, hide_short_help = true)]
    pub no_mount: bool,
}

/// Which network a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    /// Only a loopback interface of its own
    None,
    /// The host's network, /etc/hosts and /etc/resolv.conf
    Host,
}

impl ContainerArgs {
    /// Refuses what can be refused without the image.
    pub fn check(&self) -> CommandResult {
        self.environment().map(drop)
    }

    /// Returns the user to run as instead of the image's.
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// Returns the options of the container of the image in `fs`. The host name is empty where none was given.
    pub fn options(&self, fs: &Ext4<'_>) -> Result<Options, Failure> {
        let given: Vec<ContainerMount> = self.mount.iter().map(|MountArg(mount)| mount.clone()).collect();
        let is_given = |path: &str| given.iter().any(|mount| mount.target == path);
        let host_network = self.host_network || self.network == Network::Host;
        let on_host = |path: &&str| host_network && Path::new(path).is_file() && !is_given(path);
        let scratch = scratch(fs)?.into_iter().filter(|mount| !is_given(&mount.target));
        Ok(Options {
            environment: self.environment()?,
            working_dir: self.workdir.clone(),
            terminal: self.terminal,
            host_network,
            host_files: host_files(fs)?.into_iter().filter(on_host).collect(),
            hostname: self.hostname.clone().unwrap_or_default(),
            mounts: scratch.chain(given.iter().cloned()).collect(),
            memory: self.memory_limit.map(|size| size.0),
            cpu_quota: self.cpus.map(|Cpus(quota)| quota),
            ..Options::default()
        })
    }

    /// Returns the variables of `--env`, each as `NAME=VALUE`.
    fn environment(&self) -> Result<Vec<String>, Failure> {
        let variable = |given: &String| match given.split_once('=') {
            Some((name, _)) if !name.is_empty() => Ok(given.clone()),
            None if !given.is_empty() => {
                let message = || format!("--env {given}: not set here; use --env {given}=VALUE");
                let value = value_of(given)?.ok_or_else(|| Failure::Usage(message()))?;
                Ok(format!("{given}={value}"))
            }
            _ => Err(Failure::Usage("--env: a name is missing; use --env KEY=VALUE or --env KEY".to_owned())),
        };
        self.env.iter().map(variable).collect()
    }
}

/// Returns the value of a variable of this environment.
fn value_of(name: &str) -> Result<Option<String>, Failure> {
    #[expect(clippy::disallowed_methods, reason = "bin reads the environment, and an empty value is one here")]
    let value = std::env::var_os(name);
    let not_text = || Error::new(ErrorKind::Input, format!("{name}: not UTF-8"));
    value.map(|value| value.into_string().map_err(|_| not_text().into())).transpose()
}

/// Reads a path in the container.
fn absolute(text: &str) -> Result<String, String> {
    match text.starts_with('/') && text.len() < MAX_PATH {
        true => Ok(clean(text)),
        false => Err("not an absolute path".to_owned()),
    }
}

fn hostname(text: &str) -> Result<String, String> {
    let is_allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.');
    match !text.is_empty() && text.len() <= MAX_HOSTNAME && text.chars().all(is_allowed) {
        true => Ok(text.to_owned()),
        false => Err(format!("use at most {MAX_HOSTNAME} letters, digits, hyphens and dots")),
    }
}

/// Processor time in each period, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Cpus(u32);

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let cpus: f64 = text.parse().map_err(|_| "not a number of CPUs, such as 2 or 0.5".to_owned())?;
        // The kernel's least quota is a millisecond.
        match (0.01..=8192.0).contains(&cpus) {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked")]
            true => Ok(Self((cpus * f64::from(CPU_PERIOD)).round() as u32)),
            false => Err("not between 0.01 and 8192".to_owned()),
        }
    }
}

/// A mount in the form of docker's `--mount`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct MountArg(ContainerMount);

/// The fields of a mount as they were written.
#[derive(Default)]
struct Fields<'a> {
    kind: Option<&'a str>,
    source: Option<&'a str>,
    target: Option<&'a str>,
    read_only: Option<bool>,
    size: Option<u64>,
    mode: Option<u32>,
}

impl<'a> Fields<'a> {
    fn read(text: &'a str) -> Result<Self, String> {
        let mut fields = Self::default();
        for field in text.split(',') {
            let (key, value) = field.split_once('=').map_or((field, None), |(key, value)| (key, Some(value)));
            let given = || value.filter(|value| !value.is_empty()).ok_or_else(|| format!("{key} has no value"));
            let is_new = match key {
                "type" => fields.kind.replace(given()?).is_none(),
                "src" | "source" => fields.source.replace(given()?).is_none(),
                "dst" | "destination" | "target" => fields.target.replace(given()?).is_none(),
                "ro" | "readonly" => fields.read_only.replace(switch(key, value)?).is_none(),
                "tmpfs-size" => fields.size.replace(given()?.parse::<Size>()?.0).is_none(),
                "tmpfs-mode" => fields.mode.replace(mode(given()?)?).is_none(),
                _ => {
                    return Err(format!(
                        "`{key}` is not a field of a mount; use type, src, dst and ro, or type, dst, tmpfs-size and tmpfs-mode"
                    ));
                }
            };
            if !is_new {
                return Err(format!("{key} is given twice"));
            }
        }
        Ok(fields)
    }
}

fn switch(key: &str, value: Option<&str>) -> Result<bool, String> {
    match value {
        None | Some("true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(_) => Err(format!("{key} is neither true nor false")),
    }
}

fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| "tmpfs-mode is not an octal mode, such as 1777".to_owned())
}

impl FromStr for MountArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fields = Fields::read(text)?;
        let target = fields.target.ok_or("dst is missing: the path in the container")?;
        let target = absolute(target).map_err(|error| format!("dst={target}: {error}"))?;
        if target == "/" {
            return Err("dst=/: the root is the image's".to_owned());
        }
        let kind = match (fields.kind, &fields) {
            (Some("bind"), Fields { size: None, mode: None, source: Some(source), read_only, .. }) => {
                bind(source, read_only.unwrap_or_default())?
            }
            (Some("bind"), Fields { source: None, .. }) => {
                return Err("src is missing: the path on this host".to_owned());
            }
            (Some("bind"), _) => return Err("tmpfs-size and tmpfs-mode are for type=tmpfs".to_owned()),
            (Some("tmpfs"), Fields { source: None, read_only: None, size, mode, .. }) => {
                MountKind::Tmpfs { size: *size, mode: mode.unwrap_or(0o1777), owner: (0, 0), copies: false }
            }
            (Some("tmpfs"), _) => return Err("src and ro are for type=bind".to_owned()),
            (Some(other), _) => return Err(format!("type={other} is not supported; use type=bind or type=tmpfs")),
            (None, _) => return Err("type is missing; use type=bind or type=tmpfs".to_owned()),
        };
        Ok(Self(ContainerMount { target, kind }))
    }
}

/// Returns the mount of a path of this host, which must be there.
fn bind(source: &str, read_only: bool) -> Result<MountKind, String> {
    let fail = |error| format!("src={source}: {error}");
    let path = Path::new(source).canonicalize().map_err(fail)?;
    let is_directory = path.metadata().map_err(fail)?.is_dir();
    Ok(MountKind::Bind { source: path, is_directory, read_only })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_as_docker_reads_them() {
        let tmpfs = |size, mode| MountKind::Tmpfs { size, mode, owner: (0, 0), copies: false };
        let file = std::env::current_exe().unwrap().canonicalize().unwrap();
        let bind =
            |source: &str, is_directory, read_only| MountKind::Bind { source: source.into(), is_directory, read_only };
        for (text, target, kind) in [
            ("type=bind,src=/,dst=/host", "/host", bind("/", true, false)),
            ("type=bind,source=/proc/..,target=/a/../b/,ro", "/b", bind("/", true, true)),
            ("destination=/b,readonly=false,type=bind,src=/", "/b", bind("/", true, false)),
            (
                &format!("type=bind,src={},dst=/f,readonly", file.display()),
                "/f",
                bind(file.to_str().unwrap(), false, true),
            ),
            ("type=tmpfs,dst=/cache", "/cache", tmpfs(None, 0o1777)),
            ("type=tmpfs,dst=/cache,tmpfs-size=64m,tmpfs-mode=0700", "/cache", tmpfs(Some(64 << 20), 0o700)),
        ] {
            assert_eq!(text.parse(), Ok(MountArg(ContainerMount { target: target.to_owned(), kind })), "{text}");
        }
        let unknown = "is not a field of a mount; use type, src, dst and ro, or type, dst, tmpfs-size and tmpfs-mode";
        for (text, message) in [
            ("", format!("`` {unknown}")),
            ("type=bind,src=/,dst=/a,consistency=cached", format!("`consistency` {unknown}")),
            ("type=bind", "dst is missing: the path in the container".to_owned()),
            ("type=bind,dst=/a", "src is missing: the path on this host".to_owned()),
            ("type=bind,src=/,dst=a", "dst=a: not an absolute path".to_owned()),
            ("type=bind,src=/,dst=/a/..", "dst=/: the root is the image's".to_owned()),
            ("type=bind,src=/none,dst=/a", "src=/none: No such file or directory (os error 2)".to_owned()),
            ("src=/,dst=/a", "type is missing; use type=bind or type=tmpfs".to_owned()),
            ("type=volume,src=v,dst=/a", "type=volume is not supported; use type=bind or type=tmpfs".to_owned()),
            ("type=bind,src=/,dst=/a,target=/b", "target is given twice".to_owned()),
            ("type=bind,src=,dst=/a", "src has no value".to_owned()),
            ("type=bind,src=/,dst=/a,ro=maybe", "ro is neither true nor false".to_owned()),
            ("type=bind,src=/,dst=/a,tmpfs-size=1M", "tmpfs-size and tmpfs-mode are for type=tmpfs".to_owned()),
            ("type=tmpfs,dst=/a,src=/", "src and ro are for type=bind".to_owned()),
            ("type=tmpfs,dst=/a,ro", "src and ro are for type=bind".to_owned()),
            ("type=tmpfs,dst=/a,tmpfs-mode=9", "tmpfs-mode is not an octal mode, such as 1777".to_owned()),
        ] {
            assert_eq!(text.parse::<MountArg>(), Err(message), "{text}");
        }
    }

    #[test]
    fn cpus_and_host_names_are_checked() {
        for (text, quota) in [("1", 100_000), ("0.5", 50_000), ("1.5", 150_000), ("0.01", 1000), ("64", 6_400_000)] {
            assert_eq!(text.parse(), Ok(Cpus(quota)), "{text}");
        }
        for text in ["", "0", "-1", "NaN", "inf", "two", "9000"] {
            assert!(text.parse::<Cpus>().is_err(), "{text}");
        }
        assert!(hostname("web-1.example").is_ok());
        for text in ["", "a b", "a\n", &"x".repeat(65)] {
            assert!(hostname(text).is_err(), "{text}");
        }
    }
}

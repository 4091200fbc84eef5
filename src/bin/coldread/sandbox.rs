//! `--sandbox` and `--user`: what a command that stays gives up once its exports are open.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use clap::Args;
use coldpress::Error;
use coldpress::output_file::{Destination, directory_of};
use coldpress::sandbox::{self, Mode, Mount, Needs, Report, UnmountCommand, User};
use coldpress::store::StoreUrl;

use crate::commands::say;
use crate::run_state::Registration;
use crate::shared::failure::Failure;
use crate::shared::help::choice;
use crate::shared::keys::environment;
use crate::sockets::Address;

/// How far a command is restricted.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct SandboxArgs {
    /// Drop privileges
    ///
    /// Once everything is open, by no_new_privs, capabilities, Landlock and seccomp. What is missing is logged and shown by `coldread status`. docs/explanation/threat-model.md
    /// describes what a sandboxed reader can still do.
    #[arg(long, value_name = "MODE", default_value = "auto", value_parser = choice::<Mode>(&[
        ("auto", "use what the system supports"),
        ("require", "fail unless everything is supported"),
        ("off", "do not sandbox"),
    ]))]
    sandbox: Mode,
}

/// Whom a command becomes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Sandbox")]
pub struct UserArgs {
    /// Switch from root to this user once everything is open: NAME, UID or UID:GID
    ///
    /// The user must be able to read the store, and to write to --cache and the file of --record. Sockets are given to the user.
    #[arg(long, value_name = "USER")]
    pub user: Option<User>,
}

/// What was found when the sandbox was entered, for who asks.
pub type Entered = Arc<OnceLock<Report>>;

/// Collects what a command needs until its end.
#[derive(Debug, Default)]
pub struct Collected {
    needs: Needs,
    sockets: Vec<PathBuf>,
}

impl UserArgs {
    /// Refuses a user without root before anything is made.
    pub fn check(&self) -> Result<(), Failure> {
        if self.user.is_some() && !rustix::process::geteuid().is_root() {
            return Err(Failure::Usage("--user: only root can become another user".to_owned()));
        }
        Ok(())
    }
}

impl SandboxArgs {
    /// Restricts this process to what was `collected`, as `user` if there is one.
    pub fn enter(&self, collected: &Collected, user: Option<&User>, entered: &Entered) -> Result<(), Failure> {
        if let Some(user) = user {
            // They open for this user alone.
            collected.sockets.iter().try_for_each(|socket| user.give(socket))?;
        }
        let report = sandbox::enter(self.sandbox, &collected.needs, user)?;
        if self.sandbox != Mode::Off {
            let missing = report.missing();
            if !missing.is_empty() {
                say(&format!("warning: not fully sandboxed: {}", missing.join("; ")));
            }
        }
        if user.is_some() {
            collected.check_reach();
        }
        let _ = entered.set(report);
        Ok(())
    }
}

impl Collected {
    /// A file or directory that is read until the end; one that is not there is not.
    fn reads(&mut self, path: &Path) {
        self.needs.paths.read.extend(std::path::absolute(path).ok().filter(|path| path.exists()));
    }

    /// A directory in which files are made and removed until the end.
    pub fn writes(&mut self, path: &Path) {
        self.needs.paths.write.extend(std::path::absolute(path));
    }

    /// A file that is made, or removed, at the end.
    pub fn writes_file(&mut self, path: &Path) {
        self.writes(directory_of(path));
    }

    /// An output that is written at the end.
    pub fn output(&mut self, path: &Path) -> Result<(), Failure> {
        match Destination::of(path)? {
            Destination::File(path) => self.writes_file(&path),
            Destination::Stream(path) => self.writes(&path),
            // Open already, or refused when it is written.
            Destination::Descriptor(_) | Destination::BlockDevice(_) => {}
        }
        Ok(())
    }

    /// A socket that is listened on.
    pub fn listens(&mut self, address: &Address) {
        if let Address::Unix(path) = address {
            self.socket(path);
        }
    }

    /// The same, by its path.
    pub fn socket(&mut self, path: &Path) {
        self.writes_file(path);
        self.sockets.push(path.to_owned());
    }

    /// A FUSE mount at `file`, a resolved path, which is taken out of the tree of files at the end.
    pub fn fuse(&mut self, file: &Path) {
        self.writes_file(file);
        let by =
            if rustix::process::geteuid().is_root() { UnmountCommand::UmountLazy } else { UnmountCommand::Fusermount };
        self.needs.mounts.push(Mount { path: file.to_owned(), by });
    }

    /// The entry in the run directory, which is removed at the end.
    pub fn registered(&mut self, registration: &Registration) {
        self.writes(registration.path());
        self.needs.paths.remove.extend(std::path::absolute(directory_of(registration.path())));
    }

    /// A file system at `directory`, a resolved path, that is unmounted at the end.
    pub fn mount(&mut self, directory: &Path) {
        self.needs.mounts.push(Mount { path: directory.to_owned(), by: UnmountCommand::Umount });
    }

    /// A store, and the credentials for it, which may be read again when they expire.
    pub fn store(&mut self, url: &StoreUrl) -> Result<(), Failure> {
        match url {
            StoreUrl::Directory(path) => {
                let path = std::path::absolute(path).map_err(|error| Error::file(path, error))?;
                if !path.exists() {
                    // It may come in any of them.
                    let above = path.ancestors().find(|above| above.exists()).unwrap_or(&path);
                    say(&format!(
                        "warning: the store does not exist yet, so the sandbox allows reading all of {}",
                        above.display()
                    ));
                }
                self.needs.paths.read.push(path);
            }
            StoreUrl::Bucket(_) => self.credentials()?,
        }
        Ok(())
    }

    fn credentials(&mut self) -> Result<(), Failure> {
        let home = environment("HOME")?.map(PathBuf::from);
        for variable in CREDENTIALS {
            if let Some(path) = environment(variable)? {
                self.reads(renewed(Path::new(&path), home.as_deref()));
            }
        }
        let in_home = |name: &str| home.as_ref().map(|home| home.join(name));
        [".aws", ".azure", ".config/gcloud"].into_iter().filter_map(in_home).for_each(|path| self.reads(&path));
        let named = |variable, name| Ok::<_, Failure>(environment(variable)?.map(PathBuf::from).or(in_home(name)));
        let profiles =
            [named("AWS_CONFIG_FILE", ".aws/config")?, named("AWS_SHARED_CREDENTIALS_FILE", ".aws/credentials")?];
        if let Some(path) = coldpress::store::subject_token_file() {
            self.reads(renewed(&path, home.as_deref()));
        }
        if environment("AZURE_USE_AZURE_CLI")?.is_some_and(|value| value == "true" || value == "1") {
            self.needs.runs_programs = Some("AZURE_USE_AZURE_CLI is set, and `az` is a program".to_owned());
        }
        for path in profiles.into_iter().flatten() {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            if text.lines().any(|line| line.trim_start().starts_with("credential_process")) {
                self.needs.runs_programs =
                    Some(format!("{} has a credential_process, which is a program", path.display()));
            }
        }
        Ok(())
    }

    /// Says what another user than root does not reach.
    fn check_reach(&self) {
        use rustix::fs::{Access, AtFlags, CWD, accessat};
        let paths = &self.needs.paths;
        let wanted = paths.read.iter().map(|path| (path, Access::READ_OK, "read"));
        for (path, access, verb) in wanted.chain(paths.write.iter().map(|path| (path, Access::WRITE_OK, "write to"))) {
            if path.exists() && accessat(CWD, path, access, AtFlags::EACCESS).is_err() {
                say(&format!("warning: --user: that user cannot {verb} {}", path.display()));
            }
        }
    }
}

/// Variables that name a file with credentials, or with certificates.
const CREDENTIALS: [&str; 13] = [
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AZURE_FEDERATED_TOKEN_FILE",
    "CLOUDSDK_CONFIG",
    "GOOGLE_APPLICATION_CREDENTIALS",
    "GOOGLE_SERVICE_ACCOUNT",
    "GOOGLE_SERVICE_ACCOUNT_PATH",
    "SERVICE_ACCOUNT",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
];

/// Where a file is found again after it was replaced: its directory, as Kubernetes changes a link in it. A directory with much else in it is not
/// opened for that: files in /, /etc, /tmp and homes are taken as they are now.
fn renewed<'a>(path: &'a Path, home: Option<&Path>) -> &'a Path {
    let directory = directory_of(path);
    let shared = directory.components().count() < 3 || Some(directory) == home;
    if path.is_dir() || shared { path } else { directory }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_renewed_stands_for_its_directory() {
        let home = Path::new("/home/one");
        for (path, expected) in [
            ("/var/run/secrets/eks/token", "/var/run/secrets/eks"),
            ("/etc/token", "/etc/token"),
            ("/token", "/token"),
            ("/home/one/token", "/home/one/token"),
            ("/home/one/keys/token", "/home/one/keys"),
        ] {
            assert_eq!(renewed(Path::new(path), Some(home)), Path::new(expected), "{path}");
        }
    }
}

//! The command line of `coldread`, and the text of its `--help`.

mod analysis;
mod images;
mod inside;
mod running;

use std::path::PathBuf;
use std::sync::Arc;

use clap::{ArgAction, ArgGroup, Args, CommandFactory, Parser, Subcommand};
use coldpress::digest::Sha256;
use coldpress::fs::BlockDevice;
use coldpress::read::CowDevice;

pub use self::analysis::{ReportArgs, ZoneArgs, ZoneCommand, ZonePlanArgs, ZoneStatusArgs};
pub use self::images::{ImagePath, NamedImage, name_of};
pub use self::inside::{CatArgs, CpArgs, DuArgs, FindArgs, LsArgs, StatArgs, TarArgs, TypeLetter, find_words};
pub use self::running::{PsArgs, StatusArgs, TopArgs, UmountArgs};
use crate::container::ContainerArgs;
use crate::program::PROGRAM;
use crate::reading::ReadArgs;
use crate::sandbox::{SandboxArgs, UserArgs};
use crate::shared::failure::Failure;
use crate::shared::help::{GLOBAL, choice, spread_globals};
use crate::shared::keys::{KeyArgs, StoreArgs};
use crate::shared::logs::Format;
use crate::shared::manifests::{RegistryArgs, Source};
use crate::shared::pages::{CompletionsArgs, ManArgs};
use crate::shared::settings::{self, ConfigArgs};
use crate::shared::size::Size;
use crate::sockets::Address;

/// Heading of positional arguments that follow a flattened group, whose heading they would get otherwise.
const ARGUMENTS: Option<&str> = None;

/// Read images converted by coldpress, fetching each chunk when it is first read
///
/// Needs the block manifest, the wrapping key and the chunk store. Every chunk is authenticated before its data is used.
#[derive(Debug, Parser)]
#[command(
    name = "coldread",
    version,
    max_term_width = 100,
    disable_help_flag = true,
    after_long_help = "Exit codes:\n  \
        0  done\n  \
        1  failed\n  \
        2  usage error\n  \
        4  a service is unavailable; the command is safe to repeat\n\n\
        Example:\n  \
        coldread ls app.cpm /etc\n  \
        sudo coldread mount app.cpm /mnt/app"
)]
pub struct Cli {
    /// Log to stderr; -vv: each request
    ///
    /// -v prints fetch statistics, and logs sources of credentials, regions, endpoints and retries; -vv also each request and decisions of
    /// caches. $COLDREAD_LOG is a filter for more or less, such as `debug` or `coldpress::store=trace`. Logs hold no secret.
    #[arg(long, short, help_heading = GLOBAL, action = ArgAction::Count)]
    pub verbose: u8,

    /// Format of the lines on stderr [default: text]
    #[arg(long, value_name = "FORMAT", help_heading = GLOBAL, hide_short_help = true, default_value = "text",
        hide_default_value = true, value_parser = choice::<Format>(&[
        ("text", "Lines of text"),
        ("json", "One JSON object a line, with time and level"),
    ]))]
    pub log_format: Format,

    /// Configuration file [default: /etc/coldread/coldread.toml, if it exists]
    ///
    /// Options and environment variables win over the file. `coldread config` shows the effective settings.
    #[arg(long, value_name = "FILE", help_heading = GLOBAL, hide_short_help = true)]
    pub config: Option<PathBuf>,

    /// Print help (`-h`: a summary)
    #[arg(long, short, global = true, help_heading = GLOBAL, action = ArgAction::Help)]
    help: Option<bool>,

    #[command(subcommand)]
    pub command: Command,
}

/// Returns the command line's description. Commands have the global options that have an effect on them.
pub fn command() -> clap::Command {
    let has = |command: &clap::Command, path: &str, option: &str| match option {
        "config" => settings::has_settings(&PROGRAM, command),
        // Nothing is requested there that could be logged, and no file sets anything.
        "verbose" => !["ps", "umount", "status", "top", "zone plan", "config", "completions", "man"].contains(&path),
        _ => !["config", "completions", "man"].contains(&path),
    };
    let mut command = spread_globals(Cli::command(), &has);
    // They have many options of their own, too.
    for (name, rarely) in [
        ("bundle", &["memory", "cache_max", "zone", "cow_max", "sandbox", "on_origin_loss"][..]),
        ("serve", &["cow", "cow_max", "sandbox", "record", "on_origin_loss"]),
    ] {
        let hidden = |command: clap::Command, name: &&str| command.mut_arg(*name, |arg| arg.hide_short_help(true));
        command = command.mut_subcommand(name, |command| rarely.iter().fold(command, hidden));
    }
    settings::describe(&PROGRAM, command)
}

/// Each variant's text is that of its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    Ls(LsArgs),
    Cat(CatArgs),
    Stat(StatArgs),
    Du(DuArgs),
    Find(FindArgs),
    Cp(CpArgs),
    Tar(TarArgs),
    Mount(MountArgs),
    Bundle(BundleArgs),
    Serve(ServeArgs),
    Ps(PsArgs),
    Umount(UmountArgs),
    Profile(ProfileArgs),
    Status(StatusArgs),
    Top(TopArgs),
    Report(ReportArgs),
    Zone(ZoneArgs),
    Config(ShowConfigArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

impl Command {
    /// Returns whether `--json` was given.
    pub fn is_json(&self) -> bool {
        match self {
            Self::Ls(args) => args.json,
            Self::Stat(args) => args.json,
            Self::Du(args) => args.json,
            Self::Find(args) => args.json,
            Self::Ps(args) => args.json,
            Self::Status(args) => args.json,
            Self::Report(args) => args.json,
            Self::Config(args) => args.json,
            Self::Zone(ZoneArgs { command: ZoneCommand::Status(args) }) => args.json,
            Self::Zone(ZoneArgs { command: ZoneCommand::Plan(args) }) => args.json,
            _ => false,
        }
    }
}

/// Mount an image until it is unmounted or Ctrl-C is pressed
///
/// Stays in the foreground. `umount DIR`, Ctrl-C or SIGTERM ends it and cleans up. The mount is read-only unless --writable is given.
/// It is the kernel's ext4 on a loop device with direct I/O on a FUSE file; needs root, FUSE and util-linux.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  sudo coldread mount app.cpm /mnt/app --store s3://chunks/prod --cache /var/cache/coldread"
)]
pub struct MountArgs {
    #[command(flatten)]
    pub source: Source,

    /// Existing directory to mount on
    #[arg(value_name = "DIR", help_heading = ARGUMENTS)]
    pub directory: PathBuf,

    #[command(flatten)]
    pub writable: WritableArgs,

    /// Enable set-user-ID, set-group-ID and file capabilities of the image
    ///
    /// Warning: every user who can access DIR can then run the image's programs with their owners' privileges, including root's.
    #[arg(long, help_heading = "Mount")]
    pub suid: bool,

    /// Allow access to device nodes of the image
    #[arg(long, help_heading = "Mount")]
    pub dev: bool,

    #[command(flatten)]
    pub reading: ReadArgs,

    #[command(flatten)]
    pub sandbox: SandboxArgs,

    #[command(flatten)]
    pub recording: RecordingArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// Where a startup profile is written.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Startup profile")]
pub struct RecordingArgs {
    /// Record a startup profile to this file, written at the end
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,
}

/// How many reads are served at a time.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Resources")]
pub struct ThreadArgs {
    /// Number of threads that serve reads, per client; bounds concurrent cache misses
    #[arg(long, value_name = "N", default_value_t = 16, hide_short_help = true, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

/// Create an OCI runtime bundle with a mounted image, for runc or crun
///
/// Writes DIR/config.json from the image's config and mounts the image on DIR/rootfs, as `mount` does. Stays in the foreground until it is
/// unmounted or Ctrl-C is pressed; meanwhile, start the container with `runc run -b DIR NAME` or `crun run -b DIR NAME`.
/// Environment, user, working directory and program are the image's unless options replace them; capabilities and mounts are Docker's
/// defaults, without a seccomp profile. The root is read-only unless --writable is given; /run and /tmp are tmpfs with what the image has
/// there. config.json is rewritten each time and not removed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread bundle app.cpm /run/app --network host --env PORT=8000 &\n  runc run -b /run/app app"
)]
pub struct BundleArgs {
    #[command(flatten)]
    pub source: Source,

    /// Bundle directory, created if needed
    #[arg(value_name = "DIR", help_heading = ARGUMENTS)]
    pub directory: PathBuf,

    /// Arguments that replace the image's Cmd
    #[arg(value_name = "ARGUMENT", last = true, help_heading = ARGUMENTS)]
    pub arguments: Vec<String>,

    #[command(flatten)]
    pub container: ContainerArgs,

    #[command(flatten)]
    pub writable: WritableArgs,

    #[command(flatten)]
    pub reading: ReadArgs,

    #[command(flatten)]
    pub sandbox: SandboxArgs,

    #[command(flatten)]
    pub recording: RecordingArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// Serve images over NBD, FUSE or vhost-user-blk until Ctrl-C or SIGTERM
///
/// Each image is an NBD export of its name, and the first one also the default export. With --fuse it is a regular file, with
/// --vhost-user-blk a disk for Firecracker, QEMU and Cloud Hypervisor. Exports are read-only unless --writable is given. On SIGTERM,
/// outstanding requests are answered first; nothing is left behind.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("exports").required(true).multiple(true),
    override_usage = "coldread serve [OPTIONS] [NAME=]MANIFEST... <--nbd ADDRESS | --fuse PATH | --vhost-user-blk PATH>...",
    after_help = "Example:\n  coldread serve app.cpm --nbd unix:/run/app.sock",
    after_long_help = "Example:\n  coldread serve app.cpm --nbd unix:/run/app.sock\n  nbdcopy 'nbd+unix:///app?socket=/run/app.sock' app.img\n\n  \
        coldread serve app.cpm --fuse app.img\n  debugfs -R 'ls -l /' app.img"
)]
pub struct ServeArgs {
    /// Images to serve; the default NAME is the file name without its extension
    #[arg(value_name = "[NAME=]MANIFEST", required = true)]
    pub images: Vec<NamedImage>,

    /// Listen for NBD clients on unix:PATH or a loopback tcp:IP:PORT
    ///
    /// Warning: a TCP port gives every local user read access to the images; prefer unix:PATH, which only this user can open.
    #[arg(long, value_name = "ADDRESS", group = "exports", help_heading = "Exports")]
    pub nbd: Vec<Address>,

    /// Serve an image (default: the first) as a file, by FUSE
    ///
    /// The file is created, and removed at the end; an existing file is hidden until then. Needs /dev/fuse, and root or fusermount3. Only this
    /// user can read the file; a loop device on it needs root here. A file that is still open at the end is removed when it is closed, after
    /// at most 10 s.
    #[arg(long, value_name = "[NAME:]PATH", group = "exports", help_heading = "Exports")]
    pub fuse: Vec<ImagePath>,

    /// Serve an image (default: the first) as a disk on this socket
    ///
    /// The vhost-user-blk backend of Firecracker, QEMU and Cloud Hypervisor.
    #[arg(long, value_name = "[NAME:]PATH", group = "exports", help_heading = "Exports")]
    pub vhost_user_blk: Vec<ImagePath>,

    #[command(flatten)]
    pub writable: WritableArgs,

    /// Maximum number of NBD and vhost-user-blk clients; further ones are disconnected
    #[arg(long, value_name = "N", default_value_t = 256, help_heading = "Exports", hide_short_help = true, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_clients: u16,

    /// Maximum memory for requests and replies of all NBD clients, at least 16MiB
    ///
    /// A client may use an eighth of it. While all of it is in use, a client that takes over 5 seconds to receive or send a piece of 2 MiB is
    /// disconnected.
    #[arg(long, value_name = "SIZE", default_value = "64MiB", help_heading = "Exports", hide_short_help = true)]
    pub client_memory: Size,

    /// Required root digest of the manifests
    #[arg(long, value_name = "sha256:HEX", help_heading = "Image")]
    pub expect: Option<Sha256>,

    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    #[command(flatten)]
    pub reading: ReadArgs,

    #[command(flatten)]
    pub sandbox: SandboxArgs,

    #[command(flatten)]
    pub user: UserArgs,

    #[command(flatten)]
    pub recording: RecordingArgs,

    #[command(flatten)]
    pub registry: RegistryArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// Whether a device can be written to, and where changed blocks are stored.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Write overlay")]
pub struct WritableArgs {
    /// Allow writes, to a copy-on-write overlay that is discarded at the end
    ///
    /// The image itself never changes. Its free space was set by `coldpress convert --free` (16MiB by default).
    #[arg(long)]
    writable: bool,

    /// Store the overlay in an unlinked file in this directory [default: in memory]
    ///
    /// The file is encrypted with an ephemeral key.
    #[arg(long, value_name = "DIR", requires = "writable")]
    cow: Option<PathBuf>,

    /// Maximum overlay size; further writes fail with ENOSPC
    #[arg(long, value_name = "SIZE", default_value = "1GiB", requires = "writable")]
    cow_max: Size,
}

impl WritableArgs {
    /// Returns whether writes are allowed.
    pub fn is_writable(&self) -> bool {
        self.writable
    }

    /// `device` as it is to be offered.
    pub fn over(&self, device: Arc<dyn BlockDevice>) -> Result<Arc<dyn BlockDevice>, Failure> {
        Ok(match &self.cow {
            _ if !self.writable => device,
            None => Arc::new(CowDevice::in_memory(device, self.cow_max.0)),
            Some(directory) => Arc::new(CowDevice::in_directory(device, self.cow_max.0, directory)?),
        })
    }
}

/// Show the effective settings, and where each comes from
///
/// An option wins over the environment variable, that over the configuration file, and that over the default. With a command line behind
/// `--`, shows the settings of that command. Secrets are never shown.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread config\n  coldread config -- mount app.cpm /mnt/app --memory 1GiB")]
pub struct ShowConfigArgs {
    #[command(flatten)]
    pub shared: ConfigArgs,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Record startup profiles
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread profile record app.cpm -o start.profile -- chroot {} python3 -c 'import numpy'"
)]
pub struct ProfileArgs {
    #[command(subcommand)]
    pub command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    Record(Box<RecordArgs>),
}

/// Run a command on a mounted image and record which chunks it reads
///
/// Mounts the image on a temporary directory, whose path replaces {} in the command, and unmounts it when the command ends. Attach the
/// profile with `coldpress profile attach`: later startups then prefetch its chunks. Needs what `mount` needs. Exits with the command's
/// exit code.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread profile record app.cpm -o start.profile -- chroot {} python3 -c 'import numpy'"
)]
pub struct RecordArgs {
    #[command(flatten)]
    pub source: Source,

    /// Profile to write
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,

    #[command(flatten)]
    pub reading: ReadArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,

    /// Command to run, and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true, help_heading = ARGUMENTS)]
    pub command: Vec<String>,
}

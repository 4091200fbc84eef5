//! The command line of `coldread`, and the text of its `--help`.

mod inside;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{ArgAction, ArgGroup, Args, CommandFactory, Parser, Subcommand};
use coldpress::digest::Sha256;
use coldpress::fs::BlockDevice;
use coldpress::inspect::zone_sizing::Made;
use coldpress::printable::is_escaped;
use coldpress::read::CowDevice;
use coldpress::zone::stripe::Code;

pub use self::inside::{CatArgs, CpArgs, DuArgs, FindArgs, LsArgs, StatArgs, TarArgs, TypeLetter, find_words};
use crate::container::ContainerArgs;
use crate::program::PROGRAM;
use crate::reading::{ReadArgs, Wait};
use crate::sandbox::{SandboxArgs, UserArgs};
use crate::shared::failure::Failure;
use crate::shared::help::{GLOBAL, choice, hide_switches};
use crate::shared::keys::{KeyArgs, StoreArgs};
use crate::shared::logs::Format;
use crate::shared::manifests::{ManifestRef, RegistryArgs, Source};
use crate::shared::pages::{CompletionsArgs, ManArgs};
use crate::shared::settings::{self, ConfigArgs};
use crate::shared::size::Size;
use crate::sockets::Address;
use crate::zone::ServersArgs;

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
    #[arg(long, short, global = true, help_heading = GLOBAL, action = ArgAction::Count)]
    pub verbose: u8,

    /// Format of the lines on stderr [default: text]
    #[arg(long, value_name = "FORMAT", global = true, help_heading = GLOBAL, hide_short_help = true, default_value = "text",
        hide_default_value = true, value_parser = choice::<Format>(&[
        ("text", "Lines of text"),
        ("json", "One JSON object a line, with time and level"),
    ]))]
    pub log_format: Format,

    /// Configuration file [default: /etc/coldread/coldread.toml, if it exists]
    ///
    /// Options and environment variables win over the file. `coldread config` shows what holds.
    #[arg(long, value_name = "FILE", global = true, help_heading = GLOBAL, hide_short_help = true)]
    pub config: Option<PathBuf>,

    /// Print help (`-h`: a summary)
    #[arg(long, short, global = true, help_heading = GLOBAL, action = ArgAction::Help)]
    help: Option<bool>,

    #[command(subcommand)]
    pub command: Command,
}

/// Returns the command line's description. Commands that fetch nothing do not show --verbose.
pub fn command() -> clap::Command {
    let without_verbose = |command: clap::Command| hide_switches(command, &[("verbose", Some('v'))]);
    let mut command = Cli::command();
    for name in ["ps", "umount", "status", "top", "report", "config", "completions", "man"] {
        command = command.mut_subcommand(name, without_verbose);
    }
    // It has the container's options, too.
    let rarely = ["memory", "cache_max", "zone", "cow_max"];
    command = command.mut_subcommand("bundle", |bundle| {
        rarely.into_iter().fold(bundle, |bundle, name| bundle.mut_arg(name, |arg| arg.hide_short_help(true)))
    });
    command = command.mut_subcommand("zone", |zone| {
        let zone = ["status", "plan"].into_iter().fold(zone, |zone, name| zone.mut_subcommand(name, without_verbose));
        without_verbose(zone)
    });
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

/// List running coldread processes and their images
///
/// Lists this user's `mount`, `bundle`, `serve` and `profile record` processes from the run directory: $COLDREAD_RUN_DIR, else /run/coldread
/// for root, else $XDG_RUNTIME_DIR/coldread, else ~/.local/state/coldread. STATE is `starting`, `running`, `unmounted` (still in use
/// elsewhere) or `dead` (killed; `coldread umount` or the next start cleans up).
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread ps")]
pub struct PsArgs {
    /// Print one JSON object per line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Show the settings that hold, and where each comes from
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

/// Unmount an image and wait for its process to end
///
/// If the process was killed, removes its mount, loop device and FUSE mount. Only unmounts what `coldread ps` lists. If the mount is busy,
/// it stays, and the processes that use it are printed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sudo coldread umount /mnt/app")]
pub struct UmountArgs {
    /// Mount point, or bundle directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// Timeout for the process to end
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub wait: Wait,
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

/// Show statistics of a running reader
///
/// Shows hit rates, latencies, requests to the store and cache sizes of a `serve`, `mount` or `bundle` that runs with --metrics ADDRESS.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread status unix:/run/app-metrics.sock")]
pub struct StatusArgs {
    /// Metrics address of the reader: unix:PATH or tcp:IP:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: Address,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Show statistics of a running reader once a second
///
/// Like `status`, for the last second, with a history of the last five minutes. `q` or Ctrl-C ends it. Prints one line per second if
/// standard output is not a terminal. If the reader ends, exits with 4.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread top unix:/run/app-metrics.sock")]
pub struct TopArgs {
    /// Metrics address of the reader: unix:PATH or tcp:IP:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: Address,
}

/// Draw a recorded startup: chunk reads over time, and where they came from
///
/// With MANIFEST, the picture shows metadata and layers and names the files behind the slowest reads; this reads the directories of the
/// image from the store. Pictures and pages have no scripts, fetch nothing, and follow light and dark mode. With MANIFEST, they contain
/// file names; without it, only the root digest and chunk offsets.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread report app.profile app.cpm -o app.svg\n  coldread report app.profile app.cpm --html app.html"
)]
pub struct ReportArgs {
    /// Profile from `profile record`, or from --record of `serve`, `mount` or `bundle`
    #[arg(value_name = "PROFILE")]
    pub profile: PathBuf,

    /// Block manifest of the image that was started, to name layers and files
    #[arg(value_name = "MANIFEST")]
    pub manifest: Option<ManifestRef>,

    /// SVG file to write [default: standard output, unless --json or --html]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// HTML page to write; it shows chunk and files of the mark under the pointer
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,

    /// Print the numbers as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Required root digest of the manifest
    #[arg(long, value_name = "sha256:HEX", help_heading = "Image")]
    pub expect: Option<Sha256>,

    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Inspect and size the zone cache
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread zone status --zone redis://cache-1,redis://cache-2,redis://cache-3")]
pub struct ZoneArgs {
    #[command(subcommand)]
    pub command: ZoneCommand,
}

#[derive(Debug, Subcommand)]
pub enum ZoneCommand {
    Status(ZoneStatusArgs),
    Plan(ZonePlanArgs),
}

/// Show contents and hit rate of each cache server of the zone
///
/// As reported by the servers since their start, for all hosts. Exits with 4 if a server does not answer.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread zone status --zone redis://cache-1,redis://cache-2,redis://cache-3")]
pub struct ZoneStatusArgs {
    #[command(flatten)]
    pub servers: ServersArgs,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Recommend a zone cache size from recorded or synthetic traces
///
/// Simulates caches of all sizes on the traces and recommends the larger of the cheapest size and the smallest size that meets the
/// latency goal. Prices are in one --currency.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread zone plan --trace host-1.trace --trace host-2.trace --goal 3ms -o plan.svg\n  \
        coldread zone plan --make zipf:20000,0.9,500000 --make cron:4000,3600,24"
)]
pub struct ZonePlanArgs {
    /// Trace from --trace of `serve`, `mount` or `bundle` (repeatable, one per host)
    #[arg(long, value_name = "FILE", required_unless_present = "make", help_heading = "Traces")]
    pub trace: Vec<PathBuf>,

    /// Synthetic trace: zipf:CHUNKS,EXPONENT,REQUESTS or cron:CHUNKS,SECONDS,SCANS
    ///
    /// zipf spreads REQUESTS over a day; cron reads all CHUNKS every SECONDS, SCANS times. Repeatable, and combined with --trace.
    #[arg(long, value_name = "KIND", help_heading = "Traces")]
    pub make: Vec<Made>,

    /// Random seed of --make
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Traces")]
    pub seed: u64,

    /// Erasure code of the zone
    #[arg(long, value_name = "DATA+PARITY", default_value = "4+2", help_heading = "Costs")]
    pub code: Code,

    /// Price of 1 GiB of server memory per month
    #[arg(long, value_name = "PRICE", default_value_t = 3.0, help_heading = "Costs")]
    pub memory_price: f64,

    /// Price of 1000 requests to the store
    #[arg(long, value_name = "PRICE", default_value_t = 0.0004, help_heading = "Costs")]
    pub request_price: f64,

    /// Price of transferring 1 GiB from the store
    #[arg(long, value_name = "PRICE", default_value_t = 0.0, help_heading = "Costs")]
    pub transfer_price: f64,

    /// Currency of the prices, as it is written in the plan
    #[arg(long, value_name = "NAME", default_value = "USD", help_heading = "Costs", value_parser = currency)]
    pub currency: String,

    /// Latency of a chunk from the zone
    #[arg(long, value_name = "DURATION", default_value = "1ms", help_heading = "Latency")]
    pub zone_latency: Wait,

    /// Latency of a chunk from the store
    #[arg(long, value_name = "DURATION", default_value = "30ms", help_heading = "Latency")]
    pub origin_latency: Wait,

    /// Maximum acceptable mean latency of a chunk
    #[arg(long, value_name = "DURATION", default_value = "5ms", help_heading = "Latency")]
    pub goal: Wait,

    /// SVG file to draw the plan in
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Print all numbers as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Takes the name of a currency, which stands in tables and pictures.
fn currency(text: &str) -> Result<String, String> {
    let is_name = (1..=8).contains(&text.chars().count()) && !text.chars().any(|c| is_escaped(c) || c.is_whitespace());
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not a currency; use 1 to 8 characters, such as USD or €"))
}

/// An image and what it is called.
#[derive(Debug, Clone)]
pub struct NamedImage {
    pub name: String,
    pub manifest: ManifestRef,
}

impl FromStr for NamedImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, manifest) = match text.split_once('=') {
            Some((name, manifest)) if !name.contains('/') => (Some(name.to_owned()), manifest),
            _ => (None, text),
        };
        let manifest: ManifestRef = manifest.parse()?;
        let name = name.or_else(|| name_of(&manifest));
        // NBD's bound.
        match name.filter(|name| !name.is_empty() && name.len() <= 4096) {
            Some(name) => Ok(Self { name, manifest }),
            None => Err(format!("`{text}` gives the image no name; use NAME=MANIFEST")),
        }
    }
}

/// What an image is called that was given no name.
pub fn name_of(manifest: &ManifestRef) -> Option<String> {
    match manifest {
        ManifestRef::File(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
        ManifestRef::Registry(name) => name.repository.rsplit('/').next().map(str::to_owned),
    }
}

/// A path at which one of the images is offered.
#[derive(Debug, Clone)]
pub struct ImagePath(String);

impl FromStr for ImagePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ImagePath {
    /// Which of `images`, and where; without a name it is the first.
    pub fn resolve(&self, images: &[NamedImage]) -> Result<(usize, &Path), Failure> {
        // Names can have colons in them, so the images say where theirs ends.
        let named = images.iter().enumerate().filter_map(|(at, image)| {
            let path = self.0.strip_prefix(&image.name)?.strip_prefix(':')?;
            Some((at, path))
        });
        let (at, path) = match (named.min_by_key(|(_, path)| path.len()), self.0.split_once(':')) {
            (Some(named), _) => named,
            (None, Some((name, _))) if !name.contains('/') => {
                return Err(Failure::Usage(format!(
                    "no image is called `{name}`; a path with a colon in it begins with ./"
                )));
            }
            (None, _) => (0, self.0.as_str()),
        };
        if path.is_empty() {
            return Err(Failure::Usage(format!("`{}` has no path", self.0)));
        }
        Ok((at, Path::new(path)))
    }
}

//! The command line of `coldread`, and the text of its `--help`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use clap::{ArgGroup, Args, Parser, Subcommand};
use coldpress::digest::Sha256;
use coldpress::fs::BlockDevice;
use coldpress::read::CowDevice;
use coldpress::read::zone::sizing::Made;
use coldpress::read::zone::stripe::Code;

use crate::reading::{ReadArgs, Wait};
use crate::sandbox::{SandboxArgs, UserArgs};
use crate::shared::failure::Failure;
use crate::shared::keys::{KeyArgs, StoreArgs};
use crate::shared::manifests::{ManifestRef, RegistryArgs, Source};
use crate::shared::pages::{CompletionsArgs, ManArgs};
use crate::shared::size::Size;
use crate::sockets::Address;
use crate::zone::ServersArgs;

/// Reads an image that coldpress converted, fetching only the chunks that are read
///
/// Every chunk is verified before a byte of it is used. Needs the block manifest, the key file (without the salt will
/// do) and the store.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 4 a service is unavailable (safe to repeat).
#[derive(Debug, Parser)]
#[command(name = "coldread", version, max_term_width = 100)]
pub struct Cli {
    /// Say on standard error how many chunks were fetched
    #[arg(long, short, global = true)]
    pub verbose: bool,

    #[command(subcommand)]
    pub command: Command,
}

/// Each variant's text is that of its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    Ls(LsArgs),
    Cat(CatArgs),
    Stat(StatArgs),
    Cp(CpArgs),
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
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// List directories of the image
///
/// Names are printed as they are, one a line; with --long, bytes that are no text are escaped.
#[derive(Debug, Args)]
pub struct LsArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image
    #[arg(value_name = "PATH", default_value = "/")]
    pub paths: Vec<OsString>,

    /// One line an entry: mode, links, owner, group, size, time, name
    #[arg(short, long)]
    pub long: bool,

    /// Directories below, too
    #[arg(short = 'R', long)]
    pub recursive: bool,

    /// One JSON object a line, with names as text where they are UTF-8 and escaped where not
    #[arg(long)]
    pub json: bool,
}

/// Write files of the image to standard output
///
/// Only the chunks of the files, and of the directories on the way, are fetched.
#[derive(Debug, Args)]
pub struct CatArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image; symlinks are followed inside it
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,
}

/// Show what an inode of the image says
///
/// Type, mode, owner, size, times to the nanosecond, link target, device, and extended attributes.
#[derive(Debug, Args)]
pub struct StatArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image; a symlink is shown itself
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<OsString>,

    /// One JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Copy a file, or with --recursive a directory, out of the image
///
/// Nothing on the host is overwritten or followed: what the image names is made new. Files keep mode and time, and their
/// holes; set-id bits and owners are left out.
#[derive(Debug, Args)]
pub struct CpArgs {
    #[command(flatten)]
    pub source: Source,

    /// Path in the image; a last symlink is followed
    #[arg(value_name = "PATH")]
    pub path: OsString,

    /// Where to write it: a new name, or an existing directory to put it in; nothing is overwritten
    #[arg(value_name = "DEST")]
    pub dest: PathBuf,

    /// Directories with all that is in them (devices and pipes are left out, and named)
    #[arg(short, long)]
    pub recursive: bool,
}

/// Mount the image, read-only unless --writable, until it is unmounted or Ctrl-C is pressed
///
/// A FUSE file, a loop device on it with direct I/O, and the kernel's ext4, in one step; needs root, FUSE and util-linux. It
/// stays in the foreground. `umount DIR` ends it, and so do Ctrl-C and SIGTERM; then nothing is left behind.
#[derive(Debug, Args)]
pub struct MountArgs {
    #[command(flatten)]
    pub source: Source,

    /// An existing directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    #[command(flatten)]
    pub reading: ReadArgs,

    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Write which chunks were read, and when, to this file at the end: a profile
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    #[command(flatten)]
    pub writable: WritableArgs,

    /// Let set-user-id and set-group-id bits and file capabilities of the image take effect on this host
    ///
    /// Every user who can reach DIR can then run the image's programs with the rights of their owners, root included.
    #[arg(long)]
    pub suid: bool,

    /// Let device nodes of the image be opened on this host
    #[arg(long)]
    pub dev: bool,

    /// Threads that answer reads; as many misses can be under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

/// Write an OCI runtime bundle whose root is the image, mounted, until it is unmounted or Ctrl-C is pressed
///
/// DIR/config.json is made of the image's config, and DIR/rootfs is the image, mounted read-only as `mount` does it: `runc run -b DIR NAME` and `crun run
/// -b DIR NAME` start it while this runs, and chunks are fetched as the program reads them. The file stays at the end, and is written anew each time.
/// Environment, user, directory and program are the image's, capabilities and mounts docker's defaults; there is no seccomp profile.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread bundle app.cpm /run/app --store ./store -- --port 80 &\n  runc run -b /run/app app"
)]
pub struct BundleArgs {
    #[command(flatten)]
    pub source: Source,

    /// The bundle's directory; made where it is not
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// Arguments in place of the image's Cmd
    #[arg(value_name = "ARGUMENT", last = true)]
    pub arguments: Vec<String>,

    /// Give the program a terminal: that of who runs the runtime
    #[arg(long)]
    pub terminal: bool,

    /// The host's network, /etc/hosts and /etc/resolv.conf, and not an empty network of its own
    #[arg(long)]
    pub host_network: bool,

    /// Write DIR/config.json and make DIR/rootfs, and mount nothing
    #[arg(long)]
    pub no_mount: bool,

    #[command(flatten)]
    pub reading: ReadArgs,

    #[command(flatten)]
    pub sandbox: SandboxArgs,

    /// Write which chunks were read, and when, to this file at the end: a profile
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    /// Threads that answer reads; as many misses can be under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

/// Serve images as block devices at one or several doors, until Ctrl-C or SIGTERM
///
/// By the NBD protocol, on a socket that only this user opens, or on loopback: each image is an export of its name; the first
/// is also that without a name. Or as a regular file, by FUSE; or as a disk
/// of Firecracker, QEMU and Cloud Hypervisor, by vhost-user-blk. Read-only unless --writable. On SIGTERM requests under way are answered; nothing is left behind.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("door").required(true).multiple(true),
    after_help = "Examples:\n  coldread serve app.cpm --nbd unix:/run/app.sock\n  nbdcopy 'nbd+unix:///app?socket=/run/app.sock' app.img\n\n  \
        coldread serve app.cpm --fuse app.img\n  debugfs -R 'ls -l /' app.img"
)]
pub struct ServeArgs {
    /// The images: MANIFEST, or NAME=MANIFEST; without a name, it is the file's without its extension
    #[arg(value_name = "[NAME=]MANIFEST", required = true)]
    pub images: Vec<NamedImage>,

    /// Offer NBD here: unix:PATH, or tcp:ADDRESS:PORT of loopback, where every user of this machine can read what is in the images
    #[arg(long, value_name = "ADDRESS", group = "door")]
    pub nbd: Vec<Address>,

    /// Offer an image as this file, by FUSE: of NAME, or without it the first
    ///
    /// The file is made, and removed at the end; one that is there is covered until then. Needs /dev/fuse, and root or fusermount3. Only who runs
    /// this can read it: a loop device on it needs root here. Where it is still open at the end, it ends with its last user, at most 10 s later.
    #[arg(long, value_name = "[NAME:]PATH", group = "door")]
    pub fuse: Vec<ImagePath>,

    /// Offer an image as a virtual machine's disk on this socket: of NAME, or without it the first
    #[arg(long, value_name = "[NAME:]PATH", group = "door")]
    pub vhost_user_blk: Vec<ImagePath>,

    /// Refuse any manifest of another root digest
    #[arg(long, value_name = "sha256:HEX")]
    pub expect: Option<Sha256>,

    #[command(flatten)]
    pub registry: RegistryArgs,

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

    /// Write which chunks were read, and when, to this file at the end: a profile
    #[arg(long, value_name = "FILE")]
    pub record: Option<PathBuf>,

    #[command(flatten)]
    pub writable: WritableArgs,

    /// Maximum number of clients of all NBD and vhost-user-blk sockets together; further ones are disconnected
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_clients: u16,

    /// Maximum memory for requests and replies of all NBD clients together, at least 16MiB
    ///
    /// A client may use an eighth of it. While all of it is in use, a client that takes over 5 seconds to receive or send a piece of 2 MiB is
    /// disconnected.
    #[arg(long, value_name = "SIZE", default_value = "64MiB")]
    pub client_memory: Size,

    /// Misses of a client that can be under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

/// Whether a device can be written to, and where that is kept.
#[derive(Debug, Clone, Args)]
pub struct WritableArgs {
    /// Let it be written to; what was written is kept beside the image, which never changes, and is gone when this ends
    ///
    /// The room for it is what `coldpress convert --free SIZE` left, 16MiB unless said otherwise.
    #[arg(long)]
    writable: bool,

    /// Keep what was written in a file without a name in this directory, sealed under a key that is never told [default: in memory]
    #[arg(long, value_name = "DIR", requires = "writable")]
    cow: Option<PathBuf>,

    /// Most bytes of changed blocks of an image; who writes more finds the device full
    #[arg(long, value_name = "SIZE", default_value = "1GiB", requires = "writable")]
    cow_max: Size,
}

impl WritableArgs {
    /// `device` as it is to be offered.
    pub fn over(&self, device: Arc<dyn BlockDevice>) -> Result<Arc<dyn BlockDevice>, Failure> {
        Ok(match &self.cow {
            _ if !self.writable => device,
            None => Arc::new(CowDevice::in_memory(device, self.cow_max.0)),
            Some(directory) => Arc::new(CowDevice::in_directory(device, self.cow_max.0, directory)?),
        })
    }
}

/// List the running `mount`, `bundle`, `serve` and `profile record` processes of this user, and those that were killed
///
/// Reads the run directory: $COLDREAD_RUN_DIR, else /run/coldread for root, else $XDG_RUNTIME_DIR/coldread, else
/// ~/.local/state/coldread. STATE is `starting`, `running`, `unmounted` (the image is still in use elsewhere) or `dead` (killed:
/// `coldread umount`, or the next start, removes what it left).
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Print one JSON object a line
    #[arg(long)]
    pub json: bool,
}

/// Unmount an image and wait until its `mount` or `bundle` process has ended
///
/// If that process was killed, removes what it left: the mount, the loop device, the FUSE mount. Only mounts that `coldread ps`
/// lists are unmounted. A mount that is in use stays, and the processes that use it are named.
#[derive(Debug, Args)]
pub struct UmountArgs {
    /// Where the image is mounted, or the bundle's directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// How long to wait for the process to end
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub wait: Wait,
}

/// Record what a start reads
#[derive(Debug, Args)]
pub struct ProfileArgs {
    #[command(subcommand)]
    pub command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    Record(Box<RecordArgs>),
}

/// Run a command on the mounted image, and write which chunks it read, and when
///
/// The image is mounted in a directory of its own, whose path stands for {} in the command, and unmounted when that ends.
/// `coldpress profile attach` puts the file beside the manifest; the next start then fetches these chunks before they are asked
/// for. Needs what `mount` needs. Exits as the command does.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread profile record app.cpm -o start.profile -- chroot {} python3 -c 'import numpy'"
)]
pub struct RecordArgs {
    #[command(flatten)]
    pub source: Source,

    /// Where to write the profile
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    #[command(flatten)]
    pub reading: ReadArgs,

    /// Threads that answer reads; as many misses can be under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,

    /// The command, and its arguments
    #[arg(value_name = "COMMAND", required = true, last = true)]
    pub command: Vec<String>,
}

/// Show what a running reader has done: hits, latencies, requests to the store, what it keeps
///
/// Of a `serve`, `mount` or `bundle` with --metrics at the same address.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// Where it tells: unix:PATH, or tcp:ADDRESS:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: Address,

    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Show once a second what a running reader does
///
/// As `status`, of the last second; where standard output is no terminal, a line a second. Ctrl-C ends it; when the reader
/// goes away, it ends with exit code 4.
#[derive(Debug, Args)]
pub struct TopArgs {
    /// Where it tells: unix:PATH, or tcp:ADDRESS:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: Address,
}

/// Draw a recorded start: which chunks were read, when, from where, and who waited for them
///
/// PROFILE is what `profile record`, or --record of `serve`, `mount` and `bundle` wrote. The picture is an SVG without scripts, for light and dark
/// backgrounds; it tells root digest and places of chunks, and no names or content.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// A profile
    #[arg(value_name = "PROFILE")]
    pub profile: PathBuf,

    /// Where to write the picture [default: standard output, unless --json]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Print the numbers as one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Look after the zone's cache
#[derive(Debug, Args)]
pub struct ZoneArgs {
    #[command(subcommand)]
    pub command: ZoneCommand,
}

#[derive(Debug, Subcommand)]
pub enum ZoneCommand {
    Status(ZoneStatusArgs),
    Plan(ZonePlanArgs),
}

/// Show what each cache server of the zone holds, and how often it had what it was asked for
///
/// As the servers tell it: since they were started, of all hosts. Exit code 4 where one does not answer.
#[derive(Debug, Args)]
pub struct ZoneStatusArgs {
    #[command(flatten)]
    pub servers: ServersArgs,

    /// One JSON object
    #[arg(long)]
    pub json: bool,
}

/// Say how large the zone's cache should be: size against hit rate, cost and latency
///
/// Takes what hosts recorded with --trace, or what is made here, runs it through a cache of every size, and names the larger of the size that costs
/// least and the smallest that is fast enough. Prices are in whatever currency they are given in.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  coldread zone plan --trace host-1.trace --trace host-2.trace --goal 3ms -o plan.svg\n  \
        coldread zone plan --make zipf:20000,0.9,500000 --make cron:4000,3600,24"
)]
pub struct ZonePlanArgs {
    /// A file that --trace of `serve`, `mount` or `bundle` wrote; may be given for several hosts
    #[arg(long, value_name = "FILE", required_unless_present = "make")]
    pub trace: Vec<PathBuf>,

    /// A trace that nobody recorded: zipf:CHUNKS,EXPONENT,REQUESTS over a day, or cron:CHUNKS,SECONDS,SCANS; added to what else there is
    #[arg(long, value_name = "KIND")]
    pub make: Vec<Made>,

    /// Makes another one of them
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,

    /// What DATA and PARITY add to the memory that chunks take
    #[arg(long, value_name = "DATA+PARITY", default_value = "4+2")]
    pub code: Code,

    /// Of a GiB of the servers' memory for a month
    #[arg(long, value_name = "PRICE", default_value_t = 3.0)]
    pub memory_price: f64,

    /// Of a thousand requests to the store
    #[arg(long, value_name = "PRICE", default_value_t = 0.0004)]
    pub request_price: f64,

    /// Of a GiB from the store
    #[arg(long, value_name = "PRICE", default_value_t = 0.0)]
    pub transfer_price: f64,

    /// What a chunk takes from the zone
    #[arg(long, value_name = "DURATION", default_value = "1ms")]
    pub zone_latency: Wait,

    /// What a chunk takes from the store
    #[arg(long, value_name = "DURATION", default_value = "30ms")]
    pub origin_latency: Wait,

    /// What a chunk may take on the average
    #[arg(long, value_name = "DURATION", default_value = "5ms")]
    pub goal: Wait,

    /// Draw it here, as SVG
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,

    /// Print all numbers as one JSON object
    #[arg(long)]
    pub json: bool,
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

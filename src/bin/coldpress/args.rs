//! The command line of `coldpress`, and the text of its `--help`.

use std::path::PathBuf;

use clap::{ArgAction, Args, CommandFactory, Parser, Subcommand};
use coldpress::crypto::Codec;
use coldpress::digest::Sha256;
use coldpress::doctor::Role;
use coldpress::registry::{ParseRegistryRefError, RegistryRef};
use coldpress::source::{ImageRef, Platform};
use coldpress::store::RootId;

use crate::program::PROGRAM;
use crate::sealing::{PutArgs, SaltArgs};
use crate::shared::help::{GLOBAL, choice, spread_globals};
use crate::shared::keys::{KeyArgs, KeyRef, StoreArgs};
use crate::shared::manifests::{ManifestArgs, ManifestRef, RegistryArgs, Source};
use crate::shared::pages::{CompletionsArgs, ManArgs};
use crate::shared::settings::{self, ConfigArgs};
use crate::shared::size::Size;
use crate::size::Share;

/// Convert container images into encrypted block images that hosts read lazily
///
/// `convert` flattens an image into one ext4 block image, splits it into chunks of 512 KiB, encrypts each chunk with a key derived
/// from its content, and uploads the chunks to a store: a directory, S3, GCS or Azure Blob. The block manifest lists the chunks and
/// is encrypted; only holders of the wrapping key can decrypt it. `coldread` mounts or serves the result.
#[derive(Debug, Parser)]
#[command(
    name = "coldpress",
    version,
    max_term_width = 100,
    disable_help_flag = true,
    after_long_help = "Exit codes:\n  \
        0  done\n  \
        1  failed\n  \
        2  usage error\n  \
        3  a verification or comparison found a difference\n  \
        4  a service is unavailable; the command is safe to repeat\n\n\
        Example:\n  \
        coldpress keygen\n  \
        coldpress convert docker://docker.io/library/alpine --store ./store -o alpine.cpm\n  \
        coldread ls alpine.cpm /etc"
)]
pub struct Cli {
    /// Print one JSON object instead of text
    #[arg(long, help_heading = GLOBAL)]
    pub json: bool,

    /// Print errors only
    #[arg(long, short, help_heading = GLOBAL)]
    pub quiet: bool,

    /// Log to stderr; -vv: each request
    ///
    /// -v logs sources of credentials, regions, endpoints and retries; -vv also each request and decisions of caches. $COLDPRESS_LOG is a filter for more or less, such as `debug` or `coldpress::store=trace`. Logs hold no secret.
    #[arg(long, short, help_heading = GLOBAL, action = ArgAction::Count)]
    pub verbose: u8,

    /// Configuration file [default: coldpress.toml in the working directory, if it exists]
    ///
    /// Options and environment variables win over the file. `coldpress config` shows the effective settings.
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
        // Nothing is requested there that could be logged.
        "verbose" => !["keygen", "profile attach", "config", "completions", "man"].contains(&path),
        _ => !["completions", "man"].contains(&path),
    };
    settings::describe(&PROGRAM, spread_globals(Cli::command(), &has))
}

/// Each variant's text is that of its arguments.
#[derive(Debug, Subcommand)]
pub enum Command {
    Keygen(KeygenArgs),
    Convert(Box<ConvertArgs>),
    Verify(VerifyArgs),
    Inspect(InspectArgs),
    Diff(DiffArgs),
    Export(ExportArgs),
    Rewrap(RewrapArgs),
    Profile(ProfileArgs),
    Scrub(ScrubArgs),
    Doctor(DoctorArgs),
    Config(ConfigArgs),
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Generate a key file: a wrapping key and a deduplication salt
///
/// Converters need both; hosts that only read images need the wrapping key. Images converted with the same salt share identical
/// chunks, and whoever has the salt can test whether a known file is stored. Protect the file like a private key.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress keygen -o coldpress.key\n  coldpress keygen --worker-of coldpress.key -o worker.key"
)]
pub struct KeygenArgs {
    /// Key file to create; an existing file is never overwritten
    #[arg(short, long, value_name = "FILE", default_value = "coldpress.key")]
    pub output: PathBuf,

    /// Copy this key file without its salt, for hosts that only read
    #[arg(long, value_name = "FILE")]
    pub worker_of: Option<PathBuf>,

    /// Generate only a salt, for --salt-file
    ///
    /// Converters with different wrapping keys share chunks when they use the same salt.
    #[arg(long, conflicts_with = "worker_of")]
    pub salt_only: bool,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Resources")]
pub struct ThreadArgs {
    /// Number of worker threads [default: number of CPUs]
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Directory for temporary decompressed layers (unlinked files) [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR", hide_short_help = true)]
    temp: Option<PathBuf>,
}

impl ThreadArgs {
    pub fn threads(&self) -> usize {
        self.threads.map_or_else(|| std::thread::available_parallelism().map_or(1, std::num::NonZero::get), usize::from)
    }

    pub fn temp(&self) -> PathBuf {
        self.temp.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// Convert an image: upload its chunks and write its block manifest
///
/// Needs neither root nor a daemon. The same image gives the same root digest on every machine. Chunks that are already stored are
/// skipped, and the manifest is written last, so a conversion can be interrupted and repeated at any time.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  docker save app -o app.tar\n  coldpress convert docker-archive:app.tar --store ./store -o app.cpm\n  \
        coldpress convert docker://HOST/app --store s3://chunks/prod --key aws-kms://alias/app -o app.cpm"
)]
pub struct ConvertArgs {
    /// Image, such as docker://HOST/NAME:TAG or docker-archive:FILE (all forms: --help)
    ///
    /// docker://[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG][@DIGEST], oci-archive:FILE[:TAG], docker-archive:FILE[:REF],
    /// dir:DIR, docker-daemon:REF, containers-storage:REF or tar:FILE (a root file system). `-` as FILE reads standard input.
    #[arg(value_name = "IMAGE")]
    pub image: ImageRef,

    /// Platform of the image [default: the only one, else this host's]
    #[arg(long, value_name = "OS/ARCH", help_heading = "Image")]
    pub platform: Option<Platform>,

    /// Convert every platform of the image in one run
    ///
    /// `-o app.cpm` then writes app.linux-amd64.cpm, app.linux-arm64.cpm and so on.
    #[arg(long, help_heading = "Image", conflicts_with_all = ["platform", "heal"])]
    pub all_platforms: bool,

    /// Free space to reserve for writable mounts
    #[arg(long, value_name = "SIZE", default_value = "16MiB", help_heading = "Image")]
    pub free: Size,

    /// Compression: none, zstd or zstd:1 to zstd:19
    #[arg(long, value_name = "CODEC", default_value_t = Codec::DEFAULT, help_heading = "Image")]
    pub compression: Codec,

    #[command(flatten)]
    pub limits: LimitArgs,

    #[command(flatten)]
    pub store: StoreArgs,

    /// Garbage collection root of the chunks in the store
    #[arg(long, value_name = "NAME", default_value = "main", help_heading = "Store")]
    pub root: RootId,

    /// Assume that all chunks of this manifest are in the store
    ///
    /// For runners without a conversion cache. The manifest must belong to the same store, root and deduplication scope, and must still be published.
    #[arg(long, value_name = "MANIFEST", help_heading = "Store")]
    pub base: Option<ManifestRef>,

    /// Re-upload chunks of MANIFEST that are missing from the store
    ///
    /// IMAGE must convert to the manifest's root digest. Recipe, root and application are the manifest's; no cache is used. In a
    /// directory, stored chunks are compared, and damaged ones are replaced.
    #[arg(long, value_name = "MANIFEST", help_heading = "Store", conflicts_with_all = ["output", "dry_run", "compression", "free", "root", "application", "platform", "base", "max_new_bytes", "push", "summary", "outputs"])]
    pub heal: Option<ManifestRef>,

    /// Fail with exit code 3 if more than this must be uploaded
    #[arg(long, value_name = "SIZE", help_heading = "Store")]
    pub max_new_bytes: Option<Size>,

    #[command(flatten)]
    pub put: PutArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    #[command(flatten)]
    pub salt: SaltArgs,

    /// Application name for key policies (in the KMS encryption context)
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true,
        help_heading = "Keys",
        hide_short_help = true
    )]
    pub application: String,

    /// Block manifest to write; - for standard output
    #[arg(short, long, value_name = "FILE", help_heading = "Output", required_unless_present_any = ["dry_run", "heal", "push"])]
    pub output: Option<PathBuf>,

    /// Push the block manifest to this repository: docker://REPOSITORY[:TAG]
    ///
    /// It becomes an OCI artifact whose subject is the image, so that every command finds it as docker://IMAGE. If the tag names the
    /// image, the tag is left unchanged; any other tag is set to the block manifest.
    #[arg(long, value_name = "REFERENCE", help_heading = "Output", value_parser = parse_push)]
    pub push: Option<RegistryRef>,

    /// Append a Markdown summary to this file, such as $GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub summary: Option<PathBuf>,

    /// Append results as key=value lines to this file, such as $GITHUB_OUTPUT
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub outputs: Option<PathBuf>,

    /// Convert without uploading or writing anything
    ///
    /// With a store, the report says how much would be uploaded: as far as a directory shows it and, for a service, as the conversion
    /// cache and --base know it. The service is not contacted and no access to it is needed. Layers in the cache are not read.
    #[arg(long, help_heading = "Output")]
    pub dry_run: bool,

    #[command(flatten)]
    pub registry: RegistryArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// What an image may take before it is refused.
#[derive(Debug, Clone, Copy, Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Maximum decompressed size of all layers [default: 64GiB]
    ///
    /// If the option is given, it also bounds each single file, and holes of sparse files count. Also bounds what the layers take in the
    /// block image: inodes, directories, extended attributes and data.
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<Size>,

    /// Maximum number of entries in all layers [default: 4194304]
    ///
    /// Bounds memory: an entry takes about 150 bytes. Directories without an entry of their own count. Names, link targets and extended
    /// attributes may take 64 MiB, and 16 bytes more for each allowed entry.
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = clap::value_parser!(u64).range(1..=1 << 31))]
    pub max_entries: Option<u64>,
}

fn parse_push(text: &str) -> Result<RegistryRef, String> {
    let name = text.strip_prefix("docker://").ok_or_else(|| "not of the form docker://REPOSITORY[:TAG]".to_owned())?;
    name.parse().map_err(|error: ParseRegistryRefError| error.to_string())
}

/// Verify the chunks in a store, or a manifest against its source image
///
/// With a store: fetches every chunk, authenticates and decrypts it, and compares the whole image with the image digest. With
/// --source: converts the image again without storing anything and compares the root digests; if they differ, prints the first chunk
/// that differs and its files. --source alone needs no wrapping key, but the salt. Names the files in chunks that are missing or damaged.
/// Exits with 3 if anything differs.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress verify app.cpm --store ./store\n  coldpress verify app.cpm --source docker-archive:app.tar"
)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub from: Source,

    /// Source image to convert again and compare; needs the salt
    #[arg(long, value_name = "IMAGE", help_heading = "Source image")]
    pub source: Option<ImageRef>,

    #[command(flatten)]
    pub salt: SaltArgs,

    #[command(flatten)]
    pub limits: LimitArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// Show the contents of a block manifest
///
/// Without a key, shows what is not encrypted: recipe, root, deduplication scope, root digest and number of chunks. With the key, also
/// sizes, layers, the shares of zero and unique chunks, and the image's config.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldpress inspect app.cpm\n  coldpress inspect app.cpm --clear")]
pub struct InspectArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,

    /// Show only what is not encrypted, without using a key
    #[arg(long, help_heading = "Output", conflicts_with = "key")]
    pub clear: bool,

    #[command(flatten)]
    pub key: KeyArgs,
}

/// Compare two images by chunk, layer and file, and explain new chunks
///
/// Chunks and layers are compared by the manifests. With the stores of both images (from --store, or the directories that the manifests
/// name), files are compared, too. For every chunk that only B has, the report says what made it new. Exits with 0 if nothing differs,
/// with 3 otherwise.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress diff app-1.cpm app-2.cpm\n  coldpress diff app-1.cpm app-2.cpm --store s3://chunks/prod --summary \"$GITHUB_STEP_SUMMARY\" --html diff.html"
)]
pub struct DiffArgs {
    /// Block manifest of the older image
    #[arg(value_name = "A")]
    pub a: ManifestRef,

    /// Block manifest of the newer image
    #[arg(value_name = "B")]
    pub b: ManifestRef,

    /// Required root digest of A
    #[arg(long, value_name = "sha256:HEX", help_heading = "Image")]
    pub expect_a: Option<Sha256>,

    /// Required root digest of B
    #[arg(long, value_name = "sha256:HEX", help_heading = "Image")]
    pub expect_b: Option<Sha256>,

    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    /// Compare only the manifests, without a store
    #[arg(long, help_heading = "Output")]
    pub no_files: bool,

    /// Show all files and chunks, not only the first few
    #[arg(long, help_heading = "Output")]
    pub all: bool,

    /// Append a Markdown summary to this file, such as $GITHUB_STEP_SUMMARY
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub summary: Option<PathBuf>,

    /// HTML page to write, with bytes to upload and download, layers, causes and the biggest files
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Write the block image to a sparse file or a block device
///
/// The file can be mounted (`mount -o loop,ro FILE DIR`), checked (`e2fsck -fn FILE`) and booted; only its owner can read it. A block
/// device must be large enough and not in use. To a FIFO, a character device or standard output, the whole image is written
/// sequentially.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldpress export app.cpm -o app.img\n  e2fsck -fn app.img")]
pub struct ExportArgs {
    #[command(flatten)]
    pub from: Source,

    /// File or block device to write; - for standard output
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,

    /// Add an ext4 journal of this size (4MiB to 512MiB), for a disk that is written to
    ///
    /// With a journal, the file system survives a power failure while it is written to. It takes free space of the image (`convert
    /// --free`). The written disk then differs from the image that the manifest describes; the manifest does not change.
    #[arg(long, value_name = "SIZE", help_heading = "Output")]
    pub journal: Option<Size>,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// Re-encrypt a manifest's data key for another wrapping key
///
/// Decrypts the data key with --key and encrypts it for --to only. The image is neither read nor encrypted again, and its root digest
/// stays the same. The new manifest is also uploaded to the store, so that its chunks stay referenced when the old manifest is deleted.
/// This does not revoke access: whoever had the old key and the old manifest can still read the image.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress rewrap app.cpm --key file:coldpress.key --to aws-kms://alias/shop -o app-kms.cpm"
)]
pub struct RewrapArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    /// New wrapping key, in the forms of --key
    #[arg(long, value_name = "KEY", help_heading = "Keys")]
    pub to: KeyRef,

    #[command(flatten)]
    pub store: StoreArgs,

    /// Manifest to write, which may replace the old one; - for standard output
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: PathBuf,
}

/// Attach startup profiles to block manifests
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldpress profile attach app.cpm start.profile")]
pub struct ProfileArgs {
    #[command(subcommand)]
    pub command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    Attach(AttachArgs),
}

/// Attach a recorded startup profile to a block manifest
///
/// `coldread` then prefetches the profile's chunks at startup. `coldread profile record` writes profiles. A profile of an earlier version
/// of the image works as well: chunks are found by name. It reveals no more about the image than an observer of the store sees.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread profile record app.cpm -o start.profile -- chroot {} python3 -c 'import numpy'\n  coldpress profile attach app.cpm start.profile"
)]
pub struct AttachArgs {
    /// Block manifest file; the profile is written to MANIFEST.profile
    ///
    /// For a manifest in a registry, give readers the profile with --profile instead.
    #[arg(value_name = "MANIFEST")]
    pub manifest: ManifestRef,

    /// Profile to attach
    #[arg(value_name = "PROFILE")]
    pub profile: PathBuf,
}

/// Check that a store still has the chunks of manifests
///
/// Checks that each chunk that a manifest names exists and that its SHA-256 is its name. Needs no key; with one, names the files in chunks
/// that are missing or damaged. Exits with 3 if there are any; `coldpress convert --heal` uploads them again from the image.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress scrub app.cpm --store s3://chunks/prod\n  coldpress scrub --all --store s3://chunks/prod --sample 1% --rate 50MiB --resume scrub.json"
)]
pub struct ScrubArgs {
    /// Block manifests whose chunks are checked
    #[arg(value_name = "MANIFEST", required_unless_present = "all")]
    pub manifests: Vec<ManifestRef>,

    /// Check every manifest that the store has under --root; needs permission to list
    #[arg(long, conflicts_with = "manifests", help_heading = "Selection")]
    pub all: bool,

    /// Garbage collection root for --all
    #[arg(long, value_name = "NAME", default_value = "main", help_heading = "Selection")]
    pub root: RootId,

    /// Succeed where --all finds no manifest, which is an error otherwise
    #[arg(long, conflicts_with = "manifests", help_heading = "Selection")]
    pub allow_empty: bool,

    /// Check a random sample of the chunks
    #[arg(long, value_name = "PERCENT", default_value = "100%", help_heading = "Selection")]
    pub sample: Share,

    /// Seed of the sample, printed by an earlier run, to check the same chunks
    #[arg(long, value_name = "N", help_heading = "Selection")]
    pub seed: Option<u64>,

    /// Record progress in this file and continue from it; removed when done
    #[arg(long, value_name = "FILE", help_heading = "Selection")]
    pub resume: Option<PathBuf>,

    #[command(flatten)]
    pub store: StoreArgs,

    /// Maximum bytes to read per second
    #[arg(long, value_name = "SIZE", help_heading = "Store")]
    pub rate: Option<Size>,

    /// Delete damaged chunks, so that they can be uploaded again; needs permission to delete
    #[arg(long, help_heading = "Store")]
    pub delete_damaged: bool,

    #[command(flatten)]
    pub key: KeyArgs,

    #[command(flatten)]
    pub registry: RegistryArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// Check that credentials grant what a role needs and no more
///
/// Prints the least-privilege policy of the role, then tries each operation with the current credentials, on a small object of its own
/// under --root. Exits with 3 if the credentials allow more than the role needs, with 1 if they allow less.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress doctor --store s3://chunks/prod --key aws-kms://alias/shop --as converter\n  coldpress doctor --store s3://chunks/prod --as worker --print"
)]
pub struct DoctorArgs {
    /// Role to check
    #[arg(long = "as", value_name = "ROLE", help_heading = "Role", value_parser = choice::<Role>(&[
        ("converter", "uploads chunks and manifests"),
        ("worker", "reads images"),
        ("verifier", "verifies manifests against source images"),
        ("collector", "lists and deletes chunks"),
    ]))]
    pub role: Role,

    /// Print the policies without trying anything
    #[arg(long, help_heading = "Role")]
    pub print: bool,

    #[command(flatten)]
    pub store: StoreArgs,

    /// Garbage collection root of the chunks
    #[arg(long, value_name = "NAME", default_value = "main", help_heading = "Store")]
    pub root: RootId,

    #[command(flatten)]
    pub key: KeyArgs,

    /// Application name that key policies require
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true, help_heading = "Keys")]
    pub application: String,
}

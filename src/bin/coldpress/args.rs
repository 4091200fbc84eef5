//! The command line of `coldpress`, and the text of its `--help`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use coldpress::crypto::Codec;
use coldpress::digest::Sha256;
use coldpress::doctor::Role;
use coldpress::registry::{ParseRegistryRefError, RegistryRef};
use coldpress::source::{ImageRef, Platform};
use coldpress::store::RootId;

use crate::sealing::{PutArgs, SaltArgs};
use crate::shared::keys::{KeyArgs, KeyRef, StoreArgs};
use crate::shared::manifests::{ManifestArgs, ManifestRef, RegistryArgs, Source};
use crate::shared::pages::{CompletionsArgs, ManArgs};
use crate::shared::size::Size;
use crate::size::Share;

/// Turns a container image into one sealed, chunked, lazily readable ext4 disk
///
/// An image is flattened into one block image, cut in chunks of 512 KiB, each sealed under a key made of its own content
/// and put in a store. The block manifest names the chunks; only the key file opens it. `coldread` reads the result.
///
/// Exit codes: 0 done, 1 failed, 2 usage, 3 a verification or a comparison found a difference, 4 a service is unavailable (safe to repeat).
#[derive(Debug, Parser)]
#[command(name = "coldpress", version, max_term_width = 100)]
pub struct Cli {
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// Print errors only
    #[arg(long, short, global = true)]
    pub quiet: bool,

    #[command(subcommand)]
    pub command: Command,
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
    Completions(CompletionsArgs),
    Man(ManArgs),
}

/// Make a key file: a wrapping key, and the salt of a dedup scope
///
/// Whoever converts needs both, whoever reads needs the wrapping key alone. Images converted with one salt share their
/// equal chunks; who has the salt can confirm whether a known file is in the scope. Keep the file like a private key.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress keygen -o coldpress.key\n  coldpress keygen --worker-of coldpress.key -o worker.key"
)]
pub struct KeygenArgs {
    /// Where to write it; an existing file is never replaced
    #[arg(short, long, value_name = "FILE", default_value = "coldpress.key")]
    pub output: PathBuf,

    /// Copy this key file without its salt, for machines that only read
    #[arg(long, value_name = "FILE")]
    pub worker_of: Option<PathBuf>,

    /// Make a salt and no key, to share a dedup scope between those who have keys of their own (--salt-file)
    #[arg(long, conflicts_with = "worker_of")]
    pub salt_only: bool,
}

#[derive(Debug, Args)]
pub struct ThreadArgs {
    /// How many threads work [default: as many as there are processors]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,

    /// Where inflated layers are kept meanwhile, in files without a name [default: $TMPDIR or /tmp]
    #[arg(long, value_name = "DIR")]
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

/// Convert an image: put its chunks in a store and write its block manifest
///
/// Needs no root and no daemon, and unpacks nothing on the host. The same image gives the same root digest on any
/// machine, with any number of threads, on any day. Chunks that the store has already are not put again; the manifest
/// is written last, so a conversion can be killed and repeated at any moment.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  docker save app -o app.tar\n  coldpress convert docker-archive:app.tar --store ./store --key file:coldpress.key -o app.cpm"
)]
pub struct ConvertArgs {
    /// The image: docker://[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST], oci:DIR[:TAG][@DIGEST], oci-archive:FILE[:TAG], docker-archive:FILE[:REF], dir:DIR, docker-daemon:REF, containers-storage:REF or tar:FILE (a root file system); a FILE of - is standard input
    #[arg(value_name = "IMAGE")]
    pub image: ImageRef,

    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub put: PutArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    #[command(flatten)]
    pub salt: SaltArgs,

    /// Where to write the block manifest; - for standard output
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["dry_run", "heal", "push"])]
    pub output: Option<PathBuf>,

    /// Put the block manifest into this repository, beside the image: docker://REPOSITORY[:TAG]
    ///
    /// It becomes an OCI artifact whose subject is the image, so that every command finds it by docker://IMAGE. A tag that names the
    /// image there stays what it is; any other becomes the block manifest's own.
    #[arg(long, value_name = "docker://REPOSITORY[:TAG]", value_parser = parse_push)]
    pub push: Option<RegistryRef>,

    /// Append a summary in Markdown to this file, for a CI job's page
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,

    /// Append the results as lines of key=value to this file, as $GITHUB_OUTPUT has them
    #[arg(long, value_name = "FILE")]
    pub outputs: Option<PathBuf>,

    /// Which platform of a multi-platform image [default: the only one, else this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub platform: Option<Platform>,

    /// Convert the image of every platform in one run; `-o app.cpm` writes app.linux-amd64.cpm, app.linux-arm64.cpm, …
    #[arg(long, conflicts_with_all = ["platform", "heal"])]
    pub all_platforms: bool,

    /// How chunks are compressed before they are sealed: none, zstd or zstd:LEVEL (1 to 19)
    #[arg(long, value_name = "CODEC", default_value_t = Codec::DEFAULT)]
    pub compression: Codec,

    /// Leave this much free for who writes to it (`coldread mount --writable`); zeros are not stored
    #[arg(long, value_name = "SIZE", default_value = "16MiB")]
    pub free: Size,

    #[command(flatten)]
    pub limits: LimitArgs,

    /// The root under which chunks lie in the store: what is collected together
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub root: RootId,

    /// A stable name of the application, for key policies; part of the encryption context, and in clear
    #[arg(long, value_name = "NAME", default_value = "")]
    pub application: String,

    /// Put again what the store lost of this manifest's image: same recipe, root and application, nothing taken as known; it must
    /// come to the same root digest. A directory is read and compared; what is missing or damaged is replaced
    #[arg(long, value_name = "MANIFEST", conflicts_with_all = ["output", "dry_run", "compression", "free", "root", "application", "platform", "base", "max_new_bytes", "push", "summary", "outputs"])]
    pub heal: Option<ManifestRef>,

    /// Plan: do everything but put and write
    ///
    /// With a store, the figures say what would be put there, as far as a directory shows it and, for a service, the cache and --base
    /// know it: no right to the store is needed, and nothing is asked. Layers that the cache knows are not read.
    #[arg(long)]
    pub dry_run: bool,

    /// Take the chunks that this manifest names as stored, where no cache survived; it must be of the same store, root and dedup scope,
    /// and still be published
    #[arg(long, value_name = "MANIFEST")]
    pub base: Option<ManifestRef>,

    /// Fail (with 3) where the image needs more new bytes in the store than this
    #[arg(long, value_name = "SIZE")]
    pub max_new_bytes: Option<Size>,

    #[command(flatten)]
    pub registry: RegistryArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// What an image may take before it is refused.
#[derive(Debug, Clone, Copy, Args)]
pub struct LimitArgs {
    /// Refuse an image whose layers have more bytes than this uncompressed or on the device, and any larger file [default: 64GiB, any file]
    ///
    /// On the device count inodes, directories, extended attributes and data, each layer by itself. Holes of sparse files count where this
    /// option is given: then no file may be larger.
    #[arg(long, value_name = "SIZE")]
    pub max_size: Option<Size>,

    /// Refuse an image whose layers have more entries than this, with the directories that no entry describes [default: 4194304]
    ///
    /// It bounds memory: an entry takes about 150 bytes. Names, link targets and extended attributes may take 64 MiB and 16 bytes for each
    /// entry that is allowed.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1 << 31))]
    pub max_entries: Option<u64>,
}

fn parse_push(text: &str) -> Result<RegistryRef, String> {
    let name = text.strip_prefix("docker://").ok_or_else(|| "not of the form docker://REPOSITORY[:TAG]".to_owned())?;
    name.parse().map_err(|error: ParseRegistryRefError| error.to_string())
}

/// Prove that a store holds the image whole, or that a source image gives the same manifest
///
/// With a store: every chunk is there, its name is true, it opens, and all together give the image digest. With --source:
/// the image is converted again, nothing is stored, and the root digests are compared; where they differ, the first
/// chunk that differs is named with the files in it. Ends with 3 where anything differs.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress verify app.cpm --store ./store\n  coldpress verify app.cpm --source docker-archive:app.tar"
)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub from: Source,

    /// Convert this image again and compare; needs the salt
    #[arg(long, value_name = "IMAGE")]
    pub source: Option<ImageRef>,

    #[command(flatten)]
    pub salt: SaltArgs,

    #[command(flatten)]
    pub threads: ThreadArgs,

    #[command(flatten, next_help_heading = "Limits of --source")]
    pub limits: LimitArgs,
}

/// Show what a block manifest says
///
/// Without a key: its clear part (recipe, root, scope, root digest, how many chunks). With the key: sizes, layers, chunks,
/// zero and unique share, and the image's config.
#[derive(Debug, Args)]
pub struct InspectArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,

    #[command(flatten)]
    pub key: KeyArgs,
}

/// Compare two images: chunks, layers, files, and why each new chunk is new
///
/// Chunks and layers are told by the manifests. With the stores of both (named by --store, or directories that the manifests say),
/// the metadata of both images is read, and of files the bytes whose chunks differ. Says of every chunk that B has and A has not
/// what made it new. Ends with 0 where nothing differs, with 3 where something does.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress diff app-1.cpm app-2.cpm\n  coldpress diff app-1.cpm app-2.cpm --store s3://chunks/prod --json"
)]
pub struct DiffArgs {
    /// The block manifest that was before
    #[arg(value_name = "A")]
    pub a: ManifestRef,

    /// The block manifest that came after
    #[arg(value_name = "B")]
    pub b: ManifestRef,

    /// Refuse an A of any other root digest
    #[arg(long, value_name = "sha256:HEX")]
    pub expect_a: Option<Sha256>,

    /// Refuse a B of any other root digest
    #[arg(long, value_name = "sha256:HEX")]
    pub expect_b: Option<Sha256>,

    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    #[command(flatten)]
    pub registry: RegistryArgs,

    /// Compare manifests only; no store is asked
    #[arg(long)]
    pub no_files: bool,

    /// Show every file and every chunk, not the first few
    #[arg(long)]
    pub all: bool,
}

/// Write the block image as a sparse file, or to a block device
///
/// The file can be mounted (`mount -o loop,ro FILE DIR`), checked (`e2fsck -fn FILE`) and booted from; only its owner can read it. A
/// block device must be large enough and not in use: the image is written to its start and flushed. To a FIFO, a character device or
/// standard output, the whole image is written front to back.
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    pub from: Source,

    /// Where to write it: a file, a block device, or - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,

    /// Add an ext4 journal of this size (4MiB to 512MiB), for a disk that is written to [default: no journal]
    ///
    /// With a journal, the file system survives a power failure while it is written to. It takes free space of the image (`convert
    /// --free`). The written disk then differs from the image that the manifest describes; the manifest stays what it is.
    #[arg(long, value_name = "SIZE")]
    pub journal: Option<Size>,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// Give a block manifest to another key
///
/// Opens it with --key and encloses its data key for --to, and for no other. Not a byte of the image is read or sealed anew: the
/// root digest stays. The new manifest is put into the store, too, beside the old one, so that the chunks stay named when the old one
/// is deleted. It takes nothing back: who had the old key and the old manifest, or has read the image, still has it.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress rewrap app.cpm --key file:coldpress.key --to aws-kms://alias/shop -o app-kms.cpm"
)]
pub struct RewrapArgs {
    #[command(flatten)]
    pub manifest: ManifestArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    /// The new key: file:PATH, aws-kms://KEY or age:RECIPIENT,…
    #[arg(long, value_name = "KEY")]
    pub to: KeyRef,

    #[command(flatten)]
    pub store: StoreArgs,

    /// Where to write the manifest; may be the old one; - for standard output
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Attach what a start read to a block manifest
#[derive(Debug, Args)]
pub struct ProfileArgs {
    #[command(subcommand)]
    pub command: ProfileCommand,
}

#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    Attach(AttachArgs),
}

/// Put a profile beside a block manifest, where `coldread` finds it and fetches what it names before it is asked for
///
/// `coldread profile record` writes profiles. One of an earlier version of the image serves as well: its chunks are found by their
/// names. It says no more of an image than who watches the store sees.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread profile record app.cpm -o start.profile -- chroot {} python3 -c 'import numpy'\n  coldpress profile attach app.cpm start.profile"
)]
pub struct AttachArgs {
    /// The block manifest's file; the profile becomes MANIFEST.profile. Of one in a registry, readers are given it by --profile
    #[arg(value_name = "MANIFEST")]
    pub manifest: ManifestRef,

    /// The profile
    #[arg(value_name = "PROFILE")]
    pub profile: PathBuf,
}

/// Look whether a store still has what manifests name
///
/// Needs no key: of each chunk that is named in clear, it is asked whether it is there and whether its bytes hash to its name.
/// Nothing is opened. Ends with 3 where something is missing or damaged; `convert --heal` puts it again from the image.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress scrub app.cpm --store s3://chunks/prod\n  coldpress scrub --all --store s3://chunks/prod --sample 1% --rate 50MiB --resume scrub.json"
)]
pub struct ScrubArgs {
    /// The block manifests whose chunks are looked at
    #[arg(value_name = "MANIFEST", required_unless_present = "all")]
    pub manifests: Vec<ManifestRef>,

    #[command(flatten)]
    pub registry: RegistryArgs,

    /// Look at the chunks of every manifest that the store has under --root; needs the right to list
    #[arg(long, conflicts_with = "manifests")]
    pub all: bool,

    /// With --all: the root
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub root: RootId,

    #[command(flatten)]
    pub store: StoreArgs,

    /// Look at so many of them only, others each time
    #[arg(long, value_name = "PERCENT", default_value = "100%")]
    pub sample: Share,

    /// Take the same sample as the run that printed this number
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Read at most so much a second
    #[arg(long, value_name = "SIZE")]
    pub rate: Option<Size>,

    /// Note there how far it came, and go on from there; removed at the end
    #[arg(long, value_name = "FILE")]
    pub resume: Option<PathBuf>,

    /// Delete what is damaged, so that it can be put again; needs the right to delete
    #[arg(long)]
    pub delete_damaged: bool,

    #[command(flatten)]
    pub threads: ThreadArgs,
}

/// Try whether credentials can do what a role needs, and nothing else
///
/// Prints the smallest policy for the role, then tries everything with the credentials at hand, on a small object of its own
/// under --root. Ends with 3 where they can do more than the role, with 1 where they cannot do enough.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress doctor --store s3://chunks/prod --key aws-kms://alias/shop --as converter\n  coldpress doctor --store s3://chunks/prod --as worker --print"
)]
pub struct DoctorArgs {
    /// converter, worker, verifier or collector
    #[arg(long = "as", value_name = "ROLE")]
    pub role: Role,

    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    /// The root that chunks are put under
    #[arg(long, value_name = "NAME", default_value = "main")]
    pub root: RootId,

    /// The application's name that key policies ask for
    #[arg(long, value_name = "NAME", default_value = "")]
    pub application: String,

    /// Print the policies and try nothing
    #[arg(long)]
    pub print: bool,
}

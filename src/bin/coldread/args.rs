//! The command line of `coldread`, and the text of its `--help`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::shared::keys::Source;

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

/// Mount the image read-only, until it is unmounted or Ctrl-C is pressed
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

    /// Threads that answer reads; as many misses can be under way at once
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub threads: u16,
}

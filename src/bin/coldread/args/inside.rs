//! Arguments of the commands that look inside an image without mounting it: `ls`, `cat`, `stat`, `du`, `find`, `cp`, `tar`.
//!
//! Options are those of the coreutils and findutils programs of the same names; what differs is said in the help.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{ArgAction, Args};

use super::ARGUMENTS;
use crate::shared::help::{GLOBAL, choice};
use crate::shared::manifests::Source;

/// List directories of an image
///
/// Prints one name per line, as stored; with --long, bytes that are not valid text are escaped. As in ls(1), `-h` prints sizes for
/// people; help is `--help`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread ls -lhS app.cpm /usr/bin")]
pub struct LsArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image
    #[arg(value_name = "PATH", default_value = "/", help_heading = ARGUMENTS)]
    pub paths: Vec<OsString>,

    /// Show mode, links, owner, group, size and time, too
    #[arg(short, long, help_heading = "Output")]
    pub long: bool,

    /// Print sizes as 1.5K, 20M or 3G, in powers of 1024
    #[arg(short = 'h', long, help_heading = "Output")]
    pub human_readable: bool,

    /// List `.` and `..`, too; other names that start with a dot are always listed
    #[arg(short, long, help_heading = "Output")]
    pub all: bool,

    /// Sort by size, largest first
    #[arg(short = 'S', help_heading = "Output", conflicts_with = "by_time")]
    pub by_size: bool,

    /// Sort by modification time, newest first
    #[arg(short = 't', help_heading = "Output")]
    pub by_time: bool,

    /// Reverse the order
    #[arg(short, long, help_heading = "Output")]
    pub reverse: bool,

    /// List subdirectories recursively
    #[arg(short = 'R', long, help_heading = "Output")]
    pub recursive: bool,

    /// Print one JSON object per line; names that are not UTF-8 are escaped
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Print help
    #[arg(long, help_heading = GLOBAL, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Print files of an image
///
/// Fetches only the chunks of the files and of the directories on their paths.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread cat app.cpm /etc/os-release")]
pub struct CatArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image; symlinks are followed within the image
    #[arg(value_name = "PATH", required = true, help_heading = ARGUMENTS)]
    pub paths: Vec<OsString>,
}

/// Show file metadata, like stat(1)
///
/// Shows type, mode, owner, size, times in nanoseconds, link target, device number and extended attributes.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread stat app.cpm /bin/sh")]
pub struct StatArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image; symlinks are not followed
    #[arg(value_name = "PATH", required = true, help_heading = ARGUMENTS)]
    pub paths: Vec<OsString>,

    /// Print one JSON object per line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Copy files out of an image
///
/// Overwrites a file only with --force, and never follows a symlink on the host below DEST. Keeps modes, times and holes; set-user-ID and
/// set-group-ID bits and owners are not copied.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread cp -r app.cpm /etc ./etc")]
pub struct CpArgs {
    #[command(flatten)]
    pub source: Source,

    /// Path in the image; a symlink at its end is followed
    #[arg(value_name = "PATH", help_heading = ARGUMENTS)]
    pub path: OsString,

    /// New name, or an existing directory to copy into
    #[arg(value_name = "DEST", help_heading = ARGUMENTS)]
    pub dest: PathBuf,

    /// Copy directories recursively; devices and pipes are skipped with a warning
    #[arg(short, long, help_heading = "Output")]
    pub recursive: bool,

    /// Replace existing files, atomically, and copy into existing directories
    #[arg(short, long, help_heading = "Output")]
    pub force: bool,
}

/// Show how much space files take, like du(1)
///
/// Adds up the sizes of files and symlink targets below each directory, as `du --apparent-size` does: a hole counts as zeros, a file of
/// several names once. Fetches metadata only.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread du -h -d 1 app.cpm /usr")]
pub struct DuArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image; symlinks at their ends are not followed
    #[arg(value_name = "PATH", default_value = "/", help_heading = ARGUMENTS)]
    pub paths: Vec<OsString>,

    /// Print sizes as 1.5K, 20M or 3G, in powers of 1024 [default: KiB, rounded up]
    #[arg(short = 'h', long, help_heading = "Output")]
    pub human_readable: bool,

    /// Print sizes in bytes
    #[arg(short, long, help_heading = "Output", conflicts_with = "human_readable")]
    pub bytes: bool,

    /// Print only the total of each PATH
    #[arg(short, long, help_heading = "Output", conflicts_with_all = ["max_depth", "all"])]
    pub summarize: bool,

    /// Print directories at most N levels below PATH
    #[arg(short = 'd', long, value_name = "N", help_heading = "Output")]
    pub max_depth: Option<usize>,

    /// Print files, too
    #[arg(short, long, help_heading = "Output")]
    pub all: bool,

    /// Print one JSON object per line, with sizes in bytes
    #[arg(long, help_heading = "Output", conflicts_with_all = ["human_readable", "bytes"])]
    pub json: bool,

    /// Print help
    #[arg(long, help_heading = GLOBAL, action = ArgAction::Help)]
    help: Option<bool>,
}

/// Find files by name, type and size, like find(1)
///
/// Prints the paths below each PATH that fulfil all conditions. Fetches metadata only. Conditions can be written with one dash, as for
/// find(1): `-name '*.so'`.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread find app.cpm /usr --name '*.so*' --type f --size +1M")]
pub struct FindArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image; symlinks at their ends are not followed
    #[arg(value_name = "PATH", default_value = "/", help_heading = ARGUMENTS)]
    pub paths: Vec<OsString>,

    /// Last component of the path matches this pattern: * ? [a-z] [!a-z] \c
    #[arg(long, value_name = "PATTERN", help_heading = "Conditions")]
    pub name: Option<OsString>,

    /// Whole path, as printed, matches this pattern; * and ? match / as well
    #[arg(long, value_name = "PATTERN", help_heading = "Conditions")]
    pub path: Option<OsString>,

    /// File type, or several with commas
    #[arg(long = "type", value_name = "TYPE", value_delimiter = ',', help_heading = "Conditions", value_parser = choice::<TypeLetter>(TypeLetter::CHOICES))]
    pub types: Vec<TypeLetter>,

    /// Size, rounded up to a unit: c (bytes), k, M or G; +N is more than N, -N less
    ///
    /// Without a unit, blocks of 512 bytes. `-1M` is therefore an empty file, and `+1023k` one of over 1023 KiB.
    #[arg(long, value_name = "[+-]N[UNIT]", allow_hyphen_values = true, help_heading = "Conditions")]
    pub size: Option<SizeTest>,

    /// Descend at most N levels below PATH
    #[arg(long, value_name = "N", help_heading = "Conditions")]
    pub maxdepth: Option<usize>,

    /// End each path with NUL instead of a newline, for `xargs -0`
    #[arg(long, help_heading = "Output", conflicts_with = "json")]
    pub print0: bool,

    /// Print one JSON object per line, as `stat --json` does
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Write files of an image to standard output as a tar archive
///
/// Member names are paths in the image without the first slash, or with `./` instead of it if PATH is the root. Contains owners, modes, times in nanoseconds, hard links, devices and
/// extended attributes (PAX records). The same image gives the same bytes; file data is streamed.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread tar app.cpm /etc | tar -xf - -C ./app\n  coldread tar app.cpm | docker import - app"
)]
pub struct TarArgs {
    #[command(flatten)]
    pub source: Source,

    /// Paths in the image; symlinks at their ends are not followed
    #[arg(value_name = "PATH", default_value = "/", help_heading = ARGUMENTS)]
    pub paths: Vec<OsString>,
}

/// A file type as find(1) names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TypeLetter(pub char);

impl TypeLetter {
    const CHOICES: &'static [(&'static str, &'static str)] = &[
        ("f", "regular file"),
        ("d", "directory"),
        ("l", "symlink"),
        ("b", "block device"),
        ("c", "character device"),
        ("p", "pipe"),
    ];
}

impl FromStr for TypeLetter {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        text.parse().map(Self).map_err(drop)
    }
}

/// A condition on a file's size, as find(1) understands it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SizeTest {
    order: std::cmp::Ordering,
    number: u64,
    unit: u64,
}

impl SizeTest {
    /// Returns whether a file of `bytes` bytes fulfils it: the size is rounded up to whole units first.
    pub fn holds(&self, bytes: u64) -> bool {
        bytes.div_ceil(self.unit).cmp(&self.number) == self.order
    }
}

impl FromStr for SizeTest {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let (order, rest) = match text.as_bytes().first() {
            Some(b'+') => (Greater, &text[1..]),
            Some(b'-') => (Less, &text[1..]),
            _ => (Equal, text),
        };
        let digits = rest.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[digits..] {
            "" | "b" => Some(512),
            "c" => Some(1),
            "w" => Some(2),
            "k" => Some(1 << 10),
            "M" => Some(1 << 20),
            "G" => Some(1 << 30),
            _ => None,
        };
        match (rest[..digits].parse(), unit) {
            (Ok(number), Some(unit)) => Ok(Self { order, number, unit }),
            _ => Err(format!("`{text}` is not a size; use a number with c, k, M or G, such as +10M")),
        }
    }
}

/// Returns the command line with find(1)'s conditions, which have one dash there, as clap knows them: with two.
pub fn find_words(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    const CONDITIONS: [&str; 6] = ["-name", "-path", "-type", "-size", "-maxdepth", "-print0"];
    let mut args: Vec<OsString> = args.into_iter().collect();
    let command = args.iter().skip(1).position(|arg| !arg.as_encoded_bytes().starts_with(b"-"));
    if let Some(at) = command.map(|at| at + 1).filter(|at| args[*at] == "find") {
        let options = args[at..].iter_mut().take_while(|arg| *arg != "--");
        options.filter(|arg| CONDITIONS.iter().any(|name| *arg == name)).for_each(|arg| {
            let mut long = OsString::from("-");
            long.push(&*arg);
            *arg = long;
        });
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_rounded_up_to_their_unit() {
        let holds = |text: &str, bytes| text.parse::<SizeTest>().unwrap().holds(bytes);
        assert!(holds("1", 1) && holds("1", 512) && !holds("1", 513) && !holds("1", 0));
        assert!(holds("+1k", 1025) && !holds("+1k", 1024) && holds("-2M", 1 << 20) && !holds("-1M", 1));
        assert!(holds("7c", 7) && !holds("7c", 8) && holds("3w", 5));
        for bad in ["", "+", "k", "1K", "1.5M", "--1", "+-1", "1kk"] {
            assert!(bad.parse::<SizeTest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn conditions_of_find_may_have_one_dash() {
        let words = |line: &str| {
            let words = find_words(line.split(' ').map(OsString::from));
            words.iter().map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words("coldread find a / -name x -size -1k"), "coldread find a / --name x --size -1k");
        assert_eq!(words("coldread -v find a -type f -- -name"), "coldread -v find a --type f -- -name");
        assert_eq!(words("coldread ls find -name"), "coldread ls find -name");
    }
}

//! One file a command.

mod bundle;
mod cat;
mod cp;
mod du;
mod events;
mod find;
mod fuse_file;
mod ls;
mod mount;
mod profile;
mod ps;
mod report;
mod serve;
mod stat;
mod status;
mod tar;
mod top;
mod umount;
mod zone;

pub use self::events::{is_serving, say};

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::IsTerminal;
use std::os::unix::ffi::OsStrExt;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use coldpress::fs::ext4::read::{FileType, Node};
use coldpress::fs::path::Display;
use coldpress::fs::tree::Timestamp;
use coldpress::read::ChunkDevice;
use coldpress::{Error, ErrorKind};

use crate::args::{self, Cli, Command};
use crate::program::PROGRAM;
use crate::shared::failure::Failure;
use crate::shared::manifests::Source;
use crate::shared::pages;
use crate::shared::settings::{self, Resolution};

/// Runs the command that was asked for.
pub fn run(cli: &Cli, resolution: &Resolution) -> Result<ExitCode, Failure> {
    let done = match &cli.command {
        Command::Ls(args) => ls::run(cli, args),
        Command::Cat(args) => cat::run(cli, args),
        Command::Stat(args) => stat::run(cli, args),
        Command::Du(args) => du::run(cli, args),
        Command::Find(args) => find::run(cli, args),
        Command::Cp(args) => cp::run(cli, args),
        Command::Tar(args) => tar::run(cli, args),
        Command::Mount(args) => mount::run(cli, args),
        Command::Bundle(args) => bundle::run(cli, args),
        Command::Serve(args) => serve::run(cli, args),
        Command::Ps(args) => ps::run(args),
        Command::Umount(args) => umount::run(args),
        Command::Profile(args) => return profile::run(cli, args),
        Command::Status(args) => status::run(args),
        Command::Top(args) => top::run(args),
        Command::Report(args) => report::run(args),
        Command::Zone(args) => zone::run(&args.command),
        Command::Config(args) => settings::show(&PROGRAM, &args::command(), &args.shared, args.json, resolution),
        Command::Completions(args) => pages::completions(args::command(), args),
        Command::Man(args) => pages::man(args::command(), args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Opens the device of an image.
fn open(source: &Source) -> Result<ChunkDevice, Failure> {
    let key = source.key.require()?;
    let manifest = source.manifest.open(&*key)?;
    let store = source.store.open(&manifest)?;
    Ok(ChunkDevice::plain(manifest, store))
}

/// With `--verbose`: how many chunks were fetched.
fn tell_fetched(cli: &Cli, device: &ChunkDevice) {
    if cli.verbose > 0 {
        let (fetched, chunks) = (device.fetched(), device.manifest().sealed.chunks.len());
        say(&format!("fetched {fetched} of {chunks} chunks"));
    }
}

/// Who writes is told by an error code alone. That a device is full is said once: what is written to it then mostly comes in thousands.
fn tell_write_failed(error: &Error) {
    static WAS_FULL: AtomicBool = AtomicBool::new(false);
    if error.kind() != ErrorKind::Full || !WAS_FULL.swap(true, Ordering::Relaxed) {
        say(&format!("a write failed: {}", error.chain()));
    }
}

/// Returns whether standard output is a terminal.
fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Returns a path as it is printed: byte for byte for programs, escaped for a terminal.
fn shown_path(path: &[u8], terminal: bool) -> Cow<'_, [u8]> {
    if terminal { Cow::Owned(Display(path).to_string().into_bytes()) } else { Cow::Borrowed(path) }
}

fn bytes(path: &OsStr) -> &[u8] {
    path.as_bytes()
}

/// The first letter of a long listing.
fn type_letter(file_type: FileType) -> char {
    match file_type {
        FileType::File => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::CharDevice(_) => 'c',
        FileType::BlockDevice(_) => 'b',
        FileType::Fifo => 'p',
    }
}

/// `-rwxr-xr-x`.
fn mode_text(node: &Node) -> String {
    let (stat, mut out) = (&node.stat, String::new());
    out.push(type_letter(stat.file_type));
    for (shift, special, marks) in [(6, 0o4000, ['s', 'S']), (3, 0o2000, ['s', 'S']), (0, 0o1000, ['t', 'T'])] {
        let bits = stat.mode >> shift;
        out.push(if bits & 4 != 0 { 'r' } else { '-' });
        out.push(if bits & 2 != 0 { 'w' } else { '-' });
        out.push(match (stat.mode & special != 0, bits & 1 != 0) {
            (true, true) => marks[0],
            (true, false) => marks[1],
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    out
}

/// `2025-03-20 12:00:00.123456789`, UTC.
fn time_text(time: Timestamp) -> String {
    let (days, second) = (time.secs.div_euclid(86_400), time.secs.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}.{:09}",
        second / 3600,
        second / 60 % 60,
        second % 60,
        time.nanos
    )
}

/// The Gregorian date of a day since 1970-01-01, counted in eras of 400 years that begin on 1 March.
fn civil(days: i64) -> (i64, i64, i64) {
    let (era, day_of_era) = ((days + 719_468).div_euclid(146_097), (days + 719_468).rem_euclid(146_097));
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (day, month) =
        (day_of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_shown_as_dates() {
        let shown = |secs, nanos| time_text(Timestamp { secs, nanos });
        assert_eq!(shown(0, 0), "1970-01-01 00:00:00.000000000");
        assert_eq!(shown(1_742_472_000, 123_456_789), "2025-03-20 12:00:00.123456789");
        assert_eq!(shown(-315_619_200, 0), "1960-01-01 00:00:00.000000000");
        assert_eq!(shown(951_782_400, 0), "2000-02-29 00:00:00.000000000");
        assert_eq!(shown(15_032_385_535, 0), "2446-05-10 22:38:55.000000000");
    }
}

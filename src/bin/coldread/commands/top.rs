//! `coldread top`: once a second, what a running reader did in the last.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use coldpress::read::tier::Place;
use coldpress::serve::status::Status;
use coldpress::{Error, ErrorKind};

use super::status::{counted, duration, images, rate, share, size};
use crate::args::TopArgs;
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;
use crate::telling::ask;

const EVERY: Duration = Duration::from_secs(1);
/// Cursor to the corner, and nothing behind it.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub fn run(args: &TopArgs) -> CommandResult {
    let terminal = std::io::stdout().is_terminal();
    let (mut before, mut at) = (ask(&args.address)?, Instant::now());
    loop {
        std::thread::sleep(EVERY.saturating_sub(at.elapsed()));
        // Where it was there before, a missing socket means the same as one that nobody listens on.
        let gone = |error| Error::caused(ErrorKind::Unavailable, "the reader went away", error);
        let (now, looked) = (ask(&args.address).map_err(gone)?, Instant::now());
        let (since, seconds) = (now.since(&before), looked.duration_since(at).as_secs_f64());
        let text = if terminal {
            format!("{CLEAR}{}\n{}", images(&since), counted(&since, seconds, "/s"))
        } else {
            line(&since, seconds)
        };
        print(text.as_bytes())?;
        (before, at) = (now, looked);
    }
}

/// The same in a line.
fn line(since: &Status, seconds: f64) -> String {
    let of = |place| since.tier(place).cloned().unwrap_or_default();
    let (memory, disk, origin) = (of(Place::Memory), of(Place::Disk), of(Place::Origin));
    format!(
        "memory {}/s ({}), disk {}/s, origin {}/s {}/s p99 {}, in flight {}, failures {}/s, failed reads {}/s\n",
        rate(memory.hits, seconds),
        share(memory.hits, memory.hits.saturating_add(memory.misses)),
        rate(disk.hits, seconds),
        rate(origin.hits, seconds),
        size(origin.bytes as f64 / seconds),
        origin.took.p99_seconds.map_or("-".to_owned(), duration),
        since.origin.in_flight,
        rate(since.origin.failures, seconds),
        rate(since.failed_reads, seconds),
    )
}

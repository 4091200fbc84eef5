//! `coldread top`: once a second, what a running reader did in the last, and a history of the last minutes.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use coldpress::observe::status::Status;
use coldpress::printable::Printable;
use coldpress::read::tier::Place;
use coldpress::{Error, ErrorKind};

use super::status::{counted, duration, images, rate, share, size};
use crate::args::TopArgs;
use crate::history::History;
use crate::keyboard::Keyboard;
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;
use crate::telling::ask;

const EVERY: Duration = Duration::from_secs(1);
/// Cursor to the corner, and nothing behind it.
const CLEAR: &str = "\x1b[H\x1b[2J";

pub fn run(args: &TopArgs) -> CommandResult {
    let terminal = std::io::stdout().is_terminal();
    let mut keyboard = if terminal { Keyboard::open()? } else { None };
    let (mut before, mut at) = (ask(&args.address)?, Instant::now());
    let mut histories = [
        ("reads/s", History::new(|value| format!("{value:.0}"))),
        ("store/s", History::new(size)),
        ("failures/s", History::new(|value| format!("{value:.0}"))),
    ];
    loop {
        if wait(keyboard.as_mut(), EVERY.saturating_sub(at.elapsed()))? {
            return Ok(());
        }
        // Where it was there before, a missing socket means the same as one that nobody listens on.
        let gone = |error| Error::caused(ErrorKind::Unavailable, "the reader went away", error);
        let (now, looked) = (ask(&args.address).map_err(gone)?, Instant::now());
        let (since, seconds) = (now.since(&before), looked.duration_since(at).as_secs_f64());
        for ((_, history), value) in histories.iter_mut().zip(measured(&since)) {
            history.add(value / seconds);
        }
        let text = if terminal {
            let history: String = histories.iter().map(|(label, history)| history.line(label)).collect();
            let end = if keyboard.is_some() { "q quits" } else { "Ctrl-C quits" };
            format!(
                "{CLEAR}{}\n{}\n{}\nhistory of the last {} s: min, mean, max\n{history}\n{end}\n",
                title(&since),
                images(&since),
                counted(&since, seconds, "/s"),
                histories[0].1.seconds(),
            )
        } else {
            line(&since, seconds)
        };
        print(text.as_bytes())?;
        (before, at) = (now, looked);
    }
}

/// Waits for `time`; returns whether `q` was typed.
fn wait(keyboard: Option<&mut Keyboard>, time: Duration) -> Result<bool, Error> {
    match keyboard {
        Some(keyboard) => keyboard.waits_for_quit(time),
        None => {
            std::thread::sleep(time);
            Ok(false)
        }
    }
}

/// Names of the images, and where they are mounted or exported.
fn title(status: &Status) -> String {
    let names: Vec<&str> = status.images.iter().map(|image| image.name.as_str()).collect();
    let at = if status.exports.is_empty() { String::new() } else { format!(" at {}", status.exports.join(", ")) };
    format!("{}\n", Printable(&format!("coldread {}: {}{at}", status.version, names.join(", "))))
}

/// Reads, bytes from the store, and failures since the last time.
#[expect(clippy::cast_precision_loss, reason = "numbers for people")]
fn measured(since: &Status) -> [f64; 3] {
    let of = |place| since.tier(place).cloned().unwrap_or_default();
    let (memory, origin) = (of(Place::Memory), of(Place::Origin));
    let reads = memory.hits.saturating_add(memory.misses);
    [reads as f64, origin.bytes as f64, since.origin.failures.saturating_add(since.failed_reads) as f64]
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

//! Reports what a program waits for: no wait for a service is silent for longer than two seconds.

use std::fmt::Write;
use std::time::{Duration, Instant};

use coldpress::net::wait::{self, Silence, UNBOUNDED};

use super::logs;

/// How often it is looked whether a report is due.
const TICK: Duration = Duration::from_millis(200);
/// A service without an answer for so long is reported.
const SILENT: Duration = Duration::from_millis(1600);
/// The time between two reports.
const INTERVAL: Duration = Duration::from_millis(1800);
/// The same once a command serves others, whose log is kept.
const INTERVAL_OF_SERVERS: Duration = Duration::from_secs(30);
/// Stack of the thread that reports, which formats a line: memory may be limited.
const STACK: usize = 256 << 10;

/// Starts to report, for `program`, which services do not answer; less often once it serves others.
pub fn start(program: &'static str, is_serving: fn() -> bool) {
    wait::watch();
    let work = move || {
        let mut reported: Option<Instant> = None;
        loop {
            std::thread::sleep(TICK);
            let interval = if is_serving() { INTERVAL_OF_SERVERS } else { INTERVAL };
            if reported.is_some_and(|reported| reported.elapsed() < interval) {
                continue;
            }
            let silences = wait::silent(SILENT);
            if !silences.is_empty() {
                reported = Some(Instant::now());
            }
            silences.iter().for_each(|silence| logs::print(program, &line(silence)));
        }
    };
    // Without this thread nothing is reported, and the work is the same.
    let _ = std::thread::Builder::new().name("waits".to_owned()).stack_size(STACK).spawn(work);
}

fn line(silence: &Silence) -> String {
    let (lasted, left) = (silence.lasted.as_secs(), silence.left.as_secs());
    let mut line = format!("waiting for {} for {lasted} s", silence.service);
    // Writing to a String cannot fail.
    let _ = match (&silence.cause, silence.failures) {
        (Some(cause), failures) => write!(line, "; attempt {failures} failed: {cause}"),
        (None, _) => write!(line, "; no answer yet"),
    };
    let _ = match silence.failures {
        _ if silence.left >= UNBOUNDED - Duration::from_secs(86_400) => Ok(()),
        0 => write!(line, "; the request ends in {left} s"),
        _ => write!(line, "; retries end in {left} s"),
    };
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_is_waited_for_since_when_and_until_when() {
        let mut silence = Silence {
            service: "registry r.example".to_owned(),
            lasted: Duration::from_secs(4),
            left: Duration::from_secs(56),
            failures: 0,
            cause: None,
        };
        assert_eq!(line(&silence), "waiting for registry r.example for 4 s; no answer yet; the request ends in 56 s");
        (silence.failures, silence.cause, silence.left) = (3, Some("refused".to_owned()), Duration::from_secs(11));
        assert_eq!(
            line(&silence),
            "waiting for registry r.example for 4 s; attempt 3 failed: refused; retries end in 11 s"
        );
        silence.left = UNBOUNDED;
        assert_eq!(line(&silence), "waiting for registry r.example for 4 s; attempt 3 failed: refused");
    }
}

//! Standard output of both programs. A reader that went away, such as `head`, ends a command, but is no failure.

use std::io::Write;
use std::sync::atomic::{AtomicBool, Ordering};

use coldpress::Error;

/// Whether the reader of standard output went away.
static IS_CLOSED: AtomicBool = AtomicBool::new(false);

/// Prints `bytes`, all of them.
pub fn print(bytes: &[u8]) -> Result<(), Error> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(failed)
}

/// Returns the error of a write to standard output, and notes that its reader went away if that is the cause.
pub fn failed(error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::BrokenPipe {
        IS_CLOSED.store(true, Ordering::Relaxed);
    }
    Error::io("standard output", error)
}

/// Returns whether the reader of standard output went away.
pub fn is_closed() -> bool {
    IS_CLOSED.load(Ordering::Relaxed)
}

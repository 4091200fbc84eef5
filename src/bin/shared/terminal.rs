//! Standard error, which progress bars, log lines and reports of waits share: each text is written as a whole, and never into a bar.

use std::io::{self, Write};
use std::sync::OnceLock;

/// How texts are written.
static WRITE: OnceLock<fn(&str)> = OnceLock::new();

/// Has every text written by `write` from now on.
pub fn start(write: fn(&str)) {
    let _ = WRITE.set(write);
}

/// Writes whole lines to standard error.
pub fn write(text: &str) {
    WRITE.get().copied().unwrap_or(plain)(text);
}

/// Writes whole lines where there are no bars.
pub fn plain(text: &str) {
    // Nobody who works waits for a terminal that does not take the line.
    let _ = io::stderr().write_all(text.as_bytes());
}

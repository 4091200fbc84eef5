//! What `coldpress` prints: results on standard output, progress and warnings on standard error, files whole or not at all.

use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use coldpress::progress::{Progress, Silent, Stage};
use coldpress::{Error, ErrorKind};
use indicatif::{ProgressBar, ProgressStyle};

use crate::args::Cli;
use crate::size::show;

/// How often plain lines tell of progress where there is no terminal.
const INTERVAL: Duration = Duration::from_secs(5);

/// Prints `text`, or with `--json` the value.
pub fn result(cli: &Cli, text: &str, json: &serde_json::Value) -> Result<(), Error> {
    let out = if cli.json { format!("{json:#}\n") } else { text.to_owned() };
    if cli.quiet && !cli.json {
        return Ok(());
    }
    std::io::stdout().write_all(out.as_bytes()).map_err(|error| Error::io("standard output", error))
}

/// Bars on a terminal, plain lines elsewhere, nothing with `--quiet`.
pub fn progress(cli: &Cli) -> Box<dyn Progress> {
    if cli.quiet {
        return Box::new(Silent);
    }
    if std::io::stderr().is_terminal() {
        return Box::new(Bars(Mutex::new(None)));
    }
    Box::new(Lines(Mutex::new(None)))
}

struct Bars(Mutex<Option<ProgressBar>>);

impl Progress for Bars {
    fn begin(&self, stage: Stage, total: u64) {
        let style = ProgressStyle::with_template(
            "{prefix:7} {wide_bar} {bytes:>11} of {total_bytes:11} {bytes_per_sec:>13} {eta:>4}",
        );
        let bar = ProgressBar::new(total).with_prefix(stage.to_string());
        bar.set_style(style.expect("the template is of the form"));
        *self.0.lock().expect("no thread panics with it") = Some(bar);
    }

    fn advance(&self, _: Stage, bytes: u64) {
        if let Some(bar) = &*self.0.lock().expect("no thread panics with it") {
            bar.inc(bytes);
        }
    }

    fn end(&self, _: Stage) {
        if let Some(bar) = self.0.lock().expect("no thread panics with it").take() {
            bar.finish_and_clear();
        }
    }

    fn warn(&self, message: &str) {
        match &*self.0.lock().expect("no thread panics with it") {
            Some(bar) => bar.println(format!("coldpress: warning: {message}")),
            None => warning(message),
        }
    }
}

struct Running {
    done: u64,
    total: u64,
    told: Instant,
}

struct Lines(Mutex<Option<Running>>);

impl Progress for Lines {
    fn begin(&self, _: Stage, total: u64) {
        *self.0.lock().expect("no thread panics with it") = Some(Running { done: 0, total, told: Instant::now() });
    }

    fn advance(&self, stage: Stage, bytes: u64) {
        if let Some(running) = &mut *self.0.lock().expect("no thread panics with it") {
            running.done += bytes;
            if running.told.elapsed() >= INTERVAL {
                running.told = Instant::now();
                let line = format!("coldpress: {stage}: {} of {}\n", show(running.done), show(running.total));
                let _ = std::io::stderr().write_all(line.as_bytes());
            }
        }
    }

    fn end(&self, _: Stage) {
        *self.0.lock().expect("no thread panics with it") = None;
    }

    fn warn(&self, message: &str) {
        warning(message);
    }
}

fn warning(message: &str) {
    let _ = writeln!(std::io::stderr(), "coldpress: warning: {message}");
}

/// Writes a file aside and renames it into place.
pub fn write_whole(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let mut file = aside(path)?;
    file.write_all(bytes).map_err(|error| Error::file(path, error))?;
    into_place(file, path)
}

/// A file beside `path` that is gone unless it is put [`into_place`].
pub fn aside(path: &Path) -> Result<tempfile::NamedTempFile, Error> {
    let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    let file = tempfile::Builder::new().prefix(".coldpress-").permissions(permissions).tempfile_in(directory_of(path));
    // The kind alone: the name aside means nothing to anyone.
    file.map_err(|error| Error::file(path, error.kind().into()))
}

/// Refuses at the start what could not be written at the end.
pub fn check_directory_of(path: &Path) -> Result<(), Error> {
    let directory = directory_of(path);
    if directory.is_dir() {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::NotFound,
        format!("{}: no such directory to write {} into", directory.display(), path.display()),
    ))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Renames `file` to `path`.
pub fn into_place(file: tempfile::NamedTempFile, path: &Path) -> Result<(), Error> {
    file.persist(path).map(drop).map_err(|error| Error::file(path, error.error))
}

//! What `coldpress` prints: results on standard output, progress and warnings on standard error, files whole or not at all.

use std::fs::File;
use std::io::{IsTerminal, Write};
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use coldpress::progress::{Progress, Silent, Stage};
use coldpress::whole_file::{WholeFile, open_directory};
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

/// Makes the file `path` of what `fill` writes into it, in place of what is there, whole or not at all.
pub fn write_whole(path: &Path, fill: impl FnOnce(&File) -> Result<(), Error>) -> Result<(), Error> {
    let fail = |error| Error::file(path, error);
    let Some(name) = path.file_name() else {
        return Err(Error::new(ErrorKind::Input, format!("{}: not the name of a file", path.display())));
    };
    let directory = open_directory(directory_of(path)).map_err(fail)?;
    let file = WholeFile::create(&directory, 0o666).map_err(fail)?;
    fill(file.file())?;
    file.replace(Path::new(name)).map_err(fail)
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

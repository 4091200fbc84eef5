//! What `coldpress` prints: results on standard output, progress and warnings on standard error, files whole or not at all.

use std::collections::BTreeMap;
use std::io::{BufWriter, IsTerminal, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use coldpress::output_file::{self, Destination, Options, directory_of};
use coldpress::printable::{self, Printable};
use coldpress::progress::{Progress, Silent, Stage};
use coldpress::{Error, ErrorKind};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::args::Cli;
use crate::shared::failure::result_is_printed;
use crate::shared::{stdout, terminal};
use crate::size::show;

/// How often plain lines report progress where there is no terminal, whether or not there is any.
const INTERVAL: Duration = Duration::from_millis(1500);
/// Stack of the thread that reports, which formats a line: memory may be limited.
const REPORT_STACK: usize = 256 << 10;
/// How often it is looked whether a line is due.
const TICK: Duration = Duration::from_millis(200);

/// Prints `text`, or with `--json` the value.
pub fn result(cli: &Cli, text: &str, json: &serde_json::Value) -> Result<(), Error> {
    let Some(out) = shown(cli, text, json) else { return Ok(()) };
    stdout::print(out.as_bytes())?;
    if cli.json {
        result_is_printed();
    }
    Ok(())
}

/// What is printed of a result, if anything is.
fn shown(cli: &Cli, text: &str, json: &serde_json::Value) -> Option<String> {
    match () {
        () if cli.json => Some(printable::json(&format!("{json:#}\n"))),
        () if cli.quiet => None,
        () => Some(printable::lines(text)),
    }
}

/// The same on standard error where `destination`, the output of the command, is standard output: a reader of that gets nothing else.
pub fn result_beside(cli: &Cli, destination: &Destination, text: &str, json: &serde_json::Value) -> Result<(), Error> {
    if !destination.is_stdout() {
        return result(cli, text, json);
    }
    if let Some(out) = shown(cli, text, json) {
        let _ = std::io::stderr().write_all(out.as_bytes());
    }
    Ok(())
}

/// The same for what is long: only what is printed is made, and JSON goes out row by row.
pub fn long_result(cli: &Cli, text: impl FnOnce() -> String, json: &impl Serialize) -> Result<(), Error> {
    if !cli.json {
        return if cli.quiet { Ok(()) } else { stdout::print(printable::lines(&text()).as_bytes()) };
    }
    let mut out = BufWriter::new(std::io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, json).map_err(|error| stdout::failed(error.into()))?;
    out.write_all(b"\n").and_then(|()| out.flush()).map_err(stdout::failed)?;
    result_is_printed();
    Ok(())
}

/// Bars on a terminal, plain lines elsewhere, nothing with `--quiet`.
pub fn progress(cli: &Cli) -> Box<dyn Progress> {
    if cli.quiet {
        return Box::new(Silent);
    }
    if std::io::stderr().is_terminal() {
        let bars = Bars::default();
        let _ = BARS.set(bars.all.clone());
        return Box::new(bars);
    }
    Box::new(Lines::new())
}

/// The bars that are on the terminal.
static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Writes whole lines to standard error, above the bars.
pub fn write_above_bars(text: &str) {
    match BARS.get() {
        Some(bars) => bars.suspend(|| terminal::plain(text)),
        None => terminal::plain(text),
    }
}

/// A bar for each stage that is under way, and each layer.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    bars: Mutex<BTreeMap<Stage, ProgressBar>>,
}

impl Progress for Bars {
    fn begin(&self, stage: Stage, total: u64) {
        let template = match (stage, total) {
            (_, 0) => "{prefix:10} {spinner} {bytes:>11} {bytes_per_sec:>29}",
            (Stage::Layer(_), _) => "{prefix:10} {wide_bar:.dim} {bytes:>11} of {total_bytes:11} {percent:>18} %",
            _ => "{prefix:10} {wide_bar} {bytes:>11} of {total_bytes:11} {bytes_per_sec:>13} {eta:>6}",
        };
        let bar = self.all.add(ProgressBar::new(total).with_prefix(stage.to_string()));
        bar.set_style(ProgressStyle::with_template(template).expect("the template is of the form"));
        // What waits moves, too.
        bar.enable_steady_tick(TICK);
        self.bars.lock().expect("no thread panics with it").insert(stage, bar);
    }

    fn advance(&self, stage: Stage, bytes: u64) {
        if let Some(bar) = self.bars.lock().expect("no thread panics with it").get(&stage) {
            bar.inc(bytes);
        }
    }

    fn end(&self, stage: Stage) {
        if let Some(bar) = self.bars.lock().expect("no thread panics with it").remove(&stage) {
            bar.finish_and_clear();
            self.all.remove(&bar);
        }
    }

    fn warn(&self, message: &str) {
        // Without a bar, nothing would be printed.
        if self.bars.lock().expect("no thread panics with it").is_empty() {
            warning(message);
        } else {
            let _ = self.all.println(format!("coldpress: warning: {}", Printable(message)));
        }
    }
}

struct Running {
    done: u64,
    total: u64,
    begun: Instant,
    reported: Instant,
}

/// A line for each stage every few seconds, from a thread of its own: a stage that waits is reported, too. Layers are reported with
/// the stage of all layers.
struct Lines(Arc<Mutex<BTreeMap<Stage, Running>>>);

impl Lines {
    fn new() -> Self {
        let stages = Arc::new(Mutex::new(BTreeMap::new()));
        let reported = Arc::downgrade(&stages);
        // Without this thread nothing is reported, and the work is the same.
        let builder = std::thread::Builder::new().name("progress".to_owned()).stack_size(REPORT_STACK);
        let _ = builder.spawn(move || {
            while let Some(stages) = reported.upgrade() {
                let due = due_lines(&mut stages.lock().expect("no thread panics with it"));
                drop(stages);
                // Nobody who works waits for a terminal that does not take the line.
                terminal::write(&due);
                std::thread::sleep(TICK);
            }
        });
        Self(stages)
    }
}

/// Returns a line for each stage whose last line is old.
fn due_lines(stages: &mut BTreeMap<Stage, Running>) -> String {
    let is_due = |(stage, running): &(&Stage, &Running)| {
        !matches!(stage, Stage::Layer(_)) && running.reported.elapsed() >= INTERVAL
    };
    let due: Vec<Stage> = stages.iter().filter(is_due).map(|(stage, _)| *stage).collect();
    let mut lines = String::new();
    for stage in due {
        let running = stages.get_mut(&stage).expect("it was just there");
        running.reported = Instant::now();
        lines.push_str(&format!("coldpress: {stage}: {}", running.shown()));
        if stage == Stage::Layers {
            let layers = stages.iter().filter(|(stage, _)| matches!(stage, Stage::Layer(_)));
            lines.extend(layers.map(|(layer, running)| format!("; {layer} {}", running.share())));
        }
        lines.push('\n');
    }
    lines
}

impl Progress for Lines {
    fn begin(&self, stage: Stage, total: u64) {
        let now = Instant::now();
        let running = Running { done: 0, total, begun: now, reported: now };
        self.0.lock().expect("no thread panics with it").insert(stage, running);
    }

    fn advance(&self, stage: Stage, bytes: u64) {
        if let Some(running) = self.0.lock().expect("no thread panics with it").get_mut(&stage) {
            running.done += bytes;
        }
    }

    fn end(&self, stage: Stage) {
        self.0.lock().expect("no thread panics with it").remove(&stage);
    }

    fn warn(&self, message: &str) {
        warning(message);
    }
}

impl Running {
    fn shown(&self) -> String {
        let seconds = self.begun.elapsed().as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "for a person")]
        let (done, left) = (self.done as f64, self.total.saturating_sub(self.done) as f64);
        let rate = done / seconds.max(0.001);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for a person")]
        let shown = (rate as u64, (left / rate.max(1.0)).ceil() as u64);
        match self.total {
            0 => format!("{}, {}/s", show(self.done), show(shown.0)),
            // Without any progress, no time can be told for the rest.
            total if self.done == 0 => format!("0 B of {}, waiting for {seconds:.0} s", show(total)),
            total => format!("{} of {}, {}/s, {} s left", show(self.done), show(total), show(shown.0), shown.1),
        }
    }

    fn share(&self) -> String {
        match self.total {
            0 => show(self.done),
            total => format!("{} %", self.done.saturating_mul(100) / total),
        }
    }
}

fn warning(message: &str) {
    terminal::write(&format!("coldpress: warning: {}\n", Printable(message)));
}

/// Adds `text` to the output `path`, which others may add to.
pub fn append(path: &Path, text: &str) -> Result<(), Error> {
    output_file::append(path)?.write_all(text.as_bytes()).map_err(|error| Error::file(path, error))
}

/// Returns the path of an output that the command line names; `-` is standard output.
pub fn named(path: &Path) -> &Path {
    if path == Path::new("-") { Path::new("/dev/stdout") } else { path }
}

/// Writes a block manifest, which survives a power failure once this returns.
pub fn write_manifest(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let options = Options { sync: true, ..Options::default() };
    output_file::write(path, options, |mut file| file.write_all(bytes).map_err(|error| Error::file(path, error)))
}

/// Refuses at the start an output that could not be written at the end.
pub fn check(path: &Path) -> Result<(), Error> {
    match Destination::of(path) {
        Ok(Destination::BlockDevice(_)) => Err(output_file::refuse_block_device(path)),
        Ok(_) => Ok(()),
        Err(error) if error.kind() == ErrorKind::NotFound => Err(Error::new(
            ErrorKind::NotFound,
            format!("{}: no such directory to write {} into", directory_of(path).display(), path.display()),
        )),
        Err(error) => Err(error),
    }
}

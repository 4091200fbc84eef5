//! What `-v` and a filter in the environment log to standard error (docs/how-to/read-the-logs.md): a line for each event, as text or JSON.
//!
//! Only events of coldpress itself are ever logged. Other crates' can have headers of requests in them, and with these credentials.

use std::io;
use std::sync::OnceLock;

use coldpress::printable::{self, Printable};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use super::failure::Failure;
use super::keys::environment;
use super::terminal;

/// The crates whose events can be logged.
const CRATES: [&str; 2] = ["coldpress", "coldread"];
/// The target of what a program prints anyway, as text or as JSON.
const REPORT: &str = "report";

/// How lines on standard error are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// A JSON object a line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(format!("`{text}` is neither text nor json")),
        }
    }
}

static FORMAT: OnceLock<Format> = OnceLock::new();

/// Starts logging: as much as `verbosity` (the number of `-v`) asks for, and what the filter in `variable` names.
pub fn start(verbosity: u8, variable: &str, format: Format) -> Result<(), Failure> {
    let filter = environment(variable)?;
    let is_json = format == Format::Json;
    if verbosity == 0 && filter.is_none() && !is_json {
        return Ok(());
    }
    let mut targets = match &filter {
        Some(text) => parse(text).map_err(|reason| Failure::Usage(format!("{variable}: {reason}")))?,
        None => Targets::new(),
    };
    let asked = match verbosity {
        0 => None,
        1 => Some(LevelFilter::INFO),
        2 => Some(LevelFilter::DEBUG),
        _ => Some(LevelFilter::TRACE),
    };
    if let Some(level) = asked {
        let unnamed: Vec<&str> =
            CRATES.into_iter().filter(|name| !targets.iter().any(|(target, _)| target == *name)).collect();
        targets = targets.with_targets(unnamed.into_iter().map(|name| (name, level)));
    }
    let layer = match format {
        Format::Text => fmt::layer().with_ansi(false).with_writer(Lines(format)).boxed(),
        Format::Json => {
            targets = targets.with_target(REPORT, LevelFilter::INFO);
            let layer = fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false);
            layer.with_writer(Lines(format)).boxed()
        }
    };
    let _ = FORMAT.set(format);
    // There is no other subscriber in a program.
    let _ = tracing::subscriber::set_global_default(Registry::default().with(layer.with_filter(targets)));
    Ok(())
}

/// Reads a filter: levels, and `TARGET=LEVEL`, separated by commas.
fn parse(text: &str) -> Result<Targets, String> {
    let mut targets = Targets::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let level = |word: &str| {
            let levels = ["off", "error", "warn", "info", "debug", "trace"];
            let is_level = levels.iter().any(|level| level.eq_ignore_ascii_case(word));
            is_level.then(|| word.parse::<LevelFilter>().ok()).flatten()
        };
        let wrong = |word: &str| format!("`{word}` is not a level: use off, error, warn, info, debug or trace");
        if let Some(level) = level(part) {
            targets = targets.with_targets(CRATES.map(|name| (name, level)));
            continue;
        }
        let (target, level) = match part.split_once('=') {
            Some((target, word)) => (target, level(word).ok_or_else(|| wrong(word))?),
            None if !part.contains("::") && !CRATES.contains(&part) => return Err(wrong(part)),
            None => (part, LevelFilter::TRACE),
        };
        if !CRATES.iter().any(|name| target.split("::").next() == Some(name)) {
            return Err(format!(
                "`{target}`: only events of coldpress and coldread are logged, such as coldpress::store"
            ));
        }
        targets = targets.with_target(target, level);
    }
    Ok(targets)
}

/// Prints a line of the program itself, of which names come from outside; as JSON where that was asked for.
pub fn print(program: &str, message: &str) {
    match FORMAT.get() {
        Some(Format::Json) => tracing::info!(target: REPORT, "{message}"),
        _ => terminal::write(&format!("{program}: {}\n", Printable(message))),
    }
}

/// Prints the error that ends the program as JSON, where that was asked for; whether it was.
pub fn print_error(message: &str, hint: Option<&str>, exit_code: u8) -> bool {
    let is_json = FORMAT.get() == Some(&Format::Json);
    if is_json {
        tracing::error!(target: REPORT, hint, exit_code, "{message}");
    }
    is_json
}

/// Writes each event at once. A terminal shall not act on what is in it.
#[derive(Debug, Clone, Copy)]
struct Lines(Format);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        terminal::write(&match self.0 {
            Format::Text => printable::lines(&text),
            Format::Json => printable::json(&text),
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        *self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_names_levels_and_targets_of_this_program_alone() {
        let shown = |text: &str| {
            parse(text).map(|targets| {
                let mut all: Vec<String> = targets.iter().map(|(target, level)| format!("{target}={level}")).collect();
                all.sort_unstable();
                all.join(",")
            })
        };
        assert_eq!(shown("debug").unwrap(), "coldpress=debug,coldread=debug");
        assert_eq!(shown("coldpress::store=trace").unwrap(), "coldpress::store=trace");
        assert_eq!(shown("info, coldpress::net").unwrap(), "coldpress::net=trace,coldpress=info,coldread=info");
        assert_eq!(shown("").unwrap(), "");
        for wrong in ["loud", "coldpress=loud", "hyper=trace", "aws_smithy_runtime::client", "3"] {
            parse(wrong).unwrap_err();
        }
    }
}

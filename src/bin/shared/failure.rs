//! From an error to what a person reads and what a script sees.
//!
//! Exit codes, stable: 0 done, 1 failed, 2 usage, 3 a verification or a comparison found a difference, 4 a service is
//! unavailable and the command is safe to repeat.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use coldpress::printable::{self, Printable};
use coldpress::{Error, ErrorKind};

use super::stdout;

/// The exit code of what is not the same.
pub const DIFFERENCE: u8 = 3;

/// Keeps secrets out of core dumps and from other processes; before anything else.
pub fn forbid_dumps(program: &str) {
    if let Err(error) = coldpress::sandbox::forbid_dumps() {
        let _ =
            writeln!(std::io::stderr(), "{program}: core dumps are not forbidden, and can have keys in them: {error}");
    }
}

/// How a command ends that did not simply succeed.
#[derive(Debug)]
pub enum Failure {
    /// Something went wrong.
    Error(Error),
    /// The command line cannot be carried out.
    Usage(String),
}

/// What commands return.
pub type CommandResult = Result<(), Failure>;

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Difference => DIFFERENCE,
        ErrorKind::Unavailable => 4,
        _ => 1,
    }
}

/// Whether a command printed its result as JSON, so that a failure prints no other object.
static IS_RESULT_PRINTED: AtomicBool = AtomicBool::new(false);

/// Notes that the one JSON object of a command is on standard output.
pub fn result_is_printed() {
    IS_RESULT_PRINTED.store(true, Ordering::Relaxed);
}

/// Returns what `--json` says of a failure (docs/reference/json-output.md, "Errors").
pub fn json(error: &Error) -> serde_json::Value {
    serde_json::json!({
        "kind": error.kind().name(), "message": error.chain(), "object": error.object(), "hint": hint(error),
        "exit_code": code(error.kind()),
    })
}

/// Prints the JSON object of a usage error.
pub fn print_usage_json(message: &str) {
    let error =
        serde_json::json!({ "kind": "usage", "message": message, "object": null, "hint": null, "exit_code": 2 });
    print_json(&error);
}

fn print_json(error: &serde_json::Value) {
    if !IS_RESULT_PRINTED.load(Ordering::Relaxed) {
        let text = printable::json(&format!("{}\n", serde_json::json!({ "error": error })));
        let _ = std::io::stdout().write_all(text.as_bytes());
    }
}

/// Returns the hint of the fault; a defect has the same one everywhere.
fn hint(error: &Error) -> Option<&str> {
    let defect = (error.kind() == ErrorKind::Internal)
        .then_some("this is a defect of coldpress; please report it with the command");
    error.hint().or(defect)
}

/// Ends the program `name`: prints what went wrong, with `--json` as JSON, too, and yields the exit code.
pub fn finish(name: &str, is_json: bool, result: Result<ExitCode, Failure>) -> ExitCode {
    let (message, end, code) = match result {
        Ok(code) => return code,
        Err(Failure::Usage(message)) => {
            if is_json {
                print_usage_json(&message);
            }
            (message, Some("\nFor more information, try '--help'.".to_owned()), 2)
        }
        Err(Failure::Error(error)) => {
            if stdout::is_closed() {
                return ExitCode::SUCCESS;
            }
            if is_json {
                print_json(&json(&error));
            }
            (error.chain(), hint(&error).map(|hint| format!("  hint: {}", Printable(hint))), code(error.kind()))
        }
    };
    if super::logs::print_error(&message, end.as_deref().map(|end| end.trim_start().trim_start_matches("hint: ")), code)
    {
        return ExitCode::from(code);
    }
    // Names in it come from outside; a terminal shall not act on them.
    let mut out = format!("{name}: error: {}\n", Printable(&message));
    if let Some(end) = end {
        out.push_str(&end);
        out.push('\n');
    }
    super::terminal::write(&out);
    ExitCode::from(code)
}

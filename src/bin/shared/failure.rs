//! From an error to what a person reads and what a script sees.
//!
//! Exit codes, stable: 0 done, 1 failed, 2 usage, 3 a verification or a comparison found a difference, 4 a service is
//! unavailable and the command is safe to repeat.

use std::error::Error as _;
use std::io::Write;
use std::process::ExitCode;

use coldpress::printable::Printable;
use coldpress::{Error, ErrorKind};

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

fn hint(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::Corrupt => Some("these bytes are not what they should be; get or build them again"),
        ErrorKind::Unavailable => Some("nothing is damaged; run the same command again"),
        ErrorKind::Denied => Some("check the key, the expected digest, and who may read or write there"),
        ErrorKind::Input => Some("what is named here is not as it must be; correct it"),
        ErrorKind::Unsupported => Some("this cannot be done with what is named here; change it, or leave it out"),
        ErrorKind::NotFound => Some("check the name, and where it should be"),
        ErrorKind::Full => Some("allow more, or write less"),
        ErrorKind::Internal => Some("this is a defect of coldpress; please report it with the command"),
        _ => None,
    }
}

fn code(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Difference => DIFFERENCE,
        ErrorKind::Unavailable => 4,
        _ => 1,
    }
}

/// Ends the program `name`: prints what went wrong and yields the exit code.
pub fn finish(name: &str, result: Result<ExitCode, Failure>) -> ExitCode {
    let (message, hint, code) = match result {
        Ok(code) => return code,
        Err(Failure::Usage(message)) => (message, Some("see --help".to_owned()), 2),
        Err(Failure::Error(error)) => {
            // A reader that went away, such as `head`, is no failure.
            if error
                .source()
                .and_then(|source| source.downcast_ref::<std::io::Error>())
                .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
            {
                return ExitCode::SUCCESS;
            }
            let hint = error.hint().or_else(|| hint(error.kind())).map(str::to_owned);
            (error.chain(), hint, code(error.kind()))
        }
    };
    // Names in it come from outside; a terminal shall not act on them.
    let mut out = format!("{name}: error: {}\n", Printable(&message));
    if let Some(hint) = hint {
        out.push_str(&format!("  hint: {}\n", Printable(&hint)));
    }
    let _ = std::io::stderr().write_all(out.as_bytes());
    ExitCode::from(code)
}

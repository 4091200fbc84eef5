//! What a process gives up, so that who takes it over, or reads what is left of it, gets little.
//!
//! [`forbid_dumps`] is for every run of both programs. [`enter`] is for a process that serves, once all that needs privileges is done:
//! no_new_privs and capabilities, the user, the files that it reaches (Landlock), and the system calls that it makes (seccomp). Each that
//! the kernel does not have is reported ([`Report`]), or refused before anything is given up. docs/explanation/threat-model.md says what remains.

mod access;
mod calls;
mod threads;
mod unmount;
mod user;

use std::io;
use std::str::FromStr;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};
use rustix::thread::{CapabilitySet, capabilities};
use serde::{Deserialize, Serialize};

pub use self::access::Paths;
pub use self::unmount::{Mount, UnmountCommand, unmount};
pub use self::user::User;
use crate::{Error, ErrorKind, Result};

/// Whether a process is restricted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// By whatever the system has.
    Auto,
    /// Not at all.
    Off,
    /// By everything, or it does not start.
    Require,
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            "require" => Ok(Self::Require),
            _ => Err(format!("`{text}` is not a mode; use auto, off or require")),
        }
    }
}

/// What a process still needs when it is restricted.
#[derive(Debug, Default)]
pub struct Needs {
    /// The files that it reaches.
    pub paths: Paths,
    /// What it unmounts at the end.
    pub mounts: Vec<Mount>,
    /// Why it runs other programs, if it does; they need files and calls that nobody knows here.
    pub runs_programs: Option<String>,
}

/// By what a process is restricted: for each mechanism `on`, or why it is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// No program that it starts gains privileges.
    pub no_new_privs: String,
    /// The capabilities that are left, or `none`.
    pub capabilities: String,
    /// The files that it reaches.
    pub landlock: String,
    /// The system calls that it makes.
    pub seccomp: String,
}

const ON: &str = "on";

impl Report {
    fn all(text: &str) -> Self {
        let text = || text.to_owned();
        Self { no_new_privs: text(), capabilities: text(), landlock: text(), seccomp: text() }
    }

    /// The mechanisms that are missing, with the reasons; empty if none is.
    #[must_use]
    pub fn missing(&self) -> Vec<String> {
        let all = [("no_new_privs", &self.no_new_privs), ("Landlock", &self.landlock), ("seccomp", &self.seccomp)];
        all.into_iter().filter(|(_, state)| *state != ON).map(|(name, state)| format!("{name}: {state}")).collect()
    }
}

/// Forbids core dumps of this process, and other processes of the same user to read its memory: keys are in it. Root still can.
///
/// Programs that it starts can dump again, but for the soft limit (`ulimit -S -c`), which they may raise.
///
/// # Errors
/// Those of prctl(2) and setrlimit(2).
pub fn forbid_dumps() -> io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let limit = getrlimit(Resource::Core);
    Ok(setrlimit(Resource::Core, Rlimit { current: Some(0), ..limit })?)
}

/// Restricts all threads of this process to what it `needs`; once.
///
/// # Errors
/// `Unsupported` in [`Mode::Require`] where a mechanism is missing: nothing was given up then. `Internal` where the kernel refuses one that
/// it has.
pub fn enter(mode: Mode, needs: &Needs, user: Option<&User>) -> Result<Report> {
    if mode == Mode::Off {
        if user.is_some() {
            let restriction = threads::Restriction { user: user.copied(), ..threads::Restriction::default() };
            threads::restrict(restriction).map_err(failed)?;
        }
        return Ok(Report::all("off"));
    }
    let ruleset = match &needs.runs_programs {
        Some(why) => Err(why.clone()),
        None => match needs.paths.ruleset() {
            Ok(Some(ruleset)) => Ok(ruleset),
            Ok(None) => Err("the kernel has no Landlock, or it is not enabled".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    };
    let program = match &needs.runs_programs {
        Some(why) => Err(why.clone()),
        None => match calls::program() {
            Ok(Some(program)) => Ok(program),
            Ok(None) => Err("no filter for this processor's architecture".to_owned()),
            Err(error) => Err(error.to_string()),
        },
    };
    let mut report = Report { no_new_privs: ON.to_owned(), ..Report::default() };
    report.landlock = ruleset.as_ref().map_or_else(Clone::clone, |_| ON.to_owned());
    report.seccomp = program.as_ref().map_or_else(Clone::clone, |_| ON.to_owned());
    if mode == Mode::Require && !report.missing().is_empty() {
        let message = format!("--sandbox require: {}", report.missing().join("; "));
        return Err(Error::new(ErrorKind::Unsupported, message));
    }
    if let Err(error) = unmount::prepare(&needs.mounts) {
        let why = format!("nothing could unmount at the end: sh: {error}");
        // It keeps all privileges, for the unmounting.
        return match mode {
            Mode::Require => Err(Error::new(ErrorKind::Unsupported, format!("--sandbox require: {why}"))),
            _ => Ok(Report::all(&why)),
        };
    }
    let held = capabilities(None).map_err(|error| failed(error.into()))?.permitted;
    let left = if user.is_some() { CapabilitySet::empty() } else { needs.paths.capabilities() & held };
    let restriction = threads::Restriction { user: user.copied(), capabilities: Some(left), ruleset: ruleset.ok() };
    threads::restrict(restriction).map_err(failed)?;
    report.capabilities = shown(left);
    if let Ok(program) = program {
        let applied = seccompiler::apply_filter_all_threads(&program);
        applied.map_err(|error| Error::caused(ErrorKind::Internal, "the sandbox: seccomp", error))?;
    }
    Ok(report)
}

fn failed(error: io::Error) -> Error {
    Error::caused(ErrorKind::Internal, "the sandbox", error)
}

/// As `CAP_DAC_OVERRIDE, …`.
fn shown(capabilities: CapabilitySet) -> String {
    let names: Vec<String> = capabilities.iter_names().map(|(name, _)| format!("CAP_{name}")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

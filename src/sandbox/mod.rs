//! What a process gives up, so that who takes it over, or reads what is left of it, gets little.
//!
//! [`forbid_dumps`] is for every run of both programs.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit};

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

//! What ends a command that stays, and whom it tells how it is: the terminal and the service manager.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::time::Duration;

use coldpress::printable::Printable;
use coldpress::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::shared::failure::Failure;
use crate::shared::keys::environment;

/// How long who is served may take to hear the last answers.
pub const DRAIN: Duration = Duration::from_secs(10);

/// What a command that stays waits for.
pub enum Event {
    /// Nobody has the device open any more.
    Closed,
    /// The door at this path is gone.
    Gone(PathBuf),
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
}

/// Sends an event for each signal that asks for the end, from now on.
pub fn catch_signals(send: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Error::io("signals", error))?;
    let work = move || signals.forever().try_for_each(|_| send.send(Event::Signal).map_err(drop));
    let started = std::thread::Builder::new().name("signals".to_owned()).spawn(work);
    started.map(drop).map_err(|error| Error::io("a thread for signals", error))
}

/// Prints a line on standard error. Names in it come from outside; a terminal shall not act on them.
pub fn say(message: &str) {
    let _ = writeln!(std::io::stderr(), "coldread: {}", Printable(message));
}

/// Tells the service manager that started us, if one did (sd_notify(3)).
pub fn notify(state: &str) -> Result<(), Failure> {
    if let Some(path) = environment("NOTIFY_SOCKET")? {
        let sent = UnixDatagram::unbound().and_then(|socket| socket.send_to(state.as_bytes(), &path));
        if let Err(error) = sent {
            say(&format!("the service manager was not told ({path}): {error}"));
        }
    }
    Ok(())
}

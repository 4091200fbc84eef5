//! What ends a command that stays, and whom it tells how it is: the terminal and the service manager.

use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use coldpress::{Error, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::shared::failure::Failure;
use crate::shared::keys::environment;
use crate::shared::logs;

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

static IS_SERVING: AtomicBool = AtomicBool::new(false);

/// Returns whether the command serves others by now.
pub fn is_serving() -> bool {
    IS_SERVING.load(Ordering::Relaxed)
}

/// Prints a line on standard error. Names in it come from outside; a terminal shall not act on them.
pub fn say(message: &str) {
    logs::print("coldread", message);
}

/// Reports `state` to the service manager that started this process, if one did (sd_notify(3)).
pub fn notify(state: &str) -> Result<(), Failure> {
    // From READY=1 on, somebody is served.
    IS_SERVING.store(true, Ordering::Relaxed);
    if let Some(path) = environment("NOTIFY_SOCKET")?
        && let Err(error) = send_state(&path, state)
    {
        say(&format!("cannot report {state} to the service manager ($NOTIFY_SOCKET, {path}): {error}"));
    }
    Ok(())
}

/// Sends `state` to a socket in the file system or, after an `@`, of an abstract name.
fn send_state(path: &str, state: &str) -> std::io::Result<()> {
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_manager_is_reached_by_path_and_by_abstract_name() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("notify").to_str().unwrap().to_owned();
        let name = format!("coldread-test-{}", std::process::id());
        let by_name = SocketAddr::from_abstract_name(&name).unwrap();
        let sockets = [
            (UnixDatagram::bind(&path).unwrap(), path),
            (UnixDatagram::bind_addr(&by_name).unwrap(), format!("@{name}")),
        ];
        for (socket, path) in sockets {
            send_state(&path, "READY=1").unwrap();
            let mut received = [0; 16];
            let length = socket.recv(&mut received).unwrap();
            assert_eq!(&received[..length], b"READY=1", "{path}");
        }
        assert!(send_state("@coldread-test-nobody", "READY=1").is_err());
    }
}

//! `coldread mount`: FUSE file, loop device with direct I/O, ext4 read-only, in one step.
//!
//! The loop device is told to go with its last user, so one event ends everything in order: the file system is unmounted
//! (by `umount` or by Ctrl-C), the loop device lets go of the file, the FUSE mount ends.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use coldpress::serve::fuse::{Door, FILE, Watch};
use coldpress::{Error, ErrorKind, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{open, tell_fetched};
use crate::args::{Cli, MountArgs};
use crate::shared::failure::{CommandResult, chain};

/// How long the loop device may take to let go of the file after the unmount.
const GRACE: Duration = Duration::from_secs(10);

enum Event {
    /// Nobody has the device open any more.
    Closed,
    /// SIGINT, SIGTERM or SIGHUP.
    Signal,
}

pub fn run(cli: &Cli, args: &MountArgs) -> CommandResult {
    if !args.directory.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, format!("{}: no such directory", args.directory.display())).into());
    }
    let device = Arc::new(open(&args.source)?);
    let (send, events) = channel();
    // Before anything is mounted, so that an early Ctrl-C leaves nothing behind.
    catch_signals(send.clone())?;
    let holder = tempfile::Builder::new()
        .prefix("coldread-")
        .tempdir()
        .map_err(|error| Error::io("a directory for FUSE", error))?;
    let door = Door::open(device.clone(), holder.path(), args.threads.into(), Arc::new(Events(send)))?;
    let mounted = mount(&holder.path().join(FILE), &args.directory);
    let ended = mounted.and_then(|()| {
        let root = device.manifest().clear.root_digest;
        let _ = writeln!(
            std::io::stderr(),
            "coldread: {root} is mounted at {}; unmount it or press Ctrl-C",
            args.directory.display()
        );
        wait(&events, &args.directory)
    });
    let closed = door.close();
    tell_fetched(cli, &device);
    ended?;
    Ok(closed?)
}

struct Events(Sender<Event>);

impl Watch for Events {
    fn closed(&self) {
        let _ = self.0.send(Event::Closed);
    }

    fn failed(&self, error: &Error) {
        let _ = writeln!(std::io::stderr(), "coldread: a read failed: {}", chain(error));
    }
}

fn catch_signals(send: Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(|error| Error::io("signals", error))?;
    std::thread::spawn(move || signals.forever().try_for_each(|_| send.send(Event::Signal).map_err(drop)));
    Ok(())
}

/// The file as a loop device, mounted, and the loop device bound to the mount's life.
fn mount(file: &Path, directory: &Path) -> Result<()> {
    let device = tool(Command::new("losetup").args(["--find", "--show", "--read-only", "--direct-io=on"]).arg(file))?;
    let device = PathBuf::from(device.trim_end());
    // Naming the type spares mount a search of 261 blocks all over the device.
    let mounted = tool(Command::new("mount").args(["-t", "ext4", "-o", "ro"]).arg(&device).arg(directory));
    // While it is mounted this only marks the device to go with its last user.
    let detached = tool(Command::new("losetup").arg("--detach").arg(&device));
    mounted.and(detached).map(drop)
}

/// Until the device is closed; a signal unmounts.
fn wait(events: &Receiver<Event>, directory: &Path) -> Result<()> {
    let mut unmounted = false;
    loop {
        let event = if unmounted {
            events.recv_timeout(GRACE)
        } else {
            events.recv().map_err(|_| RecvTimeoutError::Disconnected)
        };
        match event {
            // mount(8) and losetup(8) open and close the device themselves: only the end of the mount counts.
            Ok(Event::Closed) if unmounted || !is_mounted(directory)? => return Ok(()),
            Ok(Event::Closed) => {}
            Ok(Event::Signal) => match tool(Command::new("umount").arg(directory)) {
                Ok(_) => unmounted = true,
                Err(_) if !is_mounted(directory)? => unmounted = true,
                Err(error) => {
                    let _ = writeln!(
                        std::io::stderr(),
                        "coldread: still mounted: {}; end what uses it and press Ctrl-C again",
                        chain(&error)
                    );
                }
            },
            Err(_) => {
                return Err(Error::new(ErrorKind::Unavailable, "the loop device did not let go; see `losetup --list`"));
            }
        }
    }
}

/// Whether something is mounted at `directory`: it is then on another device than its parent.
fn is_mounted(directory: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| path.metadata().map(|metadata| metadata.dev()).map_err(|error| Error::file(path, error));
    let directory = directory.canonicalize().map_err(|error| Error::file(directory, error))?;
    Ok(device(&directory)? != device(&directory.join(".."))?)
}

/// Runs a tool of util-linux; what it prints.
fn tool(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|error| Error::io(format!("{name} (of util-linux)"), error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    let kind = if is_root() { ErrorKind::Unavailable } else { ErrorKind::Denied };
    Err(Error::new(kind, format!("{name}: {said}")))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

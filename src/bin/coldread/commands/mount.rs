//! `coldread mount`: FUSE file, loop device with direct I/O, ext4 read-only, in one step.
//!
//! The loop device is told to go with its last user, so one event ends everything in order: the file system is unmounted
//! (by `umount` or by Ctrl-C), the loop device lets go of the file, the FUSE mount ends. Only what was mounted here is ever
//! unmounted here.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use coldpress::serve::fuse::{Door, FILE, Watch};
use coldpress::{Error, ErrorKind, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use super::{open, tell_fetched};
use crate::args::{Cli, MountArgs};
use crate::shared::failure::{CommandResult, Failure, chain};

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
    if !is_root() {
        let message = "mounting needs root, for the loop device and the mount; `ls`, `cat`, `stat` and `cp` need none";
        return Err(Failure::Usage(message.to_owned()));
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
    let ended = mounted.map(|device_number| {
        // losetup(8) opens and closes the file before the loop device holds it: only what comes from now on is the end.
        let early: Vec<Event> = events.try_iter().filter(|event| matches!(event, Event::Signal)).collect();
        let root = device.manifest().clear.root_digest;
        let _ = writeln!(
            std::io::stderr(),
            "coldread: {root} is mounted at {}; unmount it or press Ctrl-C",
            args.directory.display()
        );
        let mounted = Mounted { directory: &args.directory, device_number };
        early.iter().for_each(|_| mounted.unmount());
        mounted.wait(&events);
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

/// The file as a loop device, mounted, and the loop device bound to the mount's life; the loop device's number.
fn mount(file: &Path, directory: &Path) -> Result<u64> {
    let device = tool(Command::new("losetup").args(["--find", "--show", "--read-only", "--direct-io=on"]).arg(file))?;
    let device = PathBuf::from(device.trim_end());
    // Naming the type spares mount a search of 261 blocks all over the device.
    let mounted = tool(Command::new("mount").args(["-t", "ext4", "-o", "ro"]).arg(&device).arg(directory));
    let number = device.metadata().map(|metadata| metadata.rdev()).map_err(|error| Error::file(&device, error));
    // While it is mounted this only marks the device to go with its last user.
    let detached = tool(Command::new("losetup").arg("--detach").arg(&device));
    mounted.and(detached).and(number)
}

/// What this process mounted.
struct Mounted<'a> {
    directory: &'a Path,
    device_number: u64,
}

impl Mounted<'_> {
    /// Until nobody has the device open any more; a signal unmounts.
    fn wait(&self, events: &Receiver<Event>) {
        // The sender lives as long as the FUSE mount, so this ends with an event.
        for event in events {
            match event {
                Event::Closed => return,
                Event::Signal => self.unmount(),
            }
        }
    }

    fn unmount(&self) {
        let shown = self.directory.display();
        let say = |message: String| {
            let _ = writeln!(std::io::stderr(), "coldread: {message}");
        };
        if !self.is_on_top() {
            say(format!(
                "{shown}: another file system is there now, or none; the image is still in use elsewhere (a mount over it, a bind \
                 mount, another mount namespace?) and ends with its last user"
            ));
            return;
        }
        if let Err(error) = tool(Command::new("umount").arg(self.directory)) {
            say(format!("still mounted: {}; end what uses it and press Ctrl-C again", chain(&error)));
        }
    }

    /// Whether what the directory shows is what was mounted here, and not the directory itself or another mount over it.
    fn is_on_top(&self) -> bool {
        self.directory.metadata().is_ok_and(|metadata| metadata.dev() == self.device_number)
    }
}

/// Runs a tool of util-linux; what it prints.
fn tool(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // Of a process group of its own, so that Ctrl-C in a terminal does not end it half-way.
    let output =
        command.process_group(0).output().map_err(|error| Error::io(format!("{name} (of util-linux)"), error))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = match String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ") {
        said if said.is_empty() => output.status.to_string(),
        said => said,
    };
    Err(Error::new(ErrorKind::Unavailable, format!("{name}: {said}")))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

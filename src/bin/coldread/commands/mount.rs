//! `coldread mount`: FUSE file, loop device with direct I/O, ext4, in one step; read-only unless asked otherwise.
//!
//! The loop device is told to go with its last user, so one event ends everything in order: the file system is unmounted
//! (by `umount` or by Ctrl-C), the loop device lets go of the file, the FUSE mount ends. Only what was mounted here is ever
//! unmounted here.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use coldpress::bundle::Missing;
use coldpress::fs::BlockDevice;
use coldpress::serve::Watch;
use coldpress::serve::fuse::Door;
use coldpress::{Error, ErrorKind, Result};

use super::events::{DRAIN, Event, catch_signals, notify, say};
use super::tell_fetched;
use crate::args::{Cli, MountArgs};
use crate::shared::failure::{CommandResult, Failure};

pub fn run(cli: &Cli, args: &MountArgs) -> CommandResult {
    if !args.directory.is_dir() {
        return Err(Error::new(ErrorKind::NotFound, format!("{}: no such directory", args.directory.display())).into());
    }
    require_root()?;
    let reading = args.reading.open(args.record.is_some())?;
    let device = Arc::new(reading.open(&args.source)?);
    let root = device.manifest().clear.root_digest;
    let _metrics = reading.metrics_of(&args.source, &device)?;
    let offered = args.writable.over(Arc::clone(&device) as _)?;
    let place = Place { offered, directory: &args.directory, threads: args.threads, missing: &Missing::default() };
    let ended = stay(&place, || {
        Ok(Then::Stay(format!("{root} is mounted at {}; unmount it or press Ctrl-C", args.directory.display())))
    });
    tell_fetched(cli, &device);
    reading.write_record(&device, args.record.as_deref())?;
    ended
}

/// What is mounted, where, and how.
pub struct Place<'a> {
    pub offered: Arc<dyn BlockDevice>,
    pub directory: &'a Path,
    pub threads: u16,
    /// What the mount has besides what the image has.
    pub missing: &'a Missing,
}

/// What becomes of a mount that is ready.
pub enum Then {
    /// It stays until it is unmounted, and this is said.
    Stay(String),
    /// It is unmounted.
    End,
}

/// Mounts the image, does what is to be done when it is `ready`, and stays; where that fails, it is unmounted at once.
pub fn stay(place: &Place<'_>, ready: impl FnOnce() -> Result<Then, Failure>) -> CommandResult {
    let (send, events) = channel();
    // Before anything is mounted, so that an early Ctrl-C leaves nothing behind.
    catch_signals(send.clone())?;
    let holder = tempfile::Builder::new()
        .prefix("coldread-")
        .tempdir()
        .map_err(|error| Error::io("a directory for FUSE", error))?;
    let file = holder.path().join("image");
    std::fs::write(&file, []).map_err(|error| Error::file(&file, error))?;
    let door = Door::open(Arc::clone(&place.offered), &file, place.threads.into(), Arc::new(Events(send)))?;
    let mounted = mount(holder.path(), &file, place);
    let ended = mounted.map(|device_number| {
        let mounted = Mounted { directory: place.directory, device_number, door: &door };
        let told = ready().and_then(|then| match then {
            Then::Stay(message) => {
                say(&message);
                notify("READY=1").map(|()| true)
            }
            Then::End => Ok(false),
        });
        if !matches!(told, Ok(true)) {
            mounted.unmount();
        }
        mounted.wait(&events);
        told.and_then(|_| notify("STOPPING=1"))
    });
    let closed = door.close(DRAIN);
    ended??;
    Ok(closed?)
}

struct Events(Sender<Event>);

impl Watch for Events {
    fn closed(&self) {
        let _ = self.0.send(Event::Closed);
    }

    fn failed(&self, error: &Error) {
        say(&format!("a read failed: {}", error.chain()));
    }

    fn write_failed(&self, error: &Error) {
        super::tell_write_failed(error);
    }
}

/// The file as a loop device, mounted, and the loop device bound to the mount's life; the mounted device's number.
fn mount(holder: &Path, file: &Path, place: &Place<'_>) -> Result<u64> {
    // What is deleted gives its room back.
    let (read_only, options): (&[&str], _) =
        if place.offered.writable().is_some() { (&[], "rw,discard") } else { (&["--read-only"], "ro") };
    let device = tool(Command::new("losetup").args(["--find", "--show", "--direct-io=on"]).args(read_only).arg(file))?;
    let device = PathBuf::from(device.trim_end());
    // Naming the type spares mount a search of 261 blocks all over the device.
    let ext4 = |directory: &Path| {
        tool(Command::new("mount").args(["-t", "ext4", "-o", options]).arg(&device).arg(directory)).map(drop)
    };
    let mounted = match place.missing.is_empty() {
        true => ext4(place.directory),
        false => mount_with(holder, place, &ext4),
    };
    // While it is mounted this only marks the device to go with its last user.
    let detached = tool(Command::new("losetup").arg("--detach").arg(&device));
    mounted.and(detached)?;
    let found = place.directory.metadata();
    found.map(|metadata| metadata.dev()).map_err(|error| Error::file(place.directory, error))
}

/// The same with what the image has not below it, by overlayfs; both layers go with the overlay.
fn mount_with(holder: &Path, place: &Place<'_>, ext4: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let fail = |error| Error::io("what the image has not", error);
    // Relative to the holder, since overlayfs takes no colon in a layer's path.
    let (root, below) = (holder.join("root"), holder.join("below"));
    [&root, &below].into_iter().try_for_each(std::fs::create_dir).map_err(fail)?;
    let directory = place.directory.canonicalize().map_err(fail)?;
    ext4(&root)?;
    let mounted =
        tool(Command::new("mount").args(["-t", "tmpfs", "-o", "mode=755", "coldread"]).arg(&below)).and_then(|_| {
            let overlaid = fill(&below, place.missing).map_err(fail).and_then(|()| {
                let mut overlay = Command::new("mount");
                overlay.args(["-t", "overlay", "-o", "ro,lowerdir=root:below", "coldread"]).arg(&directory);
                tool(overlay.current_dir(holder))
            });
            tool(Command::new("umount").arg("--lazy").arg(&below))?;
            overlaid
        });
    tool(Command::new("umount").arg("--lazy").arg(&root))?;
    mounted.map(drop)
}

fn fill(below: &Path, missing: &Missing) -> io::Result<()> {
    missing.directories.iter().try_for_each(|path| std::fs::create_dir_all(below.join(path)))?;
    missing.files.iter().map(|path| below.join(path)).try_for_each(|path| {
        std::fs::create_dir_all(path.parent().unwrap_or(below))?;
        std::fs::write(path, [])
    })
}

/// What this process mounted.
struct Mounted<'a> {
    directory: &'a Path,
    device_number: u64,
    door: &'a Door,
}

impl Mounted<'_> {
    /// Until nobody has the device open any more; a signal unmounts.
    fn wait(&self, events: &Receiver<Event>) {
        // The sender lives as long as the FUSE mount, so this ends with an event.
        for event in events {
            match event {
                // losetup(8) opens and closes the file before the loop device holds it, and that may be told late.
                Event::Closed if !self.door.in_use() => return,
                Event::Signal => self.unmount(),
                Event::Closed | Event::Gone(_) => {}
            }
        }
    }

    fn unmount(&self) {
        let shown = self.directory.display();
        if !self.is_on_top() {
            say(&format!(
                "{shown}: another file system is there now, or none; the image is still in use elsewhere (a mount over it, a bind \
                 mount, another mount namespace?) and ends with its last user"
            ));
            return;
        }
        if let Err(error) = tool(Command::new("umount").arg(self.directory)) {
            say(&format!("still mounted: {}; end what uses it and press Ctrl-C again", error.chain()));
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

/// Refuses before anything is made.
pub fn require_root() -> CommandResult {
    if !rustix::process::geteuid().is_root() {
        let message = "mounting needs root, for the loop device and the mount; `ls`, `cat`, `stat` and `cp` need none";
        return Err(Failure::Usage(message.to_owned()));
    }
    Ok(())
}

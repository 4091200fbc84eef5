//! `coldread mount`: FUSE file, loop device with direct I/O, ext4, in one step; read-only unless asked otherwise.
//!
//! The loop device is told to go with its last user, so one event ends everything in order: the file system is unmounted
//! (by `umount` or by Ctrl-C), the loop device lets go of the file, the FUSE mount ends. Only what was mounted here is ever
//! unmounted here.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
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
use crate::run_state::{ImageRecord, Plan, Registration, RunDirectory};
use crate::sandbox::Collected;
use crate::shared::failure::{CommandResult, Failure};

/// The FUSE file's name in the entry.
const IMAGE: &str = "image";
/// Its number among the capabilities, capabilities(7).
const CAP_SYS_ADMIN: u32 = 21;

pub fn run(cli: &Cli, args: &MountArgs) -> CommandResult {
    check_directory(&args.directory)?;
    require_mounting()?;
    let run_directory = RunDirectory::open()?;
    let reading = args.reading.open(args.recording.record.is_some(), None)?;
    let device = Arc::new(reading.open(&args.source)?);
    let root = device.manifest().clear.root_digest;
    let _metrics = reading.metrics_of(&args.source, &device, &args.directory)?;
    let offered = args.writable.over(Arc::clone(&device) as _)?;
    let directory = args.directory.canonicalize().map_err(|error| Error::file(&args.directory, error))?;
    let plan = Plan {
        command: "mount",
        images: vec![ImageRecord::of(&args.source, &device)],
        directory: Some(directory.clone()),
        ..Plan::default()
    };
    let starting = Starting::new(&run_directory, &plan)?;
    let place = Place {
        offered,
        directory: &directory,
        shown: &args.directory,
        threads: args.threads.threads,
        missing: &Missing::default(),
        allowed: Allowed { suid: args.suid, dev: args.dev },
    };
    let ended = starting.stay(&place, |registration| {
        let mut collected = Collected::default();
        reading.collect(args.recording.record.as_deref(), &mut collected)?;
        collected.mounted(&place, registration);
        tracing::debug!("mount: entering the sandbox");
        args.sandbox.enter(&collected, None, &reading.entered)?;
        reading.begin();
        tracing::debug!("mount: the sandbox is entered");
        Ok(Then::Stay(format!("{root} is mounted at {}; unmount it or press Ctrl-C", args.directory.display())))
    });
    tell_fetched(cli, &device);
    reading.write_record(&device, args.recording.record.as_deref())?;
    ended
}

/// Refuses a path that is no directory; a dead mount there, which answers with another error, is cleaned up later.
fn check_directory(path: &Path) -> Result<()> {
    match path.metadata() {
        Ok(metadata) if !metadata.is_dir() => {
            Err(Error::new(ErrorKind::Input, format!("{}: not a directory", path.display())))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::new(ErrorKind::NotFound, format!("{}: no such directory", path.display())))
        }
        _ => Ok(()),
    }
}

/// What a mount lets programs do with the image's special files. Nothing, unless it was asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Set-user-id and set-group-id bits and file capabilities take effect.
    pub suid: bool,
    /// Device nodes can be opened.
    pub dev: bool,
}

impl Allowed {
    /// Returns the options of mount(8), after `first`.
    fn options(self, first: &str) -> String {
        let suid = if self.suid { "" } else { ",nosuid" };
        let dev = if self.dev { "" } else { ",nodev" };
        format!("{first}{suid}{dev}")
    }
}

/// What is mounted, where, and how.
pub struct Place<'a> {
    pub offered: Arc<dyn BlockDevice>,
    /// Where to mount it, resolved.
    pub directory: &'a Path,
    /// The same as the user wrote it.
    pub shown: &'a Path,
    pub threads: u16,
    /// What the mount has besides what the image has.
    pub missing: &'a Missing,
    pub allowed: Allowed,
}

/// What becomes of a mount that is ready.
pub enum Then {
    /// It stays until it is unmounted, and this is said.
    Stay(String),
    /// It is unmounted.
    End,
}

/// A command that is about to mount: signals are caught, and its entry is in the run directory.
pub struct Starting {
    send: Sender<Event>,
    events: Receiver<Event>,
    registration: Registration,
}

impl Starting {
    /// Cleans up after the dead, and writes the entry of this process.
    ///
    /// # Errors
    /// Those of [`RunDirectory::register`].
    pub fn new(run_directory: &RunDirectory, plan: &Plan) -> Result<Self> {
        let (send, events) = channel();
        // Before anything is made, so that an early Ctrl-C leaves nothing behind.
        catch_signals(send.clone())?;
        let registration = run_directory.register(plan)?;
        Ok(Self { send, events, registration })
    }

    /// Creates a directory to mount at in the entry's own directory.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn directory(&self) -> Result<PathBuf> {
        let path = self.registration.path().join("mnt");
        DirBuilder::new().mode(0o700).create(&path).map_err(|error| Error::file(&path, error))?;
        Ok(path)
    }

    /// Mounts the image, does what is to be done when it is `ready`, and stays; where that fails, it is unmounted at once.
    pub fn stay(self, place: &Place<'_>, ready: impl FnOnce(&Registration) -> Result<Then, Failure>) -> CommandResult {
        let Self { send, events, registration } = self;
        let file = registration.path().join(IMAGE);
        std::fs::write(&file, []).map_err(|error| Error::file(&file, error))?;
        let source = format!("coldread:{}", place.directory.display());
        let door =
            Door::open(Arc::clone(&place.offered), &file, &source, place.threads.into(), Arc::new(Events(send)))?;
        let mounted = mount(&registration, &file, place);
        let ended = mounted.map(|device_number| {
            let mounted = Mounted { place, device_number, door: &door, registration: &registration };
            let told = ready(&registration).and_then(|then| match then {
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
        drop(registration);
        ended??;
        Ok(closed?)
    }
}

impl Collected {
    /// Collects what is mounted, and the entry of that with the FUSE file in it.
    pub fn mounted(&mut self, place: &Place<'_>, registration: &Registration) {
        self.mount(place.directory);
        self.fuse(&registration.path().join(IMAGE));
        self.registered(registration);
    }
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
fn mount(registration: &Registration, file: &Path, place: &Place<'_>) -> Result<u64> {
    // What is deleted gives its room back.
    let (read_only, options): (&[&str], _) =
        if place.offered.writable().is_some() { (&[], "rw,discard") } else { (&["--read-only"], "ro") };
    let options = place.allowed.options(options);
    let mut losetup = Command::new("losetup");
    losetup.args(["--find", "--show", "--direct-io=on"]).args(read_only).arg(file);
    tracing::debug!("mount: the FUSE file is served");
    let device = registration.tool(&mut losetup).map_err(explain_losetup)?;
    tracing::debug!(device = device.trim_end(), "mount: the loop device is set up");
    let device = PathBuf::from(device.trim_end());
    // Naming the type spares mount a search of 261 blocks all over the device.
    let ext4 = |directory: &Path| {
        let mut command = Command::new("mount");
        registration.tool(command.args(["-t", "ext4", "-o", &options]).arg(&device).arg(directory)).map(drop)
    };
    let mounted = match place.missing.is_empty() {
        true => ext4(place.directory),
        false => mount_with(registration, place, &ext4),
    };
    tracing::debug!("mount: the ext4 file system is mounted");
    let mounted = mounted.and_then(|()| registration.set_mounted());
    // While it is mounted this only marks the device to go with its last user.
    let detached = registration.tool(Command::new("losetup").arg("--detach").arg(&device));
    mounted.and(detached)?;
    let found = place.directory.metadata();
    found.map(|metadata| metadata.dev()).map_err(|error| Error::file(place.directory, error))
}

/// The same with what the image has not below it, by overlayfs; both layers go with the overlay.
fn mount_with(registration: &Registration, place: &Place<'_>, ext4: &dyn Fn(&Path) -> Result<()>) -> Result<()> {
    let fail = |error| Error::io("overlay for missing mount points", error);
    // Relative to the entry, since overlayfs takes no colon in a layer's path.
    let entry = registration.path();
    let (root, below) = (entry.join("root"), entry.join("below"));
    [&root, &below].into_iter().try_for_each(std::fs::create_dir).map_err(fail)?;
    ext4(&root)?;
    let mut tmpfs = Command::new("mount");
    tmpfs.args(["-t", "tmpfs", "-o", "mode=755,nosuid,nodev,noexec", "coldread"]).arg(&below);
    let mounted = registration.tool(&mut tmpfs).and_then(|_| {
        let overlaid = fill(&below, place.missing).map_err(fail).and_then(|()| {
            let options = place.allowed.options("ro,lowerdir=root:below");
            let mut overlay = Command::new("mount");
            overlay.args(["-t", "overlay", "-o", &options, &registration.source()]).arg(place.directory);
            registration.tool(overlay.current_dir(entry))
        });
        registration.tool(Command::new("umount").arg("--lazy").arg(&below))?;
        overlaid
    });
    registration.tool(Command::new("umount").arg("--lazy").arg(&root))?;
    mounted.map(drop)
}

fn fill(below: &Path, missing: &Missing) -> io::Result<()> {
    missing.directories.iter().try_for_each(|(path, mode)| {
        std::fs::create_dir_all(below.join(path))?;
        std::fs::set_permissions(below.join(path), Permissions::from_mode(*mode))
    })?;
    missing.files.iter().map(|path| below.join(path)).try_for_each(|path| {
        std::fs::create_dir_all(path.parent().unwrap_or(below))?;
        std::fs::write(path, [])
    })
}

/// What this process mounted.
struct Mounted<'a> {
    place: &'a Place<'a>,
    device_number: u64,
    door: &'a Door,
    registration: &'a Registration,
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
        let shown = self.place.shown.display();
        if !self.is_on_top() {
            say(&format!(
                "{shown}: another file system, or none, is mounted here now; the image is still in use elsewhere (a mount over it, a bind \
                 mount, another mount namespace?), and coldread ends with its last user"
            ));
            return;
        }
        let unmounted = match coldpress::sandbox::unmount(self.place.directory, false) {
            Some(unmounted) => unmounted.map_err(|error| Error::io("umount", error)),
            None => self.registration.tool(Command::new("umount").arg(self.place.directory)).map(drop),
        };
        if let Err(error) = unmounted {
            say(&format!("still mounted: {}; end what uses it and press Ctrl-C again", error.chain()));
        }
    }

    /// Whether what the directory shows is what was mounted here, and not the directory itself or another mount over it.
    fn is_on_top(&self) -> bool {
        self.place.directory.metadata().is_ok_and(|metadata| metadata.dev() == self.device_number)
    }
}

/// Refuses before anything is made, and names what this host or container lacks.
pub fn require_mounting() -> CommandResult {
    if !rustix::process::geteuid().is_root() {
        let message =
            "mounting needs root, for the loop device and the mount; `ls`, `cat`, `cp` and `serve --nbd` do not";
        return Err(Failure::Usage(message.to_owned()));
    }
    let lacks = |message: String| Err(Error::new(ErrorKind::Unsupported, message).into());
    if !has_sys_admin() {
        return lacks("mounting needs CAP_SYS_ADMIN; start the container with `--cap-add SYS_ADMIN`".to_owned());
    }
    for (node, module) in [("/dev/fuse", "fuse"), ("/dev/loop-control", "loop")] {
        if !Path::new(node).exists() {
            return lacks(format!(
                "{node} is missing; load its module (`modprobe {module}`), or start the container with `--device {node}`"
            ));
        }
    }
    Ok(())
}

/// Returns whether this process has CAP_SYS_ADMIN; `true` where the kernel does not say.
fn has_sys_admin() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    effective.is_none_or(|mask| mask & (1 << CAP_SYS_ADMIN) != 0)
}

/// Returns why losetup(8) failed, with the missing device node if that is the reason.
fn explain_losetup(error: Error) -> Error {
    let entries = std::fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let names =
        entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.starts_with("loop"));
    let missing = names.map(|name| Path::new("/dev").join(name)).find(|node| !node.exists());
    match missing {
        None => error,
        Some(node) => {
            let node = node.display();
            let message = format!(
                "no loop device: {node} is missing; start the container with `--device {node}`, or with the host's /dev"
            );
            Error::caused(ErrorKind::Unsupported, message, error)
        }
    }
}

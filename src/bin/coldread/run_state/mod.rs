//! The run directory: one entry for each `coldread` that mounts or serves, so that the next one can clean up after a SIGKILL.
//!
//! An entry is a directory `PID-RANDOM` with `entry.json`, what FUSE and overlayfs are mounted on, and `mounted` once the mount
//! stands. It is written before anything else is made. The process and the tools that it runs hold a lock (flock(2)) on
//! `entry.json` for as long as one of them lives, so that an entry whose lock is free is one of the dead. Entries are made and
//! cleaned up under the lock of the whole directory, `lock`. docs/how-to/mount-on-a-host.md, "After a crash", says what is cleaned up.

mod clean;
pub mod kernel;
mod record;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coldpress::{Error, ErrorKind, Result};
use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;
use rustix::process::geteuid;

use self::kernel::{LoopDevice, Mount, Topmost};
pub use self::record::{ImageRecord, Plan, Record};
use crate::commands::say;
use crate::shared::failure::Failure;
use crate::shared::keys::environment;

/// The names of an entry's directory; only these are ever removed.
const ENTRY: &str = "entry.json";
const MOUNTED: &str = "mounted";
const FILES: [&str; 2] = ["image", MOUNTED];
const DIRECTORIES: [&str; 3] = ["root", "below", "mnt"];

/// How long another `coldread` may hold the lock of the whole directory.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// How long a mount at the same directory may take to stand, or to be gone.
const SETTLE_PATIENCE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(10);

/// The run directory of this user.
pub struct RunDirectory {
    path: PathBuf,
}

/// The lock of the whole directory, until it is dropped.
pub struct Lock(#[expect(dead_code, reason = "held for its lock")] File);

impl RunDirectory {
    /// Opens the run directory, and creates it if it does not exist.
    ///
    /// It is `$COLDREAD_RUN_DIR`, else for root `/run/coldread`, else `$XDG_RUNTIME_DIR/coldread`, else
    /// `~/.local/state/coldread`.
    ///
    /// # Errors
    /// `Denied` if it is a symbolic link, belongs to another user, or can be written to by others.
    pub fn open() -> Result<Self, Failure> {
        let path = location()?;
        if let Some(parent) = path.parent() {
            let fail = |error| Error::io(format!("run directory {}", path.display()), error);
            DirBuilder::new().recursive(true).mode(0o700).create(parent).map_err(fail)?;
        }
        let path = check(&path)?;
        Ok(Self { path })
    }

    /// Waits for the lock of the whole directory.
    ///
    /// # Errors
    /// `Unavailable` if another process holds it for 30 s.
    pub fn lock(&self) -> Result<Lock> {
        let path = self.path.join("lock");
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).mode(0o600).custom_flags(no_follow);
        let file = options.open(&path).map_err(|error| Error::file(&path, error))?;
        let begun = Instant::now();
        while !try_lock(&file).map_err(|error| Error::file(&path, error))? {
            if begun.elapsed() > LOCK_PATIENCE {
                let seconds = LOCK_PATIENCE.as_secs();
                let message = format!("{}: another coldread has held this lock for {seconds} s", path.display());
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
            std::thread::sleep(POLL);
        }
        Ok(Lock(file))
    }

    /// Returns all entries, in the order of their names.
    ///
    /// # Errors
    /// Those of reading the directory.
    pub fn entries(&self, _lock: &Lock) -> Result<Vec<Entry>> {
        let fail = |error| Error::file(&self.path, error);
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(&self.path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            if entry.file_type().map_err(fail)?.is_dir() {
                paths.push(entry.path());
            }
        }
        paths.sort_unstable();
        Ok(paths.into_iter().map(Entry::read).collect())
    }

    /// Cleans up after every process that is dead, and returns the entries that are left: of the living, and of the dead
    /// after whom it cannot clean up, which it reports.
    ///
    /// # Errors
    /// Those of reading the directory.
    fn sweep(&self, lock: &Lock) -> Result<Vec<Entry>> {
        let mut entries = self.entries(lock)?;
        entries.retain(|entry| {
            let cleaned = if entry.is_dead { entry.clean() } else { return true };
            match &cleaned {
                Ok(done) if done.is_empty() => {}
                Ok(done) => say(&format!("cleaned up after {}: {}", entry.title(), done.join(", "))),
                Err(error) => say(&format!("cannot clean up after {}: {}", entry.title(), error.chain())),
            }
            cleaned.is_err()
        });
        Ok(entries)
    }

    /// Cleans up after the dead, refuses a directory that another `coldread` has mounted, and writes this process's entry.
    ///
    /// # Errors
    /// `Input` if the directory is mounted by another `coldread`, named with its number. Those of the file system.
    pub fn register(&self, plan: &Plan) -> Result<Registration> {
        let begun = Instant::now();
        loop {
            let lock = self.lock()?;
            // Looked at once: one that ends between two looks would be neither cleaned up nor waited for.
            let left = self.sweep(&lock)?;
            match self.occupant(&left, plan)? {
                None => return self.enter(plan, &lock),
                Some(occupant) if !occupant.settled && begun.elapsed() < SETTLE_PATIENCE => {}
                Some(occupant) => {
                    let directory = plan.directory.as_deref().unwrap_or(Path::new(""));
                    let message = format!("{}: {}", directory.display(), occupant.message);
                    return Err(Error::new(ErrorKind::Input, message));
                }
            }
            drop(lock);
            std::thread::sleep(POLL);
        }
    }

    /// Returns which of the `entries` is at the directory of `plan`, or which other `coldread`, if one is.
    fn occupant(&self, entries: &[Entry], plan: &Plan) -> Result<Option<Occupant>> {
        let Some(directory) = &plan.directory else { return Ok(None) };
        let shown = directory.display();
        for entry in entries {
            let Some(record) = entry.record.as_ref().filter(|record| record.directory() == Some(directory)) else {
                continue;
            };
            let pid = record.pid;
            if entry.is_mounted()? {
                let settled = entry.is_dead || record.process_runs();
                let message = match entry.is_dead {
                    true => format!("the mount of coldread process {pid}, which was killed, is still there"),
                    false => format!(
                        "coldread process {pid} has mounted `{}` there; end it with `coldread umount {shown}`, or choose \
                         another directory",
                        record.image_names()
                    ),
                };
                return Ok(Some(Occupant { settled, message }));
            }
            if record.is_in_this_namespace() && !entry.has_mounted() && !entry.is_dead {
                let message = format!("coldread process {pid} is about to mount an image there; see `coldread ps`");
                return Ok(Some(Occupant { settled: false, message }));
            }
        }
        Ok(self.foreign(directory)?.map(|message| Occupant { settled: true, message }))
    }

    /// Returns why `directory` is a mount of a `coldread` that has no entry in this run directory, if it is one.
    ///
    /// # Errors
    /// Those of reading `/proc` and `/sys`.
    pub fn foreign(&self, directory: &Path) -> Result<Option<String>> {
        let Some(Topmost { mount, .. }) = Topmost::at(directory)? else { return Ok(None) };
        let shown = directory.display();
        let ours = |source: &std::ffi::OsStr| source.to_string_lossy().starts_with("coldread:");
        let backing = LoopDevice::under(&mount).map(|device| device.backing_file);
        // A bind mount of an image that an entry here has mounted elsewhere is a mount point like any other.
        let backing = backing.filter(|file| !file.starts_with(&self.path));
        if let Some(file) = backing
            && Mount::all()?
                .iter()
                .any(|found| found.point == file && found.file_system == "fuse" && ours(&found.source))
        {
            let other = file.ancestors().nth(2).unwrap_or(&file).display().to_string();
            return Ok(Some(format!(
                "a coldread with another run directory has mounted an image there; end it with `COLDREAD_RUN_DIR={other} \
                 coldread umount {shown}`"
            )));
        }
        Ok((mount.file_system == "overlay" && ours(&mount.source)).then(|| {
            format!("a coldread with another run directory has mounted an image there; end it with `umount {shown}`")
        }))
    }

    /// Writes the entry of this process.
    fn enter(&self, plan: &Plan, _lock: &Lock) -> Result<Registration> {
        let fail = |error| Error::io(format!("run directory {}", self.path.display()), error);
        let prefix = format!("{}-", std::process::id());
        let directory = tempfile::Builder::new().prefix(&prefix).rand_bytes(8).tempdir_in(&self.path).map_err(fail)?;
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(directory.path().join(ENTRY));
        let mut file = file.map_err(fail)?;
        if !try_lock(&file).map_err(fail)? {
            return Err(fail(io::Error::other("the new entry is locked by another process")));
        }
        let text = serde_json::to_string(&Record::new(plan)).expect("a record is plain data");
        file.write_all(text.as_bytes()).map_err(fail)?;
        Ok(Registration { path: directory.keep(), file })
    }
}

/// Another `coldread` at a directory.
struct Occupant {
    /// Whether it will stay there; else it has not mounted yet, or is about to be gone.
    settled: bool,
    message: String,
}

fn location() -> Result<PathBuf, Failure> {
    let absolute = |name: &str| -> Result<Option<PathBuf>, Failure> {
        let Some(path) = environment(name)?.map(PathBuf::from) else { return Ok(None) };
        match path.is_absolute() {
            true => Ok(Some(path)),
            false => Err(Failure::Usage(format!("${name} is `{}`; it must be an absolute path", path.display()))),
        }
    };
    if let Some(path) = absolute("COLDREAD_RUN_DIR")? {
        return Ok(path);
    }
    if geteuid().is_root() {
        return Ok(PathBuf::from("/run/coldread"));
    }
    if let Some(path) = absolute("XDG_RUNTIME_DIR")? {
        return Ok(path.join("coldread"));
    }
    match absolute("HOME")? {
        Some(path) => Ok(path.join(".local/state/coldread")),
        None => Err(Failure::Usage("no run directory: set $COLDREAD_RUN_DIR to a directory of this user".to_owned())),
    }
}

/// Creates the directory `path`, refuses one that others control, and returns its resolved path.
fn check(path: &Path) -> Result<PathBuf> {
    let fail = |error| Error::io(format!("run directory {}", path.display()), error);
    let refuse = |what: String| {
        let message = format!("run directory {}: {what}; set $COLDREAD_RUN_DIR to another directory", path.display());
        Err(Error::new(ErrorKind::Denied, message))
    };
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
        _ => {}
    }
    let metadata = path.symlink_metadata().map_err(fail)?;
    if !metadata.is_dir() {
        return refuse("not a directory".to_owned());
    }
    if metadata.uid() != geteuid().as_raw() {
        return refuse(format!("it belongs to user {}, not to user {}", metadata.uid(), geteuid().as_raw()));
    }
    // Others may look: every entry is private by itself.
    if metadata.mode() & 0o022 != 0 {
        return refuse(format!("its mode is {:03o}, so others can write to it", metadata.mode() & 0o777));
    }
    path.canonicalize().map_err(fail)
}

/// Takes the lock of an open file, if nobody else has it.
fn try_lock(file: &File) -> io::Result<bool> {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// An entry that was found in the run directory.
pub struct Entry {
    path: PathBuf,
    /// `None` if it could not be read: then nothing but the entry itself had been made.
    record: Option<Record>,
    /// Whether its process has ended, and the tools that it ran.
    pub is_dead: bool,
}

impl Entry {
    fn read(path: PathBuf) -> Self {
        let no_follow = OFlags::NOFOLLOW.bits().cast_signed();
        let file = OpenOptions::new().read(true).custom_flags(no_follow).open(path.join(ENTRY));
        let record = file.as_ref().ok().and_then(|file| serde_json::from_reader(file).ok());
        // Without a file there is nobody who could lock it: entries are made under the directory's lock. A file system that
        // cannot say is no proof of death.
        let is_dead = file.map_or(true, |file| try_lock(&file).unwrap_or(false));
        Self { path, record, is_dead }
    }

    /// Returns its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what it says, unless it was never finished.
    pub fn record(&self) -> Option<&Record> {
        self.record.as_ref()
    }

    /// Returns `starting`, `running`, `unmounted` or `dead`.
    ///
    /// # Errors
    /// Those of reading `/proc` and `/sys`.
    pub fn state(&self) -> Result<&'static str> {
        let has_directory = self.record.as_ref().is_some_and(|record| record.directory.is_some());
        Ok(match () {
            () if self.is_dead => "dead",
            () if !has_directory || self.is_mounted()? => "running",
            () if self.has_mounted() => "unmounted",
            () => "starting",
        })
    }

    /// Returns the loop devices that are bound to its FUSE file.
    ///
    /// # Errors
    /// Those of reading `/sys`.
    pub fn loop_devices(&self) -> Result<Vec<LoopDevice>> {
        LoopDevice::below(&self.path)
    }

    /// Cleans up after its dead process, and returns what was done, in words.
    ///
    /// # Errors
    /// Those of [`clean::clean`].
    pub fn clean(&self) -> Result<Vec<String>> {
        clean::clean(self)
    }

    /// Returns whether its mount was made, and may have been unmounted since.
    fn has_mounted(&self) -> bool {
        self.path.join(MOUNTED).exists()
    }

    /// Returns whether its mount is at its directory, as this process sees it.
    ///
    /// # Errors
    /// Those of reading `/proc` and `/sys`.
    pub fn is_mounted(&self) -> Result<bool> {
        let Some(directory) = self.record.as_ref().and_then(Record::directory) else { return Ok(false) };
        let devices = LoopDevice::below(&self.path)?;
        Ok(Mount::all()?.iter().any(|mount| mount.point == directory && self.owns(mount, &devices)))
    }

    /// Returns whether its mount is what its directory shows.
    ///
    /// # Errors
    /// Those of reading `/proc` and `/sys`.
    pub fn is_on_top(&self) -> Result<bool> {
        let Some(directory) = self.record.as_ref().and_then(Record::directory) else { return Ok(false) };
        let devices = LoopDevice::below(&self.path)?;
        Ok(Topmost::at(directory)?.is_some_and(|top| self.owns(&top.mount, &devices)))
    }

    /// Returns whether `mount` is the image: ext4 on one of the entry's loop `devices`, or the overlay that is named after it.
    fn owns(&self, mount: &Mount, devices: &[LoopDevice]) -> bool {
        match mount.file_system.as_str() {
            "overlay" => mount.source.to_str() == Some(&source_name(&self.path)),
            _ => devices.iter().any(|device| device.device == mount.device),
        }
    }

    /// Returns what to call it in a message.
    pub fn title(&self) -> String {
        match &self.record {
            Some(record) => format!("coldread process {} ({})", record.pid, record.command),
            None => format!("the coldread of {}", self.path.display()),
        }
    }
}

/// Returns the source that mounts of an entry are given: its name is random, so nothing else has it.
pub fn source_name(entry: &Path) -> String {
    format!("coldread:{}", entry.file_name().unwrap_or_default().to_string_lossy())
}

/// This process's entry in the run directory, removed when it is dropped.
pub struct Registration {
    path: PathBuf,
    file: File,
}

impl Registration {
    /// Returns the entry's directory, for what FUSE and overlayfs are mounted on.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the source that overlays of this process are given.
    pub fn source(&self) -> String {
        source_name(&self.path)
    }

    /// Records that the mount stands.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn set_mounted(&self) -> Result<()> {
        let path = self.path.join(MOUNTED);
        std::fs::write(&path, []).map_err(|error| Error::file(&path, error))
    }

    /// Runs a tool that makes or removes mounts.
    ///
    /// The tool holds the entry's lock as its standard input: if this process is killed meanwhile, the entry counts as
    /// alive until the tool has ended, and nothing is made behind the back of the clean-up.
    ///
    /// # Errors
    /// `Unavailable` with what the tool printed.
    pub fn tool(&self, command: &mut Command) -> Result<String> {
        let lock = self.file.try_clone().map_err(|error| Error::file(&self.path, error))?;
        tool(command.stdin(Stdio::from(lock)))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes an entry's directory, `entry.json` last; a part that is still in use stays, and so does `entry.json`.
fn remove(entry: &Path) {
    let gone = |result: io::Result<()>| match result {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    let files = FILES.iter().filter(|name| !gone(std::fs::remove_file(entry.join(name)))).count();
    let directories = DIRECTORIES.iter().filter(|name| !gone(std::fs::remove_dir(entry.join(name)))).count();
    if files + directories == 0 {
        let _ = std::fs::remove_file(entry.join(ENTRY));
        let _ = std::fs::remove_dir(entry);
    }
}

/// Runs a tool of util-linux and returns what it prints.
///
/// # Errors
/// `Unavailable` with what it printed on standard error.
pub fn tool(command: &mut Command) -> Result<String> {
    let name = command.get_program().to_string_lossy().into_owned();
    // In a process group of its own, so that Ctrl-C in a terminal does not end it half-way.
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

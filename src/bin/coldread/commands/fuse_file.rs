//! A block image as a regular file, by FUSE, for as long as `coldread serve` runs.
//!
//! The file is mounted over; one that was made for that is removed at the end. What is mounted there already is left alone, but for
//! the dead mount of a process that was killed.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use coldpress::fs::BlockDevice;
use coldpress::serve::Watch;
use coldpress::serve::fuse::{Door, detach};
use coldpress::{Error, ErrorKind, Result};
use rustix::io::Errno;

use super::events::{DRAIN, Event, say};

/// So long a file may seem open that no longer is.
const MOMENT: Duration = Duration::from_millis(200);

/// A device at a file.
pub struct FuseFile {
    door: Door,
    place: Place,
}

impl FuseFile {
    /// Offers `device` at `path`, which is made where it is not.
    ///
    /// Mount tables show it as `source`.
    pub fn open(
        device: Arc<dyn BlockDevice>,
        path: &Path,
        source: &str,
        threads: u16,
        send: Sender<Event>,
    ) -> Result<Self> {
        let place = Place::take(path)?;
        let watch = Told { send, path: path.to_owned() };
        let door = Door::open(device, path, source, threads.into(), Arc::new(watch))?;
        Ok(Self { door, place })
    }

    /// Where it is, resolved.
    pub fn path(&self) -> &Path {
        &self.place.path
    }

    /// Answers what was asked, and who has it open until they close it, for a while.
    pub fn close(self) {
        let Self { door, place } = self;
        // The kernel tells of a close a moment after who closed it went on.
        let begun = Instant::now();
        while door.in_use() && begun.elapsed() < MOMENT {
            std::thread::sleep(MOMENT / 20);
        }
        if door.in_use() {
            let seconds = DRAIN.as_secs();
            say(&format!("{} is still open; it ends when it is closed, or in {seconds} s", place.path.display()));
        }
        if let Err(error) = door.close(DRAIN) {
            say(&error.chain());
        }
        drop(place);
    }
}

/// What is told while it is open.
struct Told {
    send: Sender<Event>,
    path: PathBuf,
}

impl Watch for Told {
    fn failed(&self, error: &Error) {
        say(&format!("a read failed: {}", error.chain()));
    }

    fn ended(&self) {
        let _ = self.send.send(Event::Gone(self.path.clone()));
    }
}

/// A file to mount over; removed when it is dropped, if it was made here.
struct Place {
    path: PathBuf,
    made: bool,
}

impl Place {
    fn take(path: &Path) -> Result<Self> {
        let fail = |error| Error::file(path, error);
        let refuse = |what: &str| Err(Error::new(ErrorKind::Input, format!("{}: {what}", path.display())));
        let dead = is_dead(path);
        if dead {
            detach(path)?;
        }
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(_) => return Ok(Self { path: absolute(path)?, made: true }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(fail(error)),
        }
        let path = &absolute(path)?;
        let metadata = path.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return refuse("not a regular file");
        }
        let beside = path.parent().unwrap_or(path).metadata().map_err(fail)?;
        if metadata.dev() != beside.dev() {
            return refuse("another file system is mounted there");
        }
        // One that was killed could not remove its own.
        Ok(Self { path: path.clone(), made: dead && metadata.len() == 0 })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // An empty file only: the mount of another is no file that was made here.
        if self.made && self.path.metadata().is_ok_and(|metadata| metadata.len() == 0) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

/// Whether it is the mount of a process that was killed: what the kernel remembers of the file is still told, but it does not open.
fn is_dead(path: &Path) -> bool {
    let opened =
        path.metadata().and_then(|metadata| if metadata.is_file() { File::open(path).map(drop) } else { Ok(()) });
    opened.is_err_and(|error| error.raw_os_error() == Some(Errno::NOTCONN.raw_os_error()))
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|error| Error::file(path, error))
}

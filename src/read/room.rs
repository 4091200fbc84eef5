//! The bytes that all processes of a host keep in one directory: a number in a file, taken from before anything is written.
//!
//! So the bound holds whoever writes and whoever dies: what was taken and never written counts until the directory is measured again.
//! Who writes holds a shared lock meanwhile; who measures waits for those once, and adds what was taken after that. The number is
//! of this start of the machine: after a crash of the machine it is measured anew.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::private_directory::PrivateDirectory;
use crate::private_file::Access;
use crate::sync::{now, sleep, switch_point};

/// The waits between looks at a lock: the first, and the longest; they double.
const LOOK: Duration = Duration::from_micros(100);
const LONGEST_LOOK: Duration = Duration::from_millis(20);
/// How long who measures waits for those who write.
const PATIENCE: Duration = Duration::from_secs(1);
/// Digits of the number.
const DIGITS: usize = 20;

/// The names of the lock files; the first has the number.
const TAKEN: &str = "taken";
const WRITING: &str = "writing";
const MEASURING: &str = "measuring";

/// What is taken in a directory.
pub(super) struct Room {
    locks: Arc<PrivateDirectory>,
    /// What tells one start of the machine from another.
    boot: String,
}

/// Room for something; held until that is written.
pub(super) struct Taken {
    /// What is taken in all.
    pub(super) all: u64,
    _writing: File,
}

/// The right to measure, of one at a time.
pub(super) struct Measuring<'r> {
    room: &'r Room,
    /// What was taken when it began, if that was known.
    pub(super) begun: Option<u64>,
    deadline: Instant,
    _lock: File,
}

/// Locks the file `name` in `locks`, which is made; `None` where others hold it until `until`.
pub(super) fn lock(
    locks: &PrivateDirectory,
    name: &str,
    operation: FlockOperation,
    until: Instant,
) -> io::Result<Option<File>> {
    let file = locks.file(name, Access::ReadWrite)?;
    let mut wait = LOOK;
    switch_point();
    loop {
        match flock(&file, operation) {
            Ok(()) => return Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) if now() < until => {
                sleep(wait.min(until.saturating_duration_since(now())));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        wait = (wait * 2).min(LONGEST_LOOK);
    }
}

impl Room {
    /// That of the directory whose lock files are in `locks`.
    pub(super) fn new(locks: Arc<PrivateDirectory>) -> Self {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { locks, boot: boot.trim_end().to_owned() }
    }

    /// What is taken; `None` where that was not measured since the machine started.
    pub(super) fn taken(&self) -> Option<u64> {
        self.number(&self.locks.file(TAKEN, Access::Read).ok()?)
    }

    /// Takes room for `length` bytes, of `most` in all; `None` where there is none, or none is had until `until`.
    ///
    /// # Errors
    /// Those of the lock files.
    pub(super) fn take(&self, length: u64, most: u64, until: Instant) -> io::Result<Option<Taken>> {
        let shared = FlockOperation::NonBlockingLockShared;
        let Some(writing) = lock(&self.locks, WRITING, shared, until)? else { return Ok(None) };
        let Some(file) = self.lock(until)? else { return Ok(None) };
        let all = self.number(&file).and_then(|taken| taken.checked_add(length));
        let Some(all) = all.filter(|all| *all <= most) else { return Ok(None) };
        self.set(&file, all)?;
        Ok(Some(Taken { all, _writing: writing }))
    }

    /// Begins to measure: all that is written with room taken before is in place. `None` where somebody else measures until `until`, or others
    /// write or hold the number for too long, at most until `deadline`.
    ///
    /// # Errors
    /// Those of the lock files.
    pub(super) fn measure(&self, until: Instant, deadline: Instant) -> io::Result<Option<Measuring<'_>>> {
        let exclusive = FlockOperation::NonBlockingLockExclusive;
        let Some(lock_file) = lock(&self.locks, MEASURING, exclusive, until)? else { return Ok(None) };
        let patience = deadline.min(now() + PATIENCE);
        let Some(_nobody_writes) = lock(&self.locks, WRITING, exclusive, patience)? else { return Ok(None) };
        let Some(file) = self.lock(patience)? else { return Ok(None) };
        Ok(Some(Measuring { room: self, begun: self.number(&file), deadline, _lock: lock_file }))
    }

    fn lock(&self, until: Instant) -> io::Result<Option<File>> {
        lock(&self.locks, TAKEN, FlockOperation::NonBlockingLockExclusive, until)
    }

    fn number(&self, file: &File) -> Option<u64> {
        let mut text = vec![0; self.boot.len() + DIGITS];
        file.read_exact_at(&mut text, 0).ok()?;
        std::str::from_utf8(text.strip_prefix(self.boot.as_bytes())?).ok()?.parse().ok()
    }

    fn set(&self, file: &File, number: u64) -> io::Result<()> {
        file.write_all_at(format!("{}{number:0DIGITS$}", self.boot).as_bytes(), 0)
    }
}

impl Measuring<'_> {
    /// There are `bytes`, but for what was taken since it began.
    ///
    /// # Errors
    /// Those of the lock files.
    pub(super) fn end(self, bytes: u64) -> io::Result<()> {
        let Some(file) = self.room.lock(self.deadline.min(now() + PATIENCE))? else { return Ok(()) };
        let since = self.room.number(&file).zip(self.begun).map_or(0, |(now, begun)| now.saturating_sub(begun));
        self.room.set(&file, bytes + since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(30)
    }

    fn room(root: &tempfile::TempDir) -> Room {
        Room::new(Arc::new(PrivateDirectory::open(root.path(), "locks").unwrap()))
    }

    #[test]
    fn no_more_is_taken_than_there_is_and_what_is_taken_meanwhile_is_not_lost_by_measuring() {
        let directory = tempfile::tempdir().unwrap();
        let (one, other) = (room(&directory), room(&directory));
        assert!(one.take(1, 100, soon()).unwrap().is_none() && one.taken().is_none(), "not measured yet");
        one.measure(soon(), Instant::now() + PATIENCE).unwrap().unwrap().end(40).unwrap();
        let held = other.take(50, 100, soon()).unwrap().unwrap();
        assert_eq!((held.all, one.taken()), (90, Some(90)));
        assert!(one.take(11, 100, soon()).unwrap().is_none());
        drop(held);
        let measuring = one.measure(soon(), Instant::now() + PATIENCE).unwrap().unwrap();
        assert!(other.measure(soon(), Instant::now() + PATIENCE).unwrap().is_none(), "one at a time");
        drop(other.take(10, 100, soon()).unwrap().unwrap());
        measuring.end(70).unwrap();
        assert_eq!(other.taken(), Some(80));
    }

    #[test]
    fn who_measures_waits_for_who_writes_and_a_number_of_another_start_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let mut room = room(&directory);
        room.measure(soon(), Instant::now() + PATIENCE).unwrap().unwrap().end(0).unwrap();
        let held = room.take(10, 100, soon()).unwrap();
        std::thread::scope(|scope| {
            let measuring = scope.spawn(|| room.measure(soon(), Instant::now() + PATIENCE).unwrap().unwrap().begun);
            std::thread::sleep(Duration::from_millis(50));
            assert!(!measuring.is_finished());
            drop(held);
            assert_eq!(measuring.join().unwrap(), Some(10));
        });
        room.boot = "x".repeat(room.boot.len());
        assert_eq!(room.taken(), None);
    }
}

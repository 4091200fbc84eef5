//! A disk cache's directory on which somebody else is at work: files are deleted, cut, changed and replaced, and locks held.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use tempfile::TempDir;

use crate::sync::scheduler::Random;
use crate::sync::{sleep, stamp_file};

/// Longest time for which another process holds a lock of the cache.
pub(super) const LONGEST_HOLD: Duration = Duration::from_secs(4);

/// The directory of one host.
pub(super) struct Disk(TempDir);

impl Disk {
    /// Makes a directory, in memory where there is a file system for that.
    pub(super) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
        Self(made.expect("there is room for a directory"))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns the bytes of all chunks.
    pub(super) fn bytes(&self) -> u64 {
        self.files().iter().filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
    }

    fn files(&self) -> Vec<PathBuf> {
        self.directories().iter().flat_map(|directory| entries(directory)).filter(|path| path.is_file()).collect()
    }

    fn directories(&self) -> Vec<PathBuf> {
        entries(&self.path().join("chunks"))
    }

    /// Does one thing to it; what fails is as good as not done. `locks` allows to delete lock files, which lets two processes fetch one chunk.
    /// Returns true where a lock was held for long meanwhile.
    pub(super) fn disturb(&self, random: &mut Random, locks: bool) -> bool {
        match random.below(if locks { 11 } else { 10 }) {
            0..6 => self.disturb_file(random),
            6 => {
                let directories = self.directories();
                if !directories.is_empty() {
                    let _ = fs::remove_dir_all(&directories[random.below(directories.len())]);
                }
            }
            7 => drop(fs::remove_dir_all(self.path().join("chunks"))),
            8 => {
                let number = if random.one_in(2) { "x".repeat(60) } else { String::new() };
                let _ = fs::write(self.path().join("locks/taken"), number);
            }
            9 => {
                self.hold(random);
                return true;
            }
            _ => drop(fs::remove_dir_all(self.path().join("locks"))),
        }
        false
    }

    fn disturb_file(&self, random: &mut Random) {
        let files = self.files();
        if files.is_empty() {
            return;
        }
        let path = &files[random.below(files.len())];
        let Ok(file) = File::options().read(true).write(true).open(path) else { return };
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        match random.below(6) {
            0 => drop(fs::remove_file(path)),
            1 => drop(file.set_len(random.next() % (length + 1))),
            2 => drop(file.set_len(length + 100)),
            3 if length > 0 => {
                let (at, mut byte) = (random.next() % length, [0]);
                let _ = file.read_exact_at(&mut byte, at);
                let _ = file.write_all_at(&[byte[0] ^ 4], at);
            }
            4 => drop(fs::remove_file(path).and_then(|()| fs::create_dir(path))),
            _ => drop(fs::remove_file(path).and_then(|()| std::os::unix::fs::symlink("/dev/zero", path))),
        }
        stamp_file(&file);
    }

    /// Holds a lock as a process does that was stopped.
    fn hold(&self, random: &mut Random) {
        let name = ["taken", "writing", "measuring"][random.below(3)];
        let path = self.path().join("locks").join(name);
        let Ok(file) = File::options().read(true).write(true).open(path) else { return };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            sleep(random.time(Duration::from_millis(1), LONGEST_HOLD));
        }
    }
}

/// Returns the paths of what is in a directory, in the order of their names.
fn entries(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

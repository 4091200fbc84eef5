//! The bound on requests that the processes of a host share: lock files, one for each request that may be under way.
//!
//! A lock ends with who holds it, so a process that dies gives its slots back.

use std::fs::File;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use super::private_directory::PrivateDirectory;
use crate::private_file::Access;
use crate::random::random_bytes;
use crate::sync::{now, sleep};

/// The waits between two looks at all slots: the first, and the longest; they double.
const FIRST: Duration = Duration::from_millis(2);
const LONGEST: Duration = Duration::from_millis(20);

/// A directory of lock files.
#[derive(Debug)]
pub struct Slots {
    locks: Arc<PrivateDirectory>,
    count: usize,
}

/// Held until it is dropped; without a file where none could be had for want of the directory.
#[derive(Debug)]
pub struct Slot {
    _lock: Option<File>,
}

impl Slots {
    /// `count` slots, whose lock files are in `locks`.
    pub(super) fn new(locks: Arc<PrivateDirectory>, count: usize) -> Self {
        Self { locks, count: count.max(1) }
    }

    /// Takes the next that is free, of three quarters of them where no reader waits (`background`). Returns `None` if there was none
    /// until `until`. Where there are no files, nothing is shared.
    #[must_use]
    pub fn take(&self, until: Instant, background: bool) -> Option<Slot> {
        let count = if background { (self.count / 4 * 3).max(1) } else { self.count };
        let mut wait = FIRST;
        let first = random_bytes().map_or(0, |bytes| usize::from(u16::from_le_bytes(bytes)));
        loop {
            for at in 0..count {
                let name = format!("slot-{}", (first + at) % count);
                let Ok(file) = self.locks.file(&name, Access::ReadWrite) else {
                    return Some(Slot { _lock: None });
                };
                match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                    Ok(()) => return Some(Slot { _lock: Some(file) }),
                    Err(rustix::io::Errno::WOULDBLOCK) => {}
                    Err(_) => return Some(Slot { _lock: None }),
                }
            }
            if now() + wait > until {
                return None;
            }
            sleep(wait);
            wait = (wait * 2).min(LONGEST);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_bound_are_held_and_one_given_back_is_taken() {
        let directory = tempfile::tempdir().unwrap();
        let slots = || Slots::new(Arc::new(PrivateDirectory::open(directory.path(), "locks").unwrap()), 2);
        let (one, other) = (slots(), slots());
        let soon = || Instant::now() + Duration::from_millis(50);
        let held = [one.take(soon(), false).unwrap(), other.take(soon(), false).unwrap()];
        assert!(held.iter().all(|slot| slot._lock.is_some()));
        assert!(one.take(soon(), false).is_none() && other.take(soon(), false).is_none());
        drop(held);
        assert!(other.take(soon(), false).is_some());
        std::fs::remove_dir_all(directory.path()).unwrap();
        assert!(one.take(soon(), false).unwrap()._lock.is_none(), "a bound of its own is left");
    }
}

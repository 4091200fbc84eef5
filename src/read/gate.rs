//! A bound on the threads that decrypt prefetched chunks at the same time, so that one processor at least is left to readers.

use std::num::NonZero;
use std::time::Duration;

use crate::sync::{Condvar, Mutex};

/// How often a waiting thread looks again; it is woken when a turn ends.
const LOOK: Duration = Duration::from_secs(1);

/// Lets a number of threads in at a time.
pub struct Gate {
    free: Mutex<usize>,
    freed: Condvar,
}

/// A thread's turn, which ends when this is dropped.
pub(super) struct Turn<'g>(&'g Gate);

impl Gate {
    /// Returns a gate that lets `threads` in at a time.
    #[must_use]
    pub fn new(threads: usize) -> Self {
        Self { free: Mutex::new(threads.max(1)), freed: Condvar::new() }
    }

    /// Returns a gate for all processors but one.
    #[must_use]
    pub fn for_this_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, NonZero::get) - 1)
    }

    /// Waits for a turn.
    pub(super) fn enter(&self) -> Turn<'_> {
        let mut free = self.free.lock();
        while *free == 0 {
            (free, _) = self.freed.wait_timeout(free, LOOK);
        }
        *free -= 1;
        Turn(self)
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.0.free.lock() += 1;
        self.0.freed.notify_one();
    }
}

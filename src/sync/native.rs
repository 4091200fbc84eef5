//! The standard library's locks, threads and clock, as the programs use them.

use std::fs::File;
use std::io;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

pub(crate) use std::sync::MutexGuard;
use std::sync::{RwLockReadGuard, RwLockWriteGuard};

/// A mutual exclusion lock. A panic of a thread that holds it does not poison it for the others.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

impl<T> Mutex<T> {
    /// Creates an unlocked mutex.
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    /// Locks it, waiting for as long as another thread holds it.
    #[inline]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A lock that many may hold to read, or one to write.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

impl<T> RwLock<T> {
    /// Creates an unlocked lock.
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    /// Locks it together with other readers.
    #[inline]
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks it alone.
    #[inline]
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, T> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A condition variable.
#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    /// Creates one that nobody waits on.
    pub(crate) const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    /// Wakes one waiting thread.
    #[inline]
    pub(crate) fn notify_one(&self) {
        self.0.notify_one();
    }

    /// Wakes all waiting threads.
    #[inline]
    pub(crate) fn notify_all(&self) {
        self.0.notify_all();
    }

    /// Waits to be woken, for at most `most`; true where that time passed.
    #[inline]
    pub(crate) fn wait_timeout<'a, T>(&self, guard: MutexGuard<'a, T>, most: Duration) -> (MutexGuard<'a, T>, bool) {
        let (guard, waited) = self.0.wait_timeout(guard, most).unwrap_or_else(PoisonError::into_inner);
        (guard, waited.timed_out())
    }

    /// Waits while `condition` holds, for at most `most`; true where that time passed.
    #[inline]
    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        guard: MutexGuard<'a, T>,
        most: Duration,
        condition: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, bool) {
        let waited = self.0.wait_timeout_while(guard, most, condition);
        let (guard, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        (guard, waited.timed_out())
    }
}

/// Returns the current time.
#[inline]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Blocks the calling thread for `time`.
#[inline]
pub(crate) fn sleep(time: Duration) {
    std::thread::sleep(time);
}

/// Starts a thread called `name` that nobody joins.
///
/// # Errors
/// Those of the operating system, as at its limit of threads.
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Marks a place between two steps where, in a simulation, other threads may run.
#[inline]
pub(crate) fn switch_point() {}

/// Marks an operation on a file: in a simulation, others may run before it, and it may fail.
///
/// # Errors
/// None here.
#[inline]
pub(crate) fn failure_point() -> io::Result<()> {
    Ok(())
}

/// In a simulation, sets the modification time of `file` to the simulated time; true where it did.
#[inline]
pub(crate) fn stamp_file(_file: &File) -> bool {
    false
}

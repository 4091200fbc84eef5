//! The same locks, threads and clock for unit tests: on a thread of a simulation they ask its scheduler, on any other thread
//! they are those of the standard library.

use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::panic::Location;
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use super::scheduler::{Simulated, current};

/// A mutual exclusion lock.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(std::sync::Mutex<T>);

/// A locked [`Mutex`].
pub(crate) struct MutexGuard<'a, T> {
    mutex: &'a Mutex<T>,
    /// `None` only while it is being dropped or waits.
    guard: Option<std::sync::MutexGuard<'a, T>>,
}

/// Which lock it is; nothing is ordered by it, so that its value does not matter.
fn identity<T>(lock: &T) -> usize {
    std::ptr::from_ref(lock).addr()
}

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }

    #[track_caller]
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        let at = Location::caller();
        let guard = match current() {
            None => self.0.lock().unwrap_or_else(PoisonError::into_inner),
            Some(thread) => {
                thread.step("lock", at);
                thread.acquire(identity(self), "lock", at, || held(self.0.try_lock()))
            }
        };
        MutexGuard { mutex: self, guard: Some(guard) }
    }
}

/// A lock that was tried: `None` where others hold it.
fn held<G>(tried: Result<G, std::sync::TryLockError<G>>) -> Option<G> {
    match tried {
        Ok(guard) => Some(guard),
        Err(std::sync::TryLockError::Poisoned(poisoned)) => Some(poisoned.into_inner()),
        Err(std::sync::TryLockError::WouldBlock) => None,
    }
}

impl<T> Deref for MutexGuard<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.guard.as_ref().expect("it is locked")
    }
}

impl<T> DerefMut for MutexGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.guard.as_mut().expect("it is locked")
    }
}

impl<T> Drop for MutexGuard<'_, T> {
    fn drop(&mut self) {
        if self.guard.take().is_some() {
            released(identity(self.mutex));
        }
    }
}

fn released(lock: usize) {
    if let Some(thread) = current() {
        thread.wake_all(lock);
        thread.step("unlock", Location::caller());
    }
}

/// A lock that many may hold to read, or one to write.
#[derive(Debug, Default)]
pub(crate) struct RwLock<T>(std::sync::RwLock<T>);

/// A locked [`RwLock`].
pub(crate) struct RwGuard<G> {
    lock: usize,
    guard: Option<G>,
}

impl<T> RwLock<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(std::sync::RwLock::new(value))
    }

    #[track_caller]
    pub(crate) fn read(&self) -> RwGuard<std::sync::RwLockReadGuard<'_, T>> {
        let (at, lock) = (Location::caller(), identity(self));
        let guard = match current() {
            None => self.0.read().unwrap_or_else(PoisonError::into_inner),
            Some(thread) => {
                thread.step("read lock", at);
                thread.acquire(lock, "read lock", at, || held(self.0.try_read()))
            }
        };
        RwGuard { lock, guard: Some(guard) }
    }

    #[track_caller]
    pub(crate) fn write(&self) -> RwGuard<std::sync::RwLockWriteGuard<'_, T>> {
        let (at, lock) = (Location::caller(), identity(self));
        let guard = match current() {
            None => self.0.write().unwrap_or_else(PoisonError::into_inner),
            Some(thread) => {
                thread.step("write lock", at);
                thread.acquire(lock, "write lock", at, || held(self.0.try_write()))
            }
        };
        RwGuard { lock, guard: Some(guard) }
    }
}

impl<G: Deref> Deref for RwGuard<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        self.guard.as_ref().expect("it is locked")
    }
}

impl<G: DerefMut> DerefMut for RwGuard<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        self.guard.as_mut().expect("it is locked")
    }
}

impl<G> Drop for RwGuard<G> {
    fn drop(&mut self) {
        if self.guard.take().is_some() {
            released(self.lock);
        }
    }
}

/// A condition variable.
#[derive(Debug, Default)]
pub(crate) struct Condvar(std::sync::Condvar);

impl Condvar {
    pub(crate) const fn new() -> Self {
        Self(std::sync::Condvar::new())
    }

    #[track_caller]
    pub(crate) fn notify_one(&self) {
        match current() {
            None => self.0.notify_one(),
            Some(thread) => {
                thread.wake_one(identity(self));
                thread.step("notify one", Location::caller());
            }
        }
    }

    #[track_caller]
    pub(crate) fn notify_all(&self) {
        match current() {
            None => self.0.notify_all(),
            Some(thread) => {
                thread.wake_all(identity(self));
                thread.step("notify all", Location::caller());
            }
        }
    }

    #[track_caller]
    pub(crate) fn wait_timeout<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        most: Duration,
    ) -> (MutexGuard<'a, T>, bool) {
        let at = Location::caller();
        let mutex = guard.mutex;
        let inner = guard.guard.take().expect("it is locked");
        let (inner, timed_out) = match current() {
            None => {
                let (inner, waited) = self.0.wait_timeout(inner, most).unwrap_or_else(PoisonError::into_inner);
                (inner, waited.timed_out())
            }
            Some(thread) => {
                drop(inner);
                thread.wake_all(identity(mutex));
                let timed_out = thread.wait(identity(self), most, at);
                (thread.acquire(identity(mutex), "lock again", at, || held(mutex.0.try_lock())), timed_out)
            }
        };
        guard.guard = Some(inner);
        (guard, timed_out)
    }

    #[track_caller]
    pub(crate) fn wait_timeout_while<'a, T>(
        &self,
        mut guard: MutexGuard<'a, T>,
        most: Duration,
        mut condition: impl FnMut(&mut T) -> bool,
    ) -> (MutexGuard<'a, T>, bool) {
        let until = now() + most;
        while condition(&mut guard) {
            let left = until.saturating_duration_since(now());
            if left.is_zero() {
                return (guard, true);
            }
            guard = self.wait_timeout(guard, left).0;
        }
        (guard, false)
    }
}

pub(crate) fn now() -> Instant {
    current().map_or_else(Instant::now, |thread| thread.now())
}

#[track_caller]
pub(crate) fn sleep(time: Duration) {
    match current() {
        None => std::thread::sleep(time),
        Some(thread) => thread.sleep(time, "sleep", Location::caller()),
    }
}

#[track_caller]
pub(crate) fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    match current() {
        None => std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop),
        Some(thread) if thread.refuses_threads() => Err(io::ErrorKind::WouldBlock.into()),
        Some(thread) => {
            thread.spawn(name, work);
            thread.step("spawn", Location::caller());
            Ok(())
        }
    }
}

#[track_caller]
pub(crate) fn switch_point() {
    if let Some(thread) = current() {
        thread.step("switch point", Location::caller());
    }
}

#[track_caller]
pub(crate) fn failure_point() -> io::Result<()> {
    let Some(thread) = current() else { return Ok(()) };
    thread.step("failure point", Location::caller());
    if thread.fails(|faults| faults.files) {
        let kinds = [io::ErrorKind::StorageFull, io::ErrorKind::PermissionDenied, io::ErrorKind::Other];
        return Err(kinds[thread.below(kinds.len())].into());
    }
    Ok(())
}

pub(crate) fn stamp_file(file: &File) -> bool {
    use rustix::fs::{Timespec, Timestamps, UTIME_OMIT, futimens};
    let Some(thread) = current() else { return false };
    let at = thread.time();
    let modified = Timespec { tv_sec: i64::try_from(at.as_secs()).unwrap_or(0), tv_nsec: at.subsec_nanos().into() };
    let access = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let _ = futimens(file, &Timestamps { last_access: access, last_modification: modified });
    true
}

/// Bytes from a simulation's seed, on its threads; `None` on others.
pub(crate) fn random<const N: usize>() -> Option<[u8; N]> {
    current().map(|thread: Simulated| thread.random())
}

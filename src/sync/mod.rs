//! Locks, threads, time and failure points of the read path.
//!
//! The read path uses these instead of `std::sync`, `std::thread` and `Instant::now`.
//! In the programs they are those of the standard library (`native.rs`), behind inlined calls.
//! In this library's unit tests (`simulated.rs`) they do the same, except on the threads of a simulation:
//! there a seeded scheduler (`scheduler.rs`) decides which thread goes on, and time passes only in simulation
//! (docs/design.md, "Simulation of the read path").

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(not(test))]
mod native;
#[cfg(test)]
pub(crate) mod scheduler;
#[cfg(test)]
mod simulated;

#[cfg(not(test))]
pub(crate) use native::{
    Condvar, Mutex, MutexGuard, RwLock, failure_point, now, sleep, spawn, stamp_file, switch_point,
};
#[cfg(test)]
pub(crate) use simulated::{
    Condvar, Mutex, MutexGuard, RwLock, failure_point, now, random, sleep, spawn, stamp_file, switch_point,
};

/// Returns the time that has passed since `began`.
pub(crate) fn elapsed(began: Instant) -> Duration {
    now().saturating_duration_since(began)
}

/// Creates a channel with one receiver, which can wait until a deadline.
pub(crate) fn channel<T>() -> (Sender<T>, Receiver<T>) {
    let state = ChannelState { queue: VecDeque::new(), senders: 1 };
    let channel = Arc::new(Channel { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

struct Channel<T> {
    state: Mutex<ChannelState<T>>,
    changed: Condvar,
}

struct ChannelState<T> {
    queue: VecDeque<T>,
    senders: usize,
}

/// The sending half of a channel.
pub(crate) struct Sender<T>(Arc<Channel<T>>);

/// The receiving half of a channel.
pub(crate) struct Receiver<T>(Arc<Channel<T>>);

/// Why nothing was received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReceiveError {
    /// The deadline passed.
    Timeout,
    /// Every sender was dropped.
    Disconnected,
}

impl<T> Sender<T> {
    /// Sends `value`; it is dropped with the channel where the receiver is gone.
    pub(crate) fn send(&self, value: T) {
        self.0.state.lock().queue.push_back(value);
        self.0.changed.notify_one();
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state.lock().senders -= 1;
        self.0.changed.notify_one();
    }
}

impl<T> Receiver<T> {
    /// Receives the next value, waiting for it until `until`.
    ///
    /// # Errors
    /// [`ReceiveError`].
    pub(crate) fn receive(&self, until: Instant) -> Result<T, ReceiveError> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(value) = state.queue.pop_front() {
                return Ok(value);
            }
            if state.senders == 0 {
                return Err(ReceiveError::Disconnected);
            }
            let left = until.saturating_duration_since(now());
            if left.is_zero() {
                return Err(ReceiveError::Timeout);
            }
            state = self.0.changed.wait_timeout(state, left).0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receiver_gets_values_in_order_then_a_timeout_then_the_end() {
        let (sender, receiver) = channel();
        let other = sender.clone();
        sender.send(1);
        other.send(2);
        let soon = || now() + Duration::from_millis(5);
        assert_eq!((receiver.receive(soon()), receiver.receive(soon())), (Ok(1), Ok(2)));
        assert_eq!(receiver.receive(soon()), Err(ReceiveError::Timeout));
        drop((sender, other));
        assert_eq!(receiver.receive(soon()), Err(ReceiveError::Disconnected));
    }

    /// A simulation decides about every thread and every moment only if the read path has no others.
    #[test]
    fn the_read_path_uses_no_locks_threads_and_clock_but_these() {
        const FILES: [&str; 16] = [
            "net/retry.rs",
            "read/ahead.rs",
            "read/device.rs",
            "read/disk_cache.rs",
            "read/fill.rs",
            "read/flights.rs",
            "read/memory.rs",
            "read/origin.rs",
            "read/private_directory.rs",
            "read/room.rs",
            "read/slots.rs",
            "zone/lease.rs",
            "zone/connection.rs",
            "zone/lookup.rs",
            "zone/mod.rs",
            "zone/server.rs",
        ];
        const OTHERS: [&str; 9] = [
            "Instant::now",
            ".elapsed()",
            "thread::sleep",
            "thread::spawn",
            "thread::Builder",
            "std::sync::Mutex",
            "std::sync::RwLock",
            "std::sync::Condvar",
            "mpsc",
        ];
        for file in FILES {
            let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(file);
            let text = std::fs::read_to_string(&path).unwrap();
            let code = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            for (number, line) in code.lines().enumerate() {
                let other = OTHERS.iter().find(|other| line.contains(**other));
                assert_eq!(other, None, "{file}:{}: use crate::sync", number + 1);
                let imports = line.strip_prefix("use std::sync::{").unwrap_or_default();
                let lock = ["Mutex", "RwLock", "Condvar"].iter().find(|lock| imports.contains(**lock));
                assert_eq!(lock, None, "{file}:{}: use crate::sync", number + 1);
            }
        }
    }
}

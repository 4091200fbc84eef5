//! Memory for the data of requests and replies, of all clients of a process within one bound.
//!
//! A client takes a buffer for a piece of data, at most [`PIECE`] bytes, and gives it back when the piece is sent or written. It waits while
//! it holds its share, or while all clients together hold the limit. Buffers that are given back are used again, within the same bound.

use std::ops::{Deref, DerefMut};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// Longest piece of data that is in memory at once.
pub const PIECE: usize = 2 << 20;
/// Least bytes that all clients need to work: each piece fits into a share.
pub const MIN_BYTES: u64 = (PIECE * SHARES) as u64;
/// A client may hold this part of the limit.
const SHARES: usize = 8;
/// Sizes of buffers are powers of two from this on.
const SMALLEST: usize = 4 << 10;
const SIZES: usize = (PIECE / SMALLEST).ilog2() as usize + 1;
/// Clients that wait for longer than this starve.
const STARVING: Duration = Duration::from_secs(1);

/// Buffers of all clients of a process.
#[derive(Debug)]
pub struct Buffers {
    limit: usize,
    state: Mutex<State>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of buffers that clients hold.
    held: usize,
    /// Buffers that nobody holds, by size, and their bytes.
    free: [Vec<Box<[u8]>>; SIZES],
    free_bytes: usize,
    /// Since when clients wait for others, each.
    waiting: Vec<Instant>,
}

/// One client's use of [`Buffers`].
#[derive(Debug)]
pub struct Account<'a> {
    buffers: &'a Buffers,
    share: Mutex<Share>,
    given_back: Condvar,
}

#[derive(Debug, Default)]
struct Share {
    /// Bytes that the client holds.
    held: usize,
    /// Its threads that wait for each other.
    waiting: usize,
}

/// A piece of memory that a client holds until this is dropped. Its content is whatever was in it before.
#[derive(Debug)]
pub struct Buffer<'a> {
    account: &'a Account<'a>,
    /// Empty only while it is dropped.
    bytes: Box<[u8]>,
    length: usize,
}

impl Buffers {
    /// Returns buffers of together at most `limit` bytes, or [`MIN_BYTES`] where that is more.
    #[must_use]
    pub fn new(limit: u64) -> Self {
        let limit = usize::try_from(limit.max(MIN_BYTES)).unwrap_or(usize::MAX);
        Self { limit, state: Mutex::default(), given_back: Condvar::new() }
    }

    /// Returns the account of a new client.
    #[must_use]
    pub fn account(&self) -> Account<'_> {
        Account { buffers: self, share: Mutex::default(), given_back: Condvar::new() }
    }

    /// Returns whether a client has been waiting for memory that others hold for longer than a second.
    #[must_use]
    pub fn starving(&self) -> bool {
        self.state().waiting.iter().any(|since| since.elapsed() > STARVING)
    }

    /// Returns the bytes that clients hold now, and the most that they may hold.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.state().held as u64, self.limit as u64)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    /// Waits until there is room for a buffer of the size `class`.
    fn take(&self, class: usize) -> Box<[u8]> {
        let size = SMALLEST << class;
        let mut state = self.state();
        if state.held + size > self.limit {
            let since = Instant::now();
            state.waiting.push(since);
            while state.held + size > self.limit {
                state = self.given_back.wait(state).expect("no thread panics with it");
            }
            if let Some(at) = state.waiting.iter().position(|waiting| *waiting == since) {
                state.waiting.swap_remove(at);
            }
        }
        state.held += size;
        if let Some(bytes) = state.free[class].pop() {
            state.free_bytes -= size;
            return bytes;
        }
        let unused = state.shrink(self.limit);
        drop(state);
        drop(unused);
        vec![0; size].into_boxed_slice()
    }

    fn give_back(&self, bytes: Box<[u8]>) {
        let mut state = self.state();
        state.held -= bytes.len();
        state.free_bytes += bytes.len();
        let class = class_of(bytes.len());
        state.free[class].push(bytes);
        let anyone_waits = !state.waiting.is_empty();
        drop(state);
        if anyone_waits {
            self.given_back.notify_all();
        }
    }
}

impl State {
    /// Takes out free buffers, the largest first, until all that are left are within `limit`.
    fn shrink(&mut self, limit: usize) -> Vec<Box<[u8]>> {
        let mut unused = Vec::new();
        for class in (0..SIZES).rev() {
            while self.held + self.free_bytes > limit
                && let Some(bytes) = self.free[class].pop()
            {
                self.free_bytes -= bytes.len();
                unused.push(bytes);
            }
        }
        unused
    }
}

impl<'a> Account<'a> {
    /// Waits until there is room for `length` bytes, at most [`PIECE`].
    ///
    /// # Panics
    /// Where `length` is more.
    pub fn take(&'a self, length: usize) -> Buffer<'a> {
        assert!(length <= PIECE, "pieces are bounded");
        let class = class_of(length);
        let size = SMALLEST << class;
        let mut share = self.share();
        while share.held + size > self.buffers.limit / SHARES {
            share.waiting += 1;
            share = self.given_back.wait(share).expect("no thread panics with it");
            share.waiting -= 1;
        }
        share.held += size;
        drop(share);
        Buffer { account: self, bytes: self.buffers.take(class), length }
    }

    fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().expect("no thread panics with it")
    }

    /// Returns whether another client has been waiting for memory for longer than a second.
    pub fn others_starve(&self) -> bool {
        self.buffers.starving()
    }
}

fn class_of(length: usize) -> usize {
    length.div_ceil(SMALLEST).next_power_of_two().ilog2() as usize
}

impl Deref for Buffer<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl DerefMut for Buffer<'_> {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.length]
    }
}

impl Drop for Buffer<'_> {
    fn drop(&mut self) {
        let bytes = std::mem::take(&mut self.bytes);
        let size = bytes.len();
        self.account.buffers.give_back(bytes);
        let mut share = self.account.share();
        share.held -= size;
        let anyone_waits = share.waiting > 0;
        drop(share);
        if anyone_waits {
            self.account.given_back.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn sizes_are_powers_of_two_up_to_a_piece() {
        let sizes = [0, 1, 4_096, 4_097, 8_192, PIECE - 1, PIECE].map(|length| SMALLEST << class_of(length));
        assert_eq!(sizes, [4_096, 4_096, 4_096, 8_192, 8_192, PIECE, PIECE]);
    }

    #[test]
    fn buffers_are_used_again_and_all_stay_within_the_limit() {
        let buffers = Buffers::new(0);
        let accounts: Vec<Account<'_>> = (0..SHARES).map(|_| buffers.account()).collect();
        let large: Vec<Buffer<'_>> = accounts.iter().map(|account| account.take(PIECE)).collect();
        assert_eq!(buffers.bytes(), (MIN_BYTES, MIN_BYTES));
        drop(large);
        let small = accounts[0].take(10);
        let state = buffers.state();
        assert_eq!((state.held, small.len()), (SMALLEST, 10));
        assert!(state.held + state.free_bytes <= buffers.limit, "a large one made room for it");
        assert_eq!(state.free.last().unwrap().len(), SHARES - 1);
    }

    /// A client waits for itself without making anyone starve, and for others while they hold all.
    #[test]
    fn who_holds_too_much_waits_and_who_waits_long_for_others_starves() {
        let buffers = Buffers::new(0);
        let (greedy, others): (Account<'_>, Vec<Account<'_>>) =
            (buffers.account(), (1..SHARES).map(|_| buffers.account()).collect());
        let late = buffers.account();
        std::thread::scope(|scope| {
            let (send, receive) = channel();
            let greedy = &greedy;
            let first = greedy.take(PIECE);
            let second = scope.spawn(move || {
                let buffer = greedy.take(1);
                send.send(()).unwrap();
                drop(buffer);
            });
            assert!(receive.recv_timeout(Duration::from_millis(100)).is_err() && !buffers.starving());
            let all: Vec<Buffer<'_>> = others.iter().map(|account| account.take(PIECE)).collect();
            let waiting = scope.spawn(|| drop(late.take(1)));
            let begun = Instant::now();
            while !buffers.starving() {
                assert!(begun.elapsed() < Duration::from_secs(10), "nobody starves");
                std::thread::sleep(Duration::from_millis(10));
            }
            drop(all);
            waiting.join().unwrap();
            assert!(!buffers.starving());
            drop(first);
            second.join().unwrap();
            receive.recv().unwrap();
        });
        assert_eq!(buffers.bytes().0, 0);
    }
}

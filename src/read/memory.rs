//! Opened chunks in memory: of all devices of a process, bounded in bytes.
//!
//! Reading takes a shared lock and no more. What was read since the hand last passed stays for another round, so that a scan
//! throws out what scans brought.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use crate::sync::RwLock;
use crate::{CHUNK_SIZE, ChunkIndex};

/// A device's number, and its chunk's.
type Key = (u32, ChunkIndex);

/// Opened chunks of 512 KiB.
pub struct Memory {
    limit: usize,
    devices: AtomicU32,
    /// Chunks that came ahead and nobody read yet.
    unread: AtomicUsize,
    kept: RwLock<Kept>,
}

#[derive(Default)]
struct Kept {
    places: HashMap<Key, usize>,
    slots: Vec<Slot>,
    hand: usize,
}

struct Slot {
    key: Key,
    chunk: Arc<Vec<u8>>,
    read: AtomicBool,
    /// Came before anyone read it.
    ahead: AtomicBool,
}

/// What was found.
pub(super) struct Found {
    pub(super) chunk: Arc<Vec<u8>>,
    /// It came ahead, and this is its first reader.
    pub(super) first: bool,
}

impl Memory {
    /// At most `bytes`, but one chunk.
    #[must_use]
    pub fn new(bytes: u64) -> Arc<Self> {
        let limit = usize::try_from(bytes / u64::from(CHUNK_SIZE)).unwrap_or(usize::MAX).max(1);
        Arc::new(Self { limit, devices: AtomicU32::new(0), unread: AtomicUsize::new(0), kept: RwLock::default() })
    }

    /// A number for a further device.
    pub(super) fn device(&self) -> u32 {
        self.devices.fetch_add(1, Ordering::Relaxed)
    }

    /// Bytes of the chunks in it, and most that there may be.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        let kept = self.kept.read().slots.len();
        let bytes = |chunks: usize| (chunks as u64).saturating_mul(CHUNK_SIZE.into());
        (bytes(kept), bytes(self.limit))
    }

    /// How many chunks there is room for.
    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    /// How many came ahead and were not read.
    pub(super) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    pub(super) fn get(&self, device: u32, index: ChunkIndex) -> Option<Found> {
        let kept = self.kept.read();
        let slot = &kept.slots[*kept.places.get(&(device, index))?];
        // Written only where that changes something: many read at once.
        if !slot.read.load(Ordering::Relaxed) {
            slot.read.store(true, Ordering::Relaxed);
        }
        let first = slot.ahead.load(Ordering::Relaxed) && slot.ahead.swap(false, Ordering::Relaxed);
        if first {
            self.unread.fetch_sub(1, Ordering::Relaxed);
        }
        Some(Found { chunk: Arc::clone(&slot.chunk), first })
    }

    /// Whether it is there; that counts as no reading.
    pub(super) fn has(&self, device: u32, index: ChunkIndex) -> bool {
        self.kept.read().places.contains_key(&(device, index))
    }

    pub(super) fn put(&self, device: u32, index: ChunkIndex, chunk: Arc<Vec<u8>>, ahead: bool) {
        let mut kept = self.kept.write();
        let key = (device, index);
        let slot = Slot { key, chunk, read: AtomicBool::new(false), ahead: AtomicBool::new(ahead) };
        if ahead {
            self.unread.fetch_add(1, Ordering::Relaxed);
        }
        let at = match kept.places.get(&key) {
            Some(at) => *at,
            None if kept.slots.len() < self.limit => {
                kept.slots.push(slot);
                let at = kept.slots.len() - 1;
                kept.places.insert(key, at);
                return;
            }
            None => kept.victim(),
        };
        let before = std::mem::replace(&mut kept.slots[at], slot);
        if before.ahead.into_inner() {
            self.unread.fetch_sub(1, Ordering::Relaxed);
        }
        kept.places.remove(&before.key);
        kept.places.insert(key, at);
    }
}

impl Kept {
    /// The next that nobody read since the hand last passed; none that came ahead and waits for its reader, while there is another.
    fn victim(&mut self) -> usize {
        let mut looks = 0..2 * self.slots.len();
        loop {
            let at = self.hand;
            self.hand = (at + 1) % self.slots.len();
            let slot = &self.slots[at];
            let waits = looks.next().is_some() && slot.ahead.load(Ordering::Relaxed);
            if !waits && !slot.read.swap(false, Ordering::Relaxed) {
                return at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scan_throws_out_what_was_read_once_and_devices_do_not_meet() {
        let memory = Memory::new(8 * u64::from(CHUNK_SIZE));
        let (a, b) = (memory.device(), memory.device());
        let byte = |number: u32| number.to_le_bytes()[0];
        let put =
            |device, index| memory.put(device, ChunkIndex(index), Arc::new(vec![byte(device), byte(index)]), false);
        put(a, 0);
        put(b, 0);
        for round in 0..10 {
            for index in 1..6 {
                put(a, 100 * round + index);
                assert_eq!(*memory.get(a, ChunkIndex(0)).unwrap().chunk, [0, 0]);
                assert_eq!(*memory.get(b, ChunkIndex(0)).unwrap().chunk, [1, 0]);
            }
        }
        assert!(memory.get(b, ChunkIndex(1)).is_none());
        assert_eq!(memory.kept.read().slots.len(), 8);
        assert_eq!(memory.kept.read().places.len(), 8);
    }

    #[test]
    fn what_came_ahead_stays_until_it_is_read_while_there_is_another() {
        let memory = Memory::new(8 * u64::from(CHUNK_SIZE));
        let device = memory.device();
        let put = |index, ahead| memory.put(device, ChunkIndex(index), Arc::new(Vec::new()), ahead);
        (0..4).for_each(|index| put(index, true));
        (100..200).for_each(|index| put(index, false));
        assert!((0..4).all(|index| memory.has(device, ChunkIndex(index))));
        assert_eq!(memory.unread(), 4);
        assert!(memory.get(device, ChunkIndex(0)).unwrap().first);
        (200..300).for_each(|index| put(index, false));
        assert!(!memory.has(device, ChunkIndex(0)));
        // Where there is nothing else, they go, too.
        (300..400).for_each(|index| put(index, true));
        assert_eq!((memory.unread(), memory.kept.read().slots.len()), (8, 8));
    }

    #[test]
    fn what_came_ahead_is_told_to_its_first_reader() {
        let memory = Memory::new(0);
        let device = memory.device();
        memory.put(device, ChunkIndex(3), Arc::new(vec![1]), true);
        assert!(memory.has(device, ChunkIndex(3)));
        let firsts: Vec<bool> = (0..3).map(|_| memory.get(device, ChunkIndex(3)).unwrap().first).collect();
        assert_eq!(firsts, [true, false, false]);
        memory.put(device, ChunkIndex(4), Arc::new(vec![2]), false);
        assert!(!memory.has(device, ChunkIndex(3)), "there is room for one");
    }
}

//! One bit for each block of a device, set and never cleared, in memory only where bits are set.
//!
//! Looked at without a lock: who finds a bit sees what was done before it was set.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// Blocks of a word: 256 KiB of the device.
pub(super) const GROUP: u64 = 64;
const WORDS: usize = 512;

type Page = [AtomicU64; WORDS];

pub(super) struct Bits(Box<[OnceLock<Box<Page>>]>);

/// The bits of blocks `first` to `end` of a group.
pub(super) fn mask(first: u64, end: u64) -> u64 {
    let below = |n: u64| 1u64.checked_shl(u32::try_from(n).unwrap_or(u32::MAX)).map_or(u64::MAX, |bit| bit - 1);
    below(end) & !below(first)
}

impl Bits {
    pub(super) fn new(blocks: u64) -> Self {
        let pages = blocks.div_ceil(GROUP * WORDS as u64);
        Self((0..pages).map(|_| OnceLock::new()).collect())
    }

    fn place(group: u64) -> (usize, usize) {
        let group = usize::try_from(group).expect("a group of a device whose bits are in memory");
        (group / WORDS, group % WORDS)
    }

    /// Those of a group.
    pub(super) fn get(&self, group: u64) -> u64 {
        let (page, word) = Self::place(group);
        self.0[page].get().map_or(0, |page| page[word].load(Ordering::Acquire))
    }

    pub(super) fn set(&self, group: u64, bits: u64) {
        let (page, word) = Self::place(group);
        let page = self.0[page].get_or_init(|| Box::new([const { AtomicU64::new(0) }; WORDS]));
        page[word].fetch_or(bits, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_those_that_were_set() {
        let bits = Bits::new(GROUP * 1_000 + 1);
        for group in [0, 511, 512, 1_000] {
            bits.set(group, mask(3, 5));
            bits.set(group, mask(63, 64));
            assert_eq!(bits.get(group), 1 << 3 | 1 << 4 | 1 << 63);
        }
        assert_eq!(bits.get(1), 0);
        assert_eq!((mask(0, 64), mask(0, 0), mask(64, 64), mask(0, 1)), (u64::MAX, 0, 0, 1));
    }
}

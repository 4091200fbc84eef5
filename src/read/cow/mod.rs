//! A device that can be written to, over one that cannot: what changes is kept beside, by blocks of 4 KiB, as long as the process lives.
//!
//! A block is unchanged (the device below has it), kept (in `room`), or zeros (changed, and not kept). It never becomes unchanged
//! again. Readers look at its bit without a lock, so what was never written costs a look. Changed blocks are guarded by locks that each
//! stand for many groups of blocks; nothing is fetched from below under a lock.

mod bits;
mod room;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use self::bits::{Bits, GROUP, mask};
use self::room::{Kept, Room};
use crate::fs::{BlockDevice, WritableDevice};
use crate::{Error, ErrorKind, Result};

const BLOCK_BYTES: usize = 4096;
const BLOCK: u64 = BLOCK_BYTES as u64;
const GROUP_BYTES: u64 = GROUP * BLOCK;
const LOCKS: u64 = 64;

type Block = [u8; BLOCK_BYTES];

/// A device and what was written to it.
pub struct CowDevice {
    below: Arc<dyn BlockDevice>,
    changed: Bits,
    locks: Vec<RwLock<BTreeMap<u64, Kept>>>,
    room: Room,
    /// Blocks that may still be kept.
    left: AtomicU64,
}

impl CowDevice {
    /// Over `below`, keeping up to `most` bytes of changed blocks in memory.
    #[must_use]
    pub fn in_memory(below: Arc<dyn BlockDevice>, most: u64) -> Self {
        Self::new(below, most, Room::Memory)
    }

    /// Over `below`, keeping up to `most` bytes of changed blocks in a file without a name in `directory`, sealed.
    ///
    /// # Errors
    /// Those of making the file.
    pub fn in_directory(below: Arc<dyn BlockDevice>, most: u64, directory: &Path) -> Result<Self> {
        Ok(Self::new(below, most, Room::in_directory(directory)?))
    }

    fn new(below: Arc<dyn BlockDevice>, most: u64, room: Room) -> Self {
        let changed = Bits::new(below.size().div_ceil(BLOCK));
        let locks = (0..LOCKS).map(|_| RwLock::default()).collect();
        Self { below, changed, locks, room, left: AtomicU64::new(most / BLOCK) }
    }

    fn lock(&self, group: u64) -> &RwLock<BTreeMap<u64, Kept>> {
        &self.locks[usize::try_from(group % LOCKS).expect("below the number of locks")]
    }

    fn is_changed(&self, block: u64) -> bool {
        self.changed.get(block / GROUP) & mask(block % GROUP, block % GROUP + 1) != 0
    }

    fn check(&self, offset: u64, length: u64) -> Result<()> {
        match offset.checked_add(length).is_some_and(|end| end <= self.size()) {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Input, format!("bytes from {offset} on: past the end of the device"))),
        }
    }

    /// Fills `buf`; `None` where that would take waiting, and `wait` is not set.
    fn read(&self, offset: u64, buf: &mut [u8], wait: bool) -> Result<Option<()>> {
        let touched = |range: &Range<usize>| {
            let (from, to) = (offset + range.start as u64, offset + range.end as u64);
            let first = from / GROUP_BYTES * GROUP;
            mask(from / BLOCK - first, to.div_ceil(BLOCK) - first)
        };
        let is_changed = |(group, range)| self.changed.get(group) & touched(&range) != 0;
        if !pieces(offset, buf.len(), GROUP_BYTES).any(is_changed) {
            return self.read_below(offset, buf, wait);
        }
        for (group, range) in pieces(offset, buf.len(), GROUP_BYTES) {
            let at = offset + range.start as u64;
            if self.read_group(group, at, &mut buf[range], wait)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    fn read_below(&self, offset: u64, buf: &mut [u8], wait: bool) -> Result<Option<()>> {
        match wait {
            true => self.below.read_at(offset, buf).map(Some),
            false => Ok(self.below.read_at_hand(offset, buf).then_some(())),
        }
    }

    /// The part of a read that lies in one group: what changed under its lock, then what is below without.
    fn read_group(&self, group: u64, offset: u64, buf: &mut [u8], wait: bool) -> Result<Option<()>> {
        let mut unchanged: Vec<Range<usize>> = Vec::new();
        {
            let kept = self.lock(group).read().expect("no thread panics with it");
            for (block, range) in pieces(offset, buf.len(), BLOCK) {
                let inside = offset + range.start as u64 - block * BLOCK;
                if !self.is_changed(block) {
                    match unchanged.last_mut().filter(|last| last.end == range.start) {
                        Some(last) => last.end = range.end,
                        None => unchanged.push(range),
                    }
                } else if self.read_kept(block, kept.get(&block), inside, &mut buf[range], wait)?.is_none() {
                    return Ok(None);
                }
            }
        }
        for range in unchanged {
            let at = offset + range.start as u64;
            if self.read_below(at, &mut buf[range], wait)?.is_none() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// Bytes of a changed block, from its byte `inside` on.
    fn read_kept(
        &self,
        block: u64,
        kept: Option<&Kept>,
        inside: u64,
        part: &mut [u8],
        wait: bool,
    ) -> Result<Option<()>> {
        let Some(kept) = kept else {
            part.fill(0);
            return Ok(Some(()));
        };
        if let Ok(whole) = <&mut Block>::try_from(&mut *part) {
            return self.room.read(block, kept, whole, wait);
        }
        let mut whole = [0; BLOCK_BYTES];
        let read = self.room.read(block, kept, &mut whole, wait)?;
        let inside = usize::try_from(inside).expect("below a block's size");
        part.copy_from_slice(&whole[inside..inside + part.len()]);
        Ok(read)
    }

    /// Changes part of a block, from its byte `inside` on.
    fn change_part(&self, block: u64, inside: usize, bytes: &[u8]) -> Result<()> {
        let mut whole = [0; BLOCK_BYTES];
        if !self.is_changed(block) {
            let at = block * BLOCK;
            let length = usize::try_from((self.size() - at).min(BLOCK)).expect("at most a block");
            self.below.read_at(at, &mut whole[..length])?;
        }
        let mut locked = self.lock(block / GROUP).write().expect("no thread panics with it");
        // Who changed it meanwhile did so before this.
        if self.is_changed(block) {
            self.read_kept(block, locked.get(&block), 0, &mut whole, true)?;
        }
        whole[inside..inside + bytes.len()].copy_from_slice(bytes);
        self.put(&mut locked, block, &whole)
    }

    /// Keeps what is now in a block, whose lock is held.
    fn put(&self, locked: &mut BTreeMap<u64, Kept>, block: u64, bytes: &Block) -> Result<()> {
        if let Some(kept) = locked.get_mut(&block) {
            return self.room.replace(block, bytes, kept);
        }
        self.take_room()?;
        let kept = self.room.keep(block, bytes).inspect_err(|_| self.give_back(1))?;
        locked.insert(block, kept);
        self.changed.set(block / GROUP, mask(block % GROUP, block % GROUP + 1));
        Ok(())
    }

    fn take_room(&self) -> Result<()> {
        let one_less = |left: u64| left.checked_sub(1);
        match self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Full, "the write overlay is full (--cow-max)")),
        }
    }

    fn give_back(&self, blocks: u64) {
        self.left.fetch_add(blocks, Ordering::Relaxed);
    }

    /// Makes whole blocks zeros.
    fn clear(&self, first: u64, end: u64) {
        let mut at = first;
        while at < end {
            let (group, until) = (at / GROUP, end.min((at / GROUP + 1) * GROUP));
            let mut locked = self.lock(group).write().expect("no thread panics with it");
            let gone = locked.extract_if(at..until, |_, _| true).count();
            if gone > 0 {
                self.room.forget(at, until);
                self.give_back(gone as u64);
            }
            self.changed.set(group, mask(at - group * GROUP, until - group * GROUP));
            at = until;
        }
    }
}

impl BlockDevice for CowDevice {
    fn size(&self) -> u64 {
        self.below.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.check(offset, buf.len() as u64)?;
        self.read(offset, buf, true).map(drop)
    }

    fn read_at_hand(&self, offset: u64, buf: &mut [u8]) -> bool {
        // A block that does not open is not at hand; who waits for it is told why.
        self.check(offset, buf.len() as u64).is_ok() && matches!(self.read(offset, buf, false), Ok(Some(())))
    }

    fn writable(&self) -> Option<&dyn WritableDevice> {
        Some(self)
    }
}

impl WritableDevice for CowDevice {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.check(offset, bytes.len() as u64)?;
        for (block, range) in pieces(offset, bytes.len(), BLOCK) {
            let inside = offset + range.start as u64 - block * BLOCK;
            match <&Block>::try_from(&bytes[range.clone()]) {
                Ok(whole) => {
                    let mut locked = self.lock(block / GROUP).write().expect("no thread panics with it");
                    self.put(&mut locked, block, whole)?;
                }
                Err(_) => {
                    let inside = usize::try_from(inside).expect("below a block's size");
                    self.change_part(block, inside, &bytes[range])?;
                }
            }
        }
        Ok(())
    }

    fn discard(&self, offset: u64, length: u64) -> Result<()> {
        self.check(offset, length)?;
        let (end, zeros) = (offset + length, [0; BLOCK_BYTES]);
        // The whole blocks; before and behind them are parts of two others, or of one.
        let (first, behind) = (offset.div_ceil(BLOCK) * BLOCK, end / BLOCK * BLOCK);
        let zero = |from: u64, to: u64| {
            let length = usize::try_from(to.saturating_sub(from)).expect("less than a block");
            self.write_at(from, &zeros[..length])
        };
        zero(offset, first.min(end))?;
        zero(behind.max(first.min(end)), end)?;
        if first < behind {
            self.clear(first / BLOCK, behind / BLOCK);
        }
        Ok(())
    }
}

/// The units of `size` bytes that `length` bytes at `offset` touch, and which of the bytes lie in each.
fn pieces(offset: u64, length: usize, size: u64) -> impl Iterator<Item = (u64, Range<usize>)> {
    let mut from = 0usize;
    std::iter::from_fn(move || {
        let at = offset + from as u64;
        let left = usize::try_from(size - at % size).unwrap_or(usize::MAX);
        let range = from..length.min(from.saturating_add(left));
        from = range.end;
        (!range.is_empty()).then_some((at / size, range))
    })
}

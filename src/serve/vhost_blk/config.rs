//! What a guest is told of the disk before it asks for anything: features, and the configuration space of section 5.2.4 of the
//! virtio specification.

use super::request::{Disk, MAX_RANGE_SECTORS, MAX_RANGES, MAX_SEGMENTS, SECTOR};
use super::{QUEUES, VhostUserVirtioFeatures};

mod feature {
    pub(super) const SEG_MAX: u64 = 1 << 2;
    pub(super) const READ_ONLY: u64 = 1 << 5;
    pub(super) const BLK_SIZE: u64 = 1 << 6;
    pub(super) const FLUSH: u64 = 1 << 9;
    pub(super) const TOPOLOGY: u64 = 1 << 10;
    pub(super) const MQ: u64 = 1 << 12;
    pub(super) const DISCARD: u64 = 1 << 13;
    pub(super) const WRITE_ZEROES: u64 = 1 << 14;
    pub(super) const INDIRECT_DESC: u64 = 1 << 28;
    pub(super) const EVENT_IDX: u64 = 1 << 29;
    pub(super) const VERSION_1: u64 = 1 << 32;
}

/// Sectors of a block, as a power of two: what is best read and written together.
const BLOCK_EXPONENT: u8 = 3;
/// Bytes of the configuration space; what is asked for behind them is zero.
const LENGTH: usize = 60;

/// The features that the disk has.
pub(super) fn features(disk: &Disk) -> u64 {
    let always = feature::SEG_MAX
        | feature::BLK_SIZE
        | feature::TOPOLOGY
        | feature::MQ
        | feature::INDIRECT_DESC
        | feature::EVENT_IDX
        | feature::VERSION_1
        | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
    let writing = match disk.device.writable() {
        None => feature::READ_ONLY,
        Some(_) => feature::FLUSH | feature::DISCARD | feature::WRITE_ZEROES,
    };
    always | writing
}

/// `size` bytes of the configuration space from `offset` on.
pub(super) fn space(disk: &Disk, offset: u32, size: u32) -> Vec<u8> {
    let whole = whole(disk);
    (u64::from(offset)..u64::from(offset) + u64::from(size))
        .map(|at| usize::try_from(at).ok().and_then(|at| whole.get(at)).copied().unwrap_or(0))
        .collect()
}

fn whole(disk: &Disk) -> [u8; LENGTH] {
    let mut space = [0; LENGTH];
    let mut put = |at: usize, bytes: &[u8]| space[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &(disk.device.size() / SECTOR).to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    // Logical blocks of a sector: boot loaders and old guests assume it, and a file system with blocks of 4096 is served as well.
    put(20, &512u32.to_le_bytes());
    put(24, &[BLOCK_EXPONENT, 0]);
    put(26, &(1u16 << BLOCK_EXPONENT).to_le_bytes());
    put(34, &QUEUES.to_le_bytes());
    for at in [36, 48] {
        put(at, &MAX_RANGE_SECTORS.to_le_bytes());
        put(at + 4, &MAX_RANGES.to_le_bytes());
    }
    // Between these two: sectors that a discard is best aligned to. Zeroing may give room back.
    put(44, &(1u32 << BLOCK_EXPONENT).to_le_bytes());
    put(56, &[1]);
    space
}

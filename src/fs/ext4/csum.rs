//! The CRC-32C checksums of `metadata_csum`, each over what the kernel's documentation lists.
//!
//! ext4 starts from the seed and never inverts; the library inverts before and after, so both ends are inverted back.

use super::spec::{BLOCK, CHECKSUM_SEED, InodeNumber, SUPERBLOCK_SIZE, get32};

fn crc(start: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!start, bytes)
}

/// Of a superblock, up to its checksum.
pub(super) fn superblock(superblock: &[u8]) -> u32 {
    crc(!0, &superblock[..SUPERBLOCK_SIZE - 4])
}

/// Of a block or inode bitmap.
pub(super) fn bitmap(bitmap: &[u8]) -> u32 {
    crc(CHECKSUM_SEED, bitmap)
}

/// Of a 32-byte group descriptor whose checksum field is 0.
pub(super) fn descriptor(group: u32, descriptor: &[u8]) -> u16 {
    super::spec::lo16(crc(crc(CHECKSUM_SEED, &group.to_le_bytes()), descriptor))
}

/// What seeds the checksums of one inode (generation 0) and of its blocks.
fn of_inode(ino: InodeNumber) -> u32 {
    crc(crc(CHECKSUM_SEED, &ino.0.to_le_bytes()), &[0; 4])
}

/// Of an inode whose checksum fields are 0.
pub(super) fn inode(ino: InodeNumber, inode: &[u8]) -> u32 {
    crc(of_inode(ino), inode)
}

/// Of a directory leaf block, up to its tail of 12 bytes.
pub(super) fn directory_leaf(ino: InodeNumber, block: &[u8]) -> u32 {
    crc(of_inode(ino), &block[..BLOCK - 12])
}

/// Of an htree node: its `used` first bytes, then the tail with a checksum of 0.
pub(super) fn directory_node(ino: InodeNumber, block: &[u8], used: usize) -> u32 {
    crc(crc(of_inode(ino), &block[..used]), &[0; 8])
}

/// Of an extent block, up to its tail.
pub(super) fn extent_block(ino: InodeNumber, block: &[u8], used: usize) -> u32 {
    crc(of_inode(ino), &block[..used])
}

/// Of an xattr block at `addr`, whose checksum field (at 16) counts as 0.
pub(super) fn xattr_block(addr: super::BlockAddr, block: &[u8]) -> u32 {
    let start = crc(CHECKSUM_SEED, &u64::from(addr.0).to_le_bytes());
    crc(crc(crc(start, &block[..16]), &[0; 4]), &block[20..])
}

/// Whether `superblock` carries the checksum of its bytes.
pub(super) fn superblock_matches(bytes: &[u8]) -> bool {
    matches(get32(bytes, SUPERBLOCK_SIZE - 4), superblock(bytes))
}

/// Whether a structure says the checksum that its bytes have. A fuzzer cannot make checksums, and is to get past them.
pub(super) fn matches(stored: u32, computed: u32) -> bool {
    stored == computed || cfg!(fuzzing)
}

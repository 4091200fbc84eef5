//! The CRC-32C checksums of `metadata_csum`, each over the bytes that the kernel's documentation lists.
//!
//! ext4 starts from the seed and does not invert; the library inverts before and after, so both are inverted back.

use super::spec::{BLOCK, CHECKSUM_SEED, InodeNumber, SUPERBLOCK_SIZE, get32};

fn crc(start: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!start, bytes)
}

/// Computes the checksum of a superblock, over the bytes before the checksum field.
pub(super) fn superblock(superblock: &[u8]) -> u32 {
    crc(!0, &superblock[..SUPERBLOCK_SIZE - 4])
}

/// Computes the checksum of a block bitmap or an inode bitmap.
pub(super) fn bitmap(bitmap: &[u8]) -> u32 {
    crc(CHECKSUM_SEED, bitmap)
}

/// Computes the checksum of a 32-byte group descriptor whose checksum field is 0.
pub(super) fn descriptor(group: u32, descriptor: &[u8]) -> u16 {
    super::spec::lo16(crc(crc(CHECKSUM_SEED, &group.to_le_bytes()), descriptor))
}

/// Returns the seed of the checksums of one inode (generation 0) and of its blocks.
fn of_inode(ino: InodeNumber) -> u32 {
    crc(crc(CHECKSUM_SEED, &ino.0.to_le_bytes()), &[0; 4])
}

/// Computes the checksum of an inode whose checksum fields are 0.
pub(super) fn inode(ino: InodeNumber, inode: &[u8]) -> u32 {
    crc(of_inode(ino), inode)
}

/// Computes the checksum of a directory leaf block, over the bytes before its tail of 12 bytes.
pub(super) fn directory_leaf(ino: InodeNumber, block: &[u8]) -> u32 {
    crc(of_inode(ino), &block[..BLOCK - 12])
}

/// Computes the checksum of an htree node, over its first `used` bytes and the tail with a checksum of 0.
pub(super) fn directory_node(ino: InodeNumber, block: &[u8], used: usize) -> u32 {
    crc(crc(of_inode(ino), &block[..used]), &[0; 8])
}

/// Computes the checksum of an extent block, over its first `used` bytes, those before the tail.
pub(super) fn extent_block(ino: InodeNumber, block: &[u8], used: usize) -> u32 {
    crc(of_inode(ino), &block[..used])
}

/// Computes the checksum of an xattr block at `addr`; its checksum field (at offset 16) counts as 0.
pub(super) fn xattr_block(addr: super::BlockAddr, block: &[u8]) -> u32 {
    let start = crc(CHECKSUM_SEED, &u64::from(addr.0).to_le_bytes());
    crc(crc(crc(start, &block[..16]), &[0; 4]), &block[20..])
}

/// Returns whether the checksum in a superblock is that of its bytes.
pub(super) fn superblock_matches(bytes: &[u8]) -> bool {
    matches(get32(bytes, SUPERBLOCK_SIZE - 4), superblock(bytes))
}

/// Returns whether a stored checksum is the computed one. Under a fuzzer it always is: a fuzzer cannot compute checksums, and would
/// not get past them.
pub(super) fn matches(stored: u32, computed: u32) -> bool {
    stored == computed || cfg!(fuzzing)
}

//! The space of one inode on a device, so that a conversion can check an image against limits while it reads it.
//!
//! The sums are those of the layout (docs/reference/formats/ext4-layout.md), without the alignment to chunks.

use super::data_blocks::{block_runs, data_blocks};
use super::spec::{BLOCK_SIZE, INODE_SIZE};
use super::xattr::{self, XattrError};
use super::{dirblock, extent};
use crate::fs::tree::{Kind, Metadata};

/// Returns the number of blocks for the xattrs and extents that do not fit into the inode itself.
pub(super) fn attribute_blocks(metadata: &Metadata, kind: &Kind) -> Result<u32, XattrError> {
    let extents = match kind {
        Kind::File(content) => extent::blocks_needed(block_runs(content).into_iter().map(|(_, count)| count)),
        _ => 0,
    };
    Ok(u32::from(xattr::place(&metadata.xattrs)?.needs_block()) + extents)
}

/// Returns the space in bytes of an inode that ext4 can store: the inode, its xattr and extent blocks, its data blocks, and the
/// first block of a directory.
///
/// # Panics
/// As [`data_blocks`], for an inode that [`unstorable`](super::layout::unstorable) refuses.
#[must_use]
pub fn inode_bytes(metadata: &Metadata, kind: &Kind) -> u64 {
    let directory = u64::from(matches!(kind, Kind::Directory(_)));
    let attributes = attribute_blocks(metadata, kind).map_or(0, u64::from);
    u64::from(INODE_SIZE) + (directory + attributes + u64::from(data_blocks(kind))) * u64::from(BLOCK_SIZE)
}

/// Returns the size in bytes of the xattr block that this metadata needs, 0 where the xattrs fit into the inode.
#[must_use]
pub fn attribute_bytes(metadata: &Metadata) -> u64 {
    let needs_block = xattr::place(&metadata.xattrs).is_ok_and(|placed| placed.needs_block());
    u64::from(needs_block) * u64::from(BLOCK_SIZE)
}

/// Returns the size in bytes of a directory entry of this name.
#[must_use]
pub fn entry_bytes(name: &[u8]) -> u64 {
    dirblock::entry_size(name) as u64
}

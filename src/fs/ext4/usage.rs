//! What one inode takes on a device, so that a conversion can count an image while it reads it.
//!
//! The sums are those of the layout (docs/reference/formats/ext4-layout.md), without the alignment to chunks that a whole device adds.

use super::data_blocks::{block_runs, data_blocks};
use super::spec::{BLOCK_SIZE, INODE_SIZE};
use super::xattr::{self, XattrError};
use super::{dirblock, extent};
use crate::fs::tree::{Kind, Metadata};

/// Returns how many blocks an inode needs for the xattrs and extents that do not fit into the inode itself.
pub(super) fn attribute_blocks(metadata: &Metadata, kind: &Kind) -> Result<u32, XattrError> {
    let extents = match kind {
        Kind::File(content) => extent::blocks_needed(block_runs(content).into_iter().map(|(_, count)| count)),
        _ => 0,
    };
    Ok(u32::from(xattr::place(&metadata.xattrs)?.needs_block()) + extents)
}

/// Returns the bytes of an inode that can be stored: the inode, its xattr and extent blocks, its data blocks, and of a directory
/// its first block.
///
/// # Panics
/// As [`data_blocks`], for an inode that [`unstorable`](super::layout::unstorable) refuses.
#[must_use]
pub fn inode_bytes(metadata: &Metadata, kind: &Kind) -> u64 {
    let directory = u64::from(matches!(kind, Kind::Directory(_)));
    let attributes = attribute_blocks(metadata, kind).map_or(0, u64::from);
    u64::from(INODE_SIZE) + (directory + attributes + u64::from(data_blocks(kind))) * u64::from(BLOCK_SIZE)
}

/// Returns the bytes of the xattr block that a directory of this metadata needs.
#[must_use]
pub fn attribute_bytes(metadata: &Metadata) -> u64 {
    let needs_block = xattr::place(&metadata.xattrs).is_ok_and(|placed| placed.needs_block());
    u64::from(needs_block) * u64::from(BLOCK_SIZE)
}

/// Returns the bytes of a directory entry of a `name`.
#[must_use]
pub fn entry_bytes(name: &[u8]) -> u64 {
    dirblock::entry_size(name) as u64
}

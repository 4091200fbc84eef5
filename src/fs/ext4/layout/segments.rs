//! The data region: a chunk-aligned segment for each layer, which depends on that layer alone.

use super::super::data_blocks::data_blocks;
use super::super::spec::{BlockAddr, CHUNK_BLOCKS};
use super::error::LayoutError;
use crate::fs::tree::{InodeId, Kind, Tree};

/// The segment of a layer in the data region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The index of its first chunk.
    pub first_chunk: u32,
    /// The number of chunks.
    pub chunks: u32,
}

/// The address of the next data in a layer's segment.
#[derive(Debug, Clone, Copy, Default)]
pub struct SegmentCursor {
    used: u64,
}

impl SegmentCursor {
    /// Allocates `blocks` blocks of data after those before, and returns the first one, relative to the segment; `None` past 2^32
    /// blocks.
    pub fn place(&mut self, blocks: u32) -> Option<u32> {
        // A file of at least one chunk starts at a chunk, so that its chunks do not depend on the files before it.
        if blocks >= CHUNK_BLOCKS {
            self.used = self.used.next_multiple_of(CHUNK_BLOCKS.into());
        }
        let start = u32::try_from(self.used).ok()?;
        self.used += u64::from(blocks);
        Some(start)
    }
}

/// The data of one inode in a layer's segment.
#[derive(Debug, Clone, Copy)]
pub struct PlacedData<'t> {
    /// The first block, relative to the segment.
    pub start: u32,
    /// Whether the inode is visible; if not, its blocks are zeros.
    pub visible: bool,
    /// The kind of inode: a file or a symlink.
    pub kind: &'t Kind,
}

/// The addresses in the data region.
pub(super) struct Placement {
    /// The first block of each inode, relative to its layer's segment.
    pub(super) starts: Vec<BlockAddr>,
    pub(super) with_data: Vec<InodeId>,
    /// The segments, relative to the start of the data region.
    pub(super) segments: Vec<Segment>,
    pub(super) chunks: u64,
}

impl Placement {
    pub(super) fn of(tree: &Tree) -> Result<Self, LayoutError> {
        let mut cursors = vec![SegmentCursor::default(); tree.layers()];
        let mut starts = vec![BlockAddr(0); tree.inodes.len()];
        let mut with_data = Vec::new();
        for (id, inode) in tree.iter() {
            let blocks = data_blocks(&inode.kind);
            if blocks == 0 {
                continue;
            }
            let start = cursors[usize::from(tree.layer_of(id).0)].place(blocks).ok_or(LayoutError::TooLarge)?;
            starts[id.0 as usize] = BlockAddr(start);
            with_data.push(id);
        }
        let (mut segments, mut chunks) = (Vec::with_capacity(cursors.len()), 0u64);
        for cursor in cursors {
            let count = cursor.used.div_ceil(CHUNK_BLOCKS.into());
            let first_chunk = u32::try_from(chunks).map_err(|_| LayoutError::TooLarge)?;
            segments.push(Segment { first_chunk, chunks: u32::try_from(count).map_err(|_| LayoutError::TooLarge)? });
            chunks += count;
        }
        Ok(Self { starts, with_data, segments, chunks })
    }
}

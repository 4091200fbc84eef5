//! The addresses of directory blocks: those that a directory had after its own layer, and overflow blocks that later layers added
//! elsewhere.

use super::super::spec::{BlockAddr, CHUNK_BLOCKS};
use super::super::{dirblock, extent};
use super::error::{LayoutError, path_of};
use super::visible::Visible;
use crate::fs::tree::{Directory, InodeId, Kind, LayerIndex, Tree};
use crate::{Error, ErrorKind};

/// The addresses of one directory's blocks.
#[derive(Debug, Clone, Copy)]
pub(in crate::fs::ext4) struct DirectoryPlan {
    pub(in crate::fs::ext4) id: InodeId,
    pub(in crate::fs::ext4) parent: InodeId,
    pub(in crate::fs::ext4) blocks: u32,
    pub(in crate::fs::ext4) start: BlockAddr,
    /// How many of `blocks` are at `start`; the others are at `overflow`.
    pub(in crate::fs::ext4) first: u32,
    pub(in crate::fs::ext4) overflow: BlockAddr,
}

impl DirectoryPlan {
    pub(super) fn moved(self, by: u32) -> Self {
        Self { start: BlockAddr(self.start.0 + by), overflow: BlockAddr(self.overflow.0 + by), ..self }
    }

    pub(super) fn end(&self) -> u32 {
        (self.start.0 + self.first.max(1)).max(self.overflow.0 + self.blocks - self.first)
    }

    /// Returns the blocks as extents.
    pub(in crate::fs::ext4) fn extents(&self) -> Vec<extent::Extent> {
        let first = extent::Extent { logical: 0, start: self.start, length: self.first };
        let more = extent::Extent { logical: self.first, start: self.overflow, length: self.blocks - self.first };
        [first, more].into_iter().filter(|extent| extent.length > 0).collect()
    }
}

/// Returns the number of blocks that `directory` needs with its present entries.
///
/// # Errors
/// `Unsupported` where an htree of two levels cannot index it.
pub fn directory_blocks(directory: &Directory) -> Result<u32, Error> {
    dirblock::blocks_needed(directory.entries.keys().map(|name| &**name))
        .map_err(|error| Error::new(ErrorKind::Unsupported, error.to_string()))
}

/// Plans the directory blocks relative to the start of their region: a chunk-aligned part for each layer, then the overflow blocks.
pub(super) fn plan_directories(tree: &Tree, visible: &Visible) -> Result<Vec<DirectoryPlan>, LayoutError> {
    let (mut plans, mut at, mut layer) = (Vec::new(), 0u32, LayerIndex(0));
    for (id, inode) in tree.iter() {
        let Kind::Directory(directory) = &inode.kind else { continue };
        if tree.layer_of(id) != layer {
            (at, layer) = (at.next_multiple_of(CHUNK_BLOCKS), tree.layer_of(id));
        }
        let first = directory.first_blocks.max(1);
        let blocks = match visible.names[id.0 as usize] {
            0 => 0,
            _ => directory_blocks(directory).map_err(|error| LayoutError::Inode {
                layer: tree.layer_of(id),
                path: path_of(tree, id),
                reason: error.to_string(),
            })?,
        };
        let parent = visible.parents.get(&id).copied().unwrap_or(Tree::ROOT);
        plans.push(DirectoryPlan {
            id,
            parent,
            blocks,
            start: BlockAddr(at),
            first: first.min(blocks),
            overflow: BlockAddr(0),
        });
        at = at.checked_add(first).ok_or(LayoutError::TooLarge)?;
    }
    at = at.next_multiple_of(CHUNK_BLOCKS);
    for plan in plans.iter_mut().filter(|plan| plan.blocks > plan.first) {
        plan.overflow = BlockAddr(at);
        at = at.checked_add(plan.blocks - plan.first).ok_or(LayoutError::TooLarge)?;
    }
    Ok(plans)
}

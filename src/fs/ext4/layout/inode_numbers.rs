//! The assignment of inode numbers: directories in one part of the table, the other inodes in one part for each layer.

use super::super::spec::{CHUNK_BLOCKS, INODES_PER_BLOCK, INODES_PER_CHUNK, InodeNumber, ROOT_INODE};
use super::error::LayoutError;
use crate::fs::tree::{Kind, Tree};

/// Returns the number of inodes of each layer that are not directories.
fn files_per_layer(tree: &Tree) -> Vec<u64> {
    let mut counts = vec![0; tree.layers()];
    for (id, _) in tree.iter().filter(|(_, inode)| !matches!(inode.kind, Kind::Directory(_))) {
        counts[usize::from(tree.layer_of(id).0)] += 1;
    }
    counts
}

/// Returns the number of inode slots for `directories` directories and for the parts of all layers.
pub(super) fn inode_slots(tree: &Tree, directories: u64) -> u64 {
    files_per_layer(tree)
        .into_iter()
        .fold(directories, |slots, count| slots + count.next_multiple_of(INODES_PER_CHUNK.into()))
}

/// Returns the number of every inode. Directories are numbered in their part and the others in the part of their layer, by layer,
/// then by path. Each part starts at a chunk of the device.
pub(super) fn number(tree: &Tree, table: u32, directories: u64) -> Result<Vec<InodeNumber>, LayoutError> {
    // The slots between the root's and the first one at the start of a chunk stay free.
    let first_slots = (table.next_multiple_of(CHUNK_BLOCKS) - table) * INODES_PER_BLOCK;
    let mut next_directory = first_slots + 1;
    let mut next_file = Vec::new();
    let mut slot = u64::from(first_slots) + directories;
    for count in files_per_layer(tree) {
        next_file.push(u32::try_from(slot + 1).map_err(|_| LayoutError::TooLarge)?);
        slot += count.next_multiple_of(INODES_PER_CHUNK.into());
    }
    let numbers = tree.iter().map(|(id, inode)| {
        if id == Tree::ROOT {
            return ROOT_INODE;
        }
        let next = match inode.kind {
            Kind::Directory(_) => &mut next_directory,
            _ => &mut next_file[usize::from(tree.layer_of(id).0)],
        };
        *next += 1;
        InodeNumber(*next - 1)
    });
    Ok(numbers.collect())
}

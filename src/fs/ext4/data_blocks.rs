//! The data blocks of an inode: those that any of its bytes touch.
//!
//! Layout, limits and the writer count with the same functions, so that they always agree.

use super::spec::{BLOCK_SIZE, FAST_SYMLINK};
use crate::fs::tree::{Content, Kind};

/// Maximum size of a file, in bytes: 2^32 − 1 blocks.
pub const MAX_FILE: u64 = (u32::MAX as u64) * (BLOCK_SIZE as u64);

/// Returns the runs of allocated blocks of `content`, as (first logical block, number of blocks). A block is allocated if any run
/// of bytes touches it.
///
/// # Panics
/// Where the file is larger than [`MAX_FILE`].
#[must_use]
pub fn block_runs(content: &Content) -> Vec<(u32, u32)> {
    let block = u64::from(BLOCK_SIZE);
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for run in content.runs() {
        let bounded = |value: u64| u32::try_from(value).expect("check() refused files of more than 2^32 blocks");
        let (first, end) = (bounded(run.offset / block), bounded((run.offset + run.length).div_ceil(block)));
        match runs.last_mut() {
            Some((start, count)) if *start + *count >= first => *count = (*count).max(end - *start),
            _ => runs.push((first, end - first)),
        }
    }
    runs
}

/// Returns the number of data blocks of an inode.
///
/// # Panics
/// Where the file is larger than [`MAX_FILE`].
#[must_use]
pub fn data_blocks(kind: &Kind) -> u32 {
    match kind {
        Kind::File(content) => block_runs(content).iter().map(|&(_, count)| count).sum(),
        Kind::Symlink(target) if target.len() > FAST_SYMLINK => 1,
        _ => 0,
    }
}

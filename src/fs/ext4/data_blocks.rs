//! Which blocks of data an inode has: those that any of its bytes touch.
//!
//! Layout, limits and the writer count with the same functions, so that none of them disagrees.

use super::spec::{BLOCK_SIZE, FAST_SYMLINK};
use crate::fs::tree::{Content, Kind};

/// Most bytes of a file: 2^32 − 1 blocks.
pub const MAX_FILE: u64 = (u32::MAX as u64) * (BLOCK_SIZE as u64);

/// The runs of blocks that `content` has, as (first logical block, count); a block that any byte run touches counts.
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

/// How many blocks of data an inode has. [`block_runs`] says when this panics.
#[must_use]
pub fn data_blocks(kind: &Kind) -> u32 {
    match kind {
        Kind::File(content) => block_runs(content).iter().map(|&(_, count)| count).sum(),
        Kind::Symlink(target) if target.len() > FAST_SYMLINK => 1,
        _ => 0,
    }
}

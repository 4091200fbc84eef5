//! A chunk of a device as its block manifest names it: where it is on the device, under which name it is stored, and its key.

use crate::ChunkIndex;
use crate::crypto::ChunkKey;
use crate::digest::Sha256;

/// A chunk of the device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its place on the device.
    pub index: ChunkIndex,
    /// The SHA-256 of what is stored.
    pub name: Sha256,
    /// Opens it.
    pub key: ChunkKey,
    /// Bytes of what is stored.
    pub stored: u32,
}

/// Chunks' names once each, ascending.
#[must_use]
pub fn names_of(chunks: &[ChunkRef]) -> Vec<Sha256> {
    let mut names: Vec<_> = chunks.iter().map(|chunk| chunk.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

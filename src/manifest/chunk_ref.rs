//! The entry of a chunk in a block manifest: its index on the device, the name under which it is stored, and its key.

use crate::ChunkIndex;
use crate::crypto::ChunkKey;
use crate::digest::Sha256;

/// A chunk of the device that is not all zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkRef {
    /// The index on the device.
    pub index: ChunkIndex,
    /// The SHA-256 of the stored bytes.
    pub name: Sha256,
    /// The key that decrypts it.
    pub key: ChunkKey,
    /// The stored length, in bytes.
    pub stored: u32,
}

/// Returns the names of `chunks`, each once, ascending.
#[must_use]
pub fn names_of(chunks: &[ChunkRef]) -> Vec<Sha256> {
    let mut names: Vec<_> = chunks.iter().map(|chunk| chunk.name).collect();
    names.sort_unstable();
    names.dedup();
    names
}

//! The result of a conversion: the manifest, and counts of chunks and bytes.

use crate::manifest::OpenManifest;

/// Chunks and bytes of a conversion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks of the device that are all zero, and stored nowhere.
    pub zero_chunks: u64,
    /// Chunks that were not in the store before.
    pub put_chunks: u64,
    /// Their bytes as stored.
    pub put_bytes: u64,
    /// Chunks that the store says it had.
    pub claimed_chunks: u64,
    /// Chunks that an earlier conversion saw stored there, and that were not sent.
    pub known_chunks: u64,
    /// Bytes of all distinct chunks as stored.
    pub stored_bytes: u64,
}

/// What a part of the device has in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Share {
    /// Its distinct chunks.
    pub chunks: u64,
    /// Their bytes as stored.
    pub stored_bytes: u64,
    /// Those that were not in the store before.
    pub new_chunks: u64,
    /// Their bytes as stored.
    pub new_bytes: u64,
    /// Whether it was read, and not known from a cache.
    pub read: bool,
}

/// A finished conversion.
#[derive(Debug)]
pub struct Converted {
    /// The block manifest, not yet sealed.
    pub manifest: OpenManifest,
    /// The metadata's share, then each layer's; a chunk in two of them counts in the first.
    pub shares: Vec<Share>,
    /// What it took.
    pub counts: Counts,
}

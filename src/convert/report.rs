//! The result of a conversion: the manifest, and counts of chunks and bytes.

use crate::manifest::OpenManifest;

/// Numbers of chunks and bytes of a conversion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks of the device that are all zero, which are not stored.
    pub zero_chunks: u64,
    /// Chunks that were not in the store before, and were uploaded.
    pub put_chunks: u64,
    /// The stored size of these chunks, in bytes.
    pub put_bytes: u64,
    /// Chunks that the store already had, by its own answer.
    pub claimed_chunks: u64,
    /// Chunks that an earlier conversion stored, and that were not sent again.
    pub known_chunks: u64,
    /// The stored size of all distinct chunks, in bytes.
    pub stored_bytes: u64,
}

/// The share of one part of the device in the stored chunks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Share {
    /// The number of distinct chunks.
    pub chunks: u64,
    /// The stored size of these chunks, in bytes.
    pub stored_bytes: u64,
    /// The number of chunks that were not in the store before.
    pub new_chunks: u64,
    /// The stored size of these chunks, in bytes.
    pub new_bytes: u64,
    /// Whether the part was read, and not taken from the conversion cache.
    pub read: bool,
}

/// The result of a finished conversion.
#[derive(Debug)]
pub struct Converted {
    /// The block manifest, not encrypted yet.
    pub manifest: OpenManifest,
    /// The share of the metadata, then that of each layer; a chunk in two parts counts in the first.
    pub shares: Vec<Share>,
    /// The counts of the whole conversion.
    pub counts: Counts,
}

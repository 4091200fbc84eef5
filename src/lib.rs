//! coldpress: a container image becomes one sealed, chunked, lazily readable ext4 disk.
//!
//! The modules stand in the order in which the data passes them; each may use only what stands before it:
//! `digest error printable progress sync threads` < `fs crypto` < `bundle cache` < `source store manifest` < `convert | read` < `serve`.
//! `convert` and `read` never import each other: they meet in the byte formats (docs/reference/formats/block-manifest.md,
//! docs/reference/formats/sealed-chunk.md, docs/reference/formats/ext4-layout.md). docs/design.md has the reasons.

pub mod atomic_file;
pub mod bundle;
pub mod conversion_cache;
pub mod convert;
pub mod crypto;
pub mod digest;
pub mod doctor;
pub mod error;
pub mod fs;
pub mod keys;
pub mod manifest;
pub mod net;
pub mod output_file;
pub mod printable;
pub mod private_file;
pub mod progress;
mod random;
pub mod read;
pub mod registry;
pub mod sandbox;
pub mod serve;
pub mod source;
pub mod store;
mod sync;
mod threads;

pub use error::{Error, ErrorKind, Result};

/// Bytes of one chunk: the unit that is sealed, named, stored and fetched. Changes every stored byte.
pub const CHUNK_SIZE: u32 = 512 * 1024;

/// A chunk's place on the device; its first byte stands at `index * CHUNK_SIZE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct ChunkIndex(pub u32);

impl ChunkIndex {
    /// The offset of its first byte on the device.
    #[must_use]
    pub fn byte_offset(self) -> u64 {
        u64::from(self.0) * u64::from(CHUNK_SIZE)
    }
}

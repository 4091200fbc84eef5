//! coldpress: a container image becomes one encrypted, chunked, lazily readable ext4 disk.
//!
//! The library exists for the two programs and their tests. Its modules in order, each importing only modules that stand before it
//! (`tests/it/module_order.rs` holds it; docs/design.md has the reasons):
//!
//! | modules | what they own |
//! |---|---|
//! | `printable` `error` `digest` `drawing` `progress` `threads` `sync` `random` | values and tools of every other module |
//! | `private_file` `atomic_file` `output_file` `sandbox` | files of the host, and what this process may do on it |
//! | `fs` `crypto` | the file tree, the ext4 device and the trait for devices; packing and encryption |
//! | `net` `keys` | clients of services; who encloses data keys |
//! | `conversion_cache` `store` `manifest` `doctor` | what earlier conversions left; chunks in storage; the block manifest; permissions |
//! | `registry` `source` | where images come from |
//! | `convert` | an image becomes encrypted chunks and a block manifest |
//! | `read` `serve` `bundle` | encrypted chunks become a device, its exports, and a runtime bundle |
//! | `zone` | the cache servers of a zone, a level of the read path |
//! | `inspect` `observe` | analysis of what is stored and recorded; what a running reader reports |
//! | `simulation` | unit tests only: schedules of the read path that a seed decides |
//!
//! `convert` and `read` never import each other: they meet in the byte formats (docs/reference/formats).

pub mod atomic_file;
pub mod bundle;
pub mod conversion_cache;
pub mod convert;
pub mod crypto;
pub mod digest;
pub mod doctor;
pub mod drawing;
pub mod error;
pub mod fs;
pub mod inspect;
pub mod keys;
pub mod manifest;
pub mod net;
pub mod observe;
pub mod output_file;
pub mod printable;
pub mod private_file;
pub mod progress;
mod random;
pub mod read;
pub mod registry;
pub mod sandbox;
pub mod serve;
#[cfg(test)]
mod simulation;
pub mod source;
pub mod store;
mod sync;
mod threads;
pub mod zone;

pub use error::{Error, ErrorKind, Result};

/// Bytes of one chunk: the unit that is sealed, named, stored and fetched. Changes every stored byte.
pub const CHUNK_SIZE: u32 = 512 * 1024;

/// The index of a chunk on the device; the chunk starts at byte `index * CHUNK_SIZE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
pub struct ChunkIndex(pub u32);

impl ChunkIndex {
    /// Returns the offset of the chunk's first byte on the device.
    #[must_use]
    pub fn byte_offset(self) -> u64 {
        u64::from(self.0) * u64::from(CHUNK_SIZE)
    }
}

//! The parameters of a conversion, and the limits that follow from them.

use std::path::PathBuf;

use crate::crypto::Codec;
use crate::progress::Progress;
use crate::source::Limits;
use crate::store::RootId;

/// Most uncompressed bytes of an image where nothing else is said.
const DEFAULT_MAX_SIZE: u64 = 64 << 30;
/// Most entries of an image where nothing else is said: fifty times a large application of Node.js, in less than a gigabyte of memory.
const DEFAULT_MAX_ENTRIES: u64 = 4 << 20;

/// What a conversion can be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// How chunks are packed.
    pub codec: Codec,
    /// Bytes left free for a writable mount.
    pub free: u64,
    /// How many threads work.
    pub threads: usize,
    /// Where inflated layers are kept, in files without a name.
    pub temp: PathBuf,
    /// Most uncompressed bytes of the layers together, and most bytes that they take on the device; `None` for 64 GiB. Where it is given, no file may be larger either, holes
    /// included.
    pub max_size: Option<u64>,
    /// Most entries of the layers together, with the directories that no entry describes; `None` for 4,194,304.
    pub max_entries: Option<u64>,
    /// Where chunks are collected together.
    pub root: RootId,
    /// A stable name for key policies; may be empty.
    pub application: String,
    /// Where the chunks go, as a hint for readers.
    pub store_hint: String,
    /// Most bytes that may be put; with more, the conversion fails, though what was put stays.
    pub max_new_bytes: Option<u64>,
}

impl Options {
    /// Returns what unpacking may take; `progress` receives how far the input is read.
    #[must_use]
    pub fn limits<'a>(&'a self, progress: &'a dyn Progress) -> Limits<'a> {
        Limits {
            temp: &self.temp,
            max_size: self.max_size.unwrap_or(DEFAULT_MAX_SIZE),
            // Holes cost nothing here, and images have them: a lastlog of over 1 TiB is nothing unusual.
            max_file: self.max_size.unwrap_or(u64::MAX),
            max_entries: self.max_entries.unwrap_or(DEFAULT_MAX_ENTRIES),
            progress,
        }
    }
}

//! The parameters of a conversion, and the limits that follow from them.

use std::path::PathBuf;

use crate::crypto::Codec;
use crate::progress::Progress;
use crate::source::Limits;
use crate::store::RootId;

/// The default limit on the uncompressed size of an image, in bytes.
const DEFAULT_MAX_SIZE: u64 = 64 << 30;
/// The default limit on the number of entries of an image: fifty times a large Node.js application, in less than a gigabyte of
/// memory.
const DEFAULT_MAX_ENTRIES: u64 = 4 << 20;

/// The parameters of a conversion.
#[derive(Debug, Clone)]
pub struct Options {
    /// The codec of the chunks.
    pub codec: Codec,
    /// Free space to reserve for writable mounts, in bytes.
    pub free: u64,
    /// The number of threads that decompress and seal.
    pub threads: usize,
    /// The directory for spooled layers, which are unlinked temporary files.
    pub temp: PathBuf,
    /// Maximum uncompressed size of all layers together, and maximum space that they take on the device, in bytes; `None` for 64
    /// GiB. If it is given, it limits each file as well, holes included.
    pub max_size: Option<u64>,
    /// Maximum number of entries of all layers together, including directories that no entry describes; `None` for 4,194,304.
    pub max_entries: Option<u64>,
    /// The root under which the chunks are stored and collected.
    pub root: RootId,
    /// A stable name for key policies; may be empty.
    pub application: String,
    /// The store of the chunks, as a hint for readers.
    pub store_hint: String,
}

impl Options {
    /// Returns the limits on unpacking; `progress` receives how far the input has been read.
    #[must_use]
    pub fn limits<'a>(&'a self, progress: &'a dyn Progress) -> Limits<'a> {
        Limits {
            temp: &self.temp,
            max_size: self.max_size.unwrap_or(DEFAULT_MAX_SIZE),
            // Holes take no space, and images have them: a lastlog of over 1 TiB is common.
            max_file: self.max_size.unwrap_or(u64::MAX),
            max_entries: self.max_entries.unwrap_or(DEFAULT_MAX_ENTRIES),
            progress,
        }
    }
}

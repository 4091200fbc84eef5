//! A device of bytes: what a file system is read from, and what every door of `coldread` offers.

use crate::Result;

/// Bytes at offsets, from any thread.
pub trait BlockDevice: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// `Input` past the end; else those of what is behind it. `buf` then holds nothing that was not verified.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;
}

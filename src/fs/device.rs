//! The traits for block devices: a file system is read from one, and every export of `coldread` serves one.

use crate::Result;

/// A device that is read at byte offsets, from any thread.
pub trait BlockDevice: Send + Sync {
    /// Returns the size in bytes.
    fn size(&self) -> u64;

    /// Reads `buf.len()` bytes from `offset` on into `buf`.
    ///
    /// # Errors
    /// `Input` past the end of the device; those of the source of the bytes. `buf` then contains no unverified byte.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()>;

    /// Reads as [`Self::read_at`] does if all of the bytes are in memory, and returns `true`. Otherwise returns `false` without
    /// fetching anything, and the content of `buf` is undefined.
    fn read_at_hand(&self, _offset: u64, _buf: &mut [u8]) -> bool {
        false
    }

    /// Returns the device for writing; `None` where it is read-only.
    fn writable(&self) -> Option<&dyn WritableDevice> {
        None
    }
}

/// A device that can be written to.
pub trait WritableDevice: BlockDevice {
    /// Writes `bytes` from `offset` on. Later reads through any export return them.
    ///
    /// # Errors
    /// `Input` past the end of the device; `Full` where the write overlay has no space; those of reading the blocks that `bytes`
    /// changes in part.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Zeros `length` bytes from `offset` on, and frees the space of the whole blocks among them.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    fn discard(&self, offset: u64, length: u64) -> Result<()>;
}

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

    /// The same where all of it is in memory; otherwise nothing is fetched, and `buf` means nothing.
    fn read_at_hand(&self, _offset: u64, _buf: &mut [u8]) -> bool {
        false
    }

    /// The same device for who changes it; `None` where nobody may.
    fn writable(&self) -> Option<&dyn WritableDevice> {
        None
    }
}

/// A device that can be written to.
pub trait WritableDevice: BlockDevice {
    /// Writes `bytes` from `offset` on; who reads after that reads them, at every door.
    ///
    /// # Errors
    /// `Input` past the end; `Full` where there is no room for what changed; those of reading what is around `bytes`.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()>;

    /// Zeros `length` bytes from `offset` on, and gives back the room that whole blocks of them took.
    ///
    /// # Errors
    /// As [`Self::write_at`].
    fn discard(&self, offset: u64, length: u64) -> Result<()>;
}

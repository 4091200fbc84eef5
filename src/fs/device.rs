//! The traits for block devices: a file system is read from one, and every export of `coldread` serves one.

use crate::Result;

/// A device that is read at byte offsets, from any thread.
///
/// The exports in `serve` serve any device, such as this one over NBD:
///
/// ```
/// use std::sync::Arc;
///
/// use coldpress::fs::BlockDevice;
/// use coldpress::serve::buffers::Buffers;
/// use coldpress::serve::nbd::{Exports, Service, serve};
/// use coldpress::{Error, ErrorKind, Result};
///
/// /// A device of one repeated byte.
/// struct Repeated(u8);
///
/// impl BlockDevice for Repeated {
///     fn size(&self) -> u64 {
///         1 << 20
///     }
///
///     fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
///         if offset.saturating_add(buf.len() as u64) > self.size() {
///             return Err(Error::new(ErrorKind::Input, "past the end of the device"));
///         }
///         buf.fill(self.0);
///         Ok(())
///     }
/// }
///
/// struct Log;
///
/// impl coldpress::serve::Watch for Log {
///     fn failed(&self, error: &Error) {
///         eprintln!("{}", error.chain());
///     }
/// }
///
/// let mut exports = Exports::default();
/// exports.add("repeated", Arc::new(Repeated(7)));
/// let service = Service { exports: &exports, buffers: &Buffers::new(64 << 20), threads: 1, watch: &Log };
///
/// // A client of the fixed newstyle handshake that leaves at once (NBD_OPT_ABORT).
/// let client = [&1u32.to_be_bytes()[..], b"IHAVEOPT", &2u32.to_be_bytes(), &0u32.to_be_bytes()].concat();
/// let mut answer = Vec::new();
/// serve(&client[..], &mut answer, &|| {}, &service).unwrap();
/// assert!(answer.starts_with(b"NBDMAGICIHAVEOPT"));
/// ```
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

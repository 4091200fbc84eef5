//! The stream below the entries: blocks, headers and bytes, read forward only.

use std::borrow::Cow;
use std::io::{self, Read};

use super::header::{BLOCK, check_sum};

/// The reason why a stream is not a tar that can be converted.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The layer cannot be read.
    #[error("cannot be read")]
    Io(#[source] io::Error),
    /// The stream ends inside an entry.
    #[error("the archive ends in the middle of the entry at byte {0} (truncated?)")]
    Truncated(u64),
    /// A block is not a valid header.
    #[error("no tar header at byte {offset}: {reason}")]
    Header {
        /// The offset of the header in the stream, in bytes.
        offset: u64,
        /// The fault.
        reason: Cow<'static, str>,
    },
    /// A numeric field or PAX record of an entry is not a number.
    #[error("`{path}`: its {field} is not a number")]
    NotANumber {
        /// The name of the entry.
        path: String,
        /// The field or record.
        field: String,
    },
    /// A field in the header of an entry is invalid.
    #[error("`{path}`: {reason}")]
    Entry {
        /// The name of the entry.
        path: String,
        /// The fault.
        reason: String,
    },
    /// The type of an entry is not supported in container images.
    #[error("`{path}`: tar entries of type `{flag}` are not supported")]
    Type {
        /// The name of the entry.
        path: String,
        /// The header's type flag.
        flag: char,
    },
}

/// A reader of the entries of a tar stream, one by one.
pub struct TarReader<R> {
    pub(super) inner: R,
    pub(super) offset: u64,
    /// The offset of the header of the last entry, in bytes.
    pub(super) at: u64,
    pub(super) end: u64,
}

impl<R: Read> TarReader<R> {
    /// Creates a reader at the start of a tar stream.
    pub fn new(inner: R) -> Self {
        Self { inner, offset: 0, at: 0, end: 0 }
    }

    /// Reads into `buf` from `source` on, an offset in the stream from a run of the last entry; only forward.
    ///
    /// # Errors
    /// Those of the stream; `Truncated` where it ends before.
    ///
    /// # Panics
    /// Where the stream was read past `source`.
    pub fn read_data(&mut self, source: u64, buf: &mut [u8]) -> Result<(), TarError> {
        self.skip_to(self.at, source)?;
        match self.inner.read_exact(buf) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(TarError::Truncated(self.at)),
            Err(error) => return Err(TarError::Io(error)),
        }
        self.offset += buf.len() as u64;
        Ok(())
    }

    /// Returns the offset and the block of the next header; `None` at two zero blocks, or where the stream ends between entries.
    pub(super) fn next_header(&mut self) -> Result<Option<(u64, [u8; BLOCK])>, TarError> {
        let at = self.offset;
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            check_sum(&block).map_err(|reason| TarError::Header { offset: at, reason: reason.into() })?;
            return Ok(Some((at, block)));
        }
        match self.block()? {
            Some(second) if second != [0; BLOCK] => {
                Err(TarError::Header { offset: at, reason: "found a lone zero block inside the archive".into() })
            }
            _ => Ok(None),
        }
    }

    /// Returns the next block; `None` at the end of the stream.
    pub(super) fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.inner.read(&mut block[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated(self.offset)),
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Io(error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    /// Reads `size` bytes, which the caller has bounded, and skips the padding after them.
    pub(super) fn body(&mut self, at: u64, size: u64) -> Result<Vec<u8>, TarError> {
        let mut body = Vec::new();
        let read = self.inner.by_ref().take(size).read_to_end(&mut body).map_err(TarError::Io)?;
        self.offset += read as u64;
        if read as u64 != size {
            return Err(TarError::Truncated(at));
        }
        self.skip_padding()?;
        Ok(body)
    }

    /// Skips the padding of the last block. Some writers omit it after the last entry: then the archive ends there.
    pub(super) fn skip_padding(&mut self) -> Result<(), TarError> {
        let left = self.offset.next_multiple_of(BLOCK as u64) - self.offset;
        if left > 0 {
            self.offset += io::copy(&mut self.inner.by_ref().take(left), &mut io::sink()).map_err(TarError::Io)?;
        }
        Ok(())
    }

    /// Skips to the offset `end`.
    pub(super) fn skip_to(&mut self, at: u64, end: u64) -> Result<(), TarError> {
        let left = end.checked_sub(self.offset).expect("streams are read forward");
        if left == 0 {
            return Ok(());
        }
        let copied = io::copy(&mut self.inner.by_ref().take(left), &mut io::sink()).map_err(TarError::Io)?;
        self.offset += copied;
        if copied == left { Ok(()) } else { Err(TarError::Truncated(at)) }
    }
}

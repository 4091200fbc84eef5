//! A blob: a stretch of a file, read without moving a shared position, so from several threads at once.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use crate::digest::Sha256;
use crate::{Error, ErrorKind, Result};

/// Most bytes of an index, a manifest or a config (the registries' usual limit is 4 MiB).
const MAX_DOCUMENT: u64 = 8 << 20;

/// Bytes of a file, from an offset on.
#[derive(Debug, Clone)]
pub struct Blob {
    name: Arc<str>,
    file: Arc<File>,
    offset: u64,
    length: u64,
}

impl Blob {
    /// All of the file `path`.
    ///
    /// # Errors
    /// Those of opening it.
    pub fn open(path: &Path) -> Result<Self> {
        let fail = |error| Error::file(path, error);
        // A pipe would be waited for.
        let mut options = std::fs::OpenOptions::new();
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag of open(2)");
        let file = options.read(true).custom_flags(nonblocking).open(path).map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            return Err(Error::new(ErrorKind::Input, format!("{}: not a regular file", path.display())));
        }
        Ok(Self { name: path.display().to_string().into(), file: Arc::new(file), offset: 0, length: metadata.len() })
    }

    /// All of an open file, called `name` in errors.
    pub(super) fn of_file(name: &str, file: File, length: u64) -> Self {
        Self { name: name.into(), file: Arc::new(file), offset: 0, length }
    }

    /// A stretch of this one, called `name` in errors.
    pub(super) fn part(&self, name: &str, offset: u64, length: u64) -> Self {
        Self { name: name.into(), file: Arc::clone(&self.file), offset: self.offset + offset, length }
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// Those of the file; `UnexpectedEof` past the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.length) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file.read_exact_at(buf, self.offset + offset)
    }

    /// Reads it from its start.
    #[must_use]
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), at: 0 }
    }

    /// The bytes of a JSON document, which must be those of `digest` where there is one.
    pub(super) fn document(&self, digest: Option<Sha256>) -> Result<Vec<u8>> {
        if self.length > MAX_DOCUMENT {
            return Err(Error::new(
                ErrorKind::Input,
                format!("{}: {} bytes are too many for a JSON document", self.name, self.length),
            ));
        }
        let mut bytes = Vec::new();
        self.reader().read_to_end(&mut bytes).map_err(|error| Error::io(&self.name, error))?;
        match digest {
            Some(digest) if Sha256::of(&bytes) != digest => Err(wrong_digest(&self.name, digest, Sha256::of(&bytes))),
            _ => Ok(bytes),
        }
    }
}

/// What stands under a digest is something else.
pub(super) fn wrong_digest(name: &str, wanted: Sha256, found: Sha256) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{name}: its bytes are those of {found}, not of {wanted}"))
}

/// Reads a blob from its start to its end.
#[derive(Debug)]
pub struct BlobReader {
    blob: Blob,
    at: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.blob.length - self.at).unwrap_or(usize::MAX);
        let wanted = buf.len().min(left);
        let n = self.blob.file.read_at(&mut buf[..wanted], self.blob.offset + self.at)?;
        if n == 0 && wanted > 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        self.at += n as u64;
        Ok(n)
    }
}

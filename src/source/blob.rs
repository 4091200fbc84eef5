//! A blob: a stretch of a file, or what is fetched from elsewhere; read without moving a shared position, so from several
//! threads at once.

use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Seek};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::OFlags;

use super::Limits;
use super::spool::{Fetch, GIVEN_UP, Spool};
use crate::digest::ContentDigest;
use crate::printable::size;
use crate::progress::Stage;
use crate::{Error, ErrorKind, Result};

/// Most bytes of an index, a manifest or a config (the registries' usual limit is 4 MiB).
pub(super) const MAX_DOCUMENT: u64 = 8 << 20;

/// Bytes of a pipe that are copied between two reports of progress.
const SPOOL_PIECE: u64 = 1 << 20;

/// Some bytes.
#[derive(Debug, Clone)]
pub struct Blob {
    name: Arc<str>,
    place: Place,
}

#[derive(Clone)]
enum Place {
    /// Bytes of a file, from an offset on.
    File { file: Arc<File>, offset: u64, length: u64 },
    /// Bytes in memory.
    Memory(Arc<[u8]>),
    /// What is fetched when it is wanted; of this length, where that was said before.
    Fetched { fetch: Arc<dyn Fetch>, number: usize, spool: Arc<Spool>, length: Option<u64> },
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, offset, length } => write!(f, "{file:?} {offset}+{length}"),
            Self::Memory(bytes) => write!(f, "{} bytes in memory", bytes.len()),
            Self::Fetched { number, length, .. } => write!(f, "fetched {number}, {length:?}"),
        }
    }
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
        Ok(Self::of_file(&path.display().to_string(), file, metadata.len()))
    }

    /// What `input` yields to its end, copied to an unlinked temporary file so that it can be read from several places.
    ///
    /// # Errors
    /// `Input` where it has more than `--max-size` bytes; those of reading and of the temporary directory.
    pub(super) fn spooled(name: &str, mut input: File, limits: Limits<'_>) -> Result<Self> {
        let mut file = tempfile::tempfile_in(limits.temp).map_err(|error| Error::file(limits.temp, error))?;
        let (most, progress) = (limits.max_size, limits.progress);
        progress.begin(Stage::Input, 0);
        let mut length = 0;
        // By pieces, so that progress is reported between them.
        while length <= most {
            let copied = io::copy(&mut input.by_ref().take(SPOOL_PIECE), &mut file);
            let copied = copied.map_err(|error| Error::io(name, error))?;
            if copied == 0 {
                break;
            }
            progress.advance(Stage::Input, copied);
            length += copied;
        }
        progress.end(Stage::Input);
        if length > most {
            let message = format!("{name}: larger than {}, which --max-size allows", size(most));
            return Err(Error::new(ErrorKind::Input, message));
        }
        Ok(Self::of_file(name, file, length))
    }

    /// All of an open file, called `name` in errors.
    pub(super) fn of_file(name: &str, file: File, length: u64) -> Self {
        Self { name: name.into(), place: Place::File { file: Arc::new(file), offset: 0, length } }
    }

    /// Creates a blob of `bytes` in memory, called `name` in errors.
    pub(super) fn of_bytes(name: &str, bytes: Vec<u8>) -> Self {
        Self { name: name.into(), place: Place::Memory(bytes.into()) }
    }

    /// The blob `number` of `fetch`, which writes it to `spool`.
    pub(super) fn fetched(
        name: &str,
        fetch: Arc<dyn Fetch>,
        number: usize,
        spool: Arc<Spool>,
        length: Option<u64>,
    ) -> Self {
        Self { name: name.into(), place: Place::Fetched { fetch, number, spool, length } }
    }

    /// A stretch of this one, called `name` in errors; `None` where this is no file.
    pub(super) fn part(&self, name: &str, offset: u64, length: u64) -> Option<Self> {
        let Place::File { file, offset: start, .. } = &self.place else { return None };
        Some(Self { name: name.into(), place: Place::File { file: Arc::clone(file), offset: start + offset, length } })
    }

    /// It will be read.
    pub fn want(&self) {
        if let Place::Fetched { fetch, number, .. } = &self.place {
            Arc::clone(fetch).want(*number);
        }
    }

    /// Nobody needs it any more: who waits for it hears of that.
    pub fn give_up(&self) {
        if let Place::Fetched { spool, .. } = &self.place {
            spool.end(Err(Error::new(ErrorKind::Unavailable, GIVEN_UP)));
        }
    }

    /// Whether an error only says that it was given up.
    #[must_use]
    pub fn was_given_up(error: &Error) -> bool {
        error.chain().ends_with(GIVEN_UP)
    }

    /// What errors call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its length in bytes, where that is known before it is read.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        match &self.place {
            Place::File { length, .. } => Some(*length),
            Place::Memory(bytes) => Some(bytes.len() as u64),
            Place::Fetched { length, .. } => *length,
        }
    }

    /// Fills `buf` from `offset` on.
    ///
    /// # Errors
    /// Those of the file; `UnexpectedEof` past the end.
    pub fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        let mut filled = 0;
        while filled < buf.len() {
            match self.read_some(offset.saturating_add(filled as u64), &mut buf[filled..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Reads from `offset` on; 0 bytes at the end.
    fn read_some(&self, at: u64, buf: &mut [u8]) -> io::Result<usize> {
        match &self.place {
            Place::File { file, offset, length } => {
                let left = usize::try_from(length.saturating_sub(at)).unwrap_or(usize::MAX);
                let wanted = buf.len().min(left);
                let n = file.read_at(&mut buf[..wanted], offset + at)?;
                if n == 0 && wanted > 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "the file became shorter while it was read",
                    ));
                }
                Ok(n)
            }
            Place::Memory(bytes) => {
                let start = usize::try_from(at).map_or(bytes.len(), |at| at.min(bytes.len()));
                let n = buf.len().min(bytes.len() - start);
                buf[..n].copy_from_slice(&bytes[start..start + n]);
                Ok(n)
            }
            Place::Fetched { fetch, number, spool, .. } => {
                if !spool.ended() && spool.written() <= at {
                    Arc::clone(fetch).want(*number);
                    Arc::clone(fetch).begin();
                }
                spool.read_at(at, buf)
            }
        }
    }

    /// Reads it from its start.
    #[must_use]
    pub fn reader(&self) -> BlobReader {
        BlobReader { blob: self.clone(), at: 0 }
    }

    /// The bytes of a JSON document, which must be those of `digest` where there is one.
    pub(super) fn document(&self, digest: Option<ContentDigest>) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.reader().take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).map_err(|error| Error::io(&self.name, error))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            let length = self.length().map_or_else(|| "larger than that".to_owned(), size);
            let message =
                format!("{}: a JSON document can have {}, this one is {length}", self.name, size(MAX_DOCUMENT));
            return Err(Error::new(ErrorKind::Input, message));
        }
        match digest {
            Some(digest) if digest.same_of(&bytes) != digest => {
                Err(wrong_digest(&self.name, digest, digest.same_of(&bytes)))
            }
            _ => Ok(bytes),
        }
    }
}

/// Opens an image's file for reading: a regular file in place, a pipe by a copy in the temporary directory; `-` is standard input.
///
/// # Errors
/// Those of opening and reading it; `Input` for directories, devices and terminals.
pub(super) fn open_input(path: &Path, limits: Limits<'_>) -> Result<Blob> {
    let (name, input) = if path == Path::new("-") {
        let input = io::stdin().as_fd().try_clone_to_owned().map_err(|error| Error::io("standard input", error))?;
        ("standard input".to_owned(), File::from(input))
    } else {
        let metadata = path.metadata().map_err(|error| Error::file(path, error))?;
        // Of a pipe that is open already, as /dev/stdin and /dev/fd/N are, there is no path to resolve. A named one could wait for its
        // writer for ever, and is refused as what it is.
        if !metadata.file_type().is_fifo() || path.canonicalize().is_ok() {
            return Blob::open(path);
        }
        (path.display().to_string(), File::open(path).map_err(|error| Error::file(path, error))?)
    };
    if input.is_terminal() {
        let message = format!(
            "{name}: a terminal; pipe an archive into it, as in `docker save app | coldpress convert docker-archive:-`"
        );
        return Err(Error::new(ErrorKind::Input, message));
    }
    let metadata = input.metadata().map_err(|error| Error::io(&name, error))?;
    match metadata.is_file() && (&input).stream_position().is_ok_and(|at| at == 0) {
        true => Ok(Blob::of_file(&name, input, metadata.len())),
        false => Blob::spooled(&name, input, limits),
    }
}

/// What stands under a digest is something else.
pub(super) fn wrong_digest(name: &str, wanted: ContentDigest, found: ContentDigest) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{name}: its digest is {found}, expected {wanted}"))
}

/// Reads a blob from its start to its end.
#[derive(Debug)]
pub struct BlobReader {
    blob: Blob,
    at: u64,
}

impl Read for BlobReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.blob.read_some(self.at, buf)?;
        self.at += n as u64;
        Ok(n)
    }
}

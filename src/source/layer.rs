//! A layer's blob, inflated and checked: size and digest against its descriptor, DiffID against the config.
//!
//! The compression (gzip, zstd, xz, bzip2 or none) is told by the first bytes, as containerd does, since descriptors and docker
//! archives are often silent or wrong. zstd:chunked and eStargz are valid zstd and gzip streams.
//!
//! One thread inflates and hashes what goes in; the caller's hashes what comes out, while it is in its core's cache.

use std::io::{self, BufRead, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::GzDecoder;
use lzma_rust2::XzReader;

use super::blob::{Blob, BlobReader, wrong_digest};
use crate::digest::{ContentDigest, ContentHasher, Sha256, Sha256Hasher};
use crate::printable::size;
use crate::{Error, ErrorKind, Result};

/// Bytes that go from one thread to the next at once: enough that waking it costs little.
const PIECE: usize = 512 * 1024;
/// Bytes that are read of a blob at once.
const STORED_PIECE: usize = 128 * 1024;
/// Pieces that may wait between two threads.
const AHEAD: usize = 8;
/// Most memory that decoding xz may take, in KiB: `xz -9` needs 65 MiB, and a header can ask for 4 GiB.
const XZ_MEMORY_KIB: u32 = 96 << 10;

/// One layer, not yet read.
#[derive(Debug)]
pub struct LayerSource {
    /// Its bytes as stored.
    pub blob: Blob,
    /// What the descriptor says its bytes hash to.
    pub digest: Option<ContentDigest>,
    /// What the descriptor says its length is.
    pub size: Option<u64>,
    /// What the config says its uncompressed bytes hash to.
    pub diff_id: Option<Sha256>,
}

/// How a layer's blob is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    None,
    Gzip,
    Zstd,
    Xz,
    Bzip2,
}

impl Compression {
    /// What the usual program for it is called; `None` for bytes as they are.
    pub(super) fn name(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Gzip => Some("gzip"),
            Self::Zstd => Some("zstd"),
            Self::Xz => Some("xz"),
            Self::Bzip2 => Some("bzip2"),
        }
    }

    /// By the blob's first bytes; a zstd blob may start with a skippable frame.
    pub(super) fn detect(blob: &Blob) -> Result<Self> {
        let mut start = Vec::new();
        blob.reader().take(10).read_to_end(&mut start).map_err(|error| Error::io(blob.name(), error))?;
        Ok(match start[..] {
            [0x1F, 0x8B, ..] => Self::Gzip,
            [0x28, 0xB5, 0x2F, 0xFD, ..] | [0x50..=0x5F, 0x2A, 0x4D, 0x18, ..] => Self::Zstd,
            [0xFD, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            // With the first block's or the end's mark: a tar may begin with a file whose name begins with BZh.
            [b'B', b'Z', b'h', b'1'..=b'9', 0x31, 0x41, 0x59, 0x26, 0x53, 0x59]
            | [b'B', b'Z', b'h', b'1'..=b'9', 0x17, 0x72, 0x45, 0x38, 0x50, 0x90] => Self::Bzip2,
            _ => Self::None,
        })
    }
}

/// Some bytes on their way from one thread to the other.
type Piece = Arc<Vec<u8>>;

/// Buffers that are used again as soon as nobody holds them.
#[derive(Default)]
struct Pieces {
    ring: Vec<Piece>,
    next: usize,
}

impl Pieces {
    /// Fills a buffer from `reader` as far as it goes.
    fn fill(&mut self, reader: &mut impl Read) -> io::Result<Piece> {
        // As many as can wait, and what each thread holds.
        if self.ring.len() < AHEAD + 4 {
            self.ring.push(Arc::default());
            self.next = self.ring.len() - 1;
        }
        let slot = &mut self.ring[self.next];
        self.next = (self.next + 1) % (AHEAD + 4);
        if Arc::get_mut(slot).is_none() {
            *slot = Arc::default();
        }
        let buf = Arc::get_mut(slot).expect("nobody else holds it");
        buf.resize(PIECE, 0);
        let mut filled = 0;
        while filled < PIECE {
            match reader.read(&mut buf[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buf.truncate(filled);
        Ok(Arc::clone(slot))
    }
}

/// The blob's bytes on their way to a decoder.
struct Stored {
    blob: BlobReader,
    buf: Vec<u8>,
    used: usize,
    hasher: ContentHasher,
    bytes_read: Arc<AtomicU64>,
}

impl Stored {
    /// Returns whether the bytes that come next are `magic`, which are not consumed.
    fn comes_next(&mut self, magic: &[u8]) -> io::Result<bool> {
        while self.buf.len() - self.used < magic.len() {
            let mut more = [0; 64];
            let read = self.blob.read(&mut more)?;
            if read == 0 {
                return Ok(false);
            }
            self.buf.drain(..self.used);
            self.used = 0;
            self.take_in(read, |buf| buf.extend_from_slice(&more[..read]));
        }
        Ok(self.buf[self.used..].starts_with(magic))
    }

    /// Hashes and counts the last `read` bytes of the buffer, once `put` put them there.
    fn take_in(&mut self, read: usize, put: impl FnOnce(&mut Vec<u8>)) {
        put(&mut self.buf);
        self.hasher.update(&self.buf[self.buf.len() - read..]);
        self.bytes_read.fetch_add(read as u64, Ordering::Relaxed);
    }
}

impl BufRead for Stored {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.buf.len() {
            self.buf.resize(STORED_PIECE, 0);
            let read = self.blob.read(&mut self.buf)?;
            self.used = 0;
            self.take_in(read, |buf| buf.truncate(read));
        }
        Ok(&self.buf[self.used..])
    }

    fn consume(&mut self, n: usize) {
        self.used += n;
    }
}

impl Read for Stored {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let from = self.fill_buf()?;
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        self.consume(n);
        Ok(n)
    }
}

/// Inflates gzip members one behind the other. Bytes behind the last one that begin no further member are left unread, as gzip and
/// pigz leave them, with which docker inflates.
struct GzipMembers(Option<GzDecoder<Stored>>);

impl GzipMembers {
    fn new(stored: Stored) -> Self {
        Self(Some(GzDecoder::new(stored)))
    }

    fn into_inner(self) -> Stored {
        self.0.expect("there is one between two reads").into_inner()
    }
}

impl Read for GzipMembers {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let decoder = self.0.as_mut().expect("there is one between two reads");
            let read = decoder.read(buf)?;
            if read > 0 || buf.is_empty() || !decoder.get_mut().comes_next(&[0x1F, 0x8B])? {
                return Ok(read);
            }
            // Its member has ended, so nothing of the next one is in it.
            self.0 = self.0.take().map(|ended| GzDecoder::new(ended.into_inner()));
        }
    }
}

/// What the inflating thread sends.
enum Sent {
    Piece(Piece),
    /// All was read; the digest of the bytes as stored, where those are not the ones that were sent.
    End(Option<ContentDigest>),
    Failed(io::Error),
}

fn gone() -> io::Error {
    io::Error::other("nobody reads it any more")
}

/// Sends what `decoder` yields, to its end.
fn send_all(decoder: &mut impl Read, to: &SyncSender<Sent>, limit: u64, mut told: impl FnMut(usize)) -> io::Result<()> {
    let (mut pieces, mut left) = (Pieces::default(), limit);
    loop {
        // zstd's own errors are of no kind: its input is wrong.
        let ours = |error: &io::Error| error.get_ref().is_some_and(|inner| inner.is::<Error>());
        let wrong = |error: io::Error| match error.kind() {
            io::ErrorKind::Other | io::ErrorKind::Unsupported if !ours(&error) => {
                io::Error::new(io::ErrorKind::InvalidData, error)
            }
            io::ErrorKind::OutOfMemory => {
                let message = format!("decompression needs more than {} MiB of memory", XZ_MEMORY_KIB >> 10);
                io::Error::other(Error::new(ErrorKind::Input, message))
            }
            _ => error,
        };
        let piece = pieces.fill(decoder).map_err(wrong)?;
        if piece.is_empty() {
            return Ok(());
        }
        left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
            let message = format!("its decompressed size exceeds --max-size, which leaves {} for it", size(limit));
            io::Error::other(Error::new(ErrorKind::Input, message))
        })?;
        told(piece.len());
        to.send(Sent::Piece(piece)).map_err(|_| gone())?;
    }
}

/// Inflates all of `blob`; what stands behind the compressed stream counts for its digest.
fn inflate(
    mut blob: BlobReader,
    compression: Compression,
    digest: Option<ContentDigest>,
    to: &SyncSender<Sent>,
    limit: u64,
    bytes_read: Arc<AtomicU64>,
) -> io::Result<Option<ContentDigest>> {
    let stored = |blob| {
        let hasher = digest.map_or_else(|| ContentHasher::Sha256(Sha256Hasher::new()), |digest| digest.hasher());
        Stored { blob, buf: Vec::new(), used: 0, hasher, bytes_read: Arc::clone(&bytes_read) }
    };
    let mut stored = match compression {
        Compression::None if matches!(digest, Some(ContentDigest::Sha512(_))) => {
            let mut stored = stored(blob);
            send_all(&mut stored, to, limit, |_| ())?;
            stored
        }
        Compression::None => {
            // The bytes are the uncompressed ones: one hash serves both.
            send_all(&mut blob, to, limit, |n| _ = bytes_read.fetch_add(n as u64, Ordering::Relaxed))?;
            return Ok(None);
        }
        Compression::Gzip => {
            let mut decoder = GzipMembers::new(stored(blob));
            send_all(&mut decoder, to, limit, |_| ())?;
            decoder.into_inner()
        }
        Compression::Xz => {
            let mut decoder = XzReader::new_mem_limit(stored(blob), true, XZ_MEMORY_KIB);
            send_all(&mut decoder, to, limit, |_| ())?;
            decoder.into_inner()
        }
        Compression::Bzip2 => {
            let mut decoder = MultiBzDecoder::new(stored(blob));
            send_all(&mut decoder, to, limit, |_| ())?;
            decoder.into_inner()
        }
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(stored(blob))?;
            send_all(&mut decoder, to, limit, |_| ())?;
            decoder.finish()
        }
    };
    io::copy(&mut stored, &mut io::sink())?;
    Ok(Some(stored.hasher.finish()))
}

/// Reads a layer's uncompressed tar stream.
pub struct LayerReader<'a> {
    source: &'a LayerSource,
    sent: Receiver<Sent>,
    now: Piece,
    used: usize,
    hasher: Sha256Hasher,
    plain_bytes: u64,
    bytes_read: Arc<AtomicU64>,
    /// What [`Sent::End`] said.
    ended: Option<Option<ContentDigest>>,
    /// The thread that decompresses.
    thread: JoinHandle<()>,
}

impl LayerSource {
    /// Whether its bytes are a tar as they stand, so that no copy of them is needed.
    ///
    /// # Errors
    /// Those of reading the first bytes.
    pub fn is_plain(&self) -> Result<bool> {
        Ok(Compression::detect(&self.blob)? == Compression::None)
    }

    /// Opens it from its start; reading fails where it has more than `limit` bytes uncompressed.
    ///
    /// # Errors
    /// `Corrupt` where its size is not the descriptor's; those of the file.
    pub fn read(&self, limit: u64) -> Result<LayerReader<'_>> {
        if let (Some(size), Some(found)) = (self.size, self.blob.length())
            && size != found
        {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{}: its size is {found} bytes, its descriptor says {size}", self.blob.name()),
            ));
        }
        let compression = Compression::detect(&self.blob)?;
        let (to, sent) = sync_channel(AHEAD);
        let bytes_read = Arc::new(AtomicU64::new(0));
        let (blob, counter, digest) = (self.blob.reader(), Arc::clone(&bytes_read), self.digest);
        let work = move || {
            // Where the reader is gone, nobody wants to know.
            let _ = to.send(match inflate(blob, compression, digest, &to, limit, counter) {
                Ok(digest) => Sent::End(digest),
                Err(error) => Sent::Failed(error),
            });
        };
        let thread = std::thread::Builder::new().name("inflate".to_owned()).spawn(work);
        let thread = thread.map_err(|error| Error::io("a thread for a layer", error))?;
        Ok(LayerReader {
            source: self,
            sent,
            now: Arc::default(),
            used: 0,
            hasher: Sha256Hasher::new(),
            plain_bytes: 0,
            bytes_read,
            ended: None,
            thread,
        })
    }
}

impl LayerReader<'_> {
    /// The bytes that are there, more where there are none; empty at the end.
    fn piece(&mut self) -> io::Result<&[u8]> {
        if self.used == self.now.len() && self.ended.is_none() {
            // Given back before the next is taken, so that it can be used again.
            (self.now, self.used) = (Arc::default(), 0);
            match self.sent.recv() {
                Ok(Sent::Piece(piece)) => {
                    self.hasher.update(&piece);
                    self.plain_bytes += piece.len() as u64;
                    self.now = piece;
                }
                Ok(Sent::End(digest)) => self.ended = Some(digest),
                Ok(Sent::Failed(error)) => return Err(error),
                Err(_) => return Err(io::Error::other("its decompression thread ended early")),
            }
        }
        Ok(&self.now[self.used..])
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let from = self.piece()?;
        let n = from.len().min(buf.len());
        buf[..n].copy_from_slice(&from[..n]);
        self.used += n;
        Ok(n)
    }
}

impl LayerReader<'_> {
    /// How many of the blob's bytes were read so far: what progress counts.
    #[must_use]
    pub fn stored_bytes_read(&self) -> u64 {
        self.bytes_read.load(Ordering::Relaxed)
    }

    /// Stops reading, and waits until the decoder is gone with its memory, which for zstd may be 128 MiB.
    pub(super) fn close(self) {
        drop(self.sent);
        // Where the thread panicked, nothing is read of it any more.
        let _ = self.thread.join();
    }

    /// Reads what is left, and checks the whole; the layer's DiffID and its uncompressed length.
    ///
    /// # Errors
    /// `Corrupt`, naming the blob and both digests.
    pub fn finish(mut self) -> Result<(Sha256, u64)> {
        let name = self.source.blob.name();
        while !self.piece().map_err(|error| Error::io(name, error))?.is_empty() {
            self.used = self.now.len();
        }
        let diff_id = self.hasher.finish();
        let digest = self.ended.flatten().unwrap_or(ContentDigest::Sha256(diff_id));
        if let Some(wanted) = self.source.digest.filter(|wanted| *wanted != digest) {
            return Err(wrong_digest(name, wanted, digest));
        }
        match self.source.diff_id {
            Some(wanted) if wanted != diff_id => Err(Error::new(
                ErrorKind::Corrupt,
                format!("{name}: its decompressed digest (DiffID) is {diff_id}, the image config says {wanted}"),
            )),
            _ => Ok((diff_id, self.plain_bytes)),
        }
    }
}

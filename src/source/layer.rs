//! A layer's blob, inflated and checked: size and digest against its descriptor, DiffID against the config.
//!
//! The compression is told by the first bytes, as containerd does, since descriptors and docker archives are often silent
//! or wrong. zstd:chunked and eStargz are valid zstd and gzip streams.

use std::io::{self, BufReader, Read};

use flate2::read::MultiGzDecoder;

use super::blob::{Blob, BlobReader, wrong_digest};
use crate::digest::{HashingReader, Sha256};
use crate::{Error, ErrorKind, Result};

/// One layer, not yet read.
#[derive(Debug)]
pub struct LayerSource {
    /// Its bytes as stored.
    pub blob: Blob,
    /// What the descriptor says its bytes hash to.
    pub digest: Option<Sha256>,
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
}

impl Compression {
    /// By the blob's first bytes; a zstd blob may start with a skippable frame.
    pub(super) fn detect(blob: &Blob) -> Result<Self> {
        let mut magic = [0; 4];
        let length = blob.length().min(4);
        let start = &mut magic[..usize::try_from(length).expect("at most 4")];
        blob.read_at(0, start).map_err(|error| Error::io(blob.name(), error))?;
        Ok(match magic {
            [0x1F, 0x8B, _, _] => Self::Gzip,
            [0x28, 0xB5, 0x2F, 0xFD] | [0x50..=0x5F, 0x2A, 0x4D, 0x18] => Self::Zstd,
            _ => Self::None,
        })
    }
}

type Stored = BufReader<HashingReader<BlobReader>>;

enum Decoder {
    Plain(BlobReader),
    Gzip(Box<MultiGzDecoder<Stored>>),
    Zstd(Box<zstd::Decoder<'static, Stored>>),
}

impl Read for Decoder {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(inner) => inner.read(buf),
            Self::Gzip(inner) => inner.read(buf),
            Self::Zstd(inner) => inner.read(buf),
        }
    }
}

/// Reads a layer's uncompressed tar stream.
pub struct LayerReader<'a> {
    source: &'a LayerSource,
    decoder: HashingReader<Decoder>,
}

impl LayerSource {
    /// Whether its bytes are a tar as they stand, so that no copy of them is needed.
    ///
    /// # Errors
    /// Those of reading the first bytes.
    pub fn is_plain(&self) -> Result<bool> {
        Ok(Compression::detect(&self.blob)? == Compression::None)
    }

    /// Opens it from its start.
    ///
    /// # Errors
    /// `Corrupt` where its size is not the descriptor's; those of the file.
    pub fn read(&self) -> Result<LayerReader<'_>> {
        if let Some(size) = self.size.filter(|size| *size != self.blob.length()) {
            let found = self.blob.length();
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{}: {found} bytes, its descriptor says {size}", self.blob.name()),
            ));
        }
        let stored = || BufReader::with_capacity(128 * 1024, HashingReader::new(self.blob.reader()));
        let decoder = match Compression::detect(&self.blob)? {
            Compression::None => Decoder::Plain(self.blob.reader()),
            Compression::Gzip => Decoder::Gzip(Box::new(MultiGzDecoder::new(stored()))),
            Compression::Zstd => {
                let decoder =
                    zstd::Decoder::with_buffer(stored()).map_err(|error| Error::io(self.blob.name(), error))?;
                Decoder::Zstd(Box::new(decoder))
            }
        };
        Ok(LayerReader { source: self, decoder: HashingReader::new(decoder) })
    }
}

impl Read for LayerReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buf)
    }
}

impl LayerReader<'_> {
    /// How many of the blob's bytes were read so far: what progress counts.
    #[must_use]
    pub fn stored_bytes_read(&self) -> u64 {
        match self.decoder.get_ref() {
            Decoder::Plain(_) => self.decoder.bytes_read(),
            Decoder::Gzip(inner) => inner.get_ref().get_ref().bytes_read(),
            Decoder::Zstd(inner) => inner.get_ref().get_ref().bytes_read(),
        }
    }

    /// Reads what is left, and checks the whole; the layer's DiffID and its uncompressed length.
    ///
    /// # Errors
    /// `Corrupt`, naming the blob and both digests.
    pub fn finish(mut self) -> Result<(Sha256, u64)> {
        let name = self.source.blob.name();
        let fail = |error| Error::io(name, error);
        io::copy(&mut self.decoder, &mut io::sink()).map_err(fail)?;
        let (decoder, diff_id, length) = self.decoder.into_parts();
        let stored = match decoder {
            Decoder::Plain(_) => None,
            Decoder::Gzip(inner) => Some(inner.into_inner()),
            Decoder::Zstd(inner) => Some(inner.finish()),
        };
        let digest = match stored {
            // The bytes are the uncompressed ones: one hash serves both.
            None => diff_id,
            Some(mut stored) => {
                // What stands behind the compressed stream counts for the digest.
                io::copy(&mut stored, &mut io::sink()).map_err(fail)?;
                stored.into_inner().finish().0
            }
        };
        if let Some(wanted) = self.source.digest.filter(|wanted| *wanted != digest) {
            return Err(wrong_digest(name, wanted, digest));
        }
        match self.source.diff_id {
            Some(wanted) if wanted != diff_id => Err(Error::new(
                ErrorKind::Corrupt,
                format!("{name}: uncompressed it is {diff_id}, but the image config says {wanted}"),
            )),
            _ => Ok((diff_id, length)),
        }
    }
}

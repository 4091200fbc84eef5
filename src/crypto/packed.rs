//! The packed form of a chunk: exactly the bytes that AES-GCM sees (docs/reference/formats/sealed-chunk.md).
//!
//! A chunk is trimmed of its trailing zeros, compressed by a codec, and padded with zeros to a multiple of 4 KiB, so that the
//! stored size reveals a 4 KiB class and not the compressed length. A change of any rule here changes stored bytes.

use std::fmt;
use std::str::FromStr;

use zstd::zstd_safe;

use crate::CHUNK_SIZE;

const CHUNK: usize = CHUNK_SIZE as usize;
/// Packed lengths are multiples of this.
pub const PAD: usize = 4096;
/// Maximum length of a packed chunk, in bytes: an incompressible chunk as a zstd frame, padded.
pub const MAX_PACKED: usize = CHUNK + PAD;

/// The compression of chunks before encryption.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Codec {
    /// No compression.
    None,
    /// One zstd frame.
    Zstd {
        /// 1 to 19.
        level: i8,
    },
}

impl Codec {
    /// The default codec; docs/design.md, "Compression", has the measurements.
    pub const DEFAULT: Self = Self::Zstd { level: 1 };

    /// Returns the codec's number and level in a recipe.
    #[must_use]
    pub fn id(self) -> (u8, i8) {
        match self {
            Self::None => (0, 0),
            Self::Zstd { level } => (1, level),
        }
    }

    /// Returns the codec of a number and level in a recipe; `None` where there is none.
    #[must_use]
    pub fn from_id(id: u8, level: i8) -> Option<Self> {
        match (id, level) {
            (0, 0) => Some(Self::None),
            (1, 1..=19) => Some(Self::Zstd { level }),
            _ => None,
        }
    }

    /// Returns the version of the compression library as a number, 0 for no compression. It is part of the recipe, since another
    /// version may give other bytes.
    #[must_use]
    pub fn version(self) -> u32 {
        match self {
            Self::None => 0,
            Self::Zstd { .. } => zstd_safe::version_number(),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
        }
    }
}

/// A text that is not the name of a codec.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a compression; use none, zstd or zstd:LEVEL with a level from 1 to 19")]
pub struct ParseCodecError(String);

impl FromStr for Codec {
    type Err = ParseCodecError;

    fn from_str(text: &str) -> Result<Self, ParseCodecError> {
        let level = match text {
            "none" => return Ok(Self::None),
            "zstd" => Some(1),
            _ => text.strip_prefix("zstd:").and_then(|level| level.parse().ok()),
        };
        level.and_then(|level| Self::from_id(1, level)).ok_or_else(|| ParseCodecError(text.to_owned()))
    }
}

/// Returns `chunk` without its trailing zeros.
#[must_use]
pub fn trimmed(chunk: &[u8]) -> &[u8] {
    &chunk[..trimmed_length(chunk)]
}

/// Returns the length of `chunk` without its trailing zeros.
#[must_use]
pub fn trimmed_length(chunk: &[u8]) -> usize {
    // Whole words first: most chunks of a sparse device end in long runs of zeros.
    let mut end = chunk.len();
    while end >= 64 && chunk[end - 64..end] == [0; 64] {
        end -= 64;
    }
    while end > 0 && chunk[end - 1] == 0 {
        end -= 1;
    }
    end
}

/// Packs chunks with one codec, and reuses its buffers.
pub struct Packer {
    compressor: Option<(zstd::bulk::Compressor<'static>, Vec<u8>)>,
}

impl Packer {
    /// Creates a packer for `codec`.
    #[must_use]
    pub fn new(codec: Codec) -> Self {
        let compressor = match codec {
            Codec::None => None,
            Codec::Zstd { level } => {
                let compressor = zstd::bulk::Compressor::new(level.into());
                Some((compressor.expect("zstd takes every level from 1 to 19"), Vec::with_capacity(MAX_PACKED)))
            }
        };
        Self { compressor }
    }

    /// Packs `chunk`, a chunk without its trailing zeros, and returns its packed form. Without compression, `chunk` is packed in
    /// place.
    pub fn pack<'a>(&'a mut self, chunk: &'a mut Vec<u8>) -> &'a mut Vec<u8> {
        let packed = match &mut self.compressor {
            None => chunk,
            Some((compressor, packed)) => {
                packed.clear();
                packed.reserve(MAX_PACKED);
                compressor.compress_to_buffer(chunk, packed).expect("the buffer holds the longest frame of a chunk");
                packed
            }
        };
        packed.resize(packed.len().next_multiple_of(PAD), 0);
        packed
    }
}

/// Bytes that are not a packed chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("its compressed form is not one of this format")]
pub struct UnpackError;

/// Unpacks `packed` into `chunk`, and fills the rest of `chunk` with zeros.
///
/// # Errors
/// [`UnpackError`] for bytes that [`Packer::pack`] cannot return.
pub fn unpack(codec: Codec, packed: &[u8], chunk: &mut [u8]) -> Result<(), UnpackError> {
    if packed.is_empty() || !packed.len().is_multiple_of(PAD) {
        return Err(UnpackError);
    }
    let written = match codec {
        Codec::None => {
            chunk.get_mut(..packed.len()).ok_or(UnpackError)?.copy_from_slice(packed);
            packed.len()
        }
        Codec::Zstd { .. } => {
            let frame = zstd_safe::find_frame_compressed_size(packed).map_err(|_| UnpackError)?;
            let (frame, padding) = packed.split_at_checked(frame).ok_or(UnpackError)?;
            if padding.len() >= PAD || padding.iter().any(|&byte| byte != 0) {
                return Err(UnpackError);
            }
            zstd::bulk::decompress_to_buffer(frame, chunk).map_err(|_| UnpackError)?
        }
    };
    chunk[written..].fill(0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunks() -> Vec<Vec<u8>> {
        let mut state = 1u32;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        });
        let noise: Vec<u8> = noise.take(CHUNK).collect();
        vec![vec![7; CHUNK], noise.clone(), noise[..5000].to_vec(), b"x".to_vec(), noise[..4096].to_vec()]
    }

    #[test]
    fn every_chunk_survives_every_codec() {
        for codec in [Codec::None, Codec::Zstd { level: 1 }, Codec::Zstd { level: 19 }] {
            let mut packer = Packer::new(codec);
            for bytes in chunks() {
                let mut made = trimmed(&bytes).to_vec();
                let packed = packer.pack(&mut made);
                assert!(packed.len().is_multiple_of(PAD) && packed.len() <= MAX_PACKED);
                let mut chunk = vec![0xEE; CHUNK];
                unpack(codec, packed, &mut chunk).unwrap();
                assert_eq!(trimmed(&chunk), trimmed(&bytes));
            }
        }
    }

    #[test]
    fn trailing_zeros_are_not_counted() {
        for (zeros, data) in [(0, 0), (1, 0), (64, 0), (200, 0), (0, 70), (1, 70), (63, 1), (64, 70), (1000, 64)] {
            let chunk = [vec![0; data / 2], vec![1; data - data / 2], vec![0; zeros]].concat();
            assert_eq!((trimmed_length(&chunk), trimmed(&chunk)), (data, &chunk[..data]), "{zeros} behind {data}");
        }
    }

    #[test]
    fn only_what_is_packed_unpacks() {
        let mut chunk = vec![0; CHUNK];
        assert!(unpack(Codec::None, &[], &mut chunk).is_err());
        assert!(unpack(Codec::None, &[1; 100], &mut chunk).is_err());
        assert!(unpack(Codec::None, &vec![1; CHUNK + PAD], &mut chunk).is_err());
        let mut packed = Packer::new(Codec::DEFAULT).pack(&mut b"abc".to_vec()).clone();
        *packed.last_mut().unwrap() = 1;
        assert!(unpack(Codec::DEFAULT, &packed, &mut chunk).is_err());
        assert!(unpack(Codec::DEFAULT, &[0; PAD], &mut chunk).is_err());
    }

    #[test]
    fn codecs_are_read_as_they_are_shown() {
        for text in ["none", "zstd:1", "zstd:19"] {
            assert_eq!(text.parse::<Codec>().unwrap().to_string(), text);
        }
        assert_eq!("zstd".parse(), Ok(Codec::DEFAULT));
        for bad in ["zstd:0", "zstd:20", "gzip", ""] {
            assert!(bad.parse::<Codec>().is_err(), "{bad}");
        }
    }
}

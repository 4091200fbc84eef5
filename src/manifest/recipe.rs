//! The recipe of a block manifest (docs/reference/formats/block-manifest.md, "Clear part").

use super::codec::{DecodeError, Decoder, Encoder};
use crate::CHUNK_SIZE;
use crate::crypto::Codec;

/// The parameters that determine a device's bytes besides the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The layout epoch.
    pub epoch: u16,
    /// The codec of the chunks.
    pub codec: Codec,
    /// The version of the codec's library.
    pub codec_version: u32,
    /// The value of `--free`, in bytes.
    pub free: u64,
    /// The platform of the image; empty where it is unknown.
    pub platform: String,
}

impl Recipe {
    pub(super) fn encode(&self, out: &mut Encoder) {
        let (codec, level) = self.codec.id();
        out.u16(self.epoch);
        out.u8(codec);
        out.raw(&level.to_le_bytes());
        out.u32(self.codec_version);
        out.u32(CHUNK_SIZE);
        out.u64(self.free);
        out.text(&self.platform);
    }

    pub(super) fn decode(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let epoch = from.u16()?;
        let (codec, [level]) = (from.u8()?, from.array::<1>()?);
        let codec = Codec::from_id(codec, level.cast_signed()).ok_or(DecodeError("has an unknown codec"))?;
        let codec_version = from.u32()?;
        if (codec == Codec::None) != (codec_version == 0) {
            return Err(DecodeError("has an impossible version of its codec's library"));
        }
        if from.u32()? != CHUNK_SIZE {
            return Err(DecodeError("has chunks of another size than 512 KiB"));
        }
        Ok(Self { epoch, codec, codec_version, free: from.u64()?, platform: from.text()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_of_the_library_belongs_to_a_codec() {
        let decoded = |codec, codec_version| {
            let recipe = Recipe { epoch: 1, codec, codec_version, free: 0, platform: String::new() };
            let mut out = Encoder::default();
            recipe.encode(&mut out);
            Recipe::decode(&mut Decoder(&out.0)).is_ok_and(|found| found == recipe)
        };
        let zstd = Codec::from_id(1, 3).unwrap();
        assert!(decoded(Codec::None, 0) && decoded(zstd, 10_507));
        assert!(!decoded(zstd, 0), "zstd without a version");
        assert!(!decoded(Codec::None, 10_507), "a version of no library");
    }
}

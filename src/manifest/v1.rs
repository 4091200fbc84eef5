//! Block manifest, version 1: encoding and decoding, byte by byte as docs/reference/formats/block-manifest.md specifies.
//!
//! `magic version | lengths | wraps | clear | sealed`. Magic, version and the clear part are associated data of the sealed part;
//! the wraps are not, so that a wrapping key can be replaced alone. Decoding trusts nothing: lengths are checked before use, the
//! names must be a sorted set, and the root digest is computed again.

use std::collections::BTreeMap;

use super::chunk_ref::ChunkRef;
use super::codec::{DecodeError, Decoder, Encoder};
use super::recipe::Recipe;
use super::root_digest::root_digest;
use crate::crypto::convergent::TAG;
use crate::crypto::packed::{MAX_PACKED, PAD};
use crate::crypto::{ChunkKey, ScopeId, Secret, UnwrapError};
use crate::digest::{Blake3, Sha256};
use crate::keys::wrap::{EncryptionContext, KeyWrap, Wrap, altered};
use crate::store::{RootId, is_store_hint};
use crate::{CHUNK_SIZE, ChunkIndex, Error, ErrorKind, Result};

const MAGIC: &[u8; 8] = b"\x89CPM\r\n\x1a\n";
/// The version of the format that is written, and the only one that is read.
pub const VERSION: u16 = 1;
/// Length of magic, version and reserved bits, in bytes.
const PREFIX: usize = 12;
/// Maximum length of a block manifest, in bytes; that of a 16 TiB device is below.
pub const MAX_BYTES: u64 = 4 << 30;
/// Length of the fixed part at the start, in bytes.
pub const HEAD_BYTES: u64 = 24;

/// The clear part: enough for garbage collection, scrubbing and counting without a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Clear {
    /// The parameters that determine the device's bytes besides the image.
    pub recipe: Recipe,
    /// The root under which the chunks are stored and collected.
    pub root: RootId,
    /// The dedup scope.
    pub scope: ScopeId,
    /// A stable name for use in key policies; part of the encryption context.
    pub application: String,
    /// The root digest, which pins everything that a reader needs.
    pub root_digest: Sha256,
    /// The names of all chunks, each once, ascending.
    pub names: Vec<Sha256>,
}

/// A layer of the image, for reports.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LayerInfo {
    /// The digest of the uncompressed tar.
    pub diff_id: Sha256,
    /// The index of the first chunk of the layer's segment.
    pub first_chunk: u32,
    /// The number of chunks in the segment.
    pub chunks: u32,
    /// The length of the uncompressed tar, in bytes.
    pub tar_bytes: u64,
}

/// The decrypted content of the sealed part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The device's size in chunks.
    pub device_chunks: u32,
    /// The chunks that are not all zero, ascending.
    pub chunks: Vec<ChunkRef>,
    /// The image digest, of plaintext and config.
    pub image_digest: Blake3,
    /// The image's config in its normal form.
    pub config: String,
    /// The key of the commitment to the config.
    pub config_key: Secret,
    /// The OCI manifest that the image came from.
    pub source: Option<Sha256>,
    /// The store to which the chunks were uploaded, as a hint.
    pub store: String,
    /// The image's layers.
    pub layers: Vec<LayerInfo>,
}

/// A block manifest whose sealed part is not decrypted.
///
/// ```
/// use coldpress::keys::KeyFile;
/// use coldpress::manifest::BlockManifest;
///
/// let bytes = std::fs::read("testdata/vectors/zstd.cpm")?;
/// let key = KeyFile::decode(&std::fs::read_to_string("testdata/vectors/published-test.key")?)?;
/// let manifest = BlockManifest::decode(&bytes)?;
/// // The clear part needs no key.
/// assert_eq!(manifest.clear.names.len(), 5);
/// let manifest = manifest.open(&key)?;
/// assert_eq!(manifest.device_bytes(), 86_507_520);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct BlockManifest {
    /// The clear part.
    pub clear: Clear,
    wraps: Vec<Wrap>,
    /// Magic, version and clear part as they are in the file.
    associated: Vec<u8>,
    sealed: Vec<u8>,
}

/// A block manifest whose sealed part is decrypted and checked.
#[derive(Debug, Clone)]
pub struct OpenManifest {
    /// The clear part.
    pub clear: Clear,
    /// The sealed part.
    pub sealed: Sealed,
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Error::new(ErrorKind::Corrupt, format!("not a valid block manifest: it {error}"))
    }
}

impl OpenManifest {
    /// Returns the number of chunks in front of the first layer's segment: those of the file system's metadata.
    #[must_use]
    pub fn metadata_chunks(&self) -> usize {
        let layers = self.sealed.layers.iter().filter(|layer| layer.chunks > 0);
        let first = layers.map(|layer| layer.first_chunk).min().unwrap_or(0);
        self.sealed.chunks.partition_point(|chunk| chunk.index.0 < first)
    }

    /// Encodes the file, encrypted under a fresh data key that `key` wraps.
    ///
    /// # Errors
    /// Those of `key`.
    pub fn encode(&self, key: &dyn KeyWrap) -> Result<Vec<u8>> {
        let (data_key, wrap) = key.new_data_key(&self.clear.context())?;
        let associated = associated(&self.clear.encode());
        let mut sealed = self.sealed.encode(&self.clear.names);
        data_key.seal(&associated, &mut sealed);
        Ok(encode_file(&[wrap], &associated, &sealed))
    }

    /// Returns the chunk at `index`; `None` where it is all zero.
    #[must_use]
    pub fn chunk(&self, index: ChunkIndex) -> Option<&ChunkRef> {
        let at = self.sealed.chunks.binary_search_by_key(&index, |chunk| chunk.index).ok()?;
        Some(&self.sealed.chunks[at])
    }

    /// Returns the device's size in bytes.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        u64::from(self.sealed.device_chunks) * u64::from(CHUNK_SIZE)
    }
}

impl BlockManifest {
    /// Encodes the file: the same bytes that were decoded.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode_file(&self.wraps, &self.associated, &self.sealed)
    }

    /// Decodes the clear part and the wraps; the sealed part is not decrypted.
    ///
    /// # Errors
    /// `Corrupt` or `Unsupported`.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (mut from, lengths) = Self::prefix(bytes)?;
        let mut part = |at: usize| from.raw(usize::try_from(lengths[at]).map_err(|_| DecodeError("is truncated"))?);
        let (wraps, clear, sealed) = (part(0)?, part(1)?, part(2)?.to_vec());
        from.end()?;
        Ok(Self { clear: Clear::decode(clear)?, wraps: decode_wraps(wraps)?, associated: associated(clear), sealed })
    }

    /// Returns the length in bytes of the block manifest that begins with `start`, which has at least [`HEAD_BYTES`] bytes.
    ///
    /// # Errors
    /// As [`BlockManifest::decode`].
    pub fn length(start: &[u8]) -> Result<u64> {
        let (_, lengths) = Self::prefix(start)?;
        Ok(HEAD_BYTES + lengths.into_iter().map(u64::from).sum::<u64>())
    }

    fn prefix(bytes: &[u8]) -> Result<(Decoder<'_>, [u32; 3])> {
        let mut from = Decoder(bytes);
        if from.array::<8>()? != *MAGIC {
            return Err(DecodeError("does not begin with the magic bytes of one").into());
        }
        let (version, reserved) = (from.u16()?, from.u16()?);
        if version != VERSION {
            let message = format!("a block manifest of version {version}; this program reads version {VERSION}");
            return Err(Error::new(ErrorKind::Unsupported, message));
        }
        if reserved != 0 {
            return Err(DecodeError("has reserved bits set").into());
        }
        let lengths = [from.u32()?, from.u32()?, from.u32()?];
        Ok((from, lengths))
    }

    /// Returns how many bytes of the block manifest that begins with `start` [`BlockManifest::decode_clear`] needs.
    ///
    /// # Errors
    /// As [`BlockManifest::decode`].
    pub fn clear_end(start: &[u8]) -> Result<u64> {
        let (_, [wraps, clear, _]) = Self::prefix(start)?;
        Ok(HEAD_BYTES + u64::from(wraps) + u64::from(clear))
    }

    /// Decodes the clear part from the first [`BlockManifest::clear_end`] bytes.
    ///
    /// # Errors
    /// As [`BlockManifest::decode`].
    pub fn decode_clear(start: &[u8]) -> Result<Clear> {
        let (mut from, [wraps, clear, _]) = Self::prefix(start)?;
        let mut part = |length| from.raw(usize::try_from(length).map_err(|_| DecodeError("is truncated"))?);
        let (wraps, clear) = (part(wraps)?, part(clear)?);
        from.end()?;
        decode_wraps(wraps)?;
        Ok(Clear::decode(clear)?)
    }

    /// Returns a digest of root, application and wrapping keys, which distinguishes block manifests of one root digest.
    #[must_use]
    pub fn identity(&self) -> Sha256 {
        let mut out = Encoder::default();
        out.text(self.clear.root.as_str());
        out.text(&self.clear.application);
        for wrap in &self.wraps {
            out.u8(wrap.kind);
            out.bytes(&wrap.key_id);
        }
        Sha256::of(&out.0)
    }

    /// Decrypts the sealed part, and checks all of it against the root digest.
    ///
    /// # Errors
    /// `Denied` where the key is not one of the manifest's, `Corrupt` where anything was altered; those of a key service.
    pub fn open(mut self, key: &dyn KeyWrap) -> Result<OpenManifest> {
        let data_key = key.unwrap(&self.wraps, &self.clear.context())?;
        let plain = data_key.open(&self.associated, &mut self.sealed).map_err(|UnwrapError| altered())?;
        let sealed = Sealed::decode(plain, &self.clear.names);
        zeroize::Zeroize::zeroize(&mut self.sealed);
        let sealed = sealed?;
        let found = root_digest(
            &self.clear.recipe,
            sealed.device_chunks,
            &sealed.chunks,
            &sealed.config,
            &sealed.config_key,
            sealed.image_digest,
        );
        if found != self.clear.root_digest {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the manifest says root digest {}, its chunks and config have {found}", self.clear.root_digest),
            ));
        }
        Ok(OpenManifest { clear: self.clear, sealed })
    }

    /// Encodes the file with the data key wrapped by `to` alone; no byte of the clear and the sealed part changes.
    ///
    /// # Errors
    /// Those of [`BlockManifest::open`] under `from`, and of `to`.
    pub fn rewrap(&self, from: &dyn KeyWrap, to: &dyn KeyWrap) -> Result<Vec<u8>> {
        // A manifest that its old key cannot decrypt must not be wrapped for a new one.
        self.clone().open(from)?;
        let context = self.clear.context();
        let wrap = to.wrap(&from.unwrap(&self.wraps, &context)?, &context)?;
        Ok(encode_file(&[wrap], &self.associated, &self.sealed))
    }

    /// Returns the manifest unchanged if its root digest is the expected one, or if none is expected.
    ///
    /// # Errors
    /// `Denied`, naming both.
    pub fn expect(self, wanted: Option<Sha256>) -> Result<Self> {
        match wanted {
            Some(wanted) if wanted != self.clear.root_digest => {
                let message =
                    format!("its root digest is {}, not the expected {wanted} (--expect)", self.clear.root_digest);
                Err(Error::new(ErrorKind::Denied, message))
            }
            _ => Ok(self),
        }
    }
}

fn associated(clear: &[u8]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.raw(MAGIC);
    out.u16(VERSION);
    out.u16(0);
    out.raw(clear);
    out.0
}

fn encode_file(wraps: &[Wrap], associated: &[u8], sealed: &[u8]) -> Vec<u8> {
    let (prefix, clear) = associated.split_at(PREFIX);
    let (wraps, mut out) = (encode_wraps(wraps), Encoder::default());
    out.raw(prefix);
    for part in [&wraps, clear, sealed] {
        out.count(part.len());
    }
    for part in [&wraps, clear, sealed] {
        out.raw(part);
    }
    out.0
}

fn encode_wraps(wraps: &[Wrap]) -> Vec<u8> {
    let mut out = Encoder::default();
    out.u16(u16::try_from(wraps.len()).expect("few wrapping keys"));
    for wrap in wraps {
        out.u8(wrap.kind);
        out.bytes(&wrap.key_id);
        out.bytes(&wrap.blob);
    }
    out.0
}

/// Decodes the wraps, also those of unknown kinds: a later version may have added one.
fn decode_wraps(bytes: &[u8]) -> Result<Vec<Wrap>, DecodeError> {
    let mut from = Decoder(bytes);
    let mut wraps = Vec::new();
    for _ in 0..from.u16()? {
        wraps.push(Wrap { kind: from.u8()?, key_id: from.bytes()?.to_vec(), blob: from.bytes()?.to_vec() });
    }
    from.end()?;
    Ok(wraps)
}

impl Clear {
    fn context(&self) -> EncryptionContext {
        EncryptionContext { root_digest: self.root_digest, application: self.application.clone() }
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Encoder::default();
        self.recipe.encode(&mut out);
        out.text(self.root.as_str());
        out.raw(self.scope.as_bytes());
        out.text(&self.application);
        out.raw(self.root_digest.as_bytes());
        out.count(self.names.len());
        for name in &self.names {
            out.raw(name.as_bytes());
        }
        out.0
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let mut from = Decoder(bytes);
        let recipe = Recipe::decode(&mut from)?;
        let root = from.text()?.parse().map_err(|_| DecodeError("has an invalid root id"))?;
        let scope = ScopeId::from_bytes(from.array()?);
        let application = from.text()?;
        let root_digest = from.sha256()?;
        let count = from.count(32)?;
        let mut names: Vec<Sha256> = Vec::with_capacity(count);
        for _ in 0..count {
            let name = from.sha256()?;
            if names.last().is_some_and(|last| *last >= name) {
                return Err(DecodeError("has chunk names that are not a sorted set"));
            }
            names.push(name);
        }
        from.end()?;
        Ok(Self { recipe, root, scope, application, root_digest, names })
    }
}

impl Sealed {
    fn encode(&self, names: &[Sha256]) -> Vec<u8> {
        let mut out = Encoder::default();
        out.u32(self.device_chunks);
        out.raw(self.image_digest.as_bytes());
        out.bytes(self.config.as_bytes());
        out.raw(self.config_key.expose());
        out.u8(self.source.is_some().into());
        out.raw(self.source.map_or([0; 32], |digest| *digest.as_bytes()).as_slice());
        out.text(&self.store);
        out.count(self.layers.len());
        for layer in &self.layers {
            out.raw(layer.diff_id.as_bytes());
            out.u32(layer.first_chunk);
            out.u32(layer.chunks);
            out.u64(layer.tar_bytes);
        }
        let by_name: BTreeMap<_, _> = self.chunks.iter().map(|chunk| (chunk.name, chunk)).collect();
        for name in names {
            let chunk = by_name[name];
            out.raw(chunk.key.expose());
            out.u32(chunk.stored);
        }
        out.count(self.chunks.len());
        for chunk in &self.chunks {
            out.u32(chunk.index.0);
            out.count(names.binary_search(&chunk.name).expect("the names are the chunks'"));
        }
        out.0
    }

    /// Decodes the plaintext of the sealed part, for a clear part with `names`.
    ///
    /// # Errors
    /// [`DecodeError`], which names the fault.
    pub fn decode(bytes: &[u8], names: &[Sha256]) -> Result<Self, DecodeError> {
        let mut from = Decoder(bytes);
        let device_chunks = from.u32()?;
        let image_digest = Blake3::from_bytes(from.array()?);
        let config =
            std::str::from_utf8(from.bytes()?).map_err(|_| DecodeError("has a config that is not UTF-8"))?.to_owned();
        let config_key = Secret::from_bytes(from.array()?);
        let source = match (from.u8()?, from.sha256()?) {
            (0, zero) if *zero.as_bytes() == [0; 32] => None,
            (1, digest) => Some(digest),
            _ => return Err(DecodeError("has an invalid source digest")),
        };
        let store = from.text()?;
        if !is_store_hint(&store) {
            return Err(DecodeError("has a store that is neither an absolute path nor a bucket"));
        }
        let mut layers = Vec::new();
        for _ in 0..from.count(48)? {
            let (diff_id, first_chunk, chunks, tar_bytes) = (from.sha256()?, from.u32()?, from.u32()?, from.u64()?);
            layers.push(LayerInfo { diff_id, first_chunk, chunks, tar_bytes });
        }
        let mut keys = Vec::new();
        for _ in names {
            let (key, stored) = (ChunkKey::from_bytes(from.array()?), from.u32()?);
            let packed = usize::try_from(stored).unwrap_or(usize::MAX).wrapping_sub(TAG);
            if packed == 0 || !packed.is_multiple_of(PAD) || packed > MAX_PACKED {
                return Err(DecodeError("has a chunk of an impossible length"));
            }
            keys.push((key, stored));
        }
        let chunks = decode_chunks(&mut from, device_chunks, names, &keys)?;
        from.end()?;
        Ok(Self { device_chunks, chunks, image_digest, config, config_key, source, store, layers })
    }
}

fn decode_chunks(
    from: &mut Decoder<'_>,
    device_chunks: u32,
    names: &[Sha256],
    keys: &[(ChunkKey, u32)],
) -> Result<Vec<ChunkRef>, DecodeError> {
    let count = from.count(8)?;
    let mut chunks: Vec<ChunkRef> = Vec::with_capacity(count);
    let mut used = vec![false; names.len()];
    for _ in 0..count {
        let (index, at) = (ChunkIndex(from.u32()?), usize::try_from(from.u32()?).unwrap_or(usize::MAX));
        if index.0 >= device_chunks || chunks.last().is_some_and(|last| last.index >= index) {
            return Err(DecodeError("has chunks that do not ascend on the device"));
        }
        let (name, (key, stored)) = names.get(at).zip(keys.get(at)).ok_or(DecodeError("has a chunk without a name"))?;
        used[at] = true;
        chunks.push(ChunkRef { index, name: *name, key: key.clone(), stored: *stored });
    }
    if used.contains(&false) {
        return Err(DecodeError("has a name without a chunk"));
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use super::super::chunk_ref::names_of;
    use super::*;
    use crate::crypto::Codec;
    use crate::keys::WrappingKey;

    const APART: u32 = 1 << 20;

    /// Chunks 3 and 5 of 6, and a clear part that names them.
    fn manifest() -> OpenManifest {
        let chunk = |index: u32, byte: u8| ChunkRef {
            index: ChunkIndex(index),
            name: Sha256::from_bytes([byte; 32]),
            key: ChunkKey::from_bytes([byte + 1; 32]),
            stored: u32::try_from(TAG + PAD).unwrap(),
        };
        let sealed = Sealed {
            device_chunks: 6,
            chunks: vec![chunk(3, 0x20), chunk(5, 0x10)],
            image_digest: Blake3::from_bytes([7; 32]),
            config: String::new(),
            config_key: Secret::from_bytes([8; 32]),
            source: None,
            store: String::new(),
            layers: Vec::new(),
        };
        let recipe =
            Recipe { epoch: 1, codec: Codec::None, codec_version: 0, free: 0, platform: "linux/amd64".to_owned() };
        let root_digest = root_digest(
            &recipe,
            sealed.device_chunks,
            &sealed.chunks,
            &sealed.config,
            &sealed.config_key,
            sealed.image_digest,
        );
        let clear = Clear {
            recipe,
            root: "main".parse().unwrap(),
            scope: ScopeId::from_bytes([9; 16]),
            application: "shop".to_owned(),
            root_digest,
            names: names_of(&sealed.chunks),
        };
        OpenManifest { clear, sealed }
    }

    fn key(byte: u8) -> WrappingKey {
        WrappingKey::new(Secret::from_bytes([byte; 32]))
    }

    #[test]
    fn a_manifest_opens_as_it_was_made_and_for_its_key_alone() {
        let made = manifest();
        let bytes = made.encode(&key(1)).unwrap();
        assert_eq!(BlockManifest::length(&bytes).unwrap(), bytes.len() as u64);
        let read = || BlockManifest::decode(&bytes).unwrap();
        let open = read().open(&key(1)).unwrap();
        assert_eq!((open.clear, open.sealed), (made.clear.clone(), made.sealed));
        assert_eq!(read().open(&key(2)).unwrap_err().kind(), ErrorKind::Denied);
        assert!(read().expect(Some(made.clear.root_digest)).is_ok() && read().expect(None).is_ok());
        assert_eq!(read().expect(Some(Sha256::of(b""))).unwrap_err().kind(), ErrorKind::Denied);
    }

    /// A later version's wrap may stand before ours, even under the same id.
    #[test]
    fn only_wraps_of_the_kind_that_is_known_are_tried() {
        let made = manifest();
        let bytes = made.encode(&key(1)).unwrap();
        let mut read = BlockManifest::decode(&bytes).unwrap();
        let ours = read.wraps[0].clone();
        let unknown = Wrap { kind: ours.kind + 1, key_id: ours.key_id.clone(), blob: Vec::new() };
        let anothers = Wrap { kind: ours.kind, key_id: key(2).id().to_vec(), blob: Vec::new() };
        read.wraps = vec![unknown, anothers, ours];
        assert_eq!(decode_wraps(&encode_wraps(&read.wraps)).unwrap(), read.wraps);
        assert_eq!(read.open(&key(1)).unwrap().sealed, made.sealed);
    }

    /// Who has the wrapping key can seal anything. The offsets are those of docs/reference/formats/block-manifest.md, with empty texts.
    #[test]
    fn a_sealed_part_that_cannot_be_is_refused() {
        let OpenManifest { clear: Clear { names, .. }, sealed } = manifest();
        let good = sealed.encode(&names);
        assert_eq!(Sealed::decode(&good, &names).unwrap(), sealed);
        let with = |at: usize, value: u32| {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            Sealed::decode(&bytes, &names)
        };
        const SOURCE: usize = 72;
        const STORED: usize = 143;
        const CHUNKS: usize = 187;
        let (tag, pad, longest) = (16, 4_096, 524_288 + 4_096);
        for stored in [tag + pad, tag + 2 * pad, tag + longest] {
            assert!(with(STORED, stored).is_ok(), "{stored}");
        }
        for stored in [0, tag - 1, tag, tag + 1, tag + pad - 1, tag + longest + 1, tag + longest + pad] {
            assert!(with(STORED, stored).is_err(), "{stored}");
        }
        assert!(with(SOURCE, 2).is_err(), "a source that is neither there nor not");
        assert!(with(SOURCE, 1 << 8).is_err(), "no source, and yet its digest");
        assert_eq!(with(SOURCE, 1).unwrap().source, Some(Sha256::from_bytes([0; 32])));
        assert!(with(CHUNKS + 8, 6).is_err(), "a chunk behind the device's last");
        assert!(with(CHUNKS + 8, 3).is_err() && with(CHUNKS + 8, 2).is_err(), "chunks that do not ascend");
        assert!(with(CHUNKS + 12, 2).is_err(), "a chunk without a name");
        assert!(with(CHUNKS + 12, 1).is_err(), "a name without a chunk");
        assert!(with(CHUNKS - 4, 1).is_err() && with(CHUNKS - 4, 3).is_err(), "another number of chunks");
        assert!(with(CHUNKS - 4, APART).is_err(), "more chunks than there can be");
        for (store, allowed) in [("/srv/store", true), ("s3://b/p", true), ("relative", false), ("http://h/p", false)] {
            let other = Sealed { store: store.to_owned(), ..sealed.clone() };
            assert_eq!(Sealed::decode(&other.encode(&names), &names).is_ok(), allowed, "{store}");
        }
        assert!(Sealed::decode(&good[..good.len() - 1], &names).is_err());
        assert!(Sealed::decode(&[&good[..], &[0]].concat(), &names).is_err());
    }

    #[test]
    fn names_that_are_no_sorted_set_are_refused() {
        let clear = manifest().clear;
        assert_eq!(Clear::decode(&clear.encode()).unwrap(), clear);
        let of = |names: [usize; 2]| Clear { names: names.map(|at| clear.names[at]).to_vec(), ..clear.clone() };
        for names in [[1, 0], [0, 0]] {
            assert!(Clear::decode(&of(names).encode()).is_err(), "{names:?}");
        }
    }
}

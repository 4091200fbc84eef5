//! What earlier startups of an image read: learned by the hosts themselves, and fetched ahead at the next startup
//! (docs/reference/formats/learned-profile.md).
//!
//! A learned profile is kept in parts: one for the metadata of the file system, and one for each layer. A part is encrypted under a key
//! that is derived from the key of its first chunk, so the layers that two images share have one part, and the part of an unchanged
//! layer serves the next version of an image. Chunks are named by the beginning of their names in the store. A part that is damaged,
//! forged or of another image wastes requests and nothing else: only chunks of the opened manifest are ever fetched.

use std::collections::HashMap;
use std::sync::Arc;

use crate::Result;
use crate::crypto::profile_seal::{OVERHEAD, ProfileId, ProfileSeal};
use crate::digest::Sha256;
use crate::manifest::OpenManifest;

/// The first bytes of a part: format and version.
const MAGIC: &[u8; 8] = b"cplearn\x01";
/// The first bytes of a chunk's name that a part has.
const PREFIX: usize = 8;
/// Length of the entry of a chunk: the beginning of its name, a time, an age.
const ENTRY: usize = PREFIX + 4 + 1;
/// The greatest age of a chunk that is kept: one that more startups in a row did not read is forgotten.
const OLDEST: u8 = 4;
/// Maximum number of chunks of a part.
const MAX_CHUNKS: usize = 16_384;
/// Maximum length of a part as it is stored, in bytes.
pub const MAX_BYTES: usize = MAGIC.len() + OVERHEAD + MAX_CHUNKS * ENTRY;

/// A place where hosts keep the parts of learned profiles.
pub trait ProfileStore: Send + Sync {
    /// Returns what is stored under `id`, of at most [`MAX_BYTES`]; `None` where there is nothing, or the place is unavailable.
    fn load(&self, id: ProfileId) -> Option<Vec<u8>>;

    /// Stores `part` under `id`. A failure is logged and otherwise ignored: nothing depends on a learned profile.
    fn save(&self, id: ProfileId, part: &[u8]);
}

/// A chunk that a startup read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LearnedChunk {
    /// The beginning of its name in the store.
    pub prefix: [u8; PREFIX],
    /// When the latest startup that read it did so first, in milliseconds since the image was opened.
    pub at: u32,
    /// The number of later startups that did not read it.
    pub age: u8,
}

/// A part of an image: consecutive chunks of its manifest that are learned together.
pub(super) struct Part {
    pub(super) seal: ProfileSeal,
    /// Positions in the manifest's list.
    positions: std::ops::Range<usize>,
}

/// Returns the parts of an image: its metadata, and each layer that has chunks.
pub(super) fn parts(manifest: &OpenManifest) -> Vec<Part> {
    let chunks = &manifest.sealed.chunks;
    let position = |index: u32| chunks.partition_point(|chunk| chunk.index.0 < index);
    let mut bounds = vec![0, chunks.len()];
    bounds.extend(
        manifest.sealed.layers.iter().filter(|layer| layer.chunks > 0).map(|layer| position(layer.first_chunk)),
    );
    bounds.sort_unstable();
    bounds.dedup();
    let part = |bounds: &[usize]| {
        let positions = bounds[0]..bounds[1];
        Part { seal: ProfileSeal::of(&chunks[positions.start].key), positions }
    };
    bounds.windows(2).map(part).collect()
}

fn prefix(name: Sha256) -> [u8; PREFIX] {
    let mut prefix = [0; PREFIX];
    prefix.copy_from_slice(&name.as_bytes()[..PREFIX]);
    prefix
}

impl Part {
    /// Encrypts `chunks` as they are stored.
    ///
    /// # Errors
    /// `Internal` where the operating system gives no random bytes.
    pub(super) fn encode(&self, chunks: &[LearnedChunk]) -> Result<Vec<u8>> {
        let sealed = self.seal.seal(MAGIC, &encode(chunks))?;
        Ok([&MAGIC[..], &sealed].concat())
    }

    /// Decrypts what is stored of this part. Returns `None` where it is of another version or image, damaged or forged.
    pub(super) fn decode(&self, stored: &[u8]) -> Option<Vec<LearnedChunk>> {
        let sealed = stored.strip_prefix(MAGIC).filter(|_| stored.len() <= MAX_BYTES)?;
        decode(&self.seal.open(MAGIC, sealed)?)
    }

    /// Adds what a startup read to what earlier ones read: `reads` are positions in the manifest's list and milliseconds.
    pub(super) fn learn(
        &self,
        manifest: &OpenManifest,
        known: &[LearnedChunk],
        reads: &HashMap<usize, u32>,
    ) -> Vec<LearnedChunk> {
        let new = reads.iter().filter(|(position, _)| self.positions.contains(position)).map(|(position, at)| {
            LearnedChunk { prefix: prefix(manifest.sealed.chunks[*position].name), at: *at, age: 0 }
        });
        let mut chunks: Vec<LearnedChunk> = new.collect();
        chunks.sort_unstable_by_key(|chunk| (chunk.prefix, chunk.at));
        chunks.dedup_by_key(|chunk| chunk.prefix);
        let older = known.iter().filter(|chunk| chunk.age < OLDEST);
        let older = older.map(|chunk| LearnedChunk { age: chunk.age + 1, ..*chunk });
        let missed = older.filter(|old| chunks.binary_search_by_key(&old.prefix, |chunk| chunk.prefix).is_err());
        let missed: Vec<LearnedChunk> = missed.collect();
        chunks.extend(missed);
        // The latest in front, in case there are too many.
        chunks.sort_unstable_by_key(|chunk| (chunk.age, chunk.at, chunk.prefix));
        chunks.truncate(MAX_CHUNKS);
        chunks
    }

    /// Returns the positions of `learned` in the manifest's list, with the times of their first reads.
    pub(super) fn positions(&self, manifest: &OpenManifest, learned: &[LearnedChunk]) -> Vec<(u32, usize)> {
        let by_prefix: HashMap<_, _> =
            self.positions.clone().map(|position| (prefix(manifest.sealed.chunks[position].name), position)).collect();
        learned.iter().filter_map(|chunk| Some((chunk.at, *by_prefix.get(&chunk.prefix)?))).collect()
    }
}

/// Encodes `chunks` before encryption: the entries one after the other, integers little-endian.
fn encode(chunks: &[LearnedChunk]) -> Vec<u8> {
    let mut out = Vec::with_capacity(chunks.len() * ENTRY);
    for chunk in chunks {
        out.extend_from_slice(&chunk.prefix);
        out.extend_from_slice(&chunk.at.to_le_bytes());
        out.push(chunk.age);
    }
    out
}

/// Decodes the decrypted entries of a part. Returns `None` where they are not of the format.
#[must_use]
pub fn decode(bytes: &[u8]) -> Option<Vec<LearnedChunk>> {
    let (entries, rest) = bytes.as_chunks::<ENTRY>();
    if !rest.is_empty() || entries.len() > MAX_CHUNKS {
        return None;
    }
    let decoded = entries.iter().map(|entry| {
        let (prefix, rest) = entry.split_first_chunk::<PREFIX>()?;
        let (at, age) = rest.split_first_chunk::<4>()?;
        Some(LearnedChunk { prefix: *prefix, at: u32::from_le_bytes(*at), age: *age.first()? })
    });
    decoded.collect()
}

/// Returns what the first of `stores` that has the part says of it, and whether that is the first of all.
pub(super) fn load(part: &Part, stores: &[Arc<dyn ProfileStore>]) -> Option<(Vec<LearnedChunk>, usize)> {
    stores.iter().enumerate().find_map(|(at, store)| Some((part.decode(&store.load(part.seal.id())?)?, at)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ChunkIndex;
    use crate::crypto::ChunkKey;
    use crate::keys::KeyFile;
    use crate::manifest::{BlockManifest, ChunkRef, LayerInfo};

    /// An image of 10 chunks: two of metadata, three of a layer, none of the next, five of the last.
    fn image(salt: u8) -> OpenManifest {
        let key = KeyFile::decode(include_str!("../../testdata/vectors/published-test.key")).unwrap();
        let manifest = BlockManifest::decode(include_bytes!("../../testdata/vectors/zstd.cpm")).unwrap();
        let mut manifest = manifest.open(&key).unwrap();
        let chunk = |at: u8| ChunkRef {
            index: ChunkIndex(at.into()),
            name: Sha256::of(&[salt, at]),
            key: ChunkKey::from_bytes([16 * salt + at; 32]),
            stored: 4096,
        };
        manifest.sealed.chunks = (0..10).map(chunk).collect();
        let layer = |first_chunk, chunks| LayerInfo { diff_id: Sha256::of(b""), first_chunk, chunks, tar_bytes: 0 };
        manifest.sealed.layers = vec![layer(2, 3), layer(5, 0), layer(5, 5)];
        manifest
    }

    fn reads(reads: &[(usize, u32)]) -> HashMap<usize, u32> {
        reads.iter().copied().collect()
    }

    #[test]
    fn an_image_has_a_part_for_its_metadata_and_one_for_each_layer_with_chunks() {
        let image = image(1);
        let parts = parts(&image);
        assert_eq!(parts.iter().map(|part| part.positions.clone()).collect::<Vec<_>>(), [0..2, 2..5, 5..10]);
        let key = |at: usize| ProfileSeal::of(&image.sealed.chunks[at].key).id();
        assert_eq!(parts.iter().map(|part| part.seal.id()).collect::<Vec<_>>(), [key(0), key(2), key(5)]);
    }

    #[test]
    fn what_startups_read_is_merged_and_what_none_reads_any_more_is_forgotten() {
        let image = image(1);
        let part = &parts(&image)[1];
        let mut known = part.learn(&image, &[], &reads(&[(0, 1), (2, 20), (3, 10), (7, 5)]));
        assert_eq!(part.positions(&image, &known), [(10, 3), (20, 2)], "only its own chunks");
        for round in 1..=5 {
            known = part.learn(&image, &known, &reads(&[(4, round), (2, 30)]));
            let expected = if round < 5 { vec![(round, 4), (30, 2), (10, 3)] } else { vec![(round, 4), (30, 2)] };
            assert_eq!(part.positions(&image, &known), expected, "round {round}");
        }
    }

    #[test]
    fn a_part_serves_another_image_with_the_layer_and_no_other() {
        let (image, other) = (image(1), image(2));
        let part = &parts(&image)[2];
        let learned = part.learn(&image, &[], &reads(&[(6, 7)]));
        let stored = part.encode(&learned).unwrap();
        assert_eq!(part.decode(&stored).unwrap(), learned);
        assert!(parts(&other).iter().all(|part| part.decode(&stored).is_none()));
        // The layer at another place of an image with other metadata.
        let mut next = other;
        next.sealed.chunks.splice(5..10, image.sealed.chunks[5..10].iter().cloned());
        let part = parts(&next).into_iter().find(|part| part.decode(&stored).is_some()).unwrap();
        assert_eq!(part.positions(&next, &part.decode(&stored).unwrap()), [(7, 6)]);
        // Names that the image does not have are passed over.
        let unknown = LearnedChunk { prefix: [9; PREFIX], at: 0, age: 0 };
        assert_eq!(part.positions(&next, &[unknown, learned[0]]), [(7, 6)]);
    }

    #[test]
    fn the_vectors_of_the_document_are_made_and_read() {
        let vectors: serde_json::Value =
            serde_json::from_slice(include_bytes!("../../testdata/vectors/learned.json")).unwrap();
        let bytes = |value: &serde_json::Value| {
            let text = value.as_str().unwrap();
            (0..text.len() / 2)
                .map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap())
                .collect::<Vec<u8>>()
        };
        let vectors = vectors.as_array().unwrap();
        assert_eq!(vectors.len(), 3);
        for vector in vectors {
            let key = ChunkKey::from_bytes(bytes(&vector["key"]).try_into().unwrap());
            let part = Part { seal: ProfileSeal::of(&key), positions: 0..0 };
            assert_eq!(part.seal.id().to_string(), vector["id"].as_str().unwrap());
            let chunks = vector["entries"].as_array().unwrap().iter().map(|entry| LearnedChunk {
                prefix: bytes(&entry[0]).try_into().unwrap(),
                at: entry[1].as_u64().unwrap().try_into().unwrap(),
                age: entry[2].as_u64().unwrap().try_into().unwrap(),
            });
            let stored = bytes(&vector["part"]);
            let chunks: Vec<LearnedChunk> = chunks.collect();
            assert_eq!(part.decode(&stored).unwrap(), chunks);
            // The same length and magic; the nonce is another.
            let encoded = part.encode(&chunks).unwrap();
            assert_eq!((encoded.len(), &encoded[..8]), (stored.len(), &stored[..8]));
            assert_ne!(encoded[8..20], stored[8..20]);
        }
    }

    #[test]
    fn entries_that_are_cut_or_too_many_are_refused() {
        assert!(decode(&[0; ENTRY - 1]).is_none());
        assert!(decode(&vec![0; ENTRY * (MAX_CHUNKS + 1)]).is_none());
        assert_eq!(decode(&[]).unwrap(), []);
        assert_eq!(decode(&vec![0; ENTRY * MAX_CHUNKS]).unwrap().len(), MAX_CHUNKS);
    }
}

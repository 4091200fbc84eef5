//! The layers in the conversion cache: their trees, and the chunks that they became.
//!
//! The key of a tree is the layer's DiffID. The key of its chunks is the DiffID and the digest of the placement, which includes
//! what the layers above hide ([`super::segment::digest_of`]). Whether a store has the chunks is not cached here.

use std::io::{self, Write};

use super::flatten::{LayerTree, Usage};
use super::seal::SealedChunk;
use crate::conversion_cache::{Cache, EntryName};
use crate::crypto::{ChunkKey, Codec};
use crate::digest::{Blake3, Sha256};
use crate::fs::ext4::layout::EPOCH;

/// The version in the names of entries: entries of other versions are not used, since those may read tars differently or refuse
/// more.
const MADE_BY: &[u8] = concat!(env!("CARGO_PKG_VERSION"), " 3").as_bytes();

/// Length of a chunk's record, in bytes.
const RECORD: usize = 4 + 32 + 32 + 4 + 32;

/// The part of a conversion cache with layers.
#[derive(Clone, Copy)]
pub struct KnownLayers<'a> {
    cache: &'a Cache,
    codec: Codec,
}

/// A layer from the cache, which need not be read.
#[derive(Debug)]
pub struct KnownLayer {
    /// The layer's tree.
    pub tree: LayerTree,
    /// Its sizes, for the limits.
    pub measures: Measures,
}

/// The sizes of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measures {
    /// The length of the uncompressed tar, in bytes.
    pub tar_bytes: u64,
    /// The size of the largest file, in bytes, holes included.
    pub largest_file: u64,
    /// The space of sparse files on the device, in bytes.
    pub sparse_bytes: u64,
    /// The usage of the entries.
    pub usage: Usage,
}

impl<'a> KnownLayers<'a> {
    /// Uses `cache` for chunks packed by `codec`.
    #[must_use]
    pub fn new(cache: &'a Cache, codec: Codec) -> Self {
        Self { cache, codec }
    }

    fn layer_name(&self, diff_id: Sha256) -> EntryName {
        self.cache.name("layer-", &[MADE_BY, &EPOCH.to_le_bytes(), diff_id.as_bytes()])
    }

    fn chunks_name(&self, diff_id: Sha256, placed: Blake3) -> EntryName {
        let ((codec, level), version) = (self.codec.id(), self.codec.version());
        let packed = [&[codec, level.cast_unsigned()][..], &version.to_le_bytes()].concat();
        self.cache.name("chunks-", &[MADE_BY, &EPOCH.to_le_bytes(), &packed, diff_id.as_bytes(), placed.as_bytes()])
    }

    /// Returns the layer `diff_id`; `None` where it is not cached.
    #[must_use]
    pub fn layer(&self, diff_id: Sha256) -> Option<KnownLayer> {
        tracing::debug!(%diff_id, entry = self.layer_name(diff_id).as_str(), "is the layer known?");
        self.cache.read(&self.layer_name(diff_id), |mut from| {
            let mut number = || -> io::Result<u64> {
                let mut bytes = [0; 8];
                from.read_exact(&mut bytes)?;
                Ok(u64::from_le_bytes(bytes))
            };
            let (tar_bytes, largest_file, sparse_bytes) = (number()?, number()?, number()?);
            let usage = Usage { entries: number()?, memory_bytes: number()?, device_bytes: number()? };
            let measures = Measures { tar_bytes, largest_file, sparse_bytes, usage };
            // The numbers are many and small, so the reads are buffered.
            let mut from = io::BufReader::with_capacity(1 << 16, &mut from);
            Ok(KnownLayer { tree: LayerTree::decode(&mut from)?, measures })
        })
    }

    /// Writes the layer `diff_id` to the cache, unless it is there.
    pub fn remember_layer(&self, diff_id: Sha256, tree: &LayerTree, measures: Measures) {
        let name = self.layer_name(diff_id);
        if self.cache.has(&name) {
            return;
        }
        self.cache.write(&name, |to| {
            let Measures { tar_bytes, largest_file, sparse_bytes, usage } = measures;
            let Usage { entries, memory_bytes, device_bytes } = usage;
            for number in [tar_bytes, largest_file, sparse_bytes, entries, memory_bytes, device_bytes] {
                to.write_all(&number.to_le_bytes())?;
            }
            let mut to = io::BufWriter::with_capacity(1 << 16, to);
            tree.encode(&mut to)?;
            to.flush()
        });
    }

    /// Returns the chunks of the segment of the layer `diff_id` with the placement `placed`, by their number in the segment.
    #[must_use]
    pub fn chunks(&self, diff_id: Sha256, placed: Blake3) -> Option<Vec<(u32, SealedChunk)>> {
        tracing::debug!(%diff_id, entry = self.chunks_name(diff_id, placed).as_str(), "are the layer's chunks known?");
        self.cache.read(&self.chunks_name(diff_id, placed), |from| {
            let mut chunks = Vec::new();
            let mut record = [0; RECORD];
            loop {
                match from.read(&mut record[..1])? {
                    0 => return Ok(chunks),
                    _ => from.read_exact(&mut record[1..])?,
                }
                chunks.push(decode_chunk(&record));
            }
        })
    }

    /// Writes the chunks of the segment of the layer `diff_id` with the placement `placed` to the cache.
    pub fn remember_chunks(&self, diff_id: Sha256, placed: Blake3, chunks: impl Iterator<Item = (u32, SealedChunk)>) {
        self.cache.write(&self.chunks_name(diff_id, placed), |to| {
            for (number, chunk) in chunks {
                to.write_all(&number.to_le_bytes())?;
                to.write_all(chunk.name.as_bytes())?;
                to.write_all(chunk.key.expose())?;
                to.write_all(&chunk.stored.to_le_bytes())?;
                to.write_all(chunk.leaf.as_bytes())?;
            }
            Ok(())
        });
    }
}

fn decode_chunk(record: &[u8; RECORD]) -> (u32, SealedChunk) {
    fn array<const N: usize>(record: &[u8; RECORD], at: usize) -> [u8; N] {
        let mut out = [0; N];
        out.copy_from_slice(&record[at..at + N]);
        out
    }
    let chunk = SealedChunk {
        name: Sha256::from_bytes(array(record, 4)),
        key: ChunkKey::from_bytes(array(record, 36)),
        stored: u32::from_le_bytes(array(record, 68)),
        leaf: Blake3::from_bytes(array(record, 72)),
    };
    (u32::from_le_bytes(array(record, 0)), chunk)
}

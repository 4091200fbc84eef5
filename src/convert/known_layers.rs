//! What earlier conversions learned of layers: what is in them, and which chunks they became.
//!
//! A layer's tree is known by its DiffID. Its chunks are known by its DiffID and by how its files were placed, which says
//! also what the layers above hide ([`super::segment::digest_of`]); that a store has them is for the store to say.

use std::io::{self, Write};

use super::flatten::{LayerTree, Usage};
use super::seal::SealedChunk;
use crate::conversion_cache::{Cache, EntryName};
use crate::crypto::{ChunkKey, Codec};
use crate::digest::{Blake3, Sha256};
use crate::fs::ext4::layout::EPOCH;

/// What was learned by another version of the program is not believed: it may read tars otherwise, or refuse more.
const MADE_BY: &[u8] = concat!(env!("CARGO_PKG_VERSION"), " 3").as_bytes();

/// Bytes of a chunk's record.
const RECORD: usize = 4 + 32 + 32 + 4 + 32;

/// The part of a cache that knows layers.
#[derive(Clone, Copy)]
pub struct KnownLayers<'a> {
    cache: &'a Cache,
    codec: Codec,
}

/// A layer that need not be read to know what is in it.
#[derive(Debug)]
pub struct KnownLayer {
    /// What it says.
    pub tree: LayerTree,
    /// What limits ask about it.
    pub measures: Measures,
}

/// What a layer takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measures {
    /// Bytes of its tar.
    pub tar_bytes: u64,
    /// The size of its largest file, holes included.
    pub largest_file: u64,
    /// Bytes that its sparse files take on the device.
    pub sparse_bytes: u64,
    /// What its entries take.
    pub usage: Usage,
}

impl<'a> KnownLayers<'a> {
    /// Of `cache`, its chunks packed by `codec`.
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

    /// The layer `diff_id`, where it was read before.
    #[must_use]
    pub fn layer(&self, diff_id: Sha256) -> Option<KnownLayer> {
        self.cache.read(&self.layer_name(diff_id), |mut from| {
            let mut number = || -> io::Result<u64> {
                let mut bytes = [0; 8];
                from.read_exact(&mut bytes)?;
                Ok(u64::from_le_bytes(bytes))
            };
            let (tar_bytes, largest_file, sparse_bytes) = (number()?, number()?, number()?);
            let usage = Usage { entries: number()?, memory_bytes: number()?, device_bytes: number()? };
            let measures = Measures { tar_bytes, largest_file, sparse_bytes, usage };
            // The numbers are many and small.
            let mut from = io::BufReader::with_capacity(1 << 16, &mut from);
            Ok(KnownLayer { tree: LayerTree::decode(&mut from)?, measures })
        })
    }

    /// The layer `diff_id` was read.
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

    /// The chunks of the segment of the layer `diff_id` placed like this, by their number in it.
    #[must_use]
    pub fn chunks(&self, diff_id: Sha256, placed: Blake3) -> Option<Vec<(u32, SealedChunk)>> {
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

    /// The segment of the layer `diff_id` placed like this became these chunks.
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

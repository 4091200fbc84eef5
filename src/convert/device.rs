//! The finished device: every chunk gets its index, the first chunk its UUID, and the block manifest is put together.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::emit::{EmittedChunks, EmittedLayer};
use super::known_layers::KnownLayers;
use super::options::Options;
use super::report::{Converted, Counts, Share};
use super::seal::{ChunkPlace, SealedChunk, SealedChunks, Sealer, seal_one};
use crate::ChunkIndex;
use crate::Result;
use crate::crypto::Salt;
use crate::crypto::packed::trimmed;
use crate::digest::{Blake3, Sha256};
use crate::fs::ext4::layout::EPOCH;
use crate::fs::ext4::write::set_uuid;
use crate::manifest::root_digest::{Leaf, image_digest, root_digest, uuid};
use crate::manifest::{self, ChunkRef, Clear, OpenManifest, Recipe, names_of};
use crate::source::{Image, ImageConfig};

/// A device all of whose chunks are sealed.
pub(super) struct ConvertedDevice {
    layers: Vec<EmittedLayer>,
    device_chunks: u32,
    /// The chunks that are not all zero, ascending.
    chunks: Vec<ChunkRef>,
    /// The digests of their plaintext, in the same order.
    leaves: Vec<Leaf>,
    shares: Vec<Share>,
    counts: Counts,
}

impl ConvertedDevice {
    /// Seals the first chunk, whose UUID is derived from all chunks (this one with a UUID of zeros), and assigns every chunk its index on
    /// the device.
    ///
    /// # Errors
    /// Those of the store, naming the object.
    pub(super) fn complete(emitted: EmittedChunks, sealed: SealedChunks, sealer: Sealer<'_>) -> Result<Self> {
        let EmittedChunks { layers, device_chunks, mut first_chunk } = emitted;
        let mut leaves = leaves_of(&sealed, &layers);
        leaves.insert(0, (ChunkIndex(0), Blake3::of(trimmed(&first_chunk))));
        set_uuid(&mut first_chunk, uuid(device_chunks, &leaves));
        let sealed = seal_one(sealer, sealed, ChunkPlace::Device(ChunkIndex(0)), first_chunk)?;
        let leaves = leaves_of(&sealed, &layers);
        let chunks = chunks_of(&sealed, &layers);
        let sizes: BTreeMap<Sha256, u32> = chunks.iter().map(|chunk| (chunk.name, chunk.stored)).collect();
        let counts = Counts {
            zero_chunks: u64::from(device_chunks) - chunks.len() as u64,
            put_chunks: sealed.put_chunks,
            put_bytes: sealed.put_bytes,
            claimed_chunks: sealed.claimed_chunks,
            known_chunks: sealed.known_chunks,
            stored_bytes: sizes.into_values().map(u64::from).sum(),
        };
        let shares = shares(&layers, &chunks, &sealed.new);
        Ok(Self { layers, device_chunks, chunks, leaves, shares, counts })
    }

    /// Writes the chunks of layers with a new placement to the cache.
    pub(super) fn remember(&self, known: KnownLayers<'_>) {
        for EmittedLayer { info, new_placement, .. } in &self.layers {
            let Some(placement) = new_placement else { continue };
            let range = chunk_range(&self.chunks, info.first_chunk..info.first_chunk + info.chunks);
            let chunks = self.chunks[range.clone()].iter().zip(&self.leaves[range]).map(|(chunk, (_, leaf))| {
                let ChunkRef { index, name, key, stored } = chunk.clone();
                (index.0 - info.first_chunk, SealedChunk { name, key, stored, leaf: *leaf })
            });
            known.remember_chunks(info.diff_id, *placement, chunks);
        }
    }

    /// Puts the block manifest of the device together.
    pub(super) fn into_manifest(
        self,
        image: &Image,
        config: &ImageConfig,
        salt: &Salt,
        options: &Options,
    ) -> Converted {
        let Self { layers, device_chunks, chunks, leaves, shares, counts } = self;
        let ImageConfig { normal: config, platform, .. } = config.clone();
        let recipe = Recipe {
            epoch: EPOCH,
            codec: options.codec,
            codec_version: options.codec.version(),
            free: options.free,
            platform: platform.map(|platform| platform.to_string()).unwrap_or_default(),
        };
        let (config_key, image_digest) = (salt.config_key(&config), image_digest(device_chunks, &leaves, &config));
        let root_digest = root_digest(&recipe, device_chunks, &chunks, &config, &config_key, image_digest);
        let clear = Clear {
            recipe,
            root: options.root.clone(),
            scope: salt.scope(),
            application: options.application.clone(),
            root_digest,
            names: names_of(&chunks),
        };
        let sealed = manifest::Sealed {
            device_chunks,
            chunks,
            image_digest,
            config,
            config_key,
            source: image.manifest.as_ref().and_then(|manifest| manifest.digest().to_string().parse().ok()),
            store: options.store_hint.clone(),
            layers: layers.into_iter().map(|layer| layer.info).collect(),
        };
        Converted { manifest: OpenManifest { clear, sealed }, shares, counts }
    }
}

/// Returns the index of a chunk on the device; `None` for one that was emitted before its layer was read again.
fn index_of(place: ChunkPlace, layers: &[EmittedLayer]) -> Option<ChunkIndex> {
    match place {
        ChunkPlace::Device(index) => Some(index),
        ChunkPlace::Segment(layer, number) => {
            layers[usize::from(layer.0)].segment_start.map(|start| ChunkIndex(start + number))
        }
    }
}

fn leaves_of(sealed: &SealedChunks, layers: &[EmittedLayer]) -> Vec<Leaf> {
    let leaves = sealed.chunks.iter().filter_map(|(place, chunk)| Some((index_of(*place, layers)?, chunk.leaf)));
    let mut leaves: Vec<Leaf> = leaves.collect();
    leaves.sort_unstable_by_key(|(index, _)| *index);
    leaves
}

fn chunks_of(sealed: &SealedChunks, layers: &[EmittedLayer]) -> Vec<ChunkRef> {
    let chunks = sealed.chunks.iter().filter_map(|(place, chunk)| {
        let SealedChunk { name, key, stored, .. } = chunk.clone();
        Some(ChunkRef { index: index_of(*place, layers)?, name, key, stored })
    });
    let mut chunks: Vec<ChunkRef> = chunks.collect();
    chunks.sort_unstable_by_key(|chunk| chunk.index);
    chunks
}

/// Returns the positions in `chunks` of those whose index is in `range`.
fn chunk_range(chunks: &[ChunkRef], range: Range<u32>) -> Range<usize> {
    let position = |index: u32| chunks.partition_point(|chunk| chunk.index.0 < index);
    position(range.start)..position(range.end)
}

/// Returns the share of the metadata, then that of each layer.
fn shares(layers: &[EmittedLayer], chunks: &[ChunkRef], new: &BTreeSet<Sha256>) -> Vec<Share> {
    let metadata_end = layers.first().map_or(u32::MAX, |layer| layer.info.first_chunk);
    let mut counted = BTreeSet::new();
    let mut share_of = |range: Range<u32>, read: bool| {
        let mut share = Share { read, ..Share::default() };
        for chunk in chunks[chunk_range(chunks, range)].iter().filter(|chunk| counted.insert(chunk.name)) {
            share.chunks += 1;
            share.stored_bytes += u64::from(chunk.stored);
            if new.contains(&chunk.name) {
                share.new_chunks += 1;
                share.new_bytes += u64::from(chunk.stored);
            }
        }
        share
    };
    let mut shares = vec![share_of(0..metadata_end, true)];
    for EmittedLayer { info, was_read, .. } in layers {
        shares.push(share_of(info.first_chunk..info.first_chunk + info.chunks, *was_read));
    }
    shares
}

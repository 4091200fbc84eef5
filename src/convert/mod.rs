//! An image becomes sealed chunks: [`ingest`] reads and flattens its layers, and hands data chunks to [`seal`] as they come;
//! the layout then says what is left to make and where everything stands; [`convert()`] does all and yields the block
//! manifest.
//!
//! Holds a salt and the putting half of a store; it cannot name the getting half.

mod budget;
pub mod flatten;
pub mod ingest;
pub mod known_layers;
pub mod publish;
pub mod seal;
pub mod segment;
pub mod tar;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::conversion_cache::Cache;
use crate::crypto::packed::trimmed;
use crate::crypto::{Codec, Salt};
use crate::digest::{Blake3, Sha256};
use crate::fs::ext4::layout::{EPOCH, Layout, LayoutError};
use crate::fs::ext4::write::set_uuid;
use crate::fs::tree::{LayerIndex, Tree};
use crate::manifest::root_digest::{Leaf, image_digest, root_digest, uuid};
use crate::manifest::{self, ChunkRef, Clear, LayerInfo, OpenManifest, Recipe, names_of};
use crate::progress::{Progress, Stage};
use crate::source::{Image, ImageConfig, Limits};
use crate::store::{PutIfAbsent, RootId};
use crate::{CHUNK_SIZE, ChunkIndex, Error, Result};

use ingest::{Flattened, Ingest, IngestedLayer, TarBytes};
use known_layers::KnownLayers;
use seal::{ChunkPlace, SealedChunk, SealedChunks, Sealer, Sealing, seal_one};
use segment::digest_of;

/// Most uncompressed bytes of an image where nothing else is said.
const DEFAULT_MAX_SIZE: u64 = 64 << 30;
/// Most entries of an image where nothing else is said: fifty times a large application of Node.js, in less than a gigabyte of memory.
const DEFAULT_MAX_ENTRIES: u64 = 4 << 20;

/// What a conversion can be told.
#[derive(Debug, Clone)]
pub struct Options {
    /// How chunks are packed.
    pub codec: Codec,
    /// Bytes left free for a writable mount.
    pub free: u64,
    /// How many threads work.
    pub threads: usize,
    /// Where inflated layers are kept, in files without a name.
    pub temp: PathBuf,
    /// Most uncompressed bytes of the layers together, and most bytes that they take on the device; `None` for 64 GiB. Where it is given, no file may be larger either, holes
    /// included.
    pub max_size: Option<u64>,
    /// Most entries of the layers together, with the directories that no entry describes; `None` for 4,194,304.
    pub max_entries: Option<u64>,
    /// Where chunks are collected together.
    pub root: RootId,
    /// A stable name for key policies; may be empty.
    pub application: String,
    /// Where the chunks go, as a hint for readers.
    pub store_hint: String,
    /// Most bytes that may be put; with more, the conversion fails, though what was put stays.
    pub max_new_bytes: Option<u64>,
}

impl Options {
    /// Returns what unpacking may take; `progress` receives how far the input is read.
    #[must_use]
    pub fn limits<'a>(&'a self, progress: &'a dyn Progress) -> Limits<'a> {
        Limits {
            temp: &self.temp,
            max_size: self.max_size.unwrap_or(DEFAULT_MAX_SIZE),
            // Holes cost nothing here, and images have them: a lastlog of over 1 TiB is nothing unusual.
            max_file: self.max_size.unwrap_or(u64::MAX),
            max_entries: self.max_entries.unwrap_or(DEFAULT_MAX_ENTRIES),
            progress,
        }
    }
}

/// Where a conversion's chunks go, and what it may know before.
#[derive(Clone, Copy, Default)]
pub struct Target<'a> {
    /// The putting half of a store; `None` for a conversion that only counts.
    pub store: Option<&'a dyn PutIfAbsent>,
    /// What earlier conversions learned.
    pub cache: Option<&'a Cache>,
}

/// Chunks and bytes of a conversion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Chunks of the device that are all zero, and stored nowhere.
    pub zero_chunks: u64,
    /// Chunks that were not in the store before.
    pub put_chunks: u64,
    /// Their bytes as stored.
    pub put_bytes: u64,
    /// Chunks that the store says it had.
    pub claimed_chunks: u64,
    /// Chunks that an earlier conversion saw stored there, and that were not sent.
    pub known_chunks: u64,
    /// Bytes of all distinct chunks as stored.
    pub stored_bytes: u64,
}

/// What a part of the device has in the store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Share {
    /// Its distinct chunks.
    pub chunks: u64,
    /// Their bytes as stored.
    pub stored_bytes: u64,
    /// Those that were not in the store before.
    pub new_chunks: u64,
    /// Their bytes as stored.
    pub new_bytes: u64,
    /// Whether it was read, and not known from a cache.
    pub read: bool,
}

/// A finished conversion.
#[derive(Debug)]
pub struct Converted {
    /// The block manifest, not yet sealed.
    pub manifest: OpenManifest,
    /// The metadata's share, then each layer's; a chunk in two of them counts in the first.
    pub shares: Vec<Share>,
    /// What it took.
    pub counts: Counts,
}

/// Converts `image`, and puts its chunks where `target` has a store.
///
/// # Errors
/// Those of the image, naming the layer and entry, and of the store, naming the object.
pub fn convert(
    image: &Image,
    salt: &Salt,
    options: &Options,
    target: Target<'_>,
    progress: &dyn Progress,
) -> Result<Converted> {
    let store = target.store.map(|store| (store, &options.root));
    let sealer = Sealer { salt, codec: options.codec, store, max_new_bytes: options.max_new_bytes };
    let known = target.cache.map(|cache| KnownLayers::new(cache, options.codec));
    let device = std::thread::scope(|scope| {
        let sealing = Sealing::start(scope, sealer, options.threads)?;
        let made = make(image, options, &sealing, known, progress);
        // What stopped the sealing is why nothing could be handed over.
        match (sealing.finish(), made) {
            (Ok(sealed), Ok(made)) => complete(made, sealed, sealer),
            (Err(error), _) | (Ok(_), Err(error)) => Err(error),
        }
    })?;
    if let (Some(known), Some(cache)) = (known, target.cache) {
        device.remember(known);
        cache.trim();
    }
    Ok(manifest_of(image, image.whole_config()?, salt, options, device))
}

/// Reads and flattens `image`, and makes no chunks: to tell what stands where.
///
/// # Errors
/// As [`convert`].
pub fn flatten_only(image: &Image, options: &Options, progress: &dyn Progress) -> Result<Tree> {
    Ingest::new(image, options.limits(progress), None, None, progress)
        .all(options.threads)
        .map(|flattened| flattened.tree)
}

/// What is left when all chunks but the first are handed over.
struct EmittedChunks {
    layers: Vec<LayerInfo>,
    device_chunks: u32,
    /// Of each layer, where its segment starts, if its chunks were handed over by their place in it.
    segments: Vec<Option<u32>>,
    /// Of each layer, how its files were placed, if nobody knew its chunks.
    placed: Vec<Option<Blake3>>,
    /// Of each layer, whether it was read.
    read: Vec<bool>,
    /// Still without the UUID.
    first: Vec<u8>,
}

/// Hands over every chunk but the first.
fn make(
    image: &Image,
    options: &Options,
    sealing: &Sealing<'_>,
    known: Option<KnownLayers<'_>>,
    progress: &dyn Progress,
) -> Result<EmittedChunks> {
    let ingest = Ingest::new(image, options.limits(progress), Some(sealing), known, progress);
    // A thread that inflates keeps about one that seals busy.
    let Flattened { tree, mut layers } = ingest.all(options.threads.div_ceil(2))?;
    let layout = Layout::new(&tree, options.free).map_err(|error| match error {
        LayoutError::Inode { layer, .. } => Error::from(error).within(ingest.layer_name(layer.0.into())),
        LayoutError::TooLarge => error.into(),
    })?;
    let (mut placed, mut again) = (Vec::with_capacity(layers.len()), Vec::new());
    for (index, segment) in layout.segments().iter().enumerate() {
        let layer = LayerIndex(u16::try_from(index).map_err(|_| flatten::too_many_layers())?);
        let wanted = digest_of(&layout, layer);
        let fits = |number: u32| number < segment.chunks;
        let chunks = known.and_then(|known| known.chunks(layers[index].diff_id, wanted));
        let chunks = chunks.filter(|chunks| chunks.iter().all(|(number, _)| fits(*number)));
        let is_known = chunks.is_some();
        placed.push((!is_known).then_some(wanted));
        let others = match &layers[index].bytes {
            TarBytes::Sealed(placed) => *placed != wanted,
            TarBytes::Known => segment.chunks > 0 && !chunks.is_some_and(|chunks| sealing.recall(layer, chunks)),
            TarBytes::InPlace(_) | TarBytes::Spooled(_) | TarBytes::Emitted => false,
        };
        if others {
            again.push(index);
        }
    }
    again.iter().for_each(|index| image.layers[*index].blob.want());
    let in_segment = |layer: &IngestedLayer| matches!(layer.bytes, TarBytes::Sealed(_) | TarBytes::Known);
    let segments: Vec<Option<u32>> = (0..)
        .zip(layers.iter().zip(layout.segments()))
        .map(|(index, (layer, segment))| {
            (in_segment(layer) && again.binary_search(&index).is_err()).then_some(segment.first_chunk)
        })
        .collect();
    let read = layers
        .iter()
        .zip(&segments)
        .map(|(layer, segment)| !matches!(layer.bytes, TarBytes::Known) || segment.is_none());
    let read = read.collect();
    let kept = |index: &usize| segments[*index].is_none();
    let of = |index: usize| {
        layout.segments()[index].first_chunk..layout.segments()[index].first_chunk + layout.segments()[index].chunks
    };
    // What is left: the kept layers' chunks, and all that stands before the data.
    let metadata = layout.segments().first().map_or(0, |segment| u64::from(segment.first_chunk));
    let left = (0..layers.len()).filter(kept).map(|index| u64::from(layout.segments()[index].chunks)).sum::<u64>();
    progress.begin(Stage::Chunks, (left + metadata) * u64::from(CHUNK_SIZE));
    for index in (0..layers.len()).filter(kept) {
        // One after another, so that no more than one of them is kept at a time.
        if again.binary_search(&index).is_ok() {
            layers[index] = ingest.read_again(index, &layers[index])?;
        }
        for place in of(index).map(ChunkIndex) {
            let mut chunk = sealing.buffer();
            let made = layout.data_chunk(place, &layers, &mut chunk);
            made.map_err(|error| Error::io("a layer's bytes, while its chunks were made", error))?;
            sealing.put(ChunkPlace::Device(place), chunk)?;
            progress.advance(Stage::Chunks, CHUNK_SIZE.into());
        }
        layers[index].bytes = TarBytes::Emitted;
    }
    let mut told = 0;
    let first = layout.metadata(&mut |index, bytes| {
        let mut chunk = sealing.buffer();
        chunk.copy_from_slice(bytes);
        progress.advance(Stage::Chunks, u64::from(index.0 - told) * u64::from(CHUNK_SIZE));
        told = index.0;
        sealing.put(ChunkPlace::Device(index), chunk)
    })?;
    progress.end(Stage::Chunks);
    let layers = layers.iter().zip(layout.segments()).map(|(layer, segment)| LayerInfo {
        diff_id: layer.diff_id,
        first_chunk: segment.first_chunk,
        chunks: segment.chunks,
        tar_bytes: layer.tar_bytes,
    });
    let device_chunks =
        u32::try_from(layout.device_bytes() / u64::from(CHUNK_SIZE)).expect("the layout is below 2^32 blocks");
    Ok(EmittedChunks { layers: layers.collect(), device_chunks, segments, placed, read, first })
}

/// Every chunk of a device that is not zero, ascending.
struct ConvertedDevice {
    layers: Vec<LayerInfo>,
    placed: Vec<Option<Blake3>>,
    shares: Vec<Share>,
    device_chunks: u32,
    chunks: Vec<ChunkRef>,
    leaves: Vec<Leaf>,
    counts: Counts,
}

impl ConvertedDevice {
    /// Notes what the layers became that nobody knew.
    fn remember(&self, known: KnownLayers<'_>) {
        for (layer, placed) in self.layers.iter().zip(&self.placed) {
            let Some(placed) = placed else { continue };
            let of = |index: u32| self.chunks.partition_point(|chunk| chunk.index.0 < index);
            let (from, to) = (of(layer.first_chunk), of(layer.first_chunk + layer.chunks));
            let chunks = self.chunks[from..to].iter().zip(&self.leaves[from..to]).map(|(chunk, (_, leaf))| {
                let ChunkRef { index, name, key, stored } = chunk.clone();
                (index.0 - layer.first_chunk, SealedChunk { name, key, stored, leaf: *leaf })
            });
            known.remember_chunks(layer.diff_id, *placed, chunks);
        }
    }
}

/// Gives every chunk its place on the device, and the first one the UUID: it is made of all chunks, this one as it is without it.
fn complete(made: EmittedChunks, sealed: SealedChunks, sealer: Sealer<'_>) -> Result<ConvertedDevice> {
    let EmittedChunks { layers, device_chunks, segments, placed, read, mut first } = made;
    let on_device = |place: ChunkPlace| match place {
        ChunkPlace::Device(index) => Some(index),
        // Chunks of a layer that was read again are not the device's.
        ChunkPlace::Segment(layer, number) => segments[usize::from(layer.0)].map(|start| ChunkIndex(start + number)),
    };
    let leaves_of = |sealed: &SealedChunks| {
        let leaves = sealed.chunks.iter().filter_map(|(place, chunk)| Some((on_device(*place)?, chunk.leaf)));
        let mut leaves: Vec<Leaf> = leaves.collect();
        leaves.sort_unstable_by_key(|(index, _)| *index);
        leaves
    };
    let mut leaves = leaves_of(&sealed);
    leaves.insert(0, (ChunkIndex(0), Blake3::of(trimmed(&first))));
    set_uuid(&mut first, uuid(device_chunks, &leaves));
    let sealed = seal_one(sealer, sealed, ChunkPlace::Device(ChunkIndex(0)), first)?;
    let leaves = leaves_of(&sealed);
    let chunks = sealed.chunks.iter().filter_map(|(place, chunk)| {
        let (index, SealedChunk { name, key, stored, .. }) = (on_device(*place)?, chunk.clone());
        Some(ChunkRef { index, name, key, stored })
    });
    let mut chunks: Vec<ChunkRef> = chunks.collect();
    chunks.sort_unstable_by_key(|chunk| chunk.index);
    let sizes: BTreeMap<Sha256, u32> = chunks.iter().map(|chunk| (chunk.name, chunk.stored)).collect();
    let counts = Counts {
        zero_chunks: u64::from(device_chunks) - chunks.len() as u64,
        put_chunks: sealed.put_chunks,
        put_bytes: sealed.put_bytes,
        claimed_chunks: sealed.claimed_chunks,
        known_chunks: sealed.known_chunks,
        stored_bytes: sizes.into_values().map(u64::from).sum(),
    };
    let shares = shares(&layers, &read, &chunks, &sealed.new);
    Ok(ConvertedDevice { layers, placed, shares, device_chunks, chunks, leaves, counts })
}

fn shares(layers: &[LayerInfo], read: &[bool], chunks: &[ChunkRef], new: &BTreeSet<Sha256>) -> Vec<Share> {
    let metadata = layers.first().map_or(u32::MAX, |layer| layer.first_chunk);
    let ranges = layers.iter().map(|layer| layer.first_chunk..layer.first_chunk + layer.chunks);
    let mut seen = BTreeSet::new();
    let of = |(range, read): (std::ops::Range<u32>, bool)| {
        let mut share = Share { read, ..Share::default() };
        let of = |index: u32| chunks.partition_point(|chunk| chunk.index.0 < index);
        for chunk in chunks[of(range.start)..of(range.end)].iter().filter(|chunk| seen.insert(chunk.name)) {
            share.chunks += 1;
            share.stored_bytes += u64::from(chunk.stored);
            if new.contains(&chunk.name) {
                share.new_chunks += 1;
                share.new_bytes += u64::from(chunk.stored);
            }
        }
        share
    };
    std::iter::once((0..metadata, true)).chain(ranges.zip(read.iter().copied())).map(of).collect()
}

fn manifest_of(
    image: &Image,
    config: &ImageConfig,
    salt: &Salt,
    options: &Options,
    device: ConvertedDevice,
) -> Converted {
    let ConvertedDevice { layers, shares, device_chunks, chunks, leaves, counts, .. } = device;
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
        layers,
    };
    Converted { manifest: OpenManifest { clear, sealed }, shares, counts }
}

//! An image becomes sealed chunks: [`ingest`] reads and flattens its layers, [`seal`] makes the device's chunks, seals and
//! puts them, [`convert`] does both and yields the block manifest.
//!
//! Holds a salt and the putting half of a store; it cannot name the getting half.

pub mod flatten;
pub mod ingest;
pub mod seal;
pub mod tar;

use std::path::PathBuf;

use crate::crypto::{Codec, Salt};
use crate::fs::ext4::layout::{EPOCH, Layout};
use crate::manifest::root_digest::{image_digest, root_digest};
use crate::manifest::v1::names_of;
use crate::manifest::{Clear, LayerInfo, OpenManifest, Recipe, Sealed};
use crate::progress::Progress;
use crate::source::Image;
use crate::store::{PutIfAbsent, RootId};
use crate::{CHUNK_SIZE, Result};

use ingest::Flattened;
use seal::{SealedDevice, Sealer};

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
    /// Where chunks are collected together.
    pub root: RootId,
    /// A stable name for key policies; may be empty.
    pub application: String,
    /// Where the chunks go, as a hint for readers.
    pub store_hint: String,
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
    /// Bytes of all distinct chunks as stored.
    pub stored_bytes: u64,
}

/// A finished conversion.
#[derive(Debug)]
pub struct Converted {
    /// The block manifest, not yet sealed.
    pub manifest: OpenManifest,
    /// What it took.
    pub counts: Counts,
}

/// Converts `image`, and puts its chunks where there is a `store`.
///
/// # Errors
/// Those of the image, naming the layer and entry, and of the store, naming the object.
pub fn convert(
    image: &Image,
    salt: &Salt,
    options: &Options,
    store: Option<&dyn PutIfAbsent>,
    progress: &dyn Progress,
) -> Result<Converted> {
    let flattened = ingest::ingest(image, options.threads, &options.temp, progress)?;
    let layout = Layout::new(&flattened.tree, options.free)?;
    convert_layout(image, &flattened, &layout, (salt, options), store, progress)
}

/// The same for an image that is flattened and planned already.
///
/// # Errors
/// Those of reading the layers' bytes, and of the store.
pub fn convert_layout(
    image: &Image,
    flattened: &Flattened,
    layout: &Layout<'_>,
    (salt, options): (&Salt, &Options),
    store: Option<&dyn PutIfAbsent>,
    progress: &dyn Progress,
) -> Result<Converted> {
    let sealer = Sealer { salt, codec: options.codec, store: store.map(|store| (store, &options.root)) };
    let device = seal::seal(layout, &flattened.bytes, &sealer, options.threads, progress)?;
    let SealedDevice { chunks, leaves, counts } = device;
    let device_chunks =
        u32::try_from(layout.device_bytes() / u64::from(CHUNK_SIZE)).expect("the layout is below 2^32 blocks");
    let config = image.config.normal.clone();
    let recipe = Recipe {
        epoch: EPOCH,
        codec: options.codec,
        codec_version: options.codec.version(),
        free: options.free,
        platform: image.config.platform.as_ref().map(ToString::to_string).unwrap_or_default(),
    };
    let (config_key, image_digest) = (salt.config_key(&config), image_digest(device_chunks, &leaves, &config));
    let root_digest = root_digest(&recipe, device_chunks, &chunks, &config, &config_key, image_digest);
    let layers = flattened.layers.iter().zip(layout.segments()).map(|(layer, segment)| LayerInfo {
        diff_id: layer.diff_id,
        first_chunk: segment.first_chunk,
        chunks: segment.chunks,
        tar_bytes: layer.tar_bytes,
    });
    let clear = Clear {
        recipe,
        root: options.root.clone(),
        scope: salt.scope(),
        application: options.application.clone(),
        root_digest,
        names: names_of(&chunks),
    };
    let counts = Counts { zero_chunks: u64::from(device_chunks) - chunks.len() as u64, ..counts };
    let sealed = Sealed {
        device_chunks,
        chunks,
        image_digest,
        config,
        config_key,
        source: image.manifest_digest,
        store: options.store_hint.clone(),
        layers: layers.collect(),
    };
    Ok(Converted { manifest: OpenManifest { clear, sealed }, counts })
}

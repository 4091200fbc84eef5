//! An image becomes sealed chunks: [`ingest`] reads and flattens its layers, and hands data chunks to [`seal`] as they come;
//! the layout then says what is left to make and where everything stands; [`convert()`] does all and yields the block
//! manifest.
//!
//! Holds a salt and the putting half of a store; it cannot name the getting half.

mod budget;
mod device;
mod emit;
pub mod flatten;
pub mod ingest;
pub mod known_layers;
mod options;
pub mod publish;
mod report;
pub mod seal;
pub mod segment;
pub mod tar;

use crate::Result;
use crate::conversion_cache::Cache;
use crate::crypto::Salt;
use crate::fs::tree::Tree;
use crate::progress::Progress;
use crate::source::Image;
use crate::store::PutIfAbsent;

use device::ConvertedDevice;
use emit::emit_chunks;
use ingest::Ingest;
use known_layers::KnownLayers;
use seal::{Sealer, Sealing};

pub use options::Options;
pub use report::{Converted, Counts, Share};

/// Where a conversion's chunks go, and what it may know before.
#[derive(Clone, Copy, Default)]
pub struct Target<'a> {
    /// The putting half of a store; `None` for a conversion that only counts.
    pub store: Option<&'a dyn PutIfAbsent>,
    /// What earlier conversions learned.
    pub cache: Option<&'a Cache>,
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
        let emitted = emit_chunks(image, options, &sealing, known, progress);
        // The error that stopped the sealing comes first: it is the cause of the other.
        let sealed = sealing.finish()?;
        ConvertedDevice::complete(emitted?, sealed, sealer)
    })?;
    if let (Some(known), Some(cache)) = (known, target.cache) {
        device.remember(known);
        cache.trim();
    }
    Ok(device.into_manifest(image, image.whole_config()?, salt, options))
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

//! How a conversion works: an image becomes encrypted chunks in a store, and a block manifest.
//!
//! 1. **Source.** [`crate::source::open`] finds the layers and the config of an [`Image`]; nothing is downloaded yet.
//! 2. **Ingest.** [`ingest::Ingest`] reads the layers from the top down, several side by side: each is decompressed and checked against its
//!    digests, [`tar::TarReader`] walks its entries, and [`flatten::LayerTree`] applies them to a tree of the layer's own. The top layer
//!    comes first, so that the layers below know what is hidden.
//! 3. **Data chunks while reading.** [`segment::SegmentWriter`] assigns addresses to the files of a layer in the order of the tar, which is
//!    nearly always that of the block image, and hands each full chunk to [`seal::Sealing`]. A layer for which that is not possible is
//!    spooled to an unlinked temporary file.
//! 4. **Flatten.** [`flatten::merge()`] puts the layers' trees on top of one another: the result is a [`Tree`].
//! 5. **Layout.** [`crate::fs::ext4::layout::Layout`] is a pure function of the tree to the address of every inode and block. Where a layer
//!    was placed otherwise in step 3, it is read again.
//! 6. **Metadata.** [`crate::fs::ext4::write`] generates the remaining chunks, those of the ext4 metadata.
//! 7. **Seal.** Threads of [`seal::Sealing`] pack each chunk ([`crate::crypto::packed`]), encrypt it under a key derived from salt and
//!    content ([`crate::crypto::convergent`]), and upload it with [`PutIfAbsent`]. The first chunk comes last: its UUID is derived from all
//!    the others.
//! 8. **Manifest.** [`Converted::manifest`] has the name and key of every chunk. The caller encrypts it for its wrapping key, and uploads it
//!    last.
//!
//! The same image gives the same chunks with any number of threads and on any machine. With a conversion cache, a layer of an earlier
//! conversion is neither read nor uploaded ([`known_layers::KnownLayers`]).
//!
//! A conversion has the salt and the uploading half of a store: nothing here can name the half that downloads.

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

/// The store and the conversion cache of a conversion.
#[derive(Clone, Copy, Default)]
pub struct Target<'a> {
    /// The uploading half of a store; `None` for a conversion that only counts.
    pub store: Option<&'a dyn PutIfAbsent>,
    /// The conversion cache; `None` for a conversion without one.
    pub cache: Option<&'a Cache>,
}

/// Converts `image`, and uploads its chunks if `target` has a store.
///
/// ```
/// use std::collections::BTreeMap;
/// use std::sync::Mutex;
///
/// use coldpress::convert::{Options, Target, convert};
/// use coldpress::crypto::Codec;
/// use coldpress::keys::KeyFile;
/// use coldpress::progress::Silent;
/// use coldpress::source::{self, Access};
/// use coldpress::store::{ObjectName, PutIfAbsent, PutOutcome};
///
/// /// A store in memory.
/// #[derive(Default)]
/// struct Memory(Mutex<BTreeMap<String, Vec<u8>>>);
///
/// impl PutIfAbsent for Memory {
///     fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> coldpress::Result<PutOutcome> {
///         let before = self.0.lock().unwrap().insert(name.as_str().to_owned(), bytes.to_owned());
///         Ok(if before.is_none() { PutOutcome::Stored } else { PutOutcome::Present })
///     }
///
///     fn still_there(&self, _: &ObjectName, _: u64) -> coldpress::Result<()> {
///         Ok(())
///     }
/// }
///
/// let options = Options {
///     codec: Codec::DEFAULT,
///     free: 0,
///     threads: 2,
///     temp: std::env::temp_dir(),
///     max_size: None,
///     max_entries: None,
///     root: "main".parse()?,
///     application: String::new(),
///     store_hint: String::new(),
/// };
/// let key = KeyFile::decode(&std::fs::read_to_string("testdata/vectors/published-test.key")?)?;
/// let salt = key.salt.as_ref().ok_or("no salt")?;
/// let image = source::open(&"tar:testdata/vectors/root.tar".parse()?, None, &Access::default(), options.limits(&Silent))?;
/// let store = Memory::default();
/// let converted = convert(&image, salt, &options, Target { store: Some(&store), cache: None }, &Silent)?;
/// assert_eq!(converted.counts.put_chunks, store.0.lock().unwrap().len() as u64);
/// // The manifest is encrypted, and uploaded last.
/// let manifest = converted.manifest.encode(&key)?;
/// # assert!(manifest.len() > 100);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
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
    let sealer = Sealer { salt, codec: options.codec, store };
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

/// Reads and flattens `image` without chunks, to look up what is where on the device.
///
/// # Errors
/// As [`convert`].
pub fn flatten_only(image: &Image, options: &Options, progress: &dyn Progress) -> Result<Tree> {
    Ingest::new(image, options.limits(progress), None, None, progress)
        .all(options.threads)
        .map(|flattened| flattened.tree)
}

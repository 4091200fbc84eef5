//! Where an image comes from: references, layouts, archives, registries, engines, and the layers' bytes, checked against their digests.

pub mod config;
pub mod engine;
pub mod platform;
pub mod reference;

mod archive;
mod blob;
mod containers_storage;
mod docker_archive;
mod index;
mod layer;
mod oci_layout;
mod recognize;
mod registry;
mod skopeo_dir;
mod spool;

use std::path::Path;
use std::sync::Arc;

pub use blob::Blob;
pub use config::ImageConfig;
pub use engine::Engine;
pub use layer::{LayerReader, LayerSource};
pub use platform::Platform;
pub use reference::ImageRef;
pub use registry::{Top, block_manifest, top_of};

use index::Wanted;
use oci_spec::image::Descriptor;

use crate::progress::Progress;
use crate::registry::Settings;
use crate::{Error, Result};

/// An image whose parts are found, but not read.
#[derive(Debug)]
pub struct Image {
    /// The base first.
    pub layers: Vec<LayerSource>,
    /// What the image says of itself, as far as that is known before its layers are read.
    pub config: ImageConfig,
    /// Its OCI manifest; `None` where it came in a form without one.
    pub manifest: Option<Descriptor>,
    /// What a person should know of it: it is another machine's, or its archive was edited.
    pub warnings: Vec<String>,
    /// Who has it, where that is an engine.
    engine: Option<Arc<engine::Saved>>,
}

impl Image {
    /// What the image says of itself; asks an engine that tells it only with the layers, where none was read.
    ///
    /// # Errors
    /// Those of the engine.
    pub fn whole_config(&self) -> Result<&ImageConfig> {
        self.engine.as_ref().map_or(Ok(&self.config), |saved| saved.config())
    }
}

/// What unpacking may take, and who hears how far it is.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Where what must be unpacked to be read again is kept, in files without a name.
    pub temp: &'a Path,
    /// Most uncompressed bytes of an archive, and of an image's layers together.
    pub max_size: u64,
    /// Most bytes of a file, holes included.
    pub max_file: u64,
    /// Most entries of an image's layers together, with the directories that no entry describes.
    pub max_entries: u64,
    /// Receives how much of a pipe was read.
    pub progress: &'a dyn Progress,
}

/// How places that are not files are reached.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// Registries.
    pub registry: Settings,
    /// A container engine.
    pub engine: Engine,
}

/// Finds the image that `reference` names, and the `platform` of it where it has several.
///
/// # Errors
/// `NotFound`, `Input`, `Unsupported` or `Corrupt`, naming the file or the blob; `Denied` or `Unavailable` of a registry or an
/// engine.
pub fn open(reference: &ImageRef, platform: Option<&Platform>, access: &Access, limits: Limits<'_>) -> Result<Image> {
    find(reference, Wanted::One(platform), access, limits).map(|mut images| images.remove(0))
}

/// Finds all images that `reference` names, one for each platform, in the order of its index; never none.
///
/// # Errors
/// As [`open`].
pub fn open_all(reference: &ImageRef, access: &Access, limits: Limits<'_>) -> Result<Vec<Image>> {
    find(reference, Wanted::All, access, limits)
}

fn find(reference: &ImageRef, wanted: Wanted<'_>, access: &Access, limits: Limits<'_>) -> Result<Vec<Image>> {
    let archive = |file: &Path| archive::Container::archive(file, limits);
    let platform = match wanted {
        Wanted::One(platform) => platform,
        Wanted::All => None,
    };
    let images = match reference {
        ImageRef::OciLayout { directory, tag, digest } => archive::Container::directory(directory)
            .and_then(|container| oci_layout::open(&container, tag.as_deref(), *digest, wanted)),
        ImageRef::OciArchive { file, tag } => {
            archive(file).and_then(|container| oci_layout::open(&container, tag.as_deref(), None, wanted))
        }
        ImageRef::Directory { directory } => skopeo_dir::open(directory, wanted),
        ImageRef::Registry(name) => registry::open(name, wanted, &access.registry, limits),
        ImageRef::ContainersStorage { reference } => containers_storage::open(reference, wanted, limits),
        // These have one image for one platform.
        ImageRef::DockerArchive { file, reference } => archive(file)
            .and_then(|container| docker_archive::open(&container, reference.as_deref(), platform))
            .map(|image| vec![image]),
        ImageRef::DockerDaemon { reference } => {
            engine::open(reference, platform, limits, &access.engine).map(|image| vec![image])
        }
        ImageRef::Tar { file } => open_tar(file, platform, limits).map(|image| vec![image]),
    };
    images.map_err(|error: Error| error.within(reference))
}

fn open_tar(file: &Path, platform: Option<&Platform>, limits: Limits<'_>) -> Result<Image> {
    let blob = blob::open_input(file, limits)?;
    recognize::check_root_file_system(file, &blob, limits.max_size)?;
    let layers = vec![LayerSource { blob, digest: None, size: None, diff_id: None }];
    Ok(Image {
        layers,
        config: ImageConfig::without_image(platform),
        manifest: None,
        engine: None,
        warnings: Vec::new(),
    })
}

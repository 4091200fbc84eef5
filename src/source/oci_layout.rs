//! An OCI image layout, in a directory or an archive: from `index.json` to the layers of one platform.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use super::archive::Container;
use super::{Blob, Image, ImageConfig, LayerSource, Platform};
use crate::digest::Sha256;
use crate::{Error, ErrorKind, Result};

const TAG: &str = "org.opencontainers.image.ref.name";
/// Indexes inside indexes.
const MAX_DEPTH: usize = 4;
/// Manifests and indexes that all indexes of a layout together may name.
const MAX_MANIFESTS: usize = 10_000;

/// Where what descriptors name is found.
pub(super) trait Content {
    /// The bytes of an index or a manifest, which are those of its digest.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// The bytes of a config, which are those of its digest.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// A layer, of the size that the descriptor says.
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob>;
}

/// Finds the image `tag` (the only one, where none is given) for `platform` (the host's, where several are offered).
pub(super) fn open(container: &Container, tag: Option<&str>, platform: Option<&Platform>) -> Result<Image> {
    let index = parse_index("index.json", &container.open("index.json")?.document(None)?)?;
    image(container, tagged(&index, tag)?, platform)
}

/// The image for `platform` among what `descriptors` name.
pub(super) fn image(content: &dyn Content, descriptors: Vec<Descriptor>, platform: Option<&Platform>) -> Result<Image> {
    let chosen = choose(content, descriptors, platform)?;
    let manifest = parse_manifest(&chosen, &content.manifest(&chosen)?)?;
    let config = config_of(content, &manifest)?;
    check_platform(&config, platform)?;
    let layers = layers(content, &manifest, &config)?;
    Ok(Image { layers, config, manifest: Some(chosen), engine: None })
}

pub(super) fn config_of(content: &dyn Content, manifest: &ImageManifest) -> Result<ImageConfig> {
    ImageConfig::parse(&content.document(manifest.config())?)
}

impl Content for Container {
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.document(descriptor)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.blob(descriptor)?.document(Some(sha256(descriptor)?))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob> {
        let name = format!("blobs/sha256/{}", sha256(descriptor)?.to_hex());
        let blob = self.open(&name).map_err(|error| error.within(format!("blob {}", descriptor.digest())))?;
        if let Some(length) = blob.length().filter(|length| *length != descriptor.size()) {
            let message = format!("{}: {length} bytes, its descriptor says {}", blob.name(), descriptor.size());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(blob)
    }
}

fn parse_index(name: &str, bytes: &[u8]) -> Result<ImageIndex> {
    ImageIndex::from_reader(bytes)
        .map_err(|error| Error::caused(ErrorKind::Input, format!("{name}: not an OCI image index"), error))
}

pub(super) fn parse_manifest(descriptor: &Descriptor, bytes: &[u8]) -> Result<ImageManifest> {
    ImageManifest::from_reader(bytes).map_err(|error| {
        Error::caused(ErrorKind::Input, format!("{}: not an image manifest", descriptor.digest()), error)
    })
}

pub(super) fn sha256(descriptor: &Descriptor) -> Result<Sha256> {
    let digest = descriptor.digest().to_string();
    digest
        .parse()
        .map_err(|_| Error::new(ErrorKind::Unsupported, format!("{digest}: only sha256 digests are supported")))
}

fn tag_of(descriptor: &Descriptor) -> Option<&str> {
    descriptor.annotations().as_ref()?.get(TAG).map(String::as_str)
}

/// The descriptors of one image: those of `tag`, or all where they are of one image only.
fn tagged(index: &ImageIndex, tag: Option<&str>) -> Result<Vec<Descriptor>> {
    let all = index.manifests();
    let mut tags: Vec<&str> = all.iter().filter_map(tag_of).collect();
    tags.sort_unstable();
    tags.dedup();
    let list = if tags.is_empty() { "none".to_owned() } else { tags.join(", ") };
    match tag {
        Some(tag) if !tags.contains(&tag) => {
            Err(Error::new(ErrorKind::NotFound, format!("no image `{tag}` in it; the tags there are: {list}")))
        }
        Some(tag) => Ok(all.iter().filter(|descriptor| tag_of(descriptor) == Some(tag)).cloned().collect()),
        None if tags.len() > 1 => {
            Err(Error::new(ErrorKind::Input, format!("several images are in it; add :TAG with one of: {list}")))
        }
        None => Ok(all.clone()),
    }
}

/// What indexes offer.
#[derive(Default)]
struct Offered {
    candidates: Vec<Candidate>,
    /// Indexes that were read.
    indexes: BTreeSet<Sha256>,
    descriptors: usize,
}

/// A manifest that an index offers, and for which platform it is.
struct Candidate {
    descriptor: Descriptor,
    platform: Option<Platform>,
}

pub(super) fn choose(
    content: &dyn Content,
    descriptors: Vec<Descriptor>,
    asked: Option<&Platform>,
) -> Result<Descriptor> {
    let mut offered = Offered::default();
    collect(content, descriptors, MAX_DEPTH, &mut offered)?;
    let mut candidates = offered.candidates;
    if asked.is_none() && candidates.len() == 1 {
        return Ok(candidates.remove(0).descriptor);
    }
    let wanted = asked.cloned().unwrap_or_else(Platform::host);
    // A manifest without a platform is judged by its config, which open() checks.
    let fits = |candidate: &Candidate| candidate.platform.as_ref().is_none_or(|offered| wanted.accepts(offered));
    if let Some(at) = candidates.iter().position(fits) {
        return Ok(candidates.swap_remove(at).descriptor);
    }
    let mut offered: Vec<_> =
        candidates.iter().filter_map(|candidate| candidate.platform.as_ref().map(ToString::to_string)).collect();
    offered.dedup();
    let list = if offered.is_empty() { "none".to_owned() } else { offered.join(", ") };
    Err(Error::new(ErrorKind::NotFound, format!("no image for {wanted} in it; --platform can be one of: {list}")))
}

fn collect(content: &dyn Content, descriptors: Vec<Descriptor>, depth: usize, out: &mut Offered) -> Result<()> {
    out.descriptors += descriptors.len();
    if out.descriptors > MAX_MANIFESTS {
        return Err(Error::new(ErrorKind::Input, format!("its indexes name more than {MAX_MANIFESTS} manifests")));
    }
    for descriptor in descriptors {
        let media_type = descriptor.media_type().to_string();
        if media_type.ends_with("index.v1+json") || media_type.ends_with("manifest.list.v2+json") {
            if depth == 0 {
                return Err(Error::new(
                    ErrorKind::Input,
                    format!("{}: indexes nested too deeply", descriptor.digest()),
                ));
            }
            if !out.indexes.insert(sha256(&descriptor)?) {
                continue;
            }
            let bytes = content.manifest(&descriptor)?;
            let index = parse_index(descriptor.digest().as_ref(), &bytes)?;
            collect(content, index.manifests().clone(), depth - 1, out)?;
            continue;
        }
        let platform = descriptor.platform().as_ref().map(|platform| Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
        });
        // Attestations stand beside images as manifests for no platform.
        if platform.as_ref().is_some_and(|platform| platform.os == "unknown") || descriptor.artifact_type().is_some() {
            continue;
        }
        out.candidates.push(Candidate { descriptor, platform });
    }
    Ok(())
}

/// Refuses an image whose config is for another platform than the one asked for.
pub(super) fn check_platform(config: &ImageConfig, asked: Option<&Platform>) -> Result<()> {
    match (asked, &config.platform) {
        (Some(asked), Some(found)) if !asked.accepts(found) => {
            Err(Error::new(ErrorKind::NotFound, format!("the image is for {found}, not for {asked}")))
        }
        _ => Ok(()),
    }
}

fn layers(content: &dyn Content, manifest: &ImageManifest, config: &ImageConfig) -> Result<Vec<LayerSource>> {
    let descriptors = manifest.layers();
    if descriptors.len() != config.diff_ids.len() {
        let message =
            format!("the manifest has {} layers, the config {} DiffIDs", descriptors.len(), config.diff_ids.len());
        return Err(Error::new(ErrorKind::Input, message));
    }
    // Equal layers are one file.
    let mut blobs: BTreeMap<Sha256, Blob> = BTreeMap::new();
    let layer = |(descriptor, diff_id): (&Descriptor, &Sha256)| {
        check_layer_type(descriptor)?;
        let digest = sha256(descriptor)?;
        let blob = match blobs.entry(digest) {
            Entry::Occupied(there) => there.get().clone(),
            Entry::Vacant(free) => free.insert(content.blob(descriptor)?).clone(),
        };
        Ok(LayerSource { blob, digest: Some(digest), size: Some(descriptor.size()), diff_id: Some(*diff_id) })
    };
    descriptors.iter().zip(&config.diff_ids).map(layer).collect()
}

/// Layers are tars, plain, gzip or zstd; foreign, encrypted and unknown ones are refused by name.
fn check_layer_type(descriptor: &Descriptor) -> Result<()> {
    let (media_type, digest) = (descriptor.media_type().to_string(), descriptor.digest());
    let refuse =
        |what: &str| Err(Error::new(ErrorKind::Unsupported, format!("layer {digest} is {what} (`{media_type}`)")));
    if media_type.contains("nondistributable") || media_type.contains(".foreign.") {
        return refuse("foreign: its bytes are not in the image");
    }
    if media_type.ends_with("+encrypted") {
        return refuse("encrypted; decrypt the image first");
    }
    let known = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ];
    if known.contains(&media_type.as_str()) { Ok(()) } else { refuse("of a type that is not supported") }
}

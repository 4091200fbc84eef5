//! An OCI image layout, in a directory or an archive: from `index.json` to the layers of one platform.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use oci_spec::image::{Descriptor, ImageIndex, ImageManifest, MediaType};

use super::archive::Container;
use super::index::{Chosen, Wanted, choose, choose_all, parse_index, schema_1};
use super::{Blob, Image, ImageConfig, LayerSource, Platform};
use crate::digest::{ContentDigest, Sha256};
use crate::{Error, ErrorKind, Result};

const TAG: &str = "org.opencontainers.image.ref.name";

/// Where what descriptors name is found.
pub(super) trait Content {
    /// The bytes of an index or a manifest, which are those of its digest.
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// The bytes of a config, which are those of its digest.
    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>>;

    /// A layer, of the size that the descriptor says.
    fn blob(&self, descriptor: &Descriptor) -> Result<Blob>;
}

/// Finds the image with the manifest or index `digest`, else the image `tag` (the only one, where none is given), and of it what is
/// `wanted`.
pub(super) fn open(
    container: &Container,
    tag: Option<&str>,
    digest: Option<ContentDigest>,
    wanted: Wanted<'_>,
) -> Result<Vec<Image>> {
    if let Some(digest) = digest {
        let name = format!("blobs/{}", digest.blob_path());
        let bytes = container.open(&name)?.document(Some(digest))?;
        return images(container, vec![descriptor_of(&bytes, digest, None)?], wanted);
    }
    let index = container.open("index.json").map_err(|error| container.explain("index.json", error))?;
    let index = parse_index("index.json", &index.document(None)?)?;
    images(container, tagged(&index, tag)?, wanted)
}

/// The descriptor of a manifest or an index that was asked for without one; `sent` is the media type that came with it.
pub(super) fn descriptor_of(bytes: &[u8], digest: ContentDigest, sent: Option<&str>) -> Result<Descriptor> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Document {
        media_type: Option<String>,
        schema_version: Option<u32>,
        manifests: Option<serde::de::IgnoredAny>,
    }
    let document: Option<Document> = serde_json::from_slice(bytes).ok();
    let own = document.as_ref().and_then(|document| document.media_type.clone());
    let default = match &document {
        Some(Document { manifests: Some(_), .. }) => MediaType::ImageIndex,
        _ => MediaType::ImageManifest,
    };
    let media_type = own.or(sent.map(str::to_owned)).unwrap_or_else(|| default.to_string());
    let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
    let is_schema_1 = document.is_some_and(|document| document.schema_version == Some(1));
    if is_schema_1 || media_type.contains("distribution.manifest.v1") {
        return Err(schema_1(&digest.to_string(), &media_type));
    }
    let digest: oci_spec::image::Digest = digest.to_string().parse().expect("it has the form of a digest");
    Ok(Descriptor::new(MediaType::from(media_type.as_str()), bytes.len() as u64, digest))
}

/// The images that are `wanted` among what `descriptors` name; never none.
pub(super) fn images(content: &dyn Content, descriptors: Vec<Descriptor>, wanted: Wanted<'_>) -> Result<Vec<Image>> {
    let content = &WithEmbedded(content);
    match wanted {
        Wanted::One(platform) => {
            let chosen = choose(content, descriptors, platform)?;
            image(content, chosen, |config| check_platform(config, platform)).map(|image| vec![image])
        }
        // Whoever asks for all knows that some are other machines'.
        Wanted::All => {
            let chosen = choose_all(content, descriptors)?.into_iter();
            chosen.map(|chosen| image(content, chosen, |_| Ok(Vec::new()))).collect()
        }
    }
}

fn image(
    content: &dyn Content,
    Chosen { descriptor, manifest }: Chosen,
    check: impl FnOnce(&ImageConfig) -> Result<Vec<String>>,
) -> Result<Image> {
    let config = config_of(content, &manifest)?;
    let warnings = check(&config)?;
    let layers = layers(content, &manifest, &config)?;
    Ok(Image { layers, config, manifest: Some(descriptor), engine: None, warnings })
}

pub(super) fn config_of(content: &dyn Content, manifest: &ImageManifest) -> Result<ImageConfig> {
    ImageConfig::parse(&content.document(manifest.config())?)
}

/// Content, some of which stands in the descriptors themselves: their `data` field in base64 (OCI image specification,
/// "Embedded Content"). It is used where it is present, so that nothing is opened or fetched for it.
struct WithEmbedded<'c>(&'c dyn Content);

impl Content for WithEmbedded<'_> {
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        embedded(descriptor).unwrap_or_else(|| self.0.manifest(descriptor))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        embedded(descriptor).unwrap_or_else(|| self.0.document(descriptor))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob> {
        let Some(bytes) = embedded(descriptor) else { return self.0.blob(descriptor) };
        Ok(Blob::of_bytes(&format!("blob {}", descriptor.digest()), bytes?))
    }
}

/// Returns the content that stands in the descriptor, once its size and digest are verified, as the specification requires.
fn embedded(descriptor: &Descriptor) -> Option<Result<Vec<u8>>> {
    let text = descriptor.data().as_ref()?;
    let digest = descriptor.digest();
    let corrupt =
        |reason: String| Error::new(ErrorKind::Corrupt, format!("the `data` field of descriptor {digest}: {reason}"));
    let verified = || {
        let bytes = STANDARD.decode(text).map_err(|error| corrupt(format!("not base64: {error}")))?;
        if bytes.len() as u64 != descriptor.size() {
            return Err(corrupt(format!("{} bytes, but the descriptor's size is {}", bytes.len(), descriptor.size())));
        }
        let (wanted, found) = (digest_of(descriptor)?, digest_of(descriptor)?.same_of(&bytes));
        if wanted == found { Ok(bytes) } else { Err(corrupt(format!("its digest is {found}"))) }
    };
    Some(verified())
}

impl Content for Container {
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.document(descriptor)
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.blob(descriptor)?.document(Some(digest_of(descriptor)?))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob> {
        let name = format!("blobs/{}", digest_of(descriptor)?.blob_path());
        let blob = self.open(&name).map_err(|error| error.within(format!("blob {}", descriptor.digest())))?;
        if let Some(length) = blob.length().filter(|length| *length != descriptor.size()) {
            let message =
                format!("{}: its size is {length} bytes, its descriptor says {}", blob.name(), descriptor.size());
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(blob)
    }
}

/// The digest of what a descriptor names.
pub(super) fn digest_of(descriptor: &Descriptor) -> Result<ContentDigest> {
    let digest = descriptor.digest().to_string();
    digest.parse().map_err(|_| {
        Error::new(ErrorKind::Unsupported, format!("{digest}: only sha256 and sha512 digests are supported"))
    })
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
            Err(Error::new(ErrorKind::NotFound, format!("it does not contain the tag `{tag}`; its tags are: {list}")))
        }
        Some(tag) => Ok(all.iter().filter(|descriptor| tag_of(descriptor) == Some(tag)).cloned().collect()),
        None if tags.len() > 1 => {
            Err(Error::new(ErrorKind::Input, format!("it contains several images; add :TAG with one of: {list}")))
        }
        None => Ok(all.clone()),
    }
}

/// Refuses an image whose config is for another platform than the one asked for; returns a warning where none was asked for and
/// this machine could not run it.
///
/// # Errors
/// `NotFound`, naming both platforms.
pub(super) fn check_platform(config: &ImageConfig, asked: Option<&Platform>) -> Result<Vec<String>> {
    match (asked, &config.platform) {
        (Some(asked), Some(found)) if !asked.admits(found) => {
            Err(Error::new(ErrorKind::NotFound, format!("the image is for {found}, not for {asked}")))
        }
        (None, Some(found)) if !Platform::host().admits(found) => Ok(vec![format!(
            "the image is for {found}, and this machine is {}; give --platform {found} to convert it without this warning",
            Platform::host()
        )]),
        _ => Ok(Vec::new()),
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
    let mut blobs: BTreeMap<ContentDigest, Blob> = BTreeMap::new();
    let layer = |(descriptor, diff_id): (&Descriptor, &Sha256)| {
        check_layer_type(descriptor)?;
        let digest = digest_of(descriptor)?;
        let blob = match blobs.entry(digest) {
            Entry::Occupied(there) => there.get().clone(),
            Entry::Vacant(free) => {
                free.insert(content.blob(descriptor).map_err(|error| absent(descriptor, error))?).clone()
            }
        };
        Ok(LayerSource { blob, digest: Some(digest), size: Some(descriptor.size()), diff_id: Some(*diff_id) })
    };
    descriptors.iter().zip(&config.diff_ids).map(layer).collect()
}

/// Says of a layer that is not there where its bytes are, if its descriptor tells.
fn absent(descriptor: &Descriptor, error: Error) -> Error {
    let urls = descriptor.urls().iter().flatten().map(|url| url.escape_debug().to_string()).collect::<Vec<_>>();
    if error.kind() != ErrorKind::NotFound || urls.is_empty() {
        return error;
    }
    error.within(format!(
        "layer {} is not distributed with the image, but from {}",
        descriptor.digest(),
        urls.join(", ")
    ))
}

/// Layers are tars, plain or compressed; encrypted ones and those of unknown media types are refused by name.
fn check_layer_type(descriptor: &Descriptor) -> Result<()> {
    let (media_type, digest) = (descriptor.media_type().to_string(), descriptor.digest());
    let refuse =
        |what: &str| Err(Error::new(ErrorKind::Unsupported, format!("layer {digest} is {what} (`{media_type}`)")));
    if media_type.ends_with("+encrypted") {
        return refuse("encrypted; decrypt the image first");
    }
    // Where the bytes of a layer that may not be distributed are there all the same, they are a layer like any other.
    let media_type = media_type.replace(".nondistributable.", ".").replace(".foreign.", ".");
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

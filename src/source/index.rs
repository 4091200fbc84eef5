//! Which image manifest of an index serves a platform.
//!
//! What is an image is decided by the media types of the manifest and of its config, as docker and containerd decide it, not by the
//! index entry's `artifactType`: image builders set that field on images, too. Platforms match by [`Platform::distance`]; of several
//! entries that serve equally well, the first is taken.

use std::collections::BTreeSet;

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use super::oci_layout::{Content, config_of, digest_of};
use super::platform::Platform;
use crate::digest::ContentDigest;
use crate::{Error, ErrorKind, Result};

/// Indexes inside indexes.
const MAX_DEPTH: usize = 4;
/// Manifests and indexes that all indexes of a layout together may name.
const MAX_MANIFESTS: usize = 10_000;
/// The manifests of images, by media type.
const MANIFEST_TYPES: [&str; 2] =
    ["application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json"];
/// The media types that configs of images have or had. Source: `ImageTypes` of moby's `distribution/registry.go`, where those behind
/// the second are marked as what old registries and clients wrote (moby#22378, moby#30083).
const CONFIG_TYPES: [&str; 6] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "application/json",
    "text/html",
    "",
];
/// The annotation by which BuildKit marks attestations.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

/// An image manifest and the descriptor that names it.
pub(super) struct Chosen {
    pub(super) descriptor: Descriptor,
    pub(super) manifest: ImageManifest,
}

/// Which images of several are wanted.
#[derive(Clone, Copy)]
pub(super) enum Wanted<'p> {
    /// The one that serves this platform, else this machine's.
    One(Option<&'p Platform>),
    /// One for each platform that is offered.
    All,
}

/// What indexes offer.
#[derive(Default)]
struct Offered {
    candidates: Vec<Candidate>,
    attestations: usize,
    /// Media or artifact types of what is no image.
    artifacts: Vec<String>,
    /// Indexes that were read.
    indexes: BTreeSet<ContentDigest>,
    descriptors: usize,
}

/// A manifest that an index offers, and for which platform it is.
struct Candidate {
    descriptor: Descriptor,
    platform: Option<Platform>,
}

/// Returns the image manifest for `asked` among what `descriptors` name, or for this machine's platform where several are offered.
///
/// # Errors
/// `NotFound` where no image serves the platform, listing those that are offered; `Unsupported` where there is no image at all.
pub(super) fn choose(content: &dyn Content, descriptors: Vec<Descriptor>, asked: Option<&Platform>) -> Result<Chosen> {
    let mut offered = Offered::default();
    collect(content, descriptors, MAX_DEPTH, &mut offered)?;
    let Offered { mut candidates, mut artifacts, attestations, .. } = offered;
    if candidates.len() == 1 && (asked.is_none() || candidates[0].platform.is_none()) {
        let descriptor = candidates.remove(0).descriptor;
        let manifest = parse_manifest(&descriptor, &content.manifest(&descriptor)?)?;
        return match artifact_type(&manifest) {
            None => Ok(Chosen { descriptor, manifest }),
            Some(kind) => Err(no_image(&[kind], attestations)),
        };
    }
    let wanted = asked.cloned().unwrap_or_else(Platform::host);
    let mut ranked = Vec::new();
    let mut platforms = Vec::new();
    for (place, candidate) in candidates.into_iter().enumerate() {
        let (platform, manifest) = match candidate.platform {
            Some(platform) => (Some(platform), None),
            // Where the index does not say it, the config does, as containerd reads it.
            None => {
                let manifest = parse_manifest(&candidate.descriptor, &content.manifest(&candidate.descriptor)?)?;
                if let Some(kind) = artifact_type(&manifest) {
                    artifacts.push(kind);
                    continue;
                }
                (config_of(content, &manifest)?.platform, Some(manifest))
            }
        };
        // A config that names no platform contradicts none.
        let distance = platform.as_ref().map_or(Some(0), |platform| wanted.distance(platform));
        platforms.extend(platform);
        ranked.extend(distance.map(|distance| (distance, place, candidate.descriptor, manifest)));
    }
    ranked.sort_by_key(|(distance, place, ..)| (*distance, *place));
    for (_, _, descriptor, manifest) in ranked {
        let manifest = manifest.map_or_else(|| parse_manifest(&descriptor, &content.manifest(&descriptor)?), Ok)?;
        match artifact_type(&manifest) {
            None => return Ok(Chosen { descriptor, manifest }),
            Some(kind) => artifacts.push(kind),
        }
    }
    if platforms.is_empty() {
        return Err(no_image(&artifacts, attestations));
    }
    let mut names: Vec<String> = platforms.iter().map(ToString::to_string).collect();
    names.dedup();
    let message = format!("there is no image for {wanted}; --platform can be one of: {}", names.join(", "));
    Err(Error::new(ErrorKind::NotFound, message))
}

/// Returns the image manifests among what `descriptors` name, in their order; of several for one platform, the first.
///
/// # Errors
/// `Unsupported` where there is no image at all.
pub(super) fn choose_all(content: &dyn Content, descriptors: Vec<Descriptor>) -> Result<Vec<Chosen>> {
    let mut offered = Offered::default();
    collect(content, descriptors, MAX_DEPTH, &mut offered)?;
    let (mut chosen, mut platforms) = (Vec::new(), BTreeSet::new());
    for Candidate { descriptor, platform } in offered.candidates {
        let manifest = parse_manifest(&descriptor, &content.manifest(&descriptor)?)?;
        if let Some(kind) = artifact_type(&manifest) {
            offered.artifacts.push(kind);
            continue;
        }
        let platform = platform
            .map_or_else(|| config_of(content, &manifest).map(|config| config.platform), |found| Ok(Some(found)))?;
        if platforms.insert(platform.map(|platform| platform.normalized().to_string())) {
            chosen.push(Chosen { descriptor, manifest });
        }
    }
    if chosen.is_empty() { Err(no_image(&offered.artifacts, offered.attestations)) } else { Ok(chosen) }
}

fn collect(content: &dyn Content, descriptors: Vec<Descriptor>, depth: usize, out: &mut Offered) -> Result<()> {
    out.descriptors += descriptors.len();
    if out.descriptors > MAX_MANIFESTS {
        return Err(Error::new(ErrorKind::Input, format!("its indexes list more than {MAX_MANIFESTS} manifests")));
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
            if !out.indexes.insert(digest_of(&descriptor)?) {
                continue;
            }
            let bytes = content.manifest(&descriptor)?;
            let index = parse_index(descriptor.digest().as_ref(), &bytes)?;
            collect(content, index.manifests().clone(), depth - 1, out)?;
            continue;
        }
        let annotated = descriptor.annotations().as_ref().is_some_and(|all| all.contains_key(REFERENCE_TYPE));
        let platform = descriptor.platform().as_ref().map(|platform| Platform {
            os: platform.os().to_string(),
            architecture: platform.architecture().to_string(),
            variant: platform.variant().clone().filter(|variant| !variant.is_empty()),
        });
        let is_unknown = platform.as_ref().is_some_and(|platform| platform.os == "unknown");
        if media_type.contains("distribution.manifest.v1") {
            return Err(schema_1(descriptor.digest().as_ref(), &media_type));
        } else if annotated || is_unknown {
            out.attestations += 1;
        } else if !MANIFEST_TYPES.contains(&media_type.as_str()) && !media_type.is_empty() {
            out.artifacts.push(media_type);
        } else {
            out.candidates.push(Candidate { descriptor, platform });
        }
    }
    Ok(())
}

/// The type of the artifact that `manifest` is of; `None` where it is an image's.
fn artifact_type(manifest: &ImageManifest) -> Option<String> {
    let config = manifest.config().media_type().to_string();
    if CONFIG_TYPES.contains(&config.as_str()) {
        return None;
    }
    Some(manifest.artifact_type().as_ref().map_or(config, ToString::to_string))
}

fn no_image(artifacts: &[String], attestations: usize) -> Error {
    let message = match artifacts.first() {
        Some(kind) => format!("it is an artifact of type `{}`, not a container image", kind.escape_debug()),
        None if attestations > 0 => format!(
            "it contains no container image, only {attestations} attestation manifest{} (provenance or SBOM); name the \
             image to which they belong",
            if attestations == 1 { "" } else { "s" }
        ),
        None => "it contains no container image: its index is empty".to_owned(),
    };
    Error::new(ErrorKind::Unsupported, message)
}

/// The error for an image in docker's first format with a registry.
pub(super) fn schema_1(digest: &str, media_type: &str) -> Error {
    let message = format!(
        "manifest {digest}: docker's image manifest schema 1 (`{media_type}`) is not supported; pull the image with docker and \
         push it again, or convert `docker-daemon:NAME`"
    );
    Error::new(ErrorKind::Unsupported, message)
}

pub(super) fn parse_index(name: &str, bytes: &[u8]) -> Result<ImageIndex> {
    serde_json::from_slice(bytes)
        .map_err(|error| Error::caused(ErrorKind::Input, format!("{name}: not an OCI image index"), error))
}

pub(super) fn parse_manifest(descriptor: &Descriptor, bytes: &[u8]) -> Result<ImageManifest> {
    serde_json::from_slice(bytes).map_err(|error| {
        Error::caused(ErrorKind::Input, format!("{}: not an image manifest", descriptor.digest()), error)
    })
}

//! Block manifests in a registry, beside the image that they are of: an OCI artifact whose subject is the image's manifest.
//!
//! Its one layer is the file that `coldpress convert -o` writes. A registry with the referrers API finds it by its subject;
//! for one without, the tag `sha256-HEX` of the subject names an index of its referrers, as the OCI distribution specification
//! has it.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use oci_spec::image::{Descriptor, ImageIndex, ImageIndexBuilder, ImageManifest, ImageManifestBuilder, MediaType};

use super::{Client, Fetched};
use crate::digest::Sha256;
use crate::net::retry::jittered;
use crate::{Error, ErrorKind, Result};

/// The artifact's type.
pub const ARTIFACT_TYPE: &str = "application/vnd.coldpress.block-manifest.v1";
/// The type of its layer.
pub const LAYER_TYPE: &str = "application/vnd.coldpress.block-manifest.v1+cpm";
/// The annotation with the root digest.
pub const ROOT_DIGEST: &str = "dev.coldpress.root-digest";
/// The annotation that tells those of one root digest apart.
pub const IDENTITY: &str = "dev.coldpress.identity";
/// The annotation with the dedup scope's id.
pub const SCOPE: &str = "dev.coldpress.scope";
const EMPTY_CONFIG: &[u8] = b"{}";
/// Artifacts of one image that are looked at.
const MAX_ARTIFACTS: usize = 64;
/// How often an index of referrers is written again that somebody else has overwritten.
const MAX_ATTEMPTS: u32 = 12;
/// Longer than others take between reading such an index and writing it: a registry knows no condition for a tag.
const SETTLED: Duration = Duration::from_millis(700);

/// What an artifact says of the block manifest in it.
#[derive(Debug, Clone)]
pub struct About {
    /// The block manifest's root digest.
    pub root_digest: Sha256,
    /// Its dedup scope.
    pub scope: String,
    /// Of what else two of one root digest differ in: root, application, wrapping key.
    pub identity: Sha256,
}

impl About {
    fn annotations(&self) -> HashMap<String, String> {
        HashMap::from([
            (ROOT_DIGEST.to_owned(), self.root_digest.to_string()),
            (SCOPE.to_owned(), self.scope.clone()),
            (IDENTITY.to_owned(), self.identity.to_string()),
        ])
    }

    fn is_of(&self, entry: &Descriptor) -> bool {
        annotation(entry, ROOT_DIGEST) == Some(&self.root_digest.to_string())
            && annotation(entry, IDENTITY) == Some(&self.identity.to_string())
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    let digest = Sha256::of(bytes).to_string().parse::<oci_spec::image::Digest>().expect("a sha256 digest is one");
    Descriptor::new(MediaType::from(media_type), bytes.len() as u64, digest)
}

fn digest_of(descriptor: &Descriptor) -> Result<Sha256> {
    let text = descriptor.digest().to_string();
    text.parse().map_err(|_| Error::new(ErrorKind::Unsupported, format!("{text}: only sha256 digests are supported")))
}

/// Refuses at the start what could not be put at the end.
///
/// # Errors
/// Those of the registry.
pub fn check(client: &Client) -> Result<()> {
    client.put_blob(EMPTY_CONFIG).map(drop)
}

/// Puts the block manifest `bytes` beside the image's manifest `subject`, and under `tag` where there is one. The artifact's digest:
/// of the one that is there already, where that is for the same key.
///
/// # Errors
/// Those of the registry.
pub fn push(
    client: &Client,
    bytes: &[u8],
    about: &About,
    subject: Option<&Descriptor>,
    tag: Option<&str>,
) -> Result<Sha256> {
    let media_type = MediaType::ImageManifest.to_string();
    if let Some(subject) = subject {
        let there = listed(client, digest_of(subject)?)?.into_iter().rev().find(|entry| about.is_of(entry));
        if let Some(entry) = there {
            let digest = digest_of(&entry)?;
            if let Some(tag) = tag {
                client.put_manifest(tag, &media_type, &client.manifest(&digest.to_string())?.bytes)?;
            }
            return Ok(digest);
        }
    }
    client.put_blob(EMPTY_CONFIG)?;
    client.put_blob(bytes)?;
    let mut manifest = ImageManifestBuilder::default()
        .schema_version(2u32)
        .media_type(MediaType::ImageManifest)
        .artifact_type(MediaType::from(ARTIFACT_TYPE))
        .config(descriptor("application/vnd.oci.empty.v1+json", EMPTY_CONFIG))
        .layers(vec![descriptor(LAYER_TYPE, bytes)])
        .annotations(about.annotations());
    if let Some(subject) = subject {
        let bare = Descriptor::new(subject.media_type().clone(), subject.size(), subject.digest().clone());
        manifest = manifest.subject(bare);
    }
    let manifest = manifest.build().expect("all that must be given is");
    // With sorted keys, so that equal artifacts have equal bytes.
    let manifest = serde_json::to_value(&manifest).and_then(|value| serde_json::to_vec(&value));
    let manifest = manifest.expect("a manifest is JSON");
    let digest = Sha256::of(&manifest);
    let told = client.put_manifest(&digest.to_string(), &media_type, &manifest)?;
    if let Some(tag) = tag {
        client.put_manifest(tag, &media_type, &manifest)?;
    }
    if let (Some(subject), false) = (subject, told) {
        let mut entry = descriptor(&media_type, &manifest);
        entry.set_artifact_type(Some(MediaType::from(ARTIFACT_TYPE)));
        entry.set_annotations(Some(about.annotations()));
        add_to_fallback(client, digest_of(subject)?, &entry)?;
    }
    Ok(digest)
}

fn fallback_tag(subject: Sha256) -> String {
    format!("sha256-{}", subject.to_hex())
}

/// Adds `entry` to the index of what refers to `subject`. Who does the same at the same time may have overwritten it: it is looked
/// whether it is there.
fn add_to_fallback(client: &Client, subject: Sha256, entry: &Descriptor) -> Result<()> {
    let tag = fallback_tag(subject);
    let has = |entry: &Descriptor| {
        fallback(client, subject).map(|entries| entries.iter().any(|other| other.digest() == entry.digest()))
    };
    for attempt in 0..MAX_ATTEMPTS {
        let mut entries = fallback(client, subject)?;
        entries.retain(|other| other.digest() != entry.digest());
        entries.push(entry.clone());
        let index = ImageIndexBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageIndex)
            .manifests(entries)
            .build()
            .expect("all that must be given is");
        let index = serde_json::to_value(&index).and_then(|value| serde_json::to_vec(&value));
        client.put_manifest(&tag, MediaType::ImageIndex.as_ref(), &index.expect("an index is JSON"))?;
        // Those who met once shall not meet again.
        std::thread::sleep(jittered(Duration::from_millis(50 << attempt.min(5)))?);
        if has(entry)? {
            // Somebody may still be about to write what was read before.
            std::thread::sleep(SETTLED);
            if has(entry)? {
                return Ok(());
            }
        }
    }
    let message =
        format!("tag {tag} in {}: other uploads changed it {} times in a row", client.reference(), MAX_ATTEMPTS);
    Err(Error::new(ErrorKind::Unavailable, message))
}

fn fallback(client: &Client, subject: Sha256) -> Result<Vec<Descriptor>> {
    let tag = fallback_tag(subject);
    match client.manifest(&tag) {
        Ok(Fetched { bytes, .. }) => entries(&tag, &bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn entries(name: &str, bytes: &[u8]) -> Result<Vec<Descriptor>> {
    let index: ImageIndex = serde_json::from_slice(bytes)
        .map_err(|error| Error::caused(ErrorKind::Input, format!("{name}: not an OCI image index"), error))?;
    Ok(index.manifests().clone())
}

fn annotation<'a>(descriptor: &'a Descriptor, name: &str) -> Option<&'a String> {
    descriptor.annotations().as_ref()?.get(name)
}

/// Whether a manifest is such an artifact.
#[must_use]
pub fn is_artifact(manifest: &ImageManifest) -> bool {
    manifest.artifact_type().as_ref().is_some_and(|found| found.to_string() == ARTIFACT_TYPE)
}

/// The block manifests' artifacts of the image whose manifest is `subject`.
fn listed(client: &Client, subject: Sha256) -> Result<Vec<Descriptor>> {
    let mut found = Vec::new();
    for page in client.referrers(subject, ARTIFACT_TYPE)? {
        found.extend(entries("referrers", &page)?);
    }
    // A registry need not filter.
    let ours =
        |entry: &Descriptor| entry.artifact_type().as_ref().is_some_and(|found| found.to_string() == ARTIFACT_TYPE);
    found.retain(ours);
    if found.is_empty() {
        // It may have learned of referrers after they were put.
        found = fallback(client, subject)?;
        found.retain(ours);
    }
    found.truncate(MAX_ARTIFACTS);
    for entry in &mut found {
        if annotation(entry, ROOT_DIGEST).is_none() {
            // Not all registries repeat them.
            let manifest = client.manifest(&digest_of(entry)?.to_string())?.bytes;
            entry.set_annotations(
                ImageManifest::from_reader(&manifest[..]).ok().and_then(|found| found.annotations().clone()),
            );
        }
    }
    Ok(found)
}

/// The block manifests of the image whose manifest is `subject`, of one root digest: of `expect`, or the only one. They may be for
/// several keys.
///
/// # Errors
/// `NotFound` where there is none, `Input` where there are several root digests; those of the registry.
pub fn find(client: &Client, subject: Sha256, expect: Option<Sha256>) -> Result<Vec<Vec<u8>>> {
    let mut by_root: BTreeMap<String, Vec<Descriptor>> = BTreeMap::new();
    for entry in listed(client, subject)? {
        by_root.entry(annotation(&entry, ROOT_DIGEST).cloned().unwrap_or_default()).or_default().push(entry);
    }
    let missing = |what: &str| {
        let message = format!(
            "no block manifest {what}of {subject} in {}; `coldpress convert --push` uploads one",
            client.reference()
        );
        Err(Error::new(ErrorKind::NotFound, message))
    };
    let found = match (expect, by_root.len()) {
        (_, 0) => return missing(""),
        (Some(expect), _) => match by_root.remove(&expect.to_string()) {
            Some(found) => found,
            None => return missing(&format!("with the root digest {expect} ")),
        },
        (None, 1) => by_root.into_values().next().expect("there is one"),
        (None, _) => {
            let list: Vec<String> = by_root.into_keys().collect();
            let message =
                format!("several block manifests belong to {subject}; choose one with --expect: {}", list.join(", "));
            return Err(Error::new(ErrorKind::Input, message));
        }
    };
    let read_entry = |entry: &Descriptor| read(client, &client.manifest(&digest_of(entry)?.to_string())?.bytes);
    found.iter().map(read_entry).collect()
}

/// The block manifest in the artifact `manifest`.
///
/// # Errors
/// `Input` where there is none in it; those of the registry.
pub fn read(client: &Client, manifest: &[u8]) -> Result<Vec<u8>> {
    let parsed: ImageManifest = serde_json::from_slice(manifest).map_err(|error| {
        Error::caused(ErrorKind::Input, "the manifest of the artifact is not an OCI image manifest", error)
    })?;
    let layer = parsed.layers().iter().find(|layer| layer.media_type().to_string() == LAYER_TYPE);
    let layer = layer.filter(|_| is_artifact(&parsed)).ok_or_else(|| {
        Error::new(ErrorKind::Input, format!("{}: not the artifact of a block manifest", client.reference()))
    })?;
    client.blob_bytes(digest_of(layer)?.into(), layer.size(), crate::manifest::v1::MAX_BYTES)
}

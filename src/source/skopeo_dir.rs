//! A manifest and its blobs in one directory, as skopeo and podman write `dir:` (containers/image, `docs/containers-transports.5.md`):
//! `manifest.json`, each blob under the hexadecimal digits of its digest, further manifests of an index as `HEX.manifest.json`.

use std::path::{Path, PathBuf};

use oci_spec::image::Descriptor;

use super::index::Wanted;
use super::oci_layout::{Content, descriptor_of, digest_of, images};
use super::{Blob, Image, recognize};
use crate::digest::Sha256;
use crate::{Error, ErrorKind, Result};

/// Finds the image in `directory`, and of it what is `wanted`.
pub(super) fn open(directory: &Path, wanted: Wanted<'_>) -> Result<Vec<Image>> {
    let path = directory.join("manifest.json");
    let blob = Blob::open(&path).map_err(|error| match recognize::directory(directory) {
        Some(what) if error.kind() == ErrorKind::NotFound => {
            Error::new(ErrorKind::Input, format!("manifest.json is missing: this is {what}"))
        }
        _ => error,
    })?;
    let bytes = blob.document(None)?;
    let top = descriptor_of(&bytes, Sha256::of(&bytes).into(), None)?;
    images(&SkopeoDirectory { directory: directory.to_owned(), top: top.clone(), bytes }, vec![top], wanted)
}

struct SkopeoDirectory {
    directory: PathBuf,
    top: Descriptor,
    bytes: Vec<u8>,
}

impl SkopeoDirectory {
    fn open(&self, descriptor: &Descriptor, end: &str) -> Result<Blob> {
        let digest = digest_of(descriptor)?.to_string();
        let hex = digest.split_once(':').map_or(digest.as_str(), |(_, hex)| hex);
        Blob::open(&self.directory.join(format!("{hex}{end}")))
    }
}

impl Content for SkopeoDirectory {
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        if descriptor.digest() == self.top.digest() {
            return Ok(self.bytes.clone());
        }
        self.open(descriptor, ".manifest.json")?.document(Some(digest_of(descriptor)?))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.open(descriptor, "")?.document(Some(digest_of(descriptor)?))
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob> {
        self.open(descriptor, "")
    }
}

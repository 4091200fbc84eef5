//! Publication of a block manifest in a registry, as a referrer of its image or under a tag.

use oci_spec::image::Descriptor;

use crate::digest::Sha256;
use crate::registry::artifact::{self, About};
use crate::registry::{Client, RegistryRef, Settings};
use crate::source::{Image, Platform, Top, top_of};
use crate::{Error, ErrorKind, Result};

/// A repository that accepts a block manifest.
pub struct Publication {
    client: Client,
    subject: Option<Descriptor>,
    tag: Option<String>,
}

impl Publication {
    /// Prepares to push the block manifest of `image` to the repository of `target`, and checks that the registry accepts pushes.
    ///
    /// A tag of `target` that names the image itself only identifies the image, and is not changed; any other tag becomes the block
    /// manifest's own.
    ///
    /// # Errors
    /// `Input` where the tag names another image, or the image in the repository is unknown; those of the registry.
    pub fn prepare(
        target: &RegistryRef,
        image: &Image,
        platform: Option<&Platform>,
        settings: &Settings,
    ) -> Result<Self> {
        let client = Client::new(target, settings)?;
        artifact::check(&client)?;
        let named = target.tag.is_some() || target.digest.is_some();
        let there = if named { top_of(&client, &target.what(), platform)? } else { None };
        let known = image.manifest.as_ref();
        let (subject, tag) = match there {
            Some(Top::Image { manifest, config }) => {
                let same = match known {
                    Some(known) => known.digest() == manifest.digest(),
                    None => config.is_of_same_image(image.whole_config()?),
                };
                if !same {
                    let message = format!("{target} names another image than the converted one");
                    return Err(Error::new(ErrorKind::Input, message));
                }
                (Some(*manifest), None)
            }
            Some(Top::Artifact(_)) | None => (known.cloned(), target.tag.clone()),
        };
        if subject.is_none() && tag.is_none() {
            let message = format!(
                "{target}: the image came in a form without an OCI manifest, so nothing says which image of the repository it is; \
                 push it there first, and name its tag"
            );
            return Err(Error::new(ErrorKind::Input, message));
        }
        Ok(Self { client, subject, tag })
    }

    /// Returns whether the block manifest gets a tag of its own, in addition to being a referrer of its image.
    #[must_use]
    pub fn has_own_tag(&self) -> bool {
        self.tag.is_some()
    }

    /// Pushes the block manifest `bytes`, and returns its digest in the registry.
    ///
    /// # Errors
    /// Those of the registry.
    pub fn push(&self, bytes: &[u8], about: &About) -> Result<Sha256> {
        artifact::push(&self.client, bytes, about, self.subject.as_ref(), self.tag.as_deref())
    }
}

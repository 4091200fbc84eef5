//! Where a pipeline finds a block manifest again: in the registry, beside the image that it is of.

use oci_spec::image::Descriptor;

use crate::digest::Sha256;
use crate::registry::artifact::{self, About};
use crate::registry::{Client, RegistryRef, Settings};
use crate::source::{Image, Platform, Top, top_of};
use crate::{Error, ErrorKind, Result};

/// A place in a registry that will take a block manifest.
pub struct Publication {
    client: Client,
    subject: Option<Descriptor>,
    tag: Option<String>,
}

impl Publication {
    /// For the block manifest of `image`, to be put into the repository of `target`, once that said that it would take it.
    ///
    /// A tag of `target` that names the image there is how the image is found, and stays what it is; any other becomes the block
    /// manifest's own.
    ///
    /// # Errors
    /// `Input` where the tag names another image, or nothing says which image it is; those of the registry.
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
                    None => config == *image.whole_config()?,
                };
                if !same {
                    let message = format!("{target} is another image than the one that is converted");
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

    /// Returns whether the block manifest gets a tag of its own, and not only a place beside its image.
    #[must_use]
    pub fn has_own_tag(&self) -> bool {
        self.tag.is_some()
    }

    /// Puts the block manifest `bytes`; the digest under which the registry has it.
    ///
    /// # Errors
    /// Those of the registry.
    pub fn push(&self, bytes: &[u8], about: &About) -> Result<Sha256> {
        artifact::push(&self.client, bytes, about, self.subject.as_ref(), self.tag.as_deref())
    }
}

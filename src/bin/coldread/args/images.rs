//! Images as `serve` names them, and where it exports them.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use crate::shared::failure::Failure;
use crate::shared::manifests::ManifestRef;

/// An image and what it is called.
#[derive(Debug, Clone)]
pub struct NamedImage {
    pub name: String,
    pub manifest: ManifestRef,
}

impl FromStr for NamedImage {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, manifest) = match text.split_once('=') {
            Some((name, manifest)) if !name.contains('/') => (Some(name.to_owned()), manifest),
            _ => (None, text),
        };
        let manifest: ManifestRef = manifest.parse()?;
        let name = name.or_else(|| name_of(&manifest));
        // NBD's bound.
        match name.filter(|name| !name.is_empty() && name.len() <= 4096) {
            Some(name) => Ok(Self { name, manifest }),
            None => Err(format!("`{text}` does not name the image; use NAME=MANIFEST")),
        }
    }
}

/// What an image is called that was given no name.
pub fn name_of(manifest: &ManifestRef) -> Option<String> {
    match manifest {
        ManifestRef::File(path) => path.file_stem().map(|stem| stem.to_string_lossy().into_owned()),
        ManifestRef::Registry(name) => name.repository.rsplit('/').next().map(str::to_owned),
    }
}

/// A path at which one of the images is offered.
#[derive(Debug, Clone)]
pub struct ImagePath(String);

impl FromStr for ImagePath {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Display for ImagePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl ImagePath {
    /// Returns which of `images` is exported, and where; the first one if no name is given.
    pub fn resolve(&self, images: &[NamedImage]) -> Result<(usize, &Path), Failure> {
        // Names can have colons in them, so the images say where theirs ends.
        let named = images.iter().enumerate().filter_map(|(at, image)| {
            let path = self.0.strip_prefix(&image.name)?.strip_prefix(':')?;
            Some((at, path))
        });
        let (at, path) = match (named.min_by_key(|(_, path)| path.len()), self.0.split_once(':')) {
            (Some(named), _) => named,
            (None, Some((name, _))) if !name.contains('/') => {
                return Err(Failure::Usage(format!(
                    "no image is named `{name}`; write a path that contains a colon as ./PATH"
                )));
            }
            (None, _) => (0, self.0.as_str()),
        };
        if path.is_empty() {
            return Err(Failure::Usage(format!("`{}` has no path", self.0)));
        }
        Ok((at, Path::new(path)))
    }
}

//! What `docker save` writes: a tar with `manifest.json`, the same before version 25 (`ID/layer.tar`) and since
//! (`blobs/sha256/HEX`).
//!
//! It has no descriptors: layers are checked against the config's DiffIDs. A config whose name is the digest of other bytes gives a
//! warning.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::archive::Container;
use super::{Image, ImageConfig, LayerSource, Platform, oci_layout};
use crate::digest::{Sha256, from_hex};
use crate::{Error, ErrorKind, Result};

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(try_from = "BTreeMap<String, Value>")]
pub(super) struct Item {
    pub(super) config: String,
    repo_tags: Option<Vec<String>>,
    pub(super) layers: Vec<String>,
}

impl TryFrom<BTreeMap<String, Value>> for Item {
    type Error = String;

    /// Takes keys in any case, as Go's JSON decoder does with which docker reads them; older versions of jib wrote lower case.
    fn try_from(mut fields: BTreeMap<String, Value>) -> Result<Self, String> {
        fn field<T: serde::de::DeserializeOwned>(
            fields: &mut BTreeMap<String, Value>,
            name: &str,
        ) -> Result<Option<T>, String> {
            let key = fields
                .keys()
                .find(|key| *key == name)
                .or_else(|| fields.keys().find(|key| key.eq_ignore_ascii_case(name)));
            let Some(value) = key.cloned().and_then(|key| fields.remove(&key)) else { return Ok(None) };
            serde_json::from_value(value).map_err(|error| format!("field `{name}`: {error}"))
        }
        Ok(Self {
            config: field(&mut fields, "Config")?.ok_or("missing field `Config`")?,
            repo_tags: field::<Option<_>>(&mut fields, "RepoTags")?.flatten(),
            layers: field::<Option<_>>(&mut fields, "Layers")?.flatten().ok_or("missing field `Layers`")?,
        })
    }
}

/// Finds the image `reference` (the only one, where none is given).
pub(super) fn open(container: &Container, reference: Option<&str>, platform: Option<&Platform>) -> Result<Image> {
    let bytes =
        container.open("manifest.json").map_err(|error| container.explain("manifest.json", error))?.document(None)?;
    let items: Vec<Item> = serde_json::from_slice(&bytes).map_err(|error| {
        Error::caused(ErrorKind::Input, "manifest.json: not the manifest of a docker archive", error)
    })?;
    let item = choose(&items, reference)?;
    let listed = |name: &str| {
        container.open(name).map_err(|error| match error.kind() {
            ErrorKind::NotFound => {
                Error::caused(ErrorKind::NotFound, "a file that manifest.json lists is missing", error)
            }
            _ => error,
        })
    };
    let bytes = listed(&item.config)?.document(None)?;
    let config = ImageConfig::parse(&bytes)?;
    let mut warnings = oci_layout::check_platform(&config, platform)?;
    warnings.extend(edited(&item.config, &bytes));
    if item.layers.len() != config.diff_ids.len() {
        let message =
            format!("manifest.json names {} layers, the config {} DiffIDs", item.layers.len(), config.diff_ids.len());
        return Err(Error::new(ErrorKind::Input, message));
    }
    let layer = |(name, diff_id): (&String, &Sha256)| {
        Ok(LayerSource { blob: listed(name)?, digest: None, size: None, diff_id: Some(*diff_id) })
    };
    let layers = item.layers.iter().zip(&config.diff_ids).map(layer).collect::<Result<_>>()?;
    Ok(Image { layers, config, manifest: None, engine: None, warnings })
}

/// A warning where a config's name is the digest of other bytes. docker takes such archives, whose config somebody edited: the layers
/// are checked against the config's DiffIDs, and nothing else depends on its name.
fn edited(name: &str, bytes: &[u8]) -> Option<String> {
    let (named, found) = (digest_in_name(name)?, Sha256::of(bytes));
    (named != found)
        .then(|| format!("image config {name}: its digest is {found}, so it was changed after the image was saved"))
}

/// `HEX.json` or `blobs/sha256/HEX`.
pub(super) fn digest_in_name(name: &str) -> Option<Sha256> {
    let last = name.rsplit('/').next().unwrap_or(name);
    from_hex(last.strip_suffix(".json").unwrap_or(last)).map(Sha256::from_bytes)
}

fn choose<'a>(items: &'a [Item], reference: Option<&str>) -> Result<&'a Item> {
    let tags = |item: &'a Item| item.repo_tags.iter().flatten();
    let list = || match items.iter().flat_map(tags).cloned().collect::<Vec<_>>() {
        tags if tags.is_empty() => "none".to_owned(),
        tags => tags.join(", "),
    };
    match (reference, items) {
        (None, [item]) => Ok(item),
        (None, []) => Err(Error::new(ErrorKind::Input, "manifest.json lists no image")),
        (None, _) => {
            Err(Error::new(ErrorKind::Input, format!("it contains several images; add :REF with one of: {}", list())))
        }
        (Some(reference), _) => {
            let wanted = canonical(reference);
            let found = items.iter().find(|item| tags(item).any(|tag| canonical(tag) == wanted));
            found.ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("it does not contain the image `{reference}`; its images are: {}", list()),
                )
            })
        }
    }
}

/// `docker.io/library/x` and `x` are `x:latest`.
fn canonical(reference: &str) -> String {
    let short = reference.strip_prefix("docker.io/").unwrap_or(reference);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let has_tag = short.rsplit('/').next().is_some_and(|last| last.contains(':'));
    if has_tag { short.to_owned() } else { format!("{short}:latest") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_compared_in_full() {
        assert_eq!(canonical("debian"), canonical("docker.io/library/debian:latest"));
        assert_eq!(canonical("localhost:5000/app"), "localhost:5000/app:latest");
        assert_ne!(canonical("app:1"), canonical("app"));
    }
}

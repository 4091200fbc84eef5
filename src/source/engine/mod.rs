//! Images in a container engine, docker's or one that answers as docker does: found by its HTTP API, read from the stream that
//! `docker save` writes to a file.
//!
//! The engine says the DiffIDs at once, and the layers come when one is first read. They come in an order of their own, while
//! what the layers above hide must be known first, so each goes through a file without a name (docs/design.md, "Engines").

mod api;
pub mod members;
mod pass;
mod saved;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::api::Api;
pub(super) use self::saved::Saved;
use self::saved::Told;
use super::{Blob, Image, ImageConfig, LayerSource, Limits, Platform, oci_layout};
use crate::digest::{Sha256, from_hex};
use crate::{Error, ErrorKind, Result};

/// Which engine, as docker's own tools are told it.
#[derive(Debug, Clone, Default)]
pub struct Engine {
    /// `unix:///PATH` or `tcp://HOST:PORT`; docker's own socket where nothing is said (`$DOCKER_HOST`).
    pub host: Option<String>,
    /// Whether TLS is spoken with it (`$DOCKER_TLS_VERIFY`).
    pub tls: bool,
    /// Where `ca.pem`, `cert.pem` and `key.pem` are, for TLS; those of them that there are (`$DOCKER_CERT_PATH`).
    pub certificates: Option<PathBuf>,
}

/// What an engine says of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected<'a> {
    id: String,
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    #[serde(borrow)]
    config: Option<&'a RawValue>,
    #[serde(rename = "RootFS")]
    root_fs: RootFs,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    layers: Option<Vec<String>>,
}

/// The same as the config that an image has.
#[derive(Serialize)]
struct Config<'a> {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    config: Option<&'a RawValue>,
    rootfs: BTreeMap<&'static str, Vec<String>>,
}

/// Finds the image `reference`: a name with or without a tag, a name with a digest, or an image id.
pub(super) fn open(reference: &str, platform: Option<&Platform>, limits: Limits<'_>, engine: &Engine) -> Result<Image> {
    let api = Api::new(engine)?;
    let (answer, is_docker) = api.inspect(reference)?;
    let (id, config) = inspected(&answer).map_err(|error| error.within(format!("engine at {}", api.name())))?;
    let warnings = oci_layout::check_platform(&config, platform)?;
    let told = if is_docker { Told::Whole(config.clone()) } else { Told::Partly };
    let saved = Arc::new(Saved::new(api, id, &config.diff_ids, told, platform, limits));
    let layer = |diff_id: &Sha256| {
        let (number, spool) = saved.layer(*diff_id);
        let blob = Blob::fetched(reference, Arc::<Saved>::clone(&saved), number, spool, None);
        LayerSource { blob, digest: None, size: None, diff_id: Some(*diff_id) }
    };
    let layers = config.diff_ids.iter().map(layer).collect();
    Ok(Image { layers, config, manifest: None, engine: Some(saved), warnings })
}

/// The image's id, and its config as far as the engine tells it: podman leaves out what OCI's has not.
fn inspected(answer: &[u8]) -> Result<(String, ImageConfig)> {
    let not_one = |error| Error::caused(ErrorKind::Input, "its response is not that of a container engine", error);
    let Inspected { id, architecture, os, variant, config, root_fs } =
        serde_json::from_slice(answer).map_err(not_one)?;
    // It becomes part of the next request.
    let hex = id.strip_prefix("sha256:").unwrap_or(&id);
    if from_hex::<32>(hex).is_none() {
        return Err(Error::new(ErrorKind::Input, "the image id in its response is not a sha256 digest"));
    }
    let rootfs = BTreeMap::from([("diff_ids", root_fs.layers.unwrap_or_default())]);
    let config = Config { architecture, os, variant, config, rootfs };
    let bytes = serde_json::to_vec(&config).expect("it was JSON");
    Ok((id, ImageConfig::parse(&bytes)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_engine_tells_is_a_config() {
        let (id, diff) = ("a".repeat(64), "b".repeat(64));
        let answer = format!(
            r#"{{"Id":"sha256:{id}","Architecture":"amd64","Os":"linux","Variant":null,"ContainerConfig":{{"Env":["no"]}},
            "Config":{{"Hostname":"","Env":["A=1"],"OnBuild":null}},"RootFS":{{"Type":"layers","Layers":["sha256:{diff}"]}}}}"#
        );
        let (found, config) = inspected(answer.as_bytes()).unwrap();
        assert_eq!(found, format!("sha256:{id}"));
        assert_eq!(config.normal, r#"{"architecture":"amd64","config":{"Env":["A=1"]},"os":"linux"}"#);
        assert_eq!(config.diff_ids.len(), 1);
    }

    #[test]
    fn an_answer_of_something_else_is_refused() {
        for answer in ["", "<html>", "{}", r#"{"Id":"../x","RootFS":{}}"#, r#"{"Id":"a","RootFS":{}}"#] {
            assert_eq!(inspected(answer.as_bytes()).unwrap_err().kind(), ErrorKind::Input, "{answer}");
        }
    }
}

//! The image's config in its normal form: what a container needs to run, and nothing that tells how the image was built.
//!
//! The forms in which one image travels re-write its config (skopeo and docker add and drop empty fields), so the normal
//! form keeps named fields, drops empty values and sorts keys. The root digest and the image digest cover it.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Platform;
use crate::digest::Sha256;
use crate::{Error, ErrorKind, Result};

/// A JSON object whose fields are read one by one, each as what it must be; those that nobody asks for are passed over.
struct Fields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Fields<'a> {
    /// The field `key`, called `shown` in errors; `None` where it is absent or null.
    fn get<T: Deserialize<'a>>(&self, key: &str, shown: &str) -> Result<Option<T>> {
        let Some(value) = self.0.get(key) else { return Ok(None) };
        serde_json::from_str(value.get())
            .map_err(|error| Error::caused(ErrorKind::Input, format!("image config: `{shown}`"), error))
    }
}

/// What a field of `config` must be.
#[derive(Debug, Clone, Copy)]
enum Type {
    Flag,
    Text,
    Texts,
    TextsByName,
    Object,
}

/// The fields of `config` that are kept: those of the OCI image specification, and docker's `Healthcheck` and `Shell`.
const KEPT: [(&str, Type); 12] = [
    ("ArgsEscaped", Type::Flag),
    ("Cmd", Type::Texts),
    ("Entrypoint", Type::Texts),
    ("Env", Type::Texts),
    ("ExposedPorts", Type::Object),
    ("Healthcheck", Type::Object),
    ("Labels", Type::TextsByName),
    ("Shell", Type::Texts),
    ("StopSignal", Type::Text),
    ("User", Type::Text),
    ("Volumes", Type::Object),
    ("WorkingDir", Type::Text),
];

/// The fields of `config` in their normal form.
fn settings(config: &Fields<'_>) -> Result<Map<String, Value>> {
    let mut out = Map::new();
    for (key, must_be) in KEPT {
        let shown = format!("config.{key}");
        let value = match must_be {
            Type::Flag => config.get::<bool>(key, &shown)?.map(Value::from),
            Type::Text => config.get::<String>(key, &shown)?.map(Value::from),
            Type::Texts => config.get::<Vec<String>>(key, &shown)?.map(Value::from),
            Type::TextsByName => config
                .get::<BTreeMap<String, String>>(key, &shown)?
                .map(|texts| texts.into_iter().map(|(name, text)| (name, Value::from(text))).collect()),
            Type::Object => config.get::<Map<String, Value>>(key, &shown)?.map(Value::from),
        };
        if let Some(value) = value.and_then(normal_value) {
            out.insert(key.to_owned(), value);
        }
    }
    Ok(out)
}

/// What an image says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// The normal form: a JSON object with sorted keys, without white space.
    pub normal: String,
    /// Each layer's digest, uncompressed.
    pub diff_ids: Vec<Sha256>,
    /// For what it is made; `None` where nothing says it.
    pub platform: Option<Platform>,
    /// The build step of each layer, as the history has it; empty where the history does not fit the layers. Not a part of the image's
    /// identity.
    pub created_by: Vec<Option<String>>,
}

/// An entry of the config's history.
#[derive(Deserialize)]
struct HistoryEntry {
    created_by: Option<String>,
    empty_layer: Option<bool>,
}

/// Returns the build step of each of `layers` layers. A history is for people, so one that is damaged is no error.
fn build_steps(fields: &Fields<'_>, layers: usize) -> Vec<Option<String>> {
    let history = fields.0.get("history").and_then(|value| serde_json::from_str::<Vec<HistoryEntry>>(value.get()).ok());
    let with_layer = history.unwrap_or_default().into_iter().filter(|entry| entry.empty_layer != Some(true));
    let steps: Vec<Option<String>> = with_layer.map(|entry| entry.created_by.filter(|step| !step.is_empty())).collect();
    if steps.len() == layers { steps } else { Vec::new() }
}

impl ImageConfig {
    /// Returns whether both are the configs of one image; its history may be missing in one of them.
    #[must_use]
    pub fn is_of_same_image(&self, other: &Self) -> bool {
        (&self.normal, &self.diff_ids, &self.platform) == (&other.normal, &other.diff_ids, &other.platform)
    }

    /// From the bytes of an OCI or docker config.
    ///
    /// # Errors
    /// `Input` where they are no config.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let broken = |reason: &str| Error::new(ErrorKind::Input, format!("image config: {reason}"));
        let fields = serde_json::from_slice(bytes).map(Fields).map_err(|error| {
            let what = if error.is_data() { "not a JSON object" } else { "not JSON" };
            Error::caused(ErrorKind::Input, format!("image config: {what}"), error)
        })?;
        let diff_ids = match fields.get("rootfs", "rootfs")?.map(Fields) {
            Some(rootfs) => rootfs.get::<Vec<String>>("diff_ids", "rootfs.diff_ids")?,
            None => None,
        };
        let diff_ids = diff_ids.ok_or_else(|| {
            broken("it has no rootfs.diff_ids, so it is the config of an artifact, not of a container image")
        })?;
        let diff_ids: Vec<Sha256> = diff_ids
            .iter()
            .map(|id| id.parse().map_err(|_| broken("a DiffID is not a sha256 digest")))
            .collect::<Result<_>>()?;
        let text = |key: &str| -> Result<Option<String>> {
            Ok(fields.get::<String>(key, key)?.filter(|text| !text.is_empty()))
        };
        let platform = match (text("os")?, text("architecture")?, text("variant")?) {
            (Some(os), Some(architecture), variant) => {
                Some(Platform::new(&os, &architecture, variant.as_deref()).ok_or_else(|| {
                    broken("os, architecture or variant is not a name of at most 64 plain characters")
                })?)
            }
            _ => None,
        };
        let mut normal = platform.as_ref().map(platform_fields).unwrap_or_default();
        if let Some(config) = fields.get("config", "config")?.map(Fields) {
            let kept = settings(&config)?;
            if !kept.is_empty() {
                normal.insert("config".to_owned(), Value::Object(kept));
            }
        }
        let created_by = build_steps(&fields, diff_ids.len());
        Ok(Self { normal: Value::Object(normal).to_string(), diff_ids, platform, created_by })
    }

    /// Of a root file system that came without one.
    #[must_use]
    pub fn without_image(platform: Option<&Platform>) -> Self {
        let normal = Value::Object(platform.map(platform_fields).unwrap_or_default()).to_string();
        Self { normal, diff_ids: Vec::new(), platform: platform.cloned(), created_by: Vec::new() }
    }
}

fn platform_fields(platform: &Platform) -> Map<String, Value> {
    let Platform { os, architecture, variant } = platform;
    let fields = [("architecture", Some(architecture)), ("os", Some(os)), ("variant", variant.as_ref())];
    fields.into_iter().filter_map(|(key, value)| Some((key.to_owned(), Value::String(value?.clone())))).collect()
}

/// `None` for what says nothing: null, false, "", [], and {} that stands for no setting.
fn normal_value(value: Value) -> Option<Value> {
    let empty = match &value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    };
    // Keys of objects sort by themselves: serde_json's map is ordered without its feature `preserve_order`.
    (!empty).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_an_image_travels_does_not_change_its_normal_form() {
        let diff = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let oci = format!(
            r#"{{"created":"2025-03-20T12:00:00Z","architecture":"amd64","os":"linux","config":{{"Env":["A=1"],"Cmd":["sh"],"WorkingDir":"/"}},
            "rootfs":{{"type":"layers","diff_ids":["{diff}"]}},"history":[{{"created_by":"x"}}]}}"#
        );
        let docker = format!(
            r#"{{"os":"linux","architecture":"amd64","variant":"","docker_version":"20","container":"c0ffee",
            "config":{{"Hostname":"c0ffee","Cmd":["sh"],"Env":["A=1"],"WorkingDir":"/","Entrypoint":null,"Labels":{{}},"Image":"sha256:x"}},
            "rootfs":{{"diff_ids":["{diff}"],"type":"layers"}}}}"#
        );
        let (oci, docker) =
            (ImageConfig::parse(oci.as_bytes()).unwrap(), ImageConfig::parse(docker.as_bytes()).unwrap());
        assert!(oci.is_of_same_image(&docker));
        assert_eq!((oci.created_by, docker.created_by), (vec![Some("x".to_owned())], Vec::new()));
        assert_eq!(
            oci.normal,
            r#"{"architecture":"amd64","config":{"Cmd":["sh"],"Env":["A=1"],"WorkingDir":"/"},"os":"linux"}"#
        );
    }

    #[test]
    fn build_steps_belong_to_layers_or_are_left_out() {
        let diff = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let steps = |history: &str| {
            let config = format!(r#"{{"rootfs":{{"diff_ids":["{diff}","{diff}"]}},"history":{history}}}"#);
            ImageConfig::parse(config.as_bytes()).unwrap().created_by
        };
        let found = steps(r#"[{"created_by":"ADD"},{"created_by":"ENV","empty_layer":true},{"comment":"c"}]"#);
        assert_eq!(found, [Some("ADD".to_owned()), None]);
        for bad in ["null", "7", "[]", r#"[{"created_by":"ADD"}]"#, r#"[{"created_by":1},{}]"#] {
            assert_eq!(steps(bad), Vec::<Option<String>>::new(), "{bad}");
        }
    }

    #[test]
    fn what_is_no_config_is_refused() {
        for bad in ["", "[]", "{}", r#"{"rootfs":{"diff_ids":["md5:1"]}}"#] {
            assert_eq!(
                ImageConfig::parse(bad.as_bytes()).map_err(|error| error.kind()),
                Err(ErrorKind::Input),
                "{bad}"
            );
        }
    }
}

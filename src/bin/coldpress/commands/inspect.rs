//! `coldpress inspect`.

use std::fmt::Write;

use coldpress::CHUNK_SIZE;
use coldpress::manifest::{Clear, OpenManifest};
use serde_json::{Value, json};

use crate::args::{Cli, InspectArgs};
use crate::output;
use crate::shared::failure::CommandResult;
use crate::size::show;
use crate::sources::read_manifest;

pub fn run(cli: &Cli, args: &InspectArgs) -> CommandResult {
    let sealed = read_manifest(&args.manifest.manifest, &args.manifest.registry, args.manifest.expect)?;
    let key = if args.clear { None } else { args.key.find()? };
    match key {
        Some(key) => {
            let manifest = args.manifest.open(&*key)?;
            let text = clear_text(&manifest.clear) + &sealed_text(&manifest);
            Ok(output::result(cli, &text, &full_json(&manifest))?)
        }
        None => {
            let end = if args.clear {
                "Not authenticated: these values are not encrypted, and anyone can have changed them.\n"
            } else {
                "Not authenticated; the rest is encrypted: give --key.\n"
            };
            let text = clear_text(&sealed.clear) + end;
            Ok(output::result(cli, &text, &clear_json(&sealed.clear))?)
        }
    }
}

fn clear_json(clear: &Clear) -> Value {
    json!({
        "version": 1,
        "epoch": clear.recipe.epoch,
        "compression": clear.recipe.codec.to_string(),
        "compression_version": clear.recipe.codec_version,
        "free_bytes": clear.recipe.free,
        "platform": clear.recipe.platform,
        "root": clear.root.as_str(),
        "scope_id": clear.scope.to_string(),
        "application": clear.application,
        "root_digest": clear.root_digest,
        "unique_chunks": clear.names.len(),
    })
}

fn full_json(manifest: &OpenManifest) -> Value {
    let sealed = &manifest.sealed;
    let mut json = clear_json(&manifest.clear);
    json["image_digest"] = json!(sealed.image_digest);
    json["source_digest"] = json!(sealed.source);
    json["store"] = json!(sealed.store);
    json["device_bytes"] = json!(manifest.device_bytes());
    json["chunks"] = json!(sealed.chunks.len());
    json["zero_chunks"] = json!(sealed.device_chunks as usize - sealed.chunks.len());
    json["zero_share"] =
        json!(share(sealed.device_chunks as usize - sealed.chunks.len(), sealed.device_chunks as usize));
    json["unique_share"] = json!(share(manifest.clear.names.len(), sealed.chunks.len()));
    json["stored_bytes"] = json!(stored_bytes(manifest));
    json["layers"] = json!(sealed.layers);
    // The normal form is JSON by construction; a reader shows it as text should it ever not be.
    json["config"] = serde_json::from_str(&sealed.config).unwrap_or_else(|_| json!(sealed.config));
    json
}

#[expect(clippy::cast_precision_loss, reason = "a share for people")]
fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn stored_bytes(manifest: &OpenManifest) -> u64 {
    let by_name: std::collections::BTreeMap<_, _> =
        manifest.sealed.chunks.iter().map(|chunk| (chunk.name, u64::from(chunk.stored))).collect();
    by_name.values().sum()
}

fn clear_text(clear: &Clear) -> String {
    let recipe = &clear.recipe;
    format!(
        "root digest   {}\nrecipe        epoch {}, {}, {} free, platform {}\nroot          {}, scope {}\nchunks        {} distinct\n",
        clear.root_digest,
        recipe.epoch,
        recipe.codec,
        show(recipe.free),
        if recipe.platform.is_empty() { "unknown" } else { &recipe.platform },
        clear.root,
        clear.scope,
        clear.names.len(),
    )
}

fn sealed_text(manifest: &OpenManifest) -> String {
    let sealed = &manifest.sealed;
    let (chunks, device) = (sealed.chunks.len(), sealed.device_chunks as usize);
    let mut out = format!(
        "image digest  {}\nsource        {}\nstore         {}\ndevice        {}: {device} chunks, {:.1} % of them zero\n\
         stored        {} in {chunks} chunks, {:.1} % of them distinct\nlayers\n",
        sealed.image_digest,
        sealed.source.map_or_else(|| "without an OCI manifest".to_owned(), |digest| digest.to_string()),
        if sealed.store.is_empty() { "not named" } else { &sealed.store },
        show(manifest.device_bytes()),
        100.0 * share(device - chunks, device),
        show(stored_bytes(manifest)),
        100.0 * share(manifest.clear.names.len(), chunks),
    );
    for (number, layer) in (1..).zip(&sealed.layers) {
        let segment = u64::from(layer.chunks) * u64::from(CHUNK_SIZE);
        let _ = writeln!(
            out,
            "  {number:3}  {}  tar {:>10}, data {:>10}",
            layer.diff_id,
            show(layer.tar_bytes),
            show(segment)
        );
    }
    out.push_str(&config_text(&sealed.config));
    out
}

/// The image's config, a line for each field that says how a container starts; others are in --json.
fn config_text(config: &str) -> String {
    let Ok(config) = serde_json::from_str::<Value>(config) else { return format!("config\n  {config}\n") };
    let mut out = "config\n".to_owned();
    let mut line = |label: &str, value: &str| {
        let _ = writeln!(out, "  {label:<12}{value}");
    };
    let fields = &config["config"];
    for (label, key) in [("entrypoint", "Entrypoint"), ("cmd", "Cmd")] {
        if let Some(words) = fields[key].as_array() {
            line(label, &words.iter().map(word).collect::<Vec<_>>().join(" "));
        }
    }
    for (label, key) in [("user", "User"), ("workdir", "WorkingDir"), ("stop signal", "StopSignal")] {
        if let Some(text) = fields[key].as_str().filter(|text| !text.is_empty()) {
            line(label, text);
        }
    }
    for variable in fields["Env"].as_array().into_iter().flatten() {
        line("env", variable.as_str().unwrap_or_default());
    }
    for (label, key) in [("port", "ExposedPorts"), ("volume", "Volumes")] {
        fields[key].as_object().into_iter().flatten().for_each(|(name, _)| line(label, name));
    }
    for (name, value) in fields["Labels"].as_object().into_iter().flatten() {
        line("label", &format!("{name}={}", value.as_str().unwrap_or_default()));
    }
    if let Some(created) = config["created"].as_str() {
        line("created", created);
    }
    out
}

/// A word of a command, quoted as a shell wants it if it has to be.
fn word(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', "'\\''"))
    }
}

//! What `coldpress convert` tells: to a person, to scripts, to a CI job's page.

use std::collections::BTreeSet;
use std::path::PathBuf;

use coldpress::convert::{Converted, Counts, Share};
use coldpress::digest::Sha256;
use coldpress::source::Platform;
use coldpress::store::StoreUrl;
use serde_json::{Value, json};

use crate::args::ConvertArgs;
use crate::size::show;

/// A finished conversion, for whoever wants to know of it.
pub struct Report<'a> {
    pub args: &'a ConvertArgs,
    pub converted: Converted,
    pub base: &'a BTreeSet<Sha256>,
    /// Whether it was said where the chunks would go.
    pub store: Option<&'a StoreUrl>,
    /// Where its manifest is; with several platforms, each has its own.
    pub output: Option<PathBuf>,
    /// What the registry has it under, where it was put there.
    pub artifact: Option<Sha256>,
    pub seconds: f64,
}

impl Report<'_> {
    /// Of several platforms, which one this is; `None` where only one was asked for.
    fn platform(&self) -> Option<Platform> {
        let platform = &self.converted.manifest.clear.recipe.platform;
        platform.parse().ok().filter(|_| self.args.all_platforms)
    }

    /// Distinct chunks that are new and their bytes; `None` where nothing can tell.
    pub fn new_chunks(&self) -> Option<(u64, u64)> {
        let Counts { put_chunks, put_bytes, .. } = self.converted.counts;
        if self.store.is_some() {
            return Some((put_chunks, put_bytes));
        }
        self.args.base.as_ref()?;
        let fresh = self.converted.manifest.sealed.chunks.iter().filter(|chunk| !self.base.contains(&chunk.name));
        let fresh: BTreeSet<_> = fresh.map(|chunk| (chunk.name, chunk.stored)).collect();
        Some((fresh.len() as u64, fresh.iter().map(|(_, stored)| u64::from(*stored)).sum()))
    }

    pub fn json(&self) -> serde_json::Value {
        let (manifest, counts) = (&self.converted.manifest, &self.converted.counts);
        let new = self.new_chunks();
        json!({
            "manifest": self.output.as_ref().filter(|_| !self.args.dry_run),
            "dry_run": self.args.dry_run,
            "root_digest": manifest.clear.root_digest,
            "image_digest": manifest.sealed.image_digest,
            "source_digest": manifest.sealed.source,
            "scope_id": manifest.clear.scope.to_string(),
            "root": manifest.clear.root.as_str(),
            "platform": manifest.clear.recipe.platform,
            "compression": manifest.clear.recipe.codec.to_string(),
            "layers": manifest.sealed.layers.len(),
            "device_bytes": manifest.device_bytes(),
            "chunks": manifest.sealed.chunks.len(),
            "zero_chunks": counts.zero_chunks,
            "unique_chunks": manifest.clear.names.len(),
            "stored_bytes": counts.stored_bytes,
            "new_chunks": new.map(|(chunks, _)| chunks),
            "new_bytes": new.map(|(_, bytes)| bytes),
            "put_chunks": counts.put_chunks,
            "claimed_chunks": counts.claimed_chunks,
            "known_chunks": counts.known_chunks,
            "layer_shares": self.shares(),
            "store": self.store.map(ToString::to_string),
            "pushed": self.args.push.as_ref().filter(|_| self.artifact.is_some()).map(ToString::to_string),
            "artifact": self.artifact,
            "seconds": self.seconds,
        })
    }

    pub fn text(&self) -> String {
        let platform = self.platform().map_or_else(String::new, |platform| format!(" for {platform}"));
        let (manifest, counts) = (&self.converted.manifest, &self.converted.counts);
        let target = match &self.output {
            Some(path) if !self.args.dry_run => path.display().to_string(),
            _ if self.args.dry_run => "dry run, nothing written".to_owned(),
            _ => "no manifest file".to_owned(),
        };
        let new = match (self.new_chunks(), self.args.dry_run) {
            (Some((chunks, bytes)), false) => {
                let known = match counts.known_chunks {
                    0 => String::new(),
                    known => format!(", {known} stored according to the cache or --base"),
                };
                format!("{chunks} chunks ({}) uploaded, {} already stored{known}", show(bytes), counts.claimed_chunks)
            }
            (Some((chunks, bytes)), true) => {
                format!(
                    "{chunks} chunks ({}) would be uploaded, {} are already stored",
                    show(bytes),
                    counts.known_chunks + counts.claimed_chunks
                )
            }
            (None, _) => "unknown without --store or --base MANIFEST".to_owned(),
        };
        let (pushed, next) = (self.pushed(), self.next());
        format!(
            "{}{platform} -> {target}\n  root digest   {}\n  image digest  {}\n  device        {}, {} layers\n  \
             chunks        {} of 512 KiB, {} distinct, and {} all zero\n  stored        {}{} ({})\n  new           {new}\n{pushed}  time          {:.1} s\n{next}",
            self.args.image,
            manifest.clear.root_digest,
            manifest.sealed.image_digest,
            show(manifest.device_bytes()),
            manifest.sealed.layers.len(),
            manifest.sealed.chunks.len(),
            manifest.clear.names.len(),
            counts.zero_chunks,
            show(counts.stored_bytes),
            self.store.map_or_else(String::new, |store| format!(" in {store}")),
            manifest.clear.recipe.codec,
            self.seconds,
        )
    }

    /// Returns the line of the pushed artifact, if there is one.
    fn pushed(&self) -> String {
        let pushed = self.artifact.zip(self.args.push.as_ref());
        pushed.map_or_else(String::new, |(artifact, to)| format!("  pushed        {to} ({artifact})\n"))
    }

    /// Returns the line that says how the image is read.
    fn next(&self) -> String {
        match (&self.output, &self.args.push) {
            _ if self.args.dry_run => String::new(),
            (Some(path), _) => format!("next: coldread mount {} DIR\n", path.display()),
            (None, Some(to)) => format!("next: coldread mount {to} DIR\n"),
            (None, None) => String::new(),
        }
    }

    /// Of the metadata and of each layer.
    fn shares(&self) -> Vec<Value> {
        let layers = self.converted.manifest.sealed.layers.iter().map(|layer| Some(layer.diff_id));
        let named = std::iter::once(None).chain(layers).zip(&self.converted.shares);
        named
            .map(|(diff_id, share)| {
                let mut value = json!(share);
                value["diff_id"] = json!(diff_id);
                value
            })
            .collect()
    }

    /// A section for a CI job's page.
    pub fn markdown(&self) -> String {
        let (manifest, counts) = (&self.converted.manifest, &self.converted.counts);
        let platform = self.platform().map_or_else(String::new, |platform| format!(" for {platform}"));
        let mut out = format!("### coldpress: {}{platform}\n\n", code(&self.args.image.to_string()));
        out.push_str("| part | chunks | stored | new | |\n|---|---:|---:|---:|---|\n");
        let layers = manifest.sealed.layers.iter().map(|layer| code(&layer.diff_id.to_string()[..19]));
        for (name, share) in std::iter::once("metadata".to_owned()).chain(layers).zip(&self.converted.shares) {
            let Share { chunks, stored_bytes, new_chunks, new_bytes, read } = *share;
            let new = if new_chunks == 0 { "–".to_owned() } else { format!("{new_chunks} ({})", show(new_bytes)) };
            let how = if read { "" } else { "from the cache" };
            out.push_str(&format!("| {name} | {chunks} | {} | {new} | {how} |\n", show(stored_bytes)));
        }
        let (put, saved) = (counts.put_chunks, counts.known_chunks);
        let verb = if self.args.dry_run { "would be uploaded" } else { "uploaded" };
        out.push_str(&format!(
            "\n{} new, {} shared; {put} chunks {verb}, {saved} uploads skipped, {} already stored; {:.1} s\n\nroot digest {}\n",
            self.new_chunks().map_or("unknown".to_owned(), |(_, bytes)| show(bytes)),
            self.new_chunks()
                .map_or("unknown".to_owned(), |(_, bytes)| show(counts.stored_bytes.saturating_sub(bytes))),
            counts.claimed_chunks,
            self.seconds,
            code(&manifest.clear.root_digest.to_string()),
        ));
        if let (Some(artifact), Some(to)) = (self.artifact, &self.args.push) {
            out.push_str(&format!("\nblock manifest {} in {}\n", code(&artifact.to_string()), code(&to.to_string())));
        }
        out.push('\n');
        out
    }

    /// Lines of key=value.
    pub fn key_values(&self) -> String {
        let (manifest, counts) = (&self.converted.manifest, &self.converted.counts);
        let path = self.output.as_ref().filter(|_| !self.args.dry_run);
        let platform = self.platform();

        let lines = [
            ("manifest", path.map(|path| path.display().to_string()).unwrap_or_default()),
            ("root_digest", manifest.clear.root_digest.to_string()),
            ("image_digest", manifest.sealed.image_digest.to_string()),
            ("artifact", self.artifact.map(|artifact| artifact.to_string()).unwrap_or_default()),
            ("stored_bytes", counts.stored_bytes.to_string()),
            ("new_chunks", self.new_chunks().map(|(chunks, _)| chunks.to_string()).unwrap_or_default()),
            ("new_bytes", self.new_chunks().map(|(_, bytes)| bytes.to_string()).unwrap_or_default()),
            ("known_chunks", counts.known_chunks.to_string()),
            ("seconds", format!("{:.3}", self.seconds)),
        ];
        // With several platforms, each has keys of its own: `root_digest_linux_arm64`.
        let end =
            platform.map_or_else(String::new, |platform| format!("_{}", file_part(&platform).replace(['-', '.'], "_")));
        // A value of several lines would say more than its key.
        let line = |(key, value): (&str, String)| format!("{key}{end}={}\n", value.replace(['\n', '\r'], " "));
        lines.into_iter().map(line).collect()
    }
}

/// A platform as part of a file's name: `linux-arm64-v8`.
pub fn file_part(platform: &Platform) -> String {
    platform.to_string().replace('/', "-")
}

/// As code in Markdown, and within a table's cell.
pub fn code(text: &str) -> String {
    format!("`{}`", text.replace('`', "'").replace('|', "¦").replace(['\n', '\r'], " "))
}

//! What `coldpress convert` tells: to a person, to scripts, to a CI job's page.

use std::collections::BTreeSet;
use std::path::PathBuf;

use coldpress::convert::{Converted, Counts, Share};
use coldpress::digest::Sha256;
use coldpress::printable::Printable;
use coldpress::read::diff::{Cause, Count};
use coldpress::source::Platform;
use coldpress::store::{StoreUrl, Uploaded};
use serde_json::{Value, json};

use super::diff::cause_text;
use crate::args::ConvertArgs;
use crate::size::show;

/// Characters of a build step that are shown.
const STEP: usize = 100;

/// A finished conversion, for whoever wants to know of it.
pub struct Report<'a> {
    pub args: &'a ConvertArgs,
    pub converted: Converted,
    pub base: &'a BTreeSet<Sha256>,
    /// Whether it was said where the chunks would go.
    pub store: Option<&'a StoreUrl>,
    /// Where its manifest is; with several platforms, each has its own.
    pub output: Option<PathBuf>,
    /// Whether the manifest was written.
    pub written: bool,
    /// What was uploaded until --max-new-bytes was exceeded; `None` where it was not.
    pub uploaded: Option<Uploaded>,
    /// What made chunks new since --base, where the key opens that manifest.
    pub causes: Option<Vec<(Cause, Count)>>,
    /// The build step of each layer, where the image's history has them.
    pub created_by: Vec<Option<String>>,
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
            "manifest": self.output.as_ref().filter(|_| self.written),
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
            "put_chunks": self.uploaded.map_or(counts.put_chunks, |uploaded| uploaded.chunks),
            "claimed_chunks": counts.claimed_chunks,
            "known_chunks": counts.known_chunks,
            "layer_shares": self.shares(),
            "causes": self.causes_json(),
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
            Some(path) if self.written => path.display().to_string(),
            _ if self.args.dry_run => "dry run, nothing written".to_owned(),
            _ if self.uploaded.is_some() => "no manifest, --max-new-bytes exceeded".to_owned(),
            _ => "no manifest file".to_owned(),
        };
        let new = match (self.new_chunks(), self.args.dry_run) {
            (Some((chunks, bytes)), false) if self.uploaded.is_some() => {
                let Uploaded { chunks: sent, bytes: sent_bytes } = self.uploaded.unwrap_or_default();
                format!(
                    "{chunks} chunks ({}) needed, of which {sent} ({}) were uploaded",
                    show(bytes),
                    show(sent_bytes)
                )
            }
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
        let (pushed, next) = (self.pushed(), self.needed_text() + &self.next());
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
            _ if !self.written => String::new(),
            (Some(path), _) => format!("next: coldread mount {} DIR\n", path.display()),
            (None, Some(to)) => format!("next: coldread mount {to} DIR\n"),
            (None, None) => String::new(),
        }
    }

    /// Returns whether more is new than --max-new-bytes allows.
    fn is_over(&self) -> bool {
        let limit = self.args.max_new_bytes;
        self.uploaded.is_some() || limit.zip(self.new_chunks()).is_some_and(|(limit, (_, bytes))| bytes > limit.0)
    }

    /// Returns the name, the build step and the share of the metadata and of each layer that has new chunks.
    fn needed(&self) -> Vec<(String, Option<&str>, Share)> {
        let steps =
            std::iter::once(None).chain(self.created_by.iter().map(Option::as_deref)).chain(std::iter::repeat(None));
        let names = std::iter::once("metadata".to_owned()).chain((1..).map(|number| format!("layer {number}")));
        let shares = names.zip(steps).zip(&self.converted.shares);
        shares.map(|((name, step), share)| (name, step, *share)).filter(|(.., share)| share.new_chunks > 0).collect()
    }

    /// Returns what needs the new chunks, if there are too many.
    fn needed_text(&self) -> String {
        if !self.is_over() {
            return String::new();
        }
        let mut out = "  needed by\n".to_owned();
        for (name, step, share) in self.needed() {
            let step = step.map_or_else(String::new, |step| format!("  {}", short(step)));
            out.push_str(&format!(
                "    {name:10} {:>6} chunks {:>10}{step}\n",
                share.new_chunks,
                show(share.new_bytes)
            ));
        }
        if let Some(causes) = &self.causes {
            out.push_str("  new since --base\n");
            for (cause, count) in causes {
                out.push_str(&format!(
                    "    {:60} {:>6} chunks {:>10}\n",
                    cause_text(*cause),
                    count.chunks,
                    show(count.bytes)
                ));
            }
        }
        out
    }

    fn needed_json(&self) -> Vec<Value> {
        let layers = self.converted.manifest.sealed.layers.iter().map(|layer| Some(layer.diff_id));
        let diff_ids: Vec<Option<Sha256>> = std::iter::once(None).chain(layers).collect();
        let shares = self.converted.shares.iter().zip(diff_ids).enumerate();
        let new = shares.filter(|(_, (share, _))| share.new_chunks > 0);
        new.map(|(number, (share, diff_id))| {
            let step = number.checked_sub(1).and_then(|at| self.created_by.get(at).cloned().flatten());
            // 0 is the metadata.
            json!({
                "layer": (number > 0).then_some(number), "diff_id": diff_id, "created_by": step,
                "new_chunks": share.new_chunks, "new_bytes": share.new_bytes,
            })
        })
        .collect()
    }

    fn causes_json(&self) -> Option<Vec<Value>> {
        let one = |(cause, count): &(Cause, Count)| json!({ "cause": cause_text(*cause), "chunks": count.chunks, "bytes": count.bytes });
        self.causes.as_ref().map(|causes| causes.iter().map(one).collect())
    }

    /// Of the metadata and of each layer.
    fn shares(&self) -> Vec<Value> {
        let layers = self.converted.manifest.sealed.layers.iter().map(|layer| Some(layer.diff_id));
        let named = std::iter::once(None).chain(layers).zip(&self.converted.shares);
        let steps = std::iter::once(None).chain(self.created_by.iter().cloned()).chain(std::iter::repeat(None));
        named
            .zip(steps)
            .map(|((diff_id, share), created_by)| {
                let mut value = json!(share);
                value["diff_id"] = json!(diff_id);
                value["created_by"] = json!(created_by);
                value
            })
            .collect()
    }

    /// A section for a CI job's page.
    pub fn markdown(&self) -> String {
        let (manifest, counts) = (&self.converted.manifest, &self.converted.counts);
        let platform = self.platform().map_or_else(String::new, |platform| format!(" for {platform}"));
        let mut out = format!("### coldpress: {}{platform}\n\n", code(&self.args.image.to_string()));
        if let (true, Some((chunks, bytes)), Some(limit)) = (self.is_over(), self.new_chunks(), self.args.max_new_bytes)
        {
            let uploaded =
                self.uploaded.map_or_else(String::new, |uploaded| format!("; {} were uploaded", show(uploaded.bytes)));
            out.push_str(&format!(
                "**Too much is new**: {chunks} chunks ({}), `--max-new-bytes` allows {}{uploaded}. No manifest was written.\n\n",
                show(bytes),
                show(limit.0)
            ));
        }
        out.push_str("| part | chunks | stored | new | | created by |\n|---|---:|---:|---:|---|---|\n");
        let steps = std::iter::once(None).chain(self.created_by.iter().cloned()).chain(std::iter::repeat(None));
        let layers = manifest.sealed.layers.iter().map(|layer| code(&layer.diff_id.to_string()[..19]));
        let names = std::iter::once("metadata".to_owned()).chain(layers);
        for ((name, share), step) in names.zip(&self.converted.shares).zip(steps) {
            let Share { chunks, stored_bytes, new_chunks, new_bytes, read } = *share;
            let new = if new_chunks == 0 { "–".to_owned() } else { format!("{new_chunks} ({})", show(new_bytes)) };
            let how = if read { "" } else { "from the cache" };
            let step = step.map_or_else(String::new, |step| code(&short(&step)));
            out.push_str(&format!("| {name} | {chunks} | {} | {new} | {how} | {step} |\n", show(stored_bytes)));
        }
        out.push_str(&self.causes_markdown());
        let put = self.uploaded.map_or(counts.put_chunks, |uploaded| uploaded.chunks);
        let saved = counts.known_chunks;
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

    /// Returns what made chunks new since --base, where that is known and something is new.
    fn causes_markdown(&self) -> String {
        let Some(causes) = self.causes.as_ref().filter(|causes| !causes.is_empty()) else { return String::new() };
        let row = |(cause, count): &(Cause, Count)| {
            format!("| {} | {} | {} |\n", cause_text(*cause), count.chunks, show(count.bytes))
        };
        let rows: String = causes.iter().map(row).collect();
        format!("\n| why chunks are new since the base | chunks | stored |\n|---|---:|---:|\n{rows}")
    }

    /// Lines of key=value.
    pub fn key_values(&self) -> String {
        let (manifest, counts) = (&self.converted.manifest, &self.converted.counts);
        let path = self.output.as_ref().filter(|_| self.written);
        let platform = self.platform();
        let causes = self.causes_json().map(|causes| json!(causes).to_string());

        let lines = [
            ("manifest", path.map(|path| path.display().to_string()).unwrap_or_default()),
            ("root_digest", manifest.clear.root_digest.to_string()),
            ("image_digest", manifest.sealed.image_digest.to_string()),
            ("artifact", self.artifact.map(|artifact| artifact.to_string()).unwrap_or_default()),
            ("stored_bytes", counts.stored_bytes.to_string()),
            ("new_chunks", self.new_chunks().map(|(chunks, _)| chunks.to_string()).unwrap_or_default()),
            ("new_bytes", self.new_chunks().map(|(_, bytes)| bytes.to_string()).unwrap_or_default()),
            ("limit_exceeded", self.is_over().to_string()),
            ("new_layers", json!(self.needed_json()).to_string()),
            ("causes", causes.unwrap_or_default()),
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

/// Returns the fields of `error.limit` in `--json`: how much is new, of which layers, and why (docs/reference/json-output.md, "Errors").
pub fn limit_json(args: &ConvertArgs, reports: &[Report<'_>]) -> Value {
    let sum = |of: fn((u64, u64)) -> u64| reports.iter().filter_map(Report::new_chunks).map(of).sum::<u64>();
    // The store counts for all platforms together.
    let uploaded = reports.iter().filter_map(|report| report.uploaded).next_back();
    let platforms = reports.iter().map(|report| {
        json!({
            "platform": report.converted.manifest.clear.recipe.platform,
            "layers": report.needed_json(),
            "causes": report.causes_json(),
        })
    });
    json!({
        "max_new_bytes": args.max_new_bytes.map(|size| size.0),
        "new_chunks": sum(|(chunks, _)| chunks),
        "new_bytes": sum(|(_, bytes)| bytes),
        "uploaded_chunks": uploaded.map_or(0, |uploaded| uploaded.chunks),
        "uploaded_bytes": uploaded.map_or(0, |uploaded| uploaded.bytes),
        "platforms": platforms.collect::<Vec<_>>(),
    })
}

/// Returns the beginning of a build step on one line.
fn short(step: &str) -> String {
    let words = step.split_whitespace().collect::<Vec<_>>().join(" ");
    let cut: String = words.chars().take(STEP).collect();
    if cut.len() < words.len() { cut + "…" } else { cut }
}

/// A platform as part of a file's name: `linux-arm64-v8`.
pub fn file_part(platform: &Platform) -> String {
    platform.to_string().replace('/', "-")
}

/// As code in Markdown, and within a table's cell.
pub fn code(text: &str) -> String {
    format!("`{}`", Printable(text).to_string().replace('`', "'").replace('|', "¦").replace(['\n', '\r'], " "))
}

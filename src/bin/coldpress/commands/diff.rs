//! `coldpress diff`.

use std::ffi::OsStr;
use std::fmt::Write;
use std::io::Write as _;
use std::process::ExitCode;

use coldpress::Error;
use coldpress::digest::Sha256;
use coldpress::fs::ext4::read::Stat;
use coldpress::fs::path::Display;
use coldpress::keys::KeyWrap;
use coldpress::manifest::OpenManifest;
use coldpress::read::ChunkDevice;
use coldpress::read::diff::{Cause, Change, Count, Diff, FileDiff, LayerDiff, Move, NewChunk, Setting, Shares, Shift};
use coldpress::store::{Get, StoreUrl};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::diff_summary;
use crate::args::{Cli, DiffArgs};
use crate::output;
use crate::shared::failure::{DIFFERENCE, Failure};
use crate::shared::files::write_whole;
use crate::shared::manifests::{ManifestArgs, ManifestRef};
use crate::size::show;
use crate::sources::{check_logins, registries};

/// Files, chunks and files of a chunk that are shown before the rest is only counted.
const SHOWN: usize = 20;
const SHOWN_OF_CHUNK: usize = 3;

pub fn run(cli: &Cli, args: &DiffArgs) -> Result<ExitCode, Failure> {
    for path in [&args.html, &args.summary].into_iter().flatten() {
        output::check(path)?;
    }
    check_logins(&args.registry, registries([], [&args.a, &args.b]))?;
    let key = args.key.require()?;
    let (a, b) = (open(args, &args.a, args.expect_a, &*key)?, open(args, &args.b, args.expect_b, &*key)?);
    let mut diff = Diff::of(&a, &b);
    if !args.no_files
        && let (Some(store_a), Some(store_b)) = (store_of(args, &a)?, store_of(args, &b)?)
    {
        let device = |manifest: &OpenManifest, store| ChunkDevice::plain(manifest.clone(), store);
        diff.compare_files(&device(&a, store_a), &device(&b, store_b))?;
    }
    if let Some(path) = &args.html {
        let page = diff_summary::html(args, &diff);
        write_whole(path, |mut file| file.write_all(page.as_bytes()).map_err(|error| Error::file(path, error)))?;
    }
    if let Some(path) = &args.summary {
        output::append(path, &diff_summary::markdown(args, &diff))?;
    }
    output::long_result(cli, || text(args, [&a, &b], &diff), &Report::of(args, [&a, &b], &diff))?;
    Ok(if diff.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(DIFFERENCE) })
}

fn open(
    args: &DiffArgs,
    manifest: &ManifestRef,
    expect: Option<Sha256>,
    key: &dyn KeyWrap,
) -> Result<OpenManifest, Failure> {
    ManifestArgs { manifest: manifest.clone(), expect, registry: args.registry.clone() }.open(key)
}

/// `None` where no store is named but by the manifest, and that one is a service or a directory that is not there.
fn store_of(args: &DiffArgs, manifest: &OpenManifest) -> Result<Option<Box<dyn Get>>, Failure> {
    let said = StoreUrl::parse(OsStr::new(&manifest.sealed.store));
    let at_hand = matches!(said, Ok(StoreUrl::Directory(path)) if path.is_dir());
    match at_hand || args.store.store.is_some() {
        true => args.store.open(manifest).map(Some),
        false => Ok(None),
    }
}

pub fn cause_text(cause: Cause) -> String {
    match cause {
        Cause::Sealing => "encrypted differently, or in another deduplication scope".to_owned(),
        Cause::Zone(zone) => zone.to_string(),
        Cause::Metadata => "metadata".to_owned(),
        Cause::Data(why) => format!("data: {}", why.name()),
        Cause::NewLayer => "data of a new layer".to_owned(),
        Cause::OldLayer => "data of a layer of both images".to_owned(),
    }
}

/// The root's has no name.
pub fn shown_path(path: &[u8]) -> String {
    if path.is_empty() { "/".to_owned() } else { Display(path).to_string() }
}

fn shift_name(shift: Shift) -> &'static str {
    match shift {
        Shift::Added => "added",
        Shift::Removed => "removed",
        Shift::Resized => "resized",
    }
}

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'d> {
    equal: bool,
    a: Value,
    b: Value,
    settings: &'d [Setting],
    config: &'d [String],
    metadata: Shares,
    data: Shares,
    new_chunks: u64,
    new_bytes: u64,
    layers: Rows<'d, LayerDiff>,
    causes: Vec<Value>,
    new: Rows<'d, NewChunk>,
    files: Option<Rows<'d, FileDiff>>,
}

/// Made one by one as they are printed.
struct Rows<'d, T>(&'d [T], fn(&T) -> Value);

impl<T> Serialize for Rows<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(self.1))
    }
}

impl<'d> Report<'d> {
    fn of(args: &DiffArgs, [a, b]: [&OpenManifest; 2], diff: &'d Diff) -> Self {
        let side = |named: &ManifestRef, manifest: &OpenManifest| {
            json!({
                "manifest": named.to_string(),
                "root_digest": manifest.clear.root_digest,
                "image_digest": manifest.sealed.image_digest,
                "chunks": manifest.sealed.chunks.len(),
                "device_bytes": manifest.device_bytes(),
            })
        };
        let cause = |(cause, count): (Cause, Count)| json!({ "cause": cause_text(cause), "chunks": count.chunks, "bytes": count.bytes });
        let new = diff.totals.all().only_b;
        Self {
            equal: diff.is_empty(),
            a: side(&args.a, a),
            b: side(&args.b, b),
            settings: &diff.settings,
            config: &diff.config,
            metadata: diff.totals.metadata,
            data: diff.totals.data,
            new_chunks: new.chunks,
            new_bytes: new.bytes,
            layers: Rows(&diff.layers, layer_json),
            causes: diff.causes().into_iter().map(cause).collect(),
            new: Rows(&diff.new, chunk_json),
            files: diff.files.as_deref().map(|files| Rows(files, file_json)),
        }
    }
}

fn layer_json(layer: &LayerDiff) -> Value {
    let number = |place: Option<usize>| place.map(|place| place + 1);
    json!({
        "diff_id": layer.diff_id, "state": state(layer), "a": number(layer.a), "b": number(layer.b),
        "segment_chunks": layer.chunks, "chunks": layer.only.chunks, "bytes": layer.only.bytes,
    })
}

fn chunk_json(chunk: &NewChunk) -> Value {
    let files = chunk.touches.iter();
    json!({
        "chunk": chunk.index, "layer": chunk.layer.map(|layer| layer + 1), "bytes": chunk.bytes,
        "cause": cause_text(chunk.cause),
        "files": files.map(|touch| json!({ "path": shown_path(&touch.path), "why": touch.why.name() })).collect::<Vec<_>>(),
    })
}

fn file_json(file: &FileDiff) -> Value {
    let stat = |stat: &Stat| {
        let (seconds, nanoseconds) = (stat.mtime.secs, stat.mtime.nanos);
        json!({
            "type": stat.file_type.name(), "mode": format!("{:04o}", stat.mode), "uid": stat.uid, "gid": stat.gid, "size": stat.size,
            "links": stat.links, "inode": stat.ino.0, "mtime_seconds": seconds, "mtime_nanoseconds": nanoseconds,
        })
    };
    json!({
        "path": shown_path(&file.path),
        "changes": file.changes.iter().map(|change| change.name()).collect::<Vec<_>>(),
        "metadata_only": is_metadata_only(file),
        "a": file.a.as_ref().map(stat),
        "b": file.b.as_ref().map(stat),
        "new_chunks": file.new.chunks,
        "new_bytes": file.new.bytes,
        "behind": match &file.moved {
            Some(Move::Behind(path, shift)) => json!({ "path": shown_path(path), "what": shift_name(*shift) }),
            Some(Move::Elsewhere | Move::Holes) | None => Value::Null,
        },
    })
}

/// Returns what happened to a file, in words.
pub fn changes_text(file: &FileDiff) -> String {
    let changes: Vec<&str> = file.changes.iter().map(|change: &Change| change.name()).collect();
    match is_metadata_only(file) {
        true => format!("metadata only: {}", changes.join(", ")),
        false => changes.join(", "),
    }
}

fn is_metadata_only(file: &FileDiff) -> bool {
    file.changes.iter().all(|change| change.is_metadata())
}

pub fn state(layer: &LayerDiff) -> &'static str {
    match (layer.a, layer.b) {
        (Some(_), Some(_)) => "same",
        (None, _) => "new",
        (_, None) => "gone",
    }
}

fn text(args: &DiffArgs, [a, b]: [&OpenManifest; 2], diff: &Diff) -> String {
    let mut out = format!("A  {}  {}\nB  {}  {}\n", args.a, a.clear.root_digest, args.b, b.clear.root_digest);
    for setting in &diff.settings {
        let parts = if setting.parts { ": equal content has different chunks" } else { "" };
        let _ = writeln!(out, "{} differs: `{}` and `{}`{parts}", setting.name, setting.a, setting.b);
    }
    if !diff.config.is_empty() {
        let _ = writeln!(out, "config differs: {}", diff.config.join(", "));
    }
    if diff.is_empty() {
        out.push_str("nothing differs\n");
        return out;
    }
    out.push_str(&totals_text(diff));
    out.push_str(&layers_text(&diff.layers));
    out.push_str("why chunks are new\n");
    for (cause, count) in diff.causes() {
        let _ = writeln!(out, "  {:60} {}", cause_text(cause), count_text(count));
    }
    out.push_str(&chunks_text(&diff.new, args.all));
    match &diff.files {
        Some(files) => out.push_str(&files_text(files, args.all)),
        None if args.no_files => {}
        None => out.push_str("files were not compared: name the store with --store\n"),
    }
    out
}

fn count_text(count: Count) -> String {
    format!("{:>7} {:>10}", count.chunks, show(count.bytes))
}

fn totals_text(diff: &Diff) -> String {
    let mut out = format!("{:10} {:>18}   {:>18}   {:>18}\n", "chunks", "only in A", "only in B", "in both");
    let all = diff.totals.all();
    for (name, Shares { only_a, only_b, both }) in
        [("metadata", diff.totals.metadata), ("data", diff.totals.data), ("together", all)]
    {
        let _ = writeln!(out, "  {name:8} {}   {}   {}", count_text(only_a), count_text(only_b), count_text(both));
    }
    out
}

fn layers_text(layers: &[LayerDiff]) -> String {
    let mut out = "layers (of A, of B, data chunks that the other image does not have)\n".to_owned();
    let number = |place: Option<usize>| place.map_or_else(|| "-".to_owned(), |place| (place + 1).to_string());
    for layer in layers {
        let (a, b) = (number(layer.a), number(layer.b));
        let _ = writeln!(out, "  {a:>3} {b:>3}  {:4}  {}  {}", state(layer), layer.diff_id, count_text(layer.only));
    }
    out
}

fn chunks_text(new: &[NewChunk], all: bool) -> String {
    let mut out = String::new();
    let (shown, shown_of_chunk) = if all { (usize::MAX, usize::MAX) } else { (SHOWN, SHOWN_OF_CHUNK) };
    if !new.is_empty() {
        out.push_str("new chunks\n");
    }
    for chunk in new.iter().take(shown) {
        let layer = chunk.layer.map(|layer| format!(", layer {}", layer + 1)).unwrap_or_default();
        let _ = write!(out, "  {:>7}{layer}: {}", chunk.index.0, cause_text(chunk.cause));
        for (number, touch) in chunk.touches.iter().take(shown_of_chunk).enumerate() {
            let mark = if number == 0 { ": " } else { ", " };
            let _ = write!(out, "{mark}{} ({})", shown_path(&touch.path), touch.why.name());
        }
        match chunk.touches.len().saturating_sub(shown_of_chunk) {
            0 => out.push('\n'),
            more => out.push_str(&format!(" and {more} more\n")),
        }
    }
    out + &more_text(new.len(), shown)
}

fn files_text(files: &[FileDiff], all: bool) -> String {
    if files.is_empty() {
        return "files: none differs\n".to_owned();
    }
    let mut out = "files (bytes in A, in B, new chunks)\n".to_owned();
    let shown = if all { usize::MAX } else { SHOWN };
    // Those that only moved come behind those that made them.
    let (moved, changed): (Vec<_>, Vec<_>) = files.iter().partition(|file| file.changes == [Change::Moved]);
    let size = |stat: &Option<Stat>| stat.map_or_else(|| "-".to_owned(), |stat| stat.size.to_string());
    for file in changed.into_iter().chain(moved).take(shown) {
        let changes = changes_text(file);
        let behind = match &file.moved {
            Some(Move::Behind(path, shift)) => format!(" (behind {}, {})", shown_path(path), shift_name(*shift)),
            Some(Move::Elsewhere) => " (in another order or layer)".to_owned(),
            Some(Move::Holes) => " (with other holes)".to_owned(),
            None => String::new(),
        };
        let _ = writeln!(
            out,
            "  {:>12} {:>12} {:>5}  {}: {changes}{behind}",
            size(&file.a),
            size(&file.b),
            file.new.chunks,
            shown_path(&file.path),
        );
    }
    out + &more_text(files.len(), shown)
}

fn more_text(count: usize, shown: usize) -> String {
    match count.saturating_sub(shown) {
        0 => String::new(),
        more => format!("  and {more} more; --all shows them\n"),
    }
}

//! `coldpress verify`.

use std::collections::BTreeSet;

use coldpress::convert::{Converted, Target, convert, flatten_only};
use coldpress::fs::ext4::layout::Layout;
use coldpress::inspect::chunk_files::{ChunkContents, ChunkFiles};
use coldpress::inspect::verify::verify_store;
use coldpress::keys::KeyWrap;
use coldpress::manifest::{ChunkRef, Clear, OpenManifest};
use coldpress::progress::Progress;
use coldpress::read::ChunkDevice;
use coldpress::source::{self, ImageRef};
use coldpress::store::StoreUrl;
use coldpress::{ChunkIndex, Error, ErrorKind};
use serde_json::{Value, json};

use super::convert::options_of;
use crate::args::{Cli, VerifyArgs};
use crate::output;
use crate::shared::failure::{CommandResult, Failure};
use crate::sources::{access, check_logins, read_manifest, registries};

/// Bad chunks and files that are named before the rest is only counted.
const NAMED: usize = 10;

pub fn run(cli: &Cli, args: &VerifyArgs) -> CommandResult {
    let registry = &args.from.manifest.registry;
    check_logins(registry, registries(&args.source, [&args.from.manifest.manifest]))?;
    let needs_store = args.source.is_none() || args.from.store.store.is_some();
    // A source gives a root digest, which is not encrypted: with the salt, no key is needed to compare the two.
    let key = if needs_store { Some(args.from.key.require()?) } else { args.from.key.find()? };
    let key = key.as_deref();
    let manifest = match key {
        Some(key) => Manifest::Open(args.from.manifest.open(key)?),
        None => {
            Manifest::Clear(read_manifest(&args.from.manifest.manifest, registry, args.from.manifest.expect)?.clear)
        }
    };
    let progress = output::progress(cli);
    let (mut text, mut good, mut hint) = (String::new(), true, None);
    let image_digest = manifest.open().map(|manifest| manifest.sealed.image_digest);
    let mut json = json!({ "root_digest": manifest.clear().root_digest, "image_digest": image_digest });
    if let (Some(manifest), true) = (manifest.open(), needs_store) {
        let found = in_store(args, manifest, &*progress)?;
        (text, good, hint) = (text + &found.text, good && found.good, found.hint);
        json["store"] = found.json;
    }
    if let Some(image) = &args.source {
        let found = from_source(args, image, key, &manifest, &*progress)?;
        (text, good) = (text + &found.text, good && found.good);
        json["source"] = found.json;
    }
    json["verified"] = good.into();
    output::result(cli, &text, &json)?;
    if good {
        return Ok(());
    }
    let message = format!("{}: verification found a difference", args.from.manifest.manifest);
    let error = Error::new(ErrorKind::Difference, message);
    Err(hint.into_iter().fold(error, Error::with_hint).into())
}

/// The manifest, decrypted if there is a key.
enum Manifest {
    Open(OpenManifest),
    Clear(Clear),
}

impl Manifest {
    fn clear(&self) -> &Clear {
        match self {
            Self::Open(manifest) => &manifest.clear,
            Self::Clear(clear) => clear,
        }
    }

    fn open(&self) -> Option<&OpenManifest> {
        match self {
            Self::Open(manifest) => Some(manifest),
            Self::Clear(_) => None,
        }
    }
}

/// What one form of verification found.
struct Finding {
    good: bool,
    text: String,
    json: Value,
    hint: Option<String>,
}

fn in_store(args: &VerifyArgs, manifest: &OpenManifest, progress: &dyn Progress) -> Result<Finding, Failure> {
    let store = args.from.store.open(manifest)?;
    let report = verify_store(manifest, &*store, args.threads.threads(), progress)?;
    let wanted = manifest.sealed.image_digest;
    let good = report.image_digest == Some(wanted);
    let bad: Vec<String> = report.bad.iter().map(|(_, error)| error.chain()).collect();
    let contents = match bad.is_empty() {
        true => ChunkFiles::default(),
        false => {
            let chunks = report.bad.iter().map(|(chunk, _)| *chunk).collect();
            ChunkFiles::read(&ChunkDevice::plain(manifest.clone(), store), &chunks)?
        }
    };
    let mut text = match report.image_digest {
        Some(found) if found == wanted => {
            format!("store: all {} chunks are present and authentic; image digest {found}\n", report.good)
        }
        Some(found) => {
            format!("store: every chunk is authentic, but their image digest is {found}, the manifest says {wanted}\n")
        }
        None => format!("store: {} of {} chunks are missing or damaged\n", bad.len(), bad.len() + report.good),
    };
    for (line, contents) in bad.iter().zip(contents.chunks.values()).take(NAMED) {
        text.push_str(&format!("  {line}\n    {}\n", contents_text(contents)));
    }
    if bad.len() > NAMED {
        text.push_str(&format!("  and {} more\n", bad.len() - NAMED));
    }
    text.push_str(&unreadable_text(contents.unreadable));
    let files: Vec<Value> = contents.chunks.iter().map(contents_json).collect();
    let named = &args.from.manifest.manifest;
    let hint = (!bad.is_empty()).then(|| repair_hint(&named.to_string(), args.from.store.of(manifest).ok().as_ref()));
    let json = json!({
        "verified": good, "good_chunks": report.good, "bad_chunks": bad, "bad_files": files,
        "unreadable": contents.unreadable,
    });
    Ok(Finding { good, text, json, hint })
}

/// Returns what a chunk contains, in a line.
pub fn contents_text(contents: &ChunkContents) -> String {
    let more = match contents.more_files {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let part = &contents.part;
    if contents.files.is_empty() { part.clone() } else { format!("{part}: {}{more}", contents.files.join(", ")) }
}

/// Returns the same for `--json`.
pub fn contents_json((chunk, contents): (&ChunkIndex, &ChunkContents)) -> Value {
    let ChunkContents { part, files, more_files } = contents;
    json!({ "chunk": chunk, "part": part, "files": files, "more_files": more_files })
}

/// Returns that names are missing, if they are.
pub fn unreadable_text(unreadable: usize) -> String {
    match unreadable {
        0 => String::new(),
        count => format!("  {count} directories and inodes cannot be read, so files may be missing from these lists\n"),
    }
}

/// Returns how the chunks of the manifest `named` are repaired in the store `url`.
pub fn repair_hint(named: &str, url: Option<&StoreUrl>) -> String {
    let store = url.map_or_else(|| "STORE".to_owned(), ToString::to_string);
    let repair = format!("`coldpress convert IMAGE --heal {named} --store {store}` uploads missing chunks again");
    match url {
        Some(StoreUrl::Directory(_)) => format!("{repair} and replaces damaged ones"),
        _ => {
            format!(
                "{repair}; delete damaged ones first with `coldpress scrub {named} --store {store} --delete-damaged`"
            )
        }
    }
}

fn from_source(
    args: &VerifyArgs,
    reference: &ImageRef,
    key: Option<&dyn KeyWrap>,
    manifest: &Manifest,
    progress: &dyn Progress,
) -> Result<Finding, Failure> {
    let salt = args.salt.salt(key, &args.from.key.kms)?;
    let (options, platform) = options_of(manifest.clear(), &salt, &args.threads, args.limits)?;
    let image =
        source::open(reference, platform.as_ref(), &access(&args.from.manifest.registry)?, options.limits(progress))?;
    let again = convert(&image, &salt, &options, Target::default(), progress)?;
    let (wanted, found) = (manifest.clear().root_digest, again.manifest.clear.root_digest);
    let json = json!({ "verified": wanted == found, "root_digest": found, "image_digest": again.manifest.sealed.image_digest });
    if wanted == found {
        let text = format!("source: {reference} gives the same root digest {found}\n");
        return Ok(Finding { good: true, text, json, hint: None });
    }
    let text = format!("source: {reference} gives another root digest\n  manifest  {wanted}\n  source    {found}\n");
    let Some(manifest) = manifest.open() else {
        let text = text + "  give --key to see which chunks and files differ\n";
        return Ok(Finding { good: false, text, json, hint: None });
    };
    let tree = match again.manifest.sealed.image_digest == manifest.sealed.image_digest {
        true => None,
        // To say which files differ.
        false => Some(flatten_only(&image, &options, progress)?),
    };
    let layout = tree.as_ref().map(|tree| Layout::new(tree, options.free)).transpose().map_err(Error::from)?;
    Ok(compare(manifest, &again, layout.as_ref(), text, json))
}

/// Adds to `text` and `json` how the manifest and the conversion differ; `layout` is `None` if the plaintext is the same.
fn compare(
    manifest: &OpenManifest,
    again: &Converted,
    layout: Option<&Layout<'_>>,
    mut text: String,
    mut json: Value,
) -> Finding {
    let parts = differences(manifest, again);
    text.extend(parts.iter().map(|part| format!("  {part}\n")));
    json["differences"] = json!(parts);
    if let Some(layout) = layout {
        let places = differing(&manifest.sealed.chunks, &again.manifest.sealed.chunks);
        let data = places.iter().find(|index| layout.is_data(**index)).or(places.first());
        if let Some(shown) = data {
            let files = layout.contents_of(*shown);
            text.push_str(&format!(
                "  {} chunks differ; in the first with data, chunk {}, the source has:\n",
                places.len(),
                shown.0
            ));
            text.extend(files.iter().take(NAMED).map(|file| format!("    {file}\n")));
            if files.len() > NAMED {
                text.push_str(&format!("    and {} more\n", files.len() - NAMED));
            }
            json["differing_chunks"] = json!(places.len());
            json["first_differing_chunk"] = json!(places[0]);
            json["first_differing_data_chunk"] = json!(places.iter().find(|index| layout.is_data(**index)));
            json["files"] = json!(files);
        }
    } else {
        text.push_str("  the image digests are equal: the same plaintext, encrypted differently\n");
    }
    Finding { good: false, text, json, hint: None }
}

/// Returns what differs between two conversions, apart from their chunks.
fn differences(manifest: &OpenManifest, again: &Converted) -> Vec<String> {
    let (a, b) = (&manifest.sealed, &again.manifest.sealed);
    let mut parts = Vec::new();
    if manifest.clear.recipe != again.manifest.clear.recipe {
        let shown = |manifest: &OpenManifest| {
            let recipe = &manifest.clear.recipe;
            format!("{} (library version {}), platform `{}`", recipe.codec, recipe.codec_version, recipe.platform)
        };
        parts.push(format!("recipe: {} in the manifest, {} here", shown(manifest), shown(&again.manifest)));
    }
    if a.device_chunks != b.device_chunks {
        parts.push(format!("device: {} chunks in the manifest, {} from the source", a.device_chunks, b.device_chunks));
    }
    if a.config != b.config {
        parts.push("config: the configs of the images differ".to_owned());
    }
    let layers =
        |sealed: &coldpress::manifest::Sealed| sealed.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
    let (a, b) = (layers(a), layers(b));
    if let Some(at) = (0..a.len().max(b.len())).find(|&at| a.get(at) != b.get(at)) {
        parts.push(format!("layers: they differ from layer {} on", at + 1));
    }
    parts
}

/// Returns the chunks of the device in which the two differ, ascending.
fn differing(a: &[ChunkRef], b: &[ChunkRef]) -> Vec<ChunkIndex> {
    let list = |chunks: &[ChunkRef]| chunks.iter().map(|chunk| (chunk.index, chunk.name)).collect::<BTreeSet<_>>();
    let mut places: Vec<_> = list(a).symmetric_difference(&list(b)).map(|(index, _)| *index).collect();
    places.dedup();
    places
}

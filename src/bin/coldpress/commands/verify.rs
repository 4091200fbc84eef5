//! `coldpress verify`.

use std::collections::BTreeSet;

use coldpress::convert::{Converted, Target, convert, flatten_only};
use coldpress::fs::ext4::layout::Layout;
use coldpress::inspect::verify::verify_store;
use coldpress::keys::KeyWrap;
use coldpress::manifest::{ChunkRef, OpenManifest};
use coldpress::progress::Progress;
use coldpress::source::{self, ImageRef};
use coldpress::{ChunkIndex, Error, ErrorKind};
use serde_json::{Value, json};

use super::convert::options_of;
use crate::args::{Cli, VerifyArgs};
use crate::output;
use crate::shared::failure::{CommandResult, Failure};
use crate::sources::{access, check_logins, registries};

/// Bad chunks and files that are named before the rest is only counted.
const NAMED: usize = 10;

pub fn run(cli: &Cli, args: &VerifyArgs) -> CommandResult {
    let registry = &args.from.manifest.registry;
    check_logins(registry, registries(&args.source, [&args.from.manifest.manifest]))?;
    let key = args.from.key.require()?;
    let manifest = args.from.manifest.open(&*key)?;
    let progress = output::progress(cli);
    let (mut text, mut good) = (String::new(), true);
    let mut json = json!({ "root_digest": manifest.clear.root_digest, "image_digest": manifest.sealed.image_digest });
    if args.source.is_none() || args.from.store.store.is_some() {
        let found = in_store(args, &manifest, &*progress)?;
        (text, good) = (text + &found.text, good && found.good);
        json["store"] = found.json;
    }
    if let Some(image) = &args.source {
        let found = from_source(args, image, &*key, &manifest, &*progress)?;
        (text, good) = (text + &found.text, good && found.good);
        json["source"] = found.json;
    }
    json["verified"] = good.into();
    output::result(cli, &text, &json)?;
    if good {
        return Ok(());
    }
    let message = format!("{}: verification found a difference", args.from.manifest.manifest);
    Err(Error::new(ErrorKind::Difference, message).into())
}

/// What one form of verification found.
struct Finding {
    good: bool,
    text: String,
    json: Value,
}

fn in_store(args: &VerifyArgs, manifest: &OpenManifest, progress: &dyn Progress) -> Result<Finding, Failure> {
    let store = args.from.store.open(manifest)?;
    let report = verify_store(manifest, &*store, args.threads.threads(), progress)?;
    let good = report.bad.is_empty() && report.image_digest_matches;
    let bad: Vec<String> = report.bad.iter().map(Error::chain).collect();
    let mut text = match (bad.len(), report.image_digest_matches) {
        (0, true) => format!(
            "store: all {} chunks are there and true; image digest {}\n",
            report.good, manifest.sealed.image_digest
        ),
        (0, false) => "store: every chunk opens, but together they are not what the image digest says\n".to_owned(),
        (count, _) => format!("store: {count} of {} chunks are missing or wrong\n", count + report.good),
    };
    text.extend(bad.iter().take(NAMED).map(|line| format!("  {line}\n")));
    if bad.len() > NAMED {
        text.push_str(&format!("  and {} more\n", bad.len() - NAMED));
    }
    Ok(Finding { good, text, json: json!({ "verified": good, "good_chunks": report.good, "bad_chunks": bad }) })
}

fn from_source(
    args: &VerifyArgs,
    reference: &ImageRef,
    key: &dyn KeyWrap,
    manifest: &OpenManifest,
    progress: &dyn Progress,
) -> Result<Finding, Failure> {
    let salt = args.salt.salt(key, &args.from.key.kms)?;
    let (options, platform) = options_of(&manifest.clear, &salt, &args.threads, args.limits)?;
    let image =
        source::open(reference, platform.as_ref(), &access(&args.from.manifest.registry)?, options.limits(progress))?;
    let again = convert(&image, &salt, &options, Target::default(), progress)?;
    let tree = match again.manifest.sealed.image_digest == manifest.sealed.image_digest {
        true => None,
        // To say which files differ.
        false => Some(flatten_only(&image, &options, progress)?),
    };
    let layout = tree.as_ref().map(|tree| Layout::new(tree, options.free)).transpose().map_err(Error::from)?;
    Ok(compare(manifest, &again, layout.as_ref(), reference))
}

/// `layout` where the images themselves differ.
fn compare(manifest: &OpenManifest, again: &Converted, layout: Option<&Layout<'_>>, reference: &ImageRef) -> Finding {
    let (wanted, found) = (manifest.clear.root_digest, again.manifest.clear.root_digest);
    let mut json = json!({ "verified": wanted == found, "root_digest": found, "image_digest": again.manifest.sealed.image_digest });
    if wanted == found {
        return Finding { good: true, text: format!("source: {reference} gives the same root digest {found}\n"), json };
    }
    let mut text =
        format!("source: {reference} gives another root digest\n  manifest  {wanted}\n  source    {found}\n");
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
        text.push_str("  the image digests are equal: the same plaintext, sealed in another way\n");
    }
    Finding { good: false, text, json }
}

/// Where two conversions part, apart from their chunks.
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
        parts.push("config: the image's config is another".to_owned());
    }
    let layers =
        |sealed: &coldpress::manifest::Sealed| sealed.layers.iter().map(|layer| layer.diff_id).collect::<Vec<_>>();
    let (a, b) = (layers(a), layers(b));
    if let Some(at) = (0..a.len().max(b.len())).find(|&at| a.get(at) != b.get(at)) {
        parts.push(format!("layers: they differ from layer {} on", at + 1));
    }
    parts
}

/// The places on the device where one has another chunk than the other, ascending.
fn differing(a: &[ChunkRef], b: &[ChunkRef]) -> Vec<ChunkIndex> {
    let list = |chunks: &[ChunkRef]| chunks.iter().map(|chunk| (chunk.index, chunk.name)).collect::<BTreeSet<_>>();
    let mut places: Vec<_> = list(a).symmetric_difference(&list(b)).map(|(index, _)| *index).collect();
    places.dedup();
    places
}

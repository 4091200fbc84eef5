//! `coldpress scrub`.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use coldpress::digest::{Sha256, Sha256Hasher};
use coldpress::inspect::chunk_files::ChunkFiles;
use coldpress::inspect::scrub::{Plan, Sample, Scrubbed, is_damaged, scrub};
use coldpress::manifest::{BlockManifest, Clear};
use coldpress::output_file::Destination;
use coldpress::read::{ChunkDevice, stored_manifest};
use coldpress::store::{Collect, Get, ObjectName, RootId, StoreUrl, open_collect, open_get};
use coldpress::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::verify::{contents_json, contents_text, repair_hint, unreadable_text};
use crate::args::{Cli, ScrubArgs};
use crate::output;
use crate::sealing::require_store;
use crate::shared::failure::{CommandResult, Failure};
use crate::shared::files::write_whole;
use crate::shared::manifests::ManifestRef;
use crate::size::show;
use crate::sources::{check_logins, read_manifest, registries};

/// The longest note of how far it came.
const MAX_NOTE: u64 = 64 << 20;
/// Bad chunks that are named before the rest is only counted.
const NAMED: usize = 10;

/// How far an earlier run came.
#[derive(Serialize, Deserialize)]
struct Note {
    /// Of the names, so that no other set is gone on with.
    objects: String,
    sample: Sample,
    scrubbed: Scrubbed,
}

pub fn run(cli: &Cli, args: &ScrubArgs) -> CommandResult {
    let url = require_store(&args.store)?;
    let settings = args.store.settings(coldpress::store::IN_FLIGHT)?;
    let collect = match args.all || args.delete_damaged {
        true => Some(open_collect(&url, &settings)?),
        false => None,
    };
    let get = match &collect {
        Some(_) => None,
        None => Some(open_get(&url, &settings)?),
    };
    let store = collect.as_ref().map(|collect| collect.get()).or(get.as_deref()).expect("one of both is open");
    let mut names = Vec::new();
    check_logins(&args.registry, registries([], &args.manifests))?;
    let mut manifests = Vec::new();
    for named in &args.manifests {
        let manifest = read_manifest(named, &args.registry, None)?;
        name_all(&manifest.clear, &mut names);
        manifests.push((named, manifest));
    }
    let bad = match collect.as_deref().filter(|_| args.all) {
        Some(collect) => {
            let objects = collect.manifests(&args.root)?;
            if objects.is_empty() && !args.allow_empty {
                return Err(no_manifest(&url, &args.root).into());
            }
            name_all_stored(collect, &args.root, objects, &mut names)?
        }
        None => Vec::new(),
    };
    let resume = args.resume.as_deref().map(note_file).transpose()?;
    let noted = resume.as_deref().map(read_note).transpose()?.flatten();
    let seed = args.seed.or(noted.as_ref().map(|note| note.sample.seed)).unwrap_or_else(seed_of_the_day);
    let sample = Sample { share: args.sample.0, seed };
    let objects = Plan::objects(names, sample);
    let digest = digest_of(&objects);
    let so_far = match noted {
        None => Scrubbed::default(),
        Some(note)
            if note.objects == digest.to_string()
                && note.sample == sample
                && note.scrubbed.can_be_of(objects.len()) =>
        {
            note.scrubbed
        }
        Some(_) => {
            let message = "--resume: the progress file belongs to other manifests or another sample; repeat those, or remove the file";
            return Err(Failure::Usage(message.to_owned()));
        }
    };
    let plan = Plan { objects, rate: args.rate.map(|rate| rate.0.max(1)), threads: args.threads.threads() };
    let mut note = |scrubbed: &Scrubbed| match &resume {
        Some(path) => write_note(path, &Note { objects: digest.to_string(), sample, scrubbed: scrubbed.clone() }),
        None => Ok(()),
    };
    let found = scrub(&plan, store, so_far, &*output::progress(cli), &mut note)?;
    let files = BadFiles::find(args, &found, manifests, || Ok(open_get(&url, &settings)?))?;
    let deleted = match collect.as_deref().filter(|_| args.delete_damaged) {
        Some(collect) => delete(args, collect, &plan, &found, &bad)?,
        None => Deleted::default(),
    };
    if let Some(path) = resume.as_ref().filter(|path| path.exists()) {
        std::fs::remove_file(path).map_err(|error| Error::file(path, error))?;
    }
    let clean = found.missing.is_empty() && found.damaged.is_empty() && bad.is_empty();
    let json = json!({
        "chunks": found.checked, "bytes": found.bytes, "missing": found.missing, "damaged": found.damaged,
        "bad_manifests": bad.iter().map(BadManifest::json).collect::<Vec<_>>(),
        "bad_files": files.json,
        "deleted": deleted.chunks, "deleted_manifests": deleted.manifests, "not_deleted": deleted.failed,
        "seed": sample.seed, "scrubbed": clean,
    });
    output::result(cli, &text(&found, &files, &bad, &deleted, sample), &json)?;
    if clean {
        return Ok(());
    }
    let manifests = match bad.len() {
        0 => String::new(),
        bad => format!("; manifests that cannot be read: {bad}"),
    };
    let (missing, damaged) = (found.missing.len(), found.damaged.len());
    let message = format!("store {url}: {missing} chunks are missing and {damaged} damaged{manifests}");
    let error = Error::new(ErrorKind::Difference, message);
    let named = args.manifests.first().map_or_else(|| "MANIFEST".to_owned(), ToString::to_string);
    let is_bad = missing + damaged > 0;
    Err(if is_bad { error.with_hint(repair_hint(&named, Some(&url))) } else { error }.into())
}

/// The files in missing and damaged chunks, as far as a key is at hand.
#[derive(Default)]
struct BadFiles {
    text: String,
    json: Vec<Value>,
}

impl BadFiles {
    /// Reads which files of `manifests` are in the bad chunks of `found`. What stands in the way is reported, and no failure: the result
    /// of the scrub does not depend on it.
    fn find(
        args: &ScrubArgs,
        found: &Scrubbed,
        manifests: Vec<(&ManifestRef, BlockManifest)>,
        open_store: impl Fn() -> Result<Box<dyn Get>, Failure>,
    ) -> Result<Self, Failure> {
        let bad: BTreeSet<&str> = found.missing.iter().chain(&found.damaged).map(String::as_str).collect();
        let mut files = Self::default();
        if bad.is_empty() {
            return Ok(files);
        }
        if args.all {
            files.text.push_str("  `coldpress verify MANIFEST` names the files in them\n");
            return Ok(files);
        }
        let key = match args.key.find() {
            Ok(Some(key)) => key,
            Ok(None) => {
                files.text.push_str("  give --key to see which files are in them\n");
                return Ok(files);
            }
            Err(Failure::Error(error)) => {
                files.text.push_str(&format!("  their files are unknown: {}\n", error.chain()));
                return Ok(files);
            }
            Err(usage) => return Err(usage),
        };
        for (named, manifest) in manifests {
            let root = manifest.clear.root.clone();
            let object = |name: Sha256| ObjectName::chunk(&root, name);
            if !manifest.clear.names.iter().any(|name| bad.contains(object(*name).as_str())) {
                continue;
            }
            let contents = manifest.open(&*key).map_err(Failure::from).and_then(|manifest| {
                let chunks = manifest.sealed.chunks.iter().filter(|chunk| bad.contains(object(chunk.name).as_str()));
                let chunks = chunks.map(|chunk| chunk.index).collect();
                Ok(ChunkFiles::read(&ChunkDevice::plain(manifest, open_store()?), &chunks)?)
            });
            match contents {
                Ok(contents) => files.add(named, &contents),
                Err(Failure::Error(error)) => {
                    files.text.push_str(&format!("  files of {named} are unknown: {}\n", error.chain()));
                }
                Err(usage) => return Err(usage),
            }
        }
        Ok(files)
    }

    fn add(&mut self, named: &ManifestRef, contents: &ChunkFiles) {
        self.text.push_str(&format!("files of {named} in them\n"));
        for (chunk, contents) in contents.chunks.iter().take(NAMED) {
            self.text.push_str(&format!("  chunk {}, {}\n", chunk.0, contents_text(contents)));
        }
        if contents.chunks.len() > NAMED {
            self.text.push_str(&format!("  and {} more chunks\n", contents.chunks.len() - NAMED));
        }
        self.text.push_str(&unreadable_text(contents.unreadable));
        self.json.push(json!({
            "manifest": named.to_string(), "chunks": contents.chunks.iter().map(contents_json).collect::<Vec<_>>(),
            "unreadable": contents.unreadable,
        }));
    }
}

/// A store without a manifest is most likely the wrong one, and a scrub of nothing proves nothing.
fn no_manifest(url: &StoreUrl, root: &RootId) -> Error {
    let message = format!("store {url}: there is no block manifest under {}/", ObjectName::manifests(root));
    Error::new(ErrorKind::NotFound, message)
        .with_hint("check the prefix of the store's URL and --root; for a store without any image, give --allow-empty")
}

/// An object under a manifest's name that is no manifest that can be read.
struct BadManifest {
    object: ObjectName,
    reason: String,
}

impl BadManifest {
    fn json(&self) -> serde_json::Value {
        json!({ "object": self.object.as_str(), "reason": self.reason })
    }
}

/// What was deleted of what is damaged.
#[derive(Default)]
struct Deleted {
    chunks: usize,
    manifests: usize,
    /// Why others could not be.
    failed: Vec<String>,
}

impl Deleted {
    /// How many objects a deletion deleted. What stands in its way, such as a directory under the name, is noted.
    fn try_to(&mut self, deletion: Result<(), Error>) -> Result<usize, Error> {
        match deletion {
            Ok(()) => Ok(1),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.failed.push(error.chain());
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }
}

fn name_all(clear: &Clear, names: &mut Vec<(RootId, Sha256)>) {
    names.extend(clear.names.iter().map(|name| (clear.root.clone(), *name)));
}

/// Adds the chunks of the manifests `objects` of a root, and returns the objects that are none: anyone with upload permission can create them.
fn name_all_stored(
    collect: &dyn Collect,
    root: &RootId,
    objects: Vec<ObjectName>,
    names: &mut Vec<(RootId, Sha256)>,
) -> Result<Vec<BadManifest>, Error> {
    let mut bad = Vec::new();
    for object in objects {
        let read = || stored_manifest::read_clear(collect.get(), root, &object);
        // A byte may change on its way; what is bad is so twice.
        let read = match read() {
            Err(error) if error.kind() == ErrorKind::Corrupt => read(),
            read => read,
        };
        match read {
            Ok(clear) => name_all(&clear, names),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => bad.push(BadManifest { object, reason: error.chain() }),
        }
    }
    Ok(bad)
}

fn digest_of(objects: &[(RootId, Sha256)]) -> Sha256 {
    let mut digest = Sha256Hasher::new();
    for (root, name) in objects {
        digest.update(format!("{root}/{}\n", name.to_hex()).as_bytes());
    }
    digest.finish()
}

#[expect(clippy::disallowed_methods, reason = "another sample each time")]
fn seed_of_the_day() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

/// The file that is written again and again, and removed at the end: a regular one, links resolved.
fn note_file(path: &Path) -> Result<PathBuf, Failure> {
    match Destination::of(path)? {
        Destination::File(path) => Ok(path),
        _ => Err(Failure::Usage(format!("--resume: {} is not a regular file", path.display()))),
    }
}

fn read_note(path: &Path) -> Result<Option<Note>, Error> {
    let fail = |error| Error::file(path, error);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error)),
    };
    let mut text = String::new();
    file.take(MAX_NOTE).read_to_string(&mut text).map_err(fail)?;
    let broken =
        |error| Error::caused(ErrorKind::Input, format!("{}: not a progress file of scrub", path.display()), error);
    serde_json::from_str(&text).map(Some).map_err(broken)
}

fn write_note(path: &Path, note: &Note) -> Result<(), Error> {
    let text = serde_json::to_vec(note).expect("a note is plain data");
    write_whole(path, |mut file| file.write_all(&text).map_err(|error| Error::file(path, error)))
}

/// Deletes what still is damaged. A note may be days old, and chunks were put again since. What cannot be deleted, such as a directory
/// under a chunk's name, is reported, and the rest is deleted all the same.
fn delete(
    args: &ScrubArgs,
    collect: &dyn Collect,
    plan: &Plan,
    found: &Scrubbed,
    bad: &[BadManifest],
) -> Result<Deleted, Error> {
    let mut deleted = Deleted::default();
    for (root, name) in &plan.objects {
        let object = ObjectName::chunk(root, *name);
        if found.damaged.iter().any(|damaged| damaged == object.as_str()) && is_damaged(collect.get(), &object, *name)?
        {
            deleted.chunks += deleted.try_to(collect.delete(&object))?;
        }
    }
    for BadManifest { object, .. } in bad {
        if stored_manifest::is_damaged(collect.get(), &args.root, object)? {
            deleted.manifests += deleted.try_to(collect.delete(object))?;
        }
    }
    Ok(deleted)
}

fn text(found: &Scrubbed, files: &BadFiles, bad: &[BadManifest], deleted: &Deleted, sample: Sample) -> String {
    let part = if sample.share == Sample::WHOLE.share {
        String::new()
    } else {
        format!(", a sample with --seed {}", sample.seed)
    };
    let good = found.checked - found.missing.len() - found.damaged.len();
    let mut text =
        format!("{good} of {} chunks are present and undamaged ({}{part})\n", found.checked, show(found.bytes));
    let reasons: Vec<String> = bad.iter().map(|manifest| manifest.reason.clone()).collect();
    let lists = [
        ("missing or access denied", &found.missing),
        ("damaged", &found.damaged),
        ("bad manifest", &reasons),
        ("cannot be deleted", &deleted.failed),
    ];
    for (word, lines) in lists {
        text.extend(lines.iter().take(NAMED).map(|line| format!("  {word}: {line}\n")));
        if lines.len() > NAMED {
            text.push_str(&format!("  and {} more {word}\n", lines.len() - NAMED));
        }
    }
    text.push_str(&files.text);
    if deleted.chunks > 0 {
        text.push_str(&format!(
            "  {} damaged chunks were deleted; `coldpress convert IMAGE --heal MANIFEST` uploads them again\n",
            deleted.chunks
        ));
    }
    if deleted.manifests > 0 {
        text.push_str(&format!("  {} bad manifests were deleted\n", deleted.manifests));
    }
    text
}

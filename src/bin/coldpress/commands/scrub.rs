//! `coldpress scrub`.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use coldpress::digest::{Sha256, Sha256Hasher};
use coldpress::inspect::scrub::{Plan, Sample, Scrubbed, is_damaged, scrub};
use coldpress::manifest::Clear;
use coldpress::output_file::Destination;
use coldpress::read::stored_manifest;
use coldpress::store::{Collect, ObjectName, RootId, StoreUrl, open_collect, open_get};
use coldpress::{Error, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::args::{Cli, ScrubArgs};
use crate::output;
use crate::shared::failure::{CommandResult, Failure};
use crate::shared::files::write_whole;
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
    let message = "no store: give --store or set COLDPRESS_STORE";
    let url = args.store.named()?.ok_or_else(|| Failure::Usage(message.to_owned()))?;
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
    for manifest in &args.manifests {
        name_all(&read_manifest(manifest, &args.registry, None)?.clear, &mut names);
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
            let message = "--resume: the note is of other manifests or another sample; give those, or remove it";
            return Err(Failure::Usage(message.to_owned()));
        }
    };
    let plan = Plan { objects, rate: args.rate.map(|rate| rate.0.max(1)), threads: args.threads.threads() };
    let mut note = |scrubbed: &Scrubbed| match &resume {
        Some(path) => write_note(path, &Note { objects: digest.to_string(), sample, scrubbed: scrubbed.clone() }),
        None => Ok(()),
    };
    let found = scrub(&plan, store, so_far, &*output::progress(cli), &mut note)?;
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
        "deleted": deleted.chunks, "deleted_manifests": deleted.manifests, "not_deleted": deleted.failed,
        "seed": sample.seed, "scrubbed": clean,
    });
    output::result(cli, &text(&found, &bad, &deleted, sample), &json)?;
    if clean {
        return Ok(());
    }
    let manifests = match bad.len() {
        0 => String::new(),
        bad => format!("; manifests that cannot be read: {bad}"),
    };
    let (missing, damaged) = (found.missing.len(), found.damaged.len());
    let message = format!("store {url}: {missing} chunks are missing and {damaged} damaged{manifests}");
    Err(Error::new(ErrorKind::Difference, message).into())
}

/// A store without a manifest is most likely named wrongly, and a scrub of nothing proves nothing.
fn no_manifest(url: &StoreUrl, root: &RootId) -> Error {
    let message = format!("store {url}: no block manifest is under {}/", ObjectName::manifests(root));
    Error::new(ErrorKind::NotFound, message).with_hint(
        "check the store's URL with its prefix, and --root; where nothing was converted to it yet, give --allow-empty",
    )
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
    let broken = |error| Error::caused(ErrorKind::Input, format!("{}: not a note of scrub", path.display()), error);
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

fn text(found: &Scrubbed, bad: &[BadManifest], deleted: &Deleted, sample: Sample) -> String {
    let part = if sample.share == Sample::WHOLE.share {
        String::new()
    } else {
        format!(", a sample with --seed {}", sample.seed)
    };
    let good = found.checked - found.missing.len() - found.damaged.len();
    let mut text = format!("{good} of {} chunks are there and true ({}{part})\n", found.checked, show(found.bytes));
    let reasons: Vec<String> = bad.iter().map(|manifest| manifest.reason.clone()).collect();
    let lists = [
        ("missing or refused", &found.missing),
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
    if deleted.chunks > 0 {
        text.push_str(&format!(
            "  {} damaged chunks were deleted; `coldpress convert --heal` puts them again\n",
            deleted.chunks
        ));
    }
    if deleted.manifests > 0 {
        text.push_str(&format!("  {} bad manifests were deleted\n", deleted.manifests));
    }
    text
}

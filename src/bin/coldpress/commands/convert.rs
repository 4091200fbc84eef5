//! `coldpress convert`.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use coldpress::conversion_cache::Cache;
use coldpress::convert::publish::Publication;
use coldpress::convert::{Converted, Counts, Options, Target, convert};
use coldpress::crypto::Salt;
use coldpress::digest::Sha256;
use coldpress::fs::ext4::layout::EPOCH;
use coldpress::keys::KeyWrap;
use coldpress::manifest::{BlockManifest, Clear, OpenManifest};
use coldpress::output_file::Destination;
use coldpress::printable::is_escaped;
use coldpress::read::diff::Diff;
use coldpress::registry::RegistryRef;
use coldpress::registry::artifact::About;
use coldpress::source::Platform;
use coldpress::store::{Known, KnownPuts, LimitedStore, ObjectName, Planned, PutIfAbsent, PutOutcome, StoreUrl};
use coldpress::{Error, ErrorKind, source};
use serde_json::json;

use super::report::{self, Report, file_part};
use crate::args::{Cli, ConvertArgs, LimitArgs, ThreadArgs};
use crate::clock::Started;
use crate::output;
use crate::sealing::{known_puts, require_store};
use crate::shared::failure::{self, CommandResult, Failure};
use crate::shared::manifests::ManifestRef;
use crate::size::show;
use crate::sources::{access, check_logins, read_manifest_for, registries};

/// The longest application name; it is in every manifest and every request to a key service.
const MAX_APPLICATION: usize = 256;

/// Chunks that a longer conversion saw stored may be gone when its manifest is there (docs/how-to/delete-old-images.md).
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

pub fn run(cli: &Cli, args: &ConvertArgs) -> CommandResult {
    let named = registries([&args.image], args.base.iter().chain(&args.heal));
    check_logins(&args.registry, named.into_iter().chain(&args.push))?;
    if let Some(path) = &args.heal {
        return heal(cli, args, path);
    }
    let (started, began) = (Started::now(), Instant::now());
    // A plan writes no manifest, so it needs no wrapping key.
    let key = match args.dry_run {
        true => args.key.find()?,
        false => Some(args.key.require()?),
    };
    let key = key.as_deref();
    let salt = args.salt.salt(key, &args.key.kms)?;
    if args.application.len() > MAX_APPLICATION {
        return Err(Failure::Usage(format!("--application: longer than {MAX_APPLICATION} bytes")));
    }
    if args.application.chars().any(is_escaped) {
        return Err(Failure::Usage("--application: has control or invisible characters".to_owned()));
    }
    let manifest_path = args.output.as_deref().map(output::named);
    if args.all_platforms
        && manifest_path.is_some_and(|path| Destination::of(path).is_ok_and(|there| there.is_stdout()))
    {
        return Err(Failure::Usage(
            "--all-platforms: several manifests cannot be written to standard output; give a file name".to_owned(),
        ));
    }
    for path in [manifest_path, args.summary.as_deref(), args.outputs.as_deref()].into_iter().flatten() {
        output::check(path)?;
    }
    let message = "no store: give --store or set COLDPRESS_STORE; --dry-run only counts chunks and needs none";
    let url = args.store.store.clone();
    let named = |base| open_base(args, base, key, &salt, url.as_ref());
    let Base { names: base, manifest: base_manifest } = args.base.as_ref().map(named).transpose()?.unwrap_or_default();
    if args.max_new_bytes.is_some() && url.is_none() && args.base.is_none() {
        let message = "--max-new-bytes needs --store or --base MANIFEST to know which chunks are new";
        return Err(Failure::Usage(message.to_owned()));
    }
    if url.is_none() && !args.dry_run {
        return Err(Failure::Usage(message.to_owned()));
    }
    let progress = output::progress(cli);
    let cache = args.put.cache(&salt, &*progress)?;
    // Before any work: a key or a store that refuses is reported now.
    if let Some(key) = key.filter(|_| url.is_some() && !args.dry_run) {
        key.check(&args.application)?;
    }
    let open = |url| {
        let known = known_puts(&args.store, url, &args.root, &salt, cache.as_ref())?;
        open_store(args, url, known, &base)
    };
    let opened = url.as_ref().filter(|url| !is_new_directory(url)).map(open).transpose()?;
    if let Some(warning) = opened.as_ref().and_then(|store| store.warning()) {
        progress.warn(&warning);
    }
    let mut options = Options {
        codec: args.compression,
        free: args.free.0,
        threads: args.threads.threads(),
        temp: args.threads.temp(),
        max_size: args.limits.max_size.map(|size| size.0),
        max_entries: args.limits.max_entries,
        root: args.root.clone(),
        application: args.application.clone(),
        store_hint: String::new(),
    };
    let access = access(&args.registry)?;
    let images = match args.all_platforms {
        true => source::open_all(&args.image, &access, options.limits(&*progress))?,
        false => vec![source::open(&args.image, args.platform.as_ref(), &access, options.limits(&*progress))?],
    };
    // A directory is made for an image that is there, not for one whose name is wrong.
    let store = match opened {
        None => url.as_ref().map(open).transpose()?,
        opened => opened,
    };
    // A plan uploads nothing.
    let limit = args.max_new_bytes.map(|size| size.0).filter(|_| !args.dry_run);
    let store = store.zip(url.as_ref()).map(|(store, url)| LimitedStore::new(store, url, limit));
    options.store_hint = url.as_ref().map(hint).unwrap_or_default();
    let mut reports = Vec::new();
    for image in &images {
        let began = if reports.is_empty() { began } else { Instant::now() };
        image.warnings.iter().for_each(|warning| progress.warn(warning));
        let platform = if args.all_platforms { image.config.platform.as_ref() } else { args.platform.as_ref() };
        let path = manifest_path.map(|path| output_for(args, path, platform));
        let convert_one = || -> Result<Report<'_>, Failure> {
            let publication = match &args.push {
                Some(to) if !args.dry_run => Some(prepare_push(args, to, image, platform)?),
                _ => None,
            };
            let target = Target { store: store.as_ref().map(|store| store as &dyn PutIfAbsent), cache: cache.as_ref() };
            let converted = convert(image, &salt, &options, target, &*progress)?;
            let mut artifact = None;
            // Beyond the limit, chunks were only counted, and no manifest may name them.
            let uploaded = store.as_ref().and_then(LimitedStore::exceeded);
            if let (Some(store), Some(key), false, None) = (&store, key, args.dry_run, uploaded) {
                let publish = Publish { key, store, publication: publication.as_ref(), started };
                artifact = publish.run(&converted, path.as_deref())?;
            }
            let seconds = began.elapsed().as_secs_f64();
            let output = if args.all_platforms { path.clone() } else { args.output.clone() };
            let causes = base_manifest.as_ref().map(|base| Diff::of(base, &converted.manifest).causes());
            let created_by = image.whole_config()?.created_by.clone();
            let written = !args.dry_run && uploaded.is_none();
            let store = url.as_ref();
            Ok(Report {
                args,
                converted,
                base: &base,
                store,
                output,
                written,
                uploaded,
                causes,
                created_by,
                artifact,
                seconds,
            })
        };
        reports.push(convert_one().map_err(|failure| match (failure, platform) {
            (Failure::Error(error), Some(platform)) if args.all_platforms => error.within(platform).into(),
            (failure, _) => failure,
        })?);
    }
    if let Some(error) = cache.as_ref().and_then(Cache::failure) {
        progress.warn(&format!("cannot write to the cache: {}; continuing without it", error.chain()));
    }
    let new = reports.iter().filter_map(Report::new_chunks).map(|(_, bytes)| bytes).sum::<u64>();
    let over = args.max_new_bytes.filter(|limit| new > limit.0).map(|limit| limit_exceeded(args, new, limit.0));
    print_reports(cli, args, &reports, manifest_path, over.as_ref())?;
    over.map_or(Ok(()), |error| Err(error.into()))
}

/// Prints the results, with the limit that they exceed, and appends them to the files that were asked for.
fn print_reports(
    cli: &Cli,
    args: &ConvertArgs,
    reports: &[Report<'_>],
    path: Option<&Path>,
    over: Option<&Error>,
) -> CommandResult {
    if let Some(path) = &args.summary {
        output::append(path, &reports.iter().map(Report::markdown).collect::<String>())?;
    }
    if let Some(path) = &args.outputs {
        output::append(path, &reports.iter().map(Report::key_values).collect::<String>())?;
    }
    let text = reports.iter().map(Report::text).collect::<String>();
    let mut json = match reports {
        [report] if !args.all_platforms => report.json(),
        reports => json!({ "platforms": reports.iter().map(Report::json).collect::<Vec<_>>() }),
    };
    if let Some(error) = over {
        json["error"] = failure::json(error);
        json["error"]["limit"] = report::limit_json(args, reports);
    }
    match path.map(Destination::of).transpose()? {
        Some(destination) if !args.dry_run => Ok(output::result_beside(cli, &destination, &text, &json)?),
        _ => Ok(output::result(cli, &text, &json)?),
    }
}

/// Where the manifest for `platform` is written: with --all-platforms, `app.cpm` becomes `app.linux-arm64-v8.cpm`.
fn output_for(args: &ConvertArgs, path: &Path, platform: Option<&Platform>) -> PathBuf {
    let Some(platform) = platform.filter(|_| args.all_platforms) else { return path.to_owned() };
    let text = |part: Option<&OsStr>| part.unwrap_or_default().to_string_lossy().into_owned();
    let (stem, extension) = (text(path.file_stem()), text(path.extension()));
    let extension = if extension.is_empty() { extension } else { format!(".{extension}") };
    path.with_file_name(format!("{stem}.{}{extension}", file_part(platform)))
}

/// Prepares --push; with several platforms, each manifest goes beside its image, and none can have a tag of its own.
fn prepare_push(
    args: &ConvertArgs,
    to: &RegistryRef,
    image: &source::Image,
    platform: Option<&Platform>,
) -> Result<Publication, Failure> {
    let publication = Publication::prepare(to, image, platform, &args.registry.settings()?)?;
    if args.all_platforms && publication.has_own_tag() {
        let message = format!(
            "--push {to}: with --all-platforms the tag must name the image, or be left out: several block manifests cannot share one"
        );
        return Err(Failure::Usage(message));
    }
    Ok(publication)
}

/// Returns the error of --max-new-bytes, with the next step.
fn limit_exceeded(args: &ConvertArgs, new: u64, limit: u64) -> Error {
    let message = format!(
        "{}: {} of chunks are new, more than the {} that --max-new-bytes allows",
        args.image,
        show(new),
        show(limit)
    );
    let hint = match &args.base {
        Some(base) => format!(
            "the report lists the layers that need them; `coldpress diff {base} NEW` after a conversion without the limit names files"
        ),
        None => "the report lists the layers that need them; --base MANIFEST also says what made chunks new".to_owned(),
    };
    Error::new(ErrorKind::Difference, message).with_hint(hint)
}

/// An earlier manifest, whose chunks are stored.
#[derive(Default)]
struct Base {
    names: BTreeSet<Sha256>,
    /// `None` where the key is a service's, or does not open it.
    manifest: Option<OpenManifest>,
}

/// The chunks that `base` names, if it speaks for the same root, scope and, as far as the key tells, store.
fn open_base(
    args: &ConvertArgs,
    base: &ManifestRef,
    key: Option<&dyn KeyWrap>,
    salt: &Salt,
    url: Option<&StoreUrl>,
) -> Result<Base, Failure> {
    let manifest = read_manifest_for(args.platform.as_ref(), base, &args.registry, None)?;
    // A key of a service is not asked: who converts need not be allowed to open.
    let open = key.filter(|key| key.salt().is_some()).and_then(|key| manifest.clone().open(key).ok());
    if let (Some(url @ StoreUrl::Bucket(_)), Some(open)) = (url, &open) {
        let (there, here) = (&open.sealed.store, hint(url));
        if *there != here {
            let message = format!("--base {base}: its chunks are in {there}, those of this conversion go to {here}");
            return Err(Error::new(ErrorKind::Input, message).into());
        }
    }
    let clear = manifest.clear;
    if clear.root != args.root || clear.scope != salt.scope() {
        let message = format!(
            "--base {base}: its chunks have root {} and deduplication scope {}, those of this conversion have root {} and scope {}",
            clear.root,
            clear.scope,
            args.root,
            salt.scope()
        );
        return Err(Error::new(ErrorKind::Input, message).into());
    }
    Ok(Base { names: clear.names.into_iter().collect(), manifest: open })
}

/// The write-only half of the store, once it said that it would take chunks; for a plan, only what is known of it.
fn open_store<'a>(
    args: &ConvertArgs,
    url: &StoreUrl,
    known: Option<Known<'a>>,
    base: &BTreeSet<Sha256>,
) -> Result<Box<dyn PutIfAbsent + 'a>, Failure> {
    let store: Box<dyn PutIfAbsent> =
        if args.dry_run { Box::new(Planned::new(url)) } else { args.put.open(&args.store, url, &args.root)? };
    Ok(match url {
        StoreUrl::Bucket(_) => Box::new(KnownPuts::new(store, known, base.clone())),
        // It is looked at.
        StoreUrl::Directory(_) => store,
    })
}

/// Re-uploads the chunks of the manifest `named` that are missing from the store.
fn heal(cli: &Cli, args: &ConvertArgs, named: &ManifestRef) -> CommandResult {
    let manifest = read_manifest_for(args.platform.as_ref(), named, &args.registry, None)?;
    // Chunks are encrypted under the salt alone, and the manifest is uploaded as it is.
    let salt = args.salt.salt(args.key.find()?.as_deref(), &args.key.kms)?;
    let (options, platform) = options_of(&manifest.clear, &salt, &args.threads, args.limits)?;
    let url = require_store(&args.store)?;
    let progress = output::progress(cli);
    // A store that lost something is not what a note says of it.
    let open = || args.put.open_repair(&args.store, &url, &options.root);
    let opened = (!is_new_directory(&url)).then(open).transpose()?;
    let image = source::open(&args.image, platform.as_ref(), &access(&args.registry)?, options.limits(&*progress))?;
    let store = opened.map_or_else(open, Ok)?;
    let target = Target { store: Some(&*store), cache: None };
    let converted = convert(&image, &salt, &options, target, &*progress)?;
    let (wanted, found) = (manifest.clear.root_digest, converted.manifest.clear.root_digest);
    if wanted != found {
        let message = format!("{named}: its root digest is {wanted}, but {} converts to {found}", args.image);
        return Err(Error::new(ErrorKind::Difference, message).into());
    }
    // Also makes the chunks durable, which it names.
    let bytes = manifest.encode();
    let outcome = store.put_if_absent(&ObjectName::manifest(&manifest.clear.root, Sha256::of(&bytes)), &bytes)?;
    let put_manifest = outcome == PutOutcome::Stored;
    let Counts { put_chunks, put_bytes, claimed_chunks, .. } = converted.counts;
    let text = format!(
        "{named}: {put_chunks} chunks ({}){} were missing or damaged in {url} and were uploaded again; {claimed_chunks} were present\n",
        show(put_bytes),
        if put_manifest { " and the manifest" } else { "" }
    );
    let json = json!({
        "manifest": named.to_string(), "root_digest": wanted, "put_chunks": put_chunks, "put_bytes": put_bytes,
        "claimed_chunks": claimed_chunks, "put_manifest": put_manifest,
    });
    Ok(output::result(cli, &text, &json)?)
}

/// With which options the image of a manifest is converted again, and for which platform.
pub fn options_of(
    clear: &Clear,
    salt: &Salt,
    threads: &ThreadArgs,
    limits: LimitArgs,
) -> Result<(Options, Option<Platform>), Failure> {
    if salt.scope() != clear.scope {
        let message =
            format!("the manifest has deduplication scope {}, the given salt has {}", clear.scope, salt.scope());
        return Err(Error::new(ErrorKind::Denied, message).into());
    }
    let recipe = &clear.recipe;
    if recipe.epoch != EPOCH {
        let message = format!("the manifest has layout epoch {}; this program writes {EPOCH}", recipe.epoch);
        return Err(Error::new(ErrorKind::Unsupported, message).into());
    }
    let platform = Some(recipe.platform.as_str()).filter(|platform| !platform.is_empty());
    let platform = platform
        .map(str::parse)
        .transpose()
        .map_err(|error| Error::caused(ErrorKind::Corrupt, "the manifest's platform", error))?;
    let options = Options {
        codec: recipe.codec,
        free: recipe.free,
        threads: threads.threads(),
        temp: threads.temp(),
        max_size: limits.max_size.map(|size| size.0),
        max_entries: limits.max_entries,
        root: clear.root.clone(),
        application: clear.application.clone(),
        store_hint: String::new(),
    };
    Ok((options, platform))
}

/// Whether opening the store would create a directory.
fn is_new_directory(url: &StoreUrl) -> bool {
    matches!(url, StoreUrl::Directory(path) if !path.exists())
}

/// How a reader finds the store.
fn hint(url: &StoreUrl) -> String {
    let hint = match url {
        StoreUrl::Directory(path) => path.canonicalize().ok().and_then(|path| path.into_os_string().into_string().ok()),
        StoreUrl::Bucket(url) => Some(url.to_string()),
    };
    // A path that a manifest cannot say is no hint.
    let sayable = |hint: &String| hint.len() <= usize::from(u16::MAX) && !hint.chars().any(is_escaped);
    hint.filter(sayable).unwrap_or_default()
}

/// How a manifest is published: in the store, then beside the image in its registry, then as a file. The last thing that a conversion does.
struct Publish<'a> {
    key: &'a dyn KeyWrap,
    store: &'a dyn PutIfAbsent,
    publication: Option<&'a Publication>,
    started: Started,
}

impl Publish<'_> {
    /// Publishes the manifest of `converted`; the digest that the registry has it under.
    fn run(&self, converted: &Converted, path: Option<&Path>) -> Result<Option<Sha256>, Error> {
        let clear = &converted.manifest.clear;
        // A manifest never names a chunk that is missing.
        let lengths: BTreeMap<Sha256, u32> =
            converted.manifest.sealed.chunks.iter().map(|chunk| (chunk.name, chunk.stored)).collect();
        lengths.iter().try_for_each(|(name, length)| {
            self.store.still_there(&ObjectName::chunk(&clear.root, *name), u64::from(*length))
        })?;
        let bytes = converted.manifest.encode(self.key)?;
        let object = ObjectName::manifest(&clear.root, Sha256::of(&bytes));
        put_in_time(self.store, &object, &bytes, || self.started.elapsed())?;
        let push = |publication: &Publication| {
            let identity = BlockManifest::decode(&bytes)?.identity();
            let about = About { root_digest: clear.root_digest, scope: clear.scope.to_string(), identity };
            publication.push(&bytes, &about)
        };
        let artifact = self.publication.map(push).transpose()?;
        if let Some(path) = path {
            output::write_manifest(path, &bytes)?;
        }
        Ok(artifact)
    }
}

/// Puts a manifest, and fails unless it was there within [`LONGEST`]: the time until then counts, the upload included.
fn put_in_time(
    store: &dyn PutIfAbsent,
    object: &ObjectName,
    bytes: &[u8],
    elapsed: impl Fn() -> Duration,
) -> Result<(), Error> {
    store.put_if_absent(object, bytes)?;
    let took = elapsed();
    if took > LONGEST {
        let message = format!(
            "the conversion took {} hours until its manifest was uploaded, at most 24 are allowed: chunks that were stored at its start may have \
             been collected meanwhile; run it again ({object} stays in the store and may be deleted)",
            took.as_secs() / 3600
        );
        return Err(Error::new(ErrorKind::Unavailable, message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    /// Takes everything, and notes that it did.
    #[derive(Default)]
    struct Taken(AtomicBool);

    impl PutIfAbsent for Taken {
        fn put_if_absent(&self, _: &ObjectName, _: &[u8]) -> Result<PutOutcome, Error> {
            self.0.store(true, Ordering::Relaxed);
            Ok(PutOutcome::Stored)
        }

        fn still_there(&self, _: &ObjectName, _: u64) -> Result<(), Error> {
            Ok(())
        }
    }

    #[test]
    fn the_time_until_the_manifest_was_uploaded_counts() {
        let object = ObjectName::manifest(&"main".parse().unwrap(), Sha256::of(b"m"));
        for (took, fits) in [(LONGEST, true), (LONGEST + Duration::from_secs(1), false)] {
            let store = Taken::default();
            // The upload is what took so long.
            let elapsed = || if store.0.load(Ordering::Relaxed) { took } else { Duration::ZERO };
            let put = put_in_time(&store, &object, b"m", elapsed);
            assert_eq!(put.map_err(|error| error.kind()).err(), (!fits).then_some(ErrorKind::Unavailable));
        }
    }
}

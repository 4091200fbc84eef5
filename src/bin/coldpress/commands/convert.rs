//! `coldpress convert`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use coldpress::convert::{Converted, Counts, Options, convert};
use coldpress::crypto::{KeyWrap, Salt};
use coldpress::digest::Sha256;
use coldpress::fs::ext4::layout::EPOCH;
use coldpress::manifest::Clear;
use coldpress::progress::Progress;
use coldpress::source::Platform;
use coldpress::store::{KnownPuts, ObjectName, PutIfAbsent, StoreUrl};
use coldpress::{Error, ErrorKind, source};
use serde_json::json;

use crate::args::{Cli, ConvertArgs, ThreadArgs};
use crate::output;
use crate::shared::failure::{CommandResult, Failure};
use crate::shared::keys::read_manifest;
use crate::size::{Size, show};

/// The longest application name; it is in every manifest and every request to a key service.
const MAX_APPLICATION: usize = 256;

/// Chunks that a longer conversion saw stored may be gone when it writes its manifest (docs/operations.md).
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

pub fn run(cli: &Cli, args: &ConvertArgs) -> CommandResult {
    if let Some(path) = &args.heal {
        return heal(cli, args, path);
    }
    let started = Instant::now();
    let key = args.key.require()?;
    let salt = args.salt.salt(&*key, &args.key.kms)?;
    if args.application.len() > MAX_APPLICATION {
        return Err(Failure::Usage(format!("--application: longer than {MAX_APPLICATION} bytes")));
    }
    if args.application.chars().any(char::is_control) {
        return Err(Failure::Usage("--application: has control characters".to_owned()));
    }
    if let Some(path) = &args.output {
        output::check_directory_of(path)?;
    }
    let known = args.against.as_deref().map(|path| read_manifest(path, None)).transpose()?;
    let known = known.map(|manifest| manifest.clear.names.into_iter().collect::<BTreeSet<_>>());
    let message = "no store: give --store or set COLDPRESS_STORE (or count only, with --dry-run)";
    let url = match args.dry_run {
        true => None,
        false => Some(args.store.named()?.ok_or_else(|| Failure::Usage(message.to_owned()))?),
    };
    let progress = output::progress(cli);
    // Before any work: who may not wrap or put shall hear it now.
    let store = url.as_ref().map(|url| open_store(args, url, &*key, &salt, &*progress)).transpose()?;
    if let Some(warning) = store.as_ref().and_then(|store| store.warning()) {
        progress.warn(&warning);
    }
    let options = Options {
        codec: args.compression,
        free: args.free.0,
        threads: args.threads.threads(),
        temp: args.threads.temp(),
        max_size: args.max_size.map(|size| size.0),
        root: args.root.clone(),
        application: args.application.clone(),
        store_hint: url.as_ref().map(hint).unwrap_or_default(),
    };
    let image = source::open(&args.image, args.platform.as_ref(), options.limits())?;
    let converted = convert(&image, &salt, &options, store.as_deref(), &*progress)?;
    if let (Some(store), Some(path)) = (&store, &args.output) {
        if started.elapsed() > LONGEST {
            let message =
                "the conversion took over 24 hours: chunks that it saw stored may have been collected; run it again";
            return Err(Error::new(ErrorKind::Unavailable, message).into());
        }
        publish(&converted, &*key, &**store, path)?;
    }
    let report = Report { args, converted: &converted, known: known.as_ref(), started };
    Ok(output::result(cli, &report.text(), &report.json())?)
}

/// The putting half of the store, once it and the key said that they would serve.
fn open_store(
    args: &ConvertArgs,
    url: &StoreUrl,
    key: &dyn KeyWrap,
    salt: &Salt,
    progress: &dyn Progress,
) -> Result<Box<dyn PutIfAbsent>, Failure> {
    key.check(&args.application)?;
    let store = args.put.open(&args.store, url, &args.root)?;
    Ok(match args.put.known(&args.store, url, &args.root, salt, progress)? {
        Some(known) => Box::new(KnownPuts::new(store, known)),
        None => store,
    })
}

/// Puts again what the store lost of the image of the manifest `path`.
fn heal(cli: &Cli, args: &ConvertArgs, path: &Path) -> CommandResult {
    let manifest = read_manifest(path, None)?;
    let key = args.key.require()?;
    let salt = args.salt.salt(&*key, &args.key.kms)?;
    let (options, platform) = options_of(&manifest.clear, &salt, &args.threads, args.max_size)?;
    let message = "no store: give --store or set COLDPRESS_STORE";
    let url = args.store.named()?.ok_or_else(|| Failure::Usage(message.to_owned()))?;
    let progress = output::progress(cli);
    // A store that lost something is not what a note says of it.
    let store = args.put.open(&args.store, &url, &options.root)?;
    let image = source::open(&args.image, platform.as_ref(), options.limits())?;
    let converted = convert(&image, &salt, &options, Some(&*store), &*progress)?;
    let (wanted, found) = (manifest.clear.root_digest, converted.manifest.clear.root_digest);
    if wanted != found {
        let message = format!("{}: its root digest is {wanted}, but {} gives {found}", path.display(), args.image);
        return Err(Error::new(ErrorKind::Difference, message).into());
    }
    let Counts { put_chunks, put_bytes, claimed_chunks, .. } = converted.counts;
    let text = format!(
        "{}: {put_chunks} chunks ({}) were missing in {url} and are there again, {claimed_chunks} were there\n",
        path.display(),
        show(put_bytes)
    );
    let json = json!({
        "manifest": path, "root_digest": wanted, "put_chunks": put_chunks, "put_bytes": put_bytes, "claimed_chunks": claimed_chunks,
    });
    Ok(output::result(cli, &text, &json)?)
}

/// With which options the image of a manifest is converted again, and for which platform.
pub fn options_of(
    clear: &Clear,
    salt: &Salt,
    threads: &ThreadArgs,
    max_size: Option<Size>,
) -> Result<(Options, Option<Platform>), Failure> {
    if salt.scope() != clear.scope {
        let message = format!("the manifest is of dedup scope {}, the salt given makes {}", clear.scope, salt.scope());
        return Err(Error::new(ErrorKind::Denied, message).into());
    }
    let recipe = &clear.recipe;
    if recipe.epoch != EPOCH {
        let message = format!("the manifest is of layout epoch {}; this program writes {EPOCH}", recipe.epoch);
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
        max_size: max_size.map(|size| size.0),
        root: clear.root.clone(),
        application: clear.application.clone(),
        store_hint: String::new(),
    };
    Ok((options, platform))
}

/// How a reader finds the store.
fn hint(url: &StoreUrl) -> String {
    let hint = match url {
        StoreUrl::Directory(path) => path.canonicalize().ok().and_then(|path| path.into_os_string().into_string().ok()),
        StoreUrl::Bucket(url) => Some(url.to_string()),
    };
    // A path that a manifest cannot say is no hint.
    let sayable = |hint: &String| hint.len() <= usize::from(u16::MAX) && !hint.chars().any(char::is_control);
    hint.filter(sayable).unwrap_or_default()
}

/// Puts the manifest in the store and then writes it: the last things that a conversion does.
fn publish(converted: &Converted, key: &dyn KeyWrap, store: &dyn PutIfAbsent, path: &Path) -> Result<(), Error> {
    let clear = &converted.manifest.clear;
    // A manifest never names a chunk that is missing.
    clear.names.iter().try_for_each(|name| store.still_there(&ObjectName::chunk(&clear.root, *name)))?;
    let bytes = converted.manifest.encode(key)?;
    store.put_if_absent(&ObjectName::manifest(&clear.root, Sha256::of(&bytes)), &bytes)?;
    output::write_whole(path, |mut file| file.write_all(&bytes).map_err(|error| Error::file(path, error)))
}

struct Report<'a> {
    args: &'a ConvertArgs,
    converted: &'a Converted,
    known: Option<&'a BTreeSet<Sha256>>,
    started: Instant,
}

impl Report<'_> {
    /// Distinct chunks that are new and their bytes; `None` where nothing can tell.
    fn new_chunks(&self) -> Option<(u64, u64)> {
        let Counts { put_chunks, put_bytes, .. } = self.converted.counts;
        if !self.args.dry_run {
            return Some((put_chunks, put_bytes));
        }
        let known = self.known?;
        let fresh = self.converted.manifest.sealed.chunks.iter().filter(|chunk| !known.contains(&chunk.name));
        let fresh: BTreeSet<_> = fresh.map(|chunk| (chunk.name, chunk.stored)).collect();
        Some((fresh.len() as u64, fresh.iter().map(|(_, stored)| u64::from(*stored)).sum()))
    }

    fn json(&self) -> serde_json::Value {
        let (manifest, counts) = (&self.converted.manifest, &self.converted.counts);
        let new = self.new_chunks();
        json!({
            "manifest": self.args.output.as_ref().filter(|_| !self.args.dry_run),
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
            "seconds": self.started.elapsed().as_secs_f64(),
        })
    }

    fn text(&self) -> String {
        let (manifest, counts) = (&self.converted.manifest, &self.converted.counts);
        let target = match &self.args.output {
            Some(path) if !self.args.dry_run => path.display().to_string(),
            _ => "nothing written".to_owned(),
        };
        let new = match (self.new_chunks(), self.args.dry_run) {
            (Some((chunks, bytes)), false) => {
                let known = match counts.known_chunks {
                    0 => String::new(),
                    known => format!(", {known} were known to be"),
                };
                format!("{chunks} new chunks ({}), {} were there{known}", show(bytes), counts.claimed_chunks)
            }
            (Some((chunks, bytes)), true) => {
                format!("{chunks} new chunks ({}) against the manifest given", show(bytes))
            }
            (None, _) => "a converter cannot ask the store; compare with --against MANIFEST".to_owned(),
        };
        format!(
            "{} -> {target}\n  root digest   {}\n  image digest  {}\n  device        {}, {} layers\n  \
             chunks        {} of 512 KiB, {} distinct, and {} all zero\n  stored        {} ({})\n  new           {new}\n  time          {:.1} s\n",
            self.args.image,
            manifest.clear.root_digest,
            manifest.sealed.image_digest,
            show(manifest.device_bytes()),
            manifest.sealed.layers.len(),
            manifest.sealed.chunks.len(),
            manifest.clear.names.len(),
            counts.zero_chunks,
            show(counts.stored_bytes),
            manifest.clear.recipe.codec,
            self.started.elapsed().as_secs_f64(),
        )
    }
}

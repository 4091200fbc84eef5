//! `coldpress convert`.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use coldpress::convert::{Converted, Counts, Options, convert};
use coldpress::crypto::{KeyFile, Salt};
use coldpress::digest::Sha256;
use coldpress::store::{LocalPut, ObjectName, PutIfAbsent};
use coldpress::{Error, ErrorKind, source};
use serde_json::json;

use crate::args::{Cli, ConvertArgs};
use crate::output;
use crate::shared::failure::{CommandResult, Failure};
use crate::shared::keys::{named_store, read_manifest};
use crate::size::show;

/// The longest application name; it is in every manifest and every request to a key service.
const MAX_APPLICATION: usize = 256;

pub fn run(cli: &Cli, args: &ConvertArgs) -> CommandResult {
    let started = Instant::now();
    let key = args.key.require()?;
    let salt = salt_of(&key)?;
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
    let store = if args.dry_run { None } else { Some(open_store(args)?) };
    let (store, hint) = store.map_or((None, String::new()), |(store, hint)| (Some(store), hint));
    let options = Options {
        codec: args.compression,
        free: args.free.0,
        threads: args.threads.threads(),
        temp: args.threads.temp(),
        max_size: args.max_size.map(|size| size.0),
        root: args.root.clone(),
        application: args.application.clone(),
        store_hint: hint,
    };
    let progress = output::progress(cli);
    let image = source::open(&args.image, args.platform.as_ref(), options.limits())?;
    let put = store.as_ref().map(|store| store as &dyn PutIfAbsent);
    let converted = convert(&image, &salt, &options, put, &*progress)?;
    if let (Some(store), Some(path)) = (&store, &args.output) {
        publish(&converted, &key, store, path)?;
    }
    let report = Report { args, converted: &converted, known: known.as_ref(), started };
    Ok(output::result(cli, &report.text(), &report.json())?)
}

/// The salt of a converter's key file.
pub fn salt_of(key: &KeyFile) -> Result<Salt, Failure> {
    let message =
        "the key file has no salt, so it can only read; converting needs the one that `coldpress keygen` made";
    key.salt.clone().ok_or_else(|| Error::new(ErrorKind::Denied, message).into())
}

/// The putting half of the store, and how a reader on this host finds it.
fn open_store(args: &ConvertArgs) -> Result<(LocalPut, String), Failure> {
    let message = "no store: give --store DIR or set COLDPRESS_STORE (or count only, with --dry-run)";
    let directory = named_store(args.store.as_deref())?.ok_or_else(|| Failure::Usage(message.to_owned()))?;
    let store = LocalPut::open(&directory)?;
    let hint = directory.canonicalize().ok().and_then(|path: PathBuf| path.into_os_string().into_string().ok());
    // A path that a manifest cannot say is no hint.
    let sayable = |hint: &String| hint.len() <= usize::from(u16::MAX) && !hint.chars().any(char::is_control);
    Ok((store, hint.filter(sayable).unwrap_or_default()))
}

/// Puts the manifest in the store and then writes it: the last things that a conversion does.
fn publish(converted: &Converted, key: &KeyFile, store: &LocalPut, path: &Path) -> Result<(), Error> {
    let clear = &converted.manifest.clear;
    // A manifest never names a chunk that is missing.
    clear.names.iter().try_for_each(|name| store.still_there(&ObjectName::chunk(&clear.root, *name)))?;
    let bytes = converted.manifest.encode(&key.wrapping_key)?;
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
                format!("{chunks} new chunks ({}), {} were there", show(bytes), counts.claimed_chunks)
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

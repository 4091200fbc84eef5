//! `coldread bundle`: an image as an OCI runtime bundle, its root mounted for as long as this runs.
//!
//! All that the image says is checked before anything is made; `config.json` is written whole, when the mount stands.

use std::fs::DirBuilder;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use coldpress::bundle::{Image, Missing, encode, find_user, spec};
use coldpress::fs::ext4::read::Ext4;
use coldpress::output_file::{self, Options as OutputOptions};
use coldpress::read::ChunkDevice;
use coldpress::{Error, ErrorKind, Result};
use rustix::process::geteuid;

use super::events::say;
use super::mount::{Allowed, Place, Starting, Then, require_mounting};
use super::tell_fetched;
use crate::args::{BundleArgs, Cli};
use crate::run_state::{ImageRecord, Plan, RunDirectory};
use crate::sandbox::Collected;
use crate::shared::failure::{CommandResult, Failure};

pub fn run(cli: &Cli, args: &BundleArgs) -> CommandResult {
    args.container.check()?;
    if !args.container.no_mount {
        require_mounting()?;
    }
    let reading = args.reading.open(args.recording.record.is_some(), None)?;
    let device = Arc::new(reading.open(&args.source)?);
    let _metrics = reading.metrics_of(&args.source, &device, &args.directory.join("rootfs"))?;
    let (config, missing) = describe(&device, args)?;
    let mut made = Made::default();
    let directory = made.directory(&args.directory)?;
    check_private(&directory)?;
    let rootfs = made.directory(&directory.join("rootfs"))?;
    if args.container.no_mount {
        write(&directory, &config)?;
        made.keep();
        let directories = missing.directories.into_iter().map(|(path, _)| path);
        let absent: Vec<String> = directories.chain(missing.files).collect();
        if !absent.is_empty() {
            say(&format!(
                "the image has no {}: whatever is mounted at {} must have it",
                absent.join(", "),
                rootfs.display()
            ));
        }
        tell_fetched(cli, &device);
        return Ok(());
    }
    let plan = Plan {
        command: "bundle",
        images: vec![ImageRecord::of(&args.source, &device)],
        directory: Some(rootfs.clone()),
        bundle: Some(directory.clone()),
        ..Plan::default()
    };
    let starting = Starting::new(&RunDirectory::open()?, &plan)?;
    let place = Place {
        offered: args.writable.over(Arc::clone(&device) as _)?,
        directory: &rootfs,
        shown: &rootfs,
        threads: args.threads.threads,
        missing: &missing,
        // The bundle's own config.json forbids new privileges, and its /dev is the runtime's.
        allowed: Allowed::default(),
    };
    let ended = starting.stay(&place, |registration| {
        write(&directory, &config)?;
        made.keep();
        let mut collected = Collected::default();
        reading.collect(args.recording.record.as_deref(), &mut collected)?;
        collected.mounted(&place, registration);
        args.sandbox.enter(&collected, None, &reading.entered)?;
        reading.begin();
        let root = device.manifest().clear.root_digest;
        let shown = directory.display();
        Ok(Then::Stay(format!(
            "{root} is mounted at {shown}/rootfs; `runc run -b {shown} NAME` starts it; unmount it or press Ctrl-C"
        )))
    });
    tell_fetched(cli, &device);
    reading.write_record(&device, args.recording.record.as_deref())?;
    ended
}

/// Returns the text of its `config.json`, and what the runtime needs that the image does not have.
fn describe(device: &ChunkDevice, args: &BundleArgs) -> Result<(String, Missing), Failure> {
    let manifest = device.manifest();
    let fs = Ext4::open(device)?;
    let image = Image::decode(&manifest.sealed.config)?;
    let user = find_user(&image, args.container.user(), &fs)?;
    let mut options = args.container.options(&fs)?;
    options.arguments.clone_from(&args.arguments);
    options.writable = args.writable.is_writable();
    if options.hostname.is_empty() {
        // As long as docker's.
        manifest.clear.root_digest.to_hex()[..12].clone_into(&mut options.hostname);
    }
    let spec = spec(&image, &user, &options)?;
    let missing = Missing::find(&spec, &options, &fs)?;
    // A runtime makes what is missing in a root that it can write to.
    Ok((encode(&spec), if options.writable { Missing::default() } else { missing }))
}

fn write(directory: &Path, config: &str) -> Result<()> {
    // An environment can have secrets in it.
    let (path, options) = (directory.join("config.json"), OutputOptions { mode: 0o600, sync: false });
    output_file::write(&path, options, |mut file| {
        file.write_all(config.as_bytes()).map_err(|error| Error::file(&path, error))
    })
}

/// Refuses a bundle that other users can change, since a runtime starts what it says; reports one that they can read.
fn check_private(directory: &Path) -> Result<()> {
    let metadata = directory.metadata().map_err(|error| Error::file(directory, error))?;
    let (mode, shown) = (metadata.mode() & 0o7777, directory.display());
    if metadata.uid() != geteuid().as_raw() {
        let message = format!("{shown}: belongs to user {}, who can change config.json", metadata.uid());
        return Err(Error::new(ErrorKind::Denied, message));
    }
    if mode & 0o022 != 0 {
        let message =
            format!("{shown}: its mode is {mode:03o}, so others can change config.json; run: chmod 700 {shown}");
        return Err(Error::new(ErrorKind::Denied, message));
    }
    if mode & 0o055 != 0 {
        say(&format!(
            "{shown}: its mode is {mode:03o}: other users of this host can read the image's files; `chmod 700 {shown}` keeps \
             them out"
        ));
    }
    Ok(())
}

/// Directories made here, which go when this is dropped, unless they are kept.
#[derive(Default)]
struct Made(Vec<PathBuf>);

impl Made {
    /// `path`, made where it is not, as an absolute one.
    fn directory(&mut self, path: &Path) -> Result<PathBuf> {
        let fail = |error| Error::file(path, error);
        // The image's files are for this user alone until somebody decides otherwise.
        match DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => self.0.push(path.to_owned()),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            Err(error) => return Err(fail(error)),
        }
        path.canonicalize().map_err(fail)
    }

    fn keep(&mut self) {
        self.0.clear();
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // Only empty ones go.
        for path in self.0.iter().rev() {
            let _ = std::fs::remove_dir(path);
        }
    }
}

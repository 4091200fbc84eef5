//! What a container runtime starts: an OCI runtime configuration made of an image's config.
//!
//! The image's own words (program, environment, user, directory) come from the config that the block manifest carries, and names of users from
//! the image's files; both are outside bytes, and what Linux or a runtime could not take is refused here, by the field's name. All else is the
//! same for every image: docs/design.md, "Runtime bundles", says what, and why.
//! Who starts the container can replace the image's settings, and add mounts and limits.

mod image;
mod mounts;
mod spec;
mod user;

pub use image::Image;
pub use mounts::{ContainerMount, MountKind, scratch};
pub use spec::{CPU_PERIOD, Options, spec};
pub use user::User;

use oci_spec::runtime::Spec;
use serde_json::Value;

use crate::fs::ext4::read::{Ext4, FileType};
use crate::fs::path::components;
use crate::{Error, ErrorKind, Result};

/// What tells a program on the host's network the names of others.
const HOST_FILES: [&str; 2] = ["/etc/hosts", "/etc/resolv.conf"];
/// Largest file of users or groups that is read.
const MAX_NAMES: u64 = 4 << 20;

/// Returns the user that is `given`, else the one that the image's config names, by the image's own `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// `Input` where no such user or group is there; those of reading.
pub fn find_user(image: &Image, given: Option<&str>, fs: &Ext4<'_>) -> Result<User> {
    let [users, groups] = ["/etc/passwd", "/etc/group"].map(|path| names(fs, path));
    let (text, named_by) = match given {
        Some(given) => (given, "--user"),
        None => (image.user.as_deref().unwrap_or_default(), "image config"),
    };
    User::find(text, &users?, &groups?).map_err(|error| error.within(named_by))
}

/// Returns an absolute path without `.`, `..` and empty components, by its text alone.
#[must_use]
pub fn clean(path: &str) -> String {
    let names = components(path.as_bytes()).into_iter().map(String::from_utf8_lossy);
    format!("/{}", names.collect::<Vec<_>>().join("/"))
}

/// A file of names; empty where there is none.
fn names(fs: &Ext4<'_>, path: &str) -> Result<Vec<u8>> {
    let node = match fs.lookup(path.as_bytes(), true) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        found => found.map_err(|error| error.within("the image's users"))?,
    };
    if node.stat.size > MAX_NAMES {
        return Err(Error::new(ErrorKind::Input, format!("{path} of the image: larger than {MAX_NAMES} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(node.stat.size).expect("it is small")];
    fs.read(&node, 0, &mut bytes).map_err(|error| error.within(format!("{path} of the image")))?;
    Ok(bytes)
}

/// What a runtime mounts on or starts in, and is not in the image: paths from the root, without a slash in front.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// Directories, each with its mode.
    pub directories: Vec<(String, u32)>,
    /// Empty files.
    pub files: Vec<String>,
}

impl Missing {
    /// Returns what `spec`, which was made with `options`, needs and `fs` does not have.
    ///
    /// # Errors
    /// `Input` where something else stands there; those of reading.
    pub fn find(spec: &Spec, options: &Options, fs: &Ext4<'_>) -> Result<Self> {
        let points = || spec.mounts().iter().flatten().filter_map(|mount| mount.destination().to_str());
        let start = spec.process().as_ref().and_then(|process| process.cwd().to_str());
        // The runtime itself makes what is missing in a mount.
        let in_a_mount = |path: &&str| points().any(|point| is_below(path, point));
        let is_file = |path: &str| {
            options.host_files.contains(&path)
                || options.mounts.iter().any(|mount| mount.target == path && !mount.is_directory())
        };
        let (files, mut directories): (Vec<&str>, Vec<&str>) =
            points().filter(|path| !in_a_mount(path)).partition(|path| is_file(path));
        directories.extend(start.filter(|start| !in_a_mount(start) && !directories.contains(start)));
        // Some runtimes give a tmpfs the mode of the directory that it hides.
        let mode =
            |path: &str| options.mounts.iter().find(|mount| mount.target == path).map_or(0o755, ContainerMount::mode);
        let with_mode = |path: String| (path.clone(), mode(&format!("/{path}")));
        let directories = absent(&directories, FileType::Directory, fs)?.into_iter().map(with_mode).collect();
        Ok(Self { directories, files: absent(&files, FileType::File, fs)? })
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.files.is_empty()
    }
}

/// Returns whether `path` is in `directory`, or in a directory of it.
fn is_below(path: &str, directory: &str) -> bool {
    path.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
}

fn absent(paths: &[&str], wanted: FileType, fs: &Ext4<'_>) -> Result<Vec<String>> {
    let mut absent = Vec::new();
    for path in paths {
        match fs.lookup(path.as_bytes(), true) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                absent.push(clean(path).trim_start_matches('/').to_owned());
            }
            found => {
                let found = found.map_err(|error| error.within("what the container needs"))?.stat.file_type;
                if found != wanted {
                    let message =
                        format!("{path} of the image: a container needs a {}, not a {}", wanted.name(), found.name());
                    return Err(Error::new(ErrorKind::Input, message));
                }
            }
        }
    }
    Ok(absent)
}

/// Those of the host's files of names that a container on the host's network can have: what is a symlink in the image would lead elsewhere.
///
/// # Errors
/// Those of reading.
pub fn host_files(fs: &Ext4<'_>) -> Result<Vec<&'static str>> {
    let mut files = Vec::new();
    for path in HOST_FILES {
        match fs.lookup(path.as_bytes(), false) {
            Err(error) if error.kind() == ErrorKind::NotFound => files.push(path),
            found if found.as_ref().is_ok_and(|node| node.stat.file_type == FileType::File) => files.push(path),
            found => drop(found.map_err(|error| error.within("what the container needs"))?),
        }
    }
    Ok(files)
}

/// The text of a `config.json`: the same for the same specification.
#[must_use]
pub fn encode(spec: &Spec) -> String {
    let mut json = serde_json::to_value(spec).expect("its keys are texts");
    // Sets come in the order of the moment.
    if let Some(Value::Object(sets)) = json.pointer_mut("/process/capabilities") {
        for set in sets.values_mut().filter_map(Value::as_array_mut) {
            set.sort_by(|a, b| a.as_str().cmp(&b.as_str()));
        }
    }
    format!("{json:#}\n")
}

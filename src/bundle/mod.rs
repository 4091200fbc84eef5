//! What a container runtime starts: an OCI runtime configuration made of an image's config.
//!
//! The image's own words (program, environment, user, directory) come from the config that the block manifest carries, and names of users from
//! the image's files; both are outside bytes, and what Linux or a runtime could not take is refused here, by the field's name. All else is the
//! same for every image: docs/design.md, "Runtime bundles", says what, and why.

mod image;
mod spec;
mod user;

pub use image::Image;
pub use spec::{Options, spec};
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

/// The user that the image's config names, by the image's own `/etc/passwd` and `/etc/group`.
///
/// # Errors
/// `Input` where no such user or group is there; those of reading.
pub fn find_user(image: &Image, fs: &Ext4<'_>) -> Result<User> {
    let [users, groups] = ["/etc/passwd", "/etc/group"].map(|path| names(fs, path));
    User::find(image.user.as_deref().unwrap_or_default(), &users?, &groups?)
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
    /// Directories.
    pub directories: Vec<String>,
    /// Empty files.
    pub files: Vec<String>,
}

impl Missing {
    /// What `spec` needs and `fs` has not.
    ///
    /// # Errors
    /// `Input` where something else stands there; those of reading.
    pub fn find(spec: &Spec, fs: &Ext4<'_>) -> Result<Self> {
        let start = spec.process().as_ref().map(|process| process.cwd().to_string_lossy().into_owned());
        let wanted = ["/proc", "/dev", "/sys"].map(str::to_owned).into_iter().chain(start);
        let files = HOST_FILES.into_iter().filter(|path| is_bound(spec, path)).map(str::to_owned);
        Ok(Self { directories: absent(wanted, FileType::Directory, fs)?, files: absent(files, FileType::File, fs)? })
    }

    /// Whether nothing is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.files.is_empty()
    }
}

fn is_bound(spec: &Spec, path: &str) -> bool {
    spec.mounts().iter().flatten().any(|mount| mount.destination().to_str() == Some(path))
}

fn absent(paths: impl Iterator<Item = String>, wanted: FileType, fs: &Ext4<'_>) -> Result<Vec<String>> {
    let mut absent = Vec::new();
    for path in paths {
        match fs.lookup(path.as_bytes(), true) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let names = components(path.as_bytes()).into_iter().map(String::from_utf8_lossy);
                absent.push(names.collect::<Vec<_>>().join("/"));
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

//! What an entry of the run directory says about its process: `entry.json`, written once, before anything is made.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use coldpress::read::ChunkDevice;
use serde::{Deserialize, Serialize};

use super::kernel::{mount_namespace, start_time};
use crate::args::name_of;
use crate::shared::manifests::Source;

/// The version of `entry.json` that this program writes and reads.
pub const VERSION: u32 = 1;

/// A path; bytes where it is not UTF-8.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredPath", into = "StoredPath")]
pub struct RecordedPath(pub PathBuf);

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum StoredPath {
    Text(String),
    Bytes(Vec<u8>),
}

impl From<StoredPath> for RecordedPath {
    fn from(stored: StoredPath) -> Self {
        Self(match stored {
            StoredPath::Text(text) => PathBuf::from(text),
            StoredPath::Bytes(bytes) => PathBuf::from(OsString::from_vec(bytes)),
        })
    }
}

impl From<RecordedPath> for StoredPath {
    fn from(RecordedPath(path): RecordedPath) -> Self {
        match path.to_str() {
            Some(text) => Self::Text(text.to_owned()),
            None => Self::Bytes(path.as_os_str().as_bytes().to_vec()),
        }
    }
}

/// An image that a process reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageRecord {
    pub name: String,
    /// `sha256:HEX`.
    pub root_digest: String,
}

impl ImageRecord {
    /// Returns the record of the image that `device` reads, named after its manifest.
    pub fn of(source: &Source, device: &ChunkDevice) -> Self {
        Self::named(&name_of(&source.manifest.manifest).unwrap_or_default(), device)
    }

    /// Returns the record of the image that `device` reads.
    pub fn named(name: &str, device: &ChunkDevice) -> Self {
        Self { name: name.to_owned(), root_digest: device.manifest().clear.root_digest.to_string() }
    }
}

/// What a process mounts or serves.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// The subcommand: `mount`, `bundle`, `profile record`, `serve`.
    pub command: &'static str,
    pub images: Vec<ImageRecord>,
    /// Where the image will be mounted, resolved; `None` for `serve`.
    pub directory: Option<PathBuf>,
    /// The bundle's directory, resolved; of `bundle` alone.
    pub bundle: Option<PathBuf>,
    /// Files that `serve --fuse` mounts over.
    pub files: Vec<PathBuf>,
    /// The other exports of `serve`, as they are shown.
    pub exports: Vec<String>,
}

/// An entry of the run directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub version: u32,
    pub command: String,
    pub pid: u32,
    /// In clock ticks since boot; with `pid` it names one process.
    pub start_time: u64,
    /// Number of the mount namespace in which the paths below are meant.
    pub mount_namespace: u64,
    pub images: Vec<ImageRecord>,
    pub directory: Option<RecordedPath>,
    pub bundle: Option<RecordedPath>,
    pub files: Vec<RecordedPath>,
    pub exports: Vec<String>,
}

impl Record {
    /// Returns the record of this process.
    pub fn new(plan: &Plan) -> Self {
        let pid = std::process::id();
        Self {
            version: VERSION,
            command: plan.command.to_owned(),
            pid,
            start_time: start_time(pid).unwrap_or_default(),
            mount_namespace: mount_namespace("self").unwrap_or_default(),
            images: plan.images.clone(),
            directory: plan.directory.clone().map(RecordedPath),
            bundle: plan.bundle.clone().map(RecordedPath),
            files: plan.files.iter().cloned().map(RecordedPath).collect(),
            exports: plan.exports.clone(),
        }
    }

    /// Returns where the image is mounted, unless the process only serves.
    pub fn directory(&self) -> Option<&Path> {
        self.directory.as_ref().map(|path| path.0.as_path())
    }

    /// Returns whether `path` is the mount point, or the bundle around it.
    pub fn is_at(&self, path: &Path) -> bool {
        [&self.directory, &self.bundle].into_iter().flatten().any(|found| found.0 == path)
    }

    /// Returns whether the process that wrote this still runs. Only meaningful in the same process namespace.
    pub fn process_runs(&self) -> bool {
        start_time(self.pid) == Some(self.start_time)
    }

    /// Returns whether the paths are meant in this process's mount namespace.
    pub fn is_in_this_namespace(&self) -> bool {
        mount_namespace("self") == Some(self.mount_namespace)
    }

    /// Returns the images' names for a message: `app`, or `app, db`.
    pub fn image_names(&self) -> String {
        self.images.iter().map(|image| image.name.as_str()).collect::<Vec<_>>().join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_file_even_with_names_that_are_not_utf_8() {
        let plan = Plan {
            command: "mount",
            images: vec![ImageRecord { name: "app".to_owned(), root_digest: "sha256:00".to_owned() }],
            directory: Some(PathBuf::from(OsString::from_vec(b"/mnt/\xFFx".to_vec()))),
            bundle: Some(PathBuf::from("/run/app")),
            ..Plan::default()
        };
        let record = Record::new(&plan);
        let text = serde_json::to_vec(&record).unwrap();
        let read: Record = serde_json::from_slice(&text).unwrap();
        assert_eq!(read, record);
        assert!(read.process_runs() && read.is_in_this_namespace());
        assert!(read.is_at(Path::new("/run/app")) && !read.is_at(Path::new("/run")));
        assert!(!Record { start_time: 1, ..read }.process_runs());
    }
}

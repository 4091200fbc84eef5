//! Mounts of a container beyond those that every container has: paths of the host, and tmpfs for what a program writes.
//!
//! The root is read-only unless a write overlay is asked for, and the overlay is only as large as the image's free space. So /run and /tmp
//! are tmpfs by default, with the mode, the owner and the content of the image's directories.

use std::collections::BTreeSet;
use std::path::PathBuf;

use oci_spec::runtime::Mount;

use crate::fs::ext4::read::{Ext4, FileType, Node};
use crate::{ErrorKind, Result};

/// Where programs expect to write, and the mode where the image does not have the directory.
const SCRATCH: [(&str, u32); 2] = [("/run", 0o755), ("/tmp", 0o1777)];

/// A mount of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerMount {
    /// Path in the container: absolute, without `.` and `..`.
    pub target: String,
    /// What is mounted.
    pub kind: MountKind,
}

/// What is mounted in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A directory or file of the host, with all that is mounted below it.
    Bind {
        /// Absolute path on the host.
        source: PathBuf,
        /// Whether the source is a directory, which decides what it can be mounted on.
        is_directory: bool,
        /// Whether it and all mounts below it are read-only.
        read_only: bool,
    },
    /// An empty file system in memory.
    Tmpfs {
        /// Maximum size in bytes; without one, half of the host's memory.
        size: Option<u64>,
        /// Mode of its root directory.
        mode: u32,
        /// User and group that own its root directory.
        owner: (u32, u32),
        /// Whether it starts with a copy of what the image has there: an extension of runc and crun, used only where there is something.
        copies: bool,
    },
}

impl ContainerMount {
    /// Returns whether the mount point is a directory.
    pub(super) fn is_directory(&self) -> bool {
        !matches!(self.kind, MountKind::Bind { is_directory: false, .. })
    }

    /// Returns the mode of a directory that is made to mount on.
    pub(super) fn mode(&self) -> u32 {
        match self.kind {
            MountKind::Tmpfs { mode, .. } => mode,
            MountKind::Bind { .. } => 0o755,
        }
    }

    /// Returns the mount as the runtime specification writes it.
    pub(super) fn to_oci(&self) -> Mount {
        let (kind, source, options) = match &self.kind {
            MountKind::Bind { source, is_directory, read_only } => {
                let options = match (is_directory, read_only) {
                    (true, false) => &["rbind", "rprivate"][..],
                    // `ro` alone would leave mounts below the source writable.
                    (true, true) => &["rbind", "rprivate", "ro", "rro"],
                    // crun 1.8 takes recursive attributes for directories alone.
                    (false, false) => &["bind", "rprivate"],
                    (false, true) => &["bind", "rprivate", "ro"],
                };
                let options = options.iter().map(|option| (*option).to_owned()).collect();
                ("bind", source.clone(), options)
            }
            MountKind::Tmpfs { size, mode, owner: (uid, gid), copies } => {
                let mut options = vec!["nosuid".to_owned(), "nodev".to_owned(), format!("mode={mode:o}")];
                options.extend(
                    [("uid", uid), ("gid", gid)]
                        .iter()
                        .filter(|(_, id)| **id != 0)
                        .map(|(name, id)| format!("{name}={id}")),
                );
                options.extend(size.map(|size| format!("size={size}")));
                options.extend(copies.then(|| "tmpcopyup".to_owned()));
                ("tmpfs", PathBuf::from("tmpfs"), options)
            }
        };
        let mut mount = Mount::default();
        mount
            .set_destination(self.target.clone().into())
            .set_source(Some(source))
            .set_typ(Some(kind.to_owned()))
            .set_options(Some(options));
        mount
    }
}

/// Adds `more` to `mounts`, parents before children. A mount on the same path replaces an earlier one.
pub(super) fn add(mounts: &mut Vec<Mount>, more: &[ContainerMount]) {
    let targets: BTreeSet<&str> = more.iter().map(|mount| mount.target.as_str()).collect();
    mounts.retain(|mount| mount.destination().to_str().is_none_or(|path| !targets.contains(path)));
    let mut more: Vec<&ContainerMount> = more.iter().collect();
    more.sort_by_key(|mount| mount.target.matches('/').count());
    mounts.extend(more.into_iter().map(ContainerMount::to_oci));
}

/// Returns the default tmpfs mounts of a container of an image: on /run and /tmp, unless the image has something other than a directory there.
///
/// # Errors
/// Those of reading.
pub fn scratch(fs: &Ext4<'_>) -> Result<Vec<ContainerMount>> {
    let mut mounts = Vec::new();
    for (path, usual) in SCRATCH {
        let kind = match fs.lookup(path.as_bytes(), true) {
            Ok(node) if node.stat.file_type == FileType::Directory => Some(like(fs, &node)?),
            Err(error) if error.kind() == ErrorKind::NotFound && !exists(fs, path)? => {
                Some(MountKind::Tmpfs { size: None, mode: usual, owner: (0, 0), copies: false })
            }
            // A file, or a symlink to nowhere: the image's own fault, and it may well start without.
            Err(error) if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Input) => return Err(error),
            Ok(_) | Err(_) => None,
        };
        mounts.extend(kind.map(|kind| ContainerMount { target: path.to_owned(), kind }));
    }
    Ok(mounts)
}

/// Returns a tmpfs that looks like the directory that it hides.
fn like(fs: &Ext4<'_>, node: &Node) -> Result<MountKind> {
    let stat = &node.stat;
    let copies = !fs.read_dir(node)?.is_empty();
    Ok(MountKind::Tmpfs { size: None, mode: stat.mode.into(), owner: (stat.uid, stat.gid), copies })
}

/// Returns whether the image has anything at `path`, be it a symlink to nowhere.
fn exists(fs: &Ext4<'_>, path: &str) -> Result<bool> {
    match fs.lookup(path.as_bytes(), false) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        found => found.map(|_| true),
    }
}

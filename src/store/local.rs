//! A directory as a store: each object is written to a file without a name and linked into place, so it is there whole or
//! not at all, nothing is left aside however the process ends, and an existing object is never touched.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::{Get, ObjectName, PutIfAbsent, PutOutcome};
use crate::{Error, ErrorKind, Result};

/// The half that can only put.
pub struct LocalPut(PathBuf);

/// The half that can only get.
pub struct LocalGet(PathBuf);

impl LocalPut {
    /// Opens `directory`, and makes it where it is not there.
    ///
    /// # Errors
    /// Those of making it.
    pub fn open(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|error| Error::file(directory, error))?;
        Ok(Self(directory.to_owned()))
    }
}

impl LocalGet {
    /// Opens `directory`, which must be there.
    ///
    /// # Errors
    /// `NotFound` where it is not.
    pub fn open(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, format!("store {}: no such directory", directory.display())));
        }
        Ok(Self(directory.to_owned()))
    }
}

impl PutIfAbsent for LocalPut {
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
        let path = self.0.join(name.as_str());
        if path.exists() {
            return Ok(PutOutcome::Present);
        }
        match link_whole(&self.0, &path, bytes) {
            Ok(()) => Ok(PutOutcome::Stored),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(PutOutcome::Present),
            Err(error) => Err(failure(name, error)),
        }
    }
}

/// Writes `bytes` to a file that gets the name `path` when it is whole.
fn link_whole(store: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = path.parent().expect("objects lie in a root");
    let open = || rustix::fs::open(directory, OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from(0o644));
    let file = match open() {
        // The first object of its root. The store itself was made when it was opened: where it is gone, someone removed it.
        Err(Errno::NOENT) if store.is_dir() => {
            std::fs::create_dir_all(directory)?;
            open()
        }
        other => other,
    };
    let mut file = match file {
        Ok(file) => File::from(file),
        Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => return link_named(directory, path, bytes),
        Err(error) => return Err(error.into()),
    };
    file.write_all(bytes)?;
    let unnamed = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
    Ok(rustix::fs::linkat(CWD, unnamed, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// The same where the file system has no files without a name (NFS, some of FUSE); a SIGKILL can leave `.put-*` there.
fn link_named(directory: &Path, path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = tempfile::Builder::new().prefix(".put-").tempfile_in(directory)?;
    file.write_all(bytes)?;
    file.persist_noclobber(path).map(drop).map_err(|error| error.error)
}

impl Get for LocalGet {
    fn get(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>> {
        let read = || {
            let file = File::open(self.0.join(name.as_str()))?;
            let length = file.metadata()?.len();
            let mut bytes = Vec::with_capacity(usize::try_from(length.min(limit)).unwrap_or_default());
            file.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes: Vec<u8> = read().map_err(|error| failure(name, error))?;
        if bytes.len() as u64 > limit {
            return Err(Error::new(ErrorKind::Corrupt, format!("{name}: longer than any such object is")));
        }
        Ok(bytes)
    }
}

fn failure(name: &ObjectName, error: io::Error) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        _ => ErrorKind::Unavailable,
    };
    Error::caused(kind, format!("object {name}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;

    #[test]
    fn what_is_there_is_never_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let (put, root) = (LocalPut::open(&path).unwrap(), "main".parse().unwrap());
        let name = ObjectName::chunk(&root, Sha256::of(b"x"));
        assert_eq!(put.put_if_absent(&name, b"first").unwrap(), PutOutcome::Stored);
        assert_eq!(put.put_if_absent(&name, b"second").unwrap(), PutOutcome::Present);
        for link in [link_named as fn(&Path, &Path, &[u8]) -> io::Result<()>, link_whole] {
            let there = link(&path.join("main"), &path.join(name.as_str()), b"third");
            assert_eq!(there.map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
        }
        let get = LocalGet::open(&path).unwrap();
        assert_eq!(get.get(&name, 5).unwrap(), b"first");
        assert_eq!(get.get(&name, 4).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
        let other = ObjectName::chunk(&root, Sha256::of(b"y"));
        assert_eq!(get.get(&other, 5).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
        let files = std::fs::read_dir(path.join("main")).unwrap().count();
        assert_eq!(files, 1, "nothing is left aside");
    }
}

//! A directory as a store: each object appears whole or not at all ([`crate::whole_file`]), and an existing one is never
//! touched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, fstat, statat};

use super::{Collect, Failure, Get, ObjectName, PutIfAbsent, PutOutcome, RootId};
use crate::whole_file::{WholeFile, open_directory};
use crate::{Error, ErrorKind, Result};

/// The half that can only put.
pub(super) struct LocalPut {
    path: PathBuf,
    /// Held open: where someone removes them meanwhile, nothing more can be put, and not into new ones.
    directories: Mutex<BTreeMap<PathBuf, Arc<OwnedFd>>>,
}

/// The half that can only get.
pub(super) struct LocalGet(PathBuf);

/// The half that lists and deletes.
pub(super) struct LocalCollect(LocalGet);

impl LocalPut {
    /// Opens `directory`, and makes it where it is not there.
    ///
    /// # Errors
    /// Those of making it.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        std::fs::create_dir_all(directory).map_err(|error| Error::file(directory, error))?;
        Ok(Self { path: directory.to_owned(), directories: Mutex::default() })
    }

    /// The directory of an object, made for its first.
    fn directory(&self, path: &Path) -> io::Result<Arc<OwnedFd>> {
        let parent = path.parent().expect("objects lie in a root");
        let mut directories = self.directories.lock().expect("no thread panics with it");
        if let Some(directory) = directories.get(parent) {
            return Ok(Arc::clone(directory));
        }
        let full = self.path.join(parent);
        std::fs::create_dir_all(&full)?;
        let directory = Arc::new(open_directory(&full)?);
        directories.insert(parent.to_owned(), Arc::clone(&directory));
        Ok(directory)
    }

    fn put(&self, path: &Path, bytes: &[u8]) -> io::Result<PutOutcome> {
        let directory = self.directory(path)?;
        let name = Path::new(path.file_name().expect("objects have names"));
        if statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW).is_ok() {
            return Ok(PutOutcome::Present);
        }
        let file = WholeFile::create(&directory, 0o644)?;
        file.file().write_all(bytes)?;
        match file.link(name) {
            Ok(()) => Ok(PutOutcome::Stored),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(PutOutcome::Present),
            Err(error) => Err(error),
        }
    }
}

impl LocalGet {
    /// Opens `directory`, which must be there.
    ///
    /// # Errors
    /// `NotFound` where it is not.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        if !directory.is_dir() {
            return Err(Error::new(ErrorKind::NotFound, format!("store {}: no such directory", directory.display())));
        }
        Ok(Self::open_later(directory))
    }

    /// The same where the directory may come later: until then, asking again may help.
    pub(super) fn open_later(directory: &Path) -> Self {
        Self(directory.to_owned())
    }
}

impl PutIfAbsent for LocalPut {
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
        let path = Path::new(name.as_str());
        self.put(path, bytes).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => removed(name),
            // What a removed directory answers differs among file systems.
            _ if self
                .directory(path)
                .is_ok_and(|directory| fstat(&*directory).is_ok_and(|stat| stat.st_nlink == 0)) =>
            {
                removed(name)
            }
            _ => failure(name, error),
        })
    }

    fn has(&self, name: &ObjectName) -> bool {
        self.path.join(name.as_str()).symlink_metadata().is_ok()
    }

    fn still_there(&self, name: &ObjectName) -> Result<()> {
        match self.path.join(name.as_str()).symlink_metadata() {
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(removed(name)),
            Err(error) => Err(failure(name, error)),
        }
    }
}

fn removed(name: &ObjectName) -> Error {
    let message = format!("object {name}: someone removed it, or the store's directory, during the conversion");
    Error::new(ErrorKind::Unavailable, message)
}

impl Get for LocalGet {
    fn ask(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>, Failure> {
        self.get(name, limit).map_err(|error| match error.kind() {
            ErrorKind::Unavailable => Failure::Again { error, after: None },
            // What is missing with all the rest may come back with it.
            ErrorKind::NotFound if !self.0.is_dir() => {
                let message = format!("store {}: not there now", self.0.display());
                Failure::Again { error: Error::caused(ErrorKind::Unavailable, message, error), after: None }
            }
            _ => Failure::Final(error),
        })
    }

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

impl LocalCollect {
    /// Opens `directory`, which must be there.
    ///
    /// # Errors
    /// `NotFound` where it is not.
    pub(super) fn open(directory: &Path) -> Result<Self> {
        LocalGet::open(directory).map(Self)
    }
}

impl Collect for LocalCollect {
    fn get(&self) -> &dyn Get {
        &self.0
    }

    fn manifests(&self, root: &RootId) -> Result<Vec<ObjectName>> {
        let (prefix, mut names) = (ObjectName::manifests(root), Vec::new());
        let path = self.0.0.join(&prefix);
        let entries = match std::fs::read_dir(&path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(names),
            Err(error) => return Err(Error::file(&path, error)),
        };
        for entry in entries {
            let name = entry.map_err(|error| Error::file(&path, error))?.file_name();
            let name = name.to_str().and_then(|name| ObjectName::parse_manifest(root, &format!("{prefix}/{name}")));
            names.extend(name);
        }
        names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
        Ok(names)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        match std::fs::remove_file(self.0.0.join(name.as_str())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failure(name, error)),
            _ => Ok(()),
        }
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
        put.still_there(&name).unwrap();
        let get = LocalGet::open(&path).unwrap();
        assert_eq!(get.get(&name, 5).unwrap(), b"first");
        assert_eq!(get.get(&name, 4).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
        let other = ObjectName::chunk(&root, Sha256::of(b"y"));
        assert_eq!(get.get(&other, 5).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
        let files = std::fs::read_dir(path.join("main")).unwrap().count();
        assert_eq!(files, 1, "nothing is left aside");
        std::fs::remove_dir_all(&path).unwrap();
        for failed in [put.still_there(&name), put.put_if_absent(&name, b"first").map(drop)] {
            assert_eq!(failed.map_err(|error| error.kind()), Err(ErrorKind::Unavailable));
        }
        assert!(!path.exists(), "what was removed is not made again");
    }
}

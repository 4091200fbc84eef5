//! A directory as a store: each object appears whole or not at all ([`crate::atomic_file`]).
//!
//! An object is present if its name is that of a regular file of exactly its length. Anything else under the name (a file that a power
//! failure cut short, a FIFO, a symbolic link) is damaged and replaced atomically; a directory is an error. A manifest's content is
//! compared as well, a chunk's only for a repair. Before a manifest gets its name, the file system is synced, once: so a manifest that
//! survives a power failure names chunks that did.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, fstat, openat, statat, syncfs};
use rustix::io::Errno;

use super::{Collect, Failure, Get, ObjectName, PutIfAbsent, PutOutcome, RootId, Sink};
use crate::atomic_file::{AtomicFile, open_directory, sync_directory};
use crate::error::free_space;
use crate::{Error, ErrorKind, Result};

/// Bytes that are read at a time of an object that is not held whole.
const PIECE: usize = 256 << 10;

/// The half that can only put.
pub(super) struct LocalPut {
    path: PathBuf,
    /// Whether the content of a present chunk is compared.
    compares: bool,
    /// Held open: where someone removes them meanwhile, nothing more can be put, and not into new ones.
    directories: Mutex<BTreeMap<PathBuf, Arc<OwnedFd>>>,
}

/// What stands under an object's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Presence {
    /// Nothing.
    Absent,
    /// A regular file of the object's length.
    Complete,
    /// A directory, which cannot be replaced by a file.
    Directory,
    /// Anything else.
    Damaged,
}

/// Returns what stands under `name`, relative to `directory`, of an object of `length` bytes. Symbolic links are not followed.
///
/// # Errors
/// Those of reading its metadata.
pub(super) fn presence(directory: impl AsFd, name: &Path, length: u64) -> io::Result<Presence> {
    let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::NOENT) => return Ok(Presence::Absent),
        Err(error) => return Err(error.into()),
    };
    Ok(match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if u64::try_from(stat.st_size) == Ok(length) => Presence::Complete,
        FileType::Directory => Presence::Directory,
        _ => Presence::Damaged,
    })
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
        Ok(Self { path: directory.to_owned(), compares: false, directories: Mutex::default() })
    }

    /// Opens `directory` as [`LocalPut::open`] does, to compare the content of what is there.
    ///
    /// # Errors
    /// Those of making it.
    pub(super) fn open_repair(directory: &Path) -> Result<Self> {
        Ok(Self { compares: true, ..Self::open(directory)? })
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

    fn put_chunk(&self, path: &Path, bytes: &[u8]) -> io::Result<PutOutcome> {
        put(&*self.directory(path)?, name_of(path), bytes, Put { compare: self.compares, sync: false })
    }

    /// Everything that was put before is durable when the manifest's name appears, and the manifest when this returns.
    fn put_manifest(&self, path: &Path, bytes: &[u8]) -> io::Result<PutOutcome> {
        // Its directories are made first, so that the sync covers them.
        let directory = self.directory(path)?;
        self.sync(path)?;
        let outcome = put(&directory, name_of(path), bytes, Put { compare: true, sync: true })?;
        sync_directory(&directory)?;
        Ok(outcome)
    }

    /// Syncs the file system of everything that was put, and that of the chunks of the manifest `path`, which others may have put.
    fn sync(&self, path: &Path) -> io::Result<()> {
        let mut directories: Vec<_> = {
            let opened = self.directories.lock().expect("no thread panics with it");
            opened.values().map(Arc::clone).collect()
        };
        let root = path.parent().and_then(Path::file_name).expect("manifests lie in a root");
        if let Ok(chunks) = open_directory(&self.path.join(root)) {
            directories.push(Arc::new(chunks));
        }
        let mut synced = BTreeSet::new();
        for directory in directories {
            if synced.insert(fstat(&*directory)?.st_dev) {
                // Also fails where a write failed since the directory was opened.
                syncfs(&*directory).map_err(|error| {
                    let error = io::Error::from(error);
                    io::Error::new(error.kind(), format!("cannot sync the store's file system: {error}"))
                })?;
            }
        }
        Ok(())
    }
}

/// How an object is put.
#[derive(Clone, Copy)]
struct Put {
    /// Whether the content of what is there is compared.
    compare: bool,
    /// Whether the file is synced before it gets its name.
    sync: bool,
}

fn put(directory: &OwnedFd, name: &Path, bytes: &[u8], how: Put) -> io::Result<PutOutcome> {
    loop {
        let found = presence(directory, name, bytes.len() as u64)?;
        match found {
            Presence::Complete if !how.compare || holds(directory, name, bytes) => return Ok(PutOutcome::Present),
            Presence::Directory => return Err(Errno::ISDIR.into()),
            Presence::Absent | Presence::Complete | Presence::Damaged => {}
        }
        let file = AtomicFile::create(directory, 0o644)?;
        file.file().write_all(bytes)?;
        if how.sync {
            file.file().sync_all()?;
        }
        let put = if found == Presence::Absent { file.link(name) } else { file.replace(name) };
        match put {
            Ok(()) => return Ok(PutOutcome::Stored),
            // Somebody else put it meanwhile.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether `bytes` are all that the file `name` has; a file that cannot be read has not.
fn holds(directory: &OwnedFd, name: &Path, bytes: &[u8]) -> bool {
    let read = || {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = File::from(openat(directory, name, flags, Mode::empty())?);
        let mut found = Vec::with_capacity(bytes.len());
        file.take(bytes.len() as u64 + 1).read_to_end(&mut found)?;
        Ok::<_, io::Error>(found)
    };
    read().is_ok_and(|found| found == bytes)
}

fn name_of(path: &Path) -> &Path {
    Path::new(path.file_name().expect("objects have names"))
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
        let put = match name.chunk_digest() {
            Some(_) => self.put_chunk(path, bytes),
            None => self.put_manifest(path, bytes),
        };
        put.map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => removed(name),
            io::ErrorKind::IsADirectory => {
                let message = format!(
                    "object {name}: is a directory, expected a file of {} bytes; remove it from the store {}",
                    bytes.len(),
                    self.path.display()
                );
                Error::new(ErrorKind::Corrupt, message)
            }
            // What a removed directory answers differs among file systems.
            _ if self
                .directory(path)
                .is_ok_and(|directory| fstat(&*directory).is_ok_and(|stat| stat.st_nlink == 0)) =>
            {
                removed(name)
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let hint = free_space(&self.path, Some(bytes.len() as u64));
                hint.into_iter().fold(failure(name, error), Error::with_hint)
            }
            _ => failure(name, error),
        })
    }

    fn has(&self, name: &ObjectName, length: u64) -> bool {
        presence(CWD, &self.path.join(name.as_str()), length).is_ok_and(|found| found == Presence::Complete)
    }

    fn still_there(&self, name: &ObjectName, length: u64) -> Result<()> {
        match presence(CWD, &self.path.join(name.as_str()), length).map_err(|error| failure(name, error))? {
            Presence::Complete => Ok(()),
            Presence::Absent => Err(removed(name)),
            Presence::Directory | Presence::Damaged => {
                let message = format!(
                    "object {name}: no longer a regular file of {length} bytes: it was changed during the conversion; run it again"
                );
                Err(Error::new(ErrorKind::Unavailable, message))
            }
        }
    }
}

fn removed(name: &ObjectName) -> Error {
    let message = format!("object {name}: it or the store's directory was removed during the conversion");
    Error::new(ErrorKind::Unavailable, message)
}

impl Get for LocalGet {
    fn ask(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>, Failure> {
        self.read_object(name, limit).map_err(|error| match error.kind() {
            ErrorKind::Unavailable => Failure::Again { error: self.named(error), after: None },
            // What is missing with all the rest may come back with it.
            ErrorKind::NotFound if !self.0.is_dir() => {
                let message = format!("store {}: the directory does not exist now", self.0.display());
                Failure::Again { error: Error::caused(ErrorKind::Unavailable, message, error), after: None }
            }
            _ => Failure::Final(self.named(error)),
        })
    }

    fn get(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>> {
        self.read_object(name, limit).map_err(|error| self.named(error))
    }

    fn stream(&self, name: &ObjectName, limit: u64, sink: &mut dyn Sink) -> Result<()> {
        self.stream_object(name, limit, sink).map_err(|error| self.named(error))
    }
}

impl LocalGet {
    fn named(&self, error: Error) -> Error {
        error.within(format!("store {}", self.0.display()))
    }

    fn read_object(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>> {
        let (file, length) = self.open_object(name)?;
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(limit)).unwrap_or_default());
        file.take(limit.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| failure(name, error))?;
        if bytes.len() as u64 > limit {
            return Err(too_long(name, limit));
        }
        Ok(bytes)
    }

    fn stream_object(&self, name: &ObjectName, limit: u64, sink: &mut dyn Sink) -> Result<()> {
        let (mut file, length) = self.open_object(name)?;
        if length > limit {
            return Err(too_long(name, limit));
        }
        sink.begin(length)?;
        let mut piece = vec![0; PIECE];
        loop {
            match file.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(read) => sink.take(&piece[..read])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failure(name, error)),
            }
        }
    }

    /// Opens an object for reading, and returns its length. Whoever can write to the directory can put anything under its name:
    /// what is no regular file is damage, and is not waited for. Links are followed, since a store may be a tree of links, and
    /// what is read is checked against its name.
    fn open_object(&self, name: &ObjectName) -> Result<(File, u64)> {
        let path = self.0.join(name.as_str());
        let fail = |error: io::Error| match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::LOOP) => {
                Error::new(ErrorKind::Corrupt, format!("object {name}: a loop of symlinks, not a regular file"))
            }
            _ => failure(name, error),
        };
        // Asked before it is opened: opening a device can set it in motion.
        regular(name, &path.metadata().map_err(fail)?)?;
        let flags = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag of open(2)");
        let file = File::options().read(true).custom_flags(flags).open(&path).map_err(fail)?;
        let length = regular(name, &file.metadata().map_err(fail)?)?;
        Ok((file, length))
    }
}

/// The length of a regular file.
fn regular(name: &ObjectName, metadata: &Metadata) -> Result<u64> {
    let file_type = metadata.file_type();
    let what = match () {
        () if file_type.is_file() => return Ok(metadata.len()),
        () if file_type.is_dir() => "a directory",
        () if file_type.is_fifo() => "a FIFO",
        () if file_type.is_socket() => "a socket",
        () => "a device",
    };
    Err(Error::new(ErrorKind::Corrupt, format!("object {name}: {what}, not a regular file")))
}

fn too_long(name: &ObjectName, limit: u64) -> Error {
    Error::new(ErrorKind::Corrupt, format!("object {name}: longer than the {limit} bytes that are expected"))
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
        // A file stands where the object's directory should be.
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ErrorKind::NotFound,
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => ErrorKind::Denied,
        io::ErrorKind::IsADirectory => ErrorKind::Corrupt,
        _ => ErrorKind::Unavailable,
    };
    let is_full = matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
    let error = Error::caused(kind, format!("object {name}"), error);
    if is_full { error.with_hint("free space in the store, and run the same command again") } else { error }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;

    #[test]
    fn what_is_there_whole_is_never_touched() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("store");
        let (put, root) = (LocalPut::open(&path).unwrap(), "main".parse().unwrap());
        let name = ObjectName::chunk(&root, Sha256::of(b"x"));
        assert_eq!(put.put_if_absent(&name, b"first").unwrap(), PutOutcome::Stored);
        assert_eq!(put.put_if_absent(&name, b"other").unwrap(), PutOutcome::Present);
        put.still_there(&name, 5).unwrap();
        let get = LocalGet::open(&path).unwrap();
        assert_eq!(get.get(&name, 5).unwrap(), b"first");
        assert_eq!(get.get(&name, 4).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
        let other = ObjectName::chunk(&root, Sha256::of(b"y"));
        assert_eq!(get.get(&other, 5).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
        let files = std::fs::read_dir(path.join("main")).unwrap().count();
        assert_eq!(files, 1, "nothing is left aside");
        std::fs::remove_dir_all(&path).unwrap();
        for failed in [put.still_there(&name, 5), put.put_if_absent(&name, b"first").map(drop)] {
            assert_eq!(failed.map_err(|error| error.kind()), Err(ErrorKind::Unavailable));
        }
        assert!(!path.exists(), "what was removed is not made again");
    }

    /// Puts something in the place of the object `path`, which is not there; the object has the bytes `whole`.
    type Plant = fn(&Path);

    const PLANTS: [(&str, Plant); 6] = [
        ("an empty file", |path| std::fs::write(path, b"").unwrap()),
        ("a short file", |path| std::fs::write(path, b"who").unwrap()),
        ("a long file", |path| std::fs::write(path, b"whole and more").unwrap()),
        ("a FIFO", |path| rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::from(0o600), 0).unwrap()),
        ("a dangling link", |path| std::os::unix::fs::symlink("nowhere", path).unwrap()),
        ("a link to a file", |path| {
            let target = path.parent().unwrap().join("target");
            std::fs::write(&target, b"whole").unwrap();
            std::os::unix::fs::symlink(&target, path).unwrap();
        }),
    ];

    #[test]
    fn what_is_no_regular_file_of_its_length_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let (put, root) = (LocalPut::open(directory.path()).unwrap(), "main".parse().unwrap());
        let digest = Sha256::of(b"whole");
        for name in [ObjectName::chunk(&root, digest), ObjectName::manifest(&root, digest)] {
            let path = directory.path().join(name.as_str());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            for (what, plant) in PLANTS {
                plant(&path);
                assert!(!put.has(&name, 5), "{what}");
                let kind = put.still_there(&name, 5).map_err(|error| error.kind());
                assert_eq!(kind, Err(ErrorKind::Unavailable), "{what}");
                assert_eq!(put.put_if_absent(&name, b"whole").unwrap(), PutOutcome::Stored, "{what}");
                assert!(path.symlink_metadata().unwrap().is_file(), "{what}");
                assert_eq!(std::fs::read(&path).unwrap(), b"whole", "{what}");
                assert!(put.has(&name, 5));
                std::fs::remove_file(&path).unwrap();
            }
            let _ = std::fs::remove_file(path.parent().unwrap().join("target"));
            std::fs::create_dir(&path).unwrap();
            let error = put.put_if_absent(&name, b"whole").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("is a directory, expected a file of 5 bytes"), "{error}");
            let left = std::fs::read_dir(path.parent().unwrap()).unwrap().count();
            assert_eq!(left, 1, "nothing is left aside");
        }
    }

    #[test]
    fn the_content_is_compared_of_manifests_and_for_a_repair_of_chunks() {
        let directory = tempfile::tempdir().unwrap();
        let (put, root) = (LocalPut::open(directory.path()).unwrap(), "main".parse().unwrap());
        let repair = LocalPut::open_repair(directory.path()).unwrap();
        let digest = Sha256::of(b"whole");
        let (chunk, manifest) = (ObjectName::chunk(&root, digest), ObjectName::manifest(&root, digest));
        for (put, name, outcome) in [
            (&put, &chunk, PutOutcome::Present),
            (&put, &manifest, PutOutcome::Stored),
            (&repair, &chunk, PutOutcome::Stored),
            (&repair, &manifest, PutOutcome::Stored),
        ] {
            let path = directory.path().join(name.as_str());
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            // Blocks that were never written can read as zeros.
            std::fs::write(&path, [0; 5]).unwrap();
            assert_eq!(put.put_if_absent(name, b"whole").unwrap(), outcome, "{name}");
            if outcome == PutOutcome::Stored {
                assert_eq!(std::fs::read(&path).unwrap(), b"whole");
                assert_eq!(put.put_if_absent(name, b"whole").unwrap(), PutOutcome::Present, "{name}");
            }
        }
    }

    #[test]
    fn what_is_no_file_is_not_read() {
        let directory = tempfile::tempdir().unwrap();
        let get = LocalGet::open(directory.path()).unwrap();
        let name = ObjectName::chunk(&"main".parse().unwrap(), Sha256::of(b"whole"));
        let path = directory.path().join(name.as_str());
        std::fs::create_dir_all(&path).unwrap();
        assert_eq!(get.get(&name, 5).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
        std::fs::remove_dir(&path).unwrap();
        rustix::fs::mknodat(CWD, &path, FileType::Fifo, Mode::from(0o600), 0).unwrap();
        assert_eq!(get.get(&name, 5).map_err(|error| error.kind()), Err(ErrorKind::Corrupt));
    }
}

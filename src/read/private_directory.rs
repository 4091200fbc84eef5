//! The directories of a disk cache, opened once, so that nobody can put a link in the way of what is written to them.
//!
//! `ROOT/NAME` is opened without following a link at NAME, and files in it relative to its descriptor; ROOT is as the user names it.
//! Where somebody deletes the directory, [`PrivateDirectory::renew`] makes it again.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, mkdirat, openat};
use rustix::io::Errno;

use crate::atomic_file::open_directory;
use crate::private_file::{self, Access};
use crate::sync::RwLock;

/// A directory below the root of a disk cache.
#[derive(Debug)]
pub(super) struct PrivateDirectory {
    root: PathBuf,
    name: &'static str,
    opened: RwLock<Arc<OwnedFd>>,
}

impl PrivateDirectory {
    /// Opens `root/name`; directories that are not there are made for this user alone.
    ///
    /// # Errors
    /// Those of the file system; `FilesystemLoop` or `NotADirectory` where a link stands at `name`.
    pub(super) fn open(root: &Path, name: &'static str) -> io::Result<Self> {
        let opened = make(root, name)?;
        Ok(Self { root: root.to_owned(), name, opened: RwLock::new(Arc::new(opened)) })
    }

    /// Opens it again, where it was deleted.
    ///
    /// # Errors
    /// As [`PrivateDirectory::open`]; the deleted one stays open.
    pub(super) fn renew(&self) -> io::Result<()> {
        let opened = make(&self.root, self.name)?;
        *self.opened.write() = Arc::new(opened);
        Ok(())
    }

    /// Its descriptor.
    pub(super) fn descriptor(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.opened.read())
    }

    /// Opens the private file `name` in it.
    ///
    /// # Errors
    /// As [`private_file::open_at`].
    pub(super) fn file(&self, name: &str, access: Access) -> io::Result<File> {
        private_file::open_at(&*self.descriptor(), Path::new(name), access)
    }

    /// Its path, for messages.
    pub(super) fn path(&self) -> PathBuf {
        self.root.join(self.name)
    }
}

fn make(root: &Path, name: &str) -> io::Result<OwnedFd> {
    DirBuilder::new().recursive(true).mode(0o700).create(root)?;
    make_below(&open_directory(root)?, name)
}

/// Opens the directory `name` in `directory`, no link; one that is not there is made for this user alone.
///
/// # Errors
/// Those of the file system.
pub(super) fn make_below(directory: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    match open_below(&directory, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened,
    }
    match mkdirat(&directory, name, Mode::from(0o700)) {
        Ok(()) | Err(Errno::EXIST) => open_below(&directory, name),
        Err(error) => Err(error.into()),
    }
}

/// Opens the directory `name` in `directory`, no link.
///
/// # Errors
/// Those of the file system; `NotFound` where it is not there.
pub(super) fn open_below(directory: impl AsFd, name: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_link_in_place_of_the_directory_is_refused_and_later_ones_lead_nowhere() {
        let temp = tempfile::tempdir().unwrap();
        let (root, victim) = (temp.path().join("cache"), temp.path().join("victim"));
        std::fs::create_dir_all(&victim).unwrap();
        std::fs::create_dir(&root).unwrap();
        symlink(&victim, root.join("locks")).unwrap();
        assert!(PrivateDirectory::open(&root, "locks").is_err());
        std::fs::remove_file(root.join("locks")).unwrap();

        let directory = PrivateDirectory::open(&root, "locks").unwrap();
        std::fs::rename(root.join("locks"), root.join("moved")).unwrap();
        symlink(&victim, root.join("locks")).unwrap();
        directory.file("one", Access::ReadWrite).unwrap().write_all(b"text").unwrap();
        assert_eq!(std::fs::read(root.join("moved/one")).unwrap(), b"text");
        assert!(directory.renew().is_err());
        assert_eq!(std::fs::read_dir(&victim).unwrap().count(), 0);
    }

    #[test]
    fn a_deleted_directory_is_made_again() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().join("cache");
        let directory = PrivateDirectory::open(&root, "chunks").unwrap();
        std::fs::remove_dir_all(&root).unwrap();
        let error = directory.file("one", Access::ReadWrite).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        directory.renew().unwrap();
        directory.file("one", Access::ReadWrite).unwrap();
        assert!(root.join("chunks/one").is_file());
    }
}

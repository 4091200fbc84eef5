//! Atomic writes: a file is in its directory whole or not at all, however the process ends.
//!
//! A file is written as an unlinked temporary file (`O_TMPFILE`) and linked into its directory when it is complete, so a SIGKILL
//! leaves nothing behind. Where a file system does not support `O_TMPFILE` (NFS, some FUSE file systems), it is written as
//! `.coldpress-*` in the same directory, and a SIGKILL can leave that file.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{AtFlags, CWD, Mode, OFlags, fsync, linkat, openat, renameat, unlinkat};
use rustix::io::Errno;

use crate::random::random_bytes;

/// Opens a directory in which files are to be created.
///
/// # Errors
/// Those of opening it.
pub fn open_directory(path: &Path) -> io::Result<OwnedFd> {
    Ok(openat(CWD, path, OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Syncs the names in `directory` to the disk, so that links and renames survive a power failure.
///
/// # Errors
/// Those of the disk. A file system that cannot sync a directory is not an error.
pub fn sync_directory(directory: &OwnedFd) -> io::Result<()> {
    match fsync(directory) {
        Err(Errno::INVAL | Errno::OPNOTSUPP) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A file that is being written, and that disappears unless it is linked into its directory.
pub struct AtomicFile<'d> {
    directory: BorrowedFd<'d>,
    file: File,
    /// The temporary name, where the file system does not support `O_TMPFILE`.
    aside: Option<String>,
}

impl<'d> AtomicFile<'d> {
    /// Creates an empty file for `directory`, with the permissions `mode` as far as the umask allows.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn create(directory: &'d OwnedFd, mode: u32) -> io::Result<Self> {
        let unnamed = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
        // Linking goes through /proc.
        let file = if Path::new("/proc/self/fd").exists() {
            openat(directory, ".", unnamed, Mode::from(mode))
        } else {
            Err(Errno::OPNOTSUPP)
        };
        match file {
            Ok(file) => Ok(Self { directory: directory.as_fd(), file: file.into(), aside: None }),
            Err(Errno::OPNOTSUPP | Errno::ISDIR | Errno::INVAL) => Self::create_named(directory, mode),
            Err(error) => Err(error.into()),
        }
    }

    fn create_named(directory: &'d OwnedFd, mode: u32) -> io::Result<Self> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC;
        loop {
            let name = name_aside();
            match openat(directory, &name, flags, Mode::from(mode)) {
                Ok(file) => return Ok(Self { directory: directory.as_fd(), file: file.into(), aside: Some(name) }),
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns the file to write to.
    #[must_use]
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Links the file as `name` into its directory.
    ///
    /// # Errors
    /// `AlreadyExists` where that name is taken; the existing file is unchanged.
    pub fn link(&self, name: &Path) -> io::Result<()> {
        match &self.aside {
            None => {
                let unnamed = format!("/proc/self/fd/{}", self.file.as_raw_fd());
                linkat(CWD, unnamed, self.directory, name, AtFlags::SYMLINK_FOLLOW)?;
            }
            Some(aside) => linkat(self.directory, aside.as_str(), self.directory, name, AtFlags::empty())?,
        }
        Ok(())
    }

    /// Links the file as `name` into its directory, and replaces an existing file of that name.
    ///
    /// # Errors
    /// Those of the file system; an existing file is then unchanged.
    pub fn replace(mut self, name: &Path) -> io::Result<()> {
        if self.aside.is_none() {
            match self.link(name) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                linked => return linked,
            }
            loop {
                let aside = name_aside();
                match self.link(Path::new(&aside)) {
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                    linked => {
                        linked?;
                        self.aside = Some(aside);
                        break;
                    }
                }
            }
        }
        let aside = self.aside.as_ref().expect("it has a name now");
        renameat(self.directory, aside.as_str(), self.directory, name)?;
        self.aside = None;
        Ok(())
    }
}

impl Drop for AtomicFile<'_> {
    fn drop(&mut self) {
        if let Some(aside) = &self.aside {
            let _ = unlinkat(self.directory, aside.as_str(), AtFlags::empty());
        }
    }
}

fn name_aside() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    // In containers, processes of one number share directories.
    let random = random_bytes::<4>().map(u32::from_le_bytes).unwrap_or_default();
    format!(".coldpress-{}-{}-{random:08x}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_appears_whole_and_only_when_it_is_linked() {
        let temp = tempfile::tempdir().unwrap();
        let directory = open_directory(temp.path()).unwrap();
        for named in [false, true] {
            let create = |directory, mode| match named {
                false => AtomicFile::create(directory, mode),
                true => AtomicFile::create_named(directory, mode),
            };
            let file = create(&directory, 0o644).unwrap();
            file.file().write_all(b"one").unwrap();
            let other = create(&directory, 0o644).unwrap();
            assert_eq!(names(temp.path()).len(), 2 * usize::from(named));
            drop((file, other));
            assert!(names(temp.path()).is_empty(), "an abandoned file is gone");

            let file = create(&directory, 0o644).unwrap();
            file.file().write_all(b"one").unwrap();
            file.link(Path::new("a")).unwrap();
            let again = file.link(Path::new("a")).map_err(|error| error.kind());
            assert_eq!(again, Err(io::ErrorKind::AlreadyExists));
            drop(file);
            let file = create(&directory, 0o600).unwrap();
            file.file().write_all(b"two").unwrap();
            file.replace(Path::new("a")).unwrap();
            assert_eq!(std::fs::read(temp.path().join("a")).unwrap(), b"two");
            let file = create(&directory, 0o600).unwrap();
            file.replace(Path::new("b")).unwrap();
            assert_eq!(names(temp.path()), ["a", "b"]);
            std::fs::remove_file(temp.path().join("a")).unwrap();
            std::fs::remove_file(temp.path().join("b")).unwrap();
        }
    }
}

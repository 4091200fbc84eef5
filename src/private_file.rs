//! Opens the files of a cache directory, in which another user may have put anything.
//!
//! A private file is a regular file of this process's own user with one name. Symbolic links are not followed, a FIFO blocks nobody,
//! and what is not a private file is an error before a byte of it is read or written: its content, its times and its mode stay as
//! they are. The caller treats that error as a miss. What stands in such a file is authenticated by other means.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, Timespec, Timestamps, UTIME_NOW, UTIME_OMIT, fstat, futimens, openat};
use rustix::process::geteuid;

/// Bits of a mode that let another user write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// What a private file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// An existing file is read.
    Read,
    /// The file is read and written; an absent one is created with mode 0600.
    ReadWrite,
    /// The file is read, and written at its end; an absent one is created with mode 0600.
    Append,
}

impl Access {
    fn flags(self) -> OFlags {
        match self {
            Self::Read => OFlags::RDONLY,
            Self::ReadWrite => OFlags::RDWR | OFlags::CREATE,
            Self::Append => OFlags::RDWR | OFlags::CREATE | OFlags::APPEND,
        }
    }
}

/// Opens the private file `path`.
///
/// # Errors
/// Those of opening it (`FilesystemLoop` for a symbolic link), and `PermissionDenied` for anything that is not a private file.
pub fn open(path: &Path, access: Access) -> io::Result<File> {
    open_at(CWD, path, access)
}

/// Opens the private file `path`, relative to `directory`. Links on the way to the last name are followed: give a single name where
/// others can write to the directories.
///
/// # Errors
/// As [`open`].
pub fn open_at(directory: impl AsFd, path: &Path, access: Access) -> io::Result<File> {
    let safe = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let file = File::from(openat(directory, path, access.flags() | safe, Mode::from(0o600))?);
    let stat = fstat(&file)?;
    let refused = |message: String| Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return refused("not a regular file".to_owned());
    }
    let own = geteuid().as_raw();
    if stat.st_uid != own {
        return refused(format!("belongs to user {}, not to user {own}, who runs this program", stat.st_uid));
    }
    // Another user's hard link to a file of ours.
    if stat.st_nlink > 1 {
        return refused(format!("has {} names (hard links), expected 1", stat.st_nlink));
    }
    Ok(file)
}

/// Returns why other users can put files into the directory `path`, or `None` if only its owner, this user or root, can.
///
/// # Errors
/// Those of reading its metadata.
pub fn shared_directory(path: &Path) -> io::Result<Option<String>> {
    let metadata = path.metadata()?;
    let (owner, own) = (metadata.uid(), geteuid().as_raw());
    if owner != own && owner != 0 {
        return Ok(Some(format!("it belongs to user {owner}, and user {own} runs this program")));
    }
    if metadata.mode() & WRITABLE_BY_OTHERS != 0 {
        let mode = metadata.mode() & 0o7777;
        return Ok(Some(format!("other users can write to it (mode {mode:04o}, expected 0700)")));
    }
    Ok(None)
}

/// It was used now.
pub(crate) fn touch(file: &File) {
    let time = |nanos| Timespec { tv_sec: 0, tv_nsec: nanos };
    // A cache that cannot be written keeps the times that it has.
    let _ = futimens(file, &Timestamps { last_access: time(UTIME_OMIT), last_modification: time(UTIME_NOW) });
}

#[cfg(test)]
mod tests {
    use std::fs::Permissions;
    use std::io::Write;
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use super::*;

    const ALL: [Access; 3] = [Access::Read, Access::ReadWrite, Access::Append];

    #[test]
    fn only_a_regular_file_of_ones_own_with_one_name_is_opened() {
        let temp = tempfile::tempdir().unwrap();
        let path = |name: &str| temp.path().join(name);
        let absent = open(&path("own"), Access::Read).map_err(|error| error.kind()).map(drop);
        assert_eq!(absent, Err(io::ErrorKind::NotFound));
        for (access, text) in [(Access::ReadWrite, "new"), (Access::Append, " more")] {
            open(&path("own"), access).unwrap().write_all(text.as_bytes()).unwrap();
        }
        assert_eq!(std::fs::read(path("own")).unwrap(), b"new more");
        assert_eq!(path("own").metadata().unwrap().mode() & 0o777, 0o600);
        open(&path("own"), Access::Read).unwrap();

        std::fs::write(path("victim"), "").unwrap();
        std::fs::hard_link(path("victim"), path("hard-link")).unwrap();
        symlink(path("own"), path("link")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        rustix::fs::mknodat(CWD, path("fifo"), FileType::Fifo, Mode::from(0o600), 0).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        let mut names = vec!["hard-link", "link", "dangling", "fifo", "directory"];
        if geteuid().is_root() {
            std::fs::write(path("foreign"), "").unwrap();
            chown(path("foreign"), Some(1), None).unwrap();
            names.push("foreign");
        }
        for name in names {
            for access in ALL {
                assert!(open(&path(name), access).is_err(), "{name}, {access:?}");
            }
        }
        assert!(!path("nowhere").exists());
    }

    #[test]
    fn a_directory_that_others_can_write_is_named_as_such() {
        let temp = tempfile::tempdir().unwrap();
        let shared = || shared_directory(temp.path()).unwrap();
        let mode = |mode| std::fs::set_permissions(temp.path(), Permissions::from_mode(mode)).unwrap();
        assert_eq!(shared(), None);
        for (others, shown) in [(0o770, "0770"), (0o1777, "1777")] {
            mode(others);
            assert!(shared().unwrap().contains(shown));
        }
        mode(0o755);
        assert_eq!(shared(), None);
        if geteuid().is_root() {
            chown(temp.path(), Some(1), None).unwrap();
            assert!(shared().unwrap().contains("user 1,"));
        }
    }
}

//! Writes the outputs that a command line names, each according to what already stands under its name.
//!
//! A regular file is replaced atomically ([`crate::atomic_file`]), a symbolic link is followed and stays, a character device, a FIFO and
//! a descriptor of this process (`/dev/stdout`, `/dev/fd/N`) are written to. Nothing but a regular file is ever replaced. A block device
//! is for the one command that writes disks; directories and sockets are refused. In a directory that all users can write, the symbolic
//! link of another user is not followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, PROC_SUPER_MAGIC, fstat, fstatfs, openat, readlinkat};
use rustix::io::Errno;
use rustix::process::geteuid;

use crate::atomic_file::{AtomicFile, open_directory, sync_directory};
use crate::{Error, ErrorKind, Result};

/// Symbolic links that are followed one after another, as many as the kernel follows.
const MAX_LINKS: usize = 40;
/// The sticky bit and the right of all users to write.
const SHARED: u32 = 0o1002;

/// What an output's name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// A regular file, or nothing yet, at this path; symbolic links are resolved.
    File(PathBuf),
    /// A character device or a FIFO.
    Stream(PathBuf),
    /// An open file of this or another process, such as `/dev/stdout`.
    Descriptor(PathBuf),
    /// A block device.
    BlockDevice(PathBuf),
}

/// How a regular file is written.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Its mode before the umask.
    pub mode: u32,
    /// Whether the file and its name survive a power failure once it is written.
    pub sync: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { mode: 0o666, sync: false }
    }
}

impl Destination {
    /// Returns what `path` stands for. Nothing is opened for writing.
    ///
    /// # Errors
    /// `Input` for a directory, a socket, and a chain of links that does not end; `Denied` for another user's link in a directory that all
    /// users can write; `NotFound` where the directory does not exist.
    pub fn of(path: &Path) -> Result<Self> {
        Self::resolve(path).map_err(|error| Error::file(path, error))
    }

    fn resolve(path: &Path) -> io::Result<Self> {
        let mut path = path.to_owned();
        for _ in 0..MAX_LINKS {
            let found = match openat(CWD, &path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
                Ok(found) => found,
                Err(Errno::NOENT) => return Self::new_file(path),
                Err(error) => return Err(error.into()),
            };
            let kind = FileType::from_raw_mode(fstat(&found)?.st_mode);
            match kind {
                FileType::Symlink if fstatfs(&found)?.f_type == PROC_SUPER_MAGIC => return Self::of_descriptor(path),
                FileType::Symlink => path = follow(&path, &found)?,
                FileType::RegularFile => return Ok(Self::File(path)),
                FileType::CharacterDevice | FileType::Fifo => return Ok(Self::Stream(path)),
                FileType::BlockDevice => return Ok(Self::BlockDevice(path)),
                FileType::Directory => return Err(Errno::ISDIR.into()),
                FileType::Socket | FileType::Unknown => return Err(is_a_socket()),
            }
        }
        Err(Errno::LOOP.into())
    }

    fn new_file(path: PathBuf) -> io::Result<Self> {
        if path.file_name().is_none() {
            return Err(io::Error::new(io::ErrorKind::InvalidFilename, "not the name of a file"));
        }
        match directory_of(&path).metadata()?.is_dir() {
            true => Ok(Self::File(path)),
            false => Err(Errno::NOTDIR.into()),
        }
    }

    /// A link in /proc leads to an open file, whatever its text says.
    fn of_descriptor(path: PathBuf) -> io::Result<Self> {
        let kind = path.metadata()?.file_type();
        match () {
            () if kind.is_dir() => Err(Errno::ISDIR.into()),
            () if kind.is_block_device() => Ok(Self::BlockDevice(path)),
            () => Ok(Self::Descriptor(path)),
        }
    }

    /// Whether it is this process's standard output.
    #[must_use]
    pub fn is_stdout(&self) -> bool {
        matches!(self, Self::Descriptor(path) if is_open_at(path, io::stdout()))
    }
}

/// Returns where the symbolic link `link`, found at `path`, leads.
fn follow(path: &Path, link: &OwnedFd) -> io::Result<PathBuf> {
    let directory = directory_of(path).metadata()?;
    let owner = fstat(link)?.st_uid;
    // As fs.protected_symlinks has it, which a walk by hand would get around.
    if directory.mode() & SHARED == SHARED && owner != geteuid().as_raw() && owner != directory.uid() {
        let message =
            format!("is a symbolic link of user {owner} in a directory that all users can write: not followed");
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, message));
    }
    let target = readlinkat(link, "", Vec::new())?;
    Ok(directory_of(path).join(OsStr::from_bytes(target.as_bytes())))
}

fn is_a_socket() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidFilename, "is a socket, which cannot be opened; give a file or a FIFO")
}

/// Returns the directory in which `path` stands.
#[must_use]
pub fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Writes the output `path`: what `fill` writes into the file that it is given, front to back.
///
/// # Errors
/// As [`Destination::of`], those of `fill` and of the file system; a regular file that was there stays. `Input` for a block device.
pub fn write(path: &Path, options: Options, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    match Destination::of(path)? {
        Destination::File(resolved) => replace(&resolved, options, fill),
        Destination::Stream(resolved) | Destination::Descriptor(resolved) => {
            fill(&open_stream(&resolved)?).map_err(|error| not_all_was_read(path, error))
        }
        Destination::BlockDevice(_) => Err(refuse_block_device(path)),
    }
}

/// Returns what to report for an error of writing to a pipe: a reader that went away makes an output incomplete, which is a failure,
/// unlike text on a terminal that nobody reads to its end.
#[must_use]
pub fn not_all_was_read(path: &Path, error: Error) -> Error {
    let cause = std::error::Error::source(&error).and_then(|source| source.downcast_ref::<io::Error>());
    match cause.map(io::Error::kind) {
        Some(io::ErrorKind::BrokenPipe) => {
            let message = format!("{}: its reader closed it before all was written", path.display());
            Error::new(ErrorKind::Unavailable, message)
        }
        _ => error,
    }
}

/// Replaces the regular file `path`, which [`Destination::of`] resolved, by one with what `fill` writes.
///
/// # Errors
/// Those of `fill` and of the file system; what was there stays.
pub fn replace(path: &Path, options: Options, fill: impl FnOnce(&File) -> Result<()>) -> Result<()> {
    let fail = |error| Error::file(path, error);
    let name = path.file_name().ok_or_else(|| fail(io::ErrorKind::InvalidFilename.into()))?;
    let directory = open_directory(directory_of(path)).map_err(fail)?;
    let file = AtomicFile::create(&directory, options.mode).map_err(fail)?;
    fill(file.file())?;
    if options.sync {
        file.file().sync_all().map_err(fail)?;
    }
    file.replace(Path::new(name)).map_err(fail)?;
    if options.sync { sync_directory(&directory).map_err(fail) } else { Ok(()) }
}

/// Opens a character device, a FIFO or a descriptor for writing. A FIFO waits for its reader.
///
/// # Errors
/// Those of opening it, and `Input` for a descriptor that cannot be opened again.
pub fn open_stream(path: &Path) -> Result<File> {
    let fail = |error| Error::file(path, error);
    // A standard stream keeps its position, and may be a socket, which no path opens.
    let own = [io::stdout().as_fd().try_clone_to_owned(), io::stderr().as_fd().try_clone_to_owned()];
    for own in own.into_iter().flatten() {
        if is_open_at(path, &own) {
            return Ok(own.into());
        }
    }
    // At the end, if it is a regular file after all: others may write there, too.
    let opened = File::options().append(true).custom_flags(no_terminal()).open(path);
    opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::NXIO) => fail(is_a_socket()),
        _ => fail(error),
    })
}

/// No device becomes the controlling terminal of this process.
fn no_terminal() -> i32 {
    i32::try_from(OFlags::NOCTTY.bits()).expect("is a small flag")
}

/// Whether `path` and `file` are the same open file.
fn is_open_at(path: &Path, file: impl AsFd) -> bool {
    let (Ok(there), Ok(here)) = (path.metadata(), fstat(file)) else { return false };
    (there.dev(), there.ino()) == (here.st_dev, here.st_ino)
}

/// Opens the block device `path` to write `bytes` bytes from its start. It must not be in use.
///
/// # Errors
/// Those of opening it, and `Input` where it is in use or too small.
pub fn open_block_device(path: &Path, bytes: u64) -> Result<File> {
    let fail = |error| Error::file(path, error);
    let exclusive = i32::try_from(OFlags::EXCL.bits()).expect("is a small flag");
    let opened = File::options().write(true).custom_flags(exclusive).open(path);
    let mut device = opened.map_err(|error| match Errno::from_io_error(&error) {
        Some(Errno::BUSY) => {
            let message =
                format!("{}: the block device is in use (mounted, or held by another program)", path.display());
            Error::caused(ErrorKind::Input, message, error)
        }
        _ => fail(error),
    })?;
    let size = device.seek(SeekFrom::End(0)).map_err(fail)?;
    device.rewind().map_err(fail)?;
    if size < bytes {
        let message = format!("{}: the block device has {size} bytes, the image needs {bytes}", path.display());
        return Err(Error::new(ErrorKind::Input, message));
    }
    Ok(device)
}

/// Opens the output `path` to add to its end; an absent file is created.
///
/// # Errors
/// As [`Destination::of`] and those of opening it; `Input` for a block device.
pub fn append(path: &Path) -> Result<File> {
    match Destination::of(path)? {
        Destination::File(resolved) => {
            let opened = File::options().append(true).create(true).open(&resolved);
            opened.map_err(|error| Error::file(path, error))
        }
        Destination::Stream(resolved) | Destination::Descriptor(resolved) => open_stream(&resolved),
        Destination::BlockDevice(_) => Err(refuse_block_device(path)),
    }
}

/// The error of an output that is a block device, but for `coldpress export`.
#[must_use]
pub fn refuse_block_device(path: &Path) -> Error {
    let message = format!("{}: is a block device; only `coldpress export` writes to one", path.display());
    Error::new(ErrorKind::Input, message)
}

//! `coldread cp`: the only command that makes files of an image on the host.
//!
//! Names come from the image, so nothing is followed: every file and directory is made new, below a directory that this command made, by
//! single names that hold no slash. With --force, files and symlinks are replaced, and directories that are there are used.

use std::ffi::OsStr;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use coldpress::atomic_file::{AtomicFile, open_directory};
use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::fs::ext4::walk::DirectoryWalk;
use coldpress::fs::path::components;
use coldpress::output_file::directory_of;
use coldpress::{Error, ErrorKind, Result};
use rustix::io::Errno;

use super::cat::each_part;
use super::{bytes, open, say, tell_fetched};
use crate::args::{Cli, CpArgs};
use crate::shared::failure::CommandResult;
use crate::tree_walk::check_name;

pub fn run(cli: &Cli, args: &CpArgs) -> CommandResult {
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    let node = fs.lookup(bytes(&args.path), true)?;
    if node.stat.file_type == FileType::Directory && !args.recursive {
        return Err(
            Error::new(ErrorKind::Input, format!("{}: a directory; add --recursive", args.path.display())).into()
        );
    }
    let copied = Copy { fs: &fs, force: args.force }.tree(&node, &target(args), args.path.display());
    tell_fetched(cli, &device);
    Ok(copied?)
}

/// `DEST`, or the image's name for it inside `DEST` where that is a directory.
fn target(args: &CpArgs) -> PathBuf {
    match components(bytes(&args.path)).last() {
        Some(name) if args.dest.is_dir() => args.dest.join(OsStr::from_bytes(name)),
        _ => args.dest.clone(),
    }
}

/// How files are copied.
struct Copy<'a> {
    fs: &'a Ext4<'a>,
    /// Whether what is there is replaced.
    force: bool,
}

impl Copy<'_> {
    /// Copies `node` and all below it; a directory gets its mode and time when it is complete.
    fn tree(&self, node: &Node, target: &Path, shown: impl std::fmt::Display) -> Result<()> {
        let mut todo = vec![(node.clone(), target.to_owned())];
        let (mut directories, mut walk) = (Vec::new(), DirectoryWalk::default());
        while let Some((node, target)) = todo.pop() {
            match node.stat.file_type {
                FileType::Directory => {
                    walk.enter(bytes(target.as_os_str()), &node)?;
                    let is_new = self.directory(&target)?;
                    for (name, ino) in self.fs.read_dir(&node)? {
                        check_name(&name)?;
                        todo.push((self.fs.node(ino)?, target.join(OsStr::from_bytes(&name))));
                    }
                    directories.extend(is_new.then_some((node, target)));
                }
                FileType::File => self.file(&node, &target)?,
                FileType::Symlink => self.symlink(&node, &target)?,
                _ => {
                    say(&format!(
                        "skipped, because it is neither a file nor a directory: {} ({shown})",
                        target.display()
                    ));
                }
            }
        }
        // The deepest first: a directory that may not be written into must be complete.
        for (node, target) in directories.into_iter().rev() {
            let directory = std::fs::File::open(&target).map_err(|error| Error::file(&target, error))?;
            finish(&directory, &node, &target)?;
        }
        Ok(())
    }

    /// Makes a directory, and returns whether it is new. With --force, one that is there is used; a symlink to one is not.
    fn directory(&self, target: &Path) -> Result<bool> {
        match DirBuilder::new().mode(0o700).create(target) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_directory = self.force && target.symlink_metadata().is_ok_and(|there| there.is_dir());
                if is_directory { Ok(false) } else { Err(self.exists(target, error)) }
            }
            Err(error) => Err(Error::file(target, error)),
        }
    }

    /// The file appears complete or not at all.
    fn file(&self, node: &Node, target: &Path) -> Result<()> {
        let fail = |error| Error::file(target, error);
        let name = Path::new(target.file_name().ok_or_else(|| fail(io::ErrorKind::InvalidFilename.into()))?);
        let directory = open_directory(directory_of(target)).map_err(fail)?;
        if !self.force && target.symlink_metadata().is_ok() {
            return Err(self.exists(target, Errno::EXIST.into()));
        }
        let copy = AtomicFile::create(&directory, 0o600).map_err(fail)?;
        let file = copy.file();
        file.set_len(node.stat.size).map_err(fail)?;
        let data = self.fs.data(node)?;
        // Only what the file has is written, so that its holes stay holes.
        each_part(self.fs, node, &mut |at, part| {
            let end = at + part.len() as u64;
            data.iter().map(|&(from, to, _)| (from.max(at), to.min(end))).filter(|(from, to)| from < to).try_for_each(
                |(from, to)| {
                    let inside = |offset: u64| usize::try_from(offset - at).expect("within the part");
                    file.write_all_at(&part[inside(from)..inside(to)], from).map_err(fail)
                },
            )
        })?;
        finish(file, node, target)?;
        match self.force {
            true => copy.replace(name).map_err(fail),
            false => copy.link(name).map_err(|error| self.exists(target, error)),
        }
    }

    fn symlink(&self, node: &Node, target: &Path) -> Result<()> {
        let link = self.fs.read_link(node)?;
        let make = || std::os::unix::fs::symlink(OsStr::from_bytes(&link), target);
        match make() {
            // A directory is not removed by this.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.force => {
                std::fs::remove_file(target).and_then(|()| make()).map_err(|error| Error::file(target, error))
            }
            made => made.map_err(|error| self.exists(target, error)),
        }
    }

    fn exists(&self, target: &Path, error: io::Error) -> Error {
        let is_there = error.kind() == io::ErrorKind::AlreadyExists && !self.force;
        let error = Error::file(target, error);
        if is_there { error.with_hint("add --force to replace it, or give another DEST") } else { error }
    }
}

/// Mode (without set-id bits, since the owner is another) and time.
fn finish(file: &std::fs::File, node: &Node, target: &Path) -> Result<()> {
    let fail = |error| Error::file(target, error);
    file.set_permissions(Permissions::from_mode(u32::from(node.stat.mode & 0o1777))).map_err(fail)?;
    let seconds = Duration::from_secs(node.stat.mtime.secs.unsigned_abs());
    let whole = if node.stat.mtime.secs < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(seconds)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(seconds)
    };
    match whole.and_then(|time| time.checked_add(Duration::from_nanos(node.stat.mtime.nanos.into()))) {
        Some(time) => file.set_modified(time).map_err(fail),
        None => Ok(()),
    }
}

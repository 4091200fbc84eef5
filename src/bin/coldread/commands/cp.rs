//! `coldread cp`: the only command that makes files of an image on the host.
//!
//! Names come from the image, so nothing is followed or overwritten: every file and directory is made new, below a
//! directory that this command made, by single names that hold no slash.

use std::ffi::OsStr;
use std::fs::{DirBuilder, OpenOptions, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::fs::ext4::walk::DirectoryWalk;
use coldpress::fs::path::{Display, components};
use coldpress::{Error, ErrorKind, Result};

use super::cat::each_part;
use super::{bytes, open, say, tell_fetched};
use crate::args::{Cli, CpArgs};
use crate::shared::failure::CommandResult;

pub fn run(cli: &Cli, args: &CpArgs) -> CommandResult {
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    let node = fs.lookup(bytes(&args.path), true)?;
    if node.stat.file_type == FileType::Directory && !args.recursive {
        return Err(
            Error::new(ErrorKind::Input, format!("{}: a directory; add --recursive", args.path.display())).into()
        );
    }
    let copied = copy(&fs, &node, &target(args), args.path.display());
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

/// Copies `node` and all below it; a directory gets its mode and time when it is complete.
fn copy(fs: &Ext4<'_>, node: &Node, target: &Path, shown: impl std::fmt::Display) -> Result<()> {
    let mut todo = vec![(node.clone(), target.to_owned())];
    let (mut directories, mut walk) = (Vec::new(), DirectoryWalk::default());
    while let Some((node, target)) = todo.pop() {
        match node.stat.file_type {
            FileType::Directory => {
                walk.enter(bytes(target.as_os_str()), &node)?;
                DirBuilder::new().mode(0o700).create(&target).map_err(|error| Error::file(&target, error))?;
                for (name, ino) in fs.read_dir(&node)? {
                    if name.contains(&b'/') || name == b"." || name == b".." {
                        return Err(Error::new(ErrorKind::Corrupt, format!("`{}` cannot be a name", Display(&name))));
                    }
                    todo.push((fs.node(ino)?, target.join(OsStr::from_bytes(&name))));
                }
                directories.push((node, target));
            }
            FileType::File => copy_file(fs, &node, &target)?,
            FileType::Symlink => {
                let link = fs.read_link(&node)?;
                std::os::unix::fs::symlink(OsStr::from_bytes(&link), &target)
                    .map_err(|error| Error::file(&target, error))?;
            }
            _ => {
                say(&format!("left out, neither file nor directory: {} ({shown})", target.display()));
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

fn copy_file(fs: &Ext4<'_>, node: &Node, target: &Path) -> Result<()> {
    let fail = |error| Error::file(target, error);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(target).map_err(fail)?;
    let written = file.set_len(node.stat.size).map_err(fail).and_then(|()| {
        let data = fs.data(node)?;
        // Only what the file has is written, so that its holes stay holes.
        each_part(fs, node, &mut |at, part| {
            let end = at + part.len() as u64;
            data.iter().map(|&(from, to, _)| (from.max(at), to.min(end))).filter(|(from, to)| from < to).try_for_each(
                |(from, to)| {
                    let inside = |offset: u64| usize::try_from(offset - at).expect("within the part");
                    file.write_all_at(&part[inside(from)..inside(to)], from).map_err(fail)
                },
            )
        })
    });
    if let Err(error) = written.and_then(|()| finish(&file, node, target)) {
        let _ = std::fs::remove_file(target);
        return Err(error);
    }
    Ok(())
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

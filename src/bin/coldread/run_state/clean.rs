//! Cleaning up after a `coldread` that was killed: its mounts, its loop device, its FUSE mounts, and its entry, in this order.
//!
//! Only what is provably the dead process's own is touched. A mount at the user's directory must be of a loop device whose
//! backing file is in the entry, or an overlay whose source names the entry; a FUSE file of `serve` must name it as well. The
//! rest stands in the entry's private directory. Each step can be repeated, and the entry goes last, so a clean-up that is
//! killed is finished by the next one.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use coldpress::{Error, ErrorKind, Result};
use rustix::process::geteuid;

use super::kernel::{LoopDevice, Mount, Topmost, member_of};
use super::{Entry, Record, remove, source_name};

/// Cleans up after the dead process of `entry`, and returns what was done, in words.
///
/// # Errors
/// `Unsupported` if its mounts are in a mount namespace that still exists and is not this one. `Unavailable` if a mount of
/// somebody else covers one of its mounts. Those of umount2(2) and losetup(8).
pub fn clean(entry: &Entry) -> Result<Vec<String>> {
    let mut done = Vec::new();
    if let Some(record) = &entry.record {
        check_namespace(record)?;
        if let Some(directory) = record.directory() {
            unmount_image(entry, directory, &mut done)?;
        }
        record.files.iter().try_for_each(|file| unmount_file(entry, &file.0, &mut done))?;
    }
    unmount_below(&entry.path, |mount| mount.file_system != "fuse")?;
    for device in LoopDevice::below(&entry.path)? {
        device.detach()?;
        done.push(format!("detached {}", device.path().display()));
    }
    if unmount_below(&entry.path, |_| true)? {
        done.push("ended its FUSE mount".to_owned());
    }
    remove(&entry.path);
    match entry.path.exists() {
        false => Ok(done),
        true => {
            let message = format!("{} is still in use, and is removed at the next start", entry.path.display());
            Err(Error::new(ErrorKind::Unavailable, message))
        }
    }
}

/// Refuses an entry whose mounts this process cannot see, but others can.
fn check_namespace(record: &Record) -> Result<()> {
    if record.is_in_this_namespace() {
        return Ok(());
    }
    match member_of(record.mount_namespace) {
        None => Ok(()),
        Some(pid) => {
            let message = format!(
                "its mounts are in another mount namespace, which process {pid} is in; `nsenter -t {pid} -m coldread umount \
                 DIR` removes them"
            );
            Err(Error::new(ErrorKind::Unsupported, message))
        }
    }
}

/// Unmounts the image at `directory`, as often as the dead process's mounts are on top there.
fn unmount_image(entry: &Entry, directory: &Path, done: &mut Vec<String>) -> Result<()> {
    while let Some(top) = Topmost::at(directory)? {
        let devices = LoopDevice::below(&entry.path)?;
        if entry.owns(&top.mount, &devices) {
            top.detach()?;
            done.push(format!("unmounted {}", directory.display()));
            continue;
        }
        if Mount::all()?.iter().any(|mount| mount.point == directory && entry.owns(mount, &devices)) {
            let message =
                format!("{}: another file system is mounted over its mount; unmount that first", directory.display());
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        break;
    }
    Ok(())
}

/// Unmounts a file of `serve --fuse`, and removes the empty file that was made for it.
fn unmount_file(entry: &Entry, file: &Path, done: &mut Vec<String>) -> Result<()> {
    let Some(top) = Topmost::at(file)? else { return Ok(()) };
    let named = top.mount.source.to_str() == Some(&source_name(&entry.path));
    if !named || !top.mount.file_system.starts_with("fuse") {
        return Ok(());
    }
    match geteuid().is_root() {
        true => top.detach()?,
        // By name, with the help of fusermount3.
        false => coldpress::serve::fuse::detach(file)?,
    }
    done.push(format!("unmounted {}", file.display()));
    let is_ours = |metadata: std::fs::Metadata| metadata.is_file() && metadata.uid() == geteuid().as_raw();
    if file.symlink_metadata().is_ok_and(|metadata| metadata.len() == 0 && is_ours(metadata)) {
        let _ = std::fs::remove_file(file);
    }
    Ok(())
}

/// Unmounts what is mounted in the entry's own directory and is `wanted`, the last one first; whether there was any.
fn unmount_below(entry: &Path, wanted: impl Fn(&Mount) -> bool) -> Result<bool> {
    let mounts = Mount::all()?;
    let below: Vec<&Mount> =
        mounts.iter().rev().filter(|mount| mount.point.starts_with(entry) && wanted(mount)).collect();
    for mount in &below {
        if let Some(top) = Topmost::at(&mount.point)? {
            top.detach()?;
        }
    }
    Ok(!below.is_empty())
}

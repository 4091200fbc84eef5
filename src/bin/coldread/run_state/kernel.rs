//! What the kernel says about mounts, loop devices and processes.
//!
//! Everything here reads `/proc` and `/sys`, and never waits for a file system: a dead FUSE mount answers nothing.
//! A path is resolved with `O_PATH`, attributes are asked for with `AT_STATX_DONT_SYNC`.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use coldpress::{Error, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags, StatxFlags, openat, statx};
use rustix::mount::{UnmountFlags, unmount};

/// One mount of this process's mount namespace, from `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The kernel's number of this mount.
    pub id: u64,
    /// `MAJOR:MINOR` of the mounted device.
    pub device: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// `ext4`, `overlay`, `fuse`.
    pub file_system: String,
    /// What mount(8) shows as the source.
    pub source: OsString,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b' ');
        let text = |field: &[u8]| String::from_utf8(field.to_vec()).ok();
        let id = text(fields.next()?)?.parse().ok()?;
        let device = text(fields.nth(1)?)?;
        let point = PathBuf::from(OsString::from_vec(unescape(fields.nth(1)?)));
        // Optional fields end with a lone hyphen.
        fields.find(|field| *field == b"-")?;
        let file_system = text(fields.next()?)?;
        let source = OsString::from_vec(unescape(fields.next()?));
        Some(Self { id, device, point, file_system, source })
    }

    /// Returns all mounts that this process sees, in the order of the kernel's list.
    ///
    /// # Errors
    /// Those of reading `/proc/self/mountinfo`.
    pub fn all() -> Result<Vec<Self>> {
        let path = Path::new("/proc/self/mountinfo");
        let text = std::fs::read(path).map_err(|error| Error::file(path, error))?;
        Ok(text.split(|&byte| byte == b'\n').filter_map(Self::parse).collect())
    }
}

/// Decodes the octal escapes of `/proc/self/mountinfo`: `\040` is a space.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, behind)) = rest.split_first() {
        let digits = behind.get(..3).filter(|_| byte == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(decoded) => {
                out.push(decoded);
                rest = &behind[3..];
            }
            None => {
                out.push(byte);
                rest = behind;
            }
        }
    }
    out
}

/// The mount that a path leads to, held open so that it cannot be mistaken for a later one.
pub struct Topmost {
    pub mount: Mount,
    handle: OwnedFd,
}

impl Topmost {
    /// Returns the mount that is visible at `point`, if `point` is a mount point.
    ///
    /// # Errors
    /// Those of reading `/proc`. A path that does not exist has no mount.
    pub fn at(point: &Path) -> Result<Option<Self>> {
        let Ok(handle) = openat(CWD, point, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()) else { return Ok(None) };
        let mounts = Mount::all()?;
        let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_DONT_SYNC;
        let id = statx(&handle, "", flags, StatxFlags::MNT_ID)
            .ok()
            .filter(|found| found.stx_mask & StatxFlags::MNT_ID.bits() != 0)
            .map(|found| found.stx_mnt_id);
        // Before Linux 5.8 the kernel does not say; then the last one of the list is on top.
        let mount = mounts.into_iter().rev().find(|mount| mount.point == point && id.is_none_or(|id| id == mount.id));
        Ok(mount.map(|mount| Self { mount, handle }))
    }

    /// Detaches this mount and no other; processes that use it keep it until they end.
    ///
    /// # Errors
    /// Those of umount2(2).
    pub fn detach(self) -> Result<()> {
        let path = format!("/proc/self/fd/{}", self.handle.as_raw_fd());
        let fail = |error: rustix::io::Errno| Error::io(format!("umount {}", self.mount.point.display()), error.into());
        unmount(path, UnmountFlags::DETACH).map_err(fail)
    }
}

/// A loop device that is bound to a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoopDevice {
    /// `loop3`.
    name: String,
    /// `MAJOR:MINOR`, as in [`Mount::device`].
    pub device: String,
    /// The file that it is bound to, as the kernel shows it.
    pub backing_file: PathBuf,
}

impl LoopDevice {
    /// Returns the loop devices that are bound to files below `directory`.
    ///
    /// # Errors
    /// Those of reading `/sys/block`.
    pub fn below(directory: &Path) -> Result<Vec<Self>> {
        let devices = Path::new("/sys/block");
        let entries = std::fs::read_dir(devices).map_err(|error| Error::file(devices, error))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        let bound = names.filter(|name| name.starts_with("loop")).filter_map(Self::read);
        Ok(bound.filter(|device| device.backing_file.starts_with(directory)).collect())
    }

    /// Returns the loop device `name`, if it is bound to a file.
    fn read(name: String) -> Option<Self> {
        let directory = Path::new("/sys/block").join(&name);
        let text = std::fs::read(directory.join("loop/backing_file")).ok()?;
        let path = text.strip_suffix(b"\n").unwrap_or(&text);
        let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
        let device = std::fs::read_to_string(directory.join("dev")).ok()?.trim_end().to_owned();
        Some(Self { name, device, backing_file: PathBuf::from(OsString::from_vec(path.to_vec())) })
    }

    /// Returns the device that `mount` is a mount of, if that is a bound loop device.
    pub fn under(mount: &Mount) -> Option<Self> {
        let link = std::fs::read_link(format!("/sys/dev/block/{}", mount.device)).ok()?;
        let name = link.file_name()?.to_str()?.to_owned();
        if name.starts_with("loop") { Self::read(name) } else { None }
    }

    /// Returns `/dev/loop3`.
    pub fn path(&self) -> PathBuf {
        Path::new("/dev").join(&self.name)
    }

    /// Tells the kernel to unbind the device, at once or when its last user ends.
    ///
    /// # Errors
    /// Those of opening the device and of losetup(8). A device that is bound to something else by now is left alone.
    pub fn detach(&self) -> Result<()> {
        let path = self.path();
        // While it is open, the kernel cannot give this number to another file by itself.
        let held = File::open(&path).map_err(|error| Error::file(&path, error))?;
        if Self::read(self.name.clone()).as_ref() == Some(self) {
            super::tool(Command::new("losetup").arg("--detach").arg(&path))?;
        }
        drop(held);
        Ok(())
    }
}

/// Returns when the process `pid` was started, in clock ticks since boot (`/proc/PID/stat`, field 22).
///
/// A number and a start time together name one process: numbers are used again. A process that was killed and whose parent
/// does not know it yet (a zombie) has none.
pub fn start_time(pid: u32) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it can contain spaces and parentheses.
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    fields.nth(18)?.parse().ok().filter(|_| !matches!(state, "Z" | "X"))
}

/// Returns the number of the mount namespace of a process of `/proc`: `self`, or a number.
pub fn mount_namespace(process: &str) -> Option<u64> {
    let link = std::fs::read_link(format!("/proc/{process}/ns/mnt")).ok()?;
    link.to_str()?.strip_prefix("mnt:[")?.strip_suffix(']')?.parse().ok()
}

/// Returns the numbers of all processes that this one sees.
fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Returns a process that is in the mount namespace, if this process sees one.
pub fn member_of(namespace: u64) -> Option<u32> {
    processes().find(|pid| mount_namespace(&pid.to_string()) == Some(namespace))
}

/// Returns what keeps the mount at `directory` busy, in words: processes of this mount namespace, and mounts below it.
pub fn users_of(directory: &Path) -> Vec<String> {
    let ours = mount_namespace("self");
    let mounts = Mount::all().unwrap_or_default();
    let below = mounts.iter().filter(|mount| mount.point.starts_with(directory) && mount.point != directory);
    let mut users: Vec<String> = below.map(|mount| format!("a mount at {}", mount.point.display())).collect();
    for pid in processes().filter(|pid| mount_namespace(&pid.to_string()) == ours) {
        if uses(pid, directory) {
            let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
            users.push(format!("process {pid} ({})", name.trim_end()));
        }
    }
    users
}

/// Returns whether a process works in `directory`, has a file of it open, or has one in its memory.
fn uses(pid: u32, directory: &Path) -> bool {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let leads_there = |link: &Path| std::fs::read_link(link).is_ok_and(|path| path.starts_with(directory));
    let open = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten().map(|entry| entry.path());
    let places = ["cwd", "root", "exe"].map(|name| process.join(name));
    places.into_iter().chain(open).any(|link| leads_there(&link)) || maps(&process, directory)
}

fn maps(process: &Path, directory: &Path) -> bool {
    let text = std::fs::read(process.join("maps")).unwrap_or_default();
    let paths = text.split(|&byte| byte == b'\n').filter_map(|line| {
        let start = line.iter().position(|&byte| byte == b'/')?;
        Some(Path::new(std::ffi::OsStr::from_bytes(&line[start..])))
    });
    paths.into_iter().any(|path| path.starts_with(directory))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_parsed() {
        let line = b"36 35 98:0 /mnt1 /mnt/two\\040words rw,noatime master:1 shared:2 - ext4 /dev/my\\134root rw";
        let mount = Mount::parse(line).unwrap();
        assert_eq!((mount.id, mount.device.as_str()), (36, "98:0"));
        assert_eq!(mount.point, Path::new("/mnt/two words"));
        assert_eq!((mount.file_system.as_str(), mount.source.to_str()), ("ext4", Some("/dev/my\\root")));
        let plain = Mount::parse(b"1 0 0:1 / / rw - tmpfs none rw").unwrap();
        assert_eq!(plain.point, Path::new("/"));
        for bad in [&b""[..], b"36 35 98:0 / /mnt rw", b"x 35 98:0 / /mnt rw - ext4 a b"] {
            assert_eq!(Mount::parse(bad), None);
        }
    }

    #[test]
    fn this_process_has_a_start_time_and_a_namespace() {
        let pid = std::process::id();
        assert!(start_time(pid).is_some_and(|ticks| ticks > 0));
        assert_eq!(start_time(u32::MAX), None);
        assert_eq!(mount_namespace("self"), mount_namespace(&pid.to_string()));
        assert!(member_of(mount_namespace("self").unwrap()).is_some());
        assert_eq!(member_of(1), None);
    }

    #[test]
    fn the_root_is_a_mount_point_and_a_new_directory_is_none() {
        let temp = tempfile::tempdir().unwrap();
        assert!(Topmost::at(temp.path()).unwrap().is_none());
        assert!(Topmost::at(&temp.path().join("nowhere")).unwrap().is_none());
        assert_eq!(Topmost::at(Path::new("/proc")).unwrap().unwrap().mount.file_system, "proc");
    }
}

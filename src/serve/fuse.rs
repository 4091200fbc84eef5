//! A FUSE file system with one file: the device. Loop-mounted, it is a file system of the host.
//!
//! `FUSE_ASYNC_DIO`, a loop device with direct I/O and several threads together make reads run in parallel (measured:
//! docs/design.md, "Reading").

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty,
    ReplyEntry, ReplyOpen, Request,
};

use crate::fs::BlockDevice;
use crate::{Error, Result};

/// The file's name below the mount point.
pub const FILE: &str = "image";
const FILE_INODE: INodeNo = INodeNo(2);
/// Nothing ever changes, so the kernel may remember it.
const TTL: Duration = Duration::from_secs(3600);
const MAX_READ: usize = 1 << 20;

/// Told of what happens at the door.
pub trait Watch: Send + Sync + 'static {
    /// The last opener of the file closed it.
    fn closed(&self);

    /// A read failed; the reader gets EIO.
    fn failed(&self, error: &Error);
}

/// A mounted device; dropping it unmounts.
pub struct Door(BackgroundSession);

impl Door {
    /// Mounts `device` as a file at `directory`, served by `threads` threads.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn open(device: Arc<dyn BlockDevice>, directory: &Path, threads: usize, watch: Arc<dyn Watch>) -> Result<Self> {
        let mut config = Config::default();
        config.mount_options =
            vec![MountOption::RO, MountOption::FSName("coldread".to_owned()), MountOption::DefaultPermissions];
        config.n_threads = Some(threads.max(1));
        let files = OneFile { device, watch, open: AtomicUsize::new(0) };
        let session = fuser::spawn_mount(files, directory, &config);
        session.map(Self).map_err(|error| Error::io(format!("FUSE at {}", directory.display()), error))
    }

    /// Unmounts, and waits until all requests are answered.
    ///
    /// # Errors
    /// Those of unmounting.
    pub fn close(self) -> Result<()> {
        self.0.umount_and_join().map_err(|error| Error::io("FUSE unmount", error))
    }
}

struct OneFile {
    device: Arc<dyn BlockDevice>,
    watch: Arc<dyn Watch>,
    open: AtomicUsize,
}

impl OneFile {
    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm, size, nlink) = match ino {
            INodeNo::ROOT => (FileType::Directory, 0o500, 0, 2),
            FILE_INODE => (FileType::RegularFile, 0o400, self.device.size(), 1),
            _ => return None,
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // A kernel without it still works, one miss at a time.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attributes(FILE_INODE) {
            Some(attributes) if parent == INodeNo::ROOT && name == FILE => {
                reply.entry(&TTL, &attributes, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&TTL, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn readdir(&self, _: &Request, _: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let entries = [
            (INodeNo::ROOT, FileType::Directory, "."),
            (INodeNo::ROOT, FileType::Directory, ".."),
            (FILE_INODE, FileType::RegularFile, FILE),
        ];
        for (next, (ino, kind, name)) in (1..).zip(entries).skip(usize::try_from(offset).unwrap_or(usize::MAX)) {
            if reply.add(ino, next, kind, name) {
                break;
            }
        }
        reply.ok();
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        if ino != FILE_INODE {
            reply.error(Errno::EISDIR);
            return;
        }
        self.open.fetch_add(1, Ordering::SeqCst);
        reply.opened(FileHandle(0), FopenFlags::FOPEN_KEEP_CACHE);
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let left = usize::try_from(self.device.size().saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = usize::try_from(size).unwrap_or(usize::MAX).min(left).min(MAX_READ);
        let mut buf = vec![0; length];
        match self.device.read_at(offset, &mut buf) {
            Ok(()) if ino == FILE_INODE => reply.data(&buf),
            Ok(()) => reply.error(Errno::EISDIR),
            Err(error) => {
                self.watch.failed(&error);
                reply.error(Errno::EIO);
            }
        }
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        if self.open.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.watch.closed();
        }
    }
}

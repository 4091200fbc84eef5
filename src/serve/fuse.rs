//! A FUSE file system that is one file: the device. Its root is no directory but that file, so it is mounted over a file.
//!
//! `FUSE_ASYNC_DIO`, a loop device with direct I/O and several threads together make reads run in parallel (measured:
//! docs/design.md, "Reading").

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fuser::{
    BackgroundSession, BsdFileFlags, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, INodeNo,
    InitFlags, KernelConfig, LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyOpen,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno as SystemError;
use rustix::mount::{UnmountFlags, unmount};

use super::Watch;
use crate::fs::{BlockDevice, WritableDevice};
use crate::{Error, ErrorKind, Result};

/// Attributes never change, so the kernel may remember them.
const TTL: Duration = Duration::from_secs(3600);
const MAX_READ: usize = 1 << 20;
/// Reads that the kernel hands over before it makes who asks for more wait. A loop device asks from one thread, so behind 64 readers of
/// the file it would have one turn in 65 (measured: 47 reads a second beside 2,100; as many with this).
const MAX_WAITING: u16 = 1024;
/// Of fallocate(2): zeros instead of what is there, with or without a hole.
const PUNCH_HOLE: i32 = 2;
const ZERO_RANGE: i32 = 16;

/// A mounted device.
pub struct Door {
    session: BackgroundSession,
    file: PathBuf,
    /// Of the mounted file, to tell it from what stands at the same place after it.
    device_number: (u32, u32),
    open: Arc<AtomicUsize>,
}

impl Door {
    /// Mounts `device` over the regular file `file`, served by `threads` threads. Mount tables show it as `source`.
    ///
    /// # Errors
    /// Those of mounting.
    pub fn open(
        device: Arc<dyn BlockDevice>,
        file: &Path,
        source: &str,
        threads: usize,
        watch: Arc<dyn Watch>,
    ) -> Result<Self> {
        let fail = |error| Error::io(format!("FUSE at {}", file.display()), error);
        // Made absolute, so that it is the same file when it ends.
        let file = file.canonicalize().map_err(fail)?;
        let mut config = Config::default();
        config.mount_options = vec![
            MountOption::FSName(source.to_owned()),
            MountOption::DefaultPermissions,
            MountOption::NoSuid,
            MountOption::NoDev,
        ];
        if device.writable().is_none() {
            config.mount_options.push(MountOption::RO);
        }
        config.n_threads = Some(threads.max(1));
        let open = Arc::new(AtomicUsize::new(0));
        let session = fuser::spawn_mount(OneFile { device, watch, open: Arc::clone(&open) }, &file, &config);
        let session = session.map_err(fail)?;
        let device_number = device_number(&file).map_err(fail)?;
        Ok(Self { session, file, device_number, open })
    }

    /// Whether somebody has the file open; a loop device on it counts.
    #[must_use]
    pub fn in_use(&self) -> bool {
        self.open.load(Ordering::SeqCst) > 0
    }

    /// Takes the file out of the tree of files, so that nobody new opens it, and answers who has it open until they close it, for `patience` at most.
    ///
    /// # Errors
    /// `Unavailable` where it is still open after that: reads of it fail from then on. Those of unmounting.
    pub fn close(self, patience: Duration) -> Result<()> {
        let Self { session, file, device_number, .. } = self;
        let begun = Instant::now();
        // Where it was unmounted by another, what stands there now is not ours.
        let ours = !session.guard.is_finished() && self::device_number(&file).is_ok_and(|found| found == device_number);
        let detached = if ours { detach(&file) } else { Ok(()) };
        while detached.is_ok() && !session.guard.is_finished() && begun.elapsed() < patience {
            std::thread::sleep(Duration::from_millis(5));
        }
        let finished = session.guard.is_finished();
        // Dropped, it would unmount once more, by name.
        std::mem::forget(session);
        detached?;
        if !finished {
            let message = format!("{}: still open; further reads fail", file.display());
            return Err(Error::new(ErrorKind::Unavailable, message));
        }
        Ok(())
    }
}

/// Returns the number of the file system at `file`, without a question to the FUSE server.
///
/// A process that waits for an answer of its own threads while it is killed can never end: the kernel waits for the answer, and
/// aborts the FUSE connection only when the process is gone.
fn device_number(file: &Path) -> io::Result<(u32, u32)> {
    let found = statx(CWD, file, AtFlags::STATX_DONT_SYNC, StatxFlags::empty())?;
    Ok((found.stx_dev_major, found.stx_dev_minor))
}

/// Takes the topmost mount from `file`; who has it open keeps it.
///
/// # Errors
/// Those of unmounting.
pub fn detach(file: &Path) -> Result<()> {
    let fail = |error| Error::io(format!("unmounting {}", file.display()), error);
    if let Some(unmounted) = crate::sandbox::unmount(file, true) {
        return unmounted.map_err(fail);
    }
    match unmount(file, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        // Without root, the program that mounted it for us also unmounts it.
        Err(SystemError::PERM) => {
            let output = Command::new("fusermount3").args(["-u", "-z", "--"]).arg(file).output().map_err(fail)?;
            let said = String::from_utf8_lossy(&output.stderr);
            if output.status.success() { Ok(()) } else { Err(fail(io::Error::other(said.trim().to_owned()))) }
        }
        Err(error) => Err(fail(error.into())),
    }
}

struct OneFile {
    device: Arc<dyn BlockDevice>,
    watch: Arc<dyn Watch>,
    open: Arc<AtomicUsize>,
}

impl OneFile {
    fn attributes(&self) -> FileAttr {
        let size = self.device.size();
        FileAttr {
            ino: INodeNo::ROOT,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::RegularFile,
            perm: if self.device.writable().is_some() { 0o600 } else { 0o400 },
            nlink: 1,
            uid: rustix::process::getuid().as_raw(),
            gid: rustix::process::getgid().as_raw(),
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }

    /// Does what changes the file.
    fn change(&self, change: impl FnOnce(&dyn WritableDevice) -> Result<()>) -> Result<(), Errno> {
        let device = self.device.writable().ok_or(Errno::EROFS)?;
        change(device).map_err(|error| {
            self.watch.write_failed(&error);
            match error.kind() {
                ErrorKind::Full => Errno::ENOSPC,
                ErrorKind::Input => Errno::EINVAL,
                _ => Errno::EIO,
            }
        })
    }
}

fn done(result: Result<(), Errno>, reply: ReplyEmpty) {
    match result {
        Ok(()) => reply.ok(),
        Err(errno) => reply.error(errno),
    }
}

impl Filesystem for OneFile {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // A kernel without it still works, one miss at a time.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_background(MAX_WAITING);
        Ok(())
    }

    fn destroy(&mut self) {
        self.watch.ended();
    }

    fn getattr(&self, _: &Request, _: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attributes());
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.open.fetch_add(1, Ordering::SeqCst);
        reply.opened(
            FileHandle(0),
            match self.device.writable() {
                None => FopenFlags::FOPEN_KEEP_CACHE,
                // What is written elsewhere is seen here, and writes go side by side.
                Some(_) => FopenFlags::FOPEN_DIRECT_IO | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES,
            },
        );
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
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
            Ok(()) => reply.data(&buf),
            Err(error) => {
                self.watch.failed(&error);
                reply.error(Errno::EIO);
            }
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.change(|device| device.write_at(offset, data)) {
            Ok(()) => reply.written(u32::try_from(data.len()).expect("the kernel counts it in 32 bits")),
            Err(errno) => reply.error(errno),
        }
    }

    fn fallocate(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        if mode & (PUNCH_HOLE | ZERO_RANGE) == 0 {
            reply.error(Errno::EOPNOTSUPP);
            return;
        }
        let length = length.min(self.device.size().saturating_sub(offset));
        done(self.change(|device| device.discard(offset, length)), reply);
    }

    /// Its size is the device's, and nobody is told of the rest.
    fn setattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let attributes = self.attributes();
        match size.is_none_or(|size| size == attributes.size) {
            true => reply.attr(&TTL, &attributes),
            false => reply.error(Errno::EPERM),
        }
    }

    // What was written lives as long as the process: no disk could keep it longer.
    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
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

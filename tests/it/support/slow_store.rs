//! A directory as a store that is slow, fails, lies or goes away, seen through FUSE by the real programs: opening an object is the
//! request, which waits, is counted, and comes to what the script says.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, Request,
};

/// Requests that may wait at a time.
const THREADS: usize = 256;

/// What requests come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// What is there.
    True,
    /// EIO.
    Refused,
    /// Bytes of the right length that are not those.
    Wrong,
    /// Nothing is there, the store itself neither.
    Gone,
}

/// What happens, and what happened.
pub struct Script {
    pub delay: Mutex<Duration>,
    pub answer: Mutex<Answer>,
    /// Requests by object.
    pub requests: Mutex<BTreeMap<String, u64>>,
    pub in_flight: AtomicUsize,
    pub most_in_flight: AtomicUsize,
}

impl Script {
    pub fn set(&self, delay: Duration, answer: Answer) {
        *self.delay.lock().unwrap() = delay;
        *self.answer.lock().unwrap() = answer;
    }

    pub fn total(&self) -> u64 {
        self.requests.lock().unwrap().values().sum()
    }
}

/// Mounted until it is dropped.
pub struct SlowStore {
    pub script: Arc<Script>,
    session: Option<BackgroundSession>,
}

impl SlowStore {
    /// `source`, seen at `mount`, which is made.
    pub fn mount(source: &Path, mount: &Path, delay: Duration) -> Self {
        std::fs::create_dir_all(mount).unwrap();
        let script = Arc::new(Script {
            delay: Mutex::new(delay),
            answer: Mutex::new(Answer::True),
            requests: Mutex::default(),
            in_flight: AtomicUsize::new(0),
            most_in_flight: AtomicUsize::new(0),
        });
        let seen = Seen {
            script: Arc::clone(&script),
            paths: Mutex::new(vec![source.to_owned()]),
            open: Mutex::default(),
            next: AtomicU64::new(1),
        };
        let mut config = Config::default();
        config.mount_options = vec![MountOption::RO, MountOption::FSName("slow-store".to_owned())];
        config.n_threads = Some(THREADS);
        let session = fuser::spawn_mount(seen, mount, &config).expect("FUSE, as root");
        Self { script, session: Some(session) }
    }
}

impl Drop for SlowStore {
    fn drop(&mut self) {
        self.script.set(Duration::ZERO, Answer::True);
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}

struct Seen {
    script: Arc<Script>,
    /// Those that were looked up; an inode's number is its place, from 1 on.
    paths: Mutex<Vec<PathBuf>>,
    open: Mutex<BTreeMap<u64, Arc<Vec<u8>>>>,
    next: AtomicU64,
}

impl Seen {
    fn path(&self, ino: INodeNo) -> Option<PathBuf> {
        self.paths.lock().unwrap().get(usize::try_from(ino.0).ok()?.checked_sub(1)?).cloned()
    }

    fn attributes(&self, path: &Path, ino: INodeNo) -> Option<FileAttr> {
        if *self.script.answer.lock().unwrap() == Answer::Gone {
            return None;
        }
        let metadata = path.metadata().ok()?;
        let kind = if metadata.is_dir() { FileType::Directory } else { FileType::RegularFile };
        Some(FileAttr {
            ino,
            size: metadata.len(),
            blocks: metadata.len().div_ceil(512),
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: if metadata.is_dir() { 0o755 } else { 0o644 },
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// A request for an object, which takes as long as the script says.
    fn request(&self, path: &Path) -> Result<Vec<u8>, Errno> {
        let script = &self.script;
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        *script.requests.lock().unwrap().entry(name).or_default() += 1;
        let now = script.in_flight.fetch_add(1, Ordering::SeqCst) + 1;
        script.most_in_flight.fetch_max(now, Ordering::SeqCst);
        let begun = Instant::now();
        // In slices, so that a script that is set anew ends what hangs.
        loop {
            let left = script.delay.lock().unwrap().saturating_sub(begun.elapsed());
            if left.is_zero() {
                break;
            }
            std::thread::sleep(left.min(Duration::from_millis(50)));
        }
        script.in_flight.fetch_sub(1, Ordering::SeqCst);
        let answer = *script.answer.lock().unwrap();
        let mut bytes = std::fs::read(path).map_err(|_| Errno::ENOENT)?;
        match answer {
            Answer::True => {}
            Answer::Wrong => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            Answer::Refused => return Err(Errno::EIO),
            Answer::Gone => return Err(Errno::ENOENT),
        }
        Ok(bytes)
    }
}

impl Filesystem for Seen {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let Some(path) = self.path(parent).map(|parent| parent.join(name)) else { return reply.error(Errno::ENOENT) };
        let ino = {
            let mut paths = self.paths.lock().unwrap();
            let at = paths.iter().position(|known| *known == path).unwrap_or_else(|| {
                paths.push(path.clone());
                paths.len() - 1
            });
            INodeNo(at as u64 + 1)
        };
        match self.attributes(&path, ino) {
            Some(attributes) => reply.entry(&Duration::ZERO, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.path(ino).and_then(|path| self.attributes(&path, ino)) {
            Some(attributes) => reply.attr(&Duration::ZERO, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.path(ino).ok_or(Errno::ENOENT).and_then(|path| self.request(&path)) {
            Ok(bytes) => {
                let handle = self.next.fetch_add(1, Ordering::Relaxed);
                self.open.lock().unwrap().insert(handle, Arc::new(bytes));
                reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error),
        }
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let bytes = self.open.lock().unwrap().get(&handle.0).cloned().unwrap_or_default();
        let from = usize::try_from(offset).unwrap().min(bytes.len());
        let to = (from + usize::try_from(size).unwrap()).min(bytes.len());
        reply.data(&bytes[from..to]);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.open.lock().unwrap().remove(&handle.0);
        reply.ok();
    }
}

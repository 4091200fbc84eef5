//! Sealed chunks on the host's disk, shared by all images and processes: a file a chunk, written whole, found by its name.
//!
//! What comes from the origin is checked against its name before it is kept; what is read from the disk is checked by who opens
//! it, and [`Tier::forget`] drops what was not true. One process fetches a chunk, those that want it meanwhile wait for the file, but
//! not without end. Nothing is needed here: a disk that cannot be read or written is one that has nothing.
//!
//! Bounded in bytes, and no scan throws out what is used: a chunk that was read twice is marked (its mode has the owner's x), and
//! unmarked ones go first, the longest unused in front; marks are taken back where marked chunks would take nearly all.

use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{FlockOperation, flock};

use super::counts::Counts;
use super::slots::Slots;
use super::tier::{Place, Tier, Wanted};
use crate::cache::touch;
use crate::digest::Sha256;
use crate::store::ObjectName;
use crate::whole_file::{WholeFile, open_directory};
use crate::{Error, ErrorKind, Result};

/// How long another's fetch is waited for; then the origin is asked as well.
const PATIENCE: Duration = Duration::from_secs(5);
/// The waits between looks whether it ended: the first, and the longest; they double.
const LOOK: Duration = Duration::from_millis(2);
const LONGEST_LOOK: Duration = Duration::from_millis(20);
/// Of the bound, what is written between two looks at the whole.
const SHARE: u64 = 64;
const KEPT: u32 = 0o600;
const MARKED: u32 = 0o700;

/// A directory of sealed chunks.
pub struct DiskCache {
    directory: PathBuf,
    max_bytes: u64,
    /// What was in it when this process last measured it.
    measured: AtomicU64,
    /// Since then, by this process.
    written: AtomicU64,
}

/// A tier behind a disk cache.
pub struct CachedTier {
    next: Box<dyn Tier>,
    cache: Arc<DiskCache>,
    counts: Arc<Counts>,
}

impl DiskCache {
    /// The cache in `directory`, which is made where it is not there, of at most `max_bytes`.
    ///
    /// # Errors
    /// Those of the file system, naming the directory.
    pub fn open(directory: &Path, max_bytes: u64) -> Result<Self> {
        for path in [directory.to_owned(), directory.join("chunks"), directory.join("locks")] {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(|error| Error::file(&path, error))?;
        }
        let (measured, written) = (AtomicU64::new(0), AtomicU64::new(0));
        let cache = Self { directory: directory.to_owned(), max_bytes, measured, written };
        // It may have been larger before.
        let _ = cache.trim();
        Ok(cache)
    }

    /// The bound of at most `count` requests to the origin at a time, of all processes that use this directory.
    #[must_use]
    pub fn slots(&self, count: usize) -> Slots {
        Slots::new(&self.directory.join("locks"), count)
    }

    /// Bytes in it, as far as this process knows, and most that there may be. Processes measure it in turn; what others wrote since
    /// then is not known.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.measured.load(Ordering::Relaxed) + self.written.load(Ordering::Relaxed), self.max_bytes)
    }

    fn path(&self, chunk: &str) -> PathBuf {
        self.directory.join("chunks").join(&chunk[..2]).join(chunk)
    }

    fn read(&self, chunk: &str, limit: u64) -> Option<Vec<u8>> {
        let file = File::open(self.path(chunk)).ok()?;
        let metadata = file.metadata().ok()?;
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(limit)).ok()?);
        (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > limit {
            return None;
        }
        if metadata.permissions().mode() & 0o777 != MARKED {
            // Read for the second time: the first was when it came.
            let _ = file.set_permissions(Permissions::from_mode(MARKED));
        }
        touch(&file);
        Some(bytes)
    }

    fn keep(&self, chunk: &str, bytes: &[u8]) -> io::Result<()> {
        let path = self.path(chunk);
        let directory = path.parent().expect("it is in a directory");
        if !directory.is_dir() {
            let made = std::fs::DirBuilder::new().mode(0o700).create(directory);
            made.or_else(|error| if directory.is_dir() { Ok(()) } else { Err(error) })?;
        }
        let opened = open_directory(directory)?;
        let file = WholeFile::create(&opened, KEPT)?;
        file.file().write_all(bytes)?;
        file.replace(Path::new(chunk))?;
        let length = bytes.len() as u64;
        if self.written.fetch_add(length, Ordering::Relaxed) + length > self.max_bytes / SHARE {
            self.trim()?;
        }
        Ok(())
    }

    /// A lock on `chunk`, of all processes; `None` where another holds it for too long.
    fn lock(&self, chunk: &str, until: Instant) -> Option<File> {
        let path = self.directory.join("locks").join(&chunk[..3]);
        let file = File::options().write(true).create(true).truncate(false).open(path).ok()?;
        let ends = until.min(Instant::now() + PATIENCE);
        let mut wait = LOOK;
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Some(file),
                Err(rustix::io::Errno::WOULDBLOCK) if Instant::now() < ends => std::thread::sleep(wait),
                Err(_) => return None,
            }
            wait = (wait * 2).min(LONGEST_LOOK);
        }
    }

    /// Deletes what is too much, if nobody else is at it.
    fn trim(&self) -> io::Result<()> {
        let lock = File::options().write(true).create(true).truncate(false).open(self.directory.join("locks/trim"))?;
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(());
        }
        self.written.store(0, Ordering::Relaxed);
        let (mut unmarked, mut marked) = (Vec::new(), Vec::new());
        for directory in std::fs::read_dir(self.directory.join("chunks"))? {
            for entry in std::fs::read_dir(directory?.path())?.flatten() {
                let Ok(metadata) = entry.metadata() else { continue };
                let used = metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH);
                let is_marked = metadata.permissions().mode() & 0o777 == MARKED;
                let list = if is_marked { &mut marked } else { &mut unmarked };
                list.push((used, metadata.len(), entry.path()));
            }
        }
        unmarked.sort_unstable();
        marked.sort_unstable();
        let total = |list: &[(SystemTime, u64, PathBuf)]| list.iter().map(|(_, length, _)| length).sum::<u64>();
        let (mut bytes, mut of_marked) = (total(&unmarked) + total(&marked), total(&marked));
        // Until the next look, so much may come.
        let most = self.max_bytes - self.max_bytes / SHARE;
        for (_, length, path) in unmarked.iter().chain(&marked) {
            if bytes <= most {
                break;
            }
            if std::fs::remove_file(path).is_ok() {
                bytes -= length;
            }
        }
        self.measured.store(bytes, Ordering::Relaxed);
        for (_, length, path) in &marked {
            if of_marked <= self.max_bytes / 10 * 9 {
                break;
            }
            let _ = std::fs::set_permissions(path, Permissions::from_mode(KEPT));
            of_marked -= length;
        }
        Ok(())
    }
}

impl CachedTier {
    /// `next`, asked for what `cache` has not.
    #[must_use]
    pub fn new(next: Box<dyn Tier>, cache: Arc<DiskCache>, counts: Arc<Counts>) -> Self {
        Self { next, cache, counts }
    }

    fn found(&self, chunk: &str, limit: u64) -> Option<(Vec<u8>, Place)> {
        let bytes = self.cache.read(chunk, limit)?;
        let counts = self.counts.of(Place::Disk);
        counts.hits.add(1);
        counts.bytes.add(bytes.len() as u64);
        Some((bytes, Place::Disk))
    }
}

impl CachedTier {
    /// From the next tier, checked; what is not true is asked for again where that may help.
    fn fetch(&self, wanted: &Wanted<'_>, digest: Sha256, until: Instant) -> Result<(Vec<u8>, Place)> {
        let (bytes, place) = self.next.get(wanted, until)?;
        if Sha256::of(&bytes) == digest {
            return Ok((bytes, place));
        }
        self.counts.of(place).refused.add(1);
        if place != Place::Origin && self.next.forget(wanted) {
            return self.fetch(wanted, digest, until);
        }
        let message = format!("object {}: its bytes are not those of its name", wanted.name);
        Err(Error::new(ErrorKind::Corrupt, message))
    }
}

impl Tier for CachedTier {
    fn get(&self, wanted: &Wanted<'_>, until: Instant) -> Result<(Vec<u8>, Place)> {
        let Some((chunk, digest)) = wanted.name.chunk_digest() else { return self.next.get(wanted, until) };
        if let Some(found) = self.found(chunk, wanted.limit) {
            return Ok(found);
        }
        let lock = self.cache.lock(chunk, until);
        // It may have come meanwhile.
        if let Some(found) = self.found(chunk, wanted.limit) {
            return Ok(found);
        }
        self.counts.of(Place::Disk).misses.add(1);
        let (bytes, place) = self.fetch(wanted, digest, until)?;
        // A disk that is full has room for nothing.
        if self.cache.keep(chunk, &bytes).is_err() {
            let _ = self.cache.trim();
        }
        drop(lock);
        Ok((bytes, place))
    }

    fn forget(&self, wanted: &Wanted<'_>) -> bool {
        let here = wanted.name.chunk_digest().map(|(chunk, _)| self.cache.path(chunk));
        here.is_some_and(|path| std::fs::remove_file(path).is_ok()) || self.next.forget(wanted)
    }

    fn keeps(&self, name: &ObjectName) -> Option<bool> {
        name.chunk_digest().map(|(chunk, _)| self.cache.path(chunk).exists())
    }
}

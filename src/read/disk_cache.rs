//! Sealed chunks on the host's disk, shared by all images and processes: a file a chunk, written whole, found by its name.
//!
//! What comes from the origin is checked against its name before it is kept; what is read from the disk is checked by who opens
//! it, and [`Tier::forget`] drops what was not true, or no longer looks at it where it cannot be deleted. One process fetches a chunk,
//! those that want it meanwhile wait for the file, but not without end. Nothing is needed here: a disk that cannot be read or written is
//! one that has nothing.
//!
//! Bounded in bytes (`room.rs`), and no scan throws out what is used: a chunk that was read twice is marked (its mode has the owner's
//! x), and unmarked ones go first, the longest unused in front; marks are taken back where marked chunks would take nearly all.

use std::collections::BTreeSet;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, statat, unlinkat};
use rustix::process::geteuid;

use super::counts::Counts;
use super::learned::{self, ProfileStore};
use super::private_directory::{PrivateDirectory, make_below, open_below};
use super::room::{Room, lock};
use super::slots::Slots;
use super::tier::{Place, Tier, Wanted};
use crate::atomic_file::AtomicFile;
use crate::crypto::profile_seal::ProfileId;
use crate::digest::Sha256;
use crate::private_file::touch;
use crate::private_file::{self, Access};
use crate::store::ObjectName;
use crate::sync::{Mutex, MutexGuard, failure_point, now, stamp_file, switch_point};
use crate::{Error, ErrorKind, Result};

/// How long another's fetch is waited for; then the origin is asked as well.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a chunk waits for its room; then it is not kept.
const PATIENCE_FOR_ROOM: Duration = Duration::from_secs(1);
/// Of the bound, what is deleted at a time; deleting begins when half of that is left.
const SHARE: u64 = 64;
/// Looks at what the next tier gives falsely before a chunk is given up.
const LOOKS: usize = 3;
/// Maximum number of parts of learned profiles; the longest unused are deleted.
const MAX_LEARNED: usize = 1024;
const KEPT: u32 = 0o600;
const MARKED: u32 = 0o700;

/// A directory of sealed chunks.
pub struct DiskCache {
    directory: PathBuf,
    chunks: PrivateDirectory,
    locks: Arc<PrivateDirectory>,
    learned: PrivateDirectory,
    max_bytes: u64,
    room: Room,
    /// Chunks whose copies are not true and could not be deleted.
    refused: Mutex<BTreeSet<Sha256>>,
}

/// A tier behind a disk cache.
pub struct CachedTier {
    next: Box<dyn Tier>,
    cache: Arc<DiskCache>,
    counts: Arc<Counts>,
}

/// Why something must go.
#[derive(Clone, Copy)]
enum Need {
    /// So many bytes are to come, within the bound.
    Room(u64),
    /// The disk has no room.
    Disk,
}

/// A file in it: when it was used last, its length, its directory's name and its own.
type Kept = (SystemTime, u64, Arc<str>, String);

impl DiskCache {
    /// The cache in `directory`, which is made where it is not there, of at most `max_bytes`.
    ///
    /// # Errors
    /// Those of the file system, naming the directory.
    pub fn open(directory: &Path, max_bytes: u64) -> Result<Self> {
        let open =
            |name| PrivateDirectory::open(directory, name).map_err(|error| Error::file(&directory.join(name), error));
        let (chunks, locks, learned) = (open("chunks")?, Arc::new(open("locks")?), open("learned")?);
        let (directory, room) = (directory.to_owned(), Room::new(Arc::clone(&locks)));
        let cache = Self { directory, chunks, locks, learned, max_bytes, room, refused: Mutex::default() };
        // It may have been larger before.
        if cache.room.taken().is_none_or(|taken| taken > max_bytes) {
            let _ = cache.trim(Need::Room(0), now(), now() + PATIENCE);
        }
        Ok(cache)
    }

    /// Where it is.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.directory
    }

    /// Returns why other users can put files into one of its directories, naming it; `None` if only this user, or root, can.
    #[must_use]
    pub fn is_shared(&self) -> Option<String> {
        [self.directory.clone(), self.chunks.path(), self.locks.path(), self.learned.path()].iter().find_map(|path| {
            let reason = private_file::shared_directory(path).ok()??;
            Some(format!("{}: {reason}", path.display()))
        })
    }

    /// The bound of at most `count` requests to the origin at a time, of all processes that use this directory.
    #[must_use]
    pub fn slots(&self, count: usize) -> Slots {
        Slots::new(Arc::clone(&self.locks), count)
    }

    /// Bytes in it, of all processes, and most that there may be. What was deleted by others counts until it is measured again.
    #[must_use]
    pub fn bytes(&self) -> (u64, u64) {
        (self.room.taken().unwrap_or_default(), self.max_bytes)
    }

    /// The directory that a chunk is in.
    fn directory(&self, chunk: &str) -> io::Result<OwnedFd> {
        open_below(&*self.chunks.descriptor(), &chunk[..2])
    }

    fn refused(&self) -> MutexGuard<'_, BTreeSet<Sha256>> {
        self.refused.lock()
    }

    fn read(&self, chunk: &str, digest: Sha256, limit: u64) -> Option<Vec<u8>> {
        if self.refused().contains(&digest) {
            return None;
        }
        let file = private_file::open_at(self.directory(chunk).ok()?, Path::new(chunk), Access::Read).ok()?;
        failure_point().ok()?;
        let metadata = file.metadata().ok()?;
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(limit)).ok()?);
        failure_point().ok()?;
        (&file).take(limit.saturating_add(1)).read_to_end(&mut bytes).ok()?;
        if bytes.len() as u64 > limit {
            return None;
        }
        if metadata.permissions().mode() & 0o777 != MARKED {
            // Read for the second time: the first was when it came.
            let _ = file.set_permissions(Permissions::from_mode(MARKED));
        }
        if !stamp_file(&file) {
            touch(&file);
        }
        Some(bytes)
    }

    /// Keeps a chunk that is true; where there is no room for it, what was not used for long makes some.
    /// Waits for other processes no longer than half of the time until `deadline`.
    fn keep(&self, chunk: &str, digest: Sha256, bytes: &[u8], deadline: Instant) -> io::Result<()> {
        let patience = PATIENCE_FOR_ROOM.min(deadline.saturating_duration_since(now()) / 2);
        let (length, until) = (bytes.len() as u64, now() + patience);
        let mut taken = self.room.take(length, self.max_bytes, until)?;
        if taken.is_none() {
            self.trim(Need::Room(length), until, until)?;
            taken = self.room.take(length, self.max_bytes, until)?;
        }
        let Some(taken) = taken else {
            tracing::debug!(chunk, bytes = length, "disk cache: no room");
            return Ok(());
        };
        self.write(chunk, bytes)?;
        tracing::debug!(chunk, bytes = length, "disk cache: written");
        self.refused().remove(&digest);
        let all = taken.all;
        drop(taken);
        if all > self.enough() {
            // Whoever is at it already does it for all.
            self.trim(Need::Room(0), now(), until)?;
        }
        Ok(())
    }

    /// With so much in it, nothing need be deleted yet.
    fn enough(&self) -> u64 {
        self.max_bytes - self.max_bytes / SHARE / 2
    }

    fn write(&self, chunk: &str, bytes: &[u8]) -> io::Result<()> {
        let directory = make_below(&*self.chunks.descriptor(), &chunk[..2])?;
        failure_point()?;
        let file = AtomicFile::create(&directory, KEPT)?;
        file.file().write_all(bytes)?;
        stamp_file(file.file());
        failure_point()?;
        file.replace(Path::new(chunk))
    }

    /// After `error`, that the next chunk finds what this one did not.
    fn recover(&self, error: &io::Error, deadline: Instant) {
        tracing::info!(%error, "disk cache: a chunk cannot be written");
        let _ = match error.kind() {
            // The disk is smaller than the bound, or others fill it.
            io::ErrorKind::StorageFull => self.trim(Need::Disk, now(), deadline),
            // Somebody deleted all of it.
            io::ErrorKind::NotFound => self.chunks.renew().and_then(|()| self.locks.renew()),
            _ => Ok(()),
        };
    }

    /// A copy was not true.
    fn drop_copy(&self, chunk: &str, digest: Sha256) {
        let removed = failure_point().and_then(|()| self.directory(chunk));
        match removed.and_then(|directory| Ok(unlinkat(directory, chunk, AtFlags::empty())?)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                self.refused().insert(digest);
            }
            _ => {}
        }
    }

    /// Whether there is a copy of `chunk`.
    fn has(&self, chunk: &str) -> bool {
        let stat = self.directory(chunk).and_then(|directory| Ok(statat(directory, chunk, AtFlags::SYMLINK_NOFOLLOW)?));
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile)
    }

    /// A lock on `chunk`, of all processes; `None` where another holds it for too long.
    fn lock(&self, chunk: &str, until: Instant) -> Option<File> {
        // The other half of the time is for fetching it.
        let until = now() + PATIENCE.min(until.saturating_duration_since(now()) / 2);
        lock(&self.locks, &chunk[..3], FlockOperation::NonBlockingLockExclusive, until).ok()?
    }

    /// Measures what is there and deletes what is too much; who is at it already is waited for until `until`, and may have done enough.
    /// Waits for those who write no longer than `deadline`.
    fn trim(&self, need: Need, until: Instant, deadline: Instant) -> io::Result<()> {
        let Some(measuring) = self.room.measure(until, deadline)? else { return Ok(()) };
        if let (Need::Room(length), Some(taken)) = (need, measuring.begun)
            && taken.saturating_add(length) <= self.enough()
        {
            return Ok(());
        }
        let (unmarked, marked) = self.kept()?;
        let total = |list: &[Kept]| list.iter().map(|(_, length, ..)| length).sum::<u64>();
        let (mut bytes, mut of_marked) = (total(&unmarked) + total(&marked), total(&marked));
        let most = match need {
            Need::Room(length) => self.max_bytes.saturating_sub((self.max_bytes / SHARE).max(length)),
            Need::Disk => bytes - bytes / SHARE,
        };
        let chunks = self.chunks.descriptor();
        for (_, length, directory, name) in unmarked.iter().chain(&marked) {
            if bytes <= most {
                break;
            }
            switch_point();
            let removed = open_below(&*chunks, directory).map(|directory| unlinkat(directory, name, AtFlags::empty()));
            if matches!(removed, Ok(Ok(()))) {
                bytes -= length;
            }
        }
        tracing::debug!(bytes, maximum = self.max_bytes, "disk cache: trimmed");
        measuring.end(bytes)?;
        for (_, length, directory, name) in &marked {
            if of_marked <= self.max_bytes / 10 * 9 {
                break;
            }
            let _ = open_below(&*chunks, directory)
                .and_then(|directory| private_file::open_at(directory, Path::new(name), Access::Read))
                .and_then(|file| file.set_permissions(Permissions::from_mode(KEPT)));
            of_marked -= length;
        }
        Ok(())
    }

    /// Its files, those that were not read again and those that were, each the longest unused in front.
    fn kept(&self) -> io::Result<(Vec<Kept>, Vec<Kept>)> {
        let (mut unmarked, mut marked) = (Vec::new(), Vec::new());
        let (chunks, own) = (self.chunks.descriptor(), geteuid().as_raw());
        for name in names(&chunks)? {
            // What is no directory, or not to be read, is not of this cache.
            let Ok(directory) = open_below(&*chunks, &name) else { continue };
            let shared: Arc<str> = name.into();
            for name in names(&directory)? {
                let Ok(stat) = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
                if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile || stat.st_uid != own {
                    continue;
                }
                let seconds = u64::try_from(stat.st_mtime).unwrap_or_default();
                let since = Duration::new(seconds, u32::try_from(stat.st_mtime_nsec).unwrap_or_default());
                let list = if stat.st_mode & 0o777 == MARKED { &mut marked } else { &mut unmarked };
                let length = u64::try_from(stat.st_size).unwrap_or_default();
                list.push((SystemTime::UNIX_EPOCH + since, length, Arc::clone(&shared), name));
            }
        }
        unmarked.sort_unstable();
        marked.sort_unstable();
        Ok((unmarked, marked))
    }
}

/// Learned profiles, a file for each part. They are not counted among the chunks: together they are below 250 MB.
impl ProfileStore for DiskCache {
    fn load(&self, id: ProfileId) -> Option<Vec<u8>> {
        let file = self.learned.file(&id.to_string(), Access::Read).ok()?;
        let mut part = Vec::new();
        (&file).take(learned::MAX_BYTES as u64 + 1).read_to_end(&mut part).ok()?;
        touch(&file);
        Some(part)
    }

    fn save(&self, id: ProfileId, part: &[u8]) {
        if let Err(error) = self.save_learned(&id.to_string(), part) {
            tracing::info!(%error, "disk cache: a learned profile cannot be written");
        }
    }
}

impl DiskCache {
    fn save_learned(&self, name: &str, part: &[u8]) -> io::Result<()> {
        let directory = self.learned.descriptor();
        let write = |directory: &OwnedFd| {
            let file = AtomicFile::create(directory, KEPT)?;
            file.file().write_all(part)?;
            file.replace(Path::new(name))
        };
        match write(&directory) {
            // Somebody deleted the whole cache.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.learned.renew()?;
                write(&self.learned.descriptor())?;
            }
            written => written?,
        }
        let directory = self.learned.descriptor();
        let names = names(&directory)?;
        if names.len() <= MAX_LEARNED {
            return Ok(());
        }
        let used = |name: &String| statat(&*directory, name, AtFlags::SYMLINK_NOFOLLOW).map(|stat| stat.st_mtime).ok();
        let mut by_use: Vec<_> = names.iter().map(|name| (used(name), name)).collect();
        by_use.sort_unstable();
        for (_, name) in by_use.iter().take(names.len() - MAX_LEARNED / 4 * 3) {
            unlinkat(&*directory, *name, AtFlags::empty())?;
        }
        Ok(())
    }
}

/// The names in a directory, but for those that are no text, which no cache writes.
fn names(directory: &OwnedFd) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        names.extend(entry?.file_name().to_str().ok().filter(|name| !matches!(*name, "." | "..")).map(str::to_owned));
    }
    Ok(names)
}

impl CachedTier {
    /// `next`, asked for what `cache` has not.
    #[must_use]
    pub fn new(next: Box<dyn Tier>, cache: Arc<DiskCache>, counts: Arc<Counts>) -> Self {
        Self { next, cache, counts }
    }

    fn found(&self, chunk: &str, digest: Sha256, limit: u64) -> Option<(Vec<u8>, Place)> {
        let Some(bytes) = self.cache.read(chunk, digest, limit) else {
            tracing::debug!(chunk, "disk cache: miss");
            return None;
        };
        tracing::debug!(chunk, bytes = bytes.len(), "disk cache: hit");
        let counts = self.counts.of(Place::Disk);
        counts.hits.add(1);
        counts.bytes.add(bytes.len() as u64);
        Some((bytes, Place::Disk))
    }
}

impl CachedTier {
    /// From the next tier, checked; what is not true is asked for again where that may help.
    fn fetch(&self, wanted: &Wanted<'_>, digest: Sha256, until: Instant) -> Result<(Vec<u8>, Place)> {
        let mut found = digest;
        for _ in 0..LOOKS {
            let (bytes, place) = self.next.get(wanted, until)?;
            found = Sha256::of(&bytes);
            if found == digest {
                return Ok((bytes, place));
            }
            self.counts.of(place).refused.add(1);
            if place == Place::Origin || !self.next.forget(wanted) {
                break;
            }
        }
        let message = format!("object {}: the SHA-256 of the stored object is {found}", wanted.name);
        Err(Error::new(ErrorKind::Corrupt, message))
    }
}

impl Tier for CachedTier {
    fn get(&self, wanted: &Wanted<'_>, until: Instant) -> Result<(Vec<u8>, Place)> {
        let Some((chunk, digest)) = wanted.name.chunk_digest() else { return self.next.get(wanted, until) };
        if let Some(found) = self.found(chunk, digest, wanted.limit) {
            return Ok(found);
        }
        let lock = self.cache.lock(chunk, until);
        // It may have come meanwhile.
        if let Some(found) = self.found(chunk, digest, wanted.limit) {
            return Ok(found);
        }
        self.counts.of(Place::Disk).misses.add(1);
        let (bytes, place) = self.fetch(wanted, digest, until)?;
        if let Err(error) = self.cache.keep(chunk, digest, &bytes, until) {
            self.cache.recover(&error, until);
        }
        drop(lock);
        Ok((bytes, place))
    }

    fn forget(&self, wanted: &Wanted<'_>) -> bool {
        let Some((chunk, digest)) = wanted.name.chunk_digest() else { return self.next.forget(wanted) };
        // Where another process dropped it first, asking again helps as well.
        self.cache.drop_copy(chunk, digest);
        true
    }

    fn has_room(&self, bytes: u64) -> bool {
        self.cache.room.taken().is_some_and(|taken| taken.saturating_add(bytes) <= self.cache.enough())
    }

    fn keeps(&self, name: &ObjectName) -> Option<bool> {
        let (chunk, digest) = name.chunk_digest()?;
        Some(!self.cache.refused().contains(&digest) && self.cache.has(chunk))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_all_who_share_the_directory() {
        const BOUND: u64 = 256 << 10;
        let directory = tempfile::tempdir().unwrap();
        // As processes: each knows only what it did itself and what is on the disk.
        let caches: Vec<DiskCache> = (0..16).map(|_| DiskCache::open(directory.path(), BOUND).unwrap()).collect();
        let there = |cache: &DiskCache| {
            let (unmarked, marked) = cache.kept().unwrap();
            unmarked.iter().chain(&marked).map(|(_, length, ..)| length).sum::<u64>()
        };
        let mut most = 0;
        for round in 0..64u64 {
            std::thread::scope(|scope| {
                for (number, cache) in (0u64..).zip(&caches) {
                    scope.spawn(move || {
                        let bytes = [round.to_le_bytes(), number.to_le_bytes()].concat().repeat(250);
                        let digest = Sha256::of(&bytes);
                        cache.keep(&digest.to_hex(), digest, &bytes, now() + PATIENCE).unwrap();
                    });
                }
            });
            let bytes = there(&caches[0]);
            assert!(bytes <= BOUND, "round {round}: {bytes}");
            assert!(caches[3].bytes().0 >= bytes, "round {round}");
            most = most.max(bytes);
        }
        assert!(most > BOUND / 10 * 9, "{most}");
    }

    /// Gives one chunk.
    struct Next(Vec<u8>);

    impl Tier for Next {
        fn get(&self, _: &Wanted<'_>, _: Instant) -> Result<(Vec<u8>, Place)> {
            Ok((self.0.clone(), Place::Origin))
        }
    }

    #[test]
    fn locks_that_a_stopped_process_holds_delay_no_read_past_its_deadline() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Arc::new(DiskCache::open(directory.path(), 1 << 20).unwrap());
        let bytes = b"a chunk".to_vec();
        let digest = Sha256::of(&bytes);
        let name = ObjectName::chunk(&"main".parse().unwrap(), digest);
        let key = crate::crypto::ChunkKey::from_bytes([1; 32]);
        let wanted = Wanted { name: &name, limit: bytes.len() as u64, key: &key, background: false };
        let tier = CachedTier::new(Box::new(Next(bytes)), Arc::clone(&cache), Arc::default());
        let chunk = digest.to_hex();
        for file in [&chunk[..3], "writing", "measuring", "taken"] {
            let soon = now() + Duration::from_millis(200);
            let held = lock(&cache.locks, file, FlockOperation::NonBlockingLockExclusive, soon).unwrap();
            assert!(tier.get(&wanted, soon).is_ok() && now() < soon + Duration::from_millis(200), "{file}");
            drop(held);
            cache.drop_copy(&chunk, digest);
        }
    }
}

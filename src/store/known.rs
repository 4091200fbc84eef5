//! What is known to be stored, so that a repeated conversion does not send it again: what this machine saw answered, and what an
//! earlier manifest names.
//!
//! One file of the cache for a store, root and scope: `puts-ID`, its ID being made of all three under the salt. It grows by records
//! of 48 bytes, a chunk's name and 16 bytes of a MAC under a key made of the salt, each written whole: one says that somebody is
//! about to put it, another that the service answered. So several processes may write at once and leave to one of them what all
//! have, a torn or forged record is no record, and the file tells no key. It may be deleted at any time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::{BucketUrl, ObjectName, PutIfAbsent, PutOutcome, RootId};
use crate::conversion_cache::Cache;
use crate::crypto::{Salt, Secret};
use crate::digest::Sha256;
use crate::private_file::{self, Access, touch};
use crate::{Error, Result};

const NAME: usize = 32;
const TAG: usize = 16;
const RECORD: usize = NAME + TAG;
/// So many records are read; 8 million chunks are 4 TiB.
const MAX_BYTES: u64 = (RECORD as u64) << 24;
/// What the MAC of a claim is made of besides the name.
const CLAIM: u8 = 1;
/// How long a put is left to the process that is about to do it. It can have died since; another put does no harm.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks whether it has done it.
const LOOK: Duration = Duration::from_millis(10);
/// Records that are read at a time.
const PIECE: usize = RECORD * 256;

/// What is known to be in one store, under one root, in one scope.
pub struct Known<'a> {
    cache: &'a Cache,
    key: Secret,
    seen: Mutex<Seen>,
}

/// What the file said so far.
#[derive(Default)]
struct Seen {
    /// `None` where it cannot be written.
    file: Option<File>,
    read: u64,
    names: BTreeSet<[u8; NAME]>,
    /// Where the first claim of each stands; none of a process that has ended before this one began.
    claims: BTreeMap<[u8; NAME], u64>,
}

/// Who puts a chunk.
#[derive(Debug, PartialEq, Eq)]
enum Claim {
    /// It is there.
    Stored,
    /// We do.
    Ours,
    /// Another process does.
    Theirs,
}

/// A store, and what is known to be there.
pub struct KnownPuts<'a> {
    store: Box<dyn PutIfAbsent>,
    known: Option<Known<'a>>,
    base: BTreeSet<Sha256>,
}

impl<'a> Known<'a> {
    /// Reads what `cache` has for this store, root and scope.
    #[must_use]
    pub fn open(cache: &'a Cache, url: &BucketUrl, endpoint: Option<&str>, root: &RootId, salt: &Salt) -> Self {
        let place = format!("{url}\n{}\n{root}\n", endpoint.unwrap_or_default());
        let path = cache.path(&cache.name("puts-", &[place.as_bytes()]));
        let known = Self { cache, key: salt.puts_key(&place), seen: Mutex::default() };
        if let Err(error) = known.read(&path) {
            cache.fail(Error::file(&path, error));
        }
        known
    }

    fn read(&self, path: &Path) -> io::Result<()> {
        let mut seen = self.seen();
        match private_file::open(path, Access::Read) {
            Ok(file) => {
                // Who is alone with it finds no claim of anyone who lives; where files cannot be locked, nobody can tell.
                let alone = flock(&file, FlockOperation::NonBlockingLockExclusive) != Err(Errno::WOULDBLOCK);
                self.catch_up(&mut seen, &file)?;
                if alone {
                    seen.claims.clear();
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut file = private_file::open(path, Access::Append)?;
        // Held until we end.
        let _ = flock(&file, FlockOperation::LockShared);
        touch(&file);
        let torn = usize::try_from(file.metadata()?.len() % RECORD as u64).expect("shorter than a record");
        if torn > 0 {
            // Whatever follows would stand askew.
            file.write_all(&[0; RECORD][torn..])?;
        }
        seen.file = Some(file);
        Ok(())
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("no thread panics with it")
    }

    /// Reads the records that `file` has got since.
    fn catch_up(&self, seen: &mut Seen, file: &File) -> io::Result<()> {
        let mut piece = [0; PIECE];
        while seen.read < MAX_BYTES {
            let mut length = 0;
            while length < PIECE {
                match file.read_at(&mut piece[length..], seen.read + length as u64)? {
                    0 => break,
                    read => length += read,
                }
            }
            let (records, _) = piece[..length].as_chunks::<RECORD>();
            if records.is_empty() {
                break;
            }
            for record in records {
                let (name, found) = record.split_first_chunk::<NAME>().expect("a record begins with a name");
                if self.tag(name) == *found {
                    seen.names.insert(*name);
                } else if self.claim_tag(name) == *found {
                    seen.claims.entry(*name).or_insert(seen.read);
                }
                seen.read += RECORD as u64;
            }
        }
        Ok(())
    }

    /// Whether it is stored, as far as anyone here has seen.
    fn has(&self, name: &[u8; NAME]) -> bool {
        let mut seen = self.seen();
        seen.names.contains(name) || self.has_now(&mut seen, name)
    }

    fn has_now(&self, seen: &mut Seen, name: &[u8; NAME]) -> bool {
        if let Some(file) = seen.file.take() {
            let caught_up = self.catch_up(seen, &file);
            seen.file = Some(file);
            caught_up.unwrap_or_else(|error| self.fail(error));
        }
        seen.names.contains(name)
    }

    /// Says that we are about to put it, unless it is there or somebody else said so first.
    fn claim(&self, name: &[u8; NAME]) -> Claim {
        let mut seen = self.seen();
        if seen.names.contains(name) || self.has_now(&mut seen, name) {
            return Claim::Stored;
        }
        if seen.claims.contains_key(name) {
            return Claim::Theirs;
        }
        let Some(mut file) = seen.file.as_ref() else { return Claim::Ours };
        let record = [&name[..], &self.claim_tag(name)].concat();
        // Appending leaves the position behind what was appended, wherever that came to stand.
        let ours = match file.write_all(&record).and_then(|()| file.stream_position()) {
            Ok(end) => end.saturating_sub(RECORD as u64),
            Err(error) => {
                self.fail(error);
                return Claim::Ours;
            }
        };
        match self.has_now(&mut seen, name) {
            true => Claim::Stored,
            false if seen.claims.get(name).is_none_or(|first| *first == ours) => Claim::Ours,
            false => Claim::Theirs,
        }
    }

    /// Waits until somebody else has put it; whether that came to pass.
    fn wait_for(&self, name: &[u8; NAME]) -> bool {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            std::thread::sleep(LOOK);
            if self.has(name) {
                return true;
            }
        }
        false
    }

    fn note(&self, name: &[u8; NAME]) {
        let record = [&name[..], &self.tag(name)].concat();
        self.cache.grew();
        if let Some(mut file) = self.seen().file.as_ref()
            && let Err(error) = file.write_all(&record)
        {
            self.fail(error);
        }
    }

    fn fail(&self, error: io::Error) {
        self.cache.fail(Error::io("what is known of the store", error));
    }

    fn tag(&self, name: &[u8]) -> [u8; TAG] {
        let mut tag = [0; TAG];
        tag.copy_from_slice(&crate::crypto::convergent::mac(&self.key, name)[..TAG]);
        tag
    }

    fn claim_tag(&self, name: &[u8; NAME]) -> [u8; TAG] {
        self.tag(&[&name[..], &[CLAIM]].concat())
    }
}

impl<'a> KnownPuts<'a> {
    /// Puts into `store` what is not `known` to be there, and not in the `base`, a manifest of the same store, root and scope.
    #[must_use]
    pub fn new(store: Box<dyn PutIfAbsent>, known: Option<Known<'a>>, base: BTreeSet<Sha256>) -> Self {
        Self { store, known, base }
    }

    fn is_known(&self, chunk: &[u8; NAME]) -> bool {
        self.base.contains(&Sha256::from_bytes(*chunk)) || self.known.as_ref().is_some_and(|known| known.has(chunk))
    }
}

fn chunk_name(name: &ObjectName) -> Option<[u8; NAME]> {
    name.chunk_digest().map(|(_, digest)| *digest.as_bytes())
}

impl PutIfAbsent for KnownPuts<'_> {
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
        let chunk = chunk_name(name);
        if chunk.is_some_and(|chunk| self.is_known(&chunk)) {
            return Ok(PutOutcome::Known);
        }
        // A plan puts nothing.
        let (Some(chunk), Some(known), false) = (chunk, &self.known, self.only_plans()) else {
            return self.store.put_if_absent(name, bytes);
        };
        match known.claim(&chunk) {
            Claim::Stored => return Ok(PutOutcome::Known),
            Claim::Theirs if known.wait_for(&chunk) => return Ok(PutOutcome::Known),
            Claim::Ours | Claim::Theirs => {}
        }
        let outcome = self.store.put_if_absent(name, bytes)?;
        known.note(&chunk);
        Ok(outcome)
    }

    fn has(&self, name: &ObjectName, length: u64) -> bool {
        chunk_name(name).is_some_and(|chunk| self.is_known(&chunk)) || self.store.has(name, length)
    }

    fn still_there(&self, name: &ObjectName, length: u64) -> Result<()> {
        self.store.still_there(name, length)
    }

    fn in_flight(&self) -> usize {
        self.store.in_flight()
    }

    fn only_plans(&self) -> bool {
        self.store.only_plans()
    }

    fn warning(&self) -> Option<String> {
        self.store.warning()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::store::Service;

    #[derive(Default)]
    struct Counting(std::sync::Arc<AtomicUsize>);

    impl PutIfAbsent for Counting {
        fn put_if_absent(&self, _: &ObjectName, _: &[u8]) -> Result<PutOutcome> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(PutOutcome::Stored)
        }

        fn still_there(&self, _: &ObjectName, _: u64) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_known_is_not_sent_again_and_what_is_forged_is_not_known() {
        let (directory, count) = (tempfile::tempdir().unwrap(), std::sync::Arc::<AtomicUsize>::default());
        let url = BucketUrl { service: Service::S3, bucket: "b".to_owned(), prefix: String::new() };
        let root: RootId = "main".parse().unwrap();
        let salt = |byte| Salt::new(Secret::from_bytes([byte; 32]));
        let caches = [1, 2].map(|byte| Cache::open(directory.path(), &salt(byte), u64::MAX).unwrap());
        let open = |url: &BucketUrl, endpoint, root: &RootId, byte: u8| {
            let store = Box::new(Counting(std::sync::Arc::clone(&count)));
            let known = Known::open(&caches[usize::from(byte) - 1], url, endpoint, root, &salt(byte));
            KnownPuts::new(store, Some(known), BTreeSet::new())
        };
        let sent = |puts: &KnownPuts, root: &RootId, names: &[&[u8]]| {
            let before = count.load(Ordering::Relaxed);
            for name in names {
                puts.put_if_absent(&ObjectName::chunk(root, Sha256::of(name)), name).unwrap();
            }
            count.load(Ordering::Relaxed) - before
        };
        assert_eq!(sent(&open(&url, None, &root, 1), &root, &[b"a", b"b"]), 2);
        assert_eq!(sent(&open(&url, None, &root, 1), &root, &[b"a", b"b", b"c"]), 1);
        // Another store, root or scope knows nothing of it.
        let (other_url, other_root) = (BucketUrl { prefix: "p".to_owned(), ..url.clone() }, "r2".parse().unwrap());
        assert_eq!(sent(&open(&other_url, None, &root, 1), &root, &[b"a"]), 1);
        assert_eq!(sent(&open(&url, Some("http://other"), &root, 1), &root, &[b"a"]), 1);
        assert_eq!(sent(&open(&url, None, &other_root, 1), &other_root, &[b"a"]), 1);
        assert_eq!(sent(&open(&url, None, &root, 2), &root, &[b"a"]), 1);
        // A manifest's name is no chunk's.
        let puts = open(&url, None, &root, 1);
        let manifest = ObjectName::manifest(&root, Sha256::of(b"a"));
        assert_eq!(puts.put_if_absent(&manifest, b"a").unwrap(), PutOutcome::Stored);
        drop(puts);

        // A flipped bit is a record less; a torn end is closed, and what follows it is read.
        let file = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.metadata().unwrap().len() == 6 * RECORD as u64)
            .unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[RECORD + 3] ^= 1;
        bytes.truncate(4 * RECORD + 7);
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(sent(&open(&url, None, &root, 1), &root, &[b"a", b"b", b"c"]), 2);
        assert_eq!(sent(&open(&url, None, &root, 1), &root, &[b"a", b"b", b"c"]), 0);
    }

    #[test]
    fn a_file_that_is_not_our_own_is_neither_read_nor_written() {
        let (directory, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let url = BucketUrl { service: Service::S3, bucket: "b".to_owned(), prefix: String::new() };
        let (root, salt): (RootId, _) = ("main".parse().unwrap(), Salt::new(Secret::from_bytes([1; 32])));
        let cache = Cache::open(directory.path(), &salt, u64::MAX).unwrap();
        let name = *Sha256::of(b"a").as_bytes();
        Known::open(&cache, &url, None, &root, &salt).note(&name);
        let file = std::fs::read_dir(directory.path()).unwrap().next().unwrap().unwrap().path();
        let (own, victim) = (std::fs::read(&file).unwrap(), outside.path().join("victim"));
        std::fs::write(&victim, &own).unwrap();
        let plant: [&dyn Fn(); 3] = [
            &|| std::os::unix::fs::symlink(&victim, &file).unwrap(),
            &|| std::fs::hard_link(&victim, &file).unwrap(),
            &|| {
                let mode = rustix::fs::Mode::from(0o600);
                rustix::fs::mknodat(rustix::fs::CWD, &file, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            },
        ];
        for (number, plant) in plant.iter().enumerate() {
            std::fs::remove_file(&file).unwrap();
            plant();
            let known = Known::open(&cache, &url, None, &root, &salt);
            assert!(!known.has(&name), "{number}");
            assert_eq!(known.claim(&name), Claim::Ours, "{number}");
            known.note(&name);
            assert!(cache.failure().is_some(), "{number}");
            assert_eq!(std::fs::read(&victim).unwrap(), own, "{number}");
        }
    }

    #[test]
    fn what_another_process_is_about_to_put_is_left_to_it() {
        let (directory, count) = (tempfile::tempdir().unwrap(), std::sync::Arc::<AtomicUsize>::default());
        let url = BucketUrl { service: Service::S3, bucket: "b".to_owned(), prefix: String::new() };
        let (root, salt): (RootId, _) = ("main".parse().unwrap(), Salt::new(Secret::from_bytes([1; 32])));
        let cache = Cache::open(directory.path(), &salt, u64::MAX).unwrap();
        let open = || Known::open(&cache, &url, None, &root, &salt);
        let [a, b, c] = [*b"a", *b"b", *b"c"].map(|name| *Sha256::of(&name).as_bytes());
        let one = open();
        assert_eq!(one.claim(&a), Claim::Ours);
        let two = open();
        assert_eq!((two.claim(&a), two.claim(&b)), (Claim::Theirs, Claim::Ours));
        assert_eq!(one.claim(&b), Claim::Theirs);
        let puts = KnownPuts::new(Box::new(Counting(std::sync::Arc::clone(&count))), Some(two), BTreeSet::new());
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| puts.put_if_absent(&ObjectName::chunk(&root, Sha256::of(b"a")), b"a"));
            std::thread::sleep(Duration::from_millis(50));
            one.note(&a);
            assert_eq!(waiting.join().unwrap().unwrap(), PutOutcome::Known);
        });
        assert_eq!(count.load(Ordering::Relaxed), 0);
        assert_eq!(one.claim(&c), Claim::Ours);
        // Of two that died, nothing is waited for.
        drop((one, puts));
        let three = open();
        assert_eq!((three.claim(&a), three.claim(&b), three.claim(&c)), (Claim::Stored, Claim::Ours, Claim::Ours));
    }
}

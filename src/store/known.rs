//! What this machine saw stored: a list of names beside the conversions, so that a repeated one does not send them again.
//!
//! One file for a store, root and scope, and nothing else: `puts-ID` in the cache directory, its ID being made of all three under
//! the salt. It grows by records of 48 bytes, a chunk's name and 16 bytes of a MAC under a key made of the salt, each written
//! whole after the service answered. So several processes may write at once, a torn or forged record is no record, and the
//! file tells no key. It may be deleted at any time.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;

use super::{BucketUrl, ObjectName, PutIfAbsent, PutOutcome, RootId};
use crate::crypto::{Salt, Secret};
use crate::digest::{from_hex, to_hex};
use crate::{Error, Result};

const NAME: usize = 32;
const TAG: usize = 16;
const RECORD: usize = NAME + TAG;
/// Records of so many are read; 16 million chunks are 8 TiB.
const MAX_BYTES: u64 = (RECORD as u64) << 24;

/// What is known to be in one store, under one root, in one scope.
pub struct Known {
    key: Secret,
    names: BTreeSet<[u8; NAME]>,
    file: Mutex<File>,
}

/// A store, and what is known to be there.
pub struct KnownPuts {
    store: Box<dyn PutIfAbsent>,
    known: Known,
}

impl Known {
    /// Reads what `directory` has for this store, root and scope.
    ///
    /// # Errors
    /// Those of the file system, naming the file.
    pub fn open(directory: &Path, url: &BucketUrl, endpoint: Option<&str>, root: &RootId, salt: &Salt) -> Result<Self> {
        let place = format!("{url}\n{}\n{root}\n", endpoint.unwrap_or_default());
        let key = salt.puts_key(&place);
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| Error::file(directory, error))?;
        let path = directory.join(format!("puts-{}", to_hex(&tag(&key, b"id"))));
        let fail = |error| Error::file(&path, error);
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(&path).map_err(fail)?;
        let mut bytes = Vec::new();
        (&file).take(MAX_BYTES).read_to_end(&mut bytes).map_err(fail)?;
        let (records, torn) = bytes.as_chunks::<RECORD>();
        let names = records.iter().filter_map(|record| {
            let (name, found) = record.split_first_chunk::<NAME>().expect("a record begins with a name");
            (tag(&key, name) == *found).then_some(*name)
        });
        let names = names.collect();
        if !torn.is_empty() {
            // Whatever follows would stand askew.
            file.write_all(&[0; RECORD][torn.len()..]).map_err(fail)?;
        }
        Ok(Self { key, names, file: Mutex::new(file) })
    }

    fn note(&self, name: &[u8; NAME]) {
        let record = [&name[..], &tag(&self.key, name)].concat();
        // A cache that cannot be written is a cache that knows less.
        let _ = self.file.lock().expect("no thread panics with it").write_all(&record);
    }
}

impl KnownPuts {
    /// Puts into `store` what is not known to be there.
    #[must_use]
    pub fn new(store: Box<dyn PutIfAbsent>, known: Known) -> Self {
        Self { store, known }
    }
}

fn tag(key: &Secret, bytes: &[u8]) -> [u8; TAG] {
    let mut tag = [0; TAG];
    tag.copy_from_slice(&crate::crypto::convergent::mac(key, bytes)[..TAG]);
    tag
}

/// A chunk's name at the end of its object's.
fn chunk_name(name: &ObjectName) -> Option<[u8; NAME]> {
    let (directory, digest) = name.as_str().rsplit_once('/')?;
    if directory.contains('/') { None } else { from_hex(digest) }
}

impl PutIfAbsent for KnownPuts {
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
        let chunk = chunk_name(name);
        if chunk.is_some_and(|chunk| self.known.names.contains(&chunk)) {
            return Ok(PutOutcome::Known);
        }
        let outcome = self.store.put_if_absent(name, bytes)?;
        if let Some(chunk) = chunk {
            self.known.note(&chunk);
        }
        Ok(outcome)
    }

    fn still_there(&self, name: &ObjectName) -> Result<()> {
        self.store.still_there(name)
    }

    fn in_flight(&self) -> usize {
        self.store.in_flight()
    }

    fn warning(&self) -> Option<String> {
        self.store.warning()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::digest::Sha256;
    use crate::store::Service;

    #[derive(Default)]
    struct Counting(std::sync::Arc<AtomicUsize>);

    impl PutIfAbsent for Counting {
        fn put_if_absent(&self, _: &ObjectName, _: &[u8]) -> Result<PutOutcome> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(PutOutcome::Stored)
        }

        fn still_there(&self, _: &ObjectName) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn what_is_known_is_not_sent_again_and_what_is_forged_is_not_known() {
        let (directory, count) = (tempfile::tempdir().unwrap(), std::sync::Arc::<AtomicUsize>::default());
        let url = BucketUrl { service: Service::S3, bucket: "b".to_owned(), prefix: String::new() };
        let root: RootId = "main".parse().unwrap();
        let salt = |byte| Salt::new(Secret::from_bytes([byte; 32]));
        let open = |url: &BucketUrl, endpoint, root: &RootId, salt: &Salt| {
            let store = Box::new(Counting(std::sync::Arc::clone(&count)));
            KnownPuts::new(store, Known::open(directory.path(), url, endpoint, root, salt).unwrap())
        };
        let sent = |puts: &KnownPuts, root: &RootId, names: &[&[u8]]| {
            let before = count.load(Ordering::Relaxed);
            for name in names {
                puts.put_if_absent(&ObjectName::chunk(root, Sha256::of(name)), name).unwrap();
            }
            count.load(Ordering::Relaxed) - before
        };
        assert_eq!(sent(&open(&url, None, &root, &salt(1)), &root, &[b"a", b"b"]), 2);
        assert_eq!(sent(&open(&url, None, &root, &salt(1)), &root, &[b"a", b"b", b"c"]), 1);
        // Another store, root or scope knows nothing of it.
        let (other_url, other_root) = (BucketUrl { prefix: "p".to_owned(), ..url.clone() }, "r2".parse().unwrap());
        assert_eq!(sent(&open(&other_url, None, &root, &salt(1)), &root, &[b"a"]), 1);
        assert_eq!(sent(&open(&url, Some("http://other"), &root, &salt(1)), &root, &[b"a"]), 1);
        assert_eq!(sent(&open(&url, None, &other_root, &salt(1)), &other_root, &[b"a"]), 1);
        assert_eq!(sent(&open(&url, None, &root, &salt(2)), &root, &[b"a"]), 1);
        // A manifest's name is no chunk's.
        let puts = open(&url, None, &root, &salt(1));
        let manifest = ObjectName::manifest(&root, Sha256::of(b"a"));
        assert_eq!(puts.put_if_absent(&manifest, b"a").unwrap(), PutOutcome::Stored);

        // A flipped bit is a record less; a torn end is closed, and what follows it is read.
        let file = std::fs::read_dir(directory.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| path.metadata().unwrap().len() == 3 * RECORD as u64)
            .unwrap();
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[3] ^= 1;
        bytes.truncate(2 * RECORD + 7);
        std::fs::write(&file, &bytes).unwrap();
        assert_eq!(sent(&open(&url, None, &root, &salt(1)), &root, &[b"a", b"b", b"c"]), 2);
        assert_eq!(sent(&open(&url, None, &root, &salt(1)), &root, &[b"a", b"b", b"c"]), 0);
    }
}

//! What every store does, as one suite that each of them passes: in unit tests the directory and memory, in `tests/it/stores.rs` and
//! `make test-long` real services.

use std::sync::Mutex;

use super::{Collect, Get, ObjectName, PutIfAbsent, PutOutcome, RootId};
use crate::digest::Sha256;
use crate::{Error, ErrorKind, Result};

/// Threads that put at once.
const AT_ONCE: usize = 16;
/// More manifests than one page of any service's list has.
const MANIFESTS: usize = 1_001;

/// Fails as `Internal`, saying what does not hold.
fn hold(condition: bool, what: &str) -> Result<()> {
    if condition { Ok(()) } else { Err(Error::new(ErrorKind::Internal, format!("does not hold: {what}"))) }
}

/// The halves of one store, and a root of the suite's own.
struct Suite<'a> {
    put: &'a dyn PutIfAbsent,
    get: &'a dyn Get,
    collect: &'a dyn Collect,
    root: RootId,
    /// Whether the store keeps what is there.
    keeps: bool,
}

/// Uploads, downloads, lists and deletes objects under two roots of the suite's own, named by `salt`; `put`, `get` and `collect` are of the
/// same store.
///
/// ```
/// use coldpress::store::conformance::check;
/// use coldpress::store::{Settings, StoreUrl, open_collect, open_get, open_put};
///
/// let directory = tempfile::tempdir()?;
/// let (url, settings) = (StoreUrl::Directory(directory.path().to_owned()), Settings::default());
/// let upload = open_put(&url, &settings, &"main".parse()?)?;
/// check(&*upload, &*open_get(&url, &settings)?, &*open_collect(&url, &settings)?, 1)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// Those of the store, and `Internal` where a rule does not hold.
pub fn check(put: &dyn PutIfAbsent, get: &dyn Get, collect: &dyn Collect, salt: u64) -> Result<()> {
    let root = |name: &str| format!("{name}-{salt}").parse::<RootId>().expect("is a root's name");
    let suite = Suite { put, get, collect, root: root("suite"), keeps: put.warning().is_none() };
    for length in [0, 1, 4_112, 528_400] {
        suite.keeps_what_is_there(length)?;
    }
    suite.one_of_many_stores()?;
    suite.lists_manifests(&root("other"))?;
    suite.deletes()
}

impl Suite<'_> {
    fn object(&self, bytes: &[u8]) -> ObjectName {
        ObjectName::chunk(&self.root, Sha256::of(bytes))
    }

    fn is_absent(&self, name: &ObjectName) -> bool {
        let kind = self.get.get(name, 100).err().map(|error| error.kind());
        matches!(kind, Some(ErrorKind::NotFound | ErrorKind::Denied))
    }

    fn keeps_what_is_there(&self, length: u32) -> Result<()> {
        let bytes: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
        let (name, length) = (self.object(&bytes), u64::from(length));
        hold(self.is_absent(&name), "what is not there is not found")?;
        hold(self.put.put_if_absent(&name, &bytes)? == PutOutcome::Stored, "what was not there is stored")?;
        hold(self.get.get(&name, length)? == bytes, "what was put is got")?;
        self.put.still_there(&name, length)?;
        if length > 0 {
            let kind = self.get.get(&name, length - 1).err().map(|error| error.kind());
            hold(kind == Some(ErrorKind::Corrupt), "what is longer than it can be is refused")?;
        }
        // Of the same length: what a directory has of another length is damaged, and replaced.
        let others: Vec<u8> = bytes.iter().map(|byte| !byte).collect();
        let again = self.put.put_if_absent(&name, &others)?;
        if self.keeps {
            hold(again == PutOutcome::Present, "what was there is said to be")?;
            hold(self.get.get(&name, length)? == bytes, "what was there is kept")?;
        }
        Ok(())
    }

    fn one_of_many_stores(&self) -> Result<()> {
        let (name, outcomes) = (self.object(b"contested"), Mutex::new(Vec::new()));
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE {
                scope.spawn(|| {
                    let outcome = self.put.put_if_absent(&name, b"contested");
                    outcomes.lock().expect("no thread panics with it").push(outcome);
                });
            }
        });
        let outcomes = outcomes.into_inner().expect("no thread panicked with it");
        let outcomes = outcomes.into_iter().collect::<Result<Vec<_>>>()?;
        let stored = outcomes.iter().filter(|outcome| **outcome == PutOutcome::Stored).count();
        hold(!self.keeps || stored == 1, "of concurrent uploads one stores")
    }

    fn lists_manifests(&self, other: &RootId) -> Result<()> {
        hold(self.collect.manifests(&self.root)?.is_empty(), "chunks are no manifests")?;
        let manifest = |n: usize| ObjectName::manifest(&self.root, Sha256::of(&n.to_le_bytes()));
        let manifests: Vec<_> = (0..MANIFESTS).map(manifest).collect();
        let put = |part: &[ObjectName]| part.iter().try_for_each(|name| self.put.put_if_absent(name, b"m").map(drop));
        std::thread::scope(|scope| {
            let parts = manifests.chunks(MANIFESTS.div_ceil(AT_ONCE));
            let threads: Vec<_> = parts.map(|part| scope.spawn(move || put(part))).collect();
            threads.into_iter().try_for_each(|thread| thread.join().expect("putting does not panic"))
        })?;
        self.put.put_if_absent(&ObjectName::manifest(other, Sha256::of(b"m")), b"m")?;
        let sorted = |names: &[ObjectName]| {
            let mut names: Vec<String> = names.iter().map(ToString::to_string).collect();
            names.sort_unstable();
            names
        };
        let listed = sorted(&self.collect.manifests(&self.root)?);
        hold(listed == sorted(&manifests), "all manifests of a root are listed, and no others")
    }

    fn deletes(&self) -> Result<()> {
        let name = self.object(b"contested");
        self.collect.delete(&name)?;
        hold(self.is_absent(&name), "what was deleted is not found")?;
        self.collect.delete(&name)?;
        hold(
            self.put.put_if_absent(&name, b"contested")? == PutOutcome::Stored,
            "what was deleted can be uploaded again",
        )?;
        hold(self.collect.get().get(&name, 9)? == b"contested", "who collects can get")
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::super::remote::{Bucket, RemoteCollect, RemoteGet, RemotePut};
    use super::*;
    use crate::net::runtime::Services;
    use crate::store::{BucketUrl, Service, Settings, StoreUrl, open_collect, open_get, open_put};

    #[test]
    fn a_directory_conforms() {
        let directory = tempfile::tempdir().unwrap();
        let url = StoreUrl::Directory(directory.path().to_owned());
        let put = open_put(&url, &Settings::default(), &"main".parse().unwrap()).unwrap();
        let get = open_get(&url, &Settings::default()).unwrap();
        check(&*put, &*get, &*open_collect(&url, &Settings::default()).unwrap(), 1).unwrap();
    }

    #[test]
    fn memory_conforms() {
        for prefix in ["", "a/b"] {
            let url = BucketUrl { service: Service::S3, bucket: "b".to_owned(), prefix: prefix.to_owned() };
            let bucket = Bucket {
                services: Services::start().unwrap(),
                store: Arc::new(InMemory::new()),
                url,
                name: "store memory".into(),
                answered: Arc::default(),
            };
            let put = RemotePut::open(bucket.clone(), 4, &"main".parse().unwrap()).unwrap();
            let get = RemoteGet(bucket);
            check(&put, &get, &RemoteCollect(RemoteGet(get.0.clone())), 1).unwrap();
        }
    }
}

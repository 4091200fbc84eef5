//! A store with a limit on new bytes: chunks beyond the limit are counted and not uploaded, so a conversion that exceeds it still finds out
//! how much it would have needed.
//!
//! A directory is looked at, so that never more than the limit is uploaded. A service cannot be asked with write-only credentials: one
//! chunk that does not fit is sent, and only if the service did not have it the limit is exceeded.

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard};

use super::{ObjectName, PutIfAbsent, PutOutcome, StoreUrl};
use crate::Result;
use crate::digest::Sha256;

/// What was uploaded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Uploaded {
    /// Chunks.
    pub chunks: u64,
    /// Their bytes as stored.
    pub bytes: u64,
}

/// A store that takes a limited number of new bytes.
pub struct LimitedStore<'a> {
    store: Box<dyn PutIfAbsent + 'a>,
    /// `None` for a store that takes everything.
    max_bytes: Option<u64>,
    /// Whether `has` of the store sees all that is there.
    is_visible: bool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    uploaded: Uploaded,
    /// Bytes of puts whose answer is outstanding.
    outstanding: u64,
    is_exceeded: bool,
    /// Chunks that were uploaded or counted; the images of a conversion may share them.
    new: BTreeSet<Sha256>,
}

/// What happens with a chunk.
enum Decision {
    /// It is uploaded.
    Upload,
    /// It is counted.
    Count,
}

impl<'a> LimitedStore<'a> {
    /// Limits the new bytes of `store`, which is at `url`, to `max_bytes`.
    #[must_use]
    pub fn new(store: Box<dyn PutIfAbsent + 'a>, url: &StoreUrl, max_bytes: Option<u64>) -> Self {
        let is_visible = matches!(url, StoreUrl::Directory(_));
        Self { store, max_bytes, is_visible, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Returns what was uploaded until the limit, if it was exceeded.
    #[must_use]
    pub fn exceeded(&self) -> Option<Uploaded> {
        let state = self.state();
        state.is_exceeded.then_some(state.uploaded)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    /// Decides about a chunk of `length` bytes, and reserves them if it is uploaded. Waits while outstanding puts may leave room for it.
    fn decide(&self, length: u64, max_bytes: u64) -> Decision {
        let mut state = self.state();
        loop {
            let fits = |used: u64| used.saturating_add(length) <= max_bytes;
            if state.is_exceeded {
                return Decision::Count;
            }
            // Alone, it shows whether a service has it already.
            let is_probe = !self.is_visible && state.outstanding == 0 && state.uploaded.bytes <= max_bytes;
            if fits(state.uploaded.bytes.saturating_add(state.outstanding)) || is_probe {
                state.outstanding += length;
                return Decision::Upload;
            }
            if !fits(state.uploaded.bytes) && (self.is_visible || state.uploaded.bytes > max_bytes) {
                state.is_exceeded = true;
                self.changed.notify_all();
                return Decision::Count;
            }
            state = self.changed.wait(state).expect("no thread panics with it");
        }
    }

    /// Ends the put of a chunk of `length` bytes.
    fn settle(&self, chunk: Sha256, length: u64, is_stored: bool, max_bytes: u64) {
        let mut state = self.state();
        state.outstanding -= length;
        if is_stored {
            state.new.insert(chunk);
            state.uploaded.chunks += 1;
            state.uploaded.bytes += length;
            state.is_exceeded |= state.uploaded.bytes > max_bytes;
        }
        self.changed.notify_all();
    }
}

impl PutIfAbsent for LimitedStore<'_> {
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
        let length = bytes.len() as u64;
        let (Some((_, chunk)), Some(max_bytes)) = (name.chunk_digest(), self.max_bytes) else {
            return self.store.put_if_absent(name, bytes);
        };
        if self.is_visible && self.store.has(name, length) {
            return self.store.put_if_absent(name, bytes);
        }
        match self.decide(length, max_bytes) {
            Decision::Upload => {
                let outcome = self.store.put_if_absent(name, bytes);
                self.settle(chunk, length, matches!(outcome, Ok(PutOutcome::Stored)), max_bytes);
                outcome
            }
            Decision::Count if self.store.has(name, length) => Ok(PutOutcome::Known),
            Decision::Count => {
                let is_first = self.state().new.insert(chunk);
                Ok(if is_first { PutOutcome::Stored } else { PutOutcome::Known })
            }
        }
    }

    fn still_there(&self, name: &ObjectName, length: u64) -> Result<()> {
        self.store.still_there(name, length)
    }

    fn has(&self, name: &ObjectName, length: u64) -> bool {
        self.store.has(name, length)
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
    use super::*;
    use crate::store::{BucketUrl, RootId, Service};

    /// A store that knows some chunks, and notes what it was sent.
    #[derive(Default)]
    struct Recording {
        present: BTreeSet<Sha256>,
        sent: Mutex<u64>,
        is_visible: bool,
    }

    impl PutIfAbsent for &Recording {
        fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
            if self.present.contains(&name.chunk_digest().unwrap().1) {
                return Ok(PutOutcome::Present);
            }
            *self.sent.lock().unwrap() += bytes.len() as u64;
            Ok(PutOutcome::Stored)
        }

        fn has(&self, name: &ObjectName, _: u64) -> bool {
            self.is_visible && self.present.contains(&name.chunk_digest().unwrap().1)
        }

        fn still_there(&self, _: &ObjectName, _: u64) -> Result<()> {
            Ok(())
        }
    }

    fn directory() -> StoreUrl {
        StoreUrl::Directory("store".into())
    }

    fn bucket() -> StoreUrl {
        StoreUrl::Bucket(BucketUrl { service: Service::S3, bucket: "b".to_owned(), prefix: String::new() })
    }

    fn name(number: u32) -> ObjectName {
        let root: RootId = "main".parse().unwrap();
        ObjectName::chunk(&root, Sha256::of(&number.to_le_bytes()))
    }

    /// Puts chunks of 100 bytes by eight threads; returns how many were stored or counted as new.
    fn put(store: &LimitedStore<'_>, numbers: std::ops::Range<u32>) -> usize {
        let next = Mutex::new(numbers);
        let work = || {
            let mut new = 0;
            while let Some(number) = { next.lock().unwrap().next() } {
                let outcome = store.put_if_absent(&name(number), &[0; 100]).unwrap();
                new += usize::from(outcome == PutOutcome::Stored);
            }
            new
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(work)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        })
    }

    #[test]
    fn no_more_than_the_limit_is_uploaded_and_all_is_counted() {
        for (url, is_visible, most) in [(directory(), true, 1000), (bucket(), false, 1100)] {
            let inner = Recording { is_visible, ..Recording::default() };
            let store = LimitedStore::new(Box::new(&inner), &url, Some(1000));
            assert_eq!(put(&store, 0..50), 50);
            let uploaded = store.exceeded().unwrap();
            assert_eq!((uploaded.bytes, *inner.sent.lock().unwrap()), (most, most), "{url}");
            // What another image has as well is counted once.
            assert_eq!(put(&store, 0..60), 10, "{url}");
        }
    }

    /// Chunks that are stored already need no room, whether or not the store can be looked at.
    #[test]
    fn what_is_present_does_not_exceed_the_limit() {
        let present: BTreeSet<Sha256> = (10..200u32).map(|number| Sha256::of(&number.to_le_bytes())).collect();
        for (url, is_visible) in [(directory(), true), (bucket(), false)] {
            let inner = Recording { present: present.clone(), is_visible, ..Recording::default() };
            let store = LimitedStore::new(Box::new(&inner), &url, Some(1000));
            assert_eq!(put(&store, 0..200), 10);
            assert_eq!((store.exceeded(), *inner.sent.lock().unwrap()), (None, 1000), "{url}");
        }
    }
}

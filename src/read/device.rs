//! The device that a block manifest describes.
//!
//! [`BlockDevice`] is the seam that every door and reader stands on. [`ChunkDevice`] fetches a chunk when it is first read, checks its
//! name, opens it, and keeps the last few; two readers of one missing chunk cause one fetch.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

use crate::crypto::convergent;
use crate::fs::BlockDevice;
use crate::manifest::{ChunkRef, OpenManifest};
use crate::progress::{Progress, Stage};
use crate::store::{Get, ObjectName};
use crate::{CHUNK_SIZE, ChunkIndex, Error, ErrorKind, Result};

const CHUNK: usize = CHUNK_SIZE as usize;

/// Fetches, verifies and opens one chunk into `chunk`.
///
/// # Errors
/// Those of the store; `Corrupt` where the bytes are not what the manifest names.
pub fn fetch(manifest: &OpenManifest, store: &dyn Get, wanted: &ChunkRef, chunk: &mut [u8]) -> Result<()> {
    let fail = |kind, reason: &str| Error::new(kind, format!("chunk {} ({}): {reason}", wanted.index.0, wanted.name));
    let name = ObjectName::chunk(&manifest.clear.root, wanted.name);
    let mut stored = store.get(&name, wanted.stored.into()).map_err(|error| match error.kind() {
        // Without the right to list, a store answers both alike.
        ErrorKind::NotFound | ErrorKind::Denied => {
            Error::caused(error.kind(), format!("chunk {}: missing or refused", wanted.index.0), error)
        }
        _ => error.within(format!("chunk {}", wanted.index.0)),
    })?;
    if stored.len() as u64 != u64::from(wanted.stored) {
        return Err(fail(ErrorKind::Corrupt, "not of the length that the manifest says"));
    }
    convergent::open(manifest.clear.recipe.codec, wanted.name, &wanted.key, &mut stored, chunk)
        .map_err(|error| fail(ErrorKind::Corrupt, &error.to_string()))
}

/// Takes a chunk's place in the manifest's list and its bytes, and says whether to go on.
pub type Visit<'a> = dyn Fn(usize, Result<&[u8]>) -> ControlFlow<()> + Sync + 'a;

/// Fetches, verifies and opens every chunk with `threads` threads, or as many as the store serves best, and calls `visit` with each, in no order, until it
/// says stop.
pub fn fetch_all(manifest: &OpenManifest, store: &dyn Get, threads: usize, progress: &dyn Progress, visit: &Visit<'_>) {
    let chunks = &manifest.sealed.chunks;
    progress.begin(Stage::Fetch, chunks.len() as u64 * u64::from(CHUNK_SIZE));
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..threads.max(store.in_flight()) {
            scope.spawn(|| {
                let mut chunk = vec![0; CHUNK];
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(wanted) = chunks.get(at) else { return };
                    let fetched = fetch(manifest, store, wanted, &mut chunk);
                    if visit(at, fetched.map(|()| &chunk[..])).is_break() {
                        next.store(chunks.len(), Ordering::Relaxed);
                    }
                    progress.advance(Stage::Fetch, CHUNK_SIZE.into());
                }
            });
        }
    });
    progress.end(Stage::Fetch);
}

/// A device of sealed chunks.
pub struct ChunkDevice {
    manifest: OpenManifest,
    store: Box<dyn Get>,
    kept: Mutex<Kept>,
    arrived: Condvar,
    fetched: AtomicU64,
}

/// Plaintext chunks, the last used behind.
struct Kept {
    chunks: VecDeque<(ChunkIndex, Arc<Vec<u8>>)>,
    limit: usize,
    in_flight: Vec<ChunkIndex>,
}

impl Kept {
    fn get(&mut self, index: ChunkIndex) -> Option<Arc<Vec<u8>>> {
        let at = self.chunks.iter().position(|(kept, _)| *kept == index)?;
        let found = self.chunks.remove(at)?;
        let chunk = Arc::clone(&found.1);
        self.chunks.push_back(found);
        Some(chunk)
    }

    fn put(&mut self, index: ChunkIndex, chunk: Arc<Vec<u8>>) {
        while self.chunks.len() >= self.limit {
            self.chunks.pop_front();
        }
        self.chunks.push_back((index, chunk));
    }
}

impl ChunkDevice {
    /// The device of `manifest`, its chunks in `store`; keeps up to `keep` opened chunks of 512 KiB.
    #[must_use]
    pub fn new(manifest: OpenManifest, store: Box<dyn Get>, keep: usize) -> Self {
        let kept = Kept { chunks: VecDeque::new(), limit: keep.max(1), in_flight: Vec::new() };
        Self { manifest, store, kept: Mutex::new(kept), arrived: Condvar::new(), fetched: AtomicU64::new(0) }
    }

    /// What it reads.
    #[must_use]
    pub fn manifest(&self) -> &OpenManifest {
        &self.manifest
    }

    /// Chunks fetched from the store so far.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.fetched.load(Ordering::Relaxed)
    }

    /// The opened chunk; one fetch serves all who wait for it. A failure is not kept.
    fn chunk(&self, wanted: &ChunkRef) -> Result<Arc<Vec<u8>>> {
        let index = wanted.index;
        let mut kept = self.kept.lock().expect("no thread panics with it");
        loop {
            if let Some(chunk) = kept.get(index) {
                return Ok(chunk);
            }
            if !kept.in_flight.contains(&index) {
                break;
            }
            kept = self.arrived.wait(kept).expect("no thread panics with it");
        }
        kept.in_flight.push(index);
        drop(kept);
        let mut chunk = vec![0; CHUNK];
        let fetched = fetch(&self.manifest, &*self.store, wanted, &mut chunk);
        let mut kept = self.kept.lock().expect("no thread panics with it");
        kept.in_flight.retain(|flying| *flying != index);
        self.arrived.notify_all();
        fetched?;
        self.fetched.fetch_add(1, Ordering::Relaxed);
        let chunk = Arc::new(chunk);
        kept.put(index, Arc::clone(&chunk));
        Ok(chunk)
    }
}

impl BlockDevice for ChunkDevice {
    fn size(&self) -> u64 {
        self.manifest.device_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(Error::new(ErrorKind::Input, format!("a read at byte {offset} past the device's end")));
        }
        let mut done = 0;
        while done < buf.len() {
            let at = offset + done as u64;
            let index = ChunkIndex(u32::try_from(at / CHUNK as u64).expect("below the device's end"));
            let inside = usize::try_from(at % CHUNK as u64).expect("below a chunk's size");
            let length = (CHUNK - inside).min(buf.len() - done);
            let part = &mut buf[done..done + length];
            match self.manifest.chunk(index) {
                Some(wanted) => part.copy_from_slice(&self.chunk(wanted)?[inside..inside + length]),
                None => part.fill(0),
            }
            done += length;
        }
        Ok(())
    }
}

//! Chunks, sealed and put by several threads; the result does not depend on their number or order.
//!
//! Whoever makes chunks (the layers' readers, the layout) hands them to a [`Sealing`]; its threads pack, seal and put them.
//! A bounded number wait, so makers run no faster than chunks can be put. The first chunk of a device comes last: the
//! UUID in it is made of all chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{Scope, ScopedJoinHandle};

use crate::crypto::convergent::{self, ChunkKey, MAX_SEALED};
use crate::crypto::packed::{Packer, trimmed_length};
use crate::crypto::{Codec, Salt};
use crate::digest::{Blake3, Sha256};
use crate::fs::tree::LayerIndex;
use crate::store::{ObjectName, PutIfAbsent, PutOutcome, RootId};
use crate::{CHUNK_SIZE, ChunkIndex, Error, ErrorKind, Result};

const CHUNK: usize = CHUNK_SIZE as usize;
/// Chunks made ahead of the threads that seal.
const AHEAD: usize = 16;

/// How chunks are sealed, and where they go.
#[derive(Clone, Copy)]
pub struct Sealer<'a> {
    /// The dedup scope's.
    pub salt: &'a Salt,
    /// How they are packed.
    pub codec: Codec,
    /// `None` for a conversion that only counts.
    pub store: Option<(&'a dyn PutIfAbsent, &'a RootId)>,
}

/// Where a chunk belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a layer's segment, by its number there: where segments start is known only when all layers are.
    Segment(LayerIndex, u32),
    /// On the device.
    Device(ChunkIndex),
}

/// A chunk that was sealed, and put where there is a store.
#[derive(Debug, Clone)]
pub struct SealedChunk {
    /// Where it is stored.
    pub name: Sha256,
    /// What opens it.
    pub key: ChunkKey,
    /// Bytes as stored.
    pub stored: u32,
    /// Of its plaintext without trailing zeros.
    pub leaf: Blake3,
}

/// What sealing came to so far.
#[derive(Debug, Default)]
pub struct Sealed {
    /// Every chunk that is not all zero.
    pub chunks: BTreeMap<Place, SealedChunk>,
    /// Chunks that were not in the store before.
    pub put_chunks: u64,
    /// Their bytes as stored.
    pub put_bytes: u64,
    /// Chunks that the store says it had.
    pub claimed_chunks: u64,
    /// Names that were put or claimed, or are about to be.
    names: BTreeSet<Sha256>,
    failed: Option<Error>,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    sealed: Mutex<Sealed>,
    failed: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn fail(&self, error: Error) {
        self.sealed.lock().expect("no thread panics with it").failed.get_or_insert(error);
        self.failed.store(true, Ordering::Relaxed);
    }
}

/// Threads that seal.
pub struct Sealing<'scope> {
    jobs: SyncSender<(Place, Vec<u8>)>,
    shared: Arc<Shared>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
}

impl<'scope> Sealing<'scope> {
    /// Starts `threads` of them.
    pub fn start<'env>(scope: &'scope Scope<'scope, 'env>, sealer: Sealer<'env>, threads: usize) -> Self {
        let (jobs, receive) = sync_channel(AHEAD);
        let (receive, shared) = (Arc::new(Mutex::new(receive)), Arc::<Shared>::default());
        let threads = (0..threads.max(1)).map(|_| {
            let (receive, shared) = (Arc::clone(&receive), Arc::clone(&shared));
            scope.spawn(move || Worker { sealer, shared: &shared, packer: Packer::new(sealer.codec) }.run(&receive))
        });
        Self { jobs, threads: threads.collect(), shared }
    }

    /// A buffer of a chunk's length, from those that were sealed, and with what was in them.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        let spare = self.shared.spare.lock().expect("no thread panics with it").pop();
        // A chunk may be packed in place, which takes a tag more.
        let mut buffer = spare.unwrap_or_else(|| Vec::with_capacity(MAX_SEALED));
        buffer.resize(CHUNK, 0);
        buffer
    }

    /// Hands over the chunk at `place`; what is missing at its end is zeros.
    ///
    /// # Errors
    /// `Internal` where a chunk before it failed; [`Sealing::finish`] says why.
    pub fn put(&self, place: Place, chunk: Vec<u8>) -> Result<()> {
        debug_assert!(chunk.len() <= CHUNK);
        let stopped = || Error::new(ErrorKind::Internal, "sealing stopped");
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        self.jobs.send((place, chunk)).map_err(|_| stopped())
    }

    /// Waits for all that was handed over.
    ///
    /// # Errors
    /// Those of the store, naming the object.
    pub fn finish(self) -> Result<Sealed> {
        drop(self.jobs);
        self.threads.into_iter().for_each(|thread| thread.join().expect("sealing does not panic"));
        let mut sealed = std::mem::take(&mut *self.shared.sealed.lock().expect("no thread panics with it"));
        sealed.failed.take().map_or(Ok(sealed), Err)
    }
}

/// Seals one more chunk, and adds it to `sealed`.
///
/// # Errors
/// Those of the store, naming the object.
pub fn seal_one(sealer: Sealer<'_>, sealed: Sealed, place: Place, chunk: Vec<u8>) -> Result<Sealed> {
    let shared = Shared { sealed: Mutex::new(sealed), ..Shared::default() };
    Worker { sealer, shared: &shared, packer: Packer::new(sealer.codec) }.seal(place, chunk)?;
    Ok(shared.sealed.into_inner().expect("no thread panicked with it"))
}

struct Worker<'a> {
    sealer: Sealer<'a>,
    shared: &'a Shared,
    packer: Packer,
}

impl Worker<'_> {
    fn run(mut self, jobs: &Mutex<Receiver<(Place, Vec<u8>)>>) {
        loop {
            let job = jobs.lock().expect("no thread panics with it").recv();
            let Ok((place, chunk)) = job else { return };
            // What is left when one failed is taken and dropped, so that makers do not wait for room.
            if !self.shared.failed.load(Ordering::Relaxed)
                && let Err(error) = self.seal(place, chunk)
            {
                self.shared.fail(error);
            }
        }
    }

    fn seal(&mut self, place: Place, mut chunk: Vec<u8>) -> Result<()> {
        chunk.truncate(trimmed_length(&chunk));
        if !chunk.is_empty() {
            let leaf = Blake3::of(&chunk);
            let packed = self.packer.pack(&mut chunk);
            let (key, name) = convergent::seal(self.sealer.salt, packed);
            let stored = u32::try_from(packed.len()).expect("a sealed chunk is a little longer than a chunk");
            let fresh = {
                let mut sealed = self.shared.sealed.lock().expect("no thread panics with it");
                sealed.chunks.insert(place, SealedChunk { name, key, stored, leaf });
                sealed.names.insert(name)
            };
            if let Some((store, root)) = self.sealer.store.filter(|_| fresh) {
                let outcome = store.put_if_absent(&ObjectName::chunk(root, name), packed)?;
                let mut sealed = self.shared.sealed.lock().expect("no thread panics with it");
                match outcome {
                    PutOutcome::Stored => {
                        sealed.put_chunks += 1;
                        sealed.put_bytes += u64::from(stored);
                    }
                    PutOutcome::Present => sealed.claimed_chunks += 1,
                }
            }
        }
        self.shared.spare.lock().expect("no thread panics with it").push(chunk);
        Ok(())
    }
}

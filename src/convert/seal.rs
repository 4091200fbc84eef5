//! Packing, encryption and upload of chunks by several threads; the result does not depend on their number or order.
//!
//! The readers of layers and the layout hand chunks to a [`Sealing`], whose threads pack, encrypt and upload them. A store with
//! slow uploads has threads of its own, one for each upload in flight. The queue is bounded, so chunks are produced no faster than
//! they are uploaded. The first chunk of a device comes last, since its UUID is derived from all chunks.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::crypto::convergent::{self, ChunkKey, MAX_SEALED};
use crate::crypto::packed::{Packer, trimmed_length};
use crate::crypto::{Codec, Salt};
use crate::digest::{Blake3, Sha256};
use crate::fs::tree::LayerIndex;
use crate::store::{ObjectName, PutIfAbsent, PutOutcome, RootId};
use crate::{CHUNK_SIZE, ChunkIndex, Error, ErrorKind, Result};

const CHUNK: usize = CHUNK_SIZE as usize;
/// Number of chunks in the queue of the threads that seal.
const AHEAD: usize = 16;

/// The parameters of sealing and upload.
#[derive(Clone, Copy)]
pub struct Sealer<'a> {
    /// The salt of the dedup scope.
    pub salt: &'a Salt,
    /// The codec of the chunks.
    pub codec: Codec,
    /// The store and the root; `None` for a conversion that only counts.
    pub store: Option<(&'a dyn PutIfAbsent, &'a RootId)>,
}

/// The position of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChunkPlace {
    /// In a layer's segment, by its number there: the start of a segment is known only when all layers are.
    Segment(LayerIndex, u32),
    /// On the device, by its index.
    Device(ChunkIndex),
}

/// A chunk that was sealed, and uploaded if there is a store.
#[derive(Debug, Clone)]
pub struct SealedChunk {
    /// The SHA-256 of the stored bytes.
    pub name: Sha256,
    /// The key that decrypts it.
    pub key: ChunkKey,
    /// The stored length, in bytes.
    pub stored: u32,
    /// The digest of the plaintext without trailing zeros.
    pub leaf: Blake3,
}

/// The chunks that were sealed, and the counts of uploads.
#[derive(Debug, Default)]
pub struct SealedChunks {
    /// Every chunk that is not all zero.
    pub chunks: BTreeMap<ChunkPlace, SealedChunk>,
    /// Number of chunks that were not in the store before.
    pub put_chunks: u64,
    /// The stored size of these chunks, in bytes.
    pub put_bytes: u64,
    /// Number of chunks that the store already had, by its own answer.
    pub claimed_chunks: u64,
    /// Number of chunks that an earlier conversion stored.
    pub known_chunks: u64,
    /// Names of the chunks that were not in the store before.
    pub new: BTreeSet<Sha256>,
    /// Names of all chunks that were uploaded, or are queued for it.
    names: BTreeSet<Sha256>,
    failed: Option<Error>,
}

/// The shared state of the threads.
#[derive(Default)]
struct Shared {
    sealed: Mutex<SealedChunks>,
    failed: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    /// Handles jobs with `each` until the queue is closed. After a failure the remaining jobs are received and dropped, so that no
    /// producer blocks on a full queue.
    fn work<T>(&self, jobs: &Mutex<Receiver<T>>, mut each: impl FnMut(T) -> Result<()>) {
        loop {
            let job = jobs.lock().expect("no thread panics with it").recv();
            let Ok(job) = job else { return };
            if !self.failed.load(Ordering::Relaxed)
                && let Err(error) = each(job)
            {
                self.sealed.lock().expect("no thread panics with it").failed.get_or_insert(error);
                self.failed.store(true, Ordering::Relaxed);
            }
        }
    }

    fn put(&self, sealer: Sealer<'_>, name: Sha256, bytes: &[u8]) -> Result<()> {
        if let Some((store, root)) = sealer.store {
            let outcome = store.put_if_absent(&ObjectName::chunk(root, name), bytes)?;
            let mut sealed = self.sealed.lock().expect("no thread panics with it");
            match outcome {
                PutOutcome::Stored => {
                    sealed.new.insert(name);
                    sealed.put_chunks += 1;
                    sealed.put_bytes += bytes.len() as u64;
                }
                PutOutcome::Known => sealed.known_chunks += 1,
                PutOutcome::Present => sealed.claimed_chunks += 1,
            }
        }
        Ok(())
    }

    /// Returns a spare buffer with undefined content, or a new one.
    fn spare(&self) -> Vec<u8> {
        // A chunk may be packed and encrypted in place, which needs space for the tag.
        self.spare.lock().expect("no thread panics with it").pop().unwrap_or_else(|| Vec::with_capacity(MAX_SEALED))
    }

    fn give_back(&self, buffer: Vec<u8>) {
        self.spare.lock().expect("no thread panics with it").push(buffer);
    }
}

/// The threads that seal and upload chunks.
pub struct Sealing<'scope> {
    sealer: Sealer<'scope>,
    jobs: SyncSender<(ChunkPlace, Vec<u8>)>,
    shared: Arc<Shared>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
}

/// Adds a thread that started to `running`. Returns how many of its kind have started, or the error if not even the first one has.
fn keep<'scope>(
    running: &mut Vec<ScopedJoinHandle<'scope, ()>>,
    started: io::Result<ScopedJoinHandle<'scope, ()>>,
    before: io::Result<u32>,
) -> io::Result<u32> {
    match (started, before) {
        (Ok(thread), before) => {
            running.push(thread);
            Ok(before.unwrap_or(0) + 1)
        }
        (Err(_), Ok(some)) if some > 0 => Ok(some),
        (Err(error), _) => Err(error),
    }
}

/// The receiving end of a queue that several threads share.
type Jobs<T> = Arc<Mutex<Receiver<T>>>;
/// A sealed chunk in the upload queue.
type Parcel = (Sha256, Vec<u8>);

impl<'scope> Sealing<'scope> {
    /// Starts `threads` threads that seal, or as many as the system allows.
    ///
    /// # Errors
    /// `Unavailable` where no thread can be started.
    pub fn start<'env>(scope: &'scope Scope<'scope, 'env>, sealer: Sealer<'env>, threads: usize) -> Result<Self> {
        let (jobs, receive) = sync_channel(AHEAD);
        let (receive, shared) = (Arc::new(Mutex::new(receive)), Arc::<Shared>::default());
        let puts_in_flight = sealer.store.map_or(1, |(store, _)| store.in_flight());
        let (parcels, put): (Option<SyncSender<Parcel>>, Option<Jobs<Parcel>>) = match puts_in_flight {
            0 | 1 => (None, None),
            _ => {
                let (send, receive) = sync_channel(0);
                (Some(send), Some(Arc::new(Mutex::new(receive))))
            }
        };
        let mut running = Vec::new();
        let start = |name: &str| Builder::new().name(name.to_owned());
        let mut packing = Ok(0);
        for _ in 0..threads.max(1) {
            let (receive, shared, parcels) = (Arc::clone(&receive), Arc::clone(&shared), parcels.clone());
            let started = start("seal").spawn_scoped(scope, move || {
                let packer = Packer::new(sealer.codec);
                let mut worker = Worker { sealer, shared: &shared, packer, parcels };
                shared.work(&receive, |(place, chunk)| worker.seal(place, chunk));
            });
            packing = keep(&mut running, started, packing);
        }
        let mut putting = Ok(0);
        for put in put.iter().flat_map(|put| std::iter::repeat_n(put, puts_in_flight)) {
            let (put, shared) = (Arc::clone(put), Arc::clone(&shared));
            let started = start("put").spawn_scoped(scope, move || {
                shared.work(&put, |(name, bytes): Parcel| {
                    shared.put(sealer, name, &bytes)?;
                    shared.give_back(bytes);
                    Ok(())
                });
            });
            putting = keep(&mut running, started, putting);
        }
        for (what, started) in [("seal", packing), ("upload", putting)] {
            started.map_err(|error| {
                Error::caused(ErrorKind::Unavailable, format!("no thread can be started to {what} chunks"), error)
            })?;
        }
        Ok(Self { sealer, jobs, threads: running, shared })
    }

    /// Returns a buffer of a chunk's length with undefined content.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.shared.spare();
        buffer.resize(CHUNK, 0);
        buffer
    }

    /// Queues the chunk at `place`; a shorter chunk is extended with zeros.
    ///
    /// # Errors
    /// `Internal` where an earlier chunk failed; [`Sealing::finish`] returns that error.
    pub fn put(&self, place: ChunkPlace, chunk: Vec<u8>) -> Result<()> {
        debug_assert!(chunk.len() <= CHUNK);
        let stopped = || Error::new(ErrorKind::Internal, "sealing stopped");
        if self.shared.failed.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        self.jobs.send((place, chunk)).map_err(|_| stopped())
    }

    /// Takes the chunks of a layer's segment as an earlier conversion sealed them, if the store is known to have them all.
    #[must_use]
    pub fn recall(&self, layer: LayerIndex, chunks: Vec<(u32, SealedChunk)>) -> bool {
        let is_there = |name, stored: u32| match self.sealer.store {
            Some((store, root)) => store.has(&ObjectName::chunk(root, name), stored.into()),
            None => true,
        };
        let sizes: BTreeMap<Sha256, u32> = chunks.iter().map(|(_, chunk)| (chunk.name, chunk.stored)).collect();
        let (there, missing): (Vec<_>, Vec<_>) = sizes.into_iter().partition(|(name, stored)| is_there(*name, *stored));
        if !missing.is_empty() && !self.sealer.store.is_some_and(|(store, _)| store.only_plans()) {
            return false;
        }
        let mut sealed = self.shared.sealed.lock().expect("no thread panics with it");
        for (name, _) in there {
            sealed.known_chunks += u64::from(sealed.names.insert(name));
        }
        for (name, stored) in missing {
            if sealed.names.insert(name) {
                sealed.new.insert(name);
                sealed.put_chunks += 1;
                sealed.put_bytes += u64::from(stored);
            }
        }
        sealed.chunks.extend(chunks.into_iter().map(|(number, chunk)| (ChunkPlace::Segment(layer, number), chunk)));
        true
    }

    /// Waits for all queued chunks, and returns what was sealed.
    ///
    /// # Errors
    /// Those of the store, naming the object.
    pub fn finish(self) -> Result<SealedChunks> {
        drop(self.jobs);
        for thread in self.threads {
            thread.join().expect("sealing does not panic");
        }
        let mut sealed = std::mem::take(&mut *self.shared.sealed.lock().expect("no thread panics with it"));
        sealed.failed.take().map_or(Ok(sealed), Err)
    }
}

/// Seals and uploads one more chunk, and adds it to `sealed`.
///
/// # Errors
/// Those of the store, naming the object.
pub fn seal_one(sealer: Sealer<'_>, sealed: SealedChunks, place: ChunkPlace, chunk: Vec<u8>) -> Result<SealedChunks> {
    let shared = Shared { sealed: Mutex::new(sealed), ..Shared::default() };
    Worker { sealer, shared: &shared, packer: Packer::new(sealer.codec), parcels: None }.seal(place, chunk)?;
    Ok(shared.sealed.into_inner().expect("no thread panicked with it"))
}

struct Worker<'a> {
    sealer: Sealer<'a>,
    shared: &'a Shared,
    packer: Packer,
    /// The queue of the threads that upload, where there are such threads.
    parcels: Option<SyncSender<Parcel>>,
}

impl Worker<'_> {
    fn seal(&mut self, place: ChunkPlace, mut chunk: Vec<u8>) -> Result<()> {
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
            match &self.parcels {
                _ if !fresh => {}
                None => self.shared.put(self.sealer, name, packed)?,
                // The threads that upload run as long as those that seal.
                Some(parcels) => {
                    let gone = |_| Error::new(ErrorKind::Internal, "the threads that put are gone");
                    parcels.send((name, std::mem::replace(packed, self.shared.spare()))).map_err(gone)?;
                }
            }
        }
        self.shared.give_back(chunk);
        Ok(())
    }
}

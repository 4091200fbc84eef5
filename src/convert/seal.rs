//! Chunks, sealed and put by several threads; the result does not depend on their number or order.
//!
//! Whoever makes chunks (the layers' readers, the layout) hands them to a [`Sealing`]; its threads pack, seal and put them.
//! A store that makes each put wait has threads of its own, one for each put in flight. A bounded number of chunks wait, so
//! makers run no faster than chunks can be put. The first chunk of a device comes last: the
//! UUID in it is made of all chunks.

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
    /// Most bytes that may be new there.
    pub max_new_bytes: Option<u64>,
}

/// Where a chunk belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChunkPlace {
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
pub struct SealedChunks {
    /// Every chunk that is not all zero.
    pub chunks: BTreeMap<ChunkPlace, SealedChunk>,
    /// Chunks that were not in the store before.
    pub put_chunks: u64,
    /// Their bytes as stored.
    pub put_bytes: u64,
    /// Chunks that the store says it had.
    pub claimed_chunks: u64,
    /// Chunks that an earlier conversion saw stored.
    pub known_chunks: u64,
    /// Names of the chunks that were not in the store before.
    pub new: BTreeSet<Sha256>,
    /// Names that were put or claimed, or are about to be.
    names: BTreeSet<Sha256>,
    failed: Option<Error>,
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    sealed: Mutex<SealedChunks>,
    failed: AtomicBool,
    spare: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    /// Does `each` of what comes until nothing more can; what is left when one failed is taken and dropped, so that makers
    /// do not wait for room.
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
                    if let Some(most) = sealer.max_new_bytes.filter(|most| sealed.put_bytes > *most) {
                        let message =
                            format!("the new chunks have more than the {most} bytes that --max-new-bytes allows");
                        return Err(Error::new(ErrorKind::Difference, message));
                    }
                }
                PutOutcome::Known => sealed.known_chunks += 1,
                PutOutcome::Present => sealed.claimed_chunks += 1,
            }
        }
        Ok(())
    }

    /// A buffer from those that were sealed, and with what was in them.
    fn spare(&self) -> Vec<u8> {
        // A chunk may be packed in place, which takes a tag more.
        self.spare.lock().expect("no thread panics with it").pop().unwrap_or_else(|| Vec::with_capacity(MAX_SEALED))
    }

    fn give_back(&self, buffer: Vec<u8>) {
        self.spare.lock().expect("no thread panics with it").push(buffer);
    }
}

/// Threads that seal, and put.
pub struct Sealing<'scope> {
    sealer: Sealer<'scope>,
    jobs: SyncSender<(ChunkPlace, Vec<u8>)>,
    shared: Arc<Shared>,
    threads: Vec<ScopedJoinHandle<'scope, ()>>,
}

/// Keeps a thread that started; how many of its kind did, or why the first did not.
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

/// What a thread takes its work from.
type Jobs<T> = Arc<Mutex<Receiver<T>>>;
/// A sealed chunk on its way.
type Parcel = (Sha256, Vec<u8>);

impl<'scope> Sealing<'scope> {
    /// Starts `threads` of them, or as many as the system gives.
    ///
    /// # Errors
    /// `Unavailable` where it gives none.
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

    /// A buffer of a chunk's length, from those that were sealed, and with what was in them.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.shared.spare();
        buffer.resize(CHUNK, 0);
        buffer
    }

    /// Hands over the chunk at `place`; what is missing at its end is zeros.
    ///
    /// # Errors
    /// `Internal` where a chunk before it failed; [`Sealing::finish`] says why.
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

    /// Waits for all that was handed over.
    ///
    /// # Errors
    /// Those of the store, naming the object.
    pub fn finish(self) -> Result<SealedChunks> {
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
pub fn seal_one(sealer: Sealer<'_>, sealed: SealedChunks, place: ChunkPlace, chunk: Vec<u8>) -> Result<SealedChunks> {
    let shared = Shared { sealed: Mutex::new(sealed), ..Shared::default() };
    Worker { sealer, shared: &shared, packer: Packer::new(sealer.codec), parcels: None }.seal(place, chunk)?;
    Ok(shared.sealed.into_inner().expect("no thread panicked with it"))
}

struct Worker<'a> {
    sealer: Sealer<'a>,
    shared: &'a Shared,
    packer: Packer,
    /// To the threads that put, where there are such.
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
                // Those who put are there as long as those who seal.
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

//! The device's chunks, made, sealed and put by several threads; the result does not depend on their number.
//!
//! One thread makes metadata chunks and hands out the numbers of data chunks; the others pack, seal and put. The first
//! chunk comes last: the UUID in it is made of all chunks.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, sync_channel};

use super::Counts;
use crate::crypto::convergent;
use crate::crypto::packed::{Packer, trimmed};
use crate::crypto::{Codec, Salt};
use crate::digest::{Blake3, Sha256};
use crate::fs::ext4::layout::Layout;
use crate::fs::ext4::write::{LayerBytes, set_uuid};
use crate::manifest::ChunkRef;
use crate::manifest::root_digest::{Leaf, uuid};
use crate::progress::{Progress, Stage};
use crate::store::{ObjectName, PutIfAbsent, PutOutcome, RootId};
use crate::{CHUNK_SIZE, ChunkIndex, Error, Result};

const CHUNK: usize = CHUNK_SIZE as usize;
/// Chunks made ahead of the threads that seal.
const AHEAD: usize = 16;

/// How chunks are sealed, and where they go.
pub struct Sealer<'a> {
    /// The dedup scope's.
    pub salt: &'a Salt,
    /// How they are packed.
    pub codec: Codec,
    /// `None` for a conversion that only counts.
    pub store: Option<(&'a dyn PutIfAbsent, &'a RootId)>,
}

/// Every chunk of a device that is not zero, ascending.
#[derive(Debug)]
pub struct SealedDevice {
    /// Names and keys.
    pub chunks: Vec<ChunkRef>,
    /// Plaintext digests.
    pub leaves: Vec<Leaf>,
    /// What it took.
    pub counts: Counts,
}

enum Job {
    /// A metadata chunk.
    Made(ChunkIndex, Vec<u8>),
    /// A data chunk that is still to be made.
    Data(ChunkIndex),
}

/// What the threads share.
#[derive(Default)]
struct Done {
    chunks: Vec<(ChunkRef, Blake3)>,
    names: BTreeSet<Sha256>,
    counts: Counts,
    failed: Option<Error>,
}

/// Makes, seals and puts all chunks of `layout`.
///
/// # Errors
/// Those of reading the layers' bytes, and of the store.
pub fn seal(
    layout: &Layout<'_>,
    bytes: &dyn LayerBytes,
    sealer: &Sealer<'_>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<SealedDevice> {
    progress.begin(Stage::Chunks, layout.device_bytes());
    let done = Mutex::new(Done::default());
    let (send, receive) = sync_channel(AHEAD);
    let receive = Mutex::new(receive);
    let first = std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                Worker { layout, bytes, sealer, done: &done, progress, packer: Packer::new(sealer.codec) }
                    .run(&receive);
            });
        }
        // A worker that failed stops taking, and what is then left in the channel is dropped with it.
        let stopped = || done.lock().expect("no thread panics with it").failed.is_some();
        let data =
            layout.segments().iter().flat_map(|segment| segment.first_chunk..segment.first_chunk + segment.chunks);
        for index in data {
            if stopped() || send.send(Job::Data(ChunkIndex(index))).is_err() {
                break;
            }
        }
        let made = layout.metadata(&mut |index, chunk| {
            let gone = || Error::new(crate::ErrorKind::Internal, "sealing stopped");
            if stopped() { Err(gone()) } else { send.send(Job::Made(index, chunk.to_vec())).map_err(|_| gone()) }
        });
        drop(send);
        made.map_err(|error| {
            done.lock().expect("no thread panics with it").failed.get_or_insert(error);
        })
    });
    let mut worker = Worker { layout, bytes, sealer, done: &done, progress, packer: Packer::new(sealer.codec) };
    if let Ok(mut first) = first {
        complete_first(layout, &done, &mut first);
        worker.seal(ChunkIndex(0), &first, &mut Vec::new())?;
    }
    progress.end(Stage::Chunks);
    let Done { mut chunks, counts, failed, .. } = done.into_inner().expect("no thread panics with it");
    if let Some(error) = failed {
        return Err(error);
    }
    chunks.sort_unstable_by_key(|(chunk, _)| chunk.index);
    let leaves = chunks.iter().map(|(chunk, leaf)| (chunk.index, *leaf)).collect();
    Ok(SealedDevice { chunks: chunks.into_iter().map(|(chunk, _)| chunk).collect(), leaves, counts })
}

/// Gives the first chunk the UUID: it is made of all chunks, this one as it is without it.
fn complete_first(layout: &Layout<'_>, done: &Mutex<Done>, first: &mut [u8]) {
    let done = done.lock().expect("no thread panics with it");
    let mut leaves: Vec<Leaf> = done.chunks.iter().map(|(chunk, leaf)| (chunk.index, *leaf)).collect();
    leaves.push((ChunkIndex(0), Blake3::of(trimmed(first))));
    leaves.sort_unstable_by_key(|(index, _)| *index);
    let device_chunks =
        u32::try_from(layout.device_bytes() / u64::from(CHUNK_SIZE)).expect("the layout is below 2^32 blocks");
    set_uuid(first, uuid(device_chunks, &leaves));
}

struct Worker<'a> {
    layout: &'a Layout<'a>,
    bytes: &'a dyn LayerBytes,
    sealer: &'a Sealer<'a>,
    done: &'a Mutex<Done>,
    progress: &'a dyn Progress,
    packer: Packer,
}

impl Worker<'_> {
    fn run(mut self, jobs: &Mutex<Receiver<Job>>) {
        let (mut chunk, mut packed) = (vec![0; CHUNK], Vec::new());
        loop {
            let job = jobs.lock().expect("no thread panics with it").recv();
            let Ok(job) = job else { return };
            let sealed = match job {
                Job::Made(index, made) => self.seal(index, &made, &mut packed),
                Job::Data(index) => match self.layout.data_chunk(index, self.bytes, &mut chunk) {
                    Ok(()) => self.seal(index, &chunk, &mut packed),
                    Err(error) => Err(Error::io("a layer's bytes, while its chunks were made", error)),
                },
            };
            if let Err(error) = sealed {
                self.done.lock().expect("no thread panics with it").failed.get_or_insert(error);
            }
        }
    }

    fn seal(&mut self, index: ChunkIndex, chunk: &[u8], packed: &mut Vec<u8>) -> Result<()> {
        self.progress.advance(Stage::Chunks, CHUNK_SIZE.into());
        let trimmed = trimmed(chunk);
        if trimmed.is_empty() {
            return Ok(());
        }
        let leaf = Blake3::of(trimmed);
        self.packer.pack(trimmed, packed);
        let (key, name) = convergent::seal(self.sealer.salt, packed);
        let length = packed.len();
        let stored = u32::try_from(length).expect("a sealed chunk is a little longer than a chunk");
        let fresh = {
            let mut done = self.done.lock().expect("no thread panics with it");
            done.chunks.push((ChunkRef { index, name, key, stored }, leaf));
            if done.failed.is_some() {
                return Ok(());
            }
            done.names.insert(name)
        };
        if fresh {
            let outcome = match self.sealer.store {
                Some((store, root)) => {
                    Some(store.put_if_absent(&ObjectName::chunk(root, name), std::mem::take(packed))?)
                }
                None => None,
            };
            let counts = &mut self.done.lock().expect("no thread panics with it").counts;
            counts.stored_bytes += length as u64;
            match outcome {
                Some(PutOutcome::Stored) => {
                    counts.put_chunks += 1;
                    counts.put_bytes += length as u64;
                }
                Some(PutOutcome::Present) => counts.claimed_chunks += 1,
                None => {}
            }
        }
        Ok(())
    }
}

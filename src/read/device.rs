//! The device that a block manifest describes.
//!
//! [`BlockDevice`] is the seam that every door and reader stands on. [`ChunkDevice`] fetches a chunk when it is first read, through
//! the tiers, checks its name, opens it, and keeps it in the memory of the process; two readers of one missing chunk cause one
//! fetch, and no read waits past its deadline.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use super::ahead::Ahead;
use super::counts::Counts;
use super::fill::{FillRate, Fillable, Filled, Filler};
use super::flights::{Flights, Lead, Role};
use super::gate::Gate;
use super::memory::Memory;
use super::origin::{Limits, Origin, REQUEST, Requests};
use super::tier::{Place, Tier, Wanted};
use crate::crypto::convergent;
use crate::fs::BlockDevice;
use crate::manifest::{ChunkRef, OpenManifest};
use crate::net::retry::{PATIENCE, PATIENCE_AT_FIRST};
use crate::progress::{Progress, Stage};
use crate::store::{Get, ObjectName};
use crate::sync::{elapsed, now};
use crate::threads::side_by_side;
use crate::{CHUNK_SIZE, ChunkIndex, Error, ErrorKind, Result};

const CHUNK: usize = CHUNK_SIZE as usize;
/// What a device for itself has.
const PLAIN_MEMORY: u64 = 32 << 20;
const PLAIN_REQUESTS: usize = 16;

/// Fetches, verifies and opens one chunk into `chunk`.
///
/// # Errors
/// Those of the store; `Corrupt` where the bytes are not what the manifest names.
pub fn fetch(manifest: &OpenManifest, store: &dyn Get, wanted: &ChunkRef, chunk: &mut [u8]) -> Result<()> {
    let name = ObjectName::chunk(&manifest.clear.root, wanted.name);
    let mut stored = store.get(&name, wanted.stored.into()).map_err(|error| lost(wanted, error))?;
    open(manifest, wanted, &mut stored, chunk)
}

fn asked_for<'w>(name: &'w ObjectName, chunk: &'w ChunkRef) -> Wanted<'w> {
    Wanted { name, limit: chunk.stored.into(), key: &chunk.key, background: false }
}

/// Returns the error of a chunk that the store did not return.
fn lost(wanted: &ChunkRef, error: Error) -> Error {
    let chunk = wanted.index.0;
    match error.kind() {
        ErrorKind::NotFound => {
            let hint = "`coldpress convert IMAGE --heal MANIFEST` uploads missing chunks again from the image";
            Error::caused(error.kind(), format!("chunk {chunk}: missing from the store"), error).with_hint(hint)
        }
        // Without permission to list, a store denies access to missing objects.
        ErrorKind::Denied => {
            let hint = "check the permissions with `coldpress doctor --as worker`; if the chunk is missing, `coldpress convert IMAGE --heal \
                        MANIFEST` uploads it again from the image";
            Error::caused(error.kind(), format!("chunk {chunk}: access denied, or missing"), error).with_hint(hint)
        }
        _ => error.within(format!("chunk {chunk}")),
    }
}

/// Verifies and opens what is stored of a chunk.
fn open(manifest: &OpenManifest, wanted: &ChunkRef, stored: &mut [u8], chunk: &mut [u8]) -> Result<()> {
    let fail = |reason: &str| {
        let message = format!("chunk {} ({}): {reason}", wanted.index.0, wanted.name);
        let hint =
            "`coldpress scrub` finds damaged chunks; `coldpress convert IMAGE --heal MANIFEST` repairs the store";
        Error::new(ErrorKind::Corrupt, message).with_hint(hint)
    };
    if stored.len() as u64 != u64::from(wanted.stored) {
        let (found, wanted) = (stored.len(), wanted.stored);
        return Err(fail(&format!("the stored object has {found} bytes, the manifest says {wanted}")));
    }
    convergent::open(manifest.clear.recipe.codec, wanted.name, &wanted.key, stored, chunk)
        .map_err(|error| fail(&error.to_string()))
}

/// Takes a chunk's place in the manifest's list and its bytes, and says whether to go on.
pub type Visit<'a> = dyn Fn(usize, Result<&[u8]>) -> ControlFlow<()> + Sync + 'a;

/// Fetches, verifies and opens every chunk with `threads` threads, or as many as the store serves best, and calls `visit` with each, in no order, until it
/// says stop.
pub fn fetch_all(manifest: &OpenManifest, store: &dyn Get, threads: usize, progress: &dyn Progress, visit: &Visit<'_>) {
    let chunks = &manifest.sealed.chunks;
    progress.begin(Stage::Fetch, chunks.len() as u64 * u64::from(CHUNK_SIZE));
    let next = AtomicUsize::new(0);
    side_by_side(threads.max(store.in_flight()), || {
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
    progress.end(Stage::Fetch);
}

/// Told of what a device fetches and why.
pub trait Observer: Send + Sync {
    /// A chunk was fetched, or read for the first time after it came ahead.
    fn arrived(&self, _arrival: &Arrival) {}
}

/// A chunk's coming.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// Which.
    pub chunk: ChunkIndex,
    /// Where it was.
    pub place: Place,
    /// Since when somebody waited for it.
    pub began: Instant,
    /// Until it was opened.
    pub took: Duration,
    /// Somebody read it, and it was not fetched ahead of them.
    pub wanted: bool,
}

/// What the devices of a process share, and how long each read may take.
#[derive(Clone)]
pub struct Host {
    /// Opened chunks.
    pub memory: Arc<Memory>,
    /// What happened.
    pub counts: Arc<Counts>,
    /// No read takes longer, but by what it does itself.
    pub deadline: Duration,
    /// Chunks of a device that may be fetched ahead at a time.
    pub ahead: usize,
    /// Copies images into the disk cache.
    pub filler: Arc<Filler>,
    /// Whether chunks near a read are prefetched while the image is not being copied.
    pub near: bool,
    /// Where threads that prefetch wait for their turn to decrypt.
    pub gate: Arc<Gate>,
}

/// A device of sealed chunks.
pub struct ChunkDevice {
    core: Arc<Core>,
    ahead: Ahead,
}

/// What fetches for readers and ahead of them.
pub(super) struct Core {
    pub(super) manifest: Arc<OpenManifest>,
    tier: Box<dyn Tier>,
    pub(super) host: Host,
    pub(super) number: u32,
    flights: Flights,
    fetched: AtomicU64,
    observers: Vec<Arc<dyn Observer>>,
}

impl Core {
    /// Whether the chunk is in memory or on its way there.
    pub(super) fn is_coming(&self, index: ChunkIndex) -> bool {
        self.host.memory.has(self.number, index) || self.flights.has(index)
    }

    /// The opened chunk, read; one fetch serves all who wait for it.
    fn chunk(&self, wanted: &ChunkRef, until: Instant) -> Result<(Arc<Vec<u8>>, Touch)> {
        let asked = now();
        loop {
            if let Some(found) = self.host.memory.get(self.number, wanted.index) {
                self.host.counts.of(Place::Memory).hits.add(1);
                if found.first {
                    self.tell(wanted.index, Place::Memory, now(), true);
                }
                return Ok((found.chunk, if found.first { Touch::First } else { Touch::Again }));
            }
            match self.flights.join(wanted.index) {
                Role::Leads(lead) => return self.lead(lead, wanted, until, true).map(|chunk| (chunk, Touch::First)),
                Role::Joined(flight) => match flight.wait(until) {
                    Some(Ok(chunk)) => {
                        // Who joined a flight ahead of all readers is its first.
                        if self.host.memory.get(self.number, wanted.index).is_some_and(|found| found.first) {
                            self.tell(wanted.index, Place::Memory, asked, true);
                        }
                        return Ok((chunk, Touch::First));
                    }
                    // Who led may have begun long before.
                    Some(Err(error)) if error.kind() == ErrorKind::Unavailable && now() < until => {}
                    Some(Err(error)) => return Err(error),
                    None => {
                        let message = format!("chunk {}: not fetched before the deadline", wanted.index.0);
                        return Err(Error::new(ErrorKind::Unavailable, message));
                    }
                },
            }
        }
    }

    /// Fetches a chunk that nobody waits for yet, unless it is there or on its way; whether it did.
    pub(super) fn fetch_ahead(&self, index: ChunkIndex) -> Result<bool> {
        let Some(wanted) = self.manifest.chunk(index) else { return Ok(false) };
        if self.host.memory.has(self.number, index) {
            return Ok(false);
        }
        match self.flights.join(index) {
            Role::Leads(lead) => {
                self.host.counts.ahead.add(1);
                self.lead(lead, wanted, now() + self.host.deadline, false).map(|_| true)
            }
            Role::Joined(_) => Ok(false),
        }
    }

    /// Fetches a chunk for all who joined.
    fn lead(&self, lead: Lead<'_>, wanted: &ChunkRef, until: Instant, read: bool) -> Result<Arc<Vec<u8>>> {
        // It may have landed between a look at the memory and this flight.
        if let Some(found) = self.host.memory.get(self.number, wanted.index) {
            lead.land(&Ok(Arc::clone(&found.chunk)));
            return Ok(found.chunk);
        }
        let began = now();
        let mut chunk = vec![0; CHUNK];
        let may_wait = || !read && !lead.is_joined();
        let fetched = self.fetch(wanted, until, &mut chunk, &may_wait);
        let result = fetched.map(|place| {
            let chunk = Arc::new(chunk);
            self.host.memory.put(self.number, wanted.index, Arc::clone(&chunk), !read);
            self.fetched.fetch_add(1, Ordering::Relaxed);
            self.host.counts.of(place).took.note(elapsed(began));
            self.tell(wanted.index, place, began, read);
            chunk
        });
        lead.land(&result);
        result
    }

    fn tell(&self, chunk: ChunkIndex, place: Place, began: Instant, wanted: bool) {
        let arrival = Arrival { chunk, place, began, took: elapsed(began), wanted };
        let took_us = u64::try_from(arrival.took.as_micros()).unwrap_or(u64::MAX);
        tracing::debug!(chunk = chunk.0, from = %place, took_us, prefetched = !wanted, "chunk");
        self.observers.iter().for_each(|observer| observer.arrived(&arrival));
    }

    /// Fetches, verifies and decrypts one chunk; a copy that is not authentic is dropped, and the chunk requested again. Decryption waits for
    /// its turn if it `may_wait`.
    fn fetch(&self, wanted: &ChunkRef, until: Instant, chunk: &mut [u8], may_wait: &dyn Fn() -> bool) -> Result<Place> {
        let name = ObjectName::chunk(&self.manifest.clear.root, wanted.name);
        self.host.counts.of(Place::Memory).misses.add(1);
        let mut looks = 1..=LOOKS;
        loop {
            let look = looks.next();
            let asked = asked_for(&name, wanted);
            let (mut stored, place) = self.tier.get(&asked, until).map_err(|error| lost(wanted, error))?;
            let _turn = may_wait().then(|| self.host.gate.enter());
            match open(&self.manifest, wanted, &mut stored, chunk) {
                Ok(()) => return Ok(place),
                Err(error) => {
                    self.host.counts.of(place).refused.add(1);
                    if place == Place::Origin || look.is_none() || !self.tier.forget(&asked) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Whether copies are kept on the way.
    pub(super) fn keeps_copies(&self) -> bool {
        let first = self.manifest.sealed.chunks.first();
        first.is_some_and(|first| self.tier.keeps(&ObjectName::chunk(&self.manifest.clear.root, first.name)).is_some())
    }

    /// Copies a chunk into the disk cache, unless it is there or on its way. Readers that want it meanwhile join the download.
    /// Returns `true` if the chunk was downloaded.
    ///
    /// # Errors
    /// As of reading it.
    pub(super) fn copy_to_disk(&self, wanted: &ChunkRef) -> Result<bool> {
        let name = ObjectName::chunk(&self.manifest.clear.root, wanted.name);
        if self.tier.keeps(&name) != Some(false) {
            return Ok(false);
        }
        let Role::Leads(lead) = self.flights.join(wanted.index) else { return Ok(false) };
        let began = now();
        let request = Wanted { background: true, ..asked_for(&name, wanted) };
        let (mut stored, level) = match self.tier.get(&request, now() + self.host.deadline) {
            Ok(found) => found,
            Err(error) => {
                let (kind, error) = (error.kind(), lost(wanted, error));
                let message = error.chain();
                lead.land(&Err(error));
                return Err(Error::new(kind, message));
            }
        };
        let Some(lead) = lead.end_unless_joined() else { return Ok(true) };
        let mut chunk = vec![0; CHUNK];
        let opened = open(&self.manifest, wanted, &mut stored, &mut chunk).map(|()| {
            let chunk = Arc::new(chunk);
            self.host.memory.put(self.number, wanted.index, Arc::clone(&chunk), true);
            self.fetched.fetch_add(1, Ordering::Relaxed);
            self.host.counts.of(level).took.note(elapsed(began));
            self.tell(wanted.index, level, began, false);
            chunk
        });
        match &opened {
            // The copy is dropped, and whoever joined fetches the chunk again.
            Err(_) if level != Place::Origin && self.tier.forget(&request) => {
                self.host.counts.of(level).refused.add(1);
                let message = format!("chunk {}: a cached copy is corrupt", wanted.index.0);
                lead.land(&Err(Error::new(ErrorKind::Unavailable, message)));
            }
            _ => lead.land(&opened),
        }
        Ok(true)
    }
}

impl Fillable for Core {
    fn stored(&self, position: usize) -> u32 {
        self.manifest.sealed.chunks.get(position).map_or(0, |chunk| chunk.stored)
    }

    fn fill(&self, position: usize) -> Result<Filled> {
        let Some(wanted) = self.manifest.sealed.chunks.get(position) else { return Ok(Filled::Cached) };
        let name = ObjectName::chunk(&self.manifest.clear.root, wanted.name);
        if self.tier.keeps(&name) != Some(false) {
            return Ok(Filled::Cached);
        }
        if !self.tier.has_room(wanted.stored.into()) {
            return Ok(Filled::Full);
        }
        Ok(if self.copy_to_disk(wanted)? { Filled::Downloaded } else { Filled::Cached })
    }
}

/// Looks at a bad copy of one chunk before it is given up.
const LOOKS: usize = 3;

/// Whether a chunk was read before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Touch {
    First,
    Again,
}

impl ChunkDevice {
    /// The device of `manifest`, its chunks in `tier`.
    #[must_use]
    pub fn new(
        manifest: impl Into<Arc<OpenManifest>>,
        tier: Box<dyn Tier>,
        host: Host,
        observers: Vec<Arc<dyn Observer>>,
    ) -> Self {
        let manifest = manifest.into();
        let number = host.memory.device();
        let (flights, fetched) = (Flights::default(), AtomicU64::new(0));
        let core = Arc::new(Core { manifest, tier, host, number, flights, fetched, observers });
        Self { ahead: Ahead::new(Arc::clone(&core)), core }
    }

    /// The same with its chunks in `store` and nothing shared, for a command that reads and ends.
    #[must_use]
    pub fn plain(manifest: OpenManifest, store: Box<dyn Get>) -> Self {
        let (memory, counts) = (Memory::new(PLAIN_MEMORY), Arc::<Counts>::default());
        let (patience, at_first) = (PATIENCE, PATIENCE_AT_FIRST);
        let requests = Requests::new(PLAIN_REQUESTS);
        let limits = Limits { requests, slots: None, patience, at_first, counts: Arc::clone(&counts) };
        let filler = Filler::new(1, FillRate(None));
        let host = Host {
            memory,
            counts,
            deadline: patience + REQUEST,
            ahead: PLAIN_REQUESTS / 2,
            filler,
            near: false,
            gate: Arc::new(Gate::for_this_machine()),
        };
        Self::new(manifest, Box::new(Origin::new(store.into(), limits)), host, Vec::new())
    }

    /// What it reads.
    #[must_use]
    pub fn manifest(&self) -> &OpenManifest {
        &self.core.manifest
    }

    /// Chunks fetched so far.
    #[must_use]
    pub fn fetched(&self) -> u64 {
        self.core.fetched.load(Ordering::Relaxed)
    }

    /// Begins to copy the whole image into the disk cache, if there is one.
    pub fn fill(&self) {
        if self.core.keeps_copies() {
            let device: Weak<Core> = Arc::downgrade(&self.core);
            self.core.host.filler.add(self.core.number, device, self.core.manifest.sealed.chunks.len());
        }
    }

    /// What is fetched before it is read.
    #[must_use]
    pub fn ahead(&self) -> &Ahead {
        &self.ahead
    }
}

impl BlockDevice for ChunkDevice {
    fn size(&self) -> u64 {
        self.core.manifest.device_bytes()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(Error::new(ErrorKind::Input, format!("a read at byte {offset} past the end of the device")));
        }
        let until = now() + self.core.host.deadline;
        if buf.len() > CHUNK {
            self.ahead.also(offset, buf.len());
        }
        for (index, inside, part) in parts(offset, buf) {
            match self.core.manifest.chunk(index) {
                Some(wanted) => {
                    let read = self.core.chunk(wanted, until);
                    let (chunk, touch) = read.inspect_err(|_| self.core.host.counts.failed_reads.add(1))?;
                    part.copy_from_slice(&chunk[inside..inside + part.len()]);
                    if touch == Touch::First {
                        self.ahead.touched(index, inside == 0);
                    }
                }
                None => part.fill(0),
            }
        }
        Ok(())
    }

    fn read_at_hand(&self, offset: u64, buf: &mut [u8]) -> bool {
        let (core, mut first) = (&self.core, None);
        let at_hand = parts(offset, buf).all(|(index, inside, part)| {
            if core.manifest.chunk(index).is_none() {
                part.fill(0);
                return true;
            }
            let Some(found) = core.host.memory.get(core.number, index) else { return false };
            if found.first {
                first = Some((index, inside == 0));
                core.tell(index, Place::Memory, now(), true);
            }
            let bytes = found.chunk.get(inside..inside + part.len());
            bytes.map(|bytes| part.copy_from_slice(bytes)).is_some()
        });
        if at_hand {
            core.host.counts.of(Place::Memory).hits.add(1);
        }
        if let Some((index, begins)) = first {
            self.ahead.touched(index, begins);
        }
        at_hand
    }
}

/// The chunks that `buf` at `offset` touches, where in each it begins, and what of `buf` that is.
fn parts(offset: u64, buf: &mut [u8]) -> impl Iterator<Item = (ChunkIndex, usize, &mut [u8])> {
    let (mut at, mut rest) = (offset, buf);
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let index = ChunkIndex(u32::try_from(at / CHUNK as u64).expect("below the device's end"));
        let inside = usize::try_from(at % CHUNK as u64).expect("below a chunk's size");
        let length = (CHUNK - inside).min(rest.len());
        let (part, behind) = std::mem::take(&mut rest).split_at_mut(length);
        rest = behind;
        at += length as u64;
        Some((index, inside, part))
    })
}

//! Prefetching: chunks are fetched before they are read, if they are near what is read, behind a sequential reader, or named by a profile
//! (`fill.rs` copies all).
//!
//! No read waits for prefetching: a reader that wants a chunk whose turn has not come fetches it. At most half the bound on requests
//! is used. Prefetched chunks that nobody has read yet take at most three quarters of the memory, those near a read a quarter; more
//! of them go to the host's disk if there is a disk cache, and those of a profile to the memory as soon as a reader makes room.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::device::Core;
use crate::sync::{Mutex, MutexGuard, spawn};
use crate::{CHUNK_SIZE, ChunkIndex};

/// Sequential readers that are told apart.
const STREAMS: usize = 8;
/// Chunks in a row after which a reader counts as sequential.
const ROW: u32 = 2;
/// Most chunks fetched behind a sequential reader.
const WINDOW: u32 = 8;
/// Chunks on each side of one that is read, of which those that were read say how many more to fetch.
const NEIGHBOURS: usize = 8;
/// Chunks that are fetched on each side of one that is read: where none of its neighbours was read, for each of those that were, and at most.
/// docs/explanation/performance.md has the measurements.
const NEAR_LEAST: usize = 2;
const NEAR_EACH: usize = 2;
const NEAR_MOST: usize = 16;
/// The second chunk of the file system's metadata that is read has the rest of the metadata fetched, at most so many chunks: mounting reads
/// one, and a program that looks up files reads nearly all.
const BURST: usize = 64;

/// What is fetched before it is read, of one device; dropped, it fetches no more.
pub struct Ahead(Arc<Shared>);

struct Shared {
    core: Arc<Core>,
    /// The number of chunks in front of the first layer, which have the file system's metadata.
    metadata: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    near: VecDeque<ChunkIndex>,
    /// Chunks of profiles that are to be decrypted into the memory, and those that are to be copied to the disk.
    planned: VecDeque<ChunkIndex>,
    copies: VecDeque<ChunkIndex>,
    threads: usize,
    /// By position in the manifest's list: chunks that were read.
    read: Vec<bool>,
    /// The last used in front.
    streams: VecDeque<Stream>,
    ended: bool,
}

/// A reader that may be sequential.
struct Stream {
    /// The place in the manifest's list of the chunk that it read last.
    last: usize,
    /// Chunks that it read in a row.
    row: u32,
}

/// What a thread does next.
enum Next {
    Fetch(ChunkIndex),
    /// To the disk alone: the memory has enough.
    Fill(ChunkIndex),
}

/// Has chunks of a device fetched before they are read, for as long as the device is open.
pub struct Planner(Weak<Shared>);

impl Planner {
    /// Fetches `chunks` in this order, in parallel.
    pub fn plan(&self, chunks: impl IntoIterator<Item = ChunkIndex>) {
        if let Some(shared) = self.0.upgrade() {
            shared.plan(chunks);
        }
    }
}

impl Ahead {
    pub(super) fn new(core: Arc<Core>) -> Self {
        let metadata = core.manifest.metadata_chunks();
        Self(Arc::new(Shared { core, metadata, state: Mutex::default() }))
    }

    /// Fetches `chunks` in this order, in parallel.
    pub fn plan(&self, chunks: impl IntoIterator<Item = ChunkIndex>) {
        self.0.plan(chunks);
    }

    /// Returns what fetches chunks ahead for whoever does not have the device.
    #[must_use]
    pub fn planner(&self) -> Planner {
        Planner(Arc::downgrade(&self.0))
    }

    /// Chunks that are still to be fetched, and those under way.
    #[must_use]
    pub fn left(&self) -> usize {
        let state = self.0.state();
        state.near.len() + state.planned.len().max(state.copies.len()) + state.threads
    }

    /// A chunk is read for the first time, from its beginning or not.
    pub(super) fn touched(&self, index: ChunkIndex, begins: bool) {
        let mut state = self.0.state();
        let window = self.0.window(&mut state, index, begins);
        if let (Some(first), Some(last)) = (window.first(), window.last()) {
            tracing::debug!(first = first.0, last = last.0, "prefetch: behind a sequential reader");
        }
        self.0.take_near(&mut state, window);
        let idle = self.0.waiting(&state) == 0;
        drop(state);
        if !idle {
            self.0.start();
        }
    }

    /// A read of many chunks begins: those behind the first are fetched at the same time.
    pub(super) fn also(&self, offset: u64, length: usize) {
        let chunk = u64::from(CHUNK_SIZE);
        let last = (offset + length as u64 - 1) / chunk;
        let behind = (offset / chunk + 1..=last).filter_map(|index| u32::try_from(index).ok().map(ChunkIndex));
        let missing: Vec<ChunkIndex> = behind.filter(|index| !self.0.core.is_coming(*index)).collect();
        if !missing.is_empty() {
            self.0.state().near.extend(missing);
            self.0.start();
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        *self.0.state() = State { ended: true, ..State::default() };
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    fn plan(self: &Arc<Self>, chunks: impl IntoIterator<Item = ChunkIndex>) {
        let mut state = self.state();
        let before = state.planned.len();
        state.planned.extend(chunks);
        if self.core.keeps_copies() {
            let State { planned, copies, .. } = &mut *state;
            copies.extend(planned.range(before..));
        }
        tracing::debug!(chunks = state.planned.len(), "prefetch: the chunks of a startup profile");
        drop(state);
        self.start();
    }

    /// What to fetch behind a reader of `index`.
    fn window(&self, state: &mut State, index: ChunkIndex, begins: bool) -> Vec<ChunkIndex> {
        let chunks = &self.core.manifest.sealed.chunks;
        let Ok(at) = chunks.binary_search_by_key(&index, |chunk| chunk.index) else { return Vec::new() };
        let is_filled = self.core.host.filler.follow(self.core.number, at);
        if !is_filled && self.core.host.near {
            let near = self.around(state, at);
            self.take_near(state, near);
        }
        let known = state.streams.iter().position(|stream| stream.last + 1 == at);
        let mut stream = match known.and_then(|known| state.streams.remove(known)) {
            Some(stream) if begins || stream.row >= ROW => Stream { last: at, row: stream.row + 1 },
            _ => Stream { last: at, row: 0 },
        };
        let mut window = Vec::new();
        if stream.row >= ROW {
            let length = 1 << (stream.row - ROW + 1).min(WINDOW.ilog2());
            stream.row = stream.row.min(ROW + WINDOW);
            let behind = chunks.iter().skip(at + 1).take(length).map(|chunk| chunk.index);
            window.extend(behind.filter(|index| !self.core.is_coming(*index) && !state.near.contains(index)));
        }
        state.streams.push_front(stream);
        state.streams.truncate(STREAMS);
        window
    }

    /// Returns the neighbours of the chunk at `at` that are to be fetched, the nearest in front: the more of them were read, the more.
    fn around(&self, state: &mut State, at: usize) -> Vec<ChunkIndex> {
        let chunks = &self.core.manifest.sealed.chunks;
        if state.read.is_empty() {
            state.read = vec![false; chunks.len()];
        }
        state.read[at] = true;
        let is_missing = |index: &ChunkIndex| !self.core.is_coming(*index);
        if at < self.metadata {
            let reads = state.read[..self.metadata].iter().filter(|read| **read).count();
            let rest = if reads == 2 { self.metadata.min(BURST) } else { 0 };
            return chunks[..rest].iter().map(|chunk| chunk.index).filter(is_missing).collect();
        }
        let neighbours = at.saturating_sub(NEIGHBOURS)..(at + NEIGHBOURS + 1).min(chunks.len());
        let dense = state.read[neighbours].iter().filter(|read| **read).count() - 1;
        let width = (NEAR_LEAST + NEAR_EACH * dense).min(NEAR_MOST);
        let both_sides = |step: usize| [at.checked_add(step), at.checked_sub(step)];
        let is_file = |at: &usize| (self.metadata..chunks.len()).contains(at) && !state.read[*at];
        let near = (1..=width).flat_map(both_sides).flatten().filter(is_file);
        near.map(|at| chunks[at].index).filter(is_missing).collect()
    }

    /// Puts `near` in front of what is to be fetched near reads.
    fn take_near(&self, state: &mut State, near: Vec<ChunkIndex>) {
        state.near.retain(|index| !near.contains(index));
        near.into_iter().rev().for_each(|index| state.near.push_front(index));
    }

    /// Returns the number of chunks that can be fetched now.
    fn waiting(&self, state: &State) -> usize {
        let planned = if self.has_room(state) { state.planned.len() } else { 0 };
        state.near.len() + planned.max(state.copies.len())
    }

    /// Returns whether the memory may take more chunks that nobody has read yet.
    fn has_room(&self, state: &State) -> bool {
        let memory = &self.core.host.memory;
        memory.unread() + state.threads <= memory.limit() / 4 * 3
    }

    /// Has threads work, if there are too few.
    fn start(self: &Arc<Self>) {
        let mut state = self.state();
        let wanted = self.waiting(&state).min(self.core.host.ahead);
        while state.threads < wanted && !state.ended {
            let shared = Arc::clone(self);
            if spawn("ahead", move || shared.work()).is_err() {
                // Nobody would take them, and they would become more with each read: readers fetch by themselves.
                if state.threads == 0 {
                    state.near.clear();
                }
                return;
            }
            state.threads += 1;
        }
    }

    fn work(&self) {
        self.core.host.filler.wait_while_held();
        while let Some(next) = self.next() {
            // Who reads it will hear of a failure, if it lasts.
            let _counted = self.core.host.filler.prefetch();
            match next {
                Next::Fetch(index) => drop(self.core.fetch_ahead(index)),
                Next::Fill(index) => drop(self.core.manifest.chunk(index).map(|chunk| self.core.copy_to_disk(chunk))),
            }
        }
    }

    fn next(&self) -> Option<Next> {
        let mut state = self.state();
        let memory = &self.core.host.memory;
        let room_near = memory.unread() + state.threads <= (memory.limit() / 4).max(WINDOW as usize);
        let next = match state.near.pop_front() {
            Some(index) if room_near => Some(Next::Fetch(index)),
            Some(index) => Some(Next::Fill(index)),
            None if !state.planned.is_empty() && self.has_room(&state) => state.planned.pop_front().map(Next::Fetch),
            None => state.copies.pop_front().map(Next::Fill),
        };
        if next.is_none() {
            state.threads = state.threads.saturating_sub(1);
        }
        next
    }
}

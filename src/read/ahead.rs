//! Chunks fetched before they are read: those behind a sequential reader, and those that a profile names (`fill.rs`: all).
//!
//! What is read waits for none of this: a reader that wants a chunk whose turn has not come fetches it. At most half the bound on
//! requests is used. What came ahead and nobody read yet fills at most three quarters of the memory; then a profile's chunks go to
//! the host's disk, or wait for the reader.

use std::collections::VecDeque;
use std::sync::Arc;

use super::device::Core;
use crate::sync::{Mutex, MutexGuard, spawn};
use crate::{CHUNK_SIZE, ChunkIndex};

/// Sequential readers that are told apart.
const STREAMS: usize = 8;
/// Chunks in a row after which a reader counts as sequential.
const ROW: u32 = 2;
/// Most chunks fetched behind a sequential reader.
const WINDOW: u32 = 8;

/// What is fetched before it is read, of one device; dropped, it fetches no more.
pub struct Ahead(Arc<Shared>);

struct Shared {
    core: Arc<Core>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    near: VecDeque<ChunkIndex>,
    planned: VecDeque<ChunkIndex>,
    threads: usize,
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

impl Ahead {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self(Arc::new(Shared { core, state: Mutex::default() }))
    }

    /// Fetches `chunks` in this order, in parallel.
    pub fn plan(&self, chunks: impl IntoIterator<Item = ChunkIndex>) {
        let mut state = self.0.state();
        state.planned.extend(chunks);
        tracing::debug!(chunks = state.planned.len(), "prefetch: the chunks of a startup profile");
        drop(state);
        self.0.start();
    }

    /// Chunks that are still to be fetched, and those under way.
    #[must_use]
    pub fn left(&self) -> usize {
        let state = self.0.state();
        state.near.len() + state.planned.len() + state.threads
    }

    /// A chunk is read for the first time, from its beginning or not.
    pub(super) fn touched(&self, index: ChunkIndex, begins: bool) {
        let mut state = self.0.state();
        let window = self.0.window(&mut state, index, begins);
        if let (Some(first), Some(last)) = (window.first(), window.last()) {
            tracing::debug!(first = first.0, last = last.0, "prefetch: behind a sequential reader");
        }
        state.near.extend(window);
        let idle = state.near.is_empty() && state.planned.is_empty();
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

    /// What to fetch behind a reader of `index`.
    fn window(&self, state: &mut State, index: ChunkIndex, begins: bool) -> Vec<ChunkIndex> {
        let chunks = &self.core.manifest.sealed.chunks;
        let Ok(at) = chunks.binary_search_by_key(&index, |chunk| chunk.index) else { return Vec::new() };
        self.core.host.filler.follow(self.core.number, at);
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

    /// Has threads work, if there are too few.
    fn start(self: &Arc<Self>) {
        let mut state = self.state();
        let wanted = (state.near.len() + state.planned.len()).min(self.core.host.ahead);
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
        let room = memory.unread() + state.threads <= memory.limit() / 4 * 3;
        let next = match state.near.pop_front() {
            Some(index) => Some(Next::Fetch(index)),
            None if room => state.planned.pop_front().map(Next::Fetch),
            None if self.core.keeps_copies() => state.planned.pop_front().map(Next::Fill),
            None => None,
        };
        if next.is_none() {
            state.threads = state.threads.saturating_sub(1);
        }
        next
    }
}

//! Learning: each startup is recorded without being asked for, and prefetched the next time.
//!
//! One [`Learning`] serves all images of a process. When an image is opened, a thread loads what earlier startups read (`learned.rs`)
//! from the first place that has it, the disk cache before the zone cache, and has it prefetched. The startup is recorded until
//! 5 seconds have passed without a new chunk, 60 seconds at most, or until the image is closed; then the parts are stored in all
//! places. No read waits for any of this.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::ahead::Planner;
use super::device::{Arrival, Observer};
use super::learned::{self, LearnedChunk, Part, ProfileStore};
use crate::ChunkIndex;
use crate::crypto::profile_seal::ProfileId;
use crate::manifest::OpenManifest;
use crate::sync::{Condvar, Mutex, elapsed, now, spawn};

/// A startup has ended when no chunk was read for the first time for so long.
const QUIET: Duration = Duration::from_secs(5);
/// The longest startup that is recorded.
const LONGEST: Duration = Duration::from_secs(60);
/// How often a recorded startup is looked at.
const LOOK: Duration = Duration::from_millis(500);
/// How long loading the parts of an image may take, and saving them in one place: cache servers may hang.
const LOADING: Duration = Duration::from_millis(500);
const SAVING: Duration = Duration::from_secs(2);
/// The smallest number of chunks that count as a startup: mounting alone reads fewer.
const LEAST: usize = 4;

/// Records the startups of a process, and has earlier ones prefetched.
pub struct Learning {
    /// The nearest in front.
    stores: Vec<Arc<dyn ProfileStore>>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    opened: Vec<Opened>,
    recorded: Vec<Arc<Startup>>,
    works: bool,
}

/// An image that was opened, and whose earlier startups are still to be loaded.
struct Opened {
    startup: Arc<Startup>,
    /// Where they are prefetched; `None` where another profile is.
    planner: Option<Planner>,
}

/// The recording of one startup of one image.
pub struct Startup {
    began: Instant,
    manifest: Arc<OpenManifest>,
    state: Mutex<Recording>,
}

#[derive(Default)]
struct Recording {
    /// Chunks that were read, with milliseconds since the image was opened.
    reads: HashMap<ChunkIndex, u32>,
    latest: Option<Instant>,
    /// What earlier startups read, by part, once that is loaded.
    known: Option<Vec<Vec<LearnedChunk>>>,
    ended: bool,
    saved: bool,
}

impl Startup {
    /// Begins to record a startup of the image that `manifest` describes.
    #[must_use]
    pub fn begin(manifest: Arc<OpenManifest>) -> Arc<Self> {
        Arc::new(Self { began: now(), manifest, state: Mutex::default() })
    }

    /// Ends the recording if the startup is over, or at once. Returns whether it has ended.
    fn is_over(&self, at_once: bool) -> bool {
        let mut recording = self.state.lock();
        let quiet = recording.latest.map_or(Duration::ZERO, elapsed) > QUIET;
        recording.ended |= at_once || quiet || elapsed(self.began) > LONGEST;
        recording.ended
    }
}

impl Observer for Startup {
    fn arrived(&self, arrival: &Arrival) {
        if !arrival.wanted {
            return;
        }
        let mut recording = self.state.lock();
        let quiet = recording.latest.map_or(Duration::ZERO, elapsed) > QUIET;
        recording.ended |= quiet || elapsed(self.began) > LONGEST;
        if recording.ended {
            return;
        }
        let at = arrival.began.saturating_duration_since(self.began).as_millis();
        let at = u32::try_from(at).unwrap_or(u32::MAX);
        recording.reads.entry(arrival.chunk).or_insert(at);
        recording.latest = Some(now());
    }
}

impl Learning {
    /// Returns the learning of a process that keeps what it learns in `stores`, the nearest in front.
    #[must_use]
    pub fn new(stores: Vec<Arc<dyn ProfileStore>>) -> Arc<Self> {
        Arc::new(Self { stores, state: Mutex::default(), changed: Condvar::new() })
    }

    /// Loads what earlier startups of an image read and hands it to `planner`, and saves what `startup` reads when that is over.
    pub fn follow(self: &Arc<Self>, startup: Arc<Startup>, planner: Option<Planner>) {
        let mut state = self.state.lock();
        state.recorded.push(Arc::clone(&startup));
        state.opened.push(Opened { startup, planner });
        if !state.works {
            let learning = Arc::clone(self);
            // Where there is no thread for it, nothing is learned.
            state.works = spawn("learn", move || learning.work()).is_ok();
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Saves what was recorded so far, of all images. A process does so before it ends.
    pub fn finish(&self) {
        let startups = std::mem::take(&mut self.state.lock().recorded);
        for startup in startups {
            startup.is_over(true);
            self.save(&startup);
        }
    }

    /// Works for as long as there is something to do.
    fn work(&self) {
        loop {
            let opened = std::mem::take(&mut self.state.lock().opened);
            for image in opened {
                self.prefetch(&image);
            }
            let over = {
                let mut state = self.state.lock();
                let recorded = std::mem::take(&mut state.recorded);
                let (over, recorded) = recorded.into_iter().partition(|startup| startup.is_over(false));
                state.recorded = recorded;
                over
            };
            let over: Vec<Arc<Startup>> = over;
            for startup in over {
                self.save(&startup);
            }
            let mut state = self.state.lock();
            if state.opened.is_empty() {
                if state.recorded.is_empty() {
                    state.works = false;
                    return;
                }
                drop(self.changed.wait_timeout(state, LOOK));
            }
        }
    }

    /// Loads what earlier startups of an image read, and has it prefetched.
    fn prefetch(&self, image: &Opened) {
        let manifest = &image.startup.manifest;
        let known = self.load(manifest);
        let parts = learned::parts(manifest);
        let mut chunks: Vec<(u32, usize)> =
            parts.iter().zip(&known).flat_map(|(part, learned)| part.positions(manifest, learned)).collect();
        image.startup.state.lock().known = Some(known);
        chunks.sort_unstable();
        tracing::info!(chunks = chunks.len(), "learned startup profile: loaded");
        if let Some(planner) = &image.planner
            && !chunks.is_empty()
        {
            planner.plan(chunks.iter().map(|(_, position)| manifest.sealed.chunks[*position].index));
        }
    }

    /// Returns what earlier startups read, by part; nothing of the parts that no place has, or that did not come in time. What comes from a
    /// further place is stored in the nearest.
    fn load(&self, manifest: &OpenManifest) -> Vec<Vec<LearnedChunk>> {
        let begun = now();
        let load = |part: &Part| {
            let (learned, at) = learned::load(part, &self.stores)?;
            if at > 0
                && let (Some(nearest), Ok(encoded)) = (self.stores.first(), part.encode(&learned))
            {
                nearest.save(part.seal.id(), &encoded);
            }
            Some(learned)
        };
        let parts = learned::parts(manifest);
        let in_time = |part: &Part| if elapsed(begun) < LOADING { load(part) } else { None };
        parts.iter().map(|part| in_time(part).unwrap_or_default()).collect()
    }

    fn save(&self, startup: &Startup) {
        let manifest = &startup.manifest;
        let (known, reads) = {
            let mut recording = startup.state.lock();
            if std::mem::replace(&mut recording.saved, true) || recording.reads.len() < LEAST {
                return;
            }
            (std::mem::take(&mut recording.known), std::mem::take(&mut recording.reads))
        };
        // Where the startup was over before that was loaded.
        let known = known.unwrap_or_else(|| self.load(manifest));
        let position =
            |index: ChunkIndex| manifest.sealed.chunks.binary_search_by_key(&index, |chunk| chunk.index).ok();
        let reads: HashMap<usize, u32> =
            reads.into_iter().filter_map(|(index, at)| Some((position(index)?, at))).collect();
        let learned: Vec<(ProfileId, Vec<u8>)> = learned::parts(manifest)
            .iter()
            .zip(&known)
            .map(|(part, known)| (part, part.learn(manifest, known, &reads)))
            .filter(|(_, learned)| !learned.is_empty())
            .filter_map(|(part, learned)| Some((part.seal.id(), part.encode(&learned).ok()?)))
            .collect();
        for store in &self.stores {
            let begun = now();
            let in_time = learned.iter().take_while(|_| elapsed(begun) < SAVING);
            for (id, part) in in_time {
                store.save(*id, part);
            }
        }
        tracing::info!(chunks = reads.len(), "learned startup profile: saved");
    }
}

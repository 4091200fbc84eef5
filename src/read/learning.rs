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
use super::learned::{self, LearnedChunk, ProfileStore};
use crate::ChunkIndex;
use crate::manifest::OpenManifest;
use crate::sync::{Condvar, Mutex, elapsed, now, spawn};

/// A startup has ended when no chunk was read for the first time for so long.
const QUIET: Duration = Duration::from_secs(5);
/// The longest startup that is recorded.
const LONGEST: Duration = Duration::from_secs(60);
/// How often a recorded startup is looked at.
const LOOK: Duration = Duration::from_millis(500);
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
    /// What earlier startups read, by part.
    known: Vec<Vec<LearnedChunk>>,
    ended: bool,
    saved: bool,
}

impl Startup {
    /// Begins to record a startup of the image that `manifest` describes.
    #[must_use]
    pub fn begin(manifest: Arc<OpenManifest>) -> Arc<Self> {
        Arc::new(Self { began: now(), manifest, state: Mutex::default() })
    }

    /// Ends the recording if the startup is over, or if it is to end `now`. Returns `true` if there is something to be saved.
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
                self.load(&image);
                self.state.lock().recorded.push(image.startup);
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

    fn load(&self, image: &Opened) {
        let manifest = &image.startup.manifest;
        let (mut known, mut chunks) = (Vec::new(), Vec::new());
        for part in learned::parts(manifest) {
            let learned = learned::load(&part, &self.stores);
            if let Some((learned, at)) = &learned {
                chunks.extend(part.positions(manifest, learned));
                if *at > 0
                    && let (Some(nearest), Ok(encoded)) = (self.stores.first(), part.encode(learned))
                {
                    nearest.save(part.seal.id(), &encoded);
                }
            }
            known.push(learned.map(|(learned, _)| learned).unwrap_or_default());
        }
        image.startup.state.lock().known = known;
        chunks.sort_unstable();
        tracing::info!(chunks = chunks.len(), "learned startup profile: loaded");
        if let Some(planner) = &image.planner
            && !chunks.is_empty()
        {
            planner.plan(chunks.iter().map(|(_, position)| manifest.sealed.chunks[*position].index));
        }
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
        let position =
            |index: ChunkIndex| manifest.sealed.chunks.binary_search_by_key(&index, |chunk| chunk.index).ok();
        let reads: HashMap<usize, u32> =
            reads.into_iter().filter_map(|(index, at)| Some((position(index)?, at))).collect();
        for (at, part) in learned::parts(manifest).iter().enumerate() {
            let known = known.get(at).map(Vec::as_slice).unwrap_or_default();
            let learned = part.learn(manifest, known, &reads);
            if learned.is_empty() {
                continue;
            }
            if let Ok(encoded) = part.encode(&learned) {
                for store in &self.stores {
                    store.save(part.seal.id(), &encoded);
                }
            }
        }
        tracing::info!(chunks = reads.len(), "learned startup profile: saved");
    }
}

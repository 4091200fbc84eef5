//! Fill: copies whole images into the disk cache in the background, from the moment they are opened.
//!
//! One [`Filler`] serves all images of a process. It takes turns between them, and bounds its requests so that readers always find
//! a free one. Of an image it downloads first what lies nearest to the latest reads, since a startup reads neighbouring chunks.
//! A reader that wants a chunk which is being downloaded joins that download (`flights.rs`). An image whose store is unavailable
//! pauses; an image that does not fit into the cache any more is given up, so that fill evicts nothing.

use std::collections::{BTreeSet, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::sync::{Condvar, Mutex, MutexGuard, now, sleep, spawn};
use crate::{ErrorKind, Result};

/// The latest reads of an image that fill follows.
const FOLLOWED: usize = 4;
/// Reads that are at most this many chunks apart count as one place.
const SAME_PLACE: usize = 8;
/// The order in which the followed places are served: the latest most often.
const TURNS: [usize; 8] = [0, 1, 0, 2, 0, 1, 0, 3];
/// How long an image pauses after its store was unavailable: the first time, and at most. It doubles.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long a worker waits while prefetching uses the requests of fill.
const YIELD: Duration = Duration::from_millis(5);
/// The longest wait of a worker at a time, so that it notices the end.
const LONGEST_WAIT: Duration = Duration::from_millis(100);

/// An image that can be copied into the disk cache.
pub(super) trait Fillable: Send + Sync {
    /// Returns the stored length of the chunk at `position` of the manifest's list, in bytes.
    fn stored(&self, position: usize) -> u32;

    /// Copies the chunk at `position` into the disk cache. Returns what it cost.
    ///
    /// # Errors
    /// Those of the store.
    fn fill(&self, position: usize) -> Result<Filled>;
}

/// What copying one chunk came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filled {
    /// The chunk was downloaded.
    Downloaded,
    /// The chunk is in the cache, or on its way there.
    Cached,
    /// The cache has no room for it.
    Full,
}

/// How much is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FillRate(
    /// Bytes per second; `None` is as fast as the bound on requests allows.
    pub Option<u64>,
);

/// Fills the images of a process.
pub struct Filler {
    /// The bound on requests of fill and prefetching together.
    requests: usize,
    rate: FillRate,
    /// Requests of prefetching that are under way.
    prefetching: AtomicUsize,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    /// The next to be served in front.
    images: VecDeque<Image>,
    workers: usize,
    filling: usize,
    /// Nothing is fetched that no reader waits for.
    held: bool,
    /// When the rate allows the next download.
    allowed: Option<Instant>,
}

/// What is left of an image.
struct Image {
    number: u32,
    device: Weak<dyn Fillable>,
    /// Positions in the manifest's list.
    remaining: BTreeSet<usize>,
    /// Positions of the latest reads, the latest in front.
    reads: VecDeque<usize>,
    turn: usize,
    paused: Option<Instant>,
    /// The next pause.
    pause: Duration,
}

/// What a worker does next.
enum Next {
    Fill(Arc<dyn Fillable>, u32, usize),
    Wait(Duration),
    End,
}

impl Filler {
    /// Returns a filler that uses at most `requests` requests at a time, and `rate`.
    #[must_use]
    pub fn new(requests: usize, rate: FillRate) -> Arc<Self> {
        Arc::new(Self {
            requests: requests.max(1),
            rate,
            prefetching: AtomicUsize::new(0),
            state: Mutex::default(),
            released: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Adds an image of `chunks` chunks, known as `number`.
    pub(super) fn add(self: &Arc<Self>, number: u32, device: Weak<dyn Fillable>, chunks: usize) {
        let image = Image {
            number,
            device,
            remaining: (0..chunks).collect(),
            reads: VecDeque::new(),
            turn: 0,
            paused: None,
            pause: PAUSE,
        };
        self.state().images.push_back(image);
        self.start_workers();
    }

    /// Returns the number of chunks of all images that are still to be copied.
    #[must_use]
    pub fn remaining(&self) -> usize {
        let state = self.state();
        state.images.iter().map(|image| image.remaining.len()).sum::<usize>() + state.filling
    }

    /// Records that a reader reads the chunk at `position` of the image `number`. Returns whether the image is being copied.
    pub(super) fn follow(&self, number: u32, position: usize) -> bool {
        let mut state = self.state();
        let Some(image) = state.images.iter_mut().find(|image| image.number == number) else { return false };
        image.remaining.remove(&position);
        image.reads.retain(|read| read.abs_diff(position) > SAME_PLACE);
        image.reads.push_front(position);
        image.reads.truncate(FOLLOWED);
        !image.remaining.is_empty() && image.paused.is_none() && self.rate.0.is_none()
    }

    /// Counts a request of prefetching until the result is dropped.
    pub(super) fn prefetch(&self) -> impl Drop + '_ {
        struct Prefetch<'f>(&'f AtomicUsize);
        impl Drop for Prefetch<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        self.prefetching.fetch_add(1, Ordering::Relaxed);
        Prefetch(&self.prefetching)
    }

    /// Has filling and prefetching wait until [`Filler::release`]. A thread that waits for a file of a directory, which may be on a file
    /// system of a network, cannot enter a sandbox meanwhile.
    pub fn hold(&self) {
        self.state().held = true;
    }

    /// Begins what was held back.
    pub fn release(self: &Arc<Self>) {
        self.state().held = false;
        self.released.notify_all();
        self.start_workers();
    }

    /// Waits until nothing is held back.
    pub(super) fn wait_while_held(&self) {
        let mut state = self.state();
        while state.held {
            (state, _) = self.released.wait_timeout(state, LONGEST_WAIT);
        }
    }

    /// Starts workers, if there are too few for what is left.
    fn start_workers(self: &Arc<Self>) {
        let mut state = self.state();
        if state.held {
            return;
        }
        let left: usize = state.images.iter().map(|image| image.remaining.len()).sum();
        while state.workers < left.min(self.requests) {
            let filler = Arc::clone(self);
            if spawn("fill", move || filler.work()).is_err() {
                // Those that there are will come to it; where there are none, readers fetch what they need.
                return;
            }
            state.workers += 1;
        }
    }

    fn work(&self) {
        loop {
            match self.next() {
                Next::Fill(device, number, position) => {
                    let filled = device.fill(position);
                    self.finished(number, position, device.stored(position), filled.map_err(|error| error.kind()));
                }
                Next::Wait(wait) => sleep(wait.min(LONGEST_WAIT)),
                Next::End => return,
            }
        }
    }

    /// Decides what a worker does next.
    fn next(&self) -> Next {
        let mut state = self.state();
        let now = now();
        state.images.retain(|image| !image.remaining.is_empty() && image.device.strong_count() > 0);
        if state.images.is_empty() {
            state.workers -= 1;
            return Next::End;
        }
        if state.filling + self.prefetching.load(Ordering::Relaxed) >= self.requests {
            return Next::Wait(YIELD);
        }
        if let Some(wait) = state.allowed.map(|allowed| allowed.saturating_duration_since(now))
            && !wait.is_zero()
        {
            return Next::Wait(wait);
        }
        for _ in 0..state.images.len() {
            state.images.rotate_left(1);
            let image = state.images.back_mut().expect("there is one");
            if image.paused.is_some_and(|until| until > now) {
                continue;
            }
            if let Some(device) = image.device.upgrade() {
                let (number, position) = (image.number, image.next());
                state.filling += 1;
                self.charge(&mut state, now, device.stored(position));
                return Next::Fill(device, number, position);
            }
        }
        Next::Wait(LONGEST_WAIT)
    }

    /// Moves the moment of the next download by what `stored` bytes take.
    fn charge(&self, state: &mut State, now: Instant, stored: u32) {
        if let Some(cost) = self.cost(stored) {
            let from = state.allowed.map_or(now, |allowed| allowed.max(now));
            state.allowed = from.checked_add(cost);
        }
    }

    /// Returns how long the download of `stored` bytes takes at the given rate; `None` where there is no rate.
    fn cost(&self, stored: u32) -> Option<Duration> {
        let rate = self.rate.0?;
        Some(Duration::from_secs_f64(f64::from(stored) / rate.max(1) as f64))
    }

    /// Records what the copying of a chunk came to.
    fn finished(&self, number: u32, position: usize, stored: u32, filled: Result<Filled, ErrorKind>) {
        let mut state = self.state();
        state.filling -= 1;
        if filled != Ok(Filled::Downloaded) {
            let refund = self.cost(stored).unwrap_or_default();
            state.allowed = state.allowed.and_then(|allowed| allowed.checked_sub(refund));
        }
        let Some(image) = state.images.iter_mut().find(|image| image.number == number) else { return };
        match filled {
            Ok(Filled::Full) => image.remaining.clear(),
            Ok(Filled::Downloaded) => image.pause = PAUSE,
            // One that waits pauses: it is asked again later.
            Err(ErrorKind::Unavailable) => {
                image.remaining.insert(position);
                image.paused = now().checked_add(image.pause);
                image.pause = (image.pause * 2).min(LONGEST_PAUSE);
            }
            // A reader of the chunk reports any other failure; `scrub` finds it as well.
            _ => {}
        }
    }
}

impl Image {
    /// Takes the position to copy next: the nearest to one of the latest reads, where ahead counts as half as far as behind.
    fn next(&mut self) -> usize {
        let position = self.nearest().or_else(|| self.remaining.first().copied()).expect("something remains");
        self.remaining.remove(&position);
        position
    }

    fn nearest(&mut self) -> Option<usize> {
        self.turn = (self.turn + 1) % TURNS.len();
        let read = *self.reads.get(TURNS[self.turn] % self.reads.len().max(1))?;
        let ahead = self.remaining.range(read..).next().copied();
        let behind = self.remaining.range(..read).next_back().copied();
        match (ahead, behind) {
            (Some(ahead), Some(behind)) if ahead - read > 2 * (read - behind) => Some(behind),
            (Some(ahead), _) => Some(ahead),
            (None, behind) => behind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An image that records the order in which it is copied.
    struct Recorded {
        order: std::sync::Mutex<Vec<usize>>,
        answers: fn(usize) -> Result<Filled>,
    }

    impl Fillable for Recorded {
        fn stored(&self, _: usize) -> u32 {
            1000
        }

        fn fill(&self, position: usize) -> Result<Filled> {
            self.order.lock().unwrap().push(position);
            (self.answers)(position)
        }
    }

    fn image(answers: fn(usize) -> Result<Filled>) -> Arc<Recorded> {
        Arc::new(Recorded { order: std::sync::Mutex::default(), answers })
    }

    fn weak(image: &Arc<Recorded>) -> Weak<dyn Fillable> {
        let weak: Weak<Recorded> = Arc::downgrade(image);
        weak
    }

    fn wait(filler: &Filler) {
        let until = Instant::now() + Duration::from_secs(5);
        while filler.remaining() > 0 {
            assert!(Instant::now() < until, "{} chunks are left", filler.remaining());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    #[test]
    fn every_chunk_is_copied_once_and_images_take_turns() {
        let filler = Filler::new(1, FillRate(None));
        let images = [image(|_| Ok(Filled::Downloaded)), image(|_| Ok(Filled::Cached))];
        (0..).zip(&images).for_each(|(number, image)| filler.add(number, weak(image), 50));
        wait(&filler);
        for image in &images {
            assert_eq!(*image.order.lock().unwrap(), (0..50).collect::<Vec<_>>());
        }
    }

    #[test]
    fn what_is_near_the_latest_reads_comes_first_and_what_was_read_not_at_all() {
        let mut image = Image {
            number: 0,
            device: weak(&image(|_| Ok(Filled::Cached))),
            remaining: (0..100).filter(|at| *at != 50).collect(),
            reads: [50].into(),
            turn: 0,
            paused: None,
            pause: PAUSE,
        };
        let order: Vec<usize> = (0..7).map(|_| image.next()).collect();
        assert_eq!(order, [51, 52, 49, 53, 54, 48, 55]);
    }

    #[test]
    fn what_is_held_begins_when_it_is_released() {
        let filler = Filler::new(2, FillRate(None));
        filler.hold();
        let held = image(|_| Ok(Filled::Downloaded));
        filler.add(0, weak(&held), 10);
        std::thread::sleep(Duration::from_millis(50));
        assert!(held.order.lock().unwrap().is_empty());
        filler.release();
        wait(&filler);
        assert_eq!(held.order.lock().unwrap().len(), 10);
    }

    #[test]
    fn an_image_that_is_dropped_or_does_not_fit_ends() {
        let filler = Filler::new(4, FillRate(None));
        let full = image(|position| Ok(if position < 10 { Filled::Downloaded } else { Filled::Full }));
        filler.add(0, weak(&full), 10_000);
        wait(&filler);
        assert!(full.order.lock().unwrap().len() < 20);
        let paused = image(|_| Err(crate::Error::new(ErrorKind::Unavailable, "down")));
        filler.add(1, weak(&paused), 100);
        std::thread::sleep(Duration::from_millis(50));
        assert!(paused.order.lock().unwrap().len() <= 4, "it pauses");
        drop(paused);
        filler.start_workers();
        wait(&filler);
    }

    #[test]
    fn the_rate_bounds_what_is_downloaded_but_not_what_is_cached() {
        let downloaded = |image: &Arc<Recorded>| {
            let filler = Filler::new(4, FillRate(Some(20_000)));
            filler.add(0, weak(image), 10_000);
            std::thread::sleep(Duration::from_millis(300));
            image.order.lock().unwrap().len()
        };
        // 20 chunks a second.
        let rated = downloaded(&image(|_| Ok(Filled::Downloaded)));
        assert!((1..=12).contains(&rated), "{rated}");
        let free = downloaded(&image(|_| Ok(Filled::Cached)));
        assert!(free > 100, "{free}");
    }
}

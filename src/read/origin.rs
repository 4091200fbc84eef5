//! The store as the last tier: a bound on requests, a moment when each is given up, repetitions, and a second request for what
//! takes long.
//!
//! Requests run on threads of their own, so that none that hangs holds its reader longer than the reader waits; it holds its
//! place among the bounded ones until it ends. Repetitions and second requests count like any other. Second ones are at most a
//! twentieth of all, and made when a request takes longer than nineteen in twenty of those before it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::counts::Counts;
use super::slots::Slots;
use super::tier::{Place, Tier, Wanted};
use crate::net::retry::{Service, attempt, in_attempt, repeat};
use crate::store::{Failure, Get};
use crate::sync::{Condvar, Mutex, MutexGuard, ReceiveError, Sender, channel, elapsed, now, spawn};
use crate::{Error, ErrorKind, Result};

/// How long one request may take.
pub const REQUEST: Duration = Duration::from_secs(10);
/// A thread that had nothing to do for so long ends.
const IDLE: Duration = Duration::from_secs(10);
/// How long a request that no reader waits for waits for a free slot: a reader may join it.
const YIELD: Duration = Duration::from_millis(50);
/// Of so many requests, one may be a second one.
const BUDGET: u64 = 20;
/// Latencies that are remembered, and how many there must be to say what takes long.
const RECENT: usize = 128;
const ENOUGH: usize = 20;
/// What takes long where that is not known yet, and at least.
const LONG: Duration = Duration::from_secs(1);
const LEAST: Duration = Duration::from_millis(5);

/// What a thread is to do.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// The threads on which a process asks its origins: as many as requests may be under way.
pub struct Requests {
    bound: usize,
    queue: Mutex<Queue>,
    ready: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    /// Those that no reader waits for; they wait for all others.
    background: VecDeque<Job>,
    threads: usize,
    idle: usize,
}

impl Queue {
    fn waiting(&self) -> usize {
        self.jobs.len() + self.background.len()
    }

    fn next(&mut self) -> Option<Job> {
        self.jobs.pop_front().or_else(|| self.background.pop_front())
    }
}

impl Requests {
    /// At most `bound` at a time.
    #[must_use]
    pub fn new(bound: usize) -> Arc<Self> {
        Arc::new(Self { bound: bound.max(1), queue: Mutex::default(), ready: Condvar::new() })
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }

    /// Starts a thread that stays for as long as somebody else has these requests: so that there is one where later, at a limit on
    /// threads, none can be started.
    fn keep_one(self: &Arc<Self>) {
        let mut queue = self.queue();
        let requests = Arc::clone(self);
        if queue.threads == 0 && spawn("origin", move || requests.work()).is_ok() {
            queue.threads += 1;
        }
    }

    /// Hands `job` to a thread; one in the `background` after all others.
    ///
    /// # Errors
    /// Those of starting a thread where there is none.
    pub(crate) fn submit(self: &Arc<Self>, job: Job, background: bool) -> std::io::Result<()> {
        let mut queue = self.queue();
        let jobs = if background { &mut queue.background } else { &mut queue.jobs };
        jobs.push_back(job);
        if queue.idle < queue.waiting() && queue.threads < self.bound {
            let requests = Arc::clone(self);
            let started = spawn("origin", move || requests.work());
            match started {
                Ok(()) => queue.threads += 1,
                // Those that there are will come to it.
                Err(_) if queue.threads > 0 => {}
                Err(error) => {
                    let jobs = if background { &mut queue.background } else { &mut queue.jobs };
                    jobs.pop_back();
                    return Err(error);
                }
            }
        }
        drop(queue);
        self.ready.notify_one();
        Ok(())
    }

    fn work(self: &Arc<Self>) {
        let mut leaving = Leaving { requests: self, counted: true };
        let mut queue = self.queue();
        loop {
            if let Some(job) = queue.next() {
                drop(queue);
                job();
                queue = self.queue();
                continue;
            }
            queue.idle += 1;
            let timed_out;
            (queue, timed_out) = self.ready.wait_timeout(queue, IDLE);
            queue.idle -= 1;
            // The last one stays while there may be more to do.
            let may_leave = queue.threads > 1 || Arc::strong_count(self) == 1;
            if timed_out && queue.waiting() == 0 && may_leave {
                queue.threads -= 1;
                leaving.counted = false;
                return;
            }
        }
    }
}

/// Counts a thread out that a request's panic ended, so that another can be started in its place.
struct Leaving<'a> {
    requests: &'a Requests,
    counted: bool,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if self.counted {
            self.requests.queue().threads -= 1;
        }
    }
}

/// What bounds the requests of a process.
#[derive(Clone)]
pub struct Limits {
    /// Its threads.
    pub requests: Arc<Requests>,
    /// What it shares with the other processes of the host.
    pub slots: Option<Arc<Slots>>,
    /// How long a request that fails is repeated.
    pub patience: Duration,
    /// The same while nothing has ever answered.
    pub at_first: Duration,
    /// Where it is counted.
    pub counts: Arc<Counts>,
}

/// A store, asked within limits.
pub struct Origin {
    store: Arc<dyn Get>,
    limits: Limits,
    answered: AtomicBool,
    recent: Arc<Mutex<VecDeque<Duration>>>,
}

/// What one of two requests for the same came to.
type Answer = Result<Vec<u8>, Failure>;

impl Origin {
    /// `store`, asked within `limits`.
    #[must_use]
    pub fn new(store: Arc<dyn Get>, limits: Limits) -> Self {
        limits.requests.keep_one();
        Self { store, limits, answered: AtomicBool::new(false), recent: Arc::default() }
    }

    /// One request, and another where that one takes long.
    fn attempt(&self, asked: &Wanted<'_>, until: Instant) -> Answer {
        let (send, receive) = channel();
        let wanted = Arc::new(AtomicBool::new(true));
        let begun = now();
        let ends = until.min(begun + REQUEST);
        let mut second = if asked.background { ends } else { begun + self.long() };
        let mut under_way = 1;
        self.launch(asked, ends, &wanted, &send)?;
        let answer = loop {
            match receive.receive(ends.min(second)) {
                Ok(answer) if under_way == 1 || matches!(answer, Ok(_) | Err(Failure::Final(_))) => break answer,
                Ok(_) => under_way -= 1,
                Err(ReceiveError::Timeout) if now() < ends => {
                    second = ends;
                    if self.may_hedge() {
                        self.limits.counts.hedges.add(1);
                        self.launch(asked, ends, &wanted, &send)?;
                        under_way += 1;
                    }
                }
                Err(_) => {
                    let message = format!("object {}: no answer in {:.1} s", asked.name, elapsed(begun).as_secs_f64());
                    break Err(Failure::Again { error: Error::new(ErrorKind::Unavailable, message), after: None });
                }
            }
        };
        wanted.store(false, Ordering::Relaxed);
        answer
    }

    /// Hands a request to a thread; what it comes to is sent, unless nothing is `wanted` any more when its turn comes.
    fn launch(
        &self,
        asked: &Wanted<'_>,
        ends: Instant,
        wanted: &Arc<AtomicBool>,
        send: &Sender<Answer>,
    ) -> Result<(), Failure> {
        let (store, limits, recent) = (Arc::clone(&self.store), self.limits.clone(), Arc::clone(&self.recent));
        let (name, limit, background) = (asked.name.clone(), asked.limit, asked.background);
        let (wanted, send, attempt) = (Arc::clone(wanted), send.clone(), attempt());
        let job = move || {
            let slot = limits
                .slots
                .as_ref()
                .map(|slots| slots.take(if background { ends.min(now() + YIELD) } else { ends }, background));
            if !wanted.load(Ordering::Relaxed) || matches!(slot, Some(None)) {
                return;
            }
            let counts = &limits.counts;
            counts.requests.add(1);
            counts.in_flight.add(1);
            let begun = now();
            let answer = in_attempt(attempt, || store.ask(&name, limit));
            counts.in_flight.end();
            match &answer {
                Ok(_) => note(&recent, elapsed(begun)),
                Err(_) => counts.failures.add(1),
            }
            // Who asked may have gone.
            send.send(answer);
        };
        self.limits.requests.submit(Box::new(job), background).map_err(|error| {
            let error = Error::caused(ErrorKind::Unavailable, "a thread for a request to the store", error);
            Failure::Again { error, after: None }
        })
    }

    /// What takes longer than nineteen in twenty did.
    fn long(&self) -> Duration {
        let recent = self.recent.lock();
        if recent.len() < ENOUGH {
            return LONG;
        }
        let mut sorted: Vec<Duration> = recent.iter().copied().collect();
        sorted.sort_unstable();
        (sorted[sorted.len() * 19 / 20] * 3 / 2).max(LEAST)
    }

    fn may_hedge(&self) -> bool {
        let counts = &self.limits.counts;
        counts.hedges.get() <= counts.requests.get() / BUDGET
    }
}

fn note(recent: &Mutex<VecDeque<Duration>>, took: Duration) {
    let mut recent = recent.lock();
    if recent.len() >= RECENT {
        recent.pop_front();
    }
    recent.push_back(took);
}

impl Tier for Origin {
    fn get(&self, wanted: &Wanted<'_>, until: Instant) -> Result<(Vec<u8>, Place)> {
        let left = until.saturating_duration_since(now());
        let patience = || {
            let answered = self.answered.load(Ordering::Relaxed);
            let patience = if answered { self.limits.patience } else { self.limits.at_first };
            // A request that nobody waits for is sent once: who wants it later repeats it.
            if wanted.background { Duration::ZERO } else { patience.min(left) }
        };
        let service = Service { name: self.store.service().unwrap_or("the store"), timeout: REQUEST };
        let bytes = repeat(service, patience, || {
            let answer = self.attempt(wanted, until);
            if matches!(answer, Ok(_) | Err(Failure::Final(_))) {
                self.answered.store(true, Ordering::Relaxed);
            }
            answer
        });
        let bytes = bytes.map_err(|error| match self.store.service() {
            Some(service) => error.within(service),
            None => error,
        })?;
        let counts = self.limits.counts.of(Place::Origin);
        counts.hits.add(1);
        counts.bytes.add(bytes.len() as u64);
        Ok((bytes, Place::Origin))
    }
}

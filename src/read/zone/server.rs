//! One cache server: its connections, and whether it is fit to be asked.
//!
//! A server is passed over while its last answer was a failure, while it owes an answer for long, or while it answers far more slowly than
//! the others: it is then asked only now and then, beside those that are needed. All else is left to chance, so that every server is asked.
//! What a reader no longer waits for is still to be answered: how long that takes at least is seen by who comes next.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::link::{Address, Link};
use super::placement::Seed;
use super::resp::Reply;
use crate::read::counts::{Count, Histogram};

/// Most connections.
const MOST: usize = 48;
/// One that was not used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// What a server owes for so long it will not give.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// What a server owes for so long makes it one to be passed over.
const OWED: Duration = Duration::from_millis(4);
/// A server this many times slower than the middle one, and by so much, is passed over.
const OUTLIER: u32 = 4;
const OUTLIER_LEAST: Duration = Duration::from_millis(1);
/// Waits after a failure, doubling.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// One that is passed over is asked so often all the same.
const PROBE: Duration = Duration::from_millis(50);

/// It gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Lost;

/// What was counted of one server.
#[derive(Debug, Default)]
pub struct OfServer {
    /// Shards asked for.
    pub asked: Count,
    /// True shards that it gave.
    pub hits: Count,
    /// What it did not have.
    pub misses: Count,
    /// What it gave that was no true shard.
    pub refused: Count,
    /// No answer.
    pub failures: Count,
    /// Shards written.
    pub written: Count,
    /// From asking to the answer, of those that were waited for.
    pub took: Histogram,
}

/// A cache server of the zone.
pub(super) struct Server {
    pub(super) address: Address,
    pub(super) seed: Seed,
    pub(super) counts: OfServer,
    tls: Option<Arc<ClientConfig>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Connections that nobody uses, since when; the last used behind.
    idle: Vec<(Link, Instant)>,
    /// Those on which an answer is owed that nobody waits for: since when, and when that was seen last.
    owing: Vec<(Link, Instant, Instant)>,
    count: usize,
    /// What its answers take, the recent ones weighing most.
    average: Option<Duration>,
    /// Failures in a row, and until when it is left alone after them.
    failures: u32,
    rests_until: Option<Instant>,
    probed: Option<Instant>,
}

/// Whether a server is fit to be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    Fit,
    /// Late or slow.
    Slow,
    /// Its last answer was a failure.
    Down,
}

impl Server {
    pub(super) fn new(address: Address, tls: Option<Arc<ClientConfig>>) -> Self {
        let seed = Seed::of(address.name());
        Self { seed, address, tls, counts: OfServer::default(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    /// What its answers take.
    pub(super) fn average(&self) -> Option<Duration> {
        self.state().average
    }

    /// Whether it is fit, beside others whose answers take `usual`.
    pub(super) fn standing(&self, usual: Option<Duration>, now: Instant) -> Standing {
        let mut state = self.state();
        self.look_at_owing(&mut state, now);
        if state.rests_until.is_some() {
            return Standing::Down;
        }
        let owes = state.owing.iter().any(|(_, since, _)| now.saturating_duration_since(*since) > OWED);
        let slow = state.average.zip(usual).is_some_and(|(own, usual)| own > usual * OUTLIER + OUTLIER_LEAST);
        if owes || slow { Standing::Slow } else { Standing::Fit }
    }

    /// Takes what was owed and has come.
    fn look_at_owing(&self, state: &mut State, now: Instant) {
        for (mut link, since, seen) in std::mem::take(&mut state.owing) {
            match link.reply() {
                Ok(None) if now.saturating_duration_since(since) > GIVEN_UP => self.fail(state),
                Ok(None) => state.owing.push((link, since, now)),
                Ok(Some(_)) => {
                    // It took at least until it was last seen not to be there.
                    let least = seen.saturating_duration_since(since);
                    if state.average.is_none_or(|average| least > average) {
                        Self::learn(state, least);
                    }
                    state.idle.push((link, now));
                }
                Err(_) => self.fail(state),
            }
        }
    }

    /// Whether one that is passed over is to be asked all the same, to see what became of it.
    pub(super) fn wants_probe(&self, now: Instant) -> bool {
        let mut state = self.state();
        let rests = state.rests_until.is_some_and(|until| now < until);
        let due = state.probed.is_none_or(|last| now.saturating_duration_since(last) > PROBE);
        if rests || !due || !state.owing.is_empty() {
            return false;
        }
        state.probed = Some(now);
        true
    }

    /// Finds it, and has a connection ready.
    pub(super) fn warm(&self) {
        if self.address.find().is_err() {
            self.failed();
            return;
        }
        if let Ok(link) = self.take(Instant::now() + GIVEN_UP) {
            self.done(link, None);
        }
    }

    /// A connection that nothing is owed on.
    pub(super) fn take(&self, until: Instant) -> Result<Link, Lost> {
        let now = Instant::now();
        {
            let mut state = self.state();
            self.look_at_owing(&mut state, now);
            if let Some((link, since)) = state.idle.pop() {
                if now.saturating_duration_since(since) < IDLE {
                    return Ok(link);
                }
                // The others were not used for longer.
                state.count -= state.idle.len() + 1;
                state.idle.clear();
            }
            if state.rests_until.is_some_and(|rests| now < rests) || state.count >= MOST {
                return Err(Lost);
            }
            state.count += 1;
        }
        Link::connect(&self.address, self.tls.as_ref(), until).map_err(|_| {
            self.broken();
            Lost
        })
    }

    /// A connection that answered, after `took` where that is known of a small or usual answer.
    pub(super) fn done(&self, link: Link, took: Option<Duration>) {
        let mut state = self.state();
        state.failures = 0;
        state.rests_until = None;
        if let Some(took) = took {
            self.counts.took.note(took);
            Self::learn(&mut state, took);
        }
        state.idle.push((link, Instant::now()));
    }

    /// A connection whose answer nobody waits for any more.
    pub(super) fn leave(&self, link: Link, since: Instant) {
        self.state().owing.push((link, since, since));
    }

    /// A connection broke, or did not come about.
    pub(super) fn broken(&self) {
        self.fail(&mut self.state());
    }

    fn learn(state: &mut State, took: Duration) {
        state.average = Some(state.average.map_or(took, |average| (average * 7 + took) / 8));
    }

    fn failed(&self) {
        let mut state = self.state();
        state.count += 1;
        self.fail(&mut state);
    }

    fn fail(&self, state: &mut State) {
        self.counts.failures.add(1);
        state.count = state.count.saturating_sub(1);
        let wait = FIRST_WAIT * 2u32.pow(state.failures.min(10));
        state.failures += 1;
        state.rests_until = Some(Instant::now() + wait.min(LONGEST_WAIT));
        state.average = None;
        // Those of a server that was started anew are broken, too.
        state.count = state.count.saturating_sub(state.idle.len());
        state.idle.clear();
    }

    /// What a small command comes to by `until`.
    pub(super) fn command(&self, words: &[&[u8]], limit: usize, until: Instant) -> Result<Reply, Lost> {
        if self.standing(None, Instant::now()) == Standing::Down {
            return Err(Lost);
        }
        self.call(words, limit, until)
    }

    /// The same of a server of whatever standing.
    pub(super) fn call(&self, words: &[&[u8]], limit: usize, until: Instant) -> Result<Reply, Lost> {
        let begun = Instant::now();
        let mut link = self.take(until)?;
        let answer = link.ask(words, limit, until).and_then(|()| link.wait_for_reply(until));
        match answer {
            Ok(reply) => {
                self.done(link, None);
                Ok(reply)
            }
            // A small command that was sent whole may still be answered.
            Err(error)
                if error.kind() == std::io::ErrorKind::TimedOut && words.iter().all(|word| word.len() < 1024) =>
            {
                self.leave(link, begun);
                Err(Lost)
            }
            Err(_) => {
                self.broken();
                Err(Lost)
            }
        }
    }

    /// Writes `value` under `key` by `until`, and counts that under `counter`.
    pub(super) fn put(&self, key: &str, value: &[u8], counter: &str, until: Instant) -> Result<(), Lost> {
        let written = self.call(&[b"SET", key.as_bytes(), value], 0, until);
        if !matches!(written, Ok(Reply::Status)) {
            return Err(Lost);
        }
        self.counts.written.add(1);
        self.call(&[b"INCR", counter.as_bytes()], 0, until).map(drop)
    }
}

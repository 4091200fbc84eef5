//! One cache server: its connections, and whether it is fit to be asked.
//!
//! A server is passed over while its last answer was a failure, while it owes an answer for long, or while it answers far more slowly than
//! the others: it is then asked only now and then, beside those that are needed. All else is left to chance, so that every server is asked.
//! What a reader no longer waits for is still to be answered: how long that takes at least is seen by who comes next.
//!
//! Connections come about on threads of their own, as long as that takes; a reader waits for one as long as it may, and who comes next finds it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::ClientConfig;

use super::connection::{Address, Link, refusal};
use super::placement::Seed;
use super::resp::Reply;
use crate::read::counts::{Count, Histogram};
use crate::sync::{Condvar, Mutex, MutexGuard, now, sleep, spawn};

/// Most connections.
const MOST: usize = 48;
/// Connections that come about at a time, without anybody waiting for just one of them.
const AT_ONCE: usize = 4;
/// One that was not used for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// How long a connection may take to come about, and how long nothing may come of what is owed.
const GIVEN_UP: Duration = Duration::from_secs(1);
/// In so many parts what is owed may be found.
const PARTS: u8 = 8;
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
/// How long it is waited before one that is down is told something again.
const AGAIN: Duration = Duration::from_millis(10);
/// One that refuses to keep something is given nothing for so long.
const FULL: Duration = Duration::from_secs(10);

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
    /// A connection came, or will not.
    settled: Condvar,
}

#[derive(Default)]
struct State {
    /// Connections that nobody uses, since when; the last used behind.
    idle: Vec<(Link, Instant)>,
    owing: Vec<Owing>,
    /// All, those on their way as well.
    count: usize,
    /// Those on their way, and who waits for one.
    coming: usize,
    waiting: usize,
    /// What its answers take, the recent ones weighing most.
    average: Option<Duration>,
    /// Failures in a row, and until when it is left alone after them.
    failures: u32,
    rests_until: Option<Instant>,
    probed: Option<Instant>,
    /// Until when it is given nothing to keep.
    full_until: Option<Instant>,
    /// Of the last failure.
    why: Option<String>,
}

/// A connection on which an answer is owed that nobody waits for.
struct Owing {
    link: Link,
    /// Since when, or since when nothing came.
    since: Instant,
    /// Looks that may still find a part of it.
    parts: u8,
    /// When it was seen last not to be there.
    seen: Instant,
    /// Bytes that had come by then.
    received: u64,
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
        let (counts, state, settled) = (OfServer::default(), Mutex::default(), Condvar::new());
        Self { address, seed, counts, tls, state, settled }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
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
        let owes = state.owing.iter().any(|owing| now.saturating_duration_since(owing.since) > OWED);
        let slow = state.average.zip(usual).is_some_and(|(own, usual)| own > usual * OUTLIER + OUTLIER_LEAST);
        if owes || slow { Standing::Slow } else { Standing::Fit }
    }

    /// Takes what was owed and has come.
    fn look_at_owing(&self, state: &mut State, now: Instant) {
        for Owing { mut link, since, parts, seen, received } in std::mem::take(&mut state.owing) {
            let reply = link.reply();
            let taken = now.saturating_duration_since(since);
            match reply {
                // It is coming: who looks seldom finds no more than what fits the sockets.
                Ok(None) if link.received() > received && parts > 0 => {
                    let received = link.received();
                    state.owing.push(Owing { link, since: now, parts: parts - 1, seen: now, received });
                }
                Ok(None) if taken > GIVEN_UP => self.fail(state, "no answer"),
                Ok(None) => state.owing.push(Owing { link, since, parts, seen: now, received }),
                Ok(Some(_)) => {
                    // It took at least until it was last seen not to be there, and at most until now.
                    let least = seen.saturating_duration_since(since);
                    if state.average.is_none_or(|average| least > average) {
                        Self::learn(state, least);
                    } else if state.average.is_some_and(|average| taken < average) {
                        Self::learn(state, taken);
                    }
                    state.idle.push((link, now));
                }
                Err(error) => self.fail(state, &error.to_string()),
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

    /// Has a connection come, if there is none, without waiting for it; false where none will.
    pub(super) fn prepare(self: &Arc<Self>) -> bool {
        let mut state = self.state();
        let now = now();
        self.look_at_owing(&mut state, now);
        Self::close_old(&mut state, now);
        !state.idle.is_empty() || self.have_come(&mut state, now, AT_ONCE)
    }

    /// Whether a connection is on its way.
    pub(super) fn is_coming(&self) -> bool {
        self.state().coming > 0
    }

    /// A connection that nothing is owed on, if one is at hand.
    pub(super) fn take_at_hand(&self) -> Option<Link> {
        let mut state = self.state();
        let now = now();
        self.look_at_owing(&mut state, now);
        Self::close_old(&mut state, now);
        state.idle.pop().map(|(link, _)| link)
    }

    /// The same, waited for `until`.
    pub(super) fn take(self: &Arc<Self>, until: Instant) -> Result<Link, Lost> {
        if let Some(link) = self.take_at_hand() {
            return Ok(link);
        }
        let mut state = self.state();
        loop {
            let now = now();
            if let Some((link, _)) = state.idle.pop() {
                return Ok(link);
            }
            let wanted = state.waiting + 1;
            if now >= until || !self.have_come(&mut state, now, wanted) {
                return Err(Lost);
            }
            state.waiting += 1;
            state = self.settled.wait_timeout(state, until - now).0;
            state.waiting -= 1;
        }
    }

    /// Has one more connection come, unless `wanted` are on their way; false where none will.
    fn have_come(self: &Arc<Self>, state: &mut State, now: Instant, wanted: usize) -> bool {
        if state.rests_until.is_some_and(|rests| now < rests) {
            return false;
        }
        // One is enough to see whether it is back.
        let wanted = if state.rests_until.is_some() { 1 } else { wanted };
        if state.coming < wanted && state.count < MOST {
            let server = Arc::clone(self);
            if spawn("zone", move || server.connect()).is_ok() {
                state.count += 1;
                state.coming += 1;
            }
        }
        state.coming > 0
    }

    /// Makes a connection, for who comes first.
    fn connect(&self) {
        // What a name stands for may have changed where it was tried in vain.
        let is_known = self.state().failures == 0 && self.address.is_found();
        let found = if is_known { Ok(()) } else { self.address.find() };
        let connected = found.and_then(|()| Link::connect(&self.address, self.tls.as_ref(), now() + GIVEN_UP));
        let mut state = self.state();
        state.coming -= 1;
        match connected {
            Ok(link) => state.idle.push((link, now())),
            Err(error) => self.fail(&mut state, &error.to_string()),
        }
        drop(state);
        self.settled.notify_all();
    }

    /// Closes what was not used for long.
    fn close_old(state: &mut State, now: Instant) {
        let is_old = |(_, since): &&(Link, Instant)| now.saturating_duration_since(*since) >= IDLE;
        let old = state.idle.iter().take_while(is_old).count();
        state.idle.drain(..old);
        state.count -= old;
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
        state.idle.push((link, now()));
        drop(state);
        self.settled.notify_one();
    }

    /// A connection whose answer nobody waits for any more.
    pub(super) fn leave(&self, link: Link, since: Instant) {
        let received = link.received();
        self.state().owing.push(Owing { link, since, parts: PARTS, seen: since, received });
    }

    /// A connection broke, for this reason.
    pub(super) fn broken(&self, why: &str) {
        self.fail(&mut self.state(), why);
    }

    /// Why it failed last.
    pub(super) fn why(&self) -> Option<String> {
        self.state().why.clone()
    }

    /// Whether it is to be given something to keep.
    pub(super) fn takes(&self, now: Instant) -> bool {
        let full = self.state().full_until;
        full.is_none_or(|until| now >= until) && self.standing(None, now) != Standing::Down
    }

    fn learn(state: &mut State, took: Duration) {
        state.average = Some(state.average.map_or(took, |average| (average * 7 + took) / 8));
    }

    fn fail(&self, state: &mut State, why: &str) {
        self.counts.failures.add(1);
        state.count = state.count.saturating_sub(1);
        let wait = FIRST_WAIT * 2u32.pow(state.failures.min(10));
        state.failures += 1;
        state.rests_until = Some(now() + wait.min(LONGEST_WAIT));
        state.average = None;
        state.why = Some(why.to_owned());
        // Those of a server that was started anew are broken, too.
        state.count = state.count.saturating_sub(state.idle.len());
        state.idle.clear();
    }

    /// What a small command comes to by `until`.
    pub(super) fn command(self: &Arc<Self>, words: &[&[u8]], limit: usize, until: Instant) -> Result<Reply, Lost> {
        if self.standing(None, now()) == Standing::Down {
            return Err(Lost);
        }
        self.call(words, limit, until)
    }

    /// The same of a server of whatever standing.
    pub(super) fn call(self: &Arc<Self>, words: &[&[u8]], limit: usize, until: Instant) -> Result<Reply, Lost> {
        let begun = now();
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
            Err(error) => {
                self.broken(&error.to_string());
                Err(Lost)
            }
        }
    }

    /// Sends a small command, by `until`, whose answer nobody waits for.
    pub(super) fn tell(self: &Arc<Self>, words: &[&[u8]], until: Instant) {
        let mut link = loop {
            match self.take(until) {
                Ok(link) => break link,
                // It may be up again in time.
                Err(Lost) if now() + AGAIN < until => sleep(AGAIN),
                Err(Lost) => return,
            }
        };
        match link.ask(words, 0, until) {
            Ok(()) => self.leave(link, now()),
            Err(error) => self.broken(&error.to_string()),
        }
    }

    /// Writes `value` under `key` by `until`, and counts that under `counter`.
    pub(super) fn put(self: &Arc<Self>, key: &str, value: &[u8], counter: &str, until: Instant) -> Result<(), Lost> {
        match self.call(&[b"SET", key.as_bytes(), value], 0, until)? {
            Reply::Status => {}
            Reply::Refused(why) => {
                let mut state = self.state();
                state.full_until = Some(now() + FULL);
                state.why = Some(refusal(&why));
                return Err(Lost);
            }
            _ => return Err(Lost),
        }
        self.counts.written.add(1);
        self.call(&[b"INCR", counter.as_bytes()], 0, until).map(drop)
    }
}

//! One look for a chunk's shards: one more server is asked than there must be answers, and the first that verify serve.
//!
//! Those asked are left to chance among the fit, but parity is mostly asked last, which spares its solving where data answers as soon. What answers without a shard is replaced at once by the next; what takes longer than
//! nineteen in twenty looks did is given company, one look in twenty at most, and so is what has no answer when half of its time is over. A look is done by the thread that wants the chunk: it writes to
//! some sockets and polls them, so that nobody is woken but it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Shared;
use super::connection::{Link, refusal, wait_for_any};
use super::placement::{Place, places};
use super::resp::Reply;
use super::server::{Lost, Server, Standing};
use super::stripe::Shard;
use crate::crypto::convergent::MAX_SEALED;
use crate::crypto::shard_seal::{ShardSeal, ZoneId};
use crate::digest::Sha256;
use crate::random::random_bytes;
use crate::read::tier::Wanted;
use crate::sync::{Mutex, MutexGuard, elapsed, now};

/// A chunk whose shards are wanted.
#[derive(Clone)]
pub(super) struct Sought {
    pub(super) seal: Arc<ShardSeal>,
    /// What the sealed chunk hashes to.
    digest: Sha256,
    /// Bytes of the sealed chunk.
    pub(super) length: usize,
    pub(super) places: Arc<[Place]>,
}

impl Sought {
    /// What is looked for where that is a chunk.
    pub(super) fn of(zone: &Shared, wanted: &Wanted<'_>) -> Option<Self> {
        let (_, digest) = wanted.name.chunk_digest()?;
        let length = usize::try_from(wanted.limit).ok().filter(|length| (1..=MAX_SEALED).contains(length))?;
        let seal = ShardSeal::of(wanted.key);
        let places = places(&zone.seeds(), seal.id(), zone.coder.code().shards()).into();
        Some(Self { seal: Arc::new(seal), digest, length, places })
    }

    /// Whether `sealed` is the chunk. Nothing else may get tags: two strings under one nonce would give their key away.
    pub(super) fn is(&self, sealed: &[u8]) -> bool {
        sealed.len() == self.length && Sha256::of(sealed) == self.digest
    }

    /// Under which the shard of `place` lies.
    pub(super) fn key(&self, place: usize) -> String {
        key(self.seal.id(), self.places[place].round)
    }
}

fn key(id: ZoneId, round: usize) -> String {
    match round {
        0 => format!("coldpress:{id:?}"),
        _ => format!("coldpress:{id:?}:{round}"),
    }
}

/// What is known of one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Not asked, or no answer yet.
    Nothing,
    /// It has this shard, which is true.
    Holds(usize),
    /// It has none, or one that is not true.
    Lacks,
    /// Its server gave no answer, or refuses to.
    Lost,
}

/// What a look came to.
#[derive(Default)]
pub(super) struct Seen {
    /// True shards, of distinct numbers.
    pub(super) shards: Vec<Shard>,
    /// By place.
    pub(super) known: Vec<Known>,
    /// So many are not there that the rest do not make the chunk.
    pub(super) missing: bool,
}

/// How often it is looked whether a connection has come.
const COMING: Duration = Duration::from_micros(200);
/// In one look of so many, parity is asked like data: what is never asked for ages out of a server.
const EVENLY: u8 = 8;

/// What a place's server said.
enum Answer {
    True(Shard),
    None,
    False,
    Refused(String),
}

/// Looks until there are shards enough, it is sure that there are not, or it is `until`.
pub(super) fn look(zone: &Shared, sought: &Sought, until: Instant) -> Seen {
    Look::new(zone, sought, until).run()
}

struct Look<'l> {
    zone: &'l Shared,
    sought: &'l Sought,
    until: Instant,
    seen: Seen,
    /// Places that were not asked, the next in front.
    left: std::vec::IntoIter<usize>,
    /// Places whose connections are on their way.
    coming: Vec<usize>,
    asked: Vec<Asked>,
}

/// A place whose answer is waited for.
struct Asked {
    place: usize,
    link: Link,
    since: Instant,
}

impl<'l> Look<'l> {
    fn new(zone: &'l Shared, sought: &'l Sought, until: Instant) -> Self {
        let known = vec![Known::Nothing; sought.places.len()];
        let seen = Seen { shards: Vec::with_capacity(zone.coder.code().data()), known, missing: false };
        Self { zone, sought, until, seen, left: Vec::new().into_iter(), coming: Vec::new(), asked: Vec::new() }
    }

    fn run(mut self) -> Seen {
        let begun = now();
        let needed = self.zone.coder.code().data();
        self.begin(needed + 1);
        // Company for what takes long, if that may be; and whatever may be, the rest when half of the time is over.
        let (mut second, last) =
            (Some(begun + self.zone.pace.long()), begun + self.until.saturating_duration_since(begun) / 2);
        while self.seen.shards.len() < needed && !self.seen.missing {
            self.ask_those_that_came();
            if self.asked.is_empty() && self.coming.is_empty() {
                break;
            }
            let before = now();
            let rest = if self.left.len() > 0 && before < last { last } else { self.until };
            let next = second.map_or(rest, |second| second.min(rest));
            let next = if self.coming.is_empty() { next } else { next.min(before + COMING) };
            let ready = wait_for_any(self.asked.iter().map(|asked| &asked.link), next).unwrap_or_default();
            let now = now();
            if ready.contains(&true) {
                self.hear(&ready);
            } else if now >= self.until {
                break;
            } else if now >= last {
                second = None;
                while self.left.len() > 0 && self.zone.pace.may_hedge(Need::Pressing) && self.ask_next() {
                    self.zone.counts.hedges.add(1);
                }
            } else if second.is_some_and(|second| now >= second) {
                second = None;
                if self.left.len() > 0 && self.zone.pace.may_hedge(Need::Usual) && self.ask_next() {
                    self.zone.counts.hedges.add(1);
                }
            }
        }
        if self.seen.shards.len() >= needed {
            self.zone.pace.note(elapsed(begun));
        }
        for Asked { place, link, since } in self.asked.drain(..) {
            self.zone.servers[self.sought.places[place].server].leave(link, since);
        }
        self.seen
    }

    fn server(&self, place: usize) -> &'l Arc<Server> {
        &self.zone.servers[self.sought.places[place].server]
    }

    /// Asks the first `count`, and those of the others that are to be looked at again.
    fn begin(&mut self, count: usize) {
        let now = now();
        let usual = self.zone.usual();
        let mut order: Vec<usize> = (0..self.sought.places.len()).collect();
        shuffle(&mut order);
        let mut order: Vec<(Standing, usize)> =
            order.into_iter().map(|place| (self.server(place).standing(usual, now), place)).collect();
        let data = if chance_of_one_in(EVENLY) { usize::MAX } else { self.zone.coder.code().data() };
        order.sort_by_key(|(standing, place)| (*standing, *place >= data));
        let up = order.iter().filter(|(standing, _)| *standing != Standing::Down).count();
        // Those that are down are asked where nothing else is left, and to see whether they are back.
        let first = count.min(up.max(self.zone.coder.code().data())).min(order.len());
        let rest = order.split_off(first);
        let (probed, left): (Vec<(Standing, usize)>, Vec<_>) = rest
            .into_iter()
            .partition(|(standing, place)| *standing != Standing::Fit && self.server(*place).wants_probe(now));
        self.left = left.into_iter().map(|(_, place)| place).collect::<Vec<usize>>().into_iter();
        for (_, place) in order.into_iter().chain(probed) {
            if !self.ask(place) {
                self.ask_next();
            }
        }
    }

    /// Asks the next that can be asked.
    fn ask_next(&mut self) -> bool {
        while let Some(place) = self.left.next() {
            if self.ask(place) {
                return true;
            }
        }
        false
    }

    /// Asks a place, now or when there is a connection; false where none will come.
    fn ask(&mut self, place: usize) -> bool {
        let server = self.server(place);
        if let Some(link) = server.take_at_hand() {
            self.ask_by(link, place);
        } else if server.prepare() {
            self.coming.push(place);
        } else {
            self.seen.known[place] = Known::Lost;
            return false;
        }
        true
    }

    fn ask_those_that_came(&mut self) {
        for place in std::mem::take(&mut self.coming) {
            if !self.ask(place) {
                self.ask_next();
            }
        }
    }

    fn ask_by(&mut self, mut link: Link, place: usize) {
        let server = self.server(place);
        server.counts.asked.add(1);
        let since = now();
        let key = self.sought.key(place);
        match link.ask(&[b"GET", key.as_bytes()], self.zone.coder.stored(self.sought.length), self.until) {
            Ok(()) => self.asked.push(Asked { place, link, since }),
            Err(error) => self.lost(place, &error.to_string()),
        }
    }

    /// Takes what came of those that are `ready`.
    fn hear(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        for mut asked in std::mem::take(&mut self.asked) {
            // Those asked meanwhile are behind the others.
            let is_ready = ready.next().copied().unwrap_or(false);
            if !is_ready || self.seen.shards.len() >= self.zone.coder.code().data() {
                self.asked.push(asked);
                continue;
            }
            let server = self.server(asked.place);
            match asked.link.reply() {
                Ok(None) => self.asked.push(asked),
                Ok(Some(reply)) => match read(self.zone, self.sought, server, reply) {
                    Answer::Refused(why) => self.lost(asked.place, &why),
                    answer => {
                        server.done(asked.link, Some(elapsed(asked.since)));
                        self.note(asked.place, answer);
                    }
                },
                Err(error) => self.lost(asked.place, &error.to_string()),
            }
        }
    }

    /// Its server gave no answer, for this reason.
    fn lost(&mut self, place: usize, why: &str) {
        self.server(place).broken(why);
        self.seen.known[place] = Known::Lost;
        self.ask_next();
    }

    fn note(&mut self, place: usize, answer: Answer) {
        self.seen.known[place] = match answer {
            Answer::True(shard) if self.seen.known.contains(&Known::Holds(shard.index())) => Known::Lacks,
            Answer::True(shard) => {
                let index = shard.index();
                self.seen.shards.push(shard);
                Known::Holds(index)
            }
            Answer::None | Answer::False | Answer::Refused(_) => Known::Lacks,
        };
        if self.seen.known[place] == Known::Lacks {
            let lacking = self.seen.known.iter().filter(|known| **known == Known::Lacks).count();
            let code = self.zone.coder.code();
            self.seen.missing = lacking > code.shards() - code.data();
            self.ask_next();
        }
    }
}

/// What a reply is, checked.
fn read(zone: &Shared, sought: &Sought, server: &Server, reply: Reply) -> Answer {
    let stored = match reply {
        Reply::Bytes(stored) => stored,
        Reply::Refused(why) => return Answer::Refused(refusal(&why)),
        _ => {
            server.counts.misses.add(1);
            return Answer::None;
        }
    };
    match zone.coder.check(&sought.seal, sought.length, stored) {
        Some(shard) => {
            server.counts.hits.add(1);
            Answer::True(shard)
        }
        None => {
            server.counts.refused.add(1);
            Answer::False
        }
    }
}

/// Looks at the places that `known` says nothing of, for repairing.
pub(super) fn look_at_the_rest(zone: &Shared, sought: &Sought, known: &mut [Known], patience: Duration) {
    for place in 0..known.len() {
        if known[place] != Known::Nothing {
            continue;
        }
        let server = &zone.servers[sought.places[place].server];
        let key = sought.key(place);
        let reply = server.command(&[b"GET", key.as_bytes()], zone.coder.stored(sought.length), now() + patience);
        known[place] = match reply.map(|reply| read(zone, sought, server, reply)) {
            Ok(Answer::True(shard)) if !known.contains(&Known::Holds(shard.index())) => Known::Holds(shard.index()),
            Ok(Answer::Refused(_)) | Err(Lost) => Known::Lost,
            Ok(_) => Known::Lacks,
        };
    }
}

/// The places that lack a shard, and which each is to have: its own by its rank where no other place has that one, else one that no place has,
/// rather one that no place of which nothing is known should have by its rank.
pub(super) fn lacking(known: &[Known]) -> Vec<(usize, usize)> {
    let mut taken: Vec<bool> = (0..known.len()).map(|index| known.contains(&Known::Holds(index))).collect();
    let lacks = |place: &usize| known[*place] == Known::Lacks;
    let (own, other): (Vec<usize>, Vec<usize>) = (0..known.len()).filter(lacks).partition(|place| !taken[*place]);
    own.iter().for_each(|place| taken[*place] = true);
    let mut lacking: Vec<(usize, usize)> = own.into_iter().map(|place| (place, place)).collect();
    for place in other {
        let unknown = |index: usize| matches!(known[index], Known::Nothing | Known::Lost);
        let free = (0..known.len()).filter(|index| !taken[*index]).min_by_key(|index| unknown(*index));
        let index = free.expect("there are as many shards as places");
        taken[index] = true;
        lacking.push((place, index));
    }
    lacking
}

/// Whether it is that one of so many.
fn chance_of_one_in(many: u8) -> bool {
    random_bytes::<1>().is_ok_and(|[byte]| byte % many == 0)
}

/// In an order of chance.
fn shuffle(order: &mut [usize]) {
    let Ok(random) = random_bytes::<32>() else { return };
    for at in (1..order.len()).rev() {
        order.swap(at, usize::from(random[at % random.len()]) % (at + 1));
    }
}

/// How long looks take, and how many may be given company.
pub(super) struct Pace(Mutex<Recent>);

impl Default for Pace {
    fn default() -> Self {
        let budget = BURST * SHARE;
        Self(Mutex::new(Recent { took: std::collections::VecDeque::new(), budget, long: None }))
    }
}

struct Recent {
    took: std::collections::VecDeque<Duration>,
    /// Company that may be given, in twentieths.
    budget: u32,
    long: Option<Duration>,
}

/// Looks that are remembered; after so many new ones it is said anew what takes long.
const RECENT: usize = 128;
const ANEW: usize = 32;
/// What takes long where that is not known yet, and at least.
const LONG: Duration = Duration::from_millis(1);
const LEAST: Duration = Duration::from_micros(500);
/// One look in so many may be given company, and so many of them at once.
const SHARE: u32 = 20;
const BURST: u32 = 50;

/// Why a look is to be given company.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It takes longer than most.
    Usual,
    /// It would end without; half of all that may be given is kept for that.
    Pressing,
}

impl Pace {
    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.0.lock()
    }

    fn long(&self) -> Duration {
        self.recent().long.unwrap_or(LONG)
    }

    fn may_hedge(&self, need: Need) -> bool {
        let mut recent = self.recent();
        let may = recent.budget >= if need == Need::Pressing { SHARE } else { SHARE * BURST / 2 };
        if may {
            recent.budget -= SHARE;
        }
        may
    }

    fn note(&self, took: Duration) {
        let mut recent = self.recent();
        recent.budget = (recent.budget + 1).min(BURST * SHARE);
        recent.took.push_back(took);
        if recent.took.len() < RECENT + ANEW {
            return;
        }
        recent.took.drain(..ANEW);
        let mut sorted: Vec<Duration> = recent.took.iter().copied().collect();
        sorted.sort_unstable();
        recent.long = Some(sorted[sorted.len() * 19 / 20].max(LEAST));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_written_where_its_rank_is_and_no_shard_twice() {
        use Known::{Holds, Lacks, Lost};
        for (known, want) in [
            (&[Lacks, Holds(1), Holds(2), Holds(3), Lacks, Lost][..], &[(0, 0), (4, 4)][..]),
            // A new server stands before all: its own is elsewhere, and what was thrown out is lacking.
            (&[Lacks, Holds(0), Holds(1), Holds(2), Holds(3), Holds(4)], &[(0, 5)]),
            (&[Lacks, Holds(0), Lost, Holds(3), Holds(4), Holds(5)], &[(0, 1)]),
            (&[Lacks, Holds(0), Lost, Lost, Holds(4), Holds(1)], &[(0, 5)]),
            (&[Lacks, Holds(0), Lost, Holds(1), Holds(4), Holds(3)], &[(0, 5)]),
            (&[Holds(0), Holds(1)], &[]),
        ] {
            assert_eq!(lacking(known), want, "{known:?}");
        }
    }
}

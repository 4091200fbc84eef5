//! The zone's cache: sealed chunks on ordinary cache servers, erasure-coded, between the hosts and the store (docs/reference/formats/zone-shard.md,
//! docs/design.md, "The zone").
//!
//! A chunk that is read is looked for here under a deadline; what is not found is fetched from the next tier, by one host of the zone while the
//! others wait for it, and written here behind its reader's back. Nothing depends on it: servers that lie, hang or go cost time, and that
//! bounded. A server sees ids and sealed shards, and nothing of it is taken without a true tag; the chunk's name is checked by who opens it.

pub mod connection;
mod health;
mod lease;
mod lookup;
#[cfg(test)]
pub(crate) mod network;
pub mod placement;
pub mod resp;
mod server;
pub mod stripe;
pub mod trace;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use self::connection::Address;
pub use self::health::ServerState;
use self::lease::{Asked, Lease};
use self::lookup::{Known, Pace, Seen, Sought, look, look_at_the_rest};
use self::placement::Seed;
use self::resp::Reply;
pub use self::server::OfServer;
use self::server::{Server, Standing};
use self::stripe::{Code, Coder};
use crate::crypto::ChunkKey;
use crate::crypto::profile_seal::ProfileId;
use crate::crypto::shard_seal::{ShardSeal, ZoneId};
use crate::random::random_bytes;
use crate::read::counts::Count;
use crate::read::learned::{self, ProfileStore};
use crate::read::origin::Requests;
use crate::read::tier::{Place, Tier, Wanted};
use crate::store::ObjectName;
use crate::sync::{Mutex, MutexGuard, elapsed, now, sleep};
use crate::{Error, ErrorKind, Result};

/// Chunks that wait to be written or repaired; what is more than that is not written.
const BEHIND: usize = 32;
/// Threads that write them.
const WRITERS: usize = 2;
/// How long a server may take for a shard that is written.
const WRITE: Duration = Duration::from_secs(1);
/// The waits between two looks whether a lease's holder is done: the first, and the longest; at random from half of it on.
const LOOK: Duration = Duration::from_millis(5);
const LONGEST_LOOK: Duration = Duration::from_millis(50);
/// How long who waited in vain for a lease waits at most before it asks the store, so that not all do at once.
const JITTER: Duration = Duration::from_millis(50);
/// How long the end of a process waits for what is still to be written.
const LAST: Duration = Duration::from_secs(2);
/// How long the beginning waits for the servers' first connections; they come about all the same.
const WARM: Duration = Duration::from_millis(100);
/// How long the parts of learned profiles of an image are waited for, each; a part is kept for 30 days after it was last written.
const LEARNED: Duration = Duration::from_millis(100);
const LEARNED_SECONDS: &[u8] = b"2592000";
/// How long a start waits for its turn, and one look at whose turn it is.
const TURN: Duration = Duration::from_secs(30);
const TURN_LOOK: Duration = Duration::from_millis(200);

/// Keys of what servers count.
pub const FILLED: &str = "coldpress:count:filled";
/// The same for repairs.
pub const REPAIRED: &str = "coldpress:count:repaired";

/// How a zone's cache is used.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// How chunks are cut.
    pub code: Code,
    /// After so long the next tier is asked.
    pub deadline: Duration,
    /// How long a host may have to fetch a chunk while the others wait; zero for no leases.
    pub lease: Duration,
}

/// What was counted of a zone.
#[derive(Debug, Default)]
pub struct ZoneCounts {
    /// Second requests for what took long.
    pub hedges: Count,
    /// Looks that ended at their deadline.
    pub late: Count,
    /// Chunks written after they were fetched.
    pub filled: Count,
    /// Chunks of which shards were written anew.
    pub repaired: Count,
    /// Chunks not written for want of room.
    pub skipped: Count,
    /// Chunks that another host fetched meanwhile.
    pub waited: Count,
    /// Waits for another host that were in vain.
    pub waited_in_vain: Count,
}

/// The cache servers of a zone, as one process uses them.
pub struct Zone(Arc<Shared>);

struct Shared {
    servers: Vec<Arc<Server>>,
    coder: Coder,
    settings: Settings,
    pace: Pace,
    writers: Arc<Requests>,
    /// Chunks that the writers have not done yet.
    behind: AtomicUsize,
    /// Chunks for which something was given that they are not; the next tier is asked for them once.
    distrusted: Mutex<VecDeque<ZoneId>>,
    counts: ZoneCounts,
}

impl Zone {
    /// Of the servers at `addresses`; connections come about by themselves. `tls_ca` has the authorities of those that are spoken to by TLS.
    ///
    /// # Errors
    /// `Input` where no servers or one twice are named; those of the certificates' file.
    pub fn open(addresses: Vec<Address>, tls_ca: Option<&std::path::Path>, settings: Settings) -> Result<Arc<Self>> {
        if addresses.is_empty() {
            return Err(Error::new(ErrorKind::Input, "zone cache: no servers"));
        }
        let mut names: Vec<&str> = addresses.iter().map(Address::name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Err(Error::new(ErrorKind::Input, format!("zone cache: server {} is listed twice", twice[0])));
        }
        let tls = if addresses.iter().any(Address::has_tls) { Some(connection::tls(tls_ca)?) } else { None };
        let shared = Arc::new(Shared {
            servers: addresses.into_iter().map(|address| Arc::new(Server::new(address, tls.clone()))).collect(),
            coder: Coder::new(settings.code),
            settings,
            pace: Pace::default(),
            writers: Requests::new(WRITERS),
            behind: AtomicUsize::new(0),
            distrusted: Mutex::default(),
            counts: ZoneCounts::default(),
        });
        for server in &shared.servers {
            server.prepare();
        }
        let begun = now();
        while elapsed(begun) < WARM && shared.servers.iter().any(|server| server.is_coming()) {
            sleep(Duration::from_micros(200));
        }
        Ok(Arc::new(Self(shared)))
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> &ZoneCounts {
        &self.0.counts
    }

    /// The servers' names, what was counted of each, and whether it is fit to be asked.
    pub fn servers(&self) -> impl Iterator<Item = (&str, &OfServer, bool)> {
        let (usual, now) = (self.0.usual(), now());
        self.0
            .servers
            .iter()
            .map(move |server| (server.address.name(), &server.counts, server.standing(usual, now) == Standing::Fit))
    }

    /// Waits for the turn of a start where no more than `rate` may begin in a second, in the whole zone; how long that was. Where no server tells,
    /// and after half a minute to a whole one, the start goes on.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "hosts count the starts of the same second")]
    pub fn wait_for_turn(&self, rate: u32) -> Duration {
        let begun = now();
        while elapsed(begun) < TURN {
            let second =
                std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
            match self.0.start_in(second) {
                Some(count) if count > i64::from(rate) => sleep(between(TURN_LOOK, TURN_LOOK * 2)),
                _ => return elapsed(begun),
            }
        }
        // So that those who waited in vain do not all begin at once.
        sleep(between(Duration::ZERO, TURN));
        elapsed(begun)
    }

    /// Waits for what is still being written, for a while; a process does so before it ends. What is not written by then is fetched by the next who
    /// wants it.
    pub fn finish(&self) {
        let begun = now();
        while elapsed(begun) < LAST && self.0.behind.load(Ordering::Acquire) > 0 {
            sleep(Duration::from_millis(1));
        }
    }
}

/// Learned profiles on two servers each, so that one may be lost. A lookup asks one server after the other.
impl ProfileStore for Zone {
    fn load(&self, id: ProfileId) -> Option<Vec<u8>> {
        let until = now() + LEARNED;
        self.0.servers_of(id).find_map(|server| {
            match server.command(&[b"GET", learned_key(id).as_bytes()], learned::MAX_BYTES, until) {
                Ok(Reply::Bytes(part)) => Some(part),
                _ => None,
            }
        })
    }

    fn save(&self, id: ProfileId, part: &[u8]) {
        let key = learned_key(id);
        let words: [&[u8]; 5] = [b"SET", key.as_bytes(), part, b"EX", LEARNED_SECONDS];
        for server in self.0.servers_of(id) {
            if server.command(&words, 0, now() + WRITE).is_err() {
                tracing::info!(server = server.address.name(), "zone cache: a learned profile was not written");
            }
        }
    }
}

/// Returns the key of a part of a learned profile on the cache servers.
fn learned_key(id: ProfileId) -> String {
    format!("coldpress:learned:{id}")
}

/// A moment of chance between two.
fn between(least: Duration, most: Duration) -> Duration {
    let part = random_bytes().map_or(0, u32::from_le_bytes);
    least + (most - least).mul_f64(f64::from(part) / f64::from(u32::MAX))
}

/// A tier behind the zone's cache.
pub struct ZoneTier {
    zone: Arc<Zone>,
    next: Box<dyn Tier>,
    counts: Arc<crate::read::counts::Counts>,
}

impl ZoneTier {
    /// `next`, asked for what the `zone` has not.
    #[must_use]
    pub fn new(next: Box<dyn Tier>, zone: Arc<Zone>, counts: Arc<crate::read::counts::Counts>) -> Self {
        Self { zone, next, counts }
    }

    /// What the zone has of a chunk, by `until`.
    fn look(&self, sought: &Sought, until: Instant) -> Result<Vec<u8>, Seen> {
        let zone = &self.zone.0;
        let mut seen = look(zone, sought, until);
        if seen.shards.len() < zone.coder.code().data() {
            return Err(seen);
        }
        let lacks = seen.known.contains(&Known::Lacks);
        let shards = std::mem::take(&mut seen.shards);
        let Some(sealed) = zone.coder.join(sought.length, shards) else { return Err(seen) };
        if lacks {
            zone.repair(sought.clone(), sealed.clone(), seen.known);
        }
        let counts = self.counts.of(Place::Zone);
        counts.hits.add(1);
        counts.bytes.add(sealed.len() as u64);
        Ok(sealed)
    }

    fn deadline(&self, until: Instant) -> Instant {
        until.min(now() + self.zone.0.settings.deadline)
    }

    /// Fetches from the next tier what the zone has not: as the one host that does, or when the one that did is done or too late. `missing` says
    /// that the zone is known not to have it.
    fn fetch(&self, wanted: &Wanted<'_>, sought: &Sought, until: Instant, missing: bool) -> Result<(Vec<u8>, Place)> {
        let zone = &self.zone.0;
        let settings = zone.settings;
        // The other half of the time is for the next tier.
        let patience = now() + settings.lease.min(until.saturating_duration_since(now()) / 2);
        let mut waited = false;
        let (lease, alone) = loop {
            match self.ask_for_lease(sought, until) {
                Asked::None(lease) => break (lease, false),
                Asked::Held(lease) => {
                    // Who held it before may have filled it between the look and now.
                    if let Ok(sealed) = self.look(sought, self.deadline(until)) {
                        zone.give_back(lease);
                        return Ok((sealed, Place::Zone));
                    }
                    break (Some(lease), true);
                }
                Asked::Taken => {
                    waited = true;
                    if !self.wait_for_end(sought, patience) {
                        zone.counts.waited_in_vain.add(1);
                        let left = until.saturating_duration_since(now()) / 2;
                        sleep(between(Duration::ZERO, JITTER).min(left));
                        break (None, false);
                    }
                    if let Ok(sealed) = self.look(sought, self.deadline(until)) {
                        zone.counts.waited.add(1);
                        return Ok((sealed, Place::Zone));
                    }
                }
            }
        };
        self.counts.of(Place::Zone).misses.add(1);
        let fetched = self.next.get(wanted, until);
        match &fetched {
            Ok((sealed, _)) if missing || waited || lease.is_some() => {
                zone.fill(sought.clone(), sealed.clone(), lease, missing && alone);
            }
            _ => lease.into_iter().for_each(|lease| zone.give_back(lease)),
        }
        fetched
    }

    /// Fetches from the next tier what the zone gave something else for.
    fn fetch_anew(&self, wanted: &Wanted<'_>, sought: &Sought, until: Instant) -> Result<(Vec<u8>, Place)> {
        self.counts.of(Place::Zone).misses.add(1);
        let (sealed, place) = self.next.get(wanted, until)?;
        self.zone.0.fill(sought.clone(), sealed.clone(), None, true);
        Ok((sealed, place))
    }

    fn ask_for_lease(&self, sought: &Sought, until: Instant) -> Asked {
        let zone = &self.zone.0;
        if zone.settings.lease.is_zero() {
            return Asked::None(None);
        }
        lease::ask(zone, sought.seal.id(), sought.places[0].server, zone.settings.lease, self.lease_deadline(until))
    }

    /// Waits until the lease of another has ended, or `until`; whether it has. Asks for no more than that, since many may wait.
    fn wait_for_end(&self, sought: &Sought, until: Instant) -> bool {
        let (zone, mut wait) = (&self.zone.0, LOOK);
        while now() + wait < until {
            sleep(between(wait / 2, wait));
            wait = (wait * 3 / 2).min(LONGEST_LOOK);
            let deadline = self.lease_deadline(until);
            if !lease::is_held(zone, sought.seal.id(), sought.places[0].server, deadline) {
                return true;
            }
        }
        false
    }

    /// Who has no answer by then goes without a lease, and that is dearer than to wait a little longer.
    fn lease_deadline(&self, until: Instant) -> Instant {
        until.min(now() + self.zone.0.settings.deadline * 4)
    }
}

fn log_lookup(wanted: &Wanted<'_>, began: Instant, outcome: &str) {
    let took_us = u64::try_from(elapsed(began).as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(object = wanted.name.as_str(), took_us, "{outcome}");
}

impl Tier for ZoneTier {
    fn get(&self, wanted: &Wanted<'_>, until: Instant) -> Result<(Vec<u8>, Place)> {
        let zone = &self.zone.0;
        let Some(sought) = Sought::of(zone, wanted) else { return self.next.get(wanted, until) };
        if zone.distrusts(sought.seal.id()) {
            tracing::debug!(object = wanted.name.as_str(), "zone cache: bypassed, its copy is invalid");
            return self.fetch_anew(wanted, &sought, until);
        }
        let (began, deadline) = (now(), self.deadline(until));
        let seen = match self.look(&sought, deadline) {
            Ok(sealed) => {
                log_lookup(wanted, began, "zone cache: hit");
                return Ok((sealed, Place::Zone));
            }
            Err(seen) => seen,
        };
        log_lookup(wanted, began, if seen.missing { "zone cache: miss" } else { "zone cache: too few shards in time" });
        if !seen.missing && now() >= deadline {
            zone.counts.late.add(1);
        }
        self.fetch(wanted, &sought, until, seen.missing)
    }

    fn forget(&self, wanted: &Wanted<'_>) -> bool {
        let Some(sought) = Sought::of(&self.zone.0, wanted) else { return self.next.forget(wanted) };
        self.zone.0.forget(sought);
        true
    }

    fn keeps(&self, name: &ObjectName) -> Option<bool> {
        self.next.keeps(name)
    }
}

impl Shared {
    /// Returns the servers that keep the learned profile `id`.
    fn servers_of(&self, id: ProfileId) -> impl Iterator<Item = &Arc<Server>> {
        let ranked = placement::ranked(&self.seeds(), ZoneId::from_bytes(*id.as_bytes()));
        ranked.into_iter().take(2).map(|number| &self.servers[number])
    }

    fn seeds(&self) -> Vec<Seed> {
        self.servers.iter().map(|server| server.seed.clone()).collect()
    }

    /// What the answers of the middle one of the servers take.
    fn usual(&self) -> Option<Duration> {
        let mut averages: Vec<Duration> = self.servers.iter().filter_map(|server| server.average()).collect();
        averages.sort_unstable();
        averages.get(averages.len() / 2).copied()
    }

    /// Counts a start in this `second`; how many that makes.
    fn start_in(&self, second: u64) -> Option<i64> {
        let key = format!("coldpress:starts:{second}");
        let of_starts = ShardSeal::of(&ChunkKey::from_bytes([0; 32])).id();
        let server = &self.servers[*placement::ranked(&self.seeds(), of_starts).first()?];
        let call = |words: &[&[u8]]| server.command(words, 0, now() + WRITE);
        match call(&[b"INCR", key.as_bytes()]) {
            Ok(Reply::Number(count)) => {
                let _ = call(&[b"EXPIRE", key.as_bytes(), b"10"]);
                Some(count)
            }
            _ => None,
        }
    }

    /// Writes all shards of a chunk, behind its reader's back, and gives the lease back when that is done; unless `anew`, only where nobody else
    /// did meanwhile.
    fn fill(self: &Arc<Self>, sought: Sought, sealed: Vec<u8>, lease: Option<Lease>, anew: bool) {
        let zone = Arc::clone(self);
        self.write_behind(move |room| {
            if room && (anew || !zone.has(&sought)) && sought.is(&sealed) {
                let shards = zone.coder.split(&sought.seal, &sealed);
                if zone.write(&sought, shards.into_iter().enumerate(), FILLED) {
                    zone.counts.filled.add(1);
                }
            }
            lease.into_iter().for_each(|lease| lease.release(&zone, zone.patience(room)));
        });
    }

    /// Gives a lease back, behind its holder's back.
    fn give_back(self: &Arc<Self>, lease: Lease) {
        let zone = Arc::clone(self);
        self.write_behind(move |room| lease.release(&zone, zone.patience(room)));
    }

    /// How long what is done behind a reader's back may take, or before its eyes where there is no room there.
    fn patience(&self, room: bool) -> Duration {
        if room { WRITE } else { self.settings.deadline }
    }

    /// Whether the servers have shards enough meanwhile.
    fn has(&self, sought: &Sought) -> bool {
        let is_there = |(at, place): &(usize, &placement::Place)| {
            let key = sought.key(*at);
            let told = self.servers[place.server].command(&[b"EXISTS", key.as_bytes()], 0, now() + WRITE);
            told == Ok(Reply::Number(1))
        };
        let needed = self.coder.code().data();
        sought.places.iter().enumerate().filter(is_there).take(needed).count() == needed
    }

    /// Writes the shards that are missing, once it is known which those are.
    fn repair(self: &Arc<Self>, sought: Sought, sealed: Vec<u8>, mut known: Vec<Known>) {
        let now = now();
        let lacks = |at: &usize| known[*at] == Known::Lacks && self.servers[sought.places[*at].server].takes(now);
        if !(0..known.len()).any(|at| lacks(&at)) {
            return;
        }
        let zone = Arc::clone(self);
        self.write_behind(move |room| {
            if !room || !sought.is(&sealed) {
                return;
            }
            look_at_the_rest(&zone, &sought, &mut known, WRITE);
            let mut shards: Vec<Option<Vec<u8>>> =
                zone.coder.split(&sought.seal, &sealed).into_iter().map(Some).collect();
            let lacking = lookup::lacking(&known).into_iter();
            let lacking = lacking.filter_map(|(place, index)| Some((place, shards[index].take()?)));
            if zone.write(&sought, lacking, REPAIRED) {
                zone.counts.repaired.add(1);
            }
        });
    }

    /// Hands `job` to a writer, with true; where they have enough, it is done at once, with false, and takes no time then.
    fn write_behind(self: &Arc<Self>, job: impl FnOnce(bool) + Send + 'static) {
        let turn = Behind::new(self);
        if turn.before >= BEHIND {
            self.counts.skipped.add(1);
            return job(false);
        }
        let done = move || {
            job(true);
            drop(turn);
        };
        // Where there is no thread for it, it is not written.
        let _ = self.writers.submit(Box::new(done), false);
    }

    /// Writes shards at their places; whether one was written.
    fn write(&self, sought: &Sought, shards: impl Iterator<Item = (usize, Vec<u8>)>, counter: &str) -> bool {
        let mut written = false;
        for (place, shard) in shards {
            let server = &self.servers[sought.places[place].server];
            if server.takes(now()) {
                written |= server.put(&sought.key(place), &shard, counter, now() + WRITE).is_ok();
            }
        }
        written
    }

    /// Remembers that the zone has something else for a chunk, and deletes that.
    fn forget(self: &Arc<Self>, sought: Sought) {
        {
            let mut distrusted = self.distrusted();
            distrusted.push_back(sought.seal.id());
            if distrusted.len() > BEHIND {
                distrusted.pop_front();
            }
        }
        let zone = Arc::clone(self);
        self.write_behind(move |room| {
            for (at, place) in sought.places.iter().enumerate().filter(|_| room) {
                let key = sought.key(at);
                let _ = zone.servers[place.server].command(&[b"DEL", key.as_bytes()], 0, now() + WRITE);
            }
        });
    }

    /// Whether that was so since it was asked last.
    fn distrusts(&self, id: ZoneId) -> bool {
        let mut distrusted = self.distrusted();
        let before = distrusted.len();
        distrusted.retain(|other| *other != id);
        distrusted.len() < before
    }

    fn distrusted(&self) -> MutexGuard<'_, VecDeque<ZoneId>> {
        self.distrusted.lock()
    }
}

/// A chunk that the writers have not done yet.
struct Behind {
    zone: Arc<Shared>,
    /// How many there were before it.
    before: usize,
}

impl Behind {
    fn new(zone: &Arc<Shared>) -> Self {
        Self { zone: Arc::clone(zone), before: zone.behind.fetch_add(1, Ordering::AcqRel) }
    }
}

impl Drop for Behind {
    fn drop(&mut self) {
        self.zone.behind.fetch_sub(1, Ordering::AcqRel);
    }
}

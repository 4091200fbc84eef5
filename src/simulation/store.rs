//! A simulated store: objects with latencies, failures, answers that never come, and wrong bytes; and the record of who asks for
//! what at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::image::Image;
use crate::read::origin::REQUEST;
use crate::read::tier::{Place, Tier, Wanted};
use crate::store::{Failure, Get, ObjectName};
use crate::sync::scheduler::{Random, Simulated, current};
use crate::sync::sleep;
use crate::{ChunkIndex, Error, ErrorKind, Result};

/// Longest time that a request takes that is not answered before its reader gives up.
pub(super) const LONGEST_HANG: Duration = Duration::from_secs(25);
const MS: Duration = Duration::from_millis(1);

/// How the store behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Weather {
    /// Every request is answered in milliseconds.
    Calm,
    /// Some take seconds.
    Slow,
    /// Some fail, are lost or lie.
    Rough,
    /// None is answered.
    Outage,
    /// Every second one gets wrong bytes.
    Lying,
}

impl Weather {
    pub(super) const ALL: [Self; 5] = [Self::Calm, Self::Slow, Self::Rough, Self::Outage, Self::Lying];
}

/// A device among the simulated ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) host: usize,
    pub(super) process: usize,
    pub(super) device: usize,
}

/// Who must not fetch a chunk that another is fetching.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    /// Nobody waits for anybody: the lock files were deleted.
    Nobody,
    /// Each device fetches for itself.
    Device,
    /// The devices of a host share a disk cache; they wait for each other, but not for ever.
    Host,
    /// All devices share the zone.
    Zone,
}

/// How long a device waits for another that fetches the same chunk: for the disk cache, and for the zone at least.
const PATIENCE: Duration = Duration::from_secs(5);
const PATIENCE_IN_ZONE: Duration = Duration::from_secs(3);

/// The store of a simulation, and its record.
pub(super) struct Service {
    pub(super) image: Arc<Image>,
    record: Mutex<Record>,
}

struct Record {
    random: Random,
    weather: Weather,
    sharing: Sharing,
    /// What was fetched, where every chunk need be fetched once.
    fetched: Option<Vec<(Who, ChunkIndex)>>,
    /// Most requests of a process at a time, and of a host.
    bounds: (usize, usize),
    requests: Vec<Request>,
    gets: Vec<GetUnderWay>,
    numbers: u64,
    last_fault: Option<Duration>,
    /// When a chunk was last given wrong bytes for, or refused for good.
    last_lie: HashMap<ChunkIndex, Duration>,
}

/// A request that the store has not answered.
struct Request {
    number: u64,
    who: Who,
    /// For which call of the last cache level it is made.
    get: Option<u64>,
}

/// A call of the last cache level, for one chunk.
struct GetUnderWay {
    number: u64,
    who: Who,
    chunk: ChunkIndex,
    began: Duration,
    /// It waited in vain for another, and fetches without the lock.
    has_waited: bool,
}

/// What becomes of a request.
enum Fate {
    Bytes(Duration),
    Fails(Duration, Option<Duration>),
    Lies(Duration),
    Refuses(Duration, ErrorKind),
    Hangs(Duration),
}

fn thread() -> Simulated {
    current().expect("only simulated threads use the simulated store")
}

impl Service {
    /// Makes the store. `once` says that every device has memory for all of its chunks.
    pub(super) fn new(random: Random, sharing: Sharing, bounds: (usize, usize), once: bool) -> Arc<Self> {
        let record = Record {
            random,
            weather: Weather::Calm,
            sharing,
            fetched: once.then(Vec::new),
            bounds,
            requests: Vec::new(),
            gets: Vec::new(),
            numbers: 0,
            last_fault: None,
            last_lie: HashMap::new(),
        };
        Arc::new(Self { image: Image::get(), record: Mutex::new(record) })
    }

    /// Locked only between two steps.
    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_weather(&self, weather: Weather) {
        self.record().weather = weather;
    }

    /// Returns when a request last failed or took long.
    pub(super) fn last_fault(&self) -> Option<Duration> {
        self.record().last_fault
    }

    /// Returns when wrong bytes or a final refusal were last given for `chunk`.
    pub(super) fn last_lie(&self, chunk: ChunkIndex) -> Option<Duration> {
        self.record().last_lie.get(&chunk).copied()
    }

    fn chunk(&self, name: &ObjectName) -> ChunkIndex {
        let digest = name.chunk_digest().expect("only chunks are asked for").1;
        self.image.index_of(digest).expect("only chunks of the image are asked for")
    }

    /// Records a request, and checks that it may be made.
    fn begin(&self, who: Who, chunk: ChunkIndex) -> (u64, Fate) {
        let now = thread().time();
        let mut record = self.record();
        record.numbers += 1;
        let number = record.numbers;
        let get = record.gets.iter().find(|get| get.who == who && get.chunk == chunk);
        let (get, most) = match get {
            // A request and its hedge; those that were given up after their time may still be under way.
            Some(get) => (Some(get.number), 2 * (1 + (now - get.began).as_secs() / REQUEST.as_secs())),
            None => (None, u64::MAX),
        };
        record.requests.push(Request { number, who, get });
        let same = record.requests.iter().filter(|other| get.is_some() && other.get == get).count();
        if same as u64 > most {
            thread().fail(format!("{same} requests for chunk {} at a time, of {who:?}", chunk.0));
        }
        let of_host = record.requests.iter().filter(|other| other.who.host == who.host).count();
        let of_process = |other: &&Request| (other.who.host, other.who.process) == (who.host, who.process);
        let of_process = record.requests.iter().filter(of_process).count();
        let bounds = record.bounds;
        if of_process > bounds.0 || of_host > bounds.1 {
            thread()
                .fail(format!("{of_process} requests of a process, {of_host} of its host: the bounds are {bounds:?}"));
        }
        (number, record.fate())
    }

    fn end(&self, number: u64) {
        self.record().requests.retain(|request| request.number != number);
    }

    /// Records that something went wrong for which a read may fail.
    pub(super) fn fault(&self) {
        self.record().last_fault = Some(thread().time());
    }

    fn ask(&self, who: Who, name: &ObjectName, limit: u64) -> Result<Vec<u8>, Failure> {
        let chunk = self.chunk(name);
        let (number, fate) = self.begin(who, chunk);
        let unavailable = |after| {
            let error = Error::new(ErrorKind::Unavailable, "the simulated store fails");
            Failure::Again { error, after }
        };
        let (Fate::Bytes(time) | Fate::Fails(time, _) | Fate::Lies(time) | Fate::Refuses(time, _) | Fate::Hangs(time)) =
            fate;
        let is_fault = !matches!(fate, Fate::Bytes(..)) || time > MS * 500;
        if is_fault {
            self.fault();
        }
        sleep(time);
        self.end(number);
        if is_fault {
            self.fault();
        }
        match fate {
            Fate::Bytes(_) => {
                let bytes = self.image.object(chunk);
                assert!(bytes.len() as u64 <= limit, "the limit is the object's length");
                Ok(bytes)
            }
            Fate::Fails(_, after) => Err(unavailable(after)),
            Fate::Hangs(_) => Err(unavailable(None)),
            Fate::Refuses(_, kind) => {
                self.record().last_lie.insert(chunk, thread().time());
                Err(Failure::Final(Error::new(kind, "the simulated store refuses")))
            }
            Fate::Lies(_) => {
                let mut record = self.record();
                record.last_lie.insert(chunk, thread().time());
                let mut bytes = self.image.object(chunk);
                match record.random.below(3) {
                    0 => bytes.truncate(record.random.below(bytes.len())),
                    1 => bytes = self.image.object(ChunkIndex(u32::from(chunk.0 == 0))),
                    _ => {
                        let at = record.random.below(bytes.len());
                        bytes[at] ^= 1 << record.random.below(8);
                    }
                }
                Ok(bytes)
            }
        }
    }

    /// Records that a call of the last cache level begins, for a read that began at `entered`, and checks that no other for the same
    /// chunk is under way among those that share it.
    fn enter(&self, who: Who, chunk: ChunkIndex, entered: Duration, until: Instant) -> u64 {
        let now = thread().time();
        let left = until.saturating_duration_since(crate::sync::now());
        let mut record = self.record();
        record.numbers += 1;
        let number = record.numbers;
        let sharing = record.sharing;
        // It waited for half of its time, or for long enough.
        let patience = if sharing == Sharing::Zone { PATIENCE_IN_ZONE } else { PATIENCE };
        let has_waited = now - entered >= left.min(patience);
        let conflicts = |other: &&GetUnderWay| {
            let is_exclusive = !has_waited && !other.has_waited;
            other.chunk == chunk
                && match sharing {
                    Sharing::Nobody => false,
                    Sharing::Device => other.who == who,
                    Sharing::Host => other.who.host == who.host && is_exclusive,
                    Sharing::Zone => is_exclusive,
                }
        };
        if let Some(other) = record.gets.iter().find(conflicts) {
            let message = format!(
                "chunk {} is fetched by {who:?}, while {:?} has been fetching it for {:?}",
                chunk.0,
                other.who,
                now - other.began
            );
            thread().fail(message);
        }
        record.gets.push(GetUnderWay { number, who, chunk, began: now, has_waited });
        number
    }

    /// Records that a call of the last cache level ends, with the chunk's bytes where it `succeeded`.
    fn leave(&self, number: u64, succeeded: bool) {
        let mut record = self.record();
        let at = record.gets.iter().position(|get| get.number == number).expect("it was entered");
        let GetUnderWay { who, chunk, .. } = record.gets.remove(at);
        let fetched = record.fetched.as_mut().filter(|_| succeeded);
        if let Some(fetched) = fetched {
            if fetched.contains(&(who, chunk)) {
                thread().fail(format!("chunk {} was fetched twice by {who:?}, which has memory for all", chunk.0));
            }
            fetched.push((who, chunk));
        }
    }
}

impl Record {
    fn fate(&mut self) -> Fate {
        let usual = self.random.time(MS / 4, MS * 30);
        let roll = self.random.below(100);
        match (self.weather, roll) {
            (Weather::Slow, 0..10) => Fate::Bytes(self.random.time(MS * 100, MS * 9000)),
            (Weather::Rough, 0..15) => Fate::Fails(usual, None),
            (Weather::Rough, 15..20) => Fate::Fails(usual, Some(self.random.time(MS, MS * 3000))),
            (Weather::Rough, 20..30) => Fate::Bytes(self.random.time(MS * 100, MS * 20_000)),
            (Weather::Rough, 30..35) => Fate::Hangs(self.random.time(MS * 10_000, LONGEST_HANG)),
            (Weather::Rough, 35..38) => Fate::Lies(usual),
            (Weather::Rough, 38) => Fate::Refuses(usual, ErrorKind::NotFound),
            (Weather::Rough, 39) => Fate::Refuses(usual, ErrorKind::Denied),
            (Weather::Outage, 0..80) => Fate::Fails(usual, None),
            (Weather::Outage, _) => Fate::Hangs(self.random.time(MS * 1000, LONGEST_HANG)),
            (Weather::Lying, 0..50) => Fate::Lies(usual),
            _ => Fate::Bytes(usual),
        }
    }
}

/// The store as one device sees it.
pub(super) struct Store {
    pub(super) service: Arc<Service>,
    pub(super) who: Who,
}

impl Get for Store {
    fn ask(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>, Failure> {
        self.service.ask(self.who, name, limit)
    }

    fn get(&self, _name: &ObjectName, _limit: u64) -> Result<Vec<u8>> {
        unreachable!("the read path asks once and repeats by itself")
    }
}

/// When a device began to ask for which chunk.
#[derive(Default)]
pub(super) struct Entries(Mutex<Vec<(ChunkIndex, Duration)>>);

/// The first cache level, watched for when it is asked.
pub(super) struct First {
    pub(super) next: Box<dyn Tier>,
    pub(super) service: Arc<Service>,
    pub(super) entries: Arc<Entries>,
}

/// The last cache level, watched for being asked by one at a time.
pub(super) struct Last {
    pub(super) next: Box<dyn Tier>,
    pub(super) service: Arc<Service>,
    pub(super) who: Who,
    pub(super) entries: Arc<Entries>,
}

impl Entries {
    fn entries(&self) -> MutexGuard<'_, Vec<(ChunkIndex, Duration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tier for First {
    fn get(&self, wanted: &Wanted<'_>, until: Instant) -> Result<(Vec<u8>, Place)> {
        let entry = (self.service.chunk(wanted.name), thread().time());
        self.entries.entries().push(entry);
        let got = self.next.get(wanted, until);
        let mut entries = self.entries.entries();
        let at = entries.iter().position(|other| *other == entry).expect("it was entered");
        entries.remove(at);
        got
    }

    fn forget(&self, wanted: &Wanted<'_>) -> bool {
        self.next.forget(wanted)
    }

    fn keeps(&self, name: &ObjectName) -> Option<bool> {
        self.next.keeps(name)
    }
}

impl Tier for Last {
    fn get(&self, wanted: &Wanted<'_>, until: Instant) -> Result<(Vec<u8>, Place)> {
        let chunk = self.service.chunk(wanted.name);
        let entered = self.entries.entries().iter().find(|(other, _)| *other == chunk).map(|(_, entered)| *entered);
        let number = self.service.enter(self.who, chunk, entered.unwrap_or(thread().time()), until);
        let got = self.next.get(wanted, until);
        let is_true = |(bytes, _): &(Vec<u8>, Place)| *bytes == self.service.image.object(chunk);
        self.service.leave(number, got.as_ref().is_ok_and(is_true));
        got
    }
}

//! What a simulation consists of.

use std::time::Duration;

use super::store::Sharing;
use crate::CHUNK_SIZE;
use crate::sync::scheduler::Random;

const MS: Duration = Duration::from_millis(1);

/// The parts and sizes of a simulation; its seed decides them.
#[derive(Debug, Clone)]
pub(super) struct Plan {
    pub(super) hosts: usize,
    pub(super) processes: usize,
    pub(super) devices: usize,
    pub(super) readers: usize,
    pub(super) reads: usize,
    pub(super) memory: u64,
    pub(super) requests: usize,
    pub(super) ahead: usize,
    pub(super) deadline: Duration,
    pub(super) patience: Duration,
    pub(super) faults: Faulty,
    /// Bytes of each host's disk cache, where it has one.
    pub(super) disk: Option<u64>,
    /// Requests of a host at a time, where its processes share a bound.
    pub(super) slots: Option<usize>,
    /// Whether somebody deletes the lock files of the disk cache, so that processes no longer wait for each other.
    pub(super) deletes_locks: bool,
    pub(super) zone: Option<ZonePlan>,
    /// Whether images are copied into the disk cache, and how many bytes a second.
    pub(super) fills: bool,
    pub(super) fill_rate: Option<u64>,
}

/// What fails now and then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Faulty {
    pub(super) store: bool,
    /// Threads stall, and cannot be started.
    pub(super) machine: bool,
    pub(super) disk: bool,
    pub(super) zone: bool,
}

impl Faulty {
    pub(super) const NOTHING: Self = Self { store: false, machine: false, disk: false, zone: false };

    fn of(random: &mut Random) -> Self {
        if random.one_in(4) {
            return Self::NOTHING;
        }
        let mut one = || random.one_in(2);
        Self { store: one(), machine: one(), disk: one(), zone: one() }
    }
}

/// The zone of a simulation.
#[derive(Debug, Clone)]
pub(super) struct ZonePlan {
    pub(super) servers: usize,
    pub(super) code: &'static str,
    pub(super) deadline: Duration,
    pub(super) lease: Duration,
}

impl Plan {
    /// Returns the plan of a seed.
    pub(super) fn of(random: &mut Random) -> Self {
        let deadline = random.time(MS * 3000, MS * 40_000);
        let requests = [1, 2, 4, 16][random.below(4)];
        let zone = random.one_in(3).then(|| ZonePlan::of(random));
        let disk = random.one_in(2).then(|| [20_000, 100_000, 1_000_000][random.below(3)]);
        let faults = Faulty::of(random);
        Self {
            hosts: if zone.is_some() { 1 + random.below(3) } else { 1 },
            processes: 1 + random.below(2),
            devices: 1 + random.below(2),
            readers: 1 + random.below(3),
            reads: 5 + random.below(25),
            memory: [0, 3, 8, 64][random.below(4)] * u64::from(CHUNK_SIZE),
            requests,
            ahead: (requests / 2).max(1),
            deadline,
            patience: if random.one_in(2) { deadline } else { random.time(MS * 1000, deadline) },
            faults,
            disk,
            slots: disk.filter(|_| requests <= 4 && random.one_in(2)).map(|_| requests),
            deletes_locks: faults.disk && random.one_in(3),
            zone,
            fills: disk.is_some() && random.one_in(2),
            fill_rate: random.one_in(2).then_some(10 << 10),
        }
    }

    /// Who must wait for whom.
    pub(super) fn sharing(&self) -> Sharing {
        match (&self.zone, self.disk) {
            (Some(zone), _) if self.faults == Faulty::NOTHING && !zone.lease.is_zero() => Sharing::Zone,
            (_, Some(_)) if self.deletes_locks => Sharing::Nobody,
            (_, Some(_)) => Sharing::Host,
            _ => Sharing::Device,
        }
    }

    /// Whether each device has memory for all of its chunks, and nothing else is fetched.
    pub(super) fn remembers_all(&self) -> bool {
        self.disk.is_none() && self.memory >= 64 * u64::from(CHUNK_SIZE)
    }

    /// Most requests of a process, and of a host.
    pub(super) fn bounds(&self) -> (usize, usize) {
        let of_host = self.slots.filter(|_| !self.deletes_locks).unwrap_or(usize::MAX);
        (self.requests, of_host)
    }
}

impl ZonePlan {
    fn of(random: &mut Random) -> Self {
        let (code, least) = [("1+0", 1), ("2+0", 2), ("2+1", 2), ("4+2", 4)][random.below(4)];
        Self {
            servers: least + random.below(4),
            code,
            deadline: random.time(MS * 5, MS * 50),
            lease: if random.one_in(6) { Duration::ZERO } else { random.time(MS * 3000, MS * 12_000) },
        }
    }

    /// The servers' names.
    pub(super) fn names(&self) -> Vec<String> {
        (1..=self.servers).map(|number| format!("10.0.0.{number}:6379")).collect()
    }
}

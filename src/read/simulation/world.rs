//! One simulation: hosts with processes and devices, their readers, and whatever goes wrong meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::image::{CHUNKS, PATTERN};
use super::store::{LONGEST_HANG, Last, Service, Store, Weather, Who};
use crate::fs::BlockDevice;
use crate::read::ChunkDevice;
use crate::read::counts::Counts;
use crate::read::device::Host;
use crate::read::memory::Memory;
use crate::read::origin::{Limits, Origin, Requests};
use crate::read::tier::Tier;
use crate::sync::scheduler::{Faults, Random, Report, Simulated, current, simulate};
use crate::sync::{Condvar, Mutex, sleep};
use crate::{CHUNK_SIZE, ChunkIndex, ErrorKind, Result};

const MS: Duration = Duration::from_millis(1);
/// A read may end so much after its deadline, besides what its threads were stalled.
const SLACK: Duration = Duration::from_millis(30);

/// What a simulation consists of; its seed decides it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plan {
    pub(super) hosts: usize,
    pub(super) processes: usize,
    pub(super) devices: usize,
    readers: usize,
    reads: usize,
    memory: u64,
    requests: usize,
    ahead: usize,
    deadline: Duration,
    patience: Duration,
    /// Whether anything goes wrong.
    pub(super) faults: bool,
}

impl Plan {
    /// Returns the plan of a seed.
    pub(super) fn of(random: &mut Random) -> Self {
        let deadline = random.time(MS * 2000, MS * 40_000);
        Self {
            hosts: 1,
            processes: 1 + random.below(2),
            devices: 1 + random.below(2),
            readers: 1 + random.below(4),
            reads: 20 + random.below(60),
            memory: [0, 3, 8, 40][random.below(4)] * u64::from(CHUNK_SIZE),
            requests: [1, 2, 4, 16][random.below(4)],
            ahead: [1, 2, 8][random.below(3)],
            deadline,
            patience: if random.one_in(2) { deadline } else { random.time(MS * 1000, deadline) },
            faults: !random.one_in(4),
        }
    }
}

/// A device, and what its process shares.
struct Device {
    who: Who,
    device: ChunkDevice,
}

/// Counts threads that are to end.
#[derive(Default)]
struct Group {
    running: Mutex<usize>,
    ended: Condvar,
}

impl Group {
    fn spawn(self: &Arc<Self>, name: &str, work: impl FnOnce() + Send + 'static) {
        *self.running.lock() += 1;
        let group = Arc::clone(self);
        thread().spawn(name, move || {
            work();
            *group.running.lock() -= 1;
            group.ended.notify_all();
        });
    }

    fn are_running(&self) -> bool {
        *self.running.lock() > 0
    }

    fn wait(&self) {
        while self.are_running() {
            drop(self.ended.wait_timeout_while(self.running.lock(), MS * 60_000, |running| *running > 0));
        }
    }
}

struct World {
    plan: Plan,
    service: Arc<Service>,
    devices: Vec<Arc<Device>>,
    readers: Arc<Group>,
    /// One for each process.
    counts: Vec<Arc<Counts>>,
}

fn thread() -> Simulated {
    current().expect("a world is simulated")
}

/// Runs the simulation of `seed`.
///
/// # Errors
/// What was violated, and how to repeat it.
pub(super) fn run(seed: u64) -> Result<Report, String> {
    let plan = Plan::of(&mut Random(seed));
    let open = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&open);
    let report = simulate(seed, move || World::new(plan).live(&left));
    let report = report.and_then(|report| match open.load(Ordering::Relaxed) {
        0 => Ok(report),
        open => Err(format!("{open} requests are counted as under way at the end")),
    });
    report.map_err(|failure| {
        format!(
            "seed {seed}: {failure}\n{plan:?}\nto repeat: COLDPRESS_SEED={seed} cargo nextest run --lib simulation --no-capture"
        )
    })
}

impl World {
    fn new(plan: Plan) -> Self {
        let service = Service::new(thread().fork_random(), plan.requests);
        let (mut devices, mut counts) = (Vec::new(), Vec::new());
        for host in 0..plan.hosts {
            for process in 0..plan.processes {
                let shared = Arc::<Counts>::default();
                let limits = Limits {
                    requests: Requests::new(plan.requests),
                    slots: None,
                    patience: plan.patience,
                    at_first: plan.patience,
                    counts: Arc::clone(&shared),
                };
                let memory = Memory::new(plan.memory);
                let reading = Host { memory, counts: Arc::clone(&shared), deadline: plan.deadline, ahead: plan.ahead };
                for device in 0..plan.devices {
                    let who = Who { host, process, device };
                    let tier = tier(&service, who, &limits);
                    let device = ChunkDevice::new(service.image.manifest.clone(), tier, reading.clone(), Vec::new());
                    devices.push(Arc::new(Device { who, device }));
                }
                counts.push(shared);
            }
        }
        Self { plan, service, devices, readers: Arc::default(), counts }
    }

    fn live(self, open: &AtomicUsize) {
        let others = Arc::<Group>::default();
        let world = Arc::new(self);
        for (number, device) in world.devices.iter().enumerate() {
            let mut random = thread().fork_random();
            if random.one_in(2) {
                let planned: Vec<ChunkIndex> = (0..random.below(12)).map(|_| any_chunk(&mut random)).collect();
                device.device.ahead().plan(planned);
            }
            for _ in 0..world.plan.readers {
                let (world, random) = (Arc::clone(&world), thread().fork_random());
                let readers = Arc::clone(&world.readers);
                readers.spawn("reader", move || Reader { world, number, random }.run());
            }
        }
        if world.plan.faults {
            let changing = Arc::clone(&world);
            others.spawn("weather", move || changing.change_weather());
        }
        world.readers.wait();
        others.wait();
        world.recover();
        world.finish();
        let under_way = world.counts.iter().map(|counts| counts.in_flight.get()).sum::<u64>();
        open.store(usize::try_from(under_way).unwrap(), Ordering::Relaxed);
    }

    /// Has the store and the machine fail in one way after the other, while anybody reads.
    fn change_weather(&self) {
        let mut random = thread().fork_random();
        while self.readers.are_running() {
            self.service.set_weather(Weather::ALL[random.below(Weather::ALL.len())]);
            let spawn = [0, 0, 20][random.below(3)];
            let stall = [0, 500, 3000][random.below(3)];
            thread().set_faults(Faults { spawn, stall });
            sleep(random.time(MS * 10, MS * 20_000));
        }
        self.service.set_weather(Weather::Calm);
        thread().set_faults(Faults::default());
    }

    /// After the faults, all must be readable again.
    fn recover(self: &Arc<Self>) {
        sleep(LONGEST_HANG + self.plan.deadline + MS * 10_000);
        for number in 0..self.devices.len() {
            let mut reader = Reader { world: Arc::clone(self), number, random: thread().fork_random() };
            for chunk in 0..CHUNKS {
                reader.read(ChunkIndex(chunk).byte_offset(), PATTERN);
            }
        }
    }

    /// What must be so at the end.
    fn finish(&self) {
        for counts in &self.counts {
            let (requests, hedges) = (counts.requests.get(), counts.hedges.get());
            if hedges > requests / 20 + 1 {
                thread().fail(format!("{hedges} hedged requests of {requests}"));
            }
            thread().note(requests);
        }
        // Requests that were given up.
        sleep(LONGEST_HANG);
    }
}

fn tier(service: &Arc<Service>, who: Who, limits: &Limits) -> Box<dyn Tier> {
    let store = Store { service: Arc::clone(service), who };
    let origin = Box::new(Origin::new(Box::new(store), limits.clone()));
    Box::new(Last { next: origin, service: Arc::clone(service), who })
}

fn any_chunk(random: &mut Random) -> ChunkIndex {
    ChunkIndex(u32::try_from(random.below(CHUNKS as usize)).unwrap())
}

/// Reads from one device and checks what it gets.
struct Reader {
    world: Arc<World>,
    number: usize,
    random: Random,
}

impl Reader {
    fn run(mut self) {
        let mut row = any_chunk(&mut self.random);
        for _ in 0..self.world.plan.reads {
            let random = &mut self.random;
            match random.below(10) {
                0..4 => {
                    row = ChunkIndex((row.0 + 1) % CHUNKS);
                    self.read(row.byte_offset(), 512);
                }
                // Across a border between chunks.
                4 => {
                    let offset = ChunkIndex(1 + any_chunk(random).0 % (CHUNKS - 1)).byte_offset() - 100;
                    self.read(offset, 600);
                }
                5 if random.one_in(4) => {
                    let offset = ChunkIndex(any_chunk(random).0 % (CHUNKS - 3)).byte_offset() + 17;
                    self.read(offset, 3 * CHUNK_SIZE as usize - 5000);
                }
                _ => {
                    let (chunk, inside) = (any_chunk(random), random.below(PATTERN) as u64);
                    let length = 1 + random.below(4096);
                    self.read(chunk.byte_offset() + inside, length);
                }
            }
            if self.random.one_in(3) {
                sleep(self.random.time(MS / 10, MS * 3000));
            }
        }
    }

    /// Reads once; what is read must be true and in time, and a failure must have its cause.
    fn read(&mut self, offset: u64, length: usize) {
        let device = &self.world.devices[self.number];
        let mut bytes = vec![0xAA; length];
        let (begun, stalled) = (thread().time(), thread().stalled());
        let read = if self.random.one_in(8) && device.device.read_at_hand(offset, &mut bytes) {
            Ok(())
        } else {
            device.device.read_at(offset, &mut bytes)
        };
        let took = thread().time() - begun;
        let most = self.world.plan.deadline + SLACK + thread().stalled() - stalled;
        let who = device.who;
        if took > most {
            thread().fail(format!("{who:?}: a read took {took:?}, its deadline is {:?}", self.world.plan.deadline));
        }
        match read {
            Ok(()) => {
                if let Some(at) = self.world.service.image.difference(offset, &bytes) {
                    thread().fail(format!("{who:?}: byte {at} is wrong in a read of {length} at {offset}"));
                }
            }
            Err(error) => self.check_failure(offset, length, begun, &error),
        }
        thread().note(u64::try_from(took.as_nanos()).unwrap());
    }

    fn check_failure(&self, offset: u64, length: usize, begun: Duration, error: &crate::Error) {
        let (service, plan) = (&self.world.service, &self.world.plan);
        let size = u64::from(CHUNK_SIZE);
        let lied = |since: Duration| {
            let chunks = offset / size..=(offset + length as u64 - 1) / size;
            let mut lies = chunks.filter_map(|chunk| service.last_lie(ChunkIndex(u32::try_from(chunk).unwrap())));
            lies.any(|at| at >= since)
        };
        let since = |before| begun.saturating_sub(before);
        let has_cause = match error.kind() {
            ErrorKind::Unavailable => {
                let fault = service.last_fault().max(thread().last_failure());
                fault.is_some_and(|at| at >= since(plan.deadline + LONGEST_HANG))
            }
            // The reader may have joined a fetch that began long before.
            ErrorKind::Corrupt | ErrorKind::NotFound | ErrorKind::Denied => lied(since(plan.deadline)),
            _ => false,
        };
        if !has_cause {
            let who = self.world.devices[self.number].who;
            thread().fail(format!("{who:?}: a read of {length} at {offset} failed for no reason: {}", error.chain()));
        }
        thread().note(1 + error.kind() as u64);
    }
}

//! One simulation: hosts with processes and devices, their readers, and whatever goes wrong meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::disk::{Disk, LONGEST_HOLD};
use super::image::{CHUNKS, PATTERN, any_chunk};
use super::plan::{Faulty, Plan};
use super::reader::Reader;
use super::store::{Entries, First, LONGEST_HANG, Last, Service, Store, Weather, Who};
use crate::ChunkIndex;
use crate::read::ChunkDevice;
use crate::read::counts::Counts;
use crate::read::device::Host;
use crate::read::disk_cache::{CachedTier, DiskCache};
use crate::read::fill::{FillRate, Filler};
use crate::read::gate::Gate;
use crate::read::memory::Memory;
use crate::read::origin::{Limits, Origin, Requests};
use crate::read::tier::Tier;
use crate::sync::scheduler::{Faults, Random, Report, Simulated, current, simulate};
use crate::sync::{Condvar, Mutex, sleep};
use crate::zone::network::Network;
use crate::zone::{Settings, Zone, ZoneTier};

const MS: Duration = Duration::from_millis(1);

/// A simulated device.
pub(super) struct Device {
    pub(super) who: Who,
    pub(super) device: ChunkDevice,
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

/// Has something go wrong for as long as anybody reads.
type Spoiler = fn(&World);

/// What the threads of a simulation share.
pub(super) struct World {
    pub(super) plan: Plan,
    pub(super) service: Arc<Service>,
    pub(super) devices: Vec<Arc<Device>>,
    readers: Arc<Group>,
    /// One for each process.
    processes: Vec<Process>,
    /// One for each host, where it has a disk cache.
    disks: Vec<Disk>,
    network: Option<Arc<Network>>,
}

/// What the devices of a process share.
struct Process {
    limits: Limits,
    host: Host,
    cache: Option<Arc<DiskCache>>,
    zone: Option<Arc<Zone>>,
}

pub(super) fn thread() -> Simulated {
    current().expect("a world is simulated")
}

/// Runs the simulation of `seed`.
///
/// # Errors
/// What was violated, and how to repeat it.
pub(super) fn run(seed: u64) -> Result<Report, String> {
    let plan = Plan::of(&mut Random(seed));
    let shown = format!("{plan:?}");
    let open = Arc::new(AtomicUsize::new(0));
    let left = Arc::clone(&open);
    let report = simulate(seed, move || World::new(plan).live(&left));
    let report = report.and_then(|report| match open.load(Ordering::Relaxed) {
        0 => Ok(report),
        open => Err(format!("{open} requests are counted as under way at the end")),
    });
    report.map_err(|failure| {
        format!(
            "seed {seed}: {failure}\n{shown}\nto repeat: COLDPRESS_SEED={seed} cargo nextest run --lib simulation --no-capture"
        )
    })
}

impl Process {
    fn new(plan: &Plan, disk: Option<&Disk>) -> Self {
        let counts = Arc::<Counts>::default();
        let cache = disk
            .zip(plan.disk)
            .map(|(disk, bytes)| Arc::new(DiskCache::open(disk.path(), bytes).expect("the directory was just made")));
        let zone = plan.zone.as_ref().map(|zone| {
            let addresses = zone.names().iter().map(|name| format!("redis://{name}").parse().unwrap()).collect();
            let code = zone.code.parse().unwrap();
            let settings = Settings { code, deadline: zone.deadline, lease: zone.lease };
            Zone::open(addresses, None, settings).expect("the servers are named rightly")
        });
        let limits = Limits {
            requests: Requests::new(plan.requests),
            slots: cache.as_ref().zip(plan.slots).map(|(cache, slots)| Arc::new(cache.slots(slots))),
            patience: plan.patience,
            at_first: plan.patience,
            counts: Arc::clone(&counts),
        };
        let memory = Memory::new(plan.memory);
        let filler = Filler::new((plan.requests / 4 * 3).max(1), FillRate(plan.fill_rate));
        let host = Host {
            memory,
            counts,
            deadline: plan.deadline,
            ahead: plan.ahead,
            filler,
            near: true,
            gate: Arc::new(Gate::new(1)),
        };
        Self { limits, host, cache, zone }
    }

    fn device(&self, service: &Arc<Service>, who: Who) -> Device {
        let entries = Arc::<Entries>::default();
        let store = Store { service: Arc::clone(service), who };
        let next = Box::new(Origin::new(Arc::new(store), self.limits.clone()));
        let last = Last { next, service: Arc::clone(service), who, entries: Arc::clone(&entries) };
        let counts = || Arc::clone(&self.host.counts);
        let mut tier: Box<dyn Tier> = Box::new(last);
        if let Some(zone) = &self.zone {
            tier = Box::new(ZoneTier::new(tier, Arc::clone(zone), counts()));
        }
        if let Some(cache) = &self.cache {
            tier = Box::new(CachedTier::new(tier, Arc::clone(cache), counts()));
        }
        let tier = Box::new(First { next: tier, service: Arc::clone(service), entries });
        let device = ChunkDevice::new(service.image.manifest.clone(), tier, self.host.clone(), Vec::new());
        Device { who, device }
    }
}

impl World {
    fn new(plan: Plan) -> Self {
        let service = Service::new(thread().fork_random(), plan.sharing(), plan.bounds(), plan.remembers_all());
        let network = plan.zone.as_ref().map(|zone| {
            let has_stragglers = plan.faults.zone;
            let network = Network::new(&zone.names(), thread().fork_random(), has_stragglers);
            thread().set_environment(Arc::clone(&network) as _);
            network
        });
        let disks: Vec<Disk> = plan.disk.iter().flat_map(|_| (0..plan.hosts).map(|_| Disk::new())).collect();
        let (mut devices, mut processes) = (Vec::new(), Vec::new());
        for host in 0..plan.hosts {
            for process in 0..plan.processes {
                let shared = Process::new(&plan, disks.get(host));
                let device = |device| Arc::new(shared.device(&service, Who { host, process, device }));
                devices.extend((0..plan.devices).map(device));
                processes.push(shared);
            }
        }
        Self { plan, service, devices, readers: Arc::default(), processes, disks, network }
    }

    fn live(self, open: &AtomicUsize) {
        let others = Arc::<Group>::default();
        let world = Arc::new(self);
        let in_calm = world.plan.faults == Faulty::NOTHING;
        for (number, device) in world.devices.iter().enumerate() {
            let mut random = thread().fork_random();
            if random.one_in(2) {
                let planned: Vec<ChunkIndex> = (0..random.below(12)).map(|_| any_chunk(&mut random)).collect();
                device.device.ahead().plan(planned);
            }
            for _ in 0..world.plan.readers {
                let (world, random) = (Arc::clone(&world), thread().fork_random());
                let readers = Arc::clone(&world.readers);
                readers.spawn("reader", move || Reader { world, number, random, in_calm }.run());
            }
        }
        if world.plan.fills {
            world.devices.iter().for_each(|device| device.device.fill());
        }
        let spoilers: [(bool, &str, Spoiler); 4] = [
            (world.plan.faults.store, "weather", World::change_weather),
            (world.plan.faults.machine, "machine", World::disturb_machine),
            (world.plan.faults.disk && world.plan.disk.is_some(), "disk", World::disturb_disks),
            (world.plan.faults.zone && world.plan.zone.is_some(), "network", World::disturb_network),
        ];
        for (_, name, spoil) in spoilers.into_iter().filter(|(is_wanted, ..)| *is_wanted) {
            let world = Arc::clone(&world);
            others.spawn(name, move || spoil(&world));
        }
        world.readers.wait();
        others.wait();
        world.recover();
        world.finish();
        let under_way = world.processes.iter().map(|process| process.host.counts.in_flight.get()).sum::<u64>();
        open.store(usize::try_from(under_way).unwrap(), Ordering::Relaxed);
    }

    /// Has the store fail in one way after the other, while anybody reads.
    fn change_weather(&self) {
        let mut random = thread().fork_random();
        while self.readers.are_running() {
            self.service.set_weather(Weather::ALL[random.below(Weather::ALL.len())]);
            sleep(random.time(MS * 10, MS * 20_000));
        }
        self.service.set_weather(Weather::Calm);
    }

    /// Has threads stall, or not start.
    fn disturb_machine(&self) {
        let mut random = thread().fork_random();
        while self.readers.are_running() {
            let (spawn, stall) = ([0, 0, 20][random.below(3)], [0, 500, 3000][random.below(3)]);
            thread().change_faults(|faults| *faults = Faults { spawn, stall, ..*faults });
            sleep(random.time(MS * 10, MS * 20_000));
        }
        thread().change_faults(|faults| *faults = Faults { spawn: 0, stall: 0, ..*faults });
    }

    /// Spoils the disk caches, and has operations on files fail.
    fn disturb_disks(&self) {
        let mut random = thread().fork_random();
        while self.readers.are_running() {
            let files = [0, 0, 5, 100][random.below(4)];
            thread().change_faults(|faults| *faults = Faults { files, ..*faults });
            if self.disks[random.below(self.disks.len())].disturb(&mut random, self.plan.deletes_locks) {
                self.service.fault();
            }
            sleep(random.time(MS, MS * 3000));
        }
        thread().change_faults(|faults| *faults = Faults { files: 0, ..*faults });
    }

    /// Has the zone's servers fail in one way after the other.
    fn disturb_network(&self) {
        let (mut random, network) = (thread().fork_random(), self.network.as_ref().expect("there is a zone"));
        while self.readers.are_running() {
            network.disturb();
            sleep(random.time(MS, MS * 3000));
        }
        network.calm();
    }

    /// After the faults, all must be readable again.
    fn recover(self: &Arc<Self>) {
        sleep(LONGEST_HANG + LONGEST_HOLD + self.plan.deadline + MS * 10_000);
        for number in 0..self.devices.len() {
            let mut reader = Reader { world: Arc::clone(self), number, random: thread().fork_random(), in_calm: true };
            for chunk in 0..CHUNKS {
                reader.read(ChunkIndex(chunk).byte_offset(), PATTERN);
            }
        }
    }

    /// What must be so at the end.
    fn finish(&self) {
        for process in &self.processes {
            let counts = &process.host.counts;
            let (requests, hedges) = (counts.requests.get(), counts.hedges.get());
            if hedges > requests / 20 + 1 {
                thread().fail(format!("{hedges} hedged requests of {requests}"));
            }
            thread().note(requests);
        }
        self.processes.iter().filter_map(|process| process.zone.as_ref()).for_each(|zone| zone.finish());
        if let (Some(most), false) = (self.plan.disk, self.plan.faults.disk) {
            let bytes = self.disks.iter().map(Disk::bytes).max().unwrap_or(0);
            if bytes > most {
                thread().fail(format!("a disk cache has {bytes} bytes of {most}"));
            }
        }
        // Requests that were given up.
        sleep(LONGEST_HANG);
    }
}

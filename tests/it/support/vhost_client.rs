//! A client of vhost-user-blk: the messages of the `vhost` crate's front end, and rings written here, so that they can be wrong.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestRegionMmap, MmapRegion};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

pub const IN: u32 = 0;
pub const OUT: u32 = 1;
pub const GET_ID: u32 = 8;

/// Entries of a ring, and places for requests under way on it.
pub const RING: u16 = 128;
const RING_ROOM: u64 = 64 << 10;
const AVAILABLE: u64 = 16 << 10;
const USED: u64 = 32 << 10;
/// A request's room: its table of buffers, then header, status and data.
const PLACE: u64 = 1 << 20;
const HEADER: u64 = 4000;
const STATUS: u64 = 4095;
const DATA: u64 = 4096;
/// Longest data of a request.
pub const LONGEST: u64 = PLACE - DATA;

pub const NEXT: u16 = 1;
pub const WRITABLE: u16 = 2;
pub const INDIRECT: u16 = 4;
pub const EVENT_IDX: u64 = 1 << 29;
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// One entry of a table: address, length, flags, next.
pub type Entry = (u64, u32, u16, u16);

pub struct Guest {
    pub frontend: Frontend,
    pub memory: GuestMemoryMmap,
    pub rings: Vec<Ring>,
    /// What the device offers.
    pub features: u64,
    event_idx: bool,
}

pub struct Ring {
    at: u64,
    kick: EventFd,
    call: EventFd,
    told: Epoll,
    available: u16,
    used: u16,
}

fn shared_memory(bytes: u64) -> GuestMemoryMmap {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, bytes).unwrap();
    let length = usize::try_from(bytes).unwrap();
    let region = MmapRegion::from_file(FileOffset::new(file, 0), length).unwrap();
    GuestMemoryMmap::from_regions(vec![GuestRegionMmap::new(region, GuestAddress(0)).unwrap()]).unwrap()
}

impl Guest {
    /// Connects with `rings` rings; `refuse` are features that it does without.
    pub fn connect(socket: &Path, rings: u16, refuse: u64) -> Self {
        let mut frontend = Frontend::connect(socket, 64).unwrap();
        frontend.set_owner().unwrap();
        let features = frontend.get_features().unwrap();
        frontend.set_features(features & !refuse).unwrap();
        let protocol = frontend.get_protocol_features().unwrap();
        let wanted = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG;
        frontend.set_protocol_features(protocol & wanted).unwrap();
        assert!(frontend.get_queue_num().unwrap() >= rings.into());
        let places = u64::from(rings) * u64::from(RING);
        let memory = shared_memory(u64::from(rings) * RING_ROOM + places * PLACE);
        let mut guest =
            Self { frontend, memory, rings: Vec::new(), features, event_idx: features & !refuse & EVENT_IDX != 0 };
        guest.share_memory();
        for number in 0..rings {
            guest.start(number.into());
        }
        guest
    }

    pub fn share_memory(&self) {
        let regions: Vec<_> =
            self.memory.iter().map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap()).collect();
        self.frontend.set_mem_table(&regions).unwrap();
    }

    fn start(&mut self, number: usize) {
        let at = number as u64 * RING_ROOM;
        // Addresses are those of this process.
        let base = self.memory.iter().next().unwrap().as_ptr() as u64 + at;
        let (kick, call) = (EventFd::new(EFD_NONBLOCK).unwrap(), EventFd::new(EFD_NONBLOCK).unwrap());
        self.frontend.set_vring_num(number, RING).unwrap();
        let ring = VringConfigData {
            queue_max_size: RING,
            queue_size: RING,
            flags: 0,
            desc_table_addr: base,
            avail_ring_addr: base + AVAILABLE,
            used_ring_addr: base + USED,
            log_addr: None,
        };
        self.frontend.set_vring_addr(number, &ring).unwrap();
        self.frontend.set_vring_base(number, 0).unwrap();
        self.frontend.set_vring_call(number, &call).unwrap();
        self.frontend.set_vring_kick(number, &kick).unwrap();
        if self.features & PROTOCOL_FEATURES != 0 {
            self.frontend.set_vring_enable(number, true).unwrap();
        }
        let told = Epoll::new().unwrap();
        told.ctl(ControlOperation::Add, call.as_raw_fd(), EpollEvent::new(EventSet::IN, 0)).unwrap();
        self.rings.push(Ring { at, kick, call, told, available: 0, used: 0 });
    }

    pub fn config(&mut self, offset: u32, length: u32) -> Vec<u8> {
        let room = vec![0; length as usize];
        self.frontend.get_config(offset, length, VhostUserConfigFlags::empty(), &room).unwrap().1
    }

    /// The device's size in bytes.
    pub fn size(&mut self) -> u64 {
        u64::from_le_bytes(self.config(0, 8).try_into().unwrap()) * 512
    }

    /// Where ring `number` has entry `entry` of its table.
    pub fn entry(&self, number: usize, entry: u16) -> u64 {
        self.rings[number].at + 16 * u64::from(entry)
    }

    /// Says that `count` more entries of the ring are the device's, whatever stands there.
    pub fn claim(&mut self, number: usize, count: u16) {
        let ring = &mut self.rings[number];
        ring.available = ring.available.wrapping_add(count);
        self.memory.store(ring.available.to_le(), GuestAddress(ring.at + AVAILABLE + 2), Ordering::SeqCst).unwrap();
        ring.kick.write(1).unwrap();
    }

    /// Whether the other side hangs up.
    pub fn is_hung_up_on(&self) -> bool {
        (0..1000).any(|_| {
            std::thread::sleep(Duration::from_millis(10));
            self.frontend.get_features().is_err()
        })
    }

    fn place(&self, ring: usize, place: u16) -> u64 {
        self.rings.len() as u64 * RING_ROOM + (ring as u64 * u64::from(RING) + u64::from(place)) * PLACE
    }

    pub fn data(&self, ring: usize, place: u16) -> u64 {
        self.place(ring, place) + DATA
    }

    /// Writes a table of buffers.
    pub fn table(&self, at: u64, entries: &[Entry]) {
        for (n, &(address, length, flags, next)) in entries.iter().enumerate() {
            let mut bytes = address.to_le_bytes().to_vec();
            bytes.extend_from_slice(&length.to_le_bytes());
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&next.to_le_bytes());
            self.memory.write_slice(&bytes, GuestAddress(at + 16 * n as u64)).unwrap();
        }
    }

    /// Asks for something in `place` of `ring`: header, the buffers of `data`, status, behind an entry of its own.
    pub fn ask(&mut self, ring: usize, place: u16, kind: u32, sector: u64, data: &[(u64, u32)]) {
        let at = self.place(ring, place);
        let header = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        self.memory.write_slice(&header, GuestAddress(at + HEADER)).unwrap();
        self.memory.write_slice(&[0xEE], GuestAddress(at + STATUS)).unwrap();
        let writes = if kind == IN || kind == GET_ID { WRITABLE } else { 0 };
        let mut buffers = vec![(at + HEADER, 16, 0)];
        buffers.extend(data.iter().map(|&(address, length)| (address, length, writes)));
        buffers.push((at + STATUS, 1, WRITABLE));
        let last = buffers.len() - 1;
        let entries: Vec<Entry> = buffers
            .iter()
            .enumerate()
            .map(|(n, &(address, length, flags))| {
                (address, length, if n == last { flags } else { flags | NEXT }, u16::try_from(n + 1).unwrap())
            })
            .collect();
        self.table(at, &entries);
        let length = u32::try_from(16 * entries.len()).unwrap();
        self.table(self.entry(ring, place), &[(at, length, INDIRECT, 0)]);
        self.offer(ring, place);
    }

    /// Reads `length` bytes into the place's data, as one buffer.
    pub fn read(&mut self, ring: usize, place: u16, sector: u64, length: u32) {
        let data = self.data(ring, place);
        self.ask(ring, place, IN, sector, &[(data, length)]);
    }

    /// Makes the chain that begins at entry `head` the device's, and kicks where the device wants it.
    pub fn offer(&mut self, number: usize, head: u16) {
        let ring = &mut self.rings[number];
        let at = ring.at + AVAILABLE + 4 + 2 * u64::from(ring.available % RING);
        self.memory.write_slice(&head.to_le_bytes(), GuestAddress(at)).unwrap();
        let before = ring.available;
        ring.available = before.wrapping_add(1);
        let index = GuestAddress(ring.at + AVAILABLE + 2);
        self.memory.store(ring.available.to_le(), index, Ordering::SeqCst).unwrap();
        std::sync::atomic::fence(Ordering::SeqCst);
        let wanted = GuestAddress(ring.at + USED + 4 + 8 * u64::from(RING));
        let wanted: u16 = self.memory.load(wanted, Ordering::SeqCst).unwrap();
        if !self.event_idx || wanted == before {
            ring.kick.write(1).unwrap();
        }
    }

    /// The places that were answered since, at least one, each with its status.
    pub fn answers(&mut self, number: usize) -> Vec<(u16, u8)> {
        let mut answers = Vec::new();
        loop {
            answers.extend(std::iter::from_fn(|| self.next_answer(number)));
            if !answers.is_empty() {
                return answers;
            }
            let ring = &mut self.rings[number];
            let mut events = [EpollEvent::default()];
            assert_eq!(ring.told.wait(30_000, &mut events).unwrap(), 1, "no answer");
            let _ = ring.call.read();
        }
    }

    /// The next answer, if it is there.
    pub fn next_answer(&mut self, number: usize) -> Option<(u16, u8)> {
        let ring = &mut self.rings[number];
        let index: u16 = self.memory.load(GuestAddress(ring.at + USED + 2), Ordering::SeqCst).unwrap();
        if index == ring.used {
            return None;
        }
        let mut entry = [0; 8];
        let at = ring.at + USED + 4 + 8 * u64::from(ring.used % RING);
        self.memory.read_slice(&mut entry, GuestAddress(at)).unwrap();
        ring.used = ring.used.wrapping_add(1);
        // Tell me of the next.
        let event = GuestAddress(ring.at + AVAILABLE + 4 + 2 * u64::from(RING));
        self.memory.store(ring.used.to_le(), event, Ordering::SeqCst).unwrap();
        let place = u16::from_le_bytes([entry[0], entry[1]]);
        let mut status = [0];
        self.memory.read_slice(&mut status, GuestAddress(self.place(number, place) + STATUS)).unwrap();
        Some((place, status[0]))
    }

    /// What was read into the place's data.
    pub fn bytes(&self, ring: usize, place: u16, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.memory.read_slice(&mut bytes, GuestAddress(self.data(ring, place))).unwrap();
        bytes
    }
}

//! `bare_disk FILE SOCKET`: a file, held in memory, as a vhost-user-blk disk with nothing around what the crates ask for; for measurements
//! beside `coldread serve --vhost-user-blk`.
//!
//! One ring, one thread, reads alone, each straight from memory into the guest's. One client, until it leaves.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for measurements")]

use std::io;
use std::sync::{Arc, Mutex};

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackend, VhostUserDaemon, VringMutex, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{Address, Bytes, GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

const INDIRECT_DESC: u64 = 1 << 28;
const EVENT_IDX: u64 = 1 << 29;
const VERSION_1: u64 = 1 << 32;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

struct Bare {
    data: Vec<u8>,
    memory: Mutex<Option<Memory>>,
}

impl Bare {
    /// Answers all that stands in the ring.
    fn sweep(&self, ring: &VringMutex) -> Option<()> {
        let memory = self.memory.lock().unwrap().clone()?;
        let chains: Vec<_> = ring.get_mut().get_queue_mut().iter(memory.memory()).ok()?.collect();
        let mut answered = false;
        for chain in chains {
            let guest = chain.memory();
            let buffers: Vec<_> = chain.clone().collect();
            let [header, data @ .., status] = &buffers[..] else { return None };
            let mut sector = [0; 8];
            guest.read_slice(&mut sector, header.addr().checked_add(8)?).ok()?;
            let mut at = usize::try_from(u64::from_le_bytes(sector)).ok()? * 512;
            let begins = at;
            for buffer in data {
                let length = buffer.len() as usize;
                guest.write_slice(&self.data[at..at + length], buffer.addr()).ok()?;
                at += length;
            }
            guest.write_obj(0u8, status.addr()).ok()?;
            ring.add_used(chain.head_index(), u32::try_from(at - begins).ok()? + 1).ok()?;
            answered = true;
        }
        if answered && ring.needs_notification().ok()? {
            ring.signal_used_queue().ok()?;
        }
        Some(())
    }
}

impl VhostUserBackend for Bare {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        1
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        VERSION_1 | EVENT_IDX | INDIRECT_DESC | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::CONFIG
    }

    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let mut space = [0; 64];
        space[..8].copy_from_slice(&(self.data.len() as u64 / 512).to_le_bytes());
        space[offset as usize..(offset + size) as usize].to_vec()
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        *self.memory.lock().unwrap() = Some(memory);
        Ok(())
    }

    fn handle_event(&self, _: u16, _: EventSet, rings: &[VringMutex], _: usize) -> io::Result<()> {
        let [ring] = rings else { return Ok(()) };
        let nonsense = || io::Error::from(io::ErrorKind::InvalidData);
        loop {
            ring.disable_notification().map_err(io::Error::other)?;
            self.sweep(ring).ok_or_else(nonsense)?;
            if !ring.enable_notification().map_err(io::Error::other)? {
                return Ok(());
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, socket] = &arguments[..] else { panic!("bare_disk FILE SOCKET") };
    let bare = Arc::new(Bare { data: std::fs::read(file).unwrap(), memory: Mutex::default() });
    let mut listener = Listener::new(socket, true).unwrap();
    println!("ready");
    let memory = Memory::new(GuestMemoryMmap::new());
    let mut daemon = VhostUserDaemon::new("bare".to_owned(), bare, memory).unwrap();
    daemon.start(&mut listener).unwrap();
    let _ = daemon.wait();
    // Its thread waits for its ring for ever.
    std::process::exit(0);
}

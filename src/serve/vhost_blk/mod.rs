//! A disk for virtual machines: virtio-blk over vhost-user, on a unix socket.
//!
//! One [`Session`] is one client (a virtual machine's monitor, which hands over the guest's memory and rings). Threads of the rings
//! answer what is in memory themselves, and hand what must be fetched to threads that wait, which answer in any order. Who breaks
//! the protocol, monitor or guest, ends its own session.

mod config;
pub mod request;
mod rings;

use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Arc, Mutex};

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost::vhost_user::{Backend, Error as ProtocolError, Listener};
use vhost_user_backend::{Error as DaemonError, VhostUserBackend, VhostUserDaemon, VringMutex};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::event::{EventConsumer, EventFlag, new_event_consumer_and_notifier};

use self::request::Disk;
use self::rings::{Miss, Shared, fetch};
use super::Watch;
use crate::fs::BlockDevice;

type Memory = GuestMemoryAtomic<GuestMemoryMmap>;

/// Rings of a disk: as many virtual processors have one of their own.
const QUEUES: u16 = 16;
/// Threads that serve them; each has every fourth.
const RING_THREADS: usize = 4;
const MAX_RING: usize = 1024;
/// Requests that wait for a thread.
const AHEAD: usize = 256;
/// The event that ends a thread of rings; numbers up to `QUEUES` are the rings' and the library's.
const END: u16 = QUEUES + 1;

/// One client.
pub struct Session {
    daemon: VhostUserDaemon<Arc<Door>>,
    shared: Arc<Shared>,
    /// What the rings' threads wait for besides requests.
    _wake: EventConsumer,
}

/// Returns when [`Session::accept`] has a client to take.
///
/// # Errors
/// Those of waiting.
pub fn wait_for_client(listener: &UnixListener) -> io::Result<()> {
    let epoll = Epoll::new()?;
    epoll.ctl(ControlOperation::Add, listener.as_raw_fd(), EpollEvent::new(EventSet::IN, 0))?;
    loop {
        match epoll.wait(-1, &mut [EpollEvent::default()]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            waited => return waited.map(drop),
        }
    }
}

/// Ends a session from outside.
pub struct Handle(Arc<Shared>);

impl Session {
    /// Takes the next client at `listener`, and serves it `device` with up to `threads` misses under way. In the guest the disk's serial
    /// number is what `name` begins with.
    ///
    /// # Errors
    /// Those of accepting, and of starting threads.
    pub fn accept(
        listener: &UnixListener,
        device: Arc<dyn BlockDevice>,
        name: &str,
        threads: usize,
        watch: Arc<dyn Watch>,
    ) -> io::Result<Self> {
        let memory = Memory::new(GuestMemoryMmap::new());
        let (wake, end) = new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?;
        let shared = Arc::new(Shared::new(Disk::new(device, name, watch), memory.clone(), end));
        let (send, receive) = sync_channel(AHEAD);
        let door = Arc::new(Door { shared: Arc::clone(&shared), misses: send, requests: Mutex::default() });
        let daemon = VhostUserDaemon::new("vhost-user".to_owned(), door, memory).map_err(|error| unable(&error))?;
        for rings in daemon.get_epoll_handlers() {
            rings.register_listener(wake.as_raw_fd(), EventSet::IN, END.into())?;
        }
        let mut session = Self { daemon, shared, _wake: wake };
        session.daemon.start(&mut Listener::from(listener.try_clone()?)).map_err(|error| unable(&error))?;
        session.shared.connected(session.daemon.shutdown_handle());
        let receive = Arc::new(Mutex::new(receive));
        for started in 0..threads.max(1) {
            let (shared, receive) = (Arc::clone(&session.shared), Arc::clone(&receive));
            match std::thread::Builder::new().name("fetch".to_owned()).spawn(move || fetch(&shared, &receive)) {
                Ok(_) => {}
                // As at a limit on processes: those that there are do it.
                Err(_) if started > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(session)
    }

    /// What ends it from outside.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle(Arc::clone(&self.shared))
    }

    /// Returns when the client has left or was hung up on.
    ///
    /// # Errors
    /// `InvalidData` where client or guest broke the protocol.
    pub fn wait(mut self) -> io::Result<()> {
        let ended = self.daemon.wait();
        let broken = self.shared.broken();
        let broken = broken.map(|broken| format!("virtio protocol error of the guest: {broken}"));
        match (broken, ended) {
            (Some(broken), _) => Err(io::Error::new(io::ErrorKind::InvalidData, broken)),
            (
                None,
                Ok(()) | Err(DaemonError::HandleRequest(ProtocolError::Disconnected | ProtocolError::PartialMessage)),
            ) => Ok(()),
            (None, Err(error)) => {
                Err(io::Error::new(io::ErrorKind::InvalidData, format!("vhost-user protocol error: {error}")))
            }
        }
    }
}

fn unable(error: &DaemonError) -> io::Error {
    io::Error::other(error.to_string())
}

impl Drop for Session {
    fn drop(&mut self) {
        // Dropping the daemon waits for the rings' threads.
        self.shared.leave();
    }
}

impl Handle {
    /// No more requests: what the guest has asked is answered, then the client is hung up on.
    pub fn end(&self) {
        self.0.end();
    }
}

/// What the library calls for messages of the client and events of its rings.
struct Door {
    shared: Arc<Shared>,
    misses: SyncSender<Miss>,
    /// Where the client could be told of changes; open as long as the session, since some end when it closes.
    requests: Mutex<Option<Backend>>,
}

impl VhostUserBackend for Door {
    type Bitmap = ();
    type Vring = VringMutex;

    fn num_queues(&self) -> usize {
        QUEUES.into()
    }

    fn max_queue_size(&self) -> usize {
        MAX_RING
    }

    fn features(&self) -> u64 {
        config::features(&self.shared.disk)
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::BACKEND_REQ
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    /// The rings know it themselves.
    fn set_event_idx(&self, _enabled: bool) {}

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        config::space(&self.shared.disk, offset, size)
    }

    fn set_backend_req_fd(&self, backend: Backend) {
        *self.requests.lock().expect("no thread panics with it") = Some(backend);
    }

    /// Memory behind the end of its file would end the process when it is touched.
    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        for region in memory.memory().iter() {
            let file = region.file_offset().ok_or(io::ErrorKind::InvalidInput)?;
            let end = file.start().checked_add(region.len());
            if end.is_none_or(|end| file.file().metadata().is_ok_and(|metadata| metadata.len() < end)) {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "memory past the end of its file"));
            }
        }
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        let every: u64 = (0..QUEUES).step_by(RING_THREADS).map(|number| 1u64 << number).sum();
        (0..RING_THREADS).map(|thread| every << thread).collect()
    }

    fn stop_vring(&self, number: u32) -> io::Result<()> {
        usize::try_from(number).into_iter().for_each(|number| self.shared.rest(number));
        Ok(())
    }

    fn handle_event(&self, event: u16, _: EventSet, rings: &[VringMutex], thread: usize) -> io::Result<()> {
        if event != END {
            return self.shared.serve(thread, rings, &self.misses);
        }
        self.shared.serve_last(thread, rings, &self.misses)?;
        // An error is how a thread of rings ends; the library's own event for it would leak a descriptor each time.
        Err(io::ErrorKind::Interrupted.into())
    }
}

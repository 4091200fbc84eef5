//! The rings of one client: taking requests from them, and giving answers back.
//!
//! A request counts as under way from when it is taken, under the ring's lock, until the guest was told of its answer: a ring that takes no
//! more and has none under way is at rest.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use vhost_user_backend::{ShutdownHandle, VringMutex, VringT};
use virtio_queue::{DescriptorChain, Error as RingError, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryLoadGuard, GuestMemoryMmap};
use vmm_sys_util::event::EventNotifier;

use super::request::{Answer, Broken, Disk, Reach};
use super::{MAX_RING, Memory, QUEUES, RING_THREADS};

type Chain = DescriptorChain<GuestMemoryLoadGuard<GuestMemoryMmap>>;

/// A request that needs what is not at hand.
pub(super) struct Miss {
    number: usize,
    ring: VringMutex,
    chain: Chain,
}

/// What all threads of a session see.
pub(super) struct Shared {
    pub(super) disk: Disk,
    memory: Memory,
    /// Wakes the rings' threads for the last time.
    end: EventNotifier,
    under_way: [AtomicU32; QUEUES as usize],
    /// Room for the reads of each of the rings' threads.
    rooms: [Mutex<Vec<u8>>; RING_THREADS],
    ending: AtomicBool,
    /// Nobody waits for answers any more.
    gone: AtomicBool,
    /// Threads of rings that have ended in order.
    ended: AtomicUsize,
    broken: Mutex<Option<String>>,
    connection: OnceLock<ShutdownHandle>,
}

impl From<RingError> for Broken {
    fn from(_: RingError) -> Self {
        Self("invalid ring addresses")
    }
}

impl Shared {
    pub(super) fn new(disk: Disk, memory: Memory, end: EventNotifier) -> Self {
        Self {
            disk,
            memory,
            end,
            under_way: Default::default(),
            rooms: Default::default(),
            ending: AtomicBool::new(false),
            gone: AtomicBool::new(false),
            ended: AtomicUsize::new(0),
            broken: Mutex::default(),
            connection: OnceLock::new(),
        }
    }

    /// What hangs up on the client, once there is one.
    pub(super) fn connected(&self, connection: Option<ShutdownHandle>) {
        let _ = connection.map(|connection| self.connection.set(connection));
        if self.is_gone() {
            self.hang_up();
        }
    }

    /// What the guest did, where that ended the session.
    pub(super) fn broken(&self) -> Option<String> {
        self.broken.lock().expect("no thread panics with it").clone()
    }

    /// Takes what stands in the rings, answers it, and hangs up.
    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::SeqCst);
        // The counter of an event is never full here.
        let _ = self.end.notify();
    }

    /// The client has left: what it asked is for nobody.
    pub(super) fn leave(&self) {
        self.gone.store(true, Ordering::SeqCst);
        self.end();
    }

    pub(super) fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// Ends the session because of what the guest did.
    pub(super) fn fail(&self, broken: &Broken) {
        self.broken.lock().expect("no thread panics with it").get_or_insert_with(|| broken.to_string());
        self.gone.store(true, Ordering::SeqCst);
        self.hang_up();
    }

    fn hang_up(&self) {
        if let Some(connection) = self.connection.get() {
            connection.shutdown();
        }
    }

    /// Returns once ring `number`, which takes no more requests, is at rest.
    pub(super) fn rest(&self, number: usize) {
        while self.under_way[number].load(Ordering::SeqCst) > 0 && !self.is_gone() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// What thread `thread` does when one of its rings has requests: all of them have their turn until none has any.
    pub(super) fn serve(&self, thread: usize, rings: &[VringMutex], misses: &SyncSender<Miss>) -> io::Result<()> {
        let mut room = self.rooms[thread].lock().expect("no thread panics with it");
        let mut more = true;
        while more && !self.is_gone() && !self.ending.load(Ordering::SeqCst) {
            more = self.turn(thread, rings, misses, &mut room)?;
        }
        Ok(())
    }

    /// The same once, for the last time; the last of the threads waits until all is answered, and hangs up.
    pub(super) fn serve_last(&self, thread: usize, rings: &[VringMutex], misses: &SyncSender<Miss>) -> io::Result<()> {
        if !self.is_gone() {
            let mut room = self.rooms[thread].lock().expect("no thread panics with it");
            self.turn(thread, rings, misses, &mut room)?;
        }
        if self.ended.fetch_add(1, Ordering::SeqCst) + 1 == RING_THREADS {
            (0..self.under_way.len()).for_each(|number| self.rest(number));
            self.hang_up();
        }
        Ok(())
    }

    fn turn(
        &self,
        thread: usize,
        rings: &[VringMutex],
        misses: &SyncSender<Miss>,
        room: &mut Vec<u8>,
    ) -> io::Result<bool> {
        let mut more = false;
        for (at, ring) in rings.iter().enumerate() {
            let swept = self.sweep(thread + at * RING_THREADS, ring, misses, room);
            more |= swept.map_err(|broken| {
                self.fail(&broken);
                io::Error::new(io::ErrorKind::InvalidData, broken)
            })?;
        }
        Ok(more)
    }

    /// Takes up to a ringful of requests; whether there are more.
    fn sweep(
        &self,
        number: usize,
        ring: &VringMutex,
        misses: &SyncSender<Miss>,
        room: &mut Vec<u8>,
    ) -> Result<bool, Broken> {
        if !takes(ring) {
            return Ok(false);
        }
        ring.disable_notification()?;
        let mut answered = 0;
        for _ in 0..MAX_RING {
            let Some(chain) = self.take(number, ring)? else { break };
            match self.disk.answer(&chain, Reach::Hand, room)? {
                Answer::Given(written) => {
                    ring.add_used(chain.head_index(), written)?;
                    answered += 1;
                }
                // Those that fetch are there as long as this.
                Answer::Later => misses
                    .send(Miss { number, ring: ring.clone(), chain })
                    .map_err(|_| Broken("a request after the end of the session"))?,
            }
        }
        if answered > 0 {
            self.told(number, ring, answered)?;
        }
        Ok(ring.enable_notification()?)
    }

    fn take(&self, number: usize, ring: &VringMutex) -> Result<Option<Chain>, Broken> {
        let mut ring = ring.get_mut();
        let memory = self.memory.memory();
        // It may have been stopped since it was looked at.
        if !ring.is_enabled() || !ring.get_queue().ready() {
            return Ok(None);
        }
        let queue = ring.get_queue_mut();
        if queue.avail_idx(&*memory, Ordering::Acquire)?.0 == queue.next_avail() {
            return Ok(None);
        }
        // An entry that cannot be read would stay the next for ever.
        let chain = queue.iter(memory)?.next().ok_or(Broken("a ring outside the guest's memory"))?;
        self.under_way[number].fetch_add(1, Ordering::SeqCst);
        Ok(Some(chain))
    }

    fn finish(&self, miss: &Miss, room: &mut Vec<u8>) -> Result<(), Broken> {
        let Answer::Given(written) = self.disk.answer(&miss.chain, Reach::Anywhere, room)? else {
            return Err(Broken("a request without a reply"));
        };
        miss.ring.add_used(miss.chain.head_index(), written)?;
        self.told(miss.number, &miss.ring, 1)
    }

    /// Tells the guest of answers in its ring, where it wants to be told.
    fn told(&self, number: usize, ring: &VringMutex, answers: u32) -> Result<(), Broken> {
        if ring.needs_notification()? {
            ring.signal_used_queue().map_err(|_| Broken("the guest cannot be notified"))?;
        }
        self.under_way[number].fetch_sub(answers, Ordering::SeqCst);
        Ok(())
    }
}

fn takes(ring: &VringMutex) -> bool {
    let ring = ring.get_ref();
    ring.is_enabled() && ring.get_queue().ready()
}

/// Answers what has to be fetched, until no more comes; once the client has left, it is only taken.
pub(super) fn fetch(shared: &Shared, misses: &Mutex<Receiver<Miss>>) {
    let mut room = Vec::new();
    loop {
        let miss = misses.lock().expect("no thread panics with it").recv();
        let Ok(miss) = miss else { return };
        if !shared.is_gone()
            && let Err(broken) = shared.finish(&miss, &mut room)
        {
            shared.fail(&broken);
        }
    }
}

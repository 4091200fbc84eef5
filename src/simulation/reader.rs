//! Readers of the simulated devices: each read is compared with the known bytes, measured, and a failure must have its cause.

use std::sync::Arc;
use std::time::Duration;

use super::image::{CHUNKS, PATTERN, any_chunk};
use super::store::LONGEST_HANG;
use super::world::{World, thread};
use crate::fs::BlockDevice;
use crate::sync::scheduler::Random;
use crate::sync::sleep;
use crate::{CHUNK_SIZE, ChunkIndex, ErrorKind};

const MS: Duration = Duration::from_millis(1);
/// A read may end so much after its deadline, besides what its threads were stalled.
const SLACK: Duration = Duration::from_millis(30);
/// A read takes no longer where nothing goes wrong.
const LONGEST_IN_CALM: Duration = Duration::from_millis(2500);

/// Reads from one device and checks what it gets.
pub(super) struct Reader {
    pub(super) world: Arc<World>,
    /// Which device.
    pub(super) number: usize,
    pub(super) random: Random,
    /// Whether nothing goes wrong any more.
    pub(super) in_calm: bool,
}

impl Reader {
    /// Reads at random, and in sequence.
    pub(super) fn run(mut self) {
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
    pub(super) fn read(&mut self, offset: u64, length: usize) {
        let device = &self.world.devices[self.number];
        let mut bytes = vec![0xAA; length];
        let (begun, stalled) = (thread().time(), thread().stalled());
        let read = if self.random.one_in(8) && device.device.read_at_hand(offset, &mut bytes) {
            Ok(())
        } else {
            device.device.read_at(offset, &mut bytes)
        };
        let took = thread().time() - begun;
        let most = if self.in_calm { LONGEST_IN_CALM } else { self.world.plan.deadline };
        let most = most + SLACK + thread().stalled() - stalled;
        let who = device.who;
        if took > most {
            thread().fail(format!(
                "{who:?}: a read took {took:?}, its deadline is {:?} (in calm: {})",
                self.world.plan.deadline, self.in_calm
            ));
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
                // Each chunk of a read may be held up by the disk cache and the zone, for half of the time that is left.
                let fault = service.last_fault().max(thread().last_failure());
                let is_long = offset / size < (offset + length as u64 - 1) / size;
                let delayed = is_long && (plan.faults.disk || plan.faults.zone);
                delayed || fault.is_some_and(|at| at >= since(plan.deadline + LONGEST_HANG))
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

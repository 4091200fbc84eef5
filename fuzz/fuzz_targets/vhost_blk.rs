//! What a guest lays into its memory: a ring of 16 entries and all that it points to, answered by a device of 1 MiB, half of it at hand.
//!
//! The first byte says whether the device can be written to; the others are the memory from its start on.
#![no_main]

use std::sync::Arc;

use coldpress::fs::{BlockDevice, WritableDevice};
use coldpress::serve::Watch;
use coldpress::serve::vhost_blk::request::{Answer, Disk, Reach};
use coldpress::{Error, ErrorKind};
use libfuzzer_sys::fuzz_target;
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

const SIZE: u64 = 1 << 20;
const MEMORY: usize = 64 << 10;
const RING: u16 = 16;
const AVAILABLE: u64 = 0x400;
const USED: u64 = 0x800;

struct Half {
    writable: bool,
}

fn inside(offset: u64, length: u64) {
    assert!(offset.checked_add(length).is_some_and(|end| end <= SIZE), "nobody goes past the end");
}

impl BlockDevice for Half {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        inside(offset, buf.len() as u64);
        buf.fill(7);
        // One place is damaged.
        if offset / 4096 == 200 { Err(Error::new(ErrorKind::Corrupt, "damaged")) } else { Ok(()) }
    }

    fn read_at_hand(&self, offset: u64, buf: &mut [u8]) -> bool {
        inside(offset, buf.len() as u64);
        offset < SIZE / 2
    }

    fn writable(&self) -> Option<&dyn WritableDevice> {
        self.writable.then_some(self)
    }
}

impl WritableDevice for Half {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        inside(offset, bytes.len() as u64);
        if offset / 4096 == 200 { Err(Error::new(ErrorKind::Full, "full")) } else { Ok(()) }
    }

    fn discard(&self, offset: u64, length: u64) -> Result<(), Error> {
        inside(offset, length);
        Ok(())
    }
}

struct Nobody;

impl Watch for Nobody {
    fn failed(&self, _: &Error) {}
}

fn ring() -> Queue {
    let mut ring = Queue::new(RING).unwrap();
    ring.set_desc_table_address(Some(0), Some(0));
    ring.try_set_avail_ring_address(GuestAddress(AVAILABLE)).unwrap();
    ring.try_set_used_ring_address(GuestAddress(USED)).unwrap();
    ring.set_ready(true);
    ring
}

fuzz_target!(|bytes: &[u8]| {
    let Some((first, bytes)) = bytes.split_first() else { return };
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY)]).unwrap();
    memory.write_slice(&bytes[..bytes.len().min(MEMORY)], GuestAddress(0)).unwrap();
    let disk = Disk::new(Arc::new(Half { writable: first & 1 == 1 }), "fuzz", Arc::new(Nobody));
    let (mut ring, mut room) = (ring(), Vec::new());
    for _ in 0..RING {
        let Ok(mut chains) = ring.iter(&memory) else { return };
        let Some(chain) = chains.next() else { return };
        let answer = match disk.answer(&chain, Reach::Hand, &mut room) {
            Ok(Answer::Later) => disk.answer(&chain, Reach::Anywhere, &mut room),
            answer => answer,
        };
        assert_ne!(answer.as_ref().ok(), Some(&Answer::Later), "what is fetched is there");
        assert!(room.len() <= 1 << 20, "{} bytes for one request", room.len());
        if let Ok(Answer::Given(written)) = answer {
            let _ = ring.add_used(&memory, chain.head_index(), written);
        }
    }
});

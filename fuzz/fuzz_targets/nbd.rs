//! What an NBD client sends: a handshake and requests, to a device of 1 MiB of which half is at hand, read-only or written to.
#![no_main]

use std::sync::Arc;

use coldpress::Error;
use coldpress::fs::BlockDevice;
use coldpress::read::CowDevice;
use coldpress::serve::Watch;
use coldpress::serve::buffers::Buffers;
use coldpress::serve::nbd::{self, Exports, Service};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 1 << 20;

struct Half;

impl BlockDevice for Half {
    fn size(&self) -> u64 {
        SIZE
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), Error> {
        assert!(offset + buf.len() as u64 <= SIZE, "nobody reads past the end");
        buf.fill(7);
        Ok(())
    }

    fn read_at_hand(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.read_at(offset, buf).is_ok() && offset < SIZE / 2
    }
}

struct Nobody;

impl Watch for Nobody {
    fn failed(&self, error: &Error) {
        panic!("{error}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut exports = Exports::default();
    exports.add("a", Arc::new(Half));
    exports.add("b", Arc::new(CowDevice::in_memory(Arc::new(Half), SIZE / 4)));
    let mut said = Vec::new();
    let buffers = Buffers::new(0);
    let service = Service { exports: &exports, buffers: &buffers, threads: 1, watch: &Nobody };
    let _ = nbd::serve(bytes, &mut said, &|| {}, &service);
    // Reads of up to 1 MiB each answer what was asked, and no more.
    assert!(said.len() as u64 <= 4096 + (bytes.len() as u64 / 16 + 1) * (SIZE + 1024), "{} bytes", said.len());
});

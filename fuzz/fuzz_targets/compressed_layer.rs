//! A layer's blob in any compression (gzip, zstd, xz, bzip2), read to its end within a bound on its uncompressed bytes.
#![no_main]

use std::io::{Read, Write};

use coldpress::source::{Blob, LayerSource};
use libfuzzer_sys::fuzz_target;

/// Most uncompressed bytes.
const LIMIT: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::NamedTempFile::new_in("/dev/shm").expect("memory");
    file.write_all(bytes).expect("memory");
    let blob = Blob::open(file.path()).expect("it was just written");
    let layer = LayerSource { blob, digest: None, size: None, diff_id: None };
    let Ok(mut reader) = layer.read(LIMIT) else { return };
    let mut total = 0;
    let mut buf = [0; 65_536];
    while let Ok(n @ 1..) = reader.read(&mut buf) {
        total += n as u64;
        assert!(total <= LIMIT, "{total} bytes");
    }
});

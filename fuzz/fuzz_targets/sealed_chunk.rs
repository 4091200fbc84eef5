//! A stored chunk, and the packed form inside it, which the cipher would keep a fuzzer from.
#![no_main]

use coldpress::CHUNK_SIZE;
use coldpress::crypto::packed::unpack;
use coldpress::crypto::{ChunkKey, Codec, convergent};
use coldpress::digest::Sha256;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut chunk = vec![0; CHUNK_SIZE as usize];
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(4096), 0);
    for codec in [Codec::None, Codec::Zstd { level: 1 }] {
        let _ = unpack(codec, bytes, &mut chunk);
        let _ = unpack(codec, &padded, &mut chunk);
        let mut stored = bytes.to_vec();
        let opened = convergent::open(codec, Sha256::of(bytes), &ChunkKey::from_bytes([7; 32]), &mut stored, &mut chunk);
        assert!(opened.is_err(), "nobody seals under this key");
    }
});

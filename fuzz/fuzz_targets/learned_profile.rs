//! The decrypted entries of a learned profile, and what a cache directory or a cache server gives for a part.
#![no_main]

use coldpress::crypto::ChunkKey;
use coldpress::crypto::profile_seal::ProfileSeal;
use coldpress::read::learned;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(chunks) = learned::decode(bytes) {
        assert_eq!(chunks.len() * 13, bytes.len());
    }
    assert!(ProfileSeal::of(&ChunkKey::from_bytes([7; 32])).open(b"cplearn\x01", bytes).is_none());
});

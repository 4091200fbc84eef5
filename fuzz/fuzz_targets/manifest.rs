//! A block manifest: the file, and the plaintext of its sealed part, which a key would keep a fuzzer from.
#![no_main]

use coldpress::crypto::{Secret, WrappingKey};
use coldpress::digest::Sha256;
use coldpress::manifest::{BlockManifest, Sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(manifest) = BlockManifest::decode(bytes) {
        let _ = manifest.open(&WrappingKey::new(Secret::from_bytes([0x42; 32])));
    }
    let names = [Sha256::from_bytes([1; 32]), Sha256::from_bytes([2; 32])];
    for count in 0..=names.len() {
        let _ = Sealed::decode(bytes, &names[..count]);
    }
});

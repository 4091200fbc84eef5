//! A block manifest: the file, and the plaintext of its sealed part, which a key would keep a fuzzer from.
#![no_main]

use coldpress::crypto::Secret;
use coldpress::keys::WrappingKey;
use coldpress::digest::Sha256;
use coldpress::manifest::{BlockManifest, Sealed};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let end = BlockManifest::clear_end(bytes).ok().and_then(|end| bytes.get(..usize::try_from(end).ok()?));
    let clear = end.and_then(|start| BlockManifest::decode_clear(start).ok());
    if let Ok(manifest) = BlockManifest::decode(bytes) {
        assert_eq!(clear.as_ref(), Some(&manifest.clear), "the clear part alone is the same");
        let _ = manifest.open(&WrappingKey::new(Secret::from_bytes([0x42; 32])));
    }
    let names = [Sha256::from_bytes([1; 32]), Sha256::from_bytes([2; 32])];
    for count in 0..=names.len() {
        let _ = Sealed::decode(bytes, &names[..count]);
    }
});

//! What a cache server gives for a shard. The tag's key is known here, so that what has a true tag is looked at as well.
#![no_main]

use coldpress::crypto::ChunkKey;
use coldpress::crypto::shard_seal::ShardSeal;
use coldpress::zone::stripe::{Code, Coder};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (coder, seal) = (Coder::new(Code::default()), ShardSeal::of(&ChunkKey::from_bytes([7; 32])));
    // As it is, and with the tag that it should have.
    assert!(coder.check(&seal, bytes.len().saturating_sub(28) * 4, bytes.to_vec()).is_none());
    let Some(body) = bytes.len().checked_sub(16).filter(|body| *body >= 12) else { return };
    let nonce: [u8; 12] = bytes[body - 12..body].try_into().expect("12 bytes");
    let stored = [&bytes[..body], &seal.tag(nonce, &bytes[..body])[..]].concat();
    for spare in 0..4 {
        let length = ((body - 12) * 4).saturating_sub(spare);
        if let Some(shard) = coder.check(&seal, length, stored.clone()) {
            assert!(shard.index() < 6);
            assert!(coder.join(length, vec![shard]).is_none(), "one does not do");
        }
    }
});

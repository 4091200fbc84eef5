//! The authentication tag of a shard in the zone cache, and the id under which its chunk's shards are stored there
//! (docs/reference/formats/zone-shard.md).
//!
//! Both are derived from the chunk's key, so a cache server cannot learn which chunk it stores, and cannot forge a shard. A nonce
//! belongs to one shard of one coding, whose bytes are determined by the chunk's key, so no nonce ever authenticates two strings.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::convergent::{ChunkKey, TAG, mac};
use super::secret::Secret;

const ID_LABEL: &[u8] = b"coldpress zone id v1\n";
const TAG_LABEL: &[u8] = b"coldpress zone shard v1\n";

/// The id of a chunk in the zone cache.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ZoneId([u8; 16]);

impl ZoneId {
    /// Wraps the 16 bytes of an id.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(bytes)
    }

    /// Returns the 16 bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Debug for ZoneId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::digest::to_hex(&self.0))
    }
}

/// The id and the authentication key of one chunk's shards.
pub struct ShardSeal {
    id: ZoneId,
    key: LessSafeKey,
}

impl ShardSeal {
    /// Derives both from the chunk's key.
    #[must_use]
    pub fn of(key: &ChunkKey) -> Self {
        let secret = Secret::from_bytes(*key.expose());
        let mut id = [0; 16];
        id.copy_from_slice(&mac(&secret, ID_LABEL)[..16]);
        let tag_key = Secret::from_bytes(mac(&secret, TAG_LABEL));
        let unbound = UnboundKey::new(&AES_256_GCM, tag_key.expose()).expect("32 bytes are an AES-256 key");
        Self { id: ZoneId(id), key: LessSafeKey::new(unbound) }
    }

    /// Returns the id under which the shards are stored.
    #[must_use]
    pub fn id(&self) -> ZoneId {
        self.id
    }

    /// Returns the tag of `shard`; `nonce` identifies the shard and its coding.
    #[must_use]
    pub fn tag(&self, nonce: [u8; NONCE_LEN], shard: &[u8]) -> [u8; TAG] {
        let sealed =
            self.key.seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), Aad::from(shard), &mut []);
        let mut tag = [0; TAG];
        tag.copy_from_slice(sealed.expect("a shard is far below GCM's longest text").as_ref());
        tag
    }

    /// Returns whether `shard` is authentic under `tag`; `nonce` identifies the shard and its coding.
    #[must_use]
    pub fn is_true(&self, nonce: [u8; NONCE_LEN], shard: &[u8], mut tag: [u8; TAG]) -> bool {
        self.key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(shard), &mut tag).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use aes_gcm::aead::{Aead, KeyInit, Payload};
    use hmac::Mac;

    use super::*;

    fn second_opinion(key: &[u8; 32], label: &[u8]) -> [u8; 32] {
        let mut mac = <hmac::Hmac<sha2::Sha256> as hmac::KeyInit>::new_from_slice(key).unwrap();
        mac.update(label);
        mac.finalize().into_bytes().into()
    }

    #[test]
    fn other_libraries_make_the_same_id_and_tag() {
        let seal = ShardSeal::of(&ChunkKey::from_bytes([7; 32]));
        assert_eq!(seal.id().as_bytes()[..], second_opinion(&[7; 32], ID_LABEL)[..16]);
        let key = second_opinion(&[7; 32], TAG_LABEL);
        let payload = Payload { msg: b"", aad: b"a shard" };
        let want = aes_gcm::Aes256Gcm::new(&key.into()).encrypt(&[3; 12].into(), payload).unwrap();
        assert_eq!(seal.tag([3; 12], b"a shard")[..], want[..]);
    }

    #[test]
    fn a_tag_is_of_one_shard_one_nonce_and_one_chunk() {
        let seal = ShardSeal::of(&ChunkKey::from_bytes([7; 32]));
        let tag = seal.tag([3; 12], b"a shard");
        assert!(seal.is_true([3; 12], b"a shard", tag));
        assert!(!seal.is_true([4; 12], b"a shard", tag));
        assert!(!seal.is_true([3; 12], b"a shart", tag));
        assert!(!ShardSeal::of(&ChunkKey::from_bytes([8; 32])).is_true([3; 12], b"a shard", tag));
        assert!(!seal.is_true([3; 12], b"a shard", [0; TAG]));
    }
}

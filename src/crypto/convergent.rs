//! Convergent encryption of a chunk (docs/reference/formats/sealed-chunk.md).
//!
//! The key is derived from the salt and exactly the bytes that it encrypts, so it encrypts one byte string only, and the nonce can
//! be zero. The name of a sealed chunk is the SHA-256 of its stored bytes: a GCM tag is not a hash, and with a chunk's key anyone
//! can make another ciphertext of the same tag.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::hmac;

use super::packed::{Codec, MAX_PACKED, unpack};
use super::secret::Secret;
use crate::digest::{Sha256, to_hex};

/// The label in the derivation of the convergent key. A change changes every stored byte.
const CHUNK_LABEL: &[u8] = b"coldpress chunk v1\n";
const SCOPE_LABEL: &[u8] = b"coldpress scope v1\n";
const NAMED_SCOPE_LABEL: &[u8] = b"coldpress named scope v1\n";
const PUTS_LABEL: &[u8] = b"coldpress known puts v1\n";
const CACHE_LABEL: &[u8] = b"coldpress cache v1\n";
const CONFIG_LABEL: &[u8] = b"coldpress config v1\n";
/// Length of a GCM tag, in bytes.
pub const TAG: usize = 16;
/// Maximum length of a sealed chunk, in bytes.
pub const MAX_SEALED: usize = MAX_PACKED + TAG;

/// The secret of a dedup scope: equal content gives equal chunks under one salt.
#[derive(Clone)]
pub struct Salt {
    secret: Secret,
    key: hmac::Key,
}

/// The id of a dedup scope, which does not reveal its salt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct ScopeId([u8; 16]);

/// The convergent key of one chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkKey(Secret);

impl Salt {
    /// Creates the salt with these secret bytes.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
        Self { secret, key }
    }

    /// Returns the secret bytes.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Derives the salt of the scope `name`, so that one secret serves several separate scopes.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self::new(self.mac(NAMED_SCOPE_LABEL, name.as_bytes()))
    }

    /// Returns the id of the scope of this salt.
    #[must_use]
    pub fn scope(&self) -> ScopeId {
        let mut id = [0; 16];
        id.copy_from_slice(&self.mac(SCOPE_LABEL, &[]).expose()[..16]);
        ScopeId(id)
    }

    /// Derives the convergent key of the packed chunk `packed`.
    #[must_use]
    pub fn chunk_key(&self, packed: &[u8]) -> ChunkKey {
        ChunkKey(self.mac(CHUNK_LABEL, packed))
    }

    /// Derives the key of the commitment to an image's config in the root digest. With a plain hash, anyone could test guesses of a
    /// weak secret in `env`.
    #[must_use]
    pub fn config_key(&self, config: &str) -> Secret {
        self.mac(CONFIG_LABEL, config.as_bytes())
    }

    /// Derives the key of the MACs in the upload journal of the store and root `place`.
    #[must_use]
    pub fn puts_key(&self, place: &str) -> Secret {
        self.mac(PUTS_LABEL, place.as_bytes())
    }

    /// Derives the key of the conversion cache's entries.
    #[must_use]
    pub fn cache_key(&self) -> Secret {
        self.mac(CACHE_LABEL, &[])
    }

    fn mac(&self, label: &[u8], bytes: &[u8]) -> Secret {
        let mut context = hmac::Context::with_key(&self.key);
        context.update(label);
        context.update(bytes);
        secret_of(context)
    }
}

fn secret_of(context: hmac::Context) -> Secret {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.sign().as_ref());
    Secret::from_bytes(bytes)
}

/// Returns the HMAC-SHA-256 of `bytes` under `key`.
#[must_use]
pub fn mac(key: &Secret, bytes: &[u8]) -> [u8; 32] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key.expose()));
    context.update(bytes);
    *secret_of(context).expose()
}

impl ScopeId {
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

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl ChunkKey {
    /// Copies the 32 bytes of an encoded key.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(Secret::from_bytes(bytes))
    }

    /// Returns the secret bytes, for an encoding.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// Returns AES-256-GCM under `key` with a nonce of zero, for a key that encrypts one byte string only.
pub(crate) fn single_use_key(key: &[u8; 32]) -> (LessSafeKey, Nonce) {
    let key = UnboundKey::new(&AES_256_GCM, key).expect("32 bytes are an AES-256 key");
    (LessSafeKey::new(key), Nonce::assume_unique_for_key([0; NONCE_LEN]))
}

/// Encrypts `packed` in place under its convergent key and appends the tag. Returns the key and the name, the SHA-256 of the
/// result.
#[must_use]
pub fn seal(salt: &Salt, packed: &mut Vec<u8>) -> (ChunkKey, Sha256) {
    let key = salt.chunk_key(packed);
    let (aead, nonce) = single_use_key(key.expose());
    aead.seal_in_place_append_tag(nonce, Aad::empty(), packed).expect("a chunk is far below GCM's longest text");
    let name = Sha256::of(packed);
    (key, name)
}

/// The reason why stored bytes are not the chunk that a manifest names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// The SHA-256 of the stored bytes is this one, and not the chunk's name.
    #[error("the SHA-256 of the stored object is {0}")]
    Name(Sha256),
    /// The bytes cannot be decrypted under the key, or their plaintext is not a packed chunk.
    #[error("cannot be decrypted with the key that the manifest has for it")]
    Open,
}

/// Checks that the SHA-256 of `stored` is `name`, decrypts it in place, and unpacks it into `chunk`.
///
/// # Errors
/// [`OpenError`]; `chunk` then contains nothing of it.
pub fn open(codec: Codec, name: Sha256, key: &ChunkKey, stored: &mut [u8], chunk: &mut [u8]) -> Result<(), OpenError> {
    let found = Sha256::of(stored);
    if stored.len() > MAX_SEALED || found != name {
        return Err(OpenError::Name(found));
    }
    let (aead, nonce) = single_use_key(key.expose());
    let packed = aead.open_in_place(nonce, Aad::empty(), stored).map_err(|_| OpenError::Open)?;
    unpack(codec, packed, chunk).map_err(|_| {
        chunk.fill(0);
        OpenError::Open
    })
}

#[cfg(test)]
mod tests {
    use super::super::packed::Packer;
    use super::*;
    use ::hmac::Mac;
    use aes_gcm::aead::{Aead, KeyInit};
    use sha2::Digest;

    const CHUNK: usize = crate::CHUNK_SIZE as usize;

    fn salt() -> Salt {
        Salt::new(Secret::from_bytes([9; 32]))
    }

    fn sealed(bytes: &[u8]) -> (ChunkKey, Sha256, Vec<u8>) {
        let mut packed = bytes.to_vec();
        Packer::new(Codec::None).pack(&mut packed);
        let (key, name) = seal(&salt(), &mut packed);
        (key, name, packed)
    }

    /// The formulas of docs/reference/formats/sealed-chunk.md, by other libraries.
    #[test]
    fn a_second_opinion_gives_the_same_bytes() {
        let (key, name, stored) = sealed(b"some content");
        let mut packed = b"some content".to_vec();
        packed.resize(4096, 0);
        let mut mac = <::hmac::Hmac<sha2::Sha256> as ::hmac::KeyInit>::new_from_slice(&[9; 32]).unwrap();
        mac.update(b"coldpress chunk v1\n");
        mac.update(&packed);
        let want_key: [u8; 32] = mac.finalize().into_bytes().into();
        assert_eq!(key.expose(), &want_key);
        let want = aes_gcm::Aes256Gcm::new(&want_key.into()).encrypt(&[0; 12].into(), &packed[..]).unwrap();
        assert_eq!(stored, want);
        assert_eq!(name.as_bytes(), &<[u8; 32]>::from(sha2::Sha256::digest(&want)));
    }

    #[test]
    fn what_is_sealed_opens_and_what_is_altered_does_not() {
        let (key, name, stored) = sealed(b"some content");
        let mut chunk = vec![0xEE; CHUNK];
        open(Codec::None, name, &key, &mut stored.clone(), &mut chunk).unwrap();
        assert_eq!(&chunk[..12], b"some content");
        assert!(chunk[12..].iter().all(|&byte| byte == 0));
        for at in [0, 2000, stored.len() - 1] {
            let mut bad = stored.clone();
            bad[at] ^= 1;
            assert_eq!(
                open(Codec::None, name, &key, &mut bad.clone(), &mut chunk),
                Err(OpenError::Name(Sha256::of(&bad)))
            );
            assert_eq!(open(Codec::None, Sha256::of(&bad), &key, &mut bad, &mut chunk), Err(OpenError::Open));
        }
        let other = ChunkKey::from_bytes([1; 32]);
        assert_eq!(open(Codec::None, name, &other, &mut stored.clone(), &mut chunk), Err(OpenError::Open));
    }

    /// A chunk that does not compress is longer as a zstd frame than as it is.
    #[test]
    fn the_longest_sealed_chunk_opens_and_what_is_longer_does_not() {
        let mut noise = Vec::new();
        (0..u32::try_from(CHUNK / 32).unwrap()).for_each(|n| noise.extend(Sha256::of(&n.to_le_bytes()).as_bytes()));
        let mut made = noise.clone();
        let mut packer = Packer::new(Codec::DEFAULT);
        let stored = packer.pack(&mut made);
        let (key, name) = seal(&salt(), stored);
        assert_eq!(stored.len(), MAX_SEALED);
        let mut chunk = vec![0; CHUNK];
        open(Codec::DEFAULT, name, &key, stored, &mut chunk).unwrap();
        assert!(chunk == noise);
        let mut longer = vec![0; MAX_SEALED + 1];
        let found = Sha256::of(&longer);
        assert_eq!(open(Codec::DEFAULT, found, &key, &mut longer, &mut chunk), Err(OpenError::Name(found)));
    }

    #[test]
    fn a_scope_is_shown_by_its_bytes_and_a_key_not_at_all() {
        let scope = ScopeId::from_bytes([0xA5; 16]);
        assert_eq!(format!("{scope} {scope:?}"), format!("{0} {0}", "a5".repeat(16)));
        assert_eq!(format!("{:?}", ChunkKey::from_bytes([0xA5; 32])), "ChunkKey(Secret(..))");
    }

    /// If the key were made of the uncompressed chunk, two codec versions would seal two strings under one key and nonce.
    #[test]
    fn a_key_seals_one_byte_string_only() {
        let mut keys = std::collections::BTreeSet::new();
        for codec in [Codec::None, Codec::Zstd { level: 1 }, Codec::Zstd { level: 19 }] {
            let mut text: Vec<u8> = (0..200_000u32).flat_map(|n| (n.wrapping_mul(n) % 1000).to_le_bytes()).collect();
            let mut packer = Packer::new(codec);
            assert!(keys.insert(*salt().chunk_key(packer.pack(&mut text)).expose()), "{codec}");
        }
    }

    #[test]
    fn the_salt_makes_the_scope() {
        let other = Salt::new(Secret::from_bytes([8; 32]));
        assert_ne!(salt().scope(), other.scope());
        assert_ne!(salt().chunk_key(b"x"), other.chunk_key(b"x"));
    }

    /// Multiplication in GF(2^128) as GCM has it (NIST SP 800-38D, 6.3): to forge, not to protect.
    fn gf_mul(x: u128, y: u128) -> u128 {
        let (mut z, mut v) = (0, y);
        for bit in (0..128).rev() {
            if x >> bit & 1 == 1 {
                z ^= v;
            }
            v = if v & 1 == 1 { v >> 1 ^ (0xE1 << 120) } else { v >> 1 };
        }
        z
    }

    /// Whoever knows a chunk's key can make another ciphertext with the same tag, which GCM opens; the name refuses it.
    #[test]
    fn a_forged_tag_collision_is_refused_by_the_name() {
        let (key, name, stored) = sealed(b"the honest content");
        let block = aes_gcm::aes::Aes256::new(key.expose().into());
        let mut zero = aes_gcm::aes::Block::default();
        aes_gcm::aes::cipher::BlockCipherEncrypt::encrypt_block(&block, &mut zero);
        let h = u128::from_be_bytes(zero.into());
        // GHASH is linear: adding d to a block and d·H to the next one leaves the sum as it was.
        let mut forged = stored.clone();
        let difference = 0x0123_4567_89AB_CDEF_u128;
        let add =
            |bytes: &mut [u8], value: u128| bytes.iter_mut().zip(value.to_be_bytes()).for_each(|(byte, v)| *byte ^= v);
        add(&mut forged[..16], difference);
        add(&mut forged[16..32], gf_mul(difference, h));
        assert_eq!(forged[forged.len() - TAG..], stored[stored.len() - TAG..]);

        let (aead, nonce) = single_use_key(key.expose());
        assert!(aead.open_in_place(nonce, Aad::empty(), &mut forged.clone()).is_ok(), "GCM takes the forgery");
        let mut chunk = vec![0; CHUNK];
        let found = Sha256::of(&forged);
        assert_eq!(open(Codec::None, name, &key, &mut forged, &mut chunk), Err(OpenError::Name(found)));
    }
}

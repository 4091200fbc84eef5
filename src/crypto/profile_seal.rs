//! Encryption of learned startup profiles, and the ids under which they are stored (docs/reference/formats/learned-profile.md).
//!
//! Both are derived from the key of a chunk of the image, so a host that can read the image needs no further right, and a cache
//! server can neither read a profile nor tell which image it belongs to.

use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::convergent::{ChunkKey, TAG, mac};
use super::secret::Secret;
use crate::Result;
use crate::random::random_bytes;

const ID_LABEL: &[u8] = b"coldpress learned profile id v1\n";
const KEY_LABEL: &[u8] = b"coldpress learned profile key v1\n";

/// The id of a learned profile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ProfileId([u8; 16]);

impl ProfileId {
    /// Returns the 16 bytes of the id.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }
}

impl fmt::Display for ProfileId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::digest::to_hex(&self.0))
    }
}

/// The id and the encryption key of one learned profile.
pub struct ProfileSeal {
    id: ProfileId,
    key: LessSafeKey,
}

impl ProfileSeal {
    /// Derives both from the key of a chunk.
    #[must_use]
    pub fn of(key: &ChunkKey) -> Self {
        let secret = Secret::from_bytes(*key.expose());
        let mut id = [0; 16];
        id.copy_from_slice(&mac(&secret, ID_LABEL)[..16]);
        let key = Secret::from_bytes(mac(&secret, KEY_LABEL));
        let unbound = UnboundKey::new(&AES_256_GCM, key.expose()).expect("32 bytes are an AES-256 key");
        Self { id: ProfileId(id), key: LessSafeKey::new(unbound) }
    }

    /// Returns the id under which the profile is stored.
    #[must_use]
    pub fn id(&self) -> ProfileId {
        self.id
    }

    /// Encrypts `profile` under a random nonce: the nonce, the ciphertext, the tag. `associated` is authenticated with it.
    ///
    /// # Errors
    /// `Internal` where the operating system gives no random bytes.
    pub fn seal(&self, associated: &[u8], profile: &[u8]) -> Result<Vec<u8>> {
        Ok(self.seal_with(random_bytes()?, associated, profile))
    }

    fn seal_with(&self, nonce: [u8; NONCE_LEN], associated: &[u8], profile: &[u8]) -> Vec<u8> {
        let mut text = profile.to_vec();
        let sealed = Nonce::assume_unique_for_key(nonce);
        self.key
            .seal_in_place_append_tag(sealed, Aad::from(associated), &mut text)
            .expect("a profile is far below GCM's longest text");
        [&nonce[..], &text].concat()
    }

    /// Decrypts what [`ProfileSeal::seal`] returned. Returns `None` unless it is authentic.
    #[must_use]
    pub fn open(&self, associated: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (nonce, text) = sealed.split_first_chunk::<NONCE_LEN>()?;
        let mut text = text.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let length = self.key.open_in_place(nonce, Aad::from(associated), &mut text).ok()?.len();
        text.truncate(length);
        Some(text)
    }
}

/// Length of what sealing adds, in bytes.
pub const OVERHEAD: usize = NONCE_LEN + TAG;

#[cfg(test)]
mod tests {
    use aes_gcm::aead::{Aead, KeyInit, Payload};
    use hmac::Mac;

    use super::*;

    fn second_opinion(label: &[u8]) -> [u8; 32] {
        let mut mac = <hmac::Hmac<sha2::Sha256> as hmac::KeyInit>::new_from_slice(&[7; 32]).unwrap();
        mac.update(label);
        mac.finalize().into_bytes().into()
    }

    #[test]
    fn other_libraries_make_the_same_id_and_ciphertext() {
        let seal = ProfileSeal::of(&ChunkKey::from_bytes([7; 32]));
        assert_eq!(seal.id().as_bytes()[..], second_opinion(ID_LABEL)[..16]);
        let payload = Payload { msg: b"a profile", aad: b"head" };
        let cipher = aes_gcm::Aes256Gcm::new(&second_opinion(KEY_LABEL).into());
        let want = cipher.encrypt(&[3; 12].into(), payload).unwrap();
        assert_eq!(seal.seal_with([3; 12], b"head", b"a profile"), [&[3; 12][..], &want].concat());
    }

    #[test]
    fn an_altered_profile_and_that_of_another_image_do_not_open() {
        let seal = ProfileSeal::of(&ChunkKey::from_bytes([7; 32]));
        let sealed = seal.seal(b"head", b"a profile").unwrap();
        assert_eq!(sealed.len(), b"a profile".len() + OVERHEAD);
        assert_eq!(seal.open(b"head", &sealed).unwrap(), b"a profile");
        assert_ne!(seal.seal(b"head", b"a profile").unwrap(), sealed, "each has a nonce of its own");
        assert!(seal.open(b"other", &sealed).is_none());
        assert!(ProfileSeal::of(&ChunkKey::from_bytes([8; 32])).open(b"head", &sealed).is_none());
        for at in [0, 12, sealed.len() - 1] {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(seal.open(b"head", &altered).is_none(), "byte {at}");
        }
        for length in 0..OVERHEAD {
            assert!(seal.open(b"head", &sealed[..length]).is_none(), "{length} bytes");
        }
    }
}

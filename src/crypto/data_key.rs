//! The data key of a block manifest: it encrypts exactly one pair of a clear and a sealed part, so its nonce is zero.

use aws_lc_rs::aead::Aad;

use super::convergent::single_use_key;
use super::secret::Secret;
use crate::Result;

/// A key that encrypts the sealed part of one block manifest.
#[derive(Debug)]
pub struct DataKey(pub(crate) Secret);

/// A data key, a sealed part or a block that cannot be decrypted; the error has no detail on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("cannot be decrypted")]
pub struct UnwrapError;

impl DataKey {
    /// Generates a fresh data key.
    ///
    /// # Errors
    /// `Internal` where the operating system gives no random bytes.
    pub fn random() -> Result<Self> {
        Secret::random().map(Self)
    }

    /// Encrypts `sealed` in place with `clear` as associated data, and appends the tag. Consumes the key, which encrypts once.
    pub fn seal(self, clear: &[u8], sealed: &mut Vec<u8>) {
        let (aead, nonce) = single_use_key(self.0.expose());
        aead.seal_in_place_append_tag(nonce, Aad::from(clear), sealed)
            .expect("a manifest is far below GCM's longest text");
    }

    /// Decrypts in place what [`DataKey::seal`] encrypted, and returns the plaintext.
    ///
    /// # Errors
    /// [`UnwrapError`].
    pub fn open<'a>(&self, clear: &[u8], sealed: &'a mut [u8]) -> Result<&'a [u8], UnwrapError> {
        let (aead, nonce) = single_use_key(self.0.expose());
        aead.open_in_place(nonce, Aad::from(clear), sealed).map(|plain| &*plain).map_err(|_| UnwrapError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_part_is_bound_to_the_clear_part() {
        let key = || DataKey(Secret::from_bytes([4; 32]));
        let mut sealed = b"secret".to_vec();
        key().seal(b"clear", &mut sealed);
        assert_eq!(key().open(b"clear", &mut sealed.clone()).unwrap(), b"secret");
        assert!(key().open(b"Clear", &mut sealed).is_err());
    }
}

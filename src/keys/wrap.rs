//! Envelope encryption of a block manifest: a fresh data key encrypts the manifest, and a wrapping key wraps the data key.
//!
//! One data key encrypts exactly one (clear, sealed) pair, so its nonce is zero. A wrapping key is used for long, so its nonces are
//! random; it may wrap 2^32 data keys (NIST SP 800-38D, 8.3).

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use crate::crypto::Secret;
use crate::crypto::convergent::{Salt, TAG, mac};
use crate::crypto::data_key::{DataKey, UnwrapError};
use crate::digest::{Sha256, to_hex};
use crate::random::random_bytes;
use crate::{Error, ErrorKind, Result};

const CONTEXT_LABEL: &[u8] = b"coldpress wrap v1\n";
const KEY_ID_LABEL: &[u8] = b"coldpress wrapping key id v1\n";

/// The kind of a wrap by the wrapping key of a key file.
pub const WRAP_FILE: u8 = 1;
/// The kind of a wrap by a key of AWS KMS.
pub const WRAP_AWS_KMS: u8 = 2;
/// The kind of a wrap by age, for one or more recipients. Every build knows it; builds with the feature `age` can unwrap it.
pub const WRAP_AGE: u8 = 3;

/// A data key, wrapped by one wrapping key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrap {
    /// One of [`WRAP_FILE`], [`WRAP_AWS_KMS`] and [`WRAP_AGE`], or a kind of a later version.
    pub kind: u8,
    /// Identifies the wrapping key among those of its kind.
    pub key_id: Vec<u8>,
    /// The wrapped data key.
    pub blob: Vec<u8>,
}

/// Wraps and unwraps data keys: a key file, a key of a key service, or a set of recipients.
pub trait KeyWrap: Send + Sync {
    /// Checks before the work begins that wrapping is allowed. Only a key service can refuse.
    ///
    /// # Errors
    /// `Denied`, `NotFound` or `Unavailable`, naming the key.
    fn check(&self, _application: &str) -> Result<()> {
        Ok(())
    }

    /// Generates a data key. Returns it, and the same wrapped for `context`.
    ///
    /// # Errors
    /// `Denied`, `NotFound` or `Unavailable`, naming the key; `Internal` where there are no random bytes.
    fn new_data_key(&self, context: &EncryptionContext) -> Result<(DataKey, Wrap)> {
        let data_key = DataKey::random()?;
        let wrap = self.wrap(&data_key, context)?;
        Ok((data_key, wrap))
    }

    /// Wraps `data_key` for `context`.
    ///
    /// # Errors
    /// As [`KeyWrap::new_data_key`].
    fn wrap(&self, data_key: &DataKey, context: &EncryptionContext) -> Result<Wrap>;

    /// Unwraps the data key from that one of `wraps` that is for this key and `context`.
    ///
    /// # Errors
    /// `Denied` where none is for this key, or a service refuses; `Corrupt` where the wrap was altered; `Unavailable`.
    fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey>;

    /// Returns whether anyone can wrap for this key, so that only a pinned root digest shows the origin of a manifest.
    fn is_public(&self) -> bool {
        false
    }

    /// Returns the salt that is stored with the key, in a converter's key file.
    fn salt(&self) -> Option<&Salt> {
        None
    }
}

/// The encryption context of a wrap: it can be unwrapped for this root digest and application only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionContext {
    /// The root digest of the block manifest.
    pub root_digest: Sha256,
    /// A stable name on which key policies can be written; may be empty.
    pub application: String,
}

/// A key that wraps data keys, stored in a key file.
#[derive(Debug, Clone)]
pub struct WrappingKey(Secret);

impl EncryptionContext {
    pub(super) fn encode(&self) -> Vec<u8> {
        let length = u16::try_from(self.application.len()).expect("the manifest bounds the application's name");
        [CONTEXT_LABEL, self.root_digest.as_bytes(), &length.to_le_bytes(), self.application.as_bytes()].concat()
    }
}

impl WrappingKey {
    /// Length of a wrapped data key, in bytes: nonce, key, tag.
    pub const WRAPPED: usize = NONCE_LEN + 32 + TAG;

    /// Creates the key with these secret bytes.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Returns the secret bytes.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// Returns an id that distinguishes the key from others and reveals nothing of its bytes.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&mac(&self.0, KEY_ID_LABEL)[..16]);
        id
    }

    /// Returns the id as hexadecimal digits.
    #[must_use]
    pub fn id_text(&self) -> String {
        to_hex(&self.id())
    }

    fn aead(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, self.0.expose()).expect("32 bytes are an AES-256 key"))
    }

    fn enclose(&self, data_key: &DataKey, context: &EncryptionContext) -> Result<Vec<u8>> {
        let nonce: [u8; NONCE_LEN] = random_bytes()?;
        let mut key = data_key.0.clone();
        let sealed = self.aead().seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(context.encode()),
            key.expose_mut(),
        );
        let tag = sealed.expect("a key is far below GCM's longest text");
        Ok([&nonce[..], key.expose(), tag.as_ref()].concat())
    }

    fn disclose(&self, wrapped: &[u8], context: &EncryptionContext) -> Result<DataKey, UnwrapError> {
        let (nonce, sealed) =
            wrapped.split_at_checked(NONCE_LEN).filter(|_| wrapped.len() == Self::WRAPPED).ok_or(UnwrapError)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| UnwrapError)?;
        let mut sealed = zeroize::Zeroizing::new(sealed.to_vec());
        let key =
            self.aead().open_in_place(nonce, Aad::from(context.encode()), &mut sealed).map_err(|_| UnwrapError)?;
        Secret::from_slice(key).map(DataKey).ok_or(UnwrapError)
    }
}

impl KeyWrap for WrappingKey {
    fn wrap(&self, data_key: &DataKey, context: &EncryptionContext) -> Result<Wrap> {
        Ok(Wrap { kind: WRAP_FILE, key_id: self.id().to_vec(), blob: self.enclose(data_key, context)? })
    }

    fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey> {
        let id = self.id();
        let Some(wrap) = wraps.iter().find(|wrap| wrap.kind == WRAP_FILE && wrap.key_id == id) else {
            let message = format!("the manifest is not for the wrapping key {}, but for another", self.id_text());
            return Err(Error::new(ErrorKind::Denied, message));
        };
        self.disclose(&wrap.blob, context).map_err(|UnwrapError| altered())
    }
}

/// Returns the error for a manifest that cannot be decrypted with its own key; it has no detail on purpose.
#[must_use]
pub fn altered() -> Error {
    Error::new(ErrorKind::Corrupt, "the manifest cannot be decrypted: it was modified after it was written")
        .with_hint("get the manifest again from where it was published")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(application: &str) -> EncryptionContext {
        EncryptionContext { root_digest: Sha256::of(b"root"), application: application.to_owned() }
    }

    #[test]
    fn a_wrap_opens_for_its_key_and_context_alone() {
        let (key, data_key) = (WrappingKey::new(Secret::from_bytes([3; 32])), DataKey(Secret::from_bytes([4; 32])));
        let wrapped = key.enclose(&data_key, &context("shop")).unwrap();
        assert_eq!(wrapped.len(), WrappingKey::WRAPPED);
        assert_eq!(key.disclose(&wrapped, &context("shop")).unwrap().0, data_key.0);
        assert!(key.disclose(&wrapped, &context("other")).is_err());
        assert!(WrappingKey::new(Secret::from_bytes([5; 32])).disclose(&wrapped, &context("shop")).is_err());
        assert!(key.disclose(&wrapped[1..], &context("shop")).is_err());
        assert_ne!(wrapped, key.enclose(&data_key, &context("shop")).unwrap(), "nonces are random");
    }

    /// The formula of docs/reference/formats/block-manifest.md, by another library.
    #[test]
    fn a_second_opinion_gives_the_same_key_id() {
        let key = WrappingKey::new(Secret::from_bytes([3; 32]));
        let mut mac = <::hmac::Hmac<sha2::Sha256> as ::hmac::KeyInit>::new_from_slice(&[3; 32]).unwrap();
        ::hmac::Mac::update(&mut mac, b"coldpress wrapping key id v1\n");
        let wanted: [u8; 32] = ::hmac::Mac::finalize(mac).into_bytes().into();
        assert_eq!((key.id().as_slice(), key.id_text()), (&wanted[..16], to_hex(&wanted[..16])));
    }
}

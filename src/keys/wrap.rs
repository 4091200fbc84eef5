//! Envelope encryption of a block manifest: a fresh data key seals it, a wrapping key encloses the data key.
//!
//! One data key seals exactly one (clear, sealed) pair, so its nonce is zero. A wrapping key lives long, so its nonces are
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

/// The kinds of wraps in a block manifest.
pub const WRAP_FILE: u8 = 1;
/// By a key of AWS KMS.
pub const WRAP_AWS_KMS: u8 = 2;
/// By age, for one or more recipients; known in every build, opened in those with the feature.
pub const WRAP_AGE: u8 = 3;

/// One data key, enclosed by one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wrap {
    /// One of the kinds above.
    pub kind: u8,
    /// Tells the enclosing key from others of its kind.
    pub key_id: Vec<u8>,
    /// The enclosed data key.
    pub blob: Vec<u8>,
}

/// Encloses data keys: a key file, a key of a key service, a set of recipients.
pub trait KeyWrap: Send + Sync {
    /// Whether it would enclose a data key, asked before work begins; services alone can refuse.
    ///
    /// # Errors
    /// `Denied`, `NotFound` or `Unavailable`, naming the key.
    fn check(&self, _application: &str) -> Result<()> {
        Ok(())
    }

    /// A fresh data key, and the same enclosed for `context`.
    ///
    /// # Errors
    /// `Denied`, `NotFound` or `Unavailable`, naming the key; `Internal` where there are no random bytes.
    fn new_data_key(&self, context: &EncryptionContext) -> Result<(DataKey, Wrap)> {
        let data_key = DataKey::random()?;
        let wrap = self.wrap(&data_key, context)?;
        Ok((data_key, wrap))
    }

    /// Encloses `data_key` for `context`.
    ///
    /// # Errors
    /// As [`KeyWrap::new_data_key`].
    fn wrap(&self, data_key: &DataKey, context: &EncryptionContext) -> Result<Wrap>;

    /// The data key that one of `wraps` encloses for `context`.
    ///
    /// # Errors
    /// `Denied` where none is for this key, or a service refuses; `Corrupt` where one was altered; `Unavailable`.
    fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey>;

    /// Whether anyone can enclose for this key, so that only a known root digest says who made a manifest.
    fn is_public(&self) -> bool {
        false
    }

    /// The salt that lies beside it, in a converter's key file.
    fn salt(&self) -> Option<&Salt> {
        None
    }
}

/// What a wrap is bound to: it unwraps for this root digest and application alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncryptionContext {
    /// The block manifest's.
    pub root_digest: Sha256,
    /// A stable name on which key policies can be written; may be empty.
    pub application: String,
}

/// Encloses data keys; lives in a key file, and is not known outside.
#[derive(Debug, Clone)]
pub struct WrappingKey(Secret);

impl EncryptionContext {
    pub(super) fn encode(&self) -> Vec<u8> {
        let length = u16::try_from(self.application.len()).expect("the manifest bounds the application's name");
        [CONTEXT_LABEL, self.root_digest.as_bytes(), &length.to_le_bytes(), self.application.as_bytes()].concat()
    }
}

impl WrappingKey {
    /// Bytes of a wrapped data key: nonce, key, tag.
    pub const WRAPPED: usize = NONCE_LEN + 32 + TAG;

    /// From its secret bytes.
    #[must_use]
    pub fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Its secret bytes.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.0
    }

    /// Tells it from others; says nothing of its bytes.
    #[must_use]
    pub fn id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&mac(&self.0, KEY_ID_LABEL)[..16]);
        id
    }

    /// The id as text.
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

/// A manifest that cannot be decrypted with its own key; the reason is not given.
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

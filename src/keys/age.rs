//! Wrapping with age: data keys are wrapped for one or more recipients, and unwrapped with the identity of any of them
//! (<https://age-encryption.org/v1>).
//!
//! An age file has no associated data, so the encryption context is inside the plaintext, before the data key. Recipients are
//! public: anyone can make a manifest for them, so only a pinned root digest shows its origin ([`KeyWrap::is_public`]).

use std::io::{Read, Write};
use std::path::Path;

use age::secrecy::ExposeSecret;
use age::x25519::{Identity, Recipient};
use age::{Decryptor, Encryptor};
use zeroize::Zeroizing;

use super::wrap::{EncryptionContext, KeyWrap, WRAP_AGE, Wrap, altered};
use crate::crypto::{DataKey, Secret, SecretFile};
use crate::{Error, ErrorKind, Result};

/// Maximum length of the plaintext in a wrap, in bytes.
const LONGEST: usize = 64 * 1024;

/// The recipients to wrap for, and the identities to unwrap with.
pub struct AgeKey {
    recipients: Vec<Recipient>,
    identities: Vec<Identity>,
}

impl AgeKey {
    /// Parses recipients joined by commas, or reads a file with one recipient or identity on each line.
    ///
    /// # Errors
    /// Those of the file; `Input` where a line is neither, without its text.
    pub fn open(text: &str) -> Result<Self> {
        if text.starts_with("age1") {
            return Self::from_lines("age", text.split(','));
        }
        let path = Path::new(text);
        let fail = |error| Error::file(path, error);
        let file = std::fs::File::open(path).and_then(|file| SecretFile::read(&file)).map_err(fail)?;
        Self::from_lines(text, file.text().lines())
    }

    fn from_lines<'a>(object: &str, lines: impl Iterator<Item = &'a str>) -> Result<Self> {
        let mut key = Self { recipients: Vec::new(), identities: Vec::new() };
        for (number, line) in (1..).zip(lines).map(|(number, line)| (number, line.trim())) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Ok(recipient) = line.parse::<Recipient>() {
                key.recipients.push(recipient);
            } else if let Ok(identity) = line.parse::<Identity>() {
                key.recipients.push(identity.to_public());
                key.identities.push(identity);
            } else {
                let message = format!("{object}: line {number} is neither an age recipient (age1…) nor an identity");
                return Err(Error::new(ErrorKind::Input, message));
            }
        }
        if key.recipients.is_empty() {
            return Err(Error::new(ErrorKind::Input, format!("{object}: no age recipient and no identity")));
        }
        Ok(key)
    }

    /// Generates an identity. Returns its secret text and the text of its recipient.
    #[must_use]
    pub fn generate() -> (Zeroizing<String>, String) {
        let identity = Identity::generate();
        (Zeroizing::new(identity.to_string().expose_secret().to_owned()), identity.to_public().to_string())
    }
}

impl KeyWrap for AgeKey {
    fn wrap(&self, data_key: &DataKey, context: &EncryptionContext) -> Result<Wrap> {
        let recipients = self.recipients.iter().map(|recipient| -> &dyn age::Recipient { recipient });
        let encryptor = Encryptor::with_recipients(recipients).expect("there is a recipient");
        let mut blob = Vec::new();
        let written = encryptor.wrap_output(&mut blob).and_then(|mut out| {
            out.write_all(&context.encode())?;
            out.write_all(data_key.0.expose())?;
            out.finish().map(drop)
        });
        written.map_err(|error| Error::caused(ErrorKind::Internal, "age cannot encrypt", error))?;
        Ok(Wrap { kind: WRAP_AGE, key_id: Vec::new(), blob })
    }

    fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey> {
        if self.identities.is_empty() {
            let message = "age recipients only encrypt; to decrypt, give a file with an identity (AGE-SECRET-KEY-1…)";
            return Err(Error::new(ErrorKind::Denied, message));
        }
        let identities = || self.identities.iter().map(|identity| -> &dyn age::Identity { identity });
        for wrap in wraps.iter().filter(|wrap| wrap.kind == WRAP_AGE) {
            let decryptor = Decryptor::new(&wrap.blob[..]).map_err(|_| altered())?;
            // The buffer never grows, so no copy is left behind.
            let mut plain = Zeroizing::new(Vec::with_capacity(LONGEST + 64));
            match decryptor.decrypt(identities()) {
                Err(age::DecryptError::NoMatchingKeys) => continue,
                Err(_) => return Err(altered()),
                Ok(from) => from.take(LONGEST as u64).read_to_end(&mut plain).map_err(|_| altered())?,
            };
            let key = plain.strip_prefix(&context.encode()[..]).and_then(Secret::from_slice);
            return key.map(DataKey).ok_or_else(altered);
        }
        Err(Error::new(ErrorKind::Denied, "the manifest is for none of these age identities"))
    }

    fn is_public(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;

    #[test]
    fn each_of_several_opens_and_no_one_else() {
        let made: Vec<_> = (0..3).map(|_| AgeKey::generate()).collect();
        let directory = tempfile::tempdir().unwrap();
        let file = |number: usize| {
            let path = directory.path().join(number.to_string());
            std::fs::write(&path, format!("# comment\n{}\n", *made[number].0)).unwrap();
            AgeKey::open(path.to_str().unwrap()).unwrap()
        };
        let both = AgeKey::open(&format!("{},{}", made[0].1, made[1].1)).unwrap();
        let context = |name: &str| EncryptionContext { root_digest: Sha256::of(b"root"), application: name.to_owned() };
        let data_key = DataKey(Secret::from_bytes([4; 32]));
        let wrap = both.wrap(&data_key, &context("shop")).unwrap();
        for number in [0, 1] {
            let opened = file(number).unwrap(std::slice::from_ref(&wrap), &context("shop")).unwrap();
            assert_eq!(opened.0, data_key.0);
        }
        let kind = |key: &AgeKey, wrap: &Wrap, name| {
            key.unwrap(std::slice::from_ref(wrap), &context(name)).err().map(|error| error.kind())
        };
        assert_eq!(kind(&file(2), &wrap, "shop"), Some(ErrorKind::Denied));
        assert_eq!(kind(&both, &wrap, "shop"), Some(ErrorKind::Denied), "recipients do not open");
        assert_eq!(kind(&file(0), &wrap, "other"), Some(ErrorKind::Corrupt));
        let mut bad = wrap.clone();
        *bad.blob.last_mut().unwrap() ^= 1;
        assert_eq!(kind(&file(0), &bad, "shop"), Some(ErrorKind::Corrupt));
    }

    #[test]
    fn a_bad_line_is_refused_without_its_text() {
        let error = AgeKey::open("age1nothing").err().expect("refused");
        assert!(error.kind() == ErrorKind::Input && !error.to_string().contains("nothing"), "{error}");
    }
}

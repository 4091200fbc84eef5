//! Secret bytes and files: at an address that never changes, never printed, wiped on drop.
//!
//! A value that moves, and a buffer that grows, leave copies that nothing wipes. So a [`Secret`] is boxed and written in place, and
//! a [`SecretFile`] is read with read(2) into a buffer of its final length.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};

use zeroize::{Zeroize, Zeroizing};

use crate::Result;
use crate::digest::hex_into;
use crate::random::fill_random;

/// 256 secret bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Box<[u8; 32]>);

impl Secret {
    fn zeros() -> Self {
        Self(Box::new([0; 32]))
    }

    /// Returns a secret from the operating system's random source.
    ///
    /// # Errors
    /// `Internal` where it gives none.
    pub fn random() -> Result<Self> {
        let mut secret = Self::zeros();
        fill_random(&mut secret.0[..])?;
        Ok(secret)
    }

    /// Copies `bytes` into a secret and wipes them. Other copies of the caller remain: see [`Secret::from_slice`].
    #[must_use]
    pub fn from_bytes(mut bytes: [u8; 32]) -> Self {
        let mut secret = Self::zeros();
        secret.0.copy_from_slice(&bytes);
        bytes.zeroize();
        secret
    }

    /// Copies a secret from `bytes`; `None` unless there are 32.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut secret = Self::zeros();
        (bytes.len() == secret.0.len()).then(|| secret.0.copy_from_slice(bytes))?;
        Some(secret)
    }

    /// Decodes 64 hexadecimal digits of lower case; `None` for anything else.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        let mut secret = Self::zeros();
        hex_into(text, &mut secret.0[..])?;
        Some(secret)
    }

    /// Returns the bytes, for a cipher or an encoding.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    pub(crate) fn expose_mut(&mut self) -> &mut [u8; 32] {
        &mut self.0
    }
}

impl Drop for Secret {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The text of a file that contains secrets.
pub struct SecretFile {
    bytes: Zeroizing<Box<[u8]>>,
    length: usize,
}

impl SecretFile {
    /// Maximum length of a file, in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// Reads `file` to its end.
    ///
    /// # Errors
    /// Those of reading; `InvalidData` where it is longer than [`SecretFile::MAX_BYTES`] or not UTF-8.
    pub fn read(mut file: &File) -> io::Result<Self> {
        let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
        let mut bytes = Zeroizing::new(vec![0; Self::MAX_BYTES + 1].into_boxed_slice());
        let mut length = 0;
        loop {
            match file.read(&mut bytes[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if length > Self::MAX_BYTES {
            return Err(invalid(format!("longer than {} KiB", Self::MAX_BYTES / 1024)));
        }
        if std::str::from_utf8(&bytes[..length]).is_err() {
            return Err(invalid("not UTF-8 text".to_owned()));
        }
        Ok(Self { bytes, length })
    }

    /// Returns the text.
    #[must_use]
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).expect("checked when it was read")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_decoded_where_it_stays() {
        let text = "0123456789abcdef".repeat(4);
        let secret = Secret::from_hex(&text).unwrap();
        assert_eq!(crate::digest::to_hex(secret.expose()), text);
        assert_eq!(Secret::from_slice(secret.expose()).unwrap(), secret);
        for bad in ["", &text[1..], &text.to_uppercase(), &text.replace('0', "g")] {
            assert!(Secret::from_hex(bad).is_none(), "{bad}");
        }
        assert!(Secret::from_slice(&[0; 31]).is_none());
        let address = secret.expose().as_ptr();
        let moved = [secret];
        assert_eq!(moved[0].expose().as_ptr(), address);
    }

    #[test]
    fn a_secret_file_has_a_bound() {
        let directory = tempfile::tempdir().unwrap();
        let read = |bytes: &[u8]| {
            let path = directory.path().join("file");
            std::fs::write(&path, bytes).unwrap();
            SecretFile::read(&File::open(path).unwrap()).map(|file| file.text().to_owned())
        };
        assert_eq!(read(b"").unwrap(), "");
        assert_eq!(read(b"text\n").unwrap(), "text\n");
        assert_eq!(read(&[b'x'; SecretFile::MAX_BYTES]).unwrap().len(), SecretFile::MAX_BYTES);
        for bad in [&[b'x'; SecretFile::MAX_BYTES + 1][..], b"\xff"] {
            assert_eq!(read(bad).unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}

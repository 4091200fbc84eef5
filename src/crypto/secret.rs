//! 32 secret bytes that never print and are wiped when dropped.

use std::fmt;

use rustix::rand::{GetRandomFlags, getrandom};
use zeroize::Zeroize;

use crate::{Error, ErrorKind, Result};

/// Bytes of the kernel's random source (getrandom(2)); aws-lc would first spend 45 ms on one of its own.
///
/// # Errors
/// `Internal` where it gives none.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    // Up to 256 bytes come whole.
    match getrandom(&mut bytes[..], GetRandomFlags::empty()) {
        Ok(read) if read == N => Ok(bytes),
        _ => Err(Error::new(ErrorKind::Internal, "the operating system gives no random bytes")),
    }
}

/// 256 secret bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From the operating system's random source.
    ///
    /// # Errors
    /// `Internal` where it gives none.
    pub fn random() -> Result<Self> {
        random_bytes().map(Self)
    }

    /// From its bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its bytes, for a cipher or an encoding.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
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

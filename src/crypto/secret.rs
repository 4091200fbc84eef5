//! 32 secret bytes that never print and are wiped when dropped.

use std::fmt;

use aws_lc_rs::rand;
use zeroize::Zeroize;

use crate::{Error, ErrorKind, Result};

/// 256 secret bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret([u8; 32]);

impl Secret {
    /// From the operating system's random source.
    ///
    /// # Errors
    /// `Internal` where it gives none.
    pub fn random() -> Result<Self> {
        let mut bytes = [0; 32];
        rand::fill(&mut bytes)
            .map_err(|_| Error::new(ErrorKind::Internal, "the operating system gives no random bytes"))?;
        Ok(Self(bytes))
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

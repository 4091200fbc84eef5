//! Random bytes from the operating system.
//!
//! They come from getrandom(2): aws-lc would first spend 45 ms on a random source of its own. In a simulation of the read path
//! ([`crate::sync`]) the seed decides them.

use rustix::rand::{GetRandomFlags, getrandom};

use crate::{Error, ErrorKind, Result};

/// Returns `N` random bytes, at most 256.
///
/// # Errors
/// `Internal` where the operating system gives none.
pub(crate) fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    #[cfg(test)]
    if let Some(bytes) = crate::sync::random() {
        return Ok(bytes);
    }
    let mut bytes = [0; N];
    fill_random(&mut bytes)?;
    Ok(bytes)
}

/// Fills `bytes`, at most 256, with random bytes; a simulation does not decide these.
///
/// # Errors
/// `Internal` where the operating system gives none.
pub(crate) fn fill_random(bytes: &mut [u8]) -> Result<()> {
    let length = bytes.len();
    // Up to 256 bytes come whole.
    match getrandom(bytes, GetRandomFlags::empty()) {
        Ok(read) if read == length => Ok(()),
        _ => Err(Error::new(ErrorKind::Internal, "the operating system gives no random bytes")),
    }
}

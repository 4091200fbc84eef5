//! Encryption of the write overlay's blocks on a disk: one process writes them, and no other can read them.
//!
//! AES-256-GCM under an ephemeral key that is generated here and dropped with its [`BlockSeal`]. The nonce is a counter that starts
//! at 0 with the key and is incremented for each encryption, in whatever thread: it repeats only after 2^64 blocks. Nonce and tag
//! stay in memory as the [`Seal`] of their block, so a block that was altered, moved, or replaced by an earlier version cannot be
//! decrypted.

use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};

use super::convergent::TAG;
use super::data_key::UnwrapError;
use super::secret::Secret;
use crate::Result;

/// Encrypts and decrypts blocks under one ephemeral key, which is wiped on drop (aws-lc cleanses memory that it frees).
pub struct BlockSeal {
    aead: LessSafeKey,
    sealed: AtomicU64,
}

/// The nonce and the tag of an encrypted block: what decryption needs besides the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seal {
    number: u64,
    tag: [u8; TAG],
}

fn nonce(number: u64) -> Nonce {
    let mut bytes = [0; NONCE_LEN];
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    Nonce::assume_unique_for_key(bytes)
}

impl BlockSeal {
    /// Generates a fresh key.
    ///
    /// # Errors
    /// `Internal` where the operating system gives no random bytes.
    pub fn new() -> Result<Self> {
        let key = Secret::random()?;
        let key = UnboundKey::new(&AES_256_GCM, key.expose()).expect("32 bytes are an AES-256 key");
        Ok(Self { aead: LessSafeKey::new(key), sealed: AtomicU64::new(0) })
    }

    /// Encrypts `block` in place, and returns its nonce and tag.
    pub fn seal(&self, block: &mut [u8]) -> Seal {
        let number = self.sealed.fetch_add(1, Ordering::Relaxed);
        let sealed = self.aead.seal_in_place_separate_tag(nonce(number), Aad::empty(), block);
        let mut tag = [0; TAG];
        tag.copy_from_slice(sealed.expect("a block is far below GCM's longest text").as_ref());
        Seal { number, tag }
    }

    /// Decrypts in place a block that [`Self::seal`] encrypted.
    ///
    /// # Errors
    /// [`UnwrapError`]; the content of `block` is then undefined.
    pub fn open(&self, seal: &Seal, block: &mut [u8]) -> Result<(), UnwrapError> {
        let opened = self.aead.open_in_place_separate_tag(nonce(seal.number), Aad::empty(), &seal.tag, block);
        opened.map(drop).map_err(|_| UnwrapError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_opens_by_its_own_seal_and_key_alone() {
        let key = BlockSeal::new().unwrap();
        let (mut one, mut two) = ([7; 4096], [7; 4096]);
        let (first, second) = (key.seal(&mut one), key.seal(&mut two));
        assert_ne!(first.number, second.number);
        assert_ne!(one, two, "equal blocks are not seen to be equal");
        assert!(key.open(&second, &mut one.clone()).is_err());
        assert!(BlockSeal::new().unwrap().open(&first, &mut one.clone()).is_err());
        let mut altered = one;
        altered[4095] ^= 1;
        assert!(key.open(&first, &mut altered).is_err());
        key.open(&first, &mut one).unwrap();
        key.open(&second, &mut two).unwrap();
        assert_eq!((one, two), ([7; 4096], [7; 4096]));
    }

    #[test]
    fn no_two_threads_take_one_nonce() {
        let key = BlockSeal::new().unwrap();
        let sealed = |_| std::iter::repeat_with(|| key.seal(&mut [0; 16]).number).take(1_000).collect::<Vec<_>>();
        let mut numbers: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|n| scope.spawn(move || sealed(n))).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(0..4_000));
    }

    /// By another library.
    #[test]
    fn a_second_opinion_opens_a_sealed_block() {
        use aes_gcm::aead::{AeadInOut, KeyInit};
        let secret = Secret::from_bytes([5; 32]);
        let aead = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, secret.expose()).unwrap());
        let key = BlockSeal { aead, sealed: AtomicU64::new(0x0102) };
        let mut block = [9; 4096];
        let seal = key.seal(&mut block);
        let cipher = aes_gcm::Aes256Gcm::new(&[5; 32].into());
        let nonce = [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        cipher.decrypt_inout_detached(&nonce.into(), b"", (&mut block[..]).into(), &seal.tag.into()).unwrap();
        assert_eq!(block, [9; 4096]);
    }
}

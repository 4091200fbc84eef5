//! SHA-256 and BLAKE3 digests as types, and their text forms.
//!
//! SHA-256 names whatever others also name (blobs, chunks, root digests); BLAKE3 serves the image digest alone
//! (docs/design.md, "Image digest"). Both come from libraries; nothing here computes a hash itself.

use std::fmt;
use std::str::FromStr;

use aws_lc_rs::digest;

/// A SHA-256 digest, written `sha256:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256([u8; 32]);

/// A BLAKE3 digest, written `blake3:` and 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Blake3([u8; 32]);

/// A text that is not a digest of the expected form.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a digest of the form `{1}:` and 64 hexadecimal digits")]
pub struct ParseDigestError(String, &'static str);

macro_rules! digest_type {
    ($name:ident, $prefix:literal) => {
        impl $name {
            /// Wraps the 32 bytes of a digest.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 32]) -> Self {
                Self(bytes)
            }

            /// Returns the 32 bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns 64 lower-case hexadecimal digits, without the algorithm's name.
            #[must_use]
            pub fn to_hex(&self) -> String {
                to_hex(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, ":{}"), self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = ParseDigestError;

            fn from_str(text: &str) -> Result<Self, ParseDigestError> {
                let hex = text.strip_prefix(concat!($prefix, ":"));
                hex.and_then(from_hex).map(Self).ok_or_else(|| ParseDigestError(text.to_owned(), $prefix))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    };
}

digest_type!(Sha256, "sha256");
digest_type!(Blake3, "blake3");

impl Sha256 {
    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Sha256Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }
}

impl Blake3 {
    /// Returns the digest of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

/// The digest of a blob of an image, by either algorithm that the OCI image specification registers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ContentDigest {
    /// `sha256:` and 64 hexadecimal digits; by far the usual one.
    Sha256(Sha256),
    /// `sha512:` and 128 hexadecimal digits.
    Sha512([u8; 64]),
}

impl ContentDigest {
    /// Returns the digest of `bytes` by the same algorithm.
    #[must_use]
    pub fn same_of(&self, bytes: &[u8]) -> Self {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    /// Returns a hasher of the same algorithm, with nothing hashed yet.
    #[must_use]
    pub fn hasher(&self) -> ContentHasher {
        match self {
            Self::Sha256(_) => ContentHasher::Sha256(Sha256Hasher::new()),
            Self::Sha512(_) => ContentHasher::Sha512(digest::Context::new(&digest::SHA512)),
        }
    }

    /// Returns the SHA-256 digest, if it is one.
    #[must_use]
    pub fn as_sha256(&self) -> Option<Sha256> {
        match self {
            Self::Sha256(digest) => Some(*digest),
            Self::Sha512(_) => None,
        }
    }

    /// Returns the path of its blob below `blobs/` of an image layout: `sha256/HEX`.
    #[must_use]
    pub fn blob_path(&self) -> String {
        self.to_string().replacen(':', "/", 1)
    }
}

impl fmt::Display for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sha256(digest) => digest.fmt(f),
            Self::Sha512(bytes) => write!(f, "sha512:{}", to_hex(bytes)),
        }
    }
}

impl fmt::Debug for ContentDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Sha256> for ContentDigest {
    fn from(digest: Sha256) -> Self {
        Self::Sha256(digest)
    }
}

/// A text that is not a digest of a blob.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not a digest of the form `sha256:` and 64, or `sha512:` and 128 hexadecimal digits")]
pub struct ParseContentDigestError(String);

impl FromStr for ContentDigest {
    type Err = ParseContentDigestError;

    fn from_str(text: &str) -> Result<Self, ParseContentDigestError> {
        let digest = match text.strip_prefix("sha512:") {
            Some(hex) => from_hex(hex).map(Self::Sha512),
            None => text.parse().map(Self::Sha256).ok(),
        };
        digest.ok_or_else(|| ParseContentDigestError(text.to_owned()))
    }
}

/// An incremental hasher for the algorithm of a [`ContentDigest`].
pub enum ContentHasher {
    /// SHA-256.
    Sha256(Sha256Hasher),
    /// SHA-512.
    Sha512(digest::Context),
}

impl ContentHasher {
    /// Appends `bytes` to the hashed data.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(context) => context.update(bytes),
        }
    }

    /// Returns the digest of all data.
    #[must_use]
    pub fn finish(self) -> ContentDigest {
        match self {
            Self::Sha256(hasher) => ContentDigest::Sha256(hasher.finish()),
            Self::Sha512(context) => {
                let mut bytes = [0; 64];
                bytes.copy_from_slice(context.finish().as_ref());
                ContentDigest::Sha512(bytes)
            }
        }
    }
}

/// An incremental SHA-256 hasher.
#[derive(Clone)]
pub struct Sha256Hasher(digest::Context);

impl Sha256Hasher {
    /// Creates a hasher of no data.
    #[must_use]
    pub fn new() -> Self {
        Self(digest::Context::new(&digest::SHA256))
    }

    /// Appends `bytes` to the hashed data.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all data.
    #[must_use]
    pub fn finish(self) -> Sha256 {
        let mut bytes = [0; 32];
        bytes.copy_from_slice(self.0.finish().as_ref());
        Sha256(bytes)
    }
}

/// An incremental BLAKE3 hasher.
#[derive(Clone, Default)]
pub struct Blake3Hasher(blake3::Hasher);

impl Blake3Hasher {
    /// Appends `bytes` to the hashed data.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all data.
    #[must_use]
    pub fn finish(&self) -> Blake3 {
        Blake3(*self.0.finalize().as_bytes())
    }
}

impl Default for Sha256Hasher {
    fn default() -> Self {
        Self::new()
    }
}

/// Encodes `bytes` as lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, byte| {
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// Decodes `N` bytes from exactly `2 N` lower-case hexadecimal digits; `None` for anything else.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut out = [0; N];
    hex_into(text, &mut out)?;
    Some(out)
}

/// Decodes exactly `2 * out.len()` lower-case hexadecimal digits into `out`. After `None`, the content of `out` is undefined.
pub(crate) fn hex_into(text: &str, out: &mut [u8]) -> Option<()> {
    let text = text.as_bytes();
    if text.len() != 2 * out.len() {
        return None;
    }
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_digests_and_their_text() {
        // FIPS 180-4's example; `printf abc | b3sum` for the other.
        let sha = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Sha256::of(b"abc").to_string(), sha);
        assert_eq!(sha.parse(), Ok(Sha256::of(b"abc")));
        let b3 = "blake3:6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(Blake3::of(b"abc").to_string(), b3);
    }

    #[test]
    fn only_the_exact_form_is_a_digest() {
        let hex = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        for bad in [
            hex.to_owned(),
            format!("sha512:{hex}"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("sha256:{}", &hex[1..]),
        ] {
            assert!(bad.parse::<Sha256>().is_err(), "{bad}");
        }
    }
}

//! The names under which objects lie.

use std::fmt;
use std::str::FromStr;

use crate::digest::{Sha256, from_hex};

/// Names a root: a set of chunks that is collected together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RootId(String);

/// A text that names no root.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a root: use 1 to 64 of a-z, 0-9, `.`, `_` and `-`, the first a letter or digit, and not `manifests`"
)]
pub struct ParseRootIdError(String);

impl RootId {
    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RootId {
    type Err = ParseRootIdError;

    fn from_str(text: &str) -> Result<Self, ParseRootIdError> {
        let letter = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let valid = (1..=64).contains(&text.len())
            && text.as_bytes().first().is_some_and(letter)
            && text.bytes().all(|byte| letter(&byte) || b"._-".contains(&byte))
            && text != "manifests";
        if valid { Ok(Self(text.to_owned())) } else { Err(ParseRootIdError(text.to_owned())) }
    }
}

impl fmt::Display for RootId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An object's path in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectName(String);

impl ObjectName {
    /// A sealed chunk.
    #[must_use]
    pub fn chunk(root: &RootId, name: Sha256) -> Self {
        Self(format!("{root}/{}", name.to_hex()))
    }

    /// A block manifest.
    #[must_use]
    pub fn manifest(root: &RootId, digest: Sha256) -> Self {
        Self(format!("manifests/{root}/{}", digest.to_hex()))
    }

    /// Whether it is a block manifest's.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        self.0.starts_with("manifests/")
    }

    /// Where the block manifests of a root lie.
    #[must_use]
    pub fn manifests(root: &RootId) -> String {
        format!("manifests/{root}")
    }

    /// A block manifest of `root` by its path in the store; `None` where it is something else.
    #[must_use]
    pub fn parse_manifest(root: &RootId, path: &str) -> Option<Self> {
        let digest = path.strip_prefix(&Self::manifests(root))?.strip_prefix('/')?;
        let name = Self::manifest(root, Sha256::from_bytes(from_hex(digest)?));
        (name.0 == path).then_some(name)
    }

    /// Of a chunk: its own name, as it stands at the end and as a digest.
    #[must_use]
    pub fn chunk_digest(&self) -> Option<(&str, Sha256)> {
        let (directory, digest) = self.0.rsplit_once('/')?;
        if directory.contains('/') { None } else { Some((digest, Sha256::from_bytes(from_hex(digest)?))) }
    }

    /// Its text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_safe_as_paths() {
        for good in ["main", "r1", "2026-11", "a.b_c"] {
            assert!(good.parse::<RootId>().is_ok(), "{good}");
        }
        for bad in ["", "..", ".hidden", "a/b", "A", "manifests", &"x".repeat(65)] {
            assert!(bad.parse::<RootId>().is_err(), "{bad}");
        }
    }
}

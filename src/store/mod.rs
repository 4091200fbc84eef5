//! Object stores, in two halves: who puts cannot get, who gets cannot put.
//!
//! Chunks lie at `ROOT/NAME`, block manifests at `manifests/ROOT/NAME`, NAME being 64 hexadecimal digits of the SHA-256 of
//! what is stored. Nothing here overwrites or deletes.

mod local;
mod names;

pub use local::{LocalGet, LocalPut};
pub use names::{ObjectName, ParseRootIdError, RootId};

use crate::Result;

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It was not there and is now.
    Stored,
    /// Something of that name was there already.
    Present,
}

/// Puts objects that are not there yet.
pub trait PutIfAbsent: Sync {
    /// Puts `bytes` under `name`, whole or not at all.
    ///
    /// # Errors
    /// `Denied` or `Unavailable`, naming the object.
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome>;

    /// Whether what was put is there, as far as the store can tell whoever may only put: asked for every chunk before a
    /// manifest names it.
    ///
    /// # Errors
    /// `Unavailable` where it is gone, naming the object.
    fn still_there(&self, name: &ObjectName) -> Result<()>;
}

/// Gets objects.
pub trait Get: Send + Sync {
    /// The bytes under `name`, at most `limit`; they are not checked.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, or `Corrupt` where there are more, naming the object.
    fn get(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>>;
}

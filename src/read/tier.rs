//! The tiers that a sealed chunk comes through on its way to a device: the host's disk, the zone's cache, the store.
//!
//! Each tier asks the next for what it does not have. Every request has a moment until which somebody waits for it.

use std::fmt;
use std::time::Instant;

use crate::Result;
use crate::crypto::ChunkKey;
use crate::store::ObjectName;

/// Where a chunk was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// Opened, in this process.
    Memory,
    /// Sealed, on this host's disk.
    Disk,
    /// Sealed, on the zone's cache servers.
    Zone,
    /// Sealed, in the store.
    Origin,
}

impl Place {
    /// All, the nearest first.
    pub const ALL: [Self; 4] = [Self::Memory, Self::Disk, Self::Zone, Self::Origin];

    /// Its name in records and metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::Zone => "zone",
            Self::Origin => "origin",
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A sealed chunk that is asked for.
#[derive(Clone, Copy)]
pub struct Wanted<'w> {
    /// Its name in the store.
    pub name: &'w ObjectName,
    /// Its bytes.
    pub limit: u64,
    /// What opens it, for a tier that keeps chunks where others could alter them.
    pub key: &'w ChunkKey,
    /// Whether no reader waits for it. Such a request gives way to those of readers, is sent once, and is not hedged.
    pub background: bool,
}

/// Gives sealed chunks.
pub trait Tier: Send + Sync {
    /// The bytes of `wanted`, at most as many as it says, and where they were; they are not checked. Nobody waits for them after `until`.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, or `Corrupt`, naming the object.
    fn get(&self, wanted: &Wanted<'_>, until: Instant) -> Result<(Vec<u8>, Place)>;

    /// What was given for `wanted` is not true; whether that was a copy on the way, so that asking again may help.
    fn forget(&self, _wanted: &Wanted<'_>) -> bool {
        false
    }

    /// Returns whether the copies on the host may grow by `bytes` without another's eviction.
    fn has_room(&self, _bytes: u64) -> bool {
        false
    }

    /// Whether a copy is on the host, so that it need not be asked for ahead; `None` where no copies are kept.
    fn keeps(&self, _name: &ObjectName) -> Option<bool> {
        None
    }
}

//! A store to which nothing is put: what a conversion would put is counted.

use std::path::PathBuf;

use rustix::fs::CWD;

use super::local::{Presence, presence};
use super::{ObjectName, PutIfAbsent, PutOutcome, StoreUrl};
use crate::Result;

/// Tells of a directory what is there; of a service it knows nothing.
pub struct Planned(Option<PathBuf>);

impl Planned {
    /// For what would go to the store at `url`, which is not opened.
    #[must_use]
    pub fn new(url: &StoreUrl) -> Self {
        Self(match url {
            StoreUrl::Directory(path) => Some(path.clone()),
            StoreUrl::Bucket(_) => None,
        })
    }
}

impl PutIfAbsent for Planned {
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
        Ok(if self.has(name, bytes.len() as u64) { PutOutcome::Present } else { PutOutcome::Stored })
    }

    fn has(&self, name: &ObjectName, length: u64) -> bool {
        let presence = self.0.as_ref().map(|path| presence(CWD, &path.join(name.as_str()), length));
        matches!(presence, Some(Ok(Presence::Complete)))
    }

    fn still_there(&self, _: &ObjectName, _: u64) -> Result<()> {
        Ok(())
    }

    fn only_plans(&self) -> bool {
        true
    }
}

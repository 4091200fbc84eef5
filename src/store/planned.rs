//! A store to which nothing is put: what a conversion would put is counted.

use std::path::PathBuf;

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
    fn put_if_absent(&self, name: &ObjectName, _: &[u8]) -> Result<PutOutcome> {
        Ok(if self.has(name) { PutOutcome::Present } else { PutOutcome::Stored })
    }

    fn has(&self, name: &ObjectName) -> bool {
        self.0.as_ref().is_some_and(|path| path.join(name.as_str()).symlink_metadata().is_ok())
    }

    fn still_there(&self, _: &ObjectName) -> Result<()> {
        Ok(())
    }

    fn only_plans(&self) -> bool {
        true
    }
}

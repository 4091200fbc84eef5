//! The limits of a conversion on all layers of an image together: number of entries, memory for their metadata, and space on the
//! device.
//!
//! Layers are read concurrently, and each charges its usage while its entries are applied, so that an image past a limit fails
//! early. The charges of a read that is abandoned are released.

use std::sync::Mutex;

use super::flatten::Usage;
use crate::printable::size;
use crate::{Error, ErrorKind, Result};

/// Memory for metadata that every image may use, in bytes, however few entries `--max-entries` allows.
const BASE_MEMORY: u64 = 64 << 20;
/// Additional memory for each entry that `--max-entries` allows, in bytes.
const MEMORY_PER_ENTRY: u64 = 16;

/// The limits of an image, and its usage so far.
#[derive(Debug)]
pub(super) struct Budget {
    max_entries: u64,
    max_size: u64,
    charged: Mutex<Usage>,
}

/// The usage that one read of a layer has charged. It is released on drop, unless it is kept.
pub(super) struct Charge<'a> {
    budget: &'a Budget,
    usage: Usage,
}

impl Budget {
    /// Creates a budget without charges.
    #[must_use]
    pub(super) fn new(max_entries: u64, max_size: u64) -> Self {
        Self { max_entries, max_size, charged: Mutex::default() }
    }

    /// Starts the charge of one read of a layer.
    pub(super) fn begin(&self) -> Charge<'_> {
        Charge { budget: self, usage: Usage::default() }
    }

    /// Charges `more`.
    ///
    /// # Errors
    /// `Input` where a limit is exceeded, naming it; nothing is charged then.
    pub(super) fn charge(&self, more: Usage) -> Result<()> {
        let mut charged = self.charged.lock().expect("no thread panics with it");
        let reached = charged.plus(more);
        self.check(reached).map_err(|message| Error::new(ErrorKind::Input, message))?;
        *charged = reached;
        Ok(())
    }

    /// Releases an earlier charge.
    pub(super) fn release(&self, usage: Usage) {
        let mut charged = self.charged.lock().expect("no thread panics with it");
        *charged = charged.since(usage);
    }

    fn max_memory(&self) -> u64 {
        self.max_entries.saturating_mul(MEMORY_PER_ENTRY).saturating_add(BASE_MEMORY)
    }

    fn check(&self, reached: Usage) -> Result<(), String> {
        let Usage { entries, memory_bytes, device_bytes } = reached;
        let (max_entries, max_size, max_memory) = (self.max_entries, self.max_size, self.max_memory());
        if entries > max_entries {
            return Err(format!(
                "the layers up to this entry have {entries} entries, more than the {max_entries} that --max-entries allows \
                 (directories without an entry of their own count)"
            ));
        }
        if memory_bytes > max_memory {
            return Err(format!(
                "names, link targets, extended attributes and directories without an entry of the layers up to this entry \
                 take more memory than the {} that --max-entries {max_entries} allows",
                size(max_memory)
            ));
        }
        if device_bytes > max_size {
            return Err(format!(
                "inodes, directories, extended attributes and data of the layers up to this entry take more of the block image than \
                 the {} that --max-size allows",
                size(max_size)
            ));
        }
        Ok(())
    }
}

impl Charge<'_> {
    /// Charges the growth of the layer's usage to `usage`.
    ///
    /// # Errors
    /// As [`Budget::charge`].
    pub(super) fn grow_to(&mut self, usage: Usage) -> Result<()> {
        let more = usage.since(self.usage);
        self.budget.charge(more)?;
        self.usage = self.usage.plus(more);
        Ok(())
    }

    /// Keeps the charge, and returns it.
    #[must_use]
    pub(super) fn keep(mut self) -> Usage {
        std::mem::take(&mut self.usage)
    }
}

impl Drop for Charge<'_> {
    fn drop(&mut self) {
        self.budget.release(self.usage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn usage(entries: u64, memory_bytes: u64, device_bytes: u64) -> Usage {
        Usage { entries, memory_bytes, device_bytes }
    }

    #[test]
    fn a_budget_is_used_up_to_each_limit_and_the_error_names_the_option() {
        let memory = BASE_MEMORY + 10 * MEMORY_PER_ENTRY;
        let refused = |usage| Budget::new(10, 5_000).charge(usage).err().map(|error| error.to_string());
        assert_eq!(refused(usage(10, memory, 5_000)), None);
        for (past, words) in [
            (usage(11, 0, 0), ["11 entries", "the 10 that --max-entries allows"]),
            (usage(0, memory + 1, 0), ["take more memory", "the 64.0 MiB that --max-entries 10 allows"]),
            (usage(0, 0, 5_001), ["take more of the block image", "the 4.9 KiB that --max-size allows"]),
        ] {
            let message = refused(past).unwrap();
            assert!(words.iter().all(|word| message.contains(word)), "{message}");
        }
    }

    #[test]
    fn readings_that_are_given_up_release_what_they_were_charged() {
        let budget = Budget::new(10, 5_000);
        let mut kept = budget.begin();
        kept.grow_to(usage(3, 0, 0)).unwrap();
        kept.grow_to(usage(4, 0, 0)).unwrap();
        let kept = kept.keep();
        let mut given_up = budget.begin();
        given_up.grow_to(usage(6, 0, 0)).unwrap();
        assert!(given_up.grow_to(usage(7, 0, 0)).is_err());
        drop(given_up);
        budget.charge(usage(6, 0, 0)).unwrap();
        assert!(budget.charge(usage(1, 0, 0)).is_err());
        budget.release(kept);
        budget.charge(usage(4, 0, 0)).unwrap();
    }
}

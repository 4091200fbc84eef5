//! Which chunks a host asked its zone for, and when: a line a chunk, for [`crate::inspect::zone_sizing`].
//!
//! `MILLISECONDS ID BYTES`: since 1970, the chunk's id in the zone (hexadecimal, no name), its sealed bytes. Lines of several hosts can be put
//! together in any order.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use super::ShardSeal;
use crate::read::tier::{Place, Tier, Wanted};
use crate::store::ObjectName;
use crate::{Error, ErrorKind, Result};

/// Bytes of a line at most.
const LINE: usize = 128;
/// Milliseconds of the year 10000, which is later than any trace.
pub(crate) const LATEST: u64 = 253_402_300_800_000;

/// A chunk that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Asked {
    /// Since 1970.
    pub millis: u64,
    /// Which; equal numbers are equal chunks.
    pub chunk: u32,
    /// Its sealed bytes.
    pub bytes: u32,
}

/// A file that is written to.
pub struct Trace(File);

impl Trace {
    /// A new file, or behind what one has.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn open(path: &Path) -> Result<Self> {
        crate::output_file::append(path).map(Self)
    }

    #[expect(clippy::disallowed_methods, reason = "a trace says when; nothing else hangs on it")]
    fn note(&self, wanted: &Wanted<'_>) {
        let millis = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let id = ShardSeal::of(wanted.key).id();
        let line = format!("{millis} {id:?} {}\n", wanted.limit);
        // A line at once, so that processes can share the file; one that cannot be written holds up no reader.
        let _ = (&self.0).write_all(line.as_bytes());
    }
}

/// A tier that notes what is asked of the next.
pub struct TracedTier {
    next: Box<dyn Tier>,
    trace: std::sync::Arc<Trace>,
}

impl TracedTier {
    /// `next`, what is asked of it noted in `trace`.
    #[must_use]
    pub fn new(next: Box<dyn Tier>, trace: std::sync::Arc<Trace>) -> Self {
        Self { next, trace }
    }
}

impl Tier for TracedTier {
    fn get(&self, wanted: &Wanted<'_>, until: Instant) -> Result<(Vec<u8>, Place)> {
        self.trace.note(wanted);
        self.next.get(wanted, until)
    }

    fn forget(&self, wanted: &Wanted<'_>) -> bool {
        self.next.forget(wanted)
    }

    fn keeps(&self, name: &ObjectName) -> Option<bool> {
        self.next.keeps(name)
    }
}

/// What the lines of `files` say, each a name and a text, in the order of time. A last line that was cut off, since its disk was full or its
/// writer killed, says nothing.
///
/// # Errors
/// `Input`, naming file and line.
pub fn decode<'t>(files: impl IntoIterator<Item = (&'t str, &'t str)>) -> Result<Vec<Asked>> {
    let mut numbers: HashMap<&str, u32> = HashMap::new();
    let mut asked = Vec::new();
    for (name, text) in files {
        for (at, line) in text.split_inclusive('\n').enumerate() {
            let Some(line) = line.strip_suffix('\n') else { break };
            let parsed = || {
                let mut words = line.split(' ').filter(|_| line.len() <= LINE);
                let (millis, id, bytes) = (words.next()?.parse().ok()?, words.next()?, words.next()?.parse().ok()?);
                let next = u32::try_from(numbers.len()).ok()?;
                let chunk = *numbers.entry(id).or_insert(next);
                (words.next().is_none() && bytes > 0 && millis <= LATEST).then_some(Asked { millis, chunk, bytes })
            };
            let bad = || Error::new(ErrorKind::Input, format!("{name}: line {}: not `MILLISECONDS ID BYTES`", at + 1));
            asked.push({ parsed }().ok_or_else(bad)?);
        }
    }
    asked.sort_by_key(|asked| asked.millis);
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_several_hosts_are_put_in_order() {
        let asked = decode([("a", "20 aa 5\n30 bb 7\n40 c"), ("b", "10 aa 5\n")]).unwrap();
        let of = |millis, chunk, bytes| Asked { millis, chunk, bytes };
        assert_eq!(asked, [of(10, 0, 5), of(20, 0, 5), of(30, 1, 7)]);
        for bad in ["", "1 a", "x a 5", "1 a 5 6", "1 a 0", "1 a -5", "\n", "253402300800001 a 5"] {
            let text = format!("1 a 5\n{bad}\n");
            assert!(decode([("t", &*text)]).unwrap_err().to_string().starts_with("t: line 2: "), "{bad}");
        }
    }
}

//! What a start read, and when: recorded once, fetched ahead the next time, drawn by `coldread report`.
//!
//! Text, a line a chunk in the order of first use (docs/reference/formats/profile.md). Chunks are named as in the store, so that a profile serves
//! the next version of an image as well; it says no more than who watches the store sees.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::device::{Arrival, Observer};
use super::tier::Place;
use crate::digest::Sha256;
use crate::manifest::OpenManifest;
use crate::sync::{Mutex, now};
use crate::{ChunkIndex, Error, ErrorKind, Result};

const HEAD: &str = "coldpress profile 1";
/// Longest profile: lines of about 100 bytes for 2,097,152 chunks, the most that an image has, are not needed to start it.
pub const MAX_BYTES: u64 = 16 << 20;

/// Where a block manifest's profile lies, if it has one.
#[must_use]
pub fn beside(manifest: &Path) -> PathBuf {
    let mut path = manifest.as_os_str().to_owned();
    path.push(".profile");
    path.into()
}

/// A start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Profile {
    /// Of the image that was read.
    pub root_digest: Sha256,
    /// Its device's chunks, zeros among them.
    pub device_chunks: u32,
    /// In the order of first use.
    pub uses: Vec<Use>,
}

/// The first use of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    /// When it was asked for, in microseconds since the start.
    pub at: u64,
    /// How long the reader waited, in microseconds.
    pub took: u64,
    /// Where it was.
    pub place: Place,
    /// Which it was of that image.
    pub index: ChunkIndex,
    /// Its name in the store.
    pub name: Sha256,
}

impl Profile {
    /// As text.
    #[must_use]
    pub fn encode(&self) -> String {
        let mut out = format!("{HEAD}\nimage {} {}\n", self.root_digest, self.device_chunks);
        for Use { at, took, place, index, name } in &self.uses {
            let _ = writeln!(out, "{at} {took} {place} {} {}", index.0, name.to_hex());
        }
        out
    }

    /// From text.
    ///
    /// # Errors
    /// `Input`, naming the line.
    pub fn decode(text: &[u8]) -> Result<Self> {
        let wrong = |line: usize, what: &str| Error::new(ErrorKind::Input, format!("line {line}: {what}"));
        if text.len() as u64 > MAX_BYTES {
            return Err(wrong(1, "larger than a profile can be"));
        }
        let text = std::str::from_utf8(text).map_err(|_| wrong(1, "not text"))?;
        let mut lines = text.lines().enumerate();
        if lines.next().is_none_or(|(_, line)| line != HEAD) {
            return Err(wrong(1, "not a coldpress profile, or of another version"));
        }
        let image =
            lines.next().and_then(|(_, line)| image(line)).ok_or_else(|| wrong(2, "expected `image DIGEST CHUNKS`"))?;
        let uses = lines.map(|(at, line)| {
            first_use(line).ok_or_else(|| wrong(at + 1, "expected `MICROSECONDS MICROSECONDS LEVEL CHUNK NAME`"))
        });
        let uses = uses.collect::<Result<Vec<_>>>()?;
        match uses.iter().position(|used| used.index.0 >= image.1) {
            Some(at) => Err(wrong(at + 3, "a chunk past the end of the device")),
            None => Ok(Self { root_digest: image.0, device_chunks: image.1, uses }),
        }
    }

    /// The chunks of `manifest` to fetch, in order: those of the names that were used, or at least at their places.
    #[must_use]
    pub fn chunks_of(&self, manifest: &OpenManifest) -> Vec<ChunkIndex> {
        let chunks = &manifest.sealed.chunks;
        let mut by_name: Vec<usize> = (0..chunks.len()).collect();
        by_name.sort_unstable_by_key(|at| chunks[*at].name);
        let find = |used: &Use| match by_name.binary_search_by_key(&used.name, |at| chunks[*at].name) {
            Ok(found) => Some(chunks[by_name[found]].index),
            Err(_) => manifest.chunk(used.index).map(|chunk| chunk.index),
        };
        self.uses.iter().filter_map(find).collect()
    }
}

fn image(line: &str) -> Option<(Sha256, u32)> {
    let (digest, chunks) = line.strip_prefix("image ")?.split_once(' ')?;
    Some((digest.parse().ok()?, chunks.parse().ok()?))
}

fn first_use(line: &str) -> Option<Use> {
    let mut words = line.split(' ');
    let mut next = || words.next();
    let (at, took) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let place = next()?;
    let place = Place::ALL.into_iter().find(|known| known.name() == place)?;
    let index = ChunkIndex(next()?.parse().ok()?);
    let name = Sha256::from_bytes(crate::digest::from_hex(next()?)?);
    words.next().is_none().then_some(Use { at, took, place, index, name })
}

/// Records a start.
pub struct Recorder {
    began: Instant,
    uses: Mutex<Vec<Use>>,
}

impl Recorder {
    /// The start begins now.
    #[must_use]
    pub fn start() -> Arc<Self> {
        Arc::new(Self { began: now(), uses: Mutex::default() })
    }

    /// What was read of the device of `manifest` so far.
    #[must_use]
    pub fn profile(&self, manifest: &OpenManifest) -> Profile {
        let mut uses = self.uses.lock().clone();
        uses.sort_by_key(|used| used.at);
        // What was thrown out and read again was used before.
        let mut seen = vec![false; manifest.sealed.device_chunks as usize];
        uses.retain_mut(|used| {
            let Some(chunk) = manifest.chunk(used.index) else { return false };
            used.name = chunk.name;
            !std::mem::replace(&mut seen[used.index.0 as usize], true)
        });
        Profile { root_digest: manifest.clear.root_digest, device_chunks: manifest.sealed.device_chunks, uses }
    }
}

impl Observer for Recorder {
    fn arrived(&self, arrival: &Arrival) {
        if !arrival.wanted {
            return;
        }
        let micros = |took: std::time::Duration| u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let Arrival { chunk: index, place, began, took, .. } = *arrival;
        let at = micros(began.saturating_duration_since(self.began));
        let used = Use { at, took: micros(took), place, index, name: Sha256::from_bytes([0; 32]) };
        self.uses.lock().push(used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn profile() -> Profile {
        let name = Sha256::of(b"a chunk");
        let used = |at, place, index| Use { at, took: 31_204, place, index: ChunkIndex(index), name };
        Profile {
            root_digest: Sha256::of(b"an image"),
            device_chunks: 2048,
            uses: vec![used(0, Place::Origin, 0), used(40_100, Place::Memory, 2047)],
        }
    }

    #[test]
    fn a_profile_is_read_as_it_was_written() {
        assert_eq!(Profile::decode(profile().encode().as_bytes()).unwrap(), profile());
    }

    #[test]
    fn what_is_no_profile_is_refused_by_its_line() {
        let text = profile().encode();
        let name = Sha256::of(b"a chunk").to_hex();
        for (old, new, line) in [
            ("profile 1", "profile 2", 1),
            ("image sha256", "image md5", 2),
            (" 2048", " 2047", 4),
            ("40100", "-1", 4),
            ("memory", "tape", 4),
            (&name[..], &name[1..], 3),
            ("origin", "origin origin", 3),
        ] {
            let changed = text.replacen(old, new, 1);
            assert_ne!(changed, text, "{old}");
            let error = Profile::decode(changed.as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with(&format!("line {line}: ")), "{old}: {error}");
        }
        assert!(Profile::decode(&[0xFF]).is_err());
    }
}

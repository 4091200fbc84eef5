//! A recorded startup in numbers: how much was read from which cache level, and which reads were the slowest.

use serde::Serialize;

use super::image_map::ImageMap;
use crate::CHUNK_SIZE;
use crate::read::profile::{Profile, Use};
use crate::read::tier::Place;

/// Slowest reads that are listed.
const SLOWEST: usize = 8;
const MIB: f64 = 1_048_576.0;

/// A startup in numbers.
#[derive(Debug, PartialEq, Serialize)]
pub struct Numbers {
    /// What the image is called; `None` where only its profile is known.
    pub image: Option<String>,
    /// `sha256:HEX`, of the image.
    pub root_digest: String,
    /// Chunks of its device, zeros among them.
    pub device_chunks: u32,
    /// Chunks that were read.
    pub chunks: usize,
    /// Their plaintext bytes.
    pub bytes: u64,
    /// Until the last of them arrived.
    pub seconds: f64,
    /// Memory, disk, the zone where one was used, origin.
    pub tiers: Vec<TierShare>,
    /// The slowest first.
    pub slowest: Vec<SlowRead>,
}

/// What came from one cache level.
#[derive(Debug, PartialEq, Serialize)]
pub struct TierShare {
    /// Its name.
    pub tier: &'static str,
    /// Chunks.
    pub chunks: usize,
    /// How long readers waited for them, added up.
    pub waited_seconds: f64,
}

/// A read that took long.
#[derive(Debug, PartialEq, Serialize)]
pub struct SlowRead {
    /// Which chunk.
    pub chunk: u32,
    /// When it was requested, since the startup began.
    pub at_seconds: f64,
    /// How long its reader waited.
    pub waited_seconds: f64,
    /// Where it came from.
    pub tier: &'static str,
    /// The layer or metadata region, where the image is known.
    pub part: Option<String>,
    /// The files with the most bytes in it, where the image is known.
    pub files: Vec<String>,
    /// How many more files have bytes in it.
    pub more_files: usize,
}

impl SlowRead {
    pub(super) fn of(used: &Use, image: Option<&ImageMap>) -> Self {
        let chunk = used.index.0;
        let files = image.and_then(|image| image.files.get(&chunk)).cloned().unwrap_or_default();
        Self {
            chunk,
            at_seconds: seconds(used.at),
            waited_seconds: seconds(used.took),
            tier: used.place.name(),
            part: image.map(|image| image.part(chunk)),
            more_files: files.count - files.largest.len(),
            files: files.largest.into_iter().map(|(_, path)| path).collect(),
        }
    }

    /// Returns what the chunk holds: `layer 2: /usr/lib/libc.so.6 and 3 more`.
    #[must_use]
    pub fn content(&self) -> String {
        let part = self.part.clone().unwrap_or_default();
        let Some(first) = self.files.first() else { return part };
        match self.files.len() - 1 + self.more_files {
            0 => format!("{part}: {first}"),
            more => format!("{part}: {first} and {more} more"),
        }
    }
}

impl Numbers {
    /// Counts `profile`, with names where the `image` is known.
    #[must_use]
    pub fn of(profile: &Profile, image: Option<&ImageMap>) -> Self {
        let tier = |place: Place| {
            let (mut chunks, mut waited) = (0, 0u64);
            for used in profile.uses.iter().filter(|used| used.place == place) {
                chunks += 1;
                waited = waited.saturating_add(used.took);
            }
            TierShare { tier: place.name(), chunks, waited_seconds: seconds(waited) }
        };
        let tiers = Place::ALL.into_iter().map(tier);
        Self {
            image: image.map(|image| image.name.clone()),
            root_digest: profile.root_digest.to_string(),
            device_chunks: profile.device_chunks,
            chunks: profile.uses.len(),
            bytes: profile.uses.len() as u64 * u64::from(CHUNK_SIZE),
            seconds: profile.uses.iter().map(end).fold(0.0, f64::max),
            tiers: tiers.filter(|tier| tier.chunks > 0 || tier.tier != Place::Zone.name()).collect(),
            slowest: slowest(profile).into_iter().map(|used| SlowRead::of(used, image)).collect(),
        }
    }

    /// Returns the totals in a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let share = self.chunks as f64 * 100.0 / f64::from(self.device_chunks.max(1));
        let of: Vec<String> = self.tiers.iter().map(|tier| format!("{} from {}", tier.chunks, tier.tier)).collect();
        format!(
            "{} of {} chunks ({share:.1} %, {:.1} MiB): {}; the last after {:.3} s",
            self.chunks,
            self.device_chunks,
            self.bytes as f64 / MIB,
            of.join(", "),
            self.seconds,
        )
    }

    /// Returns a line for each of the slowest reads.
    #[must_use]
    pub fn slowest_text(&self) -> String {
        let line = |read: &SlowRead| {
            format!(
                "  {:>10} after {:>10}  chunk {}, {}{}\n",
                span(read.waited_seconds),
                span(read.at_seconds),
                read.chunk,
                read.tier,
                read.part.as_ref().map_or_else(String::new, |_| format!(", {}", read.content())),
            )
        };
        match &self.slowest[..] {
            [] => String::new(),
            reads => format!("slowest reads\n{}", reads.iter().map(line).collect::<String>()),
        }
    }
}

/// Returns the reads that readers waited for the longest; none for those that did not wait.
pub(super) fn slowest(profile: &Profile) -> Vec<&Use> {
    let mut uses: Vec<&Use> = profile.uses.iter().filter(|used| used.took > 0).collect();
    uses.sort_by_key(|used| (std::cmp::Reverse(used.took), used.at, used.index));
    uses.truncate(SLOWEST);
    uses
}

pub(super) fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// When a chunk arrived.
pub(super) fn end(used: &Use) -> f64 {
    seconds(used.at.saturating_add(used.took))
}

/// Returns a time with its unit.
pub(super) fn span(seconds: f64) -> String {
    if seconds < 1.0 { format!("{:.1} ms", seconds * 1e3) } else { format!("{seconds:.2} s") }
}

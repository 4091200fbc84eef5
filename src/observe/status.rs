//! What the reader of a process has counted, at one moment: what `coldread status` and `top` show, and metrics are made of.
//!
//! As JSON it goes from the process that reads to the one that shows. Its numbers are read one after the other, while they change:
//! each is true, their sums may be off by what is under way.

use serde::{Deserialize, Serialize};

use crate::read::ChunkDevice;
use crate::read::counts::{BOUNDS, Counts, Histogram};
use crate::read::tier::Place;
use crate::sandbox;
use crate::zone::{OfServer, Zone};

/// Of one process.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Of the program.
    pub version: String,
    /// What it serves.
    pub images: Vec<ImageStatus>,
    /// Memory, disk, zone, origin.
    pub tiers: Vec<TierStatus>,
    /// Requests to the store.
    pub origin: OriginStatus,
    /// Chunks fetched before they were asked for.
    pub ahead_chunks: u64,
    /// Reads that were answered with an error.
    pub failed_reads: u64,
    /// Clients that are connected to NBD exports and vhost-user-blk disks.
    pub clients: u64,
    /// Clients that were refused.
    pub refused_clients: u64,
    /// Opened chunks.
    pub memory: Held,
    /// Sealed chunks on the host's disk, where such a cache is used.
    pub cache: Option<Held>,
    /// The zone's cache, where one is used.
    pub zone: Option<ZoneStatus>,
    /// Mount points, files and addresses at which they are; nothing of older readers.
    #[serde(default)]
    pub exports: Vec<String>,
    /// What the process gave up; `None` until everything is open, and of older readers.
    #[serde(default)]
    pub sandbox: Option<sandbox::Report>,
}

/// An image that is served.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ImageStatus {
    /// What it is called there.
    pub name: String,
    /// `sha256:HEX`.
    pub root_digest: String,
    /// Of its device, without those that are all zero.
    pub chunks: u64,
    /// Those that were fetched; one that was thrown out and fetched again counts again.
    pub fetched_chunks: u64,
}

/// What a tier did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct TierStatus {
    /// Its name.
    pub tier: String,
    /// Chunks that it had; of the memory, reads.
    pub hits: u64,
    /// Chunks that it did not have.
    pub misses: u64,
    /// Chunks from it that were not true.
    pub refused: u64,
    /// Sealed bytes from it; none from the memory.
    pub bytes: u64,
    /// From asking for a chunk to having it opened; nothing for the memory.
    pub took: Latencies,
}

/// Requests to the store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct OriginStatus {
    /// All, repetitions and hedges among them.
    pub requests: u64,
    /// Those under way.
    pub in_flight: u64,
    /// Those that failed.
    pub failures: u64,
    /// Second requests for what took long.
    pub hedges: u64,
}

/// The zone's cache, as this process sees it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ZoneStatus {
    /// Its servers.
    pub servers: Vec<ZoneServerStatus>,
    /// Second requests for what took long.
    pub hedges: u64,
    /// Looks that ended at their deadline, without the chunk.
    pub late: u64,
    /// Chunks written after they were fetched.
    pub filled_chunks: u64,
    /// Chunks of which shards were written anew.
    pub repaired_chunks: u64,
    /// Chunks not written because too many were being written.
    pub skipped_chunks: u64,
    /// Chunks that another host fetched meanwhile.
    pub waited_chunks: u64,
    /// Waits for another host that were in vain.
    pub waited_in_vain: u64,
}

/// A cache server of the zone.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct ZoneServerStatus {
    /// `HOST:PORT`, or a socket.
    pub server: String,
    /// Whether it is asked like the others; one that is late, slow or gone is passed over.
    pub fit: bool,
    /// Shards asked for.
    pub asked: u64,
    /// True shards that it gave.
    pub hits: u64,
    /// What it did not have.
    pub misses: u64,
    /// What it gave that was no true shard.
    pub refused: u64,
    /// No answer.
    pub failures: u64,
    /// Shards written.
    pub written: u64,
    /// From asking to the answer.
    pub took: Latencies,
}

impl From<&Zone> for ZoneStatus {
    fn from(zone: &Zone) -> Self {
        let counts = zone.counts();
        let server = |(server, counts, fit): (&str, &OfServer, bool)| ZoneServerStatus {
            server: server.to_owned(),
            fit,
            asked: counts.asked.get(),
            hits: counts.hits.get(),
            misses: counts.misses.get(),
            refused: counts.refused.get(),
            failures: counts.failures.get(),
            written: counts.written.get(),
            took: (&counts.took).into(),
        };
        Self {
            servers: zone.servers().map(server).collect(),
            hedges: counts.hedges.get(),
            late: counts.late.get(),
            filled_chunks: counts.filled.get(),
            repaired_chunks: counts.repaired.get(),
            skipped_chunks: counts.skipped.get(),
            waited_chunks: counts.waited.get(),
            waited_in_vain: counts.waited_in_vain.get(),
        }
    }
}

impl ZoneStatus {
    /// What came since `before`.
    fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (now, before) in [
            (&mut since.hedges, before.hedges),
            (&mut since.late, before.late),
            (&mut since.filled_chunks, before.filled_chunks),
            (&mut since.repaired_chunks, before.repaired_chunks),
            (&mut since.skipped_chunks, before.skipped_chunks),
            (&mut since.waited_chunks, before.waited_chunks),
            (&mut since.waited_in_vain, before.waited_in_vain),
        ] {
            *now = now.saturating_sub(before);
        }
        for (now, before) in since.servers.iter_mut().zip(&before.servers) {
            for (now, before) in [
                (&mut now.asked, before.asked),
                (&mut now.hits, before.hits),
                (&mut now.misses, before.misses),
                (&mut now.refused, before.refused),
                (&mut now.failures, before.failures),
                (&mut now.written, before.written),
            ] {
                *now = now.saturating_sub(before);
            }
            now.took = now.took.since(&before.took);
        }
        since
    }
}

/// What is kept.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// What there is.
    pub bytes: u64,
    /// What there may be.
    pub max_bytes: u64,
}

impl From<(u64, u64)> for Held {
    fn from((bytes, max_bytes): (u64, u64)) -> Self {
        Self { bytes, max_bytes }
    }
}

/// How often something took how long.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Latencies {
    /// Upper bounds, in microseconds.
    pub bounds_micros: Vec<u64>,
    /// How often up to each bound, and behind them how often in all.
    pub counts: Vec<u64>,
    /// Of all.
    pub sum_micros: u64,
    /// What half took no longer than, as far as the bounds tell.
    pub p50_seconds: Option<f64>,
    /// What 99 of 100 took no longer than.
    pub p99_seconds: Option<f64>,
}

impl From<&Histogram> for Latencies {
    fn from(histogram: &Histogram) -> Self {
        let (counts, sum) = histogram.cumulated();
        Self::new(BOUNDS.to_vec(), counts.to_vec(), sum)
    }
}

impl Latencies {
    fn new(bounds_micros: Vec<u64>, counts: Vec<u64>, sum_micros: u64) -> Self {
        let at = |share| quantile(&bounds_micros, &counts, share);
        let (p50_seconds, p99_seconds) = (at(0.5), at(0.99));
        Self { bounds_micros, counts, sum_micros, p50_seconds, p99_seconds }
    }

    /// How often in all.
    #[must_use]
    pub fn all(&self) -> u64 {
        self.counts.last().copied().unwrap_or_default()
    }

    /// What came since `before`.
    fn since(&self, before: &Self) -> Self {
        let counts = self.counts.iter().zip(&before.counts).map(|(now, before)| now.saturating_sub(*before)).collect();
        Self::new(self.bounds_micros.clone(), counts, self.sum_micros.saturating_sub(before.sum_micros))
    }
}

/// In seconds, between the bounds in proportion, as PromQL's `histogram_quantile` has it.
fn quantile(bounds: &[u64], counts: &[u64], share: f64) -> Option<f64> {
    let rank = *counts.last().filter(|all| **all > 0)? as f64 * share;
    let at = counts.iter().position(|count| *count as f64 >= rank)?;
    let below = |list: &[u64]| at.checked_sub(1).and_then(|before| list.get(before)).map_or(0.0, |value| *value as f64);
    let Some(upper) = bounds.get(at) else { return bounds.last().map(|bound| *bound as f64 / 1e6) };
    let (lower, before) = (below(bounds), below(counts));
    let part = (rank - before) / (counts[at] as f64 - before).max(1.0);
    Some((lower + (*upper as f64 - lower) * part) / 1e6)
}

impl ImageStatus {
    /// Of a device that is called `name`.
    #[must_use]
    pub fn of(name: &str, device: &ChunkDevice) -> Self {
        let manifest = device.manifest();
        Self {
            name: name.to_owned(),
            root_digest: manifest.clear.root_digest.to_string(),
            chunks: manifest.sealed.chunks.len() as u64,
            fetched_chunks: device.fetched(),
        }
    }
}

impl Status {
    /// What `counts` say now.
    #[must_use]
    pub fn of(
        counts: &Counts,
        images: Vec<ImageStatus>,
        memory: Held,
        cache: Option<Held>,
        zone: Option<ZoneStatus>,
    ) -> Self {
        let tier = |place: Place| {
            let of = counts.of(place);
            TierStatus {
                tier: place.name().to_owned(),
                hits: of.hits.get(),
                misses: of.misses.get(),
                refused: of.refused.get(),
                bytes: of.bytes.get(),
                took: (&of.took).into(),
            }
        };
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            images,
            tiers: Place::ALL.into_iter().map(tier).collect(),
            origin: OriginStatus {
                requests: counts.requests.get(),
                in_flight: counts.in_flight.get(),
                failures: counts.failures.get(),
                hedges: counts.hedges.get(),
            },
            ahead_chunks: counts.ahead.get(),
            failed_reads: counts.failed_reads.get(),
            clients: counts.clients.get(),
            refused_clients: counts.refused_clients.get(),
            memory,
            cache,
            zone,
            exports: Vec::new(),
            sandbox: None,
        }
    }

    /// The same with what was counted since `before`; what is under way or kept stays as it is.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let mut since = self.clone();
        for (now, before) in since.tiers.iter_mut().zip(&before.tiers) {
            for (now, before) in [
                (&mut now.hits, before.hits),
                (&mut now.misses, before.misses),
                (&mut now.refused, before.refused),
                (&mut now.bytes, before.bytes),
            ] {
                *now = now.saturating_sub(before);
            }
            now.took = now.took.since(&before.took);
        }
        since.zone = self.zone.as_ref().zip(before.zone.as_ref()).map(|(now, before)| now.since(before));
        let (origin, then) = (&mut since.origin, &before.origin);
        for (now, before) in [
            (&mut origin.requests, then.requests),
            (&mut origin.failures, then.failures),
            (&mut origin.hedges, then.hedges),
            (&mut since.ahead_chunks, before.ahead_chunks),
            (&mut since.failed_reads, before.failed_reads),
            (&mut since.refused_clients, before.refused_clients),
        ] {
            *now = now.saturating_sub(before);
        }
        since
    }

    /// A tier's, by its name.
    #[must_use]
    pub fn tier(&self, place: Place) -> Option<&TierStatus> {
        self.tiers.iter().find(|tier| tier.tier == place.name())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn quantiles_lie_between_their_bounds() {
        let histogram = Histogram::default();
        assert_eq!(Latencies::from(&histogram).p50_seconds, None);
        (0..90).for_each(|_| histogram.note(Duration::from_micros(1500)));
        (0..10).for_each(|_| histogram.note(Duration::from_millis(40)));
        let latencies = Latencies::from(&histogram);
        // 50 of the 90 between 1 and 2.5 ms; 9 of the 10 between 25 and 50 ms.
        assert!((latencies.p50_seconds.unwrap() - 0.001_833).abs() < 1e-6, "{latencies:?}");
        assert!((latencies.p99_seconds.unwrap() - 0.047_5).abs() < 1e-6, "{latencies:?}");
        histogram.note(Duration::from_secs(100));
        assert_eq!(Latencies::from(&histogram).since(&latencies).p50_seconds, Some(30.0), "no bound is above it");
    }

    #[test]
    fn what_others_say_is_shown_without_a_panic() {
        for (bounds, counts) in
            [(vec![], vec![5]), (vec![1], vec![]), (vec![9, 3], vec![7, 2, 1]), (vec![1], vec![0, 0])]
        {
            let latencies = Latencies::new(bounds, counts, 0);
            let _ = latencies.since(&Latencies::new(vec![1, 2], vec![9, 9, 9], 9));
        }
    }
}

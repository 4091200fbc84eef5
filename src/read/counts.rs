//! What happened on the read path, counted: for metrics, `coldread status` and the budget of hedges.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::tier::Place;

/// A number that only grows, or one of what is under way.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self, more: u64) {
        self.0.fetch_add(more, Ordering::Relaxed);
    }

    /// One that was under way ended.
    pub fn end(&self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }

    /// What it is now.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the latencies that are counted together, in microseconds; what took longer is counted behind them.
pub const BOUNDS: [u64; 15] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 5_000_000,
    30_000_000,
];

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [Count; BOUNDS.len() + 1],
    micros: Count,
}

impl Histogram {
    /// It took `took` once more.
    pub fn note(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let at = BOUNDS.iter().position(|bound| micros <= *bound).unwrap_or(BOUNDS.len());
        self.counts[at].add(1);
        self.micros.add(micros);
    }

    /// How often up to each bound, the last being all, and their sum in microseconds.
    #[must_use]
    pub fn cumulated(&self) -> ([u64; BOUNDS.len() + 1], u64) {
        let mut all = 0;
        let counts = std::array::from_fn(|at| {
            all += self.counts[at].get();
            all
        });
        (counts, self.micros.get())
    }
}

/// Of one tier.
#[derive(Debug, Default)]
pub struct OfTier {
    /// Chunks that it had; of the memory, reads.
    pub hits: Count,
    /// Chunks that it did not have.
    pub misses: Count,
    /// Chunks from it that were not true.
    pub refused: Count,
    /// Sealed bytes from it.
    pub bytes: Count,
    /// From asking for a chunk to having it opened.
    pub took: Histogram,
}

/// Of one process.
#[derive(Debug, Default)]
pub struct Counts {
    tiers: [OfTier; Place::ALL.len()],
    /// Requests to the origin, hedges and repetitions among them.
    pub requests: Count,
    /// Those under way.
    pub in_flight: Count,
    /// Second requests for what took long.
    pub hedges: Count,
    /// Requests that failed.
    pub failures: Count,
    /// Chunks fetched before they were asked for.
    pub ahead: Count,
    /// Reads that were answered with an error.
    pub failed_reads: Count,
    /// Clients that are connected to exports.
    pub clients: Count,
    /// Clients that were refused because there were too many, or no thread for them.
    pub refused_clients: Count,
}

impl Counts {
    /// Those of a tier.
    #[must_use]
    pub fn of(&self, place: Place) -> &OfTier {
        &self.tiers[place as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_counted_up_to_their_bounds() {
        let histogram = Histogram::default();
        [0, 100, 101, 30_000_000, 40_000_000]
            .into_iter()
            .for_each(|micros| histogram.note(Duration::from_micros(micros)));
        let (counts, sum) = histogram.cumulated();
        assert_eq!((counts[0], counts[1], counts[13], counts[14], counts[15]), (2, 3, 3, 4, 5));
        assert_eq!(sum, 70_000_201);
    }
}

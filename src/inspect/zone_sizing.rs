//! How large a zone's cache should be: the larger of what costs least and what is fast enough.
//!
//! A trace is run through an LRU cache of every size at once, by the bytes of other chunks that were asked for since a chunk was asked for last
//! (Mattson et al., 1970): it is a hit where the cache holds as many. A larger cache costs memory and spares requests to the store.

use serde::Serialize;

use crate::zone::trace::{Asked, LATEST};
use crate::{Error, ErrorKind, Result};

/// Milliseconds of a month of 30 days.
const MONTH: f64 = 30.0 * 24.0 * 3600.0 * 1000.0;
const GIB: f64 = 1_073_741_824.0;
/// Sizes that are looked at, from the smallest to one that holds all.
const SIZES: u32 = 32;

/// What things cost, and how long they take.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Prices {
    /// Of a GiB of cache memory for a month.
    pub memory_gib_month: f64,
    /// Of a thousand requests to the store.
    pub thousand_requests: f64,
    /// Of a GiB from the store.
    pub transfer_gib: f64,
    /// Bytes of memory for a byte of chunks: 1.5 for 4+2.
    pub overhead: f64,
    /// A chunk from the zone, in milliseconds.
    pub zone_millis: f64,
    /// A chunk from the store, in milliseconds.
    pub origin_millis: f64,
    /// What a chunk may take on the average, in milliseconds.
    pub goal_millis: f64,
}

/// One size.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Size {
    /// Bytes of sealed chunks that the zone holds.
    pub bytes: u64,
    /// Bytes of memory that takes, of all servers.
    pub memory_bytes: u64,
    /// Of what was asked for, by number.
    pub hit_rate: f64,
    /// Memory, requests and transfer, a month.
    pub cost_month: f64,
    /// Of a chunk, on the average.
    pub latency_millis: f64,
}

/// What a trace comes to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plan {
    /// Chunks asked for.
    pub asked: usize,
    /// Distinct ones.
    pub chunks: usize,
    /// From the first to the last, in milliseconds.
    pub span_millis: u64,
    /// The same prices for all.
    pub prices: Prices,
    /// From the smallest.
    pub sizes: Vec<Size>,
    /// The number of that which costs least.
    pub for_cost: usize,
    /// The number of the smallest that is fast enough, where one is.
    pub for_latency: Option<usize>,
}

impl Plan {
    /// Of what was asked for, in the order of time.
    ///
    /// # Errors
    /// `Input` where that is nothing.
    pub fn of(trace: &[Asked], prices: Prices) -> Result<Self> {
        let (first, last) =
            trace.first().zip(trace.last()).ok_or_else(|| Error::new(ErrorKind::Input, "the trace has no requests"))?;
        let (distances, total) = distances(trace);
        let span_millis = (last.millis - first.millis).max(1);
        let chunks = trace.len() - distances.len();
        let smallest = trace.iter().map(|asked| u64::from(asked.bytes)).max().unwrap_or(1);
        let sizes: Vec<Size> = sizes(smallest, total.max(smallest))
            .map(|bytes| size(bytes, trace, &distances, span_millis, &prices))
            .collect();
        let cheaper = |a: &usize, b: &usize| sizes[*a].cost_month.total_cmp(&sizes[*b].cost_month);
        let for_cost = (0..sizes.len()).min_by(cheaper).unwrap_or(0);
        let for_latency = sizes.iter().position(|size| size.latency_millis <= prices.goal_millis);
        Ok(Self { asked: trace.len(), chunks, span_millis, prices, sizes, for_cost, for_latency })
    }

    /// The one to take: the larger of the two; that for cost where none is fast enough.
    #[must_use]
    pub fn chosen(&self) -> usize {
        self.for_cost.max(self.for_latency.unwrap_or(0))
    }
}

/// Sizes between two, each larger than the last by the same factor.
fn sizes(smallest: u64, largest: u64) -> impl Iterator<Item = u64> {
    let factor = (largest as f64 / smallest as f64).powf(1.0 / f64::from(SIZES - 1));
    let mut last = 0;
    (0..SIZES).filter_map(move |step| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between two sizes")]
        let size = if step + 1 == SIZES { largest } else { (smallest as f64 * factor.powf(step.into())) as u64 };
        let grows = size > last;
        last = last.max(size);
        grows.then_some(size)
    })
}

fn size(bytes: u64, trace: &[Asked], distances: &[(u64, u32)], span: u64, prices: &Prices) -> Size {
    let hits = distances.partition_point(|(distance, _)| *distance <= bytes);
    let all_bytes: u64 = trace.iter().map(|asked| u64::from(asked.bytes)).sum();
    let hit_bytes: u64 = distances[..hits].iter().map(|(_, bytes)| u64::from(*bytes)).sum();
    let hit_rate = hits as f64 / trace.len() as f64;
    let months = span as f64 / MONTH;
    let requests = (trace.len() - hits) as f64 / months;
    let moved = (all_bytes - hit_bytes) as f64 / GIB / months;
    let memory = bytes as f64 * prices.overhead;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes of memory")]
    let memory_bytes = memory as u64;
    Size {
        bytes,
        memory_bytes,
        hit_rate,
        cost_month: memory / GIB * prices.memory_gib_month
            + requests / 1000.0 * prices.thousand_requests
            + moved * prices.transfer_gib,
        latency_millis: hit_rate * prices.zone_millis + (1.0 - hit_rate) * prices.origin_millis,
    }
}

/// Of each chunk that was asked for again, the least cache that would have had it, and its bytes, the least in front; and the bytes of all
/// distinct chunks.
fn distances(trace: &[Asked]) -> (Vec<(u64, u32)>, u64) {
    let chunks = trace.iter().map(|asked| asked.chunk as usize).max().map_or(0, |most| most + 1);
    // When each was asked for last, and what lies there.
    let mut last: Vec<Option<usize>> = vec![None; chunks];
    let mut sums = Sums(vec![0; trace.len() + 1]);
    let (mut distances, mut total) = (Vec::new(), 0);
    for (at, asked) in trace.iter().enumerate() {
        let bytes = u64::from(asked.bytes);
        match last[asked.chunk as usize].replace(at) {
            Some(before) => {
                let old = u64::from(trace[before].bytes);
                distances.push((sums.up_to(at) - sums.up_to(before + 1) + bytes, asked.bytes));
                sums.change(before, old, false);
                total = total - old + bytes;
            }
            None => total += bytes,
        }
        sums.change(at, bytes, true);
    }
    distances.sort_unstable();
    (distances, total)
}

/// Sums of what stands before a place (Fenwick, 1994).
struct Sums(Vec<u64>);

impl Sums {
    fn change(&mut self, place: usize, value: u64, more: bool) {
        let mut at = place + 1;
        while at < self.0.len() {
            self.0[at] = if more { self.0[at] + value } else { self.0[at] - value };
            at += at & at.wrapping_neg();
        }
    }

    fn up_to(&self, place: usize) -> u64 {
        let (mut at, mut sum) = (place, 0);
        while at > 0 {
            sum += self.0[at];
            at &= at - 1;
        }
        sum
    }
}

/// A trace that nobody recorded.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Made {
    /// Chunks by popularity: the n-th is asked for in proportion to n^-exponent, at random times.
    Zipf {
        /// Distinct chunks.
        chunks: u32,
        /// How steep.
        exponent: f64,
        /// In all.
        asked: u32,
    },
    /// Jobs that begin together, each reading all its chunks, every so often: what LRU likes least.
    Cron {
        /// Distinct chunks.
        chunks: u32,
        /// Milliseconds between two scans.
        every: u64,
        /// How many.
        scans: u32,
    },
}

impl std::str::FromStr for Made {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let parsed = || {
            let (kind, numbers) = text.split_once(':')?;
            let mut numbers = numbers.split(',');
            let made = match kind {
                "zipf" => Self::Zipf {
                    chunks: numbers.next()?.parse().ok()?,
                    exponent: numbers.next()?.parse().ok().filter(|exponent: &f64| (0.0..=8.0).contains(exponent))?,
                    asked: numbers.next()?.parse().ok()?,
                },
                "cron" => Self::Cron {
                    chunks: numbers.next()?.parse().ok()?,
                    every: numbers.next()?.parse::<u32>().ok().map(|seconds| u64::from(seconds) * 1000)?,
                    scans: numbers.next()?.parse().ok()?,
                },
                _ => return None,
            };
            let bounded = match made {
                Self::Zipf { chunks, asked, .. } => chunks > 0 && chunks <= MADE && asked <= MADE,
                Self::Cron { chunks, scans, every } => {
                    let asked = u64::from(chunks) * u64::from(scans);
                    (1..=u64::from(MADE)).contains(&asked) && every.saturating_mul(scans.into()) <= LATEST
                }
            };
            (bounded && numbers.next().is_none()).then_some(made)
        };
        parsed().ok_or_else(|| {
            format!(
                "`{text}` is not a synthetic trace; use zipf:CHUNKS,EXPONENT,REQUESTS over a day or cron:CHUNKS,SECONDS,SCANS, of {MADE} requests at most"
            )
        })
    }
}

/// Most requests of a made trace.
const MADE: u32 = 50_000_000;
/// Bytes of a made chunk.
const CHUNK: u32 = 256 << 10;
/// Milliseconds that a made trace by popularity takes.
const DAY: u64 = 24 * 3600 * 1000;

impl Made {
    /// What is asked for; the same for the same `seed`. Its chunks are numbered from `first` on.
    #[must_use]
    pub fn trace(self, seed: u64, first: u32) -> Vec<Asked> {
        match self {
            Self::Zipf { chunks, exponent, asked } => {
                let mut sums: Vec<f64> = Vec::new();
                (1..=chunks).fold(0.0, |sum, n| {
                    sums.push(sum + f64::from(n).powf(-exponent));
                    sums[sums.len() - 1]
                });
                let all = sums.last().copied().unwrap_or(1.0);
                let mut random = Random(seed);
                (0..u64::from(asked))
                    .map(|n| {
                        let at = sums.partition_point(|sum| *sum < random.next() * all);
                        let chunk = first + u32::try_from(at).unwrap_or(u32::MAX).min(chunks - 1);
                        Asked { millis: n * DAY / u64::from(asked), chunk, bytes: CHUNK }
                    })
                    .collect()
            }
            Self::Cron { chunks, every, scans } => (0..scans)
                .flat_map(|scan| {
                    (0..chunks).map(move |chunk| Asked {
                        millis: u64::from(scan) * every + u64::from(chunk),
                        chunk: first + chunk,
                        bytes: CHUNK,
                    })
                })
                .collect(),
        }
    }

    /// Its distinct chunks.
    #[must_use]
    pub fn chunks(self) -> u32 {
        match self {
            Self::Zipf { chunks, .. } | Self::Cron { chunks, .. } => chunks,
        }
    }
}

/// Numbers between 0 and 1 that look like chance (SplitMix64; Steele et al., 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ z >> 31) >> 11) as f64 / (1u64 << 53) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    const PRICES: Prices = Prices {
        memory_gib_month: 3.0,
        thousand_requests: 0.0004,
        transfer_gib: 0.0,
        overhead: 1.5,
        zone_millis: 1.0,
        origin_millis: 30.0,
        goal_millis: 5.0,
    };

    /// An LRU cache as one would write it.
    fn hits(trace: &[Asked], size: u64) -> usize {
        let mut held: VecDeque<Asked> = VecDeque::new();
        let mut hits = 0;
        for asked in trace {
            if let Some(at) = held.iter().position(|held| held.chunk == asked.chunk) {
                held.remove(at);
                hits += 1;
            }
            held.push_back(*asked);
            while held.iter().map(|held| u64::from(held.bytes)).sum::<u64>() > size {
                held.pop_front();
            }
        }
        hits
    }

    #[test]
    fn every_size_has_the_hits_of_a_plain_lru() {
        let trace = Made::Zipf { chunks: 60, exponent: 0.8, asked: 3000 }.trace(7, 0);
        let plan = Plan::of(&trace, PRICES).unwrap();
        assert!(plan.sizes.len() > 10);
        for size in &plan.sizes {
            let want = hits(&trace, size.bytes) as f64 / trace.len() as f64;
            assert!((size.hit_rate - want).abs() < 1e-12, "{size:?}, {want}");
        }
        assert_eq!(plan.chunks, hits(&trace, u64::MAX).abs_diff(trace.len()));
    }

    #[test]
    fn scans_are_hits_only_where_all_of_them_fit() {
        let trace = Made::Cron { chunks: 100, every: 3_600_000, scans: 10 }.trace(0, 0);
        let plan = Plan::of(&trace, PRICES).unwrap();
        let rates: Vec<f64> = plan.sizes.iter().map(|size| size.hit_rate).collect();
        let (last, before) = rates.split_last().unwrap();
        assert!((last - 0.9).abs() < 1e-12 && before.iter().all(|rate| *rate == 0.0), "{rates:?}");
        assert_eq!(plan.for_latency, Some(plan.sizes.len() - 1));
        assert_eq!(plan.chosen(), plan.sizes.len() - 1);
    }

    #[test]
    fn the_larger_of_both_is_taken() {
        let trace = Made::Zipf { chunks: 1000, exponent: 1.0, asked: 20_000 }.trace(1, 0);
        let dear = Plan::of(&trace, Prices { memory_gib_month: 1e9, ..PRICES }).unwrap();
        assert_eq!(dear.for_cost, 0);
        assert!(dear.chosen() > 0 && Some(dear.chosen()) == dear.for_latency);
        let cheap = Plan::of(&trace, Prices { memory_gib_month: 0.0, ..PRICES }).unwrap();
        assert!(cheap.chosen() >= cheap.for_latency.unwrap());
        assert!(Plan::of(&[], PRICES).is_err());
    }

    #[test]
    fn made_traces_are_read() {
        assert_eq!("zipf:10,1.1,100".parse(), Ok(Made::Zipf { chunks: 10, exponent: 1.1, asked: 100 }));
        assert_eq!("cron:10,60,5".parse(), Ok(Made::Cron { chunks: 10, every: 60_000, scans: 5 }));
        for bad in
            ["", "zipf", "zipf:0,1,1", "zipf:1,x,1", "zipf:1,-1,1", "cron:1,1", "cron:4000000000,1,2", "cron:1,1,1,1"]
        {
            assert!(bad.parse::<Made>().is_err(), "{bad}");
        }
    }
}

//! Which servers hold a chunk's shards: those that rank first for its id, by rendezvous hashing (Thaler and Ravishankar, 1998).
//!
//! Hosts that name the same servers agree, whatever their order, without asking anyone. A server that comes or goes moves only the shards
//! that it has: which of a chunk's shards lies at a place is told by the shard, so those of the other servers stay where they are.

use crate::crypto::shard_seal::ZoneId;
use crate::digest::{Sha256, Sha256Hasher};

/// Where a shard lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The server's number.
    pub server: usize,
    /// How many of the chunk lie there before it: not 0 only where there are fewer servers than shards.
    pub round: usize,
}

/// A server by its name, as all hosts give it.
#[derive(Clone)]
pub struct Seed(Sha256Hasher);

impl Seed {
    /// Of the server called `name`.
    #[must_use]
    pub fn of(name: &str) -> Self {
        let mut hasher = Sha256Hasher::new();
        hasher.update(Sha256::of(name.as_bytes()).as_bytes());
        Self(hasher)
    }

    fn score(&self, id: ZoneId) -> [u8; 32] {
        let mut hasher = self.0.clone();
        hasher.update(id.as_bytes());
        *hasher.finish().as_bytes()
    }
}

/// The numbers of `seeds`, that which ranks first for `id` in front.
#[must_use]
pub fn ranked(seeds: &[Seed], id: ZoneId) -> Vec<usize> {
    let mut scored: Vec<([u8; 32], usize)> =
        seeds.iter().enumerate().map(|(number, seed)| (seed.score(id), number)).collect();
    scored.sort_unstable();
    scored.into_iter().map(|(_, number)| number).collect()
}

/// Where `shards` shards of `id` lie: no two on one server while there are enough.
#[must_use]
pub fn places(seeds: &[Seed], id: ZoneId, shards: usize) -> Vec<Place> {
    let ranked = ranked(seeds, id);
    (0..shards).map(|at| Place { server: ranked[at % ranked.len()], round: at / ranked.len() }).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::crypto::ChunkKey;
    use crate::crypto::shard_seal::ShardSeal;

    const SHARDS: usize = 6;
    const CHUNKS: u64 = 10_000;

    fn seeds(count: usize) -> Vec<Seed> {
        (0..count).map(|number| Seed::of(&format!("cache-{number}.zone:6379"))).collect()
    }

    fn id(chunk: u64) -> ZoneId {
        ShardSeal::of(&ChunkKey::from_bytes(*Sha256::of(&chunk.to_le_bytes()).as_bytes())).id()
    }

    fn servers(seeds: &[Seed], chunk: u64) -> BTreeSet<usize> {
        places(seeds, id(chunk), SHARDS).iter().map(|place| place.server).collect()
    }

    #[test]
    fn a_ninth_server_moves_its_share() {
        let (eight, nine) = (seeds(8), seeds(9));
        let moved: usize =
            (0..CHUNKS).map(|chunk| servers(&nine, chunk).difference(&servers(&eight, chunk)).count()).sum();
        let share = moved as f64 / (CHUNKS as f64 * SHARDS as f64);
        assert!((0.9 / 9.0..=1.3 / 9.0).contains(&share), "{:.3} ninths", share * 9.0);
    }

    #[test]
    fn eight_servers_carry_alike() {
        let seeds = seeds(8);
        let mut carried = [0u32; 8];
        (0..CHUNKS).for_each(|chunk| servers(&seeds, chunk).iter().for_each(|server| carried[*server] += 1));
        let mean = CHUNKS as f64 * SHARDS as f64 / 8.0;
        let fullest = f64::from(*carried.iter().max().unwrap());
        assert!(fullest <= mean * 1.1, "{carried:?}");
    }

    #[test]
    fn servers_hold_one_shard_each_while_there_are_enough() {
        for count in 1..=8 {
            let seeds = seeds(count);
            let places = places(&seeds, id(1), SHARDS);
            assert_eq!(servers(&seeds, 1).len(), count.min(SHARDS));
            let distinct: BTreeSet<(usize, usize)> = places.iter().map(|place| (place.server, place.round)).collect();
            assert_eq!(distinct.len(), SHARDS);
        }
    }

    #[test]
    fn the_order_in_which_servers_are_named_does_not_matter() {
        let mut names: Vec<String> = (0..8).map(|number| format!("cache-{number}:6379")).collect();
        let of = |names: &[String], chunk| {
            let seeds: Vec<Seed> = names.iter().map(|name| Seed::of(name)).collect();
            ranked(&seeds, id(chunk)).iter().map(|number| names[*number].clone()).collect::<Vec<_>>()
        };
        let before: Vec<_> = (0..100).map(|chunk| of(&names, chunk)).collect();
        names.reverse();
        assert_eq!(before, (0..100).map(|chunk| of(&names, chunk)).collect::<Vec<_>>());
    }
}

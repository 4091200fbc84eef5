//! A deterministic simulation of the read path: the real devices, flights, caches and requests, run by the scheduler of
//! [`crate::sync`] against a simulated store, with failures between any two steps.
//!
//! A seed decides the world, its faults and the schedule. In every simulation must hold: no read gives a wrong byte; none ends later than its
//! deadline; while one fetch of a chunk from the store is under way, nobody who shares it begins another; a read fails only if
//! something went wrong; after the last fault, everything can be read (docs/design.md, "Simulation of the read path").

mod disk;
mod image;
mod plan;
mod reader;
mod store;
mod world;

use std::time::{Duration, Instant};

/// Steps of `make test`.
const STEPS: u64 = 1_000_000;

#[expect(clippy::disallowed_methods, reason = "a seed to repeat, or how long to search")]
fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}: not a number")))
}

fn run(seed: u64) -> crate::sync::scheduler::Report {
    world::run(seed).unwrap_or_else(|failure| panic!("{failure}"))
}

/// `COLDPRESS_SEED` runs that seed alone; `COLDPRESS_SIMULATE` searches for so many minutes from a random seed on.
#[test]
#[expect(clippy::print_stdout, reason = "it says how much was simulated")]
fn a_million_steps_of_readers_violate_nothing() {
    if let Some(seed) = number("COLDPRESS_SEED") {
        println!("{:?}", run(seed));
        return;
    }
    let minutes = number("COLDPRESS_SIMULATE");
    let begun = Instant::now();
    let first = minutes.map_or(0, |_| u64::from(u32::from_le_bytes(crate::random::random_bytes().unwrap())) << 20);
    let (mut steps, mut time, mut seeds) = (0, Duration::ZERO, 0);
    for seed in first.. {
        let report = run(seed);
        steps += report.steps;
        time += report.time;
        seeds += 1;
        let is_enough = match minutes {
            Some(minutes) => begun.elapsed() >= Duration::from_secs(60 * minutes),
            None => steps >= STEPS,
        };
        if is_enough {
            break;
        }
    }
    println!(
        "{steps} steps of {seeds} simulations, {} simulated hours, in {:.1?}",
        time.as_secs() / 3600,
        begun.elapsed()
    );
}

#[test]
fn a_seed_gives_the_same_simulation_twice() {
    for seed in 1_000..1_010 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

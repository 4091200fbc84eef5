//! Whether a store still has what manifests name: each object is there and its bytes hash to its name. No key is needed, and
//! nothing is opened.

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::crypto::convergent::MAX_SEALED;
use crate::digest::Sha256;
use crate::progress::{Progress, Stage};
use crate::store::{Get, ObjectName, RootId};
use crate::threads::side_by_side;
use crate::{CHUNK_SIZE, ErrorKind, Result};

/// Objects between two notes of how far it came.
const STRIDE: usize = 256;

/// Which part of the objects is looked at: each object with the same chance, another part for another seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sample {
    /// Of 2^32.
    pub share: u64,
    /// Another one picks other objects.
    pub seed: u64,
}

impl Sample {
    /// All of them.
    pub const WHOLE: Self = Self { share: 1 << 32, seed: 0 };

    fn takes(self, name: Sha256) -> bool {
        let digest = Sha256::of(&[&self.seed.to_le_bytes()[..], name.as_bytes()].concat());
        let [a, b, c, d, ..] = *digest.as_bytes();
        u64::from(u32::from_le_bytes([a, b, c, d])) < self.share
    }
}

/// What is to be looked at, and how.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The objects, ascending.
    pub objects: Vec<(RootId, Sha256)>,
    /// Most bytes a second.
    pub rate: Option<u64>,
    /// At least so many threads.
    pub threads: usize,
}

impl Plan {
    /// The objects that `names` name and `sample` takes, each once.
    #[must_use]
    pub fn objects(names: impl IntoIterator<Item = (RootId, Sha256)>, sample: Sample) -> Vec<(RootId, Sha256)> {
        let names: BTreeSet<_> = names.into_iter().filter(|(_, name)| sample.takes(*name)).collect();
        names.into_iter().collect()
    }
}

/// What was found so far.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Scrubbed {
    /// Objects looked at: the first so many of the plan.
    pub checked: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that are not there; where nothing may be listed, or that are refused.
    pub missing: Vec<String>,
    /// Objects whose bytes are not what their name promises, twice.
    pub damaged: Vec<String>,
}

impl Scrubbed {
    /// Whether it can be what was found of a plan with so many objects: notes come from outside.
    #[must_use]
    pub fn can_be_of(&self, objects: usize) -> bool {
        self.checked <= objects && self.missing.len() + self.damaged.len() <= self.checked
    }
}

/// Whether the object still is damaged: it may have been deleted and put again since it was found.
///
/// # Errors
/// `Unavailable` where the store cannot be asked.
pub fn is_damaged(store: &dyn Get, object: &ObjectName, name: Sha256) -> Result<bool> {
    Ok(matches!(look_at(store, object, name)?, State::Damaged))
}

enum State {
    Good(u64),
    Missing,
    Damaged,
}

/// Looks at the objects of `plan` behind those that `so_far` counts, and calls `note` now and then with how far it came.
///
/// # Errors
/// `Unavailable` where the store cannot be asked; those of `note`.
pub fn scrub(
    plan: &Plan,
    store: &dyn Get,
    mut so_far: Scrubbed,
    progress: &dyn Progress,
    note: &mut dyn FnMut(&Scrubbed) -> Result<()>,
) -> Result<Scrubbed> {
    progress.begin(Stage::Fetch, plan.objects.len() as u64 * u64::from(CHUNK_SIZE));
    progress.advance(Stage::Fetch, so_far.checked as u64 * u64::from(CHUNK_SIZE));
    let (started, before) = (Instant::now(), so_far.bytes);
    while so_far.checked < plan.objects.len() {
        let end = plan.objects.len().min(so_far.checked + STRIDE);
        let stride = &plan.objects[so_far.checked..end];
        let states = look_at_all(stride, plan, store, progress, (started, so_far.bytes - before))?;
        for ((root, name), state) in stride.iter().zip(states) {
            let object = || ObjectName::chunk(root, *name).to_string();
            match state {
                State::Good(bytes) => so_far.bytes += bytes,
                State::Missing => so_far.missing.push(object()),
                State::Damaged => so_far.damaged.push(object()),
            }
        }
        so_far.checked = end;
        note(&so_far)?;
    }
    progress.end(Stage::Fetch);
    Ok(so_far)
}

fn look_at_all(
    objects: &[(RootId, Sha256)],
    plan: &Plan,
    store: &dyn Get,
    progress: &dyn Progress,
    (started, before): (Instant, u64),
) -> Result<Vec<State>> {
    let (next, results, read) = (AtomicUsize::new(0), Mutex::new(Vec::new()), Mutex::new(before));
    side_by_side(plan.threads.max(store.in_flight()).min(objects.len()), || {
        while let at = next.fetch_add(1, Ordering::Relaxed)
            && let Some((root, name)) = objects.get(at)
        {
            let state = look_at(store, &ObjectName::chunk(root, *name), *name);
            let bytes = if let Ok(State::Good(bytes)) = state { bytes } else { 0 };
            if state.is_err() {
                next.store(objects.len(), Ordering::Relaxed);
            }
            progress.advance(Stage::Fetch, CHUNK_SIZE.into());
            results.lock().expect("no thread panics with it").push((at, state));
            let total = {
                let mut read = read.lock().expect("no thread panics with it");
                *read += bytes;
                *read
            };
            if let Some(rate) = plan.rate {
                std::thread::sleep(time_for(total, rate).saturating_sub(started.elapsed()));
            }
        }
    });
    let mut results = results.into_inner().expect("no thread panics with it");
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, state)| state).collect()
}

/// How long `bytes` take at `rate` bytes a second.
#[expect(clippy::cast_precision_loss, reason = "a rate is kept about")]
fn time_for(bytes: u64, rate: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / rate as f64)
}

fn look_at(store: &dyn Get, object: &ObjectName, name: Sha256) -> Result<State> {
    // A byte may change on its way; what is damaged is so twice.
    for _ in 0..2 {
        match store.get(object, MAX_SEALED as u64) {
            Ok(bytes) if Sha256::of(&bytes) == name => return Ok(State::Good(bytes.len() as u64)),
            Ok(_) => {}
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::Denied => return Ok(State::Missing),
                ErrorKind::Corrupt => {}
                _ => return Err(error),
            },
        }
    }
    Ok(State::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_takes_its_share_and_another_seed_takes_others() {
        let names: Vec<Sha256> = (0..20_000u32).map(|n| Sha256::of(&n.to_le_bytes())).collect();
        let taken = |share, seed| {
            let sample = Sample { share, seed };
            names.iter().filter(|name| sample.takes(**name)).copied().collect::<BTreeSet<_>>()
        };
        assert_eq!(taken(1 << 32, 3).len(), names.len());
        assert_eq!(taken(0, 3).len(), 0);
        let (one, two) = (taken((1 << 32) / 100, 1), taken((1 << 32) / 100, 2));
        assert!((140..260).contains(&one.len()), "{}", one.len());
        assert!(one.intersection(&two).count() < 15);
        assert_eq!(one, taken((1 << 32) / 100, 1));
    }

    #[test]
    fn a_note_that_cannot_be_is_told() {
        let found = |checked, missing: usize| Scrubbed {
            checked,
            missing: vec![String::new(); missing],
            ..Scrubbed::default()
        };
        assert!(found(5, 5).can_be_of(5));
        assert!(!found(6, 0).can_be_of(5));
        assert!(!found(3, 4).can_be_of(5));
    }

    #[test]
    fn a_rate_is_kept() {
        assert_eq!(time_for(10 << 20, 5 << 20), Duration::from_secs(2));
        assert_eq!(time_for(1, 2), Duration::from_millis(500));
    }
}

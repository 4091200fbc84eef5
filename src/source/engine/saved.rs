//! The layers of an image that an engine has: asked for when one is first read, and again where the connection is lost.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use super::api::{Api, Failure};
use super::pass::Pass;
use crate::digest::Sha256;
use crate::source::spool::{Fetch, Spool};
use crate::source::{ImageConfig, Limits, Platform, oci_layout};
use crate::{Error, ErrorKind, Result};

/// Waits before the stream is asked for again; then it is given up.
const WAITS: [Duration; 2] = [Duration::from_millis(500), Duration::from_secs(2)];

/// What an engine says of an image's config before it sends the image.
#[derive(PartialEq, Eq)]
pub(super) enum Told {
    Whole(ImageConfig),
    /// podman leaves out health checks and shells.
    Partly,
}

/// The layers of an image, on their way from an engine.
pub(in crate::source) struct Saved {
    api: Api,
    id: String,
    /// As the config has them.
    diff_ids: Vec<Sha256>,
    /// Of each distinct one, in the order of their numbers.
    spools: Vec<(Sha256, Arc<Spool>)>,
    platform: Option<Platform>,
    told: Told,
    /// As it came with the layers.
    config: OnceLock<ImageConfig>,
    temp: PathBuf,
    max_size: u64,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: BTreeSet<usize>,
    running: bool,
}

impl Saved {
    pub(super) fn new(
        api: Api,
        id: String,
        diff_ids: &[Sha256],
        told: Told,
        platform: Option<&Platform>,
        limits: Limits<'_>,
    ) -> Self {
        let distinct: BTreeSet<Sha256> = diff_ids.iter().copied().collect();
        Self {
            api,
            id,
            diff_ids: diff_ids.to_vec(),
            spools: distinct.into_iter().map(|diff_id| (diff_id, Spool::new(limits.temp, None))).collect(),
            platform: platform.cloned(),
            told,
            config: OnceLock::new(),
            temp: limits.temp.to_owned(),
            max_size: limits.max_size,
            state: Mutex::default(),
        }
    }

    /// The number of a layer, and where its bytes come to.
    pub(super) fn layer(&self, diff_id: Sha256) -> (usize, Arc<Spool>) {
        let number = self.spools.binary_search_by_key(&diff_id, |(found, _)| *found).expect("it is one of the image's");
        (number, Arc::clone(&self.spools[number].1))
    }

    /// The image's config; where the engine tells it only with the layers, and none was read, it is asked for them.
    pub(in crate::source) fn config(&self) -> Result<&ImageConfig> {
        if let Told::Whole(config) = &self.told {
            return Ok(config);
        }
        if self.config.get().is_none() {
            self.attempts(&[])?;
        }
        Ok(self.config.get().expect("an attempt that succeeds leaves it"))
    }

    /// Streams until nothing is wanted.
    fn run(&self) {
        while let Some(wanted) = self.missing() {
            let result = self.attempts(&wanted);
            for (_, spool) in wanted.iter().filter(|(_, spool)| !spool.ended()) {
                // An error cannot be given to several.
                spool.end(
                    result.as_ref().map_or_else(|error| Err(Error::new(error.kind(), error.chain())), |()| Ok(())),
                );
            }
        }
    }

    /// What is wanted and did not come; where that is nothing, the next to want something starts anew.
    fn missing(&self) -> Option<Vec<(Sha256, Arc<Spool>)>> {
        let mut state = self.state();
        let wanted = state.wanted.iter().map(|number| &self.spools[*number]);
        let missing: Vec<_> = wanted.filter(|(_, spool)| !spool.ended()).cloned().collect();
        state.running = !missing.is_empty();
        state.running.then_some(missing)
    }

    fn attempts(&self, wanted: &[(Sha256, Arc<Spool>)]) -> Result<()> {
        let mut waits = WAITS.iter();
        loop {
            match (self.attempt(wanted), waits.next()) {
                (Err(Failure::Again(_)), Some(wait)) => std::thread::sleep(*wait),
                (result, _) => return result.map_err(Error::from),
            }
        }
    }

    fn attempt(&self, wanted: &[(Sha256, Arc<Spool>)]) -> Result<(), Failure> {
        let stream = self.api.save(&self.id)?;
        let within = |failure: Failure| failure.within(format!("engine at {}", self.api.name()));
        let pass = Pass::new(&self.diff_ids, wanted, &self.temp, self.max_size);
        let config = pass.read(stream).map_err(within)?;
        let _ = oci_layout::check_platform(&config, self.platform.as_ref()).map_err(Failure::Final)?;
        if matches!(&self.told, Told::Whole(told) if !told.is_of_same_image(&config)) {
            let message =
                format!("engine at {}: the image config changed while the image was exported", self.api.name());
            return Err(Failure::Final(Error::new(ErrorKind::Corrupt, message)));
        }
        // The first is as good as a later one.
        let _ = self.config.set(config);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }
}

impl fmt::Debug for Saved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Saved").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Fetch for Saved {
    fn want(self: Arc<Self>, number: usize) {
        self.state().wanted.insert(number);
    }

    fn begin(self: Arc<Self>) {
        if std::mem::replace(&mut self.state().running, true) {
            return;
        }
        let here = Arc::clone(&self);
        if let Err(error) = std::thread::Builder::new().name("engine".to_owned()).spawn(move || here.run()) {
            for (_, spool) in self.missing().into_iter().flatten() {
                spool
                    .end(Err(Error::new(ErrorKind::Unavailable, format!("a thread for the engine's stream: {error}"))));
            }
            self.state().running = false;
        }
    }
}

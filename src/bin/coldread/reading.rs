//! The read path as the command line wants it: tiers, bounds, what is fetched ahead, and what is noted.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use coldpress::Error;
use coldpress::manifest::OpenManifest;
use coldpress::observe::status::{ImageStatus, Status};
use coldpress::read::ChunkDevice;
use coldpress::read::counts::Counts;
use coldpress::read::device::{Arrival, Host, Observer};
use coldpress::read::disk_cache::{CachedTier, DiskCache};
use coldpress::read::fill::{FillRate, Filler};
use coldpress::read::gate::Gate;
use coldpress::read::learned::ProfileStore;
use coldpress::read::learning::{Learning, Startup};
use coldpress::read::memory::Memory;
use coldpress::read::origin::{Limits, Origin, REQUEST, Requests};
use coldpress::read::profile::{self, Recorder};
use coldpress::read::tier::Tier;
use coldpress::sandbox::User;
use coldpress::store::{Get, IN_FLIGHT, Settings, StoreUrl, open_get_later};
use coldpress::zone::trace::{Trace, TracedTier};
use coldpress::zone::{Zone, ZoneTier};

use crate::args::name_of;
use crate::commands::say;
use crate::sandbox::{Collected, Entered};
use crate::shared::failure::Failure;
use crate::shared::files::{read_profile, write_whole};
use crate::shared::keys::{StoreArgs, environment};
use crate::shared::manifests::{ManifestRef, Source};
use crate::shared::size::Size;
use crate::sockets::{Address, Socket};
use crate::telling;
use crate::zone::ZoneArgs;

/// Most chunks of a device that are fetched ahead at a time.
const AHEAD: usize = 16;

/// How images are read.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Cache and store access")]
pub struct ReadArgs {
    /// Disk cache directory [default: that of the service, the host or the user]
    ///
    /// Shared by all images and processes. Holds encrypted chunks, which are authenticated again when they are read. Accessible to this user only, limited by --cache-max, and safe
    /// to share and to delete. The default is $CACHE_DIRECTORY, which systemd sets for a service with CacheDirectory=, else
    /// /var/cache/coldread for root, else $XDG_CACHE_HOME/coldread or ~/.cache/coldread. A default that cannot be used is skipped with a warning;
    /// with --user there is none.
    #[arg(long, value_name = "DIR")]
    cache: Option<PathBuf>,

    /// Do not use a disk cache
    #[arg(long, conflicts_with = "cache", hide_short_help = true)]
    no_cache: bool,

    /// Maximum size of the --cache directory
    #[arg(long, value_name = "SIZE", default_value = "8GiB")]
    cache_max: Size,

    /// Maximum size of the memory cache
    ///
    /// Holds decrypted chunks of all images of the process.
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    memory: Size,

    /// Maximum number of concurrent requests to the store
    ///
    /// With --cache, the limit is shared by all processes that use the same directory.
    #[arg(long, value_name = "N", default_value_t = 64, hide_short_help = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    requests: u16,

    /// If the store is down: wait=DURATION or eio
    ///
    /// Retries for DURATION, then the read fails with EIO; eio is the same as wait=1s. A request without any answer times out after 10 more
    /// seconds.
    #[arg(long, value_name = "POLICY", default_value = "wait=60s")]
    on_origin_loss: OnLoss,

    /// Copy whole images into the disk cache: auto, off or RATE
    ///
    /// Happens in the background; RATE is in bytes per second. auto downloads as fast as three quarters of --requests allow, from the start on, and only while the cache has room without evicting anything.
    /// Reads of the image go first. Without a disk cache, nothing is copied.
    #[arg(long, value_name = "MODE", default_value = "auto", num_args = 0..=1, default_missing_value = "32MiB")]
    fill: Fill,

    /// Prefetch chunks that are near a read: auto or off
    ///
    /// auto fetches up to 16 chunks on each side of one that is read: the more of its neighbours were read, the more. It does so where the image
    /// is not being copied by --fill. Sequential readers and startup profiles are prefetched in any case.
    #[arg(long, value_name = "MODE", value_enum, default_value_t = Prefetch::Auto, hide_short_help = true)]
    prefetch: Prefetch,

    #[command(flatten)]
    zone: ZoneArgs,

    /// Record chunk requests to this file, for `coldread zone plan`
    #[arg(long, value_name = "FILE", help_heading = "Zone cache", hide_short_help = true)]
    trace: Option<PathBuf>,

    /// Prefetch this startup profile [default: MANIFEST.profile if it exists]
    #[arg(long, value_name = "FILE", help_heading = "Startup profile")]
    profile: Option<PathBuf>,

    /// Do not use a startup profile
    #[arg(long, conflicts_with = "profile", help_heading = "Startup profile", hide_short_help = true)]
    no_profile: bool,

    /// Do not learn from startups, and do not prefetch what earlier ones read
    ///
    /// Without this option, each startup is recorded until 5 seconds pass without a new chunk (60 seconds at most). The next startup of the image, or of
    /// another image with the same layers, prefetches the recorded chunks. Recordings are encrypted, and kept in the disk cache and on
    /// the cache servers of the zone. A startup profile that is attached or given is used instead.
    #[arg(long, help_heading = "Startup profile", hide_short_help = true)]
    no_learn: bool,

    /// Serve metrics for Prometheus, `coldread status` and `top` on this address
    ///
    /// unix:PATH, or tcp:IP:PORT on a loopback address. Prometheus text is at /metrics, JSON at /status.
    #[arg(long, value_name = "ADDRESS", help_heading = "Monitoring")]
    metrics: Option<Address>,

    /// Also accept --metrics requests for this host name (repeatable)
    ///
    /// Requests for IP addresses and localhost are always accepted. Other names are refused, so that no web page can read the metrics through a
    /// DNS name that resolves to this host.
    #[arg(long, value_name = "NAME", requires = "metrics", help_heading = "Monitoring", hide_short_help = true)]
    metrics_host: Vec<String>,

    /// Log chunks that took longer than this to fetch
    #[arg(long, value_name = "DURATION", default_value = "1s", help_heading = "Monitoring", hide_short_help = true)]
    slow: Wait,
}

/// A duration as people write it: 500ms, 60s, 1m30s, 1.5h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait(pub Duration);

/// The units of durations in nanoseconds, the largest first.
const DURATIONS: [(&str, u64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

impl FromStr for Wait {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("`{text}` is not a duration; use numbers with units, such as 500ms, 60s, 1m30s or 1h");
        let (mut rest, mut total, mut last) = (text, Duration::ZERO, u64::MAX);
        while !rest.is_empty() {
            let digits = rest.find(|letter: char| !letter.is_ascii_digit() && letter != '.').ok_or_else(error)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|letter: char| !letter.is_ascii_alphabetic()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let (_, nanos) = DURATIONS.iter().find(|(name, _)| *name == unit).ok_or_else(error)?;
            // From the largest unit to the smallest, each once.
            if *nanos >= last || !number.starts_with(|digit: char| digit.is_ascii_digit()) || number.ends_with('.') {
                return Err(error());
            }
            #[expect(clippy::cast_precision_loss, reason = "a unit is exact in 53 bits")]
            let seconds = number.parse::<f64>().map_err(|_| error())? * (*nanos as f64) / 1e9;
            let part = Duration::try_from_secs_f64(seconds).map_err(|_| error())?;
            total = total.checked_add(part).filter(|total| *total <= LONGEST).ok_or_else(error)?;
            (rest, last) = (tail, *nanos);
        }
        if last == u64::MAX { Err(error()) } else { Ok(Self(total)) }
    }
}

/// The longest duration that an option takes: clocks can add it to any moment.
const LONGEST: Duration = Duration::from_secs(366 * 86_400);

/// What is prefetched besides sequential reads and startup profiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Prefetch {
    /// Chunks near those that are read
    Auto,
    /// Nothing
    Off,
}

/// How whole images are copied into the disk cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fill {
    Auto,
    Off,
    Rate(Size),
}

impl Fill {
    fn rate(self) -> FillRate {
        match self {
            Self::Rate(Size(rate)) => FillRate(Some(rate)),
            Self::Auto | Self::Off => FillRate(None),
        }
    }
}

impl FromStr for Fill {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "off" => Ok(Self::Off),
            _ => text
                .parse()
                .map(Self::Rate)
                .map_err(|_| format!("`{text}` is neither auto, off nor a rate in bytes per second, such as 32MiB")),
        }
    }
}

/// What a lost store means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct OnLoss(Duration);

/// Repetitions that hide a connection that broke, and no more.
const EIO: Duration = Duration::from_secs(1);

impl FromStr for OnLoss {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match (text, text.strip_prefix("wait=")) {
            ("eio", _) => Ok(Self(EIO)),
            (_, Some(wait)) => wait.parse().map(|Wait(wait)| Self(wait.max(EIO))),
            _ => Err(format!("`{text}` is not a policy; use eio, or wait=DURATION such as wait=60s")),
        }
    }
}

/// The client of a store, which images with the same store and settings share.
struct StoreClient {
    url: StoreUrl,
    settings: Settings,
    client: Arc<dyn Get>,
}

/// What the images of a process share.
pub struct Reading<'a> {
    args: &'a ReadArgs,
    host: Host,
    limits: Limits,
    cache: Option<Arc<DiskCache>>,
    zone: Option<Arc<Zone>>,
    trace: Option<Arc<Trace>>,
    recorder: Option<Arc<Recorder>>,
    learning: Option<Arc<Learning>>,
    /// A client for each store and its settings.
    stores: Mutex<Vec<StoreClient>>,
    /// What was given up, once that is known.
    pub entered: Entered,
}

impl ReadArgs {
    /// Refuses what is for one image where there are several.
    pub fn check_number(&self, images: usize, record: bool) -> Result<(), Failure> {
        if images > 1 && (self.profile.is_some() || record) {
            let message =
                "--profile and --record are for one image; put profiles beside the manifests: MANIFEST.profile";
            return Err(Failure::Usage(message.to_owned()));
        }
        Ok(())
    }

    /// Opens what images share; what is read of one is recorded if that is wanted.
    ///
    /// The cache is that of `user`, where the process becomes another.
    pub fn open(&self, record: bool, user: Option<&User>) -> Result<Reading<'_>, Failure> {
        let open = || self.open_cache(user.is_some());
        let cache = match user {
            Some(user) => user.with_its_rights(open)??,
            None => open()?,
        };
        if let (Fill::Rate(_), None) = (self.fill, &cache) {
            let message = "--fill RATE needs a disk cache to copy the image to; give a directory with --cache";
            return Err(Failure::Usage(message.to_owned()));
        }
        let (counts, patience) = (Arc::new(Counts::default()), self.on_origin_loss.0);
        let requests = usize::from(self.requests);
        let host = Host {
            memory: Memory::new(self.memory.0),
            counts: Arc::clone(&counts),
            deadline: patience + REQUEST,
            ahead: AHEAD.min(requests / 2).max(1),
            filler: Filler::new(requests / 4 * 3, self.fill.rate()),
            near: self.prefetch == Prefetch::Auto,
            gate: Arc::new(Gate::for_this_machine()),
        };
        let slots = cache.as_ref().map(|cache| Arc::new(cache.slots(requests)));
        let limits = Limits { requests: Requests::new(requests), slots, patience, at_first: patience, counts };
        let recorder = record.then(Recorder::start);
        let zone = self.zone.open()?;
        let nearest = cache.clone().map(|cache| cache as Arc<dyn ProfileStore>);
        let stores = nearest.into_iter().chain(zone.clone().map(|zone| zone as Arc<dyn ProfileStore>));
        let stores: Vec<Arc<dyn ProfileStore>> = stores.collect();
        let learning = (!self.no_learn && !stores.is_empty()).then(|| Learning::new(stores));
        let trace = self.trace.as_deref().map(Trace::open).transpose()?.map(Arc::new);
        Ok(Reading {
            args: self,
            host,
            limits,
            cache,
            zone,
            trace,
            recorder,
            learning,
            stores: Mutex::default(),
            entered: Entered::default(),
        })
    }
}

impl ReadArgs {
    /// Opens the disk cache: that which was asked for, or the default one if it can be used.
    fn open_cache(&self, becomes_another: bool) -> Result<Option<Arc<DiskCache>>, Failure> {
        if let Some(directory) = &self.cache {
            return Ok(Some(open_cache(directory, self.cache_max.0)?));
        }
        // The default directory of one user is of no use to another.
        if becomes_another || self.no_cache {
            return Ok(None);
        }
        let Some(directory) = default_cache()? else { return Ok(None) };
        Ok(open_cache(&directory, self.cache_max.0).map(Some).unwrap_or_else(|error| {
            let hint = "give a directory with --cache, or --no-cache to silence this warning";
            say(&format!("warning: no disk cache: {}; {hint}", error.chain()));
            None
        }))
    }
}

/// Returns the disk cache directory of the service, the host or the user.
fn default_cache() -> Result<Option<PathBuf>, Failure> {
    if let Some(directories) = environment("CACHE_DIRECTORY")? {
        // Systemd separates several by colons.
        return Ok(directories.split(':').next().map(PathBuf::from));
    }
    if rustix::process::geteuid().is_root() {
        return Ok(Some(PathBuf::from("/var/cache/coldread")));
    }
    let home = environment("HOME")?.map(|home| Path::new(&home).join(".cache"));
    let caches = environment("XDG_CACHE_HOME")?.map(PathBuf::from).filter(|path| path.is_absolute()).or(home);
    Ok(caches.map(|caches| caches.join("coldread")))
}

/// Opens the disk cache, with a warning where others can write to it.
fn open_cache(directory: &Path, max_bytes: u64) -> Result<Arc<DiskCache>, Error> {
    let cache = DiskCache::open(directory, max_bytes)?;
    if let Some(reason) = cache.is_shared() {
        say(&format!("warning: --cache: {reason}; files of other users are not used"));
    }
    Ok(Arc::new(cache))
}

impl Reading<'_> {
    /// The device of an image.
    pub fn open(&self, source: &Source) -> Result<ChunkDevice, Failure> {
        let manifest = source.manifest.open(&*source.key.require()?)?;
        self.device(manifest, &source.manifest.manifest, &source.store)
    }

    /// The device of `manifest`, which was read `from` there. Its store need not be there yet.
    pub fn device(
        &self,
        manifest: OpenManifest,
        from: &ManifestRef,
        store: &StoreArgs,
    ) -> Result<ChunkDevice, Failure> {
        let planned = self.profile(&manifest, from)?;
        let manifest = Arc::new(manifest);
        let url = store.of(&manifest)?;
        if matches!(&url, StoreUrl::Directory(path) if !path.is_dir()) {
            say(&format!("store {url}: no such directory; reads wait for it"));
        }
        if matches!(url, StoreUrl::Directory(_)) {
            self.host.filler.hold();
        }
        let store = self.client(url, store.settings(IN_FLIGHT)?)?;
        let tier = self.tiers(Box::new(Origin::new(store, self.limits.clone())));
        let mut observers: Vec<Arc<dyn Observer>> = vec![Arc::new(Slow(self.args.slow.0))];
        observers.extend(self.recorder.clone().map(|recorder| recorder as Arc<dyn Observer>));
        let startup = self.learning.as_ref().map(|_| Startup::begin(Arc::clone(&manifest)));
        observers.extend(startup.clone().map(|startup| startup as Arc<dyn Observer>));
        let device = ChunkDevice::new(manifest, tier, self.host.clone(), observers);
        if let (Some(learning), Some(startup)) = (&self.learning, startup) {
            let has_profile = planned.is_some() || self.args.no_profile;
            learning.follow(startup, (!has_profile).then(|| device.ahead().planner()));
        }
        device.ahead().plan(planned.unwrap_or_default());
        if self.args.fill != Fill::Off {
            device.fill();
        }
        Ok(device)
    }

    /// Returns the client of the store at `url`: one for all images whose store and settings are the same.
    fn client(&self, url: StoreUrl, settings: Settings) -> Result<Arc<dyn Get>, Error> {
        let mut stores = self.stores.lock().expect("no thread panics with it");
        if let Some(known) = stores.iter().find(|known| known.url == url && known.settings == settings) {
            return Ok(Arc::clone(&known.client));
        }
        let client: Arc<dyn Get> = open_get_later(&url, &settings)?.into();
        stores.push(StoreClient { url, settings, client: Arc::clone(&client) });
        Ok(client)
    }

    /// What stands before the `origin`: the host's disk, the zone.
    fn tiers(&self, origin: Box<dyn Tier>) -> Box<dyn Tier> {
        let counts = || Arc::clone(&self.host.counts);
        let mut tier = origin;
        if let Some(zone) = &self.zone {
            tier = Box::new(ZoneTier::new(tier, Arc::clone(zone), counts()));
        }
        if let Some(trace) = &self.trace {
            tier = Box::new(TracedTier::new(tier, Arc::clone(trace)));
        }
        if let Some(cache) = &self.cache {
            tier = Box::new(CachedTier::new(tier, Arc::clone(cache), counts()));
        }
        tier
    }

    /// Returns what the process counts.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.host.counts)
    }

    /// Begins to fill and prefetch what waited for the sandbox.
    pub fn begin(&self) {
        self.host.filler.release();
    }

    /// Collects what reading needs until the end.
    pub fn collect(&self, record: Option<&Path>, into: &mut Collected) -> Result<(), Failure> {
        self.stores.lock().expect("no thread panics with it").iter().try_for_each(|known| into.store(&known.url))?;
        if let Some(cache) = &self.cache {
            into.writes(cache.root());
        }
        if let Some(path) = record {
            into.output(path)?;
        }
        if let Some(address) = &self.args.metrics {
            into.listens(address);
        }
        Ok(())
    }

    /// Answers questions about the `images` and the `exports` at which they are, if that is wanted, until the result is dropped.
    pub fn metrics(
        &self,
        images: Vec<(String, Arc<ChunkDevice>)>,
        exports: Vec<String>,
    ) -> Result<Option<Socket>, Error> {
        let Some(address) = &self.args.metrics else { return Ok(None) };
        let (host, cache, zone) = (self.host.clone(), self.cache.clone(), self.zone.clone());
        let entered = Arc::clone(&self.entered);
        let status = move || {
            let images = images.iter().map(|(name, device)| ImageStatus::of(name, device)).collect();
            let status = Status::of(
                &host.counts,
                images,
                host.memory.bytes().into(),
                cache.as_ref().map(|cache| cache.bytes().into()),
                zone.as_deref().map(Into::into),
            );
            Status { exports: exports.clone(), sandbox: entered.get().cloned(), ..status }
        };
        telling::start(address, self.args.metrics_host.clone(), status).map(Some)
    }

    /// The same of one image that is mounted on `directory`.
    pub fn metrics_of(
        &self,
        source: &Source,
        device: &Arc<ChunkDevice>,
        directory: &Path,
    ) -> Result<Option<Socket>, Error> {
        let name = name_of(&source.manifest.manifest).unwrap_or_default();
        self.metrics(vec![(name, Arc::clone(device))], vec![directory.display().to_string()])
    }

    /// Writes what was recorded of `device` to `path`, where there is to be one.
    pub fn write_record(&self, device: &ChunkDevice, path: Option<&Path>) -> Result<(), Error> {
        let (Some(path), Some(recorder)) = (path, &self.recorder) else { return Ok(()) };
        let profile = recorder.profile(device.manifest());
        let text = profile.encode();
        write_whole(path, |mut file| file.write_all(text.as_bytes()).map_err(|error| Error::file(path, error)))?;
        let (chunks, path) = (profile.uses.len(), path.display());
        say(&format!("{path}: startup profile of {chunks} chunks; next: coldpress profile attach MANIFEST {path}"));
        Ok(())
    }

    /// Returns the chunks of the startup profile that is given or lies beside the manifest; `None` where there is none.
    fn profile(
        &self,
        manifest: &OpenManifest,
        from: &ManifestRef,
    ) -> Result<Option<Vec<coldpress::ChunkIndex>>, Failure> {
        if self.args.no_profile {
            return Ok(None);
        }
        let beside = match from {
            ManifestRef::File(path) => Some(profile::beside(path)).filter(|path| path.is_file()),
            ManifestRef::Registry(_) => None,
        };
        let Some(path) = self.args.profile.clone().or(beside) else { return Ok(None) };
        Ok(Some(read_profile(&path)?.chunks_of(manifest)))
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        self.learning.iter().for_each(|learning| learning.finish());
        // What was fetched last is still on its way to the others.
        self.zone.iter().for_each(|zone| zone.finish());
    }
}

/// Tells of chunks that took long.
struct Slow(Duration);

impl Observer for Slow {
    fn arrived(&self, arrival: &Arrival) {
        if arrival.wanted && arrival.took > self.0 {
            let Arrival { chunk, place, took, .. } = arrival;
            let seconds = took.as_secs_f64();
            say(&format!("slow: chunk {} took {seconds:.3} s from {place}", chunk.0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_policies_are_read() {
        for (text, millis) in [
            ("500ms", 500),
            ("2m", 120_000),
            ("1m30s", 90_000),
            ("1h", 3_600_000),
            ("1.5s", 1_500),
            ("0ms", 0),
            ("1d2h3m4s5ms", 93_784_005),
        ] {
            assert_eq!(text.parse(), Ok(Wait(Duration::from_millis(millis))), "{text}");
        }
        assert_eq!("wait=1m30s".parse(), Ok(OnLoss(Duration::from_secs(90))));
        assert_eq!("eio".parse(), Ok(OnLoss(EIO)));
        for bad in ["", "s", "-1s", "60", "1s1m", "1s1s", "1.s", ".5s", "1.5.5s", "1 s", "1e3s", "1M", "999999d"] {
            assert!(bad.parse::<Wait>().is_err(), "{bad}");
        }
        for bad in ["", "wait", "wait=", "60s", "EIO"] {
            assert!(bad.parse::<OnLoss>().is_err(), "{bad}");
        }
    }
}

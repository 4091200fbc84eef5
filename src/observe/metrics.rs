//! A [`Status`] as metrics, in Prometheus' text format 0.0.4.
//!
//! Names and labels are an interface (docs/reference/metrics.md): others' alerts and pictures hang on them.

use std::fmt::Write;

use super::status::{Latencies, Status, TierStatus, ZoneServerStatus, ZoneStatus};

/// The media type.
pub const MEDIA_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

type Labels<'a> = Vec<(&'a str, &'a str)>;

/// All metrics.
#[must_use]
pub fn encode(status: &Status) -> String {
    let mut text = Text::default();
    let version = vec![("version", status.version.as_str())];
    text.family("coldread_build_info", "gauge", "The program.", [(version, 1)]);
    images(&mut text, status);
    tiers(&mut text, &status.tiers);
    let origin = &status.origin;
    for (name, kind, help, value) in [
        (
            "coldread_origin_requests_total",
            "counter",
            "Requests to the store, including retries and hedged requests.",
            origin.requests,
        ),
        ("coldread_origin_requests_in_flight", "gauge", "Outstanding requests to the store.", origin.in_flight),
        ("coldread_origin_failures_total", "counter", "Requests to the store that failed.", origin.failures),
        ("coldread_origin_hedges_total", "counter", "Hedged requests to the store.", origin.hedges),
        ("coldread_ahead_chunks_total", "counter", "Chunks prefetched.", status.ahead_chunks),
        ("coldread_failed_reads_total", "counter", "Reads that failed.", status.failed_reads),
        ("coldread_clients", "gauge", "Connected NBD and vhost-user-blk clients.", status.clients),
        ("coldread_refused_clients_total", "counter", "Clients that were refused.", status.refused_clients),
        ("coldread_memory_bytes", "gauge", "Bytes of decrypted chunks in the memory cache.", status.memory.bytes),
        ("coldread_memory_max_bytes", "gauge", "Maximum size of the memory cache in bytes.", status.memory.max_bytes),
    ] {
        text.family(name, kind, help, [(Labels::new(), value)]);
    }
    if let Some(cache) = &status.cache {
        let help =
            "Bytes of encrypted chunks in the disk cache: the last measurement, and what this process wrote since.";
        text.family("coldread_cache_bytes", "gauge", help, [(Labels::new(), cache.bytes)]);
        let help = "Maximum size of the disk cache in bytes.";
        text.family("coldread_cache_max_bytes", "gauge", help, [(Labels::new(), cache.max_bytes)]);
    }
    if let Some(status) = &status.zone {
        zone(&mut text, status);
    }
    text.0
}

fn zone(text: &mut Text, zone: &ZoneStatus) {
    for (name, help, value) in [
        ("coldread_zone_hedges_total", "Hedged requests to the zone cache.", zone.hedges),
        ("coldread_zone_late_total", "Zone cache lookups that hit --zone-deadline.", zone.late),
        (
            "coldread_zone_filled_chunks_total",
            "Chunks written to the zone cache after they were fetched.",
            zone.filled_chunks,
        ),
        (
            "coldread_zone_repaired_chunks_total",
            "Chunks whose missing shards were written again.",
            zone.repaired_chunks,
        ),
        (
            "coldread_zone_skipped_chunks_total",
            "Chunks that were not written to the zone cache because the write queue was full.",
            zone.skipped_chunks,
        ),
        ("coldread_zone_waited_chunks_total", "Chunks that another host fetched meanwhile.", zone.waited_chunks),
        ("coldread_zone_waited_in_vain_total", "Waits for another host that timed out.", zone.waited_in_vain),
    ] {
        text.family(name, "counter", help, [(Labels::new(), value)]);
    }
    type Of = fn(&ZoneServerStatus) -> u64;
    let families: [(&str, &str, &str, Of); 7] = [
        ("coldread_zone_server_fit", "gauge", "Whether the server is healthy.", |server| server.fit.into()),
        ("coldread_zone_server_asked_total", "counter", "Shards requested.", |server| server.asked),
        ("coldread_zone_server_hits_total", "counter", "Authentic shards from the server.", |server| server.hits),
        ("coldread_zone_server_misses_total", "counter", "Shards that the server did not have.", |server| {
            server.misses
        }),
        ("coldread_zone_server_refused_total", "counter", "Invalid shards from the server.", |server| server.refused),
        ("coldread_zone_server_failures_total", "counter", "Requests that the server did not answer.", |server| {
            server.failures
        }),
        ("coldread_zone_server_written_total", "counter", "Shards written to the server.", |server| server.written),
    ];
    for (name, kind, help, of) in families {
        let samples = zone.servers.iter().map(|server| (vec![("server", server.server.as_str())], of(server)));
        text.family(name, kind, help, samples);
    }
    text.head("coldread_zone_server_seconds", "histogram", "Latency of a shard request.");
    for server in &zone.servers {
        text.histogram("coldread_zone_server_seconds", ("server", &server.server), &server.took);
    }
}

fn images(text: &mut Text, status: &Status) {
    let info = status.images.iter().map(|image| {
        let labels = vec![("image", image.name.as_str()), ("root_digest", image.root_digest.as_str())];
        (labels, 1)
    });
    text.family("coldread_image_info", "gauge", "An image that is served.", info);
    let chunks = status.images.iter().map(|image| (vec![("image", image.name.as_str())], image.chunks));
    text.family("coldread_image_chunks", "gauge", "Chunks of the image that are not zero.", chunks);
    let fetched = status.images.iter().map(|image| (vec![("image", image.name.as_str())], image.fetched_chunks));
    text.family("coldread_image_fetched_chunks_total", "counter", "Chunks of the image that were fetched.", fetched);
}

fn tiers(text: &mut Text, tiers: &[TierStatus]) {
    type Of = fn(&TierStatus) -> u64;
    let families: [(&str, &str, Of); 3] = [
        ("coldread_tier_hits_total", "Hits of the cache level; of the memory cache, reads.", |tier| tier.hits),
        ("coldread_tier_misses_total", "Misses of the cache level.", |tier| tier.misses),
        ("coldread_tier_refused_total", "Invalid chunks from the cache level.", |tier| tier.refused),
    ];
    for (name, help, of) in families {
        text.family(name, "counter", help, tiers.iter().map(|tier| (vec![("tier", tier.tier.as_str())], of(tier))));
    }
    // Chunks in memory are not sealed, and nobody waits for them.
    let sealed = || tiers.iter().filter(|tier| tier.tier != "memory");
    let bytes = sealed().map(|tier| (vec![("tier", tier.tier.as_str())], tier.bytes));
    text.family("coldread_tier_bytes_total", "counter", "Encrypted bytes from the cache level.", bytes);
    let help = "Time from a request for a chunk until it is decrypted, by the cache level that had it.";
    text.head("coldread_fetch_seconds", "histogram", help);
    for tier in sealed() {
        text.histogram("coldread_fetch_seconds", ("tier", &tier.tier), &tier.took);
    }
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn family<'a>(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (Labels<'a>, u64)>) {
        self.head(name, kind, help);
        for (labels, value) in samples {
            self.sample(name, &labels, value);
        }
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if at == 0 { '{' } else { ',' });
        }
        let end = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{end} {value}");
    }

    fn histogram(&mut self, name: &str, label: (&str, &str), took: &Latencies) {
        let bounds = took.bounds_micros.iter().map(|micros| seconds(*micros).to_string());
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&took.counts) {
            self.sample(&format!("{name}_bucket"), &[label, ("le", &bound)], count);
        }
        self.sample(&format!("{name}_sum"), &[label], seconds(took.sum_micros));
        self.sample(&format!("{name}_count"), &[label], took.all());
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

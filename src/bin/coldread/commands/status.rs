//! `coldread status`: what a running reader has done, as a table.

use coldpress::Error;
use coldpress::observe::status::{Held, Status, TierStatus, ZoneServerStatus, ZoneStatus};
use coldpress::printable::{self, Printable};
use coldpress::read::tier::Place;
use coldpress::sandbox::Report;

use crate::args::StatusArgs;
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;
use crate::telling::ask;

pub fn run(args: &StatusArgs) -> CommandResult {
    let status = ask(&args.address)?;
    let text = if args.json {
        let json = serde_json::to_string(&status).map_err(|error| Error::io("JSON", error.into()))?;
        format!("{json}\n")
    } else {
        format!("{}\n{}{}", images(&status), counted(&status, 1.0, ""), sandbox(&status))
    };
    Ok(print(text.as_bytes())?)
}

/// Images, a line each.
pub fn images(status: &Status) -> String {
    let rows = status.images.iter().map(|image| {
        let digest = image.root_digest.chars().take(19).collect();
        let fetched = format!("{} ({})", image.fetched_chunks, share(image.fetched_chunks, image.chunks));
        [shown(&image.name), digest, image.chunks.to_string(), fetched]
    });
    table([["image", "root digest", "chunks", "fetched"].map(str::to_owned)].into_iter().chain(rows).collect())
}

/// What the reader gave up.
fn sandbox(status: &Status) -> String {
    let Some(report) = &status.sandbox else { return String::new() };
    let Report { no_new_privs, capabilities, landlock, seccomp } = report;
    let text =
        format!("no_new_privs {no_new_privs}, capabilities {capabilities}, Landlock {landlock}, seccomp {seccomp}");
    format!("sandbox {}\n", shown(&text))
}

/// What was counted in `seconds`, with `per` behind what became a rate.
pub fn counted(status: &Status, seconds: f64, per: &str) -> String {
    let number = |count: u64| rate(count, seconds);
    let latency = |seconds: Option<f64>| seconds.map_or("-".to_owned(), duration);
    let head = ["tier", "hits", "misses", "hit rate", "refused", "sealed", "p50", "p99"].map(|word| match word {
        "hits" | "misses" | "refused" | "sealed" => format!("{word}{per}"),
        _ => word.to_owned(),
    });
    let row = |tier: &TierStatus| {
        let sealed = if tier.tier == Place::Memory.name() { "-".to_owned() } else { size(tier.bytes as f64 / seconds) };
        [
            shown(&tier.tier),
            number(tier.hits),
            number(tier.misses),
            share(tier.hits, tier.hits.saturating_add(tier.misses)),
            number(tier.refused),
            sealed,
            latency(tier.took.p50_seconds),
            latency(tier.took.p99_seconds),
        ]
    };
    let tiers = table([head].into_iter().chain(status.tiers.iter().map(row)).collect());
    let origin = &status.origin;
    let cache = status.cache.as_ref().map_or("no disk cache".to_owned(), |cache| format!("disk cache {}", held(cache)));
    format!(
        "{tiers}\n\
         origin  {} in flight, {} requests{per}, {} failures{per}, {} hedges{per}\n\
         ahead   {} chunks{per} fetched before they were asked for\n\
         failed  {} reads{per}\n\
         clients {} connected, {} refused{per}\n\
         kept    memory {}, {cache}\n{}",
        origin.in_flight,
        number(origin.requests),
        number(origin.failures),
        number(origin.hedges),
        number(status.ahead_chunks),
        number(status.failed_reads),
        status.clients,
        number(status.refused_clients),
        held(&status.memory),
        status.zone.as_ref().map_or(String::new(), |status| zone(status, seconds, per)),
    )
}

/// The zone's cache, as this reader sees it.
fn zone(zone: &ZoneStatus, seconds: f64, per: &str) -> String {
    let number = |count: u64| rate(count, seconds);
    let head = ["server", "state", "asked", "hits", "misses", "refused", "failures", "written", "p50", "p99"];
    let head = head.map(|word| match word {
        "server" | "state" | "p50" | "p99" => word.to_owned(),
        _ => format!("{word}{per}"),
    });
    let latency = |seconds: Option<f64>| seconds.map_or("-".to_owned(), duration);
    let row = |server: &ZoneServerStatus| {
        [
            shown(&server.server),
            if server.fit { "fit" } else { "passed over" }.to_owned(),
            number(server.asked),
            number(server.hits),
            number(server.misses),
            number(server.refused),
            number(server.failures),
            number(server.written),
            latency(server.took.p50_seconds),
            latency(server.took.p99_seconds),
        ]
    };
    format!(
        "zone    {} filled{per}, {} repaired{per}, {} from other hosts{per}, {} hedges{per}, {} late{per}\n\n{}",
        number(zone.filled_chunks),
        number(zone.repaired_chunks),
        number(zone.waited_chunks),
        number(zone.hedges),
        number(zone.late),
        table([head].into_iter().chain(zone.servers.iter().map(row)).collect())
    )
}

/// Columns as wide as their widest; the first to the left, numbers to the right.
pub fn table<const N: usize>(rows: Vec<[String; N]>) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths).enumerate().map(|(column, (cell, width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// What comes from outside, for a terminal.
fn shown(text: &str) -> String {
    Printable(text).to_string()
}

pub fn share(part: u64, whole: u64) -> String {
    if whole == 0 { "-".to_owned() } else { format!("{:.1} %", part as f64 * 100.0 / whole as f64) }
}

/// A count, or how often a second.
pub fn rate(count: u64, seconds: f64) -> String {
    format!("{:.0}", count as f64 / seconds)
}

fn held(held: &Held) -> String {
    format!("{} of {}", size(held.bytes as f64), size(held.max_bytes as f64))
}

/// Bytes, or bytes per second, as people read them.
pub fn size(bytes: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for a person, and never negative")]
    printable::size(bytes as u64)
}

/// Seconds, as people read them.
pub fn duration(seconds: f64) -> String {
    match seconds {
        _ if seconds < 0.001 => format!("{:.0} µs", seconds * 1e6),
        _ if seconds < 0.1 => format!("{:.1} ms", seconds * 1e3),
        _ if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        _ => format!("{seconds:.1} s"),
    }
}

//! Arguments of the commands that look at recorded requests and at the zone cache: `report`, `zone`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use coldpress::digest::Sha256;
use coldpress::inspect::zone_sizing::Made;
use coldpress::printable::is_escaped;
use coldpress::zone::stripe::Code;

use crate::reading::Wait;
use crate::shared::keys::{KeyArgs, StoreArgs};
use crate::shared::manifests::{ManifestRef, RegistryArgs};
use crate::zone::ServersArgs;

/// Draw a recorded startup: chunk reads over time, and where they came from
///
/// With MANIFEST, the picture shows metadata and layers and names the files behind the slowest reads; this reads the directories of the
/// image from the store. Pictures and pages have no scripts, fetch nothing, and follow light and dark mode. With MANIFEST, they contain
/// file names; without it, only the root digest and chunk offsets.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread report app.profile app.cpm -o app.svg\n  coldread report app.profile app.cpm --html app.html"
)]
pub struct ReportArgs {
    /// Profile from `profile record`, or from --record of `serve`, `mount` or `bundle`
    #[arg(value_name = "PROFILE")]
    pub profile: PathBuf,

    /// Block manifest of the image that was started, to name layers and files
    #[arg(value_name = "MANIFEST")]
    pub manifest: Option<ManifestRef>,

    /// SVG file to write [default: standard output, unless --json or --html]
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// HTML page to write; it shows chunk and files of the mark under the pointer
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub html: Option<PathBuf>,

    /// Print the numbers as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,

    /// Required root digest of the manifest
    #[arg(long, value_name = "sha256:HEX", help_heading = "Image")]
    pub expect: Option<Sha256>,

    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub key: KeyArgs,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

/// Inspect and size the zone cache
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread zone status --zone redis://cache-1,redis://cache-2,redis://cache-3")]
pub struct ZoneArgs {
    #[command(subcommand)]
    pub command: ZoneCommand,
}

#[derive(Debug, Subcommand)]
pub enum ZoneCommand {
    Status(ZoneStatusArgs),
    Plan(ZonePlanArgs),
}

/// Show contents and hit rate of each cache server of the zone
///
/// As reported by the servers since their start, for all hosts. Exits with 4 if a server does not answer.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread zone status --zone redis://cache-1,redis://cache-2,redis://cache-3")]
pub struct ZoneStatusArgs {
    #[command(flatten)]
    pub servers: ServersArgs,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Recommend a zone cache size from recorded or synthetic traces
///
/// Simulates caches of all sizes on the traces and recommends the larger of the cheapest size and the smallest size that meets the
/// latency goal. Prices are in one --currency.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldread zone plan --trace host-1.trace --trace host-2.trace --goal 3ms -o plan.svg\n  \
        coldread zone plan --make zipf:20000,0.9,500000 --make cron:4000,3600,24"
)]
pub struct ZonePlanArgs {
    /// Trace from --trace of `serve`, `mount` or `bundle` (repeatable, one per host)
    #[arg(long, value_name = "FILE", required_unless_present = "make", help_heading = "Traces")]
    pub trace: Vec<PathBuf>,

    /// Synthetic trace: zipf:CHUNKS,EXPONENT,REQUESTS or cron:CHUNKS,SECONDS,SCANS
    ///
    /// zipf spreads REQUESTS over a day; cron reads all CHUNKS every SECONDS, SCANS times. Repeatable, and combined with --trace.
    #[arg(long, value_name = "KIND", help_heading = "Traces")]
    pub make: Vec<Made>,

    /// Random seed of --make
    #[arg(long, value_name = "N", default_value_t = 1, help_heading = "Traces")]
    pub seed: u64,

    /// Erasure code of the zone
    #[arg(long, value_name = "DATA+PARITY", default_value = "4+2", help_heading = "Costs")]
    pub code: Code,

    /// Price of 1 GiB of server memory per month
    #[arg(long, value_name = "PRICE", default_value_t = 3.0, help_heading = "Costs")]
    pub memory_price: f64,

    /// Price of 1000 requests to the store
    #[arg(long, value_name = "PRICE", default_value_t = 0.0004, help_heading = "Costs")]
    pub request_price: f64,

    /// Price of transferring 1 GiB from the store
    #[arg(long, value_name = "PRICE", default_value_t = 0.0, help_heading = "Costs")]
    pub transfer_price: f64,

    /// Currency of the prices, as it is written in the plan
    #[arg(long, value_name = "NAME", default_value = "USD", help_heading = "Costs", value_parser = currency)]
    pub currency: String,

    /// Latency of a chunk from the zone
    #[arg(long, value_name = "DURATION", default_value = "1ms", help_heading = "Latency")]
    pub zone_latency: Wait,

    /// Latency of a chunk from the store
    #[arg(long, value_name = "DURATION", default_value = "30ms", help_heading = "Latency")]
    pub origin_latency: Wait,

    /// Maximum acceptable mean latency of a chunk
    #[arg(long, value_name = "DURATION", default_value = "5ms", help_heading = "Latency")]
    pub goal: Wait,

    /// SVG file to draw the plan in
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Print all numbers as one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Takes the name of a currency, which stands in tables and pictures.
fn currency(text: &str) -> Result<String, String> {
    let is_name = (1..=8).contains(&text.chars().count()) && !text.chars().any(|c| is_escaped(c) || c.is_whitespace());
    is_name
        .then(|| text.to_owned())
        .ok_or_else(|| format!("`{text}` is not a currency; use 1 to 8 characters, such as USD or €"))
}

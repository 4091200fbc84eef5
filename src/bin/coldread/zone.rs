//! The zone's cache as the command line names it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use coldpress::zone::connection::Address;
use coldpress::zone::stripe::Code;
use coldpress::zone::{Settings, Zone};
use coldpress::{Error, ErrorKind};

use crate::reading::Wait;
use crate::shared::failure::Failure;

/// Which servers, and their credentials.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Zone cache")]
pub struct ServersArgs {
    /// Redis or Valkey servers shared by the zone [default: $COLDREAD_ZONE]
    ///
    /// Comma-separated URLs: redis://HOST:PORT, rediss:// for TLS, redis+unix:///PATH. All hosts must list the same servers by the same names.
    /// Chunks are stored encrypted and erasure-coded; shards are authenticated before use.
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    zone: Vec<String>,

    /// File with the password of servers whose URL has none; must be readable by its owner only
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    zone_password_file: Option<PathBuf>,

    /// PEM file of CA certificates for the cache servers [default: the system's]
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    zone_tls_ca: Option<PathBuf>,
}

/// How the zone cache is used.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Zone cache")]
pub struct ZoneArgs {
    #[command(flatten)]
    servers: ServersArgs,

    /// Erasure code: DATA+PARITY shards per chunk; any PARITY of them may be lost
    #[arg(long, value_name = "DATA+PARITY", default_value = "4+2", hide_short_help = true)]
    zone_code: Code,

    /// Timeout of a zone cache lookup; then the store is used
    #[arg(long, value_name = "DURATION", default_value = "5ms", hide_short_help = true)]
    zone_deadline: Wait,

    /// How long other hosts wait while one host fetches a chunk for the zone; 0ms: do not wait
    #[arg(long, value_name = "DURATION", default_value = "500ms", hide_short_help = true)]
    zone_lease: Wait,

    /// Limit startups in the zone to N per second; a startup waits at most 60 s
    #[arg(long, value_name = "N", hide_short_help = true, value_parser = clap::value_parser!(u32).range(1..))]
    zone_start_rate: Option<u32>,
}

impl ServersArgs {
    /// The servers, with what opens them.
    fn addresses(&self) -> Result<Vec<Address>, Failure> {
        // Not parsed by clap, whose errors repeat what was given, and that can have a password in it.
        let parsed: Result<Vec<Address>, String> = self.zone.iter().map(|server| server.parse()).collect();
        let mut servers = parsed.map_err(|error| Failure::Usage(format!("--zone (COLDREAD_ZONE): {error}")))?;
        if let Some(path) = &self.zone_password_file {
            let password = private(path)?;
            servers = servers.into_iter().map(|server| server.with_password(&password)).collect();
        }
        Ok(servers)
    }

    /// The zone, if there is one.
    pub fn open(&self, settings: Settings) -> Result<Option<Arc<Zone>>, Failure> {
        let addresses = self.addresses()?;
        if addresses.is_empty() {
            return Ok(None);
        }
        Ok(Some(Zone::open(addresses, self.zone_tls_ca.as_deref(), settings)?))
    }
}

/// A file's first line; refused where others can read it.
fn private(path: &std::path::Path) -> Result<String, Error> {
    use std::os::unix::fs::PermissionsExt;
    let text = std::fs::read_to_string(path).map_err(|error| Error::file(path, error))?;
    let metadata = path.metadata().map_err(|error| Error::file(path, error))?;
    if metadata.permissions().mode() & 0o077 != 0 {
        let error = Error::new(ErrorKind::Denied, "other users can read this password file (expected mode 0600)");
        return Err(error.with_hint(format!("run: chmod 600 {}", path.display())).within(path.display()));
    }
    Ok(text.lines().next().unwrap_or_default().to_owned())
}

impl ZoneArgs {
    /// The zone, if there is one; where starts are limited, once it is this one's turn.
    pub fn open(&self) -> Result<Option<Arc<Zone>>, Failure> {
        let settings = Settings { code: self.zone_code, deadline: self.zone_deadline.0, lease: self.zone_lease.0 };
        let zone = self.servers.open(settings)?;
        if let (Some(zone), Some(rate)) = (&zone, self.zone_start_rate) {
            let waited = zone.wait_for_turn(rate);
            if waited > Duration::from_secs(1) {
                let message = format!("waited {:.1} s because of --zone-start-rate", waited.as_secs_f64());
                crate::commands::say(&message);
            }
        }
        Ok(zone)
    }
}

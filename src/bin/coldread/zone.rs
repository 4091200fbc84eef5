//! The zone's cache as the command line names it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use coldpress::read::zone::link::Address;
use coldpress::read::zone::stripe::Code;
use coldpress::read::zone::{Settings, Zone};
use coldpress::{Error, ErrorKind};

use crate::reading::Wait;
use crate::shared::failure::Failure;
use crate::shared::keys::environment;

/// Which servers, and what opens them.
#[derive(Debug, Clone, Args)]
pub struct ServersArgs {
    /// Keep sealed chunks on these cache servers (Redis, Valkey), erasure-coded, for all hosts of the zone [default: $COLDREAD_ZONE, else none]
    ///
    /// URLs with commas between: redis://HOST:PORT, rediss:// for TLS, redis+unix:///PATH. All hosts must name the same servers the same way. A server
    /// sees ids and sealed pieces; what it gives is taken only where it proves to be true.
    #[arg(long, value_name = "URL,...", value_delimiter = ',')]
    zone: Vec<String>,

    /// The password of servers whose URL has none, in this file, which only its owner may read
    #[arg(long, value_name = "FILE")]
    zone_password_file: Option<PathBuf>,

    /// Trust cache servers with certificates of the authorities in this PEM file [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    zone_tls_ca: Option<PathBuf>,
}

/// How the zone's cache is used.
#[derive(Debug, Clone, Args)]
pub struct ZoneArgs {
    #[command(flatten)]
    servers: ServersArgs,

    /// Cut chunks for the zone in DATA shards and add PARITY, of which as many may be lost
    #[arg(long, value_name = "DATA+PARITY", default_value = "4+2")]
    zone_code: Code,

    /// After so long without an answer from the zone, ask the store
    #[arg(long, value_name = "DURATION", default_value = "5ms")]
    zone_deadline: Wait,

    /// How long a host may take to fetch a chunk for the zone while the others wait for it; 0ms: nobody waits
    #[arg(long, value_name = "DURATION", default_value = "500ms")]
    zone_lease: Wait,

    /// Begin at most N starts a second in the whole zone; others wait, a minute at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    zone_start_rate: Option<u32>,
}

impl ServersArgs {
    /// The servers, with what opens them.
    fn addresses(&self) -> Result<Vec<Address>, Failure> {
        // Not parsed by clap, whose errors repeat what was given.
        let parsed = |named: &[String], by: &str| {
            let parsed: Result<Vec<Address>, String> = named.iter().map(|server| server.parse()).collect();
            parsed.map_err(|error| Failure::Usage(format!("{by}: {error}")))
        };
        let mut servers = parsed(&self.zone, "--zone")?;
        if servers.is_empty()
            && let Some(named) = environment("COLDREAD_ZONE")?
        {
            let named: Vec<String> = named.split(',').map(str::to_owned).collect();
            servers = parsed(&named, "COLDREAD_ZONE")?;
        }
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
        let message = format!("{}: others can read it; chmod 600", path.display());
        return Err(Error::new(ErrorKind::Denied, message));
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
                let message = format!("waited {:.1} s for its turn among the zone's starts", waited.as_secs_f64());
                crate::commands::say(&message);
            }
        }
        Ok(zone)
    }
}

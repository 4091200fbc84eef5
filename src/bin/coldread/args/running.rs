//! Arguments of the commands that deal with running readers: `ps`, `umount`, `status`, `top`.

use std::path::PathBuf;

use clap::Args;

use crate::reading::Wait;
use crate::sockets::Address;

/// List running coldread processes and their images
///
/// Lists this user's `mount`, `bundle`, `serve` and `profile record` processes from the run directory: $COLDREAD_RUN_DIR, else /run/coldread
/// for root, else $XDG_RUNTIME_DIR/coldread, else ~/.local/state/coldread. STATE is `starting`, `running`, `unmounted` (still in use
/// elsewhere) or `dead` (killed; `coldread umount` or the next start cleans up).
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread ps")]
pub struct PsArgs {
    /// Print one JSON object per line
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Unmount an image and wait for its process to end
///
/// If the process was killed, removes its mount, loop device and FUSE mount. Only unmounts what `coldread ps` lists. If the mount is busy,
/// it stays, and the processes that use it are printed.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  sudo coldread umount /mnt/app")]
pub struct UmountArgs {
    /// Mount point, or bundle directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,

    /// Timeout for the process to end
    #[arg(long, value_name = "DURATION", default_value = "30s")]
    pub wait: Wait,
}

/// Show statistics of a running reader
///
/// Shows hit rates, latencies, requests to the store and cache sizes of a `serve`, `mount` or `bundle` that runs with --metrics ADDRESS.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread status unix:/run/app-metrics.sock")]
pub struct StatusArgs {
    /// Metrics address of the reader: unix:PATH or tcp:IP:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: Address,

    /// Print one JSON object
    #[arg(long, help_heading = "Output")]
    pub json: bool,
}

/// Show statistics of a running reader once a second
///
/// Like `status`, for the last second, with a history of the last five minutes. `q` or Ctrl-C ends it. Prints one line per second if
/// standard output is not a terminal. If the reader ends, exits with 4.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldread top unix:/run/app-metrics.sock")]
pub struct TopArgs {
    /// Metrics address of the reader: unix:PATH or tcp:IP:PORT
    #[arg(value_name = "ADDRESS")]
    pub address: Address,
}

//! One file a command.

mod convert;
mod doctor;
mod export;
mod inspect;
mod keygen;
mod rewrap;
mod scrub;
mod verify;

use crate::args::{Cli, Command};
use crate::shared::failure::CommandResult;

/// Runs the command that was asked for.
pub fn run(cli: &Cli) -> CommandResult {
    match &cli.command {
        Command::Keygen(args) => keygen::run(cli, args),
        Command::Convert(args) => convert::run(cli, args),
        Command::Verify(args) => verify::run(cli, args),
        Command::Inspect(args) => inspect::run(cli, args),
        Command::Export(args) => export::run(cli, args),
        Command::Rewrap(args) => rewrap::run(cli, args),
        Command::Scrub(args) => scrub::run(cli, args),
        Command::Doctor(args) => doctor::run(cli, args),
    }
}

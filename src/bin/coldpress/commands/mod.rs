//! One file a command.

mod convert;
mod diff;
mod diff_summary;
mod doctor;
mod export;
mod inspect;
mod keygen;
mod profile;
mod report;
mod rewrap;
mod scrub;
mod verify;

use std::process::ExitCode;

use crate::args::{self, Cli, Command};
use crate::program::PROGRAM;
use crate::shared::failure::Failure;
use crate::shared::pages;
use crate::shared::settings::{self, Resolution};

/// Runs the command that was asked for.
pub fn run(cli: &Cli, resolution: &Resolution) -> Result<ExitCode, Failure> {
    let done = match &cli.command {
        Command::Keygen(args) => keygen::run(cli, args),
        Command::Convert(args) => convert::run(cli, args),
        Command::Verify(args) => verify::run(cli, args),
        Command::Inspect(args) => inspect::run(cli, args),
        Command::Diff(args) => return diff::run(cli, args),
        Command::Export(args) => export::run(cli, args),
        Command::Rewrap(args) => rewrap::run(cli, args),
        Command::Profile(args) => profile::run(cli, args),
        Command::Scrub(args) => scrub::run(cli, args),
        Command::Doctor(args) => doctor::run(cli, args),
        Command::Config(args) => settings::show(&PROGRAM, &args::command(), args, cli.json, resolution),
        Command::Completions(args) => pages::completions(args::command(), args),
        Command::Man(args) => pages::man(args::command(), args),
    };
    done.map(|()| ExitCode::SUCCESS)
}

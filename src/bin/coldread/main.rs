//! `coldread`: the reader. It parses the command line, runs one command, and turns its end into an exit code.
#![expect(unreachable_pub, reason = "nothing is outside a program")]

mod args;
mod commands;
mod container;
mod reading;
mod run_state;
mod sandbox;
#[path = "../shared/mod.rs"]
mod shared;
mod sockets;
mod telling;
mod zone;

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::failure::forbid_dumps("coldread");
    shared::memory::spare_address_space();
    let cli = shared::help::parse::<args::Cli>(args::command());
    shared::failure::finish("coldread", cli.command.is_json(), commands::run(&cli))
}

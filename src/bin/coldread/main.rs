//! `coldread`: the reader. It parses the command line, runs one command, and turns its end into an exit code.
#![expect(unreachable_pub, reason = "nothing is outside a program")]

mod args;
mod commands;
mod container;
mod glob;
mod history;
mod human;
mod keyboard;
mod reading;
mod run_state;
mod sandbox;
#[path = "../shared/mod.rs"]
mod shared;
mod sockets;
mod tar_stream;
mod telling;
mod tree_walk;
mod zone;

use std::process::ExitCode;

fn main() -> ExitCode {
    shared::failure::forbid_dumps("coldread");
    shared::memory::spare_address_space();
    let cli = shared::help::parse::<args::Cli>(args::command(), args::find_words(std::env::args_os()));
    shared::terminal::start(shared::terminal::plain);
    shared::waits::start("coldread", commands::is_serving);
    let logging = shared::logs::start(cli.verbose, "COLDREAD_LOG", cli.log_format);
    shared::failure::finish("coldread", cli.command.is_json(), logging.and_then(|()| commands::run(&cli)))
}

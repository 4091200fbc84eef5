//! `coldread`: the reader. It parses the command line, runs one command, and turns its end into an exit code.
#![expect(unreachable_pub, reason = "nothing is outside a program")]

mod allocator;
mod args;
mod commands;
mod container;
mod glob;
mod history;
mod human;
mod keyboard;
mod program;
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

use program::PROGRAM;

fn main() -> ExitCode {
    shared::failure::forbid_dumps("coldread");
    allocator::keep_chunk_buffers();
    shared::memory::spare_address_space();
    let words = args::find_words(std::env::args_os());
    let (cli, resolution) = match shared::help::parse::<args::Cli>(&PROGRAM, args::command(), words) {
        Ok(parsed) => parsed,
        Err(failure) => return shared::failure::finish("coldread", shared::help::asks_for_json(), Err(failure)),
    };
    resolution.notices(cli.verbose > 0).iter().for_each(|line| commands::say(line));
    shared::terminal::start(shared::terminal::plain);
    shared::waits::start("coldread", commands::is_serving);
    let logging = shared::logs::start(cli.verbose, "COLDREAD_LOG", cli.log_format);
    let result = logging.and_then(|()| commands::run(&cli, &resolution));
    shared::failure::finish("coldread", cli.command.is_json(), result)
}

//! `coldpress`: the converter. It parses the command line, runs one command, and turns its end into an exit code.
#![expect(unreachable_pub, reason = "nothing is outside a program")]

mod args;
mod clock;
mod commands;
mod output;
mod program;
mod sealing;
#[path = "../shared/mod.rs"]
mod shared;
mod size;
mod sources;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use program::PROGRAM;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

fn main() -> ExitCode {
    shared::failure::forbid_dumps("coldpress");
    shared::memory::spare_address_space();
    let (cli, resolution) = match shared::help::parse::<args::Cli>(&PROGRAM, args::command(), std::env::args_os()) {
        Ok(parsed) => parsed,
        Err(failure) => return shared::failure::finish("coldpress", shared::help::asks_for_json(), Err(failure)),
    };
    if !cli.quiet {
        for line in resolution.notices(false) {
            let _ = writeln!(std::io::stderr(), "coldpress: {}", coldpress::printable::Printable(&line));
        }
    }
    end_on_signals();
    shared::terminal::start(output::write_above_bars);
    if !cli.quiet {
        shared::waits::start("coldpress", || false);
    }
    let logging = shared::logs::start(cli.verbose, "COLDPRESS_LOG", shared::logs::Format::Text);
    let result = logging.and_then(|()| commands::run(&cli, &resolution));
    shared::failure::finish("coldpress", cli.json, result)
}

/// Ctrl-C ends at once: every file is whole or not there at any moment, so there is nothing to clean up.
fn end_on_signals() {
    let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
    let work = move || {
        for signal in signals.forever() {
            let mut stderr = std::io::stderr();
            // Behind a progress bar, not over it.
            let start = if stderr.is_terminal() { "\n" } else { "" };
            let _ =
                writeln!(stderr, "{start}coldpress: interrupted; nothing is half-written, run the same command again");
            let _ = signal_hook::low_level::emulate_default_handler(signal);
        }
    };
    // Without a thread for it, a signal ends the program as it does by default, without the line.
    if std::thread::Builder::new().spawn(work).is_err() {
        let always = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        for signal in [SIGINT, SIGTERM] {
            let _ = signal_hook::flag::register_conditional_default(signal, std::sync::Arc::clone(&always));
        }
    }
}

//! `coldread profile`: a command on the mounted image, and what it read.

use std::process::{Command, ExitCode};
use std::sync::Arc;

use coldpress::Error;
use coldpress::bundle::Missing;

use super::mount::{Allowed, Place, Starting, Then, require_mounting};
use super::tell_fetched;
use crate::args::{Cli, ProfileArgs, ProfileCommand, RecordArgs};
use crate::run_state::{ImageRecord, Plan, RunDirectory};
use crate::shared::failure::Failure;

pub fn run(cli: &Cli, args: &ProfileArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        ProfileCommand::Record(args) => record(cli, args),
    }
}

fn record(cli: &Cli, args: &RecordArgs) -> Result<ExitCode, Failure> {
    require_mounting()?;
    let reading = args.reading.open(true, None)?;
    let device = Arc::new(reading.open(&args.source)?);
    reading.begin();
    let plan =
        Plan { command: "profile record", images: vec![ImageRecord::of(&args.source, &device)], ..Plan::default() };
    let starting = Starting::new(&RunDirectory::open()?, &plan)?;
    let directory = starting.directory()?;
    let shown = directory.to_string_lossy().into_owned();
    let words: Vec<String> = args.command.iter().map(|word| word.replace("{}", &shown)).collect();
    let place = Place {
        offered: Arc::clone(&device) as _,
        directory: &directory,
        shown: &directory,
        threads: args.threads.threads,
        missing: &Missing::default(),
        allowed: Allowed::default(),
    };
    let mut status = None;
    starting.stay(&place, |_| {
        let (program, arguments) = words.split_first().expect("there is a command");
        let ended = Command::new(program).args(arguments).status();
        status = Some(ended.map_err(|error| Error::io(program, error))?);
        Ok(Then::End)
    })?;
    tell_fetched(cli, &device);
    reading.write_record(&device, Some(&args.output))?;
    // Who was killed has no code.
    let code = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}

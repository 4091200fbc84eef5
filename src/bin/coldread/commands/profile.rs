//! `coldread profile`: a command on the mounted image, and what it read.

use std::process::{Command, ExitCode};
use std::sync::Arc;

use coldpress::Error;
use coldpress::bundle::Missing;

use super::mount::{Place, Then, require_root, stay};
use super::tell_fetched;
use crate::args::{Cli, ProfileArgs, ProfileCommand, RecordArgs};
use crate::shared::failure::Failure;

pub fn run(cli: &Cli, args: &ProfileArgs) -> Result<ExitCode, Failure> {
    match &args.command {
        ProfileCommand::Record(args) => record(cli, args),
    }
}

fn record(cli: &Cli, args: &RecordArgs) -> Result<ExitCode, Failure> {
    require_root()?;
    let reading = args.reading.open(true)?;
    let device = Arc::new(reading.open(&args.source)?);
    let directory = tempfile::Builder::new()
        .prefix("coldread-")
        .tempdir()
        .map_err(|error| Error::io("a directory to mount at", error))?;
    let shown = directory.path().to_string_lossy().into_owned();
    let words: Vec<String> = args.command.iter().map(|word| word.replace("{}", &shown)).collect();
    let place = Place {
        offered: Arc::clone(&device) as _,
        directory: directory.path(),
        threads: args.threads,
        missing: &Missing::default(),
    };
    let mut status = None;
    stay(&place, || {
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

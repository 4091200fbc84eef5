//! `coldread report`: a recorded start as a picture.

use std::io::Write;

use coldpress::Error;
use coldpress::read::picture::{Numbers, svg};

use crate::args::ReportArgs;
use crate::shared::failure::CommandResult;
use crate::shared::files::{read_profile, write_whole};
use crate::shared::stdout::print;

pub fn run(args: &ReportArgs) -> CommandResult {
    let profile = read_profile(&args.profile)?;
    let numbers = Numbers::of(&profile);
    if let Some(path) = &args.output {
        let picture = svg(&profile);
        write_whole(path, |mut file| file.write_all(picture.as_bytes()).map_err(|error| Error::file(path, error)))?;
    }
    let said = match (args.json, &args.output) {
        (true, _) => {
            let json = serde_json::to_string(&numbers).map_err(|error| Error::io("JSON", error.into()))?;
            format!("{json}\n")
        }
        (false, Some(_)) => format!("{}\n", numbers.sentence()),
        (false, None) => svg(&profile),
    };
    Ok(print(said.as_bytes())?)
}

//! What the `--help` pages of both programs share: headings, choices, and options that a command does not show.

use std::ffi::OsString;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Arg, ArgAction, Command, FromArgMatches};

use super::failure::{Failure, print_usage_json};
use super::settings::{self, Program, Resolution, Stop};
use super::version;

/// Heading of the options that every command has.
pub const GLOBAL: &str = "Global options";

/// Parses one of `values`, each with its description: help and completions list them, and a wrong value gets a suggestion.
pub fn choice<T>(values: &'static [(&'static str, &'static str)]) -> impl TypedValueParser<Value = T>
where
    T: FromStr + Clone + Send + Sync + 'static,
{
    let values = values.iter().map(|(name, help)| PossibleValue::new(*name).help(*help));
    PossibleValuesParser::new(values).map(|name| match name.parse() {
        Ok(value) => value,
        Err(_) => unreachable!("the type parses every choice"),
    })
}

/// Hides the global switches `names` in the help of `command`, where they have no effect. They are still accepted.
pub fn hide_switches(command: Command, names: &[(&'static str, Option<char>)]) -> Command {
    names.iter().fold(command, |command, (name, short)| {
        // Of the same kind as the option itself.
        let action = if *name == "verbose" { ArgAction::Count } else { ArgAction::SetTrue };
        command.arg(Arg::new(*name).long(*name).short(*short).hide(true).action(action))
    })
}

/// Parses the `words` of a command line of `program` by `command`, a description of `T`, with the settings of the environment and the
/// configuration file; prints help and usage errors and exits.
pub fn parse<T: FromArgMatches>(
    program: &Program,
    mut command: Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<(T, Resolution), Failure> {
    let words: Vec<OsString> = words.into_iter().collect();
    let parsed = settings::resolve(program, &command, &words)
        .and_then(|resolution| Ok((T::from_arg_matches(&resolution.matches)?, resolution)));
    match parsed {
        Ok(parsed) => Ok(parsed),
        Err(Stop::Failure(failure)) => Err(failure),
        Err(Stop::Clap(error)) => {
            version::print_long(&command, &error, &words);
            let error = error.format(&mut command);
            if error.use_stderr() && asks_for_json() {
                let message = error.to_string();
                let message = message.lines().next().unwrap_or_default();
                print_usage_json(message.strip_prefix("error: ").unwrap_or(message));
            }
            error.exit()
        }
    }
}

/// Returns whether the command line has `--json`, also where it cannot be parsed.
pub fn asks_for_json() -> bool {
    std::env::args_os().any(|arg| arg == "--json")
}

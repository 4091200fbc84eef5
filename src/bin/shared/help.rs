//! What the command lines of both programs share: headings, choices, and global options.

use std::ffi::OsString;
use std::str::FromStr;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command, FromArgMatches};

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

/// Gives the global options of `program` to those of its commands on which they have an effect: `has` decides by the words that name a
/// command, such as `zone plan`, and by the option. A group of commands has the options of its commands.
pub fn spread_globals(program: Command, has: &dyn Fn(&Command, &str, &str) -> bool) -> Command {
    let globals: Vec<Arg> = globals(&program).cloned().collect();
    program.mut_subcommands(|command| spread(command, "", &globals, has))
}

fn spread(command: Command, group: &str, globals: &[Arg], has: &dyn Fn(&Command, &str, &str) -> bool) -> Command {
    let path = format!("{group} {}", command.get_name()).trim_start().to_owned();
    let command = command.mut_subcommands(|below| spread(below, &path, globals, has));
    let has = |command: &Command, arg: &&Arg| match command.has_subcommands() {
        true => {
            command.get_subcommands().any(|below| below.get_arguments().any(|other| other.get_id() == arg.get_id()))
        }
        false => has(command, &path, arg.get_id().as_str()),
    };
    let own: Vec<&Arg> = globals.iter().filter(|arg| has(&command, arg)).collect();
    own.into_iter().fold(command, |command, arg| command.arg(arg.clone()))
}

/// Returns the options of `program` that can also stand behind a command.
fn globals(program: &Command) -> impl Iterator<Item = &Arg> {
    let is_global = |arg: &&Arg| arg.get_help_heading() == Some(GLOBAL) && arg.get_id() != "help";
    program.get_arguments().filter(is_global)
}

/// Parses `words` by `program`, whose global options stand before a command or behind it.
///
/// # Errors
/// Those of clap, also for a global option of which the command does not know.
pub fn parse_words(program: &Command, words: &[OsString]) -> Result<ArgMatches, clap::Error> {
    // First as it is described: what a command does not have is refused.
    let matches = program.clone().try_get_matches_from(words)?;
    let (leaf, path, _) = settings::leaf(program, &matches);
    let levels: Vec<&ArgMatches> = std::iter::successors(Some(&matches), |level| Some(level.subcommand()?.1)).collect();
    let is_given = |arg: &Arg| {
        let id = arg.get_id().as_str();
        let is_in = |level: &&ArgMatches| {
            level.try_contains_id(id).unwrap_or(false) && level.value_source(id) == Some(ValueSource::CommandLine)
        };
        levels.iter().any(is_in)
    };
    let has = |arg: &Arg| leaf.get_arguments().any(|own| own.get_id() == arg.get_id());
    let is_command = leaf.get_name() != program.get_name();
    if let Some(arg) = globals(program).find(|arg| is_command && is_given(arg) && !has(arg)) {
        return Err(unknown(&format!("{} {}", program.get_name(), path.join(" ")), leaf, arg));
    }
    // Then with values of all places together.
    let ids: Vec<String> = globals(program).map(|arg| arg.get_id().to_string()).collect();
    ids.iter()
        .fold(program.clone(), |program, id| program.mut_arg(id, |arg| arg.global(true)))
        .try_get_matches_from(words)
}

/// Returns clap's error of an option that `command`, called by `name`, does not have.
fn unknown(name: &str, command: &Command, arg: &Arg) -> clap::Error {
    let mut error = clap::Error::new(clap::error::ErrorKind::UnknownArgument).with_cmd(command);
    let option = format!("--{}", arg.get_long().unwrap_or_default());
    let usage = command.clone().bin_name(name).render_usage();
    error.insert(ContextKind::InvalidArg, ContextValue::String(option));
    error.insert(ContextKind::Usage, ContextValue::StyledStr(usage));
    error
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

//! Options that can also be set by an environment variable or in a configuration file.
//!
//! An option wins over the environment, the environment over the file, the file over the default. A value from outside the command line
//! becomes the option's default for this run, so it is parsed as the option is, and it gives way to an option that excludes it.
//! docs/reference/configuration.md lists settings and files; docs/explanation/threat-model.md says what an untrusted file cannot set.

mod file;
mod page;

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::PathBuf;

use clap::error::{ContextKind, ContextValue};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use self::file::{ConfigFile, Entry};
use super::failure::Failure;
use super::help::parse_words;
use super::keys::environment;

pub use self::page::{ConfigArgs, show};

/// The settings of a program.
#[derive(Debug)]
pub struct Program {
    /// Name of the program.
    pub name: &'static str,
    /// Its settings.
    pub settings: &'static [Setting],
    /// Environment variable that names the configuration file.
    pub variable: &'static str,
    /// The configuration file that is read if none is named.
    pub file: &'static str,
    /// Whether anyone may have written that file, as one in the working directory.
    pub is_untrusted: bool,
}

/// An option that can be set from outside the command line.
#[derive(Debug)]
pub struct Setting {
    /// The option's name without dashes in front, which is also its key in the file.
    pub name: &'static str,
    /// Its environment variable.
    pub variable: Option<&'static str>,
    /// Which files may set it.
    pub file: InFile,
}

/// Which files may set a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InFile {
    /// Any: it changes neither where data and credentials go, nor who can read them, nor what limits hold.
    Any,
    /// One that the user named, or that only root can write.
    Trusted,
    /// None: it is a secret, or belongs to one run.
    None,
}

impl Setting {
    /// Returns the name by which clap knows the option.
    fn id(&self) -> String {
        self.name.replace('-', "_")
    }
}

/// Where the value of a setting comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// An option on the command line.
    Option,
    /// An environment variable.
    Environment(&'static str),
    /// A line of a configuration file.
    File(PathBuf, usize),
    /// Nothing else set it.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option => f.write_str("option"),
            Self::Environment(name) => write!(f, "environment: {name}"),
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Default => f.write_str("default"),
        }
    }
}

/// A setting with the value that holds.
#[derive(Debug, Clone)]
pub struct Resolved {
    /// The option's name.
    pub name: &'static str,
    /// Its values; none where it is not set.
    pub values: Vec<String>,
    /// What set it.
    pub origin: Origin,
}

/// A parsed command line, with what the environment and the file add to it.
#[derive(Debug)]
pub struct Resolution {
    /// What clap made of it.
    pub matches: ArgMatches,
    /// The settings of its command.
    pub settings: Vec<Resolved>,
    /// The configuration file that was read, and whether anyone may have written it.
    pub file: Option<(PathBuf, bool)>,
}

impl Resolution {
    /// Returns what to report about the file: always what one from the working directory set, of another each setting if `is_verbose`.
    pub fn notices(&self, is_verbose: bool) -> Vec<String> {
        let set = self.settings.iter().filter(|resolved| matches!(resolved.origin, Origin::File(..)));
        match &self.file {
            Some((path, true)) => {
                let names: Vec<&str> = set.map(|resolved| resolved.name).collect();
                (!names.is_empty())
                    .then(|| format!("{} sets {}", path.display(), names.join(", ")))
                    .into_iter()
                    .collect()
            }
            Some(_) if is_verbose => {
                set.map(|resolved| format!("{} sets {}", resolved.origin, resolved.name)).collect()
            }
            _ => Vec::new(),
        }
    }
}

/// Why a command line has no resolution.
#[derive(Debug)]
pub enum Stop {
    /// Help was asked for, or the command line is wrong.
    Clap(clap::Error),
    /// The environment or the file is wrong.
    Failure(Failure),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failure(failure)
    }
}

impl From<clap::Error> for Stop {
    fn from(error: clap::Error) -> Self {
        Self::Clap(error)
    }
}

/// Returns whether `command`, which is no group, takes settings; `config` shows them.
pub fn has_settings(program: &Program, command: &Command) -> bool {
    command.get_name() == "config" || settings_of(program, command).next().is_some()
}

/// Adds the environment variables to the help of `command`.
pub fn describe(program: &Program, command: Command) -> Command {
    let variable = |arg: &Arg| program.settings.iter().find(|setting| arg.get_id() == setting.id().as_str())?.variable;
    let with_variable = |arg: Arg| match variable(&arg) {
        Some(name) => {
            let help = arg.get_long_help().or(arg.get_help()).map(ToString::to_string).unwrap_or_default();
            arg.long_help(format!("{help}\n\n[env: {name}]"))
        }
        None => arg,
    };
    command.mut_args(with_variable).mut_subcommands(|command| describe(program, command))
}

/// Parses `words`, the first of which is the program, by `command`, with the settings of the environment and the file.
pub fn resolve(program: &Program, command: &Command, words: &[OsString]) -> Result<Resolution, Stop> {
    let matches = parse_words(command, words)?;
    let (leaf, path, given) = leaf(command, &matches);
    if !has_settings(program, leaf) {
        return Ok(Resolution { matches, settings: Vec::new(), file: None });
    }
    let file = ConfigFile::find(program, given.get_one::<PathBuf>("config").map(PathBuf::as_path))?;
    let entries = file.as_ref().map(|file| file.entries(program, command)).transpose()?.unwrap_or_default();
    // `config` shows the settings of all commands.
    if leaf.get_name() == "config" {
        let settings = program.settings.iter().filter_map(|setting| Some((setting, find(command, setting)?)));
        let settings = settings.map(|(setting, arg)| layered(setting, arg, &entries)).collect::<Result<_, _>>()?;
        return Ok(Resolution { matches, settings, file: file.map(|file| (file.path, file.is_untrusted)) });
    }
    let settings = choose(program, leaf, given, &entries)?;
    let adapted = adapt(command.clone(), &path, &settings);
    let matches = parse_words(&adapted, words)?;
    Ok(Resolution { matches, settings, file: file.map(|file| (file.path, file.is_untrusted)) })
}

/// Returns the description of the command that was given, the names that lead to it, and what was given to it.
pub fn leaf<'a>(command: &'a Command, matches: &'a ArgMatches) -> (&'a Command, Vec<String>, &'a ArgMatches) {
    let (mut leaf, mut path, mut given) = (command, Vec::new(), matches);
    while let Some((name, below)) = given.subcommand() {
        let Some(next) = leaf.find_subcommand(name) else { break };
        path.push(name.to_owned());
        (leaf, given) = (next, below);
    }
    (leaf, path, given)
}

/// Returns the settings that `command` has, with their options.
fn settings_of<'a>(program: &Program, command: &'a Command) -> impl Iterator<Item = (&'static Setting, &'a Arg)> {
    let settings: &'static [Setting] = program.settings;
    settings.iter().filter_map(|setting| {
        let id = setting.id();
        Some((setting, command.get_arguments().find(|arg| arg.get_id() == id.as_str())?))
    })
}

/// Returns the option of a setting, from the first command that has it.
fn find<'a>(command: &'a Command, setting: &Setting) -> Option<&'a Arg> {
    let own = command.get_arguments().find(|arg| arg.get_id() == setting.id().as_str());
    own.or_else(|| command.get_subcommands().find_map(|command| find(command, setting)))
}

/// Returns what sets `setting` outside the command line.
fn layered(setting: &'static Setting, arg: &Arg, entries: &[Entry]) -> Result<Resolved, Failure> {
    if let Some(variable) = setting.variable
        && let Some(value) = environment(variable)?
    {
        let refuse = |reason| Failure::Usage(format!("{variable}: {reason}"));
        check(arg, std::slice::from_ref(&value)).map_err(refuse)?;
        let value = match is_switch(arg) {
            true => (!matches!(&value[..], "false" | "0")).to_string(),
            false => value,
        };
        return Ok(Resolved { name: setting.name, values: vec![value], origin: Origin::Environment(variable) });
    }
    let entry = entries.iter().find(|entry| entry.setting.name == setting.name);
    Ok(match entry {
        Some(entry) => Resolved {
            name: setting.name,
            values: entry.values.clone(),
            origin: Origin::File(entry.path.clone(), entry.line),
        },
        None => Resolved { name: setting.name, values: texts(arg.get_default_values()), origin: Origin::Default },
    })
}

fn is_switch(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::SetTrue)
}

fn texts<T: AsRef<OsStr>>(values: &[T]) -> Vec<String> {
    values.iter().map(|value| value.as_ref().to_string_lossy().into_owned()).collect()
}

/// Returns the value of each setting of `leaf`, to which the command line gave `given`.
fn choose(program: &Program, leaf: &Command, given: &ArgMatches, entries: &[Entry]) -> Result<Vec<Resolved>, Failure> {
    let is_given = |id: &str| {
        given.try_contains_id(id).unwrap_or(false) && given.value_source(id) == Some(ValueSource::CommandLine)
    };
    let excluded: BTreeSet<&str> = leaf
        .get_arguments()
        .filter(|arg| is_given(arg.get_id().as_str()))
        .flat_map(|arg| excludes(leaf, arg))
        .collect();
    let mut settings = Vec::new();
    for (setting, arg) in settings_of(program, leaf) {
        let id = arg.get_id().as_str();
        settings.push(if is_given(id) {
            let values: Vec<&OsStr> = given.get_raw(id).into_iter().flatten().collect();
            Resolved { name: setting.name, values: texts(&values), origin: Origin::Option }
        } else if excluded.contains(id) {
            Resolved { name: setting.name, values: texts(arg.get_default_values()), origin: Origin::Default }
        } else {
            layered(setting, arg, entries)?
        });
    }
    settle(leaf, settings)
}

/// Returns the options that cannot be used with `arg`, whichever of the two says so.
fn excludes<'a>(leaf: &'a Command, arg: &Arg) -> Vec<&'a str> {
    let names =
        |other: &Arg| leaf.get_arg_conflicts_with(other).into_iter().map(Arg::get_id).any(|id| id == arg.get_id());
    let own = leaf.get_arg_conflicts_with(arg).into_iter().map(|other| other.get_id().as_str());
    own.chain(leaf.get_arguments().filter(|other| names(other)).map(|other| other.get_id().as_str())).collect()
}

/// Settles settings that exclude each other: the environment wins over the file, and a value over a switch in the environment. Two
/// others in one place are an error. A switch that is off excludes nothing.
fn settle(leaf: &Command, mut settings: Vec<Resolved>) -> Result<Vec<Resolved>, Failure> {
    let arg = |name: &str| leaf.get_arguments().find(|arg| arg.get_id() == name.replace('-', "_").as_str());
    let is_file = |origin: &Origin| matches!(origin, Origin::File(..));
    let is_outside = |origin: &Origin| is_file(origin) || matches!(origin, Origin::Environment(_));
    let is_switch = |name: &str| arg(name).is_some_and(is_switch);
    let is_off = |resolved: &Resolved| is_switch(resolved.name) && resolved.values == ["false"];
    for at in 0..settings.len() {
        if is_off(&settings[at]) {
            continue;
        }
        let (name, origin) = (settings[at].name, settings[at].origin.clone());
        let others: Vec<&str> = arg(name).map(|arg| excludes(leaf, arg)).unwrap_or_default();
        for other in settings.iter_mut().filter(|other| others.contains(&other.name.replace('-', "_").as_str())) {
            match (&origin, &other.origin) {
                _ if is_off(other) => {}
                (Origin::Environment(_), Origin::File(..)) => {
                    (other.values, other.origin) = (Vec::new(), Origin::Default);
                }
                (Origin::Environment(_), Origin::Environment(_)) if is_switch(other.name) && !is_switch(name) => {
                    (other.values, other.origin) = (Vec::new(), Origin::Default);
                }
                // The switch gives way when it is the other's turn.
                (Origin::Environment(_), Origin::Environment(_)) if is_switch(name) && !is_switch(other.name) => {}
                (a, b) if is_outside(a) && is_outside(b) && is_file(a) == is_file(b) => {
                    return Err(Failure::Usage(match (a, b) {
                        (Origin::Environment(a), Origin::Environment(b)) => {
                            format!("{a} and {b} are both set; unset one")
                        }
                        _ => format!("{a}: {name} cannot be set with {} ({b}); remove one", other.name),
                    }));
                }
                _ => {}
            }
        }
    }
    Ok(settings)
}

/// Makes values from outside the command line the defaults of the command at `path`.
fn adapt(command: Command, path: &[String], settings: &[Resolved]) -> Command {
    if let Some((name, below)) = path.split_first() {
        return command.mut_subcommand(name, |command| adapt(command, below, settings));
    }
    let is_outside = |resolved: &&Resolved| matches!(resolved.origin, Origin::Environment(_) | Origin::File(..));
    settings.iter().filter(is_outside).fold(command, |command, resolved| {
        command.mut_arg(resolved.name.replace('-', "_"), |arg| {
            // Until the program ends, as clap wants it; there are few.
            let values: Vec<&'static str> = resolved.values.iter().map(|value| &*value.clone().leak()).collect();
            let is_switch = is_switch(&arg);
            // A switch has no value that could be hidden.
            arg.default_values(values).hide_default_value(!is_switch)
        })
    })
}

/// Checks values from outside the command line as the option's are, and returns what is wrong with them.
fn check(arg: &Arg, values: &[String]) -> Result<(), String> {
    if is_switch(arg) {
        return Ok(());
    }
    let alone = Arg::new("value").long("value").value_parser(arg.get_value_parser().clone()).action(ArgAction::Append);
    let words = values.iter().map(|value| format!("--value={value}"));
    let parsed =
        Command::new("value").arg(alone).try_get_matches_from(std::iter::once("value".to_owned()).chain(words));
    parsed.map(drop).map_err(|error| reason(&error))
}

/// Returns what clap found wrong with a value, without the name of its option.
fn reason(error: &clap::Error) -> String {
    if let Some(source) = std::error::Error::source(error) {
        return source.to_string();
    }
    match (error.get(ContextKind::InvalidValue), error.get(ContextKind::ValidValue)) {
        (Some(ContextValue::String(value)), Some(ContextValue::Strings(valid))) => {
            format!("`{value}` is not one of {}", valid.join(", "))
        }
        _ => error.kind().as_str().unwrap_or("not a value of this option").to_owned(),
    }
}

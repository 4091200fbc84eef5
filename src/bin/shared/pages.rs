//! Shell completions and man pages, generated from the command line's description: the same bytes on any day.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use coldpress::Error;

use super::completion;
use super::failure::CommandResult;
use super::files::write_whole;
use super::stdout::print;

/// Generate shell completions
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  source <(coldpress completions bash)\n  source <(coldread completions bash)")]
pub struct CompletionsArgs {
    /// Shell to generate completions for
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Generate man pages
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  coldpress man ~/.local/share/man/man1\n  coldread man | man -l -")]
pub struct ManArgs {
    /// Output directory, one page per command [default: main page to stdout]
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Prints the completions of `program`.
pub fn completions(mut program: Command, args: &CompletionsArgs) -> CommandResult {
    Ok(print(completion::script(&mut program, args.shell).as_bytes())?)
}

/// Writes the man pages of `program` and its commands, or prints the main page.
pub fn man(program: Command, args: &ManArgs) -> CommandResult {
    // Each page would have one of `help`, which says what they say.
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let source = format!("{} {}", program.get_name(), program.get_version().unwrap_or_default());
    let Some(directory) = &args.directory else {
        return Ok(print(&page(program, &source).1)?);
    };
    std::fs::create_dir_all(directory).map_err(|error| Error::file(directory, error))?;
    for command in with_subcommands(&program) {
        let (name, page) = page(command, &source);
        let path = directory.join(name);
        write_whole(&path, |mut file| file.write_all(&page).map_err(|error| Error::file(&path, error)))?;
    }
    Ok(())
}

/// Returns `command` and all commands below it.
fn with_subcommands(command: &Command) -> Vec<Command> {
    let below = command.get_subcommands().flat_map(with_subcommands);
    std::iter::once(command.clone()).chain(below).collect()
}

/// Returns the file name and text of the page of `command`.
fn page(command: Command, source: &str) -> (String, Vec<u8>) {
    let man = Man::new(command).source(source);
    let mut page = Vec::new();
    man.render(&mut page).expect("memory takes all that is written to it");
    (man.get_filename(), page)
}

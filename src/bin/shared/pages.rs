//! Completions for shells and manual pages, made of the command line's own description: the same bytes on any day.

use std::io::Write;
use std::path::PathBuf;

use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;
use coldpress::Error;

use super::failure::CommandResult;
use super::files::write_whole;

/// Print what a shell needs to complete this program's commands and options
///
/// Source it (bash: `source <(coldpress completions bash)`), or keep it where the shell looks for completions.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_name = "SHELL")]
    pub shell: Shell,
}

/// Write the manual pages, one a command
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to write them, made where it is not there; without it, the main page goes to standard output
    #[arg(value_name = "DIR")]
    pub directory: Option<PathBuf>,
}

/// Prints the completions of `program`.
pub fn completions(mut program: Command, args: &CompletionsArgs) -> CommandResult {
    let (name, mut script) = (program.get_name().to_owned(), Vec::new());
    clap_complete::generate(args.shell, &mut program, name, &mut script);
    Ok(print(&script)?)
}

/// Writes the pages of `program`, or prints the first.
pub fn man(program: Command, args: &ManArgs) -> CommandResult {
    // Each page would have one of `help`, which says what they say.
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let source = format!("{} {}", program.get_name(), program.get_version().unwrap_or_default());
    let Some(directory) = &args.directory else {
        return Ok(print(&page(program, &source).1)?);
    };
    std::fs::create_dir_all(directory).map_err(|error| Error::file(directory, error))?;
    for command in program.get_subcommands().cloned().chain([program.clone()]) {
        let (name, page) = page(command, &source);
        let path = directory.join(name);
        write_whole(&path, |mut file| file.write_all(&page).map_err(|error| Error::file(&path, error)))?;
    }
    Ok(())
}

/// A page's file name and text.
fn page(command: Command, source: &str) -> (String, Vec<u8>) {
    let man = Man::new(command).source(source);
    let mut page = Vec::new();
    man.render(&mut page).expect("memory takes all that is written to it");
    (man.get_filename(), page)
}

fn print(bytes: &[u8]) -> Result<(), Error> {
    std::io::stdout().write_all(bytes).map_err(|error| Error::io("standard output", error))
}

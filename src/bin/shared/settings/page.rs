//! The command `config`: which settings hold, and what set each of them.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::Write as _;

use clap::{Args, Command};
use coldpress::Error;
use coldpress::printable::Printable;
use serde_json::{Value, json};

use super::{Origin, Program, Resolution, Resolved, Stop, resolve};
use crate::shared::failure::{CommandResult, Failure};

/// Show the effective settings, and where each comes from
///
/// An option wins over the environment variable, that over the configuration file, and that over the default. With a command line behind
/// `--`, shows the settings of that command. Secrets are never shown.
#[derive(Debug, Args)]
#[command(
    after_help = "Example:\n  coldpress config\n  coldpress config -- convert docker://HOST/app --threads 4 -o app.cpm"
)]
pub struct ConfigArgs {
    /// Command line to explain, without the program's name
    #[arg(value_name = "COMMAND", last = true)]
    command: Vec<OsString>,
}

/// Prints the settings of `program`, or those of the command line in `args`.
pub fn show(program: &Program, command: &Command, args: &ConfigArgs, is_json: bool, own: &Resolution) -> CommandResult {
    let explained = match args.command.is_empty() {
        true => None,
        false => {
            let words: Vec<OsString> =
                std::iter::once(program.name.into()).chain(args.command.iter().cloned()).collect();
            Some(resolve(program, command, &words).map_err(|stop| match stop {
                Stop::Clap(error) => Failure::Usage(first_line(&error)),
                Stop::Failure(failure) => failure,
            })?)
        }
    };
    let Resolution { settings, file, .. } = explained.as_ref().unwrap_or(own);
    let text = if is_json {
        let file = file.as_ref().map(|(path, _)| path.to_string_lossy());
        format!("{}\n", json!({ "file": file, "settings": settings.iter().map(object).collect::<Vec<_>>() }))
    } else {
        table(settings)
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|error| Error::io("standard output", error).into())
}

fn first_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn table(settings: &[Resolved]) -> String {
    let rows: Vec<_> = settings
        .iter()
        .map(|resolved| (resolved.name, shown(resolved).unwrap_or_else(|| "-".to_owned()), resolved.origin.to_string()))
        .collect();
    let width = |length: fn(&(&str, String, String)) -> usize| rows.iter().map(length).max().unwrap_or_default();
    let (names, values) = (width(|row| row.0.len()), width(|row| row.1.chars().count()));
    let mut text = String::new();
    for (name, value, origin) in &rows {
        let _ = writeln!(text, "{}", Printable(&format!("{name:names$}  {value:values$}  {origin}")));
    }
    text
}

fn object(resolved: &Resolved) -> Value {
    let mut object = json!({ "name": resolved.name, "value": shown(resolved) });
    let (source, more) = match &resolved.origin {
        Origin::Option => ("option", None),
        Origin::Environment(name) => ("environment", Some(("variable", json!(name)))),
        Origin::File(path, line) => {
            object["line"] = json!(line);
            ("file", Some(("file", json!(path.to_string_lossy()))))
        }
        Origin::Default => ("default", None),
    };
    object["source"] = json!(source);
    if let Some((key, value)) = more {
        object[key] = value;
    }
    object
}

/// Returns the value as it may be shown, or `None` where there is none.
fn shown(resolved: &Resolved) -> Option<String> {
    if resolved.values.is_empty() {
        return None;
    }
    if resolved.name == "creds" {
        return Some("(hidden)".to_owned());
    }
    let values = resolved.values.iter().flat_map(|value| value.split(',')).map(without_password);
    Some(values.collect::<Vec<_>>().join(","))
}

/// Returns a URL with `***` in place of its user and password; other texts as they are.
fn without_password(text: &str) -> String {
    match text.split_once("://") {
        Some((scheme, rest)) => {
            // A password may have any letter but a slash in it.
            let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
            let host = host.rsplit_once('@').map_or(host.to_owned(), |(_, host)| format!("***@{host}"));
            format!("{scheme}://{host}{path}")
        }
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_in_urls_are_hidden() {
        for (text, shown) in [
            ("redis://user:secret@cache-1:6379", "redis://***@cache-1:6379"),
            ("redis://:sec@ret@cache-1/0", "redis://***@cache-1/0"),
            ("s3://bucket/pre@fix", "s3://bucket/pre@fix"),
            ("./store", "./store"),
        ] {
            assert_eq!(without_password(text), shown);
        }
    }
}

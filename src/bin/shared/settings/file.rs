//! Configuration files: TOML, one key a setting. Every mistake names the file, the line and the key.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Arg, ArgAction, Command};
use coldpress::{Error, ErrorKind};
use toml::de::{DeTable, DeValue};

use super::{InFile, Program, Setting, check, find};
use crate::shared::failure::Failure;
use crate::shared::keys::environment;

/// Largest configuration file that is read.
const MAX_BYTES: u64 = 1 << 20;
/// How similar a key must be to the one that was meant, from 0 to 1. Measured with all keys that have one letter too few, too many, swapped
/// or replaced by its neighbour on the keyboard: 99.7 of 100 are corrected, with two mistakes 88. At 0.8 it is 99.3 and 83, at 0.7 more
/// than twice as many unrelated words get an answer (20 to 27 of 91 rather than 10).
const SIMILAR: f64 = 0.75;

/// A configuration file.
#[derive(Debug)]
pub(super) struct ConfigFile {
    /// Its path, as it was named.
    pub(super) path: PathBuf,
    /// Whether anyone may have written it.
    pub(super) is_untrusted: bool,
    text: String,
}

/// A line of a configuration file that sets something.
#[derive(Debug)]
pub(super) struct Entry {
    /// What it sets.
    pub(super) setting: &'static Setting,
    /// The values.
    pub(super) values: Vec<String>,
    /// Its file.
    pub(super) path: PathBuf,
    /// Its line, from 1.
    pub(super) line: usize,
}

impl ConfigFile {
    /// Reads the file that an option or the environment names, else the default one if it exists.
    pub(super) fn find(program: &Program, named: Option<&Path>) -> Result<Option<Self>, Failure> {
        let named = match named {
            Some(path) => Some(path.to_owned()),
            None => environment(program.variable)?.map(PathBuf::from),
        };
        if let Some(path) = named {
            let text = read(&path).map_err(|error| Error::file(&path, error))?;
            return Ok(Some(Self { path, is_untrusted: false, text: text_of(text)? }));
        }
        let path = PathBuf::from(program.file);
        match read(&path) {
            Err(error) if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
                Ok(None)
            }
            Err(error) => Err(Error::file(&path, error).into()),
            Ok(text) => {
                if !program.is_untrusted {
                    check_owner(&path)?;
                }
                Ok(Some(Self {
                    text: text_of(text).map_err(|error| error.within(path.display()))?,
                    path,
                    is_untrusted: program.is_untrusted,
                }))
            }
        }
    }

    /// Returns what the file sets, every value checked as the option of a command of `command` is.
    pub(super) fn entries(&self, program: &Program, command: &Command) -> Result<Vec<Entry>, Failure> {
        let table = DeTable::parse(&self.text).map_err(|error| {
            let line = error.span().map_or(1, |span| self.line(span.start));
            self.error(line, &format!("not TOML: {}", error.message()))
        })?;
        let mut entries = Vec::new();
        for (key, value) in table.get_ref() {
            let (name, line): (&str, _) = (key.get_ref(), self.line(key.span().start));
            let setting = program.settings.iter().find(|setting| setting.name == name && setting.file != InFile::None);
            let setting = setting.ok_or_else(|| self.error(line, &unknown(program, name)))?;
            if setting.file == InFile::Trusted && self.is_untrusted {
                return Err(self.untrusted(program, setting, line).into());
            }
            let arg = find(command, setting).expect("a command has each setting");
            let values =
                values_of(arg, value.get_ref()).map_err(|reason| self.error(line, &format!("{name}: {reason}")))?;
            check(arg, &values).map_err(|reason| self.error(line, &format!("{name}: {reason}")))?;
            entries.push(Entry { setting, values, path: self.path.clone(), line });
        }
        Ok(entries)
    }

    fn line(&self, offset: usize) -> usize {
        1 + self.text.as_bytes().iter().take(offset).filter(|byte| **byte == b'\n').count()
    }

    fn error(&self, line: usize, message: &str) -> Error {
        Error::new(ErrorKind::Input, format!("{}:{line}: {message}", self.path.display()))
    }

    fn untrusted(&self, program: &Program, setting: &Setting, line: usize) -> Error {
        let message = format!(
            "{} is not taken from the working directory, since it decides where data goes, who can read it, or what limits hold",
            setting.name
        );
        let shown = self.path.display();
        let hint = format!("if you trust this file, name it: --config {shown}, or {}={shown}", program.variable);
        self.error(line, &message).with_hint(hint)
    }
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn text_of(bytes: Vec<u8>) -> Result<String, Error> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(Error::new(ErrorKind::Input, "configuration file larger than 1 MiB"));
    }
    String::from_utf8(bytes).map_err(|_| Error::new(ErrorKind::Input, "configuration file: not UTF-8"))
}

/// Refuses a system-wide file that others than root and this user can write.
fn check_owner(path: &Path) -> Result<(), Error> {
    let metadata = path.metadata().map_err(|error| Error::file(path, error))?;
    let own = rustix::process::geteuid().as_raw();
    let shown = path.display();
    if metadata.uid() != 0 && metadata.uid() != own {
        let message = format!("{shown}: belongs to user {}, expected root", metadata.uid());
        return Err(Error::new(ErrorKind::Denied, message));
    }
    if metadata.mode() & 0o022 != 0 {
        let message = format!("{shown}: its mode is {:03o}, so others can write it", metadata.mode() & 0o777);
        return Err(Error::new(ErrorKind::Denied, message).with_hint(format!("run: chmod go-w {shown}")));
    }
    Ok(())
}

/// Returns what is wrong with a key that is not there.
fn unknown(program: &Program, name: &str) -> String {
    let is_command_line = program.settings.iter().any(|setting| setting.name == name);
    if is_command_line {
        return format!("{name} cannot be set in a file; use the option or the environment");
    }
    let names = program.settings.iter().filter(|setting| setting.file != InFile::None).map(|setting| setting.name);
    let alike = names.map(|known| (strsim::jaro_winkler(known, &name.replace('_', "-")), known));
    match alike.max_by(|a, b| a.0.total_cmp(&b.0)) {
        Some((likeness, known)) if likeness > SIMILAR => format!("unknown key `{name}`; did you mean `{known}`?"),
        _ => format!("unknown key `{name}`; `{} config` lists all", program.name),
    }
}

/// Returns the values of a key, which must be of the type that its option takes.
fn values_of(arg: &Arg, value: &DeValue<'_>) -> Result<Vec<String>, String> {
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let is_list = matches!(arg.get_action(), ArgAction::Append);
    let expected = match (is_switch, is_list) {
        (true, _) => "a boolean",
        (_, true) => "a string, or an array of strings",
        _ => "a string or an integer",
    };
    let wrong = |found: &str| Err(format!("expected {expected}, found {found}"));
    match value {
        DeValue::Boolean(value) if is_switch => Ok(vec![value.to_string()]),
        DeValue::String(text) if !is_switch => Ok(vec![text.to_string()]),
        DeValue::Integer(number) if !is_switch && !is_list && number.radix() == 10 => {
            Ok(vec![number.as_str().to_owned()])
        }
        DeValue::Array(values) if is_list => values
            .iter()
            .map(|value| match value.get_ref() {
                DeValue::String(text) => Ok(text.to_string()),
                other => Err(format!("expected {expected}, found {} in the array", with_article(other))),
            })
            .collect(),
        other => wrong(&with_article(other)),
    }
}

fn with_article(value: &DeValue<'_>) -> String {
    let kind = value.type_str();
    format!("{} {kind}", if kind.starts_with(['a', 'i', 'o']) { "an" } else { "a" })
}

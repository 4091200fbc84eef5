//! What an image's config says of the program in it, checked to be what Linux can start.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::{Error, ErrorKind, Result};

/// Longest argument or variable, with its end: MAX_ARG_STRLEN of Linux.
const MAX_TEXT: usize = 128 << 10;
/// Arguments and variables together, with eight bytes for each: a quarter of the usual stack, as Linux has it.
const MAX_TEXTS: usize = 2 << 20;
/// Longest path, with its end: PATH_MAX.
const MAX_PATH: usize = 4096;

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    architecture: Option<String>,
    os: Option<String>,
    variant: Option<String>,
    config: Image,
}

/// The settings of an image that matter to who starts it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Image {
    /// The program and its first arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments, or the program where there is no entrypoint.
    pub cmd: Vec<String>,
    /// `NAME=VALUE`.
    pub env: Vec<String>,
    /// A user, and a group behind a colon, by name or number.
    pub user: Option<String>,
    /// Where the program starts.
    pub working_dir: Option<String>,
    /// What its maker says of it.
    pub labels: BTreeMap<String, String>,
    /// The signal that asks the program to end.
    pub stop_signal: Option<String>,
    /// `PORT/PROTOCOL`.
    pub exposed_ports: BTreeMap<String, serde::de::IgnoredAny>,
    /// What the config says of the platform, by the annotation that it becomes.
    #[serde(skip)]
    pub platform: BTreeMap<&'static str, String>,
}

impl Image {
    /// From a config in its normal form, as the block manifest has it.
    ///
    /// # Errors
    /// `Input` where it is none.
    pub fn decode(config: &str) -> Result<Self> {
        let Config { architecture, os, variant, config: mut image } = serde_json::from_str(config)
            .map_err(|error| Error::caused(ErrorKind::Input, "image config: not in its normal form", error))?;
        let platform = [("architecture", architecture), ("os", os), ("variant", variant)];
        image.platform = platform.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        Ok(image)
    }

    /// The program with its arguments; `given` ones stand in place of the image's Cmd.
    ///
    /// # Errors
    /// `Input` where there is no program, or one that Linux cannot start.
    pub fn arguments(&self, given: &[String]) -> Result<Vec<String>> {
        let rest = if given.is_empty() { &self.cmd } else { given };
        let arguments: Vec<String> = self.entrypoint.iter().chain(rest).cloned().collect();
        if arguments.first().is_none_or(String::is_empty) {
            return Err(refused("Entrypoint and Cmd", "name no program; give one after `--`"));
        }
        check(&arguments, "Entrypoint and Cmd")?;
        Ok(arguments)
    }

    /// Returns the environment: the image's, with the `given` variables in place of those of the same name, and the usual PATH where there
    /// is none.
    ///
    /// # Errors
    /// `Input` where Linux cannot take it.
    pub fn environment(&self, given: &[String]) -> Result<Vec<String>> {
        if self.env.iter().any(|variable| variable.find('=').is_none_or(|at| at == 0)) {
            return Err(refused("Env", "one is not of the form NAME=VALUE"));
        }
        let mut environment = self.env.clone();
        for variable in given {
            environment.retain(|other| name_of(other) != name_of(variable));
            environment.push(variable.clone());
        }
        check(&environment, "Env")?;
        if !environment.iter().any(|variable| name_of(variable) == "PATH") {
            environment.insert(0, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        }
        Ok(environment)
    }

    /// Returns where the program starts, `given` or the image's: an absolute path, cleaned as docker cleans it, by its text alone.
    ///
    /// # Errors
    /// `Input` where it is no path.
    pub fn directory(&self, given: Option<&str>) -> Result<String> {
        let directory = given.or(self.working_dir.as_deref()).unwrap_or("/");
        if directory.contains('\0') || directory.len() >= MAX_PATH - 1 {
            return Err(refused("WorkingDir", "not a path"));
        }
        Ok(super::clean(directory))
    }
}

/// Returns the name of a `NAME=VALUE`.
fn name_of(variable: &str) -> &str {
    variable.split_once('=').map_or(variable, |(name, _)| name)
}

fn refused(field: &str, reason: &str) -> Error {
    Error::new(ErrorKind::Input, format!("image config: {field}: {reason}"))
}

/// What execve(2) does not take is refused.
fn check(texts: &[String], field: &str) -> Result<()> {
    if texts.iter().any(|text| text.contains('\0')) {
        return Err(refused(field, "a NUL byte in it"));
    }
    if texts.iter().any(|text| text.len() >= MAX_TEXT) {
        return Err(refused(field, "one of over 128 KiB, which Linux does not take"));
    }
    if texts.iter().map(|text| text.len() + 1 + 8).sum::<usize>() > MAX_TEXTS {
        return Err(refused(field, "over 2 MiB together, which Linux does not take"));
    }
    Ok(())
}

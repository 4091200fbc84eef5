//! The environment variables of the services that are no AWS: which are read, and the rule that two names of one setting agree.
//!
//! Each service has its own: what is meant for one provider never sends another's credentials anywhere. docs/reference/stores.md lists them, and
//! a test holds that list equal to the tables here.

use std::path::PathBuf;

use super::Service;
use crate::{Error, ErrorKind, Result};

/// Reads one variable of the environment; tests pass their own.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A setting of a service, and the variables that can name it.
pub(super) struct Setting {
    /// The names, those that the service's own tools use first.
    pub(super) names: &'static [&'static str],
    /// Whether it is for use as it is (an endpoint, a name), or a secret that no message may repeat.
    pub(super) secret: bool,
}

impl Setting {
    pub(super) const fn plain(names: &'static [&'static str]) -> Self {
        Self { names, secret: false }
    }

    pub(super) const fn secret(names: &'static [&'static str]) -> Self {
        Self { names, secret: true }
    }

    /// Returns the value, and the variable that it is from.
    ///
    /// # Errors
    /// `Input` where two variables give it different values.
    pub(super) fn find(&self, lookup: Lookup<'_>) -> Result<Option<(&'static str, String)>> {
        let mut found: Option<(&'static str, String)> = None;
        for name in self.names {
            let Some(value) = lookup(name).filter(|value| !value.is_empty()) else { continue };
            match &found {
                None => found = Some((name, value)),
                Some((first, other)) if *other != value => {
                    let values = if self.secret { String::new() } else { format!(" ({other}, {value})") };
                    let message = format!("{first} and {name} have different values{values}");
                    return Err(Error::new(ErrorKind::Input, message).with_hint(format!("unset {first} or {name}")));
                }
                Some(_) => {}
            }
        }
        Ok(found)
    }

    /// Returns the value alone.
    ///
    /// # Errors
    /// As [`Setting::find`].
    pub(super) fn value(&self, lookup: Lookup<'_>) -> Result<Option<String>> {
        Ok(self.find(lookup)?.map(|(_, value)| value))
    }
}

/// The value of a variable of this process; one that is not UTF-8 is none.
pub(super) fn process(name: &str) -> Option<String> {
    #[expect(clippy::disallowed_methods, reason = "settings and credentials of services are in their own variables")]
    std::env::var(name).ok()
}

/// The variables that are read for stores of `service`; for S3 none, since AWS's own libraries read theirs.
#[must_use]
pub fn variables(service: Service) -> Vec<&'static str> {
    match service {
        Service::S3 => Vec::new(),
        Service::Gcs => super::google::variables(),
        Service::Azure => super::azure::variables(),
    }
}

/// The file of the token that Google's keyless credentials are renewed with, where they are of that kind.
#[must_use]
pub fn subject_token_file() -> Option<PathBuf> {
    super::google::subject_token_file(&process)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_names_of_one_setting_agree_or_are_refused() {
        let setting = Setting::plain(&["A", "B"]);
        let lookup = |a: &'static str, b: &'static str| {
            setting.value(&move |name| Some(if name == "A" { a } else { b }.to_owned()))
        };
        assert_eq!(lookup("", "").unwrap(), None);
        assert_eq!(lookup("x", "x").unwrap().as_deref(), Some("x"));
        assert_eq!(lookup("", "y").unwrap().as_deref(), Some("y"));
        assert_eq!(lookup("x", "y").unwrap_err().to_string(), "A and B have different values (x, y)");
        let secret = Setting::secret(&["A", "B"]).value(&|name| Some(name.to_owned()));
        assert_eq!(secret.unwrap_err().to_string(), "A and B have different values");
    }
}

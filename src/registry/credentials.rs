//! Whom a registry is told that we are: as the command line says, else as `docker login` and `podman login` keep it.

use std::fmt;
use std::path::PathBuf;

use super::RegistryRef;
use super::login_file::LoginFile;
use crate::Result;

/// A name and a password, or a token that stands for both. Prints neither.
#[derive(Clone, PartialEq, Eq)]
pub enum Login {
    /// For basic authentication, and for asking for a token.
    Password {
        /// Who.
        user: String,
        /// Its password.
        password: String,
    },
    /// A refresh token, as some registries' helpers give.
    IdentityToken(String),
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login(..)")
    }
}

/// Where logins are looked for.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// What was given for this run, for a host or for any; nothing else is asked then.
    pub given: Vec<(Option<String>, Login)>,
    /// Files of `docker login` and `podman login`, the first that has a login counts; those that are not there are passed over.
    pub files: Vec<PathBuf>,
}

impl Credentials {
    /// The login for a repository; `None` where there is none, which public images need not have.
    ///
    /// # Errors
    /// `Input` for a file that is none, `Denied` where a credential helper fails; naming the file.
    pub fn find(&self, reference: &RegistryRef) -> Result<Option<Login>> {
        let given = |wanted: Option<&str>| self.given.iter().find(|(host, _)| host.as_deref() == wanted);
        if let Some((_, login)) = given(Some(&reference.host)).or_else(|| given(None)) {
            tracing::info!(registry = reference.host, "registry login from --creds or COLDPRESS_CREDS");
            return Ok(Some(login.clone()));
        }
        for path in &self.files {
            let Some(file) = LoginFile::read(path)? else { continue };
            for name in reference.credential_names() {
                if let Some(login) = file.find(&name).map_err(|error| error.within(path.display()))? {
                    tracing::info!(registry = reference.host, name, file = %path.display(), "registry login from a file");
                    return Ok(Some(login));
                }
            }
        }
        tracing::info!(registry = reference.host, "no registry login: requests are anonymous");
        Ok(None)
    }
}

//! Whom a registry is told that we are: as the command line says, else as `docker login` and `podman login` keep it.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};

use super::RegistryRef;
use crate::{Error, ErrorKind, Result};

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
            return Ok(Some(login.clone()));
        }
        for path in &self.files {
            for name in reference.credential_names() {
                let file = match File::open(path) {
                    Ok(file) => file,
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => break,
                    Err(error) => return Err(Error::file(path, error)),
                };
                // What a helper prints may be a password: none of it is told.
                let fail = |kind, what: &str| Err(Error::new(kind, format!("{}: {what}", path.display())));
                match get_credential_from_reader(BufReader::new(file), &name) {
                    Ok(DockerCredential::IdentityToken(token)) => return Ok(Some(Login::IdentityToken(token))),
                    // How an identity token looks that a helper gives.
                    Ok(DockerCredential::UsernamePassword(user, token)) if user == "<token>" => {
                        return Ok(Some(Login::IdentityToken(token)));
                    }
                    Ok(DockerCredential::UsernamePassword(user, password)) => {
                        return Ok(Some(Login::Password { user, password }));
                    }
                    Err(
                        CredentialRetrievalError::NoCredentialConfigured | CredentialRetrievalError::ConfigNotFound,
                    ) => {}
                    // Helpers say so when they have none.
                    Err(CredentialRetrievalError::HelperFailure { stdout, .. }) if stdout.contains("not found") => {}
                    Err(CredentialRetrievalError::ConfigReadError) => {
                        return fail(ErrorKind::Input, "not a file of `docker login`");
                    }
                    Err(CredentialRetrievalError::HelperFailure { helper, .. }) => {
                        return fail(ErrorKind::Denied, &format!("the credential helper `{helper}` failed for {name}"));
                    }
                    Err(
                        CredentialRetrievalError::HelperCommunicationError
                        | CredentialRetrievalError::MalformedHelperResponse,
                    ) => {
                        return fail(
                            ErrorKind::Denied,
                            &format!("the credential helper for {name} cannot be run, or answers nonsense"),
                        );
                    }
                    Err(
                        CredentialRetrievalError::CredentialDecodingError
                        | CredentialRetrievalError::CredentialMismatchError,
                    ) => return fail(ErrorKind::Input, &format!("the login for {name} cannot be read")),
                }
            }
        }
        Ok(None)
    }
}

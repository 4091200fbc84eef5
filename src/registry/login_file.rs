//! One file of `docker login` or `podman login`, and the credential helpers that it names.
//!
//! `docker_credential` knows the forms of the file; helpers are run here, since their output has to end.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use docker_credential::{CredentialRetrievalError, DockerCredential, get_credential_from_reader};
use serde::Deserialize;
use serde_json::Value;
use zeroize::Zeroizing;

use super::Login;
use crate::net::wait::Wait;
use crate::{Error, ErrorKind, Result};

/// Maximum length of the file.
const MAX_FILE: u64 = 1 << 20;
/// Maximum length of a helper's output: a user and a token.
const MAX_OUTPUT: u64 = 64 << 10;
/// How an identity token looks that a helper gives.
const TOKEN_USER: &str = "<token>";

/// The logins of a file.
pub(super) struct LoginFile(Value);

/// What a helper prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl LoginFile {
    /// Reads the file `path`; `None` where it is not there.
    ///
    /// # Errors
    /// Those of the file; `Input` where it is none of `docker login`.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file(path, error)),
        };
        let mut text = Zeroizing::new(Vec::new());
        file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|error| Error::file(path, error))?;
        let object = match serde_json::from_slice(&text) {
            Ok(Value::Object(object)) if text.len() as u64 <= MAX_FILE => object,
            _ => {
                let message = format!("{}: not a login file, as `docker login` writes it", path.display());
                return Err(Error::new(ErrorKind::Input, message));
            }
        };
        Ok(Some(Self(Value::Object(object))))
    }

    /// The login for `name`, a registry or a repository: of the helper that is named for it, else as it stands in the file, else of the
    /// helper that is named for all.
    ///
    /// # Errors
    /// `Input` where the file's login is broken, `Denied` where a helper fails.
    pub(super) fn find(&self, name: &str) -> Result<Option<Login>> {
        let text = |value: &Value| value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        if let Some(helper) = text(&self.0["credHelpers"][name]) {
            return ask(&helper, name);
        }
        if let Some(login) = self.own(name)? {
            return Ok(Some(login));
        }
        match text(&self.0["credsStore"]) {
            Some(helper) => ask(&helper, name),
            None => Ok(None),
        }
    }

    fn own(&self, name: &str) -> Result<Option<Login>> {
        let logins = serde_json::json!({ "auths": self.0["auths"] }).to_string();
        match get_credential_from_reader(logins.as_bytes(), name) {
            Ok(DockerCredential::IdentityToken(token)) => Ok(Some(Login::IdentityToken(token))),
            Ok(DockerCredential::UsernamePassword(user, secret)) => Ok(Some(login(user, secret))),
            Err(CredentialRetrievalError::NoCredentialConfigured) => Ok(None),
            // Which part is broken is not told: it can be a part of the password.
            Err(_) => Err(Error::new(ErrorKind::Input, format!("the login for {name} cannot be read"))),
        }
    }
}

fn login(user: String, secret: String) -> Login {
    match user.as_str() {
        TOKEN_USER => Login::IdentityToken(secret),
        _ => Login::Password { user, password: secret },
    }
}

/// Asks the program `docker-credential-HELPER` for the login of `name`; `None` where it has none. What it prints may be a password:
/// no error tells of it.
fn ask(helper: &str, name: &str) -> Result<Option<Login>> {
    let program = format!("docker-credential-{helper}");
    let broken = |what: &str| {
        Error::new(ErrorKind::Denied, format!("the credential helper `{program}` for {name} {what}"))
            .with_hint(format!("try `echo {name} | {program} get`, or give --creds {name}=USER:PASSWORD"))
    };
    tracing::info!(helper = program, name, "registry login from a credential helper");
    let waiting = Wait::begin(&format!("the credential helper `{program}` for {name}"), Duration::MAX);
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| broken(&format!("cannot be run: {error}")))?;
    // A helper that has read enough may have gone.
    let _ = child.stdin.take().expect("it is a pipe").write_all(name.as_bytes());
    let mut output = Zeroizing::new(Vec::new());
    let read = child.stdout.take().expect("it is a pipe").take(MAX_OUTPUT + 1).read_to_end(&mut output);
    if read.is_err() || output.len() as u64 > MAX_OUTPUT {
        let _ = child.kill();
        let _ = child.wait();
        return Err(broken(&format!("printed more than {MAX_OUTPUT} bytes")));
    }
    let ended = child.wait().map_err(|error| broken(&format!("cannot be waited for: {error}")))?;
    drop(waiting);
    if !ended.success() {
        // Helpers say so when they have none.
        return match String::from_utf8_lossy(&output).contains("not found") {
            true => Ok(None),
            false => Err(broken("failed")),
        };
    }
    let HelperAnswer { username, secret } = serde_json::from_slice(&output).map_err(|_| broken("printed no login"))?;
    Ok(Some(login(username, secret)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, name: &str) -> Result<Option<Login>> {
        LoginFile(serde_json::from_str(json).unwrap()).find(name)
    }

    #[test]
    fn logins_are_found_in_the_forms_that_docker_writes() {
        // dTpw is `u:p`.
        let password = Some(Login::Password { user: "u".to_owned(), password: "p".to_owned() });
        let token = Some(Login::IdentityToken("t".to_owned()));
        assert!(find(r#"{"auths":{"r":{"auth":"dTpw"}}}"#, "r").unwrap() == password);
        assert!(find(r#"{"auths":{"r":{"username":"u","password":"p"}}}"#, "r").unwrap() == password);
        assert!(find(r#"{"auths":{"r":{"auth":"","identitytoken":"t"}}}"#, "r").unwrap() == token);
        assert!(find(r#"{"auths":{"r":{"auth":"dTpw"}}}"#, "other").unwrap().is_none());
        assert!(find("{}", "r").unwrap().is_none());
        let broken = find(r#"{"auths":{"r":{"auth":"!"}}}"#, "r").err().map(|error| error.kind());
        assert_eq!(broken, Some(ErrorKind::Input));
        // A helper that is not installed is no reason to go on without a login.
        let missing = find(r#"{"credHelpers":{"r":"none-of-this-name"}}"#, "r").err().map(|error| error.kind());
        assert_eq!(missing, Some(ErrorKind::Denied));
    }
}

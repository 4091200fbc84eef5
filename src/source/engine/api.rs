//! An engine's HTTP API: where it is, who may ask it, and what its answers mean.

use std::fmt::Display;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use reqwest::{Certificate, ClientBuilder, Identity, Response, StatusCode, Url};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::Engine;
use crate::error::first_cause;
use crate::net::retry::milliseconds;
use crate::net::runtime::Services;
use crate::net::wait::Wait;
use crate::printable::size;
use crate::source::blob::MAX_DOCUMENT;
use crate::{Error, ErrorKind, Result};

/// Where docker's engine listens where nothing else is said.
const DEFAULT: &str = "unix:///var/run/docker.sock";
const CONNECT: Duration = Duration::from_secs(10);
/// An engine says nothing while it gathers an image's layers: a minute for 10 GiB is usual.
const SILENCE: Duration = Duration::from_secs(600);
/// An engine's reason is no longer.
const MAX_REASON: usize = 8 << 10;
/// Most of it that is shown.
const MAX_SHOWN: usize = 300;

/// Why no answer came.
pub(super) enum Failure {
    /// It may come later.
    Again(Error),
    Final(Error),
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        let (Failure::Again(error) | Failure::Final(error)) = failure;
        error
    }
}

impl Failure {
    pub(super) fn within(self, object: impl Display) -> Self {
        match self {
            Self::Again(error) => Self::Again(error.within(object)),
            Self::Final(error) => Self::Final(error.within(object)),
        }
    }
}

/// A client of one engine.
pub(super) struct Api {
    services: Services,
    http: reqwest::Client,
    base: String,
    name: String,
    /// What waits for the engine are called.
    shown: String,
}

enum Place {
    Socket(PathBuf),
    Server(String),
}

/// What engines say of a failure.
#[derive(Deserialize)]
struct Reason {
    message: String,
}

impl Api {
    pub(super) fn new(engine: &Engine) -> Result<Self> {
        let name = engine.host.clone().unwrap_or_else(|| DEFAULT.to_owned());
        let place = place(&name, engine.tls).map_err(|error| error.within("DOCKER_HOST"))?;
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE);
        let (base, client) = match place {
            // No certificate is looked at; the system's need not be there.
            Place::Socket(path) => ("http://engine".to_owned(), client.tls_certs_only([]).unix_socket(path)),
            Place::Server(authority) if engine.tls => {
                (format!("https://{authority}"), certified(client, engine.certificates.as_deref())?)
            }
            Place::Server(authority) => (format!("http://{authority}"), client.tls_certs_only([])),
        };
        let refused = |error: reqwest::Error| {
            Error::new(ErrorKind::Input, format!("a client of the engine at {name}: {}", first_cause(&error)))
        };
        let shown = format!("the engine at {name}");
        Ok(Self { services: Services::start()?, http: client.build().map_err(refused)?, base, name, shown })
    }

    /// What errors call the engine.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// What the engine says of an image, and whether it is docker's own.
    pub(super) fn inspect(&self, reference: &str) -> Result<(Vec<u8>, bool)> {
        let missing = || {
            let message = format!(
                "no image `{reference}` in the engine at {}; `docker image ls` lists its images, `docker pull` downloads one",
                self.name
            );
            Error::new(ErrorKind::NotFound, message)
        };
        let mut bytes = Vec::new();
        let body = self.get(&format!("images/{reference}/json"), missing)?;
        let is_docker =
            body.response.headers().get("server").is_some_and(|name| name.as_bytes().starts_with(b"Docker/"));
        body.take(MAX_DOCUMENT + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::io(format!("engine at {}", self.name), error))?;
        if bytes.len() as u64 > MAX_DOCUMENT {
            let message = format!("engine at {}: its response is larger than {}", self.name, size(MAX_DOCUMENT));
            return Err(Error::new(ErrorKind::Input, message));
        }
        Ok((bytes, is_docker))
    }

    /// The stream of an image that `docker save` would write.
    pub(super) fn save(&self, id: &str) -> Result<Body<'_>, Failure> {
        self.get(&format!("images/{id}/get"), || {
            Error::new(
                ErrorKind::NotFound,
                format!("engine at {}: the image was removed while it was exported", self.name),
            )
        })
    }

    fn get(&self, path: &str, missing: impl FnOnce() -> Error) -> Result<Body<'_>, Failure> {
        let begun = Instant::now();
        let waiting = self.waiting();
        let sent = self.services.wait(async { self.http.get(format!("{}/{path}", self.base)).send().await });
        drop(waiting);
        tracing::debug!(
            engine = self.name,
            path,
            status = sent.as_ref().ok().map(|response| response.status().as_u16()),
            took_ms = milliseconds(begun.elapsed()),
            "request to the engine"
        );
        let body = Body {
            api: self,
            response: sent.map_err(|error| Failure::Again(self.unreachable(&error)))?,
            piece: Vec::new(),
            used: 0,
        };
        match body.response.status() {
            StatusCode::OK => Ok(body),
            StatusCode::NOT_FOUND => Err(Failure::Final(missing())),
            status => Err(self.refused(status, body)),
        }
    }

    fn waiting(&self) -> Wait {
        Wait::begin(&self.shown, SILENCE)
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let name = &self.name;
        match io_kind(error) {
            Some(io::ErrorKind::PermissionDenied) => {
                let message =
                    format!("engine at {name}: permission denied; add this user to the socket's group, or run as root");
                Error::new(ErrorKind::Denied, message)
            }
            Some(io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                let message = format!(
                    "no engine answers at {name}: {}; start it, or set DOCKER_HOST to its address",
                    first_cause(error)
                );
                Error::new(ErrorKind::Unavailable, message)
            }
            _ => Error::new(ErrorKind::Unavailable, format!("engine at {name}: {}", first_cause(error))),
        }
    }

    /// What any other status means.
    fn refused(&self, status: StatusCode, body: Body<'_>) -> Failure {
        let mut bytes = Vec::new();
        // Where the reason does not come whole, the status is all there is.
        let _ = body.take(MAX_REASON as u64).read_to_end(&mut bytes);
        let reason = serde_json::from_slice(&bytes).map_or_else(|_| status.to_string(), |Reason { message }| message);
        let reason: String = reason.chars().take(MAX_SHOWN).collect();
        let error = |kind| Error::new(kind, format!("engine at {}: {reason}", self.name));
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Final(error(ErrorKind::Denied)),
            status if status.is_server_error() => Failure::Again(error(ErrorKind::Unavailable)),
            _ => Failure::Final(error(ErrorKind::Input)),
        }
    }
}

/// An answer's bytes as they come.
pub(super) struct Body<'a> {
    api: &'a Api,
    response: Response,
    piece: Vec<u8>,
    used: usize,
}

impl Read for Body<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.used == self.piece.len() {
            let waiting = self.api.waiting();
            let piece = self.api.services.wait(async { self.response.chunk().await });
            drop(waiting);
            match piece {
                Ok(Some(piece)) => {
                    self.piece.clear();
                    self.piece.extend_from_slice(&piece);
                    self.used = 0;
                }
                Ok(None) => return Ok(0),
                Err(error) => return Err(io::Error::new(io::ErrorKind::ConnectionAborted, first_cause(&error))),
            }
        }
        let n = buf.len().min(self.piece.len() - self.used);
        buf[..n].copy_from_slice(&self.piece[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}

fn place(host: &str, tls: bool) -> Result<Place> {
    let refuse = |kind, message: String| Err(Error::new(kind, message));
    match host.split_once("://") {
        Some(("unix", path)) if path.starts_with('/') => Ok(Place::Socket(path.into())),
        Some(("tcp", server)) => {
            let url = Url::parse(&format!("http://{server}")).ok().filter(|url| {
                let plain = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
                plain && url.username().is_empty() && url.password().is_none()
            });
            let Some((url, host)) = url.as_ref().and_then(|url| Some((url, url.host_str()?))) else {
                return refuse(ErrorKind::Input, format!("{host}: not of the form tcp://HOST:PORT"));
            };
            if !tls && !on_this_machine(host) {
                let message = "tcp:// without TLS is accepted for loopback addresses only: set DOCKER_TLS_VERIFY=1, and DOCKER_CERT_PATH to a \
                               directory with ca.pem, cert.pem and key.pem";
                return refuse(ErrorKind::Unsupported, message.to_owned());
            }
            let port = url.port().unwrap_or(if tls { 2376 } else { 2375 });
            Ok(Place::Server(format!("{host}:{port}")))
        }
        Some(("ssh", server)) => {
            let message = format!(
                "ssh:// is not supported: forward the socket, `ssh -nNT -L /tmp/engine.sock:/var/run/docker.sock {server}`, \
                 and set it to unix:///tmp/engine.sock"
            );
            refuse(ErrorKind::Unsupported, message)
        }
        _ => refuse(ErrorKind::Input, format!("{host}: use unix:///PATH or tcp://HOST:PORT")),
    }
}

fn on_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// With the certificates that are in `directory`.
fn certified(client: ClientBuilder, directory: Option<&Path>) -> Result<ClientBuilder> {
    let read = |name: &str| {
        let Some(path) = directory.map(|directory| directory.join(name)) else { return Ok(None) };
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::file(&path, error)),
        }
    };
    let wrong = |what: &str| Error::new(ErrorKind::Input, format!("DOCKER_CERT_PATH: {what} is not in PEM format"));
    let client = match read("ca.pem")? {
        Some(ca) => client.tls_certs_only(Certificate::from_pem_bundle(&ca).map_err(|_| wrong("ca.pem"))?),
        None => client,
    };
    Ok(match (read("cert.pem")?, read("key.pem")?) {
        (Some(certificate), Some(key)) => {
            let both = Zeroizing::new([&certificate[..], b"\n", &key[..]].concat());
            client.identity(Identity::from_pem(&both).map_err(|_| wrong("cert.pem or key.pem"))?)
        }
        _ => client,
    })
}

/// What the operating system said of a connection.
fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<io::ErrorKind> {
    let found = error.downcast_ref::<io::Error>().filter(|error| error.raw_os_error().is_some());
    found.map(io::Error::kind).or_else(|| io_kind(error.source()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_engine_is() {
        let shown = |host: &str, tls| match place(host, tls) {
            Ok(Place::Socket(path)) => path.display().to_string(),
            Ok(Place::Server(authority)) => authority,
            Err(error) => error.to_string(),
        };
        assert_eq!(shown("unix:///run/user/1000/podman/podman.sock", false), "/run/user/1000/podman/podman.sock");
        for here in ["localhost:2375", "127.0.0.1:2375", "127.9.9.9:99", "[::1]:2375"] {
            assert_eq!(shown(&format!("tcp://{here}"), false), here);
        }
        assert_eq!(shown("tcp://build.example", true), "build.example:2376");
        for far in ["tcp://build.example:2375", "tcp://10.0.0.1:2375", "tcp://127.0.0.1.example:1", "tcp://[::2]:1"] {
            assert!(shown(far, false).contains("without TLS"), "{far}");
        }
        assert!(shown("ssh://build.example", false).contains("ssh -nNT"));
        for wrong in
            ["", "docker.sock", "unix://docker.sock", "npipe:////./pipe/x", "http://localhost:1", "tcp://a@b:1/x"]
        {
            assert!(shown(wrong, true).contains("HOST:PORT"), "{wrong}");
        }
    }
}

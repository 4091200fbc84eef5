//! Requests to one registry: repeated where that may help, with a login where one is asked for.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use reqwest::header::{
    ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, DATE, HeaderMap, HeaderName, LINK, LOCATION, RANGE,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use reqwest::{Certificate, Method, RequestBuilder, Response, StatusCode, Url, redirect};

use super::auth::{Challenge, TokenAnswer};
use super::refusal;
use super::{Credentials, Login, RegistryRef};
use crate::digest::{ContentDigest, Sha256};
use crate::error::{first_cause, first_line};
use crate::net::retry::{self, Failure, PATIENCE, PATIENCE_AT_FIRST, asked_wait, milliseconds, repeat};
use crate::net::runtime::Services;
use crate::net::wait;
use crate::printable;
use crate::{Error, ErrorKind, Result};

/// Most bytes of a manifest or an index; registries take no more than 4 MiB.
pub const MAX_MANIFEST: u64 = 8 << 20;
/// Most bytes of a token service's answer.
const MAX_TOKEN: u64 = 1 << 20;
/// Most bytes of a reason for a refusal that are read.
const MAX_REASON: u64 = 64 << 10;
/// No registry may make a client wait longer between two requests.
const MOST_AFTER: Duration = Duration::from_secs(60);
/// Redirects that are followed.
const MAX_REDIRECTS: usize = 5;
/// How long an answer may take that is no blob.
const DOCUMENT: Duration = Duration::from_secs(300);
/// Answers in a row that bring less than [`LITTLE`] of a blob before the connection ends.
const MAX_CUT: usize = 100;
const LITTLE: u64 = 64 << 10;
/// Pages of referrers that are read.
const MAX_PAGES: usize = 32;
const CONNECT: Duration = Duration::from_secs(10);
/// Longest silence of a registry that has begun to answer.
const SILENCE: Duration = Duration::from_secs(60);

/// The kinds of manifests that are asked for.
const MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
     application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json";
/// What a registry with the referrers API says of a manifest with a subject.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");

/// How a registry is reached.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Who we are.
    pub credentials: Credentials,
    /// A file of certificates, PEM, that are trusted besides the system's.
    pub tls_ca: Option<PathBuf>,
    /// Without TLS; of this machine's registries only.
    pub plain_http: bool,
}

/// A client for one repository.
pub struct Client {
    services: Services,
    http: reqwest::Client,
    reference: RegistryRef,
    /// What waits for the registry are called.
    name: String,
    plain_http: bool,
    login: Option<Login>,
    /// By what they allow: what is sent with a request.
    authorizations: Mutex<BTreeMap<&'static str, Authorization>>,
    answered: AtomicBool,
}

/// What meets a challenge.
#[derive(Clone)]
enum Authorization {
    Basic { user: String, password: String },
    Bearer(String),
}

impl Authorization {
    fn add_to(&self, request: RequestBuilder) -> RequestBuilder {
        match self {
            Self::Basic { user, password } => request.basic_auth(user, Some(password)),
            Self::Bearer(token) => request.bearer_auth(token),
        }
    }
}

/// A manifest or an index.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// As it stands in the registry.
    pub bytes: Vec<u8>,
    /// Of the bytes.
    pub digest: Sha256,
    /// What the registry says that it is.
    pub media_type: String,
}

/// What a request may do.
const PULL: &str = "pull";
const PUSH: &str = "pull,push";

impl Client {
    /// For the repository of `reference`.
    ///
    /// # Errors
    /// Those of the credentials and the certificates' file; `Input` for a registry elsewhere without TLS.
    pub fn new(reference: &RegistryRef, settings: &Settings) -> Result<Self> {
        // Of a registry elsewhere, TLS is spoken whatever is said.
        let plain_http = settings.plain_http && is_on_this_machine(&reference.host);
        let follow = move |attempt: redirect::Attempt<'_>| match attempt.previous().len() {
            _ if !is_safe(attempt.url(), plain_http) => attempt.error("the target does not use TLS"),
            0..=MAX_REDIRECTS => attempt.follow(),
            _ => attempt.error("too often"),
        };
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("coldpress/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .redirect(redirect::Policy::custom(follow))
            // Addresses of blobs can have signatures in them.
            .referer(false)
            .https_only(!plain_http);
        if plain_http {
            // What goes in clear stays on this machine.
            builder = builder.no_proxy();
        }
        if let Some(path) = &settings.tls_ca {
            let bytes = std::fs::read(path).map_err(|error| Error::file(path, error))?;
            let broken = || Error::new(ErrorKind::Input, format!("{}: no certificates in PEM", path.display()));
            let certificates =
                Certificate::from_pem_bundle(&bytes).ok().filter(|all| !all.is_empty()).ok_or_else(broken)?;
            builder = builder.tls_certs_merge(certificates);
        }
        let http = builder.build().map_err(|error| {
            let cause = first_cause(&error);
            Error::new(ErrorKind::Input, format!("a client for {}: {}", reference.host, first_line(&cause)))
        })?;
        Ok(Self {
            services: Services::start()?,
            http,
            reference: reference.clone(),
            name: format!("registry {}", reference.host),
            plain_http,
            login: settings.credentials.find(reference)?,
            authorizations: Mutex::default(),
            answered: AtomicBool::new(false),
        })
    }

    /// The repository, and what was asked of it.
    #[must_use]
    pub fn reference(&self) -> &RegistryRef {
        &self.reference
    }

    /// The manifest `what`, a tag or a digest.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, or `Corrupt` where it is not what its digest says.
    pub fn manifest(&self, what: &str) -> Result<Fetched> {
        let wanted: Option<ContentDigest> = what.parse().ok();
        let name = format!("manifest {what}");
        self.repeat(&name, || {
            let request = || {
                let request = self.request(Method::GET, &format!("manifests/{what}"));
                Ok(request.header(ACCEPT, MANIFESTS).timeout(DOCUMENT))
            };
            let response = self.send(&name, PULL, request)?;
            let media_type = text_header(response.headers(), &CONTENT_TYPE).unwrap_or_default();
            let bytes = self.body(&name, response, MAX_MANIFEST)?;
            let digest = Sha256::of(&bytes);
            if let Some(wanted) = wanted.filter(|wanted| *wanted != wanted.same_of(&bytes)) {
                let message = format!("{name}: its digest is {}, expected {wanted}", wanted.same_of(&bytes));
                return Err(Failure::Final(Error::new(ErrorKind::Corrupt, message)));
            }
            Ok(Fetched { bytes, digest, media_type })
        })
    }

    /// Reads the blob `digest`, which has `size` bytes, from where `written` says that we are to its end; `write` takes its bytes.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, or `Corrupt` where it is not as long; those of `write`.
    pub fn blob(
        &self,
        digest: ContentDigest,
        size: u64,
        written: &dyn Fn() -> u64,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<()> {
        let name = format!("blob {digest}");
        // Who goes on is not given up.
        let mut cut = 0;
        while written() < size {
            let from = written();
            self.repeat(&name, || self.blob_from(&name, digest, size, written(), write))?;
            cut = if written() - from < LITTLE { cut + 1 } else { 0 };
            if cut > MAX_CUT && written() < size {
                let message =
                    format!("{name}: {} closed the connection {cut} times in a row before the end", self.host());
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        }
        Ok(())
    }

    /// All of the blob `digest`, which has `size` bytes and no more than `most`.
    ///
    /// # Errors
    /// As [`Client::blob`]; `Input` where it is larger, `Corrupt` where its digest is another.
    pub fn blob_bytes(&self, digest: ContentDigest, size: u64, most: u64) -> Result<Vec<u8>> {
        if size > most {
            let message =
                format!("blob {digest}: {} is more than the limit of {}", printable::size(size), printable::size(most));
            return Err(Error::new(ErrorKind::Input, message));
        }
        let bytes = RefCell::new(Vec::new());
        self.blob(digest, size, &|| bytes.borrow().len() as u64, &mut |piece| {
            bytes.borrow_mut().extend_from_slice(piece);
            Ok(())
        })?;
        let bytes = bytes.into_inner();
        match digest.same_of(&bytes) {
            found if found == digest => Ok(bytes),
            found => {
                let message = format!("blob {digest}: its digest is {found}");
                Err(Error::new(ErrorKind::Corrupt, message))
            }
        }
    }

    /// One request's share of a blob; no failure if it brought something.
    fn blob_from(
        &self,
        name: &str,
        digest: ContentDigest,
        size: u64,
        from: u64,
        write: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<(), Failure> {
        let corrupt = |what: String| Failure::Final(Error::new(ErrorKind::Corrupt, format!("{name}: {what}")));
        let mut response = self.send(name, PULL, || {
            let request = self.request(Method::GET, &format!("blobs/{digest}"));
            Ok(if from > 0 { request.header(RANGE, format!("bytes={from}-")) } else { request })
        })?;
        let partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let range = text_header(response.headers(), &CONTENT_RANGE).unwrap_or_default();
        if partial && !range.starts_with(&format!("bytes {from}-")) {
            return Err(corrupt(format!(
                "the registry answered a request for the bytes from {from} on with `{range}`"
            )));
        }
        // A server without ranges sends all of it.
        let mut skip = if partial { 0 } else { from };
        // A part may be shorter than was asked for; what is said of the whole must be true.
        let length = if partial {
            range.rsplit_once('/').and_then(|(_, total)| total.parse().ok())
        } else {
            text_header(response.headers(), &CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok())
        };
        if let Some(found) = length.filter(|length| *length != size) {
            return Err(corrupt(format!("its size is {found} bytes, its descriptor says {size}")));
        }
        let mut at = from;
        loop {
            let piece = match self.services.wait(response.chunk()) {
                Ok(Some(piece)) => piece,
                // Cut off, or stalled: what came is kept.
                Ok(None) | Err(_) if at > from => return Ok(()),
                Ok(None) => return Err(self.again(name, "the connection ended", None)),
                Err(error) => return Err(self.not_answered(name, &error)),
            };
            let skipped = skip.min(piece.len() as u64);
            skip -= skipped;
            let piece = &piece[usize::try_from(skipped).expect("within the piece")..];
            at += piece.len() as u64;
            if at > size {
                return Err(corrupt(format!("more than the {size} bytes that its descriptor says")));
            }
            wait::heard(&self.name);
            write(piece).map_err(Failure::Final)?;
            if at == size {
                return Ok(());
            }
        }
    }

    /// What refers to the manifest `subject` and is of `artifact_type`: indexes, none where the registry has no referrers API.
    ///
    /// # Errors
    /// `Unavailable`.
    pub fn referrers(&self, subject: Sha256, artifact_type: &str) -> Result<Vec<Vec<u8>>> {
        let name = format!("referrers of {subject}");
        let mut next = self.url(&format!("referrers/{subject}"))?;
        next.query_pairs_mut().append_pair("artifactType", artifact_type);
        let mut pages = Vec::new();
        for _ in 0..MAX_PAGES {
            let page = self.repeat(&name, || {
                let response = self.send(&name, PULL, || Ok(self.http.get(next.clone()).timeout(DOCUMENT)))?;
                let media_type = text_header(response.headers(), &CONTENT_TYPE).unwrap_or_default();
                let link = text_header(response.headers(), &LINK).and_then(|link| next_page(&link, response.url()));
                let bytes = self.body(&name, response, MAX_MANIFEST)?;
                // Some answer a page of their own.
                Ok(media_type.contains("image.index").then_some((bytes, link)))
            });
            let (bytes, link) = match page {
                // Whatever a registry without the API says; who may not read at all has heard it before.
                Err(error) if error.kind() != ErrorKind::Unavailable => break,
                Ok(None) => break,
                Ok(Some(page)) => page,
                Err(error) => return Err(error),
            };
            pages.push(bytes);
            match link.filter(|link| self.is_own(link)) {
                Some(link) => next = link,
                None => break,
            }
        }
        Ok(pages)
    }

    /// Puts `bytes` as a blob, if it is not there.
    ///
    /// # Errors
    /// `Denied` or `Unavailable`.
    pub fn put_blob(&self, bytes: &[u8]) -> Result<Sha256> {
        let digest = Sha256::of(bytes);
        let name = format!("blob {digest}");
        self.repeat(&name, || {
            match self
                .send(&name, PUSH, || Ok(self.request(Method::HEAD, &format!("blobs/{digest}")).timeout(DOCUMENT)))
            {
                Ok(_) => return Ok(()),
                Err(Failure::Final(error)) if error.kind() == ErrorKind::NotFound => {}
                Err(failure) => return Err(failure),
            }
            let begun = self.send(&name, PUSH, || {
                Ok(self.request(Method::POST, "blobs/uploads/").header(CONTENT_LENGTH, 0).timeout(DOCUMENT))
            })?;
            let location = text_header(begun.headers(), &LOCATION);
            let place = location.and_then(|location| begun.url().join(&location).ok());
            let mut place = place.ok_or_else(|| {
                let message = format!("{name}: the registry does not return an upload location");
                Failure::Final(Error::new(ErrorKind::Unsupported, message))
            })?;
            if !is_safe(&place, self.plain_http) {
                let message =
                    format!("{name}: {} returned an upload location without TLS, which was refused", self.host());
                return Err(Failure::Final(Error::new(ErrorKind::Denied, message)));
            }
            place.query_pairs_mut().append_pair("digest", &digest.to_string());
            self.send(&name, PUSH, || {
                let request = self.http.put(place.clone());
                Ok(request.header(CONTENT_TYPE, "application/octet-stream").body(bytes.to_vec()))
            })
            .map(drop)
        })?;
        Ok(digest)
    }

    /// Puts a manifest under `what`, a tag or its digest. Whether the registry will tell of it as a referrer of its subject.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`, or what the registry has against it.
    pub fn put_manifest(&self, what: &str, media_type: &str, bytes: &[u8]) -> Result<bool> {
        let name = format!("manifest {what}");
        self.repeat(&name, || {
            let response = self.send(&name, PUSH, || {
                let request = self.request(Method::PUT, &format!("manifests/{what}"));
                Ok(request.header(CONTENT_TYPE, media_type).timeout(DOCUMENT).body(bytes.to_vec()))
            })?;
            Ok(response.headers().contains_key(&SUBJECT))
        })
    }

    fn url(&self, path: &str) -> Result<Url> {
        let scheme = if self.plain_http { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{}/{path}", self.reference.api_host(), self.reference.repository);
        Url::parse(&url).map_err(|error| Error::caused(ErrorKind::Input, url, error))
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let url = self.url(path).expect("the reference was checked when it was read");
        self.http.request(method, url)
    }

    fn repeat<T>(&self, name: &str, request: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let patience = || if self.answered.load(Ordering::Relaxed) { PATIENCE } else { PATIENCE_AT_FIRST };
        let service = retry::Service { name: &self.name, timeout: SILENCE };
        repeat(service, patience, request).map_err(|error| match error.kind() {
            ErrorKind::Unavailable if !error.to_string().contains(name) => error.within(name),
            _ => error,
        })
    }

    /// Sends a request that may do what `scope` says, with a login if one is asked for.
    fn send(
        &self,
        name: &str,
        scope: &'static str,
        request: impl Fn() -> Result<RequestBuilder>,
    ) -> Result<Response, Failure> {
        let known = self.authorizations.lock().expect("no thread panics with it").get(scope).cloned();
        let response = self.send_once(name, &request, known.as_ref())?;
        // What another host asks for, to which the registry sent us, is not ours to give.
        if response.status() != StatusCode::UNAUTHORIZED || !self.is_own(response.url()) {
            return self.accepted(name, response);
        }
        // Asked for, or what was known is too old.
        let challenges = response.headers().get_all(&WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
        let header = challenges.collect::<Vec<_>>().join(", ");
        let Some(authorization) = self.authorize(name, scope, &header)? else {
            return self.accepted(name, response);
        };
        let response = self.send_once(name, &request, Some(&authorization))?;
        if response.status() != StatusCode::UNAUTHORIZED {
            self.authorizations.lock().expect("no thread panics with it").insert(scope, authorization);
        }
        self.accepted(name, response)
    }

    fn send_once(
        &self,
        name: &str,
        request: &impl Fn() -> Result<RequestBuilder>,
        authorization: Option<&Authorization>,
    ) -> Result<Response, Failure> {
        let broken = |error: reqwest::Error| self.not_answered(name, &error);
        let request = request().map_err(Failure::Final)?.build().map_err(broken)?;
        let own = self.is_own(request.url());
        let mut request = RequestBuilder::from_parts(self.http.clone(), request);
        if let Some(authorization) = authorization.filter(|_| own) {
            request = authorization.add_to(request);
        }
        let response = self.ask(name, request)?;
        self.answered.store(true, Ordering::Relaxed);
        Ok(response)
    }

    /// Sends `request` as it is, and logs it: of an address that is not the registry's own, the host alone.
    fn ask(&self, name: &str, request: RequestBuilder) -> Result<Response, Failure> {
        let request = request.build().map_err(|error| self.not_answered(name, &error))?;
        let (method, begun) = (request.method().clone(), Instant::now());
        let path = if self.is_own(request.url()) { request.url().path().to_owned() } else { String::new() };
        let asked = request.url().host_str().unwrap_or_default().to_owned();
        let sent = self.services.wait(async { self.http.execute(request).await });
        let response = sent.as_ref().ok();
        tracing::debug!(
            %method,
            host = asked,
            path,
            status = response.map(|response| response.status().as_u16()),
            from = response.and_then(|response| response.url().host_str()),
            error = sent.as_ref().err().map(|error| first_line(&first_cause(error)).to_owned()),
            took_ms = milliseconds(begun.elapsed()),
            attempt = retry::attempt(),
            "request to the registry"
        );
        sent.map_err(|error| self.not_answered(name, &error))
    }

    /// What meets the challenge `header`; `None` where nothing that we have does.
    fn authorize(&self, name: &str, scope: &str, header: &str) -> Result<Option<Authorization>, Failure> {
        match Challenge::parse(header) {
            None => Ok(None),
            Some(Challenge::Basic) => Ok(self.basic()),
            Some(Challenge::Bearer { realm, service, scope: wanted }) => {
                // For pushing, a challenge to a mere look at what is there asks for too little.
                let wanted = wanted
                    .filter(|_| scope == PULL)
                    .unwrap_or_else(|| format!("repository:{}:{scope}", self.reference.repository));
                let token = self.token(name, &realm, service.as_deref(), &wanted)?;
                Ok(Some(Authorization::Bearer(token)))
            }
        }
    }

    fn basic(&self) -> Option<Authorization> {
        match &self.login {
            Some(Login::Password { user, password }) => {
                Some(Authorization::Basic { user: user.clone(), password: password.clone() })
            }
            Some(Login::IdentityToken(_)) | None => None,
        }
    }

    fn token(&self, name: &str, realm: &str, service: Option<&str>, scope: &str) -> Result<String, Failure> {
        let refuse = |what: &str| Failure::Final(Error::new(ErrorKind::Denied, format!("{}: {what}", self.host())));
        let mut url = Url::parse(realm).map_err(|_| refuse("the address of its token service is not a URL"))?;
        if !is_safe(&url, self.plain_http) {
            return Err(refuse("its token service does not use TLS, which was refused"));
        }
        let fields = [("service", service), ("scope", Some(scope))];
        let fields = fields.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let request = match &self.login {
            Some(Login::IdentityToken(token)) => {
                let mut form = Url::parse("form:").expect("an address");
                let given = [("grant_type", "refresh_token"), ("client_id", "coldpress"), ("refresh_token", token)];
                form.query_pairs_mut().extend_pairs(given.into_iter().chain(fields));
                let body = form.query().unwrap_or_default().to_owned();
                self.http
                    .post(url)
                    .timeout(DOCUMENT)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(body)
            }
            Some(Login::Password { .. }) | None => {
                url.query_pairs_mut().extend_pairs(fields);
                let request = self.http.get(url).timeout(DOCUMENT);
                match self.basic() {
                    Some(basic) => basic.add_to(request),
                    None => request,
                }
            }
        };
        let response = self.ask(name, request)?;
        let response = match response.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::BAD_REQUEST => {
                return Err(self.denied(name, response));
            }
            _ => self.accepted(name, response)?,
        };
        let bytes = self.body(name, response, MAX_TOKEN)?;
        let answer: Option<TokenAnswer> = serde_json::from_slice(&bytes).ok();
        answer.and_then(TokenAnswer::token).ok_or_else(|| refuse("its token service returned no token"))
    }

    /// Whether an address is the registry's own.
    fn is_own(&self, url: &Url) -> bool {
        self.url("").is_ok_and(|own| own.origin() == url.origin())
    }

    fn host(&self) -> &str {
        &self.reference.host
    }

    fn denied(&self, name: &str, response: Response) -> Failure {
        let (answer, host) = (self.answer_of(name, response), self.host());
        let message = match &self.login {
            None => format!("{name}: {host} denied access without a login ({answer})"),
            Some(Login::Password { user, .. }) => format!("{name}: {host} denied access to user {user} ({answer})"),
            Some(Login::IdentityToken(_)) => format!("{name}: {host} denied access to the given token ({answer})"),
        };
        let hint = match self.login {
            None => format!("log in with `docker login {}`, or give --creds USER:PASSWORD", self.host()),
            Some(_) => format!("check the login, and that it may access {}", self.reference.repository),
        };
        Failure::Final(Error::new(ErrorKind::Denied, message).with_hint(hint))
    }

    /// Returns the status of `response` and the reason that its body gives: `HTTP 403: DENIED: requested access is denied`.
    fn answer_of(&self, name: &str, response: Response) -> String {
        let status = response.status().as_u16();
        let secret = match &self.login {
            Some(Login::Password { password, .. }) => Some(password.as_str()),
            Some(Login::IdentityToken(token)) => Some(token.as_str()),
            None => None,
        };
        let reason = self.body(name, response, MAX_REASON).ok().and_then(|body| refusal::reason(&body, secret));
        reason.map_or_else(|| format!("HTTP {status}"), |reason| format!("HTTP {status}: {reason}"))
    }

    /// Answers that are what was asked for.
    fn accepted(&self, name: &str, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        let last = |kind, what: String| Err(Failure::Final(Error::new(kind, format!("{name}: {what}"))));
        match status {
            _ if status.is_success() => Ok(response),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(self.denied(name, response)),
            StatusCode::NOT_FOUND => {
                let code = self.body(name, response, MAX_REASON).ok().and_then(|body| refusal::code(&body));
                let missing = match code.as_deref() {
                    Some("NAME_UNKNOWN") => format!("{} has no repository {}", self.host(), self.reference.repository),
                    _ => format!("not found in repository {} of {}", self.reference.repository, self.host()),
                };
                last(ErrorKind::NotFound, missing)
            }
            StatusCode::RANGE_NOT_SATISFIABLE => {
                last(ErrorKind::Corrupt, "shorter than its descriptor says".to_owned())
            }
            StatusCode::NOT_IMPLEMENTED | StatusCode::METHOD_NOT_ALLOWED => {
                last(ErrorKind::Unsupported, format!("{} answered {}", self.host(), status.as_u16()))
            }
            StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS => Err(self.later(name, response)),
            _ if status.is_server_error() => Err(self.later(name, response)),
            StatusCode::BAD_REQUEST if self.plain_http => {
                let message = format!("{name}: {} answered 400 Bad Request to plain HTTP", self.host());
                let hint = "if the registry uses TLS, leave --plain-http out";
                Err(Failure::Final(Error::new(ErrorKind::Input, message).with_hint(hint)))
            }
            _ => {
                let answer = self.answer_of(name, response);
                last(ErrorKind::Input, format!("{} answered {answer}", self.host()))
            }
        }
    }

    fn later(&self, name: &str, response: Response) -> Failure {
        let date = text_header(response.headers(), &DATE);
        let after = text_header(response.headers(), &RETRY_AFTER).and_then(|text| asked_wait(&text, date.as_deref()));
        let after = after.map(|after| after.min(MOST_AFTER));
        let answer = self.answer_of(name, response);
        self.again(name, &format!("{} answered {answer}", self.host()), after)
    }

    fn again(&self, name: &str, what: &str, after: Option<Duration>) -> Failure {
        Failure::Again { error: Error::new(ErrorKind::Unavailable, format!("{name}: {what}")), after }
    }

    /// No answer: its cause, without addresses, which can have tokens in them.
    fn not_answered(&self, name: &str, error: &reqwest::Error) -> Failure {
        let cause = first_cause(error);
        let cause = first_line(&cause);
        if cause.contains("certificate") {
            let message = format!("{name}: {}: {cause}", self.host());
            let hint = "give the CA certificate of the registry with --tls-ca FILE";
            return Failure::Final(Error::new(ErrorKind::Denied, message).with_hint(hint));
        }
        // Speaks plain HTTP where TLS was expected.
        if cause.contains("InvalidContentType") || cause.contains("corrupt message") {
            let message = format!("{name}: {} does not answer with TLS", self.host());
            let hint = "if it is a registry on a loopback address, give --plain-http";
            return Failure::Final(Error::new(ErrorKind::Input, message).with_hint(hint));
        }
        if error.is_redirect() || error.is_builder() {
            let message = format!("{name}: refused a redirect of {}: {cause}", self.host());
            return Failure::Final(Error::new(ErrorKind::Denied, message));
        }
        self.again(name, &format!("{}: {cause}", self.host()), None)
    }

    fn body(&self, name: &str, mut response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        loop {
            match self.services.wait(response.chunk()).map_err(|error| self.not_answered(name, &error))? {
                None => return Ok(bytes),
                Some(piece) => bytes.extend_from_slice(&piece),
            }
            if bytes.len() as u64 > limit {
                let message = format!("{name}: larger than the limit of {}", printable::size(limit));
                return Err(Failure::Final(Error::new(ErrorKind::Input, message)));
            }
        }
    }
}

/// Whether credentials and bytes may go there: over TLS, or to this machine where that was asked for.
fn is_safe(url: &Url, plain_http: bool) -> bool {
    match url.scheme() {
        "https" => true,
        "http" => plain_http && url.host_str().is_some_and(is_on_this_machine),
        _ => false,
    }
}

/// The address of the next page, of `Link: <ADDRESS>; rel="next"`.
fn next_page(link: &str, from: &Url) -> Option<Url> {
    let next = link.split(',').find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"))?;
    let address = next.trim_start().strip_prefix('<')?.split_once('>')?.0;
    from.join(address).ok()
}

fn text_header(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// Whether `HOST[:PORT]` is this machine.
fn is_on_this_machine(host: &str) -> bool {
    let host = host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(host, _)| host);
    host == "localhost" || host == "[::1]" || host.parse().is_ok_and(|host: Ipv4Addr| host.is_loopback())
}

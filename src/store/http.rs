//! The HTTP client of object stores: it follows no redirect, sends no `Referer`, and bounds every answer.
//!
//! `object_store` reads bodies without a bound, and its errors tell a conflict from a failed condition and a busy service
//! from a refused request only in prose. So each operation runs within [`observe`], which says how long its answers may be
//! and returns what was answered. A server that is told to send less than it does gets a closed connection.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http_body_util::{BodyExt, Limited};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpResponseBody, HttpService,
};
use object_store::{ClientConfigKey, ClientOptions};
use reqwest::header::{CONTENT_LENGTH, DATE, ETAG, HeaderName, HeaderValue, LOCATION, RETRY_AFTER};
use reqwest::{Method, StatusCode, redirect};

use crate::digest::Sha256;
use crate::error::{first_cause, first_line};
use crate::net::endpoint::{authority, redirect_host};
use crate::net::retry::{asked_wait, attempt, http_date, milliseconds};

/// The program, as servers see it.
pub(super) const PROGRAM: &str = concat!("coldpress/", env!("CARGO_PKG_VERSION"));
/// Maximum length of an answer that is neither an object nor a page of a listing: an error, or the answer to a PUT.
pub(super) const SHORT_ANSWER: u64 = 64 << 10;
/// Maximum length of one page of a listing: Azure's have 5,000 names of up to 1,024 characters, which XML can lengthen.
const LIST_PAGE: u64 = 16 << 20;
/// Maximum number of pages of a listing; a page of S3 has 1,000 names.
const LIST_PAGES: usize = 10_000;
/// Requests of an operation that is not a listing: its own, and those for credentials.
const REQUESTS: usize = 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A metadata service is next to the machine, or is not there.
const METADATA_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// S3 names the bucket's region beside a redirect.
const BUCKET_REGION: HeaderName = HeaderName::from_static("x-amz-bucket-region");
/// Azure names an error in a header, too: answers to HEAD have no body.
const AZURE_CODE: HeaderName = HeaderName::from_static("x-ms-error-code");

/// How long the answers of one operation may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    body: u64,
    requests: usize,
    /// Whether asking for the same URL again means that the service leads in a circle.
    unique_urls: bool,
}

impl Bounds {
    /// The bounds of an operation whose answers hold nothing of interest.
    pub(super) const SHORT: Self = Self { body: SHORT_ANSWER, requests: REQUESTS, unique_urls: false };
    /// The bounds of a listing.
    pub(super) const LIST: Self = Self { body: LIST_PAGE, requests: LIST_PAGES, unique_urls: true };

    /// The bounds of a GET of an object of at most `length` bytes.
    pub(super) fn object(length: u64) -> Self {
        Self { body: length, ..Self::SHORT }
    }
}

/// The last answer to the requests of one operation.
#[derive(Debug, Clone, Default)]
pub(super) struct Answer {
    /// The HTTP status; `None` where no answer came.
    pub(super) status: Option<u16>,
    /// The service's own word for what went wrong, such as `AccessDenied`.
    pub(super) code: Option<String>,
    /// The host that was asked for credentials, where the answer is not the store's.
    pub(super) credentials_from: Option<String>,
    /// How long the service asks to wait.
    pub(super) retry_after: Option<Duration>,
    /// Where it redirects to.
    pub(super) redirect: Option<Redirect>,
    /// Why the client refused to take the answer, or to go on asking.
    pub(super) refused: Option<Refusal>,
    /// The region of the bucket, as the service names it beside an error.
    pub(super) region: Option<String>,
    /// The request's header that the service does not implement.
    pub(super) header: Option<String>,
    /// How far the service's clock is ahead of this machine's, in seconds.
    pub(super) clock_ahead: Option<i64>,
}

/// Where a service redirects to, without the path and the query, which can have credentials in them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Redirect {
    /// Host, and port where it is not the usual one; `None` where the service does not say.
    pub(super) host: Option<String>,
    /// The region of the bucket, as S3 names it.
    pub(super) region: Option<String>,
}

/// A bound that an answer did not keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    /// The body is longer.
    #[error("it is longer than the {0} bytes that are expected")]
    TooLong(u64),
    /// A listing has more pages.
    #[error("the listing has more than {0} pages")]
    TooManyPages(usize),
    /// A page of a listing was asked for already.
    #[error("the listing repeats a continuation token")]
    Circle,
}

/// What is known of the operation that a task carries out.
struct Operation {
    bounds: Bounds,
    /// Which attempt at the operation it is.
    attempt: u32,
    answer: Answer,
    requests: usize,
    urls: BTreeSet<Sha256>,
}

tokio::task_local! {
    static OPERATION: RefCell<Operation>;
}

/// Runs `requests` within `bounds`, and returns what they come to with the last answer on the way.
pub(super) async fn observe<F: Future>(bounds: Bounds, requests: F) -> (F::Output, Answer) {
    let operation =
        Operation { bounds, attempt: attempt(), answer: Answer::default(), requests: 0, urls: BTreeSet::new() };
    let observed = async {
        let output = requests.await;
        (output, OPERATION.with(|operation| operation.borrow().answer.clone()))
    };
    OPERATION.scope(RefCell::new(operation), observed).await
}

/// Makes the HTTP clients of one store and of its credentials.
#[derive(Debug)]
pub(super) struct Connector {
    /// The host and port of the store, where they are known: what is asked elsewhere is asked for credentials.
    pub(super) store: Option<String>,
    /// A header that goes with each request to the store, and with none to another host; only where `store` is known.
    pub(super) header: Option<(HeaderName, HeaderValue)>,
    /// Whether the store itself is reached by plain HTTP.
    pub(super) plain_http: bool,
    /// Whether the store is on this machine.
    pub(super) loopback: bool,
    /// Connections that are kept open.
    pub(super) idle: usize,
    /// Maximum time of one request with its answer.
    pub(super) timeout: Duration,
    /// Certificates that are trusted instead of the system's.
    pub(super) certificates: Vec<reqwest::Certificate>,
    /// A host's name that stands for this machine: `BUCKET.localhost`, which no name server has to know.
    pub(super) local_name: Option<String>,
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let plain_http = options.get_config_value(&ClientConfigKey::AllowHttp).as_deref() == Some("true");
        // The metadata services of clouds speak plain HTTP whatever the store does.
        let metadata = plain_http && !self.plain_http;
        let mut builder = reqwest::Client::builder()
            .user_agent(PROGRAM)
            .redirect(redirect::Policy::none())
            .referer(false)
            .connect_timeout(if metadata { METADATA_CONNECT_TIMEOUT } else { CONNECT_TIMEOUT })
            .timeout(self.timeout)
            .pool_max_idle_per_host(self.idle)
            .http1_only()
            .https_only(!plain_http);
        if metadata || self.loopback {
            // What goes in clear stays here.
            builder = builder.no_proxy();
        }
        if !self.certificates.is_empty() {
            builder = builder.tls_certs_only(self.certificates.iter().cloned());
        }
        if let Some(name) = &self.local_name {
            let here = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
            builder = builder.resolve_to_addrs(name, &here.map(|address| SocketAddr::new(address, 0)));
        }
        let client = builder.build().map_err(|error| object_store::Error::Generic {
            store: "HTTP client",
            source: Box::new(error.without_url()),
        })?;
        Ok(HttpClient::new(BoundedClient {
            client: HttpClient::new(client),
            store: self.store.clone(),
            header: self.header.clone(),
            metadata,
        }))
    }
}

/// A client that keeps to the bounds of the operation it works for.
#[derive(Debug)]
struct BoundedClient {
    client: HttpClient,
    store: Option<String>,
    header: Option<(HeaderName, HeaderValue)>,
    /// Whether only short answers are expected, whatever the operation.
    metadata: bool,
}

#[async_trait]
impl HttpService for BoundedClient {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (method, url) = (request.method().clone(), request.uri().to_string());
        let limit = admit(&url).map_err(refuse)?;
        // A session of S3 Express One Zone is short whatever it is for.
        let is_session = request.uri().query().is_some_and(|query| query.split('&').any(|part| part == "session"));
        let is_read = method == Method::GET && !self.metadata && !is_session;
        let limit = if is_read { limit } else { SHORT_ANSWER };
        let is_batch = method == Method::POST && is_batch(&url);
        let elsewhere = match &self.store {
            Some(store) => authority(&url).as_ref() != Some(store),
            None => self.metadata,
        };
        let credentials_from = elsewhere.then(|| host(&url)).flatten();
        if let (Some((name, value)), true, false) = (&self.header, self.store.is_some(), elsewhere) {
            request.headers_mut().insert(name, value.clone());
        }
        let begun = Instant::now();
        let response = self.client.execute(request).await;
        log_request(&method, &url, elsewhere, &response, begun.elapsed());
        let answer = response.as_ref().map(|response| answer_of(response, &url)).unwrap_or_default();
        update(|operation| operation.answer = Answer { credentials_from, ..answer });
        let response = bounded(response?, &method, limit).await?;
        if is_batch { unpack(response).await } else { Ok(response) }
    }
}

/// Logs a request and how it ended: of its address the host and, where it is the store's, the path. Queries can be credentials.
fn log_request(
    method: &Method,
    url: &str,
    elsewhere: bool,
    response: &Result<HttpResponse, HttpError>,
    took: Duration,
) {
    let Ok(url) = reqwest::Url::parse(url) else { return };
    tracing::debug!(
        %method,
        host = url.host_str().unwrap_or_default(),
        port = url.port_or_known_default(),
        path = if elsewhere { "(credentials)" } else { url.path() },
        status = response.as_ref().ok().map(|response| response.status().as_u16()),
        error = response.as_ref().err().map(|error| first_line(&first_cause(error)).to_owned()),
        took_ms = milliseconds(took),
        attempt = update(|operation| operation.attempt).unwrap_or(1),
        "request to the store"
    );
}

/// Changes what is known of the operation under way; without one, such as a request for credentials ahead, nothing.
fn update<T>(change: impl FnOnce(&mut Operation) -> T) -> Option<T> {
    OPERATION.try_with(|operation| change(&mut operation.borrow_mut())).ok()
}

/// The maximum length of the answer to the next request of the operation under way.
fn admit(url: &str) -> Result<u64, Refusal> {
    let admitted = update(|operation| {
        let bounds = operation.bounds;
        operation.requests += 1;
        match operation.requests > bounds.requests {
            true => Err(Refusal::TooManyPages(bounds.requests)),
            false if bounds.unique_urls && !operation.urls.insert(Sha256::of(url.as_bytes())) => Err(Refusal::Circle),
            false => Ok(bounds.body),
        }
    });
    admitted.unwrap_or(Ok(SHORT_ANSWER))
}

fn refuse(refusal: Refusal) -> HttpError {
    update(|operation| operation.answer.refused = Some(refusal));
    HttpError::new(HttpErrorKind::Decode, refusal)
}

/// The answer with a body that cannot be longer than `limit`.
async fn bounded(response: HttpResponse, method: &Method, limit: u64) -> Result<HttpResponse, HttpError> {
    let (mut parts, body) = response.into_parts();
    if !parts.status.is_success() {
        // A reason that is cut, or does not come whole, still has its beginning.
        let (reason, _) = read_up_to(body, SHORT_ANSWER).await;
        update(|operation| operation.answer.note_error(&reason));
        return Ok(HttpResponse::from_parts(parts, String::from_utf8_lossy(&reason).into_owned().into()));
    }
    if *method == Method::HEAD {
        return Ok(HttpResponse::from_parts(parts, body));
    }
    if *method == Method::PUT || *method == Method::DELETE {
        let (body, _) = read_up_to(body, limit).await;
        if is_error(&String::from_utf8_lossy(&body)) {
            // Some services begin to answer before they know how it ends.
            update(|operation| operation.answer.note_error(&body));
            parts.status = StatusCode::INTERNAL_SERVER_ERROR;
        }
        // It is done; the body says nothing more. `object_store` wants an entity tag, of which nothing is made.
        if parts.headers.get(ETAG).is_none_or(|tag| tag.to_str().is_err()) {
            parts.headers.insert(ETAG, HeaderValue::from_static("\"\""));
        }
        return Ok(HttpResponse::from_parts(parts, body.into()));
    }
    match parts.headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok()) {
        Some(length) if length > limit => Err(refuse(Refusal::TooLong(limit))),
        Some(_) => {
            let most = usize::try_from(limit).unwrap_or(usize::MAX);
            let body = Limited::new(body, most).map_err(|error| match error.downcast::<HttpError>() {
                Ok(error) => *error,
                Err(error) => HttpError::new_boxed(HttpErrorKind::Decode, error),
            });
            Ok(HttpResponse::from_parts(parts, HttpResponseBody::new(body)))
        }
        // Without a length nobody knows how much is to come; `object_store` refuses an object like this.
        None => {
            let (body, ended) = read_up_to(body, limit).await;
            match ended {
                Ended::Well => {
                    parts.headers.insert(CONTENT_LENGTH, body.len().into());
                    Ok(HttpResponse::from_parts(parts, body.into()))
                }
                Ended::Cut => Err(refuse(Refusal::TooLong(limit))),
                Ended::Failed(error) => Err(error),
            }
        }
    }
}

/// How reading a body ended.
enum Ended {
    Well,
    /// There is more than the limit.
    Cut,
    Failed(HttpError),
}

/// Reads at most `limit` bytes of a body, in the pieces in which they come.
async fn read_up_to(mut body: HttpResponseBody, limit: u64) -> (Vec<u8>, Ended) {
    let mut bytes = Vec::new();
    loop {
        let piece = match body.frame().await {
            None => return (bytes, Ended::Well),
            Some(Err(error)) => return (bytes, Ended::Failed(error)),
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
        };
        let room = usize::try_from(limit).unwrap_or(usize::MAX) - bytes.len();
        bytes.extend_from_slice(&piece[..piece.len().min(room)]);
        if piece.len() > room {
            return (bytes, Ended::Cut);
        }
    }
}

fn answer_of(response: &HttpResponse, url: &str) -> Answer {
    let header = |name: &HeaderName| response.headers().get(name)?.to_str().ok();
    let status = response.status();
    let retry_after = header(&RETRY_AFTER).and_then(|text| asked_wait(text, header(&DATE)));
    let redirect = (status.is_redirection() && status != StatusCode::NOT_MODIFIED).then(|| Redirect {
        host: header(&LOCATION).and_then(|to| redirect_host(url, to)),
        region: header(&BUCKET_REGION).and_then(region),
    });
    Answer {
        status: Some(status.as_u16()),
        code: header(&AZURE_CODE).and_then(word),
        retry_after,
        redirect,
        region: header(&BUCKET_REGION).and_then(region),
        clock_ahead: if status.is_success() { None } else { header(&DATE).and_then(ahead_of_this_machine) },
        ..Answer::default()
    }
}

impl Answer {
    /// Notes what an error's document says. Its text is not kept: it can have parts of the request in it.
    pub(super) fn note_error(&mut self, document: &[u8]) {
        let text = String::from_utf8_lossy(document);
        self.code = error_code(document).or(self.code.take());
        self.region = self.region.take().or_else(|| element(&text, "Region").and_then(region));
        let is_name = |name: &&str| {
            (1..=64).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        };
        self.header = element(&text, "Header").filter(is_name).map(str::to_owned);
    }
}

/// The text of the first element of that name.
fn element<'a>(document: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = document.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// Whether a document is S3's description of an error.
fn is_error(document: &str) -> bool {
    let mut rest = document.trim_start_matches('\u{feff}').trim_start();
    if let Some((_, behind)) = rest.strip_prefix("<?").and_then(|rest| rest.split_once("?>")) {
        rest = behind.trim_start();
    }
    rest.starts_with("<Error>") || rest.starts_with("<Error ")
}

/// How far a service's clock is ahead of this machine's, in seconds.
pub(super) fn ahead_of_this_machine(date: &str) -> Option<i64> {
    #[expect(clippy::disallowed_methods, reason = "a service that finds requests too old is compared with this clock")]
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?.as_secs();
    Some(http_date(date)?.cast_signed() - now.cast_signed())
}

/// Whether it is where Azure takes deletions, several in one request.
fn is_batch(url: &str) -> bool {
    url.split_once('?').is_some_and(|(_, query)| query.split('&').any(|pair| pair == "comp=batch"))
}

fn host(url: &str) -> Option<String> {
    reqwest::Url::parse(url).ok()?.host_str().map(str::to_owned)
}

/// The answer to a batch of one, whose own status says only that the batch was read: that of its part counts.
async fn unpack(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    let (parts, body) = response.into_parts();
    let body = body.bytes().await?;
    if parts.status.is_success() {
        let text = String::from_utf8_lossy(&body).into_owned();
        let mut lines = text.lines().skip_while(|line| !line.starts_with("HTTP/1.1 "));
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok());
        let code = lines
            .filter_map(|line| line.split_once(':'))
            .find(|(name, _)| name.eq_ignore_ascii_case(AZURE_CODE.as_str()));
        let code = code.and_then(|(_, code)| word(code.trim()));
        update(|operation| {
            operation.answer.status = status.or(operation.answer.status);
            operation.answer.code = code;
        });
    }
    Ok(HttpResponse::from_parts(parts, Vec::from(body).into()))
}

/// What a service calls an error, in XML (`<Code>`), or in JSON (`error`, as OAuth 2.0 and Google have it).
pub(super) fn error_code(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    if let Some(code) = element(&text, "Code") {
        return word(code);
    }
    let json: serde_json::Value = serde_json::from_slice(body).ok()?;
    let error = json.get("error")?;
    word(error.as_str().or_else(|| error.get("status")?.as_str())?)
}

/// A code, where it can be one and no secret: letters, digits, `_` and `.`.
fn word(text: &str) -> Option<String> {
    let is_word = (1..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.".contains(&byte));
    is_word.then(|| text.to_owned())
}

/// A region's name, where it can be one.
fn region(text: &str) -> Option<String> {
    let is_name =
        (1..=64).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    is_name.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::time::Instant;

    use object_store::client::HttpRequestBody;

    use super::*;
    use crate::net::runtime::Services;

    #[test]
    fn an_error_is_called_what_the_service_calls_it() {
        for (body, code) in [
            ("<?xml?><Error><Code>AccessDenied</Code><Message>x</Message></Error>", Some("AccessDenied")),
            ("<Error><Code>a secret: x</Code></Error>", None),
            (r#"{"error": "invalid_client", "error_description": "AADSTS7000215: x"}"#, Some("invalid_client")),
            (r#"{"error": {"code": 403, "status": "PERMISSION_DENIED"}}"#, Some("PERMISSION_DENIED")),
            ("<html>", None),
            ("", None),
        ] {
            assert_eq!(error_code(body.as_bytes()).as_deref(), code, "{body}");
        }
        assert!(is_batch("http://h/c?restype=container&comp=batch") && !is_batch("http://h/c/comp=batch"));
    }

    #[test]
    fn of_an_error_its_words_are_noted_and_nothing_else() {
        let mut answer = Answer::default();
        answer.note_error(b"<Error><Code>KMS.DisabledException</Code><Key>k</Key><Region>eu-west-1</Region></Error>");
        assert_eq!(answer.code.as_deref(), Some("KMS.DisabledException"));
        assert_eq!((answer.region.as_deref(), answer.header.as_deref()), (Some("eu-west-1"), None));
        let mut answer = Answer::default();
        answer.note_error(b"<Error><Code>a secret: x</Code><Header>x-amz-checksum-sha256</Header></Error>");
        assert_eq!((answer.code, answer.header.as_deref()), (None, Some("x-amz-checksum-sha256")));
    }

    #[test]
    fn an_error_is_known_by_its_first_element() {
        for error in ["<Error><Code>x</Code></Error>", "<?xml version='1.0'?>\n<Error xmlns='x'/>"] {
            assert!(is_error(error), "{error}");
        }
        for other in ["", "<CopyObjectResult/>", "<Errors/>", "x<Error>", "<?xml"] {
            assert!(!is_error(other), "{other}");
        }
    }

    #[test]
    fn a_region_is_a_name() {
        assert_eq!(region("eu-west-1").as_deref(), Some("eu-west-1"));
        assert_eq!(region("eu\u{1b}[31m"), None);
    }

    /// Asks a server that answers with `pieces`, the last of them again and again (slowly where it is one byte), with 300 ms of time;
    /// how it ends.
    fn ask(method: &Method, pieces: &'static [&'static str]) -> Result<usize, HttpError> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            // An answer that comes ahead of its request is none.
            assert!(client.read(&mut [0; 4096]).unwrap() > 0);
            let (last, first) = pieces.split_last().unwrap();
            for piece in first.iter().chain(std::iter::repeat(last)) {
                if client.write_all(piece.as_bytes()).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(if piece.len() == 1 { 50 } else { 0 }));
            }
        });
        let timeout = Duration::from_millis(300);
        let (certificates, local_name) = (Vec::new(), None);
        let connector = Connector {
            store: None,
            header: None,
            plain_http: true,
            loopback: true,
            idle: 1,
            timeout,
            certificates,
            local_name,
        };
        let client = connector.connect(&ClientOptions::new().with_allow_http(true)).unwrap();
        let mut request = HttpRequest::new(HttpRequestBody::empty());
        *request.method_mut() = method.clone();
        *request.uri_mut() = url.parse().unwrap();
        let asked =
            observe(Bounds::object(1000), async move { client.execute(request).await?.into_body().bytes().await });
        Services::start().unwrap().wait(asked).0.map(|body| body.len())
    }

    #[test]
    fn an_answer_that_never_ends_is_ended_by_the_clock() {
        let started = Instant::now();
        for pieces in [
            &["HTTP/1.1 200 OK\r\nx: ", "a"][..],
            &["HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"],
            &["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", "a"],
            &["HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\na\r\n", ""],
        ] {
            let timed_out = ask(&Method::GET, pieces).unwrap_err();
            assert_eq!(timed_out.kind(), HttpErrorKind::Timeout, "{pieces:?}: {timed_out:?}");
        }
        // Of an upload and of a refusal, the status says all.
        assert!(ask(&Method::PUT, &["HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n", "a"]).is_ok());
        assert!(ask(&Method::GET, &["HTTP/1.1 403 No\r\ncontent-length: 100\r\n\r\n", "a"]).is_ok());
        assert!(started.elapsed() < Duration::from_secs(10));
    }
}

//! Google's keyless credentials: a token of a build pipeline or a cluster, exchanged for one of Google's (`external_account`).
//!
//! The flow is that of AIP-4117: the subject token comes from a file or a URL, the Security Token Service exchanges it (RFC 8693), and
//! where the configuration says so the result is exchanged once more for a service account's. Tokens cross networks under TLS only;
//! what is on this machine, and metadata services, may do without.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use object_store::client::{HttpConnector, HttpRequest, HttpRequestBody};
use object_store::gcp::GcpCredential;
use object_store::{ClientOptions, CredentialProvider};
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use serde::Deserialize;
use tokio::sync::Mutex;

use super::http::Connector;
use crate::net::endpoint::{self, PlainHttp};
use crate::{Error, ErrorKind, Result};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
/// A token is renewed so long before it expires, or when half of its time is over.
const SPARE: Duration = Duration::from_secs(300);
/// Minimum time between a renewal that failed and the next, while the token at hand is valid.
const SPACING: Duration = Duration::from_secs(30);
/// How long a service account's token lives unless the configuration says otherwise.
const LIFETIME: u64 = 3600;
/// Maximum length of a subject token's file.
const MAX_TOKEN: usize = 64 << 10;

/// The configuration, as `gcloud iam workload-identity-pools create-cred-config` writes it.
#[derive(Deserialize)]
pub(super) struct ExternalAccount {
    audience: String,
    subject_token_type: String,
    token_url: String,
    service_account_impersonation_url: Option<String>,
    service_account_impersonation: Option<Impersonation>,
    credential_source: Source,
    #[serde(skip)]
    origin: String,
}

#[derive(Deserialize)]
struct Impersonation {
    token_lifetime_seconds: Option<u64>,
}

/// Where the subject token is.
#[derive(Deserialize)]
struct Source {
    file: Option<String>,
    url: Option<String>,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
    #[serde(default)]
    format: Format,
    environment_id: Option<String>,
    executable: Option<serde::de::IgnoredAny>,
    certificate: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize, Default)]
struct Format {
    #[serde(rename = "type")]
    kind: Option<String>,
    subject_token_field_name: Option<String>,
}

impl ExternalAccount {
    /// Parses a configuration that stands at `origin`.
    ///
    /// # Errors
    /// `Input` where it is malformed or would send a token in clear, `Unsupported` for a source of subject tokens that is neither a
    /// file nor a URL.
    pub(super) fn parse(origin: &str, text: &str) -> Result<Self> {
        let malformed = |error: serde_json::Error| {
            let message =
                format!("{origin}: not an external_account: line {}, column {}", error.line(), error.column());
            Error::new(ErrorKind::Input, message)
                .with_hint("write it again with `gcloud iam workload-identity-pools create-cred-config`")
        };
        let mut account: Self = serde_json::from_str(text).map_err(malformed)?;
        origin.clone_into(&mut account.origin);
        let source = &account.credential_source;
        let other = [
            (source.environment_id.is_some(), "an AWS identity (environment_id)"),
            (source.executable.is_some(), "a program (executable)"),
            (source.certificate.is_some(), "a certificate"),
            (source.file.is_none() && source.url.is_none(), "neither a file nor a url"),
        ];
        if let Some((_, what)) = other.iter().find(|(is_so, _)| *is_so) {
            let message =
                format!("{origin}: the external_account takes its subject token from {what}, which is not supported");
            return Err(Error::new(ErrorKind::Unsupported, message).with_hint(
                "use a credential_source with a file or a url, or give a token: GOOGLE_OAUTH_ACCESS_TOKEN=$(gcloud auth print-access-token)",
            ));
        }
        let within = |error: Error| error.within(origin.to_owned());
        endpoint::check("token_url", &account.token_url, PlainHttp::Refused).map_err(within)?;
        if let Some(url) = &account.service_account_impersonation_url {
            endpoint::check("service_account_impersonation_url", url, PlainHttp::Refused).map_err(within)?;
        }
        if let Some(url) = &source.url {
            endpoint::check_metadata("the url of credential_source", url).map_err(within)?;
        }
        Ok(account)
    }

    /// The subject token's file, where it is in one.
    pub(super) fn subject_token_file(&self) -> Option<&str> {
        self.credential_source.file.as_deref()
    }

    /// What gives the tokens, by clients that `connector` makes.
    ///
    /// # Errors
    /// `Input` where no client can be made.
    pub(super) fn credentials(self, connector: Connector) -> Result<ExternalCredentials> {
        Ok(ExternalCredentials { account: self, connector, last: Mutex::default() })
    }

    fn error(&self, kind: ErrorKind, what: impl fmt::Display) -> Error {
        Error::new(kind, format!("no Google credentials: {}: {what}", self.origin))
    }
}

/// Tokens of an external account, the last of which is kept until half of its time is over, or until five minutes before it expires.
pub(super) struct ExternalCredentials {
    account: ExternalAccount,
    connector: Connector,
    last: Mutex<Option<Token>>,
}

/// A token at hand.
struct Token {
    credential: Arc<GcpCredential>,
    expires: Instant,
    renew_at: Instant,
}

impl Token {
    fn new(bearer: String, lifetime: Duration, now: Instant) -> Self {
        let renew_at = now + lifetime.saturating_sub(SPARE).max(lifetime / 2);
        Self { credential: Arc::new(GcpCredential { bearer }), expires: now + lifetime, renew_at }
    }
}

impl fmt::Debug for ExternalCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ExternalCredentials(..)")
    }
}

#[async_trait]
impl CredentialProvider for ExternalCredentials {
    type Credential = GcpCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<GcpCredential>> {
        let mut last = self.last.lock().await;
        let now = Instant::now();
        if let Some(token) = last.as_ref().filter(|token| now < token.renew_at) {
            return Ok(Arc::clone(&token.credential));
        }
        match (self.fetch().await, last.as_mut()) {
            (Ok((bearer, lifetime)), _) => {
                let token = last.insert(Token::new(bearer, lifetime, Instant::now()));
                Ok(Arc::clone(&token.credential))
            }
            (Err(_), Some(token)) if Instant::now() < token.expires => {
                token.renew_at = Instant::now() + SPACING;
                Ok(Arc::clone(&token.credential))
            }
            (Err(error), _) => Err(object_store::Error::Unauthenticated {
                path: "Google credentials".to_owned(),
                source: Box::new(error),
            }),
        }
    }
}

/// What the Security Token Service gives (RFC 8693).
#[derive(Deserialize)]
struct Exchanged {
    access_token: String,
    expires_in: Option<u64>,
}

/// What the service of service accounts gives.
#[derive(Deserialize)]
struct Impersonated {
    #[serde(rename = "accessToken")]
    access_token: String,
}

impl ExternalCredentials {
    async fn fetch(&self) -> Result<(String, Duration)> {
        let account = &self.account;
        let subject = self.subject_token().await?;
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("audience", &account.audience),
            ("scope", SCOPE),
            ("requested_token_type", "urn:ietf:params:oauth:token-type:access_token"),
            ("subject_token_type", &account.subject_token_type),
            ("subject_token", &subject),
        ];
        let headers = [(CONTENT_TYPE, "application/x-www-form-urlencoded".to_owned())];
        let answer = self.ask(Method::POST, &account.token_url, &headers, encoded(&form)).await?;
        let exchanged: Exchanged = self.parse(&account.token_url, &answer)?;
        let Some(url) = &account.service_account_impersonation_url else {
            return Ok((exchanged.access_token, Duration::from_secs(exchanged.expires_in.unwrap_or(LIFETIME))));
        };
        let lifetime = account.service_account_impersonation.as_ref().and_then(|how| how.token_lifetime_seconds);
        let lifetime = lifetime.unwrap_or(LIFETIME);
        let headers = [
            (AUTHORIZATION, format!("Bearer {}", exchanged.access_token)),
            (CONTENT_TYPE, "application/json".to_owned()),
        ];
        let body = serde_json::json!({ "scope": [SCOPE], "lifetime": format!("{lifetime}s") }).to_string();
        let answer = self.ask(Method::POST, url, &headers, body).await?;
        let impersonated: Impersonated = self.parse(url, &answer)?;
        Ok((impersonated.access_token, Duration::from_secs(lifetime)))
    }

    async fn subject_token(&self) -> Result<String> {
        let source = &self.account.credential_source;
        let (place, text) = match (&source.file, &source.url) {
            (Some(file), _) => {
                let text = std::fs::read(file).map_err(|error| {
                    let cause = Error::file(file.as_ref(), error);
                    cause.within(format!("no Google credentials: {}", self.account.origin))
                })?;
                (file, text)
            }
            (None, Some(url)) => {
                let mut headers = Vec::new();
                for (name, value) in &source.headers {
                    let name: HeaderName = name.parse().map_err(|_| {
                        self.account.error(ErrorKind::Input, format!("`{name}` is not a header's name"))
                    })?;
                    headers.push((name, value.clone()));
                }
                (url, self.ask(Method::GET, url, &headers, String::new()).await?)
            }
            (None, None) => unreachable!("parsed as having one of both"),
        };
        let malformed = |what: &str| self.account.error(ErrorKind::Input, format!("{}: {what}", host_or_path(place)));
        if text.len() > MAX_TOKEN {
            return Err(malformed("a subject token is not so long"));
        }
        let text = String::from_utf8(text).map_err(|_| malformed("not a token, which is text"))?;
        if source.format.kind.as_deref() != Some("json") {
            return Ok(text.trim().to_owned());
        }
        let field = source.format.subject_token_field_name.as_deref().unwrap_or("access_token");
        let json: serde_json::Value = serde_json::from_str(&text).map_err(|_| malformed("not JSON"))?;
        let token = json.get(field).and_then(serde_json::Value::as_str);
        token.map(str::to_owned).ok_or_else(|| malformed(&format!("no field `{field}`")))
    }

    /// One request, whose answer is bounded by the connector.
    async fn ask(&self, method: Method, url: &str, headers: &[(HeaderName, String)], body: String) -> Result<Vec<u8>> {
        let account = &self.account;
        let asked = host_or_path(url);
        let options = ClientOptions::new().with_allow_http(url.starts_with("http://"));
        let unavailable = |error: &dyn std::error::Error| {
            account.error(ErrorKind::Unavailable, format!("{asked}: {}", crate::error::first_cause(error)))
        };
        let client = self.connector.connect(&options).map_err(|error| unavailable(&error))?;
        let mut request = HttpRequest::new(HttpRequestBody::from(body));
        *request.method_mut() = method;
        *request.uri_mut() =
            url.parse().map_err(|_| account.error(ErrorKind::Input, format!("`{asked}` is not a URL")))?;
        for (name, value) in headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                account.error(ErrorKind::Input, format!("the header {name} has a value that none can have"))
            })?;
            value.set_sensitive(true);
            request.headers_mut().insert(name, value);
        }
        let answer = client.execute(request).await.map_err(|error| unavailable(&error))?;
        let status = answer.status();
        let body = answer.into_body().bytes().await.map_err(|error| unavailable(&error))?;
        if status.is_success() {
            return Ok(body.into());
        }
        let code = super::http::error_code(&body).map(|code| format!(" ({code})")).unwrap_or_default();
        let kind = match status.as_u16() {
            408 | 429 | 500..=599 => ErrorKind::Unavailable,
            _ => ErrorKind::Denied,
        };
        let error = account.error(kind, format!("{asked} answered {}{code}", status.as_u16()));
        Err(if kind == ErrorKind::Denied {
            error.with_hint("check the audience, the provider's conditions, and that the identity may impersonate the service account")
        } else {
            error
        })
    }

    fn parse<'a, T: Deserialize<'a>>(&self, url: &str, answer: &'a [u8]) -> Result<T> {
        let malformed = || format!("{} answered something else than a token", host_or_path(url));
        serde_json::from_slice(answer).map_err(|_| self.account.error(ErrorKind::Corrupt, malformed()))
    }
}

/// What may be said of a URL, or of a file.
fn host_or_path(place: &str) -> String {
    match reqwest::Url::parse(place) {
        Ok(url) if url.has_host() => url.host_str().unwrap_or_default().to_owned(),
        _ => place.to_owned(),
    }
}

/// A form, as HTML encodes it.
fn encoded(form: &[(&str, &str)]) -> String {
    let mut url = reqwest::Url::parse("https://form").expect("is a URL");
    url.query_pairs_mut().extend_pairs(form);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(source: &str, more: &str) -> Result<ExternalAccount> {
        let text = format!(
            r#"{{"type": "external_account", "audience": "//iam", "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
                "token_url": "https://sts.googleapis.com/v1/token", "credential_source": {source}{more}}}"#
        );
        ExternalAccount::parse("creds.json", &text)
    }

    #[test]
    fn what_is_not_supported_or_not_safe_is_named() {
        parse(r#"{"file": "/var/run/token"}"#, "").unwrap();
        parse(r#"{"url": "http://169.254.169.254/metadata/identity"}"#, "").unwrap();
        for (source, more, part) in [
            (r#"{"environment_id": "aws1"}"#, "", "an AWS identity"),
            (r#"{"executable": {"command": "x"}}"#, "", "a program"),
            ("{}", "", "neither a file nor a url"),
            (r#"{"url": "http://tokens.example/"}"#, "", "loopback"),
            (r#"{"file": "x"}"#, r#", "service_account_impersonation_url": "http://iam.example/""#, "unencrypted"),
            (r#"{"file": 1}"#, "", "not an external_account: line 2"),
        ] {
            let error = parse(source, more).err().unwrap();
            assert!(error.chain().contains(part), "{source}: {}", error.chain());
        }
    }

    #[test]
    fn a_form_is_encoded() {
        assert_eq!(encoded(&[("a", "b c&d"), ("e", "f/g=")]), "a=b+c%26d&e=f%2Fg%3D");
    }
}

//! The part that S3 and KMS share: region, endpoint and credentials by the chain of AWS's own tools (environment, profiles, single
//! sign-on, web identities, containers, instances), and an HTTP client whose answers are bounded.
//!
//! The HTTP client here asks for credentials and for data keys. It sends nothing without TLS except to this machine and to the
//! link-local addresses of metadata services, whatever environment and profiles say, and never by a proxy what has no TLS.

pub(crate) mod credentials;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_config::environment::EnvironmentVariableRegionProvider;
use aws_config::meta::region::{ProvideRegion, RegionProviderChain};
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::provider::SharedCredentialsProvider;
use aws_smithy_http_client::proxy::ProxyConfig;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use aws_smithy_http_client::{Builder, ConnectorBuilder};
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::connector_metadata::ConnectorMetadata;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpClient, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::{RuntimeComponents, RuntimeComponentsBuilder};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::config_bag::ConfigBag;
use aws_types::service_config::ServiceConfigKey;
use http_body_util::BodyExt;

use crate::error::{first_cause, first_line};
use crate::net::aws::credentials::{RenewedCredentials, Shared};
use crate::net::endpoint::{is_link_local, is_local};
use crate::net::retry::milliseconds;
use crate::net::runtime::Services;
use crate::net::wait::Wait;
use crate::{Error, ErrorKind, Result};

/// Maximum length of an answer of KMS, STS, single sign-on or a metadata service: all are of a few kilobytes.
const MAX_ANSWER: usize = 64 << 10;

/// How long a machine without a metadata service is asked for a region, by the AWS library's own timeouts and retries.
const METADATA: Duration = Duration::from_secs(10);

/// What environment and profiles say of AWS.
pub(crate) struct Aws {
    /// The configuration for clients of its services.
    pub(crate) config: SdkConfig,
    /// The credentials that `config` gives.
    pub(crate) credentials: Option<Arc<RenewedCredentials>>,
    /// The certificates, PEM, of `AWS_CA_BUNDLE` or of a profile's `ca_bundle`.
    pub(crate) ca_bundle: Option<Vec<u8>>,
}

/// Returns the configuration for `region`, else the chain's. A server of one's own (`own_server`) has no regions, and asking the
/// chain for one would ask the metadata service of a cloud.
///
/// # Errors
/// As [`load`].
pub(crate) fn config(services: &Services, region: Option<&str>, own_server: bool) -> Result<SdkConfig> {
    Ok(load(services, region, own_server)?.config)
}

/// Loads all that environment and profiles say, as [`config`].
///
/// # Errors
/// `Input` for a bundle of certificates that cannot be read.
pub(crate) fn load(services: &Services, region: Option<&str>, own_server: bool) -> Result<Aws> {
    let ca_bundle = ca_bundle(&services.wait(files()))?;
    let heard = Arc::new(Heard::default());
    let client = BoundedClient {
        proxied: https(ca_bundle.clone(), ProxyConfig::from_env()),
        direct: https(ca_bundle.clone(), ProxyConfig::disabled()),
        heard: Arc::clone(&heard),
    };
    let mut loader = aws_config::defaults(BehaviorVersion::latest()).http_client(client);
    if let Some(region) = region {
        loader = loader.region(Region::new(region.to_owned()));
    } else if own_server {
        let environment = EnvironmentVariableRegionProvider::new();
        let profile = ProfileFileRegionProvider::new();
        loader = loader.region(RegionProviderChain::first_try(environment).or_else(profile).or_else("us-east-1"));
    }
    let config = {
        // Where nothing else names a region, the metadata service of a cloud is asked.
        let _waiting = Wait::begin("the region of AWS (environment, profile, instance metadata)", METADATA);
        services.wait(loader.load())
    };
    log_region(services, region, &config);
    let Some(chain) = config.credentials_provider() else { return Ok(Aws { config, credentials: None, ca_bundle }) };
    let credentials = RenewedCredentials::new(chain, heard);
    let config = config
        .into_builder()
        .credentials_provider(SharedCredentialsProvider::new(Shared(Arc::clone(&credentials))))
        .identity_cache(aws_config::identity::IdentityCache::no_cache())
        .build();
    Ok(Aws { config, credentials: Some(credentials), ca_bundle })
}

/// Logs the region, and what named it.
fn log_region(services: &Services, given: Option<&str>, config: &SdkConfig) {
    if !tracing::enabled!(tracing::Level::INFO) {
        return;
    }
    let chain = async {
        match () {
            () if given.is_some() => "option, address or ARN",
            () if EnvironmentVariableRegionProvider::new().region().await.is_some() => {
                "AWS_REGION or AWS_DEFAULT_REGION"
            }
            () if ProfileFileRegionProvider::new().region().await.is_some() => "profile",
            () => "instance metadata, or the default for an endpoint",
        }
    };
    let region = config.region().map(ToString::to_string).unwrap_or_default();
    tracing::info!(region, source = services.wait(chain), "AWS region");
}

/// The Region that the environment or the profile names; no service is asked.
pub(crate) fn configured_region() -> Option<String> {
    let services = Services::start().ok()?;
    let chain = RegionProviderChain::first_try(EnvironmentVariableRegionProvider::new())
        .or_else(ProfileFileRegionProvider::new());
    services.wait(chain.region()).map(|region| region.to_string())
}

/// Returns the endpoint that environment or profile name for a service (`S3`, `KMS`); nothing is asked for it.
///
/// # Errors
/// `Unavailable` where the operating system gives no threads.
pub fn configured_endpoint(service: &str) -> Result<Option<String>> {
    let config = Services::start()?.wait(files());
    let named = setting(&config, service, "AWS_ENDPOINT_URL", "endpoint_url");
    Ok(named.or_else(|| config.endpoint_url().map(str::to_owned)).filter(|endpoint| !endpoint.is_empty()))
}

/// Loads what needs no request: neither credentials nor a region are looked for.
async fn files() -> SdkConfig {
    let loader = aws_config::defaults(BehaviorVersion::latest()).region(Region::from_static("us-east-1"));
    loader.no_credentials().load().await
}

/// Returns a setting of a service: its own of the environment, of the profile's `services`; else that of all services.
fn setting(config: &SdkConfig, service: &str, variable: &str, key: &str) -> Option<String> {
    let key = ServiceConfigKey::builder().service_id(service).env(variable).profile(key).build().ok()?;
    config.service_config()?.load_config(key)
}

fn ca_bundle(config: &SdkConfig) -> Result<Option<Vec<u8>>> {
    let Some(path) = setting(config, "S3", "AWS_CA_BUNDLE", "ca_bundle").filter(|path| !path.is_empty()) else {
        return Ok(None);
    };
    let broken = |why: &str| Error::new(ErrorKind::Input, format!("AWS_CA_BUNDLE: {path}: {why}"));
    let bytes = std::fs::read(&path).map_err(|error| broken(&error.to_string()))?;
    match reqwest::Certificate::from_pem_bundle(&bytes) {
        Ok(certificates) if !certificates.is_empty() => Ok(Some(bytes)),
        _ => Err(broken("the file has no certificates in PEM form")),
    }
}

/// The client that AWS's libraries make where none is given; it follows no redirect.
fn https(ca_bundle: Option<Vec<u8>>, proxy: ProxyConfig) -> SharedHttpClient {
    Builder::new().build_with_connector_fn(move |settings, components| {
        let mut builder = ConnectorBuilder::default().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
        builder.set_connector_settings(settings.cloned());
        if let Some(components) = components {
            builder.set_sleep_impl(components.sleep_impl());
        }
        if let Some(pem) = &ca_bundle {
            let trusted = TrustStore::empty().with_pem_certificate(pem.clone());
            // The bundle was read as certificates before.
            if let Ok(context) = TlsContext::builder().with_trust_store(trusted).build() {
                builder.set_tls_context(context);
            }
        }
        builder.set_proxy_config(Some(proxy.clone()));
        builder.build()
    })
}

/// What came of the requests for one set of credentials.
#[derive(Debug, Default)]
pub(crate) struct Heard(Mutex<HeardState>);

#[derive(Debug, Default)]
struct HeardState {
    /// Whether the requests are counted: those of data keys are not.
    listening: bool,
    /// URLs that failed for now.
    failed: BTreeSet<String>,
    last: Option<Outcome>,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Status(u16),
    NoAnswer,
}

impl Heard {
    fn state(&self) -> std::sync::MutexGuard<'_, HeardState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts anew.
    fn listen(&self) {
        *self.state() = HeardState { listening: true, ..HeardState::default() };
    }

    /// Ends, and returns whether the last request failed for now: without an answer, or with one that says so.
    fn passes(&self) -> bool {
        let state = std::mem::take(&mut *self.state());
        matches!(state.last, Some(Outcome::NoAnswer | Outcome::Status(408 | 429 | 500..=599)))
    }

    /// Whether a request to `url` may be made: what failed is asked again by [`RenewedCredentials`] alone, which counts.
    fn admits(&self, url: &str) -> bool {
        !self.state().failed.contains(url)
    }

    fn note(&self, url: &str, outcome: Outcome) {
        let mut state = self.state();
        if !state.listening {
            return;
        }
        state.last = Some(outcome);
        if matches!(outcome, Outcome::NoAnswer | Outcome::Status(408 | 429 | 500..=599)) {
            state.failed.insert(url.to_owned());
        }
    }
}

/// A client whose connectors bound the answers.
#[derive(Debug)]
struct BoundedClient {
    proxied: SharedHttpClient,
    direct: SharedHttpClient,
    heard: Arc<Heard>,
}

impl HttpClient for BoundedClient {
    fn http_connector(&self, settings: &HttpConnectorSettings, components: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(BoundedConnector {
            proxied: self.proxied.http_connector(settings, components),
            direct: self.direct.http_connector(settings, components),
            heard: Arc::clone(&self.heard),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.proxied.validate_base_client_config(components, config)
    }

    fn validate_final_config(&self, components: &RuntimeComponents, config: &ConfigBag) -> Result<(), BoxError> {
        self.proxied.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.proxied.connector_metadata()
    }
}

/// A connector that reads at most [`MAX_ANSWER`] bytes of an answer.
#[derive(Debug)]
struct BoundedConnector {
    proxied: SharedHttpConnector,
    direct: SharedHttpConnector,
    heard: Arc<Heard>,
}

impl HttpConnector for BoundedConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let url = request.uri().to_owned();
        if let Err(in_clear) = check_tls(&url, request.headers().contains_key("authorization")) {
            return HttpConnectorFuture::ready(Err(ConnectorError::user(Box::new(in_clear))));
        }
        if !self.heard.admits(&url) {
            return HttpConnectorFuture::ready(Err(ConnectorError::user(Box::new(FailedBefore(host(&url))))));
        }
        let operation = operation(&request);
        let (method, begun) = (request.method().to_owned(), Instant::now());
        let answer = if url.starts_with("http://") { self.direct.call(request) } else { self.proxied.call(request) };
        let heard = Arc::clone(&self.heard);
        HttpConnectorFuture::new(async move {
            let answer = answer.await;
            log_request(&method, &url, operation.as_deref(), &answer, begun.elapsed());
            heard.note(
                &url,
                answer.as_ref().map_or(Outcome::NoAnswer, |answer| Outcome::Status(answer.status().as_u16())),
            );
            let mut answer = answer?;
            let body = read_up_to(answer.take_body(), MAX_ANSWER).await;
            // A reason that is cut says as much as its status.
            let body = if answer.status().is_success() { body? } else { body.unwrap_or_default() };
            *answer.body_mut() = SdkBody::from(body);
            Ok(answer)
        })
    }
}

/// Returns the operation of KMS that a request is for, such as `TrentService.Decrypt`.
fn operation(request: &HttpRequest) -> Option<String> {
    request.headers().get("x-amz-target").map(str::to_owned)
}

/// Logs a request and how it ended. Paths of metadata services can be credentials.
fn log_request(
    method: &str,
    url: &str,
    operation: Option<&str>,
    answer: &Result<HttpResponse, ConnectorError>,
    took: Duration,
) {
    tracing::debug!(
        method,
        host = host(url),
        operation = operation.unwrap_or("(credentials)"),
        status = answer.as_ref().ok().map(|answer| answer.status().as_u16()),
        error = answer.as_ref().err().map(|error| first_line(&first_cause(error)).to_owned()),
        took_ms = milliseconds(took),
        "request to AWS"
    );
}

/// The part of a URL that may be printed.
fn host(url: &str) -> String {
    reqwest::Url::parse(url).ok().and_then(|url| url.host_str().map(str::to_owned)).unwrap_or_default()
}

/// Credentials, tokens or data keys would cross a network without TLS. The address can come from an option, a variable or a profile.
#[derive(Debug, thiserror::Error)]
#[error(
    "http://{0}: http:// is accepted for loopback addresses only, since secrets would cross the network unencrypted; use https://"
)]
pub(crate) struct InClear(String);

/// Checks that a request without TLS stays on this machine, or goes to a metadata service: at a link-local address, or a plain question
/// to one of another name.
fn check_tls(uri: &str, is_signed: bool) -> Result<(), InClear> {
    let Ok(url) = reqwest::Url::parse(uri) else { return Ok(()) };
    let host = url.host_str().unwrap_or_default();
    let is_metadata = is_link_local(host) || (!is_signed && url.path().starts_with("/latest/"));
    if url.scheme() != "http" || is_local(host) || is_metadata { Ok(()) } else { Err(InClear(host.to_owned())) }
}

/// A request failed for now, and is not made again at once.
#[derive(Debug, thiserror::Error)]
#[error("{0} returned an invalid response")]
struct FailedBefore(String);

/// A service's answer is longer than it can be. Asking again does not help.
#[derive(Debug, thiserror::Error)]
#[error("the response is longer than {MAX_ANSWER} bytes")]
pub(crate) struct TooLong;

async fn read_up_to(mut body: SdkBody, limit: usize) -> Result<Vec<u8>, ConnectorError> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let piece = frame.map_err(ConnectorError::io)?.into_data().unwrap_or_default();
        if bytes.len() + piece.len() > limit {
            return Err(ConnectorError::other(Box::new(TooLong), None));
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_signed_or_secret_goes_without_tls_to_this_machine_alone() {
        for (uri, is_signed, allowed) in [
            ("https://kms.us-east-1.amazonaws.com/", true, true),
            ("http://127.0.0.1:5000/", true, true),
            ("http://[::1]:5000/", true, true),
            ("http://kms.example/", true, false),
            ("http://10.0.0.1:9000/", true, false),
            // A web identity's token is in the body, and nothing is signed.
            ("http://sts.example/", false, false),
            ("http://169.254.169.254/latest/api/token", false, true),
            ("http://169.254.170.2/v2/credentials", false, true),
            ("http://[fd00:ec2::254]/latest/api/token", false, true),
            ("http://metadata.example/latest/meta-data/", false, true),
            ("http://metadata.example/latest/meta-data/", true, false),
        ] {
            assert_eq!(check_tls(uri, is_signed).is_ok(), allowed, "{uri}");
        }
    }
}

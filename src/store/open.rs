//! Clients of the services, with the credentials and settings that are usual for each.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider};
use object_store::aws::{AmazonS3Builder, AwsCredential, Checksum, S3ConditionalPut};
use object_store::{ClientOptions, CredentialProvider, ObjectStore, RetryConfig};
use tokio::sync::Mutex;

use super::http::Connector;
use super::local::{LocalCollect, LocalGet, LocalPut};
use super::remote::{Bucket, RemoteCollect, RemoteGet, RemotePut};
use super::url::Service;
use super::{BucketUrl, Collect, Get, PutIfAbsent, RootId, StoreUrl, azure, environment, google};
use crate::endpoint::{self, PlainHttp};
use crate::runtime::Services;
use crate::{Error, ErrorKind, Result};

/// What else a client of a service is told.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Another address than the service's own: an S3-compatible server's.
    pub endpoint: Option<String>,
    /// The bucket's region; else the environment's or the profile's.
    pub region: Option<String>,
    /// The bucket stands in the host's name, not in the path.
    pub virtual_host: bool,
    /// Most puts at a time.
    pub in_flight: usize,
    /// Whether an endpoint on another machine may be reached without TLS.
    pub allow_http: bool,
}

/// Maximum time of one request with its answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Puts at a time where nothing else is said.
pub const IN_FLIGHT: usize = 32;

impl Default for Settings {
    fn default() -> Self {
        Self { endpoint: None, region: None, virtual_host: false, in_flight: IN_FLIGHT, allow_http: false }
    }
}

impl Settings {
    fn plain_http(&self) -> bool {
        self.endpoint.as_ref().is_some_and(|endpoint| endpoint.starts_with("http://"))
    }
}

/// The half of `url` that can only put, for chunks of `root`.
///
/// # Errors
/// `Denied` where it may not put, `NotFound` where there is no such bucket, `Unavailable`, `Input` for settings.
pub fn open_put(url: &StoreUrl, settings: &Settings, root: &RootId) -> Result<Box<dyn PutIfAbsent>> {
    Ok(match url {
        StoreUrl::Directory(path) => Box::new(LocalPut::open(path)?),
        StoreUrl::Bucket(url) => Box::new(RemotePut::open(bucket(url, settings)?, settings.in_flight, root)?),
    })
}

/// Returns the half of `url` that can only put, as [`open_put`] does, for a repair: a directory reads and compares what it has under
/// a name, and replaces it where it differs. A service is not read: write-only credentials cannot.
///
/// # Errors
/// As [`open_put`].
pub fn open_repair(url: &StoreUrl, settings: &Settings, root: &RootId) -> Result<Box<dyn PutIfAbsent>> {
    match url {
        StoreUrl::Directory(path) => Ok(Box::new(LocalPut::open_repair(path)?)),
        StoreUrl::Bucket(_) => open_put(url, settings, root),
    }
}

/// The half of `url` that can only get.
///
/// # Errors
/// `NotFound` where there is no such directory, `Denied` where there are no credentials, `Input` for settings.
pub fn open_get(url: &StoreUrl, settings: &Settings) -> Result<Box<dyn Get>> {
    Ok(match url {
        StoreUrl::Directory(path) => Box::new(LocalGet::open(path)?),
        StoreUrl::Bucket(url) => Box::new(RemoteGet(bucket(url, settings)?)),
    })
}

/// The same where the store may come later, for who asks as long as somebody waits.
///
/// # Errors
/// `Denied` where there are no credentials, `Input` for settings.
pub fn open_get_later(url: &StoreUrl, settings: &Settings) -> Result<Box<dyn Get>> {
    match url {
        StoreUrl::Directory(path) => Ok(Box::new(LocalGet::open_later(path))),
        StoreUrl::Bucket(_) => open_get(url, settings),
    }
}

/// The half of `url` that lists and deletes.
///
/// # Errors
/// As [`open_get`].
pub fn open_collect(url: &StoreUrl, settings: &Settings) -> Result<Box<dyn Collect>> {
    Ok(match url {
        StoreUrl::Directory(path) => Box::new(LocalCollect::open(path)?),
        StoreUrl::Bucket(url) => Box::new(RemoteCollect(RemoteGet(bucket(url, settings)?))),
    })
}

pub(super) fn bucket(url: &BucketUrl, settings: &Settings) -> Result<Bucket> {
    if let Some(endpoint) = &settings.endpoint {
        let refused = |error: Error| error.within(format!("store {url}"));
        let plain_http = if settings.allow_http { PlainHttp::Allowed } else { PlainHttp::Refused };
        endpoint::check("the endpoint", endpoint, plain_http).map_err(refused)?;
    }
    let services = Services::start()?;
    let store = match url.service {
        Service::S3 => s3(url, settings, &services),
        Service::Gcs => google::open(url, settings, &environment::process),
        Service::Azure => azure::open(url, settings, &environment::process),
    };
    let store = store.map_err(|error| error.within(format!("store {url}")))?;
    Ok(Bucket { services, store, url: url.clone(), answered: Arc::default() })
}

/// Says which of the stores that `url` can stand for it is: the endpoint, or the account. `None` where nothing says it.
#[must_use]
pub fn place(url: &BucketUrl, settings: &Settings) -> Option<String> {
    match url.service {
        Service::S3 => Some(settings.endpoint.clone().unwrap_or_default()),
        Service::Gcs => google::place(settings, &environment::process),
        Service::Azure => azure::place(settings, &environment::process),
    }
}

/// Checks an endpoint that a variable or a file gives, as the option's is checked.
pub(super) fn checked(source: &str, endpoint: &str, settings: &Settings) -> Result<()> {
    let plain_http = match settings.allow_http {
        true => PlainHttp::Allowed,
        false => PlainHttp::RefusedUnless("--store-allow-http"),
    };
    endpoint::check(source, endpoint, plain_http)
}

pub(super) fn once() -> RetryConfig {
    RetryConfig { max_retries: 0, ..RetryConfig::default() }
}

/// The rest of a client's settings is the connector's.
pub(super) fn client(settings: &Settings) -> ClientOptions {
    ClientOptions::new().with_allow_http(settings.plain_http())
}

pub(super) fn connector(settings: &Settings) -> Connector {
    let loopback = settings.endpoint.as_deref().is_some_and(endpoint::is_loopback);
    let store = settings.endpoint.as_deref().and_then(endpoint::authority).filter(|_| !settings.virtual_host);
    Connector { store, plain_http: settings.plain_http(), loopback, idle: settings.in_flight, timeout: REQUEST_TIMEOUT }
}

fn refused(error: &object_store::Error) -> Error {
    Error::new(ErrorKind::Input, error.to_string())
}

fn s3(url: &BucketUrl, settings: &Settings, services: &Services) -> Result<Arc<dyn ObjectStore>> {
    let config = crate::aws::config(services, settings.region.as_deref(), settings.endpoint.is_some());
    let Some(region) = config.region() else {
        let message = "no region: give --store-region, or set AWS_REGION";
        return Err(Error::new(ErrorKind::Input, message));
    };
    let Some(credentials) = config.credentials_provider() else {
        return Err(Error::new(ErrorKind::Denied, "no AWS credentials are at hand"));
    };
    let mut builder = AmazonS3Builder::new()
        .with_bucket_name(&url.bucket)
        .with_region(region.as_ref())
        .with_credentials(Arc::new(Credentials { chain: credentials, last: Mutex::default() }))
        .with_conditional_put(S3ConditionalPut::ETagMatch)
        .with_checksum_algorithm(Checksum::SHA256)
        .with_virtual_hosted_style_request(settings.virtual_host)
        .with_disable_bulk_delete(true)
        .with_http_connector(connector(settings))
        .with_client_options(client(settings))
        .with_retry(once());
    if let Some(endpoint) = &settings.endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    Ok(Arc::new(builder.build().map_err(|error| refused(&error))?))
}

/// AWS's own chain: environment, profiles, single sign-on, web identities, containers, instances.
struct Credentials {
    chain: SharedCredentialsProvider,
    last: Mutex<Option<(Arc<AwsCredential>, Option<SystemTime>)>>,
}

/// Credentials are asked for anew so long before they expire.
const SPARE: Duration = Duration::from_secs(300);

/// Maximum time that the whole chain may take: programs and services of many kinds are asked.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(60);

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

#[async_trait]
impl CredentialProvider for Credentials {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let mut last = self.last.lock().await;
        #[expect(clippy::disallowed_methods, reason = "when credentials expire is said by the clock")]
        let soon = SystemTime::now() + SPARE;
        if let Some((credential, expires)) = &*last
            && expires.is_none_or(|expires| expires > soon)
        {
            return Ok(Arc::clone(credential));
        }
        let found = tokio::time::timeout(CREDENTIALS_TIMEOUT, self.chain.provide_credentials());
        let found = found.await.map_err(|_| object_store::Error::Generic {
            store: "AWS credentials",
            source: format!("no credentials came within {} seconds", CREDENTIALS_TIMEOUT.as_secs()).into(),
        })?;
        let found = found.map_err(|error| object_store::Error::Unauthenticated {
            path: "AWS credentials".to_owned(),
            source: Box::new(error),
        })?;
        let credential = Arc::new(AwsCredential {
            key_id: found.access_key_id().to_owned(),
            secret_key: found.secret_access_key().to_owned(),
            token: found.session_token().map(str::to_owned),
        });
        *last = Some((Arc::clone(&credential), found.expiry()));
        Ok(credential)
    }
}

//! Clients of the services, with the credentials and settings that are usual for each.

use std::sync::Arc;
use std::time::Duration;

use object_store::client::HttpConnector;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use super::http::Connector;
use super::local::{LocalCollect, LocalGet, LocalPut};
use super::remote::{Bucket, RemoteCollect, RemoteGet, RemotePut};
use super::s3::{S3, S3Settings};
use super::url::Service;
use super::{BucketUrl, Collect, Get, PutIfAbsent, RootId, StoreUrl, azure, environment, google};
use crate::net::endpoint::{self, PlainHttp};
use crate::net::runtime::Services;
use crate::{Error, ErrorKind, Result};

/// What else a client of a service is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Another address than the service's own: an S3-compatible server's.
    pub endpoint: Option<String>,
    /// The bucket's region; else the environment's or the profile's.
    pub region: Option<String>,
    /// Where the bucket's name stands in a request to S3.
    pub style: Style,
    /// What else requests to S3 say.
    pub s3: S3Settings,
    /// Most puts at a time.
    pub in_flight: usize,
    /// Whether an endpoint on another machine may be reached without TLS.
    pub allow_http: bool,
}

/// Where the bucket's name stands in a request to S3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Style {
    /// In the host's name at AWS, in the path at other services.
    #[default]
    Usual,
    /// In the path.
    Path,
    /// In the host's name.
    VirtualHost,
}

impl Style {
    pub(super) fn is_path(self, own_server: bool) -> bool {
        self == Self::Path || (self == Self::Usual && own_server)
    }
}

/// Maximum time of one request with its answer.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// Puts at a time where nothing else is said.
pub const IN_FLIGHT: usize = 32;

impl Default for Settings {
    fn default() -> Self {
        let (style, s3) = (Style::default(), S3Settings::default());
        Self { endpoint: None, region: None, style, s3, in_flight: IN_FLIGHT, allow_http: false }
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
    let place = match (place(url, settings), &settings.region) {
        (Some(place), _) if !place.is_empty() => format!(" at {}", place.lines().next().unwrap_or_default()),
        (_, Some(region)) => format!(" in {region}"),
        _ => String::new(),
    };
    let name = format!("store {url}{place}").into();
    Ok(Bucket { services, store, url: url.clone(), name, answered: Arc::default() })
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
    let store =
        settings.endpoint.as_deref().and_then(endpoint::authority).filter(|_| settings.style != Style::VirtualHost);
    let (idle, timeout) = (settings.in_flight, REQUEST_TIMEOUT);
    let plain_http = settings.plain_http();
    Connector { store, header: None, plain_http, loopback, idle, timeout, certificates: Vec::new(), local_name: None }
}

fn refused(error: &object_store::Error) -> Error {
    Error::new(ErrorKind::Input, error.to_string())
}

fn s3(url: &BucketUrl, settings: &Settings, services: &Services) -> Result<Arc<dyn ObjectStore>> {
    let region = settings.region.as_deref().or_else(|| url.region());
    let aws = crate::net::aws::load(services, region, settings.endpoint.is_some())?;
    if aws.config.region().is_none() {
        let error = Error::new(ErrorKind::Input, "no region: give --store-region, or set AWS_REGION");
        return Err(error.with_hint("the region is that of the bucket; an access point's ARN has it"));
    }
    if aws.credentials.is_none() {
        return Err(Error::new(ErrorKind::Denied, "there are no AWS credentials"));
    }
    let mut connector = connector(settings);
    // Sessions of S3 Express One Zone are asked for at the bucket's own host, all else by another client.
    connector.store = None;
    if let Some(bundle) = &aws.ca_bundle {
        let certificates = reqwest::Certificate::from_pem_bundle(bundle);
        connector.certificates =
            certificates.map_err(|error| Error::caused(ErrorKind::Input, "AWS_CA_BUNDLE", error))?;
    }
    connector.local_name = connector.loopback.then(|| format!("{}.localhost", url.bucket));
    let http = connector.connect(&client(settings)).map_err(|error| refused(&error))?;
    Ok(Arc::new(S3::new(&url.bucket, &aws, settings, http)))
}

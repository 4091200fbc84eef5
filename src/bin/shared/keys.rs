//! Where the key and the store are: what the options say, whose defaults the settings are (settings/mod.rs), else what is at hand.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use clap::builder::TypedValueParser;
use coldpress::keys::kms::{KmsKey, KmsSettings};
use coldpress::keys::{KeyFile, KeyWrap};
use coldpress::manifest::OpenManifest;
use coldpress::net::endpoint::{self, PlainHttp};
use coldpress::store::{BucketUrl, Get, S3Settings, Service, Settings, StoreUrl, Style, configured_endpoint, open_get};
use coldpress::{Error, ErrorKind};

use super::failure::Failure;
use super::help::choice;

/// The key file that is taken where none is named, from the current directory.
const DEFAULT_KEY: &str = "coldpress.key";

/// `file:PATH`, `aws-kms://KEY` or `age:RECIPIENTS`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyRef {
    File(PathBuf),
    AwsKms(String),
    Age(String),
}

impl FromStr for KeyRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = [("file:", 0), ("aws-kms://", 1), ("age:", 2)];
        let named = parts.iter().find_map(|(start, kind)| Some((text.strip_prefix(start)?, kind)));
        match named {
            Some((path, 0)) if !path.is_empty() => Ok(Self::File(path.into())),
            Some((id, 1)) if !id.is_empty() && id.chars().all(|c| c.is_ascii_graphic()) => {
                Ok(Self::AwsKms(id.to_owned()))
            }
            Some((key, 2)) if !key.is_empty() => Ok(Self::Age(key.to_owned())),
            _ => Err(format!(
                "`{text}` is not a key; use file:PATH, as `coldpress keygen` makes it, aws-kms:// and a key's id, ARN or \
                 alias/NAME, or age: and recipients or a file of them"
            )),
        }
    }
}

/// Which key, for all commands that need one.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keys")]
pub struct KeyArgs {
    /// Wrapping key: file:PATH or aws-kms://KEY [default: coldpress.key]
    ///
    /// file:PATH is a key file from `coldpress keygen`; aws-kms://KEY is an AWS KMS key by id, ARN or alias/NAME.
    #[cfg_attr(
        feature = "age",
        doc = "age:RECIPIENT,… encrypts for age recipients, age:FILE decrypts with an identity file."
    )]
    /// Without this option: $COLDPRESS_KEY, else `coldpress.key` in the working directory.
    #[arg(long, value_name = "KEY")]
    key: Option<KeyRef>,

    #[command(flatten)]
    pub kms: KmsArgs,
}

/// Where the key service is.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keys")]
pub struct KmsArgs {
    /// KMS endpoint URL, for testing; http:// is accepted for loopback addresses only
    #[arg(long, value_name = "URL", hide_short_help = true)]
    pub kms_endpoint: Option<String>,

    /// KMS grant token, which makes a grant of the last five minutes effective at once (repeatable)
    #[arg(long, value_name = "TOKEN", hide_short_help = true)]
    pub kms_grant_token: Vec<String>,
}

impl KmsArgs {
    /// The key of the service.
    pub fn open(&self, id: &str) -> Result<KmsKey, Failure> {
        let (name, endpoint) = match &self.kms_endpoint {
            Some(endpoint) => ("--kms-endpoint", Some(endpoint.clone())),
            None => aws_endpoint("KMS", ["AWS_ENDPOINT_URL_KMS", "AWS_ENDPOINT_URL"])?,
        };
        if let Some(endpoint) = endpoint {
            // Data keys come in its answers.
            endpoint::check(name, &endpoint, PlainHttp::Refused).map_err(usage)?;
            tracing::info!(endpoint, source = name, "endpoint of the key service");
        }
        let settings = KmsSettings { endpoint: self.kms_endpoint.clone(), grant_tokens: self.kms_grant_token.clone() };
        Ok(KmsKey::open(id, &settings)?)
    }
}

fn usage(error: Error) -> Failure {
    Failure::Usage(error.to_string())
}

impl KeyArgs {
    /// Returns the key that was named, else the key file in the working directory if there is one.
    pub fn named(&self) -> Option<KeyRef> {
        self.key.clone().or_else(|| Path::new(DEFAULT_KEY).exists().then(|| KeyRef::File(DEFAULT_KEY.into())))
    }

    /// The key that was named, or is at hand; `None` where there is none.
    pub fn find(&self) -> Result<Option<Box<dyn KeyWrap>>, Failure> {
        self.named().map(|key| open_key(&key, &self.kms)).transpose()
    }

    /// Returns the key that was named or is at hand, for a command that needs one.
    pub fn require(&self) -> Result<Box<dyn KeyWrap>, Failure> {
        self.find()?.ok_or_else(no_key)
    }
}

/// Returns the error of a command that needs a key.
pub fn no_key() -> Failure {
    let message = "no key: give --key or set COLDPRESS_KEY; `coldpress keygen -o coldpress.key` generates one";
    Failure::Usage(message.to_owned())
}

/// Reads or reaches a key.
pub fn open_key(key: &KeyRef, kms: &KmsArgs) -> Result<Box<dyn KeyWrap>, Failure> {
    Ok(match key {
        KeyRef::File(path) => Box::new(KeyFile::read(path)?),
        KeyRef::AwsKms(id) => Box::new(kms.open(id)?),
        KeyRef::Age(key) => open_age(key)?,
    })
}

#[cfg(feature = "age")]
fn open_age(key: &str) -> Result<Box<dyn KeyWrap>, Failure> {
    Ok(Box::new(coldpress::keys::age::AgeKey::open(key)?))
}

#[cfg(not(feature = "age"))]
fn open_age(_: &str) -> Result<Box<dyn KeyWrap>, Failure> {
    let message = "this build has no keys by age; build with --features age";
    Err(Error::new(ErrorKind::Unsupported, message).into())
}

/// Which store.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Store")]
pub struct StoreArgs {
    /// Chunk store: DIR, s3://BUCKET/PREFIX, gs://... or az://...
    ///
    /// A directory, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX. Credentials come from each service's usual sources; for S3: environment, profiles, single sign-on, web identity, container and
    /// instance metadata. Without this option: $COLDPRESS_STORE, else the directory that the manifest names.
    #[arg(long, value_name = "STORE", value_parser = clap::builder::OsStringValueParser::new().try_map(parse_store))]
    pub store: Option<StoreUrl>,

    /// Endpoint URL of the service, instead of its own
    ///
    /// Without this option: for s3:// $AWS_ENDPOINT_URL_S3, $AWS_ENDPOINT_URL or the profile; gs:// and az:// have variables of their
    /// own (docs/reference/stores.md). http:// is accepted for loopback addresses only, unless --store-allow-http is given.
    #[arg(long, value_name = "URL", hide_short_help = true)]
    store_endpoint: Option<String>,

    /// Allow an http:// endpoint on another host
    ///
    /// Warning: without TLS, anyone on the network path can read credentials and modify responses.
    #[arg(long, hide_short_help = true)]
    store_allow_http: bool,

    /// Region of the bucket [default: from the environment or profile]
    #[arg(long, value_name = "NAME", hide_short_help = true)]
    store_region: Option<String>,

    /// How to address the bucket [default: path with an endpoint, else virtual-host]
    #[arg(long, value_name = "STYLE", hide_short_help = true, value_parser = choice::<Addressing>(&[
        ("path", "ENDPOINT/BUCKET"),
        ("virtual-host", "BUCKET.ENDPOINT"),
    ]))]
    store_style: Option<Addressing>,

    /// Pay for requests to a requester-pays bucket of S3 [default: $AWS_REQUEST_PAYER]
    #[arg(long, hide_short_help = true)]
    store_requester_pays: bool,
}

/// How requests address a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Addressing {
    Path,
    VirtualHost,
}

impl FromStr for Addressing {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "path" => Ok(Self::Path),
            "virtual-host" => Ok(Self::VirtualHost),
            _ => Err(format!("`{text}` is neither path nor virtual-host")),
        }
    }
}

/// Parses the value of --store. What was most likely meant as something else than a directory's path is refused.
#[expect(clippy::needless_pass_by_value, reason = "a value parser is called so")]
fn parse_store(text: OsString) -> Result<StoreUrl, String> {
    let shown = text.to_string_lossy();
    let refuse = |reason: String| Err(format!("`{shown}` is not a store: {reason}"));
    if shown.starts_with('~') {
        return refuse(format!("the shell did not expand `~`; write the whole path, or ./{shown}"));
    }
    match shown.split_once(':') {
        Some((scheme @ ("s3" | "gs" | "az" | "file" | "http" | "https"), rest)) if !rest.starts_with("//") => {
            refuse(format!("write {scheme}://{}, or ./{shown} for a directory", rest.trim_start_matches('/')))
        }
        _ => StoreUrl::parse(&text).map_err(|error| error.to_string()),
    }
}

impl StoreArgs {
    /// Returns the settings of a client of the store, with at most `in_flight` requests at a time.
    pub fn settings(&self, in_flight: usize) -> Result<Settings, Failure> {
        let is_s3 = matches!(self.store, Some(StoreUrl::Bucket(BucketUrl { service: Service::S3, .. })));
        let (source, endpoint) = match &self.store_endpoint {
            Some(endpoint) => ("--store-endpoint", Some(endpoint.clone())),
            // AWS's variables are for S3; the other services read their own.
            None if !is_s3 => ("", None),
            None => aws_endpoint("S3", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])?,
        };
        if let Some(endpoint) = &endpoint {
            let plain_http = match self.store_allow_http {
                true => PlainHttp::Allowed,
                false => PlainHttp::RefusedUnless("--store-allow-http"),
            };
            endpoint::check(source, endpoint, plain_http).map_err(usage)?;
        }
        if let Some(endpoint) = &endpoint {
            tracing::info!(endpoint, source, "endpoint of the store");
        }
        let style = match self.store_style {
            Some(Addressing::Path) => Style::Path,
            Some(Addressing::VirtualHost) => Style::VirtualHost,
            None => Style::Usual,
        };
        let payer = environment("AWS_REQUEST_PAYER")?;
        let requester_pays =
            self.store_requester_pays || payer.is_some_and(|payer| matches!(payer.as_str(), "true" | "requester"));
        let s3 = S3Settings { requester_pays, ..S3Settings::default() };
        let (region, allow_http) = (self.store_region.clone(), self.store_allow_http);
        Ok(Settings { endpoint, region, style, s3, in_flight, allow_http })
    }

    /// The store of an open manifest.
    pub fn open(&self, manifest: &OpenManifest) -> Result<Box<dyn Get>, Failure> {
        Ok(open_get(&self.of(manifest)?, &self.settings(coldpress::store::IN_FLIGHT)?)?)
    }

    /// Where that is.
    pub fn of(&self, manifest: &OpenManifest) -> Result<StoreUrl, Failure> {
        let said = || StoreUrl::parse(OsStr::new(&manifest.sealed.store)).ok();
        match (&self.store, said()) {
            (Some(url), _) => Ok(url.clone()),
            (None, Some(url @ StoreUrl::Directory(_))) => Ok(url),
            // Who made a manifest shall not choose where credentials go.
            (None, Some(url @ StoreUrl::Bucket(_))) => {
                let message = format!(
                    "no store: the manifest says {url}; give --store {url} if that is one to send credentials to"
                );
                Err(Failure::Usage(message))
            }
            (None, None) => {
                let message = "no store: give --store or set COLDPRESS_STORE; the manifest names none";
                Err(Failure::Usage(message.to_owned()))
            }
        }
    }
}

/// The endpoint for a service of the environment or the profile, and what named it.
fn aws_endpoint(service: &str, variables: [&'static str; 2]) -> Result<(&'static str, Option<String>), Failure> {
    let endpoint = configured_endpoint(service)?;
    for name in variables {
        if endpoint.is_some() && environment(name)? == endpoint {
            return Ok((name, endpoint));
        }
    }
    Ok(("endpoint_url of the AWS profile", endpoint))
}

/// Returns a variable of the environment that is set and not empty. Those of options are read by the settings alone.
pub fn environment(name: &str) -> Result<Option<String>, Failure> {
    #[expect(clippy::disallowed_methods, reason = "bin reads the environment, and only here")]
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    let not_text = || Error::new(ErrorKind::Input, format!("{name}: not UTF-8"));
    value.map(|value| value.into_string().map_err(|_| not_text().into())).transpose()
}

//! Google Cloud Storage: its client, from the variables that Google's own tools use.
//!
//! Endpoint and credentials come from Google's variables alone. A credentials file says its type: a service account's key and a
//! person's login are `object_store`'s, an `external_account` (keyless pipelines) is exchanged by `external_account.rs`, and any other
//! is refused by name. docs/reference/stores.md lists what is read.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::gcp::GoogleCloudStorageBuilder;
use reqwest::header::{HeaderName, HeaderValue};

use super::environment::{Lookup, Setting};
use super::external_account::ExternalAccount;
use super::http::Connector;
use super::open::{checked, client, connector, once};
use super::{BucketUrl, Settings};
use crate::{Error, ErrorKind, Result};

/// A token that somebody else renews.
const TOKEN: Setting =
    Setting::secret(&["GOOGLE_OAUTH_ACCESS_TOKEN", "CLOUDSDK_AUTH_ACCESS_TOKEN", "GOOGLE_BEARER_TOKEN"]);
const KEY_FILE: Setting = Setting::plain(&["GOOGLE_SERVICE_ACCOUNT", "GOOGLE_SERVICE_ACCOUNT_PATH", "SERVICE_ACCOUNT"]);
const KEY_TEXT: Setting = Setting::secret(&["GOOGLE_SERVICE_ACCOUNT_KEY"]);
const CREDENTIALS_FILE: Setting = Setting::plain(&["GOOGLE_APPLICATION_CREDENTIALS"]);
/// gcloud's own directory.
const CONFIGURATION: Setting = Setting::plain(&["CLOUDSDK_CONFIG"]);
const EMULATOR: Setting = Setting::plain(&["STORAGE_EMULATOR_HOST"]);
const BASE_URL: Setting = Setting::plain(&["GOOGLE_BASE_URL"]);
const SKIP_SIGNATURE: Setting = Setting::plain(&["GOOGLE_SKIP_SIGNATURE"]);
/// The project that pays for requests, where the bucket's requester does.
const USER_PROJECT: Setting = Setting::plain(&["GOOGLE_CLOUD_QUOTA_PROJECT"]);
/// Read by `object_store` itself.
const METADATA: Setting = Setting::plain(&["GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"]);

const ALL: [&Setting; 10] = [
    &TOKEN,
    &KEY_FILE,
    &KEY_TEXT,
    &CREDENTIALS_FILE,
    &CONFIGURATION,
    &EMULATOR,
    &BASE_URL,
    &SKIP_SIGNATURE,
    &USER_PROJECT,
    &METADATA,
];

/// What gcloud writes a person's login to, in its directory.
const LOGIN: &str = "application_default_credentials.json";
const BASE: &str = "https://storage.googleapis.com";
/// Maximum length of a credentials file; a key's has three kilobytes.
const MAX_FILE: u64 = 1 << 20;

/// The environment variables that are read.
pub(super) fn variables() -> Vec<&'static str> {
    ALL.iter().flat_map(|setting| setting.names).copied().collect()
}

/// Credentials, and whether requests are made with them.
enum Credentials {
    /// Of the machine, by its metadata service.
    Machine,
    /// None: a bucket or an emulator that asks for none.
    Anonymous,
    Token(String),
    ServiceAccount {
        text: String,
        base_url: Option<String>,
    },
    /// A person's login, by its file.
    Login(PathBuf),
    External(Box<ExternalAccount>),
}

/// What is read of every kind of credentials file.
#[derive(serde::Deserialize)]
struct Head {
    #[serde(rename = "type")]
    kind: Option<String>,
    gcs_base_url: Option<String>,
    private_key: Option<serde::de::IgnoredAny>,
}

impl Credentials {
    fn find(lookup: Lookup<'_>) -> Result<Self> {
        if SKIP_SIGNATURE.value(lookup)?.is_some_and(|value| value == "true" || value == "1") {
            return Ok(Self::Anonymous);
        }
        if let Some(token) = TOKEN.value(lookup)? {
            return Ok(Self::Token(token));
        }
        let (file, text) = (KEY_FILE.find(lookup)?, KEY_TEXT.find(lookup)?);
        match (file, text) {
            (Some((file, _)), Some((text, _))) => {
                let message = format!("both {file} and {text} are set");
                Err(Error::new(ErrorKind::Input, message).with_hint(format!("unset {file} or {text}")))
            }
            (Some((variable, path)), None) => Self::of_file(variable, Path::new(&path)),
            (None, Some((variable, text))) => Self::of_text(variable, text, None),
            (None, None) => match CREDENTIALS_FILE.find(lookup)? {
                Some((variable, path)) => Self::of_file(variable, Path::new(&path)),
                None => match login(lookup)? {
                    Some(path) => Self::of_file("the login of gcloud", &path),
                    None if EMULATOR.value(lookup)?.is_some() => Ok(Self::Anonymous),
                    None => Ok(Self::Machine),
                },
            },
        }
    }

    fn of_file(source: &str, path: &Path) -> Result<Self> {
        let fail = |error| Error::file(path, error).within(source.to_owned());
        let mut text = String::new();
        std::fs::File::open(path).map_err(fail)?.take(MAX_FILE).read_to_string(&mut text).map_err(fail)?;
        Self::of_text(&format!("{source}: {}", path.display()), text, Some(path))
    }

    fn of_text(source: &str, text: String, path: Option<&Path>) -> Result<Self> {
        let no_credentials = || {
            Error::new(ErrorKind::Input, format!("{source}: not a file of Google credentials"))
                .with_hint("`gcloud iam service-accounts keys create` and `gcloud iam workload-identity-pools create-cred-config` write such files")
        };
        let head: Head = serde_json::from_str(&text).map_err(|_| no_credentials())?;
        match (head.kind.as_deref(), path) {
            (Some("service_account"), _) => Ok(Self::ServiceAccount { text, base_url: head.gcs_base_url }),
            (None, _) if head.private_key.is_some() => Ok(Self::ServiceAccount { text, base_url: head.gcs_base_url }),
            (Some("authorized_user"), Some(path)) => Ok(Self::Login(path.to_owned())),
            (Some("external_account"), _) => ExternalAccount::parse(source, &text).map(Box::new).map(Self::External),
            (Some(kind), _) => {
                let message = format!("{source}: credentials of the type `{kind}` are not supported");
                Err(Error::new(ErrorKind::Unsupported, message).with_hint(
                    "use a service account's key, an external_account, or a token: GOOGLE_OAUTH_ACCESS_TOKEN=$(gcloud auth print-access-token)",
                ))
            }
            (None, _) => Err(no_credentials()),
        }
    }
}

/// The file with a person's login, where gcloud has written one.
fn login(lookup: Lookup<'_>) -> Result<Option<PathBuf>> {
    let directory = match CONFIGURATION.value(lookup)? {
        Some(directory) => Some(PathBuf::from(directory)),
        None => lookup("HOME").map(|home| Path::new(&home).join(".config/gcloud")),
    };
    Ok(directory.map(|directory| directory.join(LOGIN)).filter(|path| path.exists()))
}

/// The file of the token that an external account is renewed with.
pub(super) fn subject_token_file(lookup: Lookup<'_>) -> Option<PathBuf> {
    match Credentials::find(lookup) {
        Ok(Credentials::External(account)) => account.subject_token_file().map(PathBuf::from),
        _ => None,
    }
}

/// Where the service answers, as the settings and the environment say it.
fn endpoint(settings: &Settings, lookup: Lookup<'_>) -> Result<Option<String>> {
    if settings.endpoint.is_some() {
        return Ok(settings.endpoint.clone());
    }
    let emulator = EMULATOR.find(lookup)?.map(|(name, host)| match host.contains("://") {
        true => (name, host),
        false => (name, format!("http://{host}")),
    });
    let named = emulator.map_or_else(|| BASE_URL.find(lookup), |emulator| Ok(Some(emulator)))?;
    if let Some((source, endpoint)) = &named {
        checked(source, endpoint, settings)?;
    }
    Ok(named.map(|(_, endpoint)| endpoint.trim_end_matches('/').to_owned()))
}

/// Which service's bucket a URL stands for.
pub(super) fn place(settings: &Settings, lookup: Lookup<'_>) -> Option<String> {
    Some(endpoint(settings, lookup).ok()?.unwrap_or_default())
}

/// The client of the bucket.
///
/// # Errors
/// `Input` for settings that contradict each other or would send secrets in clear, `Unsupported` for credentials of an unknown type.
pub(super) fn open(url: &BucketUrl, settings: &Settings, lookup: Lookup<'_>) -> Result<Arc<dyn ObjectStore>> {
    let (credentials, mut base) = (Credentials::find(lookup)?, endpoint(settings, lookup)?);
    if let (None, Credentials::ServiceAccount { base_url: Some(of_key), .. }) = (&base, &credentials) {
        checked("gcs_base_url of the service account's key", of_key, settings)?;
        base = Some(of_key.trim_end_matches('/').to_owned());
    }
    let base = base.unwrap_or_else(|| BASE.to_owned());
    let settings = &Settings { endpoint: Some(base.clone()), ..settings.clone() };
    let header = USER_PROJECT.value(lookup)?.map(user_project).transpose()?;
    let builder = GoogleCloudStorageBuilder::new()
        .with_bucket_name(&url.bucket)
        .with_base_url(&base)
        .with_http_connector(Connector { header, ..connector(settings) })
        .with_client_options(client(settings))
        .with_retry(once());
    let builder = match credentials {
        Credentials::Machine => builder,
        // `object_store` asks for credentials before it puts even so; an empty token is not sent.
        Credentials::Anonymous => builder.with_bearer_token("").with_skip_signature(true),
        Credentials::Token(token) => builder.with_bearer_token(token),
        Credentials::ServiceAccount { text, .. } => builder.with_service_account_key(text),
        Credentials::Login(path) => builder.with_application_credentials(path.to_string_lossy()),
        Credentials::External(account) => {
            let credentials = account.credentials(connector(settings))?;
            builder.with_credentials(Arc::new(credentials))
        }
    };
    // What it says of a key names the place in the JSON, and none of its text.
    let refused = |error: object_store::Error| Error::new(ErrorKind::Input, error.to_string());
    Ok(Arc::new(builder.build().map_err(refused)?))
}

fn user_project(project: String) -> Result<(HeaderName, HeaderValue)> {
    let value = HeaderValue::from_str(&project).map_err(|_| {
        Error::new(ErrorKind::Input, "GOOGLE_CLOUD_QUOTA_PROJECT: not the id of a project")
            .with_hint("correct or unset it")
    })?;
    Ok((HeaderName::from_static("x-goog-user-project"), value))
}

/// The next step where nothing in the environment names credentials and the machine has none either.
pub(super) const NO_IDENTITY: &str = "no Google credentials are in the environment, and this machine has no service account: set \
     GOOGLE_APPLICATION_CREDENTIALS or GOOGLE_OAUTH_ACCESS_TOKEN, or log in by `gcloud auth application-default login`";

/// Returns the next step that fits an error of this code.
pub(super) fn next_step(code: &str) -> Option<&'static str> {
    Some(match code {
        "AccessDenied" => {
            "the credentials lack this permission, or a retention policy keeps the object; `coldpress doctor --as ROLE --print` prints what the role needs"
        }
        "AuthenticationRequired" | "InvalidSecurity" => "the token is malformed or expired; get a new one",
        "NoSuchBucket" => "create the bucket, or correct the store's URL",
        "UserProjectMissing" | "UserProjectAccountProblem" => {
            "the bucket's requester pays: set GOOGLE_CLOUD_QUOTA_PROJECT to a project that may"
        }
        "BillingDisabled" | "UserProjectInvalid" => "enable billing for the bucket's project",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup<'a>(variables: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn an_emulator_is_named_with_and_without_a_scheme() {
        let of = |variables: &[(&str, &str)]| endpoint(&Settings::default(), &lookup(variables));
        assert_eq!(of(&[]).unwrap(), None);
        for host in ["127.0.0.1:4443", "http://127.0.0.1:4443", "http://127.0.0.1:4443/"] {
            assert_eq!(of(&[("STORAGE_EMULATOR_HOST", host)]).unwrap().as_deref(), Some("http://127.0.0.1:4443"));
        }
        for host in ["10.0.0.1:4443", "http://gcs.example"] {
            let error = of(&[("STORAGE_EMULATOR_HOST", host)]).unwrap_err();
            assert!(
                error.to_string().starts_with("STORAGE_EMULATOR_HOST: http:// is accepted for loopback"),
                "{error}"
            );
        }
        assert!(of(&[("GOOGLE_BASE_URL", "http://storage.example")]).is_err());
    }

    #[test]
    fn credentials_are_told_apart_by_their_type() {
        let of = |variables: &[(&str, &str)]| Credentials::find(&lookup(variables));
        assert!(matches!(of(&[]), Ok(Credentials::Machine)));
        assert!(matches!(of(&[("STORAGE_EMULATOR_HOST", "127.0.0.1:1")]), Ok(Credentials::Anonymous)));
        assert!(matches!(of(&[("GOOGLE_OAUTH_ACCESS_TOKEN", "t")]), Ok(Credentials::Token(_))));
        let key = r#"{"private_key": "", "client_email": "", "private_key_id": "", "disable_oauth": true}"#;
        assert!(matches!(of(&[("GOOGLE_SERVICE_ACCOUNT_KEY", key)]), Ok(Credentials::ServiceAccount { .. })));
        for (text, kind, part) in [
            ("{}", ErrorKind::Input, "not a file of Google credentials"),
            (r#"{"type": "impersonated_service_account"}"#, ErrorKind::Unsupported, "`impersonated_service_account`"),
            (r#"{"type": "external_account_authorized_user"}"#, ErrorKind::Unsupported, "not supported"),
        ] {
            let error = of(&[("GOOGLE_SERVICE_ACCOUNT_KEY", text)]).err().unwrap();
            assert!(error.kind() == kind && error.to_string().contains(part), "{text}: {error}");
            assert!(error.hint().is_some());
        }
        let both = of(&[("GOOGLE_SERVICE_ACCOUNT_KEY", key), ("SERVICE_ACCOUNT", "/f")]).err().unwrap();
        assert_eq!(both.to_string(), "both SERVICE_ACCOUNT and GOOGLE_SERVICE_ACCOUNT_KEY are set");
    }
}

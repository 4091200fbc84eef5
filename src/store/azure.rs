//! Azure Blob Storage: its client, from the variables that Azure's own tools use.
//!
//! Account, endpoint and credentials come from Azure's variables alone. An endpoint without TLS is on this machine, and so is what
//! gives tokens in clear; docs/reference/stores.md lists what is read.

use std::sync::Arc;

use object_store::ObjectStore;
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};

use super::environment::{Lookup, Setting};
use super::open::{checked, client, connector, once};
use super::{BucketUrl, Settings};
use crate::net::endpoint::{self, PlainHttp};
use crate::{Error, ErrorKind, Result};

const ACCOUNT: Setting = Setting::plain(&["AZURE_STORAGE_ACCOUNT", "AZURE_STORAGE_ACCOUNT_NAME"]);
const CONNECTION_STRING: Setting = Setting::secret(&["AZURE_STORAGE_CONNECTION_STRING"]);
const KEY: Setting = Setting::secret(&[
    "AZURE_STORAGE_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "AZURE_STORAGE_ACCESS_KEY",
    "AZURE_STORAGE_MASTER_KEY",
]);
const SAS: Setting = Setting::secret(&["AZURE_STORAGE_SAS_TOKEN", "AZURE_STORAGE_SAS_KEY"]);
const ENDPOINT: Setting =
    Setting::plain(&["AZURE_STORAGE_SERVICE_ENDPOINT", "AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"]);
const TOKEN: Setting = Setting::secret(&["AZURE_STORAGE_TOKEN"]);
const TENANT: Setting =
    Setting::plain(&["AZURE_TENANT_ID", "AZURE_STORAGE_TENANT_ID", "AZURE_AUTHORITY_ID", "AZURE_STORAGE_AUTHORITY_ID"]);
const CLIENT: Setting = Setting::plain(&["AZURE_CLIENT_ID", "AZURE_STORAGE_CLIENT_ID"]);
const CLIENT_SECRET: Setting = Setting::secret(&["AZURE_CLIENT_SECRET", "AZURE_STORAGE_CLIENT_SECRET"]);
const FEDERATED_TOKEN_FILE: Setting = Setting::plain(&["AZURE_FEDERATED_TOKEN_FILE"]);
const AUTHORITY: Setting = Setting::plain(&["AZURE_AUTHORITY_HOST", "AZURE_STORAGE_AUTHORITY_HOST"]);
const IDENTITY_ENDPOINT: Setting =
    Setting::plain(&["IDENTITY_ENDPOINT", "AZURE_IDENTITY_ENDPOINT", "AZURE_MSI_ENDPOINT"]);
/// Read by `object_store` itself, which sends it to the identity endpoint.
const IDENTITY_HEADER: Setting = Setting::secret(&["IDENTITY_HEADER"]);
const OBJECT: Setting = Setting::plain(&["AZURE_OBJECT_ID"]);
const RESOURCE: Setting = Setting::plain(&["AZURE_MSI_RESOURCE_ID"]);
const CLI: Setting = Setting::plain(&["AZURE_USE_AZURE_CLI"]);
const CREDENTIAL_TYPE: Setting = Setting::plain(&["AZURE_CREDENTIAL_TYPE"]);
const ENCRYPTION_KEY: Setting = Setting::secret(&["AZURE_STORAGE_ENCRYPTION_KEY"]);
const SKIP_SIGNATURE: Setting = Setting::plain(&["AZURE_SKIP_SIGNATURE"]);

const ALL: [&Setting; 19] = [
    &ACCOUNT,
    &CONNECTION_STRING,
    &KEY,
    &SAS,
    &ENDPOINT,
    &TOKEN,
    &TENANT,
    &CLIENT,
    &CLIENT_SECRET,
    &FEDERATED_TOKEN_FILE,
    &AUTHORITY,
    &IDENTITY_ENDPOINT,
    &IDENTITY_HEADER,
    &OBJECT,
    &RESOURCE,
    &CLI,
    &CREDENTIAL_TYPE,
    &ENCRYPTION_KEY,
    &SKIP_SIGNATURE,
];

/// The account, key and address of azurite, as `UseDevelopmentStorage=true` stands for them: published by Microsoft, and no secret.
const EMULATOR: (&str, &str, &str) = (
    "devstoreaccount1",
    "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
    "http://127.0.0.1:10000/devstoreaccount1",
);

/// The environment variables that are read.
pub(super) fn variables() -> Vec<&'static str> {
    ALL.iter().flat_map(|setting| setting.names).copied().collect()
}

/// A storage account, and where it answers.
#[derive(Debug, PartialEq, Eq)]
struct Account {
    name: String,
    endpoint: String,
}

/// What a connection string says of blobs.
#[derive(Debug, Default, PartialEq, Eq)]
struct ConnectionString {
    account: Option<String>,
    key: Option<String>,
    sas: Option<String>,
    endpoint: Option<String>,
}

impl ConnectionString {
    /// `NAME=VALUE;…`, as the portal shows it.
    fn parse(text: &str) -> Result<Self> {
        let malformed = || {
            Error::new(ErrorKind::Input, "AZURE_STORAGE_CONNECTION_STRING: not of the form NAME=VALUE;NAME=VALUE;…")
                .with_hint(
                    "copy the connection string from the account's page \"Access keys\" or \"Shared access signature\"",
                )
        };
        let (mut parsed, mut protocol, mut suffix) = (Self::default(), None, None);
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(malformed)?;
            let value = value.to_owned();
            match name.to_ascii_lowercase().as_str() {
                "accountname" => parsed.account = Some(value),
                "accountkey" => parsed.key = Some(value),
                "sharedaccesssignature" => parsed.sas = Some(value),
                "blobendpoint" => parsed.endpoint = Some(value),
                "defaultendpointsprotocol" => protocol = Some(value),
                "endpointsuffix" => suffix = Some(value),
                "usedevelopmentstorage" if value.eq_ignore_ascii_case("true") => {
                    let (account, key, endpoint) = EMULATOR;
                    return Ok(Self {
                        account: Some(account.to_owned()),
                        key: Some(key.to_owned()),
                        sas: None,
                        endpoint: Some(endpoint.to_owned()),
                    });
                }
                // Of queues, files and tables.
                _ => {}
            }
        }
        if parsed.endpoint.is_none()
            && let Some(account) = &parsed.account
        {
            let (protocol, suffix) = (protocol.as_deref().unwrap_or("https"), suffix.as_deref().unwrap_or(SUFFIX));
            parsed.endpoint = Some(format!("{protocol}://{account}.blob.{suffix}"));
        }
        if parsed == Self::default() { Err(malformed()) } else { Ok(parsed) }
    }
}

/// The public cloud's.
const SUFFIX: &str = "core.windows.net";

/// The account that the settings and the environment name.
fn account(settings: &Settings, lookup: Lookup<'_>, connection: &ConnectionString) -> Result<Account> {
    let named = ACCOUNT.find(lookup)?;
    if let (Some(first), Some((variable, second))) = (&connection.account, &named)
        && first != second
    {
        let message =
            format!("AZURE_STORAGE_CONNECTION_STRING is of the account {first}, {variable} names the account {second}");
        return Err(Error::new(ErrorKind::Input, message)
            .with_hint(format!("unset one of the two variables, or correct {variable}")));
    }
    let name = connection.account.clone().or(named.map(|(_, name)| name));
    let endpoint = match (&settings.endpoint, &connection.endpoint, ENDPOINT.find(lookup)?) {
        (Some(endpoint), _, _) => Some(("the endpoint", endpoint.clone())),
        (None, Some(endpoint), _) => Some(("AZURE_STORAGE_CONNECTION_STRING", endpoint.clone())),
        (None, None, named) => named,
    };
    if let Some((source, endpoint)) = &endpoint {
        checked(source, endpoint, settings)?;
    }
    let endpoint = endpoint.map(|(_, endpoint)| endpoint.trim_end_matches('/').to_owned());
    let name = name.or_else(|| endpoint.as_deref().and_then(account_of)).ok_or_else(|| {
        Error::new(ErrorKind::Input, "no storage account is named")
            .with_hint("set AZURE_STORAGE_ACCOUNT or AZURE_STORAGE_CONNECTION_STRING")
    })?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    if !is_name {
        let message = format!("`{name}` is not the name of a storage account (letters, digits and `-`)");
        return Err(Error::new(ErrorKind::Input, message).with_hint("correct AZURE_STORAGE_ACCOUNT"));
    }
    let endpoint = endpoint.unwrap_or_else(|| format!("https://{name}.blob.{SUFFIX}"));
    Ok(Account { name, endpoint })
}

/// The account in an endpoint: in the host of Azure's own, else in the path of an emulator's.
fn account_of(endpoint: &str) -> Option<String> {
    let url = reqwest::Url::parse(endpoint).ok()?;
    let in_path = url.path_segments()?.next().filter(|segment| !segment.is_empty()).map(str::to_owned);
    in_path.or_else(|| Some(url.host_str()?.split_once(".blob.")?.0.to_owned()))
}

/// Which account's container a URL stands for; `None` where nothing says it.
pub(super) fn place(settings: &Settings, lookup: Lookup<'_>) -> Option<String> {
    let connection = CONNECTION_STRING.value(lookup).ok()?;
    let connection = connection.map_or(Ok(ConnectionString::default()), |text| ConnectionString::parse(&text)).ok()?;
    let account = account(settings, lookup, &connection).ok()?;
    Some(format!("{}\n{}", account.endpoint, account.name))
}

/// The client of the container.
///
/// # Errors
/// `Input` for settings that are missing, contradict each other, or would send secrets in clear.
pub(super) fn open(url: &BucketUrl, settings: &Settings, lookup: Lookup<'_>) -> Result<Arc<dyn ObjectStore>> {
    let connection = match CONNECTION_STRING.value(lookup)? {
        Some(text) => ConnectionString::parse(&text)?,
        None => ConnectionString::default(),
    };
    let account = account(settings, lookup, &connection)?;
    let settings = &Settings { endpoint: Some(account.endpoint.clone()), ..settings.clone() };
    let mut builder = MicrosoftAzureBuilder::new()
        .with_container_name(&url.bucket)
        .with_account(account.name)
        .with_endpoint(account.endpoint)
        .with_http_connector(connector(settings))
        .with_client_options(client(settings))
        .with_retry(once());
    for (key, value) in credentials(connection, lookup)? {
        builder = builder.with_config(key, value);
    }
    Ok(Arc::new(builder.build().map_err(|error| refused(&error))?))
}

/// The credentials, as `object_store` takes them: the first of token, account key, workload identity, client secret, shared access
/// signature, Azure CLI and managed identity.
fn credentials(connection: ConnectionString, lookup: Lookup<'_>) -> Result<Vec<(AzureConfigKey, String)>> {
    use AzureConfigKey as K;
    let (key, sas) = match (connection.key, connection.sas) {
        (None, None) => (KEY.value(lookup)?, SAS.value(lookup)?),
        in_connection_string => in_connection_string,
    };
    if sas.as_ref().is_some_and(|sas| sas.contains("://")) {
        let message = "the shared access signature is a whole URL";
        return Err(Error::new(ErrorKind::Input, message)
            .with_hint("give the part behind the `?`: sv=…&sig=…; the account and the container are named apart"));
    }
    if key.is_some() && sas.is_some() && CREDENTIAL_TYPE.value(lookup)?.is_none() {
        let message = "both an account key and a shared access signature are given";
        return Err(Error::new(ErrorKind::Input, message)
            .with_hint("keep the intended one and unset the other: a converter needs a shared access signature only"));
    }
    let authority = AUTHORITY.find(lookup)?;
    if let Some((variable, authority)) = &authority {
        // Client secrets and federated tokens go there.
        endpoint::check(variable, authority, PlainHttp::Refused)?;
    }
    let identity = IDENTITY_ENDPOINT.find(lookup)?;
    if let Some((variable, identity)) = &identity {
        endpoint::check_metadata(variable, identity)?;
    }
    let (tenant, client, secret) = (TENANT.value(lookup)?, CLIENT.value(lookup)?, CLIENT_SECRET.value(lookup)?);
    let federated = FEDERATED_TOKEN_FILE.value(lookup)?;
    for (given, what) in [(&federated, "AZURE_FEDERATED_TOKEN_FILE"), (&secret, "AZURE_CLIENT_SECRET")] {
        let missing = [(&tenant, "AZURE_TENANT_ID"), (&client, "AZURE_CLIENT_ID")];
        if given.is_some()
            && let Some((_, missing)) = missing.iter().find(|(value, _)| value.is_none())
        {
            let message = format!("{what} is set, {missing} is not");
            return Err(Error::new(ErrorKind::Input, message).with_hint(format!("set {missing}, or unset {what}")));
        }
    }
    let values = [
        (K::AccessKey, key),
        (K::SasKey, sas),
        (K::Token, TOKEN.value(lookup)?),
        (K::AuthorityId, tenant),
        (K::ClientId, client),
        (K::ClientSecret, secret),
        (K::FederatedTokenFile, federated),
        (K::AuthorityHost, authority.map(|(_, host)| host.trim_end_matches('/').to_owned())),
        (K::MsiEndpoint, identity.map(|(_, endpoint)| endpoint)),
        (K::ObjectId, OBJECT.value(lookup)?),
        (K::MsiResourceId, RESOURCE.value(lookup)?),
        (K::UseAzureCli, CLI.value(lookup)?),
        (K::CredentialType, CREDENTIAL_TYPE.value(lookup)?),
        (K::EncryptionKey, ENCRYPTION_KEY.value(lookup)?),
        (K::SkipSignature, SKIP_SIGNATURE.value(lookup)?),
    ];
    Ok(values.into_iter().filter_map(|(key, value)| Some((key, value?))).collect())
}

/// Returns the next step that fits an error of this code.
pub(super) fn next_step(code: &str) -> Option<&'static str> {
    Some(match code {
        "AuthenticationFailed" => {
            "check that the shared access signature has not expired, is of this account and container, and that this machine's clock is right"
        }
        "AuthorizationPermissionMismatch" | "AuthorizationResourceTypeMismatch" | "AuthorizationServiceMismatch" => {
            "the credentials are valid, but lack this permission; `coldpress doctor --as ROLE --print` prints what the role needs"
        }
        "AuthorizationFailure" | "AuthorizationSourceIPMismatch" => {
            "the account's network rules or the signature's address range exclude this machine"
        }
        "AuthorizationProtocolMismatch" => "the shared access signature is for https:// alone",
        "KeyBasedAuthenticationNotPermitted" => {
            "the account allows no account keys and no signatures made with them; use a workload identity or a user delegation signature"
        }
        "InvalidAuthenticationInfo" => "the token is malformed, expired or of another tenant; get a new one",
        "AccountIsDisabled" => "enable the storage account",
        "ContainerNotFound" => "create the container, or correct the store's URL and AZURE_STORAGE_ACCOUNT",
        "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold" => {
            "an immutability policy or a legal hold keeps the object as it is; it can be deleted when that has ended"
        }
        _ => return None,
    })
}

/// The next step where nothing in the environment names credentials and the machine has none either.
pub(super) const NO_IDENTITY: &str = "no Azure credentials are in the environment, and this machine has no managed identity: set AZURE_STORAGE_SAS_TOKEN, \
     AZURE_STORAGE_CONNECTION_STRING, a workload identity or AZURE_USE_AZURE_CLI=true";

/// What `object_store` refuses in its settings: its texts name variables and forms, and repeat no secret but a key that is not base64.
fn refused(error: &object_store::Error) -> Error {
    let text = error.to_string();
    let lower = text.to_ascii_lowercase();
    let message = match lower.contains("key") || lower.contains("sas") {
        true => {
            "the credentials are malformed: an account key is base64, a shared access signature sv=…&sig=…".to_owned()
        }
        false => text,
    };
    Error::new(ErrorKind::Input, message).with_hint("see docs/reference/stores.md for Azure's variables")
}

#[cfg(test)]
mod tests {
    use super::*;

    type Variables<'a> = &'a [(&'a str, &'a str)];

    fn lookup<'a>(variables: Variables<'a>) -> impl Fn(&str) -> Option<String> + 'a {
        move |name| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn found(variables: Variables<'_>) -> Result<(String, String)> {
        let lookup = lookup(variables);
        let connection = CONNECTION_STRING.value(&lookup)?;
        let connection = connection.map_or(Ok(ConnectionString::default()), |text| ConnectionString::parse(&text))?;
        account(&Settings::default(), &lookup, &connection).map(|account| (account.name, account.endpoint))
    }

    #[test]
    fn the_account_is_found_by_every_name_that_azures_tools_use() {
        let public = Some(("acct".to_owned(), "https://acct.blob.core.windows.net".to_owned()));
        for variables in [
            &[("AZURE_STORAGE_ACCOUNT", "acct")][..],
            &[("AZURE_STORAGE_ACCOUNT_NAME", "acct")],
            &[(
                "AZURE_STORAGE_CONNECTION_STRING",
                "DefaultEndpointsProtocol=https;AccountName=acct;AccountKey=c2VjcmV0==;EndpointSuffix=core.windows.net",
            )],
            &[(
                "AZURE_STORAGE_CONNECTION_STRING",
                "BlobEndpoint=https://acct.blob.core.windows.net/;QueueEndpoint=https://acct.queue.core.windows.net/;SharedAccessSignature=sv=2020&sig=a%3D",
            )],
            &[("AZURE_STORAGE_SERVICE_ENDPOINT", "https://acct.blob.core.windows.net")],
        ] {
            assert_eq!(found(variables).ok(), public, "{variables:?}");
        }
        let china = "AccountName=acct;AccountKey=a2V5;EndpointSuffix=core.chinacloudapi.cn";
        assert_eq!(
            found(&[("AZURE_STORAGE_CONNECTION_STRING", china)]).unwrap().1,
            "https://acct.blob.core.chinacloudapi.cn"
        );
        let emulator = found(&[("AZURE_STORAGE_CONNECTION_STRING", "UseDevelopmentStorage=true")]).unwrap();
        assert_eq!((emulator.0.as_str(), emulator.1.as_str()), (EMULATOR.0, EMULATOR.2));
    }

    #[test]
    fn what_contradicts_itself_or_would_cross_the_network_in_clear_is_refused() {
        for (variables, part) in [
            (&[][..], "no storage account"),
            (&[("AZURE_STORAGE_ACCOUNT", "a"), ("AZURE_STORAGE_ACCOUNT_NAME", "b")], "different values"),
            (
                &[("AZURE_STORAGE_ACCOUNT", "a"), ("AZURE_STORAGE_CONNECTION_STRING", "AccountName=b;AccountKey=a2V5")],
                "the account b",
            ),
            (&[("AZURE_STORAGE_CONNECTION_STRING", "nonsense")], "not of the form"),
            (
                &[("AZURE_STORAGE_CONNECTION_STRING", "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5")],
                "unencrypted",
            ),
            (&[("AZURE_STORAGE_ACCOUNT", "a"), ("AZURE_STORAGE_ENDPOINT", "http://10.0.0.1:10000/a")], "unencrypted"),
            (&[("AZURE_STORAGE_ACCOUNT", "a.evil.example/")], "not the name of a storage account"),
        ] {
            let error = found(variables).unwrap_err();
            assert!(error.to_string().contains(part), "{variables:?}: {error}");
            assert!(!error.to_string().contains("a2V5"), "{error}");
        }
    }

    #[test]
    fn credentials_are_complete_and_go_to_their_own_services() {
        let of = |variables: Variables<'_>| credentials(ConnectionString::default(), &lookup(variables));
        for (variables, part) in [
            (&[("AZURE_STORAGE_KEY", "a2V5"), ("AZURE_STORAGE_SAS_TOKEN", "sv=1&sig=2")][..], "both an account key"),
            (&[("AZURE_FEDERATED_TOKEN_FILE", "/f"), ("AZURE_CLIENT_ID", "c")], "AZURE_TENANT_ID is not"),
            (&[("AZURE_CLIENT_SECRET", "s"), ("AZURE_TENANT_ID", "t")], "AZURE_CLIENT_ID is not"),
            (&[("AZURE_STORAGE_SAS_TOKEN", "https://a.blob.core.windows.net/c?sv=1&sig=2")], "a whole URL"),
            (&[("AZURE_AUTHORITY_HOST", "http://login.example")], "unencrypted"),
            (&[("IDENTITY_ENDPOINT", "http://10.0.0.1/msi/token")], "loopback"),
        ] {
            let error = of(variables).unwrap_err();
            assert!(error.to_string().contains(part), "{variables:?}: {error}");
        }
        let workload = of(&[
            ("AZURE_CLIENT_ID", "c"),
            ("AZURE_TENANT_ID", "t"),
            ("AZURE_FEDERATED_TOKEN_FILE", "/f"),
            ("AZURE_AUTHORITY_HOST", "https://login.microsoftonline.com/"),
        ]);
        let host = (AzureConfigKey::AuthorityHost, "https://login.microsoftonline.com".to_owned());
        assert!(workload.unwrap().contains(&host), "without the slash that AKS gives it");
        of(&[("IDENTITY_ENDPOINT", "http://169.254.129.3:8081/msi/token")]).unwrap();
    }

    #[test]
    fn no_variable_stands_for_two_settings() {
        let mut names = variables();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
        assert!(names.iter().all(|name| !name.starts_with("AWS_") && !name.starts_with("GOOGLE_")));
    }
}

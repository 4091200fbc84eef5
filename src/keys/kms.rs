//! Wrapping with AWS KMS, which wraps data keys for an encryption context and never exports a key.
//!
//! docs/reference/formats/block-manifest.md defines the context. The service sees its two fields and nothing else of an image; key
//! policies can require both.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::operation::generate_data_key::GenerateDataKeyError;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, MacAlgorithmSpec};

use super::wrap::{EncryptionContext, KeyWrap, WRAP_AWS_KMS, Wrap};
use crate::crypto::convergent::Salt;
use crate::crypto::{DataKey, Secret};
use crate::digest::Sha256;
use crate::error::{first_cause, first_line};
use crate::net::aws::{InClear, TooLong};
use crate::net::endpoint::redirect_host;
use crate::net::retry::PATIENCE;
use crate::net::runtime::Services;
use crate::net::wait::Wait;
use crate::{Error, ErrorKind, Result};

const ROOT_DIGEST: &str = "coldpress:root-digest";
/// The field of the encryption context with the application's name, which key policies can require.
pub const APPLICATION: &str = "coldpress:application";
/// The message whose HMAC in the service is a salt. A change changes every stored byte of such scopes.
const SALT_MESSAGE: &[u8] = b"coldpress salt v1\n";

/// Maximum length of a wrapped data key that the service returns (its CiphertextBlob), in bytes.
const MAX_CIPHERTEXT: usize = 6144;
/// Maximum length of a key's ARN, in bytes.
const MAX_ARN: usize = 2048;

/// Maximum time of one request.
const ATTEMPT: Duration = Duration::from_secs(15);

/// The endpoint of the key service, and the grant tokens of each request.
#[derive(Debug, Clone, Default)]
pub struct KmsSettings {
    /// The endpoint URL, if not that of AWS; environment and profile can set it as well.
    pub endpoint: Option<String>,
    /// Grant tokens, with which a new grant is effective everywhere at once.
    pub grant_tokens: Vec<String>,
}

/// A key of AWS KMS.
pub struct KmsKey {
    services: Services,
    client: Client,
    settings: KmsSettings,
    /// The id, ARN or alias, as the service accepts them.
    id: String,
    /// What waits for the service are called.
    name: String,
    /// How long the last request was made and repeated, in seconds.
    waited: AtomicU64,
}

impl KmsKey {
    /// Creates a client for the key `id`; makes no request.
    ///
    /// # Errors
    /// `Input` where no Region is configured.
    pub fn open(id: &str, settings: &KmsSettings) -> Result<Self> {
        let services = Services::start()?;
        let client = Self::client(id, settings, &services)?;
        let place = settings.endpoint.as_ref().map(|endpoint| format!(" at {endpoint}")).unwrap_or_default();
        let name = format!("the key service of aws-kms://{id}{place}");
        let (settings, id) = (settings.clone(), id.to_owned());
        Ok(Self { services, client, settings, id, name, waited: AtomicU64::new(0) })
    }

    /// Creates a client with the current credentials of the chain.
    fn client(id: &str, settings: &KmsSettings, services: &Services) -> Result<Client> {
        let config = crate::net::aws::config(services, region_of(id), settings.endpoint.is_some())?;
        if config.region().is_none() {
            let message = format!("key aws-kms://{id}: no region");
            return Err(Error::new(ErrorKind::Input, message)
                .with_hint("set AWS_REGION, or name the key by its ARN, which has its Region"));
        }
        let timeout = TimeoutConfig::builder().operation_attempt_timeout(ATTEMPT).operation_timeout(PATIENCE).build();
        let mut config = aws_sdk_kms::config::Builder::from(&config)
            .retry_config(RetryConfig::standard().with_max_attempts(6))
            .timeout_config(timeout);
        if let Some(endpoint) = &settings.endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Client::from_conf(config.build()))
    }

    /// Sends a request, and repeats it once with new credentials if they have expired meanwhile.
    fn send<T, E, F>(&self, request: impl Fn(&Client) -> F) -> Result<T, Box<SdkError<E>>>
    where
        F: Future<Output = Result<T, SdkError<E>>>,
        SdkError<E>: ProvideErrorMetadata,
    {
        let waiting = Wait::begin(&self.name, PATIENCE);
        let begun = Instant::now();
        let answer = self.services.wait(request(&self.client));
        let answer = match (&answer, self.renewed(&answer)) {
            (Err(_), Some(client)) => self.services.wait(request(&client)),
            _ => answer,
        };
        drop(waiting);
        self.waited.store(begun.elapsed().as_secs(), Ordering::Relaxed);
        answer.map_err(Box::new)
    }

    /// Returns a client with new credentials if `answer` says that they have expired.
    fn renewed<T, E: ProvideErrorMetadata>(&self, answer: &Result<T, E>) -> Option<Client> {
        let is_expired = answer.as_ref().err().and_then(ProvideErrorMetadata::code).is_some_and(is_expired);
        is_expired.then(|| Self::client(&self.id, &self.settings, &self.services).ok()).flatten()
    }

    fn grant_tokens(&self) -> Option<Vec<String>> {
        (!self.settings.grant_tokens.is_empty()).then(|| self.settings.grant_tokens.clone())
    }

    /// Returns the salt that an HMAC key of the service computes; the same each time.
    ///
    /// # Errors
    /// `Denied`, `NotFound` or `Unavailable`, naming the key.
    pub fn salt(&self) -> Result<Salt> {
        let request = |client: &Client| {
            client
                .generate_mac()
                .key_id(&self.id)
                .mac_algorithm(MacAlgorithmSpec::HmacSha256)
                .message(Blob::new(SALT_MESSAGE))
                .set_grant_tokens(self.grant_tokens())
                .send()
        };
        let answer = self.send(request).map_err(|error| self.failure("GenerateMac", &error))?;
        Ok(Salt::new(self.secret(answer.mac)?))
    }

    fn secret(&self, blob: Option<Blob>) -> Result<Secret> {
        let bytes = zeroize::Zeroizing::new(blob.map(Blob::into_inner).unwrap_or_default());
        Secret::from_slice(&bytes).ok_or_else(|| self.unexpected())
    }

    /// Returns the wrap that an answer contains, after checks that ARN and ciphertext have the documented form.
    fn made_wrap(&self, arn: Option<String>, blob: Option<Blob>) -> Result<Wrap> {
        let (Some(arn), Some(blob)) = (arn, blob.map(Blob::into_inner)) else { return Err(self.unexpected()) };
        if !is_arn_of_key(&arn) || !(1..=MAX_CIPHERTEXT).contains(&blob.len()) {
            return Err(self.unexpected());
        }
        Ok(Wrap { kind: WRAP_AWS_KMS, key_id: arn.into_bytes(), blob })
    }

    fn unexpected(&self) -> Error {
        Error::new(ErrorKind::Corrupt, format!("key aws-kms://{}: the response does not match the request", self.id))
    }

    fn failure<E>(&self, operation: &str, error: &SdkError<E>) -> Error
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code =
            error.code().filter(|code| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if find::<TooLong>(error).is_some() {
            let message = format!("key aws-kms://{}: {operation}: the response is too long", self.id);
            return Error::new(ErrorKind::Corrupt, message);
        }
        if let Some(in_clear) = find::<InClear>(error) {
            let message = format!("key aws-kms://{}: {operation}: {in_clear}", self.id);
            return Error::new(ErrorKind::Input, message)
                .with_hint("correct AWS_ENDPOINT_URL_KMS, AWS_ENDPOINT_URL or the profile's endpoint_url");
        }
        let meaning = code.and_then(meaning);
        let kind = match (meaning, status) {
            (Some((kind, _)), _) => kind,
            (None, Some(401 | 403)) => ErrorKind::Denied,
            (None, Some(408 | 429 | 500..=599)) => ErrorKind::Unavailable,
            // The request was not sent: no credentials.
            (None, None) if !may_pass(error) => ErrorKind::Denied,
            (None, None) => ErrorKind::Unavailable,
            _ => ErrorKind::Input,
        };
        let location = error.raw_response().and_then(|response| response.headers().get("location"));
        let redirect = location.and_then(|location| redirect_host("https://kms", location));
        let answer = match (status, code) {
            (Some(status @ 300..=399), _) => {
                let host = redirect.map(|host| format!(" and redirects to {host}")).unwrap_or_default();
                format!("the service answered {status}{host}; redirects are not followed")
            }
            (Some(status), Some(code)) => format!("the service answered {status} ({code})"),
            (Some(status), None) => format!("the service answered {status}"),
            // There was no answer: no credentials, or no connection.
            (None, _) => first_line(&first_cause(error)).to_owned(),
        };
        let error = Error::new(kind, format!("key aws-kms://{}: {operation}: {answer}", self.id));
        let error = match (meaning, kind) {
            (Some((_, next)), _) => error.with_hint(next),
            (None, ErrorKind::Unavailable) => {
                error.with_hint("check the network and --kms-endpoint, and run the same command again")
            }
            (None, _) => error,
        };
        match self.waited.load(Ordering::Relaxed) {
            seconds @ 1.. if kind == ErrorKind::Unavailable => {
                Error::caused(kind, format!("given up after {seconds} seconds"), error)
            }
            _ => error,
        }
    }

    /// Returns whether this key may have made `wrap`; an alias can stand for any key.
    fn may_have_made(&self, wrap: &Wrap) -> bool {
        let (id, arn) = (self.id.as_str(), String::from_utf8_lossy(&wrap.key_id));
        let alias = id.starts_with("alias/") || id.contains(":alias/");
        let is_this = alias || id == arn || arn.ends_with(&format!("/{id}")) || are_replicas(id, &arn);
        wrap.kind == WRAP_AWS_KMS && is_this
    }
}

/// Returns whether a text has the form `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
fn is_arn_of_key(text: &str) -> bool {
    let parts: Vec<&str> = text.split(':').collect();
    let word =
        |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    match parts[..] {
        ["arn", partition, "kms", region, account, key] => {
            text.len() <= MAX_ARN
                && [partition, region, account].into_iter().all(word)
                && key.strip_prefix("key/").is_some_and(word)
        }
        _ => false,
    }
}

/// Returns whether two ARNs are of one multi-Region key in two Regions: each can unwrap what the other has wrapped.
fn are_replicas(one: &str, other: &str) -> bool {
    let parts = |arn: &str| {
        let [_, partition, _, _, account, key] = arn.splitn(6, ':').collect::<Vec<_>>()[..] else { return None };
        (is_arn_of_key(arn) && key.starts_with("key/mrk-"))
            .then(|| (partition.to_owned(), account.to_owned(), key.to_owned()))
    };
    parts(one).is_some_and(|one| parts(other) == Some(one))
}

/// Returns the first cause of type `T` in an error's chain.
fn find<'a, T: std::error::Error + 'static>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a T> {
    error.downcast_ref().or_else(|| error.source().and_then(find))
}

/// Returns whether an error code says that the credentials have expired.
fn is_expired(code: &str) -> bool {
    matches!(code, "ExpiredTokenException" | "ExpiredToken" | "RequestExpired")
}

/// Returns the kind of an error code and the next step. The codes are those in the error lists of the KMS API, and those that all
/// AWS services share.
fn meaning(code: &str) -> Option<(ErrorKind, &'static str)> {
    use ErrorKind as K;
    Some(match code {
        "NotFoundException" => (K::NotFound, "check the key's id or alias, its account and its Region"),
        "DisabledException" => {
            (K::Denied, "the key is disabled: enable it (`aws kms enable-key`) and run the command again")
        }
        "KMSInvalidStateException" => (
            K::Denied,
            "the key cannot be used in its state, such as pending deletion or import: `aws kms describe-key` shows it; \
             `aws kms cancel-key-deletion` and `enable-key` bring a key back",
        ),
        "AccessDeniedException" => (
            K::Denied,
            "the key's policy, an identity policy or a grant must allow this operation for these credentials and this --application; a \
             grant of the last five minutes may not be known everywhere yet: give its token (--kms-grant-token) or wait",
        ),
        "InvalidGrantTokenException" => (
            K::Denied,
            "check --kms-grant-token: it is the GrantToken that CreateGrant gave for this key, in this Region",
        ),
        "ExpiredTokenException" | "ExpiredToken" | "RequestExpired" => (
            K::Denied,
            "the credentials have expired: renew them (such as by `aws sso login`) and run the command again",
        ),
        "UnrecognizedClientException"
        | "InvalidClientTokenId"
        | "InvalidAccessKeyId"
        | "MissingAuthenticationToken" => (
            K::Denied,
            "the access key is unknown or its session token missing: check AWS_PROFILE, AWS_ACCESS_KEY_ID and AWS_SESSION_TOKEN",
        ),
        "InvalidSignatureException" | "SignatureDoesNotMatch" | "RequestTimeTooSkewed" => (
            K::Denied,
            "the secret access key does not belong to the access key, or this machine's clock is wrong: compare it with the true time",
        ),
        "OptInRequired" => (K::Denied, "enable the service or the Region for the account"),
        "InvalidCiphertextException" | "IncorrectKeyException" => (
            K::Denied,
            "another key encrypted the manifest's data key, or the manifest was modified: name the key that it was encrypted for",
        ),
        "InvalidKeyUsageException" => {
            (K::Input, "a data key needs a symmetric key for encryption, --salt-key an HMAC key: name such a key")
        }
        "InvalidArnException" => (K::Input, "correct the key's ARN"),
        "ThrottlingException"
        | "Throttling"
        | "TooManyRequestsException"
        | "RequestLimitExceeded"
        | "LimitExceededException" => (
            K::Unavailable,
            "the account's request quota is used up: run the same command again later, or ask AWS for a larger quota",
        ),
        "KeyUnavailableException"
        | "DependencyTimeoutException"
        | "KMSInternalException"
        | "InternalFailure"
        | "ServiceUnavailable" => (K::Unavailable, "the key service is unavailable; run the same command again"),
        "CloudHsmClusterInvalidConfigurationException"
        | "CustomKeyStoreInvalidStateException"
        | "XksProxyUriUnreachableException" => {
            (K::Unavailable, "the key's custom key store is not connected; connect it and run the same command again")
        }
        _ => return None,
    })
}

/// Returns whether a request without an answer may succeed later.
fn may_pass<E>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::DispatchFailure(failure) => failure.is_io() || failure.is_timeout(),
        SdkError::ConstructionFailure(_) => false,
        _ => true,
    }
}

/// An operation on a key that [`KmsKey::allows`] can try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOperation {
    /// Generates and wraps a data key.
    GenerateDataKey,
    /// Wraps an existing data key.
    Encrypt,
    /// Unwraps a data key.
    Decrypt,
}

impl KeyOperation {
    /// All operations.
    pub const ALL: [Self; 3] = [Self::GenerateDataKey, Self::Encrypt, Self::Decrypt];

    /// Returns the service's name of the operation.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::GenerateDataKey => "GenerateDataKey",
            Self::Encrypt => "Encrypt",
            Self::Decrypt => "Decrypt",
        }
    }
}

impl KmsKey {
    /// Returns whether `operation` is allowed. It is tried as a dry run; decryption is tried on bytes that the key never encrypted.
    ///
    /// # Errors
    /// `NotFound` where there is no such key, `Unavailable`.
    pub fn allows(&self, operation: KeyOperation, application: &str) -> Result<bool> {
        let context = trial(application);
        match operation {
            KeyOperation::GenerateDataKey => self.dry(operation.name(), self.dry_data_key(application)),
            KeyOperation::Encrypt => {
                let request = |client: &Client| {
                    let request = client.encrypt().key_id(&self.id).plaintext(Blob::new([0; 32])).dry_run(true);
                    let request = request.set_grant_tokens(self.grant_tokens());
                    request.set_encryption_context(Some(fields(&context))).send()
                };
                self.dry(operation.name(), self.send(request).map(drop))
            }
            KeyOperation::Decrypt => {
                let request = |client: &Client| {
                    let request = client.decrypt().key_id(&self.id).ciphertext_blob(Blob::new([0; 64]));
                    let request = request.set_grant_tokens(self.grant_tokens());
                    request.set_encryption_context(Some(fields(&context))).send()
                };
                match self.send(request) {
                    // The service checks permissions before the ciphertext.
                    Err(error) if is_not_its_own(&*error) => Ok(true),
                    answer => self.dry(operation.name(), answer.map(drop)),
                }
            }
        }
    }

    /// Returns whether a dry run was allowed. A service without dry runs executes the operation; its result is dropped.
    fn dry<E>(&self, operation: &str, answer: Result<(), Box<SdkError<E>>>) -> Result<bool>
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        match answer {
            Ok(()) => Ok(true),
            Err(error) if error.code() == Some("DryRunOperationException") => Ok(true),
            Err(error) => {
                // A disabled key or expired credentials say nothing about permissions.
                let is_of_rights =
                    error.code().is_none_or(|code| code == "AccessDeniedException" || meaning(code).is_none());
                let failure = self.failure(operation, &error);
                if is_of_rights && failure.kind() == ErrorKind::Denied && error.raw_response().is_some() {
                    return Ok(false);
                }
                Err(failure)
            }
        }
    }

    /// Requests a fresh data key as a dry run.
    fn dry_data_key(&self, application: &str) -> Result<(), Box<SdkError<GenerateDataKeyError>>> {
        let context = trial(application);
        let request = |client: &Client| {
            client
                .generate_data_key()
                .key_id(&self.id)
                .key_spec(DataKeySpec::Aes256)
                .set_encryption_context(Some(fields(&context)))
                .set_grant_tokens(self.grant_tokens())
                .dry_run(true)
                .send()
        };
        self.send(request).map(drop)
    }
}

/// Returns whether the error means that decryption is allowed, but the bytes are not a ciphertext of this key.
fn is_not_its_own(error: &impl ProvideErrorMetadata) -> bool {
    match error.code() {
        Some("InvalidCiphertextException" | "IncorrectKeyException") => true,
        // checked: moto 5.2, which takes the bytes for another key's ciphertext; a denial by AWS has a message.
        Some("AccessDeniedException") => error.message().is_none_or(str::is_empty),
        _ => false,
    }
}

/// Returns an encryption context for trials, which belongs to no image.
fn trial(application: &str) -> EncryptionContext {
    EncryptionContext { root_digest: Sha256::of(b""), application: application.to_owned() }
}

/// Returns the Region in an ARN.
fn region_of(id: &str) -> Option<&str> {
    id.strip_prefix("arn:")?.split(':').nth(2).filter(|region| !region.is_empty())
}

fn fields(context: &EncryptionContext) -> HashMap<String, String> {
    let mut fields = HashMap::from([(ROOT_DIGEST.to_owned(), context.root_digest.to_string())]);
    if !context.application.is_empty() {
        fields.insert(APPLICATION.to_owned(), context.application.clone());
    }
    fields
}

impl KeyWrap for KmsKey {
    fn check(&self, application: &str) -> Result<()> {
        match self.dry_data_key(application) {
            Err(error) if error.code() != Some("DryRunOperationException") => {
                Err(self.failure("GenerateDataKey", &error))
            }
            _ => Ok(()),
        }
    }

    fn new_data_key(&self, context: &EncryptionContext) -> Result<(DataKey, Wrap)> {
        let request = |client: &Client| {
            client
                .generate_data_key()
                .key_id(&self.id)
                .key_spec(DataKeySpec::Aes256)
                .set_encryption_context(Some(fields(context)))
                .set_grant_tokens(self.grant_tokens())
                .send()
        };
        let answer = self.send(request).map_err(|error| self.failure("GenerateDataKey", &error))?;
        let wrap = self.made_wrap(answer.key_id, answer.ciphertext_blob)?;
        Ok((DataKey(self.secret(answer.plaintext)?), wrap))
    }

    fn wrap(&self, data_key: &DataKey, context: &EncryptionContext) -> Result<Wrap> {
        let request = |client: &Client| {
            client
                .encrypt()
                .key_id(&self.id)
                .plaintext(Blob::new(data_key.0.expose()))
                .set_encryption_context(Some(fields(context)))
                .set_grant_tokens(self.grant_tokens())
                .send()
        };
        let answer = self.send(request).map_err(|error| self.failure("Encrypt", &error))?;
        self.made_wrap(answer.key_id, answer.ciphertext_blob)
    }

    fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey> {
        let Some(wrap) = wraps.iter().find(|wrap| self.may_have_made(wrap)) else {
            let message = format!("the manifest is not for the key aws-kms://{}", self.id);
            return Err(Error::new(ErrorKind::Denied, message));
        };
        let request = |client: &Client| {
            client
                .decrypt()
                .key_id(&self.id)
                .ciphertext_blob(Blob::new(wrap.blob.clone()))
                .set_encryption_context(Some(fields(context)))
                .set_grant_tokens(self.grant_tokens())
                .send()
        };
        let answer = self.send(request).map_err(|error| self.failure("Decrypt", &error))?;
        Ok(DataKey(self.secret(answer.plaintext)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_multi_region_key_is_one_key_in_every_region() {
        let arn = |region: &str, account: &str, key: &str| format!("arn:aws:kms:{region}:{account}:key/{key}");
        let primary = arn("us-east-1", "111122223333", "mrk-1234abcd");
        assert!(are_replicas(&primary, &arn("eu-west-1", "111122223333", "mrk-1234abcd")));
        for other in [
            arn("eu-west-1", "999922223333", "mrk-1234abcd"),
            arn("eu-west-1", "111122223333", "mrk-ffffabcd"),
            primary.replace("aws", "aws-cn"),
            "mrk-1234abcd".to_owned(),
        ] {
            assert!(!are_replicas(&primary, &other), "{other}");
        }
        let single = |region| arn(region, "111122223333", "1234abcd");
        assert!(!are_replicas(&single("us-east-1"), &single("eu-west-1")), "two keys of one id are two keys");
    }

    #[test]
    fn only_the_arn_of_a_key_gets_into_a_manifest() {
        for good in [
            "arn:aws:kms:us-east-1:123456789012:key/11111111-1111-1111-1111-111111111111",
            "arn:aws-us-gov:kms:us-gov-west-1:123456789012:key/mrk-1234abcd",
            "arn:aws-cn:kms:cn-north-1:000000000000:key/a_b",
        ] {
            assert!(is_arn_of_key(good), "{good}");
        }
        let long = format!("arn:aws:kms:us-east-1:1:key/{}", "A".repeat(MAX_ARN));
        for bad in [
            "",
            "11111111-1111-1111-1111-111111111111",
            "arn:aws:kms:us-east-1:1:alias/x",
            "arn:aws:kms:us-east-1:1:key/",
            "arn:aws:s3:us-east-1:1:key/x",
            "arn:\n\u{1b}[31m",
            "arn:aws:kms:us-east-1:1:key/\u{1b}[31m",
            "arn:aws:kms:us-east-1:1:key/x:y",
            &long,
        ] {
            assert!(!is_arn_of_key(bad), "{bad}");
        }
    }
}

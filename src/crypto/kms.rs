//! Keys in AWS KMS, which encloses data keys for an encryption context and never gives a key out.
//!
//! docs/manifest-format.md defines the context. Its two fields, and nothing else of an image, are seen by the service; key
//! policies can ask for both.

use std::collections::HashMap;
use std::time::Duration;

use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{DataKeySpec, MacAlgorithmSpec};

use super::convergent::Salt;
use super::secret::Secret;
use super::wrap::{DataKey, EncryptionContext, KeyWrap, WRAP_AWS_KMS, Wrap};
use crate::aws::TooLong;
use crate::digest::Sha256;
use crate::endpoint::redirect_host;
use crate::error::{first_cause, first_line};
use crate::runtime::Services;
use crate::{Error, ErrorKind, Result};

const ROOT_DIGEST: &str = "coldpress:root-digest";
/// The field of the encryption context that key policies can ask for.
pub const APPLICATION: &str = "coldpress:application";
/// What an HMAC key of the service signs to give a salt. Changes every stored byte of its scopes.
const SALT_MESSAGE: &[u8] = b"coldpress salt v1\n";

/// Longest enclosed data key that the service gives (its CiphertextBlob).
const MAX_CIPHERTEXT: usize = 6144;
/// Longest name of a key.
const MAX_ARN: usize = 2048;

/// A key of AWS KMS.
pub struct KmsKey {
    services: Services,
    client: Client,
    /// Id, ARN or alias, as the service takes them.
    id: String,
}

impl KmsKey {
    /// The key `id`, at `endpoint` where the service is another than AWS's own.
    ///
    /// # Errors
    /// `Input` where nothing says the region.
    pub fn open(id: &str, endpoint: Option<&str>) -> Result<Self> {
        let services = Services::start()?;
        let config = crate::aws::config(&services, region_of(id), endpoint.is_some());
        if config.region().is_none() {
            let message = format!("key aws-kms://{id}: no region: set AWS_REGION, or name the key by its ARN");
            return Err(Error::new(ErrorKind::Input, message));
        }
        let timeout = TimeoutConfig::builder().operation_attempt_timeout(Duration::from_secs(15)).build();
        let mut config = aws_sdk_kms::config::Builder::from(&config)
            .retry_config(RetryConfig::standard().with_max_attempts(6))
            .timeout_config(timeout);
        if let Some(endpoint) = endpoint {
            config = config.endpoint_url(endpoint);
        }
        Ok(Self { services, client: Client::from_conf(config.build()), id: id.to_owned() })
    }

    /// The salt that an HMAC key of the service makes; the same each time.
    ///
    /// # Errors
    /// `Denied`, `NotFound` or `Unavailable`, naming the key.
    pub fn salt(&self) -> Result<Salt> {
        let request = self
            .client
            .generate_mac()
            .key_id(&self.id)
            .mac_algorithm(MacAlgorithmSpec::HmacSha256)
            .message(Blob::new(SALT_MESSAGE));
        let answer = self.services.wait(request.send()).map_err(|error| self.failure("GenerateMac", &error))?;
        Ok(Salt::new(self.secret(answer.mac)?))
    }

    fn secret(&self, blob: Option<Blob>) -> Result<Secret> {
        let bytes = zeroize::Zeroizing::new(blob.map(Blob::into_inner).unwrap_or_default());
        Secret::from_slice(&bytes).ok_or_else(|| self.unexpected())
    }

    /// What goes into a manifest of an answer, where it has the form that the service documents.
    fn made_wrap(&self, arn: Option<String>, blob: Option<Blob>) -> Result<Wrap> {
        let (Some(arn), Some(blob)) = (arn, blob.map(Blob::into_inner)) else { return Err(self.unexpected()) };
        if !is_arn_of_key(&arn) || !(1..=MAX_CIPHERTEXT).contains(&blob.len()) {
            return Err(self.unexpected());
        }
        Ok(Wrap { kind: WRAP_AWS_KMS, key_id: arn.into_bytes(), blob })
    }

    fn unexpected(&self) -> Error {
        Error::new(
            ErrorKind::Corrupt,
            format!("key aws-kms://{}: the service's answer is not what was asked for", self.id),
        )
    }

    fn failure<E>(&self, operation: &str, error: &SdkError<E>) -> Error
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        let status = error.raw_response().map(|response| response.status().as_u16());
        let code =
            error.code().filter(|code| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        if is_too_long(error) {
            let message =
                format!("key aws-kms://{}: {operation}: the service's answer is longer than any can be", self.id);
            return Error::new(ErrorKind::Corrupt, message);
        }
        let kind = match (status, code.unwrap_or_default()) {
            (_, "NotFoundException") => ErrorKind::NotFound,
            (Some(401 | 403), _)
            | (
                _,
                "AccessDeniedException"
                | "DisabledException"
                | "InvalidCiphertextException"
                | "IncorrectKeyException"
                | "KMSInvalidStateException"
                | "InvalidKeyUsageException",
            ) => ErrorKind::Denied,
            // Not even sent: no credentials.
            (None, _) if !may_pass(error) => ErrorKind::Denied,
            (None | Some(408 | 429 | 500..=599), _) | (_, "ThrottlingException" | "LimitExceededException") => {
                ErrorKind::Unavailable
            }
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
            // Nothing was answered: no credentials, no connection.
            (None, _) => first_line(&first_cause(error)).to_owned(),
        };
        Error::new(kind, format!("key aws-kms://{}: {operation}: {answer}", self.id))
    }

    /// Whether a wrap can be this key's: an alias can name any.
    fn may_have_made(&self, wrap: &Wrap) -> bool {
        let (id, arn) = (self.id.as_str(), String::from_utf8_lossy(&wrap.key_id));
        let alias = id.starts_with("alias/") || id.contains(":alias/");
        wrap.kind == WRAP_AWS_KMS && (alias || id == arn || arn.ends_with(&format!("/{id}")))
    }
}

/// Whether a text is `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
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

/// Whether an answer was cut off because it is longer than any of the service's can be.
fn is_too_long(error: &(dyn std::error::Error + 'static)) -> bool {
    error.is::<TooLong>() || error.source().is_some_and(is_too_long)
}

/// Whether a request that got no answer may get one later.
fn may_pass<E>(error: &SdkError<E>) -> bool {
    match error {
        SdkError::DispatchFailure(failure) => failure.is_io() || failure.is_timeout(),
        SdkError::ConstructionFailure(_) => false,
        _ => true,
    }
}

/// Something that can be asked of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOperation {
    /// A fresh data key, enclosed.
    GenerateDataKey,
    /// Enclose a data key that is there.
    Encrypt,
    /// Open an enclosed data key.
    Decrypt,
}

impl KeyOperation {
    /// All.
    pub const ALL: [Self; 3] = [Self::GenerateDataKey, Self::Encrypt, Self::Decrypt];

    /// The service's word for it.
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
    /// Whether `operation` is allowed: tried dry, or on bytes that the key never made.
    ///
    /// # Errors
    /// `NotFound` where there is no such key, `Unavailable`.
    pub fn allows(&self, operation: KeyOperation, application: &str) -> Result<bool> {
        let context = trial(application);
        let tried = match operation {
            KeyOperation::GenerateDataKey => self.check(application),
            KeyOperation::Encrypt => {
                let request = self.client.encrypt().key_id(&self.id).plaintext(Blob::new([0; 32])).dry_run(true);
                let request = request.set_encryption_context(Some(fields(&context)));
                self.dry(operation.name(), self.services.wait(request.send()).map(drop))
            }
            KeyOperation::Decrypt => {
                let request = self.client.decrypt().key_id(&self.id).ciphertext_blob(Blob::new([0; 64]));
                match self.services.wait(request.set_encryption_context(Some(fields(&context))).send()) {
                    // Who may not is told so first.
                    Err(error) if is_not_its_own(&error) => Ok(()),
                    answer => self.dry(operation.name(), answer.map(drop)),
                }
            }
        };
        match tried {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == ErrorKind::Denied => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Services that know no dry run carry it out; what they give is dropped.
    fn dry<E>(&self, operation: &str, answer: Result<(), SdkError<E>>) -> Result<()>
    where
        E: std::error::Error + ProvideErrorMetadata + 'static,
    {
        match answer {
            Ok(()) => Ok(()),
            Err(error) if error.code() == Some("DryRunOperationException") => Ok(()),
            Err(error) => Err(self.failure(operation, &error)),
        }
    }
}

/// What is answered to who may decrypt, of bytes that are no key's.
fn is_not_its_own(error: &impl ProvideErrorMetadata) -> bool {
    match error.code() {
        Some("InvalidCiphertextException" | "IncorrectKeyException") => true,
        // checked: moto 5.2, which takes the bytes for another key's; AWS says whom it denies what.
        Some("AccessDeniedException") => error.message().is_none_or(str::is_empty),
        _ => false,
    }
}

/// A context for trials: of no image.
fn trial(application: &str) -> EncryptionContext {
    EncryptionContext { root_digest: Sha256::of(b""), application: application.to_owned() }
}

/// The region that an ARN names.
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
        let context = trial(application);
        let request = self
            .client
            .generate_data_key()
            .key_id(&self.id)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(fields(&context)))
            .dry_run(true);
        self.dry("GenerateDataKey", self.services.wait(request.send()).map(drop))
    }

    fn new_data_key(&self, context: &EncryptionContext) -> Result<(DataKey, Wrap)> {
        let request = self
            .client
            .generate_data_key()
            .key_id(&self.id)
            .key_spec(DataKeySpec::Aes256)
            .set_encryption_context(Some(fields(context)));
        let answer = self.services.wait(request.send()).map_err(|error| self.failure("GenerateDataKey", &error))?;
        let wrap = self.made_wrap(answer.key_id, answer.ciphertext_blob)?;
        Ok((DataKey(self.secret(answer.plaintext)?), wrap))
    }

    fn wrap(&self, data_key: &DataKey, context: &EncryptionContext) -> Result<Wrap> {
        let request = self
            .client
            .encrypt()
            .key_id(&self.id)
            .plaintext(Blob::new(data_key.0.expose()))
            .set_encryption_context(Some(fields(context)));
        let answer = self.services.wait(request.send()).map_err(|error| self.failure("Encrypt", &error))?;
        self.made_wrap(answer.key_id, answer.ciphertext_blob)
    }

    fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey> {
        let Some(wrap) = wraps.iter().find(|wrap| self.may_have_made(wrap)) else {
            let message = format!("the manifest is not for the key aws-kms://{}", self.id);
            return Err(Error::new(ErrorKind::Denied, message));
        };
        let request = self
            .client
            .decrypt()
            .key_id(&self.id)
            .ciphertext_blob(Blob::new(wrap.blob.clone()))
            .set_encryption_context(Some(fields(context)));
        let answer = self.services.wait(request.send()).map_err(|error| self.failure("Decrypt", &error))?;
        Ok(DataKey(self.secret(answer.plaintext)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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

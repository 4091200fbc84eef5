//! S3, by AWS's own library: its endpoints (regions, partitions, FIPS, dual-stack, access points, S3 Express One Zone), its signatures and
//! its profiles; by the HTTP client of `http.rs`, and with each request made once.
//!
//! docs/design.md, "S3", says why; docs/reference/stores.md lists what of the environment is honoured.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::Client;
use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    ConfigBag, Intercept, RequestChecksumCalculation, ResponseChecksumValidation, RuntimeComponents,
    StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::{BoxError, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ObjectCannedAcl, RequestPayer, ServerSideEncryption};
use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::{
    HttpClient as AwsHttpClient, HttpConnector as AwsHttpConnector, HttpConnectorFuture, HttpConnectorSettings,
    SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest as AwsRequest, HttpResponse as AwsResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::base64;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use http_body_util::BodyExt;
use object_store::client::{HttpClient, HttpErrorKind, HttpRequest};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, GetOptions, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use reqwest::header::{HeaderValue, USER_AGENT};

use super::Settings;
use super::http::{Answer, ahead_of_this_machine};
use crate::digest::Sha256;
use crate::error::{first_cause, first_line};
use crate::net::aws::Aws;
use crate::net::aws::credentials::RenewedCredentials;
use crate::{Error, ErrorKind};

/// Requests of one run that may be found too old by chance.
const MAX_TOO_OLD: usize = 1024;
/// A clock that is off by less does not make a request too old.
const TOLERATED_SKEW: i64 = 60;
/// A clock that is off by more is not corrected: signatures for a far future are not to be had.
const MAX_SKEW: i64 = 24 * 60 * 60;

/// What else a request to S3 says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct S3Settings {
    /// Server-side encryption: `AES256`, `aws:kms` or `aws:kms:dsse`.
    pub encryption: Option<String>,
    /// The key of `aws:kms`; else the bucket's.
    pub encryption_key: Option<String>,
    /// Whether each object is given to the bucket's owner (`bucket-owner-full-control`).
    pub owner_full_control: bool,
    /// Whether who asks pays.
    pub requester_pays: bool,
}

/// A bucket of S3.
#[derive(Clone)]
pub(super) struct S3 {
    client: Client,
    bucket: String,
    settings: S3Settings,
    /// Whether `x-amz-checksum-sha256` is sent.
    checksum: bool,
    credentials: Option<Arc<RenewedCredentials>>,
    clock: Clock,
    /// Keys of requests that were found too old though the clocks agree: each was under way for too long, and is made once more.
    too_old: Arc<Mutex<BTreeSet<String>>>,
    /// Whether a put was stored, so that what it says suffices.
    stored: Arc<AtomicBool>,
    /// Whether the bucket takes objects only with `bucket-owner-full-control`.
    needs_acl: Arc<AtomicBool>,
}

impl S3 {
    /// The bucket, or the access point, of that name, reached by `http`.
    pub(super) fn new(bucket: &str, aws: &Aws, settings: &Settings, http: HttpClient) -> Self {
        let clock = Clock::default();
        let style_is_path = settings.style.is_path(settings.endpoint.is_some());
        let mut config = aws_sdk_s3::config::Builder::from(&aws.config)
            .http_client(Http(http))
            .time_source(clock.clone())
            .disable_clock_skew_correction(true)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::disabled())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
            // Every chunk is verified by its name.
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .use_arn_region(true);
        if style_is_path {
            config = config.force_path_style(true);
        }
        config.set_endpoint_url(settings.endpoint.clone());
        let checksum = aws.config.request_checksum_calculation() != Some(RequestChecksumCalculation::WhenRequired);
        Self {
            client: Client::from_conf(config.build()),
            bucket: bucket.to_owned(),
            settings: settings.s3.clone(),
            checksum,
            credentials: aws.credentials.clone(),
            clock,
            too_old: Arc::default(),
            stored: Arc::default(),
            needs_acl: Arc::new(AtomicBool::new(settings.s3.owner_full_control)),
        }
    }

    fn payer(&self) -> Option<RequestPayer> {
        self.settings.requester_pays.then_some(RequestPayer::Requester)
    }

    async fn put(&self, key: &str, bytes: Bytes, create: bool, acl: bool) -> Result<(), Failed> {
        let hash = Sha256::of(&bytes);
        let encryption = self.settings.encryption.as_deref().map(ServerSideEncryption::from);
        let request = self
            .client
            .put_object()
            .bucket(&self.bucket)
            .key(key)
            .set_if_none_match(create.then(|| "*".to_owned()))
            .set_checksum_sha256(self.checksum.then(|| base64::encode(hash.as_bytes())))
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(self.settings.encryption_key.clone())
            .set_acl(acl.then_some(ObjectCannedAcl::BucketOwnerFullControl))
            .set_request_payer(self.payer())
            .body(ByteStream::from(bytes));
        let put = request.customize().interceptor(PayloadHash(hash.to_hex())).send().await;
        put.map(drop).map_err(|error| self.failed(key, error))
    }

    /// Returns whether a request for `key` that was found too old may be made once more.
    fn may_repeat_too_old(&self, key: &str) -> bool {
        let mut keys = self.too_old.lock().unwrap_or_else(PoisonError::into_inner);
        // Past this many the clocks do not agree.
        keys.len() < MAX_TOO_OLD && keys.insert(key.to_owned())
    }

    /// What a failure means, and what it changes here.
    fn failed<E>(&self, key: &str, error: SdkError<E>) -> Failed
    where
        E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
    {
        let status = error.raw_response().map(|answer| answer.status().as_u16());
        let code = error.code().map(str::to_owned);
        let mut set_right = false;
        match code.as_deref() {
            Some("ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired") => {
                if let Some(credentials) = &self.credentials {
                    credentials.reject();
                    set_right = true;
                }
            }
            Some("RequestTimeTooSkewed") => {
                let date = error.raw_response().and_then(|answer| answer.headers().get("date"));
                let corrected = date.and_then(ahead_of_this_machine).is_some_and(|ahead| self.clock.correct(ahead));
                set_right = corrected || self.may_repeat_too_old(key);
            }
            _ => {}
        }
        let error = match without_request(&error) {
            Some(why) => Box::new(why) as Box<dyn StdError + Send + Sync>,
            None if set_right => Box::new(SetRight(Box::new(error))),
            None => Box::new(error),
        };
        Failed { status, code, error }
    }
}

/// A request that came to nothing.
struct Failed {
    status: Option<u16>,
    code: Option<String>,
    error: Box<dyn StdError + Send + Sync>,
}

impl From<Failed> for object_store::Error {
    fn from(failed: Failed) -> Self {
        Self::Generic { store: "S3", source: failed.error }
    }
}

/// Why no request can be made of the settings, where none was.
fn without_request<E>(error: &SdkError<E>) -> Option<Error>
where
    E: StdError + Send + Sync + 'static,
{
    let is_settings = match error {
        SdkError::ConstructionFailure(_) => true,
        SdkError::DispatchFailure(failure) => failure.is_user() || failure.is_other(),
        _ => false,
    };
    if !is_settings || has_own_words(error) {
        return None;
    }
    let message = format!("these settings do not make a valid request: {}", first_line(&first_cause(error)));
    let hint =
        "check --store, --store-region, --store-style and the AWS variables and profile in docs/reference/stores.md";
    Some(Error::new(ErrorKind::Input, message).with_hint(hint))
}

/// Whether the client, or who provides credentials, said why.
fn has_own_words(error: &(dyn StdError + 'static)) -> bool {
    error.is::<object_store::client::HttpError>() || error.is::<Error>() || error.source().is_some_and(has_own_words)
}

/// What a word of S3, or of a service that speaks like it, means, whatever the status beside it.
pub(super) fn kind(code: &str) -> Option<ErrorKind> {
    Some(match code {
        "BandwidthLimitExceeded"
        | "InternalError"
        | "OperationAborted"
        | "RequestLimitExceeded"
        | "RequestThrottled"
        | "RequestTimeout"
        | "ServerBusy"
        | "ServiceUnavailable"
        | "SlowDown"
        | "Throttling"
        | "ThrottlingException"
        | "TooManyRequests"
        | "TooManyRequestsException"
        | "XMinioServerNotInitialized" => ErrorKind::Unavailable,
        "InsufficientStorage" | "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" | "XMinioStorageFull" => {
            ErrorKind::Full
        }
        "AccessDenied"
        | "ExpiredToken"
        | "ExpiredTokenException"
        | "InvalidAccessKeyId"
        | "InvalidObjectState"
        | "InvalidToken"
        | "RequestTimeTooSkewed"
        | "SignatureDoesNotMatch"
        | "TokenRefreshRequired" => ErrorKind::Denied,
        "AuthorizationHeaderMalformed" | "IllegalLocationConstraintException" | "PermanentRedirect" => ErrorKind::Input,
        "NoSuchBucket" => ErrorKind::NotFound,
        _ => return None,
    })
}

/// The headers of answers that are looked at.
const HEADERS: [&str; 6] =
    ["content-length", "content-type", "date", "etag", "x-amz-bucket-region", "x-amz-request-id"];
/// The header that says the SHA-256 of a body.
const CHECKSUM: &str = "x-amz-checksum-sha256";

/// Returns the one next step that fits what a service says; `None` where nothing fits for sure.
pub(super) fn next_step(code: &str, answer: &Answer) -> Option<Cow<'static, str>> {
    let step = match code {
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" => {
            "the credentials have expired: renew them (such as by `aws sso login`) and run the command again"
        }
        "RequestTimeTooSkewed" => {
            return Some(match answer.clock_ahead {
                Some(ahead) if ahead.abs() > TOLERATED_SKEW => {
                    let side = if ahead > 0 { "behind" } else { "ahead of" };
                    format!("this machine's clock is {} minutes {side} the service's: set it", ahead.abs() / 60).into()
                }
                _ => "compare this machine's clock with the service's".into(),
            });
        }
        "InsufficientStorage" | "QuotaExceeded" | "XMinioAdminBucketQuotaExceeded" | "XMinioStorageFull" => {
            "the quota or the space of the store is used up: raise it, or remove roots that are no longer needed"
        }
        "InvalidAccessKeyId" => {
            "the service does not know this access key: check AWS_PROFILE, AWS_ACCESS_KEY_ID and --store-endpoint"
        }
        "SignatureDoesNotMatch" => "the secret access key does not belong to the access key",
        "InvalidToken" => "the session token does not belong to the access key, or is of another partition",
        "AccessDenied" => {
            "the credentials lack a permission (`coldpress doctor --as ROLE` prints the policy), or the bucket's policy asks for \
             --store-sse, --store-acl or --store-requester-pays"
        }
        "InvalidObjectState" => {
            "the object is in an archive class: restore it, and keep lifecycle rules from moving chunks to such classes"
        }
        "NoSuchBucket" => "check the bucket's name, and its region or endpoint",
        _ if answer.status == Some(507) => {
            "the space of the store is used up: add some, or remove roots that are no longer needed"
        }
        _ if let Some(region) = &answer.region => {
            return Some(format!("the bucket is in the region {region}: give --store-region {region}").into());
        }
        _ if answer.header.as_deref() == Some(CHECKSUM) => {
            "the service takes no checksums in headers: set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
        }
        "InvalidArgument" | "NotImplemented" => {
            "if the service takes no checksums in headers, set AWS_REQUEST_CHECKSUM_CALCULATION=when_required"
        }
        _ => return None,
    };
    Some(step.into())
}

/// Whether the cause of a failure was set right.
pub(super) fn is_set_right(error: &(dyn StdError + 'static)) -> bool {
    error.is::<SetRight>() || error.source().is_some_and(is_set_right)
}

/// A failure whose cause was set right, so that the next request may succeed.
#[derive(Debug)]
struct SetRight(Box<dyn StdError + Send + Sync>);

impl fmt::Display for SetRight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the request will be made again")
    }
}

impl StdError for SetRight {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.0)
    }
}

/// The hash of a body that is signed with the request; the library would compute it a second time.
#[derive(Debug)]
struct PayloadHash(String);

impl Intercept for PayloadHash {
    fn name(&self) -> &'static str {
        "PayloadHash"
    }

    fn modify_before_signing(
        &self,
        _: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        bag.interceptor_state().store_put(PayloadSigningOverride::Precomputed(self.0.clone()));
        Ok(())
    }
}

/// This machine's clock, as far as the service agrees with it.
#[derive(Debug, Clone, Default)]
struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Sets the clock to a service's, which is `ahead` seconds ahead of this machine's; whether that changes anything.
    fn correct(&self, ahead: i64) -> bool {
        let before = self.0.load(Ordering::Relaxed);
        let helps = (before - ahead).abs() > TOLERATED_SKEW && ahead.abs() <= MAX_SKEW;
        if helps {
            self.0.store(ahead, Ordering::Relaxed);
        }
        helps
    }
}

impl TimeSource for Clock {
    fn now(&self) -> SystemTime {
        #[expect(clippy::disallowed_methods, reason = "signatures have a time in them")]
        let now = SystemTime::now();
        let ahead = self.0.load(Ordering::Relaxed);
        let by = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { now - by } else { now + by }
    }
}

/// The client of `http.rs`, as AWS's library takes it.
#[derive(Debug, Clone)]
struct Http(HttpClient);

impl AwsHttpClient for Http {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl AwsHttpConnector for Http {
    fn call(&self, request: AwsRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let (mut parts, body) = request.into_parts();
            // The library names itself here, and is named by `x-amz-user-agent` as well.
            parts.headers.insert(USER_AGENT, HeaderValue::from_static(super::http::PROGRAM));
            let body = body.collect().await.map_err(ConnectorError::user)?.to_bytes();
            let answer = client.execute(HttpRequest::from_parts(parts, body.into())).await;
            let answer = answer.map_err(|error| match error.kind() {
                HttpErrorKind::Timeout => ConnectorError::timeout(error.into()),
                _ => ConnectorError::io(error.into()),
            })?;
            let (parts, body) = answer.into_parts();
            let mut answer = AwsResponse::new(parts.status.into(), SdkBody::from_body_1_x(body));
            for (name, value) in &parts.headers {
                // The library refuses whole answers for a header that nobody needs and that is not of its form.
                if let (true, Ok(value)) = (HEADERS.contains(&name.as_str()), value.to_str()) {
                    answer.headers_mut().append(name.as_str().to_owned(), value.to_owned());
                }
            }
            Ok(answer)
        })
    }
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({})", self.bucket)
    }
}

impl fmt::Display for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.bucket)
    }
}

fn meta(location: &Path, size: Option<i64>) -> ObjectMeta {
    let size = u64::try_from(size.unwrap_or_default()).unwrap_or_default();
    ObjectMeta { location: location.clone(), last_modified: Default::default(), size, e_tag: None, version: None }
}

#[async_trait]
impl ObjectStore for S3 {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        let create = matches!(options.mode, PutMode::Create);
        // Of one piece: nothing is copied.
        let payload = Bytes::from(payload);
        let acl = self.needs_acl.load(Ordering::Relaxed);
        let mut put = self.put(location.as_ref(), payload.clone(), create, acl).await;
        let denied =
            |put: &Result<(), Failed>| matches!(put, Err(failed) if failed.code.as_deref() == Some("AccessDenied"));
        if denied(&put) && !acl && !self.stored.load(Ordering::Relaxed) {
            // Buckets of another account often take objects only if their owner may do all with them.
            put = self.put(location.as_ref(), payload.clone(), create, true).await;
            self.needs_acl.store(!denied(&put), Ordering::Relaxed);
        }
        match put {
            Ok(()) => {
                self.stored.store(true, Ordering::Relaxed);
                Ok(PutResult { e_tag: None, version: None, extensions: Default::default() })
            }
            Err(Failed { status: Some(304 | 409 | 412), error, .. }) if create => {
                Err(object_store::Error::AlreadyExists { path: location.to_string(), source: error })
            }
            Err(failed) => Err(failed.into()),
        }
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let (key, bucket, payer) = (location.as_ref(), self.bucket.as_str(), self.payer());
        let (size, body) = if options.head {
            let request = self.client.head_object().bucket(bucket).key(key).set_request_payer(payer);
            let head = request.send().await.map_err(|error| self.failed(key, error))?;
            (head.content_length, ByteStream::default())
        } else {
            let request = self.client.get_object().bucket(bucket).key(key).set_request_payer(payer);
            let object = request.send().await.map_err(|error| self.failed(key, error))?;
            (object.content_length, object.body)
        };
        let pieces = stream::try_unfold(body, |mut body| async move {
            let piece = body.try_next().await;
            let piece = piece.map_err(|error| object_store::Error::Generic { store: "S3", source: error.into() })?;
            Ok(piece.map(|piece| (piece, body)))
        });
        let meta = meta(location, size);
        Ok(GetResult {
            payload: GetResultPayload::Stream(pieces.boxed()),
            range: 0..meta.size,
            meta,
            attributes: Attributes::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        locations
            .and_then(move |location| {
                let this = this.clone();
                async move {
                    let request = this.client.delete_object().bucket(&this.bucket).key(location.as_ref());
                    let deleted = request.set_request_payer(this.payer()).send().await;
                    deleted.map_err(|error| this.failed(location.as_ref(), error))?;
                    Ok(location)
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let this = self.clone();
        // Directory buckets list whole directories alone.
        let prefix = prefix.map(|prefix| format!("{prefix}/"));
        let pages = stream::try_unfold(Some(None::<String>), move |token| {
            let (this, prefix) = (this.clone(), prefix.clone());
            async move {
                let Some(token) = token else { return Ok(None) };
                let request = this.client.list_objects_v2().bucket(&this.bucket).set_prefix(prefix);
                let request = request.set_continuation_token(token).set_request_payer(this.payer());
                let page = request.send().await.map_err(|error| this.failed("", error))?;
                let next = match page.is_truncated() {
                    Some(true) => page.next_continuation_token.map(Some),
                    _ => None,
                };
                let objects = page.contents.unwrap_or_default().into_iter().filter_map(|object| {
                    let location = Path::parse(object.key?).ok()?;
                    Some(Ok(meta(&location, object.size)))
                });
                Ok::<_, object_store::Error>(Some((stream::iter(objects.collect::<Vec<_>>()), next)))
            }
        });
        pages.try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(object_store::Error::NotImplemented {
            operation: "list_with_delimiter".to_owned(),
            implementer: "S3".to_owned(),
        })
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(object_store::Error::NotImplemented { operation: "put_multipart".to_owned(), implementer: "S3".to_owned() })
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(object_store::Error::NotImplemented { operation: "copy".to_owned(), implementer: "S3".to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_its_own_next_step() {
        let step = |code, answer: Answer| next_step(code, &answer).unwrap_or_default();
        let answer = |region: &str| Answer { region: Some(region.to_owned()), ..Answer::default() };
        assert!(step("AuthorizationHeaderMalformed", answer("eu-west-1")).ends_with("give --store-region eu-west-1"));
        let skewed = Answer { clock_ahead: Some(1200), ..Answer::default() };
        assert_eq!(
            step("RequestTimeTooSkewed", skewed),
            "this machine's clock is 20 minutes behind the service's: set it"
        );
        let refused = Answer { header: Some(CHECKSUM.to_owned()), ..Answer::default() };
        assert!(step("NotImplemented", refused).contains("AWS_REQUEST_CHECKSUM_CALCULATION=when_required"));
        assert_eq!(step("MethodNotAllowed", Answer::default()), "");
    }

    #[test]
    fn a_clock_is_set_right_once_and_not_to_a_far_day() {
        let clock = Clock::default();
        assert!(!clock.correct(TOLERATED_SKEW), "that is not why");
        assert!(clock.correct(-3600));
        assert!(!clock.correct(-3590), "it is right already");
        assert!(!clock.correct(MAX_SKEW + 1));
        #[expect(clippy::disallowed_methods, reason = "compared with it")]
        let behind = SystemTime::now().duration_since(clock.now()).unwrap();
        assert!((3500..3700).contains(&behind.as_secs()), "{behind:?}");
    }
}

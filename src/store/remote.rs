//! A bucket of a service as a store, in halves that each make one kind of request.
//!
//! A put is one request with `If-None-Match: *` (docs/design.md, "Stores"): no HEAD, GET or LIST, and no look-up of the bucket.
//! Requests are repeated by [`crate::retry`], and by nothing below it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::http::{Answer, Bounds, Redirect, observe};
use super::url::Service;
use super::{BucketUrl, Collect, Get, ObjectName, PutIfAbsent, PutOutcome, Sink};
use crate::digest::Sha256;
use crate::error::{first_cause, first_line};
use crate::retry::{Failure, PATIENCE, PATIENCE_AT_FIRST, repeat};
use crate::runtime::Services;
use crate::store::RootId;
use crate::{Error, ErrorKind, Result};

/// What the condition is tried on before the first chunk.
pub(super) const PROBE: &[u8] = b"coldpress asks with this object whether the store keeps what is there\n";

/// Maximum number of manifests of a root: a thousand pages of S3, of which a hundred megabytes of memory are needed.
const MAX_MANIFESTS: usize = 1_000_000;

/// A bucket, and what may be asked of it.
#[derive(Clone)]
pub(super) struct Bucket {
    pub(super) services: Services,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) url: BucketUrl,
    /// Whether it ever answered.
    pub(super) answered: Arc<AtomicBool>,
}

/// What became of one put request.
pub(super) type Put = Result<PutOutcome, Failure>;

impl Bucket {
    fn key(&self, name: &ObjectName) -> Path {
        Path::from(self.url.key(name.as_str()))
    }

    fn ask<F: Future>(&self, bounds: Bounds, request: F) -> (F::Output, Answer) {
        self.heard(self.services.wait(observe(bounds, request)))
    }

    fn heard<T>(&self, (output, answer): (T, Answer)) -> (T, Answer) {
        if answer.status.is_some() {
            self.answered.store(true, Ordering::Relaxed);
        }
        (output, answer)
    }

    /// Makes `request` again where that may help.
    pub(super) fn repeat<T>(&self, request: impl FnMut() -> Result<T, Failure>) -> Result<T> {
        let patience = || if self.answered.load(Ordering::Relaxed) { PATIENCE } else { PATIENCE_AT_FIRST };
        repeat(patience, request)
    }

    /// One request.
    pub(super) fn put_once(&self, name: &ObjectName, payload: &PutPayload, mode: PutMode) -> Put {
        let options = PutOptions { mode, ..PutOptions::default() };
        let (put, answer) = self.ask(Bounds::SHORT, self.store.put_opts(&self.key(name), payload.clone(), options));
        match put {
            Ok(_) => Ok(PutOutcome::Stored),
            Err(object_store::Error::AlreadyExists { .. }) if self.says_present(&answer) => Ok(PutOutcome::Present),
            Err(error) => Err(failure(self.url.service, name, &error, &answer)),
        }
    }

    /// S3 and Google answer 412 to a put of what is there; S3's 409 says that another put is under way, Azure's that it is there.
    fn says_present(&self, answer: &Answer) -> bool {
        match answer.status {
            Some(409) => self.url.service == Service::Azure,
            _ => true,
        }
    }

    /// One request.
    pub(super) fn get_once(&self, name: &ObjectName, limit: u64, head: bool) -> Result<Vec<u8>, Failure> {
        let options = GetOptions { head, ..GetOptions::default() };
        let (store, key) = (Arc::clone(&self.store), self.key(name));
        // A long body comes in many pieces, each of which would wake this thread.
        let got = self.services.run(observe(Bounds::object(limit), async move {
            let object = store.get_opts(&key, options).await?;
            // No more is taken into memory than such an object can have.
            match object.meta.size <= limit {
                true => object.bytes().await.map(Some),
                false => Ok(None),
            }
        }));
        let (got, answer) = self.heard(got);
        match got {
            Ok(Some(bytes)) => Ok(bytes.into()),
            Ok(None) => {
                let message = format!("object {name}: longer than the {limit} bytes that it can have");
                Err(Failure::Final(Error::new(ErrorKind::Corrupt, message)))
            }
            Err(error) => Err(failure(self.url.service, name, &error, &answer)),
        }
    }

    /// One request, whose answer `sink` takes.
    fn stream_once(&self, name: &ObjectName, limit: u64, sink: &mut dyn Sink) -> Result<(), Failure> {
        let key = self.key(name);
        let (got, answer) = self.ask(Bounds::object(limit), async {
            let object = self.store.get_opts(&key, GetOptions::default()).await?;
            let begun = sink.begin(object.meta.size);
            let mut pieces = object.into_stream();
            let mut taken = begun;
            while taken.is_ok()
                && let Some(piece) = pieces.next().await
            {
                taken = sink.take(&piece?);
            }
            Ok(taken)
        });
        match got {
            Ok(taken) => taken.map_err(Failure::Final),
            Err(error) => Err(failure(self.url.service, name, &error, &answer)),
        }
    }

    /// Lists what lies below `prefix`, as far as `keep` wants it: names, relative to the store. One page is asked for at a time.
    pub(super) fn list_once<T>(
        &self,
        prefix: &str,
        most: usize,
        keep: impl Fn(&str) -> Option<T>,
    ) -> Result<Vec<T>, Failure> {
        let key = self.url.key(prefix);
        let own = |key: &str| match self.url.prefix.as_str() {
            "" => Some(key.to_owned()),
            prefix => key.strip_prefix(prefix)?.strip_prefix('/').map(str::to_owned),
        };
        let (listed, answer) = self.ask(Bounds::LIST, async {
            let mut pages = self.store.list(Some(&Path::from(key.as_str())));
            let mut kept = Vec::new();
            while kept.len() <= most
                && let Some(object) = pages.next().await
            {
                kept.extend(own(object?.location.as_ref()).and_then(|name| keep(&name)));
            }
            Ok(kept)
        });
        listed.map_err(|error| failure(self.url.service, &key, &error, &answer))
    }

    /// Asks for the first page of a listing.
    pub(super) fn list_first(&self, prefix: &str) -> Result<(), Failure> {
        let key = self.url.key(prefix);
        let request = async { self.store.list(Some(&Path::from(key.as_str()))).next().await.transpose() };
        let (listed, answer) = self.ask(Bounds::LIST, request);
        listed.map(drop).map_err(|error| failure(self.url.service, &key, &error, &answer))
    }

    pub(super) fn delete_once(&self, name: &ObjectName) -> Result<(), Failure> {
        let (deleted, answer) = self.ask(Bounds::SHORT, self.store.delete(&self.key(name)));
        deleted.map_err(|error| failure(self.url.service, name, &error, &answer))
    }
}

/// The half that can only put.
pub(super) struct RemotePut {
    bucket: Bucket,
    in_flight: usize,
    /// Whether the service keeps what is there when a put is conditional.
    conditional: Condition,
}

/// What a service makes of `If-None-Match: *`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Condition {
    /// It keeps what is there.
    Kept,
    /// It takes the header, and overwrites.
    Ignored,
    /// It refuses the header.
    Refused,
}

impl RemotePut {
    /// Puts a small object twice at most, to see whether puts are allowed and whether the condition is kept.
    ///
    /// # Errors
    /// `Denied` where it may not put, `NotFound` where there is no such bucket, `Unavailable`.
    pub(super) fn open(bucket: Bucket, in_flight: usize, root: &RootId) -> Result<Self> {
        let mut put = Self { bucket, in_flight, conditional: Condition::Kept };
        let probe = ObjectName::chunk(root, Sha256::of(PROBE));
        let mut outcome = put.probe(&probe)?;
        if outcome == Some(PutOutcome::Stored) {
            outcome = put.probe(&probe)?;
        }
        put.conditional = match outcome {
            Some(PutOutcome::Present | PutOutcome::Known) => Condition::Kept,
            Some(PutOutcome::Stored) => Condition::Ignored,
            None => Condition::Refused,
        };
        Ok(put)
    }

    /// `None` where the service does not know the condition.
    fn probe(&self, name: &ObjectName) -> Result<Option<PutOutcome>> {
        let payload = PutPayload::from_static(PROBE);
        let put = self.bucket.repeat(|| match self.bucket.put_once(name, &payload, PutMode::Create) {
            Err(Failure::Final(error)) if error.kind() == ErrorKind::Unsupported => Ok(None),
            put => put.map(Some),
        });
        put.map_err(|error| error.within(format!("store {}", self.bucket.url)))
    }
}

impl PutIfAbsent for RemotePut {
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
        let payload = PutPayload::from(bytes.to_vec());
        let mode = if self.conditional == Condition::Refused { PutMode::Overwrite } else { PutMode::Create };
        self.bucket.repeat(|| self.bucket.put_once(name, &payload, mode.clone()))
    }

    fn still_there(&self, _: &ObjectName, _: u64) -> Result<()> {
        // Who may only put cannot ask.
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn warning(&self) -> Option<String> {
        let how = match self.conditional {
            Condition::Kept => return None,
            Condition::Ignored => "ignores",
            Condition::Refused => "does not know",
        };
        Some(format!(
            "store {} {how} If-None-Match: what is there is sent and stored again, equal bytes under equal names; anyone who \
             may put there can also overwrite",
            self.bucket.url
        ))
    }
}

/// The half that can only get.
pub(super) struct RemoteGet(pub(super) Bucket);

impl Get for RemoteGet {
    fn ask(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>, Failure> {
        self.0.get_once(name, limit, false)
    }

    fn get(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>> {
        self.0.repeat(|| self.0.get_once(name, limit, false))
    }

    fn stream(&self, name: &ObjectName, limit: u64, sink: &mut dyn Sink) -> Result<()> {
        self.0.repeat(|| self.0.stream_once(name, limit, sink))
    }

    fn in_flight(&self) -> usize {
        16
    }
}

/// The half that lists and deletes; it gets, too.
pub(super) struct RemoteCollect(pub(super) RemoteGet);

impl Collect for RemoteCollect {
    fn get(&self) -> &dyn Get {
        &self.0
    }

    fn manifests(&self, root: &RootId) -> Result<Vec<ObjectName>> {
        let (bucket, prefix) = (&self.0.0, ObjectName::manifests(root));
        let keep = |name: &str| ObjectName::parse_manifest(root, name);
        let names = bucket.repeat(|| bucket.list_once(&prefix, MAX_MANIFESTS, keep))?;
        if names.len() > MAX_MANIFESTS {
            let message = format!("store {}: more than {MAX_MANIFESTS} objects are listed below {prefix}", bucket.url);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(names)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        self.0.0.repeat(|| match self.0.0.delete_once(name) {
            Err(Failure::Final(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        })
    }
}

/// What an answer means for whoever asked; `answer` is empty where none was noted.
fn failure(service: Service, object: impl std::fmt::Display, error: &object_store::Error, answer: &Answer) -> Failure {
    use object_store::Error as E;
    if let Some(refused) = answer.refused {
        return Failure::Final(Error::new(
            ErrorKind::Corrupt,
            format!("object {object}: the service does not keep to what was asked: {refused}"),
        ));
    }
    let reason = Reason::of(error);
    let kind = match (answer.status, error) {
        // S3 says so with 400.
        _ if matches!(reason.code.as_deref(), Some("RequestTimeout" | "SlowDown" | "InternalError")) => {
            ErrorKind::Unavailable
        }
        _ if matches!(reason.code.as_deref(), Some("ExpiredToken" | "InvalidToken")) => ErrorKind::Denied,
        (Some(408 | 409 | 429), _) => ErrorKind::Unavailable,
        (Some(501), _) => ErrorKind::Unsupported,
        (Some(401 | 403), _) => ErrorKind::Denied,
        (Some(404), _) => ErrorKind::NotFound,
        (Some(500..=599) | None, E::Generic { .. }) => ErrorKind::Unavailable,
        (_, E::NotFound { .. }) => ErrorKind::NotFound,
        (_, E::PermissionDenied { .. } | E::Unauthenticated { .. }) => ErrorKind::Denied,
        (_, E::AlreadyExists { .. } | E::Precondition { .. }) => ErrorKind::Unavailable,
        (_, E::NotImplemented { .. } | E::NotSupported { .. }) => ErrorKind::Unsupported,
        // The body broke off.
        (Some(200..=299), _) => ErrorKind::Unavailable,
        _ => ErrorKind::Input,
    };
    let error = Error::new(kind, format!("object {object}: {}", reason.text(service, answer)));
    match kind {
        ErrorKind::Unavailable => {
            Failure::Again { error, after: answer.retry_after.map(|after| after.min(MOST_AFTER)) }
        }
        _ => Failure::Final(error),
    }
}

/// No service may make a client wait longer between two requests.
const MOST_AFTER: Duration = Duration::from_secs(60);

/// What was answered, without addresses, headers or bodies: these can have credentials in them.
struct Reason {
    /// The service's own word, such as `AccessDenied`.
    code: Option<String>,
    /// What happened where there was no answer.
    innermost: String,
}

impl Reason {
    fn of(error: &object_store::Error) -> Self {
        let innermost = first_cause(error);
        let code =
            innermost.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
        let code = code.filter(|code| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        Self { code: code.map(str::to_owned), innermost }
    }

    fn text(self, service: Service, answer: &Answer) -> String {
        let redirect = answer.redirect.as_ref().map(|to| redirected(service, to)).unwrap_or_default();
        match (answer.status, self.code) {
            (Some(status), Some(code)) => format!("the service answered {status} ({code}){redirect}"),
            (Some(status), None) => format!("the service answered {status}{redirect}"),
            (None, Some(code)) => format!("the service answered {code}"),
            (None, None) => first_line(&self.innermost).to_owned(),
        }
    }
}

/// What to say of a redirect, which is not followed.
fn redirected(service: Service, to: &Redirect) -> String {
    let host = match &to.host {
        Some(host) => {
            format!(" and redirects to {host}; redirects are not followed, since credentials would go there too")
        }
        None => String::new(),
    };
    let of_aws = |host: &String| host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
    match &to.region {
        Some(region) => format!("{host}; the bucket is in the region {region}: give --store-region {region}"),
        None if service == Service::S3 && to.host.as_ref().is_none_or(of_aws) => {
            format!("{host}; is the bucket in another region? (--store-region)")
        }
        None if to.host.is_some() => format!("{host}; if the store is there, name it with --store-endpoint"),
        None => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a service answers, as `object_store` tells of it.
    fn answered(status: u16, body: &str) -> Failure {
        let error = object_store::Error::Generic { store: "S3", source: format!("status {status}: {body}").into() };
        failure(Service::S3, "o", &error, &Answer { status: Some(status), ..Answer::default() })
    }

    fn kind(failure: &Failure) -> ErrorKind {
        match failure {
            Failure::Again { error, .. } | Failure::Final(error) => error.kind(),
        }
    }

    #[test]
    fn answers_are_told_apart_by_status_and_code() {
        for (status, body, wanted) in [
            (400, "<Code>RequestTimeout</Code>", ErrorKind::Unavailable),
            (400, "<Code>ExpiredToken</Code>", ErrorKind::Denied),
            (400, "<Code>BadDigest</Code>", ErrorKind::Input),
            (403, "", ErrorKind::Denied),
            (404, "<Code>NoSuchBucket</Code>", ErrorKind::NotFound),
            (409, "", ErrorKind::Unavailable),
            (429, "", ErrorKind::Unavailable),
            (501, "", ErrorKind::Unsupported),
            (503, "<Code>SlowDown</Code>", ErrorKind::Unavailable),
        ] {
            assert_eq!(kind(&answered(status, body)), wanted, "{status} {body}");
        }
    }

    #[test]
    fn a_body_is_not_told_but_for_its_code() {
        let text = |failure: Failure| match failure {
            Failure::Again { error, .. } | Failure::Final(error) => error.to_string(),
        };
        let told = text(answered(403, "<Code>SignatureDoesNotMatch</Code><Key>secret</Key>"));
        assert_eq!(told, "object o: the service answered 403 (SignatureDoesNotMatch)");
        assert!(text(answered(403, "<Code>a secret: x</Code>")).ends_with("answered 403"));
    }

    #[test]
    fn a_redirect_names_its_host_and_the_next_step_that_fits() {
        let told = |service, host: Option<&str>, region: Option<&str>| {
            redirected(service, &Redirect { host: host.map(str::to_owned), region: region.map(str::to_owned) })
        };
        assert_eq!(told(Service::S3, None, None), "; is the bucket in another region? (--store-region)");
        assert!(told(Service::S3, Some("s3.eu-west-1.amazonaws.com"), None).ends_with("(--store-region)"));
        assert!(told(Service::S3, Some("x"), Some("eu-west-1")).ends_with("give --store-region eu-west-1"));
        let elsewhere = told(Service::S3, Some("evil.example:8443"), None);
        assert!(elsewhere.contains("redirects to evil.example:8443") && elsewhere.ends_with("--store-endpoint"));
        assert_eq!(told(Service::Azure, None, None), "");
    }
}

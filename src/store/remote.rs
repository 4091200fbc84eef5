//! A bucket of a service as a store, in halves that each make one kind of request.
//!
//! A put is one request with `If-None-Match: *` (docs/design.md, "Stores"): no HEAD, GET or LIST, and no look-up of the bucket.
//! Requests are repeated by [`crate::net::retry`], and by nothing below it.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt;
use object_store::path::Path;
use object_store::{GetOptions, ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};

use super::failure::{failure, is_immutable};
use super::http::{Answer, Bounds, observe};
use super::open::REQUEST_TIMEOUT;
use super::url::Service;
use super::{BucketUrl, Collect, Get, ObjectName, PutIfAbsent, PutOutcome, Sink};
use crate::digest::{Sha256, to_hex};
use crate::net::retry::{self, Failure, PATIENCE, PATIENCE_AT_FIRST, repeat};
use crate::net::runtime::Services;
use crate::net::wait;
use crate::random::random_bytes;
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
    /// What messages call it: its address, and where it is.
    pub(super) name: Arc<str>,
    /// Whether it ever answered.
    pub(super) answered: Arc<AtomicBool>,
}

/// What became of one put request.
pub(super) type Put = Result<PutOutcome, Failure>;

/// How a store refuses a put: the code of its 403.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    code: Option<String>,
}

/// Whether the answer to a conditional put says that the object is there. S3 and Google answer 412, and S3's 409 says that another put
/// is under way. Azure answers 409, and 403 to credentials that may create and not write; its other 409s say something else.
fn says_present(service: Service, error: &object_store::Error, answer: &Answer) -> bool {
    match (service, answer.status, answer.code.as_deref()) {
        (Service::Azure, Some(403), Some("UnauthorizedBlobOverwrite")) => true,
        (Service::Azure, Some(409), code) => code.is_none_or(|code| code == "BlobAlreadyExists" || is_immutable(code)),
        // Some servers that speak like S3 say so; S3 itself never does.
        (Service::S3, Some(409), Some("FileAlreadyExists" | "ObjectAlreadyExists")) => true,
        (_, Some(409), _) => false,
        _ => matches!(error, object_store::Error::AlreadyExists { .. }),
    }
}

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
        let service = retry::Service { name: &self.name, timeout: REQUEST_TIMEOUT };
        repeat(service, patience, request)
    }

    /// Names the store in an error that names the object alone.
    pub(super) fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| error.within(&self.name))
    }

    /// One request.
    pub(super) fn put_once(&self, name: &ObjectName, payload: &PutPayload, mode: PutMode) -> Put {
        self.put_or_refusal(name, payload, mode).0
    }

    /// One request, and how the service refused it, where it did.
    fn put_or_refusal(&self, name: &ObjectName, payload: &PutPayload, mode: PutMode) -> (Put, Option<Refused>) {
        let options = PutOptions { mode: mode.clone(), ..PutOptions::default() };
        let (put, answer) = self.ask(Bounds::SHORT, self.store.put_opts(&self.key(name), payload.clone(), options));
        let put = match put {
            Ok(_) => Ok(PutOutcome::Stored),
            Err(error) if matches!(mode, PutMode::Create) && says_present(self.url.service, &error, &answer) => {
                Ok(PutOutcome::Present)
            }
            Err(error) => Err(failure(self.url.service, name, &error, &answer)),
        };
        // Without an answer, nobody refused it.
        let is_refused =
            answer.status.is_some() && matches!(&put, Err(Failure::Final(error)) if error.kind() == ErrorKind::Denied);
        let refused = (is_refused && answer.credentials_from.is_none()).then_some(Refused { code: answer.code });
        (put, refused)
    }

    /// Whether an object of no use to anyone, of a name that was never used, can be put: so a missing right is told from a store that
    /// refuses to overwrite in the same words.
    pub(super) fn may_put(&self, root: &RootId) -> Result<bool> {
        let bytes = [PROBE, to_hex(&random_bytes::<16>()?).as_bytes()].concat();
        let (name, payload) = (ObjectName::chunk(root, Sha256::of(&bytes)), PutPayload::from(bytes));
        self.repeat(|| match self.put_or_refusal(&name, &payload, PutMode::Create) {
            (Err(Failure::Final(_)), Some(_)) => Ok(false),
            (put, _) => put.map(|_| true),
        })
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
                let message = format!("object {name}: longer than the {limit} bytes that are expected");
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
                let piece = piece?;
                wait::heard(&self.name);
                taken = sink.take(&piece);
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
    root: RootId,
    in_flight: usize,
    /// Whether the service keeps what is there when a put is conditional.
    conditional: Condition,
    /// Whether a refusal was taken for "is there".
    claimed: AtomicBool,
}

/// What a service makes of a conditional put of what is there.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Condition {
    /// It keeps what is there, and says so.
    Kept,
    /// It keeps what is there, and refuses in the words in which it refuses missing rights: a store that is written once.
    WrittenOnce(Refused),
    /// It takes the header, and overwrites.
    Ignored,
    /// It does not know the header.
    Unknown,
}

/// What became of the small object that is put first.
enum Probed {
    Put(PutOutcome),
    /// The service does not know the condition.
    Unknown,
    Refused(Refused, Error),
}

impl RemotePut {
    /// Puts a small object twice at most, to see whether puts are allowed and whether the condition is kept; where it is refused, another
    /// tells why.
    ///
    /// # Errors
    /// `Denied` where it may not put, `NotFound` where there is no such bucket, `Unavailable`.
    pub(super) fn open(bucket: Bucket, in_flight: usize, root: &RootId) -> Result<Self> {
        let within = |error: Error| error.within(&bucket.name);
        let probe = ObjectName::chunk(root, Sha256::of(PROBE));
        let (first, second) = match Self::probe(&bucket, &probe).map_err(within)? {
            first @ Probed::Put(PutOutcome::Stored) => (first, Some(Self::probe(&bucket, &probe).map_err(within)?)),
            first => (first, None),
        };
        let was_stored = second.is_some();
        let conditional = match second.unwrap_or(first) {
            Probed::Put(PutOutcome::Present | PutOutcome::Known) => Condition::Kept,
            Probed::Put(PutOutcome::Stored) => Condition::Ignored,
            Probed::Unknown => Condition::Unknown,
            Probed::Refused(refused, _) if was_stored || bucket.may_put(root).map_err(within)? => {
                Condition::WrittenOnce(refused)
            }
            Probed::Refused(_, error) => return Err(within(error)),
        };
        Ok(Self { bucket, root: root.clone(), in_flight, conditional, claimed: AtomicBool::new(false) })
    }

    fn probe(bucket: &Bucket, name: &ObjectName) -> Result<Probed> {
        let payload = PutPayload::from_static(PROBE);
        bucket.repeat(|| match bucket.put_or_refusal(name, &payload, PutMode::Create) {
            (Err(Failure::Final(error)), Some(refused)) => Ok(Probed::Refused(refused, error)),
            // The service may not know the condition, or something else of the request: without the condition it shows.
            (Err(Failure::Final(error)), None) if matches!(error.kind(), ErrorKind::Unsupported | ErrorKind::Input) => {
                match bucket.put_once(name, &payload, PutMode::Overwrite) {
                    Ok(_) => Ok(Probed::Unknown),
                    Err(_) => Err(Failure::Final(error)),
                }
            }
            (put, _) => put.map(Probed::Put),
        })
    }

    /// Before a manifest names what was taken for stored because it was refused: the right to put must still be there, or the refusals
    /// meant something else.
    fn check_claims(&self) -> Result<()> {
        if self.claimed.load(Ordering::Relaxed) && !self.bucket.may_put(&self.root)? {
            let message = format!(
                "store {}: access to upload is denied now, so chunks that were denied before may be missing",
                self.bucket.url
            );
            return Err(Error::new(ErrorKind::Denied, message).with_hint(
                "the permission to upload was revoked during the conversion; grant it again and run the same command",
            ));
        }
        Ok(())
    }
}

impl PutIfAbsent for RemotePut {
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome> {
        let payload = PutPayload::from(bytes.to_vec());
        let mode = if self.conditional == Condition::Unknown { PutMode::Overwrite } else { PutMode::Create };
        let Condition::WrittenOnce(refused) = &self.conditional else {
            return self.bucket.named(self.bucket.repeat(|| self.bucket.put_once(name, &payload, mode.clone())));
        };
        // A manifest has a name that was never there, so that a refusal of it is one.
        if name.is_manifest() {
            self.check_claims()?;
            return self.bucket.named(self.bucket.repeat(|| self.bucket.put_once(name, &payload, mode.clone())));
        }
        self.bucket.named(self.bucket.repeat(|| match self.bucket.put_or_refusal(name, &payload, mode.clone()) {
            (Err(Failure::Final(_)), Some(reason)) if reason == *refused => {
                self.claimed.store(true, Ordering::Relaxed);
                Ok(PutOutcome::Present)
            }
            (put, _) => put,
        }))
    }

    fn still_there(&self, _: &ObjectName, _: u64) -> Result<()> {
        // Who may only put cannot ask.
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.in_flight
    }

    fn warning(&self) -> Option<String> {
        let how = match &self.conditional {
            Condition::Kept | Condition::WrittenOnce(_) => return None,
            Condition::Ignored => "ignores",
            Condition::Unknown => "does not know",
        };
        Some(format!(
            "store {} {how} If-None-Match: stored chunks are uploaded again (the same bytes), and credentials that \
             can upload can also overwrite",
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
        self.0.named(self.0.repeat(|| self.0.get_once(name, limit, false)))
    }

    fn stream(&self, name: &ObjectName, limit: u64, sink: &mut dyn Sink) -> Result<()> {
        self.0.named(self.0.repeat(|| self.0.stream_once(name, limit, sink)))
    }

    fn in_flight(&self) -> usize {
        16
    }

    fn service(&self) -> Option<&str> {
        Some(&self.0.name)
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
        let names = bucket.named(bucket.repeat(|| bucket.list_once(&prefix, MAX_MANIFESTS, keep)))?;
        if names.len() > MAX_MANIFESTS {
            let message = format!("store {}: more than {MAX_MANIFESTS} objects are listed below {prefix}", bucket.url);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(names)
    }

    fn delete(&self, name: &ObjectName) -> Result<()> {
        let deleted = self.0.0.repeat(|| match self.0.0.delete_once(name) {
            Err(Failure::Final(error)) if error.kind() == ErrorKind::NotFound => Ok(()),
            deleted => deleted,
        });
        self.0.0.named(deleted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_answer_that_says_so_counts_as_present() {
        let present = |service, status, code: &str| {
            let source = || format!("status {status}").into();
            let error = match status {
                409 | 412 => object_store::Error::AlreadyExists { path: "o".to_owned(), source: source() },
                _ => object_store::Error::PermissionDenied { path: "o".to_owned(), source: source() },
            };
            let code = (!code.is_empty()).then(|| code.to_owned());
            says_present(service, &error, &Answer { status: Some(status), code, ..Answer::default() })
        };
        for (service, status, code, wanted) in [
            (Service::S3, 412, "PreconditionFailed", true),
            (Service::S3, 409, "ConditionalRequestConflict", false),
            (Service::S3, 409, "ObjectAlreadyExists", true),
            (Service::S3, 409, "", false),
            (Service::S3, 403, "AccessDenied", false),
            (Service::Gcs, 412, "PreconditionFailed", true),
            (Service::Gcs, 403, "AccessDenied", false),
            (Service::Azure, 409, "BlobAlreadyExists", true),
            (Service::Azure, 409, "", true),
            (Service::Azure, 409, "BlobImmutableDueToPolicy", true),
            (Service::Azure, 409, "ContainerBeingDeleted", false),
            (Service::Azure, 409, "BlobBeingRehydrated", false),
            (Service::Azure, 412, "ConditionNotMet", true),
            (Service::Azure, 403, "UnauthorizedBlobOverwrite", true),
            (Service::Azure, 403, "AuthorizationPermissionMismatch", false),
            (Service::Azure, 403, "AuthenticationFailed", false),
        ] {
            assert_eq!(present(service, status, code), wanted, "{service:?} {status} {code}");
        }
    }
}

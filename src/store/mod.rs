//! Object stores, in two halves: who puts cannot get, who gets cannot put.
//!
//! Chunks lie at `ROOT/NAME`, block manifests at `manifests/ROOT/NAME`, NAME being 64 hexadecimal digits of the SHA-256 of
//! what is stored. Nothing here deletes, and only a damaged object in a directory is replaced.

mod azure;
pub mod conformance;
mod environment;
mod external_account;
mod failure;
mod google;
mod http;
mod known;
mod limited;
mod local;
mod names;
mod open;
mod planned;
mod probe;
mod remote;
mod s3;
mod url;

pub use environment::{subject_token_file, variables};
pub use known::{Known, KnownPuts};
pub use limited::{LimitedStore, Uploaded};
pub use names::{ObjectName, ParseRootIdError, RootId};
pub use open::{IN_FLIGHT, Settings, Style, open_collect, open_get, open_get_later, open_put, open_repair, place};
pub use planned::Planned;
pub use probe::{Found, Operation, Probe};
pub use s3::S3Settings;
pub use url::{BucketUrl, ParseStoreError, Service, StoreUrl, is_store_hint};

use crate::Result;
pub use crate::net::aws::configured_endpoint;
pub use crate::net::retry::Failure;

/// What became of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutOutcome {
    /// It was not there and is now.
    Stored,
    /// Something of that name was there already.
    Present,
    /// An earlier conversion saw it stored, so nothing was sent.
    Known,
}

/// Puts objects that are not there yet.
pub trait PutIfAbsent: Sync {
    /// Puts `bytes` under `name`, whole or not at all. When a manifest's name appears, all that was put before is durable; when this
    /// returns for a manifest, so is the manifest.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`, or `Corrupt` where what stands under the name can neither be the object nor be replaced, naming the
    /// object.
    fn put_if_absent(&self, name: &ObjectName, bytes: &[u8]) -> Result<PutOutcome>;

    /// Whether what was put, `length` bytes, is there, as far as the store can tell whoever may only put: asked for every chunk
    /// before a manifest names it.
    ///
    /// # Errors
    /// `Unavailable` where it is gone or has another length, naming the object.
    fn still_there(&self, name: &ObjectName, length: u64) -> Result<()>;

    /// Whether `length` bytes are known to be there, by whoever may not ask a service for them.
    fn has(&self, _name: &ObjectName, _length: u64) -> bool {
        false
    }

    /// How many puts at a time serve it best; 1 where a put does not wait.
    fn in_flight(&self) -> usize {
        1
    }

    /// Whether nothing is put, and what would be is counted.
    fn only_plans(&self) -> bool {
        false
    }

    /// What a person should know of this store.
    fn warning(&self) -> Option<String> {
        None
    }
}

/// Gets objects.
pub trait Get: Send + Sync {
    /// The bytes under `name`, at most `limit`, by one request; they are not checked.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`, or `Corrupt` where there are more, naming the object.
    fn ask(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>, Failure>;

    /// The same by as many requests as may help.
    ///
    /// # Errors
    /// Those of the last request.
    fn get(&self, name: &ObjectName, limit: u64) -> Result<Vec<u8>>;

    /// Reads the object in pieces, for what may be too long to be held whole; `sink` takes them. Repeated as [`Get::get`], by which it is
    /// read where a store does no better.
    ///
    /// # Errors
    /// Those of the last request, `Corrupt` where there are more bytes than `limit`, and those of `sink`.
    fn stream(&self, name: &ObjectName, limit: u64, sink: &mut dyn Sink) -> Result<()> {
        let bytes = self.get(name, limit)?;
        sink.begin(bytes.len() as u64)?;
        sink.take(&bytes)
    }

    /// How many gets at a time serve it best; 1 where a get does not wait.
    fn in_flight(&self) -> usize {
        1
    }

    /// Returns what messages call the service: its address, and where it is; `None` where errors name the store's file.
    fn service(&self) -> Option<&str> {
        None
    }
}

/// Takes an object in pieces.
pub trait Sink: Send {
    /// Begins an object of `length` bytes, anew where a request before brought only a part.
    ///
    /// # Errors
    /// What ends the reading.
    fn begin(&mut self, length: u64) -> Result<()>;

    /// Takes the next bytes.
    ///
    /// # Errors
    /// What ends the reading.
    fn take(&mut self, piece: &[u8]) -> Result<()>;
}

/// Lists manifests, and deletes: for whoever collects what is no longer used.
pub trait Collect: Send + Sync {
    /// It gets, too.
    fn get(&self) -> &dyn Get;

    /// The manifests of a root.
    ///
    /// # Errors
    /// `Denied` or `Unavailable`.
    fn manifests(&self, root: &RootId) -> Result<Vec<ObjectName>>;

    /// Deletes an object; one that is not there is none to delete.
    ///
    /// # Errors
    /// `Denied` or `Unavailable`, naming the object.
    fn delete(&self, name: &ObjectName) -> Result<()>;
}

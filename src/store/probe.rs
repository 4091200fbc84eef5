//! What credentials can and cannot do in a bucket, found by trying it on an object of no use to anyone: for `doctor` alone.

use object_store::{PutMode, PutPayload};

use super::open::bucket;
use super::remote::{Bucket, PROBE};
use super::{BucketUrl, ObjectName, RootId, Settings};
use crate::digest::Sha256;
use crate::net::retry::Failure;
use crate::{ErrorKind, Result};

/// Something that can be asked of a bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Put what is not there.
    Put,
    /// Put without a condition, over what is there.
    Overwrite,
    /// Get by name.
    Get,
    /// Ask for length and date by name.
    Head,
    /// List names.
    List,
    /// Delete by name.
    Delete,
}

/// What was found of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It was carried out.
    Allowed,
    /// It was refused, or what it was tried on is not there: without the right to list, a service answers both alike.
    Refused,
    /// Neither is sure; says why.
    Unclear(String),
}

/// A bucket to try things on.
pub struct Probe {
    bucket: Bucket,
    root: RootId,
}

impl Operation {
    /// All, in an order that tries each on something that is there: deleting comes last.
    pub const ALL: [Self; 6] = [Self::Put, Self::Get, Self::Head, Self::List, Self::Overwrite, Self::Delete];

    /// Its word.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Overwrite => "overwrite",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
        }
    }
}

impl Probe {
    /// Of the bucket, for objects of `root`.
    ///
    /// # Errors
    /// `Input` for settings, `Denied` where there are no credentials.
    pub fn open(url: &BucketUrl, settings: &Settings, root: &RootId) -> Result<Self> {
        Ok(Self { bucket: bucket(url, settings)?, root: root.clone() })
    }

    /// The object that it is tried on.
    #[must_use]
    pub fn object(&self) -> ObjectName {
        ObjectName::chunk(&self.root, Sha256::of(PROBE))
    }

    /// Tries `operation`.
    ///
    /// # Errors
    /// `NotFound` where there is no such bucket; `Unavailable`.
    pub fn try_out(&self, operation: Operation) -> Result<Found> {
        let (name, payload) = (self.object(), PutPayload::from_static(PROBE));
        let tried = self.bucket.repeat(|| {
            let tried = match operation {
                Operation::Put => self.bucket.put_once(&name, &payload, PutMode::Create).map(drop),
                Operation::Overwrite => self.bucket.put_once(&name, &payload, PutMode::Overwrite).map(drop),
                Operation::Get => self.bucket.get_once(&name, PROBE.len() as u64, false).map(drop),
                Operation::Head => self.bucket.get_once(&name, PROBE.len() as u64, true).map(drop),
                Operation::List => self.bucket.list_first(self.root.as_str()),
                Operation::Delete => self.bucket.delete_once(&name),
            };
            match tried {
                Ok(()) => Ok(Found::Allowed),
                // Perhaps it is there from before, and the store refuses to overwrite.
                Err(Failure::Final(error)) if operation == Operation::Put && error.kind() == ErrorKind::Denied => {
                    let may_put = self.bucket.may_put(&self.root).map_err(Failure::Final)?;
                    Ok(if may_put { Found::Allowed } else { Found::Refused })
                }
                Err(Failure::Final(error)) => match error.kind() {
                    ErrorKind::Denied => Ok(Found::Refused),
                    // It would have been told.
                    ErrorKind::NotFound if operation != Operation::Put && operation != Operation::List => {
                        Ok(Found::Allowed)
                    }
                    ErrorKind::Unsupported => Ok(Found::Unclear("the service does not know the condition".to_owned())),
                    _ => Err(Failure::Final(error)),
                },
                Err(again) => Err(again),
            }
        });
        tried.map_err(|error| error.within(format!("store {}", self.bucket.url)))
    }
}

//! The error of an entry that cannot be applied.

use crate::fs::path::Display;
use crate::{Error, ErrorKind};

/// The reason why an entry cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("`{path}`: {reason}")]
pub struct FlattenError {
    pub(super) path: String,
    pub(super) reason: String,
    pub(super) kind: ErrorKind,
}

impl From<FlattenError> for Error {
    fn from(error: FlattenError) -> Self {
        Error::new(error.kind, error.to_string())
    }
}

pub(super) fn refuse(path: &[u8], reason: impl Into<String>) -> FlattenError {
    FlattenError { path: Display(path).to_string(), reason: reason.into(), kind: ErrorKind::Input }
}

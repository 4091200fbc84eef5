//! Checks whether credentials have the permissions that a role needs, and no others (docs/explanation/threat-model.md).
//!
//! Every operation is tried with the given credentials on a probe object that nothing uses. A missing permission stops the work; an
//! excess permission is what a stolen credential would be used for.

pub mod policy;

use std::fmt;
use std::str::FromStr;

use crate::Result;
use crate::keys::kms::{KeyOperation, KmsKey};
use crate::store::{Found, Operation, Probe};

/// A role: the set of permissions that one kind of user of a store and a key needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Uploads chunks and manifests, and requests data keys.
    Converter,
    /// Downloads chunks, and decrypts data keys of manifests.
    Worker,
    /// Repeats a conversion and compares: needs the salt and the image, and no service.
    Verifier,
    /// Lists and deletes objects, and reads the clear parts of manifests.
    Collector,
}

/// A text that is not the name of a role.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a role: use converter, worker, verifier or collector")]
pub struct ParseRoleError(String);

impl Role {
    const ALL: [Self; 4] = [Self::Converter, Self::Worker, Self::Verifier, Self::Collector];

    /// Returns the name of the role as users write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Converter => "converter",
            Self::Worker => "worker",
            Self::Verifier => "verifier",
            Self::Collector => "collector",
        }
    }

    /// Returns whether the role needs `operation` on a store. Permission to get includes permission to head: services do not
    /// distinguish them.
    #[must_use]
    pub fn needs(self, operation: Operation) -> bool {
        match self {
            Self::Converter => operation == Operation::Put,
            Self::Worker => matches!(operation, Operation::Get | Operation::Head),
            Self::Verifier => false,
            Self::Collector => {
                matches!(operation, Operation::Get | Operation::Head | Operation::List | Operation::Delete)
            }
        }
    }

    /// Returns whether the role needs `operation` on a key.
    #[must_use]
    pub fn needs_key(self, operation: KeyOperation) -> bool {
        match self {
            Self::Converter => operation == KeyOperation::GenerateDataKey,
            Self::Worker => operation == KeyOperation::Decrypt,
            Self::Verifier | Self::Collector => false,
        }
    }
}

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, ParseRoleError> {
        Self::ALL.into_iter().find(|role| role.name() == text).ok_or_else(|| ParseRoleError(text.to_owned()))
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The result of trying one operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// `store` or `key`.
    pub of: &'static str,
    /// The name of the operation.
    pub operation: &'static str,
    /// Whether the role needs it.
    pub needed: bool,
    /// Whether it can be done.
    pub found: Found,
}

impl Finding {
    /// Returns whether the credentials allow an operation that the role does not need.
    #[must_use]
    pub fn is_too_much(&self) -> bool {
        !self.needed && self.found == Found::Allowed
    }

    /// Returns whether the credentials do not allow an operation that the role needs.
    #[must_use]
    pub fn is_too_little(&self) -> bool {
        self.needed && self.found != Found::Allowed
    }
}

/// Tries all operations on a store.
///
/// # Errors
/// `NotFound` where there is no such bucket, `Unavailable`.
pub fn examine_store(role: Role, probe: &Probe) -> Result<Vec<Finding>> {
    let try_out = |operation: Operation| {
        let found = probe.try_out(operation)?;
        Ok(Finding { of: "store", operation: operation.name(), needed: role.needs(operation), found })
    };
    Operation::ALL.into_iter().map(try_out).collect()
}

/// Tries all operations on a key.
///
/// # Errors
/// `NotFound` where there is no such key, `Unavailable`.
pub fn examine_key(role: Role, key: &KmsKey, application: &str) -> Result<Vec<Finding>> {
    let try_out = |operation: KeyOperation| {
        let found = if key.allows(operation, application)? { Found::Allowed } else { Found::Refused };
        Ok(Finding { of: "key", operation: operation.name(), needed: role.needs_key(operation), found })
    };
    KeyOperation::ALL.into_iter().map(try_out).collect()
}

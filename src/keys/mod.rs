//! Key providers: whoever encloses the data key of a block manifest — a key file, AWS KMS, or age recipients.
//!
//! docs/manifest-format.md defines the wrap in [`wrap`], docs/key-file.md the file in [`key_file`]. Ciphers are those of
//! [`crate::crypto`]; only [`kms`] uses the network.

#[cfg(feature = "age")]
pub mod age;
pub mod key_file;
pub mod kms;
pub mod wrap;

pub use key_file::KeyFile;
pub use wrap::{KeyWrap, WrappingKey};

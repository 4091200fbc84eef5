//! Key providers, which wrap the data key of a block manifest: a key file, AWS KMS, or age recipients.
//!
//! docs/reference/formats/block-manifest.md defines the wrap in [`wrap`], docs/reference/formats/key-file.md the file in
//! [`key_file`]. Ciphers are those of [`crate::crypto`]; only [`kms`] uses the network.

#[cfg(feature = "age")]
pub mod age;
pub mod key_file;
pub mod kms;
pub mod wrap;

pub use key_file::KeyFile;
pub use wrap::{KeyWrap, WrappingKey};

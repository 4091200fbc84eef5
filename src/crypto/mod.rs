//! Keys, sealing and wrapping. Ciphers and hashes come from `aws-lc-rs`; nothing here computes one itself.
//!
//! docs/sealed-chunk.md defines [`packed`] and [`convergent`], docs/manifest-format.md the wrap in [`wrap`].

#[cfg(feature = "age")]
pub mod age;
pub mod block_seal;
pub mod convergent;
pub mod key_file;
pub mod kms;
pub mod packed;
pub mod sealed_stream;
mod secret;
pub mod shard_seal;
pub mod wrap;

pub use convergent::{ChunkKey, Salt, ScopeId};
pub use key_file::KeyFile;
pub use packed::Codec;
pub(crate) use secret::random_bytes;
pub use secret::{Secret, SecretFile};
pub use wrap::{DataKey, KeyWrap, WrappingKey};

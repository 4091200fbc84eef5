//! Packing, encryption and secrets. Ciphers and hashes come from `aws-lc-rs`; nothing here implements one or uses the network.
//!
//! docs/reference/formats/sealed-chunk.md defines [`packed`] and [`convergent`]; key providers are in `keys`.

pub mod block_seal;
pub mod convergent;
pub mod data_key;
pub mod packed;
pub mod profile_seal;
pub mod sealed_stream;
mod secret;
pub mod shard_seal;

pub use convergent::{ChunkKey, Salt, ScopeId};
pub use data_key::{DataKey, UnwrapError};
pub use packed::Codec;
pub use secret::{Secret, SecretFile};

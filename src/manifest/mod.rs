//! The block manifest: the chunks of a device, their keys, and the image that they are of.
//!
//! docs/reference/formats/block-manifest.md specifies every byte; `codec` has the primitives, [`v1`] encodes and decodes.

mod chunk_ref;
mod codec;
mod recipe;
pub mod root_digest;
pub mod v1;

pub use chunk_ref::{ChunkRef, names_of};
pub use codec::DecodeError;
pub use recipe::Recipe;
pub use v1::{BlockManifest, Clear, LayerInfo, OpenManifest, Sealed};

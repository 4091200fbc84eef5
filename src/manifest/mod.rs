//! The block manifest: which chunks a device is made of, under which keys, and for which image.
//!
//! docs/reference/formats/block-manifest.md specifies every byte; `codec` has the primitives, [`v1`] both halves of the format.

mod chunk_ref;
mod codec;
mod recipe;
pub mod root_digest;
pub mod v1;

pub use chunk_ref::{ChunkRef, names_of};
pub use codec::DecodeError;
pub use recipe::Recipe;
pub use v1::{BlockManifest, Clear, LayerInfo, OpenManifest, Sealed};

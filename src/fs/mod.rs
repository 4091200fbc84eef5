//! A file tree, and the ext4 block image it becomes.
//!
//! [`tree`] is the result of flattening and the only input of [`ext4`]; nothing here depends on tar, keys or stores.
//! [`BlockDevice`] is the seam between reading and serving.

pub mod acl;
mod device;
pub mod ext4;
pub mod path;
pub mod tree;

pub use device::{BlockDevice, WritableDevice};

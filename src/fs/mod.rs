//! A file tree, and the ext4 block image it becomes.
//!
//! [`tree`] is what flattening yields and the only input of [`ext4`]; nothing here knows of tar, keys or stores.

pub mod acl;
mod device;
pub mod ext4;
pub mod path;
pub mod tree;

pub use device::{BlockDevice, WritableDevice};

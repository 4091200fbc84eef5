//! ext4, written and read without a kernel.
//!
//! [`layout`] decides where everything stands (docs/reference/formats/ext4-layout.md, layout epoch 1), [`mod@write`] makes the bytes, [`read`]
//! reads them back. The other files hold one on-disk structure each, both halves of it. The source of every on-disk
//! fact is the kernel's "ext4 Data Structures and Algorithms"; the judges are e2fsck, debugfs and the kernel's mount.

mod csum;
pub mod data_blocks;
mod dirblock;
mod dirhash;
mod extent;
mod inode;
pub mod journal;
pub mod layout;
pub mod read;
mod spec;
pub mod usage;
pub mod walk;
pub mod write;
mod xattr;

pub use spec::{BLOCK_SIZE, BlockAddr, InodeNumber, MAX_NAME};
pub use xattr::is_of_linux as is_linux_xattr;

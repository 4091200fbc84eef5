//! ext4 in user space: layout, writer and reader.
//!
//! [`layout`] assigns all addresses (docs/reference/formats/ext4-layout.md, layout epoch 1), [`mod@write`] generates the bytes, and
//! [`read`] reads them. Each of the other files has one on-disk structure, encoder and decoder. The source of every on-disk fact is
//! the kernel's "ext4 Data Structures and Algorithms"; tests check the result with e2fsck, debugfs and the kernel's mount.

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

//! The usage of a layer in memory and on the device, counted while its entries are applied.
//!
//! The counts are upper bounds: an entry stays counted where a later entry of the layer replaces it, because the tree keeps it. A
//! conversion compares them with its limits ([`super::super::budget`]).

use super::LayerNode;
use crate::fs::ext4::usage::{attribute_bytes, entry_bytes, inode_bytes};
use crate::fs::tree::{Content, Data, Kind, Metadata, Run, Xattrs};

/// Memory of a name besides its text, in bytes: its slot in a map.
const NAME_BYTES: u64 = 16;
/// Memory of an inode's map of extended attributes besides their text, in bytes.
const XATTRS_BYTES: u64 = 256;
/// Memory that a directory without an entry is counted with, in bytes. It takes half of that; but a path of 4 KiB can imply 2,000
/// of them, and real layers have few.
const IMPLIED_BYTES: u64 = 1024;

/// The usage of layers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of entries in the tar, and of directories that no entry describes.
    pub entries: u64,
    /// Memory for names, link targets, extended attributes, maps of sparse files and directories that no entry describes, in bytes.
    pub memory_bytes: u64,
    /// Space of inodes and blocks on the device, in bytes.
    pub device_bytes: u64,
}

impl Usage {
    /// Returns the sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            entries: self.entries + other.entries,
            memory_bytes: self.memory_bytes + other.memory_bytes,
            device_bytes: self.device_bytes + other.device_bytes,
        }
    }

    /// Returns the growth from `earlier` to `self`. Memory can also shrink, when an implied directory is described; its growth is
    /// then 0.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            entries: self.entries.saturating_sub(earlier.entries),
            memory_bytes: self.memory_bytes.saturating_sub(earlier.memory_bytes),
            device_bytes: self.device_bytes.saturating_sub(earlier.device_bytes),
        }
    }

    pub(super) fn add_name(&mut self, name: &[u8]) {
        self.memory_bytes += NAME_BYTES + name.len() as u64;
        self.device_bytes += entry_bytes(name);
    }

    pub(super) fn add_link(&mut self, path: &[u8], target: &[u8]) {
        self.memory_bytes += (size_of::<super::Link>() + path.len() + target.len()) as u64;
    }

    pub(super) fn add_node(&mut self, node: &LayerNode) {
        match node {
            LayerNode::Directory(_) => {
                self.device_bytes += inode_bytes(&Metadata::implied_directory(), &Kind::Directory(Box::default()));
            }
            LayerNode::Other(metadata, kind) => {
                self.device_bytes += inode_bytes(metadata, kind);
                self.memory_bytes += xattrs_in_memory(&metadata.xattrs) + kind_in_memory(kind);
            }
            LayerNode::Placed(_) => {}
        }
    }

    /// Counts the metadata of a hard link until the layer is merged, and what it adds to the inode.
    pub(super) fn add_relabel(&mut self, path: &[u8], metadata: &Metadata) {
        self.memory_bytes += (size_of::<super::Relabel>() + path.len()) as u64;
        self.add_metadata(metadata);
    }

    /// Counts the metadata of an entry for an existing directory, or of a hard link for an existing inode.
    pub(super) fn add_metadata(&mut self, metadata: &Metadata) {
        self.device_bytes += attribute_bytes(metadata);
        self.memory_bytes += xattrs_in_memory(&metadata.xattrs);
    }

    /// Counts a directory that a path implies.
    pub(super) fn imply_directory(&mut self) {
        self.entries += 1;
        self.memory_bytes += IMPLIED_BYTES;
    }

    /// Removes the count of an implied directory whose own entry came after those in it.
    pub(super) fn describe_implied(&mut self) {
        self.entries -= 1;
        self.memory_bytes -= IMPLIED_BYTES;
    }
}

fn xattrs_in_memory(xattrs: &Xattrs) -> u64 {
    if xattrs.is_empty() {
        return 0;
    }
    XATTRS_BYTES + xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum::<u64>()
}

fn kind_in_memory(kind: &Kind) -> u64 {
    match kind {
        Kind::Symlink(target) => target.len() as u64,
        Kind::File(Content { data: Data::Sparse(runs), .. }) => (runs.len() * size_of::<Run>()) as u64,
        _ => 0,
    }
}

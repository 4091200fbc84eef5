//! The file tree of an image: all layers applied, and which layer introduced each inode.
//!
//! Inodes are in one arena, ordered by the layer that introduced them, then by path. Inodes that a later layer hides stay in it,
//! because they keep their address in the block image (docs/reference/formats/ext4-layout.md); an inode is visible if the root
//! reaches it.

use std::collections::BTreeMap;

/// The index of an inode in [`Tree::inodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u32);

/// The index of a layer in the image; 0 is the base layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerIndex(pub u16);

/// Seconds and nanoseconds since 1970-01-01 00:00 UTC; `nanos` counts forward from `secs`, also before 1970.
///
/// It is packed into 12 bytes instead of 16, since every inode has one.
#[repr(Rust, packed(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// The metadata that every kind of inode has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The twelve permission bits.
    pub mode: u16,
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The time of the last modification.
    pub mtime: Timestamp,
    /// Extended attributes, by full name (`user.x`).
    pub xattrs: Xattrs,
}

/// Extended attributes. Nearly all inodes have none, so the map is behind a pointer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Xattrs(Option<Box<ByName>>);

type ByName = BTreeMap<Box<[u8]>, Box<[u8]>>;

impl Xattrs {
    /// Sets an attribute, and replaces an earlier value of the same name.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.0.get_or_insert_default().insert(name.into(), value.into());
    }

    /// Returns the attributes, ordered by name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().flat_map(|map| map.iter().map(|(k, v)| (&**k, &**v)))
    }

    /// Returns whether there are no attributes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Metadata {
    /// Returns the metadata of a directory that no entry describes: mode 0755, owner and group 0, time 0.
    #[must_use]
    pub fn implied_directory() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Xattrs::default() }
    }
}

/// One inode.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Owner, mode, time and extended attributes.
    pub metadata: Metadata,
    /// The kind, with what only this kind has.
    pub kind: Kind,
}

/// The kinds of inodes.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A directory. It is behind a pointer, since most inodes are of other kinds.
    Directory(Box<Directory>),
    /// A regular file.
    File(Content),
    /// A symbolic link with its target, as written.
    Symlink(Box<[u8]>),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
}

/// A device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceNumber {
    /// 0 to 4,095.
    pub major: u32,
    /// 0 to 1,048,575.
    pub minor: u32,
}

/// The entries of a directory, and the blocks that they needed when its layer was applied.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// The entries, by name.
    pub entries: BTreeMap<Box<[u8]>, InodeId>,
    /// Number of blocks that the entries needed after the layer that introduced the directory: its address space, whatever later
    /// layers add.
    pub first_blocks: u32,
}

/// The content of a regular file, as offsets in the uncompressed tar stream of its layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The file's size in bytes.
    pub size: u64,
    /// The location of the bytes.
    pub data: Data,
}

/// The location of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// All bytes, contiguous from this offset in the tar stream on.
    Whole(u64),
    /// These runs of bytes, ascending and disjoint; the gaps are holes.
    Sparse(Box<[Run]>),
}

/// A run of bytes in a sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Offset in the file.
    pub offset: u64,
    /// Length in bytes, not 0.
    pub length: u64,
    /// Offset in the layer's uncompressed tar stream.
    pub source: u64,
}

impl Content {
    /// Returns the runs of bytes, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        let (whole, sparse) = match &self.data {
            Data::Whole(source) => (Some(Run { offset: 0, length: self.size, source: *source }), &[][..]),
            Data::Sparse(runs) => (None, &runs[..]),
        };
        whole.into_iter().filter(|run| run.length > 0).chain(sparse.iter().copied())
    }
}

/// An image's file tree after all layers.
#[derive(Debug)]
pub struct Tree {
    /// Every inode that any layer introduced, by layer, then by path; the first one is the root.
    pub inodes: Vec<Inode>,
    /// The index after the last inode of each layer, including layers without inodes.
    pub layer_ends: Vec<u32>,
}

// An image may have millions of inodes.
const _: () = assert!(size_of::<Inode>() == 64);

impl Tree {
    /// The id of the root directory.
    pub const ROOT: InodeId = InodeId(0);

    /// Returns the inode `id`.
    #[must_use]
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.0 as usize]
    }

    /// Returns the number of layers.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layer_ends.len()
    }

    /// Returns the layer that introduced `id`.
    #[must_use]
    pub fn layer_of(&self, id: InodeId) -> LayerIndex {
        let before = self.layer_ends.partition_point(|end| *end <= id.0);
        LayerIndex(u16::try_from(before).expect("layers are counted in 16 bits"))
    }

    /// Returns the directory `id`; `None` where it is another kind of inode.
    #[must_use]
    pub fn directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.inode(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// Returns all ids with their inodes, by layer, then by path.
    pub fn iter(&self) -> impl Iterator<Item = (InodeId, &Inode)> {
        (0u32..).map(InodeId).zip(&self.inodes)
    }

    /// Calls `visit` with the path and id of every visible entry in path order, parents first; the root has an empty path.
    pub fn walk(&self, visit: &mut dyn FnMut(&[u8], InodeId)) {
        let mut path = Vec::new();
        visit(&path, Self::ROOT);
        self.walk_below(Self::ROOT, &mut path, visit);
    }

    fn walk_below(&self, directory: InodeId, path: &mut Vec<u8>, visit: &mut dyn FnMut(&[u8], InodeId)) {
        // An explicit stack, since a path has up to 2,048 components and threads have small ones.
        let mut stack = Vec::new();
        stack.extend(self.directory(directory).map(|d| (path.len(), d.entries.iter())));
        while let Some((length, entries)) = stack.last_mut() {
            path.truncate(*length);
            let Some((name, &id)) = entries.next() else {
                stack.pop();
                continue;
            };
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            visit(path, id);
            if let Some(below) = self.directory(id) {
                stack.push((path.len(), below.entries.iter()));
            }
        }
    }
}

//! The file tree of an image: all layers applied, and what each layer brought.
//!
//! Inodes stand in one arena, by the layer that introduced them, then in path order. Those that a later layer hid stay
//! in it, because they keep their place in the block image (docs/reference/formats/ext4-layout.md); what is visible is what the root reaches.

use std::collections::BTreeMap;

/// An inode's place in [`Tree::inodes`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InodeId(pub u32);

/// A layer's place in the image, the base being 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayerIndex(pub u16);

/// Seconds and nanoseconds since 1970-01-01 00:00 UTC; `nanos` counts forward from `secs`, also before 1970.
///
/// 12 bytes and not 16: there is one in every inode of an image.
#[repr(Rust, packed(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Whole seconds, rounded down.
    pub secs: i64,
    /// 0 to 999,999,999.
    pub nanos: u32,
}

/// What every kind of inode has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metadata {
    /// The twelve permission bits.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Time of last modification.
    pub mtime: Timestamp,
    /// Extended attributes, by full name (`user.x`).
    pub xattrs: Xattrs,
}

/// Extended attributes; absent for nearly all inodes, so the map is behind a pointer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Xattrs(Option<Box<ByName>>);

type ByName = BTreeMap<Box<[u8]>, Box<[u8]>>;

impl Xattrs {
    /// Sets one; the last value of a name stays.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        self.0.get_or_insert_default().insert(name.into(), value.into());
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().flat_map(|map| map.iter().map(|(k, v)| (&**k, &**v)))
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }
}

impl Metadata {
    /// What a directory gets that no entry describes: 0755, root, time 0.
    #[must_use]
    pub fn implied_directory() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: Timestamp::default(), xattrs: Xattrs::default() }
    }
}

/// One inode.
#[derive(Debug, Clone)]
pub struct Inode {
    /// Owner, mode, time, xattrs.
    pub metadata: Metadata,
    /// What it is.
    pub kind: Kind,
}

/// The kinds of inodes.
#[derive(Debug, Clone)]
pub enum Kind {
    /// A directory, behind a pointer: there are many more of the others.
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

/// A directory's entries, and how many it had when its layer was done.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    /// Entries by name.
    pub entries: BTreeMap<Box<[u8]>, InodeId>,
    /// Blocks its entries needed once the layer that introduced it was applied; its address space below later layers.
    pub first_blocks: u32,
}

/// A regular file's bytes: where they stand in the layer's uncompressed tar stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// The file's size in bytes.
    pub size: u64,
    /// Where its bytes are.
    pub data: Data,
}

/// Where a file's bytes are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// All of them from this offset of the tar stream on.
    Whole(u64),
    /// Only these runs, ascending and apart; between them are holes.
    Sparse(Box<[Run]>),
}

/// A run of bytes that a sparse file has.
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
    /// The runs of bytes there are, ascending.
    pub fn runs(&self) -> impl Iterator<Item = Run> {
        let (whole, sparse) = match &self.data {
            Data::Whole(source) => (Some(Run { offset: 0, length: self.size, source: *source }), &[][..]),
            Data::Sparse(runs) => (None, &runs[..]),
        };
        whole.into_iter().filter(|run| run.length > 0).chain(sparse.iter().copied())
    }
}

/// All layers applied.
#[derive(Debug)]
pub struct Tree {
    /// Every inode that any layer introduced, by layer, then path; the root is the first.
    pub inodes: Vec<Inode>,
    /// Behind each layer's last inode, also for those without inodes.
    pub layer_ends: Vec<u32>,
}

// There may be millions.
const _: () = assert!(size_of::<Inode>() == 64);

impl Tree {
    /// The root directory.
    pub const ROOT: InodeId = InodeId(0);

    /// The inode `id`.
    #[must_use]
    pub fn inode(&self, id: InodeId) -> &Inode {
        &self.inodes[id.0 as usize]
    }

    /// How many layers there are.
    #[must_use]
    pub fn layers(&self) -> usize {
        self.layer_ends.len()
    }

    /// The layer that introduced `id`.
    #[must_use]
    pub fn layer_of(&self, id: InodeId) -> LayerIndex {
        let before = self.layer_ends.partition_point(|end| *end <= id.0);
        LayerIndex(u16::try_from(before).expect("layers are counted in 16 bits"))
    }

    /// The entries of `id`, or `None` where it is no directory.
    #[must_use]
    pub fn directory(&self, id: InodeId) -> Option<&Directory> {
        match &self.inode(id).kind {
            Kind::Directory(directory) => Some(directory),
            _ => None,
        }
    }

    /// All ids with their inodes, by layer, then path.
    pub fn iter(&self) -> impl Iterator<Item = (InodeId, &Inode)> {
        (0u32..).map(InodeId).zip(&self.inodes)
    }

    /// Calls `visit` with every visible entry and its path, parents first, in path order; the root with an empty path.
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

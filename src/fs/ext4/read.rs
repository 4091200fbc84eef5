//! A reader for ext4 devices of this layout: lookup, listing, files, links and xattrs.
//!
//! `coldread` reads single files with it, without a mount, and only the blocks that it needs are fetched. The device is untrusted:
//! the checksum of every structure is verified, and every address and length is checked.

use super::inode::{RawInode, decode_device};
use super::spec::{
    BLOCK, BLOCK_SIZE, BlockAddr, DESCRIPTOR_SIZE, FAST_SYMLINK, INODE, INODE_FLAG_EXTENTS, INODE_FLAG_INDEX,
    INODE_SIZE, InodeNumber, MAGIC, MAX_SYMLINK, ROOT_INODE, S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT,
    S_IFREG, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, compat, get16, get32, incompat, ro_compat,
};
use super::{csum, dirblock, extent, xattr};
use crate::fs::BlockDevice;
use crate::fs::path::{Display, raw_components};
use crate::fs::tree::{DeviceNumber, Timestamp, Xattrs};
use crate::{Error, ErrorKind, Result};

/// Maximum number of symlinks that are followed on one path, as in Linux.
const MAX_LINKS_FOLLOWED: usize = 40;

/// An ext4 file system on a device.
///
/// ```
/// use coldpress::fs::ext4::read::Ext4;
/// use coldpress::keys::KeyFile;
/// use coldpress::manifest::BlockManifest;
/// use coldpress::read::ChunkDevice;
/// use coldpress::store::{Settings, StoreUrl, open_get};
///
/// let key = KeyFile::decode(&std::fs::read_to_string("testdata/vectors/published-test.key")?)?;
/// let manifest = BlockManifest::decode(&std::fs::read("testdata/vectors/zstd.cpm")?)?.open(&key)?;
/// let store = open_get(&StoreUrl::Directory("testdata/vectors/store-zstd".into()), &Settings::default())?;
/// // Chunks are fetched, verified and decrypted when they are read.
/// let device = ChunkDevice::plain(manifest, store);
/// let file_system = Ext4::open(&device)?;
/// let file = file_system.lookup(b"/etc/issue", true)?;
/// let mut text = vec![0; usize::try_from(file.stat.size)?];
/// file_system.read(&file, 0, &mut text)?;
/// assert_eq!(text, b"coldpress test vector\n");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Ext4<'d> {
    device: &'d dyn BlockDevice,
    blocks: u32,
    inodes: u32,
    inodes_per_group: u32,
    /// The first block of each group's inode table.
    tables: Vec<BlockAddr>,
}

/// The type of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
}

impl FileType {
    /// Returns the name of the type in output.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::CharDevice(_) => "character device",
            Self::BlockDevice(_) => "block device",
            Self::Fifo => "pipe",
        }
    }
}

/// The metadata of an inode, as stat(2) returns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// The inode number.
    pub ino: InodeNumber,
    /// The type.
    pub file_type: FileType,
    /// The twelve permission bits.
    pub mode: u16,
    /// The owner's user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// The size in bytes.
    pub size: u64,
    /// Allocated space, in sectors of 512 bytes.
    pub sectors: u64,
    /// Number of hard links; 1 for a directory with over 64,998 subdirectories.
    pub links: u16,
    /// The time of the last modification.
    pub mtime: Timestamp,
}

/// A decoded inode.
#[derive(Debug, Clone)]
pub struct Node {
    /// The metadata of an inode, as stat(2) returns it.
    pub stat: Stat,
    raw: RawInode,
}

fn corrupt(what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("file system: {what}"))
}

impl<'d> Ext4<'d> {
    /// Reads and checks superblock and group descriptors.
    ///
    /// # Errors
    /// `Unsupported` for a file system with other features than this layout has, `Corrupt` for a damaged one.
    pub fn open(device: &'d dyn BlockDevice) -> Result<Self> {
        let mut superblock = [0; SUPERBLOCK_SIZE];
        device.read_at(SUPERBLOCK_OFFSET as u64, &mut superblock)?;
        if get16(&superblock, 0x38) != MAGIC || !csum::superblock_matches(&superblock) {
            return Err(corrupt("its superblock is damaged"));
        }
        let features = [get32(&superblock, 0x5C), get32(&superblock, 0x60), get32(&superblock, 0x64)];
        if features != [compat::ALL, incompat::ALL, ro_compat::ALL] || get32(&superblock, 0x18) != 2 {
            return Err(Error::new(ErrorKind::Unsupported, "file system: not one that coldpress wrote"));
        }
        let (blocks, inodes, inodes_per_group) =
            (get32(&superblock, 4), get32(&superblock, 0), get32(&superblock, 0x28));
        if u64::from(blocks) * u64::from(BLOCK_SIZE) > device.size() || inodes_per_group == 0 {
            return Err(corrupt("its superblock has impossible values"));
        }
        let groups = blocks.div_ceil(super::spec::BLOCKS_PER_GROUP);
        let mut table = vec![0; groups as usize * DESCRIPTOR_SIZE as usize];
        device.read_at(BlockAddr(1).byte_offset(), &mut table)?;
        let tables = (0..).zip(table.chunks_exact(32)).map(|(group, descriptor)| {
            let mut summed = [0; 32];
            summed.copy_from_slice(descriptor);
            summed[0x1E..].fill(0);
            let true_sum = csum::matches(get16(descriptor, 0x1E).into(), csum::descriptor(group, &summed).into());
            if true_sum {
                Ok(BlockAddr(get32(descriptor, 8)))
            } else {
                Err(corrupt(format!("group descriptor {group} is damaged")))
            }
        });
        let tables = tables.collect::<Result<Vec<_>>>()?;
        if u64::from(inodes) > u64::from(inodes_per_group) * tables.len() as u64 {
            return Err(corrupt("its superblock has impossible values"));
        }
        Ok(Self { device, blocks, inodes, inodes_per_group, tables })
    }

    /// Returns the number of block groups.
    pub(super) fn groups(&self) -> u32 {
        super::spec::small(self.tables.len())
    }

    /// Returns the inode at `path`. If the last component is a symlink, it is followed only with `follow`.
    ///
    /// # Errors
    /// `NotFound`; `Input` where a component is not a directory, or where the path has too many symlinks.
    pub fn lookup(&self, path: &[u8], follow: bool) -> Result<Node> {
        // The directories on the way, each with its name.
        let mut stack = vec![(self.node(ROOT_INODE)?, Vec::new())];
        let mut todo: Vec<Vec<u8>> = raw_components(path).rev().map(<[u8]>::to_vec).collect();
        let mut followed = 0;
        let shown = || Display(path).to_string();
        while let Some(name) = todo.pop() {
            let (at, _) = &stack[stack.len() - 1];
            if at.stat.file_type != FileType::Directory {
                let parts: Vec<&[u8]> = stack.iter().map(|(_, name)| &name[..]).collect();
                let component = Display(&parts.join(&b"/"[..])).to_string();
                return Err(Error::new(ErrorKind::Input, format!("{}: not a directory: {component}", shown())));
            }
            if name == b".." {
                stack.truncate((stack.len() - 1).max(1));
                continue;
            }
            let found = self.find(at, &name)?;
            let found = found
                .ok_or_else(|| Error::new(ErrorKind::NotFound, format!("{}: no such file in the image", shown())))?;
            let node = self.node(found)?;
            if node.stat.file_type == FileType::Symlink && (follow || !todo.is_empty()) {
                followed += 1;
                if followed > MAX_LINKS_FOLLOWED {
                    return Err(Error::new(
                        ErrorKind::Input,
                        format!("{}: more than {MAX_LINKS_FOLLOWED} symlinks on the path", shown()),
                    ));
                }
                let target = self.read_link(&node)?;
                if target.starts_with(b"/") {
                    stack.truncate(1);
                }
                todo.extend(raw_components(&target).rev().map(<[u8]>::to_vec));
                continue;
            }
            stack.push((node, name));
        }
        Ok(stack.swap_remove(stack.len() - 1).0)
    }

    /// Reads the inode `ino`.
    ///
    /// # Errors
    /// `Corrupt` where there is no such inode, or it is damaged.
    pub fn node(&self, ino: InodeNumber) -> Result<Node> {
        let mut bytes = [0; INODE];
        self.device.read_at(self.inode_offset(ino)?, &mut bytes)?;
        let damaged = || corrupt(format!("inode {} is damaged", ino.0));
        let raw = RawInode::decode(ino, &bytes).ok_or_else(damaged)?;
        let file_type = match raw.mode & S_IFMT {
            S_IFREG => FileType::File,
            S_IFDIR => FileType::Directory,
            S_IFLNK => FileType::Symlink,
            S_IFCHR => FileType::CharDevice(decode_device(&raw.map)),
            S_IFBLK => FileType::BlockDevice(decode_device(&raw.map)),
            S_IFIFO => FileType::Fifo,
            _ => return Err(damaged()),
        };
        let RawInode { mode, uid, gid, size, sectors, links, mtime, .. } = raw;
        let stat = Stat { ino, file_type, mode: mode & 0o7777, uid, gid, size, sectors, links, mtime };
        Ok(Node { stat, raw })
    }

    /// Returns the offset of the inode `ino` on the device, in bytes.
    ///
    /// # Errors
    /// `Corrupt` where there is no such inode.
    pub fn inode_offset(&self, ino: InodeNumber) -> Result<u64> {
        if ino.0 == 0 || ino.0 > self.inodes {
            return Err(corrupt(format!("no inode {}", ino.0)));
        }
        let (group, index) = ((ino.0 - 1) / self.inodes_per_group, (ino.0 - 1) % self.inodes_per_group);
        Ok(self.tables[group as usize].byte_offset() + u64::from(index) * u64::from(INODE_SIZE))
    }

    /// Returns the entries of a directory without `.` and `..`, by name.
    ///
    /// # Errors
    /// `Input` where it is not a directory, `Corrupt` where it is damaged.
    pub fn read_dir(&self, node: &Node) -> Result<Vec<(Vec<u8>, InodeNumber)>> {
        let mut entries = Vec::new();
        self.each_entry(node, &mut |name, ino| {
            if name != b"." && name != b".." {
                entries.push((name.to_vec(), ino));
            }
            true
        })?;
        entries.sort();
        Ok(entries)
    }

    /// Returns the directory that a directory is in; the root is in itself.
    ///
    /// # Errors
    /// As [`Self::read_dir`].
    pub fn parent(&self, node: &Node) -> Result<Node> {
        let parent = self.find(node, b"..")?;
        self.node(parent.ok_or_else(|| corrupt(format!("directory {} is damaged", node.stat.ino.0)))?)
    }

    fn find(&self, node: &Node, wanted: &[u8]) -> Result<Option<InodeNumber>> {
        let mut found = None;
        self.each_entry(node, &mut |name, ino| {
            if name == wanted {
                found = Some(ino);
            }
            found.is_none()
        })?;
        Ok(found)
    }

    /// Calls `visit` with each entry until it returns `false`.
    fn each_entry(&self, node: &Node, visit: &mut dyn FnMut(&[u8], InodeNumber) -> bool) -> Result<()> {
        if node.stat.file_type != FileType::Directory {
            return Err(Error::new(ErrorKind::Input, "not a directory"));
        }
        let damaged = || corrupt(format!("directory {} is damaged", node.stat.ino.0));
        let hashed = node.raw.flags & INODE_FLAG_INDEX != 0;
        for extent in self.extents(node)? {
            for block in 0..extent.length {
                let bytes = self.block(BlockAddr(extent.start.0 + block))?;
                let first = extent.logical + block == 0;
                if !dirblock::checksum_matches(node.stat.ino, &bytes, first, hashed) {
                    return Err(damaged());
                }
                for entry in dirblock::parse(&bytes).ok_or_else(damaged)? {
                    if !visit(entry.name, entry.ino) {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the target of a symlink.
    ///
    /// # Errors
    /// `Input` where it is not a symlink, `Corrupt` where it is damaged.
    pub fn read_link(&self, node: &Node) -> Result<Vec<u8>> {
        if node.stat.file_type != FileType::Symlink {
            return Err(Error::new(ErrorKind::Input, "not a symlink"));
        }
        let length = usize::try_from(node.stat.size).ok().filter(|length| *length <= MAX_SYMLINK);
        let length = length.ok_or_else(|| corrupt(format!("symlink {} is damaged", node.stat.ino.0)))?;
        if length <= FAST_SYMLINK {
            return Ok(node.raw.map[..length].to_vec());
        }
        let mut target = vec![0; length];
        self.read(node, 0, &mut target)?;
        Ok(target)
    }

    /// Reads from `offset` of a file on into `buf`, with zeros for holes. Returns the number of bytes, which is less than
    /// `buf.len()` only at the end of the file.
    ///
    /// # Errors
    /// `Corrupt` where the file is damaged; those of the device.
    pub fn read(&self, node: &Node, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = usize::try_from(node.stat.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = buf.len().min(left);
        let buf = &mut buf[..length];
        buf.fill(0);
        let end = offset + buf.len() as u64;
        for (from, to, at) in self.data(node)? {
            let (first, last) = (from.max(offset), to.min(end));
            if first < last {
                let inside = |value: u64| usize::try_from(value - offset).expect("within the buffer");
                self.device.read_at(at + (first - from), &mut buf[inside(first)..inside(last)])?;
            }
        }
        Ok(buf.len())
    }

    /// Returns the ranges of a file that are on the device, ascending, as (start, end, offset on the device), in bytes. The gaps
    /// are holes.
    ///
    /// # Errors
    /// `Corrupt` where the file is damaged.
    pub fn data(&self, node: &Node) -> Result<Vec<(u64, u64, u64)>> {
        let stretches = self.extents(node)?.into_iter().map(|extent| {
            let from = u64::from(extent.logical) * u64::from(BLOCK_SIZE);
            let to = from + u64::from(extent.length) * u64::from(BLOCK_SIZE);
            (from, to.min(node.stat.size), extent.start.byte_offset())
        });
        Ok(stretches.collect())
    }

    /// Returns the extended attributes of an inode.
    ///
    /// # Errors
    /// `Corrupt` where they are damaged.
    pub fn xattrs(&self, node: &Node) -> Result<Xattrs> {
        let damaged = || corrupt(format!("the extended attributes of inode {} are damaged", node.stat.ino.0));
        let mut out = Xattrs::default();
        xattr::parse_inode(&node.raw.xattrs, &mut out).ok_or_else(damaged)?;
        if node.raw.xattr_block != 0 {
            let addr = BlockAddr(node.raw.xattr_block);
            xattr::parse_block(addr, &self.block(addr)?, &mut out).ok_or_else(damaged)?;
        }
        Ok(out)
    }

    fn block(&self, addr: BlockAddr) -> Result<[u8; BLOCK]> {
        if addr.0 >= self.blocks {
            return Err(corrupt(format!("no block {}", addr.0)));
        }
        let mut block = [0; BLOCK];
        self.device.read_at(addr.byte_offset(), &mut block)?;
        Ok(block)
    }

    /// Returns the extents of an inode, which are checked to be ascending and on the device.
    fn extents(&self, node: &Node) -> Result<Vec<extent::Extent>> {
        let damaged = || corrupt(format!("the extents of inode {} are damaged", node.stat.ino.0));
        if node.raw.flags & INODE_FLAG_EXTENTS == 0 {
            return Ok(Vec::new());
        }
        let (depth, root) = extent::parse(&node.raw.map, None).ok_or_else(damaged)?;
        let mut extents: Vec<extent::Extent> = Vec::new();
        let mut stack = vec![(depth, root)];
        // A tree of distinct blocks has no more nodes than the device has blocks.
        let mut left = self.blocks;
        while let Some((depth, next)) = stack.pop() {
            match next {
                extent::ExtentNode::Leaf(leaf) => extents.extend(leaf),
                extent::ExtentNode::Index(below) => {
                    for addr in below.into_iter().rev() {
                        left = left.checked_sub(1).ok_or_else(damaged)?;
                        let block = self.block(addr)?;
                        if !extent::checksum_matches(node.stat.ino, &block) {
                            return Err(damaged());
                        }
                        stack.push(extent::parse(&block, Some(depth - 1)).ok_or_else(damaged)?);
                    }
                }
            }
        }
        let apart = extents
            .windows(2)
            .all(|pair| u64::from(pair[0].logical) + u64::from(pair[0].length) <= pair[1].logical.into());
        let inside =
            |extent: &extent::Extent| extent.start.0.checked_add(extent.length).is_some_and(|end| end <= self.blocks);
        // Distinct blocks are no more than the device has; otherwise one block could be repeated in a file or directory many times.
        let distinct = extents.iter().map(|extent| u64::from(extent.length)).sum::<u64>() <= u64::from(self.blocks);
        if apart && distinct && extents.iter().all(inside) { Ok(extents) } else { Err(damaged()) }
    }
}

#[cfg(test)]
mod tests;

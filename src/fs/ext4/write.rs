//! The writer: generates the bytes of a planned device, chunk by chunk.
//!
//! Metadata is generated in one ascending pass, data chunks in any order and from any thread. Nothing is stored: a chunk is
//! generated on request. The first chunk is completed last, since its UUID is derived from all chunks.

use std::io;

use super::data_blocks::{block_runs, data_blocks};
use super::dirblock::{self, Dirent};
use super::extent::{self, Extent};
use super::inode::{self, RawInode};
use super::layout::{DirectoryPlan, Layout};
use super::spec::{
    self, BLOCK, BLOCK_SIZE, BLOCKS_PER_GROUP, BlockAddr, CHUNK, CHUNK_BLOCKS, EXTRA_ISIZE, FAST_SYMLINK,
    FIRST_FREE_INODE, INODE_SIZE, InodeNumber, MAX_LINKS, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, lo16, put16, put32,
    small,
};
use super::{csum, xattr};
use crate::fs::tree::{Content, Inode, InodeId, Kind, LayerIndex, Tree};
use crate::{ChunkIndex, Error};

/// The source of the files' bytes.
pub trait LayerBytes: Sync {
    /// Fills `buf` from `offset` of the uncompressed tar stream of `layer`.
    ///
    /// # Errors
    /// Those of the medium.
    fn read_at(&self, layer: LayerIndex, offset: u64, buf: &mut [u8]) -> io::Result<()>;
}

/// Receives chunks that are not all zero.
pub type Emit<'a> = dyn FnMut(ChunkIndex, &[u8]) -> Result<(), Error> + 'a;

impl Layout<'_> {
    /// Emits every metadata chunk except the first, ascending, and returns the first with a UUID of zeros. Chunks that are all zero
    /// are not emitted.
    ///
    /// # Errors
    /// Those of `emit`.
    pub fn metadata(&self, emit: &mut Emit<'_>) -> Result<Vec<u8>, Error> {
        let mut first = Vec::new();
        let mut but_first = |index: ChunkIndex, chunk: &[u8]| match index.0 {
            0 => {
                first = chunk.to_vec();
                Ok(())
            }
            _ => emit(index, chunk),
        };
        let mut out = Ascending { emit: &mut but_first, index: 0, chunk: vec![0; CHUNK], dirty: false };
        let HeaderBlocks { front, bitmaps } = self.header();
        out.write(0, &front)?;
        self.inode_table(&mut out)?;
        self.directory_blocks(&mut out)?;
        self.attribute_blocks(&mut out)?;
        out.write(BlockAddr(self.geometry.bitmaps).byte_offset(), &bitmaps)?;
        out.flush()?;
        Ok(first)
    }

    /// Fills `chunk` with the data of the chunk `index`, which is in the data region.
    ///
    /// # Errors
    /// Those of `layers`.
    pub fn data_chunk(&self, index: ChunkIndex, layers: &dyn LayerBytes, chunk: &mut [u8]) -> io::Result<()> {
        chunk.fill(0);
        let first = index.0 * CHUNK_BLOCKS;
        for &id in self.with_data_in(BlockAddr(first), BlockAddr(first + CHUNK_BLOCKS)) {
            if !self.is_visible(id) {
                continue;
            }
            let (inode, start) = (self.tree.inode(id), self.starts[id.0 as usize].0);
            // The blocks of the file's data in this chunk.
            let from = first.saturating_sub(start);
            let to = data_blocks(&inode.kind).min(first + CHUNK_BLOCKS - start);
            let at = (start + from - first) as usize * BLOCK;
            let part = &mut chunk[at..at + (to - from) as usize * BLOCK];
            match &inode.kind {
                Kind::File(content) => fill(content, from, part, self.tree.layer_of(id), layers)?,
                Kind::Symlink(target) => part[..target.len()].copy_from_slice(target),
                _ => unreachable!("only files and symlinks have data"),
            }
        }
        Ok(())
    }

    fn inode_table(&self, out: &mut Ascending<'_, '_>) -> Result<(), Error> {
        // Unused reserved inodes have a checksum, as mke2fs writes them: readers verify it.
        for number in (1..FIRST_FREE_INODE).map(InodeNumber).filter(|number| *number != spec::ROOT_INODE) {
            out.write(self.inode_offset(number), &RawInode::default().encode(number))?;
        }
        let is_directory = |id: &InodeId| self.tree.directory(*id).is_some();
        let ids = || self.tree.iter().map(|(id, _)| id).filter(|id| self.is_visible(*id));
        for id in ids().filter(is_directory).chain(ids().filter(|id| !is_directory(id))) {
            let number = self.numbers[id.0 as usize];
            out.write(self.inode_offset(number), &self.raw_inode(id).encode(number))?;
        }
        Ok(())
    }

    fn inode_offset(&self, number: InodeNumber) -> u64 {
        BlockAddr(self.geometry.inode_table).byte_offset() + u64::from(number.0 - 1) * u64::from(INODE_SIZE)
    }

    fn raw_inode(&self, id: InodeId) -> RawInode {
        let inode = self.tree.inode(id);
        let metadata = &inode.metadata;
        let placed = xattr::place(&metadata.xattrs).expect("the layout checked the xattrs");
        let mut raw = RawInode {
            mode: file_type(&inode.kind).0 | metadata.mode,
            uid: metadata.uid,
            gid: metadata.gid,
            mtime: metadata.mtime,
            links: lo16(self.names[id.0 as usize]),
            xattrs: placed.encode_inode(),
            ..RawInode::default()
        };
        let extents = self.extents(id);
        let mut blocks: u64 = extents.iter().flatten().map(|extent| u64::from(extent.length)).sum();
        let mut at = self.attributes.get(&id).copied().unwrap_or(BlockAddr(0));
        if placed.needs_block() {
            raw.xattr_block = at.0;
            at.0 += 1;
            blocks += 1;
        }
        if let Some(extents) = &extents {
            let (map, tree) = extent::encode(self.numbers[id.0 as usize], extents, at);
            (raw.map, raw.flags) = (map, spec::INODE_FLAG_EXTENTS);
            blocks += (tree.len() / BLOCK) as u64;
        }
        raw.sectors = blocks * u64::from(BLOCK_SIZE / 512);
        match &inode.kind {
            Kind::Directory(directory) => {
                let plan = self.directory_plan(id);
                raw.size = u64::from(plan.blocks) * u64::from(BLOCK_SIZE);
                raw.links = directory_links(self.tree, directory.entries.values());
                raw.flags |= if plan.blocks > 1 { spec::INODE_FLAG_INDEX } else { 0 };
            }
            Kind::File(content) => raw.size = content.size,
            Kind::Symlink(target) => {
                raw.size = target.len() as u64;
                if target.len() <= FAST_SYMLINK {
                    raw.map[..target.len()].copy_from_slice(target);
                }
            }
            Kind::CharDevice(device) | Kind::BlockDevice(device) => raw.map = inode::encode_device(*device),
            Kind::Fifo => {}
        }
        raw
    }

    /// Returns the extents of an inode; `None` where it has no extent tree, not even an empty one.
    fn extents(&self, id: InodeId) -> Option<Vec<Extent>> {
        let start = self.starts[id.0 as usize];
        match &self.tree.inode(id).kind {
            Kind::Directory(_) => Some(self.directory_plan(id).extents()),
            Kind::Symlink(target) if target.len() > FAST_SYMLINK => Some(vec![Extent { logical: 0, start, length: 1 }]),
            Kind::File(content) => {
                let mut at = start.0;
                let extents = block_runs(content).into_iter().map(|(logical, length)| {
                    at += length;
                    Extent { logical, start: BlockAddr(at - length), length }
                });
                Some(extents.collect())
            }
            _ => None,
        }
    }

    fn directory_plan(&self, id: InodeId) -> &DirectoryPlan {
        let at = self.directories.binary_search_by_key(&id, |plan| plan.id).expect("every directory has a plan");
        &self.directories[at]
    }

    /// Writes the blocks in the layers' parts, then the overflow blocks, both ascending.
    fn directory_blocks(&self, out: &mut Ascending<'_, '_>) -> Result<(), Error> {
        for plan in self.directories.iter().filter(|plan| plan.blocks > 0) {
            let blocks = self.build_directory(plan);
            out.write(plan.start.byte_offset(), &blocks[..plan.first as usize * BLOCK])?;
        }
        for plan in self.directories.iter().filter(|plan| plan.blocks > plan.first) {
            let blocks = self.build_directory(plan);
            out.write(plan.overflow.byte_offset(), &blocks[plan.first as usize * BLOCK..])?;
        }
        Ok(())
    }

    fn build_directory(&self, plan: &DirectoryPlan) -> Vec<u8> {
        let number = |id: InodeId| self.numbers[id.0 as usize];
        let directory = self.tree.directory(plan.id).expect("plans are of directories");
        let entries: Vec<_> = directory
            .entries
            .iter()
            .map(|(name, &id)| Dirent { name, ino: number(id), file_type: file_type(&self.tree.inode(id).kind).1 })
            .collect();
        dirblock::build(number(plan.id), number(plan.parent), &entries)
    }

    fn attribute_blocks(&self, out: &mut Ascending<'_, '_>) -> Result<(), Error> {
        for (&id, &first) in self.attributes.iter().filter(|(id, _)| self.is_visible(**id)) {
            let placed = xattr::place(&self.tree.inode(id).metadata.xattrs).expect("the layout checked the xattrs");
            let mut at = first;
            if placed.needs_block() {
                out.write(at.byte_offset(), &placed.encode_block(at))?;
                at.0 += 1;
            }
            if let Some(extents) = self.extents(id) {
                let (_, tree) = extent::encode(self.numbers[id.0 as usize], &extents, at);
                out.write(at.byte_offset(), &tree)?;
            }
        }
        Ok(())
    }

    fn header(&self) -> HeaderBlocks {
        let geometry = &self.geometry;
        let in_header = geometry.groups_in_header();
        let mut front = vec![0; (1 + geometry.descriptor_blocks() + 2 * in_header) as usize * BLOCK];
        let mut behind = vec![0; 2 * (geometry.groups - in_header) as usize * BLOCK];
        let (blocks, inodes) = (self.block_bitmap(), self.inode_bitmap());
        let (mut free_blocks, mut free_inodes) = (0, 0);
        let directories = self.directories_per_group();
        for group in 0..geometry.groups {
            let block_bitmap = &blocks[group as usize * BLOCK..][..BLOCK];
            let inode_bitmap = inodes.group(group);
            let at = geometry.block_bitmap(group);
            let both = if at < geometry.bitmaps {
                &mut front[at as usize * BLOCK..][..2 * BLOCK]
            } else {
                &mut behind[(at - geometry.bitmaps) as usize * BLOCK..][..2 * BLOCK]
            };
            let group_free = zeros(block_bitmap);
            let mut descriptor = Descriptor {
                block_bitmap: at,
                inode_bitmap: at + 1,
                inode_table: geometry.inode_table + group * (geometry.inodes_per_group / spec::INODES_PER_BLOCK),
                free_blocks: lo16(group_free),
                free_inodes: lo16(inode_bitmap.free),
                directories: lo16(directories[group as usize]),
                unused_inodes: lo16(inode_bitmap.unused),
                flags: spec::GROUP_TABLE_ZEROED,
                block_checksum: 0,
                inode_checksum: 0,
            };
            // A group without used blocks has no bitmap, so that free space needs no chunk.
            if group_free == BLOCKS_PER_GROUP && group + 1 < geometry.groups {
                descriptor.flags |= spec::GROUP_BLOCKS_UNUSED;
            } else {
                both[..BLOCK].copy_from_slice(block_bitmap);
                descriptor.block_checksum = lo16(csum::bitmap(block_bitmap));
            }
            if inode_bitmap.free == geometry.inodes_per_group {
                descriptor.flags |= spec::GROUP_INODES_UNUSED;
            } else {
                both[BLOCK..].copy_from_slice(&inode_bitmap.bits);
                descriptor.inode_checksum =
                    lo16(csum::bitmap(&inode_bitmap.bits[..geometry.inodes_per_group as usize / 8]));
            }
            let at = BLOCK + group as usize * spec::DESCRIPTOR_SIZE as usize;
            front[at..at + 32].copy_from_slice(&descriptor.encode(group));
            free_blocks += group_free;
            free_inodes += inode_bitmap.free;
        }
        front[SUPERBLOCK_OFFSET..][..SUPERBLOCK_SIZE].copy_from_slice(&self.superblock(free_blocks, free_inodes));
        HeaderBlocks { front, bitmaps: behind }
    }

    fn superblock(&self, free_blocks: u32, free_inodes: u32) -> [u8; SUPERBLOCK_SIZE] {
        let geometry = &self.geometry;
        let mut out = [0; SUPERBLOCK_SIZE];
        for (at, value) in [
            (0x00, geometry.inodes()),
            (0x04, geometry.blocks),
            (0x0C, free_blocks),
            (0x10, free_inodes),
            (0x18, 2), // 4 KiB blocks: 1024 << 2
            (0x1C, 2), // clusters are blocks
            (0x20, BLOCKS_PER_GROUP),
            (0x24, BLOCKS_PER_GROUP),
            (0x28, geometry.inodes_per_group),
            (0x4C, 1), // dynamic revision
            (0x54, FIRST_FREE_INODE),
            (0x5C, spec::compat::ALL),
            (0x60, spec::incompat::ALL),
            (0x64, spec::ro_compat::ALL),
            (0x100, 0xC), // default mount options: user_xattr, acl
            (0x160, spec::FLAG_SIGNED_HASH),
            (0x270, spec::CHECKSUM_SEED),
        ] {
            put32(&mut out, at, value);
        }
        for (i, word) in spec::HASH_SEED.into_iter().enumerate() {
            put32(&mut out, 0xEC + 4 * i, word);
        }
        for (at, value) in [
            (0x36, 0xFFFF), // never check for the number of mounts
            (0x38, spec::MAGIC),
            (0x3A, 1), // clean
            (0x3C, 1), // on errors: continue
            (0x58, lo16(INODE_SIZE)),
            (0x15C, EXTRA_ISIZE),
            (0x15E, EXTRA_ISIZE),
        ] {
            put16(&mut out, at, value);
        }
        out[0xFC] = spec::HASH_HALF_MD4;
        // One flex group for all groups.
        let log = geometry.groups.next_power_of_two().trailing_zeros().max(1);
        out[0x174] = log.to_le_bytes()[0];
        out[0x175] = 1; // checksums are CRC-32C
        let sum = csum::superblock(&out);
        put32(&mut out, 0x3FC, sum);
        out
    }

    /// Returns one bit for each block, 1 where it is used; blocks past the end of the device count as used.
    fn block_bitmap(&self) -> Vec<u8> {
        let geometry = &self.geometry;
        let mut bits = Bits(vec![0; geometry.groups as usize * BLOCK]);
        let in_header = geometry.groups_in_header();
        bits.set(0, 1 + geometry.descriptor_blocks() + 2 * in_header);
        bits.set(geometry.bitmaps, 2 * (geometry.groups - in_header));
        bits.set(geometry.inode_table, geometry.inode_table_blocks());
        bits.set(geometry.blocks, geometry.groups * BLOCKS_PER_GROUP - geometry.blocks);
        for plan in &self.directories {
            for extent in plan.extents() {
                bits.set(extent.start.0, extent.length);
            }
        }
        for (id, inode) in self.tree.iter().filter(|(id, _)| self.is_visible(*id)) {
            if !matches!(inode.kind, Kind::Directory(_)) {
                bits.set(self.starts[id.0 as usize].0, data_blocks(&inode.kind));
            }
        }
        for (&id, &first) in self.attributes.iter().filter(|(id, _)| self.is_visible(**id)) {
            bits.set(first.0, self.attribute_count(id, first));
        }
        bits.0
    }

    fn attribute_count(&self, id: InodeId, first: BlockAddr) -> u32 {
        let placed = xattr::place(&self.tree.inode(id).metadata.xattrs).expect("the layout checked the xattrs");
        let extents =
            self.extents(id).map_or(0, |extents| extent::encode(InodeNumber(0), &extents, first).1.len() / BLOCK);
        u32::from(placed.needs_block()) + small(extents)
    }

    fn inode_bitmap(&self) -> InodeBits {
        let mut bits = Bits(vec![0; (self.geometry.inodes() as usize).div_ceil(8)]);
        bits.set(0, FIRST_FREE_INODE - 1);
        for (id, _) in self.tree.iter().filter(|(id, _)| self.is_visible(*id)) {
            bits.set(self.numbers[id.0 as usize].0 - 1, 1);
        }
        InodeBits { bits: bits.0, per_group: self.geometry.inodes_per_group }
    }

    fn directories_per_group(&self) -> Vec<u32> {
        let mut counts = vec![0; self.geometry.groups as usize];
        for plan in self.directories.iter().filter(|plan| plan.blocks > 0) {
            counts[((self.numbers[plan.id.0 as usize].0 - 1) / self.geometry.inodes_per_group) as usize] += 1;
        }
        counts
    }
}

/// Writes the file system's UUID into the device's first chunk.
pub fn set_uuid(first_chunk: &mut [u8], uuid: [u8; 16]) {
    let superblock = &mut first_chunk[SUPERBLOCK_OFFSET..SUPERBLOCK_OFFSET + SUPERBLOCK_SIZE];
    superblock[0x68..0x78].copy_from_slice(&uuid);
    let sum = csum::superblock(superblock);
    put32(superblock, 0x3FC, sum);
}

/// A buffer that collects writes at ascending addresses into chunks.
struct Ascending<'a, 'e> {
    emit: &'a mut Emit<'e>,
    index: u32,
    chunk: Vec<u8>,
    dirty: bool,
}

impl Ascending<'_, '_> {
    fn write(&mut self, at: u64, mut bytes: &[u8]) -> Result<(), Error> {
        let mut at = at;
        while !bytes.is_empty() {
            let index = u32::try_from(at / CHUNK as u64).expect("addresses are below 2^32 blocks");
            if index != self.index {
                self.flush()?;
                self.index = index;
            }
            let inside = usize::try_from(at % CHUNK as u64).expect("below a chunk's size");
            let (here, behind) = bytes.split_at(bytes.len().min(CHUNK - inside));
            self.chunk[inside..inside + here.len()].copy_from_slice(here);
            self.dirty = true;
            at += here.len() as u64;
            bytes = behind;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), Error> {
        if self.dirty {
            (self.emit)(ChunkIndex(self.index), &self.chunk)?;
            self.chunk.fill(0);
            self.dirty = false;
        }
        Ok(())
    }
}

/// Fills `part` with the blocks of `content`, from its `from`-th allocated block on.
fn fill(content: &Content, from: u32, part: &mut [u8], layer: LayerIndex, layers: &dyn LayerBytes) -> io::Result<()> {
    let end = from + small(part.len() / BLOCK);
    let mut done = 0;
    for (logical, count) in block_runs(content) {
        let (first, last) = (done.max(from), (done + count).min(end));
        if first < last {
            let bytes = &mut part[(first - from) as usize * BLOCK..(last - from) as usize * BLOCK];
            copy(content, BlockAddr(logical + first - done).byte_offset(), bytes, layer, layers)?;
        }
        done += count;
    }
    Ok(())
}

/// Copies the bytes of `content` from `offset` on; holes are left unchanged.
fn copy(
    content: &Content,
    offset: u64,
    bytes: &mut [u8],
    layer: LayerIndex,
    layers: &dyn LayerBytes,
) -> io::Result<()> {
    let end = offset + bytes.len() as u64;
    for run in content.runs() {
        let (from, to) = (run.offset.max(offset), (run.offset + run.length).min(end));
        if from < to {
            let inside = |value: u64| usize::try_from(value - offset).expect("within a chunk");
            layers.read_at(layer, run.source + (from - run.offset), &mut bytes[inside(from)..inside(to)])?;
        }
    }
    Ok(())
}

/// Returns the type bits of the mode, and the type in a directory entry.
fn file_type(kind: &Kind) -> (u16, u8) {
    match kind {
        Kind::File(_) => (spec::S_IFREG, 1),
        Kind::Directory(_) => (spec::S_IFDIR, 2),
        Kind::CharDevice(_) => (spec::S_IFCHR, 3),
        Kind::BlockDevice(_) => (spec::S_IFBLK, 4),
        Kind::Fifo => (spec::S_IFIFO, 5),
        Kind::Symlink(_) => (spec::S_IFLNK, 7),
    }
}

fn directory_links<'a>(tree: &Tree, entries: impl Iterator<Item = &'a InodeId>) -> u16 {
    let is_directory = |id: &&InodeId| matches!(tree.inode(**id), Inode { kind: Kind::Directory(_), .. });
    match small(entries.filter(is_directory).count()) + 2 {
        links if links > MAX_LINKS => 1,
        links => lo16(links),
    }
}

/// Superblock and descriptors with the bitmaps that follow them, and the other bitmaps.
struct HeaderBlocks {
    front: Vec<u8>,
    bitmaps: Vec<u8>,
}

struct Descriptor {
    block_bitmap: u32,
    inode_bitmap: u32,
    inode_table: u32,
    free_blocks: u16,
    free_inodes: u16,
    directories: u16,
    unused_inodes: u16,
    flags: u16,
    block_checksum: u16,
    inode_checksum: u16,
}

impl Descriptor {
    fn encode(&self, group: u32) -> [u8; 32] {
        let mut out = [0; 32];
        put32(&mut out, 0x00, self.block_bitmap);
        put32(&mut out, 0x04, self.inode_bitmap);
        put32(&mut out, 0x08, self.inode_table);
        put16(&mut out, 0x0C, self.free_blocks);
        put16(&mut out, 0x0E, self.free_inodes);
        put16(&mut out, 0x10, self.directories);
        put16(&mut out, 0x12, self.flags);
        put16(&mut out, 0x18, self.block_checksum);
        put16(&mut out, 0x1A, self.inode_checksum);
        put16(&mut out, 0x1C, self.unused_inodes);
        let sum = csum::descriptor(group, &out);
        put16(&mut out, 0x1E, sum);
        out
    }
}

struct Bits(Vec<u8>);

impl Bits {
    fn set(&mut self, first: u32, count: u32) {
        for bit in first..first + count {
            self.0[bit as usize / 8] |= 1 << (bit % 8);
        }
    }
}

struct InodeBits {
    bits: Vec<u8>,
    per_group: u32,
}

struct GroupInodes {
    /// The bitmap, padded with ones to a block.
    bits: Vec<u8>,
    free: u32,
    /// Number of inodes after the last used one.
    unused: u32,
}

impl InodeBits {
    fn group(&self, group: u32) -> GroupInodes {
        let bytes = self.per_group as usize / 8;
        let mut bits = self.bits[group as usize * bytes..][..bytes].to_vec();
        let free = zeros(&bits);
        let unused = bits.iter().rposition(|&byte| byte != 0).map_or(self.per_group, |last| {
            let used = small(last) * 8 + 8 - bits[last].leading_zeros();
            self.per_group - used
        });
        bits.resize(BLOCK, 0xFF);
        GroupInodes { bits, free, unused }
    }
}

fn zeros(bits: &[u8]) -> u32 {
    bits.iter().map(|byte| byte.count_zeros()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::Metadata;

    /// e2fsck wants 65,000 links counted, and 1 where there are more.
    #[test]
    fn a_directory_counts_up_to_65_000_links() {
        let root = Inode { metadata: Metadata::implied_directory(), kind: Kind::Directory(Box::default()) };
        let tree = Tree { inodes: vec![root], layer_ends: vec![1] };
        let links = |below: usize| directory_links(&tree, std::iter::repeat_n(&Tree::ROOT, below));
        assert_eq!([0, 64_998, 64_999, 70_000].map(links), [2, 65_000, 1, 1]);
    }
}

//! An internal journal for an exported device, so that a file system that is written to survives a power failure.
//!
//! Block images have no journal. [`add_journal`] returns the blocks of an exported device that differ with one: superblock, group
//! descriptors, block bitmaps, the journal's inode and the journal's own superblock. All other blocks of the journal are free blocks of
//! the image, which hold zeros. No format changes by it (docs/reference/formats/ext4-layout.md, "A journal for an exported device"). The source of the
//! journal's structures is the kernel documentation, "Journal (jbd2)"; the judges are e2fsck, dumpe2fs and the kernel's recovery.

use std::collections::BTreeMap;

use super::csum;
use super::extent::{self, Extent};
use super::inode::RawInode;
use super::read::Ext4;
use super::spec::{
    self, BLOCK, BLOCK_SIZE, BLOCKS_PER_GROUP, BlockAddr, DESCRIPTOR_SIZE, DESCRIPTORS_PER_BLOCK, INODE, INODE_SIZE,
    InodeNumber, SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE, get16, get32, lo16, put16, put32,
};
use crate::fs::BlockDevice;
use crate::{Error, ErrorKind, Result};

/// Minimum size of a journal, in bytes: the kernel refuses fewer than 1,024 blocks (`JBD2_MIN_JOURNAL_BLOCKS`).
pub const MIN_JOURNAL: u64 = 1024 * (BLOCK_SIZE as u64);
/// Maximum size of a journal, in bytes: the four extents in its inode map no more.
pub const MAX_JOURNAL: u64 = 4 * 32_768 * (BLOCK_SIZE as u64);

/// The journal's inode (`EXT4_JOURNAL_INO`).
const JOURNAL_INODE: InodeNumber = InodeNumber(8);
const JOURNAL_MAGIC: u32 = 0xC03B_3998;
/// A journal superblock of the second version.
const JOURNAL_SUPERBLOCK_V2: u32 = 4;

/// The bytes of one block.
pub type Block = [u8; BLOCK];

/// Returns the blocks of `device` that differ once it has a journal of `bytes` bytes, rounded up to whole blocks. The journal takes the
/// first run of free blocks that is long enough.
///
/// # Errors
/// `Input` where `bytes` is not between [`MIN_JOURNAL`] and [`MAX_JOURNAL`], or where no run of free blocks is that long; those of
/// reading the device; `Corrupt` or `Unsupported` where it is not a device of this layout.
pub fn add_journal(device: &dyn BlockDevice, bytes: u64) -> Result<BTreeMap<BlockAddr, Block>> {
    if !(MIN_JOURNAL..=MAX_JOURNAL).contains(&bytes) {
        let message = format!("a journal of {bytes} bytes; ext4 allows 4 MiB to 512 MiB here");
        return Err(Error::new(ErrorKind::Input, message));
    }
    let blocks = u32::try_from(bytes.div_ceil(BLOCK_SIZE.into())).expect("at most 131,072 blocks");
    let mut edit = Edit { device, blocks: BTreeMap::new(), groups: Ext4::open(device)?.groups() };
    let start = edit.free_run(blocks)?;
    edit.allocate(start, blocks)?;
    edit.write_journal_superblock(start, blocks)?;
    let journal = edit.write_inode(start, blocks)?;
    edit.write_superblock(blocks, &journal)?;
    Ok(edit.blocks)
}

/// A device and its changed blocks.
struct Edit<'d> {
    device: &'d dyn BlockDevice,
    blocks: BTreeMap<BlockAddr, Block>,
    groups: u32,
}

impl Edit<'_> {
    fn read(&self, addr: BlockAddr) -> Result<Block> {
        if let Some(changed) = self.blocks.get(&addr) {
            return Ok(*changed);
        }
        let mut block = [0; BLOCK];
        self.device.read_at(addr.byte_offset(), &mut block)?;
        Ok(block)
    }

    /// Changes `bytes` bytes of the block `addr` from `at` on.
    fn change(&mut self, addr: BlockAddr, at: usize, bytes: &[u8]) -> Result<()> {
        let mut block = self.read(addr)?;
        block[at..at + bytes.len()].copy_from_slice(bytes);
        self.blocks.insert(addr, block);
        Ok(())
    }

    /// Returns the block that holds the descriptor of `group`, and its offset there.
    fn descriptor_place(group: u32) -> (BlockAddr, usize) {
        let at = (group % DESCRIPTORS_PER_BLOCK) * DESCRIPTOR_SIZE;
        (BlockAddr(1 + group / DESCRIPTORS_PER_BLOCK), at as usize)
    }

    fn descriptor(&self, group: u32) -> Result<[u8; 32]> {
        let (addr, at) = Self::descriptor_place(group);
        let mut descriptor = [0; 32];
        descriptor.copy_from_slice(&self.read(addr)?[at..at + 32]);
        Ok(descriptor)
    }

    /// Returns the block bitmap of `group`; a group that is marked unused has none, and all its blocks are free.
    fn bitmap(&self, group: u32) -> Result<Block> {
        let descriptor = self.descriptor(group)?;
        if get16(&descriptor, 0x12) & spec::GROUP_BLOCKS_UNUSED != 0 {
            return Ok([0; BLOCK]);
        }
        let bitmap = self.read(BlockAddr(get32(&descriptor, 0)))?;
        let expected = get16(&descriptor, 0x18);
        if !csum::matches(expected.into(), lo16(csum::bitmap(&bitmap)).into()) {
            let message = format!("file system: the block bitmap of group {group} does not match its checksum");
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(bitmap)
    }

    /// Returns the start of the first run of `blocks` free blocks.
    fn free_run(&self, blocks: u32) -> Result<BlockAddr> {
        let (mut start, mut length, mut longest) = (0, 0, 0);
        for group in 0..self.groups {
            let bitmap = self.bitmap(group)?;
            for bit in 0..BLOCKS_PER_GROUP {
                if bitmap[bit as usize / 8] >> (bit % 8) & 1 != 0 {
                    length = 0;
                    continue;
                }
                if length == 0 {
                    start = group * BLOCKS_PER_GROUP + bit;
                }
                length += 1;
                longest = longest.max(length);
                if length == blocks {
                    return Ok(BlockAddr(start));
                }
            }
        }
        let mib = |blocks: u32| f64::from(blocks) / 256.0;
        let message = format!(
            "the image has no room for a journal of {} MiB: its longest run of free blocks is {:.1} MiB; choose a smaller journal, \
             or convert the image with a larger --free",
            mib(blocks),
            mib(longest),
        );
        Err(Error::new(ErrorKind::Input, message))
    }

    /// Marks `blocks` blocks from `start` on as used.
    fn allocate(&mut self, start: BlockAddr, blocks: u32) -> Result<()> {
        let end = start.0 + blocks;
        for group in start.0 / BLOCKS_PER_GROUP..=(end - 1) / BLOCKS_PER_GROUP {
            let (mut descriptor, mut bitmap) = (self.descriptor(group)?, self.bitmap(group)?);
            let first = group * BLOCKS_PER_GROUP;
            let (from, to) = (start.0.max(first) - first, end.min(first + BLOCKS_PER_GROUP) - first);
            for bit in from..to {
                bitmap[bit as usize / 8] |= 1 << (bit % 8);
            }
            let (free, flags) = (get16(&descriptor, 0x0C), get16(&descriptor, 0x12));
            put16(&mut descriptor, 0x0C, free - lo16(to - from));
            put16(&mut descriptor, 0x12, flags & !spec::GROUP_BLOCKS_UNUSED);
            put16(&mut descriptor, 0x18, lo16(csum::bitmap(&bitmap)));
            put16(&mut descriptor, 0x1E, 0);
            let sum = csum::descriptor(group, &descriptor);
            put16(&mut descriptor, 0x1E, sum);
            self.blocks.insert(BlockAddr(get32(&descriptor, 0)), bitmap);
            let (addr, at) = Self::descriptor_place(group);
            self.change(addr, at, &descriptor)?;
        }
        Ok(())
    }

    /// Writes the journal's first block. The journal is empty: `s_start` is 0, so nothing is recovered. The kernel adds the checksum
    /// feature at the first mount.
    fn write_journal_superblock(&mut self, start: BlockAddr, blocks: u32) -> Result<()> {
        let mut block = [0; BLOCK];
        for (at, value) in [
            (0x00, JOURNAL_MAGIC),
            (0x04, JOURNAL_SUPERBLOCK_V2),
            (0x0C, BLOCK_SIZE),
            (0x10, blocks),
            (0x14, 1), // first block of the log
            (0x18, 1), // first commit that is expected
            (0x40, 1), // one file system uses it
        ] {
            // The journal is big-endian.
            block[at..at + 4].copy_from_slice(&u32::to_be_bytes(value));
        }
        let superblock = self.read(BlockAddr(0))?;
        block[0x30..0x40].copy_from_slice(&superblock[SUPERBLOCK_OFFSET..][0x68..0x78]);
        self.blocks.insert(start, block);
        Ok(())
    }

    /// Writes the journal's inode, whose times are 0 so that an export stays reproducible.
    fn write_inode(&mut self, start: BlockAddr, blocks: u32) -> Result<RawInode> {
        let (map, tree) = extent::encode(JOURNAL_INODE, &[Extent { logical: 0, start, length: blocks }], BlockAddr(0));
        assert!(tree.is_empty(), "at most four extents map the largest journal");
        let inode = RawInode {
            mode: spec::S_IFREG | 0o600,
            links: 1,
            size: u64::from(blocks) * u64::from(BLOCK_SIZE),
            sectors: u64::from(blocks) * u64::from(BLOCK_SIZE / 512),
            flags: spec::INODE_FLAG_EXTENTS,
            map,
            ..RawInode::default()
        };
        let table = BlockAddr(get32(&self.descriptor(0)?, 8)).byte_offset();
        let offset = table + u64::from(JOURNAL_INODE.0 - 1) * u64::from(INODE_SIZE);
        let addr = u32::try_from(offset / u64::from(BLOCK_SIZE)).expect("within the device");
        let at = usize::try_from(offset % u64::from(BLOCK_SIZE)).expect("within a block");
        let bytes: [u8; INODE] = inode.encode(JOURNAL_INODE);
        self.change(BlockAddr(addr), at, &bytes)?;
        Ok(inode)
    }

    fn write_superblock(&mut self, blocks: u32, journal: &RawInode) -> Result<()> {
        let block = self.read(BlockAddr(0))?;
        let mut superblock = [0; SUPERBLOCK_SIZE];
        superblock.copy_from_slice(&block[SUPERBLOCK_OFFSET..][..SUPERBLOCK_SIZE]);
        let free = get32(&superblock, 0x0C);
        put32(&mut superblock, 0x0C, free - blocks);
        put32(&mut superblock, 0x5C, spec::compat::ALL | spec::compat::HAS_JOURNAL);
        put32(&mut superblock, 0xE0, JOURNAL_INODE.0);
        // A copy of the inode's block map and size, from which e2fsck restores a lost journal inode.
        superblock[0xFD] = 1;
        superblock[0x10C..][..60].copy_from_slice(&journal.map);
        put32(&mut superblock, 0x10C + 60, spec::hi32(journal.size));
        put32(&mut superblock, 0x10C + 64, spec::lo32(journal.size));
        let sum = csum::superblock(&superblock);
        put32(&mut superblock, 0x3FC, sum);
        self.change(BlockAddr(0), SUPERBLOCK_OFFSET, &superblock)
    }
}

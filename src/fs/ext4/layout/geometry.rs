//! The geometry of a device: sizes, and the starts of its metadata regions.
//!
//! Every start address is determined by the size class, so that it changes only where an image outgrows its class.

use std::fmt;

use super::super::spec::{
    BLOCK_SIZE, BLOCKS_PER_GROUP, CHUNK_BLOCKS, DESCRIPTORS_PER_BLOCK, INODES_PER_BLOCK, INODES_PER_CHUNK,
    MAX_INODES_PER_GROUP, TABLE_START,
};
use super::directories::DirectoryPlan;
use super::error::LayoutError;
use super::inode_numbers::inode_slots;
use super::segments::Placement;
use crate::ChunkIndex;
use crate::fs::tree::{InodeId, Tree};

/// Number of blocks before the data in the smallest size class: 64 MiB. Each further class is four times as large.
const SMALLEST_CLASS_BLOCKS: u64 = 16_384;
/// Number of inode slots for directories in the smallest size class.
const SMALLEST_CLASS_DIRECTORIES: u64 = 8_192;
/// The ends of the inode table, the directory blocks, and the xattr and extent blocks, in 64ths of a size class. The last part has
/// the bitmaps that do not fit into the first chunk.
const TABLE_PARTS: u64 = 26;
const DIRECTORY_PARTS: u64 = 62;
const ATTRIBUTE_PARTS: u64 = 63;
/// Maximum number of blocks that the kernel reserves; it reserves 2 % of all blocks (`s_resv_clusters`).
const KERNEL_RESERVE: u64 = 4_096;
/// Number of bytes of `--free` for each free inode.
const BYTES_PER_FREE_INODE: u64 = 16 * 1024;

const _: () = assert!((SMALLEST_CLASS_BLOCKS * TABLE_PARTS / 64).is_multiple_of(CHUNK_BLOCKS as u64));
const _: () = assert!((SMALLEST_CLASS_BLOCKS * DIRECTORY_PARTS / 64).is_multiple_of(CHUNK_BLOCKS as u64));

/// A region of the device: the kind of content of its chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Region {
    /// Superblock, group descriptors, bitmaps, and the inode of the root.
    Header,
    /// All other inodes.
    InodeTable,
    /// The entries of directories.
    DirectoryBlocks,
    /// Xattrs and extents that do not fit into their inodes.
    AttributeBlocks,
    /// Bitmaps that do not fit into the first chunk.
    Bitmaps,
    /// The bytes of files.
    Data,
}

impl Region {
    /// Returns the region of `chunk` on a device of `device_chunks` chunks whose data starts at chunk `data`; `None` where no size
    /// class of this epoch has its data there.
    #[must_use]
    pub fn of(chunk: ChunkIndex, device_chunks: u32, data: u32) -> Option<Self> {
        let class = SizeClass::all().find(|class| class.blocks == u64::from(data) * u64::from(CHUNK_BLOCKS))?;
        let table = table_start(device_chunks.div_ceil(BLOCKS_PER_GROUP / CHUNK_BLOCKS));
        let [directories, attributes, bitmaps] = class.region_starts().map(|block| u32::try_from(block).ok());
        Some(Self::between(chunk, [table, directories?, attributes?, bitmaps?, data * CHUNK_BLOCKS]))
    }

    /// Returns the region of `chunk` among regions that start at these blocks.
    pub(super) fn between(chunk: ChunkIndex, [table, directories, attributes, bitmaps, data]: [u32; 5]) -> Self {
        match chunk.0.saturating_mul(CHUNK_BLOCKS) {
            block if block < table.next_multiple_of(CHUNK_BLOCKS) => Self::Header,
            block if block < directories => Self::InodeTable,
            block if block < attributes => Self::DirectoryBlocks,
            block if block < bitmaps => Self::AttributeBlocks,
            block if block < data => Self::Bitmaps,
            _ => Self::Data,
        }
    }
}

impl fmt::Display for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Header => "superblock, group descriptors, bitmaps and the root's inode",
            Self::InodeTable => "inode table",
            Self::DirectoryBlocks => "directory blocks",
            Self::AttributeBlocks => "xattr and extent blocks",
            Self::Bitmaps => "bitmaps",
            Self::Data => "data",
        })
    }
}

/// The sizes of a device and the starts of its regions, in blocks, groups and inodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs::ext4) struct Geometry {
    pub(in crate::fs::ext4) blocks: u32,
    pub(in crate::fs::ext4) groups: u32,
    pub(in crate::fs::ext4) inodes_per_group: u32,
    pub(in crate::fs::ext4) inode_table: u32,
    pub(in crate::fs::ext4) directories: u32,
    pub(in crate::fs::ext4) attributes: u32,
    pub(in crate::fs::ext4) bitmaps: u32,
    pub(in crate::fs::ext4) data: u32,
}

impl Geometry {
    pub(in crate::fs::ext4) fn inodes(&self) -> u32 {
        self.groups * self.inodes_per_group
    }

    pub(in crate::fs::ext4) fn inode_table_blocks(&self) -> u32 {
        self.inodes() / INODES_PER_BLOCK
    }

    pub(in crate::fs::ext4) fn descriptor_blocks(&self) -> u32 {
        self.groups.div_ceil(DESCRIPTORS_PER_BLOCK)
    }

    /// Returns the number of groups whose bitmaps are between the descriptors and the inode table.
    pub(in crate::fs::ext4) fn groups_in_header(&self) -> u32 {
        ((self.inode_table - 1 - self.descriptor_blocks()) / 2).min(self.groups)
    }

    /// Returns the address of a group's block bitmap; the inode bitmap is the next block. The last group has the first place: it
    /// always has a block bitmap, also when all other groups after the data have none.
    pub(in crate::fs::ext4) fn block_bitmap(&self, group: u32) -> u32 {
        let place = (group + 1) % self.groups;
        match place.checked_sub(self.groups_in_header()) {
            None => 1 + self.descriptor_blocks() + 2 * place,
            Some(behind) => self.bitmaps + 2 * behind,
        }
    }
}

/// A size class of the metadata, which determines the starts of all regions.
#[derive(Debug, Clone, Copy)]
pub(super) struct SizeClass {
    pub(super) blocks: u64,
    pub(super) directories: u64,
}

impl SizeClass {
    pub(super) fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|n| Self {
            blocks: SMALLEST_CLASS_BLOCKS << (2 * n),
            directories: SMALLEST_CLASS_DIRECTORIES << (2 * n),
        })
    }

    pub(super) fn of(geometry: &Geometry) -> Self {
        Self::all()
            .find(|class| class.blocks == u64::from(geometry.data))
            .expect("every geometry is made from a size class")
    }

    /// Returns the blocks at which directory blocks, attribute blocks and further bitmaps start.
    fn region_starts(self) -> [u64; 3] {
        [TABLE_PARTS, DIRECTORY_PARTS, ATTRIBUTE_PARTS].map(|parts| self.blocks * parts / 64)
    }

    /// Returns the geometry in this size class; `None` where something does not fit into its region.
    pub(super) fn fit(
        self,
        tree: &Tree,
        directories: &[DirectoryPlan],
        attributes: &[(InodeId, u32)],
        placement: &Placement,
        free: u64,
    ) -> Result<Option<Geometry>, LayoutError> {
        let [table_end, directories_end, attributes_end] = self.region_starts();
        let directory_blocks = directories.iter().map(DirectoryPlan::end).max().unwrap_or(0);
        let attribute_blocks: u64 = attributes.iter().map(|&(_, blocks)| u64::from(blocks)).sum();
        if directories.len() as u64 > self.directories
            || u64::from(directory_blocks) > directories_end - table_end
            || attribute_blocks > attributes_end - directories_end
        {
            return Ok(None);
        }
        // One chunk of slots is added for those that share the first chunk with the header.
        let inodes =
            u64::from(INODES_PER_CHUNK) + inode_slots(tree, self.directories) + free.div_ceil(BYTES_PER_FREE_INODE);
        let needed = self.blocks + placement.chunks * u64::from(CHUNK_BLOCKS) + free.div_ceil(BLOCK_SIZE.into());
        let reserve = if free == 0 { 0 } else { (needed / 49 + 1).min(KERNEL_RESERVE) };
        // The groups must suffice for the inodes as well: a group has at most 32,768.
        let for_inodes =
            inodes.div_ceil(MAX_INODES_PER_GROUP.into()).saturating_sub(1) * u64::from(BLOCKS_PER_GROUP) + 1;
        let blocks = (needed + reserve).max(for_inodes).next_multiple_of(CHUNK_BLOCKS.into());
        let blocks = u32::try_from(blocks).map_err(|_| LayoutError::TooLarge)?;
        let groups = blocks.div_ceil(BLOCKS_PER_GROUP);
        let inodes_per_group = inodes.div_ceil(groups.into()).next_multiple_of(INODES_PER_CHUNK.into());
        let inodes_per_group = u32::try_from(inodes_per_group).map_err(|_| LayoutError::TooLarge)?;
        let block = |value: u64| u32::try_from(value).map_err(|_| LayoutError::TooLarge);
        let geometry = Geometry {
            blocks,
            groups,
            inodes_per_group,
            inode_table: table_start(groups),
            directories: block(table_end)?,
            attributes: block(directories_end)?,
            bitmaps: block(attributes_end)?,
            data: block(self.blocks)?,
        };
        let table_blocks = u64::from(groups) * u64::from(inodes_per_group / INODES_PER_BLOCK);
        let bitmap_blocks = 2 * u64::from(groups - geometry.groups_in_header());
        let fits = u64::from(geometry.inode_table) + table_blocks <= table_end
            && bitmap_blocks <= self.blocks - attributes_end;
        Ok(fits.then_some(geometry))
    }
}

/// Returns the first block of the inode table: constant, except on devices of over 480 GiB, whose descriptors need more space.
pub(super) fn table_start(groups: u32) -> u32 {
    (2 + groups.div_ceil(DESCRIPTORS_PER_BLOCK)).next_multiple_of(TABLE_START + 1) - 1
}

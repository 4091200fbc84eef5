//! The constants of the on-disk format from the kernel's documentation, and those that layout epoch 1 defines.
//!
//! A change of any constant here changes stored bytes.

/// Size of a block, in bytes.
pub const BLOCK_SIZE: u32 = 4096;

/// Size of a block, in bytes, for buffers.
pub(super) const BLOCK: usize = BLOCK_SIZE as usize;

/// Number of blocks in a chunk.
pub(super) const CHUNK_BLOCKS: u32 = crate::CHUNK_SIZE / BLOCK_SIZE;

/// Size of a chunk, in bytes, for buffers.
pub(super) const CHUNK: usize = crate::CHUNK_SIZE as usize;

/// The address of a block on the device, in blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct BlockAddr(pub u32);

impl BlockAddr {
    /// Returns the offset of the block's first byte on the device.
    #[must_use]
    pub fn byte_offset(self) -> u64 {
        u64::from(self.0) * u64::from(BLOCK_SIZE)
    }
}

/// The number of an inode on the device; the first is 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct InodeNumber(pub u32);

pub(super) const ROOT_INODE: InodeNumber = InodeNumber(2);
pub(super) const FIRST_FREE_INODE: u32 = 11;
pub(super) const INODE_SIZE: u32 = 256;
pub(super) const INODE: usize = INODE_SIZE as usize;
pub(super) const INODES_PER_BLOCK: u32 = BLOCK_SIZE / INODE_SIZE;
pub(super) const INODES_PER_CHUNK: u32 = INODES_PER_BLOCK * CHUNK_BLOCKS;
/// First block of the inode table: in the first chunk, so that a mount reads one chunk. With the root's inode the kernel reads up
/// to 32 following blocks ahead (`__ext4_get_inode_loc`); they are in that chunk as well, and empty.
pub(super) const TABLE_START: u32 = 31;
pub(super) const EXTRA_ISIZE: u16 = 32;
pub(super) const BLOCKS_PER_GROUP: u32 = 8 * BLOCK_SIZE;
pub(super) const MAX_INODES_PER_GROUP: u32 = 8 * BLOCK_SIZE;
pub(super) const DESCRIPTOR_SIZE: u32 = 32;
pub(super) const DESCRIPTORS_PER_BLOCK: u32 = BLOCK_SIZE / DESCRIPTOR_SIZE;

pub(super) const SUPERBLOCK_OFFSET: usize = 1024;
pub(super) const SUPERBLOCK_SIZE: usize = 1024;
pub(super) const MAGIC: u16 = 0xEF53;

pub(super) mod compat {
    /// Set only on exported devices with a journal.
    pub(crate) const HAS_JOURNAL: u32 = 0x4;
    pub(crate) const EXT_ATTR: u32 = 0x8;
    pub(crate) const DIR_INDEX: u32 = 0x20;
    pub(crate) const SPARSE_SUPER2: u32 = 0x200;
    pub(crate) const ALL: u32 = EXT_ATTR | DIR_INDEX | SPARSE_SUPER2;
}

pub(super) mod incompat {
    pub(crate) const FILETYPE: u32 = 0x2;
    pub(crate) const EXTENTS: u32 = 0x40;
    pub(crate) const FLEX_BG: u32 = 0x200;
    pub(crate) const CSUM_SEED: u32 = 0x2000;
    pub(crate) const ALL: u32 = FILETYPE | EXTENTS | FLEX_BG | CSUM_SEED;
}

pub(super) mod ro_compat {
    pub(crate) const LARGE_FILE: u32 = 0x2;
    pub(crate) const HUGE_FILE: u32 = 0x8;
    pub(crate) const DIR_NLINK: u32 = 0x20;
    pub(crate) const EXTRA_ISIZE: u32 = 0x40;
    pub(crate) const METADATA_CSUM: u32 = 0x400;
    pub(crate) const ALL: u32 = LARGE_FILE | HUGE_FILE | DIR_NLINK | EXTRA_ISIZE | METADATA_CSUM;
}

/// The seed of every metadata checksum (`s_checksum_seed`); constant, so that the UUID changes only the superblock.
pub(super) const CHECKSUM_SEED: u32 = 0x636f_6c64;
/// The seed of the directory hash (`s_hash_seed`); constant, so that an entry's hash depends only on its name.
pub(super) const HASH_SEED: [u32; 4] = [0x636f_6c64, 0x7072_6573, 0x732d_6570, 0x6f63_6831];
pub(super) const HASH_HALF_MD4: u8 = 1;
pub(super) const FLAG_SIGNED_HASH: u32 = 1;
pub(super) const GROUP_INODES_UNUSED: u16 = 1;
pub(super) const GROUP_BLOCKS_UNUSED: u16 = 2;
pub(super) const GROUP_TABLE_ZEROED: u16 = 4;

pub(super) const S_IFMT: u16 = 0xF000;
pub(super) const S_IFIFO: u16 = 0x1000;
pub(super) const S_IFCHR: u16 = 0x2000;
pub(super) const S_IFDIR: u16 = 0x4000;
pub(super) const S_IFBLK: u16 = 0x6000;
pub(super) const S_IFREG: u16 = 0x8000;
pub(super) const S_IFLNK: u16 = 0xA000;

pub(super) const INODE_FLAG_INDEX: u32 = 0x1000;
pub(super) const INODE_FLAG_EXTENTS: u32 = 0x8_0000;

/// Maximum length of a symlink target in the inode's block map, in bytes.
pub(super) const FAST_SYMLINK: usize = 59;
/// Maximum length of a symlink target, in bytes: one block with its final NUL.
pub(super) const MAX_SYMLINK: usize = BLOCK - 1;
/// Maximum length of a name in a directory, in bytes.
pub const MAX_NAME: usize = 255;
/// Maximum number of hard links to a file; a directory with more subdirectories has a count of 1 (`dir_nlink`).
pub(super) const MAX_LINKS: u32 = 65_000;
/// The range of times in the inode's 34-bit seconds.
pub(super) const TIME_RANGE: std::ops::RangeInclusive<i64> = -0x8000_0000..=0x3_7FFF_FFFF;

pub(super) fn lo16(value: u32) -> u16 {
    let [a, b, _, _] = value.to_le_bytes();
    u16::from_le_bytes([a, b])
}

pub(super) fn hi16(value: u32) -> u16 {
    lo16(value >> 16)
}

pub(super) fn lo32(value: u64) -> u32 {
    let [a, b, c, d, ..] = value.to_le_bytes();
    u32::from_le_bytes([a, b, c, d])
}

pub(super) fn hi32(value: u64) -> u32 {
    lo32(value >> 32)
}

/// Converts a length or count that earlier checks bounded to 32 bits.
pub(super) fn small(value: usize) -> u32 {
    u32::try_from(value).expect("lengths and counts here are bounded by the device's 2^32 blocks")
}

pub(super) fn put16(buf: &mut [u8], at: usize, value: u16) {
    buf[at..at + 2].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn put32(buf: &mut [u8], at: usize, value: u32) {
    buf[at..at + 4].copy_from_slice(&value.to_le_bytes());
}

pub(super) fn get16(buf: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([buf[at], buf[at + 1]])
}

pub(super) fn get32(buf: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([buf[at], buf[at + 1], buf[at + 2], buf[at + 3]])
}

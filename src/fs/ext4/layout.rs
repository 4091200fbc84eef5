//! Where everything stands on the device: layout epoch 1 (docs/reference/formats/ext4-layout.md).
//!
//! Addresses depend on as little as possible: a layer's segment on that layer alone, its inodes and directories on it and
//! those below it, the zones' starts on the tier alone. What a later layer hides keeps its place and reads as zeros.

use std::collections::BTreeMap;
use std::fmt;

use super::spec::{
    BLOCK_SIZE, BLOCKS_PER_GROUP, BlockAddr, CHUNK_BLOCKS, DESCRIPTORS_PER_BLOCK, FAST_SYMLINK, INODES_PER_BLOCK,
    INODES_PER_CHUNK, InodeNumber, MAX_INODES_PER_GROUP, MAX_LINKS, MAX_SYMLINK, ROOT_INODE, TABLE_START, TIME_RANGE,
};
use super::{dirblock, extent, usage, xattr};
use crate::fs::path::Display;
use crate::fs::tree::{Content, Directory, InodeId, Kind, LayerIndex, Metadata, Tree};
use crate::{ChunkIndex, Error, ErrorKind};

/// The layout epoch that this module writes. A change of any address or byte is a new epoch.
pub const EPOCH: u16 = 1;

/// Smallest tier's share of the device before the data: 64 MiB. Each further tier is four times the one before.
const TIER_BLOCKS: u64 = 16_384;
/// Inode slots of the smallest tier's directory zone.
const TIER_DIRECTORIES: u64 = 8_192;
/// Of 64 parts of a tier, where the inode table, the directory blocks, and the xattr and extent blocks end. In the last part
/// stand the bitmaps that have no place in the first chunk.
const TABLE_PARTS: u64 = 26;
const DIRECTORY_PARTS: u64 = 62;
const ATTRIBUTE_PARTS: u64 = 63;
/// The kernel keeps back 2 % of the blocks, at most these (`s_resv_clusters`).
const KERNEL_RESERVE: u64 = 4_096;
/// Most bytes of a file: 2^32 − 1 blocks.
pub const MAX_FILE: u64 = (u32::MAX as u64) * (BLOCK_SIZE as u64);
/// Bytes of `--free` for each further free inode.
const BYTES_PER_FREE_INODE: u64 = 16 * 1024;

/// Why a tree cannot become an ext4 device.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// One inode cannot be stored.
    #[error("`{path}`: {reason}")]
    Inode {
        /// The layer that brought it.
        layer: LayerIndex,
        /// Its path in the image.
        path: String,
        /// What does not fit.
        reason: String,
    },
    /// The device would need more than 2^32 blocks or inodes.
    #[error("the image needs a device of more than 16 TiB, or more than 2^32 inodes")]
    TooLarge,
}

impl From<LayoutError> for Error {
    fn from(error: LayoutError) -> Self {
        Error::new(ErrorKind::Unsupported, error.to_string())
    }
}

/// A layer's part of the data region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its first chunk on the device.
    pub first_chunk: u32,
    /// How many chunks it takes.
    pub chunks: u32,
}

/// What a chunk of the device is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Zone {
    /// Superblock, group descriptors, bitmaps and the root's inode.
    Header,
    /// All other inodes.
    InodeTable,
    /// Directories' entries.
    DirectoryBlocks,
    /// Xattrs and extents that have no place in their inodes.
    AttributeBlocks,
    /// Bitmaps that have no place in the first chunk.
    Bitmaps,
    /// Files' bytes.
    Data,
}

impl Zone {
    /// What `chunk` of a device of `device_chunks` is for whose data starts at chunk `data`; `None` where this epoch has no data there.
    #[must_use]
    pub fn of(chunk: ChunkIndex, device_chunks: u32, data: u32) -> Option<Self> {
        let tier = Tier::all().find(|tier| tier.blocks == u64::from(data) * u64::from(CHUNK_BLOCKS))?;
        let table = table_start(device_chunks.div_ceil(BLOCKS_PER_GROUP / CHUNK_BLOCKS));
        let [directories, attributes, bitmaps] = tier.zones().map(|block| u32::try_from(block).ok());
        Some(Self::between(chunk, [table, directories?, attributes?, bitmaps?, data * CHUNK_BLOCKS]))
    }

    /// Of zones that start at these blocks.
    fn between(chunk: ChunkIndex, [table, directories, attributes, bitmaps, data]: [u32; 5]) -> Self {
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

impl fmt::Display for Zone {
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

/// A directory's blocks: those it had with its layer alone, and those that later layers added elsewhere.
#[derive(Debug, Clone, Copy)]
pub(super) struct DirectoryPlan {
    pub(super) id: InodeId,
    pub(super) parent: InodeId,
    pub(super) blocks: u32,
    pub(super) start: BlockAddr,
    /// How many of `blocks` stand at `start`.
    pub(super) first: u32,
    pub(super) overflow: BlockAddr,
}

/// The device's measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) blocks: u32,
    pub(super) groups: u32,
    pub(super) inodes_per_group: u32,
    pub(super) inode_table: u32,
    pub(super) directories: u32,
    pub(super) attributes: u32,
    pub(super) bitmaps: u32,
    pub(super) data: u32,
}

impl Geometry {
    pub(super) fn inodes(&self) -> u32 {
        self.groups * self.inodes_per_group
    }

    pub(super) fn inode_table_blocks(&self) -> u32 {
        self.inodes() / INODES_PER_BLOCK
    }

    pub(super) fn descriptor_blocks(&self) -> u32 {
        self.groups.div_ceil(DESCRIPTORS_PER_BLOCK)
    }

    /// Groups whose bitmaps stand between the descriptors and the inode table.
    pub(super) fn groups_in_header(&self) -> u32 {
        ((self.inode_table - 1 - self.descriptor_blocks()) / 2).min(self.groups)
    }

    /// Where a group's block bitmap stands; its inode bitmap is the block behind it. The last group comes first: it always has a
    /// bitmap of blocks, when all others behind the data have none.
    pub(super) fn block_bitmap(&self, group: u32) -> u32 {
        let place = (group + 1) % self.groups;
        match place.checked_sub(self.groups_in_header()) {
            None => 1 + self.descriptor_blocks() + 2 * place,
            Some(behind) => self.bitmaps + 2 * behind,
        }
    }
}

/// The whole plan of a device.
#[derive(Debug)]
pub struct Layout<'t> {
    pub(super) tree: &'t Tree,
    pub(super) geometry: Geometry,
    /// Names of each inode; of a directory 1; 0 where it is hidden.
    pub(super) names: Vec<u32>,
    pub(super) numbers: Vec<InodeNumber>,
    /// First data block of each inode that has data.
    pub(super) starts: Vec<BlockAddr>,
    /// By id.
    pub(super) directories: Vec<DirectoryPlan>,
    /// Blocks in the attribute zone: an xattr block, then extent blocks; of the few inodes that need one.
    pub(super) attributes: BTreeMap<InodeId, BlockAddr>,
    segments: Vec<Segment>,
    /// The inodes with data, in the order of their data.
    with_data: Vec<InodeId>,
}

/// How many directory blocks `directory` needs now.
///
/// # Errors
/// `Unsupported` where an htree of two levels cannot index it.
pub fn directory_blocks(directory: &Directory) -> Result<u32, Error> {
    dirblock::blocks_needed(directory.entries.keys().map(|name| &**name))
        .map_err(|error| Error::new(ErrorKind::Unsupported, error.to_string()))
}

impl<'t> Layout<'t> {
    /// Plans a device for `tree` with at least `free` bytes of free space behind the data.
    ///
    /// # Errors
    /// [`LayoutError`], naming the inode that ext4 cannot store.
    pub fn new(tree: &'t Tree, free: u64) -> Result<Self, LayoutError> {
        let visible = Visible::of(tree);
        check(tree, &visible.names)?;
        let placement = Placement::of(tree)?;
        let directories = plan_directories(tree, &visible)?;
        let attribute_blocks = attribute_blocks(tree)?;
        let geometry = Tier::all()
            .find_map(|tier| tier.fit(tree, &directories, &attribute_blocks, &placement, free).transpose())
            .ok_or(LayoutError::TooLarge)??;

        let numbers = number(tree, geometry.inode_table, Tier::of(&geometry).directories)?;
        let segments = placement
            .segments
            .iter()
            .map(|s| Segment { first_chunk: s.first_chunk + geometry.data / CHUNK_BLOCKS, ..*s })
            .collect::<Vec<_>>();
        let mut starts = placement.starts;
        for &id in &placement.with_data {
            starts[id.0 as usize].0 += segments[usize::from(tree.layer_of(id).0)].first_chunk * CHUNK_BLOCKS;
        }
        let mut at = geometry.attributes;
        let mut attributes = BTreeMap::new();
        for (id, blocks) in attribute_blocks {
            attributes.insert(id, BlockAddr(at));
            at += blocks;
        }
        let directories = directories.into_iter().map(|plan| plan.moved(geometry.directories)).collect();
        let with_data = placement.with_data;
        Ok(Self { tree, geometry, names: visible.names, numbers, starts, directories, attributes, segments, with_data })
    }

    /// The device's size in bytes, a multiple of the chunk size.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        u64::from(self.geometry.blocks) * u64::from(BLOCK_SIZE)
    }

    /// Each layer's segment.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The data in the segment of `layer`, in its order.
    pub fn placed(&self, layer: LayerIndex) -> impl Iterator<Item = Placed<'t>> {
        let of = |id: &InodeId| self.tree.layer_of(*id);
        let from = self.with_data.partition_point(|id| of(id) < layer);
        let to = self.with_data.partition_point(|id| of(id) <= layer);
        let base = self.segments[usize::from(layer.0)].first_chunk * CHUNK_BLOCKS;
        self.with_data[from..to].iter().map(move |&id| Placed {
            start: self.starts[id.0 as usize].0 - base,
            visible: self.is_visible(id),
            kind: &self.tree.inode(id).kind,
        })
    }

    /// Whether the inode is reached from the root.
    pub(super) fn is_visible(&self, id: InodeId) -> bool {
        self.names[id.0 as usize] > 0
    }

    /// The inodes whose data touches the blocks from `first` to before `end`.
    pub(super) fn with_data_in(&self, first: BlockAddr, end: BlockAddr) -> &[InodeId] {
        let start = |id: &InodeId| self.starts[id.0 as usize].0;
        let behind = |id: &InodeId| start(id) + data_blocks(&self.tree.inode(*id).kind);
        let from = self.with_data.partition_point(|id| behind(id) <= first.0);
        let to = self.with_data.partition_point(|id| start(id) < end.0);
        &self.with_data[from..to.max(from)]
    }

    /// Whether a chunk holds files' bytes and not metadata.
    #[must_use]
    pub fn is_data(&self, chunk: ChunkIndex) -> bool {
        self.zone_of(chunk) == Zone::Data
    }

    fn zone_of(&self, chunk: ChunkIndex) -> Zone {
        let Geometry { inode_table, directories, attributes, bitmaps, data, .. } = self.geometry;
        Zone::between(chunk, [inode_table, directories, attributes, bitmaps, data])
    }

    /// What a chunk holds, for a person: the paths of the files in it, or the name of the metadata.
    #[must_use]
    pub fn contents_of(&self, chunk: ChunkIndex) -> Vec<String> {
        let zone = self.zone_of(chunk);
        if zone != Zone::Data {
            return vec![zone.to_string()];
        }
        let first = chunk.0 * CHUNK_BLOCKS;
        let ids = self.with_data_in(BlockAddr(first), BlockAddr(first + CHUNK_BLOCKS));
        let mut paths = Vec::new();
        self.tree.walk(&mut |path, id| {
            if ids.contains(&id) {
                paths.push(Display(path).to_string());
            }
        });
        paths
    }
}

/// What the root reaches.
struct Visible {
    names: Vec<u32>,
    parents: BTreeMap<InodeId, InodeId>,
}

impl Visible {
    fn of(tree: &Tree) -> Self {
        let mut names = vec![0; tree.inodes.len()];
        let mut parents = BTreeMap::from([(Tree::ROOT, Tree::ROOT)]);
        names[0] = 1;
        let mut stack = vec![Tree::ROOT];
        while let Some(parent) = stack.pop() {
            for &id in tree.directory(parent).into_iter().flat_map(|directory| directory.entries.values()) {
                names[id.0 as usize] += 1;
                if tree.directory(id).is_some() {
                    parents.insert(id, parent);
                    stack.push(id);
                }
            }
        }
        Self { names, parents }
    }
}

/// Refuses by name what ext4 cannot store; what an inode says of itself was refused when its layer was read.
fn check(tree: &Tree, names: &[u32]) -> Result<(), LayoutError> {
    for (id, inode) in tree.iter() {
        let names = names[id.0 as usize];
        let reason = match unstorable(&inode.metadata, &inode.kind) {
            None if !matches!(inode.kind, Kind::Directory(_)) && names > MAX_LINKS => {
                Some(format!("{names} hard links are more than the {MAX_LINKS} that ext4 stores"))
            }
            other => other,
        };
        if let Some(reason) = reason {
            return Err(LayoutError::Inode { layer: tree.layer_of(id), path: path_of(tree, id), reason });
        }
    }
    Ok(())
}

/// Why ext4 cannot store such an inode, if it cannot.
#[must_use]
pub fn unstorable(metadata: &Metadata, kind: &Kind) -> Option<String> {
    if let Err(error) = xattr::place(&metadata.xattrs) {
        return Some(error.to_string());
    }
    if metadata.uid == u32::MAX || metadata.gid == u32::MAX {
        return Some("an owner or group of 4294967295 means \"none\" to Linux and cannot be stored".to_owned());
    }
    match kind {
        Kind::Symlink(target) if target.len() > MAX_SYMLINK => Some(format!(
            "a symlink's target of {} bytes is longer than the {MAX_SYMLINK} that ext4 stores",
            target.len()
        )),
        Kind::Symlink(target) if target.is_empty() => Some("a symlink without a target".to_owned()),
        Kind::File(content) if content.size > MAX_FILE => {
            Some(format!("a file of {} bytes is larger than the 16 TiB that ext4 stores", content.size))
        }
        Kind::CharDevice(device) | Kind::BlockDevice(device) if device.major > 0xFFF || device.minor > 0xF_FFFF => {
            Some(format!("device {}:{} is past ext4's 4095:1048575", device.major, device.minor))
        }
        _ => None,
    }
}

fn path_of(tree: &Tree, wanted: InodeId) -> String {
    let mut found = None;
    tree.walk(&mut |path, id| {
        if id == wanted && found.is_none() {
            found = Some(Display(path).to_string());
        }
    });
    found.unwrap_or_else(|| format!("an entry of layer {} that a later layer hides", tree.layer_of(wanted).0 + 1))
}

/// `secs` as ext4 can store it; times outside its range take the nearest.
#[must_use]
pub fn clamp_seconds(secs: i64) -> i64 {
    secs.clamp(*TIME_RANGE.start(), *TIME_RANGE.end())
}

/// The runs of blocks that `content` has, as (first logical block, count); a block that any byte run touches counts.
///
/// # Panics
/// Where the file is larger than [`MAX_FILE`].
#[must_use]
pub fn block_runs(content: &Content) -> Vec<(u32, u32)> {
    let block = u64::from(BLOCK_SIZE);
    let mut runs: Vec<(u32, u32)> = Vec::new();
    for run in content.runs() {
        let bounded = |value: u64| u32::try_from(value).expect("check() refused files of more than 2^32 blocks");
        let (first, end) = (bounded(run.offset / block), bounded((run.offset + run.length).div_ceil(block)));
        match runs.last_mut() {
            Some((start, count)) if *start + *count >= first => *count = (*count).max(end - *start),
            _ => runs.push((first, end - first)),
        }
    }
    runs
}

/// How many blocks of data an inode has. [`block_runs`] says when this panics.
#[must_use]
pub fn data_blocks(kind: &Kind) -> u32 {
    match kind {
        Kind::File(content) => block_runs(content).iter().map(|&(_, count)| count).sum(),
        Kind::Symlink(target) if target.len() > FAST_SYMLINK => 1,
        _ => 0,
    }
}

/// Where the next data stands in a layer's segment.
#[derive(Debug, Clone, Copy, Default)]
pub struct SegmentCursor {
    used: u64,
}

impl SegmentCursor {
    /// The block of the segment where `blocks` of data start that follow those placed before; `None` past 2^32 blocks.
    pub fn place(&mut self, blocks: u32) -> Option<u32> {
        // A file of at least one chunk starts on a chunk, so that its chunks do not depend on what stands before it.
        if blocks >= CHUNK_BLOCKS {
            self.used = self.used.next_multiple_of(CHUNK_BLOCKS.into());
        }
        let start = u32::try_from(self.used).ok()?;
        self.used += u64::from(blocks);
        Some(start)
    }
}

/// Data in a layer's segment.
#[derive(Debug, Clone, Copy)]
pub struct Placed<'t> {
    /// Its first block in the segment.
    pub start: u32,
    /// Whether anything of it is seen; if not, its blocks are zeros.
    pub visible: bool,
    /// A file or a symlink.
    pub kind: &'t Kind,
}

/// The data region: one segment a layer.
struct Placement {
    /// Relative to the layer's segment.
    starts: Vec<BlockAddr>,
    with_data: Vec<InodeId>,
    /// Relative to the data region.
    segments: Vec<Segment>,
    chunks: u64,
}

impl Placement {
    fn of(tree: &Tree) -> Result<Self, LayoutError> {
        let mut cursors = vec![SegmentCursor::default(); tree.layers()];
        let mut starts = vec![BlockAddr(0); tree.inodes.len()];
        let mut with_data = Vec::new();
        for (id, inode) in tree.iter() {
            let blocks = data_blocks(&inode.kind);
            if blocks == 0 {
                continue;
            }
            let start = cursors[usize::from(tree.layer_of(id).0)].place(blocks).ok_or(LayoutError::TooLarge)?;
            starts[id.0 as usize] = BlockAddr(start);
            with_data.push(id);
        }
        let (mut segments, mut chunks) = (Vec::with_capacity(cursors.len()), 0u64);
        for cursor in cursors {
            let count = cursor.used.div_ceil(CHUNK_BLOCKS.into());
            let first_chunk = u32::try_from(chunks).map_err(|_| LayoutError::TooLarge)?;
            segments.push(Segment { first_chunk, chunks: u32::try_from(count).map_err(|_| LayoutError::TooLarge)? });
            chunks += count;
        }
        Ok(Self { starts, with_data, segments, chunks })
    }
}

/// Directory blocks relative to their zone: a chunk-aligned part a layer, then what later layers added.
fn plan_directories(tree: &Tree, visible: &Visible) -> Result<Vec<DirectoryPlan>, LayoutError> {
    let (mut plans, mut at, mut layer) = (Vec::new(), 0u32, LayerIndex(0));
    for (id, inode) in tree.iter() {
        let Kind::Directory(directory) = &inode.kind else { continue };
        if tree.layer_of(id) != layer {
            (at, layer) = (at.next_multiple_of(CHUNK_BLOCKS), tree.layer_of(id));
        }
        let first = directory.first_blocks.max(1);
        let blocks = match visible.names[id.0 as usize] {
            0 => 0,
            _ => directory_blocks(directory).map_err(|error| LayoutError::Inode {
                layer: tree.layer_of(id),
                path: path_of(tree, id),
                reason: error.to_string(),
            })?,
        };
        let parent = visible.parents.get(&id).copied().unwrap_or(Tree::ROOT);
        plans.push(DirectoryPlan {
            id,
            parent,
            blocks,
            start: BlockAddr(at),
            first: first.min(blocks),
            overflow: BlockAddr(0),
        });
        at = at.checked_add(first).ok_or(LayoutError::TooLarge)?;
    }
    at = at.next_multiple_of(CHUNK_BLOCKS);
    for plan in plans.iter_mut().filter(|plan| plan.blocks > plan.first) {
        plan.overflow = BlockAddr(at);
        at = at.checked_add(plan.blocks - plan.first).ok_or(LayoutError::TooLarge)?;
    }
    Ok(plans)
}

impl DirectoryPlan {
    fn moved(self, by: u32) -> Self {
        Self { start: BlockAddr(self.start.0 + by), overflow: BlockAddr(self.overflow.0 + by), ..self }
    }

    fn end(&self) -> u32 {
        (self.start.0 + self.first.max(1)).max(self.overflow.0 + self.blocks - self.first)
    }

    /// Its blocks as extents.
    pub(super) fn extents(&self) -> Vec<extent::Extent> {
        let first = extent::Extent { logical: 0, start: self.start, length: self.first };
        let more = extent::Extent { logical: self.first, start: self.overflow, length: self.blocks - self.first };
        [first, more].into_iter().filter(|extent| extent.length > 0).collect()
    }
}

/// Of the inodes that need blocks for xattrs or extents, how many; hidden ones too, so that their place stays.
fn attribute_blocks(tree: &Tree) -> Result<Vec<(InodeId, u32)>, LayoutError> {
    let mut out = Vec::new();
    for (id, inode) in tree.iter() {
        let blocks = usage::attribute_blocks(&inode.metadata, &inode.kind).map_err(|error| LayoutError::Inode {
            layer: tree.layer_of(id),
            path: path_of(tree, id),
            reason: error.to_string(),
        })?;
        if blocks > 0 {
            out.push((id, blocks));
        }
    }
    Ok(out)
}

/// One of the sizes that the metadata region can have; all zone starts follow from it.
#[derive(Debug, Clone, Copy)]
struct Tier {
    blocks: u64,
    directories: u64,
}

impl Tier {
    fn all() -> impl Iterator<Item = Self> {
        (0..8).map(|n| Self { blocks: TIER_BLOCKS << (2 * n), directories: TIER_DIRECTORIES << (2 * n) })
    }

    fn of(geometry: &Geometry) -> Self {
        Self::all().find(|tier| tier.blocks == u64::from(geometry.data)).expect("every geometry is made from a tier")
    }

    /// The blocks at which directory blocks, attribute blocks and further bitmaps start.
    fn zones(self) -> [u64; 3] {
        [TABLE_PARTS, DIRECTORY_PARTS, ATTRIBUTE_PARTS].map(|parts| self.blocks * parts / 64)
    }

    /// The geometry in this tier, `None` where something does not fit its zone.
    fn fit(
        self,
        tree: &Tree,
        directories: &[DirectoryPlan],
        attributes: &[(InodeId, u32)],
        placement: &Placement,
        free: u64,
    ) -> Result<Option<Geometry>, LayoutError> {
        let [table_end, directories_end, attributes_end] = self.zones();
        let directory_blocks = directories.iter().map(DirectoryPlan::end).max().unwrap_or(0);
        let attribute_blocks: u64 = attributes.iter().map(|&(_, blocks)| u64::from(blocks)).sum();
        if directories.len() as u64 > self.directories
            || u64::from(directory_blocks) > directories_end - table_end
            || attribute_blocks > attributes_end - directories_end
        {
            return Ok(None);
        }
        // One chunk's worth of slots is kept for those that share the first chunk with the header.
        let inodes =
            u64::from(INODES_PER_CHUNK) + inode_slots(tree, self.directories) + free.div_ceil(BYTES_PER_FREE_INODE);
        let needed = self.blocks + placement.chunks * u64::from(CHUNK_BLOCKS) + free.div_ceil(BLOCK_SIZE.into());
        let reserve = if free == 0 { 0 } else { (needed / 49 + 1).min(KERNEL_RESERVE) };
        // Enough groups for the inodes, too: a group takes at most 32,768 of them.
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

/// Constant, but on devices of over 480 GiB, whose descriptors need more room.
fn table_start(groups: u32) -> u32 {
    (2 + groups.div_ceil(DESCRIPTORS_PER_BLOCK)).next_multiple_of(TABLE_START + 1) - 1
}

/// How many inodes each layer has that are no directories.
fn files_per_layer(tree: &Tree) -> Vec<u64> {
    let mut counts = vec![0; tree.layers()];
    for (id, _) in tree.iter().filter(|(_, inode)| !matches!(inode.kind, Kind::Directory(_))) {
        counts[usize::from(tree.layer_of(id).0)] += 1;
    }
    counts
}

/// Inode slots that the directory zone and the layers' zones take.
fn inode_slots(tree: &Tree, directories: u64) -> u64 {
    files_per_layer(tree)
        .into_iter()
        .fold(directories, |slots, count| slots + count.next_multiple_of(INODES_PER_CHUNK.into()))
}

/// Every inode's number: the root's, then directories in their zone and the others in one zone a layer, by layer, then path.
/// Zones start on chunks of the device.
fn number(tree: &Tree, table: u32, directories: u64) -> Result<Vec<InodeNumber>, LayoutError> {
    // The slots between the root's and the first that starts a chunk stay free.
    let zones = (table.next_multiple_of(CHUNK_BLOCKS) - table) * INODES_PER_BLOCK;
    let mut next_directory = zones + 1;
    let mut next_file = Vec::new();
    let mut slot = u64::from(zones) + directories;
    for count in files_per_layer(tree) {
        next_file.push(u32::try_from(slot + 1).map_err(|_| LayoutError::TooLarge)?);
        slot += count.next_multiple_of(INODES_PER_CHUNK.into());
    }
    let numbers = tree.iter().map(|(id, inode)| {
        if id == Tree::ROOT {
            return ROOT_INODE;
        }
        let next = match inode.kind {
            Kind::Directory(_) => &mut next_directory,
            _ => &mut next_file[usize::from(tree.layer_of(id).0)],
        };
        *next += 1;
        InodeNumber(*next - 1)
    });
    Ok(numbers.collect())
}

const _: () = assert!((TIER_BLOCKS * TABLE_PARTS / 64).is_multiple_of(CHUNK_BLOCKS as u64));
const _: () = assert!((TIER_BLOCKS * DIRECTORY_PARTS / 64).is_multiple_of(CHUNK_BLOCKS as u64));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::{Data, Inode, Run};

    const CHUNK: u64 = crate::CHUNK_SIZE as u64;

    /// One layer with files of these names and sizes at the root.
    fn tree(files: &[(&str, u64)]) -> Tree {
        let mut root = Directory { first_blocks: 1, ..Directory::default() };
        let mut inodes = Vec::new();
        let metadata = Metadata::implied_directory;
        for (id, (name, size)) in (1..).zip(files) {
            root.entries.insert(name.as_bytes().into(), InodeId(id));
            let kind = Kind::File(Content { size: *size, data: Data::Whole(512) });
            inodes.push(Inode { metadata: metadata(), kind });
        }
        inodes.insert(0, Inode { metadata: metadata(), kind: Kind::Directory(Box::new(root)) });
        let end = u32::try_from(inodes.len()).unwrap();
        Tree { inodes, layer_ends: vec![end] }
    }

    /// A directory of `names` names of 255 bytes, all of the inode 1.
    fn directory(names: usize, first_blocks: u32) -> Inode {
        let entry = |n: usize| (format!("{n:0>255}").into_bytes().into(), InodeId(1));
        let directory = Directory { entries: (0..names).map(entry).collect(), first_blocks };
        Inode { metadata: Metadata::implied_directory(), kind: Kind::Directory(Box::new(directory)) }
    }

    /// A root, a pipe, and these directories below the root, all of one layer.
    fn of(directories: impl IntoIterator<Item = Inode>) -> Tree {
        let mut root = Directory { first_blocks: 1, ..Directory::default() };
        let mut inodes = vec![Inode { metadata: Metadata::implied_directory(), kind: Kind::Fifo }];
        inodes.extend(directories);
        let ids = 1..=u32::try_from(inodes.len()).unwrap();
        root.entries = ids.clone().map(|id| (id.to_string().into_bytes().into(), InodeId(id))).collect();
        let root = Inode { metadata: Metadata::implied_directory(), kind: Kind::Directory(Box::new(root)) };
        inodes.insert(0, root);
        Tree { inodes, layer_ends: vec![ids.end() + 1] }
    }

    /// In MiB.
    fn tier(tree: &Tree) -> u32 {
        Layout::new(tree, 0).unwrap().geometry.data / 256
    }

    /// docs/reference/formats/ext4-layout.md, "Zones" and "Inodes": 8,192 slots of directories, 36 MiB of their blocks, 1 MiB of attribute blocks.
    #[test]
    fn the_smallest_tier_is_taken_in_which_everything_fits() {
        let directories = |count: usize| of((1..count).map(|_| directory(0, 1)));
        assert_eq!([8_192, 8_193, 32_768, 32_769].map(|count| tier(&directories(count))), [64, 256, 256, 1_024]);
        // The root has a block, and so has the directory behind this one.
        let blocks = |first| of([directory(0, first), directory(0, 1)]);
        assert_eq!([9_214, 9_215, 36_862, 36_863].map(|first| tier(&blocks(first))), [64, 256, 256, 1_024]);
        let attributed = |count: usize| {
            let mut inode = directory(0, 1);
            inode.metadata.xattrs.insert(b"user.large", &[1; 3_000]);
            of(vec![inode; count])
        };
        assert_eq!([256, 257].map(|count| tier(&attributed(count))), [64, 256]);
    }

    /// docs/reference/formats/ext4-layout.md, "First chunk": 480 GiB are 3,840 groups.
    #[test]
    fn the_inode_table_starts_at_block_31_but_on_devices_of_over_480_gib() {
        assert_eq!([1, 128, 2_100, 3_840, 3_841].map(table_start), [31, 31, 31, 31, 63]);
    }

    /// The kernel's own rule (`ext4_calculate_resv_clusters`): a fiftieth of the blocks, at most 4,096.
    #[test]
    fn free_space_is_beside_what_the_kernel_keeps_back() {
        let tree = tree(&[("a", 5)]);
        for blocks in (1..30_000).step_by(13).chain([250_000, 300_000]) {
            let layout = Layout::new(&tree, u64::from(blocks) * u64::from(BLOCK_SIZE)).unwrap();
            let Geometry { blocks: all, data, .. } = layout.geometry;
            let behind = all - data - CHUNK_BLOCKS;
            assert!(behind >= blocks + (all / 50).min(4_096), "{behind} blocks for {blocks}");
            assert!(behind <= blocks + (all / 49 + 1).min(4_096) + CHUNK_BLOCKS, "{behind} blocks for {blocks}");
        }
        // Sizes are of the epoch: at 17,562 blocks the 49th part and one block more need a further chunk.
        let all = |blocks: u64| Layout::new(&tree, blocks * 4_096).unwrap().geometry.blocks;
        assert_eq!([17_561, 17_562].map(|needed| all(needed - 16_384 - 128)), [17_920, 18_048]);
    }

    /// What later layers added stands from a chunk on behind all parts, the one directory's behind the other's.
    #[test]
    fn directories_that_grew_have_their_further_blocks_behind_all_others() {
        // 15 names of 255 bytes fill a leaf.
        let tree = of([directory(40, 1), directory(0, 3), directory(70, 2), directory(15, 1)]);
        let layout = Layout::new(&tree, 0).unwrap();
        let zone = layout.geometry.directories;
        let plans: Vec<_> =
            layout.directories.iter().map(|plan| (plan.start.0 - zone, plan.first, plan.blocks)).collect();
        assert_eq!(plans, [(0, 1, 1), (1, 1, 4), (2, 1, 1), (5, 2, 6), (7, 1, 1)]);
        let overflow = |at: usize| layout.directories[at].overflow.0 - zone;
        assert_eq!((overflow(1), overflow(3)), (128, 128 + 3));
        // Of the zone's 9,216 blocks the last 128 are left for what is added: 3 blocks and 125, or one more.
        let filled = |names| of([directory(40, 1), directory(0, 9_084), directory(names, 2)]);
        assert_eq!([125, 126].map(|leaves| tier(&filled(15 * (leaves + 1)))), [64, 256]);
    }

    #[test]
    fn a_block_that_any_byte_touches_counts_once() {
        let runs = |runs: &[(u64, u64)]| {
            let run = |&(offset, length)| Run { offset, length, source: 512 };
            block_runs(&Content { size: 1 << 20, data: Data::Sparse(runs.iter().map(run).collect()) })
        };
        let block = u64::from(BLOCK_SIZE);
        assert_eq!(runs(&[(10, 5_000), (5_100, 10), (2 * block, 1)]), [(0, 3)]);
        assert_eq!(runs(&[(8 * block, 3 * block), (13 * block - 1, 2), (14 * block, block)]), [(8, 3), (12, 3)]);
        assert_eq!(runs(&[(8 * block, 3 * block), (13 * block, 1)]), [(8, 3), (13, 1)]);
    }

    #[test]
    fn a_file_has_at_most_2_to_the_32_less_1_blocks() {
        let reason = |size| {
            let run = Run { offset: size - 1, length: 1, source: 512 };
            let content = Content { size, data: Data::Sparse([run].into()) };
            unstorable(&Metadata::implied_directory(), &Kind::File(content))
        };
        let most = (u64::from(u32::MAX)) * 4_096;
        assert_eq!(reason(most), None);
        assert!(reason(most + 1).is_some_and(|reason| reason.contains("larger than the 16 TiB that ext4 stores")));
    }

    #[test]
    fn a_file_has_at_most_65_000_names() {
        let tree = tree(&[("a", 5)]);
        assert!(check(&tree, &[1, 65_000]).is_ok());
        let refused = check(&tree, &[1, 65_001]).unwrap_err().to_string();
        assert_eq!(refused, "`a`: 65001 hard links are more than the 65000 that ext4 stores");
    }

    /// docs/reference/formats/ext4-layout.md, "Zones": of 64 MiB, which are 128 chunks, they end at 26, 62, 63 and 64.
    #[test]
    fn a_chunk_holds_what_its_zone_is_for_or_the_files_that_touch_it() {
        let tree = tree(&[("a", CHUNK), ("b", 2 * CHUNK + 1), ("c", 5)]);
        let layout = Layout::new(&tree, 0).unwrap();
        let holds = |chunk| layout.contents_of(ChunkIndex(chunk));
        for (first, last, zone) in [
            (0, 0, "superblock, group descriptors, bitmaps and the root's inode"),
            (1, 51, "inode table"),
            (52, 123, "directory blocks"),
            (124, 125, "xattr and extent blocks"),
            (126, 127, "bitmaps"),
        ] {
            assert_eq!((holds(first), holds(last)), (vec![zone.to_owned()], vec![zone.to_owned()]));
        }
        let files = [128, 129, 130, 131].map(|chunk| holds(chunk).join(" "));
        assert_eq!(files, ["a", "b", "b", "b c"]);
        assert!(!layout.is_data(ChunkIndex(127)) && layout.is_data(ChunkIndex(128)));
    }
    /// From device and data alone as from the layout, in each tier and past 480 GiB.
    #[test]
    fn a_zone_is_told_by_where_the_data_starts() {
        for (tree, free) in
            [(tree(&[("a", 5)]), 0), (of((0..8_192).map(|_| directory(0, 1))), 0), (tree(&[]), 481 << 30)]
        {
            let layout = Layout::new(&tree, free).unwrap();
            let chunks = u32::try_from(layout.device_bytes() / CHUNK).unwrap();
            let data = layout.geometry.data / CHUNK_BLOCKS;
            for chunk in (0..data + 2).map(ChunkIndex) {
                assert_eq!(Zone::of(chunk, chunks, data), Some(layout.zone_of(chunk)), "{chunk:?} of {chunks}");
            }
        }
        assert_eq!([127, 129, 256].map(|data| Zone::of(ChunkIndex(0), 1_000, data)), [None; 3]);
    }
}

//! The addresses of everything on the device: layout epoch 1 (docs/reference/formats/ext4-layout.md).
//!
//! Addresses depend on as little as possible, so that equal layers give equal chunks: a layer's segment depends on that layer
//! alone, its inodes and directories on it and the layers below it, and the starts of the regions on the size class alone. What a
//! later layer hides keeps its address and reads as zeros.

mod directories;
mod error;
mod geometry;
mod inode_numbers;
mod segments;
mod storable;
mod visible;

use std::collections::BTreeMap;

use super::data_blocks::data_blocks;
use super::spec::{BLOCK_SIZE, BlockAddr, CHUNK_BLOCKS, InodeNumber};
use super::usage;
use crate::ChunkIndex;
use crate::fs::path::Display;
use crate::fs::tree::{InodeId, LayerIndex, Tree};
use directories::plan_directories;
use error::path_of;
use geometry::{Geometry, SizeClass};
use inode_numbers::number;
use segments::Placement;
use storable::check;
use visible::Visible;

pub(super) use directories::DirectoryPlan;
pub use directories::directory_blocks;
pub use error::LayoutError;
pub use geometry::Region;
pub use segments::{PlacedData, Segment, SegmentCursor};
pub use storable::{clamp_seconds, unstorable};

/// The layout epoch that this module writes. A change of any address or byte is a new epoch.
pub const EPOCH: u16 = 1;

/// The plan of a device: the address of every inode, directory, extent block and data block.
#[derive(Debug)]
pub struct Layout<'t> {
    pub(super) tree: &'t Tree,
    pub(super) geometry: Geometry,
    /// Number of names of each inode; 1 for a directory; 0 where it is hidden.
    pub(super) names: Vec<u32>,
    pub(super) numbers: Vec<InodeNumber>,
    /// The first data block of each inode that has data.
    pub(super) starts: Vec<BlockAddr>,
    /// The plans of all directories, by id.
    pub(super) directories: Vec<DirectoryPlan>,
    /// The first block in the attribute region of the few inodes that need one: an xattr block, then extent blocks.
    pub(super) attributes: BTreeMap<InodeId, BlockAddr>,
    segments: Vec<Segment>,
    /// The inodes with data, ordered by their address.
    with_data: Vec<InodeId>,
}

impl<'t> Layout<'t> {
    /// Plans a device for `tree` with at least `free` bytes of free space after the data.
    ///
    /// # Errors
    /// [`LayoutError`], naming the inode that ext4 cannot store.
    pub fn new(tree: &'t Tree, free: u64) -> Result<Self, LayoutError> {
        let visible = Visible::of(tree);
        check(tree, &visible.names)?;
        let placement = Placement::of(tree)?;
        let directories = plan_directories(tree, &visible)?;
        let attribute_blocks = attribute_blocks(tree)?;
        let geometry = SizeClass::all()
            .find_map(|class| class.fit(tree, &directories, &attribute_blocks, &placement, free).transpose())
            .ok_or(LayoutError::TooLarge)??;

        let numbers = number(tree, geometry.inode_table, SizeClass::of(&geometry).directories)?;
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

    /// Returns the device's size in bytes, a multiple of the chunk size.
    #[must_use]
    pub fn device_bytes(&self) -> u64 {
        u64::from(self.geometry.blocks) * u64::from(BLOCK_SIZE)
    }

    /// Returns the segment of each layer.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the data in the segment of `layer`, ordered by address.
    pub fn placed_data(&self, layer: LayerIndex) -> impl Iterator<Item = PlacedData<'t>> {
        let of = |id: &InodeId| self.tree.layer_of(*id);
        let from = self.with_data.partition_point(|id| of(id) < layer);
        let to = self.with_data.partition_point(|id| of(id) <= layer);
        let base = self.segments[usize::from(layer.0)].first_chunk * CHUNK_BLOCKS;
        self.with_data[from..to].iter().map(move |&id| PlacedData {
            start: self.starts[id.0 as usize].0 - base,
            visible: self.is_visible(id),
            kind: &self.tree.inode(id).kind,
        })
    }

    /// Returns whether the root reaches the inode.
    pub(super) fn is_visible(&self, id: InodeId) -> bool {
        self.names[id.0 as usize] > 0
    }

    /// Returns the inodes whose data touches the blocks from `first` to before `end`.
    pub(super) fn with_data_in(&self, first: BlockAddr, end: BlockAddr) -> &[InodeId] {
        let start = |id: &InodeId| self.starts[id.0 as usize].0;
        let behind = |id: &InodeId| start(id) + data_blocks(&self.tree.inode(*id).kind);
        let from = self.with_data.partition_point(|id| behind(id) <= first.0);
        let to = self.with_data.partition_point(|id| start(id) < end.0);
        &self.with_data[from..to.max(from)]
    }

    /// Returns whether a chunk contains data of files, and not metadata.
    #[must_use]
    pub fn is_data(&self, chunk: ChunkIndex) -> bool {
        self.region_of(chunk) == Region::Data
    }

    fn region_of(&self, chunk: ChunkIndex) -> Region {
        let Geometry { inode_table, directories, attributes, bitmaps, data, .. } = self.geometry;
        Region::between(chunk, [inode_table, directories, attributes, bitmaps, data])
    }

    /// Returns the content of a chunk for reports: the paths of the files in it, or the name of its metadata region.
    #[must_use]
    pub fn contents_of(&self, chunk: ChunkIndex) -> Vec<String> {
        let region = self.region_of(chunk);
        if region != Region::Data {
            return vec![region.to_string()];
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

/// Returns the inodes that need blocks for xattrs or extents, and how many. Hidden inodes count as well, so that their addresses
/// are kept.
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

#[cfg(test)]
mod tests {
    use super::super::data_blocks::block_runs;
    use super::geometry::table_start;
    use super::*;
    use crate::fs::tree::{Content, Data, Directory, Inode, Kind, Metadata, Run};

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
    fn size_class(tree: &Tree) -> u32 {
        Layout::new(tree, 0).unwrap().geometry.data / 256
    }

    /// docs/reference/formats/ext4-layout.md, "Zones" and "Inodes": 8,192 slots of directories, 36 MiB of their blocks, 1 MiB of attribute blocks.
    #[test]
    fn the_smallest_size_class_in_which_everything_fits_is_chosen() {
        let directories = |count: usize| of((1..count).map(|_| directory(0, 1)));
        assert_eq!([8_192, 8_193, 32_768, 32_769].map(|count| size_class(&directories(count))), [64, 256, 256, 1_024]);
        // The root has a block, and so has the directory behind this one.
        let blocks = |first| of([directory(0, first), directory(0, 1)]);
        assert_eq!([9_214, 9_215, 36_862, 36_863].map(|first| size_class(&blocks(first))), [64, 256, 256, 1_024]);
        let attributed = |count: usize| {
            let mut inode = directory(0, 1);
            inode.metadata.xattrs.insert(b"user.large", &[1; 3_000]);
            of(vec![inode; count])
        };
        assert_eq!([256, 257].map(|count| size_class(&attributed(count))), [64, 256]);
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
        let region = layout.geometry.directories;
        let plans: Vec<_> =
            layout.directories.iter().map(|plan| (plan.start.0 - region, plan.first, plan.blocks)).collect();
        assert_eq!(plans, [(0, 1, 1), (1, 1, 4), (2, 1, 1), (5, 2, 6), (7, 1, 1)]);
        let overflow = |at: usize| layout.directories[at].overflow.0 - region;
        assert_eq!((overflow(1), overflow(3)), (128, 128 + 3));
        // Of the zone's 9,216 blocks the last 128 are left for what is added: 3 blocks and 125, or one more.
        let filled = |names| of([directory(40, 1), directory(0, 9_084), directory(names, 2)]);
        assert_eq!([125, 126].map(|leaves| size_class(&filled(15 * (leaves + 1)))), [64, 256]);
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
    fn a_chunk_has_the_metadata_of_its_region_or_the_files_that_touch_it() {
        let tree = tree(&[("a", CHUNK), ("b", 2 * CHUNK + 1), ("c", 5)]);
        let layout = Layout::new(&tree, 0).unwrap();
        let holds = |chunk| layout.contents_of(ChunkIndex(chunk));
        for (first, last, region) in [
            (0, 0, "superblock, group descriptors, bitmaps and the root's inode"),
            (1, 51, "inode table"),
            (52, 123, "directory blocks"),
            (124, 125, "xattr and extent blocks"),
            (126, 127, "bitmaps"),
        ] {
            assert_eq!((holds(first), holds(last)), (vec![region.to_owned()], vec![region.to_owned()]));
        }
        let files = [128, 129, 130, 131].map(|chunk| holds(chunk).join(" "));
        assert_eq!(files, ["a", "b", "b", "b c"]);
        assert!(!layout.is_data(ChunkIndex(127)) && layout.is_data(ChunkIndex(128)));
    }
    /// From device and data alone as from the layout, in each tier and past 480 GiB.
    #[test]
    fn the_region_of_a_chunk_follows_from_the_start_of_the_data() {
        for (tree, free) in
            [(tree(&[("a", 5)]), 0), (of((0..8_192).map(|_| directory(0, 1))), 0), (tree(&[]), 481 << 30)]
        {
            let layout = Layout::new(&tree, free).unwrap();
            let chunks = u32::try_from(layout.device_bytes() / CHUNK).unwrap();
            let data = layout.geometry.data / CHUNK_BLOCKS;
            for chunk in (0..data + 2).map(ChunkIndex) {
                assert_eq!(Region::of(chunk, chunks, data), Some(layout.region_of(chunk)), "{chunk:?} of {chunks}");
            }
        }
        assert_eq!([127, 129, 256].map(|data| Region::of(ChunkIndex(0), 1_000, data)), [None; 3]);
    }
}

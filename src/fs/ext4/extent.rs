//! The extent tree of an inode (kernel documentation, "Extent Tree"): four entries in the inode, or 340 in a block.

use super::csum;
use super::spec::{BLOCK, BlockAddr, InodeNumber, get16, get32, lo16, put16, put32, small};

const MAGIC: u16 = 0xF30A;
const IN_INODE: usize = 4;
const IN_BLOCK: usize = (BLOCK - 12 - 4) / 12;
/// Maximum length of one extent, in blocks.
const MAX_LENGTH: u32 = 32_768;

/// An extent: `length` blocks of a file from block `logical` on are on the device from `start` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) logical: u32,
    pub(super) start: BlockAddr,
    pub(super) length: u32,
}

/// An entry of a node, before it is encoded.
struct ExtentEntry {
    logical: u32,
    block: u32,
    /// Number of blocks; 0 in an index entry.
    length: u32,
}

/// Returns the number of blocks outside the inode that the tree of runs of these lengths needs.
pub(super) fn blocks_needed(lengths: impl Iterator<Item = u32>) -> u32 {
    let mut entries: usize = lengths.map(|length| length.div_ceil(MAX_LENGTH) as usize).sum();
    let mut blocks = 0;
    while entries > IN_INODE {
        entries = entries.div_ceil(IN_BLOCK);
        blocks += entries;
    }
    small(blocks)
}

/// Encodes the tree: the inode's 60 bytes, and the further blocks, which start at `at`.
pub(super) fn encode(ino: InodeNumber, extents: &[Extent], at: BlockAddr) -> ([u8; 60], Vec<u8>) {
    let mut level: Vec<ExtentEntry> = Vec::with_capacity(extents.len());
    for extent in extents {
        for done in (0..extent.length).step_by(MAX_LENGTH as usize) {
            let length = (extent.length - done).min(MAX_LENGTH);
            level.push(ExtentEntry { logical: extent.logical + done, block: extent.start.0 + done, length });
        }
    }
    let (mut depth, mut blocks) = (0, Vec::new());
    while level.len() > IN_INODE {
        let mut upper = Vec::new();
        for part in level.chunks(IN_BLOCK) {
            let addr = at.0 + small(blocks.len() / BLOCK);
            upper.push(ExtentEntry { logical: part[0].logical, block: addr, length: 0 });
            let mut block = [0; BLOCK];
            node(&mut block, part, IN_BLOCK, depth);
            let used = 12 + 12 * IN_BLOCK;
            let sum = csum::extent_block(ino, &block, used);
            put32(&mut block, used, sum);
            blocks.extend_from_slice(&block);
        }
        level = upper;
        depth += 1;
    }
    let mut root = [0; 60];
    node(&mut root, &level, IN_INODE, depth);
    (root, blocks)
}

fn node(buf: &mut [u8], entries: &[ExtentEntry], max: usize, depth: u16) {
    put16(buf, 0, MAGIC);
    put16(buf, 2, lo16(small(entries.len())));
    put16(buf, 4, lo16(small(max)));
    put16(buf, 6, depth);
    for (i, entry) in entries.iter().enumerate() {
        let at = 12 + 12 * i;
        put32(buf, at, entry.logical);
        if depth == 0 {
            put16(buf, at + 4, lo16(entry.length));
            put32(buf, at + 8, entry.block);
        } else {
            put32(buf, at + 4, entry.block);
        }
    }
}

/// The content of a decoded node: addresses of the blocks below it, or extents.
pub(super) enum ExtentNode {
    Index(Vec<BlockAddr>),
    Leaf(Vec<Extent>),
}

/// Decodes a node and its depth above the leaves, which must be `depth` if one is given; `None` where it is malformed.
pub(super) fn parse(buf: &[u8], depth: Option<u16>) -> Option<(u16, ExtentNode)> {
    let (magic, count, max, found) =
        (get16(buf, 0), usize::from(get16(buf, 2)), usize::from(get16(buf, 4)), get16(buf, 6));
    if magic != MAGIC || count > max || 12 + 12 * max > buf.len() || found > 5 || depth.is_some_and(|d| d != found) {
        return None;
    }
    let at = |i: usize| &buf[12 + 12 * i..24 + 12 * i];
    if found > 0 {
        return Some((found, ExtentNode::Index((0..count).map(|i| BlockAddr(get32(at(i), 4))).collect())));
    }
    let extents = (0..count).map(|i| {
        let (entry, length) = (at(i), u32::from(get16(at(i), 4)));
        // Unwritten extents (a length over 32,768) read as zeros; the writer never writes one.
        let valid = (1..=MAX_LENGTH).contains(&length) && get16(entry, 6) == 0;
        valid.then(|| Extent { logical: get32(entry, 0), start: BlockAddr(get32(entry, 8)), length })
    });
    Some((0, ExtentNode::Leaf(extents.collect::<Option<_>>()?)))
}

/// Returns whether the checksum in an extent block of `ino` is that of its bytes.
pub(super) fn checksum_matches(ino: InodeNumber, block: &[u8]) -> bool {
    let used = 12 + 12 * usize::from(get16(block, 4));
    used + 4 <= BLOCK && csum::matches(get32(block, used), csum::extent_block(ino, block, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INO: InodeNumber = InodeNumber(12);

    /// Extents of 2 to 4 blocks with holes between them, far apart on the device.
    fn extents(count: u32) -> Vec<Extent> {
        let extent = |n: u32| Extent { logical: n * 10, start: BlockAddr(1_000 + n * 7), length: 2 + n % 3 };
        (0..count).map(extent).collect()
    }

    /// All extents below `node`, its blocks checked; and how many blocks the tree has.
    fn read((depth, node): (u16, ExtentNode), at: BlockAddr, blocks: &[u8], count: &mut u32) -> Vec<Extent> {
        let below = match node {
            ExtentNode::Leaf(extents) => return extents,
            ExtentNode::Index(below) => below,
        };
        let read_one = |addr: BlockAddr| {
            let block = &blocks[(addr.0 - at.0) as usize * BLOCK..][..BLOCK];
            assert!(checksum_matches(INO, block) && !checksum_matches(InodeNumber(13), block));
            *count += 1;
            read(parse(block, Some(depth - 1)).expect("of the form"), at, blocks, count)
        };
        below.into_iter().flat_map(read_one).collect()
    }

    #[test]
    fn trees_of_every_depth_are_read_as_they_were_written() {
        for (count, depth, wanted) in [(1, 0, 0), (4, 0, 0), (5, 1, 1), (340, 1, 1), (341, 1, 2), (1_361, 2, 6)] {
            let (extents, at) = (extents(count), BlockAddr(77));
            let (root, blocks) = encode(INO, &extents, at);
            let node = parse(&root, Some(depth)).expect("of the form");
            let mut found = 0;
            assert_eq!(read(node, at, &blocks, &mut found), extents, "{count}");
            assert_eq!((found, blocks.len() / BLOCK), (wanted, wanted as usize), "{count}");
            assert_eq!(blocks_needed(extents.iter().map(|extent| extent.length)), wanted, "{count}");
        }
    }

    #[test]
    fn a_long_extent_is_written_in_parts_of_32_768_blocks() {
        let long = Extent { logical: 5, start: BlockAddr(100), length: 70_000 };
        let (root, _) = encode(INO, &[long], BlockAddr(77));
        let Some((0, ExtentNode::Leaf(parts))) = parse(&root, None) else { panic!("four extents stand in the inode") };
        let part = |done: u32, length| Extent { logical: 5 + done, start: BlockAddr(100 + done), length };
        assert_eq!(parts, [part(0, 32_768), part(32_768, 32_768), part(65_536, 4_464)]);
        assert_eq!(blocks_needed([70_000, 32_768].into_iter()), 0);
        assert_eq!(blocks_needed([70_000, 32_769].into_iter()), 1);
    }

    #[test]
    fn a_node_that_cannot_be_is_refused() {
        let (good, _) = encode(INO, &extents(4), BlockAddr(77));
        let with = |at: usize, value: u16| {
            let mut node = good;
            put16(&mut node, at, value);
            node
        };
        assert!(parse(&good, Some(0)).is_some() && parse(&with(6, 5), None).is_some());
        for (what, bad) in [
            ("another magic", with(0, 0xF30B)),
            ("more entries than its most", with(2, 5)),
            ("a most that its bytes do not hold", with(4, 5)),
            ("a depth of 6", with(6, 6)),
            ("an extent of no blocks", with(12 + 4, 0)),
            ("an unwritten extent", with(12 + 4, 32_769)),
            ("an extent past 2^32 blocks", with(12 + 6, 1)),
        ] {
            assert!(parse(&bad, None).is_none(), "{what}");
        }
        assert!(parse(&good, Some(1)).is_none(), "another depth than its parent says");
    }

    #[test]
    fn a_block_with_a_most_past_its_end_is_not_true() {
        let mut block = encode(INO, &extents(5), BlockAddr(77)).1;
        assert!(checksum_matches(INO, &block));
        block[20] ^= 1;
        assert!(!checksum_matches(INO, &block));
        for most in [341, 0xFFFF] {
            put16(&mut block, 4, most);
            assert!(!checksum_matches(INO, &block), "{most}");
        }
    }
}

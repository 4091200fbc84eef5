//! Directory blocks: one linear block, or an htree (kernel documentation, "Directory Entries").
//!
//! The entries of a linear block are ordered by name, those of an htree by hash, then by name, in leaves that are filled as far as
//! possible. Every block ends with a checksum. Tests check them with lookups by the kernel and with e2fsck's second pass.

use super::spec::{BLOCK, BLOCK_SIZE, HASH_HALF_MD4, InodeNumber, get16, get32, lo16, put16, put32, small};
use super::{csum, dirhash};

/// Capacity of a leaf, in bytes: the block without its checksum tail.
const LEAF: usize = BLOCK - TAIL;
const TAIL: usize = 12;
/// Size of the entries "." and ".." in the first block, in bytes.
const DOTS: usize = 24;
/// Maximum number of index entries in the htree's root.
const ROOT_LIMIT: usize = (BLOCK - 40) / 8;
/// Maximum number of index entries in a node below the root.
const NODE_LIMIT: usize = (BLOCK - 16) / 8;

/// A directory entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dirent<'a> {
    pub(super) name: &'a [u8],
    pub(super) ino: InodeNumber,
    pub(super) file_type: u8,
}

/// A directory with more entries than an htree of two levels can index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more entries than an ext4 directory of two index levels holds")]
pub(super) struct TooManyEntries;

pub(super) fn entry_size(name: &[u8]) -> usize {
    (8 + name.len()).next_multiple_of(4)
}

/// Returns the number of blocks that entries of these names need.
pub(super) fn blocks_needed<'a>(names: impl Iterator<Item = &'a [u8]> + Clone) -> Result<u32, TooManyEntries> {
    if fits_one_block(names.clone()) {
        return Ok(1);
    }
    let mut sorted: Vec<_> = names.map(|name| (dirhash::hash(name), entry_size(name), name)).collect();
    sorted.sort_unstable_by_key(|&(hash, _, name)| (hash, name));
    let leaves = pack(sorted.iter().map(|&(_, size, _)| size)).len();
    Ok(small(1 + nodes(leaves)? + leaves))
}

fn fits_one_block<'a>(mut names: impl Iterator<Item = &'a [u8]>) -> bool {
    let mut size = DOTS;
    names.all(|name| {
        size += entry_size(name);
        size <= LEAF
    })
}

/// Returns the number of entries in each leaf.
fn pack(sizes: impl Iterator<Item = usize>) -> Vec<usize> {
    let mut leaves = Vec::new();
    let mut count = 0;
    let mut used = 0;
    for size in sizes {
        if used + size > LEAF {
            leaves.push(std::mem::take(&mut count));
            used = 0;
        }
        count += 1;
        used += size;
    }
    leaves.push(count);
    leaves
}

/// Returns the number of index nodes between the root and this many leaves.
fn nodes(leaves: usize) -> Result<usize, TooManyEntries> {
    match leaves.div_ceil(NODE_LIMIT) {
        _ if leaves <= ROOT_LIMIT => Ok(0),
        nodes if nodes <= ROOT_LIMIT => Ok(nodes),
        _ => Err(TooManyEntries),
    }
}

/// Builds the blocks of the directory `ino` in `parent`; `entries` are in name order.
pub(super) fn build(ino: InodeNumber, parent: InodeNumber, entries: &[Dirent<'_>]) -> Vec<u8> {
    let dots = [Dirent { name: b".", ino, file_type: 2 }, Dirent { name: b"..", ino: parent, file_type: 2 }];
    if fits_one_block(entries.iter().map(|entry| entry.name)) {
        let mut block = vec![0; BLOCK];
        leaf(ino, &mut block, dots.iter().chain(entries));
        return block;
    }
    let mut sorted: Vec<_> = entries.iter().map(|entry| (dirhash::hash(entry.name), entry)).collect();
    sorted.sort_unstable_by_key(|&(hash, entry)| (hash, entry.name));
    let leaves = pack(sorted.iter().map(|(_, entry)| entry_size(entry.name)));
    let node_count = nodes(leaves.len()).expect("the layout counted these blocks before");

    let mut blocks = vec![0; (1 + node_count + leaves.len()) * BLOCK];
    let mut index = Vec::with_capacity(leaves.len());
    let (mut at, mut rest, mut before) = (1 + node_count, &sorted[..], None);
    for count in leaves {
        let (here, behind) = rest.split_at(count);
        // The lowest bit marks a leaf that starts with the hash of the leaf before it.
        let continued = u32::from(before == Some(here[0].0));
        index.push((here[0].0 | continued, small(at)));
        leaf(ino, &mut blocks[at * BLOCK..][..BLOCK], here.iter().map(|&(_, entry)| entry));
        before = here.last().map(|&(hash, _)| hash);
        (at, rest) = (at + 1, behind);
    }
    if node_count > 0 {
        let mut upper = Vec::with_capacity(node_count);
        for (i, part) in index.chunks(NODE_LIMIT).enumerate() {
            node(ino, &mut blocks[(1 + i) * BLOCK..][..BLOCK], part);
            upper.push((part[0].0, small(1 + i)));
        }
        index = upper;
    }
    root(ino, parent, &mut blocks[..BLOCK], &index, u8::from(node_count > 0));
    blocks
}

fn leaf<'a>(ino: InodeNumber, block: &mut [u8], entries: impl Iterator<Item = &'a Dirent<'a>>) {
    let (mut at, mut last) = (0, 0);
    for entry in entries {
        last = at;
        at += dirent(&mut block[at..], entry, entry_size(entry.name));
    }
    // The length of the last entry extends to the tail.
    put16(block, last + 4, length(LEAF - last));
    put16(block, LEAF + 4, length(TAIL));
    block[LEAF + 7] = 0xDE;
    let sum = csum::directory_leaf(ino, block);
    put32(block, LEAF + 8, sum);
}

fn dirent(buf: &mut [u8], entry: &Dirent<'_>, size: usize) -> usize {
    put32(buf, 0, entry.ino.0);
    put16(buf, 4, length(size));
    buf[6] = u8::try_from(entry.name.len()).expect("flattening refuses names over 255 bytes");
    buf[7] = entry.file_type;
    buf[8..8 + entry.name.len()].copy_from_slice(entry.name);
    size
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).expect("a record is no longer than a block")
}

fn root(ino: InodeNumber, parent: InodeNumber, block: &mut [u8], index: &[(u32, u32)], levels: u8) {
    dirent(block, &Dirent { name: b".", ino, file_type: 2 }, 12);
    dirent(&mut block[12..], &Dirent { name: b"..", ino: parent, file_type: 2 }, BLOCK - 12);
    block[28] = HASH_HALF_MD4;
    block[29] = 8;
    block[30] = levels;
    index_entries(ino, block, 32, ROOT_LIMIT, index);
}

fn node(ino: InodeNumber, block: &mut [u8], index: &[(u32, u32)]) {
    put16(block, 4, lo16(BLOCK_SIZE));
    index_entries(ino, block, 8, NODE_LIMIT, index);
}

fn index_entries(ino: InodeNumber, block: &mut [u8], at: usize, limit: usize, index: &[(u32, u32)]) {
    for (i, &(hash, leaf)) in index.iter().enumerate() {
        put32(block, at + 8 * i, hash);
        put32(block, at + 8 * i + 4, leaf);
    }
    // The hash of the first entry is implied; limit and count are stored in its place.
    put16(block, at, length(limit));
    put16(block, at + 2, length(index.len()));
    let used = at + 8 * index.len();
    let sum = csum::directory_node(ino, block, used);
    put32(block, at + 8 * limit + 4, sum);
}

/// Decodes the entries of a directory block, `.` and `..` included; `None` where it is malformed.
///
/// Only leaves have entries: the index blocks of an htree look like unused entries to a linear reader.
pub(super) fn parse(block: &[u8]) -> Option<Vec<Dirent<'_>>> {
    let (mut entries, mut at) = (Vec::new(), 0);
    while at < BLOCK {
        let record = block.get(at..)?;
        if record.len() < 8 {
            return None;
        }
        let ino = InodeNumber(get32(record, 0));
        let size = usize::from(get16(record, 4));
        let name_len = usize::from(record[6]);
        if !size.is_multiple_of(4) || 8 + name_len > size || size > record.len() {
            return None;
        }
        if ino.0 != 0 {
            entries.push(Dirent { name: &record[8..8 + name_len], ino, file_type: record[7] });
        }
        at += size;
    }
    Some(entries)
}

/// Returns whether the checksum in the leaf or node `block` of the directory `ino` is that of its bytes.
pub(super) fn checksum_matches(ino: InodeNumber, block: &[u8], first: bool, hashed: bool) -> bool {
    let leaf_tail = get32(block, LEAF) == 0 && block[LEAF + 7] == 0xDE && block[LEAF + 4] == 12;
    if leaf_tail && !(first && hashed) {
        return csum::matches(get32(block, LEAF + 8), csum::directory_leaf(ino, block));
    }
    let at = if first { 32 } else { 8 };
    let (limit, count) = (get16(block, at), get16(block, at + 2));
    let (tail, used) = (at + 8 * usize::from(limit) + 4, at + 8 * usize::from(count));
    hashed
        && count <= limit
        && tail + 4 <= BLOCK
        && csum::matches(get32(block, tail), csum::directory_node(ino, block, used))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block of unused records of these lengths and lengths of names.
    fn records(lengths: &[(u16, u8)]) -> Vec<u8> {
        let (mut block, mut at) = (vec![0; BLOCK], 0);
        for &(length, name) in lengths {
            put16(&mut block, at + 4, length);
            block[at + 6] = name;
            at += usize::from(length);
        }
        block
    }

    #[test]
    fn records_are_read_up_to_the_blocks_end() {
        for good in [&[(4096, 255)][..], &[(4088, 0), (8, 0)], &[(12, 4), (4084, 0)]] {
            assert!(parse(&records(good)).is_some(), "{good:?}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_is_refused() {
        for (what, bad) in [
            ("without a length", &[(0, 0)][..]),
            ("shorter than its head", &[(4, 0)]),
            ("of a length that is no multiple of 4", &[(14, 0), (4082, 0)]),
            ("shorter than its name", &[(12, 5), (4084, 0)]),
            ("past the block's end", &[(4080, 0), (20, 0)]),
            ("of which the block holds 4 bytes", &[(4092, 0)]),
        ] {
            assert!(parse(&records(bad)).is_none(), "a record {what}");
        }
    }

    /// docs/reference/formats/ext4-layout.md, "Limits": 507 × 510 leaves.
    #[test]
    fn an_htree_has_at_most_two_levels_of_index() {
        for (leaves, want) in [(2, Ok(0)), (507, Ok(0)), (508, Ok(1)), (511, Ok(2)), (507 * 510, Ok(507))] {
            assert_eq!(nodes(leaves), want, "{leaves}");
        }
        assert_eq!(nodes(507 * 510 + 1), Err(TooManyEntries));
    }

    #[test]
    fn leaves_are_as_full_as_they_get() {
        assert_eq!(pack([4_000, 84, 12, 4_072, 12].into_iter()), [2, 2, 1]);
        let of = |last: usize| (0..15).map(|n| vec![n; 255]).chain([vec![b'z'; last]]).collect::<Vec<_>>();
        let blocks = |names: &[Vec<u8>]| blocks_needed(names.iter().map(|name| &name[..]));
        assert_eq!(blocks(&of(92)), Ok(1), "4,060 bytes of entries besides the dots");
        assert_eq!(blocks(&of(93)), Ok(2), "a root and a leaf without them");
    }

    #[test]
    fn a_block_is_of_its_directory_and_its_tail_is_true() {
        let (ino, other) = (InodeNumber(12), InodeNumber(13));
        let names: Vec<Vec<u8>> = (0..20).map(|n| vec![b'a' + n; 255]).collect();
        let entries: Vec<_> = names.iter().map(|name| Dirent { name, ino: other, file_type: 1 }).collect();
        let (linear, htree) = (build(ino, other, &entries[..3]), build(ino, other, &entries));
        let (root, leaf) = (&htree[..BLOCK], &htree[BLOCK..2 * BLOCK]);
        assert!(checksum_matches(ino, &linear, true, false));
        assert!(checksum_matches(ino, root, true, true));
        assert!(checksum_matches(ino, leaf, false, true));
        assert!(!checksum_matches(ino, root, true, false), "a linear directory has no root");
        for (block, first, hashed) in [(&linear[..], true, false), (root, true, true), (leaf, false, true)] {
            assert!(!checksum_matches(other, block, first, hashed));
            for at in [0, 8, 40] {
                let mut bad = block.to_vec();
                bad[at] ^= 1;
                assert!(!checksum_matches(ino, &bad, first, hashed), "byte {at}");
            }
        }
        // What an index node says of itself is not believed: more entries than its limit, a limit past the block.
        for (at, value) in [(34, 508), (32, 508), (32, 0xFFFF), (34, 0xFFFF)] {
            let mut bad = root.to_vec();
            put16(&mut bad, at, value);
            assert!(!checksum_matches(ino, &bad, true, true), "{value} at {at}");
        }
    }
}

//! Reading a device in memory that this module's writer made: damage, limits, paths and parts of files.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use super::*;
use crate::ChunkIndex;
use crate::digest::Sha256;
use crate::fs::ext4::layout::Layout;
use crate::fs::ext4::spec::put32;
use crate::fs::ext4::write::LayerBytes;
use crate::fs::tree::{Content, Data, Directory, Inode, InodeId, Kind, LayerIndex, Metadata, Run, Tree};

const CHUNK: usize = crate::fs::ext4::spec::CHUNK;
const SUPERBLOCK: Range<usize> = 1024..2048;
const DESCRIPTORS: Range<usize> = 4096..4096 + 32;

/// A device in memory: its chunks that are not zero.
#[derive(Clone)]
struct Memory {
    size: u64,
    chunks: BTreeMap<usize, Vec<u8>>,
}

impl BlockDevice for Memory {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset + buf.len() as u64 > self.size {
            return Err(Error::new(ErrorKind::Input, "past the end"));
        }
        let (mut at, mut rest) = (usize::try_from(offset).unwrap(), buf);
        while !rest.is_empty() {
            let (here, behind) = rest.split_at_mut(rest.len().min(CHUNK - at % CHUNK));
            match self.chunks.get(&(at / CHUNK)) {
                Some(chunk) => here.copy_from_slice(&chunk[at % CHUNK..][..here.len()]),
                None => here.fill(0),
            }
            (at, rest) = (at + here.len(), behind);
        }
        Ok(())
    }
}

impl Memory {
    /// With another word in the superblock, and its checksum made true.
    fn with_word(&self, at: usize, value: u32) -> Self {
        let mut other = self.clone();
        let superblock = &mut other.chunks.get_mut(&0).unwrap()[SUPERBLOCK];
        put32(superblock, at, value);
        let sum = csum::superblock(superblock);
        put32(superblock, 0x3FC, sum);
        other
    }
}

/// A tar in which every byte says its place.
struct Counting;

impl LayerBytes for Counting {
    fn read_at(&self, _: LayerIndex, offset: u64, buf: &mut [u8]) -> std::io::Result<()> {
        for (at, byte) in (offset..).zip(buf) {
            *byte = at.to_le_bytes()[0] | 1;
        }
        Ok(())
    }
}

/// `d` with all kinds of inodes in it, and links: `0` to `d/file`, each further one to the one before.
fn tree() -> Tree {
    let mut xattrs = Xattrs::default();
    xattrs.insert(b"user.small", b"in the inode");
    let mut metadata = Metadata { mtime: Timestamp { secs: 1_700_000_000, nanos: 5 }, ..Metadata::implied_directory() };
    (metadata.uid, metadata.gid, metadata.xattrs) = (70_000, 80_000, xattrs);
    let mut large = metadata.clone();
    large.xattrs.insert(b"user.large", &[b'v'; 2_000]);
    // Three blocks and a hole of one.
    let run = |n: u64| Run { offset: n * 16_384, length: 12_288, source: n * 12_288 };
    let sparse = Content { size: 100_000, data: Data::Sparse((0..6).map(run).collect()) };
    let kinds = [
        ("d/device", Kind::BlockDevice(DeviceNumber { major: 8, minor: 300 })),
        ("d/file", Kind::File(Content { size: 5_000, data: Data::Whole(0) })),
        ("d/link", Kind::Symlink(b"../d".as_slice().into())),
        ("d/long", Kind::Symlink(vec![b't'; 100].into())),
        ("d/sparse", Kind::File(sparse)),
    ];
    let links = (0..41).map(|n| {
        let target = if n == 0 { "/d/file".to_owned() } else { (n - 1).to_string() };
        (n.to_string(), Kind::Symlink(target.into_bytes().into()))
    });
    let (mut root, mut d) = (Directory { first_blocks: 1, ..Directory::default() }, Directory::default());
    d.first_blocks = 1;
    root.entries.insert(b"d".as_slice().into(), InodeId(1));
    let mut others = Vec::new();
    for (path, kind) in kinds.into_iter().map(|(path, kind)| (path.to_owned(), kind)).chain(links) {
        let id = InodeId(2 + u32::try_from(others.len()).unwrap());
        match path.strip_prefix("d/") {
            Some(name) => d.entries.insert(name.as_bytes().into(), id),
            None => root.entries.insert(path.as_bytes().into(), id),
        };
        let metadata = if path == "d/file" || path == "d/sparse" { large.clone() } else { metadata.clone() };
        others.push(Inode { metadata, kind });
    }
    let directory = |directory| Inode { metadata: metadata.clone(), kind: Kind::Directory(Box::new(directory)) };
    let inodes: Vec<_> = [directory(root), directory(d)].into_iter().chain(others).collect();
    let end = u32::try_from(inodes.len()).unwrap();
    Tree { inodes, layer_ends: vec![end] }
}

fn device() -> Memory {
    let tree = tree();
    let layout = Layout::new(&tree, 0).unwrap();
    let mut chunks = BTreeMap::new();
    let mut keep = |index: ChunkIndex, chunk: &[u8]| {
        chunks.insert(index.0 as usize, chunk.to_vec());
        Ok(())
    };
    let first = layout.metadata(&mut keep).unwrap();
    keep(ChunkIndex(0), &first).unwrap();
    let mut data = vec![0; CHUNK];
    layout.data_chunk(ChunkIndex(128), &Counting, &mut data).unwrap();
    keep(ChunkIndex(128), &data).unwrap();
    Memory { size: layout.device_bytes(), chunks }
}

/// All that can be read of it.
fn everything(device: &Memory) -> Result<String> {
    let fs = Ext4::open(device)?;
    let mut out = String::new();
    let mut todo = vec![("/".to_owned(), ROOT_INODE)];
    while let Some((path, ino)) = todo.pop() {
        let node = fs.node(ino)?;
        let _ = write!(out, "{path} {:?} {:?}", node.stat, fs.xattrs(&node)?);
        match node.stat.file_type {
            FileType::Directory => {
                let entries = fs.read_dir(&node)?;
                todo.extend(entries.into_iter().map(|(name, ino)| (format!("{path}{}/", Display(&name)), ino)));
            }
            FileType::Symlink => out.push_str(&Display(&fs.read_link(&node)?).to_string()),
            FileType::File => {
                let mut bytes = vec![0; usize::try_from(node.stat.size).unwrap_or(0).min(CHUNK)];
                fs.read(&node, 0, &mut bytes)?;
                let _ = write!(out, "{}", Sha256::of(&bytes));
            }
            _ => {}
        }
    }
    Ok(out)
}

#[test]
fn a_flipped_bit_in_the_metadata_is_never_read() {
    let mut device = device();
    let good = everything(&device).unwrap();
    // Of the first chunk the bitmaps are left out: nothing here reads them.
    let bitmaps = DESCRIPTORS.end..31 * BLOCK;
    let places = device.chunks.range(..128).flat_map(|(&chunk, bytes)| {
        let set = (0..CHUNK).filter(|&at| bytes[at] != 0);
        set.map(move |at| (chunk, at)).collect::<Vec<_>>()
    });
    for (chunk, at) in places.collect::<Vec<_>>() {
        if chunk == 0 && bitmaps.contains(&at) {
            continue;
        }
        let flip = |device: &mut Memory| device.chunks.get_mut(&chunk).unwrap()[at] ^= 4;
        flip(&mut device);
        let read = everything(&device);
        flip(&mut device);
        // The reserved inodes are not read.
        let unread = chunk == 0 && at >= bitmaps.end && read.as_ref().ok() == Some(&good);
        let refused = read.as_ref().is_err_and(|error| error.kind() == ErrorKind::Corrupt);
        assert!(refused || unread, "byte {at} of chunk {chunk}: {read:?}");
    }
}

#[test]
fn a_superblock_that_is_not_of_this_layout_is_refused() {
    let device = device();
    let superblock = &device.chunks[&0][SUPERBLOCK];
    let word = |at| get32(superblock, at);
    let kind = |at, value| everything(&device.with_word(at, value)).map_err(|error| error.kind()).err();
    for (at, value) in [(0x5C, word(0x5C) | 4), (0x60, word(0x60) | 4), (0x64, word(0x64) | 1), (0x18, 1)] {
        assert_eq!(kind(at, value), Some(ErrorKind::Unsupported), "{at:#x}");
    }
    let (blocks, inodes, per_group) = (word(4), word(0), word(0x28));
    let another_magic = word(0x38) ^ 1;
    for (at, value) in [(0x38, another_magic), (4, blocks + 1), (0x28, 0), (0, inodes + 1)] {
        assert_eq!(kind(at, value), Some(ErrorKind::Corrupt), "{at:#x}");
    }
    for (at, value) in [(4, blocks), (4, blocks - 1), (0x28, per_group), (0, inodes), (0, inodes - 1)] {
        assert_eq!(kind(at, value), None, "{at:#x}");
    }
}

#[test]
fn only_inodes_that_there_are_can_be_asked_for() {
    let device = device();
    let fs = Ext4::open(&device).unwrap();
    let said = |ino| fs.node(InodeNumber(ino)).unwrap_err().to_string();
    assert_eq!(said(0), "file system: no inode 0");
    assert_eq!(said(fs.inodes), format!("file system: inode {} is damaged", fs.inodes));
    assert_eq!(said(fs.inodes + 1), format!("file system: no inode {}", fs.inodes + 1));
    assert!(fs.block(BlockAddr(fs.blocks - 1)).is_ok() && fs.block(BlockAddr(fs.blocks)).is_err());
}

/// With their checksums true: whoever makes a device can say anything.
#[test]
fn extents_that_overlap_or_leave_the_device_are_refused() {
    let mut device = device();
    let fs = Ext4::open(&device).unwrap();
    let (node, blocks) = (fs.lookup(b"d/file", false).unwrap(), fs.blocks);
    let (ino, number) = (node.stat.ino, node.stat.ino.0 as usize);
    let mut read_with = |extents: [(u32, u32, u32); 2]| {
        let extents =
            extents.map(|(logical, start, length)| extent::Extent { logical, start: BlockAddr(start), length });
        let (map, _) = extent::encode(ino, &extents, BlockAddr(0));
        let at = 31 * BLOCK + (number - 1) * INODE;
        let chunk = device.chunks.get_mut(&(at / CHUNK)).unwrap();
        chunk[at % CHUNK..][..INODE].copy_from_slice(&RawInode { map, ..node.raw.clone() }.encode(ino));
        let fs = Ext4::open(&device).unwrap();
        fs.data(&fs.node(ino).unwrap()).map(|data| data.len()).map_err(|error| error.kind())
    };
    assert_eq!(read_with([(0, 16_000, 2), (2, blocks - 3, 3)]), Ok(2));
    assert_eq!(read_with([(0, 16_000, 2), (1, 16_100, 1)]), Err(ErrorKind::Corrupt), "they overlap");
    assert_eq!(read_with([(0, 16_000, 2), (2, blocks - 2, 3)]), Err(ErrorKind::Corrupt), "past the device's end");
    assert_eq!(read_with([(0, u32::MAX, 2), (2, 16_000, 1)]), Err(ErrorKind::Corrupt), "past 2^32");
}

#[test]
fn a_path_leads_through_dots_and_forty_links_and_no_more() {
    let device = device();
    let fs = Ext4::open(&device).unwrap();
    let ino = |path: &[u8], follow| fs.lookup(path, follow).map(|node| node.stat.ino).map_err(|error| error.kind());
    let (file, link) = (ino(b"d/file", false).unwrap(), ino(b"d/link", false).unwrap());
    for path in ["/d/../d/./file", "../../d/file", "d/link/file", "d/link/../d/link/file", "39"] {
        assert_eq!(ino(path.as_bytes(), true), Ok(file), "{path}");
    }
    assert_eq!(ino(b"d/link/link", false), Ok(link));
    assert_eq!(ino(b"d/link", true), ino(b"d", true));
    assert_eq!(ino(b"40", true), Err(ErrorKind::Input), "41 links");
    assert_eq!(ino(b"d/file/x", true), Err(ErrorKind::Input));
    assert_eq!(ino(b"d/none", true), Err(ErrorKind::NotFound));
}

#[test]
fn a_part_of_a_file_is_read_from_anywhere() {
    let device = device();
    let fs = Ext4::open(&device).unwrap();
    let node = fs.lookup(b"d/sparse", false).unwrap();
    let mut whole = vec![0xEE; 110_000];
    assert_eq!(fs.read(&node, 0, &mut whole).unwrap(), 100_000);
    for run in 0..6 {
        assert!(whole[run * 16_384..][..12_288].iter().all(|byte| *byte != 0), "run {run}");
        let hole = run * 16_384 + 12_288..((run + 1) * 16_384).min(100_000);
        assert!(whole[hole].iter().all(|byte| *byte == 0), "the hole behind run {run}");
    }
    let device = fs.lookup(b"d/device", false).unwrap();
    assert_eq!(fs.data(&device).unwrap(), []);
    for (offset, length) in
        [(1, 100), (4_000, 15_000), (4_096, 4_096), (12_287, 2), (16_383, 2), (99_990, 100), (100_000, 1), (120_000, 1)]
    {
        let mut part = vec![0xEE; length];
        let read = fs.read(&node, offset as u64, &mut part).unwrap();
        let wanted = &whole[..100_000][offset.min(100_000)..(offset + length).min(100_000)];
        assert_eq!(&part[..read], wanted, "{length} bytes from {offset} on");
    }
}

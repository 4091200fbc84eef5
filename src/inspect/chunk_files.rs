//! The files with bytes in chunks that are missing or damaged: what a store lost, by names.
//!
//! Reads the directories and inodes of the whole image, but no file. Directories and inodes in bad chunks cannot be read; they are counted,
//! and the files that can still be reached are named.

use std::collections::{BTreeMap, BTreeSet};

use crate::fs::BlockDevice;
use crate::fs::ext4::read::{Ext4, FileType};
use crate::fs::ext4::walk::DirectoryWalk;
use crate::fs::path::Display;
use crate::read::ChunkDevice;
use crate::read::picture::part_of;
use crate::{CHUNK_SIZE, ChunkIndex, Error, ErrorKind, Result};

const CHUNK: u64 = CHUNK_SIZE as u64;
/// Files of a chunk that are named; further ones are counted.
const NAMED: usize = 10;

/// What a chunk contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkContents {
    /// The layer, or the metadata region.
    pub part: String,
    /// Paths of the first files with bytes in it, which can be printed.
    pub files: Vec<String>,
    /// How many further files there are.
    pub more_files: usize,
}

/// The contents of chunks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkFiles {
    /// By chunk.
    pub chunks: BTreeMap<ChunkIndex, ChunkContents>,
    /// Directories and inodes that cannot be read, below which further files may be.
    pub unreadable: usize,
}

impl ChunkFiles {
    /// Returns which files of the image of `device` have bytes in the chunks `bad`, none of which is fetched.
    ///
    /// # Errors
    /// `Unavailable` where the store cannot be reached.
    pub fn read(device: &ChunkDevice, bad: &BTreeSet<ChunkIndex>) -> Result<Self> {
        let part = |chunk: &ChunkIndex| part_of(device.manifest(), *chunk);
        let contents = |chunk: &ChunkIndex| ChunkContents { part: part(chunk), ..ChunkContents::default() };
        let chunks = bad.iter().map(|chunk| (*chunk, contents(chunk))).collect();
        let mut found = Self { chunks, unreadable: 0 };
        let rest = Without { device, bad };
        match Ext4::open(&rest).and_then(|fs| found.walk(&fs)) {
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(_) => found.unreadable += 1,
            Ok(()) => {}
        }
        Ok(found)
    }

    fn walk(&mut self, fs: &Ext4<'_>) -> Result<()> {
        let (mut todo, mut walk, mut seen) =
            (vec![(Vec::new(), fs.lookup(b"", false)?.stat.ino)], DirectoryWalk::default(), BTreeSet::new());
        while let Some((path, ino)) = todo.pop() {
            let mut visit = || {
                let node = fs.node(ino)?;
                let is_file = match node.stat.file_type {
                    FileType::Directory => {
                        walk.enter(&path, &node)?;
                        true
                    }
                    FileType::File => node.stat.links == 1 || seen.insert(ino),
                    _ => false,
                };
                if is_file {
                    self.note(&path, fs.data(&node)?.into_iter().map(|(from, to, at)| (at, at + (to - from))));
                }
                if node.stat.file_type == FileType::Directory {
                    let entries = fs.read_dir(&node)?.into_iter();
                    todo.extend(entries.map(|(name, ino)| ([&path[..], b"/", &name].concat(), ino)));
                }
                Ok(())
            };
            match visit() {
                Err(error) if Error::kind(&error) == ErrorKind::Unavailable => return Err(error),
                Err(_) => self.unreadable += 1,
                Ok(()) => {}
            }
        }
        Ok(())
    }

    /// Records that the file at `path` has these bytes of the device.
    fn note(&mut self, path: &[u8], stretches: impl Iterator<Item = (u64, u64)>) {
        let number = |chunk: u64| ChunkIndex(u32::try_from(chunk).unwrap_or(u32::MAX));
        let chunks: BTreeSet<ChunkIndex> = stretches
            .filter(|(from, to)| from < to)
            .flat_map(|(from, to)| {
                self.chunks.range(number(from / CHUNK)..number(to.div_ceil(CHUNK))).map(|(chunk, _)| *chunk)
            })
            .collect();
        for chunk in chunks {
            let contents = self.chunks.entry(chunk).or_default();
            match contents.files.len() < NAMED {
                true if path.is_empty() => contents.files.push("/".to_owned()),
                true => contents.files.push(Display(path).to_string()),
                false => contents.more_files += 1,
            }
        }
    }
}

/// A device without the chunks `bad`: reads of them fail at once, however many inodes are in them.
struct Without<'d> {
    device: &'d ChunkDevice,
    bad: &'d BTreeSet<ChunkIndex>,
}

impl BlockDevice for Without<'_> {
    fn size(&self) -> u64 {
        self.device.size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let number = |chunk: u64| ChunkIndex(u32::try_from(chunk).unwrap_or(u32::MAX));
        let end = offset.saturating_add(buf.len() as u64).div_ceil(CHUNK);
        match self.bad.range(number(offset / CHUNK)..number(end)).next() {
            Some(chunk) => Err(Error::new(ErrorKind::Corrupt, format!("chunk {} is missing or damaged", chunk.0))),
            None => self.device.read_at(offset, buf),
        }
    }
}

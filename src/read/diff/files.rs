//! A walk over both images at once, path by path. Bytes are read only where chunks differ, two buffers at a time.

use std::collections::{BTreeMap, BTreeSet};

use super::Change;
use crate::fs::BlockDevice;
use crate::fs::ext4::InodeNumber;
use crate::fs::ext4::read::{Ext4, FileType, Node};
use crate::fs::ext4::walk::DirectoryWalk;
use crate::manifest::ChunkRef;
use crate::read::ChunkDevice;
use crate::{CHUNK_SIZE, ChunkIndex, Error, Result};

const CHUNK: u64 = CHUNK_SIZE as u64;

/// Bytes of a file on the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stretch {
    pub(super) from: u64,
    /// Behind the last.
    pub(super) to: u64,
    /// Where on the device.
    pub(super) at: u64,
}

/// An inode and where its bytes are.
pub(super) struct Found {
    pub(super) node: Node,
    /// Where the inode itself stands on the device.
    pub(super) inode_at: u64,
    /// Ascending; of directories, too.
    pub(super) data: Vec<Stretch>,
}

/// What both images have at one path; at least one has something.
pub(super) struct Pair<'p> {
    pub(super) path: &'p [u8],
    pub(super) a: Option<Found>,
    pub(super) b: Option<Found>,
    /// Ascending.
    pub(super) changes: Vec<Change>,
    /// Whether, as directories, they have other names or inodes in them.
    pub(super) other_entries: bool,
}

/// One image.
struct Side<'d> {
    name: &'static str,
    device: &'d ChunkDevice,
    fs: Ext4<'d>,
    walk: DirectoryWalk,
}

type Entries = BTreeMap<Vec<u8>, InodeNumber>;

impl<'d> Side<'d> {
    fn open(name: &'static str, device: &'d ChunkDevice) -> Result<Self> {
        let fs = Ext4::open(device).map_err(|error| error.within(name))?;
        Ok(Self { name, device, fs, walk: DirectoryWalk::default() })
    }

    fn root(&self) -> Result<InodeNumber> {
        Ok(self.fs.lookup(b"", false).map_err(|error| error.within(self.name))?.stat.ino)
    }

    fn find(&self, ino: InodeNumber) -> Result<Found> {
        let read = || {
            let (node, inode_at) = (self.fs.node(ino)?, self.fs.inode_offset(ino)?);
            let data = self.fs.data(&node)?.into_iter().filter(|(from, to, _)| from < to);
            Ok(Found { node, inode_at, data: data.map(|(from, to, at)| Stretch { from, to, at }).collect() })
        };
        read().map_err(|error: Error| error.within(self.name))
    }

    /// Of a directory; none where it is another file, or nothing.
    fn entries(&mut self, path: &[u8], found: Option<&Found>) -> Result<Entries> {
        let Some(found) = found.filter(|found| found.node.stat.file_type == FileType::Directory) else {
            return Ok(Entries::new());
        };
        self.walk.enter(path, &found.node).map_err(|error| error.within(self.name))?;
        Ok(self.fs.read_dir(&found.node).map_err(|error| error.within(self.name))?.into_iter().collect())
    }

    fn chunk(&self, at: u64) -> Option<&ChunkRef> {
        self.device.manifest().chunk(ChunkIndex(u32::try_from(at / CHUNK).ok()?))
    }

    /// Fills `buf` from the device at `at`, with zeros where that is a hole.
    fn read(&self, at: Option<u64>, buf: &mut [u8]) -> Result<()> {
        match at {
            Some(at) => self.device.read_at(at, buf).map_err(|error| error.within(self.name)),
            None => {
                buf.fill(0);
                Ok(())
            }
        }
    }
}

/// Calls `visit` with every path of either image, a directory before what is in it, names ascending.
pub(super) fn walk(a: &ChunkDevice, b: &ChunkDevice, visit: &mut dyn FnMut(Pair<'_>) -> Result<()>) -> Result<()> {
    let (mut a, mut b) = (Side::open("A", a)?, Side::open("B", b)?);
    let mut contents = Contents::default();
    let mut todo = vec![(Vec::new(), Some(a.root()?), Some(b.root()?))];
    while let Some((path, in_a, in_b)) = todo.pop() {
        let (in_a, in_b) = (in_a.map(|ino| a.find(ino)).transpose()?, in_b.map(|ino| b.find(ino)).transpose()?);
        let (below_a, below_b) = (a.entries(&path, in_a.as_ref())?, b.entries(&path, in_b.as_ref())?);
        let changes = match (&in_a, &in_b) {
            (Some(one), Some(two)) => changes(&a, one, &b, two, &mut contents)?,
            (None, _) => vec![Change::Added],
            (_, None) => vec![Change::Removed],
        };
        visit(Pair { path: &path, a: in_a, b: in_b, changes, other_entries: below_a != below_b })?;
        let names: BTreeSet<&[u8]> = below_a.keys().chain(below_b.keys()).map(|name| &name[..]).collect();
        todo.extend(names.into_iter().rev().map(|name| {
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            ([&path, separator, name].concat(), below_a.get(name).copied(), below_b.get(name).copied())
        }));
    }
    Ok(())
}

fn changes(a: &Side<'_>, one: &Found, b: &Side<'_>, two: &Found, contents: &mut Contents) -> Result<Vec<Change>> {
    let (x, y) = (&one.node.stat, &two.node.stat);
    let mut found = Vec::new();
    let mut differ = |change, differ: bool| found.extend(differ.then_some(change));
    match (x.file_type, y.file_type) {
        (FileType::File, FileType::File) => differ(Change::Content, !contents.same(a, one, b, two)?),
        (FileType::Symlink, FileType::Symlink) => {
            let target = |side: &Side<'_>, found: &Found| {
                side.fs.read_link(&found.node).map_err(|error| error.within(side.name))
            };
            differ(Change::Target, target(a, one)? != target(b, two)?);
        }
        (x, y) => differ(Change::Type, x != y),
    }
    // A directory's links count the directories in it.
    differ(Change::Links, x.links != y.links && y.file_type != FileType::Directory && x.file_type == y.file_type);
    differ(Change::Mode, x.mode != y.mode);
    differ(Change::Owner, (x.uid, x.gid) != (y.uid, y.gid));
    differ(Change::Mtime, x.mtime != y.mtime);
    let xattrs = |side: &Side<'_>, found: &Found| side.fs.xattrs(&found.node).map_err(|error| error.within(side.name));
    differ(Change::Xattrs, xattrs(a, one)? != xattrs(b, two)?);
    Ok(found)
}

/// Compares bytes.
#[derive(Default)]
struct Contents {
    /// Of inodes with several names, which were found to be the same or not.
    known: BTreeMap<(InodeNumber, InodeNumber), bool>,
    buffers: [Vec<u8>; 2],
}

impl Contents {
    fn same(&mut self, a: &Side<'_>, one: &Found, b: &Side<'_>, two: &Found) -> Result<bool> {
        let (x, y) = (&one.node.stat, &two.node.stat);
        if x.size != y.size {
            return Ok(false);
        }
        if let Some(known) = self.known.get(&(x.ino, y.ino)) {
            return Ok(*known);
        }
        let mut same = true;
        for part in Parts::of(&one.data, &two.data) {
            same = same && self.same_part(a, b, &part)?;
        }
        if x.links > 1 && y.links > 1 {
            self.known.insert((x.ino, y.ino), same);
        }
        Ok(same)
    }

    fn same_part(&mut self, a: &Side<'_>, b: &Side<'_>, part: &Part) -> Result<bool> {
        if let (Some(one), Some(two)) = (part.a, part.b)
            && one % CHUNK == two % CHUNK
            && is_same_plaintext(a, one, b, two)
        {
            return Ok(true);
        }
        let [x, y] = &mut self.buffers;
        for buffer in [&mut *x, &mut *y] {
            buffer.resize(part.length, 0);
        }
        a.read(part.a, x)?;
        b.read(part.b, y)?;
        Ok(x == y)
    }
}

/// Whether both have the same chunk there. AES-GCM does not commit to its key, so the name alone would not tell.
fn is_same_plaintext(a: &Side<'_>, at_a: u64, b: &Side<'_>, at_b: u64) -> bool {
    let codec = |side: &Side<'_>| side.device.manifest().clear.recipe.codec;
    let of = |chunk: &ChunkRef| (chunk.name, chunk.key.clone());
    a.chunk(at_a).map(of) == b.chunk(at_b).map(of) && codec(a).id().0 == codec(b).id().0
}

/// A part of two files, inside one chunk of either; `None` where one has a hole.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    length: usize,
    a: Option<u64>,
    b: Option<u64>,
}

/// What at least one of two files has, ascending.
struct Parts<'s> {
    a: &'s [Stretch],
    b: &'s [Stretch],
    at: u64,
}

impl<'s> Parts<'s> {
    fn of(a: &'s [Stretch], b: &'s [Stretch]) -> Self {
        Self { a, b, at: 0 }
    }
}

impl Iterator for Parts<'_> {
    type Item = Part;

    fn next(&mut self) -> Option<Part> {
        for side in [&mut self.a, &mut self.b] {
            while side.first().is_some_and(|stretch| stretch.to <= self.at) {
                *side = &side[1..];
            }
        }
        let (a, b) = (self.a.first(), self.b.first());
        let at = a.into_iter().chain(b).map(|stretch| stretch.from).min()?.max(self.at);
        let here = |stretch: Option<&Stretch>| {
            stretch.filter(|stretch| stretch.from <= at).map(|stretch| stretch.at + (at - stretch.from))
        };
        let edges = a.into_iter().chain(b).map(|stretch| if stretch.from <= at { stretch.to } else { stretch.from });
        let chunks = [here(a), here(b)].into_iter().flatten().map(|place| at + CHUNK - place % CHUNK);
        let end = edges.chain(chunks).min()?;
        self.at = end;
        Some(Part { length: usize::try_from(end - at).expect("within a chunk"), a: here(a), b: here(b) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_end_where_a_stretch_or_a_chunk_of_either_ends() {
        let stretch = |from, to, at| Stretch { from, to, at };
        let parts = |a: &[Stretch], b: &[Stretch]| Parts::of(a, b).collect::<Vec<_>>();
        let part = |length, a, b| Part { length, a, b };
        assert_eq!(parts(&[], &[]), []);
        assert_eq!(parts(&[stretch(5, 9, 100)], &[]), [part(4, Some(100), None)]);
        assert_eq!(
            parts(&[stretch(0, 10, CHUNK - 4)], &[stretch(0, 6, 4096), stretch(8, 10, 9000)]),
            [
                part(4, Some(CHUNK - 4), Some(4096)),
                part(2, Some(CHUNK), Some(4100)),
                part(2, Some(CHUNK + 2), None),
                part(2, Some(CHUNK + 4), Some(9000)),
            ]
        );
        assert_eq!(
            parts(&[stretch(0, 2, 0)], &[stretch(4, 6, CHUNK)]),
            [part(2, Some(0), None), part(2, None, Some(CHUNK))]
        );
    }
}

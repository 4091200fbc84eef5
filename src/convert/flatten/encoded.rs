//! The encoding of a layer's tree in the conversion cache: everything that [`merge`](super::merge()) needs, little-endian, lengths
//! before bytes.
//!
//! Decoding refuses what no layer can produce: a directory with two parents or in itself, a missing child, an invalid name, an
//! inode that ext4 cannot store.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::{
    Child, ChildEntry, LayerDirectory, LayerNode, LayerTree, Link, MAX_ENTRIES, NodeId, Relabel, Step, Usage, index,
};
use crate::fs::ext4::MAX_NAME;
use crate::fs::ext4::layout::unstorable;
use crate::fs::tree::{Content, Data, DeviceNumber, Kind, Metadata, Run, Timestamp, Xattrs};

/// Maximum length of a path, link target or xattr, in bytes.
const MAX_BYTES: u32 = 1 << 20;

mod tag {
    pub(super) const IMPLIED_DIRECTORY: u8 = 0;
    pub(super) const DIRECTORY: u8 = 1;
    pub(super) const WHOLE: u8 = 2;
    pub(super) const SPARSE: u8 = 3;
    pub(super) const SYMLINK: u8 = 4;
    pub(super) const CHAR: u8 = 5;
    pub(super) const BLOCK: u8 = 6;
    pub(super) const FIFO: u8 = 7;
}

impl LayerTree {
    /// Encodes the tree to `to`.
    ///
    /// # Errors
    /// Those of `to`.
    pub fn encode(&self, to: &mut dyn Write) -> io::Result<()> {
        let mut out = Out(to);
        out.count(self.nodes.len())?;
        for node in &self.nodes {
            out.node(node)?;
        }
        out.count(self.links.len())?;
        for Link { path, target, at } in &self.links {
            out.bytes(path)?;
            out.bytes(target)?;
            out.u32(at.0)?;
        }
        out.count(self.relabels.len())?;
        for Relabel { child, path, metadata } in &self.relabels {
            out.entered(*child)?;
            out.bytes(path)?;
            out.metadata(metadata)?;
        }
        out.count(self.replaced.len())?;
        for ((NodeId(node), name), entered) in &self.replaced {
            out.u32(*node)?;
            out.bytes(name)?;
            out.count(entered.len())?;
            for entered in entered {
                out.entered(*entered)?;
            }
        }
        out.u32(self.step.0)
    }

    /// Decodes what [`LayerTree::encode`] wrote, without the [`LayerTree::usage`].
    ///
    /// # Errors
    /// `InvalidData` where it is not a valid tree; those of `from`.
    pub fn decode(from: &mut dyn Read) -> io::Result<Self> {
        let mut from = In(from);
        let count = from.count(MAX_ENTRIES)?;
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(from.node()?);
        }
        let mut links = Vec::new();
        for _ in 0..from.count(MAX_ENTRIES)? {
            links.push(Link { path: from.bytes()?, target: from.bytes()?, at: Step(from.u32()?) });
        }
        let mut relabels = Vec::new();
        for _ in 0..from.count(MAX_ENTRIES)? {
            relabels.push(Relabel { child: from.entered()?, path: from.bytes()?, metadata: from.metadata()? });
        }
        let mut replaced = BTreeMap::new();
        for _ in 0..from.count(MAX_ENTRIES)? {
            let (node, name) = (NodeId(from.u32()?), from.name()?);
            let mut before = Vec::new();
            for _ in 0..from.count(MAX_ENTRIES)? {
                before.push(from.entered()?);
            }
            replaced.insert((node, name), before);
        }
        let tree = Self { nodes, links, relabels, replaced, step: Step(from.u32()?), usage: Usage::default() };
        if tree.is_sound() { Ok(tree) } else { Err(invalid()) }
    }

    /// Returns whether every child exists, and every directory has exactly one parent, which is before it.
    fn is_sound(&self) -> bool {
        let mut placed = vec![false; self.nodes.len()];
        let mut sound = |parent: NodeId, entered: &ChildEntry, now: bool| match entered.child() {
            Child::Link(link) => (link as usize) < self.links.len(),
            Child::Node(node) if node.0 as usize >= self.nodes.len() => false,
            Child::Node(node) if !self.is_directory(node) => true,
            Child::Node(node) => node > parent && (!now || !std::mem::replace(&mut placed[node.0 as usize], true)),
        };
        let directories = (0..).map(NodeId).zip(&self.nodes).filter_map(|(id, node)| match node {
            LayerNode::Directory(directory) => Some((id, directory)),
            LayerNode::Other(..) | LayerNode::Placed(_) => None,
        });
        let mut children =
            directories.flat_map(|(id, directory)| directory.children.values().map(move |entered| (id, entered)));
        let is_directory = |id: NodeId| (id.0 as usize) < self.nodes.len() && self.is_directory(id);
        let is_leaf = |entered: &ChildEntry| match entered.child() {
            Child::Link(link) => (link as usize) < self.links.len(),
            Child::Node(node) => (node.0 as usize) < self.nodes.len() && !self.is_directory(node),
        };
        is_directory(Self::ROOT)
            && self.relabels.iter().all(|relabel| is_leaf(&relabel.child))
            && children.all(|(id, entered)| sound(id, entered, true))
            && self
                .replaced
                .iter()
                .all(|((id, _), before)| is_directory(*id) && before.iter().all(|entered| sound(*id, entered, false)))
    }
}

fn invalid() -> io::Error {
    io::ErrorKind::InvalidData.into()
}

struct Out<'a>(&'a mut dyn Write);

impl Out<'_> {
    fn u8(&mut self, value: u8) -> io::Result<()> {
        self.0.write_all(&[value])
    }

    fn u32(&mut self, value: u32) -> io::Result<()> {
        self.0.write_all(&value.to_le_bytes())
    }

    fn u64(&mut self, value: u64) -> io::Result<()> {
        self.0.write_all(&value.to_le_bytes())
    }

    fn count(&mut self, count: usize) -> io::Result<()> {
        self.u32(index(count))
    }

    fn bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.count(bytes.len())?;
        self.0.write_all(bytes)
    }

    fn entered(&mut self, entered: ChildEntry) -> io::Result<()> {
        self.u32(entered.child)?;
        self.u32(entered.since.0)
    }

    fn metadata(&mut self, metadata: &Metadata) -> io::Result<()> {
        let Metadata { mode, uid, gid, mtime, xattrs } = metadata;
        let Timestamp { secs, nanos } = *mtime;
        self.u32((*mode).into())?;
        self.u32(*uid)?;
        self.u32(*gid)?;
        self.u64(secs.cast_unsigned())?;
        self.u32(nanos)?;
        self.count(xattrs.iter().count())?;
        for (name, value) in xattrs.iter() {
            self.bytes(name)?;
            self.bytes(value)?;
        }
        Ok(())
    }

    fn node(&mut self, node: &LayerNode) -> io::Result<()> {
        match node {
            LayerNode::Directory(directory) => self.directory(directory),
            LayerNode::Other(metadata, kind) => {
                match kind {
                    Kind::File(Content { size, data: Data::Whole(source) }) => {
                        self.u8(tag::WHOLE)?;
                        self.u64(*size)?;
                        self.u64(*source)?;
                    }
                    Kind::File(Content { size, data: Data::Sparse(runs) }) => {
                        self.u8(tag::SPARSE)?;
                        self.u64(*size)?;
                        self.count(runs.len())?;
                        for Run { offset, length, source } in runs {
                            [offset, length, source].into_iter().try_for_each(|value| self.u64(*value))?;
                        }
                    }
                    Kind::Symlink(target) => {
                        self.u8(tag::SYMLINK)?;
                        self.bytes(target)?;
                    }
                    Kind::CharDevice(device) => self.device(tag::CHAR, *device)?,
                    Kind::BlockDevice(device) => self.device(tag::BLOCK, *device)?,
                    Kind::Fifo => self.u8(tag::FIFO)?,
                    Kind::Directory(_) => unreachable!("directories are nodes of their own"),
                }
                self.metadata(metadata)
            }
            LayerNode::Placed(_) => unreachable!("it is encoded before it is merged"),
        }
    }

    fn device(&mut self, tag: u8, device: DeviceNumber) -> io::Result<()> {
        self.u8(tag)?;
        self.u32(device.major)?;
        self.u32(device.minor)
    }

    fn directory(&mut self, directory: &LayerDirectory) -> io::Result<()> {
        let LayerDirectory { metadata, children, whiteouts, opaque } = directory;
        match metadata {
            None => self.u8(tag::IMPLIED_DIRECTORY)?,
            Some(metadata) => {
                self.u8(tag::DIRECTORY)?;
                self.metadata(metadata)?;
            }
        }
        self.count(children.len())?;
        for (name, entered) in children {
            self.bytes(name)?;
            self.entered(*entered)?;
        }
        self.count(whiteouts.len())?;
        for (name, since) in whiteouts {
            self.bytes(name)?;
            self.u32(since.0)?;
        }
        self.u8(opaque.is_some().into())?;
        self.u32(opaque.unwrap_or_default().0)
    }
}

struct In<'a>(&'a mut dyn Read);

impl In<'_> {
    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn u8(&mut self) -> io::Result<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u32(&mut self) -> io::Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> io::Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn count(&mut self, most: usize) -> io::Result<usize> {
        usize::try_from(self.u32()?).ok().filter(|count| *count <= most).ok_or_else(invalid)
    }

    fn bytes(&mut self) -> io::Result<Vec<u8>> {
        let length = self.u32()?;
        if length > MAX_BYTES {
            return Err(invalid());
        }
        let mut bytes = vec![0; length as usize];
        self.0.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn name(&mut self) -> io::Result<Box<[u8]>> {
        let name = self.bytes()?;
        let bad = name.is_empty() || name.len() > MAX_NAME || name == b"." || name == b"..";
        if bad || name.iter().any(|byte| matches!(byte, b'/' | 0)) { Err(invalid()) } else { Ok(name.into()) }
    }

    fn entered(&mut self) -> io::Result<ChildEntry> {
        Ok(ChildEntry { child: self.u32()?, since: Step(self.u32()?) })
    }

    fn metadata(&mut self) -> io::Result<Metadata> {
        let mode = u16::try_from(self.u32()?).ok().filter(|mode| *mode <= 0o7777).ok_or_else(invalid)?;
        let (uid, gid) = (self.u32()?, self.u32()?);
        let (secs, nanos) = (self.u64()?.cast_signed(), self.u32()?);
        let mut xattrs = Xattrs::default();
        for _ in 0..self.count(MAX_ENTRIES)? {
            let (name, value) = (self.bytes()?, self.bytes()?);
            xattrs.insert(&name, &value);
        }
        if nanos >= 1_000_000_000 {
            return Err(invalid());
        }
        Ok(Metadata { mode, uid, gid, mtime: Timestamp { secs, nanos }, xattrs })
    }

    fn node(&mut self) -> io::Result<LayerNode> {
        let kind = match self.u8()? {
            tag::IMPLIED_DIRECTORY => return self.directory(None),
            tag::DIRECTORY => {
                let metadata = self.metadata()?;
                let kind = Kind::Directory(Box::default());
                return if unstorable(&metadata, &kind).is_some() {
                    Err(invalid())
                } else {
                    self.directory(Some(metadata))
                };
            }
            tag::WHOLE => Kind::File(Content { size: self.u64()?, data: Data::Whole(self.u64()?) }),
            tag::SPARSE => self.sparse()?,
            tag::SYMLINK => Kind::Symlink(self.bytes()?.into()),
            tag::CHAR => Kind::CharDevice(self.device()?),
            tag::BLOCK => Kind::BlockDevice(self.device()?),
            tag::FIFO => Kind::Fifo,
            _ => return Err(invalid()),
        };
        let metadata = self.metadata()?;
        if unstorable(&metadata, &kind).is_some() { Err(invalid()) } else { Ok(LayerNode::Other(metadata, kind)) }
    }

    fn sparse(&mut self) -> io::Result<Kind> {
        let (size, mut runs, mut at) = (self.u64()?, Vec::new(), 0);
        for _ in 0..self.count(MAX_ENTRIES)? {
            let run = Run { offset: self.u64()?, length: self.u64()?, source: self.u64()? };
            let end = run.offset.checked_add(run.length).filter(|end| *end <= size).ok_or_else(invalid)?;
            if run.offset < at || run.length == 0 {
                return Err(invalid());
            }
            at = end;
            runs.push(run);
        }
        Ok(Kind::File(Content { size, data: Data::Sparse(runs.into()) }))
    }

    fn device(&mut self) -> io::Result<DeviceNumber> {
        Ok(DeviceNumber { major: self.u32()?, minor: self.u32()? })
    }

    fn directory(&mut self, metadata: Option<Metadata>) -> io::Result<LayerNode> {
        let mut directory = LayerDirectory { metadata, ..LayerDirectory::default() };
        for _ in 0..self.count(MAX_ENTRIES)? {
            let name = self.name()?;
            directory.children.insert(name, self.entered()?);
        }
        for _ in 0..self.count(MAX_ENTRIES)? {
            let name = self.name()?;
            directory.whiteouts.insert(name, Step(self.u32()?));
        }
        let (opaque, since) = (self.u8()?, Step(self.u32()?));
        directory.opaque = match opaque {
            0 => None,
            1 => Some(since),
            _ => return Err(invalid()),
        };
        Ok(LayerNode::Directory(Box::new(directory)))
    }
}

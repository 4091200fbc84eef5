//! Flattening: layers onto one another, by the table in docs/design.md ("Flattening").
//!
//! A layer's entries are first applied in their order to a tree of their own ([`LayerTree`]), as onto an empty upper
//! directory; then the whole layer is merged onto those below it ([`merge`]), as overlayfs shows it. Only names and
//! metadata are held; no path of the image ever touches the host.

use std::collections::{BTreeMap, BTreeSet};

use super::tar::{Entry, EntryKind};
use crate::fs::ext4::layout::directory_blocks;
use crate::fs::path::{Display, components, raw_components};
use crate::fs::tree::{Device, Directory, Inode, InodeId, Kind, LayerIndex, Metadata, Tree, Xattrs};
use crate::{Error, ErrorKind};

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// What AUFS kept for itself at a layer's root.
const AUFS: &[u8] = b".wh..wh.";
/// Links that one name may lead through, as in Linux.
const MAX_LINKS_FOLLOWED: usize = 40;

/// Why an entry cannot be applied.
#[derive(Debug, thiserror::Error)]
#[error("`{path}`: {reason}")]
pub struct FlattenError {
    path: String,
    reason: String,
}

impl From<FlattenError> for Error {
    fn from(error: FlattenError) -> Self {
        Error::new(ErrorKind::Input, error.to_string())
    }
}

fn refuse(path: &[u8], reason: impl Into<String>) -> FlattenError {
    FlattenError { path: Display(path).to_string(), reason: reason.into() }
}

/// A node of a layer's own tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NodeId(usize);

#[derive(Debug)]
enum Node {
    Directory(LayerDirectory),
    Other(Metadata, Kind),
}

/// A directory as one layer sees it.
#[derive(Debug, Default)]
struct LayerDirectory {
    /// `None` where no entry of the layer describes it.
    metadata: Option<Metadata>,
    children: BTreeMap<Box<[u8]>, Child>,
    /// Names whose entries of lower layers are hidden.
    whiteouts: BTreeSet<Box<[u8]>>,
    /// Whether all entries of lower layers are hidden.
    opaque: bool,
}

#[derive(Debug, Clone, Copy)]
enum Child {
    Node(NodeId),
    /// A hard link to a lower layer's file; the index into `lower_links`.
    LowerLink(usize),
}

#[derive(Debug)]
struct LowerLink {
    path: Vec<u8>,
    target: Vec<u8>,
}

/// What one layer says, its entries applied in their order.
#[derive(Debug)]
pub struct LayerTree {
    nodes: Vec<Node>,
    lower_links: Vec<LowerLink>,
}

impl Default for LayerTree {
    fn default() -> Self {
        Self { nodes: vec![Node::Directory(LayerDirectory::default())], lower_links: Vec::new() }
    }
}

impl LayerTree {
    const ROOT: NodeId = NodeId(0);

    /// Applies the layer's next entry.
    ///
    /// # Errors
    /// [`FlattenError`], naming the entry.
    pub fn apply(&mut self, entry: Entry) -> Result<(), FlattenError> {
        let Entry { path, metadata, kind } = entry;
        let parts = components(&path);
        let Some((&name, above)) = parts.split_last() else {
            return self.apply_root(&path, metadata, &kind);
        };
        if parts[0].starts_with(AUFS) && (parts[0] != OPAQUE || !above.is_empty()) {
            return Ok(());
        }
        if let Some(part) = above.iter().find(|part| part.starts_with(WHITEOUT)) {
            return Err(refuse(&path, format!("`{}` is a whiteout and cannot have entries", Display(part))));
        }
        let parent = self.directory_at(&path, above)?;
        if let Some(hidden) = whiteout(&path, name, &kind)? {
            let directory = self.directory_mut(parent);
            match hidden {
                Hidden::All => directory.opaque = true,
                Hidden::Name(name) => _ = directory.whiteouts.insert(name.into()),
            }
            return Ok(());
        }
        let child = match kind {
            EntryKind::Directory => return self.apply_directory(parent, name, metadata),
            EntryKind::HardLink(target) => self.hard_link(&path, target)?,
            EntryKind::File(content) => self.add(Node::Other(storable(metadata), Kind::File(content))),
            // Linux gives every symlink this mode, whatever the tar says.
            EntryKind::Symlink(target) => {
                self.add(Node::Other(Metadata { mode: 0o777, ..storable(metadata) }, Kind::Symlink(target.into())))
            }
            EntryKind::CharDevice(device) => self.add(Node::Other(storable(metadata), Kind::CharDevice(device))),
            EntryKind::BlockDevice(device) => self.add(Node::Other(storable(metadata), Kind::BlockDevice(device))),
            EntryKind::Fifo => self.add(Node::Other(storable(metadata), Kind::Fifo)),
        };
        self.directory_mut(parent).children.insert(name.into(), child);
        Ok(())
    }

    fn apply_root(&mut self, path: &[u8], metadata: Metadata, kind: &EntryKind) -> Result<(), FlattenError> {
        if *kind != EntryKind::Directory {
            return Err(refuse(path, "the root can only be a directory"));
        }
        self.directory_mut(Self::ROOT).metadata = Some(storable(metadata));
        Ok(())
    }

    /// A directory keeps the entries that the layer gave it before; anything else of its name goes.
    fn apply_directory(&mut self, parent: NodeId, name: &[u8], metadata: Metadata) -> Result<(), FlattenError> {
        let id = match self.child(parent, name) {
            Some(Child::Node(id)) if matches!(self.nodes[id.0], Node::Directory(_)) => id,
            _ => self.add_directory(parent, name),
        };
        self.directory_mut(id).metadata = Some(storable(metadata));
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], target: Vec<u8>) -> Result<Child, FlattenError> {
        let shown = Display(&target).to_string();
        let parts = components(&target);
        let mut at = Self::ROOT;
        for (i, part) in parts.iter().enumerate() {
            let last = i + 1 == parts.len();
            let Node::Directory(directory) = &self.nodes[at.0] else { break };
            match directory.children.get(*part) {
                Some(Child::Node(id)) if !last => at = *id,
                Some(Child::Node(id)) if matches!(self.nodes[id.0], Node::Directory(_)) => {
                    return Err(refuse(path, format!("a hard link to the directory `{shown}`")));
                }
                Some(child) if last => return Ok(*child),
                None if directory.opaque || directory.whiteouts.contains(*part) => {
                    return Err(refuse(path, format!("a hard link to `{shown}`, which its own layer hides")));
                }
                _ => break,
            }
        }
        // A parent may be one of the layer's own symlinks; without one the target can only be a lower layer's.
        if let Some(child) = self.resolve_link(&parts) {
            return Ok(child);
        }
        self.lower_links.push(LowerLink { path: path.to_vec(), target });
        Ok(Child::LowerLink(self.lower_links.len() - 1))
    }

    /// The layer's own non-directory at `parts`, its symlinks followed in all but the last.
    fn resolve_link(&self, parts: &[&[u8]]) -> Option<Child> {
        let (name, above) = parts.split_last()?;
        let at = self.follow(above, &mut |_, _| ()).ok()?;
        match self.child(at?, name)? {
            Child::Node(id) if matches!(self.nodes[id.0], Node::Directory(_)) => None,
            child => Some(child),
        }
    }

    /// The directory at `parts`, made where the layer has none; its own symlinks are followed, never out of the root.
    fn directory_at(&mut self, path: &[u8], parts: &[&[u8]]) -> Result<NodeId, FlattenError> {
        loop {
            let mut missing = None;
            let found = self.follow(parts, &mut |at, name| missing = Some((at, name.to_vec())));
            match found.map_err(|reason| refuse(path, reason))? {
                Some(id) => return Ok(id),
                None => {
                    let (at, name) = missing.expect("what follow() did not find is named");
                    self.add_directory(at, &name);
                }
            }
        }
    }

    /// Walks `parts` from the root. `Ok(None)` where `missing` was told of a name that is not there.
    fn follow(&self, parts: &[&[u8]], missing: &mut dyn FnMut(NodeId, &[u8])) -> Result<Option<NodeId>, String> {
        let mut stack = vec![Self::ROOT];
        let mut todo: Vec<&[u8]> = parts.iter().rev().copied().collect();
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            let at = stack[stack.len() - 1];
            if name == b".." {
                stack.truncate((stack.len() - 1).max(1));
                continue;
            }
            let Some(child) = self.child(at, name) else {
                missing(at, name);
                return Ok(None);
            };
            match child {
                Child::Node(id) => match &self.nodes[id.0] {
                    Node::Directory(_) => stack.push(id),
                    Node::Other(_, Kind::Symlink(target)) => {
                        followed += 1;
                        if followed > MAX_LINKS_FOLLOWED {
                            return Err(format!("more than {MAX_LINKS_FOLLOWED} symlinks in its path"));
                        }
                        if target.starts_with(b"/") {
                            stack.truncate(1);
                        }
                        todo.extend(raw_components(target).rev());
                    }
                    Node::Other(..) => {
                        return Err(format!("`{}` above it is not a directory in its own layer", Display(name)));
                    }
                },
                Child::LowerLink(_) => return Err(format!("`{}` above it is a hard link", Display(name))),
            }
        }
        Ok(stack.pop())
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> Option<Child> {
        self.directory(parent).children.get(name).copied()
    }

    fn directory(&self, id: NodeId) -> &LayerDirectory {
        match &self.nodes[id.0] {
            Node::Directory(directory) => directory,
            Node::Other(..) => unreachable!("only directories are walked into"),
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> &mut LayerDirectory {
        match &mut self.nodes[id.0] {
            Node::Directory(directory) => directory,
            Node::Other(..) => unreachable!("only directories are walked into"),
        }
    }

    fn add(&mut self, node: Node) -> Child {
        self.nodes.push(node);
        Child::Node(NodeId(self.nodes.len() - 1))
    }

    fn add_directory(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        let child = self.add(Node::Directory(LayerDirectory::default()));
        self.directory_mut(parent).children.insert(name.into(), child);
        NodeId(self.nodes.len() - 1)
    }
}

/// What a whiteout hides.
enum Hidden<'a> {
    All,
    Name(&'a [u8]),
}

fn whiteout<'a>(path: &[u8], name: &'a [u8], kind: &EntryKind) -> Result<Option<Hidden<'a>>, FlattenError> {
    if name == OPAQUE {
        return Ok(Some(Hidden::All));
    }
    if let Some(hidden) = name.strip_prefix(WHITEOUT) {
        return match hidden {
            b"" | b"." | b".." => Err(refuse(path, "a whiteout of no name")),
            _ => Ok(Some(Hidden::Name(hidden))),
        };
    }
    // As overlayfs keeps them.
    let overlay = *kind == EntryKind::CharDevice(Device { major: 0, minor: 0 });
    Ok(overlay.then_some(Hidden::Name(name)))
}

/// Drops xattrs that belong to an overlay and those of no Linux namespace, as runtimes do.
fn storable(metadata: Metadata) -> Metadata {
    let mut xattrs = Xattrs::default();
    for (name, value) in metadata.xattrs.iter() {
        let overlay = name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.");
        if !overlay && crate::fs::ext4::is_storable_xattr(name) {
            xattrs.insert(name, value);
        }
    }
    Metadata { xattrs, ..metadata }
}

/// A tree without layers.
#[must_use]
pub fn empty() -> Tree {
    let root = Inode {
        layer: LayerIndex(0),
        metadata: Metadata::implied_directory(),
        kind: Kind::Directory(Directory { first_blocks: 1, ..Directory::default() }),
    };
    Tree { inodes: vec![root], layers: 0 }
}

/// Puts `layer` on top of `tree`.
///
/// # Errors
/// `Input` where a hard link has no target below, `Unsupported` where the image is past a limit.
pub fn merge(tree: &mut Tree, layer: &LayerTree) -> Result<(), Error> {
    let index = LayerIndex(tree.layers);
    tree.layers =
        tree.layers.checked_add(1).ok_or_else(|| Error::new(ErrorKind::Unsupported, "more than 65,535 layers"))?;
    let links = layer.lower_links.iter().map(|link| lower_target(tree, link)).collect::<Result<Vec<_>, _>>()?;
    let first_new = if index.0 == 0 { 0 } else { tree.inodes.len() };
    Merge { tree, layer, index, links, placed: vec![None; layer.nodes.len()] }.run()?;
    for id in first_new..tree.inodes.len() {
        if let Kind::Directory(directory) = &tree.inodes[id].kind {
            let blocks = directory_blocks(directory)?;
            if let Kind::Directory(directory) = &mut tree.inodes[id].kind {
                directory.first_blocks = blocks;
            }
        }
    }
    Ok(())
}

/// The file of the layers below that a hard link names.
fn lower_target(tree: &Tree, link: &LowerLink) -> Result<InodeId, FlattenError> {
    let shown = Display(&link.target).to_string();
    let mut stack = vec![Tree::ROOT];
    let mut todo: Vec<&[u8]> = components(&link.target).into_iter().rev().collect();
    let mut followed = 0;
    while let Some(name) = todo.pop() {
        let at = stack[stack.len() - 1];
        if name == b".." {
            stack.truncate((stack.len() - 1).max(1));
            continue;
        }
        let found = tree.directory(at).and_then(|directory| directory.entries.get(name));
        let Some(&id) = found else {
            return Err(refuse(&link.path, format!("a hard link to `{shown}`, which is in no layer before it")));
        };
        match &tree.inode(id).kind {
            Kind::Directory(_) => stack.push(id),
            Kind::Symlink(target) if !todo.is_empty() => {
                followed += 1;
                if followed > MAX_LINKS_FOLLOWED {
                    return Err(refuse(&link.path, format!("more than {MAX_LINKS_FOLLOWED} symlinks in `{shown}`")));
                }
                if target.starts_with(b"/") {
                    stack.truncate(1);
                }
                todo.extend(raw_components(target).rev());
            }
            _ if todo.is_empty() => return Ok(id),
            _ => return Err(refuse(&link.path, format!("a hard link to `{shown}`, which leads through a file"))),
        }
    }
    Err(refuse(&link.path, format!("a hard link to the directory `{shown}`")))
}

struct Merge<'a> {
    tree: &'a mut Tree,
    layer: &'a LayerTree,
    index: LayerIndex,
    /// Targets of the layer's links to lower files.
    links: Vec<InodeId>,
    /// The layer's nodes that have an inode already.
    placed: Vec<Option<InodeId>>,
}

impl Merge<'_> {
    /// Walks the layer's tree in path order, so that new inodes are introduced in path order.
    fn run(mut self) -> Result<(), Error> {
        let layer = self.layer;
        self.enter(LayerTree::ROOT, Tree::ROOT);
        let mut stack = vec![(Tree::ROOT, layer.directory(LayerTree::ROOT).children.iter())];
        while let Some((parent, children)) = stack.last_mut() {
            let parent = *parent;
            let Some((name, &child)) = children.next() else {
                stack.pop();
                continue;
            };
            let id = match child {
                Child::LowerLink(index) => self.links[index],
                Child::Node(node) => match &layer.nodes[node.0] {
                    Node::Directory(directory) => {
                        let id = self.merge_directory(parent, name)?;
                        self.enter(node, id);
                        stack.push((id, directory.children.iter()));
                        continue;
                    }
                    Node::Other(metadata, kind) => match self.placed[node.0] {
                        Some(id) => id,
                        None => self.introduce(metadata.clone(), kind.clone())?,
                    },
                },
            };
            if let Child::Node(node) = child {
                self.placed[node.0] = Some(id);
            }
            self.link(parent, name, id);
        }
        Ok(())
    }

    /// Hides what the layer hides in this directory, and takes its metadata where the layer says some.
    fn enter(&mut self, node: NodeId, id: InodeId) {
        let from = self.layer.directory(node);
        let inode = &mut self.tree.inodes[id.0 as usize];
        if let Some(metadata) = &from.metadata {
            inode.metadata = metadata.clone();
        }
        let Kind::Directory(directory) = &mut inode.kind else {
            unreachable!("directories are merged with directories")
        };
        if from.opaque {
            directory.entries.clear();
        }
        for name in &from.whiteouts {
            // What the layer itself has of that name is not in yet, unless it was merged into a lower directory.
            directory.entries.remove(name);
        }
    }

    /// The directory below which the layer's own goes: the lower one, or a new one in place of whatever is there.
    fn merge_directory(&mut self, parent: InodeId, name: &[u8]) -> Result<InodeId, Error> {
        let below = self.tree.directory(parent).and_then(|directory| directory.entries.get(name)).copied();
        if let Some(id) = below.filter(|id| self.tree.directory(*id).is_some()) {
            return Ok(id);
        }
        let id = self.introduce(Metadata::implied_directory(), Kind::Directory(Directory::default()))?;
        self.link(parent, name, id);
        Ok(id)
    }

    fn introduce(&mut self, metadata: Metadata, kind: Kind) -> Result<InodeId, Error> {
        let id = u32::try_from(self.tree.inodes.len())
            .map_err(|_| Error::new(ErrorKind::Unsupported, "more than 2^32 inodes"))?;
        self.tree.inodes.push(Inode { layer: self.index, metadata, kind });
        Ok(InodeId(id))
    }

    fn link(&mut self, parent: InodeId, name: &[u8], id: InodeId) {
        let Kind::Directory(directory) = &mut self.tree.inodes[parent.0 as usize].kind else {
            unreachable!("entries are linked into directories")
        };
        directory.entries.insert(name.into(), id);
    }
}

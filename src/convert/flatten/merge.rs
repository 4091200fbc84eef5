//! Merging of a whole layer onto those below it, as overlayfs shows it.
//!
//! Hard links are resolved first, each against the layers below and the earlier entries of its own layer; then the nodes of the
//! layer are moved into the tree.

use std::collections::BTreeMap;

use super::{
    Child, ChildEntry, FlattenError, LayerDirectory, LayerNode, LayerTree, Link, MAX_LINKS_FOLLOWED, NodeId, Relabel,
    Step, attributes, check_storable, index, refuse,
};
use crate::fs::ext4::layout::directory_blocks;
use crate::fs::path::{Display, components, raw_components};
use crate::fs::tree::{Directory, Inode, InodeId, Kind, Metadata, Tree};
use crate::{Error, ErrorKind};

/// Returns a tree without layers.
#[must_use]
pub fn empty() -> Tree {
    let root = Inode {
        metadata: Metadata::implied_directory(),
        kind: Kind::Directory(Box::new(Directory { first_blocks: 1, ..Directory::default() })),
    };
    Tree { inodes: vec![root], layer_ends: Vec::new() }
}

/// Merges `layer` onto `tree`.
///
/// # Errors
/// `Input` where the target of a hard link does not exist, `Unsupported` where the image exceeds a limit.
pub fn merge(tree: &mut Tree, layer: LayerTree) -> Result<(), Error> {
    if tree.layers() == usize::from(u16::MAX) {
        return Err(too_many_layers());
    }
    let mut links = Vec::with_capacity(layer.links.len());
    for link in &layer.links {
        let target = LinkView { tree, layer: &layer, link, resolved: &links }.target()?;
        links.push(target);
    }
    let first_new = if tree.layers() == 0 { 0 } else { tree.inodes.len() };
    let mut merge = Merge { tree, layer, links };
    merge.relabel()?;
    merge.run()?;
    tree.layer_ends.push(index(tree.inodes.len()));
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

/// Returns the error for too many layers: they are counted in 16 bits.
#[must_use]
pub fn too_many_layers() -> Error {
    Error::new(ErrorKind::Unsupported, "more than 65,535 layers")
}

/// The target of a hard link.
#[derive(Debug, Clone, Copy)]
enum LinkTarget {
    Own(NodeId),
    Lower(InodeId),
}

/// A directory as overlayfs would show it: the part in the layer, and the part in the layers below.
#[derive(Debug, Clone, Copy)]
struct MergedDirectory {
    own: Option<NodeId>,
    lower: Option<InodeId>,
}

/// The view of a hard link at its step: the layers below, and the earlier entries of its own layer on top of them.
struct LinkView<'a> {
    tree: &'a Tree,
    layer: &'a LayerTree,
    link: &'a Link,
    /// The targets of the links before this one.
    resolved: &'a [LinkTarget],
}

/// The result of looking up a name.
enum LinkLookup {
    Directory(MergedDirectory),
    Symlink(LinkTarget, Vec<u8>),
    Other(LinkTarget),
}

impl LinkView<'_> {
    fn target(&self) -> Result<LinkTarget, FlattenError> {
        let shown = Display(&self.link.target);
        let fail = |reason: &str| refuse(&self.link.path, format!("a hard link to `{shown}`, {reason}"));
        let mut stack = vec![MergedDirectory { own: Some(LayerTree::ROOT), lower: Some(Tree::ROOT) }];
        let mut todo: Vec<Vec<u8>> = components(&self.link.target).into_iter().rev().map(<[u8]>::to_vec).collect();
        let mut followed = 0;
        while let Some(name) = todo.pop() {
            if name == b".." {
                stack.truncate((stack.len() - 1).max(1));
                continue;
            }
            let at = stack[stack.len() - 1];
            match self.find(at, &name).map_err(fail)? {
                LinkLookup::Directory(place) => stack.push(place),
                LinkLookup::Symlink(target, _) | LinkLookup::Other(target) if todo.is_empty() => return Ok(target),
                LinkLookup::Symlink(_, text) => {
                    followed += 1;
                    if followed > MAX_LINKS_FOLLOWED {
                        return Err(fail("which leads through more than 40 symlinks"));
                    }
                    if text.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    todo.extend(raw_components(&text).rev().map(<[u8]>::to_vec));
                }
                LinkLookup::Other(_) => return Err(fail("whose path leads through a file that is not a directory")),
            }
        }
        Err(refuse(&self.link.path, format!("a hard link to the directory `{shown}`")))
    }

    fn find(&self, at: MergedDirectory, name: &[u8]) -> Result<LinkLookup, &'static str> {
        let own = at.own.map(|id| self.layer.directory(id));
        let so_far = |since: Step| since < self.link.at;
        let hides = |own: &LayerDirectory| {
            own.opaque.is_some_and(so_far) || own.whiteouts.get(name).copied().is_some_and(so_far)
        };
        let hidden = own.is_some_and(hides);
        let lower = at.lower.filter(|_| !hidden).and_then(|id| self.tree.directory(id)?.entries.get(name).copied());
        let lower_directory = lower.filter(|id| self.tree.directory(*id).is_some());
        match at.own.and_then(|id| self.layer.child_before(id, name, self.link.at)) {
            Some(Child::Node(id)) if self.layer.is_directory(id) => {
                Ok(LinkLookup::Directory(MergedDirectory { own: Some(id), lower: lower_directory }))
            }
            Some(Child::Node(id)) => Ok(self.leaf(LinkTarget::Own(id))),
            Some(Child::Link(index)) => Ok(self.leaf(self.resolved[index as usize])),
            None => match (lower, lower_directory) {
                (_, Some(id)) => Ok(LinkLookup::Directory(MergedDirectory { own: None, lower: Some(id) })),
                (Some(id), None) => Ok(self.leaf(LinkTarget::Lower(id))),
                (None, None) if hidden => Err("which its own layer hides"),
                (None, None) => Err("which is in no layer before it"),
            },
        }
    }

    fn leaf(&self, target: LinkTarget) -> LinkLookup {
        let kind = match target {
            LinkTarget::Lower(id) => &self.tree.inode(id).kind,
            LinkTarget::Own(id) => match self.layer.node(id) {
                LayerNode::Other(_, kind) => kind,
                LayerNode::Directory(_) | LayerNode::Placed(_) => unreachable!("directories are no leaves"),
            },
        };
        match kind {
            Kind::Symlink(text) => LinkLookup::Symlink(target, text.to_vec()),
            _ => LinkLookup::Other(target),
        }
    }
}

/// The merge of a layer, which moves its nodes into the tree, so that metadata is never in memory twice.
struct Merge<'a> {
    tree: &'a mut Tree,
    layer: LayerTree,
    /// The targets of the layer's links.
    links: Vec<LinkTarget>,
}

impl Merge<'_> {
    /// Applies the metadata of hard links, in the layer's order, to the inodes that they share, in whichever layer these are.
    fn relabel(&mut self) -> Result<(), FlattenError> {
        for Relabel { child, path, metadata } in std::mem::take(&mut self.layer.relabels) {
            let target = match child.child() {
                Child::Node(node) => LinkTarget::Own(node),
                Child::Link(link) => self.links[link as usize],
            };
            match target {
                LinkTarget::Own(node) => self.layer.nodes[node.0 as usize].relabel(&path, &metadata)?,
                LinkTarget::Lower(id) => {
                    let Inode { metadata: present, kind } = &mut self.tree.inodes[id.0 as usize];
                    *present = check_storable(&path, attributes::of_present(&path, present, &metadata, kind)?, kind)?;
                }
            }
        }
        Ok(())
    }

    /// Walks the layer's tree in path order, so that new inodes are introduced in path order.
    fn run(mut self) -> Result<(), Error> {
        let children = self.enter(LayerTree::ROOT, Tree::ROOT);
        let mut stack = vec![(Tree::ROOT, children.into_iter())];
        while let Some((parent, children)) = stack.last_mut() {
            let parent = *parent;
            let Some((name, entered)) = children.next() else {
                stack.pop();
                continue;
            };
            let target = match entered.child() {
                Child::Link(index) => self.links[index as usize],
                Child::Node(node) => LinkTarget::Own(node),
            };
            match target {
                LinkTarget::Lower(id) => self.link(parent, name, id),
                LinkTarget::Own(node) if self.layer.is_directory(node) => {
                    let id = self.merge_directory(parent, name)?;
                    let children = self.enter(node, id);
                    stack.push((id, children.into_iter()));
                }
                LinkTarget::Own(node) => {
                    let id = self.place(node)?;
                    self.link(parent, name, id);
                }
            }
        }
        Ok(())
    }

    /// Returns the inode of a node that is not a directory, and creates it at the first of its names in path order.
    fn place(&mut self, node: NodeId) -> Result<InodeId, Error> {
        let next = self.next_id()?;
        match std::mem::replace(&mut self.layer.nodes[node.0 as usize], LayerNode::Placed(next)) {
            LayerNode::Other(metadata, kind) => {
                self.tree.inodes.push(Inode { metadata, kind });
                Ok(next)
            }
            LayerNode::Placed(id) => {
                self.layer.nodes[node.0 as usize] = LayerNode::Placed(id);
                Ok(id)
            }
            LayerNode::Directory(_) => unreachable!("directories are merged"),
        }
    }

    /// Removes from a directory what the layer hides, sets its metadata if the layer describes it, and returns the layer's
    /// children.
    fn enter(&mut self, node: NodeId, id: InodeId) -> BTreeMap<Box<[u8]>, ChildEntry> {
        let from = std::mem::take(self.layer.directory_mut(node));
        let inode = &mut self.tree.inodes[id.0 as usize];
        if let Some(metadata) = from.metadata {
            inode.metadata = metadata;
        }
        let Kind::Directory(directory) = &mut inode.kind else {
            unreachable!("directories are merged with directories")
        };
        if from.opaque.is_some() {
            directory.entries.clear();
        }
        for name in from.whiteouts.keys() {
            // The layer's own child of that name is not linked yet, unless it was merged into a lower directory.
            directory.entries.remove(name);
        }
        from.children
    }

    /// Returns the directory to merge the layer's own into: the lower one, or a new one that replaces any other kind.
    fn merge_directory(&mut self, parent: InodeId, name: Box<[u8]>) -> Result<InodeId, Error> {
        let below = self.tree.directory(parent).and_then(|directory| directory.entries.get(&name)).copied();
        if let Some(id) = below.filter(|id| self.tree.directory(*id).is_some()) {
            return Ok(id);
        }
        let id = self.next_id()?;
        let kind = Kind::Directory(Box::default());
        self.tree.inodes.push(Inode { metadata: Metadata::implied_directory(), kind });
        self.link(parent, name, id);
        Ok(id)
    }

    fn next_id(&self) -> Result<InodeId, Error> {
        u32::try_from(self.tree.inodes.len())
            .map(InodeId)
            .map_err(|_| Error::new(ErrorKind::Unsupported, "more than 2^32 inodes"))
    }

    fn link(&mut self, parent: InodeId, name: Box<[u8]>, id: InodeId) {
        let Kind::Directory(directory) = &mut self.tree.inodes[parent.0 as usize].kind else {
            unreachable!("entries are linked into directories")
        };
        directory.entries.insert(name, id);
    }
}

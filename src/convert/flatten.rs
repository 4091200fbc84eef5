//! Flattening: layers are applied onto one another, by the table in docs/design.md ("Flattening").
//!
//! The entries of a layer are first applied in their order to a tree of the layer's own ([`LayerTree`]), as onto an empty upper
//! directory; then the whole layer is merged onto those below it ([`merge()`]), as overlayfs shows it. Only names and metadata are
//! in memory; no path of the image is ever used on the host.

mod attributes;
mod encoded;
mod error;
mod merge;
mod usage;

use std::collections::BTreeMap;

use super::tar::{Entry, EntryKind};
use crate::ErrorKind;
use crate::fs::ext4::MAX_NAME;
use crate::fs::ext4::layout::unstorable;
use crate::fs::path::{Display, components, raw_components};
use crate::fs::tree::{DeviceNumber, InodeId, Kind, Metadata};

pub use error::FlattenError;
use error::refuse;
pub use merge::{empty, merge, too_many_layers};
pub use usage::Usage;

const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// The prefix of internal names of AUFS in the root of a layer.
const AUFS: &[u8] = b".wh..wh.";
/// Maximum number of entries of a layer: nodes and links are counted in 31 bits.
const MAX_ENTRIES: usize = 1 << 31;
/// Maximum number of symlinks that are followed on one path, as in Linux.
const MAX_LINKS_FOLLOWED: usize = 40;

/// Returns an entry's metadata as Linux stores it, or refuses metadata that is legal in a tar but cannot be stored by ext4.
fn storable(path: &[u8], metadata: Metadata, kind: &Kind) -> Result<Metadata, FlattenError> {
    check_storable(path, attributes::of_new(path, metadata, kind)?, kind)
}

fn check_storable(path: &[u8], metadata: Metadata, kind: &Kind) -> Result<Metadata, FlattenError> {
    match unstorable(&metadata, kind) {
        None => Ok(metadata),
        Some(reason) => Err(FlattenError { kind: ErrorKind::Unsupported, ..refuse(path, reason) }),
    }
}

/// The index of a node in a layer's own tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct NodeId(u32);

#[derive(Debug)]
enum LayerNode {
    /// A directory. It is behind a pointer, since most nodes are of other kinds.
    Directory(Box<LayerDirectory>),
    Other(Metadata, Kind),
    /// The inode that the node became when the layer was merged.
    Placed(InodeId),
}

impl LayerNode {
    /// Applies the metadata of a hard link's entry to the inode that it shares.
    fn relabel(&mut self, path: &[u8], metadata: &Metadata) -> Result<(), FlattenError> {
        let Self::Other(present, kind) = self else { unreachable!("hard links never lead to directories") };
        *present = check_storable(path, attributes::of_present(path, present, metadata, kind)?, kind)?;
        Ok(())
    }
}

/// A directory in one layer.
#[derive(Debug, Default)]
struct LayerDirectory {
    /// `None` where no entry of the layer describes it.
    metadata: Option<Metadata>,
    children: BTreeMap<Box<[u8]>, ChildEntry>,
    /// Names that are hidden in lower layers, and the step from which they are.
    whiteouts: BTreeMap<Box<[u8]>, Step>,
    /// The step from which all entries of lower layers are hidden.
    opaque: Option<Step>,
}

/// The position of an entry in its layer, which orders the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
struct Step(u32);

/// A child of a directory, and the step from which it exists.
#[derive(Debug, Clone, Copy)]
struct ChildEntry {
    /// The index in 31 bits, and the top bit for a link: there may be millions.
    child: u32,
    since: Step,
}

#[derive(Debug, Clone, Copy)]
enum Child {
    Node(NodeId),
    /// A hard link whose target may be in a lower layer; the index into `links`.
    Link(u32),
}

impl ChildEntry {
    const LINK: u32 = 1 << 31;

    fn new(child: Child, since: Step) -> Self {
        let child = match child {
            Child::Node(NodeId(node)) => node,
            Child::Link(link) => link | Self::LINK,
        };
        Self { child, since }
    }

    fn child(&self) -> Child {
        match self.child & Self::LINK {
            0 => Child::Node(NodeId(self.child)),
            _ => Child::Link(self.child & !Self::LINK),
        }
    }
}

/// A hard link that is resolved when the layer is merged.
#[derive(Debug)]
struct Link {
    path: Vec<u8>,
    target: Vec<u8>,
    at: Step,
}

/// The metadata of a hard link's entry, for the inode that it shares.
#[derive(Debug)]
struct Relabel {
    /// The node or link.
    child: ChildEntry,
    path: Vec<u8>,
    metadata: Metadata,
}

/// The tree of one layer, its entries applied in their order.
#[derive(Debug)]
pub struct LayerTree {
    nodes: Vec<LayerNode>,
    links: Vec<Link>,
    /// Relabels from the first hard link on whose target may be in a lower layer; earlier ones were applied at once.
    relabels: Vec<Relabel>,
    /// Children that later entries of the layer replaced, oldest first: a hard link in between refers to them.
    replaced: BTreeMap<(NodeId, Box<[u8]>), Vec<ChildEntry>>,
    step: Step,
    usage: Usage,
}

impl Default for LayerTree {
    fn default() -> Self {
        Self {
            nodes: vec![LayerNode::Directory(Box::default())],
            links: Vec::new(),
            relabels: Vec::new(),
            replaced: BTreeMap::new(),
            step: Step::default(),
            usage: Usage::default(),
        }
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
        let next = self.step.0.checked_add(1).filter(|_| self.nodes.len() < MAX_ENTRIES);
        self.step.0 = next.ok_or_else(|| refuse(&path, "more than 2^31 entries in a layer"))?;
        self.usage.entries += 1;
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
        if let Some(part) = parts.iter().find(|part| part.len() > MAX_NAME) {
            let reason = format!("a component of {} bytes is longer than the {MAX_NAME} that Linux allows", part.len());
            // The error names the directory, without the long name itself.
            let above: Vec<_> = parts.iter().take_while(|part| part.len() <= MAX_NAME).copied().collect();
            let directory = if above.is_empty() { b"/".to_vec() } else { above.join(&b'/') };
            return Err(FlattenError { kind: ErrorKind::Unsupported, ..refuse(&directory, reason) });
        }
        let parent = self.directory_at(&path, above)?;
        if let Some(hidden) = whiteout(&path, name, &kind)? {
            if let Hidden::Name(name) = &hidden {
                self.usage.add_name(name);
            }
            let (step, directory) = (self.step, self.directory_mut(parent));
            match hidden {
                Hidden::All => _ = directory.opaque.get_or_insert(step),
                Hidden::Name(name) => _ = directory.whiteouts.entry(name.into()).or_insert(step),
            }
            return Ok(());
        }
        let kind = match kind {
            EntryKind::Directory => return self.apply_directory(&path, parent, name, metadata),
            EntryKind::HardLink(target) => {
                let child = self.hard_link(&path, target, metadata)?;
                self.enter(parent, name, child);
                return Ok(());
            }
            EntryKind::File(content) => Kind::File(content),
            EntryKind::Symlink(target) => Kind::Symlink(target.into()),
            EntryKind::CharDevice(device) => Kind::CharDevice(device),
            EntryKind::BlockDevice(device) => Kind::BlockDevice(device),
            EntryKind::Fifo => Kind::Fifo,
        };
        let child = self.add(LayerNode::Other(storable(&path, metadata, &kind)?, kind));
        self.enter(parent, name, child);
        Ok(())
    }

    /// Returns the usage of the layer so far, in memory and on the device.
    #[must_use]
    pub fn usage(&self) -> Usage {
        self.usage
    }

    /// Returns the kind of what the layer has at `path`, without following symlinks; `None` for a directory, and for a hard link to
    /// a lower layer.
    #[must_use]
    pub fn kind_at(&self, path: &[u8]) -> Option<&Kind> {
        match self.own(&components(path))? {
            Child::Node(id) => match self.node(id) {
                LayerNode::Other(_, kind) => Some(kind),
                LayerNode::Directory(_) | LayerNode::Placed(_) => None,
            },
            Child::Link(_) => None,
        }
    }

    /// Returns whether this layer hides what a lower one has at `path`, if that is not a directory.
    #[must_use]
    pub fn hides(&self, path: &[u8]) -> bool {
        let mut at = Self::ROOT;
        for name in raw_components(path) {
            let directory = self.directory(at);
            if directory.opaque.is_some() || directory.whiteouts.contains_key(name) {
                return true;
            }
            match directory.children.get(name).map(ChildEntry::child) {
                None => return false,
                Some(Child::Node(id)) if self.is_directory(id) => at = id,
                Some(_) => return true,
            }
        }
        true
    }

    fn apply_root(&mut self, path: &[u8], metadata: Metadata, kind: &EntryKind) -> Result<(), FlattenError> {
        if *kind != EntryKind::Directory {
            return Err(refuse(path, "the root can only be a directory"));
        }
        self.describe_directory(path, Self::ROOT, metadata)
    }

    /// Applies the entry of a directory, which keeps its entries if the layer already has it; anything else of its name is
    /// replaced.
    fn apply_directory(
        &mut self,
        path: &[u8],
        parent: NodeId,
        name: &[u8],
        metadata: Metadata,
    ) -> Result<(), FlattenError> {
        let id = match self.child(parent, name) {
            Some(Child::Node(id)) if self.is_directory(id) => {
                if self.directory(id).metadata.is_none() {
                    self.usage.describe_implied();
                }
                id
            }
            _ => self.add_directory(parent, name),
        };
        self.describe_directory(path, id, metadata)
    }

    /// Sets the metadata of a directory; if the layer described it before, the entry changes that metadata.
    fn describe_directory(&mut self, path: &[u8], id: NodeId, metadata: Metadata) -> Result<(), FlattenError> {
        let kind = Kind::Directory(Box::default());
        let metadata = match &self.directory(id).metadata {
            Some(present) => check_storable(path, attributes::of_present(path, present, &metadata, &kind)?, &kind)?,
            None => storable(path, metadata, &kind)?,
        };
        self.usage.add_metadata(&metadata);
        self.directory_mut(id).metadata = Some(metadata);
        Ok(())
    }

    fn hard_link(&mut self, path: &[u8], target: Vec<u8>, metadata: Metadata) -> Result<Child, FlattenError> {
        let parts = components(&target);
        // The link would replace its own target.
        if parts.starts_with(&components(path)) {
            return Err(refuse(path, format!("a hard link to `{}`, which it replaces", Display(&target))));
        }
        let child = match self.own(&parts) {
            Some(Child::Node(node)) if self.links.is_empty() => {
                self.usage.add_metadata(&metadata);
                self.nodes[node.0 as usize].relabel(path, &metadata)?;
                return Ok(Child::Node(node));
            }
            Some(child) => child,
            None => {
                self.usage.add_link(path, &target);
                self.links.push(Link { path: path.to_vec(), target, at: self.step });
                Child::Link(index(self.links.len() - 1))
            }
        };
        self.usage.add_relabel(path, &metadata);
        self.relabels.push(Relabel { child: ChildEntry::new(child, self.step), path: path.to_vec(), metadata });
        Ok(child)
    }

    /// Returns the child at `parts` if it is not a directory and the layer has all directories above it, without following
    /// symlinks.
    fn own(&self, parts: &[&[u8]]) -> Option<Child> {
        let (name, above) = parts.split_last()?;
        let mut at = Self::ROOT;
        for part in above {
            match self.child(at, part)? {
                Child::Node(id) if self.is_directory(id) => at = id,
                _ => return None,
            }
        }
        self.child(at, name).filter(|child| !matches!(child, Child::Node(id) if self.is_directory(*id)))
    }

    fn is_directory(&self, id: NodeId) -> bool {
        matches!(self.node(id), LayerNode::Directory(_))
    }

    fn node(&self, id: NodeId) -> &LayerNode {
        &self.nodes[id.0 as usize]
    }

    /// Returns the directory at `parts`, and creates missing ones. Symlinks of this layer are followed, never out of the root.
    fn directory_at(&mut self, path: &[u8], parts: &[&[u8]]) -> Result<NodeId, FlattenError> {
        let mut stack = vec![Self::ROOT];
        let mut todo: Vec<Vec<u8>> = Vec::new();
        let mut parts = parts.iter();
        let mut followed = 0;
        loop {
            let target = todo.pop();
            let Some(name) = target.as_deref().or_else(|| parts.next().copied()) else {
                return Ok(stack[stack.len() - 1]);
            };
            let at = stack[stack.len() - 1];
            if name == b".." {
                stack.truncate((stack.len() - 1).max(1));
                continue;
            }
            match self.child(at, name) {
                None => {
                    self.usage.imply_directory();
                    stack.push(self.add_directory(at, name));
                }
                Some(Child::Node(id)) => match self.node(id) {
                    LayerNode::Directory(_) => stack.push(id),
                    LayerNode::Other(_, Kind::Symlink(target)) => {
                        followed += 1;
                        if followed > MAX_LINKS_FOLLOWED {
                            return Err(refuse(path, format!("more than {MAX_LINKS_FOLLOWED} symlinks in its path")));
                        }
                        if target.starts_with(b"/") {
                            stack.truncate(1);
                        }
                        todo.extend(raw_components(target).rev().map(<[u8]>::to_vec));
                    }
                    LayerNode::Other(..) | LayerNode::Placed(_) => {
                        let reason = format!("`{}` above it is not a directory in its own layer", Display(name));
                        return Err(refuse(path, reason));
                    }
                },
                Some(Child::Link(_)) => {
                    return Err(refuse(path, format!("`{}` above it is a hard link", Display(name))));
                }
            }
        }
    }

    fn child(&self, parent: NodeId, name: &[u8]) -> Option<Child> {
        self.directory(parent).children.get(name).map(ChildEntry::child)
    }

    fn directory(&self, id: NodeId) -> &LayerDirectory {
        match self.node(id) {
            LayerNode::Directory(directory) => directory,
            LayerNode::Other(..) | LayerNode::Placed(_) => unreachable!("only directories are walked into"),
        }
    }

    fn directory_mut(&mut self, id: NodeId) -> &mut LayerDirectory {
        match &mut self.nodes[id.0 as usize] {
            LayerNode::Directory(directory) => directory,
            LayerNode::Other(..) | LayerNode::Placed(_) => unreachable!("only directories are walked into"),
        }
    }

    fn enter(&mut self, parent: NodeId, name: &[u8], child: Child) {
        let entered = ChildEntry::new(child, self.step);
        self.usage.add_name(name);
        if let Some(old) = self.directory_mut(parent).children.insert(name.into(), entered) {
            self.usage.add_name(name);
            self.replaced.entry((parent, name.into())).or_default().push(old);
        }
    }

    /// Returns what the layer had at a name before `step`.
    fn child_before(&self, parent: NodeId, name: &[u8], step: Step) -> Option<Child> {
        let now = self.directory(parent).children.get(name)?;
        let earlier = || {
            let replaced = self.replaced.get(&(parent, name.into()))?;
            replaced[..replaced.partition_point(|entered| entered.since < step)].last()
        };
        Some(if now.since < step { now } else { earlier()? }.child())
    }

    fn add(&mut self, node: LayerNode) -> Child {
        self.usage.add_node(&node);
        self.nodes.push(node);
        Child::Node(NodeId(index(self.nodes.len() - 1)))
    }

    fn add_directory(&mut self, parent: NodeId, name: &[u8]) -> NodeId {
        let child = self.add(LayerNode::Directory(Box::default()));
        self.enter(parent, name, child);
        NodeId(index(self.nodes.len() - 1))
    }
}

/// Converts an index in a list of a layer or a tree.
fn index(place: usize) -> u32 {
    u32::try_from(place).expect("apply() counts entries, next_id() inodes")
}

/// The names that a whiteout hides.
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
            b"" | b"." | b".." => Err(refuse(path, "a whiteout without a name")),
            _ => Ok(Some(Hidden::Name(hidden))),
        };
    }
    // The form of whiteouts in overlayfs.
    let overlay = *kind == EntryKind::CharDevice(DeviceNumber { major: 0, minor: 0 });
    Ok(overlay.then_some(Hidden::Name(name)))
}

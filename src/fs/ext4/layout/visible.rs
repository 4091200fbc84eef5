//! The visible part of a tree: how many names each inode has below the root, and the parent of each directory.

use std::collections::BTreeMap;

use crate::fs::tree::{InodeId, Tree};

/// The inodes that the root reaches.
pub(super) struct Visible {
    pub(super) names: Vec<u32>,
    pub(super) parents: BTreeMap<InodeId, InodeId>,
}

impl Visible {
    pub(super) fn of(tree: &Tree) -> Self {
        let mut names = vec![0; tree.inodes.len()];
        let mut parents = BTreeMap::from([(Tree::ROOT, Tree::ROOT)]);
        names[0] = 1;
        let mut stack = vec![Tree::ROOT];
        while let Some(parent) = stack.pop() {
            for &id in tree.directory(parent).into_iter().flat_map(|directory| directory.entries.values()) {
                names[id.0 as usize] += 1;
                if tree.directory(id).is_some() {
                    parents.insert(id, parent);
                    stack.push(id);
                }
            }
        }
        Self { names, parents }
    }
}

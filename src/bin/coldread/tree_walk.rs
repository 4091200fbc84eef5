//! A walk through a directory tree of an image, by name and without recursion: names come from outside, and trees can be deep.
//!
//! Every name is checked before anyone sees it, so that no path leads out of the tree. [`DirectoryWalk`] keeps the walk finite.

use coldpress::fs::ext4::InodeNumber;
use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::fs::ext4::walk::DirectoryWalk;
use coldpress::fs::path::Display;
use coldpress::{Error, ErrorKind, Result};

/// When a walk is at an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// It met the entry, before what is below it.
    Before,
    /// It has seen everything below the directory.
    After,
}

/// An entry that a walk is at.
pub struct Entry<'a> {
    pub path: &'a [u8],
    pub node: &'a Node,
    /// Number of directories between it and the walk's start, which has 0.
    pub depth: usize,
}

/// A directory that the walk is in.
struct Frame {
    node: Node,
    entries: std::vec::IntoIter<(Vec<u8>, InodeNumber)>,
    path_length: usize,
}

/// Calls `visit` with `node` and everything below it down to `max_depth`, entries of a directory by name.
///
/// `path` is the path of `node`, as paths shall begin.
pub fn walk(
    fs: &Ext4<'_>,
    path: &[u8],
    node: &Node,
    max_depth: usize,
    visit: &mut dyn FnMut(Moment, &Entry<'_>) -> Result<()>,
) -> Result<()> {
    let (mut path, mut entered, mut stack) = (path.to_vec(), DirectoryWalk::default(), Vec::new());
    let mut enter = |path: &[u8], node: &Node, depth: usize| -> Result<Option<Frame>> {
        if node.stat.file_type != FileType::Directory || depth >= max_depth {
            return Ok(None);
        }
        entered.enter(path, node)?;
        let entries = fs.read_dir(node).map_err(|error| error.within(Display(path)))?;
        Ok(Some(Frame { node: node.clone(), entries: entries.into_iter(), path_length: path.len() }))
    };
    visit(Moment::Before, &Entry { path: &path, node, depth: 0 })?;
    stack.extend(enter(&path, node, 0)?);
    while let Some(frame) = stack.last_mut() {
        path.truncate(frame.path_length);
        let Some((name, ino)) = frame.entries.next() else {
            let node = frame.node.clone();
            stack.pop();
            visit(Moment::After, &Entry { path: &path, node: &node, depth: stack.len() })?;
            continue;
        };
        check_name(&name)?;
        if !path.ends_with(b"/") {
            path.push(b'/');
        }
        path.extend_from_slice(&name);
        let node = fs.node(ino).map_err(|error| error.within(Display(&path)))?;
        let depth = stack.len();
        visit(Moment::Before, &Entry { path: &path, node: &node, depth })?;
        stack.extend(enter(&path, &node, depth)?);
    }
    Ok(())
}

/// Refuses what is no name of a file: a directory of an image from outside could have one that leads elsewhere.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.is_empty() || name.contains(&b'/') || name.contains(&0) || name == b"." || name == b".." {
        return Err(Error::new(ErrorKind::Corrupt, format!("file system: `{}` cannot be a name", Display(name))));
    }
    Ok(())
}

//! What keeps a recursive walk of a file system from outside finite: no directory is entered twice, and no path grows without bound.

use std::collections::BTreeSet;

use super::InodeNumber;
use super::read::Node;
use crate::fs::path::Display;
use crate::{Error, ErrorKind, Result};

/// Longest path of a walk, in bytes: sixteen times what Linux takes in one call.
const MAX_PATH: usize = 64 << 10;

/// The directories that a walk has entered.
#[derive(Debug, Default)]
pub struct DirectoryWalk {
    entered: BTreeSet<InodeNumber>,
}

impl DirectoryWalk {
    /// Notes that the walk enters the directory `node` at `path`.
    ///
    /// # Errors
    /// `Corrupt` where the directory was entered before (it is in itself, or has two names), or lies too deep.
    pub fn enter(&mut self, path: &[u8], node: &Node) -> Result<()> {
        let ino = node.stat.ino;
        if !self.entered.insert(ino) {
            let message = format!(
                "file system: the directory `{}` (inode {}) was listed before: it is in itself, or has two names",
                Display(path),
                ino.0
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        if path.len() > MAX_PATH {
            let message = format!("file system: directory inode {} has a path of more than {MAX_PATH} bytes", ino.0);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(())
    }
}

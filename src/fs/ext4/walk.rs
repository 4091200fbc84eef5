//! Bounds for a recursive walk of an untrusted file system: no directory is entered twice, and the length of paths is limited.

use std::collections::BTreeSet;

use super::InodeNumber;
use super::read::Node;
use crate::fs::path::Display;
use crate::{Error, ErrorKind, Result};

/// Maximum length of a path in a walk, in bytes: sixteen times the limit of a Linux system call.
const MAX_PATH: usize = 64 << 10;

/// The directories that a walk has entered.
#[derive(Debug, Default)]
pub struct DirectoryWalk {
    entered: BTreeSet<InodeNumber>,
}

impl DirectoryWalk {
    /// Records that the walk enters the directory `node` at `path`.
    ///
    /// # Errors
    /// `Corrupt` where the directory was entered before (it contains itself, or has two names), or where the path is too long.
    pub fn enter(&mut self, path: &[u8], node: &Node) -> Result<()> {
        let ino = node.stat.ino;
        if !self.entered.insert(ino) {
            let message = format!(
                "file system: the directory `{}` (inode {}) appears twice: it contains itself, or has two names",
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

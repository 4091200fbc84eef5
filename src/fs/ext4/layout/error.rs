//! The reason why a tree cannot become an ext4 device, and the path that the error names.

use crate::fs::path::Display;
use crate::fs::tree::{InodeId, LayerIndex, Tree};
use crate::{Error, ErrorKind};

/// The reason why a tree cannot become an ext4 device.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// One inode cannot be stored.
    #[error("`{path}`: {reason}")]
    Inode {
        /// The layer that introduced it.
        layer: LayerIndex,
        /// The path in the image.
        path: String,
        /// The limit that it exceeds.
        reason: String,
    },
    /// The device would need more than 2^32 blocks or inodes.
    #[error("the image needs a device of more than 16 TiB, or more than 2^32 inodes")]
    TooLarge,
}

impl From<LayoutError> for Error {
    fn from(error: LayoutError) -> Self {
        Error::new(ErrorKind::Unsupported, error.to_string())
    }
}

pub(super) fn path_of(tree: &Tree, wanted: InodeId) -> String {
    let mut found = None;
    tree.walk(&mut |path, id| {
        if id == wanted && found.is_none() {
            found = Some(Display(path).to_string());
        }
    });
    found.unwrap_or_else(|| format!("an entry of layer {} that a later layer hides", tree.layer_of(wanted).0 + 1))
}

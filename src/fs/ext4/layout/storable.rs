//! The limits of ext4 on one inode; an inode past one is refused by name.

use super::super::data_blocks::MAX_FILE;
use super::super::spec::{MAX_LINKS, MAX_SYMLINK, TIME_RANGE};
use super::super::xattr;
use super::error::{LayoutError, path_of};
use crate::fs::tree::{Kind, Metadata, Tree};
use crate::printable::size;

/// Checks that ext4 can store all inodes. Only the number of hard links can fail here: the other limits are checked when a layer is
/// read.
pub(super) fn check(tree: &Tree, names: &[u32]) -> Result<(), LayoutError> {
    for (id, inode) in tree.iter() {
        let names = names[id.0 as usize];
        let reason = match unstorable(&inode.metadata, &inode.kind) {
            None if !matches!(inode.kind, Kind::Directory(_)) && names > MAX_LINKS => {
                Some(format!("{names} hard links are more than the {MAX_LINKS} that ext4 stores"))
            }
            other => other,
        };
        if let Some(reason) = reason {
            return Err(LayoutError::Inode { layer: tree.layer_of(id), path: path_of(tree, id), reason });
        }
    }
    Ok(())
}

/// Returns the reason why ext4 cannot store such an inode; `None` where it can.
#[must_use]
pub fn unstorable(metadata: &Metadata, kind: &Kind) -> Option<String> {
    if let Err(error) = xattr::place(&metadata.xattrs) {
        return Some(error.to_string());
    }
    if metadata.uid == u32::MAX || metadata.gid == u32::MAX {
        return Some("an owner or group of 4294967295 means \"none\" to Linux and cannot be stored".to_owned());
    }
    match kind {
        Kind::Symlink(target) if target.len() > MAX_SYMLINK => Some(format!(
            "a symlink's target of {} bytes is longer than the {MAX_SYMLINK} that ext4 stores",
            target.len()
        )),
        Kind::Symlink(target) if target.is_empty() => Some("a symlink without a target".to_owned()),
        Kind::File(content) if content.size > MAX_FILE => {
            Some(format!("a file of {} is larger than the 16 TiB that ext4 stores", size(content.size)))
        }
        Kind::CharDevice(device) | Kind::BlockDevice(device) if device.major > 0xFFF || device.minor > 0xF_FFFF => {
            Some(format!("device {}:{} is past ext4's 4095:1048575", device.major, device.minor))
        }
        _ => None,
    }
}

/// Clamps seconds to the range of times that ext4 can store.
#[must_use]
pub fn clamp_seconds(secs: i64) -> i64 {
    secs.clamp(*TIME_RANGE.start(), *TIME_RANGE.end())
}

//! The metadata that Linux stores of an entry when a container engine sets it (containerd's `createTarFile`): owner, then extended
//! attributes, then mode.
//!
//! An attribute that the kernel does not support is dropped, one that it refuses as invalid is an error. checked: `setxattr` on
//! ext4 of Linux 6.18; docs/design.md ("Flattening") has the list.

use super::error::{FlattenError, refuse};
use crate::ErrorKind;
use crate::convert::tar::UNCHANGED;
use crate::fs::acl::{self, Acl};
use crate::fs::ext4::is_linux_xattr;
use crate::fs::tree::{Kind, Metadata, Xattrs};

const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";
const CAPABILITY: &[u8] = b"security.capability";

/// Returns the metadata of a new inode of `kind`.
pub(super) fn of_new(path: &[u8], metadata: Metadata, kind: &Kind) -> Result<Metadata, FlattenError> {
    let owned = |id| if id == UNCHANGED { 0 } else { id };
    let mode = if matches!(kind, Kind::Symlink(_)) { 0o777 } else { metadata.mode };
    let xattrs = xattrs(path, &metadata.xattrs, mode, kind)?;
    Ok(Metadata { mode, uid: owned(metadata.uid), gid: owned(metadata.gid), mtime: metadata.mtime, xattrs })
}

/// Returns the metadata of an inode with `present` after an entry with `metadata` is applied to it: a hard link, or a directory
/// that is described again.
///
/// Attributes are added to the existing ones. Setting the owner, even to the same one, removes file capabilities.
pub(super) fn of_present(
    path: &[u8],
    present: &Metadata,
    metadata: &Metadata,
    kind: &Kind,
) -> Result<Metadata, FlattenError> {
    let owned = |now, id| if id == UNCHANGED { now } else { id };
    let mode = if matches!(kind, Kind::Symlink(_)) { present.mode } else { metadata.mode };
    let mut both = Xattrs::default();
    let is_directory = matches!(kind, Kind::Directory(_));
    for (name, value) in present.xattrs.iter().filter(|(name, _)| is_directory || *name != CAPABILITY) {
        both.insert(name, value);
    }
    for (name, value) in metadata.xattrs.iter() {
        if !matches!(name, ACL_ACCESS | ACL_DEFAULT) || acl::is_known(value) {
            both.insert(name, value);
        }
    }
    Ok(Metadata {
        mode,
        uid: owned(present.uid, metadata.uid),
        gid: owned(present.gid, metadata.gid),
        mtime: metadata.mtime,
        xattrs: xattrs(path, &both, mode, kind)?,
    })
}

fn xattrs(path: &[u8], xattrs: &Xattrs, mode: u16, kind: &Kind) -> Result<Xattrs, FlattenError> {
    let mut out = Xattrs::default();
    for (name, value) in xattrs.iter() {
        let invalid = |what: &str| {
            let name = crate::fs::path::Display(name);
            let reason = format!("the extended attribute `{name}` {what}");
            FlattenError { kind: ErrorKind::Unsupported, ..refuse(path, reason) }
        };
        let list = match name {
            ACL_ACCESS | ACL_DEFAULT if matches!(kind, Kind::Symlink(_)) => continue,
            ACL_ACCESS => acl::access(value, mode),
            ACL_DEFAULT => match acl::default(value) {
                Acl::List(_) if !matches!(kind, Kind::Directory(_)) => {
                    return Err(invalid("is a default ACL, which only a directory can have"));
                }
                list => list,
            },
            CAPABILITY if !is_capability(value) => return Err(invalid("is not a file capability that Linux takes")),
            _ if is_kept(name, kind) => Acl::List(value.to_vec()),
            _ => continue,
        };
        match list {
            Acl::List(value) => out.insert(name, &value),
            Acl::None => {}
            Acl::Invalid => return Err(invalid("is not a POSIX ACL that Linux takes")),
        }
    }
    Ok(out)
}

/// Returns whether an inode of `kind` can have such an attribute. Attributes of overlayfs belong to the host that an image was
/// saved on, and are dropped.
fn is_kept(name: &[u8], kind: &Kind) -> bool {
    // An empty name is refused later, not dropped.
    if name.is_empty() {
        return true;
    }
    if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") || name.starts_with(b"system.") {
        return false;
    }
    let for_user = !name.starts_with(b"user.") || matches!(kind, Kind::File(_) | Kind::Directory(_));
    for_user && is_linux_xattr(name)
}

/// Returns whether `cap_convert_nscap()` accepts the value: revision 2 in 20 bytes, or revision 3 in 24.
fn is_capability(value: &[u8]) -> bool {
    matches!((value.len(), value.get(3)), (20, Some(2)) | (24, Some(3)))
}

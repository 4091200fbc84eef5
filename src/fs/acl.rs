//! POSIX access control lists, checked and changed as Linux does it (`fs/posix_acl.c`).
//!
//! A list is the value of an extended attribute in the form of tar and `setxattr`: a version, then entries of tag, permissions and
//! id, in a fixed order.

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
const NO_ID: u32 = u32::MAX;

const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct AclEntry {
    tag: u16,
    permissions: u16,
    id: u32,
}

/// The result of setting an attribute's value in Linux.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acl {
    /// No list is stored: the value has no entries, no more than the mode, or an unknown version.
    None,
    /// This list is stored.
    List(Vec<u8>),
    /// The value is refused with `EINVAL`.
    Invalid,
}

/// Returns the access list after `value` is set and the mode is then changed to `mode`.
///
/// The entries of the owner and of others take their bits of the mode; the group bits go to the mask, or to the group where there
/// is no mask. A list of only these three entries is the mode itself, and Linux does not store it.
#[must_use]
pub fn access(value: &[u8], mode: u16) -> Acl {
    let mut entries = match parse(value) {
        Ok(entries) if entries.len() <= 3 => return if is_valid(&entries) { Acl::None } else { Acl::Invalid },
        Ok(entries) if is_valid(&entries) => entries,
        Ok(_) | Err(Acl::Invalid) => return Acl::Invalid,
        Err(other) => return other,
    };
    for entry in &mut entries {
        match entry.tag {
            USER_OBJ => entry.permissions = mode >> 6 & 7,
            MASK => entry.permissions = mode >> 3 & 7,
            OTHER => entry.permissions = mode & 7,
            _ => {}
        }
    }
    Acl::List(encode(&entries))
}

/// Returns whether Linux knows the version of `value`; setting a value of another version changes nothing.
#[must_use]
pub fn is_known(value: &[u8]) -> bool {
    parse(value) != Err(Acl::None)
}

/// Returns the default list of a directory, which new inodes in it inherit.
#[must_use]
pub fn default(value: &[u8]) -> Acl {
    match parse(value) {
        Ok(entries) if entries.is_empty() => Acl::None,
        Ok(entries) if is_valid(&entries) => Acl::List(encode(&entries)),
        Ok(_) => Acl::Invalid,
        Err(other) => other,
    }
}

/// Returns a list in the form in which tar archives have it besides the binary one, `user::rw-,user:1000:r--,group::r--,…`; `None` for
/// what Linux would not set.
#[must_use]
pub fn text(value: &[u8]) -> Option<String> {
    let entries = parse(value).ok().filter(|entries| !entries.is_empty() && is_valid(entries))?;
    let entry = |entry: &AclEntry| {
        let (name, id) = match entry.tag {
            USER_OBJ => ("user", String::new()),
            USER => ("user", entry.id.to_string()),
            GROUP_OBJ => ("group", String::new()),
            GROUP => ("group", entry.id.to_string()),
            MASK => ("mask", String::new()),
            _ => ("other", String::new()),
        };
        let bit = |bit: u16, letter| if entry.permissions & bit != 0 { letter } else { '-' };
        format!("{name}:{id}:{}{}{}", bit(4, 'r'), bit(2, 'w'), bit(1, 'x'))
    };
    Some(entries.iter().map(entry).collect::<Vec<_>>().join(","))
}

/// Decodes the entries of `value`; `Err(Acl::None)` for a version that Linux does not know.
fn parse(value: &[u8]) -> Result<Vec<AclEntry>, Acl> {
    if value.is_empty() {
        return Ok(Vec::new());
    }
    let (version, entries) = value.split_at_checked(HEADER).ok_or(Acl::Invalid)?;
    if version != VERSION.to_le_bytes() {
        return Err(Acl::None);
    }
    let (entries, rest) = entries.as_chunks::<ENTRY>();
    if !rest.is_empty() {
        return Err(Acl::Invalid);
    }
    let entry = |&[t0, t1, p0, p1, i0, i1, i2, i3]: &[u8; ENTRY]| AclEntry {
        tag: u16::from_le_bytes([t0, t1]),
        permissions: u16::from_le_bytes([p0, p1]),
        id: u32::from_le_bytes([i0, i1, i2, i3]),
    };
    Ok(entries.iter().map(entry).collect())
}

/// Returns whether the entries are in the order of `posix_acl_valid()`: owner, users, group, groups, mask, others, with a mask
/// where users or groups are named. A list without entries is valid as well: it removes the list.
fn is_valid(entries: &[AclEntry]) -> bool {
    if entries.is_empty() {
        return true;
    }
    let mut expected = USER_OBJ;
    let mut needs_mask = false;
    for entry in entries {
        let named = matches!(entry.tag, USER | GROUP);
        if entry.permissions > 7 || named && entry.id == NO_ID {
            return false;
        }
        needs_mask |= named;
        expected = match (entry.tag, expected) {
            (USER_OBJ, USER_OBJ) => USER,
            (GROUP_OBJ, USER) => GROUP,
            (MASK, GROUP) => OTHER,
            (USER, USER) | (GROUP, GROUP) => expected,
            (OTHER, OTHER) => 0,
            (OTHER, GROUP) if !needs_mask => 0,
            _ => return false,
        };
    }
    expected == 0
}

fn encode(entries: &[AclEntry]) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for AclEntry { tag, permissions, id } in entries {
        out.extend_from_slice(&tag.to_le_bytes());
        out.extend_from_slice(&permissions.to_le_bytes());
        let id = if matches!(*tag, USER | GROUP) { *id } else { NO_ID };
        out.extend_from_slice(&id.to_le_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16, u32)]) -> Vec<u8> {
        encode(&entries.iter().map(|&(tag, permissions, id)| AclEntry { tag, permissions, id }).collect::<Vec<_>>())
    }

    /// checked: Linux 6.18 has these values after `setxattr` and `chmod` of the same list (ext4).
    #[test]
    fn a_mode_narrows_a_list() {
        let wide = list(&[(USER_OBJ, 6, 0), (USER, 7, 1000), (GROUP_OBJ, 4, 0), (MASK, 7, 0), (OTHER, 7, 0)]);
        let narrow = list(&[(USER_OBJ, 6, 0), (USER, 7, 1000), (GROUP_OBJ, 4, 0), (MASK, 4, 0), (OTHER, 0, 0)]);
        assert_eq!(access(&wide, 0o640), Acl::List(narrow));
        let masked = |mask| list(&[(USER_OBJ, 7, 0), (GROUP_OBJ, 4, 0), (MASK, mask, 0), (OTHER, 5, 0)]);
        assert_eq!(access(&masked(7), 0o4755), Acl::List(masked(5)), "three entries and a mask are a list");
    }

    #[test]
    fn a_list_that_is_the_mode_or_nothing_is_not_stored() {
        assert_eq!(access(&list(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]), 0o640), Acl::None);
        assert_eq!(
            (access(&list(&[]), 0o640), access(b"", 0o640), default(&list(&[]))),
            (Acl::None, Acl::None, Acl::None)
        );
        assert_eq!(access(b"\x01\0\0\0garbage", 0o640), Acl::None, "a version that Linux does not know");
        let minimal = list(&[(USER_OBJ, 6, 0), (GROUP_OBJ, 7, 0), (OTHER, 7, 0)]);
        assert_eq!(default(&minimal), Acl::List(minimal.clone()), "a default list is never the mode");
    }

    #[test]
    fn a_list_that_linux_refuses_is_invalid() {
        let (u, g, o) = ((USER_OBJ, 6, 0), (GROUP_OBJ, 4, 0), (OTHER, 0, 0));
        let bad: [&[(u16, u16, u32)]; 10] = [
            &[u],
            &[u, g],
            &[g, u, o],
            &[u, g, o, o],
            &[u, (USER, 4, 1), g, o],
            &[u, g, (GROUP, 4, 1), o],
            &[u, (USER, 4, NO_ID), g, (MASK, 4, 0), o],
            &[(USER_OBJ, 8, 0), g, o],
            &[u, g, (0x40, 4, 0), o],
            &[u, g, (MASK, 4, 0), (MASK, 4, 0), o],
        ];
        for entries in bad {
            assert_eq!(access(&list(entries), 0o644), Acl::Invalid, "{entries:?}");
            assert_eq!(default(&list(entries)), Acl::Invalid, "{entries:?}");
        }
        for value in [&b"\x02\0\0"[..], &b"\x02\0\0\0\x01\0\x06\0"[..]] {
            assert_eq!((access(value, 0o644), default(value)), (Acl::Invalid, Acl::Invalid));
        }
    }
}

//! Encoding and decoding of extended attributes in the inode and in one block (kernel documentation, "Extended Attributes").
//!
//! Only POSIX ACLs have another value on disk: tar and the kernel's interface have the long form, ext4 a short one (fs/ext4/acl.h).

use super::csum;
use super::inode::XATTRS_AT;
use super::spec::{BLOCK, BlockAddr, INODE, MAX_NAME, get16, get32, lo16, put16, put32, small};
use crate::fs::tree::Xattrs;

const MAGIC: u32 = 0xEA02_0000;
const BLOCK_HEADER: usize = 32;
const INODE_SPACE: usize = INODE - XATTRS_AT - 4;
const BLOCK_SPACE: usize = BLOCK - BLOCK_HEADER;
const ACL_ACCESS: &[u8] = b"system.posix_acl_access";
const ACL_DEFAULT: &[u8] = b"system.posix_acl_default";

/// The prefix of a full name and its number on disk; without a final dot, the prefix is the whole name.
const NAMESPACES: [(&[u8], u8); 6] =
    [(ACL_ACCESS, 2), (ACL_DEFAULT, 3), (b"user.", 1), (b"trusted.", 4), (b"security.", 6), (b"system.", 7)];

/// The reason why attributes cannot be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum XattrError {
    /// The attributes are larger than an inode and one block.
    #[error("its extended attributes take more than an ext4 inode and one block hold (about 4,040 bytes)")]
    TooLarge,
    /// The namespace does not exist in Linux.
    #[error("the extended attribute `{0}` has a name that ext4 cannot store")]
    Namespace(String),
    /// The kernel would refuse the ACL.
    #[error("the extended attribute `{0}` is not a POSIX ACL")]
    Acl(String),
}

/// Returns whether the namespace of an attribute exists in Linux; attributes of others are dropped, as container runtimes do.
#[must_use]
pub fn is_of_linux(name: &[u8]) -> bool {
    NAMESPACES.iter().any(|(start, _)| name.starts_with(start))
}

fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let (start, index) = NAMESPACES.iter().find(|(start, _)| name.starts_with(start))?;
    let rest = &name[start.len()..];
    let whole = !start.ends_with(b".");
    (whole == rest.is_empty() && name.len() <= MAX_NAME).then_some((*index, rest))
}

struct XattrEntry {
    index: u8,
    name: Box<[u8]>,
    value: Vec<u8>,
}

impl XattrEntry {
    fn size(&self) -> usize {
        (16 + self.name.len()).next_multiple_of(4) + self.value.len().next_multiple_of(4)
    }

    /// Returns `e_hash`, computed over the bytes of the name and the words of the value.
    fn hash(&self) -> u32 {
        let by_name = self.name.iter().fold(0u32, |hash, &byte| hash.rotate_left(5) ^ u32::from(byte));
        self.value.chunks(4).fold(by_name, |hash, part| {
            let mut word = [0; 4];
            word[..part.len()].copy_from_slice(part);
            hash.rotate_left(16) ^ u32::from_le_bytes(word)
        })
    }
}

/// The division of attributes between the inode and a block.
pub(super) struct XattrPlacement {
    inode: Vec<XattrEntry>,
    block: Vec<XattrEntry>,
}

/// Divides `xattrs`: all in the inode if they fit, else all in a block, else the largest in the block and the others in the inode.
pub(super) fn place(xattrs: &Xattrs) -> Result<XattrPlacement, XattrError> {
    let mut entries = xattrs.iter().map(|(name, value)| entry(name, value)).collect::<Result<Vec<_>, _>>()?;
    entries.sort_by(|a, b| (a.index, a.name.len(), &a.name).cmp(&(b.index, b.name.len(), &b.name)));
    // Four zero bytes after the entries end the list.
    let size = |entries: &[XattrEntry]| entries.iter().map(XattrEntry::size).sum::<usize>() + 4;
    if size(&entries) <= INODE_SPACE {
        return Ok(XattrPlacement { inode: entries, block: Vec::new() });
    }
    let mut inode = Vec::new();
    while size(&entries) > BLOCK_SPACE {
        let smallest = entries.iter().enumerate().min_by_key(|(_, entry)| entry.size()).map(|(i, _)| i);
        inode.push(entries.remove(smallest.ok_or(XattrError::TooLarge)?));
        if size(&inode) > INODE_SPACE {
            return Err(XattrError::TooLarge);
        }
    }
    Ok(XattrPlacement { inode, block: entries })
}

fn entry(name: &[u8], value: &[u8]) -> Result<XattrEntry, XattrError> {
    let shown = || crate::fs::path::Display(name).to_string();
    let (index, rest) = split(name).ok_or_else(|| XattrError::Namespace(shown()))?;
    let value = match index {
        2 | 3 => acl_to_disk(value).ok_or_else(|| XattrError::Acl(shown()))?,
        _ => value.to_vec(),
    };
    Ok(XattrEntry { index, name: rest.into(), value })
}

impl XattrPlacement {
    pub(super) fn needs_block(&self) -> bool {
        !self.block.is_empty()
    }

    /// Encodes the attributes in the inode, with their magic; empty where there are none.
    pub(super) fn encode_inode(&self) -> Vec<u8> {
        if self.inode.is_empty() {
            return Vec::new();
        }
        let mut out = vec![0; INODE - XATTRS_AT];
        put32(&mut out, 0, MAGIC);
        list(&mut out[4..], &self.inode, 0, false);
        out
    }

    /// Encodes the block at `addr`.
    pub(super) fn encode_block(&self, addr: BlockAddr) -> Vec<u8> {
        let mut out = vec![0; BLOCK];
        put32(&mut out, 0, MAGIC);
        put32(&mut out, 4, 1);
        put32(&mut out, 8, 1);
        let hash = self.block.iter().fold(0u32, |hash, entry| hash.rotate_left(16) ^ entry.hash());
        put32(&mut out, 12, hash);
        list(&mut out[BLOCK_HEADER..], &self.block, BLOCK_HEADER, true);
        let sum = csum::xattr_block(addr, &out);
        put32(&mut out, 16, sum);
        out
    }
}

/// Writes entries from the front and values from the back; value offsets count from `base` bytes before `area`.
fn list(area: &mut [u8], entries: &[XattrEntry], base: usize, hashed: bool) {
    let (mut at, mut end) = (0, area.len());
    for entry in entries {
        end -= entry.value.len().next_multiple_of(4);
        area[at] = u8::try_from(entry.name.len()).expect("names over 255 bytes are no attribute's");
        area[at + 1] = entry.index;
        if !entry.value.is_empty() {
            put16(area, at + 2, lo16(small(base + end)));
        }
        put32(area, at + 8, small(entry.value.len()));
        put32(area, at + 12, if hashed { entry.hash() } else { 0 });
        area[at + 16..at + 16 + entry.name.len()].copy_from_slice(&entry.name);
        area[end..end + entry.value.len()].copy_from_slice(&entry.value);
        at += (16 + entry.name.len()).next_multiple_of(4);
    }
    debug_assert!(at + 4 <= end, "place() left room for the end of the list");
}

/// Decodes the attributes in an inode into `out`; `None` where they are malformed.
pub(super) fn parse_inode(bytes: &[u8], out: &mut Xattrs) -> Option<()> {
    if get32(bytes, 0) != MAGIC {
        return Some(());
    }
    parse_list(&bytes[4..], 0, out)
}

/// Decodes the block at `addr` into `out`; `None` where it is malformed or its checksum is wrong.
pub(super) fn parse_block(addr: BlockAddr, block: &[u8; BLOCK], out: &mut Xattrs) -> Option<()> {
    if get32(block, 0) != MAGIC || !csum::matches(get32(block, 16), csum::xattr_block(addr, block)) {
        return None;
    }
    parse_list(&block[BLOCK_HEADER..], BLOCK_HEADER, out)
}

fn parse_list(area: &[u8], base: usize, out: &mut Xattrs) -> Option<()> {
    let mut at = 0;
    while get32(area.get(at..at + 4)?, 0) != 0 {
        let head = area.get(at..at + 16)?;
        let name = area.get(at + 16..at + 16 + usize::from(head[0]))?;
        let length = usize::try_from(get32(head, 8)).ok()?;
        let value = match length {
            0 => &[][..],
            _ => area.get(usize::from(get16(head, 2)).checked_sub(base)?..)?.get(..length)?,
        };
        let (start, index) = NAMESPACES.iter().find(|(_, index)| *index == head[1])?;
        let full = [start, name].concat();
        match index {
            2 | 3 => out.insert(&full, &acl_from_disk(value)?),
            _ => out.insert(&full, value),
        }
        at += (16 + name.len()).next_multiple_of(4);
    }
    Some(())
}

/// Returns whether an ACL entry of this tag names a user or group, so that its id is stored; `None` for an unknown tag.
fn acl_has_id(tag: u16) -> Option<bool> {
    match tag {
        0x01 | 0x04 | 0x10 | 0x20 => Some(false),
        0x02 | 0x08 => Some(true),
        _ => None,
    }
}

fn acl_to_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (head, entries) = value.split_at_checked(4)?;
    if get32(head, 0) != 2 || !entries.len().is_multiple_of(8) {
        return None;
    }
    let mut out = 1u32.to_le_bytes().to_vec();
    for entry in entries.chunks(8) {
        let size = if acl_has_id(get16(entry, 0))? { 8 } else { 4 };
        out.extend_from_slice(&entry[..size]);
    }
    Some(out)
}

fn acl_from_disk(value: &[u8]) -> Option<Vec<u8>> {
    let (head, mut rest) = value.split_at_checked(4)?;
    if get32(head, 0) != 1 {
        return None;
    }
    let mut out = 2u32.to_le_bytes().to_vec();
    while let Some(tag) = rest.get(..2) {
        let with_id = acl_has_id(get16(tag, 0))?;
        let (entry, behind) = rest.split_at_checked(if with_id { 8 } else { 4 })?;
        out.extend_from_slice(entry);
        if !with_id {
            out.extend_from_slice(&[0xFF; 4]);
        }
        rest = behind;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_wherever_they_are_placed() {
        for sizes in [&[3usize, 0][..], &[68], &[72], &[3000], &[3000, 0], &[60, 3970], &[3900, 40], &[60, 60, 3800]] {
            let mut xattrs = Xattrs::default();
            for (i, &size) in sizes.iter().enumerate() {
                xattrs.insert(format!("user.n{i}").as_bytes(), &vec![b'v'; size]);
            }
            let (placed, addr, mut back) = (place(&xattrs).unwrap(), BlockAddr(77), Xattrs::default());
            let inode = placed.encode_inode();
            if !inode.is_empty() {
                parse_inode(&inode, &mut back).unwrap();
            }
            if placed.needs_block() {
                parse_block(addr, &placed.encode_block(addr).try_into().unwrap(), &mut back).unwrap();
            }
            assert_eq!(back, xattrs, "{sizes:?}");
        }
    }

    #[test]
    fn what_does_not_fit_and_what_linux_has_not_is_refused() {
        let mut large = Xattrs::default();
        large.insert(b"user.a", &[1; 5000]);
        assert_eq!(place(&large).err(), Some(XattrError::TooLarge));
        assert!(!is_of_linux(b"com.apple.quarantine"));
        assert!(is_of_linux(b"user.") && split(b"user.").is_none());
        assert!(is_of_linux(b"system.posix_acl_access"));
        assert!(split(&[b"user.", &[b'x'; 256][..]].concat()).is_none());
    }

    #[test]
    fn acls_take_the_short_form_on_disk() {
        let long =
            [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 32, 0, 4, 0, 255, 255, 255, 255];
        let short = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 4, 0, 232, 3, 0, 0, 32, 0, 4, 0];
        assert_eq!(acl_to_disk(&long).as_deref(), Some(&short[..]));
        assert_eq!(acl_from_disk(&short).as_deref(), Some(&long[..]));
        assert_eq!(acl_to_disk(&long[..11]), None);
    }
}

//! Writes tar archives: ustar headers (POSIX.1-1988), with PAX records (POSIX.1-2001) for what they cannot say.
//!
//! The same entries give the same bytes. Judged by what GNU tar and bsdtar unpack (tests/it/inside.rs).

use std::io::{Result, Write};

use coldpress::fs::acl;
use coldpress::fs::tree::{DeviceNumber, Timestamp, Xattrs};

const BLOCK: usize = 512;
/// The largest number in a field of seven octal digits, and of eleven.
const MAX_7: u64 = 0o777_7777;
const MAX_11: u64 = 0o777_7777_7777;
const NAME: usize = 100;
const PREFIX: usize = 155;

/// What an entry is.
pub enum Kind<'a> {
    /// A regular file of this size; its data follows.
    File(u64),
    /// Another name of the file that is this member of the archive.
    HardLink(&'a [u8]),
    Symlink(&'a [u8]),
    Directory,
    CharDevice(DeviceNumber),
    BlockDevice(DeviceNumber),
    Fifo,
}

/// An entry.
pub struct Entry<'a> {
    /// Relative, with a slash at the end if it is a directory.
    pub path: &'a [u8],
    pub kind: Kind<'a>,
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub mtime: Timestamp,
    pub xattrs: &'a Xattrs,
}

/// Writes the headers of `entry`; of a file, its data and then [`padding`] must follow.
pub fn write_header(out: &mut impl Write, entry: &Entry<'_>) -> Result<()> {
    let Timestamp { secs, nanos } = entry.mtime;
    let size = if let Kind::File(size) = entry.kind { size } else { 0 };
    let link = if let Kind::HardLink(link) | Kind::Symlink(link) = entry.kind { link } else { b"" };
    let split = split(entry.path);
    let mut records = Vec::new();
    let mut record = |key: &[u8], value: &[u8]| records.extend(pax_record(key, value));
    if split.is_none() {
        record(b"path", entry.path);
    }
    if link.len() > NAME {
        record(b"linkpath", link);
    }
    if size > MAX_11 {
        record(b"size", size.to_string().as_bytes());
    }
    for (key, id) in [(&b"uid"[..], entry.uid), (b"gid", entry.gid)] {
        if u64::from(id) > MAX_7 {
            record(key, id.to_string().as_bytes());
        }
    }
    let octal_mtime = u64::try_from(secs).ok().filter(|secs| *secs <= MAX_11 && nanos == 0);
    if octal_mtime.is_none() {
        record(b"mtime", pax_time(entry.mtime).as_bytes());
    }
    for (name, value) in entry.xattrs.iter() {
        record(&[b"SCHILY.xattr.", &*xattr_keyword(name)].concat(), value);
        // GNU tar and bsdtar set access control lists from text only; converters and Go programs take the attribute.
        let list = match name {
            b"system.posix_acl_access" => Some(&b"SCHILY.acl.access"[..]),
            b"system.posix_acl_default" => Some(&b"SCHILY.acl.default"[..]),
            _ => None,
        };
        if let (Some(key), Some(text)) = (list, acl::text(value)) {
            record(key, text.as_bytes());
        }
    }
    if !records.is_empty() {
        let name = (&b""[..], &b"PaxHeaders/0"[..]);
        let fields = Fields { name, link: b"", flag: b'x', mode: 0o644, ..Fields::default() };
        out.write_all(&fields.block(records.len() as u64))?;
        out.write_all(&records)?;
        out.write_all(padding(records.len() as u64))?;
    }
    let (flag, device) = match entry.kind {
        Kind::File(_) => (b'0', None),
        Kind::HardLink(_) => (b'1', None),
        Kind::Symlink(_) => (b'2', None),
        Kind::CharDevice(device) => (b'3', Some(device)),
        Kind::BlockDevice(device) => (b'4', Some(device)),
        Kind::Directory => (b'5', None),
        Kind::Fifo => (b'6', None),
    };
    let fields = Fields {
        name: split.unwrap_or((b"", &entry.path[..NAME.min(entry.path.len())])),
        link: &link[..NAME.min(link.len())],
        flag,
        mode: entry.mode,
        uid: entry.uid.into(),
        gid: entry.gid.into(),
        mtime: octal_mtime.unwrap_or_else(|| u64::try_from(secs).unwrap_or_default()),
        device,
    };
    out.write_all(&fields.block(size))
}

/// Returns the zeros that follow `length` bytes of data.
pub fn padding(length: u64) -> &'static [u8] {
    const ZEROS: [u8; BLOCK] = [0; BLOCK];
    let rest = usize::try_from(length % BLOCK as u64).expect("less than a block");
    &ZEROS[..(BLOCK - rest) % BLOCK]
}

/// Writes the end of the archive.
pub fn write_end(out: &mut impl Write) -> Result<()> {
    out.write_all(&[0; 2 * BLOCK])
}

/// The fields of a header; numbers that are too large for theirs are in records, and their fields have the largest one.
#[derive(Default)]
struct Fields<'a> {
    /// Prefix and name.
    name: (&'a [u8], &'a [u8]),
    link: &'a [u8],
    flag: u8,
    mode: u16,
    uid: u64,
    gid: u64,
    mtime: u64,
    device: Option<DeviceNumber>,
}

impl Fields<'_> {
    fn block(&self, size: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, self.name.1);
        put(345, self.name.0);
        put(157, self.link);
        put(156, &[self.flag]);
        for (at, value) in [(100, self.mode.into()), (108, self.uid), (116, self.gid)] {
            put(at, format!("{:07o}", value.min(MAX_7)).as_bytes());
        }
        for (at, value) in [(124, size), (136, self.mtime)] {
            put(at, format!("{:011o}", value.min(MAX_11)).as_bytes());
        }
        put(257, b"ustar\x0000");
        let device = self.device.unwrap_or(DeviceNumber { major: 0, minor: 0 });
        put(329, format!("{:07o}", device.major).as_bytes());
        put(337, format!("{:07o}", device.minor).as_bytes());
        put(148, b"        ");
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }
}

/// Splits a path into prefix and name, at a slash; `None` where the fields are too short for it.
fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.len() <= NAME {
        return Some((b"", path));
    }
    let slashes = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    let mut fitting = slashes.filter(|at| (1..=PREFIX).contains(at) && (1..=NAME).contains(&(path.len() - at - 1)));
    fitting.next().map(|at| (&path[..at], &path[at + 1..]))
}

/// Returns a record `LENGTH KEY=VALUE\n`, whose length counts its own digits.
fn pax_record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Returns a time as decimal seconds; one before 1970 counts back from there.
fn pax_time(time: Timestamp) -> String {
    let (secs, nanos) = (time.secs, time.nanos);
    let text = match (secs < 0, nanos) {
        (_, 0) => return secs.to_string(),
        (false, _) => format!("{secs}.{nanos:09}"),
        (true, _) => format!("-{}.{:09}", (secs + 1).unsigned_abs(), 1_000_000_000 - nanos),
    };
    text.trim_end_matches('0').to_owned()
}

/// Returns an attribute's name as GNU tar has it in a keyword, which ends at the first equals sign.
fn xattr_keyword(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    for byte in name {
        match byte {
            b'=' => out.extend_from_slice(b"%3D"),
            b'%' => out.extend_from_slice(b"%25"),
            byte => out.push(*byte),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_count_their_own_digits() {
        assert_eq!(pax_record(b"k", b"v"), b"6 k=v\n");
        // 97 bytes with two digits would be 98 with three.
        for length in [0, 1, 92, 93, 94, 95, 991, 992, 993, 9_990] {
            let record = pax_record(b"k", &vec![b'v'; length]);
            assert!(record.starts_with(format!("{} k=", record.len()).as_bytes()), "{length}");
        }
    }

    #[test]
    fn times_before_1970_count_back() {
        let text = |secs, nanos| pax_time(Timestamp { secs, nanos });
        assert_eq!(text(1_700_000_000, 5), "1700000000.000000005");
        assert_eq!(text(1, 500_000_000), "1.5");
        assert_eq!(
            (text(-10, 0), text(-2, 500_000_000), text(-1, 250_000_000)),
            ("-10".into(), "-1.5".into(), "-0.75".into())
        );
    }

    #[test]
    fn paths_are_split_where_both_parts_fit() {
        let path =
            |lengths: &[usize]| lengths.iter().map(|n| "x".repeat(*n)).collect::<Vec<_>>().join("/").into_bytes();
        assert_eq!(split(&path(&[100])).unwrap().0.len(), 0);
        assert_eq!(split(&path(&[155, 100])).unwrap().0.len(), 155);
        assert_eq!(split(&path(&[20, 30, 99])).unwrap().0.len(), 51);
        for long in [path(&[101]), path(&[156, 10]), path(&[10, 101])] {
            assert!(split(&long).is_none());
        }
        // The slash at the end of a directory is part of its name.
        assert_eq!(split(&[&path(&[60, 99])[..], b"/"].concat()).unwrap().1.len(), 100);
    }
}

//! The walk over one layer's tar stream, which returns entries; the bytes of files are located, and read only on request.
//!
//! USTAR, PAX, GNU, star and the four forms of sparse files are read as Go's `archive/tar` reads them, because container engines
//! use that package: the same bytes must never give another path here than there (docs/design.md, "Flattening"). The walk is
//! implemented here because an entry's offset in the stream, sparse maps of the PAX forms, empty and binary xattr values and
//! negative times are needed exactly. The stream is untrusted: every length is checked before it is used.

mod header;
mod pax;
mod sparse;
mod stream;

use std::io::Read;

use header::{BLOCK, Header, until_nul};
use pax::Records;
use sparse::PaxForm;

pub use stream::{TarError, TarReader};

use crate::fs::ext4::layout::clamp_seconds;
use crate::fs::path::Display;
use crate::fs::tree::{Content, Data, DeviceNumber, Metadata, Timestamp};

/// Maximum size of the extended headers before one entry, in bytes: over twice what Linux can store of names and xattrs together.
const MAX_EXTENDED: u64 = 8 << 20;
/// Maximum length of a path, in bytes: the limit of a Linux system call, without the NUL.
pub const MAX_PATH: usize = 4_096;
/// The owner or group that means "unchanged" to `chown`.
pub const UNCHANGED: u32 = u32::MAX;

/// One entry of a layer.
#[derive(Debug, Clone)]
pub struct Entry {
    /// The name as written.
    pub path: Vec<u8>,
    /// Owner, mode, time and xattrs; an owner or group may be [`UNCHANGED`].
    pub metadata: Metadata,
    /// The kind of entry.
    pub kind: EntryKind,
}

/// The kinds of entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A directory.
    Directory,
    /// A regular file.
    File(Content),
    /// A symbolic link with its target.
    Symlink(Vec<u8>),
    /// A hard link to the entry of this name.
    HardLink(Vec<u8>),
    /// A character device.
    CharDevice(DeviceNumber),
    /// A block device.
    BlockDevice(DeviceNumber),
    /// A named pipe.
    Fifo,
}

/// The content of the extended headers before an entry.
#[derive(Default)]
struct Extended {
    /// The GNU long name; empty where there is none.
    path: Vec<u8>,
    link: Vec<u8>,
    pax: Records,
    bytes: u64,
}

impl Extended {
    /// Adds the extended header of type `flag` with this `body`. A second one of a type replaces the first.
    fn take(&mut self, at: u64, flag: u8, body: &[u8]) -> Result<(), TarError> {
        let records = || Records::parse(body).map_err(|reason| TarError::Header { offset: at, reason: reason.into() });
        match flag {
            b'x' => self.pax = records()?,
            b'L' => self.path = until_nul(body).to_vec(),
            b'K' => self.link = until_nul(body).to_vec(),
            // A global header applies to no entry, but resets the extended headers before it.
            _ => {
                let global = records()?;
                global.check().map_err(|error| not_a_number(b"global header", &error))?;
                *self = Self::default();
            }
        }
        Ok(())
    }
}

fn not_a_number(path: &[u8], error: &pax::RecordNotANumber) -> TarError {
    TarError::NotANumber { path: Display(path).to_string(), field: format!("PAX record `{}`", error.0) }
}

impl<R: Read> TarReader<R> {
    /// Returns the next entry; `None` at the end of the archive, after which the stream is not read.
    ///
    /// Skips the bytes of the previous entry that [`TarReader::read_data`] has not read.
    ///
    /// # Errors
    /// [`TarError`], naming the place or the entry.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_to(self.at, self.end.max(self.offset))?;
        self.skip_padding()?;
        let mut extended = Extended::default();
        while let Some((at, block)) = self.next_header()? {
            let header = Header::parse(&block).map_err(|error| TarError::NotANumber {
                path: Display(until_nul(&block[..100])).to_string(),
                field: error.0.to_owned(),
            })?;
            if header.size < 0 && !Header::has_no_data(header.flag) {
                return Err(TarError::Header { offset: at, reason: "its size is negative".into() });
            }
            if !matches!(header.flag, b'x' | b'L' | b'K' | b'g') {
                return self.entry(at, &block, &header, &extended).map(Some);
            }
            // A PAX size is that of the entry, not of further extended headers.
            let size = header.size.unsigned_abs();
            extended.bytes = extended.bytes.saturating_add(size);
            if extended.bytes > MAX_EXTENDED {
                return Err(TarError::Header {
                    offset: at,
                    reason: "its extended headers are larger than 8 MiB".into(),
                });
            }
            let body = self.body(at, size)?;
            extended.take(at, header.flag, &body)?;
        }
        if extended.bytes > 0 {
            return Err(TarError::Header { offset: self.offset, reason: "an extended header precedes it".into() });
        }
        Ok(None)
    }

    fn entry(&mut self, at: u64, block: &[u8; BLOCK], header: &Header, extended: &Extended) -> Result<Entry, TarError> {
        let records = &extended.pax;
        let names = Names::new(header, extended);
        let fail = |reason: &str| TarError::Entry { path: Display(&names.path).to_string(), reason: reason.to_owned() };
        records.check().map_err(|error| not_a_number(&names.path, &error))?;
        // In the oldest form, a directory is a file whose name ends in a slash.
        let flag = if header.flag == 0 && names.is_directory { b'5' } else { header.flag };
        if names.sparse.is_some() && Header::has_no_data(flag) {
            return Err(fail("sparse map: only regular files can have one"));
        }
        names.check()?;
        let link = || checked_link(flag, records.get("linkpath"), &extended.link, &header.link).map_err(|e| fail(&e));
        let device = || {
            let part = |value: i64| u32::try_from(value).map_err(|_| fail("no device number"));
            Ok(DeviceNumber { major: part(header.device.0)?, minor: part(header.device.1)? })
        };
        let kind = match flag {
            0 | b'0' | b'7' | b'S' => EntryKind::File(self.content(at, block, header, records, &fail)?),
            b'1' => EntryKind::HardLink(link()?),
            b'2' => EntryKind::Symlink(link()?),
            b'3' => EntryKind::CharDevice(device()?),
            b'4' => EntryKind::BlockDevice(device()?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            flag => return Err(TarError::Type { path: Display(&names.path).to_string(), flag: char::from(flag) }),
        };
        let metadata = metadata(header, records, &fail)?;
        Ok(Entry { path: names.path, metadata, kind })
    }

    /// Locates the bytes of a regular file, without reading them.
    fn content(
        &mut self,
        at: u64,
        block: &[u8; BLOCK],
        header: &Header,
        records: &Records,
        fail: &dyn Fn(&str) -> TarError,
    ) -> Result<Content, TarError> {
        let number = |key| {
            let value =
                records.number(key).map_err(|error| fail(&format!("its PAX record `{}` is not a number", error.0)))?;
            value.map(|size| u64::try_from(size).map_err(|_| fail("its size is negative"))).transpose()
        };
        let size = match number("size")? {
            Some(size) => size,
            None => header.size.unsigned_abs(),
        };
        let past = || fail(&format!("size {size} overflows the archive offset"));
        let mut end = self.offset.checked_add(size).ok_or_else(past)?;
        let map = if block[156] == b'S' {
            let map = self.gnu_map(at, block, header.format, fail)?;
            end = self.offset.checked_add(size).ok_or_else(past)?;
            Some(map)
        } else if let Some(form) = PaxForm::of(records) {
            // The order is that of Go.
            let real = number("GNU.sparse.size")?.or(number("GNU.sparse.realsize")?).unwrap_or(size);
            let map = match form {
                PaxForm::InData => self.map_in_data(at, size, fail)?,
                PaxForm::InRecords => sparse::map_in_records(records).map_err(|fault| fail(&fault))?,
            };
            Some((map, real))
        } else {
            None
        };
        let content = match map {
            None => Content { size, data: Data::Whole(self.offset) },
            Some((map, real)) => sparse::content(&map, real, self.offset, end).map_err(|fault| fail(&fault))?,
        };
        (self.at, self.end) = (at, end);
        Ok(content)
    }
}

/// The name of an entry, from the first of these that exists: a sparse file's record, a GNU long name, the PAX path, the header.
struct Names {
    path: Vec<u8>,
    /// Whether the name ends in a slash; a sparse file's record does not count.
    is_directory: bool,
    sparse: Option<PaxForm>,
}

impl Names {
    fn new(header: &Header, extended: &Extended) -> Self {
        let named = if extended.path.is_empty() { extended.pax.get("path") } else { Some(&*extended.path) };
        let path = named.unwrap_or(&header.name);
        let sparse = if header.flag == b'S' { None } else { PaxForm::of(&extended.pax) };
        let real = sparse.and_then(|_| extended.pax.get("GNU.sparse.name")).unwrap_or(path);
        Self { path: real.to_vec(), is_directory: path.ends_with(b"/"), sparse }
    }

    fn check(&self) -> Result<(), TarError> {
        let entry = |path: String, reason: String| TarError::Entry { path, reason };
        if self.path.len() > MAX_PATH {
            return Err(entry(format!("{}…", Display(&self.path[..64])), too_long("a path", &self.path)));
        }
        if self.path.contains(&0) {
            return Err(entry(Display(&self.path).to_string(), "its name contains a NUL byte".to_owned()));
        }
        Ok(())
    }
}

fn too_long(what: &str, text: &[u8]) -> String {
    format!("{what} of {} bytes; at most {MAX_PATH} are supported", text.len())
}

fn checked_link(flag: u8, pax: Option<&[u8]>, long: &[u8], short: &[u8]) -> Result<Vec<u8>, String> {
    let link = if long.is_empty() { pax.unwrap_or(short) } else { long };
    if link.len() > MAX_PATH {
        return Err(too_long(if flag == b'1' { "a hard link's target" } else { "a symlink's target" }, link));
    }
    Ok(link.to_vec())
}

fn metadata(header: &Header, records: &Records, fail: &dyn Fn(&str) -> TarError) -> Result<Metadata, TarError> {
    let id = |key, field: i64, reason: &str| {
        let value = records.number(key).ok().flatten().unwrap_or(field);
        // Linux takes the low 32 bits; -2 is the `nobody` of some systems.
        let id = i32::try_from(value).map(i32::cast_unsigned).or_else(|_| u32::try_from(value));
        id.map_err(|_| fail(reason))
    };
    let written = records.time("mtime").ok().flatten();
    let mtime = written.unwrap_or(Timestamp { secs: header.mtime, nanos: 0 });
    Ok(Metadata {
        mode: u16::try_from(header.mode & 0o7777).expect("twelve bits"),
        uid: id("uid", header.uid, "its owner does not fit 32 bits")?,
        gid: id("gid", header.gid, "its group does not fit 32 bits")?,
        mtime: Timestamp {
            secs: clamp_seconds(mtime.secs),
            nanos: if mtime.secs == clamp_seconds(mtime.secs) { mtime.nanos } else { 0 },
        },
        xattrs: records.xattrs().map_err(|fault| fail(&fault))?,
    })
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// What reads as these parts, one a call.
    struct Parts<'a>(Vec<io::Result<&'a [u8]>>);

    impl Read for Parts<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            if self.0.is_empty() {
                return Ok(0);
            }
            let part = self.0.remove(0)?;
            buf[..part.len()].copy_from_slice(part);
            Ok(part.len())
        }
    }

    #[test]
    fn an_interrupted_read_goes_on_and_a_failed_one_does_not_pass_for_the_end() {
        let mut header = tar::Header::new_ustar();
        header.set_path("f").unwrap();
        header.set_size(4);
        header.set_entry_type(tar::EntryType::Regular);
        header.set_cksum();
        let header = header.as_bytes();
        let interrupted = || Err(io::ErrorKind::Interrupted.into());
        let mut tar = TarReader::new(Parts(vec![interrupted(), Ok(&header[..100]), interrupted(), Ok(&header[100..])]));
        assert_eq!(tar.next_entry().unwrap().unwrap().path, b"f");
        assert!(matches!(tar.read_data(512, &mut [0; 4]), Err(TarError::Truncated(0))));
        let mut tar = TarReader::new(Parts(vec![Ok(header), Err(io::ErrorKind::InvalidData.into())]));
        tar.next_entry().unwrap();
        assert!(matches!(tar.read_data(512, &mut [0; 4]), Err(TarError::Io(_))));
    }
}

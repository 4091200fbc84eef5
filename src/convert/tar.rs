//! The walk over one layer's tar stream: headers in, entries out, file bytes only located.
//!
//! USTAR, PAX, GNU and the four forms of sparse files. The crate `tar` knows the header's fields; the walk is ours because
//! an entry's place in the stream, sparse maps of the PAX forms, empty and binary xattr values and negative times are
//! needed exactly (docs/design.md, "Dependencies"). Bytes come from outside: every length is bounded before it is used.

use std::io::{self, Read};

use tar::Header;

use crate::fs::ext4::layout::clamp_seconds;
use crate::fs::path::Display;
use crate::fs::tree::{Content, Data, Device, Metadata, Run, Timestamp, Xattrs};

const BLOCK: usize = 512;
/// Most bytes of extended headers before one entry: over twice what Linux can store of names and xattrs together.
const MAX_EXTENDED: u64 = 8 << 20;
/// Most runs of one sparse file.
const MAX_RUNS: usize = 1 << 20;
/// Most bytes of a path: as many as Linux takes at once, its NUL not counted.
pub const MAX_PATH: usize = 4_096;
/// Most digits of a number in a sparse map, with its line feed.
const MAX_NUMBER: usize = 21;
/// The PAX records that mean something here; those of extended attributes begin in one of two ways.
const PAX_KEYS: [&[u8]; 6] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime"];
const PAX_PREFIXES: [&[u8]; 3] = [b"GNU.sparse.", SCHILY_XATTR, LIBARCHIVE_XATTR];
const SCHILY_XATTR: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";

/// Why a stream is no tar that can be converted.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The layer's bytes could not be had.
    #[error("cannot be read")]
    Io(#[source] io::Error),
    /// The stream ends inside an entry.
    #[error("ends in the middle of the entry at byte {0}")]
    Truncated(u64),
    /// What stands there is no header.
    #[error("no tar header at byte {offset}: {reason}")]
    Header {
        /// Where the header starts.
        offset: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// An entry's header has a field that cannot be.
    #[error("`{path}`: {reason}")]
    Entry {
        /// The entry's name.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// An entry of a type that containers do not have.
    #[error("`{path}`: tar entries of type `{flag}` are not supported")]
    Type {
        /// The entry's name.
        path: String,
        /// The header's type flag.
        flag: char,
    },
}

/// One entry of a layer.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its name as written.
    pub path: Vec<u8>,
    /// Owner, mode, time, xattrs.
    pub metadata: Metadata,
    /// What it is.
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
    CharDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// Reads entries one by one.
pub struct TarReader<R> {
    inner: R,
    offset: u64,
    /// The entry that was read last: where its header starts, and where its bytes end.
    at: u64,
    end: u64,
}

/// What extended headers say of the entry that follows them.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    pax: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: u64,
}

impl Extended {
    /// The last value of a PAX record.
    fn get(&self, key: &str) -> Option<&[u8]> {
        self.pax
            .iter()
            .rev()
            .find(|(k, _)| k == key.as_bytes())
            .map(|(_, value)| &**value)
            .filter(|value| !value.is_empty())
    }
}

impl<R: Read> TarReader<R> {
    /// Reads from the start of a tar stream.
    pub fn new(inner: R) -> Self {
        Self { inner, offset: 0, at: 0, end: 0 }
    }

    /// The next entry. `None` at the end of the archive, behind which the stream is not read.
    ///
    /// The bytes of the entry before it are passed over, as far as [`TarReader::read_data`] did not read them.
    ///
    /// # Errors
    /// [`TarError`], naming the place or the entry.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip_to(self.at, self.end.max(self.offset))?;
        let mut extended = Extended::default();
        while let Some((at, block)) = self.next_header()? {
            let header = Header::from_byte_slice(&block);
            let no_number = |reason| TarError::Header { offset: at, reason };
            // A PAX size is that of the entry's bytes, not of further extended headers.
            let size = number(&header.as_old().size)
                .and_then(|n| u64::try_from(n).ok())
                .ok_or_else(|| no_number("its size is no number"));
            match block[156] {
                flag @ (b'x' | b'L' | b'K') => {
                    let size = size?;
                    extended.bytes = extended.bytes.saturating_add(size);
                    if extended.bytes > MAX_EXTENDED {
                        return Err(TarError::Header { offset: at, reason: "its extended headers are over 8 MiB" });
                    }
                    let body = self.body(at, size)?;
                    match flag {
                        // A second one replaces the first, as in Go's reader.
                        b'x' => {
                            extended.pax = parse_pax(&body).ok_or(TarError::Header {
                                offset: at,
                                reason: "its PAX records are not of the form",
                            })?;
                        }
                        b'L' => extended.path = Some(until_nul(&body).to_vec()),
                        _ => extended.link = Some(until_nul(&body).to_vec()),
                    }
                }
                // Global headers do not touch entries, as containerd reads them (docs/design.md, "Flattening").
                b'g' => self.skip(at, size?)?,
                _ => {
                    let size = match extended.get("size") {
                        Some(text) => decimal(text).ok_or_else(|| no_number("its PAX size is no number"))?,
                        None => size?,
                    };
                    return self.entry(at, &block, size, &extended).map(Some);
                }
            }
        }
        if extended.bytes > 0 {
            return Err(TarError::Truncated(self.offset));
        }
        Ok(None)
    }

    /// Fills `buf` from `source` on, a place in the stream that a run of the last entry names; only forward.
    ///
    /// # Errors
    /// Those of the stream, and where it ends before.
    ///
    /// # Panics
    /// Where `source` was passed already.
    pub fn read_data(&mut self, source: u64, buf: &mut [u8]) -> Result<(), TarError> {
        self.skip_to(self.at, source)?;
        match self.inner.read_exact(buf) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Err(TarError::Truncated(self.at)),
            Err(error) => return Err(TarError::Io(error)),
        }
        self.offset += buf.len() as u64;
        Ok(())
    }

    /// The next header block and its place; `None` at two zero blocks, or where the stream ends between entries.
    fn next_header(&mut self) -> Result<Option<(u64, [u8; BLOCK])>, TarError> {
        let at = self.offset;
        let Some(block) = self.block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            check_sum(&block).map_err(|reason| TarError::Header { offset: at, reason })?;
            return Ok(Some((at, block)));
        }
        match self.block()? {
            Some(second) if second != [0; BLOCK] => {
                Err(TarError::Header { offset: at, reason: "one zero block and then something else" })
            }
            _ => Ok(None),
        }
    }

    /// The next block; `None` at the stream's end.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut got = 0;
        while got < BLOCK {
            match self.inner.read(&mut block[got..]) {
                Ok(0) if got == 0 => return Ok(None),
                Ok(0) => return Err(TarError::Truncated(self.offset)),
                Ok(n) => got += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(TarError::Io(error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(Some(block))
    }

    /// `size` bytes, which the caller has bounded, and what fills their last block.
    fn body(&mut self, at: u64, size: u64) -> Result<Vec<u8>, TarError> {
        let mut body = Vec::new();
        let read = self.inner.by_ref().take(size).read_to_end(&mut body).map_err(TarError::Io)?;
        self.offset += read as u64;
        if read as u64 != size {
            return Err(TarError::Truncated(at));
        }
        self.skip(at, size.next_multiple_of(BLOCK as u64) - size)?;
        Ok(body)
    }

    /// Passes over `size` bytes and what fills their last block.
    fn skip(&mut self, at: u64, size: u64) -> Result<(), TarError> {
        let end = self.offset.checked_add(size).and_then(|end| end.checked_next_multiple_of(BLOCK as u64));
        self.skip_to(at, end.ok_or(TarError::Header { offset: at, reason: "its size is past every end" })?)
    }

    /// Passes over what stands before `end`.
    fn skip_to(&mut self, at: u64, end: u64) -> Result<(), TarError> {
        let left = end.checked_sub(self.offset).expect("streams are read forward");
        if left == 0 {
            return Ok(());
        }
        let copied = io::copy(&mut self.inner.by_ref().take(left), &mut io::sink()).map_err(TarError::Io)?;
        self.offset += copied;
        if copied == left { Ok(()) } else { Err(TarError::Truncated(at)) }
    }

    fn entry(&mut self, at: u64, block: &[u8; BLOCK], size: u64, extended: &Extended) -> Result<Entry, TarError> {
        let header = Header::from_byte_slice(block);
        let named = extended.get("GNU.sparse.name").or(extended.get("path")).or(extended.path.as_deref());
        let path = named.map_or_else(|| header.path_bytes().into_owned(), <[u8]>::to_vec);
        let fail = |reason: &str| TarError::Entry { path: Display(&path).to_string(), reason: reason.to_owned() };
        let too_long =
            |what: &str, text: &[u8]| format!("{what} of {} bytes; at most {MAX_PATH} are possible", text.len());
        if path.len() > MAX_PATH {
            let reason = too_long("a path", &path);
            return Err(TarError::Entry { path: format!("{}…", Display(&path[..64])), reason });
        }
        if path.contains(&0) {
            return Err(fail("a NUL in its name"));
        }
        let link = || {
            let named = extended.get("linkpath").or(extended.link.as_deref());
            let link = named.map_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned(), <[u8]>::to_vec);
            if link.len() > MAX_PATH {
                let what = if block[156] == b'1' { "a hard link's target" } else { "a symlink's target" };
                return Err(fail(&too_long(what, &link)));
            }
            if link.contains(&0) { Err(fail("a NUL in its link's target")) } else { Ok(link) }
        };
        let device = || {
            let (major, minor) = match (header.as_ustar(), header.as_gnu()) {
                (Some(ustar), _) => (number(&ustar.dev_major), number(&ustar.dev_minor)),
                (_, Some(gnu)) => (number(&gnu.dev_major), number(&gnu.dev_minor)),
                _ => (Some(0), Some(0)),
            };
            let part =
                |value: Option<i64>| value.and_then(|v| u32::try_from(v).ok()).ok_or_else(|| fail("no device number"));
            Ok(Device { major: part(major)?, minor: part(minor)? })
        };
        let kind = match block[156] {
            // The oldest form of a directory: a file whose name ends in a slash.
            0 if path.ends_with(b"/") => EntryKind::Directory,
            0 | b'0' | b'7' | b'S' => EntryKind::File(self.content(at, block, size, extended, &fail)?),
            b'1' => EntryKind::HardLink(link()?),
            b'2' => EntryKind::Symlink(link()?),
            b'3' => EntryKind::CharDevice(device()?),
            b'4' => EntryKind::BlockDevice(device()?),
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            flag => return Err(TarError::Type { path: Display(&path).to_string(), flag: char::from(flag) }),
        };
        let metadata = metadata(header, extended, &fail)?;
        Ok(Entry { path, metadata, kind })
    }

    /// A regular file's bytes are located, and left to be read or passed over.
    fn content(
        &mut self,
        at: u64,
        block: &[u8; BLOCK],
        size: u64,
        extended: &Extended,
        fail: &dyn Fn(&str) -> TarError,
    ) -> Result<Content, TarError> {
        let past = || fail("its size is past every end");
        let mut end = self.offset.checked_add(size).ok_or_else(past)?;
        let decimal_of = |key: &str| {
            extended
                .get(key)
                .map(|text| decimal(text).ok_or_else(|| fail("a sparse map that is no number")))
                .transpose()
        };
        let real_1 = decimal_of("GNU.sparse.realsize")?;
        let real_0 = decimal_of("GNU.sparse.size")?;
        let map = if block[156] == b'S' {
            let map = self.gnu_map(at, block, fail)?;
            end = self.offset.checked_add(size).ok_or_else(past)?;
            Some(map)
        } else if extended.get("GNU.sparse.major") == Some(b"1") {
            let real = real_1.or(real_0).ok_or_else(|| fail("a sparse file without its real size"))?;
            Some((self.pax_1_map(at, size, fail)?, real))
        } else if let Some(real) = real_0.or(real_1) {
            Some((pax_0_map(extended).ok_or_else(|| fail("a sparse map that is not of the form"))?, real))
        } else {
            None
        };
        let content = match map {
            None => Content { size, data: Data::Whole(self.offset) },
            Some((map, real)) => sparse(&map, real, self.offset, end).ok_or_else(|| fail("a sparse map that lies"))?,
        };
        let padded = end.checked_next_multiple_of(BLOCK as u64).ok_or_else(past)?;
        (self.at, self.end) = (at, padded);
        Ok(content)
    }

    /// The old GNU form: four entries in the header, 21 in each block behind it.
    fn gnu_map(
        &mut self,
        at: u64,
        block: &[u8; BLOCK],
        fail: &dyn Fn(&str) -> TarError,
    ) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let mut map = Vec::new();
        let field = |bytes: &[u8]| {
            number(bytes).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| fail("a sparse map that is no number"))
        };
        let mut take = |entries: &[u8]| {
            for entry in entries.chunks_exact(24).take_while(|entry| entry[0] != 0) {
                map.push((field(&entry[..12])?, field(&entry[12..])?));
            }
            if map.len() > MAX_RUNS { Err(fail("a sparse map of more than 1,048,576 runs")) } else { Ok(()) }
        };
        take(&block[386..482])?;
        let mut more = block[482] != 0;
        while more {
            let block = self.block()?.ok_or(TarError::Truncated(at))?;
            take(&block[..504])?;
            more = block[504] != 0;
        }
        Ok((map, field(&block[483..495])?))
    }

    /// PAX 1.0: decimal lines at the start of the file's bytes.
    fn pax_1_map(&mut self, at: u64, size: u64, fail: &dyn Fn(&str) -> TarError) -> Result<Vec<(u64, u64)>, TarError> {
        let (mut text, mut numbers, mut used) = (Vec::new(), Vec::new(), 0u64);
        loop {
            if let [count, rest @ ..] = &numbers[..] {
                if *count > MAX_RUNS as u64 {
                    return Err(fail("a sparse map of more than 1,048,576 runs"));
                }
                if rest.len() as u64 >= 2 * count {
                    let entries = rest.chunks_exact(2);
                    return Ok(entries.map(|pair| (pair[0], pair[1])).collect());
                }
            }
            used += BLOCK as u64;
            if used > size {
                return Err(fail("a sparse map longer than its file"));
            }
            if text.len() >= MAX_NUMBER {
                return Err(fail("a sparse map that is no number"));
            }
            text.extend_from_slice(&self.block()?.ok_or(TarError::Truncated(at))?);
            let complete = text.iter().rposition(|&byte| byte == b'\n').map_or(0, |last| last + 1);
            for line in
                text.drain(..complete).collect::<Vec<_>>().split(|&byte| byte == b'\n').filter(|line| !line.is_empty())
            {
                let wanted = numbers.first().is_none_or(|count| numbers.len() as u64 <= count.saturating_mul(2));
                if wanted {
                    numbers.push(decimal(line).ok_or_else(|| fail("a sparse map that is no number"))?);
                }
            }
        }
    }
}

/// PAX 0.0 (pairs of records) and 0.1 (one record with commas).
fn pax_0_map(extended: &Extended) -> Option<Vec<(u64, u64)>> {
    let numbers: Vec<u64> = match extended.get("GNU.sparse.map") {
        Some(map) => map.split(|&byte| byte == b',').map(decimal).collect::<Option<_>>()?,
        None => {
            let of = |key: &[u8]| key == b"GNU.sparse.offset" || key == b"GNU.sparse.numbytes";
            extended.pax.iter().filter(|(key, _)| of(key)).map(|(_, value)| decimal(value)).collect::<Option<_>>()?
        }
    };
    let even = numbers.len().is_multiple_of(2) && numbers.len() / 2 <= MAX_RUNS;
    even.then(|| numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// A file of `size` bytes whose runs stand one behind the other from `source` to exactly `end`.
fn sparse(map: &[(u64, u64)], size: u64, source: u64, end: u64) -> Option<Content> {
    let (mut runs, mut at, mut source) = (Vec::new(), 0u64, source);
    for &(offset, length) in map {
        let behind = offset.checked_add(length)?;
        if offset < at || behind > size {
            return None;
        }
        if length > 0 {
            runs.push(Run { offset, length, source });
        }
        source = source.checked_add(length)?;
        at = behind;
    }
    (source == end).then(|| Content { size, data: Data::Sparse(runs.into()) })
}

fn metadata(header: &Header, extended: &Extended, fail: &dyn Fn(&str) -> TarError) -> Result<Metadata, TarError> {
    let old = header.as_old();
    let id = |key: &str, field: &[u8], reason: &str| {
        let value = match extended.get(key) {
            Some(text) => decimal(text),
            None => number(field).and_then(|value| u64::try_from(value).ok()),
        };
        value.and_then(|value| u32::try_from(value).ok()).ok_or_else(|| fail(reason))
    };
    let mtime = match extended.get("mtime") {
        Some(text) => pax_time(text).ok_or_else(|| fail("a time that is no number"))?,
        None => Timestamp { secs: number(&old.mtime).ok_or_else(|| fail("a time that is no number"))?, nanos: 0 },
    };
    let mode = number(&old.mode).ok_or_else(|| fail("a mode that is no number"))?;
    Ok(Metadata {
        mode: u16::try_from(mode & 0o7777).expect("twelve bits"),
        uid: id("uid", &old.uid, "an owner past 32 bits")?,
        gid: id("gid", &old.gid, "a group past 32 bits")?,
        mtime: Timestamp {
            secs: clamp_seconds(mtime.secs),
            nanos: if mtime.secs == clamp_seconds(mtime.secs) { mtime.nanos } else { 0 },
        },
        xattrs: xattrs(extended).ok_or_else(|| fail("an extended attribute that is not of the form"))?,
    })
}

/// xattrs of the SCHILY form, and of LIBARCHIVE's where the other does not say them.
fn xattrs(extended: &Extended) -> Option<Xattrs> {
    let mut out = Xattrs::default();
    for (key, value) in &extended.pax {
        if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR) {
            out.insert(&percent_decoded(name)?, &base64_decoded(value)?);
        }
    }
    for (key, value) in &extended.pax {
        if let Some(name) = key.strip_prefix(SCHILY_XATTR) {
            out.insert(name, value);
        }
    }
    Some(out)
}

/// Records of the form `LENGTH KEY=VALUE\n`, the length counting the whole record. Values may hold any byte.
fn parse_pax(mut body: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut out = Vec::new();
    while body.iter().any(|&byte| byte != 0) {
        let space = body.iter().take(20).position(|&byte| byte == b' ')?;
        let length = usize::try_from(decimal(&body[..space])?).ok()?;
        let record = body.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        let key = &record[..equals];
        if PAX_KEYS.contains(&key) || PAX_PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
            out.push((key.to_vec(), record[equals + 1..].to_vec()));
        }
        body = &body[length..];
    }
    Some(out)
}

/// A header's number: octal with spaces and NULs around it, nothing for 0, or base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        let text = std::str::from_utf8(field).ok()?.trim_matches([' ', '\0']);
        let text = text.split(['\0', ' ']).next()?;
        return if text.is_empty() { Some(0) } else { i64::from_str_radix(text, 8).ok().filter(|n| *n >= 0) };
    }
    // Two's complement, the marker bit aside: its neighbour is the sign.
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7F };
    let start = if negative { -1i128 } else { 0 };
    let value = std::iter::once(first)
        .chain(field[1..].iter().copied())
        .fold(start, |value, byte| value << 8 | i128::from(byte));
    i64::try_from(value).ok()
}

fn decimal(text: &[u8]) -> Option<u64> {
    let digits = !text.is_empty() && text.iter().all(u8::is_ascii_digit);
    digits.then(|| std::str::from_utf8(text).ok()?.parse().ok())?
}

/// Seconds with an optional sign and fraction, of which nine digits count.
fn pax_time(text: &[u8]) -> Option<Timestamp> {
    let (negative, text) = text.strip_prefix(b"-").map_or((false, text), |rest| (true, rest));
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let whole = i64::try_from(decimal(parts.next()?)?).ok()?;
    let fraction = parts.next().unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, i| nanos * 10 + u32::from(fraction.get(i).map_or(0, |digit| digit - b'0')));
    Some(match (negative, nanos) {
        (false, _) => Timestamp { secs: whole, nanos },
        (true, 0) => Timestamp { secs: -whole, nanos: 0 },
        (true, _) => Timestamp { secs: -whole - 1, nanos: 1_000_000_000 - nanos },
    })
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn check_sum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let said = number(&block[148..156]).ok_or("its checksum is no number")?;
    let outside = block[..148].iter().chain(&block[156..]);
    let unsigned: i64 = outside.clone().map(|&byte| i64::from(byte)).sum::<i64>() + 8 * 32;
    // Some old writers summed signed bytes.
    let signed: i64 = outside.map(|&byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * 32;
    if said == unsigned || said == signed { Ok(()) } else { Err("its checksum is wrong") }
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len()), text);
    while let [first, behind @ ..] = rest {
        rest = behind;
        if *first == b'%' {
            let (hex, behind) = rest.split_at_checked(2)?;
            out.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
            rest = behind;
        } else {
            out.push(*first);
        }
    }
    Some(out)
}

/// RFC 4648's alphabet, with or without padding.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let (mut out, mut bits, mut held) = (Vec::with_capacity(text.len() * 3 / 4), 0u32, 0);
    for &byte in text.iter().filter(|byte| **byte != b'=') {
        let value = ALPHABET.iter().position(|&c| c == byte)?;
        bits = (bits << 6 | u32::try_from(value).ok()?) & 0xFFFF;
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held).to_le_bytes()[0]);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_form() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"00000x4\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0xB2, 0xD0, 0x5E, 0]), Some(3_000_000_000));
        assert_eq!(number(&[0xFF; 12]), Some(-1));
        assert_eq!(number(&[0x80, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0]), None);
    }

    #[test]
    fn times_with_signs_and_fractions() {
        let time = |secs, nanos| Some(Timestamp { secs, nanos });
        assert_eq!(pax_time(b"1742472000.123456789"), time(1_742_472_000, 123_456_789));
        assert_eq!(pax_time(b"0.5"), time(0, 500_000_000));
        assert_eq!(pax_time(b"-1.25"), time(-2, 750_000_000));
        assert_eq!(pax_time(b"-315619200"), time(-315_619_200, 0));
        assert_eq!(pax_time(b"1.0000000019"), time(1, 1));
        assert_eq!(pax_time(b"soon"), None);
        assert_eq!((decimal(b""), decimal(b"+1"), decimal(b"01")), (None, None, Some(1)));
    }

    /// Of a header with a byte over 127, which the two ways of summing tell apart.
    #[test]
    fn a_header_is_summed_as_signed_or_unsigned_bytes() {
        let summed = |sum: i64| {
            let mut block = [0; BLOCK];
            block[..2].copy_from_slice(b"a\xE9");
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            check_sum(&block)
        };
        let spaces = 8 * i64::from(b' ');
        let (unsigned, signed) = (spaces + 0x61 + 0xE9, spaces + 0x61 + 0xE9 - 256);
        assert_eq!((summed(unsigned), summed(signed)), (Ok(()), Ok(())));
        assert!([unsigned - 1, unsigned + 1, signed - 1, signed + 1, 0].iter().all(|&sum| summed(sum).is_err()));
    }

    #[test]
    fn a_map_in_a_record_has_an_even_count_and_at_most_1_048_576_runs() {
        let map = |text: String| {
            let pax = vec![(b"GNU.sparse.map".to_vec(), text.into_bytes())];
            pax_0_map(&Extended { pax, ..Extended::default() }).map(|map| map.len())
        };
        let empty_runs = |count: usize| map(vec!["0,0"; count].join(","));
        assert_eq!(empty_runs(MAX_RUNS), Some(MAX_RUNS));
        assert_eq!(empty_runs(MAX_RUNS + 1), None);
        assert_eq!(map("0,1,2".to_owned()), None);
    }

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
        let mut header = Header::new_ustar();
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

    /// The old GNU form and PAX 1.0, each with as many runs as there may be, and one more.
    #[test]
    fn a_sparse_file_has_at_most_1_048_576_runs() {
        let fail = |reason: &str| TarError::Entry { path: String::new(), reason: reason.to_owned() };
        let gnu = |count: usize| {
            let mut more: Vec<[u8; BLOCK]> = vec![[b'0'; BLOCK]; (count - 4).div_ceil(21)];
            let (last, others) = more.split_last_mut().unwrap();
            others.iter_mut().for_each(|block| block[504] = 1);
            last[504] = 0;
            let in_last = (count - 4) % 21;
            if in_last > 0 {
                last[in_last * 24..504].fill(0);
            }
            let mut first = [b'0'; BLOCK];
            first[482] = 1;
            TarReader::new(more.as_flattened()).gnu_map(0, &first, &fail).map(|(map, _)| map.len())
        };
        let pax = |count: usize| {
            let mut text = format!("{count}\n{}", "0\n0\n".repeat(count)).into_bytes();
            text.resize(text.len().next_multiple_of(BLOCK), 0);
            TarReader::new(&text[..]).pax_1_map(0, text.len() as u64, &fail).map(|map| map.len())
        };
        assert_eq!((gnu(MAX_RUNS).unwrap(), pax(MAX_RUNS).unwrap()), (MAX_RUNS, MAX_RUNS));
        for refused in [gnu(MAX_RUNS + 1), pax(MAX_RUNS + 1)] {
            assert!(refused.unwrap_err().to_string().contains("more than 1,048,576 runs"));
        }
    }

    #[test]
    fn pax_values_hold_any_byte() {
        let out = parse_pax(b"15 path=b\nc=d\0\n6 k=v\n8 uid=v\n\0\0").unwrap();
        assert_eq!(out, [(b"path".to_vec(), b"b\nc=d\0".to_vec()), (b"uid".to_vec(), b"v".to_vec())]);
        assert_eq!(parse_pax(b"99 a=b\n"), None);
    }

    #[test]
    fn libarchive_names_and_values() {
        assert_eq!(percent_decoded(b"user.a%20b").unwrap(), b"user.a b");
        assert_eq!(base64_decoded(b"AAEC/w==").unwrap(), [0, 1, 2, 255]);
        assert_eq!(base64_decoded(b"AAEC/w").unwrap(), [0, 1, 2, 255]);
        assert_eq!(base64_decoded(b"A*"), None);
    }

    #[test]
    fn a_sparse_map_must_account_for_every_byte() {
        let runs = [Run { offset: 0, length: 10, source: 512 }, Run { offset: 4096, length: 5, source: 522 }];
        let without_the_empty_one = Content { size: 9000, data: Data::Sparse(runs.into()) };
        assert_eq!(sparse(&[(0, 10), (4096, 5), (9000, 0)], 9000, 512, 527), Some(without_the_empty_one));
        for (map, size, end) in [(&[(0, 10), (5, 5)][..], 100, 527), (&[(0, 10)], 5, 522), (&[(0, 10)], 100, 530)] {
            assert_eq!(sparse(map, size, 512, end), None, "{map:?}");
        }
    }
}

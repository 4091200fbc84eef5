//! Sparse maps: the old GNU form and the three of PAX, read as Go's `archive/tar` reads them.

use super::header::{BLOCK, Format, number};
use super::pax::{Records, integer};
use super::stream::{TarError, TarReader};
use crate::fs::tree::{Content, Data, Run};
use std::io::Read;

/// Maximum number of runs in one sparse file.
const MAX_RUNS: usize = 1 << 20;
/// Maximum length of a number in a sparse map with its line feed, in bytes.
const MAX_NUMBER: usize = 21;

const TOO_MANY: &str = "sparse map: more than 1,048,576 segments";

/// The runs of a sparse file, as (offset in the file, length), in bytes.
pub(super) type Map = Vec<(u64, u64)>;

/// The location of the map of a PAX sparse file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PaxForm {
    /// In the records: 0.0 and 0.1.
    InRecords,
    /// In front of the file's bytes: 1.0.
    InData,
}

impl PaxForm {
    /// Returns the form that the records name; `None` where the entry is not sparse, whatever else they say of sparse files.
    pub(super) fn of(records: &Records) -> Option<Self> {
        match (records.get("GNU.sparse.major"), records.get("GNU.sparse.minor")) {
            (Some(b"0"), Some(b"0" | b"1")) => Some(Self::InRecords),
            (Some(b"1"), Some(b"0")) => Some(Self::InData),
            (None, None) => records.get("GNU.sparse.map").map(|_| Self::InRecords),
            _ => None,
        }
    }
}

/// Returns the map of a PAX sparse file whose map is in its records.
///
/// # Errors
/// What is wrong with the map, as a message.
pub(super) fn map_in_records(records: &Records) -> Result<Map, String> {
    let count = records.get("GNU.sparse.numblocks").ok_or("sparse map: the record GNU.sparse.numblocks is missing")?;
    let count = natural(count).ok_or_else(|| no_number("GNU.sparse.numblocks", count))?;
    if count > MAX_RUNS as u64 {
        return Err(TOO_MANY.to_owned());
    }
    let number = |text: &[u8]| natural(text).ok_or_else(|| no_number("GNU.sparse.map", text));
    let numbers: Vec<u64> = match records.get("GNU.sparse.map") {
        Some(map) => map.split(|&byte| byte == b',').map(number).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    if numbers.len() as u64 != 2 * count {
        let found = numbers.len();
        return Err(format!("sparse map: {found} numbers, and {count} segments have {}", 2 * count));
    }
    Ok(numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
}

/// Returns the message for `text` in `place`, which is not a number of bytes.
fn no_number(place: &str, text: &[u8]) -> String {
    let shown = &text[..text.len().min(MAX_NUMBER)];
    format!("sparse map: {place}: `{}` is not a number of bytes", shown.escape_ascii())
}

fn natural(text: &[u8]) -> Option<u64> {
    u64::try_from(integer(text)?).ok()
}

/// Returns the content of a file of `size` bytes whose runs are contiguous in the stream, from `source` to exactly `end`.
///
/// # Errors
/// What is wrong with the map, as a message that counts segments from 1.
pub(super) fn content(map: &[(u64, u64)], size: u64, source: u64, end: u64) -> Result<Content, String> {
    let mut runs = Vec::new();
    let mut at = 0u64;
    let mut position = source;
    for (before, &(offset, length)) in map.iter().enumerate() {
        let fail = |fault: String| {
            Err(format!("sparse map: segment {} (offset {offset}, {length} bytes) {fault}", before + 1))
        };
        let Some(behind) = offset.checked_add(length).filter(|behind| *behind <= size) else {
            return fail(format!("is past the file's end at {size}"));
        };
        if offset < at {
            let is_inside = before.checked_sub(1).is_some_and(|last| map[last].0 <= offset);
            return fail(format!("{} segment {before}", if is_inside { "overlaps" } else { "is before" }));
        }
        if length > 0 {
            runs.push(Run { offset, length, source: position });
        }
        position = match position.checked_add(length) {
            Some(next) => next,
            None => return fail("is past the archive's end".to_owned()),
        };
        at = behind;
    }
    if position != end {
        let (mapped, stored) = (position - source, end.saturating_sub(source));
        return Err(format!("sparse map: its segments have {mapped} bytes, the entry has {stored}"));
    }
    Ok(Content { size, data: Data::Sparse(runs.into()) })
}

impl<R: Read> TarReader<R> {
    /// Reads the map and the real size of the old GNU form: four entries in the header, 21 in each block after it.
    pub(super) fn gnu_map(
        &mut self,
        at: u64,
        block: &[u8; BLOCK],
        format: Format,
        fail: &dyn Fn(&str) -> TarError,
    ) -> Result<(Map, u64), TarError> {
        if format != Format::Gnu {
            return Err(fail("a sparse file of the old GNU form with a header of another form"));
        }
        let mut map = Vec::new();
        let field = |bytes: &[u8]| {
            number(bytes).and_then(|n| u64::try_from(n).ok()).ok_or_else(|| fail(&no_number("header", bytes)))
        };
        let mut take = |entries: &[u8]| {
            for entry in entries.chunks_exact(24).take_while(|entry| entry[0] != 0) {
                map.push((field(&entry[..12])?, field(&entry[12..])?));
            }
            if map.len() > MAX_RUNS { Err(fail(TOO_MANY)) } else { Ok(()) }
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

    /// Reads the map of PAX 1.0: decimal lines in whole blocks at the start of the file's `size` bytes.
    pub(super) fn map_in_data(&mut self, at: u64, size: u64, fail: &dyn Fn(&str) -> TarError) -> Result<Map, TarError> {
        let mut lines = Lines { text: Vec::new(), used: 0, size };
        let count = lines.next(self, at, fail)?;
        if count > MAX_RUNS as u64 {
            return Err(fail(TOO_MANY));
        }
        let mut map = Vec::new();
        for _ in 0..count {
            map.push((lines.next(self, at, fail)?, lines.next(self, at, fail)?));
        }
        Ok(map)
    }
}

/// The lines of a map in a file's bytes, read block by block.
struct Lines {
    /// The text that was read and not yet parsed.
    text: Vec<u8>,
    used: u64,
    size: u64,
}

impl Lines {
    fn next(
        &mut self,
        tar: &mut TarReader<impl Read>,
        at: u64,
        fail: &dyn Fn(&str) -> TarError,
    ) -> Result<u64, TarError> {
        loop {
            if let Some(end) = self.text.iter().position(|&byte| byte == b'\n') {
                let number = natural(&self.text[..end]).ok_or_else(|| fail(&no_number("data", &self.text[..end])))?;
                self.text.drain(..=end);
                return Ok(number);
            }
            self.used += BLOCK as u64;
            if self.used > self.size {
                return Err(fail(&format!("sparse map: it is longer than the entry's {} bytes", self.size)));
            }
            if self.text.len() >= MAX_NUMBER {
                return Err(fail(&no_number("data", &self.text)));
            }
            self.text.extend_from_slice(&tar.block()?.ok_or(TarError::Truncated(at))?);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_map_in_records_has_the_count_they_name_and_at_most_1_048_576_runs() {
        let records = |count: &str, map: &str| {
            let record = |key: &str, value: &str| {
                let rest = key.len() + value.len() + 3;
                let length = (rest..).find(|length| length.to_string().len() + rest == *length).unwrap();
                format!("{length} {key}={value}\n")
            };
            let text = record("GNU.sparse.numblocks", count) + &record("GNU.sparse.map", map);
            Records::parse(text.as_bytes()).unwrap()
        };
        let map = |count: &str, map: &str| map_in_records(&records(count, map)).ok().map(|map| map.len());
        let empty_runs = |count: usize| map(&count.to_string(), &vec!["0,0"; count].join(","));
        assert_eq!(empty_runs(MAX_RUNS), Some(MAX_RUNS));
        assert_eq!(empty_runs(MAX_RUNS + 1), None);
        assert_eq!(map("0", ""), Some(0));
        for (count, text) in [("1", "0,1,2"), ("2", "0,1"), ("", "0,1"), ("-1", "0,1"), ("1", "0,-1"), ("1", "")] {
            assert_eq!(map(count, text), None, "{count} {text}");
        }
    }

    /// `reader.go`, `readGNUSparsePAXHeaders`.
    #[test]
    fn only_some_versions_are_sparse() {
        let of = |records: &[u8]| PaxForm::of(&Records::parse(records).unwrap());
        let (major, minor) =
            (|n: u8| format!("22 GNU.sparse.major={n}\n"), |n: u8| format!("22 GNU.sparse.minor={n}\n"));
        let version = |a: u8, b: u8| of((major(a) + &minor(b)).as_bytes());
        assert_eq!(version(0, 0), Some(PaxForm::InRecords));
        assert_eq!(version(0, 1), Some(PaxForm::InRecords));
        assert_eq!(version(1, 0), Some(PaxForm::InData));
        for (a, b) in [(0, 2), (1, 1), (2, 0)] {
            assert_eq!(version(a, b), None);
        }
        assert_eq!(of(major(1).as_bytes()), None);
        let map = "22 GNU.sparse.map=0,1\n".to_owned();
        assert_eq!(of(map.as_bytes()), Some(PaxForm::InRecords));
        assert_eq!(of((map + &major(1)).as_bytes()), None);
        assert_eq!(of(b"21 GNU.sparse.size=9\n"), None);
        assert_eq!(of(b"21 GNU.sparse.name=f\n"), None);
    }

    /// The old GNU form and PAX 1.0, each with as many runs as there may be, and one more.
    #[test]
    fn a_sparse_file_has_at_most_1_048_576_runs() {
        let fail = |reason: &str| TarError::Entry { path: String::new(), reason: reason.to_owned() };
        let gnu = |count: usize| {
            let mut more: Vec<[u8; BLOCK]> = vec![[b'0'; BLOCK]; (count - 4).div_ceil(21)];
            let (last, others) = more.split_last_mut().unwrap();
            for block in others {
                block[504] = 1;
            }
            last[504] = 0;
            let in_last = (count - 4) % 21;
            if in_last > 0 {
                last[in_last * 24..504].fill(0);
            }
            let mut first = [b'0'; BLOCK];
            first[482] = 1;
            TarReader::new(more.as_flattened()).gnu_map(0, &first, Format::Gnu, &fail).map(|(map, _)| map.len())
        };
        let pax = |count: usize| {
            let mut text = format!("{count}\n{}", "0\n0\n".repeat(count)).into_bytes();
            text.resize(text.len().next_multiple_of(BLOCK), 0);
            TarReader::new(&text[..]).map_in_data(0, text.len() as u64, &fail).map(|map| map.len())
        };
        assert_eq!((gnu(MAX_RUNS).unwrap(), pax(MAX_RUNS).unwrap()), (MAX_RUNS, MAX_RUNS));
        for refused in [gnu(MAX_RUNS + 1), pax(MAX_RUNS + 1)] {
            assert!(refused.unwrap_err().to_string().contains("more than 1,048,576 segments"));
        }
    }

    #[test]
    fn a_map_must_account_for_every_byte() {
        let runs = [Run { offset: 0, length: 10, source: 512 }, Run { offset: 4096, length: 5, source: 522 }];
        let without_the_empty_one = Content { size: 9000, data: Data::Sparse(runs.into()) };
        assert_eq!(content(&[(0, 10), (4096, 5), (9000, 0)], 9000, 512, 527), Ok(without_the_empty_one));
        for (map, size, end, fault) in [
            (&[(0, 10), (5, 5)][..], 100, 527, "segment 2 (offset 5, 5 bytes) overlaps segment 1"),
            (&[(50, 10), (5, 5)], 100, 527, "segment 2 (offset 5, 5 bytes) is before segment 1"),
            (&[(0, 10)], 5, 522, "segment 1 (offset 0, 10 bytes) is past the file's end at 5"),
            (
                &[(u64::MAX, 10)],
                100,
                522,
                "segment 1 (offset 18446744073709551615, 10 bytes) is past the file's end at 100",
            ),
            (&[(0, 10)], 100, 530, "its segments have 10 bytes, the entry has 18"),
        ] {
            assert_eq!(content(map, size, 512, end), Err(format!("sparse map: {fault}")), "{map:?}");
        }
    }
}

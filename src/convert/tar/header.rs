//! The fields of one header block, in the dialects that Go's `archive/tar` distinguishes (`format.go`, `reader.go` of Go 1.19).
//!
//! Container engines read layers with that package, so it determines which fields a header has: the version bytes of a ustar header
//! are ignored, star has a shorter prefix, and GNU has none, except in headers of Go before 1.8.

use std::ops::Range;

/// Length of a block of the stream, in bytes.
pub(super) const BLOCK: usize = 512;

/// The format of a header, from its magic bytes: the fields after the first 257 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// No magic, and no further fields.
    V7,
    Ustar,
    Star,
    Gnu,
}

/// The fields of a header. Numbers are as written: whether they are valid depends on the entry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: Format,
    pub(super) flag: u8,
    /// The name with its prefix.
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: i64,
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: i64,
    pub(super) mtime: i64,
    /// Major and minor; zeros in a V7 header.
    pub(super) device: (i64, i64),
}

/// The name of a numeric field that is not a number, for messages.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct FieldNotANumber(pub(super) &'static str);

const NAME: Range<usize> = 0..100;
const CHECKSUM: Range<usize> = 148..156;
const FLAG: usize = 156;
const LINK: Range<usize> = 157..257;
const USTAR_PREFIX: Range<usize> = 345..500;
const STAR_PREFIX: Range<usize> = 345..476;
const STAR_TIMES: [Range<usize>; 2] = [476..488, 488..500];
const GNU_TIMES: [Range<usize>; 2] = [345..357, 357..369];

impl Header {
    /// Parses a block whose checksum is right.
    ///
    /// Every numeric field must be a number, also one without meaning for the entry's type: Go refuses anything else.
    pub(super) fn parse(block: &[u8; BLOCK]) -> Result<Self, FieldNotANumber> {
        let field = |range: Range<usize>, name| number(&block[range]).ok_or(FieldNotANumber(name));
        let format = format(block);
        let mut header = Self {
            format,
            flag: block[FLAG],
            name: Vec::new(),
            link: until_nul(&block[LINK]).to_vec(),
            mode: field(100..108, "mode")?,
            uid: field(108..116, "owner")?,
            gid: field(116..124, "group")?,
            size: field(124..136, "size")?,
            mtime: field(136..148, "time")?,
            device: (0, 0),
        };
        if format != Format::V7 {
            header.device = (field(329..337, "device number")?, field(337..345, "device number")?);
        }
        let prefix = match format {
            Format::V7 => &[][..],
            Format::Ustar => until_nul(&block[USTAR_PREFIX]),
            Format::Star => {
                for time in STAR_TIMES {
                    field(time, "time")?;
                }
                until_nul(&block[STAR_PREFIX])
            }
            Format::Gnu => gnu_prefix(block),
        };
        let name = until_nul(&block[NAME]);
        header.name = if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() };
        Ok(header)
    }

    /// Returns whether no bytes follow a header of this type, whatever its size field is.
    pub(super) fn has_no_data(flag: u8) -> bool {
        matches!(flag, b'1'..=b'6')
    }
}

fn format(block: &[u8; BLOCK]) -> Format {
    match &block[257..263] {
        b"ustar\0" if &block[508..] == b"tar\0" => Format::Star,
        b"ustar\0" => Format::Ustar,
        b"ustar " if &block[263..265] == b" \0" => Format::Gnu,
        _ => Format::V7,
    }
}

/// Returns the prefix in a GNU header, which normally has times there. Go before 1.8, and so Docker before 17.06, wrote a prefix
/// there for long names with large owners; Go takes it for one where the times are not numbers and the prefix is ASCII.
fn gnu_prefix(block: &[u8; BLOCK]) -> &[u8] {
    let is_time = |time: Range<usize>| block[time.start] == 0 || number(&block[time]).is_some();
    let prefix = until_nul(&block[USTAR_PREFIX]);
    if GNU_TIMES.into_iter().all(is_time) || !prefix.is_ascii() { &[] } else { prefix }
}

/// Parses a numeric field: octal between spaces and NULs, nothing for 0, or base 256 where the first bit is set.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 == 0 {
        return octal(field);
    }
    // The value is in two's complement without the marker bit; the next bit is the sign.
    let negative = field[0] & 0x40 != 0;
    let first = if negative { field[0] } else { field[0] & 0x7F };
    let start = if negative { -1i128 } else { 0 };
    let value = std::iter::once(first)
        .chain(field[1..].iter().copied())
        .fold(start, |value, byte| value << 8 | i128::from(byte));
    i64::try_from(value).ok()
}

fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let Some(start) = field.iter().position(|byte| !blank(byte)) else { return Some(0) };
    let end = field.iter().rposition(|byte| !blank(byte)).map_or(start, |last| last + 1);
    let digits = until_nul(&field[start..end]);
    digits.iter().try_fold(0i64, |value, digit| match digit {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Checks the sum of the block's bytes, as unsigned ones or, as some old writers summed, signed ones.
pub(super) fn check_sum(block: &[u8; BLOCK]) -> Result<(), &'static str> {
    let expected = octal(&block[CHECKSUM]).ok_or("its checksum is not a number")?;
    let outside = block[..CHECKSUM.start].iter().chain(&block[CHECKSUM.end..]);
    let unsigned: i64 = outside.clone().map(|&byte| i64::from(byte)).sum::<i64>() + 8 * 32;
    let signed: i64 = outside.map(|&byte| i64::from(byte.cast_signed())).sum::<i64>() + 8 * 32;
    if expected == unsigned || expected == signed { Ok(()) } else { Err("its checksum is wrong") }
}

pub(super) fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|&byte| byte == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_every_form() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b" \0 644\0\0"), Some(0o644));
        assert_eq!(number(&[0; 8]), Some(0));
        assert_eq!(number(b"00000x4\0"), None);
        assert_eq!(number(b"+000644\0"), None);
        assert_eq!(number(b"0644 01\0"), None, "Go refuses what stands behind a space");
        assert_eq!(number(b"0644\x001\0\0"), Some(0o644), "and not what stands behind a NUL");
        assert_eq!(number(&[0x80, 0, 0, 0, 0xB2, 0xD0, 0x5E, 0]), Some(3_000_000_000));
        assert_eq!(number(&[0xFF; 12]), Some(-1));
        assert_eq!(number(&[0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE]), Some(-2));
        assert_eq!(number(&[0x80, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0]), None);
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

    /// The source of each value: Go's `archive/tar`, `format.go` (`getFormat`) and `reader.go` (`readHeader`).
    #[test]
    fn the_magic_decides_where_the_prefix_is() {
        let read = |magic: &[u8; 8], edit: fn(&mut [u8; BLOCK])| {
            let mut block = [0; BLOCK];
            block[..4].copy_from_slice(b"name");
            block[257..265].copy_from_slice(magic);
            block[329..345].copy_from_slice(b"0000010\x000000007\0");
            block[345..351].copy_from_slice(b"prefix");
            edit(&mut block);
            Header::parse(&block).map(|header| (String::from_utf8(header.name).unwrap(), header.device))
        };
        let plain = |_: &mut [u8; BLOCK]| ();
        let (with, without) = (Ok(("prefix/name".to_owned(), (8, 7))), Ok(("name".to_owned(), (8, 7))));
        assert_eq!(read(b"ustar\x0000", plain), with);
        assert_eq!(read(b"ustar\0  ", plain), with, "any version");
        assert_eq!(read(b"ustar\0\0\0", plain), with, "any version");
        assert_eq!(read(b"ustar  \0", plain), with, "the time `prefix` is no number");
        assert_eq!(read(b"ustar  \0", |block| block[345..351].copy_from_slice(b"001234")), without);
        assert_eq!(read(b"ustar  \0", |block| block[345] = 0), without);
        assert_eq!(read(b"ustar  \0", |block| block[346] = 0xE9), without, "no ASCII");
        // Behind a NUL, where the second time is no number: that prefix is empty.
        assert_eq!(read(b"ustar  \0", |block| (block[345], block[357]) = (0, b'x')), without);
        assert_eq!(read(b"ustar 00", plain), Ok(("name".to_owned(), (0, 0))), "of no known dialect");
        assert_eq!(read(b"\0\0\0\0\0\0\0\0", plain), Ok(("name".to_owned(), (0, 0))));
        let long = |block: &mut [u8; BLOCK]| {
            block[345..476].fill(b'p');
            block[476..488].copy_from_slice(b"00000000001\0");
            block[508..].copy_from_slice(b"tar\0");
        };
        assert_eq!(read(b"ustar\x0000", long), Ok((format!("{}/name", "p".repeat(131)), (8, 7))), "star");
        assert_eq!(
            read(b"ustar\x0000", |block| {
                block[476] = b'x';
                block[508..].copy_from_slice(b"tar\0");
            }),
            Err(FieldNotANumber("time"))
        );
    }

    #[test]
    fn every_number_must_be_one() {
        for (at, field) in
            [(100, "mode"), (108, "owner"), (116, "group"), (124, "size"), (136, "time"), (329, "device number")]
        {
            let mut block = [0; BLOCK];
            block[257..265].copy_from_slice(b"ustar\x0000");
            block[at] = b'x';
            assert_eq!(Header::parse(&block), Err(FieldNotANumber(field)));
        }
    }
}

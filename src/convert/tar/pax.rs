//! PAX records: parsing, and their times, owners and extended attributes.
//!
//! They are read as by Go's `archive/tar` (`parsePAX`, `mergePAX`): the last value of a key counts, an empty one counts as absent,
//! and one bad number makes the whole header invalid.

use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::fs::tree::{Timestamp, Xattrs};

/// The keys that have a meaning here, besides those of extended attributes.
const KEYS: [&[u8]; 8] = [b"path", b"linkpath", b"size", b"uid", b"gid", b"mtime", b"atime", b"ctime"];
const PREFIXES: [&[u8]; 3] = [b"GNU.sparse.", SCHILY_XATTR, LIBARCHIVE_XATTR];
/// Keys whose values are names, which contain no NUL.
const STRINGS: [&[u8]; 4] = [b"path", b"linkpath", b"uname", b"gname"];
const SCHILY_XATTR: &[u8] = b"SCHILY.xattr.";
const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";
const SPARSE_OFFSET: &[u8] = b"GNU.sparse.offset";
const SPARSE_LENGTH: &[u8] = b"GNU.sparse.numbytes";

/// The records of one extended header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    /// Parses records of the form `LENGTH KEY=VALUE\n`, the length counting the whole record. Values may hold any byte.
    ///
    /// The pairs of records of sparse form 0.0 become the one record of form 0.1.
    ///
    /// # Errors
    /// What is wrong with which record, as a message.
    pub(super) fn parse(mut body: &[u8]) -> Result<Self, String> {
        let mut records = Vec::new();
        let mut map = Vec::new();
        let mut wants_length = false;
        while !body.is_empty() {
            let (length, key, value) = record(body)?;
            if key.is_empty() {
                return Err("malformed PAX record: its key is empty".to_owned());
            }
            if (if STRINGS.contains(&key) { value } else { key }).contains(&0) {
                return Err(format!("malformed PAX record: a NUL in `{}`", shown(key)));
            }
            if key == SPARSE_OFFSET || key == SPARSE_LENGTH {
                if value.contains(&b',') {
                    return Err(format!("malformed PAX record: a comma in the value of `{}`", shown(key)));
                }
                if wants_length != (key == SPARSE_LENGTH) {
                    return Err(format!(
                        "malformed PAX record: `{}`: GNU.sparse.offset and GNU.sparse.numbytes must alternate",
                        shown(key)
                    ));
                }
                wants_length = !wants_length;
                map.extend_from_slice(value);
                map.push(b',');
            } else if KEYS.contains(&key) || PREFIXES.iter().any(|prefix| key.starts_with(prefix)) {
                records.push((key.to_vec(), value.to_vec()));
            }
            body = &body[length..];
        }
        if map.pop().is_some() {
            records.push((b"GNU.sparse.map".to_vec(), map));
        }
        Ok(Self(records))
    }

    /// Returns the last value of a key; `None` also where that is empty.
    pub(super) fn get(&self, key: &str) -> Option<&[u8]> {
        let last = self.0.iter().rev().find(|(k, _)| k == key.as_bytes());
        last.map(|(_, value)| &**value).filter(|value| !value.is_empty())
    }

    /// Returns the number of a key; `None` where it is absent.
    pub(super) fn number(&self, key: &'static str) -> Result<Option<i64>, RecordNotANumber> {
        self.get(key).map(|text| integer(text).ok_or(RecordNotANumber(key))).transpose()
    }

    /// Returns the time of a key; `None` where it is absent.
    pub(super) fn time(&self, key: &'static str) -> Result<Option<Timestamp>, RecordNotANumber> {
        self.get(key).map(|text| time(text).ok_or(RecordNotANumber(key))).transpose()
    }

    /// Checks the numbers and times of all keys, whatever the type of the entry.
    pub(super) fn check(&self) -> Result<(), RecordNotANumber> {
        for key in ["uid", "gid", "size"] {
            self.number(key)?;
        }
        for key in ["mtime", "atime", "ctime"] {
            self.time(key)?;
        }
        Ok(())
    }

    /// Returns the extended attributes of the SCHILY form, and of LIBARCHIVE's form where the other does not have them.
    ///
    /// # Errors
    /// Which record is malformed and how, as a message.
    pub(super) fn xattrs(&self) -> Result<Xattrs, String> {
        let mut out = Xattrs::default();
        for (key, value) in &self.0 {
            if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR) {
                let fail = |fault: &str| format!("malformed extended attribute: PAX record `{}`: {fault}", shown(key));
                let name = percent_decoded(name).ok_or_else(|| fail("its name is not percent-encoded"))?;
                out.insert(&name, &base64_decoded(value).ok_or_else(|| fail("its value is not base64"))?);
            }
        }
        for (key, value) in &self.0 {
            if let Some(name) = key.strip_prefix(SCHILY_XATTR) {
                out.insert(name, value);
            }
        }
        Ok(out)
    }
}

/// Returns the first record of `body`: its length with the length field, its key and its value.
fn record(body: &[u8]) -> Result<(usize, &[u8], &[u8]), String> {
    let space = body.iter().position(|&byte| byte == b' ');
    let space = space.ok_or_else(|| format!("malformed PAX record: no length field before `{}`", shown(body)))?;
    let field = &body[..space];
    let length = integer(field).and_then(|length| usize::try_from(length).ok()).filter(|length| *length > space);
    let length = length.ok_or_else(|| format!("malformed PAX record: `{}` is not a length", shown(field)))?;
    let text = body.get(space + 1..length).ok_or_else(|| {
        format!("malformed PAX record: length field `{length}` exceeds the header ({} bytes left)", body.len())
    })?;
    let text = text.strip_suffix(b"\n").ok_or_else(|| {
        format!("malformed PAX record: its {length} bytes do not end in a line feed: `{}`", shown(text))
    })?;
    let equals = text.iter().position(|&byte| byte == b'=');
    let equals = equals.ok_or_else(|| format!("malformed PAX record: no `=` in `{}`", shown(text)))?;
    Ok((length, &text[..equals], &text[equals + 1..]))
}

/// Returns the beginning of `text`, escaped for a message.
fn shown(text: &[u8]) -> std::slice::EscapeAscii<'_> {
    text[..text.len().min(64)].escape_ascii()
}

/// The key of a record whose value is not a number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RecordNotANumber(pub(super) &'static str);

/// Parses a decimal number with an optional sign, as `strconv.ParseInt` does.
pub(super) fn integer(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses seconds with an optional sign and fraction, of which nine digits count.
fn time(text: &[u8]) -> Option<Timestamp> {
    let (whole, fraction) = match text.iter().position(|&byte| byte == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &[][..]),
    };
    let secs = integer(whole)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let nanos = (0..9).fold(0, |nanos, i| nanos * 10 + u32::from(fraction.get(i).map_or(0, |digit| digit - b'0')));
    Some(match (whole.starts_with(b"-"), nanos) {
        (false, _) | (true, 0) => Timestamp { secs, nanos },
        (true, _) => Timestamp { secs: secs.saturating_sub(1), nanos: 1_000_000_000 - nanos },
    })
}

fn percent_decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
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

/// Decodes base64 (RFC 4648, section 4) with or without padding, as libarchive writes it.
fn base64_decoded(text: &[u8]) -> Option<Vec<u8>> {
    const ENGINE: GeneralPurpose = GeneralPurpose::new(
        &STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true),
    );
    ENGINE.decode(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_with_signs_and_fractions() {
        let at = |secs, nanos| Some(Timestamp { secs, nanos });
        assert_eq!(time(b"1742472000.123456789"), at(1_742_472_000, 123_456_789));
        assert_eq!(time(b"0.5"), at(0, 500_000_000));
        assert_eq!(time(b"-0.5"), at(-1, 500_000_000));
        assert_eq!(time(b"-1.25"), at(-2, 750_000_000));
        assert_eq!(time(b"-315619200"), at(-315_619_200, 0));
        assert_eq!(time(b"+1.0000000019"), at(1, 1));
        assert_eq!((time(b"soon"), time(b".5"), time(b"1.+5"), time(b"1e9")), (None, None, None, None));
        assert_eq!((integer(b""), integer(b"+1"), integer(b"01"), integer(b"-2")), (None, Some(1), Some(1), Some(-2)));
    }

    #[test]
    fn values_hold_any_byte_but_names_no_nul() {
        let out = Records::parse(b"19 SCHILY.xattr.a=\n6 k=v\n8 uid=v\n").unwrap();
        assert_eq!(out.0, [(b"SCHILY.xattr.a".to_vec(), b"".to_vec()), (b"uid".to_vec(), b"v".to_vec())]);
        let out = Records::parse(b"23 SCHILY.xattr.a=b\n=\0\n").unwrap();
        assert_eq!(out.0, [(b"SCHILY.xattr.a".to_vec(), b"b\n=\0".to_vec())]);
        for bad in [&b"99 a=b\n"[..], b"10 path=\0\n", b"11 uname=\0\n", b"7 k\0=v\n", b"5 =v\n", b"6 k=v\n\0\0"] {
            assert!(Records::parse(bad).is_err(), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn pairs_of_a_sparse_map_become_one_record() {
        let (offset, length) = (b"23 GNU.sparse.offset=0\n", b"25 GNU.sparse.numbytes=5\n");
        let parse = |records: &[&[u8]]| Records::parse(&records.concat());
        assert_eq!(parse(&[&offset[..], length, offset, length]).unwrap().get("GNU.sparse.map"), Some(&b"0,5,0,5"[..]));
        for bad in [&[&length[..]][..], &[offset, offset], &[b"25 GNU.sparse.offset=0,1\n"]] {
            assert!(parse(bad).is_err());
        }
        let faults = [
            (&b"30 path=a\n"[..], "length field `30` exceeds the header (10 bytes left)"),
            (b"path=a\n", "no length field before `path=a\\n`"),
            (b"x path=a\n", "`x` is not a length"),
            (b"1 path=a\n", "`1` is not a length"),
            (b"8 path=a\n", "its 8 bytes do not end in a line feed: `path=a`"),
            (b"10 path a\n", "no `=` in `path a`"),
        ];
        for (text, fault) in faults {
            assert_eq!(Records::parse(text), Err(format!("malformed PAX record: {fault}")));
        }
    }

    #[test]
    fn libarchive_names_and_values() {
        assert_eq!(percent_decoded(b"user.a%20b").unwrap(), b"user.a b");
        assert_eq!(base64_decoded(b"AAEC/w==").unwrap(), [0, 1, 2, 255]);
        assert_eq!(base64_decoded(b"AAEC/w").unwrap(), [0, 1, 2, 255]);
        assert_eq!(base64_decoded(b"A*"), None);
    }
}

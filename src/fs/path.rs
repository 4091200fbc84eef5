//! Paths inside an image: bytes, separated by `/`, never a path of the host.
//!
//! Paths are ordered by component: `/` sorts below every byte, so the entries of a directory directly follow it.

use std::fmt;

use crate::printable::is_escaped;

/// Returns the components of `path` from the root: empty ones and `.` are dropped, and `..` goes up but not above the root.
#[must_use]
pub fn components(path: &[u8]) -> Vec<&[u8]> {
    let mut out = Vec::new();
    for part in raw_components(path) {
        if part == b".." {
            out.pop();
        } else {
            out.push(part);
        }
    }
    out
}

/// Returns the components of `path` as written, without empty ones and `.`.
pub fn raw_components(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|&b| b == b'/').filter(|part| !part.is_empty() && *part != b".")
}

/// A path in printable form: bytes that are not UTF-8, characters of [`is_escaped`], and backslashes are escaped.
#[derive(Clone, Copy)]
pub struct Display<'a>(pub &'a [u8]);

impl fmt::Display for Display<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                if is_escaped(c) || c == '\\' {
                    write!(f, "{}", c.escape_default())?;
                } else {
                    fmt::Write::write_char(f, c)?;
                }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_are_clamped_to_the_root() {
        let cases: [(&[u8], &[&[u8]]); 6] = [
            (b"./usr//bin/", &[b"usr", b"bin"]),
            (b"/etc/passwd", &[b"etc", b"passwd"]),
            (b"../../etc", &[b"etc"]),
            (b"a/../../b", &[b"b"]),
            (b"", &[]),
            (b"..dots/.hidden", &[b"..dots", b".hidden"]),
        ];
        for (path, want) in cases {
            assert_eq!(components(path), want, "{}", Display(path));
        }
    }

    #[test]
    fn odd_bytes_are_shown_escaped() {
        assert_eq!(Display("a\u{202e}b\u{200b}".as_bytes()).to_string(), "a\\u{202e}b\\u{200b}");
        assert_eq!(Display(b"caf\xe9/\xc3\xbc\n\\").to_string(), "caf\\xe9/ü\\n\\\\");
    }
}

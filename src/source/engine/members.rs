//! A tar archive as it passes: one member after the other, each read at most once and none kept.
//!
//! The archive comes from outside: extended headers are bounded, and nothing is allocated by what a header says.

use std::io::{self, Read};

use crate::fs::path::Display;
use crate::source::archive::clean;

const BLOCK: usize = 512;
/// Most bytes of an extended header.
const MAX_EXTENDED: u64 = 1 << 20;
/// Most bytes that are shown of an engine's words.
const MAX_SHOWN: usize = 300;

/// Why no more of an archive comes.
#[derive(Debug, thiserror::Error)]
pub enum Broken {
    /// The connection.
    #[error("the connection was lost")]
    Lost(#[source] io::Error),
    /// The archive ends too early, as it does when its writer fails.
    #[error("the export ended before its last byte")]
    Early,
    /// The engine says why in place of a member.
    #[error("the engine aborted the export: {0}")]
    Said(String),
    /// This is no tar.
    #[error("not a tar archive: {0}")]
    Malformed(&'static str),
}

/// A member of the archive.
#[derive(Debug, PartialEq, Eq)]
pub struct Member {
    /// Its clean name.
    pub name: Vec<u8>,
    /// What it is.
    pub kind: Kind,
}

/// What a member is.
#[derive(Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes follow.
    File,
    /// Another name for the member of this clean name.
    Link(Vec<u8>),
    /// A directory, or what else nobody asks for.
    Other,
}

/// The members of the archive that `from` reads.
pub struct Members<R> {
    from: R,
    /// Bytes of the member that were not read.
    left: u64,
    /// Bytes from its end to the next header.
    padding: u64,
}

/// What extended headers say of the member behind them.
#[derive(Default)]
struct Extended {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<R: Read> Members<R> {
    /// From the archive's start.
    pub fn new(from: R) -> Self {
        Self { from, left: 0, padding: 0 }
    }

    /// The next member; what was not read of the one before is passed over.
    ///
    /// # Errors
    /// [`Broken`].
    pub fn next_member(&mut self) -> Result<Option<Member>, Broken> {
        let mut extended = Extended::default();
        loop {
            self.pass_over()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|_| Broken::Malformed("the size of a member is not a number"))?;
            let kind = header.entry_type().as_byte();
            self.begin(if matches!(kind, b'x' | b'g' | b'L' | b'K') { size } else { extended.size.unwrap_or(size) })?;
            match kind {
                b'x' => extended.read(&self.extended()?)?,
                b'L' => extended.name = Some(until_zero(self.extended()?)),
                b'K' => extended.link = Some(until_zero(self.extended()?)),
                b'g' => _ = self.extended()?,
                _ => return Ok(Some(member(&header, kind, extended))),
            }
        }
    }

    /// Reads bytes of the member; 0 at its end.
    ///
    /// # Errors
    /// [`Broken::Lost`] and [`Broken::Early`].
    pub fn read(&mut self, buf: &mut [u8]) -> Result<usize, Broken> {
        let wanted = buf.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let n = read_some(&mut self.from, &mut buf[..wanted])?;
        self.left -= n as u64;
        if n == 0 { Err(Broken::Early) } else { Ok(n) }
    }

    /// How many bytes of the member were not read.
    pub fn left(&self) -> u64 {
        self.left
    }

    fn begin(&mut self, size: u64) -> Result<(), Broken> {
        let padded = size
            .checked_next_multiple_of(BLOCK as u64)
            .ok_or(Broken::Malformed("the size of a member is too large"))?;
        (self.left, self.padding) = (size, padded - size);
        Ok(())
    }

    fn pass_over(&mut self) -> Result<(), Broken> {
        self.left += self.padding;
        self.padding = 0;
        let mut buf = [0; 16 * 1024];
        while self.read(&mut buf)? > 0 {}
        Ok(())
    }

    /// The next header; `None` at the archive's end.
    fn header(&mut self) -> Result<Option<tar::Header>, Broken> {
        let (mut block, mut filled) = ([0; BLOCK], 0);
        while filled < BLOCK {
            match read_some(&mut self.from, &mut block[filled..])? {
                0 if block.starts_with(br#"{"error"#) => return Err(Broken::Said(shown(&block[..filled]))),
                0 => return Err(Broken::Early),
                n => filled += n,
            }
        }
        if block.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        if block.starts_with(br#"{"error"#) {
            return Err(Broken::Said(shown(&block)));
        }
        let sum: u32 = block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]).map(|byte| u32::from(*byte)).sum();
        let header = tar::Header::from_byte_slice(&block).clone();
        match header.cksum() {
            Ok(said) if said == sum => Ok(Some(header)),
            _ => Err(Broken::Malformed("the checksum of a header is wrong")),
        }
    }

    fn extended(&mut self) -> Result<Vec<u8>, Broken> {
        if self.left > MAX_EXTENDED {
            return Err(Broken::Malformed("an extended header is larger than 1 MiB"));
        }
        let mut bytes = Vec::new();
        let mut buf = [0; BLOCK];
        loop {
            match self.read(&mut buf)? {
                0 => return Ok(bytes),
                n => bytes.extend_from_slice(&buf[..n]),
            }
        }
    }
}

impl Extended {
    /// A PAX header.
    fn read(&mut self, records: &[u8]) -> Result<(), Broken> {
        const WRONG: Broken = Broken::Malformed("a PAX header is malformed");
        for record in tar::PaxExtensions::new(records) {
            let record = record.map_err(|_| WRONG)?;
            let value = record.value_bytes();
            match record.key_bytes() {
                b"path" => self.name = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => {
                    let number = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                    self.size = Some(number.ok_or(WRONG)?);
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn member(header: &tar::Header, kind: u8, extended: Extended) -> Member {
    let name = extended.name.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = || extended.link.unwrap_or_else(|| header.link_name_bytes().unwrap_or_default().into_owned());
    let kind = match kind {
        b'0' | 0 | b'7' => Kind::File,
        // A hard link's target counts from the root, a symlink's from its own directory.
        b'1' => Kind::Link(clean(&link())),
        b'2' => Kind::Link(clean(&[&name, &b"/../"[..], &link()].concat())),
        _ => Kind::Other,
    };
    Member { name: clean(&name), kind }
}

fn until_zero(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    bytes
}

/// What stands in place of a header.
#[derive(serde::Deserialize)]
struct Reason {
    error: String,
}

fn shown(bytes: &[u8]) -> String {
    let reason = serde_json::from_slice(bytes).map(|Reason { error }| error.into_bytes());
    let bytes = reason.as_deref().unwrap_or(bytes);
    Display(&bytes[..bytes.len().min(MAX_SHOWN)]).to_string()
}

fn read_some(from: &mut impl Read, buf: &mut [u8]) -> Result<usize, Broken> {
    loop {
        match from.read(buf) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read.map_err(Broken::Lost),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn archive() -> Vec<u8> {
        let mut out = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(5);
        out.append_data(&mut header, "layers/one", &b"bytes"[..]).unwrap();
        let mut link = tar::Header::new_gnu();
        link.set_size(0);
        link.set_entry_type(tar::EntryType::Symlink);
        out.append_link(&mut link, "layers/two", "./one").unwrap();
        header.set_size(700);
        out.append_data(&mut header, "long/".repeat(60) + "name", &[7; 700][..]).unwrap();
        out.into_inner().unwrap()
    }

    fn all(bytes: &[u8]) -> Result<Vec<(Member, Vec<u8>)>, Broken> {
        let (mut members, mut found) = (Members::new(bytes), Vec::new());
        while let Some(member) = members.next_member()? {
            let (mut read, mut buf) = (Vec::new(), [0; 100]);
            loop {
                match members.read(&mut buf)? {
                    0 => break,
                    n => read.extend_from_slice(&buf[..n]),
                }
            }
            found.push((member, read));
        }
        Ok(found)
    }

    #[test]
    fn members_links_and_long_names_are_read() {
        let found = all(&archive()).unwrap();
        assert_eq!(found[0], (Member { name: b"layers/one".to_vec(), kind: Kind::File }, b"bytes".to_vec()));
        assert_eq!(found[1].0, Member { name: b"layers/two".to_vec(), kind: Kind::Link(b"layers/one".to_vec()) });
        assert_eq!((found[2].0.name.len(), &found[2].1), (304, &vec![7; 700]));
    }

    /// Also where it would be whole without its end, and inside a header.
    #[test]
    fn an_archive_that_ends_too_early_is_not_taken_for_whole() {
        let whole = archive();
        for length in (0..whole.len() - 1024).step_by(64) {
            assert!(matches!(all(&whole[..length]), Err(Broken::Early)), "{length}");
        }
    }

    #[test]
    fn an_engine_that_breaks_off_is_heard() {
        let said = br#"{"errorDetail":{"message":"no space"},"error":"no space"}"#;
        let bytes = [&archive()[..1024], said].concat();
        assert!(matches!(all(&bytes), Err(Broken::Said(words)) if words.contains("no space")));
    }

    /// PAX and base-256 sizes, of members that need not be read to be passed over.
    #[test]
    fn large_sizes_are_believed_and_impossible_ones_refused() {
        let mut header = tar::Header::new_ustar();
        header.set_size(12);
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        bytes.extend_from_slice(&[&b"12 size=600\n"[..], &[0; 500]].concat());
        header.set_entry_type(tar::EntryType::Regular);
        header.set_size(0);
        header.set_cksum();
        bytes.extend_from_slice(header.as_bytes());
        bytes.extend_from_slice(&[1; 1024]);
        bytes.extend_from_slice(&[0; 1024]);
        assert_eq!(all(&bytes).unwrap()[0].1, [1; 600]);
        header.set_size(u64::MAX);
        header.set_cksum();
        assert!(matches!(all(header.as_bytes()), Err(Broken::Malformed(_))));
        header.set_entry_type(tar::EntryType::XHeader);
        header.set_size(MAX_EXTENDED + 1);
        header.set_cksum();
        assert!(matches!(all(header.as_bytes()), Err(Broken::Malformed(_))));
    }

    proptest! {
        /// Whatever comes, it ends, and gives no more bytes than came.
        #[test]
        fn any_bytes_end(spoiled in prop::collection::vec((0..4096usize, any::<u8>()), 0..8), cut in 0..4096usize) {
            let mut bytes = archive();
            for (at, byte) in spoiled {
                let at = at % bytes.len();
                bytes[at] = byte;
            }
            bytes.truncate(cut.max(512));
            if let Ok(found) = all(&bytes) {
                prop_assert!(found.iter().map(|(_, read)| read.len()).sum::<usize>() <= bytes.len());
            }
        }
    }
}

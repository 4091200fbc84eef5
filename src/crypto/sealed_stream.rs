//! An encrypted stream of any length: the form of the conversion cache's entries.
//!
//! `magic | 32 random bytes | part…`, a part being `u8 last | u32 length | ciphertext and tag`. Every stream has a key of its own,
//! derived from the random bytes, and every part a key derived from its number and from whether it is the last. So a key encrypts
//! once, and a stream with parts moved, omitted or truncated cannot be decrypted.

use std::io::{self, Read, Write};

use super::convergent::{TAG, mac};
use super::data_key::DataKey;
use super::secret::Secret;
use crate::random::random_bytes;

const MAGIC: &[u8; 8] = b"\x89CPS1\r\n\n";
/// Length of a part before encryption, in bytes.
const PART: usize = 256 * 1024;

/// A writer that encrypts.
pub struct SealingWriter<'a, W: Write> {
    to: W,
    key: Secret,
    about: &'a [u8],
    part: Vec<u8>,
    number: u64,
}

/// A reader that decrypts what [`SealingWriter`] wrote.
pub struct OpeningReader<'a, R: Read> {
    from: R,
    key: Secret,
    about: &'a [u8],
    part: Vec<u8>,
    used: usize,
    number: u64,
    last: bool,
}

fn part_key(key: &Secret, number: u64, last: bool) -> DataKey {
    let mut about = number.to_le_bytes().to_vec();
    about.push(last.into());
    DataKey(Secret::from_bytes(mac(key, &about)))
}

impl<'a, W: Write> SealingWriter<'a, W> {
    /// Begins a stream that can be decrypted with the same `key` and subject `about` only.
    ///
    /// # Errors
    /// Those of `to`, and where there are no random bytes.
    pub fn new(mut to: W, key: &Secret, about: &'a [u8]) -> io::Result<Self> {
        let random = random_bytes::<32>().map_err(io::Error::other)?;
        to.write_all(MAGIC)?;
        to.write_all(&random)?;
        let key = Secret::from_bytes(mac(key, &random));
        Ok(Self { to, key, about, part: Vec::with_capacity(PART + TAG), number: 0 })
    }

    fn end_part(&mut self, last: bool) -> io::Result<()> {
        part_key(&self.key, self.number, last).seal(self.about, &mut self.part);
        let length = u32::try_from(self.part.len()).expect("a part is small");
        self.to.write_all(&[last.into()])?;
        self.to.write_all(&length.to_le_bytes())?;
        self.to.write_all(&self.part)?;
        self.part.clear();
        self.number += 1;
        Ok(())
    }

    /// Encrypts and writes the last part.
    ///
    /// # Errors
    /// Those of the writer below.
    pub fn finish(mut self) -> io::Result<()> {
        self.end_part(true)?;
        self.to.flush()
    }
}

impl<W: Write> Write for SealingWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.part.len() == PART {
            self.end_part(false)?;
        }
        let n = bytes.len().min(PART - self.part.len());
        self.part.extend_from_slice(&bytes[..n]);
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a, R: Read> OpeningReader<'a, R> {
    /// Reads the head of a stream with the subject `about`.
    ///
    /// # Errors
    /// `InvalidData` where `from` does not begin as such a stream; those of `from`.
    pub fn new(mut from: R, key: &Secret, about: &'a [u8]) -> io::Result<Self> {
        let (mut magic, mut random) = ([0; MAGIC.len()], [0; 32]);
        from.read_exact(&mut magic)?;
        from.read_exact(&mut random)?;
        if magic != *MAGIC {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let key = Secret::from_bytes(mac(key, &random));
        Ok(Self { from, key, about, part: Vec::new(), used: 0, number: 0, last: false })
    }

    fn next_part(&mut self) -> io::Result<()> {
        let (mut last, mut length) = ([0], [0; 4]);
        self.from.read_exact(&mut last)?;
        self.from.read_exact(&mut length)?;
        let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
        if !(TAG..=PART + TAG).contains(&length) || last[0] > 1 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.part.resize(length, 0);
        self.from.read_exact(&mut self.part)?;
        self.last = last[0] == 1;
        let key = part_key(&self.key, self.number, self.last);
        let opened = key.open(self.about, &mut self.part).map_err(|_| io::ErrorKind::InvalidData)?.len();
        self.part.truncate(opened);
        (self.used, self.number) = (0, self.number + 1);
        Ok(())
    }

    /// Checks that the stream was read to its end.
    ///
    /// # Errors
    /// `InvalidData` where there is more data.
    pub fn finish(mut self) -> io::Result<()> {
        match self.read(&mut [0])? {
            0 => Ok(()),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

impl<R: Read> Read for OpeningReader<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        while self.used == self.part.len() && !self.last {
            self.next_part()?;
        }
        let n = buf.len().min(self.part.len() - self.used);
        buf[..n].copy_from_slice(&self.part[self.used..self.used + n]);
        self.used += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Secret {
        Secret::from_bytes([byte; 32])
    }

    fn sealed(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut writer = SealingWriter::new(&mut out, &key(1), b"name").unwrap();
        writer.write_all(bytes).unwrap();
        writer.finish().unwrap();
        out
    }

    fn opened(bytes: &[u8], key: &Secret, about: &[u8]) -> io::Result<Vec<u8>> {
        let mut reader = OpeningReader::new(bytes, key, about)?;
        let mut out = Vec::new();
        reader.read_to_end(&mut out)?;
        reader.finish()?;
        Ok(out)
    }

    #[test]
    fn streams_of_every_length_come_back() {
        for length in [0, 1, PART - 1, PART, PART + 1, 3 * PART] {
            let bytes: Vec<u8> = (0..length).map(|at| at.to_le_bytes()[0]).collect();
            assert!(opened(&sealed(&bytes), &key(1), b"name").unwrap() == bytes, "{length}");
        }
    }

    #[test]
    fn what_was_altered_moved_cut_or_is_another_s_does_not_open() {
        let bytes = vec![7; 2 * PART + 100];
        let good = sealed(&bytes);
        assert!(opened(&good, &key(2), b"name").is_err());
        assert!(opened(&good, &key(1), b"other").is_err());
        for at in [0, 9, 40, 41, 45, 100, PART, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(opened(&bad, &key(1), b"name").is_err(), "{at}");
        }
        let part = 5 + PART + TAG;
        let (first, second) = (40..40 + part, 40 + part..40 + 2 * part);
        let swapped = [&good[..40], &good[second.clone()], &good[first.clone()], &good[second.end..]].concat();
        let without = [&good[..40], &good[second.clone()], &good[second.end..]].concat();
        for bad in [&swapped, &without, &good[..second.end].to_vec(), &good[..good.len() - 1].to_vec()] {
            assert!(opened(bad, &key(1), b"name").is_err());
        }
    }
}

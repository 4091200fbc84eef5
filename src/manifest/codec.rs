//! Encoding and decoding of little-endian integers and length-prefixed bytes. A length is checked against the remaining bytes
//! before it is used.

use crate::digest::Sha256;
use crate::printable::is_escaped;

/// An encoder that appends fields to a buffer.
#[derive(Debug, Default)]
pub(super) struct Encoder(pub(super) Vec<u8>);

impl Encoder {
    pub(super) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(super) fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("counts are bounded by the device's chunks"));
    }

    /// Appends a length of 16 bits and the text.
    pub(super) fn text(&mut self, text: &str) {
        self.u16(u16::try_from(text.len()).expect("texts are bounded where they enter a manifest"));
        self.raw(text.as_bytes());
    }

    /// Appends a length of 32 bits and the bytes.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        self.count(bytes.len());
        self.raw(bytes);
    }
}

/// Bytes that are not of the format; the message completes "it …".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub(super) &'static str);

const SHORT: DecodeError = DecodeError("is truncated");

/// A decoder that takes fields from the front of a buffer.
pub(super) struct Decoder<'a>(pub(super) &'a [u8]);

impl<'a> Decoder<'a> {
    pub(super) fn raw(&mut self, length: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(SHORT)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        self.raw(N)?.try_into().map_err(|_| SHORT)
    }

    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn sha256(&mut self) -> Result<Sha256, DecodeError> {
        self.array().map(Sha256::from_bytes)
    }

    /// Decodes a count of items of at least `size` bytes each, and checks that the remaining bytes can contain that many.
    pub(super) fn count(&mut self, size: usize) -> Result<usize, DecodeError> {
        let count = usize::try_from(self.u32()?).map_err(|_| SHORT)?;
        if count > self.0.len() / size { Err(SHORT) } else { Ok(count) }
    }

    pub(super) fn text(&mut self) -> Result<String, DecodeError> {
        let length = self.u16()?.into();
        let text = std::str::from_utf8(self.raw(length)?).map_err(|_| DecodeError("has a text that is not UTF-8"))?;
        // Texts are printed, some before anything is authenticated.
        if text.chars().any(is_escaped) {
            Err(DecodeError("has a text with control characters"))
        } else {
            Ok(text.to_owned())
        }
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], DecodeError> {
        let length = self.count(1)?;
        self.raw(length)
    }

    pub(super) fn end(self) -> Result<(), DecodeError> {
        if self.0.is_empty() { Ok(()) } else { Err(DecodeError("has bytes after its end")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_is_of_no_more_items_than_can_be_there() {
        let count = |left: usize| Decoder(&[&3u32.to_le_bytes()[..], &vec![0; left]].concat()).count(8);
        assert_eq!((count(23), count(24), count(1_000)), (Err(SHORT), Ok(3), Ok(3)));
    }
}

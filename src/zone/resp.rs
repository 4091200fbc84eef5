//! The part of the Redis serialization protocol (RESP2) that the zone's cache needs: commands out, replies in.
//!
//! A reply is taken from the socket as it comes, into the place where it stays, and never grows past what was asked for. Fuzzed.

use std::io::{self, ErrorKind, Read};

/// Longest line: a status, an error, a number, a length.
const LINE: usize = 512;
/// What is read for a line at once; most of it is the beginning of the value behind it.
const PIECE: usize = 64;

/// What a server answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// `+OK` and the like.
    Status,
    /// A number.
    Number(i64),
    /// A value.
    Bytes(Vec<u8>),
    /// There is none.
    Nothing,
    /// It refuses, and says why.
    Refused(String),
}

/// Writes a command behind what is in `out`.
pub fn encode(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        out.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        out.extend_from_slice(word);
        out.extend_from_slice(b"\r\n");
    }
}

/// Takes replies from a stream, in whatever pieces they come.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What came behind the last reply.
    line: Vec<u8>,
    value: Option<Value>,
    received: u64,
}

#[derive(Debug)]
struct Value {
    /// Of the value, and the line's end behind it.
    bytes: Vec<u8>,
    filled: usize,
}

fn broken(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

impl Decoder {
    /// The next reply from `stream`, a value of at most `limit` bytes; `None` where the stream has no more for now.
    ///
    /// # Errors
    /// Those of the stream; `InvalidData` where it is no reply; `UnexpectedEof` where it ends.
    pub fn read(&mut self, stream: &mut impl Read, limit: usize) -> io::Result<Option<Reply>> {
        loop {
            if let Some(value) = &mut self.value {
                if value.filled == value.bytes.len() {
                    let Some(Value { mut bytes, .. }) = self.value.take() else { return Err(broken("no value")) };
                    if !bytes.ends_with(b"\r\n") {
                        return Err(broken("a value that does not end where it should"));
                    }
                    bytes.truncate(bytes.len() - 2);
                    return Ok(Some(Reply::Bytes(bytes)));
                }
                let Some(read) = fill(stream, &mut value.bytes[value.filled..])? else { return Ok(None) };
                value.filled += read;
                self.received += read as u64;
                continue;
            }
            if let Some(end) = self.line.windows(2).position(|pair| pair == b"\r\n") {
                let behind = self.line.split_off(end + 2);
                let line = std::mem::replace(&mut self.line, behind);
                if let Some(reply) = self.take_line(&line[..end], limit)? {
                    return Ok(Some(reply));
                }
                continue;
            }
            if self.line.len() > LINE {
                return Err(broken("a line that does not end"));
            }
            let mut piece = [0; PIECE];
            let Some(read) = fill(stream, &mut piece)? else { return Ok(None) };
            self.line.extend_from_slice(&piece[..read]);
            self.received += read as u64;
        }
    }

    /// Bytes that ever came.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received
    }

    /// What a line says; `None` where it is the length of a value that is still to come.
    fn take_line(&mut self, line: &[u8], limit: usize) -> io::Result<Option<Reply>> {
        let (kind, text) = line.split_first().ok_or_else(|| broken("an empty line"))?;
        let text = str::from_utf8(text).map_err(|_| broken("a line that is not text"))?;
        let number = || text.parse::<i64>().map_err(|_| broken("no number"));
        match kind {
            b'+' => Ok(Some(Reply::Status)),
            b'-' => Ok(Some(Reply::Refused(text.to_owned()))),
            b':' => number().map(|number| Some(Reply::Number(number))),
            b'$' => match number()? {
                -1 => Ok(Some(Reply::Nothing)),
                length => {
                    let length = usize::try_from(length).ok().filter(|length| *length <= limit);
                    let length = length.ok_or_else(|| broken("a value that is too long"))?;
                    let mut bytes = vec![0; length + 2];
                    let filled = self.line.len().min(bytes.len());
                    bytes[..filled].copy_from_slice(&self.line[..filled]);
                    self.line.drain(..filled);
                    self.value = Some(Value { bytes, filled });
                    Ok(None)
                }
            },
            _ => Err(broken("no reply")),
        }
    }
}

/// Reads once; `None` where there is nothing for now.
fn fill(stream: &mut impl Read, buf: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        match stream.read(buf) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(read) => return Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gives its bytes in pieces, and between them nothing.
    struct Slow<'b>(&'b [u8], usize, bool);

    impl Read for Slow<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            self.2 = !self.2;
            if self.2 || self.0.is_empty() {
                return Err(ErrorKind::WouldBlock.into());
            }
            let length = self.1.min(buf.len()).min(self.0.len());
            buf[..length].copy_from_slice(&self.0[..length]);
            self.0 = &self.0[length..];
            Ok(length)
        }
    }

    fn replies(bytes: &[u8], piece: usize, limit: usize) -> io::Result<Vec<Reply>> {
        let (mut stream, mut decoder, mut replies) = (Slow(bytes, piece, false), Decoder::default(), Vec::new());
        for _ in 0..bytes.len() * 2 + 2 {
            replies.extend(decoder.read(&mut stream, limit)?);
        }
        Ok(replies)
    }

    #[test]
    fn replies_come_in_pieces_of_any_size() {
        let long = vec![b'x'; 1000];
        let mut bytes = b"+OK\r\n:-12\r\n$-1\r\n$0\r\n\r\n$1000\r\n".to_vec();
        bytes.extend_from_slice(&long);
        bytes.extend_from_slice(b"\r\n-ERR no\r\n$3\r\na\r\n\r\n");
        for piece in [1, 2, 7, 64, 4096] {
            let want = [
                Reply::Status,
                Reply::Number(-12),
                Reply::Nothing,
                Reply::Bytes(Vec::new()),
                Reply::Bytes(long.clone()),
                Reply::Refused("ERR no".to_owned()),
                Reply::Bytes(b"a\r\n".to_vec()),
            ];
            assert_eq!(replies(&bytes, piece, 1000).unwrap(), want, "{piece}");
        }
    }

    #[test]
    fn what_is_no_reply_or_more_than_may_be_ends_the_session() {
        let endless = vec![b'+'; 4096];
        for bad in [
            &b"$1001\r\n"[..],
            b"$-2\r\n",
            b"$x\r\n",
            b"*1\r\n",
            b"\r\n",
            b"$1\r\nabc\r\n",
            b":\r\n",
            b"+\xFF\r\n",
            &endless,
        ] {
            assert_eq!(replies(bad, 64, 1000).unwrap_err().kind(), ErrorKind::InvalidData, "{bad:?}");
        }
        assert_eq!(Decoder::default().read(&mut &b"+O"[..], 0).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    #[test]
    fn commands_are_arrays_of_strings() {
        let mut out = Vec::new();
        encode(&mut out, &[b"SET", b"k", b"a\r\nb"]);
        assert_eq!(out, b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$4\r\na\r\nb\r\n");
    }
}

//! What a cache server sends: replies, in pieces as the first byte says.
#![no_main]

use std::io::{ErrorKind, Read};

use coldpress::zone::resp::{Decoder, Reply};
use libfuzzer_sys::fuzz_target;

const LIMIT: usize = 1000;

struct Pieces<'b>(&'b [u8], usize, bool);

impl Read for Pieces<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        self.2 = !self.2;
        if self.2 {
            return Err(ErrorKind::WouldBlock.into());
        }
        let length = self.1.min(buf.len()).min(self.0.len());
        buf[..length].copy_from_slice(&self.0[..length]);
        self.0 = &self.0[length..];
        Ok(length)
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Some((piece, bytes)) = bytes.split_first() else { return };
    let (mut stream, mut decoder) = (Pieces(bytes, usize::from(*piece).max(1), false), Decoder::default());
    for _ in 0..bytes.len() * 2 + 4 {
        match decoder.read(&mut stream, LIMIT) {
            Ok(Some(Reply::Bytes(value))) => assert!(value.len() <= LIMIT),
            Ok(_) => {}
            Err(_) => return,
        }
    }
});

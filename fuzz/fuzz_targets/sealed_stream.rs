//! A cache's file: parts of any length, of which none opens that was not sealed so.
#![no_main]

use std::io::{Read, Write};

use coldpress::crypto::Secret;
use coldpress::crypto::sealed_stream::{OpeningReader, SealingWriter};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let key = Secret::from_bytes([7; 32]);
    let mut out = Vec::new();
    if let Ok(mut reader) = OpeningReader::new(bytes, &key, b"name") {
        assert!(reader.read_to_end(&mut out).is_err(), "nobody sealed it");
    }
    // What was sealed and altered at one place does not open.
    let mut sealed = Vec::new();
    let mut writer = SealingWriter::new(&mut sealed, &key, b"name").expect("random bytes");
    writer.write_all(bytes).and_then(|()| writer.finish()).expect("a vector takes all");
    let at = bytes.iter().fold(0usize, |at, byte| at.wrapping_mul(31).wrapping_add((*byte).into())) % sealed.len();
    sealed[at] ^= 1;
    let read = OpeningReader::new(&sealed[..], &key, b"name").and_then(|mut reader| {
        out.clear();
        reader.read_to_end(&mut out)?;
        reader.finish()
    });
    assert!(read.is_err(), "byte {at} was another");
});

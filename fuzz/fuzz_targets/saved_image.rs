//! The stream in which an engine sends an image: its members, half of them read.
#![no_main]

use coldpress::source::engine::members::Members;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let (mut members, mut read, mut buf) = (Members::new(bytes), 0, [0; 4096]);
    while let Ok(Some(member)) = members.next_member() {
        if member.name.len() % 2 == 0 {
            continue;
        }
        while let Ok(n @ 1..) = members.read(&mut buf) {
            read += n;
        }
    }
    assert!(read <= bytes.len());
});

//! A key file; no error may tell a part of it.
#![no_main]

use coldpress::keys::KeyFile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(key) = KeyFile::decode(text) {
        let again = KeyFile::decode(&key.encode()).expect("what is written is read");
        assert_eq!(again.wrapping_key.secret(), key.wrapping_key.secret());
    }
});

//! A recorded start, and its picture.
#![no_main]

use coldpress::read::picture::svg;
use coldpress::read::profile::Profile;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(profile) = Profile::decode(bytes) {
        let again = Profile::decode(profile.encode().as_bytes()).expect("it is a profile");
        assert_eq!(again, profile);
        assert!(svg(&profile).ends_with("</svg>\n"));
    }
});

//! An image's config.
#![no_main]

use coldpress::source::ImageConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ImageConfig::parse(bytes) {
        // The normal form is a fixed point, but for the layers, which are not in it.
        let rest = &config.normal[1..];
        let comma = if rest == "}" { "" } else { "," };
        let again = format!(r#"{{"rootfs":{{"diff_ids":[]}}{comma}{rest}"#);
        assert_eq!(ImageConfig::parse(again.as_bytes()).expect("it is a config").normal, config.normal);
    }
});

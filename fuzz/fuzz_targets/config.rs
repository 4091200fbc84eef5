//! An image's config.
#![no_main]

use coldpress::source::ImageConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(config) = ImageConfig::parse(bytes) {
        // The normal form is a fixed point, but for the layers, which are not in it.
        let again = config.normal.replacen('{', r#"{"rootfs":{"diff_ids":[]},"#, 1).replace(",}", "}");
        assert_eq!(ImageConfig::parse(again.as_bytes()).expect("it is a config").normal, config.normal);
    }
});

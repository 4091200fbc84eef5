//! What a registry can send that we read ourselves: a challenge, the name of an image; and what people type.
#![no_main]

use coldpress::registry::RegistryRef;
use coldpress::registry::auth::Challenge;
use coldpress::source::ImageRef;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(Challenge::Bearer { realm, .. }) = Challenge::parse(text) {
        assert!(!realm.contains('"'));
    }
    if let Ok(name) = text.parse::<RegistryRef>() {
        let shown = name.to_string();
        let again: RegistryRef = shown.strip_prefix("docker://").expect("it is shown so").parse().expect("it is a name");
        assert_eq!(again, name, "{shown}");
        assert!(!shown.contains([' ', '?', '#', '\\']) && !name.repository.contains(".."), "{shown}");
    }
    let _ = text.parse::<ImageRef>();
});

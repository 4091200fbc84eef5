//! What an image says of its program and its users.
#![no_main]

use coldpress::bundle::{Image, Options, User, encode, spec};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (&str, &str, &[u8], &[u8])| {
    let (config, user, users, groups) = input;
    let found = User::find(user, users, groups);
    if let Ok(found) = &found {
        assert_eq!(found.groups.first(), Some(&found.gid));
        assert!(found.uid != u32::MAX && found.groups.iter().all(|group| *group != u32::MAX));
    }
    let Ok(image) = Image::decode(config) else { return };
    if let Ok(spec) = spec(&image, &found.unwrap_or_default(), &Options::default()) {
        let process = spec.process().as_ref().expect("it has one");
        assert!(process.cwd().is_absolute());
        assert!(process.env().iter().flatten().all(|variable| !variable.contains('\0') && variable.contains('=')));
        assert!(!encode(&spec).is_empty());
    }
});

//! An archive of an image: the members of the tar, index, manifests, and docker's manifest.json.
#![no_main]

use std::io::Write;

use coldpress::progress::Silent;
use coldpress::source::{self, ImageRef, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let directory = std::path::Path::new("/dev/shm");
    let mut file = tempfile::NamedTempFile::new_in(directory).expect("memory");
    file.write_all(bytes).expect("memory");
    let path = file.path().to_owned();
    let limits = Limits { temp: directory, max_size: 64 << 20, max_file: u64::MAX, max_entries: 1 << 20, progress: &Silent };
    for reference in [
        ImageRef::OciArchive { file: path.clone(), tag: None },
        ImageRef::DockerArchive { file: path.clone(), reference: None },
    ] {
        let _ = source::open(&reference, None, &source::Access::default(), limits);
    }
});

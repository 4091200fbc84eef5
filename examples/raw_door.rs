//! `raw_door FILE nbd SOCKET | fuse PATH`: a raw file at the doors of `coldread serve`, for measurements beside it.
//!
//! Until it is killed.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for measurements")]

use std::fs::File;
use std::net::Shutdown;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use coldpress::fs::BlockDevice;
use coldpress::serve::Watch;
use coldpress::serve::buffers::Buffers;
use coldpress::serve::fuse::Door;
use coldpress::serve::nbd::{self, Exports, Service};
use coldpress::{Error, Result};

struct Raw(File, u64);

impl BlockDevice for Raw {
    fn size(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.0.read_exact_at(buf, offset).map_err(|error| Error::io("the file", error))
    }

    fn read_at_hand(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.0.read_exact_at(buf, offset).is_ok()
    }
}

struct Quiet;

impl Watch for Quiet {
    fn failed(&self, error: &Error) {
        println!("{}", error.chain());
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [file, door, place] = &arguments[..] else { panic!("raw_door FILE nbd|fuse PLACE") };
    let file = File::open(file).unwrap();
    let size = file.metadata().unwrap().len();
    let device: Arc<dyn BlockDevice> = Arc::new(Raw(file, size));
    if door == "fuse" {
        File::create(place).unwrap();
        let _door = Door::open(device, place.as_ref(), "raw-door", 16, Arc::new(Quiet)).unwrap();
        println!("ready");
        loop {
            std::thread::park();
        }
    }
    let mut exports = Exports::default();
    exports.add("raw", device);
    let buffers = Arc::new(Buffers::new(64 << 20));
    let listener = UnixListener::bind(place).unwrap();
    println!("ready");
    for stream in listener.incoming().flatten() {
        let exports = exports.clone();
        let buffers = Arc::clone(&buffers);
        std::thread::spawn(move || {
            let service = Service { exports: &exports, buffers: &buffers, threads: 16, watch: &Quiet };
            nbd::serve(&stream, &stream, &|| drop(stream.shutdown(Shutdown::Both)), &service)
        });
    }
}

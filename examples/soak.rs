//! `soak MINUTES FILE NBD-SOCKET FUSE-FILE LOOP-DEVICE VHOST-SOCKET`: random reads of every alignment and size through four doors of one
//! image at once, 64 at a time through each, compared with what FILE has.
//!
//! What the kernel keeps of the file and of the loop device is dropped twice a second, so that they are asked. Prints a table; fails where
//! a byte differs.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for measurements")]
#![expect(dead_code, unreachable_pub, reason = "the tests use more of it")]

#[path = "../tests/it/support/nbd_client.rs"]
mod nbd_client;
#[path = "../tests/it/support/vhost_client.rs"]
mod vhost_client;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nbd_client::Client;
use rustix::fs::{Advice, fadvise};
use vhost_client::Guest;

/// Reads of a door at a time, and connections that share them where a connection takes several.
const AT_A_TIME: u64 = 64;
const CONNECTIONS: u64 = 4;
const EACH: u64 = AT_A_TIME / CONNECTIONS;
/// Longest reads: powers of two up to this one.
const LONGEST_EXPONENT: u64 = 19;

/// Where reads go; the same for the same seed.
struct Places {
    state: u64,
    size: u64,
    unit: u64,
}

impl Places {
    fn next_number(&mut self) -> u64 {
        // SplitMix64.
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Offset and length, both multiples of the door's unit; short ones are as frequent as long ones.
    fn next_read(&mut self) -> (u64, u64) {
        let most = 1 << (self.next_number() % (LONGEST_EXPONENT + 1));
        let length = (1 + self.next_number() % most).next_multiple_of(self.unit);
        let offset = self.next_number() % (self.size - length + 1);
        (offset / self.unit * self.unit, length)
    }
}

/// What a door came to.
#[derive(Default)]
struct Outcome {
    reads: AtomicU64,
    bytes: AtomicU64,
    wrong: AtomicU64,
}

struct Soak {
    device: Vec<u8>,
    ends: Instant,
}

impl Soak {
    fn is_over(&self) -> bool {
        Instant::now() >= self.ends
    }

    fn places(&self, seed: u64, unit: u64) -> Places {
        Places { state: seed, size: self.device.len() as u64, unit }
    }

    fn compare(&self, outcome: &Outcome, offset: u64, bytes: &[u8]) {
        outcome.reads.fetch_add(1, Ordering::Relaxed);
        outcome.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let from = usize::try_from(offset).unwrap();
        if *bytes != self.device[from..from + bytes.len()] && outcome.wrong.fetch_add(1, Ordering::Relaxed) < 10 {
            println!("wrong: {offset}+{}", bytes.len());
        }
    }

    fn nbd(&self, socket: &str, seed: u64, outcome: &Outcome) {
        let (mut client, mut places) = (Client::wait_for(socket.as_ref()), self.places(seed, 1));
        let mut asked = BTreeMap::new();
        let mut cookie = 0;
        loop {
            while (asked.len() as u64) < EACH && !self.is_over() {
                let (offset, length) = places.next_read();
                client.ask(0, cookie, offset, length);
                asked.insert(cookie, (offset, length));
                cookie += 1;
            }
            if asked.is_empty() {
                return;
            }
            let (cookie, bytes) = client.answer(|cookie| asked[&cookie].1);
            let (offset, _) = asked.remove(&cookie).unwrap();
            self.compare(outcome, offset, &bytes.unwrap());
        }
    }

    /// Through the kernel, which may keep what it read.
    fn file(&self, path: &str, seed: u64, outcome: &Outcome) {
        let (file, mut places) = (File::open(path).unwrap(), self.places(seed, 1));
        while !self.is_over() {
            let (offset, length) = places.next_read();
            let mut bytes = vec![0; usize::try_from(length).unwrap()];
            file.read_exact_at(&mut bytes, offset).unwrap();
            self.compare(outcome, offset, &bytes);
        }
    }

    /// Has the kernel forget what it read of a file; not so often that it forgets what it read ahead before that is asked for.
    fn forget(&self, path: &str) {
        let file = File::open(path).unwrap();
        while !self.is_over() {
            fadvise(&file, 0, None, Advice::DontNeed).unwrap();
            std::thread::sleep(Duration::from_millis(500));
        }
    }

    fn disk(&self, socket: &str, seed: u64, outcome: &Outcome) {
        let (mut guest, mut places) = (Guest::connect(socket.as_ref(), 1, 0), self.places(seed, 512));
        let mut asked = BTreeMap::new();
        let mut ask = |guest: &mut Guest, place: u16| {
            let (offset, length) = places.next_read();
            guest.read(0, place, offset / 512, u32::try_from(length).unwrap());
            (offset, usize::try_from(length).unwrap())
        };
        for place in 0..u16::try_from(EACH).unwrap() {
            asked.insert(place, ask(&mut guest, place));
        }
        while !asked.is_empty() {
            for (place, status) in guest.answers(0) {
                let (offset, length) = asked.remove(&place).unwrap();
                assert_eq!(status, 0, "{offset}+{length}");
                self.compare(outcome, offset, &guest.bytes(0, place, length));
                if !self.is_over() {
                    asked.insert(place, ask(&mut guest, place));
                }
            }
        }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [minutes, file, nbd, fuse, device, disk] = &arguments[..] else {
        panic!("soak MINUTES FILE NBD-SOCKET FUSE-FILE LOOP-DEVICE VHOST-SOCKET")
    };
    let seconds = 60.0 * minutes.parse::<f64>().unwrap();
    let soak = &Soak { device: std::fs::read(file).unwrap(), ends: Instant::now() + Duration::from_secs_f64(seconds) };
    let names = ["NBD", "a file by FUSE", "FUSE and loop", "vhost-user-blk"];
    let outcomes: [Outcome; 4] = std::array::from_fn(|_| Outcome::default());
    std::thread::scope(|scope| {
        let [of_nbd, of_file, of_loop, of_disk] = &outcomes;
        for path in [fuse, device] {
            scope.spawn(move || soak.forget(path));
        }
        for seed in 0..CONNECTIONS {
            scope.spawn(move || soak.nbd(nbd, seed, of_nbd));
            scope.spawn(move || soak.disk(disk, 100 + seed, of_disk));
        }
        for seed in 0..AT_A_TIME {
            scope.spawn(move || soak.file(fuse, 1000 + seed, of_file));
            scope.spawn(move || soak.file(device, 2000 + seed, of_loop));
        }
    });
    println!("| door, {AT_A_TIME} at a time | reads | MB | wrong |\n|---|---|---|---|");
    for (name, Outcome { reads, bytes, wrong }) in names.iter().zip(&outcomes) {
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        println!("| {name} | {} | {} | {} |", get(reads), get(bytes) / 1_000_000, get(wrong));
    }
    let failed = outcomes.iter().any(|outcome| outcome.wrong.load(Ordering::Relaxed) > 0);
    std::process::exit(failed.into());
}

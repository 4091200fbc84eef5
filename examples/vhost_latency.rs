//! `vhost_latency SOCKET OFFSET LENGTH SECONDS`: random reads of 4 KiB from a vhost-user-blk disk, one at a time, between OFFSET and
//! OFFSET + LENGTH; the first round over all of it is not counted.
//!
//! The guest looks at its ring without pause, so that what is measured is the disk's way. Prints the median in µs, and reads a second.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for measurements")]
#![expect(dead_code, unreachable_pub, reason = "the tests use more of it")]

#[path = "../tests/it/support/vhost_client.rs"]
mod vhost_client;

use std::time::{Duration, Instant};

use vhost_client::Guest;

const BLOCK: u32 = 4096;

fn read(guest: &mut Guest, at: u64) -> Duration {
    let begun = Instant::now();
    guest.read(0, 0, at / 512, BLOCK);
    loop {
        if let Some(answer) = guest.next_answer(0) {
            assert_eq!(answer, (0, 0));
            return begun.elapsed();
        }
        std::hint::spin_loop();
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [socket, offset, length, seconds] = &arguments[..] else {
        panic!("vhost_latency SOCKET OFFSET LENGTH SECONDS")
    };
    let (offset, length): (u64, u64) = (offset.parse().unwrap(), length.parse().unwrap());
    let mut guest = Guest::connect(socket.as_ref(), 1, 0);
    (offset..offset + length).step_by(BLOCK as usize).for_each(|at| {
        read(&mut guest, at);
    });
    let (begun, mut times, mut place) = (Instant::now(), Vec::new(), 1u64);
    while begun.elapsed() < Duration::from_secs(seconds.parse().unwrap()) {
        // The constants of Knuth's MMIX.
        place = place.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        times.push(read(&mut guest, offset + (place >> 33) % (length / u64::from(BLOCK)) * u64::from(BLOCK)));
    }
    let rate = times.len() as u64 / begun.elapsed().as_secs();
    times.sort_unstable();
    println!("{:.2} {rate}", times[times.len() / 2].as_secs_f64() * 1e6);
}

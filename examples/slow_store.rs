//! `slow_store SOURCE MOUNT MILLISECONDS`: a store in a directory, each of whose objects takes so long to open; for measurements.
//!
//! Until SIGTERM or SIGINT; then it prints how many requests there were, and for how many objects.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for measurements")]
#![expect(dead_code, unreachable_pub, reason = "the tests use more of it")]

#[path = "../tests/it/support/slow_store.rs"]
mod slow_store;

use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use slow_store::SlowStore;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [source, mount, delay] = &arguments[..] else { panic!("slow_store SOURCE MOUNT MILLISECONDS") };
    let mut signals = Signals::new([SIGINT, SIGTERM]).unwrap();
    let delay = Duration::from_millis(delay.parse().unwrap());
    let store = SlowStore::mount(source.as_ref(), mount.as_ref(), delay);
    println!("ready");
    signals.forever().next();
    let requests = store.script.requests.lock().unwrap().clone();
    println!("{} requests for {} objects", requests.values().sum::<u64>(), requests.len());
}

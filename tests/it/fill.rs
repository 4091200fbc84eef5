//! Images that are copied into the disk cache while they are read, and the disk cache that is used by default.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::read_faults::{Served, Slowed, cached};
use crate::support::common::{Bench, noise, stdout};
use crate::support::nbd_client::Client;
use crate::support::slow_store::Answer;

/// The number of chunks of the image.
fn chunks(bench: &Bench) -> usize {
    let inspected: Value =
        serde_json::from_slice(&stdout(&bench.coldpress(&["inspect", "app.cpm", "--json"]))).unwrap();
    usize::try_from(inspected["chunks"].as_u64().unwrap()).unwrap()
}

fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn an_image_is_copied_from_the_start_each_chunk_once_and_read_without_its_store() {
    let slowed = Slowed::new(40, Duration::from_millis(30));
    let (bench, script) = (&slowed.bench, &slowed.store.script);
    let served = Served::start(bench, "one", &["--cache", "cache", "--memory", "512KiB"]);
    let (mut client, data) = (served.client(), slowed.data());
    // Readers join what is under way, or find it copied: nothing is requested twice.
    for (file, at) in data.iter().enumerate().rev() {
        assert!(client.read(*at, 4096) == noise(500_000, 40 + file as u64)[..4096], "{file}");
    }
    wait_until("all is copied", || cached(bench).len() == chunks(bench));
    assert_eq!(script.total(), chunks(bench) as u64);
    assert!(script.requests.lock().unwrap().values().all(|count| *count == 1));
    let most = script.most_in_flight.load(Ordering::SeqCst);
    assert!((8..=64).contains(&most), "{most} requests at a time");
    script.set(Duration::ZERO, Answer::Gone);
    for (file, at) in data.iter().enumerate() {
        assert!(client.read(at + 8192, 4096) == noise(500_000, 40 + file as u64)[8192..12288], "{file}");
    }
}

#[test]
fn a_cache_without_room_for_the_image_is_not_filled_and_off_fills_nothing() {
    let slowed = Slowed::new(40, Duration::ZERO);
    let bench = &slowed.bench;
    for (name, options) in [
        ("small", ["--cache", "cache", "--cache-max", "4MiB", "--fill", "auto"]),
        ("off", ["--cache", "cache", "--prefetch", "off", "--fill", "off"]),
    ] {
        let _ = fs::remove_dir_all(bench.path("cache"));
        let served = Served::start(bench, name, &options);
        let mut client = served.client();
        assert!(client.read(slowed.data()[3], 4096) == noise(500_000, 43)[..4096], "{name}");
        std::thread::sleep(Duration::from_secs(1));
        let (found, all) = (cached(bench).len(), chunks(bench));
        let most = if name == "off" { 4 } else { 10 };
        assert!(found <= most && found < all, "{name}: {found} of {all}");
    }
}

#[test]
fn a_store_that_is_down_is_not_pressed_and_what_is_left_is_copied_when_it_is_back() {
    let slowed = Slowed::new(40, Duration::ZERO);
    let (bench, script) = (&slowed.bench, &slowed.store.script);
    script.set(Duration::ZERO, Answer::Refused);
    let _served = Served::start(bench, "one", &["--cache", "cache"]);
    std::thread::sleep(Duration::from_secs(2));
    let pressed = script.total();
    assert!((1..1000).contains(&pressed), "{pressed} requests in 2 s");
    script.set(Duration::ZERO, Answer::True);
    wait_until("all is copied", || cached(bench).len() == chunks(bench));
}

/// Starts a server of the image whose disk cache the `variables` decide.
fn serve(bench: &Bench, variables: &[(&str, &Path)], log: &str) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["serve", "app.cpm", "--store", "store", "--nbd", "unix:one.sock"]);
    command.current_dir(bench.dir.path()).env("COLDREAD_RUN_DIR", bench.path("run"));
    for name in ["COLDPRESS_KEY", "COLDREAD_CACHE", "COLDREAD_NO_CACHE", "CACHE_DIRECTORY"] {
        command.env_remove(name);
    }
    command.envs(variables.iter().map(|(name, value)| (name, value)));
    command.stderr(fs::File::create(bench.path(log)).unwrap()).stdout(Stdio::null()).spawn().unwrap()
}

#[test]
fn the_cache_of_the_service_is_used_by_default_and_one_that_cannot_be_used_costs_a_warning() {
    let slowed = Slowed::new(4, Duration::ZERO);
    let (bench, data) = (&slowed.bench, slowed.data());
    let directories = format!("{}:/nowhere", bench.path("cache").display());
    for (directory, warns) in [(Path::new(&directories), false), (Path::new("/dev/null/cache"), true)] {
        let mut process = serve(bench, &[("CACHE_DIRECTORY", directory)], "log");
        let read = Client::wait_for(&bench.path("one.sock")).read(data[2], 4096);
        assert!(read == noise(500_000, 42)[..4096]);
        if !warns {
            wait_until("all is copied", || cached(bench).len() == chunks(bench));
        }
        process.kill().unwrap();
        process.wait().unwrap();
        let _ = fs::remove_file(bench.path("one.sock"));
        let log = fs::read_to_string(bench.path("log")).unwrap();
        let warning = "warning: no disk cache: /dev/null/cache";
        assert_eq!(log.contains(warning) && log.contains("--no-cache"), warns, "{log}");
    }
}

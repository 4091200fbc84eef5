//! Startups that are learned without being asked for, and prefetched by the next one: on the host, in the zone, for the next version of an image.

use std::fs;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::read_faults::{Served, Slowed, cached};
use crate::support::cache_servers::CacheServer;
use crate::support::common::{Bench, noise};
use crate::support::slow_store::Script;

/// What a startup reads: these files of the image.
const STARTUP: [usize; 6] = [3, 30, 7, 19, 11, 35];

fn start(bench: &Bench, name: &str, options: &[&str]) {
    let common = ["--fill", "off", "--prefetch", "off", "--memory", "64MiB"];
    let served = Served::start(bench, name, &[&common[..], options].concat());
    let (mut client, data) = (served.client(), Slowed::data_of(bench));
    for file in STARTUP {
        assert!(client.read(data[file], 4096) == noise(500_000, 40 + file as u64)[..4096], "file {file}");
    }
    drop(client);
    served.end();
}

/// Opens the image and reads nothing. Returns how many requests that causes once they have ended.
fn requests_unread(bench: &Bench, script: &Script, name: &str, options: &[&str]) -> u64 {
    let before = script.total();
    let common = ["--fill", "off", "--prefetch", "off", "--memory", "64MiB"];
    let served = Served::start(bench, name, &[&common[..], options].concat());
    let _client = served.client();
    let (mut last, mut since) = (0, Instant::now());
    while since.elapsed() < Duration::from_millis(700) {
        let now = script.total() - before + u64::from(script.in_flight.load(Ordering::SeqCst) > 0);
        if now != last {
            (last, since) = (now, Instant::now());
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    script.total() - before
}

fn remove_chunks(bench: &Bench, cache: &str) {
    let _ = fs::remove_dir_all(bench.path(cache).join("chunks"));
}

fn learned(directory: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(directory.join("learned")).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn the_second_startup_on_a_host_is_prefetched_unless_learning_is_off() {
    let slowed = Slowed::new(40, Duration::from_millis(5));
    let (bench, script) = (&slowed.bench, &slowed.store.script);
    let cache = ["--cache", "cache"];
    start(bench, "first", &cache);
    let read = cached(bench).len() as u64;
    assert!(read >= STARTUP.len() as u64 && !learned(&bench.path("cache")).is_empty());
    remove_chunks(bench, "cache");
    assert_eq!(requests_unread(bench, script, "second", &cache), read, "all that the first read, and nothing else");
    remove_chunks(bench, "cache");
    assert_eq!(requests_unread(bench, script, "third", &["--cache", "cache", "--no-learn"]), 0);
    // The startup that read nothing did not replace what was learned.
    assert_eq!(requests_unread(bench, script, "fourth", &cache), read);
}

#[test]
fn a_damaged_or_forged_profile_costs_nothing_and_is_learned_anew() {
    let slowed = Slowed::new(40, Duration::ZERO);
    let (bench, script) = (&slowed.bench, &slowed.store.script);
    let cache = ["--cache", "cache"];
    start(bench, "first", &cache);
    for (name, damage) in [
        ("flipped", (|bytes: &mut Vec<u8>| bytes.iter_mut().for_each(|byte| *byte ^= 1)) as fn(&mut Vec<u8>)),
        ("cut", |bytes| bytes.truncate(bytes.len() / 2)),
        ("empty", Vec::clear),
        ("garbage", |bytes| *bytes = noise(5_000, 1)),
        ("huge", |bytes| bytes.resize(50 << 20, 7)),
    ] {
        for path in learned(&bench.path("cache")) {
            let mut bytes = fs::read(&path).unwrap();
            damage(&mut bytes);
            fs::write(&path, bytes).unwrap();
        }
        remove_chunks(bench, "cache");
        assert_eq!(requests_unread(bench, script, name, &cache), 0, "{name}");
        start(bench, &format!("{name}-again"), &cache);
        remove_chunks(bench, "cache");
        assert!(requests_unread(bench, script, &format!("{name}-learned"), &cache) >= 6, "{name}");
    }
}

#[test]
fn a_host_of_the_zone_prefetches_what_another_one_read_and_the_servers_cannot_read_it() {
    let slowed = Slowed::new(40, Duration::ZERO);
    let (bench, script) = (&slowed.bench, &slowed.store.script);
    let servers = CacheServer::some(3);
    let urls: Vec<String> = servers.iter().map(CacheServer::url).collect();
    let zone = urls.join(",");
    start(bench, "one", &["--cache", "cache-one", "--zone", &zone]);
    // Without the shards, so that what is prefetched comes from the store and is seen there.
    for server in &servers {
        const SCRIPT: &str = "for _, k in ipairs(redis.call('keys', '*')) do \
            if not string.find(k, 'learned') then redis.call('del', k) end end return redis.call('dbsize')";
        let _ = server.call(&[b"EVAL", SCRIPT.as_bytes(), b"0"]);
    }
    let kept: i64 = servers.iter().map(CacheServer::keys).sum();
    assert!(kept >= 2, "each part on two servers: {kept}");
    let requests = requests_unread(bench, script, "other", &["--cache", "cache-other", "--zone", &zone]);
    assert!(requests >= STARTUP.len() as u64, "{requests}");
    // The other host keeps it on its own disk.
    assert!(!learned(&bench.path("cache-other")).is_empty());
    for server in &servers {
        server.fill_with_garbage();
    }
    assert_eq!(requests_unread(bench, script, "third", &["--cache", "cache-third", "--zone", &zone]), 0);
}

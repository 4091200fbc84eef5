//! The read path under load and fault: by the real programs, over a store that is slow, lies, or goes away.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::common::{Bench, Image, Layer, noise, stdout};
use crate::slow_store::{Answer, SlowStore};

const CHUNK: u64 = 512 << 10;

/// One layer of `files` files that fill a chunk each.
fn image(files: u64) -> Image {
    let file = |layer: Layer, n: u64| layer.file(&format!("data/{n:03}"), &noise(500_000, 40 + n));
    Image::new([(0..files).fold(Layer::new(), file)])
}

/// An image, its exported device, and its store seen through a slow one.
struct Slowed {
    bench: Bench,
    store: SlowStore,
}

impl Slowed {
    fn new(files: u64, delay: Duration) -> Self {
        let bench = Bench::new();
        bench.block_image(&image(files), "app", &[]);
        let store = SlowStore::mount(&bench.path("store"), &bench.path("slow"), delay);
        Self { bench, store }
    }

    /// Where the image's files begin.
    fn data(&self) -> Vec<u64> {
        let device = fs::read(self.bench.path("app.img")).unwrap();
        let begins = |n: u64| {
            let wanted = noise(500_000, 40 + n);
            device.chunks(4096).position(|block| *block == wanted[..4096]).map(|at| at as u64 * 4096)
        };
        (0..).map_while(begins).collect()
    }
}

/// `coldread mount` of it; ended when it is dropped.
struct Mounting {
    process: Child,
    directory: PathBuf,
}

impl Mounting {
    fn start(bench: &Bench, name: &str, options: &[&str]) -> Self {
        let directory = bench.path(name);
        fs::create_dir_all(&directory).unwrap();
        let said = File::create(bench.path(&format!("{name}.said"))).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_coldread"))
            .args(["mount", "app.cpm", name, "--store", "slow"])
            .args(options)
            .current_dir(bench.dir.path())
            .env_remove("COLDPRESS_KEY")
            .env_remove("COLDREAD_CACHE")
            .stderr(said)
            .spawn()
            .unwrap();
        let begun = Instant::now();
        // It is there before the process knows it, which then watches for its end.
        while !directory.join("data").exists() || !self::said(bench, name).contains("is mounted at") {
            assert!(begun.elapsed() < Duration::from_secs(20), "not mounted");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { process, directory }
    }

    fn read(&self, file: u64) -> std::io::Result<Vec<u8>> {
        fs::read(self.directory.join(format!("data/{file:03}")))
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.directory).status();
        let begun = Instant::now();
        while self.process.try_wait().unwrap().is_none() {
            if begun.elapsed() > Duration::from_secs(20) {
                let _ = self.process.kill();
                let _ = self.process.wait();
                panic!("it did not end with its mount");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn said(bench: &Bench, name: &str) -> String {
    fs::read_to_string(bench.path(&format!("{name}.said"))).unwrap()
}

#[test]
fn misses_run_side_by_side_through_the_loop_device() {
    let slowed = Slowed::new(64, Duration::from_millis(100));
    let mounted = Mounting::start(&slowed.bench, "mnt", &[]);
    let files: Vec<PathBuf> = (0..64).map(|n| mounted.directory.join(format!("data/{n:03}"))).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for part in files.chunks(4) {
            scope.spawn(move || {
                for path in part {
                    let mut block = [0; 4096];
                    File::open(path).unwrap().read_exact_at(&mut block, 200_000 / 4096 * 4096).unwrap();
                }
            });
        }
    });
    let took = begun.elapsed();
    // 64 of them one after the other would take 6.4 s and more.
    assert!(took < Duration::from_millis(3200), "{took:?}");
    assert!(slowed.store.script.most_in_flight.load(Ordering::SeqCst) >= 8);
}

#[test]
fn mounting_reads_one_chunk() {
    let slowed = Slowed::new(8, Duration::ZERO);
    let mounted = Mounting::start(&slowed.bench, "mnt", &[]);
    // Looking whether `data` is there reads the inode table and the root directory, which such a small image has in few chunks.
    assert!(slowed.store.script.total() <= 3, "{:?}", slowed.store.script.requests);
    drop(mounted);
}

#[test]
fn a_store_that_lies_is_never_believed_and_one_that_comes_back_is_waited_for() {
    let slowed = Slowed::new(8, Duration::ZERO);
    let script = &slowed.store.script;
    let mounted = Mounting::start(&slowed.bench, "mnt", &["--on-origin-loss", "wait=20s"]);
    script.set(Duration::ZERO, Answer::Wrong);
    assert_eq!(mounted.read(0).unwrap_err().raw_os_error(), Some(5));
    for (gone, file) in [(Answer::Refused, 1), (Answer::Gone, 2)] {
        script.set(Duration::ZERO, gone);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| mounted.read(file).unwrap() == noise(500_000, 40 + file));
            std::thread::sleep(Duration::from_millis(700));
            assert!(!reader.is_finished(), "{gone:?}");
            script.set(Duration::ZERO, Answer::True);
            assert!(reader.join().unwrap(), "{gone:?}");
        });
    }
    assert!(mounted.read(0).unwrap() == noise(500_000, 40), "a failure is not kept");
    drop(mounted);
    assert!(said(&slowed.bench, "mnt").contains("a read failed: chunk"));
}

#[test]
fn no_read_waits_past_its_deadline() {
    let slowed = Slowed::new(8, Duration::ZERO);
    let (bench, script, data) = (&slowed.bench, &slowed.store.script, slowed.data());
    let mut serving = Command::new(env!("CARGO_BIN_EXE_coldread"))
        .args(["serve", "app.cpm", "--store", "slow", "--nbd", "unix:a.sock", "--on-origin-loss", "eio"])
        .current_dir(bench.dir.path())
        .env_remove("COLDPRESS_KEY")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = crate::nbd::Client::wait_for(&bench.path("a.sock"));
    assert!(client.read(data[0], 4096) == noise(500_000, 40)[..4096]);
    script.set(Duration::ZERO, Answer::Refused);
    let begun = Instant::now();
    client.ask_only(data[2], 4096);
    assert_eq!(client.answer(|_| 4096).1, Err(5));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // No answer for a minute: the request is given up after 10 seconds, for all who wait for it.
    script.set(Duration::from_secs(60), Answer::True);
    let begun = Instant::now();
    (0..12).for_each(|n| client.ask_only(data[3 + n % 4], 4096));
    (0..12).for_each(|_| assert_eq!(client.answer(|_| 4096).1, Err(5)));
    assert!((9..13).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    // What hangs takes nobody's place.
    script.set(Duration::ZERO, Answer::True);
    assert!(client.read(data[4], 4096) == noise(500_000, 44)[..4096]);
    serving.kill().unwrap();
    serving.wait().unwrap();
}

#[test]
fn two_hundred_processes_that_start_cold_ask_for_each_chunk_once_and_within_the_bound() {
    let slowed = Slowed::new(24, Duration::from_millis(5));
    let run = |n: usize| {
        let socket = format!("unix:{n}.sock");
        Command::new(env!("CARGO_BIN_EXE_coldread"))
            .args(["serve", "app.cpm", "--store", "slow", "--nbd", &socket, "--cache", "cache", "--requests", "8"])
            .current_dir(slowed.bench.dir.path())
            .env_remove("COLDPRESS_KEY")
            .stderr(Stdio::null())
            .spawn()
            .unwrap()
    };
    let mut processes: Vec<Child> = (0..200).map(run).collect();
    let data = slowed.data();
    let wanted: Vec<Vec<u8>> = (0..24).map(|n| noise(500_000, 40 + n)).collect();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for n in 0..200 {
            let (bench, data, wanted) = (&slowed.bench, &data, &wanted);
            scope.spawn(move || {
                let mut client = crate::nbd::Client::wait_for(&bench.path(&format!("{n}.sock")));
                for (at, wanted) in data.iter().zip(wanted) {
                    assert!(client.read(*at, 4096) == wanted[..4096], "{n} {at}");
                }
            });
        }
    });
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    for process in &mut processes {
        process.kill().unwrap();
        process.wait().unwrap();
    }
    let requests = slowed.store.script.requests.lock().unwrap();
    assert!(requests.len() >= 20 && requests.values().all(|count| *count == 1), "{requests:?}");
    let most = slowed.store.script.most_in_flight.load(Ordering::SeqCst);
    assert!(most <= 8, "{most}");
}

/// The files of a disk cache's chunks.
fn cached(bench: &Bench) -> Vec<PathBuf> {
    let entries = |path: &Path| -> Vec<PathBuf> {
        fs::read_dir(path).map(|list| list.map(|entry| entry.unwrap().path()).collect()).unwrap_or_default()
    };
    entries(&bench.path("cache/chunks")).iter().flat_map(|directory| entries(directory)).collect()
}

#[test]
fn a_disk_cache_that_is_damaged_deleted_or_full_while_it_is_used_costs_time_alone() {
    let slowed = Slowed::new(40, Duration::ZERO);
    let bench = &slowed.bench;
    // One chunk in memory, so that all comes from the disk; a cache on a disk of 8 MiB, which is full after half the image.
    fs::create_dir(bench.path("cache")).unwrap();
    let tmpfs = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=8m,mode=700", "tmpfs"])
        .arg(bench.path("cache"))
        .status()
        .unwrap();
    assert!(tmpfs.success());
    let mounted = Mounting::start(bench, "mnt", &["--cache", "cache", "--memory", "512KiB"]);
    let read_all = |stage: &str| {
        for file in 0..40 {
            assert!(mounted.read(file).unwrap() == noise(500_000, 40 + file), "{stage}: {file}");
        }
        fs::write("/proc/sys/vm/drop_caches", "1").unwrap();
    };
    read_all("filling");
    assert!(cached(bench).len() > 8);
    for (at, path) in cached(bench).iter().enumerate() {
        let Ok(mut bytes) = fs::read(path) else { continue };
        let byte = at * 7919 % bytes.len();
        bytes[byte] ^= 0x10;
        let _ = fs::write(path, bytes);
    }
    read_all("damaged");
    for directory in fs::read_dir(bench.path("cache")).unwrap() {
        fs::remove_dir_all(directory.unwrap().path()).unwrap();
    }
    read_all("deleted");
    drop(mounted);
    assert!(Command::new("umount").arg(bench.path("cache")).status().unwrap().success());
}

#[test]
fn what_was_cached_before_a_kill_is_used_after_it() {
    let slowed = Slowed::new(24, Duration::ZERO);
    let bench = &slowed.bench;
    let options = ["serve", "app.cpm", "--store", "slow", "--nbd", "unix:a.sock", "--cache", "cache"];
    let mut rounds = 0;
    for round in 0..4 {
        let mut process = Command::new(env!("CARGO_BIN_EXE_coldread"))
            .args(options)
            .current_dir(bench.dir.path())
            .env_remove("COLDPRESS_KEY")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut client = crate::nbd::Client::wait_for(&bench.path("a.sock"));
        let data = slowed.data();
        for (at, file) in data.iter().zip(0u64..).take(6 * (round + 1)) {
            assert!(client.read(*at, 4096) == noise(500_000, 40 + file)[..4096]);
        }
        // Under load.
        data.iter().for_each(|at| client.ask_only(*at + 8192, 4096));
        process.kill().unwrap();
        process.wait().unwrap();
        rounds += 1;
    }
    assert_eq!(rounds, 4);
    for path in cached(bench) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(coldpress::digest::Sha256::of(&fs::read(&path).unwrap()).to_hex(), name);
    }
    // What was answered is kept, so it was asked for once.
    let requests = slowed.store.script.requests.lock().unwrap().clone();
    let often: Vec<u64> = requests.values().copied().filter(|count| *count > 2).collect();
    assert!(often.len() <= 6 && requests.len() >= 20, "{requests:?}");
}

#[test]
fn a_start_that_was_recorded_is_fetched_ahead_the_next_time() {
    let slowed = Slowed::new(48, Duration::from_millis(30));
    let bench = &slowed.bench;
    // From the last to the first, so that nothing is sequential.
    let script = "i=47; while [ $i -ge 0 ]; do head -c 4096 {}/data/$(printf %03d $i) | md5sum; i=$((i-2)); done";
    let record = |output: &str, options: &[&str]| {
        let args = [&["profile", "record", "app.cpm", "--store", "slow", "-o", output][..], options];
        let begun = Instant::now();
        let out = stdout(&bench.coldread(&[&args.concat()[..], &["--", "sh", "-c", script]].concat()));
        (out, begun.elapsed())
    };
    let (first, cold) = record("app.cpm.profile", &[]);
    let profile = fs::read_to_string(bench.path("app.cpm.profile")).unwrap();
    assert!(profile.lines().count() > 24, "{profile}");
    let (second, warm) = record("second", &[]);
    assert_eq!(first, second);
    let count = |text: &str| text.lines().skip(2).map(|line| line.split(' ').nth(3).unwrap().to_owned()).collect();
    let second: BTreeSet<String> = count(&fs::read_to_string(bench.path("second")).unwrap());
    assert_eq!(second, count(&profile), "what is fetched ahead is still what is read");
    // 24 waits of 30 ms have become two.
    assert!(cold > warm + Duration::from_millis(400), "{cold:?} {warm:?}");
    let (_, without) = record("third", &["--no-profile"]);
    assert!(without > warm + Duration::from_millis(400), "{without:?} {warm:?}");
    fs::write(bench.path("app.cpm.profile"), "coldpress profile 2\n").unwrap();
    let refused = bench.coldread(&["profile", "record", "app.cpm", "--store", "slow", "-o", "x", "--", "true"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("app.cpm.profile: line 1: not a coldpress profile"));
}

#[test]
fn a_sequential_reader_is_read_ahead_of() {
    let bench = Bench::new();
    bench.block_image(&Image::new([Layer::new().file("data/000", &noise(16 << 20, 3))]), "app", &[]);
    let store = SlowStore::mount(&bench.path("store"), &bench.path("slow"), Duration::from_millis(30));
    let mounted = Mounting::start(&bench, "mnt", &[]);
    let begun = Instant::now();
    assert!(mounted.read(0).unwrap() == noise(16 << 20, 3));
    let took = begun.elapsed();
    // 32 chunks, 30 ms each.
    assert!(took < Duration::from_millis(700), "{took:?}");
    assert!(store.script.requests.lock().unwrap().values().all(|count| *count == 1));
    assert_eq!((16 << 20) % CHUNK, 0);
}

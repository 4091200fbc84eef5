//! The read path under load and fault: by the real programs, over a store that is slow, lies, or goes away.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::support::common::{Bench, Image, Layer, noise, stdout};
use crate::support::failing_disk::FailingDisk;
use crate::support::nbd_client::Client;
use crate::support::slow_store::{Answer, SlowStore};
use crate::support::vhost_client::Guest;

const CHUNK: u64 = 512 << 10;

/// One layer of `files` files that fill a chunk each.
fn image(files: u64) -> Image {
    let file = |layer: Layer, n: u64| layer.file(&format!("data/{n:03}"), &noise(500_000, 40 + n));
    Image::new([(0..files).fold(Layer::new(), file)])
}

/// An image, its exported device, and its store seen through a slow one.
pub struct Slowed {
    /// Dropped before `bench`: a directory with a mount in it cannot be removed.
    pub store: SlowStore,
    pub bench: Bench,
}

impl Slowed {
    pub fn new(files: u64, delay: Duration) -> Self {
        let bench = Bench::new();
        bench.block_image(&image(files), "app", &[]);
        let store = SlowStore::mount(&bench.path("store"), &bench.path("slow"), delay);
        Self { store, bench }
    }

    /// Where the image's files begin.
    pub fn data(&self) -> Vec<u64> {
        Self::data_of(&self.bench)
    }

    pub fn data_of(bench: &Bench) -> Vec<u64> {
        let device = fs::read(bench.path("app.img")).unwrap();
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
            .env("COLDREAD_RUN_DIR", bench.path("run"))
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

/// `coldread serve` of it over NBD; killed when it is dropped.
pub struct Served {
    process: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Served {
    pub fn start(bench: &Bench, name: &str, options: &[&str]) -> Self {
        let socket = format!("{name}.sock");
        let said = File::create(bench.path(&format!("{name}.said"))).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_coldread"))
            .args(["serve", "app.cpm", "--store", "slow", "--nbd", &format!("unix:{socket}")])
            .args(options)
            .current_dir(bench.dir.path())
            .env("COLDREAD_RUN_DIR", bench.path("run"))
            .env_remove("COLDPRESS_KEY")
            .env_remove("COLDREAD_CACHE")
            .stderr(said)
            .spawn()
            .unwrap();
        Self { process, socket: bench.path(&socket), log: bench.path(&format!("{name}.said")) }
    }

    pub fn client(&self) -> Client {
        Client::wait_for(&self.socket)
    }

    /// Ends it by SIGTERM, as a service manager does, and waits for it.
    pub fn end(mut self) {
        let status = Command::new("kill").arg(self.process.id().to_string()).status().unwrap();
        assert!(status.success());
        self.process.wait().unwrap();
    }

    /// Descriptors and threads that it has.
    fn has(&self) -> [usize; 2] {
        let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", self.process.id())).unwrap().count();
        [count("fd"), count("task")]
    }
}

impl Drop for Served {
    #[expect(clippy::print_stderr, reason = "its log explains why the test failed")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (ended, log) = (self.process.try_wait(), fs::read_to_string(&self.log).unwrap_or_default());
            eprintln!("{}: ended: {ended:?}; its log:\n{log}", self.socket.display());
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// Reads a block of each file, not where a chunk begins, so that nothing is read ahead.
fn read_all(client: &mut Client, data: &[u64], stage: &str) {
    for (at, file) in data.iter().zip(0u64..) {
        assert!(client.read(at + 8192, 4096) == noise(500_000, 40 + file)[8192..12288], "{stage}: {file}");
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
    let mounted = Mounting::start(&slowed.bench, "mnt", &["--prefetch", "off"]);
    // Looking whether `data` is there reads the inode table and the root directory, which such a small image has in few chunks.
    assert!(slowed.store.script.total() <= 3, "{:?}", slowed.store.script.requests);
    drop(mounted);
}

#[test]
fn a_store_that_lies_is_never_believed_and_one_that_comes_back_is_waited_for() {
    let slowed = Slowed::new(8, Duration::ZERO);
    let script = &slowed.store.script;
    let mounted = Mounting::start(&slowed.bench, "mnt", &["--on-origin-loss", "wait=20s", "--prefetch", "off"]);
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
        .env("COLDREAD_RUN_DIR", bench.path("run"))
        .env_remove("COLDPRESS_KEY")
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut client = Client::wait_for(&bench.path("a.sock"));
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
            .env("COLDREAD_RUN_DIR", slowed.bench.path("run"))
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
                let mut client = Client::wait_for(&bench.path(&format!("{n}.sock")));
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
pub fn cached(bench: &Bench) -> Vec<PathBuf> {
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
    let tmpfs = Tmpfs::mount(bench.path("cache"), "size=8m,mode=700");
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
    drop(tmpfs);
}

#[test]
fn a_disk_cache_on_a_disk_that_fails_costs_time_alone() {
    let slowed = Slowed::new(24, Duration::ZERO);
    let (bench, data, requests) = (&slowed.bench, slowed.data(), || slowed.store.script.total());
    let disk = FailingDisk::mount(&bench.path("cache"), 64 << 20);
    let failing = |reads: bool, writes: bool| {
        disk.health.reads_fail.store(reads, Ordering::SeqCst);
        disk.health.writes_fail.store(writes, Ordering::SeqCst);
    };
    let options = ["--cache", "cache", "--memory", "512KiB"];
    let served = Served::start(bench, "one", &options);
    let mut client = served.client();
    read_all(&mut client, &data, "filling");
    disk.forget();
    let filled = requests();
    read_all(&mut client, &data, "from the disk");
    assert_eq!(requests(), filled, "all of it was on the disk");
    disk.forget();
    failing(true, false);
    read_all(&mut client, &data, "no read of the disk comes to anything");
    assert!(requests() >= filled + 20 && disk.health.failed_reads.load(Ordering::SeqCst) >= 20);
    failing(true, true);
    for _ in 0..3 {
        read_all(&mut client, &data, "nothing of the disk works");
        disk.forget();
    }
    // What was to be written failed, so the file system on it is now read-only.
    assert!(disk.is_read_only() && disk.health.failed_writes.load(Ordering::SeqCst) > 0);
    failing(false, false);
    read_all(&mut client, &data, "it can only be read");
    read_all(&mut Served::start(bench, "two", &options).client(), &data, "started on what can only be read");
    drop(served);
}

/// A tmpfs, until it is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: PathBuf, options: &str) -> Self {
        fs::create_dir_all(&path).unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&path).status().unwrap();
        assert!(mounted.success());
        Self(path)
    }

    /// As soon as nobody has a file of it open for writing.
    fn remount(&self, option: &str) {
        let begun = Instant::now();
        let remount = format!("remount,{option}");
        while !Command::new("mount").args(["-o", &remount]).arg(&self.0).output().unwrap().status.success() {
            assert!(begun.elapsed() < Duration::from_secs(10), "busy");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn damaged_copies_that_cannot_be_deleted_are_not_believed_again() {
    let slowed = Slowed::new(24, Duration::ZERO);
    let (bench, data, requests) = (&slowed.bench, slowed.data(), || slowed.store.script.total());
    let tmpfs = Tmpfs::mount(bench.path("cache"), "size=64m,mode=700");
    let served = Served::start(bench, "one", &["--cache", "cache", "--memory", "512KiB"]);
    let mut client = served.client();
    read_all(&mut client, &data, "filling");
    let copies = cached(bench);
    for (at, path) in copies.iter().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        let byte = at * 7919 % bytes.len();
        bytes[byte] ^= 0x10;
        fs::write(path, bytes).unwrap();
    }
    tmpfs.remount("ro");
    let before = requests();
    read_all(&mut client, &data, "damaged");
    let asked = requests() - before;
    assert!(asked >= 20, "{asked}");
    read_all(&mut client, &data, "damaged, and known to be");
    // Give or take what is read ahead while the reader is slow.
    assert!((requests() - before).abs_diff(2 * asked) <= 4, "{} {asked}", requests() - before);
    assert_eq!(cached(bench).len(), copies.len());
    tmpfs.remount("rw");
    read_all(&mut client, &data, "it can be written to again");
    let mended = requests();
    read_all(&mut client, &data, "mended");
    assert_eq!(requests(), mended);
    drop(served);
}

#[test]
fn the_bound_of_a_disk_cache_is_that_of_all_processes_together() {
    const BOUND: u64 = 3 << 20;
    let slowed = Slowed::new(24, Duration::ZERO);
    let (bench, data) = (&slowed.bench, slowed.data());
    let options = ["--cache", "cache", "--cache-max", "3MiB", "--memory", "512KiB", "--prefetch", "off"];
    let served: Vec<Served> = (0..6).map(|n| Served::start(bench, &n.to_string(), &options)).collect();
    let mut clients: Vec<Client> = served.iter().map(Served::client).collect();
    let mut most = 0;
    for round in 0..24 {
        std::thread::scope(|scope| {
            for (n, client) in clients.iter_mut().enumerate() {
                let data = &data;
                scope.spawn(move || {
                    let file = (round + n * 5) % data.len();
                    let wanted = &noise(500_000, 40 + file as u64)[8192..12288];
                    assert!(client.read(data[file] + 8192, 4096) == wanted, "{round} {n}");
                });
            }
        });
        // What was answered is kept, and nothing else is under way.
        let bytes: u64 = cached(bench).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
        assert!(bytes <= BOUND, "{round}: {bytes}");
        most = most.max(bytes);
    }
    assert!(most > BOUND / 10 * 7, "{most}");
}

#[test]
fn a_store_that_is_gone_at_the_start_is_waited_for_as_long_as_is_said() {
    let slowed = Slowed::new(8, Duration::ZERO);
    let (bench, script, data) = (&slowed.bench, &slowed.store.script, slowed.data());
    script.set(Duration::ZERO, Answer::Gone);
    let waits = Served::start(bench, "waits", &["--on-origin-loss", "wait=40s"]);
    let fails = Served::start(bench, "fails", &["--on-origin-loss", "eio"]);
    let (mut waiting, mut failing) = (waits.client(), fails.client());
    for name in ["waits", "fails"] {
        assert!(said(bench, name).contains("store slow: no such directory; reads wait for it"));
    }
    waiting.ask_only(data[1], 4096);
    failing.ask_only(data[1], 4096);
    let begun = Instant::now();
    assert_eq!(failing.answer(|_| 4096).1, Err(5));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    // A mount begins with a read, so it waits as well.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(1500));
            script.set(Duration::ZERO, Answer::True);
        });
        let mounted = Mounting::start(bench, "mnt", &["--on-origin-loss", "wait=40s"]);
        assert!(begun.elapsed() > Duration::from_millis(1500));
        assert!(mounted.read(3).unwrap() == noise(500_000, 43));
    });
    assert!(waiting.answer(|_| 4096).1.unwrap() == noise(500_000, 41)[..4096]);
    assert!(failing.read(data[1], 4096) == noise(500_000, 41)[..4096], "a failure is not kept");
}

#[test]
fn a_store_that_stalls_and_then_answers_is_waited_for_and_no_longer_than_is_said() {
    let slowed = Slowed::new(8, Duration::ZERO);
    let (bench, script, data) = (&slowed.bench, &slowed.store.script, slowed.data());
    let (long, short) = (["--on-origin-loss", "wait=40s"], ["--on-origin-loss", "wait=2s"]);
    let (long, short) = (Served::start(bench, "long", &long), Served::start(bench, "short", &short));
    let (mut patient, mut hasty) = (long.client(), short.client());
    script.set(Duration::from_secs(60), Answer::True);
    let begun = Instant::now();
    (0..4).for_each(|file| patient.ask_only(data[file], 4096));
    hasty.ask_only(data[5], 4096);
    assert_eq!(hasty.answer(|_| 4096).1, Err(5));
    let took = begun.elapsed().as_secs();
    assert!((9..16).contains(&took), "{took}");
    // By now the first requests were given up and are made again.
    std::thread::sleep(Duration::from_secs(1));
    script.set(Duration::ZERO, Answer::True);
    let mut heard: Vec<Vec<u8>> = (0..4).map(|_| patient.answer(|_| 4096).1.unwrap()).collect();
    let mut wanted: Vec<Vec<u8>> = (0..4).map(|file| noise(500_000, 40 + file)[..4096].to_vec()).collect();
    heard.sort();
    wanted.sort();
    assert!(heard == wanted && begun.elapsed() < Duration::from_secs(50));
    assert!(hasty.read(data[5], 4096) == noise(500_000, 45)[..4096]);
}

/// A thread that waits for a file of a directory cannot be restricted before the file system responds.
#[test]
fn a_directory_that_takes_seconds_does_not_keep_a_reader_from_its_sandbox() {
    let slowed = Slowed::new(8, Duration::from_secs(7));
    let (bench, data) = (&slowed.bench, slowed.data());
    for (name, options) in [("demand", &["--no-cache"][..]), ("fill", &["--cache", "cache"])] {
        let served = Served::start(bench, name, options);
        let mut client = served.client();
        client.ask_only(data[0], 4096);
        assert!(client.answer(|_| 4096).1.unwrap() == noise(500_000, 40)[..4096], "{name}");
        let begun = Instant::now();
        while !said(bench, name).contains("is served as") {
            assert!(begun.elapsed() < Duration::from_secs(20), "{name}: {}", said(bench, name));
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn clients_that_vanish_with_reads_under_way_harm_nobody_and_leave_nothing() {
    let slowed = Slowed::new(40, Duration::from_millis(100));
    let (bench, data) = (&slowed.bench, slowed.data());
    let options = ["--vhost-user-blk", "disk.sock", "--memory", "2MiB"];
    let served = Served::start(bench, "one", &options);
    let (mut client, disk) = (served.client(), bench.path("disk.sock"));
    let mut guest = Guest::connect(&disk, 1, 0);
    let reads_on = |client: &mut Client, guest: &mut Guest, file: usize| {
        let wanted = &noise(500_000, 40 + file as u64)[8192..12288];
        guest.read(0, 0, (data[file] + 8192) / 512, 4096);
        assert!(client.read(data[file] + 8192, 4096) == wanted, "NBD: {file}");
        assert_eq!(guest.answers(0), [(0, 0)], "vhost-user-blk: {file}");
        assert!(guest.bytes(0, 0, 4096) == wanted, "vhost-user-blk: {file}");
    };
    reads_on(&mut client, &mut guest, 0);
    let before = served.has();
    for round in 0..6 {
        let mut vanishing = served.client();
        data.iter().for_each(|at| vanishing.ask_only(at + 4096, 4096));
        let mut machine = Guest::connect(&disk, 1, 0);
        (0..32).for_each(|place| machine.read(0, place, data[usize::from(place)] / 512, 4096));
        if round % 2 == 0 {
            // In the middle of a request.
            std::io::Write::write_all(&mut vanishing.0, &[0x25, 0x60, 0x95]).unwrap();
            std::thread::sleep(Duration::from_millis(150));
        }
        drop((vanishing, machine));
        reads_on(&mut client, &mut guest, 10 + round);
    }
    // Threads that ask the store end when they had nothing to do for 10 s.
    let begun = Instant::now();
    while served.has().iter().zip(before).any(|(now, before)| *now > before) {
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?} {before:?}", served.has());
        std::thread::sleep(Duration::from_millis(100));
    }
    reads_on(&mut client, &mut guest, 39);
    assert!(!said(bench, "one").contains("panic"));
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
            .env("COLDREAD_RUN_DIR", bench.path("run"))
            .env_remove("COLDPRESS_KEY")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut client = Client::wait_for(&bench.path("a.sock"));
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
        let common = ["profile", "record", "app.cpm", "--store", "slow", "--prefetch", "off", "-o", output];
        let args = [&common[..], options];
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

/// Requests are counted rather than timed alone: on a loaded machine every wait is longer, and a few requests are hedged.
#[test]
fn a_sequential_reader_is_read_ahead_of() {
    let bench = Bench::new();
    bench.block_image(&Image::new([Layer::new().file("data/000", &noise(16 << 20, 3))]), "app", &[]);
    let store = SlowStore::mount(&bench.path("store"), &bench.path("slow"), Duration::from_millis(100));
    let mounted = Mounting::start(&bench, "mnt", &[]);
    let begun = Instant::now();
    assert!(mounted.read(0).unwrap() == noise(16 << 20, 3));
    let took = begun.elapsed();
    // 32 chunks, 100 ms each.
    assert!(took < Duration::from_millis(2_400), "{took:?}");
    assert!(store.script.most_in_flight.load(Ordering::Relaxed) >= 4, "nothing was read ahead");
    let requests = store.script.requests.lock().unwrap();
    // At most one request in twenty is hedged.
    let repeated = requests.values().filter(|count| **count > 1).count();
    assert!(repeated <= 3, "{repeated} of {} chunks were requested again", requests.len());
    assert_eq!((16 << 20) % CHUNK, 0);
}

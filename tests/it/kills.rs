//! Conversions that are killed, that meet a full disk, whose store is removed: repeated, each gives what an undisturbed one
//! gives, and nothing is left over. Mounts that are killed: the next one cleans up after them. Moments are random; `COLDPRESS_KILLS` says how many are tried.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kernel::{entries, loop_devices, mounts_below};
use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};

/// How many moments each test tries where nothing else is said.
const MOMENTS: u64 = 40;

/// How many mounts are killed where nothing else is said: each takes a quarter of a second.
const MOUNTS: u64 = 8;

#[expect(clippy::disallowed_methods, reason = "a test asks how long it may run")]
fn moments_or(default: u64) -> u64 {
    std::env::var("COLDPRESS_KILLS").map_or(default, |count| count.parse().unwrap())
}

fn moments() -> u64 {
    moments_or(MOMENTS)
}

/// Three layers; one is out of order and so kept in the temporary directory.
fn image() -> Image {
    let file = |layer: Layer, number: u64| layer.file(&format!("data/{number:03}"), &noise(400_000, number));
    let ordered = (0..20).fold(Layer::new().dir("data"), file);
    let unordered = (20..30).rev().fold(Layer::new().dir("data"), file);
    Image::new([ordered, unordered, Layer::new().whiteout("data/003").file("end", b"end")])
}

struct Case {
    bench: Bench,
    /// What an undisturbed conversion took and gave.
    took: Duration,
    root_digest: Value,
}

impl Case {
    fn new() -> Self {
        let bench = Bench::new();
        image().oci_layout(&bench.path("image"), Packing::Gzip);
        let started = Instant::now();
        let root_digest = bench.convert_from("oci:image", "undisturbed", &[])["root_digest"].clone();
        let took = started.elapsed();
        std::fs::remove_dir_all(bench.path("store")).unwrap();
        std::fs::create_dir(bench.path("temp")).unwrap();
        Self { bench, took, root_digest }
    }

    fn start(&self) -> Child {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldpress"));
        command.args(["convert", "oci:image", "--store", "store", "-o", "out.cpm", "--temp", "temp", "--key"]);
        command.arg("file:coldpress.key").current_dir(self.bench.path(".")).env_remove("COLDPRESS_STORE");
        // What a cache knows would be no work to kill.
        command.env_remove("HOME").env_remove("XDG_CACHE_HOME");
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// A moment of a conversion, spread over all of it.
    fn moment(&self, number: u64) -> Duration {
        let random = noise(8, number * 7919 + 13);
        let parts = u64::from_le_bytes(random.try_into().unwrap()) % 1000;
        self.took * u32::try_from(parts).unwrap() / 1500
    }

    /// What a manifest that is there names is there, and nothing is there that has no place.
    fn check(&self, what: &str) {
        let left = strays(&self.bench.path("."));
        assert!(left.is_empty(), "{what}: {left:?}");
        if self.bench.path("out.cpm").exists() {
            let output = self.bench.coldpress(&["verify", "out.cpm", "--store", "store"]);
            assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }

    /// The same command again gives the same image.
    fn again(&self, what: &str) {
        let json = self.bench.convert_from("oci:image", "out", &["--temp", "temp"]);
        assert_eq!(json["root_digest"], self.root_digest, "{what}");
        self.check(what);
    }

    fn clear(&self) {
        let _ = std::fs::remove_dir_all(self.bench.path("store"));
        let _ = std::fs::remove_file(self.bench.path("out.cpm"));
    }
}

/// Files that are neither the bench's, nor manifests, nor chunks under their full names.
fn strays(directory: &Path) -> Vec<PathBuf> {
    let mut strays = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() && name != "image" {
            strays.extend(strays_in(&path));
        } else if name.starts_with('.') || name.contains('#') {
            strays.push(path);
        }
    }
    strays
}

/// In the store and the temporary directory only whole names belong.
fn strays_in(directory: &Path) -> Vec<PathBuf> {
    let mut strays = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            strays.extend(strays_in(&path));
        } else if name.len() != 64 || !name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            strays.push(path);
        }
    }
    strays
}

#[test]
fn killed_at_any_moment_it_leaves_nothing_and_the_next_gives_the_same() {
    let case = Case::new();
    let mut killed = 0;
    for number in 0..moments() {
        let mut child = case.start();
        std::thread::sleep(case.moment(number));
        child.kill().unwrap();
        killed += u64::from(child.wait().unwrap().signal() == Some(9));
        case.check(&format!("kill {number}"));
        // Some go on with what is there, some from the start.
        if number % 4 == 0 {
            case.again(&format!("after kill {number}"));
            case.clear();
        }
    }
    assert!(killed > moments() / 3, "{killed} kills met a conversion under way");
    case.again("at last");
}

/// The disk is a small tmpfs (so this needs root) with room for a random part of the result.
#[test]
fn a_disk_that_fills_at_any_moment_costs_only_another_try() {
    let case = Case::new();
    let mut refused = 0;
    for number in 0..moments() / 4 {
        let store = case.bench.path("store");
        std::fs::create_dir(&store).unwrap();
        let size = 64 + u64::from_le_bytes(noise(8, number + 99).try_into().unwrap()) % 16_000;
        let tmpfs = |options: &str| {
            let mut command = Command::new("mount");
            command.args(["-t", "tmpfs", "-o", options, "tmpfs"]).arg(&store).status().unwrap()
        };
        assert!(tmpfs(&format!("size={size}k")).success(), "this test needs root");
        let output = case.start().wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let left = strays(&case.bench.path("."));
        let made = case.bench.path("out.cpm").exists();
        let larger = tmpfs("remount,size=64m");
        let again = case.bench.coldpress(&["convert", "oci:image", "--store", "store", "-o", "out.cpm", "--json"]);
        let verified = case.bench.coldpress(&["verify", "out.cpm", "--store", "store"]);
        assert!(Command::new("umount").arg(&store).status().unwrap().success());
        assert!(left.is_empty(), "{size} KiB: {left:?}");
        match output.status.code() {
            Some(0) => assert!(made),
            Some(4) => {
                refused += 1;
                assert!(!made && said.contains("No space left"), "{size} KiB: {said}");
            }
            other => panic!("{size} KiB: {other:?}: {said}"),
        }
        assert!(larger.success() && verified.status.success());
        let json: Value = serde_json::from_slice(&stdout(&again)).unwrap();
        assert_eq!(json["root_digest"], case.root_digest);
        case.clear();
    }
    assert!(refused > 0, "no disk was too small");
}

#[test]
fn a_store_that_is_removed_meanwhile_never_leaves_a_manifest_of_missing_chunks() {
    let case = Case::new();
    for number in 0..moments() / 4 {
        let child = case.start();
        std::thread::sleep(case.moment(number));
        let removed = std::fs::remove_dir_all(case.bench.path("store"));
        let ended = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        match ended.status.code() {
            // All was removed before the first put, or after the last.
            Some(0) => {}
            Some(4) => {
                assert!(said.contains("removed"), "{said}");
                assert!(!case.bench.path("out.cpm").exists(), "{said}");
                case.check(&format!("removal {number}"));
            }
            other => panic!("{other:?} ({removed:?}): {said}"),
        }
        case.again(&format!("after removal {number}"));
        case.clear();
    }
}

/// Whether a process has said what it does on an interrupt, or has ended.
fn awaits_interrupts(process: &Child) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.id())).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).map(str::trim).unwrap_or_default();
    u64::from_str_radix(caught, 16).is_ok_and(|caught| caught & (1 << 1) != 0) || status.contains("\nState:\tZ")
}

#[test]
fn an_interrupt_ends_within_200_milliseconds_and_says_so() {
    let case = Case::new();
    let mut took = Vec::new();
    for number in 0..10 {
        let child = case.start();
        let begun = Instant::now();
        while !awaits_interrupts(&child) {
            assert!(begun.elapsed() < Duration::from_secs(20), "it does not wait for interrupts");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::thread::sleep(case.moment(number) / 2);
        let process = rustix::process::Pid::from_child(&child);
        let asked = Instant::now();
        let _ = rustix::process::kill_process(process, rustix::process::Signal::INT);
        let output = child.wait_with_output().unwrap();
        took.push(asked.elapsed());
        if output.status.code() != Some(0) {
            assert_eq!(output.status.signal(), Some(2));
            assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
        }
        case.check("interrupt");
        case.clear();
    }
    took.sort_unstable();
    // Other work on this machine can delay some of them.
    assert!(took[4] < Duration::from_millis(200) && took[9] < Duration::from_secs(5), "{took:?}");
}

/// A process, killed when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// `coldread mount` of a bench's image at `mnt`, with a run directory of its own, started again and again.
struct Mounting {
    bench: Bench,
    /// What a mount takes until it stands.
    took: Duration,
}

impl Mounting {
    fn new() -> Self {
        let bench = Bench::new();
        bench.convert(&image(), "app", &[]);
        std::fs::create_dir(bench.path("mnt")).unwrap();
        let mut mounting = Self { bench, took: Duration::ZERO };
        let begun = Instant::now();
        let mut child = mounting.start(&[]);
        mounting.wait_until_mounted(&mut child, "at first");
        mounting.took = begun.elapsed();
        mounting.end(child, "at first");
        mounting
    }

    fn start(&self, options: &[&str]) -> Running {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
        command.args(["mount", "app.cpm", "mnt", "--store", "store"]).args(options).current_dir(self.bench.dir.path());
        command
            .env("COLDREAD_RUN_DIR", self.bench.path("run"))
            .env_remove("COLDPRESS_KEY")
            .env_remove("COLDREAD_CACHE");
        Running(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    /// Waits until the process says that the mount stands.
    fn wait_until_mounted(&self, child: &mut Running, what: &str) -> String {
        let stderr = child.0.stderr.as_mut().unwrap();
        let mut said = String::new();
        for line in BufReader::new(stderr).lines() {
            let line = line.unwrap();
            if line.contains("is mounted at") {
                return said;
            }
            said.push_str(&line);
        }
        panic!("{what}: it ended: {said}; {:?}", mounts_below(self.bench.dir.path()));
    }

    /// Exactly one of each is there, and the image is read.
    fn check(&self, what: &str) {
        let (point, run) = (self.bench.path("mnt"), self.bench.path("run"));
        assert_eq!(mounts_below(&point), std::slice::from_ref(&point), "{what}");
        assert_eq!(mounts_below(&run).len(), 1, "{what}: {:?}", mounts_below(&run));
        assert_eq!((loop_devices(&run).len(), entries(&run).len()), (1, 1), "{what}");
        assert_eq!(std::fs::read(point.join("end")).unwrap(), b"end", "{what}");
    }

    /// `coldread umount`, after which nothing is left.
    fn end(&self, mut child: Running, what: &str) {
        let output = self.bench.coldread(&["umount", "mnt"]);
        assert!(output.status.success(), "{what}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(child.0.wait().unwrap().success(), "{what}");
        assert_eq!(mounts_below(self.bench.dir.path()), Vec::<PathBuf>::new(), "{what}");
        let run = self.bench.path("run");
        assert!(loop_devices(&run).is_empty() && entries(&run).is_empty(), "{what}");
    }
}

impl Drop for Mounting {
    fn drop(&mut self) {
        // Of a test that failed.
        for mount in mounts_below(self.bench.dir.path()).iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(mount).status();
        }
    }
}

#[test]
fn a_mount_killed_at_any_moment_is_cleaned_up_by_the_next_at_the_same_directory() {
    let mounting = Mounting::new();
    let mut left = 0;
    for number in 0..moments_or(MOUNTS) {
        let what = format!("kill {number}");
        let options: &[&str] = if number % 3 == 2 { &["--writable"] } else { &[] };
        let mut child = mounting.start(options);
        let random = u64::from_le_bytes(noise(8, number * 104_729 + 7).try_into().unwrap()) % 1000;
        std::thread::sleep(mounting.took * u32::try_from(random).unwrap() / 800);
        // Every fourth has been mounted for certain, and is read from meanwhile.
        if number % 4 == 3 {
            mounting.wait_until_mounted(&mut child, &what);
            let _ = std::fs::read(mounting.bench.path("mnt/data/007"));
        }
        child.0.kill().unwrap();
        assert_eq!(child.0.wait().unwrap().signal(), Some(9), "{what}");
        left += usize::from(!entries(&mounting.bench.path("run")).is_empty());
        let mut child = mounting.start(options);
        let said = mounting.wait_until_mounted(&mut child, &what);
        mounting.check(&format!("{what}: {said}"));
        mounting.end(child, &what);
    }
    assert!(left > 0, "no kill left anything");
}

//! Conversions into a directory on a disk that loses power at a random moment: what had ended with 0 verifies, no manifest names a
//! chunk that was lost, and the same commands again restore the rest.
//!
//! The disk is an ext4 on a loop device of the test's own. ext4's shutdown request stops it as a power failure would: what was not
//! written to the device by then never is. A copy of the device, taken past the page cache, is then mounted, which recovers its journal.
//! `COLDPRESS_KILLS` says how many moments are tried, as in `kills.rs`.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};
use crate::support::failing_disk::FailingDisk;

/// How many moments are tried where nothing else is said.
const MOMENTS: u64 = 3;
const IMAGES: [&str; 3] = ["one", "two", "three"];
/// The journal is committed once a second, so that names without their bytes reach the device.
const OPTIONS: &str = "commit=1";
/// How long after the last conversion the power can fail.
const AFTERWARDS: Duration = Duration::from_millis(2500);

#[expect(clippy::disallowed_methods, reason = "a test asks how long it may run")]
fn moments() -> u64 {
    std::env::var("COLDPRESS_KILLS").map_or(MOMENTS, |count| count.parse::<u64>().unwrap().div_ceil(4))
}

/// An ext4 on a loop device, mounted until it is dropped.
struct Disk {
    device: String,
    directory: PathBuf,
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output();
    let output = output.unwrap_or_else(|error| panic!("{program} (tools/test-tools.sh installs it): {error}"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?} (needs root): {said}");
    output.stdout
}

impl Disk {
    /// Mounts the disk whose bytes are those of `file`.
    fn mount(file: &Path, directory: &Path) -> Self {
        let device = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        let device = String::from_utf8(device).unwrap().trim().to_owned();
        std::fs::create_dir_all(directory).unwrap();
        let disk = Self { device, directory: directory.to_owned() };
        run("mount", &["-t", "ext4", "-o", OPTIONS, &disk.device, directory.to_str().unwrap()]);
        disk
    }

    fn new(file: &Path, directory: &Path) -> Self {
        File::create(file).unwrap().set_len(128 << 20).unwrap();
        run("mkfs.ext4", &["-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0", file.to_str().unwrap()]);
        Self::mount(file, directory)
    }

    /// Stops all writing to the device at once, the journal's included (`EXT4_IOC_SHUTDOWN`, without a flush of the log).
    #[expect(unsafe_code, reason = "no library has this request")]
    fn cut(&self) {
        const SHUTDOWN: rustix::ioctl::Opcode = rustix::ioctl::opcode::read::<u32>(b'X', 125);
        const NO_LOG_FLUSH: u32 = 2;
        let root = File::open(&self.directory).unwrap();
        // SAFETY: the request reads one 32-bit number, which is what is passed.
        unsafe {
            let request = rustix::ioctl::Setter::<SHUTDOWN, u32>::new(NO_LOG_FLUSH);
            rustix::ioctl::ioctl(&root, request).unwrap();
        }
    }

    /// Copies what the device has.
    fn copy(&self, file: &Path) {
        let (from, to) = (format!("if={}", self.device), format!("of={}", file.display()));
        run("dd", &[&from, &to, "bs=1M", "iflag=direct", "conv=sparse", "status=none"]);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.directory).stderr(Stdio::null()).status();
        let _ = Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

struct Case {
    bench: Bench,
    /// What the conversions took on an undisturbed disk, together.
    took: Duration,
    root_digests: Vec<Value>,
}

impl Case {
    fn new() -> Self {
        let bench = Bench::new();
        let base =
            (0..16).fold(Layer::new().dir("data"), |layer, n| layer.file(&format!("data/{n:02}"), &noise(400_000, n)));
        for (image, seed) in IMAGES.into_iter().zip(100..) {
            let top = Layer::new().file("top", &noise(1_500_000, seed));
            Image::new([base.clone(), top]).oci_layout(&bench.path(image), Packing::Gzip);
        }
        let mut case = Self { bench, took: Duration::ZERO, root_digests: Vec::new() };
        let disk = Disk::new(&case.bench.path("disk.img"), &case.bench.path("disk"));
        let began = Instant::now();
        case.root_digests = IMAGES.map(|image| case.digest(&case.convert("disk", image))).into();
        case.took = began.elapsed();
        drop(disk);
        case
    }

    /// Converts `image` into the store of the disk at `directory`, and writes the manifest beside the store.
    fn convert(&self, directory: &str, image: &str) -> Output {
        let (store, output) = (format!("{directory}/store"), format!("{directory}/{image}.cpm"));
        self.bench.coldpress(&["convert", &format!("oci:{image}"), "--store", &store, "-o", &output, "--json"])
    }

    fn digest(&self, output: &Output) -> Value {
        let json: Value = serde_json::from_slice(&stdout(output)).unwrap();
        json["root_digest"].clone()
    }

    fn verify(&self, image: &str, what: &str) {
        let output = self.bench.coldpress(&["verify", &format!("copy/{image}.cpm"), "--store", "copy/store"]);
        assert!(output.status.success(), "{what}, {image}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A moment of the conversions, or shortly after them.
    fn moment(&self, number: u64) -> Duration {
        let random = u64::from_le_bytes(noise(8, number * 7919 + 29).try_into().unwrap());
        (self.took + AFTERWARDS) * u32::try_from(random % 1000).unwrap() / 1000
    }

    /// Cuts the power after `moment`, and leaves a copy of the device; the images whose conversions had ended with 0 before.
    fn cut(&self, moment: Duration) -> Vec<&'static str> {
        let disk = Disk::new(&self.bench.path("disk.img"), &self.bench.path("disk"));
        let ended = Mutex::new(Vec::new());
        let before = std::thread::scope(|scope| {
            scope.spawn(|| {
                for image in IMAGES {
                    let output = self.convert("disk", image);
                    if !output.status.success() {
                        break;
                    }
                    ended.lock().unwrap().push(image);
                }
            });
            std::thread::sleep(moment);
            let before = ended.lock().unwrap().clone();
            disk.cut();
            before
        });
        disk.copy(&self.bench.path("copy.img"));
        before
    }
}

#[test]
fn after_a_power_cut_what_ended_well_verifies_and_a_rerun_restores_the_rest() {
    let case = Case::new();
    let mut survived = 0;
    // The last moment is late: all has ended, and names have been committed.
    let late = [case.took * 2 + AFTERWARDS];
    for (number, moment) in (0..moments() - 1).map(|number| case.moment(number)).chain(late).enumerate() {
        let ended = case.cut(moment);
        let what = format!("cut {number}, after {moment:?}, {} had ended", ended.len());
        let copy = Disk::mount(&case.bench.path("copy.img"), &case.bench.path("copy"));
        for image in &ended {
            case.verify(image, &what);
        }
        // Nor does any other manifest in the store name what is not there.
        if case.bench.path("copy/store/manifests/main").exists() {
            let scrubbed = case.bench.coldpress(&["scrub", "--all", "--store", "copy/store"]);
            assert!(scrubbed.status.success(), "{what}: {}", String::from_utf8_lossy(&scrubbed.stdout));
        }
        for (image, digest) in IMAGES.into_iter().zip(&case.root_digests) {
            assert_eq!(case.digest(&case.convert("copy", image)), *digest, "{what}");
            case.verify(image, &format!("{what}, again"));
        }
        survived += ended.len();
        drop(copy);
    }
    assert!(survived >= IMAGES.len(), "{survived} conversions had ended before a cut");
}

#[test]
fn a_disk_that_cannot_be_synced_gets_no_manifest() {
    let bench = Bench::new();
    let image = Image::new([Layer::new().file("data", &noise(700_000, 1))]);
    image.oci_layout(&bench.path("app"), Packing::Gzip);
    let disk = FailingDisk::mount(&bench.path("disk"), 64 << 20);
    let convert = || bench.coldpress(&["convert", "oci:app", "--store", "disk/store", "-o", "app.cpm"]);
    disk.health.writes_fail.store(true, Ordering::SeqCst);
    // Chunks are taken by memory all the same.
    let output = convert();
    assert!(!output.status.success() && !bench.path("app.cpm").exists());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("cannot sync the store's file system"), "{said}");
    let manifests = std::fs::read_dir(bench.path("disk/store/manifests/main")).map_or(0, Iterator::count);
    assert_eq!(manifests, 0);
}

//! `coldread serve --fuse`: the block image as a regular file, read by the kernel's loop device and by who opens it; and several doors at once.

use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::nbd::{Serving, run, served};
use crate::support::common::{Bench, stdout};

fn serve(bench: &Bench, args: &[&str]) -> Serving {
    Serving::at(bench, Command::new(env!("CARGO_BIN_EXE_coldread")).arg("serve").args(args))
}

/// What it says where it cannot even begin.
fn refused(bench: &Bench, args: &[&str]) -> (i32, String) {
    let Output { status, stderr, .. } = bench.coldread(&[&["serve", "--store", "store"], args].concat());
    (status.code().unwrap(), String::from_utf8(stderr).unwrap())
}

fn is_mounted(path: &Path) -> bool {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    fs::read_to_string("/proc/self/mounts").unwrap().lines().any(|line| line.split(' ').nth(1) == path.to_str())
}

#[test]
fn the_file_is_what_export_writes_and_other_doors_stand_beside_it() {
    let bench = served();
    fs::write(bench.path("b.img"), "what was there").unwrap();
    let doors = ["--fuse", "a.img", "--fuse", "second:b.img", "--nbd", "unix:a.sock"];
    let serving = serve(&bench, &[&["one.cpm", "second=two.cpm"], &doors[..]].concat());
    for (file, exported) in [("a.img", "one.img"), ("b.img", "two.img")] {
        stdout(&run(&bench, "cmp", &[file, exported]));
        let metadata = fs::metadata(bench.path(file)).unwrap();
        assert!(metadata.is_file());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o400);
    }
    stdout(&run(&bench, "nbdcopy", &["nbd+unix:///second?socket=a.sock", "copy.img"]));
    stdout(&run(&bench, "cmp", &["copy.img", "two.img"]));
    // Who speaks no NBD harms no file.
    let mut bad = UnixStream::connect(bench.path("a.sock")).unwrap();
    bad.write_all(&[0xFF; 64]).unwrap();
    stdout(&run(&bench, "cmp", &["a.img", "one.img"]));
    // Nobody writes to it.
    assert!(File::options().write(true).open(bench.path("a.img")).is_err());
    let said = serving.end();
    assert!(said.contains("is served as `second`") && !said.contains("still open"), "{said}");
    assert!(!bench.path("a.img").exists());
    assert_eq!(fs::read_to_string(bench.path("b.img")).unwrap(), "what was there");
    assert!(!is_mounted(&bench.path("b.img")));
}

#[test]
fn reads_of_every_alignment_at_once_are_those_of_the_exported_file() {
    let bench = served();
    let serving = serve(&bench, &["one.cpm", "--fuse", "a.img"]);
    let device = fs::read(bench.path("one.img")).unwrap();
    let file = File::open(bench.path("a.img")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..64u64 {
            let (device, file) = (&device, &file);
            scope.spawn(move || {
                for n in 0..20 {
                    let n = thread * 20 + n;
                    let at = n * 7_919_003 % (device.len() as u64 - 300_000);
                    let mut data = vec![0; usize::try_from(1 + n * n * 97 % 299_999).unwrap()];
                    file.read_exact_at(&mut data, at).unwrap();
                    let from = usize::try_from(at).unwrap();
                    assert!(data == device[from..from + data.len()], "{at}+{}", data.len());
                }
            });
        }
    });
    // Past the end there is nothing.
    assert_eq!(file.read_at(&mut [0; 16], device.len() as u64).unwrap(), 0);
    drop(file);
    serving.end();
}

/// A loop device on a file, until it is dropped.
struct Loop(String);

impl Loop {
    fn new(bench: &Bench, file: &str) -> Self {
        let said = stdout(&run(bench, "losetup", &["--find", "--show", "--read-only", "--direct-io=on", file]));
        Self(String::from_utf8(said).unwrap().trim_end().to_owned())
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").args(["--detach", &self.0]).status();
    }
}

#[test]
fn a_loop_device_on_it_is_mounted_by_hand_and_outlives_the_name() {
    let bench = served();
    let mut serving = serve(&bench, &["one.cpm", "--fuse", "a.img"]);
    fs::create_dir(bench.path("mnt")).unwrap();
    let device = Loop::new(&bench, "a.img");
    stdout(&run(&bench, "mount", &["-t", "ext4", "-o", "ro", &device.0, "mnt"]));
    // It goes with the mount.
    drop(device);
    assert_eq!(fs::read(bench.path("mnt/etc/name")).unwrap(), b"two");
    serving.signal("-TERM");
    let begun = Instant::now();
    while bench.path("a.img").metadata().is_ok_and(|metadata| metadata.len() > 0) {
        assert!(begun.elapsed() < Duration::from_secs(5), "its name should go at once");
        std::thread::sleep(Duration::from_millis(5));
    }
    // What nobody has read yet.
    assert_eq!(fs::read(bench.path("mnt/data/07")).unwrap().len(), 400_000);
    assert!(serving.process.try_wait().unwrap().is_none());
    stdout(&run(&bench, "umount", &["mnt"]));
    assert!(serving.process.wait().unwrap().success());
    assert!(begun.elapsed() < Duration::from_secs(9));
    assert!(!bench.path("a.img").exists());
}

#[test]
fn who_never_closes_it_is_waited_for_only_so_long() {
    let bench = served();
    let serving = serve(&bench, &["one.cpm", "--fuse", "a.img", "--nbd", "unix:a.sock"]);
    let file = File::open(bench.path("a.img")).unwrap();
    let begun = Instant::now();
    let said = serving.end();
    assert!((10..15).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert!(said.contains("a.img is still open; it ends when it is closed, or in 10 s"), "{said}");
    assert!(said.contains("a.img: still open; further reads fail"), "{said}");
    assert!(file.read_at(&mut [0; 4096], 1 << 20).is_err());
    assert!(!bench.path("a.img").exists() && !bench.path("a.sock").exists());
}

#[test]
fn a_file_unmounted_by_hand_ends_its_door_and_the_last_door_the_program() {
    let bench = served();
    let doors = ["--fuse", "a.img", "--fuse", "two:b.img"];
    let mut serving = serve(&bench, &[&["one.cpm", "two.cpm"], &doors[..]].concat());
    stdout(&run(&bench, "umount", &["a.img"]));
    stdout(&run(&bench, "cmp", &["b.img", "two.img"]));
    assert!(serving.process.try_wait().unwrap().is_none());
    stdout(&run(&bench, "umount", &["b.img"]));
    assert!(serving.process.wait().unwrap().success());
    assert!(!bench.path("a.img").exists() && !bench.path("b.img").exists());
}

#[test]
fn the_dead_mount_of_one_that_was_killed_is_put_away() {
    let bench = served();
    let mut killed = serve(&bench, &["one.cpm", "--fuse", "a.img"]);
    let (code, said) = refused(&bench, &["one.cpm", "--fuse", "a.img"]);
    assert!(code == 1 && said.contains("a.img: another file system is mounted there"), "{code} {said}");
    killed.signal("-KILL");
    killed.process.wait().unwrap();
    assert!(File::open(bench.path("a.img")).is_err());
    let serving = serve(&bench, &["one.cpm", "--fuse", "a.img"]);
    stdout(&run(&bench, "cmp", &["a.img", "one.img"]));
    serving.end();
    assert!(!bench.path("a.img").exists());
}

#[test]
fn what_is_no_place_for_it_is_said_and_nothing_is_left() {
    let bench = served();
    fs::create_dir(bench.path("folder")).unwrap();
    for (args, code, message) in [
        (&["one.cpm"][..], 2, "--nbd <ADDRESS>|--fuse <[NAME:]PATH>"),
        (&["one.cpm", "--fuse", "folder"], 1, "folder: not a regular file"),
        (&["one.cpm", "--fuse", "nowhere/a.img"], 1, "nowhere/a.img: No such file"),
        (&["one.cpm", "--fuse", "three:a.img"], 2, "no image is named `three`"),
        (&["one.cpm", "--fuse", "one:"], 2, "`one:` has no path"),
        (
            &["one.cpm", "--fuse", "a.img", "--fuse", "b.img", "--fuse", "a.img"],
            1,
            "another file system is mounted there",
        ),
        (&["one.cpm", "--nbd", "unix:a.sock", "--fuse", "a.img", "--fuse", "folder"], 1, "not a regular file"),
    ] {
        let (found, said) = refused(&bench, args);
        assert!(found == code && said.contains(message), "{args:?}: {found} {said}");
        for left in ["a.img", "b.img", "a.sock"] {
            assert!(!bench.path(left).exists(), "{args:?} leaves {left}");
        }
    }
}

#[test]
fn a_chunk_that_is_damaged_is_an_error_of_its_reader_and_no_other_door() {
    let bench = served();
    let serving = serve(&bench, &["one.cpm", "two.cpm", "--fuse", "a.img", "--nbd", "unix:a.sock"]);
    let file = File::open(bench.path("a.img")).unwrap();
    file.read_exact_at(&mut [0; 4096], 0).unwrap();
    let chunks: Vec<_> = fs::read_dir(bench.path("store/main")).unwrap().map(|chunk| chunk.unwrap().path()).collect();
    let whole: Vec<_> = chunks.iter().map(|path| fs::read(path).unwrap()).collect();
    chunks.iter().for_each(|path| fs::write(path, b"short").unwrap());
    assert!(file.read_exact_at(&mut [0; 4096], 64 << 20).is_err());
    chunks.iter().zip(whole).for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    stdout(&run(&bench, "nbdcopy", &["nbd+unix:///two?socket=a.sock", "copy.img"]));
    stdout(&run(&bench, "cmp", &["copy.img", "two.img"]));
    stdout(&run(&bench, "cmp", &["a.img", "one.img"]));
    drop(file);
    let said = serving.end();
    assert!(said.contains("a read failed: chunk"), "{said}");
}

/// As a user without rights, with fusermount3; in a mount namespace whose /dev/fuse everyone may open, as distributions have it.
#[test]
fn it_needs_no_root() {
    let bench = served();
    fs::set_permissions(bench.dir.path(), Permissions::from_mode(0o777)).unwrap();
    stdout(&run(&bench, "chown", &["-R", "nobody", "store", "one.cpm", "coldpress.key"]));
    stdout(&run(&bench, "mknod", &["-m", "666", "fuse", "c", "10", "229"]));
    // Programs are where only root looks, so nobody runs a copy.
    fs::copy(env!("CARGO_BIN_EXE_coldread"), bench.path("coldread")).unwrap();
    let nobody = "setpriv --reuid=nobody --regid=nogroup --clear-groups";
    let script = format!("mount --make-rprivate / && mount --bind fuse /dev/fuse && exec {nobody} ./coldread \"$@\"");
    let args = ["--mount", "sh", "-c", &script, "sh", "serve", "one.cpm", "--fuse", "a.img"];
    let serving = Serving::at(&bench, Command::new("unshare").args(args));
    fs::set_permissions(bench.path("one.img"), Permissions::from_mode(0o644)).unwrap();
    let target = serving.process.id().to_string();
    let compare = format!("cd {} && exec {nobody} cmp a.img one.img", bench.dir.path().display());
    stdout(&run(&bench, "nsenter", &["--mount", "--target", &target, "sh", "-c", &compare]));
    let said = serving.end();
    assert!(!bench.path("a.img").exists(), "{said}");
}

//! `coldpress export --journal`: e2fsck, dumpe2fs and the kernel judge the journal that an exported device gets.

use std::fs::File;
use std::path::Path;
use std::process::Command;

use crate::support::common::{Bench, Image, Layer, e2fsck, noise, stdout};

/// A converted image `app.cpm` of two layers, with a file that a later layer hides, and `free` of space.
fn converted(free: &str) -> Bench {
    let bench = Bench::new();
    let lower = Layer::new().dir("etc").file("etc/hostname", b"made\n").file("large", &noise(3_000_000, 5));
    let upper = Layer::new().whiteout("large").file("app", &noise(900_000, 6));
    bench.convert(&Image::new([lower, upper]), "app", &["--free", free]);
    bench
}

fn export(bench: &Bench, options: &[&str]) {
    stdout(&bench.coldpress(&[&["export", "app.cpm", "--store", "store"], options].concat()));
}

fn run(program: &str, args: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(args).arg(file).output().unwrap();
    String::from_utf8(stdout(&output)).unwrap()
}

#[test]
fn a_journal_is_added_to_the_exported_device_alone() {
    let bench = converted("16MiB");
    export(&bench, &["-o", "plain.img"]);
    export(&bench, &["-o", "app.img", "--journal", "8MiB"]);
    let image = bench.path("app.img");
    e2fsck(&image);
    let header = run("dumpe2fs", &["-h"], &image);
    for line in
        ["Journal inode:            8", "Total journal blocks:     2048", "Journal backup:           inode blocks"]
    {
        assert!(header.contains(line), "no `{line}` in {header}");
    }
    let features = |file: &str| {
        let header = run("dumpe2fs", &["-h"], &bench.path(file));
        header.lines().find(|line| line.starts_with("Filesystem features:")).unwrap().to_owned()
    };
    assert_eq!(features("app.img").replace(" has_journal", ""), features("plain.img"));
    let blocks = |file: &str| {
        let header = run("dumpe2fs", &["-h"], &bench.path(file));
        let line = header.lines().find(|line| line.starts_with("Free blocks:")).unwrap().to_owned();
        line.split_whitespace().last().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(blocks("plain.img") - blocks("app.img"), 2_048);
    // Only metadata and the journal's first block differ.
    let [plain, journaled] = ["plain.img", "app.img"].map(|file| std::fs::read(bench.path(file)).unwrap());
    assert_eq!(plain.len(), journaled.len());
    let differ = plain.chunks(4096).zip(journaled.chunks(4096)).filter(|(a, b)| a != b).count();
    assert!((4..=6).contains(&differ), "{differ} blocks differ");
    // A stream and another run give the same bytes.
    let streamed = bench.coldpress(&["export", "app.cpm", "--store", "store", "-o", "-", "--journal", "8MiB"]);
    assert!(stdout(&streamed) == journaled, "the stream differs from the file");
}

/// The last groups of a large device have no bitmaps, and the chunks that the journal changes are zero in the image.
#[test]
fn a_journal_of_every_size_stands_in_free_blocks_of_any_group() {
    let bench = converted("1GiB");
    for mib in [4, 20, 130, 300, 512] {
        export(&bench, &["-o", "app.img", "--journal", &format!("{mib}MiB")]);
        let image = bench.path("app.img");
        e2fsck(&image);
        let header = run("dumpe2fs", &["-h"], &image);
        let wanted = format!("Total journal blocks:     {}\n", mib * 256);
        assert!(header.contains(&wanted), "no `{wanted}` in {header}");
        let map = run("debugfs", &["-R", "stat <8>"], &image);
        assert!(map.contains("Mode:  0600") && map.contains("Links: 1"), "{map}");
    }
}

#[test]
fn the_kernel_writes_to_it_and_recovers_what_was_committed() {
    let bench = converted("32MiB");
    export(&bench, &["-o", "app.img", "--journal", "4MiB"]);
    let (image, cut) = (bench.path("app.img"), bench.path("cut.img"));
    let mounted = |image: &Path| {
        let directory = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "ext4", "-o", "loop,rw"]).arg(image).arg(directory.path());
        stdout(&mount.output().unwrap());
        crate::support::common::Mounted(directory)
    };
    let disk = mounted(&image);
    for n in 0..200 {
        std::fs::write(disk.path().join(format!("etc/{n}")), noise(5_000, n)).unwrap();
    }
    rustix::fs::syncfs(File::open(disk.path()).unwrap()).unwrap();
    // The power fails here.
    std::fs::copy(&image, &cut).unwrap();
    drop(disk);
    e2fsck(&image);
    assert!(run("dumpe2fs", &["-h"], &cut).contains("needs_recovery"), "nothing was in the journal");
    let disk = mounted(&cut);
    for n in 0..200 {
        assert_eq!(std::fs::read(disk.path().join(format!("etc/{n}"))).unwrap(), noise(5_000, n));
    }
    assert_eq!(std::fs::read(disk.path().join("etc/hostname")).unwrap(), b"made\n");
    drop(disk);
    e2fsck(&cut);
}

#[test]
fn a_journal_that_cannot_be_is_refused_with_what_can() {
    let bench = converted("0");
    for (size, message) in [
        ("4MiB0", "invalid value"),
        ("3MiB", "ext4 allows 4 MiB to 512 MiB"),
        ("513MiB", "ext4 allows 4 MiB to 512 MiB"),
        ("100MiB", "convert the image with a larger --free"),
    ] {
        let output = bench.coldpress(&["export", "app.cpm", "--store", "store", "-o", "app.img", "--journal", size]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(message), "{size}: {text}");
        assert!(!bench.path("app.img").exists(), "{size} left a file");
    }
}

//! Outputs whose names stand for something else than a regular file: devices, FIFOs, descriptors and links are written to or refused,
//! and never replaced. All nodes are made here (this needs root); the machine's own are not touched.

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::common::{Bench, Image, Layer, noise, stdout};

/// A converted image `app.cpm`, exported to `app.img`, and its profile.
fn bench() -> Bench {
    let bench = Bench::new();
    let layer =
        Layer::new().file("data", &noise(900_000, 1)).file("greeting", b"hello\n").file("tail", &noise(300_000, 2));
    bench.block_image(&Image::new([layer]), "app", &[]);
    let record = ["profile", "record", "app.cpm", "--store", "store", "-o", "app.profile", "--", "cat", "{}/greeting"];
    stdout(&bench.coldread(&record));
    bench
}

fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?} (needs root): {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Runs a line of a shell with `coldpress` and `coldread` as variables.
fn shell(bench: &Bench, line: &str) -> Output {
    let mut command = Command::new("bash");
    command.args(["--norc", "-c", &format!("set -o pipefail; {line}")]).current_dir(bench.dir.path());
    command.env("coldpress", env!("CARGO_BIN_EXE_coldpress")).env("coldread", env!("CARGO_BIN_EXE_coldread"));
    for name in ["COLDPRESS_KEY", "COLDPRESS_STORE", "COLDPRESS_CACHE", "XDG_CACHE_HOME", "HOME"] {
        command.env_remove(name);
    }
    command.output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const CONVERT: &str = "$coldpress convert oci:app --store store -o";
const EXPORT: &str = "$coldpress export app.cpm --store store -o";
const REWRAP: &str = "$coldpress rewrap app.cpm --to file:coldpress.key -o";

/// Every command that writes an output, without the output's name.
const COMMANDS: [&str; 7] = [
    CONVERT,
    EXPORT,
    REWRAP,
    "$coldpress convert oci:app --store store -o x.cpm --summary",
    "$coldpress convert oci:app --store store -o x.cpm --outputs",
    "$coldread report app.profile -o",
    "$coldread zone plan --make cron:10,3600,2 -o",
];

#[test]
fn a_character_device_is_written_to_and_stays() {
    let bench = bench();
    run("mknod", &["-m", "666", bench.path("null").to_str().unwrap(), "c", "1", "3"]);
    let record = "$coldread profile record app.cpm --store store -o null -- true #";
    for line in COMMANDS.into_iter().chain([record]) {
        let output = shell(&bench, &format!("{line} null"));
        assert!(output.status.success(), "{line}: {}", said(&output));
        assert!(bench.path("null").metadata().unwrap().file_type().is_char_device(), "{line}");
    }
    // A key is kept, so it is not written to a device.
    let keygen = shell(&bench, "$coldpress keygen -o null");
    assert_eq!(keygen.status.code(), Some(1));
    assert!(said(&keygen).contains("null: File exists"), "{}", said(&keygen));
    let note = shell(&bench, "$coldpress scrub app.cpm --store store --resume null");
    assert_eq!(note.status.code(), Some(2), "{}", said(&note));
    fs::rename(bench.path("null"), bench.path("app.cpm.profile")).unwrap();
    stdout(&shell(&bench, "$coldpress profile attach app.cpm app.profile"));
    fs::create_dir(bench.path("man")).unwrap();
    fs::rename(bench.path("app.cpm.profile"), bench.path("man/coldpress.1")).unwrap();
    stdout(&shell(&bench, "$coldpress man man"));
    assert!(bench.path("man/coldpress.1").metadata().unwrap().file_type().is_char_device());
}

#[test]
fn a_fifo_a_descriptor_and_standard_output_get_all_bytes_and_no_others() {
    let bench = bench();
    let image = fs::read(bench.path("app.img")).unwrap();
    run("mkfifo", &[bench.path("fifo").to_str().unwrap()]);
    let ways = [
        "cat fifo >got & COMMAND fifo && wait $!",
        "COMMAND /dev/stdout | cat >got",
        "COMMAND - | cat >got",
        "COMMAND - >got",
        "COMMAND /dev/fd/7 7>&1 >/dev/null | cat >got",
        "COMMAND /dev/fd/7 7>got >/dev/null",
    ];
    for way in ways {
        let output = shell(&bench, &way.replace("COMMAND", EXPORT));
        assert!(output.status.success(), "{way}: {}", said(&output));
        assert!(fs::read(bench.path("got")).unwrap() == image, "{way}: other bytes than those of the file");
        for line in [CONVERT, REWRAP] {
            let output = shell(&bench, &way.replace("COMMAND", line));
            assert!(output.status.success(), "{way}, {line}: {}", said(&output));
            // Nothing stands before or behind it.
            stdout(&shell(&bench, "$coldpress verify got --store store"));
        }
    }
    assert!(bench.path("fifo").metadata().unwrap().file_type().is_fifo());
    // What stands in the file already stays.
    let appended = shell(&bench, &format!("(echo before; {EXPORT} -; echo behind) >got"));
    assert!(appended.status.success(), "{}", said(&appended));
    assert!(fs::read(bench.path("got")).unwrap() == [b"before\n", &image[..], b"behind\n"].concat());
    // The report goes where it does no harm.
    let output = shell(&bench, &format!("{EXPORT} - --json >/dev/null"));
    assert!(said(&output).contains("\"device_bytes\""), "{}", said(&output));
    // A reader that leaves early is an error, not a hang.
    let output = shell(&bench, &format!("{EXPORT} - | head -c 100000 >/dev/null"));
    assert_eq!(output.status.code(), Some(4), "{}", said(&output));
    assert!(said(&output).contains("its reader closed it before all was written"), "{}", said(&output));
}

#[test]
fn a_symbolic_link_is_followed_and_stays() {
    let bench = bench();
    fs::create_dir(bench.path("real")).unwrap();
    symlink("real/target", bench.path("second")).unwrap();
    symlink("second", bench.path("link")).unwrap();
    for line in COMMANDS {
        // Dangling first, then to a file.
        let _ = fs::remove_file(bench.path("real/target"));
        for _ in 0..2 {
            let output = shell(&bench, &format!("{line} link"));
            assert!(output.status.success(), "{line}: {}", said(&output));
            assert!(bench.path("link").is_symlink() && bench.path("second").is_symlink(), "{line}");
            assert!(fs::symlink_metadata(bench.path("real/target")).unwrap().is_file(), "{line}");
        }
    }
    let names = fs::read_dir(bench.path("real")).unwrap().count();
    assert_eq!(names, 1, "nothing is left aside");
    // Another user's link in a directory of all is not.
    fs::create_dir(bench.path("all")).unwrap();
    fs::set_permissions(bench.path("all"), fs::Permissions::from_mode(0o1777)).unwrap();
    fs::write(bench.path("victim"), "theirs").unwrap();
    symlink("../victim", bench.path("all/link")).unwrap();
    std::os::unix::fs::lchown(bench.path("all/link"), Some(1), Some(1)).unwrap();
    for line in COMMANDS {
        let output = shell(&bench, &format!("{line} all/link"));
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(
            said(&output).contains("not followed") || said(&output).contains("Permission denied"),
            "{}",
            said(&output)
        );
        assert_eq!(fs::read(bench.path("victim")).unwrap(), b"theirs", "{line}");
    }
}

#[test]
fn directories_and_sockets_are_refused() {
    let bench = bench();
    fs::create_dir(bench.path("directory")).unwrap();
    let _listener = UnixListener::bind(bench.path("socket")).unwrap();
    for line in COMMANDS {
        for (name, message) in [("directory", "Is a directory"), ("socket", "is a socket")] {
            let output = shell(&bench, &format!("{line} {name}"));
            assert_eq!(output.status.code(), Some(1), "{line} {name}");
            assert!(said(&output).contains(message), "{line}: {}", said(&output));
        }
    }
    assert!(bench.path("socket").metadata().unwrap().file_type().is_socket());
}

/// A loop device on a file of its own.
struct Loop {
    device: PathBuf,
    file: PathBuf,
}

impl Loop {
    /// With `bytes` bytes that are not zero.
    fn new(file: PathBuf, bytes: usize) -> Self {
        fs::write(&file, vec![0xA5; bytes]).unwrap();
        let device = run("losetup", &["--find", "--show", file.to_str().unwrap()]);
        Self { device: Path::new(String::from_utf8(device).unwrap().trim()).to_owned(), file }
    }

    /// A node of the test's own for it.
    fn node(&self, path: &Path) {
        let number =
            fs::metadata(&self.device).map(|metadata| std::os::unix::fs::MetadataExt::rdev(&metadata)).unwrap();
        let (major, minor) = (rustix::fs::major(number).to_string(), rustix::fs::minor(number).to_string());
        run("mknod", &[path.to_str().unwrap(), "b", &major, &minor]);
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.file).unwrap()
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = Command::new("losetup").arg("--detach").arg(&self.device).status();
    }
}

#[test]
fn export_writes_a_block_device_in_place_and_nothing_else_does() {
    let bench = bench();
    let image = fs::read(bench.path("app.img")).unwrap();
    let large = Loop::new(bench.path("large"), image.len() + (1 << 20));
    large.node(&bench.path("disk"));
    for line in COMMANDS.into_iter().filter(|line| *line != EXPORT) {
        let output = shell(&bench, &format!("{line} disk"));
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert!(said(&output).contains("only `coldpress export` writes to one"), "{line}: {}", said(&output));
    }
    assert!(large.bytes().iter().all(|byte| *byte == 0xA5));
    stdout(&shell(&bench, &format!("{EXPORT} disk")));
    assert!(bench.path("disk").metadata().unwrap().file_type().is_block_device());
    let bytes = large.bytes();
    let (written, behind) = bytes.split_at(image.len());
    assert!(written == image, "zeros are written, too");
    assert!(behind.iter().all(|byte| *byte == 0xA5), "what lies behind the image stays");
    // In use.
    fs::create_dir(bench.path("mnt")).unwrap();
    let (disk, mnt) = (bench.path("disk"), bench.path("mnt"));
    run("mount", &["-t", "ext4", "-o", "ro", disk.to_str().unwrap(), mnt.to_str().unwrap()]);
    let busy = shell(&bench, &format!("{EXPORT} disk"));
    run("umount", &[mnt.to_str().unwrap()]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(said(&busy).contains("in use"), "{}", said(&busy));
    // Too small: not a byte is written.
    let small = Loop::new(bench.path("small"), image.len() - 4096);
    small.node(&bench.path("little"));
    let refused = shell(&bench, &format!("{EXPORT} little"));
    assert_eq!(refused.status.code(), Some(1));
    let message = format!("has {} bytes, the image needs {}", image.len() - 4096, image.len());
    assert!(said(&refused).contains(&message), "{}", said(&refused));
    assert!(small.bytes().iter().all(|byte| *byte == 0xA5));
}

#[test]
fn an_exported_image_is_for_its_owner_alone() {
    let bench = bench();
    assert_eq!(bench.path("app.img").metadata().unwrap().permissions().mode() & 0o7777, 0o600);
    assert_eq!(bench.path("app.cpm").metadata().unwrap().permissions().mode() & 0o044, 0o044);
}

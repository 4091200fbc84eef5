//! Looking inside an image: `coldread ls`, `du`, `find`, `cp` and `tar` against the programs of these names, on the kernel's mount.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::common::{Bench, Image, Layer, MTIME, Meta, Mounted, listing, noise, stdout};

/// A tree with every kind of file, and what tar headers have no field for.
fn image() -> Image {
    let at = |mtime: i64| Meta { mtime, ..Meta::default() };
    let pax_time = |time: &str| Meta { pax: vec![("mtime".to_owned(), time.into())], ..Meta::default() };
    let long = "n".repeat(90);
    // user::rw-, user:1000:r--, group::r--, mask::r--, other::---
    let acl = [2, 0, 0, 0].into_iter().chain(
        [[1, 0, 6, 0], [2, 0, 4, 0], [4, 0, 4, 0], [16, 0, 4, 0], [32, 0, 0, 0]].into_iter().flat_map(|tag| {
            let id: u32 = if tag[0] == 2 { 1000 } else { u32::MAX };
            [tag, id.to_le_bytes()].concat()
        }),
    );
    let acl: Vec<u8> = acl.collect();
    let layer = Layer::new()
        .dir_with("usr", &Meta { mode: 0o1755, uid: 3_000_000, gid: 4_000_000, ..Meta::default() })
        .dir("usr/bin")
        .file_with("usr/bin/su", &noise(70_001, 1), &Meta { mode: 0o4755, ..at(MTIME - 5) })
        .file_with("usr/bin/tool", &noise(10_138, 2), &Meta { mode: 0o755, ..at(MTIME + 9) })
        .file_with("usr/bin/empty", b"", &at(MTIME + 9))
        .file_with("usr/bin/same-size", &noise(10_138, 3), &at(MTIME + 10))
        .hardlink("usr/bin/second", "usr/bin/tool")
        .symlink("usr/bin/link", "tool")
        .symlink("usr/long-link", &format!("../{}", "t/".repeat(120)))
        .dir("data")
        .file("data/.hidden", b"dot")
        .file("data/a[b]*", b"special")
        .file("data/chunks", &noise(1_300_000, 4))
        .file("data/sparse", &[&vec![0; 300_000][..], b"end"].concat())
        .hardlink("data/linked", "usr/bin/tool")
        .file_with("data/nanos", b"1", &pax_time("1700000000.123456789"))
        .file_with("data/old", b"2", &at(-1_000))
        .file_with("data/small xattr", b"3", &Meta::default().xattr("user.note", b"a\0b=c").xattr("user.empty", b""))
        .file_with("data/large-xattr", b"4", &Meta::default().xattr("user.large", &noise(3_000, 5)))
        .file_with(
            "data/capable",
            b"5",
            &Meta::default()
                .xattr("security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        )
        .file_with("data/acl", b"6", &Meta::mode(0o640).xattr("system.posix_acl_access", &acl))
        .dir(&format!("data/{long}"))
        .file(&format!("data/{long}/{long}"), b"prefix and name")
        .dir(&format!("data/{long}/d{long}"))
        .file(&format!("data/{long}/d{long}/{long}"), b"neither")
        .hardlink(&format!("data/{long}/d{long}/second"), &format!("data/{long}/d{long}/{long}"))
        .dir("dev")
        .char_device("dev/null", 1, 3)
        .entry(b'4', b"dev/disk", b"", b"", &Meta::default(), (259, 70_000))
        .fifo("dev/pipe")
        .entry(b'0', b"caf\xe9", b"", b"latin 1", &Meta::default(), (0, 0))
        .file("\u{fc}ber", b"UTF-8");
    Image::new([layer])
}

/// The image, converted, and mounted by the kernel.
struct Inside {
    mounted: Mounted,
    bench: Bench,
}

impl Inside {
    fn new() -> Self {
        let bench = Bench::new();
        let device = bench.block_image(&image(), "app", &[]);
        Self { mounted: Mounted::new(&device), bench }
    }

    fn coldread(&self, args: &[&str]) -> Vec<u8> {
        stdout(&self.bench.coldread(args))
    }

    /// What `program` prints in the mounted tree, in the C locale.
    fn real(&self, program: &str, args: &[&str]) -> Vec<u8> {
        let run = Command::new(program).args(args).current_dir(self.mounted.path()).env("LC_ALL", "C").output();
        stdout(&run.unwrap())
    }
}

fn sorted(text: &[u8]) -> BTreeSet<String> {
    text.split(|byte| *byte == b'\n').map(|line| line.escape_ascii().to_string()).collect()
}

#[test]
fn ls_sorts_and_shows_sizes_as_ls_does() {
    let inside = Inside::new();
    for directory in ["usr/bin", "data", "dev", "."] {
        for options in ["", "S", "t", "Sr", "tr", "r", "a", "aSr", "atr"] {
            // The root has itself as parent, but where it is mounted another file system's directory.
            if directory == "." && options.len() > 1 && options.contains('a') {
                continue;
            }
            let ours = inside.coldread(&["ls", &format!("-R{options}"), "app.cpm", directory]);
            let ours = ours.split(|byte| *byte == b'\n').skip(1).take_while(|line| !line.is_empty());
            let ours = ours.flat_map(|line| [line, b"\n"].concat()).collect::<Vec<_>>();
            let real = inside.real("ls", &[&format!("-1A{options}"), directory]);
            assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&real), "{options} {directory}");
            if !options.is_empty() {
                assert_eq!(inside.coldread(&["ls", &format!("-{options}"), "app.cpm", directory]), real);
            }
        }
    }
    let sizes = |listing: &[u8], column: usize| -> Vec<String> {
        let lines = String::from_utf8_lossy(listing).into_owned();
        let files = lines.lines().filter(|line| line.starts_with('-'));
        files.map(|line| line.split_whitespace().nth(column).unwrap().to_owned()).collect()
    };
    for directory in ["usr/bin", "data"] {
        let ours = sizes(&inside.coldread(&["ls", "-lh", "app.cpm", directory]), 4);
        assert_eq!(ours, sizes(&inside.real("ls", &["-lhA", directory]), 4));
        assert!(ours.iter().any(|size| size.ends_with('K')), "{ours:?}");
    }
    let help = String::from_utf8(inside.coldread(&["ls", "--help"])).unwrap();
    assert!(help.contains("-h, --human-readable") && help.contains("      --help"), "{help}");
}

#[test]
fn du_adds_up_as_du_does() {
    let inside = Inside::new();
    // Before 9.2, du counted directories, too.
    let counts_directories = inside.real("du", &["-sb", "dev"]) != b"0\tdev\n";
    let directories = |path: &str| -> u64 {
        let sizes = inside.real("find", &[path, "-type", "d", "-printf", "%s\n"]);
        String::from_utf8(sizes).unwrap().lines().map(|size| size.parse::<u64>().unwrap()).sum()
    };
    let real = |args: &[&str]| -> BTreeSet<String> {
        let text = inside.real("du", &[&["--apparent-size", "-B1"], args].concat());
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let line = |line: &[u8]| {
            let line = line.to_vec();
            let tab = line.iter().position(|byte| *byte == b'\t').unwrap();
            let (size, path) = (std::str::from_utf8(&line[..tab]).unwrap().parse::<u64>().unwrap(), &line[tab + 1..]);
            let is_directory = inside.mounted.path().join(OsStr::from_bytes(path)).symlink_metadata().unwrap().is_dir();
            let more =
                if counts_directories && is_directory { directories(std::str::from_utf8(path).unwrap()) } else { 0 };
            format!("{}\\t{}", size - more, path.escape_ascii())
        };
        lines.map(line).chain([String::new()]).collect()
    };
    for args in [
        // A file with names in several directories counts in the first one, whose order is not du's.
        &["-s", "."][..],
        &["usr", "data"],
        &["-s", "data", "usr"],
        &["-d", "1", "data"],
        &["-a", "usr"],
        &["-s", "usr/bin/link"],
    ] {
        let ours = inside.coldread(&[&["du", "-b", "app.cpm"], args].concat());
        assert_eq!(sorted(&ours), real(args), "{args:?}");
    }
    for file in ["data/chunks", "data/sparse", "usr/bin/su", "usr/bin/empty", "usr/bin/link"] {
        for options in ["-s", "-sh"] {
            let ours = inside.coldread(&["du", options, "app.cpm", file]);
            assert_eq!(ours, inside.real("du", &["--apparent-size", options, file]), "{options} {file}");
        }
    }
    let json: serde_json::Value =
        serde_json::from_slice(&inside.coldread(&["du", "--json", "-s", "app.cpm", "data/old"])).unwrap();
    assert_eq!(json, serde_json::json!({ "path": "data/old", "bytes": 1 }));
}

#[test]
fn find_finds_what_find_does() {
    let inside = Inside::new();
    for conditions in [
        &[][..],
        &["-name", "*i*"],
        &["-name", "[st]*"],
        &["-name", "[!a-m]*l*"],
        &["-name", "a\\[b]\\*"],
        &["-name", ".*"],
        &["-name", "?????"],
        &["-path", "./*/bin*"],
        &["-type", "f"],
        &["-type", "l,p"],
        &["-type", "b,c,d"],
        &["-size", "+1M"],
        &["-size", "-2k"],
        &["-size", "20"],
        &["-size", "10138c"],
        &["-size", "-1G", "-type", "f", "-name", "*k*"],
        &["-maxdepth", "1"],
        &["-maxdepth", "0"],
        &["-maxdepth", "2", "-type", "d"],
    ] {
        // Options of find that are no conditions stand first, or it warns.
        let real = inside.real("find", &[&["."], conditions].concat());
        let ours = inside.coldread(&[&["find", "app.cpm", "."], conditions].concat());
        assert_eq!(sorted(&ours), sorted(&real), "{conditions:?}");
    }
    let ours = inside.coldread(&["find", "app.cpm", "data/", "usr", "-print0"]);
    let zeros = |text: &[u8]| text.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect::<BTreeSet<_>>();
    assert_eq!(zeros(&ours), zeros(&inside.real("find", &["data/", "usr", "-print0"])));
    let json = inside.coldread(&["find", "app.cpm", "--name", "su", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!((json["path"].as_str(), json["size"].as_u64()), (Some("/usr/bin/su"), Some(70_001)));
}

/// Unpacks `archive` by `program`; what is there then.
fn unpacked(program: &str, options: &[&str], archive: &[u8]) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let mut child = Command::new(program)
        .args(options)
        .arg("-C")
        .arg(directory.path())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} (Debian's tar and libarchive-tools): {error}"));
    child.stdin.take().unwrap().write_all(archive).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{program}: {output:?}");
    listing(directory.path())
}

const GNU: &[&str] =
    &["-xpf", "-", "--xattrs", "--xattrs-include=*", "--acls", "--numeric-owner", "--warning=no-timestamp"];
const BSD: &[&str] = &["-xpf", "-", "--numeric-owner"];

#[test]
fn tar_has_all_that_the_kernel_sees() {
    let inside = Inside::new();
    let archive = inside.coldread(&["tar", "app.cpm"]);
    assert!(archive == inside.coldread(&["tar", "app.cpm", "/"]), "the same bytes each time");
    let kernel = listing(inside.mounted.path());
    assert_eq!(unpacked("tar", GNU, &archive), kernel);
    // bsdtar leaves the directory that it unpacks into as it is.
    let mut by_bsdtar = unpacked("bsdtar", BSD, &archive);
    by_bsdtar.retain(|line| !line.starts_with("directory 0755 / "));
    assert_eq!(by_bsdtar, kernel);
    // The converter reads it as well.
    fs::write(inside.bench.path("app.tar"), &archive).unwrap();
    inside.bench.convert_from("tar:app.tar", "again", &[]);
    let device = inside.bench.path("again.img");
    stdout(&inside.bench.coldpress(&["export", "again.cpm", "-o", device.to_str().unwrap()]));
    assert_eq!(listing(Mounted::new(&device).path()), kernel);
    // Subtrees keep their paths; a file that is asked for twice is there once.
    let part = inside.coldread(&["tar", "app.cpm", "usr/bin", "/usr/bin/tool", "data/linked"]);
    let names =
        String::from_utf8(stdout(&Command::new("tar").args(["-tf", "-"]).stdin(stdin(&part)).output().unwrap()))
            .unwrap();
    let wanted = [
        "usr/bin/",
        "usr/bin/empty",
        "usr/bin/link",
        "usr/bin/same-size",
        "usr/bin/second",
        "usr/bin/su",
        "usr/bin/tool",
        "usr/bin/tool",
        "data/linked",
    ];
    assert_eq!(names.lines().collect::<Vec<_>>(), wanted);
}

/// A file with `bytes` that has no name, at its start.
fn stdin(bytes: &[u8]) -> fs::File {
    use std::io::Seek;
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.rewind().unwrap();
    file
}

#[test]
fn cp_replaces_files_only_if_asked_and_follows_nothing() {
    let inside = Inside::new();
    let bench = &inside.bench;
    let copy = |options: &[&str]| bench.coldread(&[&["cp"], options].concat());
    stdout(&copy(&["-r", "app.cpm", "/usr", "out"]));
    let again = copy(&["app.cpm", "/usr/bin/su", "out/bin/tool"]);
    assert_eq!(again.status.code(), Some(1));
    let message = String::from_utf8(again.stderr).unwrap();
    assert!(message.contains("out/bin/tool: File exists") && message.contains("hint: add --force"), "{message}");
    assert_eq!(fs::read(bench.path("out/bin/tool")).unwrap(), noise(10_138, 2));
    stdout(&copy(&["-f", "app.cpm", "/usr/bin/su", "out/bin/tool"]));
    assert_eq!(fs::read(bench.path("out/bin/tool")).unwrap(), noise(70_001, 1));
    // A tree over itself, with a file that cannot be written to and a symlink in the place of a file.
    fs::write(bench.path("elsewhere"), "untouched").unwrap();
    fs::remove_file(bench.path("out/bin/su")).unwrap();
    symlink("../../elsewhere", bench.path("out/bin/su")).unwrap();
    fs::set_permissions(bench.path("out/bin/empty"), fs::Permissions::from_mode(0o400)).unwrap();
    fs::create_dir(bench.path("into")).unwrap();
    fs::rename(bench.path("out"), bench.path("into/usr")).unwrap();
    stdout(&copy(&["-rf", "app.cpm", "/usr", "into"]));
    let (ours, kernel) = (bench.path("into/usr/bin"), inside.mounted.path().join("usr/bin"));
    for file in ["su", "tool", "empty", "same-size"] {
        assert!(!ours.join(file).symlink_metadata().unwrap().is_symlink());
        assert_eq!(fs::read(ours.join(file)).unwrap(), fs::read(kernel.join(file)).unwrap(), "{file}");
    }
    assert_eq!(fs::read_link(ours.join("link")).unwrap(), Path::new("tool"));
    assert_eq!(fs::read(bench.path("elsewhere")).unwrap(), b"untouched");
    // A symlink to a directory is not one.
    fs::remove_dir_all(&ours).unwrap();
    fs::create_dir(bench.path("outside")).unwrap();
    symlink("../../outside", &ours).unwrap();
    assert_eq!(copy(&["-rf", "app.cpm", "/usr", "into"]).status.code(), Some(1));
    assert_eq!(fs::read_dir(bench.path("outside")).unwrap().count(), 0);
}

#[test]
fn a_reader_that_goes_away_ends_every_command_without_a_word() {
    let bench = Bench::new();
    let many = (0..4_000).fold(Layer::new().dir("many"), |layer, n| layer.file(&format!("many/{n:0100}"), b"x"));
    bench.convert(&Image::new([many.file("big", &noise(3_000_000, 1))]), "app", &[]);
    bench.convert(&Image::new([Layer::new()]), "other", &[]);
    let coldpress = env!("CARGO_BIN_EXE_coldpress");
    let coldread = env!("CARGO_BIN_EXE_coldread");
    for (program, args) in [
        (coldread, &["ls", "app.cpm", "/many"][..]),
        (coldread, &["ls", "-lR", "app.cpm"]),
        (coldread, &["ls", "--json", "app.cpm", "/many"]),
        (coldread, &["cat", "app.cpm", "/big"]),
        (coldread, &["stat", "app.cpm", "/", "/big"]),
        (coldread, &["find", "app.cpm"]),
        (coldread, &["du", "-a", "app.cpm"]),
        (coldread, &["tar", "app.cpm"]),
        (coldread, &["man"]),
        (coldread, &["completions", "bash"]),
        (coldpress, &["inspect", "app.cpm"]),
        (coldpress, &["inspect", "app.cpm", "--json"]),
        (coldpress, &["verify", "app.cpm", "--store", "store"]),
        (coldpress, &["diff", "app.cpm", "app.cpm", "--store", "store"]),
        (coldpress, &["scrub", "app.cpm", "--store", "store", "--json"]),
        (coldpress, &["man"]),
    ] {
        let mut child = Command::new(program)
            .args(args)
            .current_dir(bench.dir.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // The pipe is closed after a byte of it, or before anything is printed.
        let mut first = [0];
        if args[0] != "stat" {
            child.stdout.as_mut().unwrap().read_exact(&mut first).unwrap();
        }
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        let said: Vec<&str> = stderr.lines().filter(|line| line.contains("error") || line.contains("panic")).collect();
        assert!(output.status.success() && said.is_empty(), "{args:?}: {:?} {stderr}", output.status);
    }
}

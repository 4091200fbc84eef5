//! Hostile input: one image or file each, named after the one thing that is wrong with it.
//!
//! Whatever it is, the program ends by itself within ten seconds and 200 MB, with the exit code of docs/reference/exit-codes.md and an error
//! that says which layer, entry or file is wrong and how. It leaves no manifest and nothing temporary, and tells nothing of
//! a key. What container runtimes accept is converted, and e2fsck finds nothing wrong with it.

mod amplifiers;
mod cycles;

use std::fmt::Write as _;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coldpress::digest::Sha256;
use serde_json::{Value, json};

use crate::sources::filter;
use crate::support::common::{Bench, Image, Layer, Meta, Packing, TEST_KEY, e2fsck, noise};

const MAX_TIME: Duration = Duration::from_secs(10);
/// Of all that a process can write to in its memory (RLIMIT_DATA), so what is resident is less.
const MAX_MEMORY: &str = "--data=200000000";
/// Longer errors are not read.
const MAX_MESSAGE: usize = 6_000;
const MIB: usize = 1 << 20;
const COLDPRESS: &str = env!("CARGO_BIN_EXE_coldpress");
const COLDREAD: &str = env!("CARGO_BIN_EXE_coldread");

/// How a program ended.
struct Ended {
    code: Option<i32>,
    said: String,
    took: Duration,
}

/// Runs `program` in the bench's directory within the limits.
fn run(bench: &Bench, program: &str, args: &[&str]) -> Ended {
    let mut said = tempfile::tempfile().unwrap();
    let to = || Stdio::from(said.try_clone().unwrap());
    let started = Instant::now();
    let mut child = Command::new("prlimit")
        .args([MAX_MEMORY, "--core=0", "--nofile=1024", program])
        .args(args)
        .current_dir(bench.dir.path())
        .env_remove("COLDPRESS_KEY")
        .env_remove("COLDPRESS_STORE")
        // No cache of whoever runs the tests.
        .env_remove("HOME")
        .env_remove("XDG_CACHE_HOME")
        .env("TMPDIR", bench.path("temp"))
        .env("RUST_BACKTRACE", "0")
        .stdin(Stdio::null())
        .stdout(to())
        .stderr(to())
        .spawn()
        .expect("prlimit (Debian's util-linux) is installed");
    let code = loop {
        match child.try_wait().unwrap() {
            Some(status) => break status.code(),
            None if started.elapsed() > MAX_TIME => {
                child.kill().unwrap();
                break child.wait().unwrap().code();
            }
            None => std::thread::sleep(Duration::from_millis(2)),
        }
    };
    let took = started.elapsed();
    let mut bytes = Vec::new();
    said.rewind().unwrap();
    said.read_to_end(&mut bytes).unwrap();
    Ended { code, said: String::from_utf8_lossy(&bytes).into_owned(), took }
}

impl Ended {
    /// What of it is not as it must be: another exit code, a missing word, too long, too much said.
    fn faults(&self, code: i32, words: &[&str], secret: &str) -> Vec<String> {
        let mut faults = Vec::new();
        if self.took > MAX_TIME {
            faults.push(format!("not done after {MAX_TIME:?}"));
        } else if self.code != Some(code) {
            faults.push(format!("exit code {:?} and not {code}", self.code));
        }
        faults.extend(words.iter().filter(|word| !self.said.contains(**word)).map(|word| format!("says no `{word}`")));
        if self.said.len() > MAX_MESSAGE {
            faults.push(format!("says {} bytes", self.said.len()));
        }
        if ["panicked", "memory allocation", "out of memory", "this is a defect"]
            .iter()
            .any(|word| self.said.contains(word))
        {
            faults.push("breaks down".to_owned());
        }
        if self.said.chars().any(|c| c.is_control() && c != '\n') || code == 1 && self.said.lines().count() > 2 {
            faults.push("says more than one line and a hint, or control characters".to_owned());
        }
        if secret.as_bytes().windows(12).any(|part| self.said.contains(std::str::from_utf8(part).unwrap_or("\0"))) {
            faults.push("tells of the key".to_owned());
        }
        faults
    }

    fn shown(&self) -> String {
        self.said.chars().take(600).collect()
    }
}

/// What must become of an image.
enum Want {
    /// Exit code 1 and an error with these words.
    Refused(Vec<String>),
    /// It is converted.
    Accepted,
}

/// Changes a JSON document.
type Edit = fn(&mut Value);

/// Writes the fixture into the bench, and says its reference.
type Make = Box<dyn FnOnce(&Bench) -> String>;

struct Case {
    name: String,
    make: Make,
    options: Vec<&'static str>,
    want: Want,
}

impl Case {
    fn refused(name: &str, words: &[&str], make: impl FnOnce(&Bench) -> String + 'static) -> Self {
        let want = Want::Refused(words.iter().map(|word| (*word).to_owned()).collect());
        Self { name: name.to_owned(), make: Box::new(make), options: Vec::new(), want }
    }

    fn accepted(name: &str, make: impl FnOnce(&Bench) -> String + 'static) -> Self {
        Self { name: name.to_owned(), make: Box::new(make), options: Vec::new(), want: Want::Accepted }
    }

    fn with(mut self, options: &[&'static str]) -> Self {
        self.options.extend(options);
        self
    }

    /// What the program said of it; or what went wrong.
    fn check(self) -> Result<String, String> {
        let bench = Bench::new();
        for directory in ["temp", "out"] {
            std::fs::create_dir(bench.path(directory)).unwrap();
        }
        let reference = (self.make)(&bench);
        let command =
            ["convert", &reference, "--store", "store", "-o", "out/app.cpm", "--temp", "temp", "--threads", "2"];
        let ended = run(&bench, COLDPRESS, &[&command[..], &["--quiet", "--free", "0"], &self.options].concat());
        let faults = match &self.want {
            Want::Refused(words) => {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                let mut faults = ended.faults(1, &[&["coldpress: error: "], &words[..]].concat(), secrets(TEST_KEY));
                faults.extend(left(&bench));
                faults
            }
            Want::Accepted => ended.faults(0, &[], secrets(TEST_KEY)),
        };
        if !faults.is_empty() {
            return Err(format!("{}: {} (it says: {})", self.name, faults.join("; "), ended.shown()));
        }
        if matches!(self.want, Want::Accepted) {
            let file = bench.path("app.img");
            let args = ["export", "out/app.cpm", "-o", "app.img", "--threads", "2", "--quiet"];
            let faults = run(&bench, COLDPRESS, &args).faults(0, &[], secrets(TEST_KEY));
            if !faults.is_empty() {
                return Err(format!("{}: its export: {}", self.name, faults.join("; ")));
            }
            e2fsck(&file);
        }
        Ok(format!("{}\n{}\n", self.name, without_digests(&ended.said)))
    }
}

/// Checks all, and keeps what is said of them for a reader, in tests/it/snapshots.
fn check(snapshot: &str, cases: impl IntoIterator<Item = Case>) {
    let (mut said, mut wrong) = (String::new(), Vec::new());
    for case in cases {
        match case.check() {
            Ok(text) => said.push_str(&text),
            Err(fault) => wrong.push(fault),
        }
    }
    assert!(wrong.is_empty(), "{} fixtures:\n{}", wrong.len(), wrong.join("\n"));
    insta::assert_snapshot!(snapshot, said);
}

/// Digests of what a compressor made are no matter of a message's words.
pub fn without_digests(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |out, part| {
        let digits = part.bytes().take_while(u8::is_ascii_hexdigit).count();
        out + "sha256:" + if digits == 64 { "HEX" } else { &part[..digits] } + &part[digits..]
    })
}

/// The key file's text from its first secret on.
fn secrets(key_file: &str) -> &str {
    key_file.split_once("wrapping-key = ").map_or("", |(_, secrets)| secrets)
}

/// Files that a refused conversion must not leave.
fn left(bench: &Bench) -> Option<String> {
    let mut left = files(&bench.path("temp"));
    left.extend(files(&bench.path("out")));
    let is_chunk = |path: &PathBuf| {
        let name = path.file_name().unwrap().to_string_lossy();
        path.parent().unwrap().ends_with("store/main") && format!("sha256:{name}").parse::<Sha256>().is_ok()
    };
    left.extend(files(&bench.path("store")).into_iter().filter(|path| !is_chunk(path)));
    (!left.is_empty()).then(|| format!("left behind: {left:?}"))
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(directory) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

// Tars, each the layer of an image without anything else.

/// A case of a tar that is refused with an error that says the layer and `words`.
fn bad(name: &str, words: &[&str], tar: impl FnOnce() -> Vec<u8> + 'static) -> Case {
    Case::refused(name, &[&["layer 1 of 1"], words].concat(), written(name, tar))
}

fn good(name: &str, tar: impl FnOnce() -> Vec<u8> + 'static) -> Case {
    Case::accepted(name, written(name, tar))
}

fn written(name: &str, tar: impl FnOnce() -> Vec<u8> + 'static) -> impl FnOnce(&Bench) -> String + 'static {
    let file = format!("{name}.tar");
    move |bench| {
        std::fs::write(bench.path(&file), tar()).unwrap();
        format!("tar:{file}")
    }
}

fn bad_layer(name: &str, words: &[&str], layer: Layer) -> Case {
    bad(name, words, move || layer.tar())
}

fn good_layer(name: &str, layer: Layer) -> Case {
    good(name, move || layer.tar())
}

fn pax(records: &[(&str, &str)]) -> Meta {
    let pax = records.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
    Meta { pax, ..Meta::default() }
}

/// An empty file `f` with these PAX records.
fn with_pax(records: &[(&str, &str)]) -> Layer {
    Layer::new().file_with("f", b"", &pax(records))
}

/// An empty file `f` behind a PAX header of these bytes.
fn with_pax_bytes(records: &[u8]) -> Layer {
    Layer::new().edited(b'x', b"pax", records, |_| ()).file("f", b"")
}

/// A file `f` of four bytes whose header has `bytes` at `at`.
fn with_field(at: usize, bytes: &[u8]) -> Layer {
    Layer::new().edited(b'0', b"f", b"data", |block| block[at..at + bytes.len()].copy_from_slice(bytes))
}

/// A field of base 256 of `N` bytes.
fn base_256<const N: usize>(value: u64) -> [u8; N] {
    let mut field = [0; N];
    let bytes = value.to_be_bytes();
    let count = N.min(8);
    field[N - count..].copy_from_slice(&bytes[8 - count..]);
    field[0] |= 0x80;
    field
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    Packing::Gzip.pack(bytes)
}

/// `count` times `bytes`, each a gzip member or a zstd frame of its own.
fn repeated(packing: Packing, bytes: &[u8], count: usize) -> Vec<u8> {
    packing.pack(bytes).repeat(count)
}

/// A layer without the archive's end, so that more can stand behind it.
fn open_ended(layer: &Layer) -> Vec<u8> {
    let mut tar = layer.tar();
    tar.truncate(tar.len() - 1024);
    tar
}

#[test]
fn a_tar_with_bad_names_links_or_owners_is_refused() {
    let links = |count: usize| {
        (1..count).fold(Layer::new().symlink("0", "d"), |layer, i| layer.symlink(&i.to_string(), &(i - 1).to_string()))
    };
    let root = |name: &[u8]| Layer::new().edited(b'0', name, b"", |_| ());
    let nested = (1..=2_000).fold(Layer::new(), |layer, depth| layer.dir(&"d/".repeat(depth)));
    let many_links = |count: usize| {
        (0..count).fold(Layer::new().file("f", b""), |layer, link| layer.hardlink(&format!("{link}"), "f"))
    };
    let device = |major, minor| Layer::new().char_device("f", major, minor);
    check(
        "hostile_tar_with_bad_names_links_or_owners",
        [
            bad_layer(
                "a_name_of_256_bytes",
                &["`d`", "a component of 256 bytes"],
                Layer::new().file(&format!("d/{}", "n".repeat(256)), b""),
            ),
            bad_layer("a_name_with_a_nul", &["malformed PAX record"], with_pax(&[("path", "a\0b")])),
            bad_layer(
                "a_name_of_a_sparse_file_with_a_nul",
                &["its name contains a NUL byte"],
                with_pax(&[
                    ("GNU.sparse.major", "0"),
                    ("GNU.sparse.minor", "1"),
                    ("GNU.sparse.numblocks", "0"),
                    ("GNU.sparse.name", "a\0b"),
                ]),
            ),
            bad_layer(
                "a_link_target_with_a_nul",
                &["malformed PAX record"],
                Layer::new().entry(b'2', b"s", b"", b"", &pax(&[("linkpath", "a\0b")]), (0, 0)),
            ),
            bad_layer(
                "a_path_of_4_097_bytes",
                &["a path of 4097 bytes"],
                Layer::new().file(&format!("{}f", "abc/".repeat(1_024)), b""),
            ),
            good_layer("a_path_of_4_096_bytes", Layer::new().file(&format!("{}ff", "d/".repeat(2_047)), b"")),
            bad_layer(
                "a_path_of_70_000_bytes",
                &["a path of 70000 bytes"],
                Layer::new().file(&format!("{}ff", "a/".repeat(34_999)), b""),
            ),
            bad_layer(
                "a_path_of_8_million_bytes",
                &["a path of 8000000 bytes"],
                Layer::new().file(&format!("{}ff", "a/".repeat(3_999_999)), b""),
            ),
            bad_layer("a_name_of_8_million_bytes", &["8000000 bytes"], Layer::new().file(&"n".repeat(8_000_000), b"")),
            good_layer("nested_directories_2_000_deep", nested),
            bad_layer(
                "a_whiteout_of_no_name",
                &["`.wh.`", "a whiteout without a name"],
                Layer::new().file(".wh.", b""),
            ),
            bad_layer(
                "a_file_under_a_file",
                &["`a/b`", "`a` above it is not a directory"],
                Layer::new().file("a", b"").file("a/b", b""),
            ),
            bad_layer("a_file_named_slash", &["`/`", "the root can only be a directory"], root(b"/")),
            bad_layer("a_file_named_dot", &["`.`", "the root can only be a directory"], root(b".")),
            bad_layer("a_file_named_dot_dot", &["`..`", "the root can only be a directory"], root(b"..")),
            bad_layer("a_file_without_a_name", &["``", "the root can only be a directory"], root(b"")),
            good_layer(
                "directories_that_are_all_the_root",
                Layer::new().dir("/").dir(".").dir("..").dir("").dir("./../..").file("f", b""),
            ),
            bad_layer(
                "a_symlink_loop_above",
                &["`a/x`", "more than 40 symlinks"],
                Layer::new().symlink("a", "b").symlink("b", "a").file("a/x", b""),
            ),
            bad_layer("symlinks_41_above", &["`40/x`", "more than 40 symlinks"], links(41).file("40/x", b"")),
            good_layer("symlinks_40_above", links(40).file("39/x", b"")),
            bad_layer("a_symlink_to_nothing", &["`s`", "a symlink without a target"], Layer::new().symlink("s", "")),
            bad_layer(
                "a_symlink_to_4_096_bytes",
                &["`s`", "a symlink's target of 4096 bytes"],
                Layer::new().symlink("s", &"t".repeat(4_096)),
            ),
            bad("symlinks_to_8_million_bytes_each", &["`s`", "a symlink's target of 8000000 bytes"], || {
                repeated(Packing::Gzip, &open_ended(&Layer::new().symlink("s", &"t".repeat(8_000_000))), 40)
            }),
            bad("hard_links_to_8_million_bytes_each", &["`h`", "8000000 bytes"], || {
                repeated(Packing::Gzip, &open_ended(&Layer::new().hardlink("h", &"t".repeat(8_000_000))), 40)
            }),
            bad("names_of_8_million_bytes_each", &["8000000 bytes"], || {
                (0..40)
                    .flat_map(|i| {
                        gzip(&open_ended(&Layer::new().file(&format!("{i:02}{}", "n".repeat(7_999_998)), b"")))
                    })
                    .collect()
            }),
            bad_layer(
                "a_hard_link_to_nothing",
                &["`h`", "`nothing`, which is in no layer"],
                Layer::new().hardlink("h", "nothing"),
            ),
            bad_layer("a_hard_link_to_itself", &["`h`", "which it replaces"], Layer::new().hardlink("h", "h")),
            bad_layer(
                "a_hard_link_to_a_directory",
                &["`h`", "the directory `d`"],
                Layer::new().dir("d").hardlink("h", "d"),
            ),
            bad_layer(
                "a_hard_link_to_a_later_entry",
                &["`h`", "which is in no layer before it"],
                Layer::new().hardlink("h", "f").file("f", b""),
            ),
            bad_layer(
                "a_hard_link_into_a_symlink_loop",
                &["`h`", "more than 40 symlinks"],
                Layer::new().symlink("a", "b").symlink("b", "a").hardlink("h", "a/x"),
            ),
            bad_layer("a_file_of_65_001_names", &["65001 hard links"], many_links(65_000)),
            Case::accepted("a_name_described_50_000_times_behind_50_000_links_to_it", |bench| {
                let links = (0..50_000).fold(Layer::new(), |layer, i| layer.hardlink(&i.to_string(), "f"));
                let upper = (0..50_000).fold(links, |layer, _| layer.file("f", b""));
                Image::new([Layer::new().file("f", b"lower"), upper]).oci_layout(&bench.path("image"), Packing::Gzip);
                "oci:image".to_owned()
            }),
            bad_layer(
                "an_owner_past_32_bits_in_pax",
                &["`f`", "its owner does not fit 32 bits"],
                with_pax(&[("uid", "4294967296")]),
            ),
            bad_layer(
                "a_group_past_64_bits_in_pax",
                &["`f`", "its PAX record `gid` is not a number"],
                with_pax(&[("gid", "18446744073709551616")]),
            ),
            bad_layer(
                "an_owner_of_a_hard_link_that_is_no_number",
                &["`h`", "its PAX record `uid` is not a number"],
                Layer::new().file("f", b"").entry(b'1', b"h", b"f", b"", &pax(&[("uid", "x")]), (0, 0)),
            ),
            bad_layer(
                "a_device_number_of_a_file_that_is_no_number",
                &["`f`", "its device number is not a number"],
                with_field(329, b"x"),
            ),
            bad_layer(
                "an_owner_past_32_bits_in_base_256",
                &["`f`", "its owner does not fit 32 bits"],
                with_field(108, &base_256::<8>(1 << 32)),
            ),
            good_layer("a_group_below_0_in_base_256", with_field(116, &[0xFF; 8])),
            bad_layer(
                "a_group_below_32_bits_in_base_256",
                &["`f`", "its group does not fit 32 bits"],
                with_field(116, &[0xFF, 0xFF, 0xFF, 0xFF, 0x7F, 0xFF, 0xFF, 0xFF]),
            ),
            good_layer("an_owner_of_4294967295", with_pax(&[("uid", "4294967295")])),
            bad_layer("a_mode_that_is_no_number", &["`f`", "its mode is not a number"], with_field(100, b"rw-r--r")),
            bad_layer(
                "a_time_past_64_bits",
                &["`f`", "its PAX record `mtime` is not a number"],
                with_pax(&[("mtime", "99999999999999999999")]),
            ),
            good_layer("a_time_of_2_to_the_63", with_field(136, &base_256::<12>((1 << 63) - 1))),
            bad_layer("a_major_number_of_4_096", &["`f`", "device 4096:0 is past"], device(4_096, 0)),
            bad_layer("a_minor_number_of_1_048_576", &["`f`", "device 0:1048576 is past"], device(0, 1 << 20)),
            bad_layer(
                "a_device_number_past_32_bits",
                &["`f`", "no device number"],
                Layer::new().edited(b'3', b"f", b"", |block| block[329..337].copy_from_slice(&base_256::<8>(1 << 32))),
            ),
            bad_layer(
                "an_entry_of_no_known_type",
                &["`f`", "of type `Q`"],
                Layer::new().edited(b'Q', b"f", b"", |_| ()),
            ),
        ],
    );
}

#[test]
fn a_tar_with_bad_attributes_is_refused() {
    let value = "v".repeat(5_000);
    let name = format!("SCHILY.xattr.user.{}", "n".repeat(251));
    let many = |count: usize, length: usize| {
        let value = vec![b'v'; length];
        let meta = (0..count).fold(Meta::default(), |meta, i| meta.xattr(&format!("user.{i}"), &value));
        Layer::new().file_with("f", b"", &meta)
    };
    let too_much = ["`f`", "extended attributes"];
    check(
        "hostile_tar_with_bad_attributes",
        [
            bad_layer("a_file_of_100_000_attributes", &too_much, many(100_000, 10)),
            bad_layer("an_attribute_of_5_000_bytes", &too_much, with_pax(&[("SCHILY.xattr.user.x", &value)])),
            bad_layer("an_attribute_with_a_name_of_256_bytes", &["`f`", "attribute"], with_pax(&[(&name, "v")])),
            bad_layer("an_attribute_without_a_name", &["`f`", "attribute"], with_pax(&[("SCHILY.xattr.user.", "v")])),
            bad_layer(
                "an_attribute_that_is_no_base_64",
                &["`f`", "its value is not base64"],
                with_pax(&[("LIBARCHIVE.xattr.user.x", "*")]),
            ),
            good_layer(
                "an_access_list_of_an_unknown_version",
                with_pax(&[("SCHILY.xattr.system.posix_acl_access", "garbage")]),
            ),
            bad_layer(
                "an_access_list_without_an_owner",
                &["`f`", "`system.posix_acl_access` is not a POSIX ACL that Linux takes"],
                with_pax(&[("SCHILY.xattr.system.posix_acl_access", "\x02\0\0\0\x20\0\x04\0\0\0\0\0")]),
            ),
            bad_layer(
                "a_default_access_list_of_a_file",
                &["`f`", "`system.posix_acl_default` is a default ACL, which only a directory can have"],
                with_pax(&[(
                    "SCHILY.xattr.system.posix_acl_default",
                    "\x02\0\0\0\x01\0\x07\0\0\0\0\0\x04\0\x05\0\0\0\0\0\x20\0\x05\0\0\0\0\0",
                )]),
            ),
            bad_layer(
                "a_file_capability_of_garbage",
                &["`f`", "`security.capability` is not a file capability"],
                with_pax(&[("SCHILY.xattr.security.capability", "garbage")]),
            ),
            bad("files_of_8_million_bytes_of_attributes_each", &too_much, move || {
                repeated(Packing::Gzip, &open_ended(&many(100, 80_000)), 40)
            }),
        ],
    );
}

#[test]
fn a_tar_with_bad_headers_or_sizes_is_refused() {
    let small = || Layer::new().file("f", &noise(2_000, 1)).tar();
    let size = |bytes: &[u8]| with_field(124, bytes);
    let pax_size = |size: &str| Layer::new().file_with("f", b"data", &pax(&[("size", size)]));
    let header = ["no tar header at byte 0"];
    let records = "malformed PAX record";
    let long = |flag: u8| Layer::new().edited(flag, b"long", &vec![b'n'; 9 * MIB], |_| ()).file("f", b"");
    check(
        "hostile_tar_with_bad_headers_or_sizes",
        [
            bad("a_header_that_ends_early", &["ends in the middle of the entry at byte 0"], move || {
                small()[..300].to_vec()
            }),
            bad("data_that_ends_early", &["ends in the middle of the entry at byte 0"], move || {
                small()[..1_500].to_vec()
            }),
            bad("garbage", &header, || noise(5_120, 1)),
            bad_layer("text", &header, Layer::new().raw(&b"This is no tar. ".repeat(100))),
            bad("a_wrong_checksum", &["no tar header at byte 0: its checksum is wrong"], move || {
                let mut tar = small();
                tar[0] ^= 1;
                tar
            }),
            bad("one_block_of_zeros_between_two_entries", &["no tar header at byte 1024"], || {
                Layer::new().file("f", b"x").raw(&[0; 512]).file("g", b"").tar()
            }),
            Case::refused("no_bytes_at_all", &["an empty file"], |bench| {
                std::fs::write(bench.path("x.tar"), b"").unwrap();
                "tar:x.tar".to_owned()
            }),
            Case::refused("no_entries", &["without entries"], |bench| {
                std::fs::write(bench.path("x.tar"), Layer::new().tar()).unwrap();
                "tar:x.tar".to_owned()
            }),
            bad_layer(
                "a_size_of_2_to_the_63_in_base_256",
                &["`f`: its size is not a number"],
                size(&base_256::<12>(1 << 63)),
            ),
            bad_layer(
                "a_size_of_2_to_the_95_in_base_256",
                &["`f`: its size is not a number"],
                size(&[0x80, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            ),
            bad_layer("a_size_below_0_in_base_256", &["its size is negative"], size(&[0xFF; 12])),
            bad_layer("a_size_with_a_minus", &["`f`: its size is not a number"], size(b"-0000000001\0")),
            bad_layer(
                "a_size_of_2_to_the_63_in_pax",
                &["`f`: its PAX record `size` is not a number"],
                pax_size("9223372036854775808"),
            ),
            bad_layer(
                "a_size_of_2_to_the_63_less_1_in_pax",
                &["`f`: a file of 8388608.0 TiB is larger"],
                pax_size("9223372036854775807"),
            ),
            good_layer("a_size_with_a_plus_in_pax", pax_size("+4")),
            bad_layer("a_size_with_a_minus_in_pax", &["`f`: its size is negative"], pax_size("-1")),
            good_layer(
                "a_directory_with_a_size",
                Layer::new().edited(b'5', b"d", b"", |block| block[124..135].copy_from_slice(b"77777777777")),
            ),
            bad_layer("a_pax_header_of_9_mib", &["its extended headers are larger than 8 MiB"], long(b'x')),
            bad_layer("a_gnu_name_of_9_mib", &["its extended headers are larger than 8 MiB"], long(b'L')),
            bad_layer("a_gnu_link_of_9_mib", &["its extended headers are larger than 8 MiB"], long(b'K')),
            bad_layer(
                "a_pax_header_of_2_to_the_62",
                &["its extended headers are larger than 8 MiB"],
                Layer::new()
                    .edited(b'x', b"pax", b"", |block| block[124..136].copy_from_slice(&base_256::<12>(1 << 62))),
            ),
            good_layer("a_pax_size_of_2_to_the_64_less_1_that_another_pax_header_replaces", {
                let before = Layer::new().edited(b'x', b"pax", b"29 size=18446744073709551615\n", |_| ());
                before.edited(b'x', b"pax", b"6 a=b\n", |_| ()).file("f", b"data")
            }),
            good_layer("a_pax_size_before_a_gnu_name", {
                let before = Layer::new().edited(b'x', b"pax", b"10 size=4\n", |_| ());
                before.edited(b'L', b"long", &[b'n'; 200], |_| ()).file("f", b"data")
            }),
            bad_layer("a_pax_record_longer_than_its_header", &[records], with_pax_bytes(b"99 a=b\n")),
            bad_layer("a_pax_record_shorter_than_it_is", &[records], with_pax_bytes(b"5 a=b\n")),
            bad_layer("a_pax_record_of_length_0", &[records], with_pax_bytes(b"0 a=b\n")),
            bad_layer(
                "a_pax_record_of_a_length_past_64_bits",
                &[records],
                with_pax_bytes(b"99999999999999999999 a=b\n"),
            ),
            bad_layer(
                "a_pax_record_of_a_length_of_30_digits",
                &[records],
                with_pax_bytes(b"000000000000000000000000000006 a=b\n"),
            ),
            bad_layer("a_pax_record_without_a_length", &[records], with_pax_bytes(b"path=x\n")),
            bad_layer("a_pax_record_without_an_equals_sign", &[records], with_pax_bytes(b"5 ab\n")),
            bad_layer("a_pax_record_without_a_line_feed", &[records], with_pax_bytes(b"6 a=bc")),
            good_layer("extended_headers_of_exactly_8_mib", {
                with_pax_bytes(&[&b"6 a=b\n".repeat(1_398_100)[..], b"8 a=bcd\n"].concat())
            }),
            bad_layer(
                "extended_headers_of_8_mib_and_6_bytes",
                &["its extended headers are larger than 8 MiB"],
                with_pax_bytes(&[&b"6 a=b\n".repeat(1_398_101)[..], b"8 a=bcd\n"].concat()),
            ),
            good_layer("pax_records_1_300_000_of_them", with_pax_bytes(&b"6 a=b\n".repeat(1_300_000))),
            bad_layer(
                "a_pax_header_of_nothing",
                &["no tar header at byte 2048: an extended header precedes it"],
                Layer::new().edited(b'x', b"pax", b"6 a=b\n", |_| ()),
            ),
        ],
    );
}

/// A run of a sparse file: where, and how long.
type Run = (u64, u64);

/// `head` and `tail` in a file of 20,484 bytes, in each form of sparse files.
fn sparse_forms(runs: &[Run]) -> [(&'static str, Layer); 4] {
    const SIZE: u64 = 20_484;
    let put = |block: &mut [u8], at: usize, number: u64| block[at..at + 12].copy_from_slice(&base_256::<12>(number));
    let gnu = Layer::new().edited(b'S', b"f", b"headtail", |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[329..345].fill(0);
        for (at, (offset, length)) in (386..).step_by(24).zip(runs) {
            put(block, at, *offset);
            put(block, at + 12, *length);
        }
        put(block, 483, SIZE);
    });
    let text = runs.iter().map(|(offset, length)| format!("{offset},{length}")).collect::<Vec<_>>().join(",");
    let size = SIZE.to_string();
    let numbers: Vec<(String, String)> =
        runs.iter().map(|(offset, length)| (offset.to_string(), length.to_string())).collect();
    let count = runs.len().to_string();
    let mut records = vec![("GNU.sparse.size", &*size), ("GNU.sparse.numblocks", &*count)];
    for (offset, length) in &numbers {
        records.extend([("GNU.sparse.offset", &**offset), ("GNU.sparse.numbytes", &**length)]);
    }
    let in_data = format!("{}\n{}\n", runs.len(), text.replace(',', "\n"));
    [
        ("old_gnu", gnu),
        ("pax_0_0", Layer::new().file_with("f", b"headtail", &pax(&records))),
        (
            "pax_0_1",
            Layer::new().file_with(
                "f",
                b"headtail",
                &pax(&[("GNU.sparse.size", &size), ("GNU.sparse.numblocks", &count), ("GNU.sparse.map", &text)]),
            ),
        ),
        ("pax_1_0", pax_1_0(SIZE, in_data.as_bytes(), b"headtail")),
    ]
}

fn pax_1_0(size: u64, map: &[u8], data: &[u8]) -> Layer {
    let size = size.to_string();
    let meta = pax(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "f"),
        ("GNU.sparse.realsize", &size),
    ]);
    let mut content = map.to_vec();
    content.resize(map.len().next_multiple_of(512), 0);
    content.extend_from_slice(data);
    Layer::new().file_with("GNUSparseFile.0/f", &content, &meta)
}

#[test]
fn a_tar_with_sparse_maps_that_lie_is_refused() {
    let lies: [(&str, &str, &[Run]); 6] = [
        ("overlaps", "segment 2 (offset 2, 4 bytes) overlaps segment 1", &[(0, 4), (2, 4)]),
        ("goes_back", "segment 2 (offset 0, 4 bytes) is before segment 1", &[(20_480, 4), (0, 4)]),
        ("is_past_the_end", "is past the file's end at 20484", &[(0, 4), (20_482, 4)]),
        ("is_past_every_end", "is past the file's end at 20484", &[(0, 4), (u64::MAX >> 1, 4)]),
        ("has_more_than_the_data", "its segments have 12 bytes, the entry has", &[(0, 8), (20_480, 4)]),
        ("has_less_than_the_data", "its segments have 4 bytes, the entry has", &[(0, 4)]),
    ];
    let mut cases: Vec<Case> = lies
        .into_iter()
        .flat_map(|(lie, fault, runs)| {
            let case = |(form, layer)| {
                bad_layer(&format!("a_sparse_map_that_{lie}_in_{form}"), &["`f`: sparse map: ", fault], layer)
            };
            sparse_forms(runs).map(case)
        })
        .collect();
    let hole = |bytes: u64| pax_1_0(bytes, b"1\n4096\n4\n", b"data");
    let tib = 1 << 40;
    let digits = |count: usize| {
        let (start, meta) =
            (count.to_string(), [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "1")]);
        let records = [&meta[..], &[("size", &*start)]].concat();
        let mut packed = gzip(&open_ended(&Layer::new().file_with("f", b"", &pax(&records))));
        packed.extend(repeated(Packing::Gzip, &vec![b'1'; MIB], count / MIB));
        packed
    };
    // A byte a block, in two files that are both below the limit.
    let speckled = {
        let map: String = (0..12_000).map(|block| format!("{}\n1\n", block * 4_096)).collect();
        let file = pax_1_0(12_000 * 4_096, format!("12000\n{map}").as_bytes(), &[b'x'; 12_000]);
        Layer::new().raw(&open_ended(&file)).raw(&open_ended(&file))
    };
    cases.push(
        bad_layer(
            "sparse_files_of_24_000_bytes_in_as_many_blocks",
            &["`f`", "sparse files up to this entry take more"],
            speckled,
        )
        .with(&["--max-size", "64MiB"]),
    );
    let honest = sparse_forms(&[(0, 4), (20_480, 4)]);
    cases.extend(honest.map(|(form, layer)| good_layer(&format!("an_honest_sparse_map_in_{form}"), layer)));
    cases.extend([
        good_layer("a_file_of_1_tib_nearly_all_a_hole", hole(tib)),
        bad_layer("a_file_of_1_tib_past_a_limit_of_1_gib", &["`f`", "1.0 TiB", "--max-size"], hole(tib))
            .with(&["--max-size", "1GiB"]),
        bad_layer("a_file_of_100_tib", &["`f`", "larger than the 16 TiB that ext4 stores"], hole(100 * tib)),
        bad_layer("a_file_of_100_tib_past_a_limit_of_1_gib", &["`f`", "100.0 TiB", "--max-size"], hole(100 * tib))
            .with(&["--max-size", "1GiB"]),
        good_layer("a_sparse_file_without_a_size", {
            let mut data = b"1\n0\n4\n".to_vec();
            data.resize(512, 0);
            data.extend_from_slice(b"data");
            Layer::new().file_with("f", &data, &pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")]))
        }),
        bad_layer(
            "a_sparse_directory",
            &["`f`", "only regular files can have one"],
            Layer::new().dir_with("f", &pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0")])),
        ),
        bad_layer(
            "an_old_gnu_map_in_a_ustar_header",
            &["`f`", "a sparse file of the old GNU form with a header of another form"],
            Layer::new().edited(b'S', b"f", b"", |_| ()),
        ),
        bad_layer(
            "a_sparse_map_of_another_count",
            &["`f`", "2 numbers, and 2 segments have 4"],
            Layer::new().file_with("f", b"data", &pax(&[("GNU.sparse.numblocks", "2"), ("GNU.sparse.map", "0,4")])),
        ),
        bad_layer("a_sparse_map_of_letters", &["`f`", "is not a number of bytes"], pax_1_0(4, b"x\n", b"")),
        bad_layer(
            "a_sparse_map_of_2_to_the_64_less_1_runs",
            &["`f`", "is not a number of bytes"],
            pax_1_0(4, b"18446744073709551615\n0\n4\n", b"data"),
        ),
        bad_layer(
            "a_sparse_map_of_2_to_the_63_less_1_runs",
            &["`f`", "more than 1,048,576 segments"],
            pax_1_0(4, b"9223372036854775807\n0\n4\n", b"data"),
        ),
        bad_layer(
            "a_sparse_map_longer_than_its_file",
            &["`f`", "longer than the entry"],
            pax_1_0(4, b"9\n0\n4\n", b""),
        ),
        bad("a_sparse_map_of_one_number_of_64_mib", &["`f`", "is not a number of bytes"], move || digits(64 * MIB)),
        bad("an_old_gnu_map_that_goes_on_without_end", &["`f`", "more than 1,048,576 segments"], || {
            let start = Layer::new().edited(b'S', b"f", b"", |block| {
                block[257..265].copy_from_slice(b"ustar  \0");
                block[482] = 1;
            });
            let mut more = [b'0'; 512];
            more[504] = 1;
            let mut packed = gzip(&open_ended(&start));
            packed.extend(repeated(Packing::Gzip, &more.repeat(2_048), 40));
            packed
        }),
    ]);
    check("hostile_tar_with_sparse_maps_that_lie", cases);
}

#[test]
fn a_tar_in_bad_compression_or_past_the_limit_is_refused() {
    let zeros = vec![0; MIB];
    let file = |bytes: u64| {
        Layer::new().edited(b'0', b"f", b"", |block| block[124..136].copy_from_slice(&base_256::<12>(bytes)))
    };
    let (limit, gib) = (["--max-size", "64MiB"], 1 << 30);
    let mut cases = Vec::new();
    for packing in [Packing::Gzip, Packing::Zstd] {
        let bomb = repeated(packing, &zeros, 4_096);
        let pack = |start: &[u8], rest: &[u8]| [&packing.pack(start), rest].concat();
        let in_file = pack(&open_ended(&file(4 * gib)), &bomb);
        let behind = pack(&Layer::new().file("f", b"").tar(), &bomb);
        let files = repeated(packing, &open_ended(&Layer::new().file("f", &zeros)), 4_096);
        let said = ["--max-size"];
        let of = |what: &str| format!("{what}_of_4_gib_in_{packing:?}").to_lowercase();
        cases.extend([
            bad(&of("a_file"), &["`f`", "4.0 GiB", "--max-size"], move || in_file).with(&limit),
            bad(&of("zeros_behind_the_end"), &said, move || behind).with(&limit),
            bad(&of("small_files"), &said, move || files).with(&limit),
        ]);
        let name = format!("an_archive_of_4_gib_in_{packing:?}").to_lowercase();
        cases.push(
            Case::refused(&name, &["archive.tar", "--max-size"], move |bench| {
                std::fs::write(bench.path("archive.tar"), bomb).unwrap();
                "oci-archive:archive.tar".to_owned()
            })
            .with(&limit),
        );
    }
    cases.push(
        Case::refused("layers_of_together_4_gib", &["layer ", "--max-size"], move |bench| {
            let layout = Oci::new(bench);
            let diff_id = Sha256::of(&Layer::new().file("f", &vec![0; 32 * MIB]).tar()).to_string();
            let layer = layout.put(LAYER, &gzip(&Layer::new().file("f", &vec![0; 32 * MIB]).tar()));
            layout.image(&config(&vec![diff_id; 128]), &vec![layer; 128]);
            "oci:image".to_owned()
        })
        .with(&limit),
    );
    let tar = || Layer::new().file("f", &noise(2 * MIB, 1)).tar();
    cases.extend([
        bad("gzip_that_ends_early", &["layer"], move || {
            let packed = gzip(&tar());
            packed[..packed.len() / 2].to_vec()
        }),
        bad("gzip_with_a_wrong_checksum", &["corrupt"], move || {
            let mut packed = gzip(&tar());
            let at = packed.len() - 8;
            packed[at] ^= 1;
            packed
        }),
        bad("gzip_with_a_broken_member_behind_it", &["gzip"], move || [&gzip(&tar())[..], b"\x1F\x8Bgarbage"].concat()),
        bad("xz_that_ends_early", &["layer"], move || {
            let packed = filter("xz", &["-c"], &tar());
            packed[..packed.len() / 2].to_vec()
        }),
        bad("xz_that_asks_for_4_gib_of_memory", &["memory"], move || {
            let mut packed = filter("xz", &["-c"], &tar());
            // The size of the dictionary, in the first block's header, and that header's sum.
            packed[16] = 40;
            let mut sum = flate2::Crc::new();
            sum.update(&packed[12..20]);
            packed[20..24].copy_from_slice(&sum.sum().to_le_bytes());
            packed
        }),
        bad("bzip2_that_ends_early", &["layer"], move || {
            let packed = filter("bzip2", &["-c"], &tar());
            packed[..packed.len() / 2].to_vec()
        }),
        bad("gzip_of_nothing_but_its_magic", &["layer"], || vec![0x1F, 0x8B]),
        bad("zstd_that_ends_early", &["ends in the middle"], move || {
            let packed = Packing::Zstd.pack(&tar());
            packed[..packed.len() / 2].to_vec()
        }),
        bad("zstd_with_garbage_in_it", &["Unsupported frame parameter"], move || {
            [&Packing::Zstd.pack(&open_ended(&Layer::new().file("f", b"x")))[..], b"\x28\xB5\x2F\xFD", &[0xFF; 64]]
                .concat()
        }),
        good("zstd_with_a_window_of_128_mib", move || {
            let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(27).unwrap();
            encoder.write_all(&tar()).unwrap();
            encoder.finish().unwrap()
        }),
        bad("zstd_with_a_window_of_2_gib", &["zstd"], || {
            let mut frame = vec![0x28, 0xB5, 0x2F, 0xFD, 0x00, (31 - 10) << 3];
            frame.extend([0x01 | (8 << 3), 0, 0]);
            frame.extend([0; 8]);
            frame
        }),
    ]);
    check("hostile_tar_in_bad_compression_or_past_the_limit", cases);
}

// Layouts and archives.

const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// An OCI layout, `image`, blob by blob.
struct Oci(PathBuf);

impl Oci {
    fn new(bench: &Bench) -> Self {
        let layout = Self(bench.path("image"));
        std::fs::create_dir_all(layout.0.join("blobs/sha256")).unwrap();
        std::fs::write(layout.0.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        layout
    }

    fn blob(&self, bytes: &[u8]) -> PathBuf {
        self.0.join("blobs/sha256").join(Sha256::of(bytes).to_hex())
    }

    /// Puts a blob; its descriptor.
    fn put(&self, media_type: &str, bytes: &[u8]) -> Value {
        std::fs::write(self.blob(bytes), bytes).unwrap();
        descriptor(media_type, bytes)
    }

    fn index(&self, bytes: &[u8]) {
        std::fs::write(self.0.join("index.json"), bytes).unwrap();
    }

    /// Makes the index of one descriptor.
    fn offer(&self, descriptor: &Value) {
        self.index(&index_of(&[descriptor]));
    }

    fn manifest(&self, manifest: &Value) {
        let descriptor = self.put(MANIFEST, manifest.to_string().as_bytes());
        self.offer(&descriptor);
    }

    /// Makes an image of a config and layers that are put already.
    fn image(&self, config: &[u8], layers: &[Value]) {
        let config = self.put(CONFIG, config);
        self.manifest(&json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers }));
    }

    /// An image of [`small_layer`] whose manifest is what `edit` makes of it.
    fn small(&self, edit: impl FnOnce(&mut Value)) {
        let (config, layer) = (self.put(CONFIG, &small_config()), self.put(LAYER, &gzip(&small_layer())));
        let mut manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        edit(&mut manifest);
        self.manifest(&manifest);
    }

    /// The same image, whose descriptor in the index is what `edit` makes of it.
    fn small_offered(&self, edit: impl FnOnce(&mut Value)) {
        self.small(|_| ());
        let mut index: Value = serde_json::from_slice(&std::fs::read(self.0.join("index.json")).unwrap()).unwrap();
        edit(&mut index["manifests"][0]);
        self.index(index.to_string().as_bytes());
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Sha256::of(bytes).to_string(), "size": bytes.len() })
}

fn index_of(descriptors: &[&Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors }).to_string().into_bytes()
}

fn small_layer() -> Vec<u8> {
    Layer::new().dir("etc").file("etc/data", &noise(5_000, 1)).tar()
}

fn config(diff_ids: &[String]) -> Vec<u8> {
    let rootfs = json!({ "type": "layers", "diff_ids": diff_ids });
    json!({ "architecture": "amd64", "os": "linux", "config": {}, "rootfs": rootfs }).to_string().into_bytes()
}

fn small_config() -> Vec<u8> {
    config(&[Sha256::of(&small_layer()).to_string()])
}

/// A layout that `make` fills.
fn layout(make: impl FnOnce(&Oci) + 'static) -> impl FnOnce(&Bench) -> String + 'static {
    |bench| {
        make(&Oci::new(bench));
        "oci:image".to_owned()
    }
}

fn bad_layout(name: &str, words: &[&str], make: impl FnOnce(&Oci) + 'static) -> Case {
    Case::refused(name, &[&["oci:image"], words].concat(), layout(make))
}

/// An image whose manifest is edited.
fn bad_manifest(name: &str, words: &[&str], edit: impl FnOnce(&mut Value) + 'static) -> Case {
    bad_layout(name, words, |oci| oci.small(edit))
}

fn fifo(path: &Path) {
    let (kind, mode) = (rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o644));
    rustix::fs::mknodat(rustix::fs::CWD, path, kind, mode, 0).unwrap();
}

#[test]
fn a_bad_layout_is_refused() {
    let index = |name: &str, words: &[&str], bytes: Vec<u8>| {
        bad_layout(name, &[&["index.json"], words].concat(), move |oci| oci.index(&bytes))
    };
    let offered = |name: &str, words: &[&str], edit: Edit| bad_layout(name, words, move |oci| oci.small_offered(edit));
    let replaced = |name: &str, words: &[&str], put: fn(&Path)| {
        bad_layout(name, words, move |oci| {
            oci.small(|_| ());
            let path = oci.blob(&gzip(&small_layer()));
            std::fs::remove_file(&path).unwrap();
            put(&path);
        })
    };
    let no_index = "not an OCI image index";
    check(
        "hostile_bad_layout",
        [
            index("an_index_that_is_no_json", &[no_index], b"<html>".to_vec()),
            index("an_index_of_nothing", &[no_index], Vec::new()),
            index("an_index_of_100_000_brackets", &[no_index], b"[".repeat(100_000)),
            index(
                "an_index_with_100_000_objects_in_each_other",
                &[no_index],
                br#"{"manifests":[{"annotations":"#.repeat(100_000),
            ),
            index("an_index_that_is_an_array", &[no_index], b"[]".to_vec()),
            index("an_index_without_manifests", &[no_index], br#"{"schemaVersion":2}"#.to_vec()),
            index(
                "an_index_with_a_key_twice",
                &[no_index, "duplicate"],
                br#"{"schemaVersion":2,"manifests":[],"manifests":[]}"#.to_vec(),
            ),
            index("an_index_of_9_mib", &["a JSON document can have 8.0 MiB"], vec![b' '; 9 * MIB]),
            bad_layout("an_index_of_no_images", &["no container image"], |oci| oci.index(&index_of(&[]))),
            bad_layout("an_index_that_is_a_fifo", &["index.json", "not a regular file"], |oci| {
                fifo(&oci.0.join("index.json"));
            }),
            bad_layout("an_index_that_is_a_directory", &["index.json", "not a regular file"], |oci| {
                std::fs::create_dir(oci.0.join("index.json")).unwrap();
            }),
            bad_layout("no_index", &["index.json"], |_| ()),
            bad_layout("an_index_that_names_itself", &["its digest is"], |oci| {
                let mut itself = descriptor(INDEX, b"");
                itself["size"] = json!(index_of(&[&itself]).len() + 2);
                let bytes = index_of(&[&itself]);
                std::fs::write(oci.blob(b""), &bytes).unwrap();
                oci.index(&bytes);
            }),
            bad_layout("indexes_ten_deep", &["indexes nested too deeply"], |oci| {
                let mut inner = oci.put(MANIFEST, b"{}");
                for _ in 0..10 {
                    inner = oci.put(INDEX, &index_of(&[&inner]));
                }
                oci.offer(&inner);
            }),
            bad_layout("an_index_that_names_an_index_1_000_times_and_so_on", &["not an image manifest"], |oci| {
                let mut inner = oci.put(MANIFEST, b"{}");
                for _ in 0..3 {
                    inner = oci.put(INDEX, &index_of(&vec![&inner; 1_000]));
                }
                oci.offer(&inner);
            }),
            offered("a_digest_with_dots", &["index.json", "../../../etc/passwd"], |image| {
                image["digest"] = json!("sha256:../../../etc/passwd");
            }),
            offered("a_digest_of_an_unknown_algorithm", &["only sha256 and sha512 digests are supported"], |image| {
                image["digest"] = json!(format!("sha999:{}", "0".repeat(64)));
            }),
            offered("a_digest_of_sha512_that_is_nowhere", &["blobs/sha512"], |image| {
                image["digest"] = json!(format!("sha512:{}", "0".repeat(128)));
            }),
            offered("a_digest_in_capitals", &["index.json", "AAAA"], |image| {
                image["digest"] = json!(format!("sha256:{}", "A".repeat(64)));
            }),
            offered("a_size_below_0", &["index.json", "-1"], |image| image["size"] = json!(-1)),
            offered("a_size_of_2_to_the_64_less_1", &["its descriptor says 18446744073709551615"], |image| {
                image["size"] = json!(u64::MAX);
            }),
            Case::refused("a_tag_with_control_characters", &["it does not contain the tag `v1`"], |bench| {
                Oci::new(bench).small_offered(|image| {
                    image["annotations"] = json!({ "org.opencontainers.image.ref.name": "a\u{1b}[2Jb\nc" });
                });
                "oci:image:v1".to_owned()
            }),
            offered("a_platform_that_is_a_number", &[no_index], |image| image["platform"] = json!(7)),
            bad_layout(
                "an_image_for_another_platform_alone",
                &["the image is for linux/amd64, not for linux/s390x"],
                |oci| oci.small(|_| ()),
            )
            .with(&["--platform", "linux/s390x"]),
            bad_layout("no_blobs", &["blob sha256:", "No such file"], |oci| {
                oci.small(|_| ());
                std::fs::remove_dir_all(oci.0.join("blobs")).unwrap();
            }),
            replaced("a_blob_that_is_a_fifo", &["blob sha256:", "not a regular file"], fifo),
            replaced("a_blob_that_is_a_directory", &["blob sha256:", "not a regular file"], |path| {
                std::fs::create_dir(path).unwrap();
            }),
            replaced("a_blob_that_is_a_symlink_to_itself", &["blob sha256:"], |path| symlink(path, path).unwrap()),
            replaced("a_blob_that_is_a_symlink_to_a_device", &["blob sha256:", "not a regular file"], |path| {
                symlink("/dev/zero", path).unwrap();
            }),
            replaced("a_blob_that_is_a_symlink_to_another_file", &["its descriptor says"], |path| {
                symlink("../../oci-layout", path).unwrap();
            }),
            Case::accepted(
                "a_blob_that_is_a_symlink_out_of_the_layout_to_the_same_bytes",
                layout(|oci| {
                    oci.small(|_| ());
                    let path = oci.blob(&gzip(&small_layer()));
                    let elsewhere = oci.0.with_file_name("elsewhere");
                    std::fs::rename(&path, &elsewhere).unwrap();
                    symlink(elsewhere, path).unwrap();
                }),
            ),
            bad_layout("a_layout_that_is_a_file", &["not a directory"], |oci| {
                std::fs::remove_dir_all(&oci.0).unwrap();
                std::fs::write(&oci.0, b"").unwrap();
            }),
            Case::refused("a_tar_that_is_a_fifo", &["tar:pipe", "not a regular file"], |bench| {
                fifo(&bench.path("pipe"));
                "tar:pipe".to_owned()
            }),
            Case::refused("an_archive_that_is_a_fifo", &["oci-archive:pipe", "not a regular file"], |bench| {
                fifo(&bench.path("pipe"));
                "oci-archive:pipe".to_owned()
            }),
        ],
    );
}

#[test]
fn a_bad_image_manifest_is_refused() {
    let no_manifest = "not an image manifest";
    let raw = |name: &str, words: &[&str], bytes: Vec<u8>| {
        bad_layout(name, words, move |oci| oci.offer(&oci.put(MANIFEST, &bytes)))
    };
    check(
        "hostile_bad_image_manifest",
        [
            raw("a_manifest_that_is_no_json", &["sha256:", no_manifest], b"<html>".to_vec()),
            raw("a_manifest_of_100_000_brackets", &["sha256:", no_manifest], b"[".repeat(100_000)),
            raw("a_manifest_of_9_mib", &["a JSON document can have 8.0 MiB"], vec![b' '; 9 * MIB]),
            raw(
                "a_manifest_of_schema_1",
                &["sha256:", no_manifest],
                br#"{"schemaVersion":1,"name":"app","tag":"latest","fsLayers":[],"history":[]}"#.to_vec(),
            ),
            Case::accepted(
                "a_schema_version_of_3",
                layout(|oci| oci.small(|manifest| manifest["schemaVersion"] = json!(3))),
            ),
            bad_manifest("a_schema_version_that_is_a_text", &[no_manifest], |manifest| {
                manifest["schemaVersion"] = json!("2");
            }),
            bad_manifest("layers_that_are_no_array", &[no_manifest], |manifest| manifest["layers"] = json!({})),
            bad_manifest("no_config", &[no_manifest, "config"], |manifest| {
                _ = manifest.as_object_mut().unwrap().remove("config");
            }),
            bad_manifest("a_layer_without_a_digest", &[no_manifest, "digest"], |manifest| {
                _ = manifest["layers"][0].as_object_mut().unwrap().remove("digest");
            }),
            bad_manifest("a_layers_digest_with_dots", &["../../index.json"], |manifest| {
                manifest["layers"][0]["digest"] = json!("sha256:../../index.json");
            }),
            bad_manifest("a_layers_size_below_0", &[no_manifest, "-1"], |manifest| {
                manifest["layers"][0]["size"] = json!(-1);
            }),
            bad_manifest("a_layers_size_of_2_to_the_63", &["its descriptor says 9223372036854775808"], |manifest| {
                manifest["layers"][0]["size"] = json!(1u64 << 63);
            }),
            bad_manifest("a_config_of_another_size", &["its descriptor says 1"], |manifest| {
                manifest["config"]["size"] = json!(1);
            }),
            bad_manifest(
                "a_layer_less_than_diff_ids",
                &["the manifest has 0 layers, the config 1 DiffIDs"],
                |manifest| {
                    manifest["layers"] = json!([]);
                },
            ),
            bad_manifest(
                "a_layer_more_than_diff_ids",
                &["the manifest has 2 layers, the config 1 DiffIDs"],
                |manifest| {
                    let layer = manifest["layers"][0].clone();
                    manifest["layers"].as_array_mut().unwrap().push(layer);
                },
            ),
            bad_manifest("a_media_type_with_control_characters", &["layer sha256:", "not supported"], |manifest| {
                manifest["layers"][0]["mediaType"] = json!("a\u{1b}[2Jb\nc");
            }),
            bad_manifest("a_layer_of_no_media_type", &["layer sha256:", "not supported"], |manifest| {
                manifest["layers"][0]["mediaType"] = json!("");
            }),
            Case::accepted(
                "a_layer_of_gzip_that_says_zstd",
                layout(|oci| {
                    oci.small(|manifest| {
                        manifest["layers"][0]["mediaType"] = json!("application/vnd.oci.image.layer.v1.tar+zstd");
                    });
                }),
            ),
            Case::accepted(
                "a_plain_layer_that_says_gzip",
                layout(|oci| {
                    let layer = oci.put(LAYER, &small_layer());
                    oci.image(&small_config(), &[layer]);
                }),
            ),
            Case::accepted("no_layers", layout(|oci| oci.image(&config(&[]), &[]))),
            Case::accepted(
                "one_layer_2_000_times",
                layout(|oci| {
                    let layer = oci.put(LAYER, &gzip(&small_layer()));
                    oci.image(&config(&vec![Sha256::of(&small_layer()).to_string(); 2_000]), &vec![layer; 2_000]);
                }),
            ),
            Case::accepted(
                "one_layer_200_times",
                layout(|oci| {
                    let layer = oci.put(LAYER, &gzip(&small_layer()));
                    oci.image(&config(&vec![Sha256::of(&small_layer()).to_string(); 200]), &vec![layer; 200]);
                }),
            ),
        ],
    );
}

#[test]
fn a_bad_config_is_refused() {
    let bytes = |bytes: Vec<u8>| {
        layout(move |oci| {
            let layer = oci.put(LAYER, &gzip(&small_layer()));
            oci.image(&bytes, &[layer]);
        })
    };
    let edited = move |edit: Edit| {
        let mut config = serde_json::from_slice(&small_config()).unwrap();
        edit(&mut config);
        bytes(config.to_string().into_bytes())
    };
    let bad = |name: &str, word: &str, make| Case::refused(name, &["image config", word], make);
    let text = |with: &str| {
        let text = String::from_utf8(small_config()).unwrap();
        text.replacen('{', &format!("{{{with},"), 1).into_bytes()
    };
    let mut cases = vec![
        Case::refused("a_config_that_is_no_json", &["image config: not JSON"], bytes(b"<html>".to_vec())),
        Case::refused(
            "a_config_of_100_000_brackets",
            &["image config: not a JSON object"],
            bytes(b"[".repeat(100_000)),
        ),
        Case::refused("a_config_that_is_an_array", &["image config"], bytes(b"[]".to_vec())),
        Case::refused("a_config_of_9_mib", &["a JSON document can have 8.0 MiB"], bytes(vec![b' '; 9 * MIB])),
    ];
    let types: [(&str, &str, Edit); 13] = [
        ("a_root_fs_that_is_a_text", "rootfs", |config| config["rootfs"] = json!("layers")),
        ("no_diff_ids", "rootfs.diff_ids", |config| config["rootfs"] = json!({ "type": "layers" })),
        ("a_diff_id_that_is_a_number", "rootfs.diff_ids", |config| config["rootfs"]["diff_ids"][0] = json!(7)),
        ("a_diff_id_with_dots", "DiffID", |config| config["rootfs"]["diff_ids"][0] = json!("sha256:../../etc")),
        ("an_architecture_that_is_a_number", "architecture", |config| config["architecture"] = json!(64)),
        ("an_operating_system_that_is_an_array", "os", |config| config["os"] = json!(["linux"])),
        ("settings_that_are_a_text", "config", |config| config["config"] = json!("none")),
        ("an_environment_that_is_a_text", "Env", |config| config["config"]["Env"] = json!("PATH=/bin")),
        ("an_environment_of_numbers", "Env", |config| config["config"]["Env"] = json!([1, 2])),
        ("a_command_that_is_an_object", "Cmd", |config| config["config"]["Cmd"] = json!({ "sh": 1 })),
        ("an_operating_system_with_a_line_feed", "os", |config| config["os"] = json!("li\nnux")),
        ("an_architecture_of_70_000_bytes", "architecture", |config| {
            config["architecture"] = json!("x".repeat(70_000));
        }),
        ("a_user_that_is_a_number", "User", |config| config["config"]["User"] = json!(0)),
    ];
    cases.extend(types.map(|(name, word, edit)| bad(name, word, edited(edit))));
    let mut history = String::from(r#""history":["#);
    for step in 0..100_000 {
        write!(history, r#"{{"created_by":"RUN step {step}","empty_layer":true}},"#).unwrap();
    }
    history.replace_range(history.len() - 1.., "]");
    cases.extend([
        Case::accepted(
            "a_config_without_an_architecture",
            edited(|config| _ = config.as_object_mut().unwrap().remove("architecture")),
        ),
        Case::accepted(
            "an_environment_of_5_mib",
            edited(|config| config["config"]["Env"] = json!([format!("A={}", "x".repeat(5 * MIB))])),
        ),
        Case::accepted("a_history_of_100_000_entries", bytes(text(&history))),
        Case::accepted("a_history_of_a_million_objects", {
            let many = format!(r#""history":[{}{{}}]"#, r#"{"a":0},"#.repeat(1_000_000));
            bytes(text(&many))
        }),
        Case::accepted("a_key_twice", bytes(text(r#""os":"plan9""#))),
        Case::accepted("settings_of_null", edited(|config| config["config"] = Value::Null)),
    ]);
    check("hostile_bad_config", cases);
}

#[test]
fn a_bad_archive_is_refused() {
    let archive = |transport: &'static str, make: Box<dyn FnOnce() -> Vec<u8>>| {
        move |bench: &Bench| {
            std::fs::write(bench.path("app.tar"), make()).unwrap();
            format!("{transport}:app.tar")
        }
    };
    let docker = |name: &str, words: &[&str], items: Value, more: Layer| {
        let make = move || more.file("manifest.json", items.to_string().as_bytes()).tar();
        Case::refused(name, &[&["docker-archive:app.tar"], words].concat(), archive("docker-archive", Box::new(make)))
    };
    let oci = |name: &str, words: &[&str], make: Box<dyn FnOnce() -> Vec<u8>>| {
        Case::refused(name, &[&["oci-archive:app.tar"], words].concat(), archive("oci-archive", make))
    };
    let with_config = || Layer::new().file("config.json", &small_config()).file("layer.tar", &small_layer());
    let item = |config: &str, layer: &str| json!([{ "Config": config, "RepoTags": null, "Layers": [layer] }]);
    let sparse = |flag: u8| {
        move |bench: &Bench| {
            let long = Layer::new().edited(flag, b"long", b"", |block| {
                block[124..136].copy_from_slice(&base_256::<12>(1 << 30));
            });
            let mut file = std::fs::File::create(bench.path("app.tar")).unwrap();
            file.write_all(&open_ended(&long)).unwrap();
            file.set_len((1 << 30) + 4_096).unwrap();
            "oci-archive:app.tar".to_owned()
        }
    };
    check(
        "hostile_bad_archive",
        [
            docker(
                "a_config_outside_the_archive",
                &["the archive does not contain", "etc/passwd"],
                item("../../../../etc/passwd", "layer.tar"),
                with_config(),
            ),
            docker(
                "a_layer_outside_the_archive",
                &["the archive does not contain `/etc/passwd`"],
                item("config.json", "/etc/passwd"),
                with_config(),
            ),
            docker(
                "a_layer_that_is_missing",
                &["the archive does not contain `gone/layer.tar`"],
                item("config.json", "gone/layer.tar"),
                with_config(),
            ),
            docker(
                "a_layer_that_is_a_link_out_of_the_archive",
                &["link.tar: a link to `etc/passwd`, which is not in the archive"],
                item("config.json", "link.tar"),
                with_config().symlink("link.tar", "/etc/passwd"),
            ),
            docker(
                "a_layer_that_is_a_loop_of_links",
                &["a.tar: more than 8 links"],
                item("config.json", "a.tar"),
                with_config().symlink("a.tar", "b.tar").symlink("b.tar", "a.tar"),
            ),
            docker(
                "a_layer_that_is_a_directory",
                &["the archive does not contain `d`"],
                item("config.json", "d"),
                with_config().dir("d"),
            ),
            Case::refused("a_layer_that_is_another", &["layer 1 of 1", "other.tar", "the image config says"], {
                let items = item("config.json", "other.tar").to_string();
                let archived =
                    with_config().file("other.tar", &Layer::new().tar()).file("manifest.json", items.as_bytes());
                archive("docker-archive", Box::new(move || archived.tar()))
            }),
            docker(
                "a_layers_name_with_control_characters",
                &["the archive does not contain"],
                item("config.json", "a\u{1b}[2Jb\nc"),
                with_config(),
            ),
            docker(
                "no_layer_for_the_diff_id",
                &["manifest.json names 0 layers, the config 1"],
                json!([{ "Config": "config.json", "Layers": [] }]),
                with_config(),
            ),
            docker("an_archive_of_no_image", &["manifest.json lists no image"], json!([]), Layer::new()),
            docker(
                "an_archives_manifest_of_another_form",
                &["manifest.json: not the manifest of a docker archive"],
                json!({ "Config": 1 }),
                Layer::new(),
            ),
            docker(
                "an_archives_manifest_of_9_mib",
                &["manifest.json", "a JSON document can have"],
                json!([" ".repeat(9 * MIB)]),
                Layer::new(),
            ),
            Case::refused(
                "an_archive_without_a_manifest",
                &["the archive does not contain `manifest.json`"],
                archive("docker-archive", Box::new(|| with_config_only().tar())),
            ),
            oci("an_archive_of_garbage", &["not a tar archive"], Box::new(|| noise(10_000, 1))),
            oci("an_archive_of_nothing", &["not a tar archive"], Box::new(Vec::new)),
            oci(
                "an_archive_without_an_index",
                &["the archive does not contain `index.json`"],
                Box::new(|| with_config_only().tar()),
            ),
            oci(
                "an_archive_whose_member_ends_behind_it",
                &["index.json", "extends past the end"],
                Box::new(|| {
                    Layer::new()
                        .edited(b'0', b"index.json", b"{}", |block| {
                            block[124..136].copy_from_slice(&base_256::<12>(1 << 40));
                        })
                        .tar()
                }),
            ),
            oci(
                "an_archive_whose_member_is_of_2_to_the_63_bytes",
                &["not a tar archive"],
                Box::new(|| {
                    Layer::new().file_with("index.json", b"{}", &pax(&[("size", "18446744073709551615")])).tar()
                }),
            ),
            oci("an_archive_that_ends_early", &["app.tar"], Box::new(|| with_config_only().tar()[..700].to_vec())),
            oci(
                "an_archive_of_gzip_that_ends_early",
                &["app.tar"],
                Box::new(|| {
                    let packed = gzip(&with_config_only().tar());
                    packed[..packed.len() / 2].to_vec()
                }),
            ),
            Case::refused("an_archive_with_a_gnu_name_of_1_gib", &["oci-archive:app.tar"], sparse(b'L')),
            Case::refused("an_archive_with_a_pax_header_of_1_gib", &["oci-archive:app.tar"], sparse(b'x')),
        ],
    );
}

fn with_config_only() -> Layer {
    Layer::new().file("config.json", &small_config())
}

// Block manifests and key files.

/// A damaged block manifest must be refused by all that read it.
fn check_manifests(bench: &Bench, cases: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<String> {
    let mut wrong = Vec::new();
    for (name, bytes) in cases {
        std::fs::write(bench.path("bad.cpm"), bytes).unwrap();
        wrong.extend(check_manifest(bench, &name));
    }
    wrong
}

fn check_manifest(bench: &Bench, name: &str) -> Vec<String> {
    let commands: [(&str, &[&str]); 5] = [
        (COLDPRESS, &["inspect", "bad.cpm"]),
        (COLDPRESS, &["verify", "bad.cpm"]),
        (COLDPRESS, &["export", "bad.cpm", "-o", "out/app.img"]),
        (COLDREAD, &["ls", "-lR", "bad.cpm"]),
        (COLDREAD, &["cat", "bad.cpm", "/etc/data"]),
    ];
    let check = |(program, args): (&str, &[&str])| {
        let ended = run(bench, program, args);
        let mut faults = ended.faults(1, &["error: bad.cpm: "], secrets(TEST_KEY));
        faults.extend(left(bench));
        let shown = || format!("{name} by {}: {} (it says: {})", args[0], faults.join("; "), ended.shown());
        (!faults.is_empty()).then(shown)
    };
    commands.into_iter().filter_map(check).collect()
}

#[test]
fn a_bad_block_manifest_is_refused_by_all_that_read_it() {
    let bench = Bench::new();
    for directory in ["temp", "out"] {
        std::fs::create_dir(bench.path(directory)).unwrap();
    }
    let made = bench.convert(&Image::new([Layer::new().file("etc/data", &noise(5_000, 1))]), "app", &[]);
    std::fs::remove_dir_all(bench.path("store/manifests")).unwrap();
    let good = std::fs::read(bench.path("app.cpm")).unwrap();
    let digest: Sha256 = made["root_digest"].as_str().unwrap().parse().unwrap();
    let names = good.windows(32).position(|part| part == digest.as_bytes()).unwrap() + 32;
    let put = |at: usize, bytes: &[u8]| {
        let mut bad = good.clone();
        bad[at..at + bytes.len()].copy_from_slice(bytes);
        bad
    };
    let cut = |part: usize| (format!("a_manifest_cut_to_{part}_of_16_parts"), good[..good.len() * part / 16].to_vec());
    let huge = |name: &str, at: usize| (format!("a_manifest_with_{name}_of_2_to_the_32_less_1"), put(at, &[0xFF; 4]));
    let mut wrong = check_manifests(&bench, (0..16).map(cut));
    wrong.extend(check_manifests(
        &bench,
        [
            ("a_manifest_with_a_wrong_magic".to_owned(), put(0, b"x")),
            ("a_manifest_of_version_0".to_owned(), put(8, &[0, 0])),
            ("a_manifest_of_version_65535".to_owned(), put(8, &[0xFF; 2])),
            ("a_manifest_with_reserved_bits".to_owned(), put(10, &[1])),
            ("a_manifest_with_a_byte_more".to_owned(), [&good[..], b"x"].concat()),
            ("a_manifest_with_another_behind_it".to_owned(), good.repeat(2)),
            ("a_manifest_of_65_535_wraps".to_owned(), put(24, &[0xFF; 2])),
            ("a_manifest_of_an_unknown_codec".to_owned(), {
                let wraps = u32::from_le_bytes(good[12..16].try_into().unwrap());
                put(24 + usize::try_from(wraps).unwrap() + 2, &[0xFF])
            }),
            ("a_manifest_of_100_mb_of_zeros".to_owned(), vec![0; 100_000_000]),
            huge("wraps", 12),
            huge("a_clear_part", 16),
            huge("a_sealed_part", 20),
            huge("a_key_id", 24 + 2 + 1),
            huge("names", names),
        ],
    ));
    let zeros = std::fs::File::create(bench.path("bad.cpm")).unwrap();
    zeros.set_len(1 << 30).unwrap();
    wrong.extend(check_manifest(&bench, "a_manifest_of_1_gib_of_zeros"));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_bad_key_file_is_refused_without_telling_of_the_key() {
    const FIRST: &str = "# coldpress key file 1\n";
    const KEY: &str = "9f3b71c64ad8025ee1907f6cb28a34d35a6617fbc098214e7db35f0a86e9c42d";
    const BASE_64: &str = "nztxxkrYAl7hkH9ssoo001pmF/vAmCFOfbNfCobpxC0=";
    let file = |lines: &str| format!("{FIRST}{lines}\n").into_bytes();
    let cases: Vec<(&str, &str, Vec<u8>)> = vec![
        ("a_key_file_of_nothing", "not a coldpress key file", Vec::new()),
        ("a_key_file_of_another_kind", "not a coldpress key file", b"-----BEGIN PRIVATE KEY-----\n".to_vec()),
        ("a_key_file_of_bytes", "key.bad", noise(64, 1)),
        ("a_key_file_of_zeros", "not a coldpress key file", vec![0; 1_000]),
        ("a_key_alone", "not a coldpress key file", KEY.as_bytes().to_vec()),
        ("a_key_file_without_a_key", "no line `wrapping-key`", file(&format!("salt = {KEY}"))),
        ("a_key_of_63_digits", "line 2: `wrapping-key` is not 64", file(&format!("wrapping-key = {}", &KEY[1..]))),
        ("a_key_of_65_digits", "line 2: `wrapping-key` is not 64", file(&format!("wrapping-key = {KEY}0"))),
        ("a_key_of_no_digits", "line 2: `wrapping-key` is not 64", file("wrapping-key =")),
        (
            "a_key_of_letters",
            "line 2: `wrapping-key` is not 64",
            file(&format!("wrapping-key = {}", KEY.replace('9', "g"))),
        ),
        ("a_key_in_base_64", "line 2: `wrapping-key` is not 64", file(&format!("wrapping-key = {BASE_64}"))),
        (
            "a_salt_of_63_digits",
            "line 3: `salt` is not 64",
            file(&format!("wrapping-key = {KEY}\nsalt = {}", &KEY[1..])),
        ),
        ("a_line_of_a_key_alone", "line 2", file(KEY)),
        ("a_line_of_a_key_in_base_64_alone", "line 2", file(BASE_64)),
        ("a_line_with_name_and_value_swapped", "line 2", file(&format!("{KEY} = wrapping-key"))),
        (
            "a_key_id_that_is_a_key",
            "line 3: `wrapping-key-id`",
            file(&format!("wrapping-key = {KEY}\nwrapping-key-id = {KEY}")),
        ),
        (
            "a_key_twice",
            "line 3: `wrapping-key` appears twice",
            file(&format!("wrapping-key = {}\nwrapping-key = {KEY}", "0".repeat(64))),
        ),
        (
            "a_salt_twice",
            "line 4: `salt` appears twice",
            file(&format!("wrapping-key = {}\nsalt = {KEY}\nsalt = {KEY}", "0".repeat(64))),
        ),
        ("a_key_file_of_100_mb", "key.bad", b"#".repeat(100_000_000)),
    ];
    let bench = Bench::new();
    for directory in ["temp", "out"] {
        std::fs::create_dir(bench.path(directory)).unwrap();
    }
    std::fs::write(bench.path("root.tar"), small_layer()).unwrap();
    let mut wrong = Vec::new();
    for (name, word, bytes) in cases {
        let path = bench.path("key.bad");
        std::fs::write(&path, bytes).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let args = ["convert", "tar:root.tar", "--store", "store", "-o", "out/app.cpm", "--key", "file:key.bad"];
        let ended = run(&bench, COLDPRESS, &args);
        let mut faults = ended.faults(1, &["coldpress: error: key.bad: ", word], KEY);
        faults.extend(ended.faults(1, &[], BASE_64));
        faults.dedup();
        faults.extend(left(&bench));
        if !faults.is_empty() {
            wrong.push(format!("{name}: {} (it says: {})", faults.join("; "), ended.shown()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What stands in a manifest as text must be what its readers take.
#[test]
fn a_manifest_is_never_written_with_a_name_that_no_reader_takes() {
    let cases: [(&str, &str, &[&str]); 4] = [
        ("an_application_with_a_line_feed", "--application", &["--application", "a\nb", "--store", "store"]),
        ("an_application_with_an_escape", "--application", &["--application", "a\u{1b}b", "--store", "store"]),
        ("a_platform_with_a_line_feed", "--platform", &["--platform", "linux/a\nb", "--store", "store"]),
        ("a_limit_that_is_no_size", "--max-size", &["--max-size", "lots", "--store", "store"]),
    ];
    let mut wrong = Vec::new();
    for (name, word, options) in cases {
        let bench = Bench::new();
        for directory in ["temp", "out"] {
            std::fs::create_dir(bench.path(directory)).unwrap();
        }
        std::fs::write(bench.path("root.tar"), small_layer()).unwrap();
        let args = [&["convert", "tar:root.tar", "-o", "out/app.cpm"][..], options].concat();
        let ended = run(&bench, COLDPRESS, &args);
        let mut faults = ended.faults(2, &[word], secrets(TEST_KEY));
        faults.extend(left(&bench));
        if !faults.is_empty() {
            wrong.push(format!("{name}: {}", faults.join("; ")));
        }
    }
    let bench = Bench::new();
    std::fs::write(bench.path("root.tar"), small_layer()).unwrap();
    let store = ["convert", "tar:root.tar", "-o", "app.cpm", "--store", "st\nore", "--quiet"];
    let converted = run(&bench, COLDPRESS, &store).faults(0, &[], secrets(TEST_KEY));
    let read = run(&bench, COLDREAD, &["ls", "app.cpm", "--store", "st\nore"]).faults(0, &["etc"], secrets(TEST_KEY));
    for (by, faults) in [("convert", converted), ("ls", read)] {
        if !faults.is_empty() {
            wrong.push(format!("a_store_with_a_line_feed by {by}: {}", faults.join("; ")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

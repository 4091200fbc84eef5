//! Flattening: the table of docs/design.md ("Flattening") row by row, and what tar headers can say.
//!
//! Small images are converted and exported by the real programs and judged by the kernel: what it mounts is compared with
//! literal lines, in the form that [`listing`] describes. A refusal names its entry and leaves nothing behind.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::common::{Bench, Image, Layer, Meta, Mounted, Packing, listing, noise, shown};

/// What the kernel shows of `layers`.
fn flattened(layers: impl IntoIterator<Item = Layer>) -> Vec<String> {
    mounted(layers, listing)
}

/// What `look` sees of `layers` in the kernel's mount.
fn mounted<T>(layers: impl IntoIterator<Item = Layer>, look: impl FnOnce(&Path) -> T) -> T {
    let bench = Bench::new();
    let file = bench.block_image(&Image::new(layers), "image", &["--free", "0"]);
    look(Mounted::new(&file).path())
}

/// `layers` must be refused with an error that names `entry` and says `reason`, and leave no file.
fn refused(layers: impl IntoIterator<Item = Layer>, entry: &str, reason: &str) {
    let bench = Bench::new();
    Image::new(layers).oci_layout(&bench.path("image"), Packing::Gzip);
    std::fs::create_dir(bench.path("temp")).unwrap();
    let output = bench.coldpress(&["convert", "oci:image", "--store", "store", "-o", "image.cpm", "--temp", "temp"]);
    let message = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{message}");
    assert!(message.contains(&format!("`{entry}`: {reason}")), "{message}");
    assert!(output.stdout.is_empty());
    assert_eq!(names(bench.dir.path()), ["coldpress.key", "image", "store", "temp"]);
    assert_eq!(names(&bench.path("temp")), [""; 0]);
    assert_eq!(files_below(&bench.path("store")), 0);
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn files_below(directory: &Path) -> usize {
    let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|entry| if entry.is_dir() { files_below(&entry) } else { 1 }).sum()
}

// An upper `lib/foo` where a lower layer has `lib → usr/lib`.

#[test]
fn a_directory_replaces_a_lower_layers_symlink() {
    let lower = Layer::new().dir("usr").dir("usr/lib").file("usr/lib/old", b"old").symlink("lib", "usr/lib");
    let upper = Layer::new().file("lib/foo", b"new");
    let want = [
        "directory 0755 lib @0",
        "file 0644 lib/foo \"new\"",
        "directory 0755 usr",
        "directory 0755 usr/lib",
        "file 0644 usr/lib/old \"old\"",
    ];
    assert_eq!(flattened([lower, upper]), want);
}

#[test]
fn within_one_layer_a_symlink_is_followed() {
    let layer = Layer::new().dir("usr").symlink("lib", "usr/lib").file("lib/foo", b"1").symlink("usr/up", "../lib/./sub").file("usr/up/bar", b"2");
    let want = [
        "symlink 0777 lib -> usr/lib",
        "directory 0755 usr",
        "directory 0755 usr/lib @0",
        "file 0644 usr/lib/foo \"1\"",
        "directory 0755 usr/lib/sub @0",
        "file 0644 usr/lib/sub/bar \"2\"",
        "symlink 0777 usr/up -> ../lib/./sub",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_followed_symlink_never_leaves_the_root() {
    let layer = Layer::new()
        .symlink("up", "../../..")
        .file("up/a", b"1")
        .symlink("absolute", "/etc")
        .file("absolute/b", b"2")
        .symlink("deep/out", "/../../tmp/../var")
        .file("deep/out/c", b"3");
    let want = [
        "file 0644 a \"1\"",
        "symlink 0777 absolute -> /etc",
        "directory 0755 deep @0",
        "symlink 0777 deep/out -> /../../tmp/../var",
        "directory 0755 etc @0",
        "file 0644 etc/b \"2\"",
        "directory 0755 tmp @0",
        "symlink 0777 up -> ../../..",
        "directory 0755 var @0",
        "file 0644 var/c \"3\"",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_symlink_to_itself_cannot_be_followed() {
    refused([Layer::new().symlink("loop", "loop").file("loop/x", b"")], "loop/x", "more than 40 symlinks");
}

// A whiteout `x` and an entry `x/` in one layer.

#[test]
fn a_layers_own_entry_stays_though_it_hides_the_lower_one_before_it() {
    let lower = Layer::new().dir_with("x", &Meta::mode(0o700)).file("x/lower", b"");
    let want = ["directory 0750 x", "file 0644 x/own \"\""];
    let upper = Layer::new().whiteout("x").dir_with("x", &Meta::mode(0o750)).file("x/own", b"");
    assert_eq!(flattened([lower, upper]), want);
}

#[test]
fn a_layers_own_entry_stays_though_it_hides_the_lower_one_after_it() {
    let lower = Layer::new().dir_with("x", &Meta::mode(0o700)).file("x/lower", b"");
    let want = ["directory 0750 x", "file 0644 x/own \"\""];
    let upper = Layer::new().dir_with("x", &Meta::mode(0o750)).file("x/own", b"").whiteout("x");
    assert_eq!(flattened([lower, upper]), want);
}

#[test]
fn a_hidden_directory_that_its_layer_implies_again_is_a_new_one() {
    let lower = Layer::new().dir_with("x", &Meta::mode(0o700)).file("x/lower", b"");
    let upper = Layer::new().file("x/own", b"").whiteout("x");
    assert_eq!(flattened([lower, upper]), ["directory 0755 x @0", "file 0644 x/own \"\""]);
}

#[test]
fn a_whiteout_hides_a_file_a_directory_and_a_symlink() {
    let lower = Layer::new().file("file", b"").dir("d").file("d/in", b"").dir("d/e").symlink("link", "file").file("d/stays", b"");
    let upper = Layer::new().whiteout("file").whiteout("d/in").whiteout("d/e").whiteout("link").whiteout("nothing");
    assert_eq!(flattened([lower, upper]), ["directory 0755 d", "file 0644 d/stays \"\""]);
}

// An opaque whiteout, anywhere in its layer; at the root.

#[test]
fn an_opaque_whiteout_hides_lower_layers_only_wherever_it_stands() {
    let lower = || Layer::new().dir("d").file("d/lower", b"").dir("d/sub").file("d/sub/lower", b"").file("beside", b"");
    let want = ["file 0644 beside \"\"", "directory 0755 d", "file 0644 d/own \"1\"", "directory 0755 d/sub @0", "file 0644 d/sub/own \"2\""];
    let first = Layer::new().opaque("d").dir("d").file("d/own", b"1").file("d/sub/own", b"2");
    assert_eq!(flattened([lower(), first]), want, "first in its layer");
    let last = Layer::new().dir("d").file("d/own", b"1").file("d/sub/own", b"2").opaque("d");
    assert_eq!(flattened([lower(), last]), want, "last in its layer");
}

#[test]
fn an_opaque_whiteout_at_the_root_hides_everything_below() {
    let lower = Layer::new().dir_with("./", &Meta::mode(0o750)).dir("d").file("d/lower", b"").file("lower", b"");
    let upper = Layer::new().file("d/own", b"").opaque("").file("own", b"");
    let want = ["directory 0750 /", "directory 0755 d @0", "file 0644 d/own \"\"", "file 0644 own \"\""];
    assert_eq!(flattened([lower, upper]), want);
}

#[test]
fn an_opaque_directory_without_an_entry_keeps_its_metadata() {
    let meta = Meta { uid: 7, gid: 8, mtime: 5, ..Meta::mode(0o711) };
    let lower = Layer::new().dir_with("d", &meta).file("d/lower", b"");
    assert_eq!(flattened([lower, Layer::new().opaque("d")]), ["directory 0711 d 7:8 @5"]);
}

// Hard links.

#[test]
fn a_hard_link_to_a_lower_file_shares_its_inode_and_ignores_its_own_metadata() {
    let lower = Layer::new().file_with("lower", b"data", &Meta { uid: 1, gid: 2, mtime: 3, ..Meta::mode(0o600) }.xattr("user.x", b"y"));
    let own = Meta { uid: 9, gid: 9, mtime: 9, ..Meta::mode(0o777) }.xattr("user.z", b"z");
    let upper = Layer::new().entry(b'1', b"link", b"lower", b"", &own, (0, 0));
    let want = [
        "file 0600 link 1:2 @3 \"data\" links 2 user.x=\"y\"",
        "file 0600 lower 1:2 @3 \"data\" links 2 same as link user.x=\"y\"",
    ];
    assert_eq!(flattened([lower, upper]), want);
}

#[test]
fn a_hard_link_to_an_earlier_entry_of_its_layer_shares_the_inode() {
    let layer = Layer::new().file("d/a", b"data").hardlink("b", "d/a").hardlink("c", "./b").hardlink("e", "/../d/a");
    let want = [
        "file 0644 b \"data\" links 4",
        "file 0644 c \"data\" links 4 same as b",
        "directory 0755 d @0",
        "file 0644 d/a \"data\" links 4 same as b",
        "file 0644 e \"data\" links 4 same as b",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn hard_links_to_symlinks_devices_and_fifos_share_the_inode() {
    let layer = Layer::new().symlink("s", "to").hardlink("s2", "s").fifo("f").hardlink("f2", "f").char_device("n", 1, 3).hardlink("n2", "n");
    let want = [
        "fifo 0644 f links 2",
        "fifo 0644 f2 links 2 same as f",
        "character device 1:3 0644 n links 2",
        "character device 1:3 0644 n2 links 2 same as n",
        "symlink 0777 s -> to links 2",
        "symlink 0777 s2 -> to links 2 same as s",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_hard_link_keeps_the_lower_file_that_a_later_entry_of_its_layer_replaces() {
    let lower = Layer::new().file("a", b"old");
    let upper = Layer::new().hardlink("b", "a").file("a", b"new");
    assert_eq!(flattened([lower, upper]), ["file 0644 a \"new\"", "file 0644 b \"old\""]);
}

#[test]
fn a_hard_link_keeps_the_lower_file_whose_name_a_later_layer_replaces() {
    let (lower, middle) = (Layer::new().file("a", b"old"), Layer::new().hardlink("b", "a").hardlink("c", "a"));
    let upper = Layer::new().file("a", b"new");
    let want = ["file 0644 a \"new\"", "file 0644 b \"old\" links 2", "file 0644 c \"old\" links 2 same as b"];
    assert_eq!(flattened([lower, middle, upper]), want);
}

#[test]
fn a_file_survives_the_whiteout_of_one_of_its_names() {
    let lower = Layer::new().file("a", b"data").hardlink("b", "a").hardlink("d/c", "a");
    assert_eq!(flattened([lower.clone(), Layer::new().whiteout("a").opaque("d")]), ["file 0644 b \"data\"", "directory 0755 d @0"]);
    assert_eq!(flattened([lower, Layer::new().whiteout("b").whiteout("d")]), ["file 0644 a \"data\""]);
}

#[test]
fn a_hard_link_to_a_later_entry_is_refused() {
    refused([Layer::new().hardlink("link", "later").file("later", b"")], "link", "a hard link to `later`, which is in no layer before it");
}

#[test]
fn a_hard_link_to_nothing_is_refused() {
    refused([Layer::new().file("x", b""), Layer::new().hardlink("link", "nothing")], "link", "a hard link to `nothing`");
}

#[test]
fn a_hard_link_to_a_directory_is_refused() {
    refused([Layer::new().dir("d").hardlink("link", "d")], "link", "a hard link to the directory `d`");
    refused([Layer::new().dir("d"), Layer::new().hardlink("link", "d")], "link", "a hard link to the directory `d`");
    refused([Layer::new().hardlink("link", "./")], "link", "a hard link to the directory");
}

#[test]
fn a_hard_link_to_what_its_own_layer_hid_before_it_is_refused() {
    let lower = || Layer::new().file("d/a", b"");
    for upper in [Layer::new().whiteout("d/a"), Layer::new().opaque("d"), Layer::new().whiteout("d"), Layer::new().opaque("")] {
        refused([lower(), upper.hardlink("link", "d/a")], "link", "a hard link to `d/a`, which its own layer hides");
    }
}

// Duplicate entries in a layer.

#[test]
fn the_last_of_duplicate_entries_wins_also_of_different_types() {
    let layer = Layer::new()
        .file("file-file", b"first")
        .file_with("file-file", b"last", &Meta::mode(0o600))
        .file("file-dir", b"first")
        .dir("file-dir")
        .dir("dir-file")
        .file("dir-file/gone", b"")
        .file("dir-file", b"last")
        .symlink("link-dir", "elsewhere")
        .dir("link-dir")
        .dir("dir-link")
        .symlink("dir-link", "elsewhere")
        .fifo("fifo-node")
        .char_device("fifo-node", 1, 5);
    let want = [
        "file 0644 dir-file \"last\"",
        "symlink 0777 dir-link -> elsewhere",
        "character device 1:5 0644 fifo-node",
        "directory 0755 file-dir",
        "file 0600 file-file \"last\"",
        "directory 0755 link-dir",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_directory_described_twice_keeps_its_entries() {
    let layer = Layer::new().dir("d").file("d/x", b"").dir_with("d", &Meta::mode(0o700));
    assert_eq!(flattened([layer]), ["directory 0700 d", "file 0644 d/x \"\""]);
}

#[test]
fn a_hard_link_keeps_the_file_that_a_duplicate_replaces() {
    let layer = Layer::new().file("a", b"first").hardlink("b", "a").file("a", b"last");
    assert_eq!(flattened([layer]), ["file 0644 a \"last\"", "file 0644 b \"first\""]);
}

// An upper `x/y` over a lower file `x`, and other changes of type between layers.

#[test]
fn a_directory_replaces_a_lower_file() {
    let upper = Layer::new().file("x/y", b"new");
    assert_eq!(flattened([Layer::new().file("x", b"old"), upper]), ["directory 0755 x @0", "file 0644 x/y \"new\""]);
}

#[test]
fn a_file_replaces_a_lower_directory_and_all_in_it() {
    let lower = Layer::new().dir("x").file("x/y", b"").dir("x/z");
    assert_eq!(flattened([lower, Layer::new().file("x", b"new")]), ["file 0644 x \"new\""]);
}

#[test]
fn a_directory_that_replaced_a_file_does_not_bring_back_what_stood_there_before() {
    let layers = [Layer::new().dir("x").file("x/first", b""), Layer::new().file("x", b""), Layer::new().file("x/third", b"")];
    assert_eq!(flattened(layers), ["directory 0755 x @0", "file 0644 x/third \"\""]);
}

#[test]
fn nothing_can_stand_below_a_file_of_the_same_layer() {
    refused([Layer::new().file("x", b"").file("x/y", b"")], "x/y", "`x` above it is not a directory");
}

// Directories' metadata.

#[test]
fn the_roots_entry_is_applied() {
    let meta = Meta { uid: 3, gid: 4, mtime: 1_000, ..Meta::mode(0o1711) }.xattr("user.root", b"1");
    assert_eq!(flattened([Layer::new().dir_with("./", &meta)]), ["directory 1711 / 3:4 @1000 user.root=\"1\""]);
}

#[test]
fn the_last_layer_that_describes_the_root_wins() {
    let layers = [Layer::new().dir_with(".", &Meta::mode(0o700)), Layer::new().dir_with("/", &Meta::mode(0o750)), Layer::new().file("x", b"")];
    assert_eq!(flattened(layers), ["directory 0750 /", "file 0644 x \"\""]);
}

#[test]
fn the_root_can_only_be_a_directory() {
    refused([Layer::new().file("./", b"")], "./", "the root can only be a directory");
    refused([Layer::new().symlink("a/..", "b")], "a/..", "the root can only be a directory");
}

#[test]
fn implied_parents_are_new_with_plain_metadata_or_stay_as_they_are() {
    let meta = Meta { uid: 5, gid: 6, mtime: 77, ..Meta::mode(0o700) }.xattr("user.kept", b"");
    let lower = Layer::new().dir_with("there", &meta);
    let upper = Layer::new().file("there/new/x", b"");
    let want = ["directory 0700 there 5:6 @77 user.kept=\"\"", "directory 0755 there/new @0", "file 0644 there/new/x \"\""];
    assert_eq!(flattened([lower, upper]), want);
}

#[test]
fn a_directory_entry_behind_its_children_is_applied() {
    let layer = Layer::new().file("d/x", b"").dir_with("d", &Meta { mtime: 9, ..Meta::mode(0o500) });
    assert_eq!(flattened([layer]), ["directory 0500 d @9", "file 0644 d/x \"\""]);
}

#[test]
fn an_upper_directory_entry_replaces_the_metadata_and_keeps_the_entries() {
    let lower = Layer::new().dir_with("d", &Meta::mode(0o700).xattr("user.old", b"1")).file("d/x", b"");
    let upper = Layer::new().dir_with("d", &Meta { mtime: 9, ..Meta::mode(0o755) });
    assert_eq!(flattened([lower, upper]), ["directory 0755 d @9", "file 0644 d/x \"\""]);
}

#[test]
fn a_directory_whose_child_changed_keeps_its_time() {
    let lower = Layer::new().dir_with("d", &Meta { mtime: 44, ..Meta::mode(0o755) }).file("d/x", b"old").file("d/y", b"");
    let upper = Layer::new().file("d/x", b"new").whiteout("d/y").file("d/z", b"");
    assert_eq!(flattened([lower, upper]), ["directory 0755 d @44", "file 0644 d/x \"new\"", "file 0644 d/z \"\""]);
}

// Character device 0:0.

#[test]
fn a_character_device_0_0_is_a_whiteout() {
    let lower = Layer::new().file("x", b"").dir("d").file("d/in", b"");
    let upper = Layer::new().char_device("x", 0, 0).char_device("d", 0, 0);
    assert_eq!(flattened([lower, upper]), [""; 0]);
}

#[test]
fn other_devices_and_fifos_are_what_they_are() {
    let layer = Layer::new()
        .char_device("null", 1, 3)
        .char_device("zero-major", 0, 1)
        .entry(b'4', b"disk", b"", b"", &Meta::mode(0o660), (259, 70_000))
        .entry(b'4', b"zeros", b"", b"", &Meta::mode(0o660), (0, 0))
        .char_device("largest", 4_095, 1_048_575)
        .fifo("pipe");
    let want = [
        "block device 259:70000 0660 disk",
        "character device 4095:1048575 0644 largest",
        "character device 1:3 0644 null",
        "fifo 0644 pipe",
        "character device 0:1 0644 zero-major",
        "block device 0:0 0660 zeros",
    ];
    assert_eq!(flattened([layer]), want);
}

// Extended attributes.

#[test]
fn trusted_attributes_are_kept_but_not_those_of_an_overlay() {
    let meta = Meta::mode(0o755)
        .xattr("trusted.kept", b"1")
        .xattr("trusted.overlay.opaque", b"y")
        .xattr("user.overlay.origin", b"")
        .xattr("trusted.overlayish", b"2");
    let want = ["directory 0755 d trusted.kept=\"1\" trusted.overlayish=\"2\"", "file 0755 f trusted.kept=\"1\" trusted.overlayish=\"2\""];
    assert_eq!(flattened([Layer::new().dir_with("d", &meta).file_with("f", b"", &meta).with_content("f", b"")]), want);
}

#[test]
fn an_overlays_opaque_attribute_hides_nothing() {
    let upper = Layer::new().dir_with("d", &Meta::mode(0o755).xattr("trusted.overlay.opaque", b"y"));
    assert_eq!(flattened([Layer::new().file("d/lower", b""), upper]), ["directory 0755 d", "file 0644 d/lower \"\""]);
}

//! Flattening: the table of docs/design.md ("Flattening") row by row, and what tar headers can say.
//!
//! Small images are converted and exported by the real programs and judged by the kernel: what it mounts is compared with
//! literal lines, in the form that [`listing`] describes. A refusal names its entry and leaves nothing behind.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::common::{Bench, Image, Layer, Meta, Mounted, Packing, listing, noise, shown};

/// What the kernel shows of `layers`.
pub fn flattened(layers: impl IntoIterator<Item = Layer>) -> Vec<String> {
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
    let layer = Layer::new()
        .dir("usr")
        .symlink("lib", "usr/lib")
        .file("lib/foo", b"1")
        .symlink("usr/up", "../lib/./sub")
        .file("usr/up/bar", b"2");
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
        .file("deep/out/c", b"3")
        .symlink("deep/absolute", "/opt")
        .file("deep/absolute/d", b"4");
    let want = [
        "file 0644 a \"1\"",
        "symlink 0777 absolute -> /etc",
        "directory 0755 deep @0",
        "symlink 0777 deep/absolute -> /opt",
        "symlink 0777 deep/out -> /../../tmp/../var",
        "directory 0755 etc @0",
        "file 0644 etc/b \"2\"",
        "directory 0755 opt @0",
        "file 0644 opt/d \"4\"",
        "directory 0755 tmp @0",
        "symlink 0777 up -> ../../..",
        "directory 0755 var @0",
        "file 0644 var/c \"3\"",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn forty_symlinks_are_followed_and_no_more() {
    let chain = |links: usize| {
        (1..links).fold(Layer::new().symlink("0", "d"), |layer, i| layer.symlink(&i.to_string(), &(i - 1).to_string()))
    };
    let lines = flattened([chain(40).file("39/x", b"")]);
    assert_eq!(lines[40..], ["directory 0755 d @0", "file 0644 d/x \"\""]);
    refused([chain(41).file("40/x", b"")], "40/x", "more than 40 symlinks");
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
    let lower = Layer::new()
        .file("file", b"")
        .dir("d")
        .file("d/in", b"")
        .dir("d/e")
        .symlink("link", "file")
        .file("d/stays", b"");
    let upper = Layer::new().whiteout("file").whiteout("d/in").whiteout("d/e").whiteout("link").whiteout("nothing");
    assert_eq!(flattened([lower, upper]), ["directory 0755 d", "file 0644 d/stays \"\""]);
}

// An opaque whiteout, anywhere in its layer; at the root.

#[test]
fn an_opaque_whiteout_hides_lower_layers_only_wherever_it_stands() {
    let lower = || Layer::new().dir("d").file("d/lower", b"").dir("d/sub").file("d/sub/lower", b"").file("beside", b"");
    let want = [
        "file 0644 beside \"\"",
        "directory 0755 d",
        "file 0644 d/own \"1\"",
        "directory 0755 d/sub @0",
        "file 0644 d/sub/own \"2\"",
    ];
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

/// containerd 1.6.20 applies the entry's owner, attributes, mode and time to the inode that is shared (`createTarFile`), after
/// which file capabilities are gone, as after each `chown`.
#[test]
fn the_entry_of_a_hard_link_describes_the_inode_that_it_shares() {
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let file = Meta { uid: 1, gid: 2, mtime: 3, ..Meta::mode(0o600) }.xattr("user.x", b"y");
    let file = file.xattr("security.capability", capability);
    let own = Meta { uid: 9, gid: u32::MAX, mtime: 9, ..Meta::mode(0o4755) }.xattr("user.z", b"z");
    let want = [
        "file 4755 a 9:2 @9 \"data\" links 2 user.x=\"y\" user.z=\"z\"",
        "file 4755 b 9:2 @9 \"data\" links 2 same as a user.x=\"y\" user.z=\"z\"",
    ];
    let link = |layer: Layer| layer.entry(b'1', b"b", b"a", b"", &own, (0, 0));
    let lower = || Layer::new().file_with("a", b"data", &file);
    assert_eq!(flattened([link(lower())]), want, "in its own layer");
    // containerd's overlayfs snapshotter refuses these; its native one gives the same.
    assert_eq!(flattened([lower(), link(Layer::new())]), want, "in a lower layer");
}

#[test]
fn the_last_hard_link_of_a_layer_describes_the_inode_also_through_symlinks() {
    let link = |layer: Layer, name: &str, target: &str, mode| {
        layer.entry(b'1', name.as_bytes(), target.as_bytes(), b"", &Meta::mode(mode), (0, 0))
    };
    let layer = Layer::new().dir("d").file("d/a", b"").symlink("s", "d");
    let layer = link(link(link(layer, "b", "d/a", 0o601), "c", "s/a", 0o602), "e", "d/a", 0o603);
    let lines = flattened([layer]);
    assert!(lines.iter().any(|line| line.starts_with("file 0603 d/a \"\" links 4")), "{lines:?}");
    let layer = Layer::new().dir("d").file("d/a", b"").symlink("s", "d");
    let layer = link(link(link(layer, "b", "d/a", 0o601), "c", "s/a", 0o602), "e", "c", 0o604);
    let lines = flattened([layer]);
    assert!(lines.iter().any(|line| line.starts_with("file 0604 d/a \"\" links 4")), "{lines:?}");
}

#[test]
fn the_entry_of_a_hard_link_to_a_symlink_leaves_its_mode() {
    let own = Meta { uid: 9, mtime: 9, ..Meta::mode(0o600) };
    let layer = Layer::new().symlink("a", "to").entry(b'1', b"b", b"a", b"", &own, (0, 0));
    let want = ["symlink 0777 a 9:0 @9 -> to links 2", "symlink 0777 b 9:0 @9 -> to links 2 same as a"];
    assert_eq!(flattened([layer]), want);
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
    let layer = Layer::new()
        .symlink("s", "to")
        .hardlink("s2", "s")
        .fifo("f")
        .hardlink("f2", "f")
        .char_device("n", 1, 3)
        .hardlink("n2", "n");
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
fn a_hard_links_target_leads_through_forty_symlinks_and_no_more() {
    let layer = |links: usize| {
        let chain = (1..links).fold(Layer::new().dir("d").fifo("d/x").symlink("0", "d"), |layer, i| {
            layer.symlink(&i.to_string(), &(i - 1).to_string())
        });
        chain.hardlink("h", &format!("{}/x", links - 1))
    };
    assert!(flattened([layer(40)]).contains(&"fifo 0644 h links 2 same as d/x".to_owned()));
    refused([layer(41)], "h", "a hard link to `40/x`, which leads through more than 40 symlinks");
}

#[test]
fn a_hard_links_target_may_lead_through_symlinks() {
    let lower = Layer::new().symlink("lower", "d").symlink("d/absolute", "/d/../d").file("d/old", b"1");
    let upper = Layer::new()
        .symlink("own", "/e")
        .file("e/new", b"2")
        .hardlink("x", "lower/absolute/old")
        .hardlink("y", "own/new");
    let want = [
        "directory 0755 d @0",
        "symlink 0777 d/absolute -> /d/../d",
        "file 0644 d/old \"1\" links 2",
        "directory 0755 e @0",
        "file 0644 e/new \"2\" links 2",
        "symlink 0777 lower -> d",
        "symlink 0777 own -> /e",
        "file 0644 x \"1\" links 2 same as d/old",
        "file 0644 y \"2\" links 2 same as e/new",
    ];
    assert_eq!(flattened([lower, upper]), want);
}

#[test]
fn a_hard_link_keeps_the_lower_file_that_its_layer_hides_after_it() {
    let upper = Layer::new().hardlink("b", "a").whiteout("a");
    assert_eq!(flattened([Layer::new().file("a", b"old"), upper]), ["file 0644 b \"old\""]);
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
    assert_eq!(
        flattened([lower.clone(), Layer::new().whiteout("a").opaque("d")]),
        ["file 0644 b \"data\"", "directory 0755 d @0"]
    );
    assert_eq!(flattened([lower, Layer::new().whiteout("b").whiteout("d")]), ["file 0644 a \"data\""]);
}

#[test]
fn a_hard_link_to_a_later_entry_is_refused() {
    refused(
        [Layer::new().hardlink("link", "later").file("later", b"")],
        "link",
        "a hard link to `later`, which is in no layer before it",
    );
}

#[test]
fn a_hard_link_to_nothing_is_refused() {
    refused(
        [Layer::new().file("x", b""), Layer::new().hardlink("link", "nothing")],
        "link",
        "a hard link to `nothing`",
    );
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
    for upper in
        [Layer::new().whiteout("d/a"), Layer::new().opaque("d"), Layer::new().whiteout("d"), Layer::new().opaque("")]
    {
        refused([lower(), upper.hardlink("link", "d/a")], "link", "a hard link to `d/a`, which its own layer hides");
    }
}

/// A hard link sees what its layer has made of the layers below when it comes, and no more: else what was deleted returns.
#[test]
fn a_hard_link_never_reaches_through_what_its_own_layer_hid_or_replaced() {
    let lower = || Layer::new().file("d/x", b"deleted").file("d/s/x", b"deleted");
    refused(
        [lower(), Layer::new().whiteout("d").dir("d").hardlink("link", "d/x")],
        "link",
        "a hard link to `d/x`, which is in no layer before it",
    );
    refused(
        [lower(), Layer::new().opaque("d").dir("d/s").hardlink("link", "d/s/x")],
        "link",
        "a hard link to `d/s/x`, which is in no layer before it",
    );
    refused(
        [lower(), Layer::new().file("d", b"").hardlink("link", "d/x")],
        "link",
        "a hard link to `d/x`, whose path leads through a file that is not a directory",
    );
    let linked = Layer::new().symlink("lib", "usr/lib").file("usr/lib/x", b"");
    refused(
        [linked, Layer::new().dir("lib").hardlink("link", "lib/x")],
        "link",
        "a hard link to `lib/x`, which is in no layer before it",
    );
}

#[test]
fn a_hard_link_leads_through_symlinks_of_its_own_and_of_lower_layers() {
    let want = [
        "symlink 0777 lib -> usr/lib",
        "file 0644 link \"x\" links 2",
        "directory 0755 usr @0",
        "directory 0755 usr/lib @0",
        "file 0644 usr/lib/x \"x\" links 2 same as link",
    ];
    let file = || Layer::new().file("usr/lib/x", b"x");
    let symlink = || Layer::new().symlink("lib", "usr/lib");
    assert_eq!(flattened([file(), symlink().hardlink("link", "lib/x")]), want);
    assert_eq!(flattened([symlink(), file().hardlink("link", "lib/x")]), want);
}

#[test]
fn a_hard_link_through_a_symlink_shares_what_stood_there_when_it_came() {
    let layer = Layer::new().dir("d").symlink("l", "d");
    let layer = layer.file("d/x", b"1").file("d/x", b"2").hardlink("h", "l/x").file("d/x", b"3");
    let want = ["directory 0755 d", "file 0644 d/x \"3\"", "file 0644 h \"2\"", "symlink 0777 l -> d"];
    assert_eq!(flattened([layer]), want);
}

/// As GNU tar has it: a link to the very file that stands there already changes nothing.
#[test]
fn a_hard_link_that_leads_to_its_own_place_through_a_symlink_changes_nothing() {
    let layer = || Layer::new().dir("d").symlink("l", "d").file("d/x", b"1").hardlink("d/x", "l/x");
    let want = |content| {
        ["directory 0755 d".to_owned(), format!("file 0644 d/x \"{content}\""), "symlink 0777 l -> d".to_owned()]
    };
    assert_eq!(flattened([layer()]), want(1));
    assert_eq!(flattened([layer().file("d/x", b"2")]), want(2));
}

#[test]
fn a_hard_link_to_itself_or_below_itself_is_refused() {
    refused([Layer::new().file("a", b"").hardlink("a", "./a")], "a", "a hard link to `./a`, which it replaces");
    refused([Layer::new().file("d/f", b"").hardlink("d", "d/f")], "d", "a hard link to `d/f`, which it replaces");
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
    let layers =
        [Layer::new().dir("x").file("x/first", b""), Layer::new().file("x", b""), Layer::new().file("x/third", b"")];
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
    let layers = [
        Layer::new().dir_with(".", &Meta::mode(0o700)),
        Layer::new().dir_with("/", &Meta::mode(0o750)),
        Layer::new().file("x", b""),
    ];
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
    let want =
        ["directory 0700 there 5:6 @77 user.kept=\"\"", "directory 0755 there/new @0", "file 0644 there/new/x \"\""];
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
    let lower =
        Layer::new().dir_with("d", &Meta { mtime: 44, ..Meta::mode(0o755) }).file("d/x", b"old").file("d/y", b"");
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

#[test]
fn a_header_of_the_gnu_form_has_device_numbers_and_one_older_than_both_forms_has_none() {
    let gnu = |block: &mut [u8; 512]| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[329..345].copy_from_slice(b"0000001\x000000003\0");
    };
    let old = |block: &mut [u8; 512]| block[257..].fill(0);
    let layer = Layer::new().edited(b'3', b"null", b"", gnu).edited(b'4', b"zeros", b"", old);
    assert_eq!(flattened([layer]), ["character device 1:3 0644 null", "block device 0:0 0644 zeros"]);
}

// Extended attributes.

#[test]
fn trusted_attributes_are_kept_but_not_those_of_an_overlay() {
    let meta = Meta::mode(0o755)
        .xattr("trusted.kept", b"1")
        .xattr("trusted.overlay.opaque", b"y")
        .xattr("user.overlay.origin", b"")
        .xattr("trusted.overlayish", b"2");
    let want = [
        "directory 0755 d trusted.kept=\"1\" trusted.overlayish=\"2\"",
        "file 0755 f \"\" trusted.kept=\"1\" trusted.overlayish=\"2\"",
    ];
    assert_eq!(flattened([Layer::new().dir_with("d", &meta).file_with("f", b"", &meta)]), want);
}

#[test]
fn attributes_of_both_forms_are_stored() {
    let mut meta = Meta::default().xattr("user.schily", b"one = two\n\0\xff");
    meta.pax.push(("LIBARCHIVE.xattr.user.lib%20archive".to_owned(), b"AAEC/w==".to_vec()));
    let want = ["file 0644 f \"\" user.lib archive=\"\\x00\\x01\\x02\\xff\" user.schily=\"one = two\\n\\x00\\xff\""];
    assert_eq!(flattened([Layer::new().file_with("f", b"", &meta)]), want);
}

#[test]
fn where_both_forms_name_one_attribute_schily_wins() {
    let mut meta = Meta::default().xattr("user.x", b"schily");
    meta.pax.push(("LIBARCHIVE.xattr.user.x".to_owned(), b"bGliYXJjaGl2ZQ".to_vec()));
    assert_eq!(flattened([Layer::new().file_with("f", b"", &meta)]), ["file 0644 f \"\" user.x=\"schily\""]);
}

#[test]
fn empty_attributes_are_stored() {
    let meta = Meta::mode(0o755).xattr("user.empty", b"").xattr("user.full", b"x");
    assert_eq!(flattened([Layer::new().dir_with("d", &meta)]), ["directory 0755 d user.empty=\"\" user.full=\"x\""]);
}

#[test]
fn attributes_that_need_a_block_of_their_own_are_stored() {
    let value = noise(3_000, 1);
    let meta = Meta::default().xattr("user.large", &value).xattr("security.small", b"s");
    let want = format!("file 0644 f \"\" security.small=\"s\" user.large={}", shown(&value));
    assert_eq!(flattened([Layer::new().file_with("f", b"", &meta)]), [want]);
}

#[test]
fn capabilities_and_access_lists_mean_to_the_kernel_what_the_tar_says() {
    let capability = b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    // user::rw-, user:5:r--, group::r--, mask::r--, other::r--
    let list = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x04\0\x05\0\0\0\x04\0\x04\0\xff\xff\xff\xff\x10\0\x04\0\xff\xff\xff\xff\x20\0\x04\0\xff\xff\xff\xff";
    let meta = Meta::default().xattr("security.capability", capability).xattr("system.posix_acl_access", list);
    let want =
        format!("file 0644 f \"\" security.capability={} system.posix_acl_access={}", shown(capability), shown(list));
    assert_eq!(flattened([Layer::new().file_with("f", b"", &meta)]), [want]);
}

// `..` and absolute names and link targets.

#[test]
fn names_and_hard_link_targets_are_clamped_to_the_root() {
    let layer = Layer::new()
        .file("../../up", b"1")
        .file("/etc/absolute", b"2")
        .file("d/../../e//./f", b"3")
        .hardlink("link", "/../up");
    let want = [
        "directory 0755 e @0",
        "file 0644 e/f \"3\"",
        "directory 0755 etc @0",
        "file 0644 etc/absolute \"2\"",
        "file 0644 link \"1\" links 2",
        "file 0644 up \"1\" links 2 same as link",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn symlink_targets_are_text_and_stay_as_they_are() {
    let layer =
        Layer::new().symlink("a", "/../../etc//./passwd/").symlink("b", "../../x/..").symlink("c", &"t/".repeat(2_000));
    let long = "t/".repeat(2_000);
    let want = [
        "symlink 0777 a -> /../../etc//./passwd/",
        "symlink 0777 b -> ../../x/..",
        &format!("symlink 0777 c -> {long}"),
    ];
    assert_eq!(flattened([layer]), want);
}

// `.wh.`, `.wh..`, `.wh...` as whole names.

/// What docker passes over: all at the root that begins so, but the opaque whiteout itself.
#[test]
fn what_aufs_kept_for_itself_is_passed_over() {
    let upper = Layer::new().dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2", b"").file(".wh..wh.aufs", b"");
    let upper = upper.file(".wh..wh..opq/x", b"").file("own", b"");
    assert_eq!(flattened([Layer::new().file("f", b""), upper]), ["file 0644 f \"\"", "file 0644 own \"\""]);
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", ".wh..", ".wh...", "d/.wh.", "d/.wh..", "d/.wh..."] {
        refused([Layer::new().dir("d"), Layer::new().file(name, b"")], name, "a whiteout without a name");
    }
}

#[test]
fn a_whiteout_hides_names_that_begin_with_dots() {
    let lower = Layer::new().file("...", b"").file(".hidden", b"").file("..data", b"");
    let upper = Layer::new().whiteout("...").whiteout(".hidden").whiteout("..data");
    assert_eq!(flattened([lower.file("x", b""), upper]), ["file 0644 x \"\""]);
}

#[test]
fn a_whiteout_cannot_have_entries() {
    refused([Layer::new().file("d/.wh.x/y", b"")], "d/.wh.x/y", "`.wh.x` is a whiteout");
}

// Names.

#[test]
fn names_are_bytes() {
    let meta = Meta::default();
    let layer = Layer::new()
        .entry(b'0', b"caf\xe9", b"", b"by PAX", &meta, (0, 0))
        .edited(b'0', b"raw\xff\xfe", b"by header", |_| ())
        .entry(b'0', b"a\nb \\\x7f\"", b"", b"", &meta, (0, 0))
        .entry(b'2', b"link", b"\xc3\x28", b"", &meta, (0, 0))
        .entry(b'1', b"hard", b"caf\xe9", b"", &meta, (0, 0));
    let upper = Layer::new().edited(b'0', b".wh.raw\xff\xfe", b"", |_| ()).edited(b'0', b"RAW\xff", b"other", |_| ());
    let want = [
        "file 0644 RAW\\xff \"other\"",
        "file 0644 a\\nb \\\\\\x7f\\\" \"\"",
        "file 0644 caf\\xe9 \"by PAX\" links 2",
        "file 0644 hard \"by PAX\" links 2 same as caf\\xe9",
        "symlink 0777 link -> \\xc3(",
    ];
    assert_eq!(flattened([layer, upper]), want);
}

#[test]
fn a_refusal_shows_odd_bytes_escaped() {
    refused(
        [Layer::new().entry(b'1', b"caf\xe9", b"\x01", b"", &Meta::default(), (0, 0))],
        "caf\\xe9",
        "a hard link to `\\u{1}`",
    );
}

#[test]
fn long_pax_names_and_targets() {
    let (name, target) = (format!("{}/{}", "d".repeat(255), "f".repeat(255)), "t".repeat(300));
    let layer = Layer::new().file(&name, b"1").symlink("s", &target).hardlink("z", &name);
    let want = [
        format!("directory 0755 {} @0", "d".repeat(255)),
        format!("file 0644 {name} \"1\" links 2"),
        format!("symlink 0777 s -> {target}"),
        format!("file 0644 z \"1\" links 2 same as {name}"),
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn long_gnu_names_and_targets() {
    let (name, target) = (format!("{}/{}", "d".repeat(120), "f".repeat(120)), "t".repeat(300));
    let long =
        |layer: Layer, flag, text: &str| layer.edited(flag, b"././@LongLink", format!("{text}\0").as_bytes(), |_| ());
    let layer = long(Layer::new(), b'L', &name).edited(b'0', b"cut", b"1", |_| ());
    let layer = long(long(layer, b'K', &target), b'L', &format!("{name}2")).edited(b'2', b"cut", b"", |_| ());
    let layer = long(layer, b'K', &name).edited(b'1', b"z", b"", |_| ());
    let want = [
        format!("directory 0755 {} @0", "d".repeat(120)),
        format!("file 0644 {name} \"1\" links 2"),
        format!("symlink 0777 {name}2 -> {target}"),
        format!("file 0644 z \"1\" links 2 same as {name}"),
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_ustar_prefix_stands_before_the_name() {
    let layer = Layer::new().edited(b'0', b"name", b"1", |block| block[345..352].copy_from_slice(b"pre/fix"));
    assert_eq!(
        flattened([layer]),
        ["directory 0755 pre @0", "directory 0755 pre/fix @0", "file 0644 pre/fix/name \"1\""]
    );
}

#[test]
fn a_header_older_than_ustar_says_directory_by_a_slash_behind_the_name() {
    let old = |block: &mut [u8; 512]| block[257..].fill(0);
    let layer = Layer::new().edited(0, b"d/", b"", old).edited(0, b"d/f", b"1", old);
    assert_eq!(flattened([layer]), ["directory 0644 d", "file 0644 d/f \"1\""]);
}

// As containerd reads them: what a global header says is of no entry.
#[test]
fn a_global_header_is_passed_over() {
    let global = |layer: Layer| layer.edited(b'g', b"pax_global_header", b"14 path=other\n", |_| ());
    let layer = global(global(Layer::new()).file("f", b"1")).file("z", b"2");
    assert_eq!(flattened([layer]), ["file 0644 f \"1\"", "file 0644 z \"2\""]);
}

#[test]
fn a_name_of_256_bytes_is_refused() {
    let name = "n".repeat(256);
    refused([Layer::new().dir("d").file(&format!("d/{name}"), b"")], "d", "a component of 256 bytes");
}

// Sparse files: three blocks of holes between "head" and "tail", the whole of 5 blocks and 4 bytes.

const SPARSE_SIZE: u64 = 5 * 4_096 + 4;

/// `layer` must give one file, `sparse`, with its content at the right places and two blocks of its own.
fn is_sparse(layer: Layer) {
    mounted([layer], |root| {
        assert_eq!(listing(root), ["file 0644 sparse \"head\" + 20476 zeros + \"tail\""]);
        let metadata = root.join("sparse").metadata().unwrap();
        assert_eq!((metadata.len(), metadata.blocks()), (SPARSE_SIZE, 16));
    });
}

pub fn pax(records: &[(&str, &str)]) -> Meta {
    Meta {
        pax: records.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect(),
        ..Meta::default()
    }
}

#[test]
fn sparse_files_of_the_old_gnu_form() {
    is_sparse(Layer::new().edited(b'S', b"sparse", b"headtail", |block| {
        block[257..265].copy_from_slice(b"ustar  \0");
        block[329..345].fill(0);
        put_octal(block, 386, &[0, 4, 5 * 4_096, 4]);
        put_octal(block, 483, &[SPARSE_SIZE]);
    }));
}

#[test]
fn sparse_files_of_the_old_gnu_form_with_a_map_that_goes_on() {
    let mut more = [0; 512];
    let runs: Vec<[u64; 2]> = (4..30).map(|run| [run * 8_192, 1]).collect();
    for (run, numbers) in runs[..21].iter().enumerate() {
        put_octal(&mut more, run * 24, numbers);
    }
    let mut last = [0; 512];
    for (run, numbers) in runs[21..].iter().enumerate() {
        put_octal(&mut last, run * 24, numbers);
    }
    more[504] = 1;
    let layer = Layer::new()
        .edited(b'S', b"sparse", b"", |block| {
            block[257..265].copy_from_slice(b"ustar  \0");
            block[329..345].fill(0);
            put_octal(block, 124, &[30]);
            put_octal(block, 386, &[0, 1, 8_192, 1, 2 * 8_192, 1, 3 * 8_192, 1]);
            block[482] = 1;
            put_octal(block, 483, &[30 * 8_192]);
        })
        .raw(&more)
        .raw(&last)
        .raw(&{
            let mut data = [0; 512];
            data[..30].copy_from_slice(b"abcdefghijklmnopqrstuvwxyz0123");
            data
        })
        .file("behind", b"");
    mounted([layer], |root| {
        let want: Vec<String> = b"abcdefghijklmnopqrstuvwxyz0123"
            .iter()
            .map(|byte| format!("\"{}\" + 8191 zeros", char::from(*byte)))
            .collect();
        assert_eq!(listing(root), ["file 0644 behind \"\"", &format!("file 0644 sparse {}", want.join(" + "))]);
        assert_eq!(
            root.join("sparse").metadata().unwrap().blocks(),
            30 * 8 + 8,
            "30 blocks of data and one of extents"
        );
    });
}

/// Numbers of eleven octal digits and a NUL, one behind the other.
fn put_octal(block: &mut [u8; 512], at: usize, numbers: &[u64]) {
    for (i, number) in numbers.iter().enumerate() {
        block[at + i * 12..][..12].copy_from_slice(format!("{number:011o}\0").as_bytes());
    }
}

#[test]
fn sparse_files_of_pax_form_0_0() {
    let meta = pax(&[
        ("GNU.sparse.size", "20484"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.offset", "0"),
        ("GNU.sparse.numbytes", "4"),
        ("GNU.sparse.offset", "20480"),
        ("GNU.sparse.numbytes", "4"),
    ]);
    is_sparse(Layer::new().file_with("sparse", b"headtail", &meta));
}

#[test]
fn sparse_files_of_pax_form_0_1() {
    let meta = pax(&[
        ("GNU.sparse.size", "20484"),
        ("GNU.sparse.numblocks", "2"),
        ("GNU.sparse.map", "0,4,20480,4"),
        ("GNU.sparse.name", "sparse"),
    ]);
    is_sparse(Layer::new().file_with("GNUSparseFile.0/sparse", b"headtail", &meta));
}

#[test]
fn sparse_files_of_pax_form_1_0() {
    let meta = pax(&[
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "sparse"),
        ("GNU.sparse.realsize", "20484"),
    ]);
    let mut data = b"2\n0\n4\n20480\n4\n".to_vec();
    data.resize(512, 0);
    data.extend_from_slice(b"headtail");
    is_sparse(Layer::new().file_with("GNUSparseFile.0/sparse", &data, &meta));
}

#[test]
fn a_sparse_file_may_be_one_hole() {
    let layer = Layer::new().file_with(
        "hole",
        b"",
        &pax(&[("GNU.sparse.size", "1048576"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.map", "1048576,0")]),
    );
    mounted([layer], |root| {
        assert_eq!(listing(root), ["file 0644 hole 1048576 zeros"]);
        assert_eq!(root.join("hole").metadata().unwrap().blocks(), 0);
    });
}

#[test]
fn a_sparse_map_that_lies_is_refused() {
    for (map, fault) in [
        ("0,4,2,4", "segment 2 (offset 2, 4 bytes) overlaps segment 1"),
        ("0,4,20482,4", "segment 2 (offset 20482, 4 bytes) is past the file's end at 20484"),
        ("0,8,20480,4", "its segments have 12 bytes, the entry has 8"),
        ("0,4", "its segments have 4 bytes, the entry has 8"),
    ] {
        let count = (map.split(',').count() / 2).to_string();
        let meta = pax(&[("GNU.sparse.size", "20484"), ("GNU.sparse.numblocks", &count), ("GNU.sparse.map", map)]);
        refused([Layer::new().file_with("sparse", b"headtail", &meta)], "sparse", &format!("sparse map: {fault}"));
    }
}

// Times and owners.

#[test]
fn times_have_nanoseconds() {
    let layer = Layer::new()
        .file_with("a", b"", &pax(&[("mtime", "1742472000.123456789")]))
        .file_with("b", b"", &pax(&[("mtime", "1742472000.5")]))
        .file_with("c", b"", &pax(&[("mtime", "0.0000000019")]))
        .entry(b'2', b"d", b"a", b"", &pax(&[("mtime", "2.25")]), (0, 0))
        .entry(b'5', b"e", b"", b"", &pax(&[("mtime", "3.75"), ("atime", "9.5"), ("ctime", "9.5")]), (0, 0));
    let want = [
        "file 0644 a @1742472000+123456789 \"\"",
        "file 0644 b @1742472000+500000000 \"\"",
        "file 0644 c @0+000000001 \"\"",
        "symlink 0777 d @2+250000000 -> a",
        "directory 0644 e @3+750000000",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn times_before_1970_count_backwards() {
    let layer = Layer::new()
        .file_with("a", b"", &pax(&[("mtime", "-1")]))
        .file_with("b", b"", &pax(&[("mtime", "-1.25")]))
        .file_with("c", b"", &pax(&[("mtime", "-315619200.000000001")]))
        .edited(b'0', b"d", b"", |block| block[136..148].copy_from_slice(&[0xFF; 12]));
    let want = [
        "file 0644 a @-1 \"\"",
        "file 0644 b @-2+750000000 \"\"",
        "file 0644 c @-315619201+999999999 \"\"",
        "file 0644 d @-1 \"\"",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn times_that_ext4_cannot_store_take_the_nearest() {
    let layer = Layer::new()
        .file_with("a", b"", &pax(&[("mtime", "-2147483648")]))
        .file_with("b", b"", &pax(&[("mtime", "-2147483649.5")]))
        .file_with("c", b"", &pax(&[("mtime", "15032385535.999999999")]))
        .file_with("d", b"", &pax(&[("mtime", "15032385536.5")]));
    let want = [
        "file 0644 a @-2147483648 \"\"",
        "file 0644 b @-2147483648 \"\"",
        "file 0644 c @15032385535+999999999 \"\"",
        "file 0644 d @15032385535 \"\"",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn ids_past_21_bits() {
    let owner = |uid, gid| Meta { uid, gid, ..Meta::default() };
    let layer = Layer::new()
        .file_with("a", b"", &owner(65_536, 2_097_151))
        .file_with("b", b"", &owner(2_097_152, 1_000_000_000))
        .file_with("c", b"", &owner(4_294_967_294, 4_294_967_294))
        .edited(b'0', b"d", b"", |block| {
            block[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0xB2, 0xD0, 0x5E, 0]);
            block[116..124].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x20, 0, 0]);
        });
    let want = [
        "file 0644 a 65536:2097151 \"\"",
        "file 0644 b 2097152:1000000000 \"\"",
        "file 0644 c 4294967294:4294967294 \"\"",
        "file 0644 d 3000000000:2097152 \"\"",
    ];
    assert_eq!(flattened([layer]), want);
}

/// To `chown` it means "leave it": what is new stays root's (containerd 1.6.20 and umoci 0.4.7), a directory that is described
/// again keeps its owner (containerd).
#[test]
fn an_owner_that_means_none_is_root() {
    let none = Meta { uid: u32::MAX, gid: u32::MAX, ..Meta::mode(0o755) };
    let layer = Layer::new()
        .file_with("a", b"", &none)
        .edited(b'0', b"b", b"", |block| block[108..124].fill(0xFF))
        .dir_with("d", &Meta { uid: 5, gid: 6, ..Meta::mode(0o700) })
        .dir_with("d", &none)
        .file_with("e", b"", &pax(&[("uid", "-1"), ("gid", "-2")]));
    let want = ["file 0755 a \"\"", "file 0644 b \"\"", "directory 0755 d 5:6", "file 0644 e 0:4294967294 \"\""];
    assert_eq!(flattened([layer]), want);
}

/// The low 32 bits count, as containerd's `lchown` takes them: -2 is the nobody of macOS and NFS, which bsdtar and Go write.
#[test]
fn an_owner_below_0_is_taken_by_its_low_32_bits() {
    let minus_two = [0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE];
    let layer = Layer::new().edited(b'0', b"a", b"", |block| {
        block[108..116].copy_from_slice(&minus_two);
        block[116..124].copy_from_slice(&minus_two);
    });
    assert_eq!(flattened([layer]), ["file 0644 a 4294967294:4294967294 \"\""]);
}

#[test]
fn ids_past_32_bits_are_refused() {
    refused([Layer::new().file_with("f", b"", &pax(&[("uid", "4294967296")]))], "f", "its owner does not fit 32 bits");
    refused([Layer::new().file_with("f", b"", &pax(&[("gid", "-2147483649")]))], "f", "its group does not fit 32 bits");
}

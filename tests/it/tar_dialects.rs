//! Header dialects and extended attributes: what containerd unpacks of the same bytes.
//!
//! The source of each value is Go's `archive/tar` (1.19), which containerd reads layers with, and `setxattr` and `chmod` on ext4 of
//! Linux 6.18; tools/differential.py compares both with containerd 1.6.20 on random layers.

use crate::flattening::{flattened, pax};
use crate::support::common::{Bench, Layer, Meta, shown, stdout};

/// Docker before 17.06 wrote such headers for long names with owners past 2097151 (moby/moby#34092, golang/go#12594).
#[test]
fn a_gnu_header_of_go_before_1_8_has_a_prefix() {
    let header = |prefix: &'static [u8]| {
        move |block: &mut [u8; 512]| {
            block[108..116].copy_from_slice(&[0x80, 0, 0, 0, 0, 0x4C, 0x4B, 0x40]);
            block[257..265].copy_from_slice(b"ustar  \0");
            block[345..345 + prefix.len()].copy_from_slice(prefix);
        }
    };
    let layer = Layer::new()
        .edited(b'0', b"a", b"", header(b"usr/share"))
        .edited(b'0', b"b", b"", header(b"00000000001\x0000000000002"))
        .edited(b'0', b"c", b"", header(b"caf\xE9"));
    let want = [
        "file 0644 b 5000000:0 \"\"",
        "file 0644 c 5000000:0 \"\"",
        "directory 0755 usr @0",
        "directory 0755 usr/share @0",
        "file 0644 usr/share/a 5000000:0 \"\"",
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_prefix_does_not_depend_on_the_version_and_is_shorter_in_star() {
    let prefixed = |version: &'static [u8], trailer: &'static [u8]| {
        move |block: &mut [u8; 512]| {
            block[263..265].copy_from_slice(version);
            block[345..347].copy_from_slice(b"p/");
            block[347..476].fill(b'q');
            block[476..488].copy_from_slice(b"00000000005\0");
            block[508..508 + trailer.len()].copy_from_slice(trailer);
        }
    };
    let layer =
        Layer::new().edited(b'0', b"a", b"", prefixed(b"  ", b"")).edited(b'0', b"b", b"", prefixed(b"00", b"tar\0"));
    let q = "q".repeat(129);
    let want = [
        "directory 0755 p @0".to_owned(),
        format!("directory 0755 p/{q} @0"),
        format!("file 0644 p/{q}/b \"\""),
        format!("directory 0755 p/{q}00000000005 @0"),
        format!("file 0644 p/{q}00000000005/a \"\""),
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_gnu_long_name_wins_over_a_pax_path_and_an_empty_one_does_not() {
    let long = |layer: Layer, text: &'static [u8]| layer.edited(b'L', b"././@LongLink", text, |_| ());
    let layer = long(Layer::new(), b"gnu\0").file_with("a", b"", &pax(&[("path", "pax")]));
    let layer = long(layer, b"\0").file_with("b", b"", &pax(&[("path", "pax")]));
    let layer = layer.edited(b'K', b"././@LongLink", b"gnu\0", |_| ());
    let layer = layer.entry(b'2', b"s", b"", b"", &pax(&[("linkpath", "pax")]), (0, 0));
    assert_eq!(
        flattened([layer]),
        ["file 0644 gnu \"\"", "file 0644 pax \"\"", "symlink 0644 s -> gnu"]
            .map(|line| line.replace("symlink 0644", "symlink 0777"))
    );
}

/// Another program that reads as Go does must not see another name.
#[test]
fn the_name_of_a_sparse_file_counts_for_sparse_files_only() {
    let evil = ("GNU.sparse.name", "evil");
    let layer = Layer::new()
        .file_with("a", b"1", &pax(&[evil]))
        .file_with("b", b"2", &pax(&[evil, ("GNU.sparse.size", "5")]))
        .file_with("c", b"3", &pax(&[evil, ("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0")]))
        .file_with("d", b"4", &pax(&[evil, ("GNU.sparse.major", "1")]));
    let want = ["file 0644 a \"1\"", "file 0644 b \"2\"", "file 0644 c \"3\"", "file 0644 d \"4\""];
    assert_eq!(flattened([layer]), want);
}

/// As layers of stacker, and of umoci before 2024, end (opencontainers/umoci#436).
#[test]
fn a_layer_may_end_behind_its_last_byte() {
    let whole = Layer::new().file("d/a", b"1").file("b", b"abc").tar();
    let data_end = whole.len() - 1_024 - 509;
    for (end, what) in [
        (data_end, "no padding"),
        (data_end + 100, "part of it"),
        (data_end + 509, "no end"),
        (data_end + 1_021, "half"),
    ] {
        let bench = Bench::new();
        std::fs::write(bench.path("layer.tar"), &whole[..end]).unwrap();
        bench.convert_from("tar:layer.tar", "image", &[]);
        let shown = stdout(&bench.coldread(&["cat", "image.cpm", "/b", "--store", "store"]));
        assert_eq!(shown, b"abc", "{what}");
    }
}

// What Linux holds of extended attributes; each value was seen with `setxattr` and `chmod` on ext4 of Linux 6.18.

/// containerd/containerd#7093: kept, they can be listed but not read, and overlayfs cannot copy the file up.
#[test]
fn user_attributes_stay_on_files_and_directories_only() {
    let meta = Meta::mode(0o644).xattr("user.x", b"1").xattr("security.x", b"2");
    let layer = Layer::new()
        .file_with("file", b"", &meta)
        .dir_with("directory", &meta)
        .entry(b'2', b"link", b"to", b"", &meta, (0, 0))
        .entry(b'3', b"device", b"", b"", &meta, (1, 3))
        .entry(b'6', b"pipe", b"", b"", &meta, (0, 0));
    let want = [
        "character device 1:3 0644 device security.x=\"2\"",
        "directory 0644 directory security.x=\"2\" user.x=\"1\"",
        "file 0644 file \"\" security.x=\"2\" user.x=\"1\"",
        "symlink 0777 link -> to security.x=\"2\"",
        "fifo 0644 pipe security.x=\"2\"",
    ];
    assert_eq!(flattened([layer]), want);
}

/// A list of (tag, permissions, id).
fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let entry = |&(tag, permissions, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    [&[2, 0, 0, 0][..], &entries.iter().flat_map(entry).collect::<Vec<_>>()].concat()
}

const NO_ID: u32 = u32::MAX;

/// containerd and docker set attributes, then the mode.
#[test]
fn an_access_list_is_narrowed_by_the_mode() {
    let list = |owner, mask, others| {
        acl(&[(1, owner, NO_ID), (2, 7, 1000), (4, 4, NO_ID), (16, mask, NO_ID), (32, others, NO_ID)])
    };
    let meta = Meta::mode(0o640).xattr("system.posix_acl_access", &list(7, 7, 7));
    let layer = Layer::new()
        .file_with("a", b"", &meta)
        .dir_with("d", &meta)
        .file_with(
            "e",
            b"",
            &Meta::mode(0o640).xattr("system.posix_acl_access", &acl(&[(1, 7, NO_ID), (4, 7, NO_ID), (32, 7, NO_ID)])),
        )
        .entry(b'2', b"s", b"to", b"", &meta, (0, 0));
    let narrow = shown(&list(6, 4, 0));
    let want = [
        format!("file 0640 a \"\" system.posix_acl_access={narrow}"),
        format!("directory 0640 d system.posix_acl_access={narrow}"),
        "file 0640 e \"\"".to_owned(),
        "symlink 0777 s -> to".to_owned(),
    ];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_directory_keeps_its_default_list_and_unknown_system_attributes_are_left_out() {
    let list = acl(&[(1, 7, NO_ID), (4, 5, NO_ID), (32, 5, NO_ID)]);
    let meta = Meta::mode(0o700).xattr("system.posix_acl_default", &list).xattr("system.nfs4_acl", b"x");
    let layer = Layer::new().dir_with("d", &meta).file_with("f", b"", &Meta::default().xattr("system.data", b"x"));
    let want = [format!("directory 0700 d system.posix_acl_default={}", shown(&list)), "file 0644 f \"\"".to_owned()];
    assert_eq!(flattened([layer]), want);
}

#[test]
fn a_directory_that_is_described_again_keeps_its_attributes() {
    let first = Meta::mode(0o700).xattr("user.a", b"1").xattr("user.b", b"1");
    let again = Meta::mode(0o750).xattr("user.b", b"2");
    let layer = Layer::new().dir_with("d", &first).dir_with("d", &again);
    assert_eq!(flattened([layer]), ["directory 0750 d user.a=\"1\" user.b=\"2\""]);
    let upper = Layer::new().dir_with("d", &again);
    assert_eq!(flattened([Layer::new().dir_with("d", &first), upper]), ["directory 0750 d user.b=\"2\""]);
}

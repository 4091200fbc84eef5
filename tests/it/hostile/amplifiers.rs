//! Small images that would take much memory or a large device: each ends at a limit, within the time and memory of the others.

use super::*;

/// A layer of `count` files, each below 800 directories that no entry describes, in a path of about 4,000 bytes.
fn deep(count: usize) -> Layer {
    (0..count).fold(Layer::new(), |layer, i| {
        let path: Vec<String> = (0..800).map(|j| format!("{:x}", (i * 7_919 + j * 31) % 65_536)).collect();
        layer.file(&path.join("/"), b"")
    })
}

/// A layer of `layer` that many times, in small gzip members.
fn many(layer: &Layer, count: usize) -> Vec<u8> {
    let member = open_ended(layer).repeat(100);
    repeated(Packing::Gzip, &member, count / 100)
}

fn empty_files(names: std::ops::Range<usize>) -> Layer {
    names.fold(Layer::new(), |layer, i| layer.file(&format!("{i:05}"), b""))
}

#[test]
fn a_small_tar_that_would_take_much_is_refused() {
    let xattrs = || Layer::new().file_with("f", b"", &Meta::default().xattr("user.a", &[b'x'; 3_900]));
    let directories = |count: usize| (0..count).fold(Layer::new(), |layer, i| layer.dir(&format!("{i:05}")));
    let memory = ["take more memory than the ", "--max-entries"];
    check(
        "hostile_tar_that_would_take_much",
        [
            bad_layer("paths_that_imply_160_000_directories", &memory, deep(200)),
            bad("attributes_of_140_mb", &memory, move || many(&xattrs(), 36_000)),
            bad("symlinks_of_140_mb", &memory, || many(&Layer::new().symlink("s", &"t".repeat(4_000)), 36_000)),
            bad("hard_links_to_paths_of_140_mb", &memory, || {
                many(&Layer::new().hardlink("h", &format!("{}f", "d/".repeat(2_000))), 36_000)
            }),
            bad_layer(
                "directories_for_1_mib",
                &["take more of the block image", "the 1.0 MiB that --max-size allows"],
                directories(300),
            )
            .with(&["--max-size", "1MiB"]),
            bad_layer(
                "one_entry_more_than_the_limit",
                &["have 1001 entries, more than the 1000 that --max-entries allows"],
                empty_files(0..1_001),
            )
            .with(&["--max-entries", "1000"]),
            bad_layer(
                "one_implied_directory_more_than_the_limit",
                &["have 1001 entries, more than the 1000 that --max-entries allows"],
                empty_files(0..999).file("d/f", b""),
            )
            .with(&["--max-entries", "1000"]),
            Case::refused("layers_with_together_too_many_entries", &["layer 1 of 3", "1001 entries"], |bench| {
                Image::new([empty_files(0..334), empty_files(334..667), empty_files(667..1_001)])
                    .oci_layout(&bench.path("image"), Packing::Gzip);
                "oci:image".to_owned()
            })
            .with(&["--max-entries", "1000"]),
            good_layer("as_many_entries_as_the_limit", empty_files(0..1_000)).with(&["--max-entries", "1000"]),
            good_layer(
                "directories_that_are_described_behind_what_is_in_them",
                empty_files(0..996).file("a/b/f", b"").dir("a/b").dir("a"),
            )
            .with(&["--max-entries", "999"]),
        ],
    );
}

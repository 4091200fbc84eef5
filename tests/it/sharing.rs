//! What a change costs in chunks: the rules that make images share, held on small made images so that no later change of
//! the layout loses them. Figures are chunks stored without compression; docs/reference/formats/ext4-layout.md has the rules.

use serde_json::Value;

use crate::support::common::{Bench, Image, Layer, MTIME, Meta, noise};

/// 300 files in 30 directories: about 6 MiB, so 12 chunks of data.
fn base(seed: u64) -> Layer {
    layer("opt", 300, seed, MTIME)
}

fn layer(top: &str, files: u64, seed: u64, mtime: i64) -> Layer {
    let meta = Meta { mtime, ..Meta::default() };
    (0..files).fold(Layer::new().dir_with(top, &Meta { mode: 0o755, ..meta.clone() }), |layer, n| {
        let directory = format!("{top}/d{:02}", n / 10);
        let layer = if n % 10 == 0 { layer.dir_with(&directory, &Meta { mode: 0o755, ..meta.clone() }) } else { layer };
        layer.file_with(&format!("{directory}/f{n:04}"), &noise(20_000, seed * 1000 + n), &meta)
    })
}

fn app() -> Layer {
    layer("app", 60, 50, MTIME + 5)
}

/// Chunks that `second` puts into a store that has `first`.
fn new_chunks(first: &[Layer], second: &[Layer]) -> u64 {
    let bench = Bench::new();
    let none = ["--compression", "none"];
    bench.convert(&Image::new(first.to_vec()), "first", &none);
    let json: Value = bench.convert(&Image::new(second.to_vec()), "second", &none);
    json["new_chunks"].as_u64().unwrap()
}

#[test]
fn the_same_image_again_costs_nothing() {
    assert_eq!(new_chunks(&[base(1), app()], &[base(1), app()]), 0);
}

/// The top layer's own data and the metadata; nothing of the layers below.
#[test]
fn one_more_file_in_the_top_layer_costs_its_chunk_and_metadata() {
    let more = app().file("app/zz", b"one more\n");
    let new = new_chunks(&[base(1), app()], &[base(1), more]);
    assert_eq!(new, 4, "the first chunk, and of the top layer the last of its data, its inodes, its directories");
}

#[test]
fn an_edit_that_keeps_the_size_costs_its_chunk_and_the_metadata_with_its_time() {
    let with = |text: &[u8], mtime| app().file_with("app/zz", text, &Meta { mtime, ..Meta::default() });
    let new = new_chunks(&[base(1), with(b"one\n", 1)], &[base(1), with(b"two\n", 2)]);
    assert_eq!(new, 3, "the first chunk (for its UUID), the inode, the data");
}

/// What is hidden leaves zeros: the chunk that had it, its directory, and no other.
#[test]
fn hiding_a_file_costs_its_chunk_and_metadata() {
    let hide = Layer::new().whiteout("opt/d15/f0155");
    let new = new_chunks(&[base(1)], &[base(1), hide]);
    assert_eq!(new, 4, "the first chunk, the inode, its directory, the data");
}

#[test]
fn hiding_a_whole_directory_moves_nothing_else() {
    let hide = Layer::new().whiteout("opt/d15");
    let new = new_chunks(&[base(1)], &[base(1), hide]);
    assert_eq!(new, 6, "the first chunk, inodes of directories and of files, directory blocks, and two chunks of data");
}

/// Other times, other order in the tar: metadata only.
#[test]
fn a_rebuilt_layer_costs_no_data() {
    let rebuilt = |reversed: bool, mtime: i64| {
        let meta = Meta { mtime, ..Meta::default() };
        let order: Vec<u64> = if reversed { (0..200).rev().collect() } else { (0..200).collect() };
        order
            .into_iter()
            .fold(Layer::new(), |layer, n| layer.file_with(&format!("lib/f{n:04}"), &noise(20_000, n), &meta))
    };
    let new = new_chunks(&[base(1), rebuilt(false, 1)], &[base(1), rebuilt(true, 2)]);
    assert_eq!(new, 2, "the first chunk and the inodes, no data and no directory");
}

#[test]
fn a_layer_keeps_its_data_chunks_on_another_base() {
    let new = new_chunks(&[base(1), app()], &[base(2), app()]);
    // Alone, the other base takes 16 chunks. Beside the first base its directories are the same.
    assert_eq!(
        (new_chunks(&[], &[base(2)]), new),
        (16, 13),
        "the other base's data and the first chunk, nothing of the layer"
    );
}

/// What an upper layer adds to a lower layer's directory stands where it moves no other directory.
#[test]
fn growing_a_lower_directory_moves_no_other() {
    let grow =
        (0..200).fold(Layer::new(), |layer, n| layer.file(&format!("opt/d00/new-file-with-a-long-name-{n:04}"), b""));
    let new = new_chunks(&[base(1)], &[base(1), grow]);
    assert_eq!(new, 5, "the first chunk, the new inodes, the directory's inode, its old and its new place");
}

/// A large file's chunks do not depend on what stands before it.
#[test]
fn a_large_file_stays_when_small_ones_before_it_change() {
    let large = noise(4 << 20, 77);
    let with = |small: usize| Layer::new().file("a", &noise(small, 1)).file("z-large", &large);
    let new = new_chunks(&[with(10_000)], &[with(90_000)]);
    assert_eq!(new, 3, "the first chunk, the inode, the small file's chunk");
}

#[test]
fn equal_chunks_of_one_image_are_put_once() {
    let data = noise(2 << 20, 5);
    let bench = Bench::new();
    let twice = Image::new([Layer::new().file("a", &data).file("b", &data)]);
    let json = bench.convert(&twice, "twice", &["--compression", "none"]);
    assert_eq!(json["chunks"].as_u64().unwrap() - json["unique_chunks"].as_u64().unwrap(), 4);
}

/// Free space is zeros, and zeros are stored nowhere.
#[test]
fn free_space_costs_no_chunk() {
    let count = |free: &str| {
        let bench = Bench::new();
        bench.convert(&Image::new([base(1)]), "image", &["--free", free])["chunks"].as_u64().unwrap()
    };
    assert_eq!(count("0"), count("10GiB"));
}

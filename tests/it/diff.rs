//! `coldpress diff`: what it says of two conversions, held against what the second one put into the store of the first.

use coldpress::keys::KeyFile;
use coldpress::manifest::BlockManifest;
use serde_json::{Value, json};

use crate::support::common::{Bench, Image, Layer, MTIME, Meta, noise, stdout};

const NONE: [&str; 2] = ["--compression", "none"];

/// 60 files of five blocks, so three chunks.
fn base() -> Layer {
    files(0..60, MTIME)
}

fn files(numbers: impl IntoIterator<Item = u64>, mtime: i64) -> Layer {
    let meta = Meta { mtime, ..Meta::default() };
    numbers
        .into_iter()
        .fold(Layer::new().dir("lib"), |layer, n| layer.file_with(&format!("lib/f{n:02}"), &noise(20_000, n), &meta))
}

/// Two images in one store, and what the second conversion said.
struct Two {
    bench: Bench,
    second: Value,
}

impl Two {
    fn new(first: impl IntoIterator<Item = Layer>, second: impl IntoIterator<Item = Layer>) -> Self {
        let bench = Bench::new();
        bench.convert(&Image::new(first), "a", &NONE);
        let second = bench.convert(&Image::new(second), "b", &NONE);
        Self { bench, second }
    }

    /// What differs: every new chunk has its cause, and there are as many as the second conversion put.
    fn diff(&self) -> Value {
        let json = self.diff_with(&[]);
        for figure in ["new_chunks", "new_bytes"] {
            assert_eq!(json[figure], self.second[figure], "{json:#}");
        }
        let causes = json["causes"].as_array().unwrap();
        let sum = |figure: &str| causes.iter().map(|cause| cause[figure].as_u64().unwrap()).sum::<u64>();
        assert_eq!(
            [json!(sum("chunks")), json!(sum("bytes"))],
            [&json["new_chunks"], &json["new_bytes"]].map(Value::clone)
        );
        assert_eq!(json["new"].as_array().unwrap().len() as u64, sum("chunks"));
        json
    }

    fn diff_with(&self, options: &[&str]) -> Value {
        let output = self.bench.coldpress(&[&["diff", "a.cpm", "b.cpm", "--json"], options].concat());
        assert!(output.stderr.is_empty(), "a difference is no error: {output:?}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(output.status.code(), Some(if json["equal"] == true { 0 } else { 3 }));
        json
    }

    fn text(&self, options: &[&str]) -> String {
        String::from_utf8(self.bench.coldpress(&[&["diff", "a.cpm", "b.cpm"], options].concat()).stdout).unwrap()
    }

    /// Removes the chunks of the store that hold files' bytes, of those the image `of` has; they cannot be read any more.
    fn remove_data_of(&self, of: &str) {
        let key = KeyFile::read(&self.bench.path("coldpress.key")).unwrap();
        let manifest = BlockManifest::decode(&std::fs::read(self.bench.path(of)).unwrap()).unwrap().open(&key).unwrap();
        let data = manifest.sealed.layers[0].first_chunk;
        for chunk in manifest.sealed.chunks.iter().filter(|chunk| chunk.index.0 >= data) {
            let _ = std::fs::remove_file(self.bench.path("store/main").join(chunk.name.to_hex()));
        }
    }
}

/// Cause and chunks, in their order.
fn causes(json: &Value) -> Vec<(&str, u64)> {
    let causes = json["causes"].as_array().unwrap().iter();
    causes.map(|cause| (cause["cause"].as_str().unwrap(), cause["chunks"].as_u64().unwrap())).collect()
}

/// Path, changes and new chunks.
fn differing(json: &Value) -> Vec<(&str, String, u64)> {
    let files = json["files"].as_array().unwrap().iter();
    let changes = |file: &Value| {
        let words: Vec<_> =
            file["changes"].as_array().unwrap().iter().map(|word| word.as_str().unwrap().to_owned()).collect();
        words.join(" ")
    };
    files.map(|file| (file["path"].as_str().unwrap(), changes(file), file["new_chunks"].as_u64().unwrap())).collect()
}

/// The files of a new chunk, and why each.
fn touches(chunk: &Value) -> Vec<(&str, &str)> {
    let files = chunk["files"].as_array().unwrap().iter();
    files.map(|file| (file["path"].as_str().unwrap(), file["why"].as_str().unwrap())).collect()
}

const HEADER: &str = "superblock, group descriptors, bitmaps and the root's inode";

#[test]
fn an_image_and_itself_do_not_differ() {
    let two = Two::new([base()], [base()]);
    let json = two.diff();
    assert_eq!(json["equal"], true);
    assert_eq!((&json["new"], &json["files"]), (&json!([]), &json!([])));
    assert_eq!(json["data"]["both"]["chunks"], 3);
    assert!(two.text(&[]).ends_with("nothing differs\n"));
}

#[test]
fn another_time_is_new_inodes_and_nothing_else() {
    let touched = files(0..60, MTIME + 1);
    let two = Two::new([base()], [touched]);
    let json = two.diff();
    assert_eq!(causes(&json), [(HEADER, 1), ("inode table", 1)]);
    assert_eq!(json["data"]["only_b"], json!({ "chunks": 0, "bytes": 0 }));
    let files = differing(&json);
    assert_eq!(files.len(), 60);
    assert!(files.iter().all(|(_, changes, new)| changes == "mtime" && *new == 0), "{files:?}");
    assert!(json["files"].as_array().unwrap().iter().all(|file| file["metadata_only"] == true));
    assert_eq!(touches(&json["new"][1])[59], ("lib/f59", "metadata changed"));
    assert_eq!((&json["layers"][0]["state"], &json["layers"][1]["state"]), (&json!("new"), &json!("gone")));
}

/// No byte under equal chunks is read: it is not even there.
#[test]
fn bytes_of_equal_chunks_are_not_fetched() {
    let two = Two::new([base()], [files(0..60, MTIME + 1)]);
    let before = two.diff();
    two.remove_data_of("a.cpm");
    assert_eq!(two.diff(), before);
}

#[test]
fn other_bytes_are_one_chunk_and_neighbours_are_named() {
    let with = |seed| base().file("lib/g", &noise(10_000, seed)).file("lib/h", &noise(10_000, 5));
    let two = Two::new([with(100)], [with(101)]);
    let json = two.diff();
    assert_eq!(causes(&json), [(HEADER, 1), ("data: content changed", 1)]);
    assert_eq!(differing(&json), [("lib/g", "content".to_owned(), 1)]);
    let chunk = &json["new"][1];
    assert_eq!((&chunk["layer"], &chunk["cause"]), (&json!(1), &json!("data: content changed")));
    let touches = touches(chunk);
    assert_eq!(
        touches.iter().filter(|(_, why)| *why != "beside one that changed").collect::<Vec<_>>(),
        [&("lib/g", "content changed")]
    );
    assert!(
        touches.contains(&("lib/h", "beside one that changed"))
            && !touches.contains(&("lib/f00", "beside one that changed"))
    );
}

/// The second file grows by a block: of the 58 behind it, each stands a block further on, and the three chunks are new.
#[test]
fn a_file_that_grows_moves_those_behind_it() {
    let grown = (0..60).fold(Layer::new().dir("lib"), |layer, n| {
        layer.file(&format!("lib/f{n:02}"), &noise(if n == 1 { 24_000 } else { 20_000 }, n))
    });
    let two = Two::new([base()], [grown]);
    let json = two.diff();
    assert_eq!(causes(&json), [(HEADER, 1), ("inode table", 1), ("data: content changed", 1), ("data: moved", 2)]);
    let files = differing(&json);
    assert_eq!((files.len(), &files[0]), (59, &("lib/f01", "content".to_owned(), 1)));
    assert!(files[1..].iter().all(|(_, changes, _)| changes == "moved"), "{files:?}");
    assert_eq!(json["files"][58]["behind"], json!({ "path": "lib/f01", "what": "resized" }));
    let first = touches(&json["new"][2]);
    assert_eq!(first[0], ("lib/f01", "content changed"));
    assert_eq!(first[first.len() - 1], ("lib/f00", "beside one that changed"));
    let inodes = touches(&json["new"][1]);
    assert_eq!(inodes[..2], [("lib/f01", "content changed"), ("lib/f02", "its data moved")]);
}

#[test]
fn a_file_more_or_less_in_a_layer_moves_those_behind_it() {
    let less = files((0..60).filter(|n| *n != 30), MTIME);
    let two = Two::new([base()], [less.clone()]);
    let json = two.diff();
    assert_eq!(differing(&json)[0], ("lib/f30", "removed".to_owned(), 1));
    assert_eq!(json["files"][1]["behind"], json!({ "path": "lib/f30", "what": "removed" }));
    let data: Vec<_> = causes(&json).into_iter().filter(|(cause, _)| cause.starts_with("data")).collect();
    assert_eq!(data, [("data: file removed", 1), ("data: moved", 1)]);

    let two = Two::new([less], [base()]);
    let json = two.diff();
    assert_eq!(differing(&json)[0], ("lib/f30", "added".to_owned(), 1));
    assert_eq!(json["files"][1]["behind"], json!({ "path": "lib/f30", "what": "added" }));
}

/// What is hidden leaves zeros, and moves nothing.
#[test]
fn a_whiteout_is_the_chunk_of_what_it_hides() {
    let two = Two::new([base()], [base(), Layer::new().whiteout("lib/f30")]);
    let json = two.diff();
    assert_eq!(causes(&json), [(HEADER, 1), ("inode table", 1), ("directory blocks", 1), ("data: file removed", 1)]);
    assert_eq!(differing(&json), [("lib/f30", "removed".to_owned(), 1)]);
    assert_eq!(touches(&json["new"][1]), [("lib/f30", "file removed")]);
    assert_eq!(touches(&json["new"][2]), [("lib", "entries changed")]);
    let layers: Vec<_> =
        json["layers"].as_array().unwrap().iter().map(|layer| (&layer["state"], &layer["chunks"])).collect();
    assert_eq!(layers, [(&json!("same"), &json!(1)), (&json!("new"), &json!(0))]);
}

#[test]
fn a_file_replaced_by_an_upper_layer_leaves_its_place() {
    let two = Two::new([base()], [base(), Layer::new().file("lib/f30", &noise(20_000, 99))]);
    let json = two.diff();
    let data: Vec<_> = causes(&json).into_iter().filter(|(cause, _)| cause.starts_with("data")).collect();
    assert_eq!(data, [("data: content changed", 1), ("data: hidden by another layer", 1)]);
    assert_eq!(differing(&json), [("lib/f30", "content".to_owned(), 2)]);
}

#[test]
fn a_layer_in_another_order_is_the_same_image_with_another_layer() {
    let two = Two::new([base()], [files((0..60).rev(), MTIME)]);
    let json = two.diff();
    assert_eq!((&json["new_chunks"], &json["files"], &json["equal"]), (&json!(0), &json!([]), &json!(false)));
    assert_eq!(json["a"]["root_digest"], json["b"]["root_digest"]);
    assert!(two.text(&[]).contains("\nfiles: none differs\n"));
}

/// A lower layer that takes a chunk more moves the segments above it: their chunks stay, the inodes that say where they are do not.
#[test]
fn segments_that_move_cost_inodes_and_no_data() {
    let app = || files(0..60, MTIME);
    let lower = |size| Layer::new().file("etc", &noise(size, 7));
    let two = Two::new([lower(10_000), app()], [lower(600_000), app()]);
    let json = two.diff();
    let data: Vec<_> = causes(&json).into_iter().filter(|(cause, _)| cause.starts_with("data")).collect();
    assert_eq!(data, [("data: content changed", 2)]);
    assert_eq!(differing(&json), [("etc", "content".to_owned(), 2)]);
    let inodes = json["new"]
        .as_array()
        .unwrap()
        .iter()
        .map(touches)
        .find(|touches| touches.contains(&("lib/f00", "its data moved")));
    assert_eq!(inodes.expect("a chunk of the inode table").len(), 60);
}

#[test]
fn every_kind_of_difference_has_its_word() {
    let meta = Meta::default;
    let one = |layer: Layer| layer.file("z", b"the last");
    let a = one(Layer::new()
        .dir("./")
        .file("bytes", b"one")
        .file_with("grp", b"g", &meta())
        .file_with("mode", b"m", &Meta::mode(0o644))
        .file("named", b"n")
        .symlink("short", "x")
        .symlink("long", &"y".repeat(80))
        .file("type", b"t")
        .char_device("null", 1, 3)
        .file_with("xattr", b"x", &meta().xattr("user.a", b"1")));
    let b = one(Layer::new()
        .dir_with("./", &Meta { mtime: MTIME + 1, ..Meta::mode(0o755) })
        .file("bytes", b"two")
        .file_with("grp", b"g", &Meta { gid: 7, ..meta() })
        .file_with("mode", b"m", &Meta::mode(0o755))
        .file("named", b"n")
        .hardlink("named-again", "named")
        .symlink("short", "z")
        .symlink("long", &"w".repeat(80))
        .dir("type")
        .file("type/below", b"")
        .char_device("null", 1, 5)
        .file_with("xattr", b"x", &meta().xattr("user.a", b"2")));
    let two = Two::new([a], [b]);
    let json = two.diff();
    let found: Vec<_> = differing(&json).into_iter().map(|(path, changes, _)| format!("{path}: {changes}")).collect();
    assert_eq!(
        found,
        [
            "/: mtime",
            "bytes: content",
            "grp: owner",
            "long: target",
            "mode: mode",
            "named: links",
            "named-again: added",
            "null: type",
            "short: target",
            "type: type mode",
            "type/below: added",
            "xattr: xattrs moved",
            "z: moved",
        ]
    );
}

/// Each name is told, and the chunk once.
#[test]
fn a_file_of_two_names_counts_with_one() {
    let with = |seed| Layer::new().file("one", &noise(9_000, seed)).hardlink("two", "one");
    let json = Two::new([with(1)], [with(2)]).diff();
    assert_eq!(differing(&json), [("one", "content".to_owned(), 1), ("two", "content".to_owned(), 0)]);
    assert_eq!(touches(&json["new"][1]), [("one", "content changed")]);
    // Another name of what was there is no file that is new in the chunk.
    let (alone, named) = (Layer::new().file("one", &noise(9_000, 1)), |seed| {
        Layer::new().file("a", &noise(900, seed)).file("one", &noise(9_000, 1)).hardlink("two", "one")
    });
    let json = Two::new([alone.file("a", &noise(900, 3))], [named(4)]).diff();
    assert_eq!(differing(&json)[0], ("a", "content".to_owned(), 1));
    let data = json["new"].as_array().unwrap().iter().find(|chunk| chunk["layer"] == 1).unwrap();
    assert_eq!(touches(data), [("a", "content changed"), ("one", "beside one that changed")]);
}

/// Holes are no bytes: one may be written in the other image.
#[test]
fn a_hole_and_zeros_are_the_same_bytes() {
    let sparse = |map: &str, data: &[u8], size: usize| {
        let pax = |key: &str, value: &str| (key.to_owned(), value.as_bytes().to_vec());
        let records = vec![
            pax("GNU.sparse.major", "1"),
            pax("GNU.sparse.minor", "0"),
            pax("GNU.sparse.name", "sparse"),
            pax("GNU.sparse.realsize", &size.to_string()),
        ];
        let mut body = map.as_bytes().to_vec();
        body.resize(512, 0);
        body.extend_from_slice(data);
        Layer::new().file_with("GNUSparseFile.0/sparse", &body, &Meta { pax: records, ..Meta::default() })
    };
    let size = 1 << 20;
    let mut whole = vec![0; size];
    whole[600_000..600_512].copy_from_slice(&[7; 512]);
    let holes = sparse("1\n600000\n512\n", &[7; 512], size);
    let json = Two::new([holes.clone()], [Layer::new().file("sparse", &whole)]).diff();
    assert_eq!(differing(&json), [("sparse", "moved".to_owned(), 1)], "{json:#}");
    whole[100] = 1;
    let json = Two::new([holes], [Layer::new().file("sparse", &whole)]).diff();
    assert_eq!(differing(&json), [("sparse", "content".to_owned(), 2)], "{json:#}");
}

#[test]
fn other_settings_are_said_first_and_files_are_still_compared() {
    let bench = Bench::new();
    bench.convert(&Image::new([base()]), "a", &NONE);
    let second =
        bench.convert(&Image::new([files(0..59, MTIME)]), "b", &["--compression", "zstd:1", "--free", "32MiB"]);
    let two = Two { bench, second };
    let json = two.diff();
    let settings: Vec<_> =
        json["settings"].as_array().unwrap().iter().map(|setting| (&setting["name"], &setting["parts"])).collect();
    assert_eq!(
        settings,
        [
            (&json!("compression"), &json!(true)),
            (&json!("compression_version"), &json!(false)),
            (&json!("free_bytes"), &json!(false))
        ]
    );
    assert_eq!(causes(&json), [("encrypted differently, or in another deduplication scope", second_chunks(&two))]);
    assert_eq!(differing(&json), [("lib/f59", "removed".to_owned(), 1)]);
    let text = two.text(&[]);
    let line = "compression differs: `none` and `zstd:1`: equal content has different chunks";
    assert_eq!(text.lines().nth(2), Some(line), "{text}");

    two.bench.convert(&Image::new([base()]), "b", &["--compression", "none", "--root", "other"]);
    let json = two.diff_with(&[]);
    assert_eq!((&json["settings"][0]["name"], &json["files"]), (&json!("root"), &json!([])));
    assert_eq!(
        causes(&json),
        [("encrypted differently, or in another deduplication scope", json["b"]["chunks"].as_u64().unwrap())]
    );
}

fn second_chunks(two: &Two) -> u64 {
    two.second["unique_chunks"].as_u64().unwrap()
}

#[test]
fn the_fields_of_the_config_that_differ_are_named_and_not_shown() {
    let bench = Bench::new();
    let mut image = Image::new([base()]);
    bench.convert(&image, "a", &NONE);
    image.config["Env"] = json!(["TOKEN=secret"]);
    let second = bench.convert(&image, "b", &NONE);
    let two = Two { bench, second };
    let json = two.diff();
    assert_eq!((&json["config"], &json["new_chunks"]), (&json!(["Env"]), &json!(0)));
    assert!(!json.to_string().contains("secret") && two.text(&[]).contains("config differs: Env\n"));
}

/// Down to layers, by the manifests alone.
#[test]
fn without_a_store_files_are_not_compared() {
    let two = Two::new([base()], [base(), Layer::new().whiteout("lib/f30").file("lib/new", &noise(100, 1))]);
    let all = two.diff();
    let manifests = two.diff_with(&["--no-files"]);
    std::fs::rename(two.bench.path("store"), two.bench.path("elsewhere")).unwrap();
    let json = two.diff();
    assert_eq!(json, manifests);
    assert_eq!(json["files"], Value::Null);
    assert_eq!(
        causes(&json),
        [
            (HEADER, 1),
            ("inode table", 2),
            ("directory blocks", 1),
            ("data of a new layer", 1),
            ("data of a layer of both images", 1)
        ]
    );
    assert!(two.text(&[]).ends_with("files were not compared: name the store with --store\n"));
    assert_eq!(two.diff_with(&["--store", "elsewhere"]), all);
    let output = two.bench.coldpress(&["diff", "a.cpm", "b.cpm", "--store", "nowhere"]);
    assert_eq!(output.status.code(), Some(1), "a store that was named is needed: {output:?}");
}

#[test]
fn long_lists_are_cut_but_with_all() {
    let two = Two::new([base()], [files(0..60, MTIME + 1)]);
    let (short, long) = (two.text(&[]), two.text(&["--all"]));
    assert!(
        short.contains("  and 40 more; --all shows them\n") && !short.contains("lib/f59: metadata only"),
        "{short}"
    );
    assert!(
        short.contains(
            "lib/f00 (metadata changed), lib/f01 (metadata changed), lib/f02 (metadata changed) and 57 more\n"
        )
    );
    assert!(!long.contains(" more") && long.contains("  lib/f59: metadata only: mtime\n"), "{long}");
    let quiet = two.bench.coldpress(&["diff", "a.cpm", "b.cpm", "--quiet"]);
    assert_eq!((quiet.status.code(), quiet.stdout.len(), quiet.stderr.len()), (Some(3), 0, 0));
}

#[test]
fn a_manifest_of_another_root_digest_than_expected_is_refused() {
    let two = Two::new([base()], [files(0..60, MTIME + 1)]);
    let b = two.second["root_digest"].as_str().unwrap();
    two.diff_with(&["--expect-b", b]);
    let output = two.bench.coldpress(&["diff", "a.cpm", "b.cpm", "--expect-a", b]);
    assert_eq!(output.status.code(), Some(1));
    stdout(&two.bench.coldpress(&["diff", "b.cpm", "b.cpm", "--expect-a", b]));
}

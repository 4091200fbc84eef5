//! What is truncated, altered, missing or not allowed ends with a clear error and the right exit code, and leaves neither a
//! manifest nor a temporary file. Each test is named after the one thing that is wrong.

use std::path::{Path, PathBuf};
use std::process::Output;

use coldpress::digest::Sha256;
use serde_json::{Value, json};

use crate::determinism::sample;
use crate::support::common::{Bench, Image, Layer, Meta, Packing, noise, stdout};

/// Exit code and standard error; what was made may be nowhere.
fn refused(bench: &Bench, output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "`{word}` in: {said}");
    }
    let left: Vec<PathBuf> = files(bench.dir.path()).into_iter().filter(|path| is_left_over(path)).collect();
    assert!(left.is_empty(), "left behind: {left:?}");
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut out = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { out.extend(files(&path)) } else { out.push(path) }
    }
    out
}

/// A manifest, here or in the store, or anything temporary.
fn is_left_over(path: &Path) -> bool {
    let name = path.file_name().unwrap().to_string_lossy();
    name == "out.cpm"
        || name.starts_with(".coldpress-")
        || name.contains('#')
        || path.components().any(|part| part.as_os_str() == "manifests")
}

fn convert(bench: &Bench, reference: &str) -> Output {
    bench.coldpress(&["convert", reference, "--store", "store", "-o", "out.cpm", "--temp", "."])
}

/// The largest blob of a layout: the layer.
fn layer_blob(layout: &Path) -> PathBuf {
    files(&layout.join("blobs")).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap()
}

fn small() -> Image {
    Image::new([Layer::new().dir("etc").file("etc/data", &noise(50_000, 1))])
}

#[test]
fn a_truncated_blob_is_refused_by_its_size() {
    let bench = Bench::new();
    let blob = layer_blob(&small().oci_layout(&bench.path("image"), Packing::Gzip));
    let bytes = std::fs::read(&blob).unwrap();
    std::fs::write(&blob, &bytes[..bytes.len() - 100]).unwrap();
    refused(&bench, &convert(&bench, "oci:image"), 1, &["blobs/sha256/", "its descriptor says"]);
}

#[test]
fn a_flipped_bit_in_a_blob_is_refused_by_its_digest() {
    for packing in [Packing::Plain, Packing::Gzip, Packing::Zstd] {
        let bench = Bench::new();
        let blob = layer_blob(&small().oci_layout(&bench.path("image"), packing));
        let mut bytes = std::fs::read(&blob).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&blob, bytes).unwrap();
        refused(&bench, &convert(&bench, "oci:image"), 1, &["layer 1 of 1 (sha256:"]);
    }
}

#[test]
fn a_layer_that_is_not_its_diff_id_is_refused() {
    let bench = Bench::new();
    let file = small().docker_archive(&bench.path("app.tar"), true);
    let mut bytes = std::fs::read(&file).unwrap();
    // A byte of the file's content, inside the layer's tar.
    let at = bytes.windows(512).position(|window| window == &noise(50_000, 1)[..512]).unwrap();
    bytes[at] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    refused(
        &bench,
        &convert(&bench, "docker-archive:app.tar"),
        1,
        &["its decompressed digest (DiffID) is sha256:", "the image config says sha256:"],
    );
}

#[test]
fn an_altered_config_is_refused() {
    let bench = Bench::new();
    let layout = small().oci_layout(&bench.path("image"), Packing::Gzip);
    let config = small().config_json();
    let path = layout.join("blobs/sha256").join(Sha256::of(&config).to_hex());
    std::fs::write(path, String::from_utf8(config).unwrap().replace("/bin/app", "/bin/bad")).unwrap();
    refused(&bench, &convert(&bench, "oci:image"), 1, &["its digest is sha256:"]);
}

#[test]
fn a_missing_blob_is_named() {
    let bench = Bench::new();
    let blob = layer_blob(&small().oci_layout(&bench.path("image"), Packing::Gzip));
    std::fs::remove_file(&blob).unwrap();
    refused(&bench, &convert(&bench, "oci:image"), 1, &[blob.file_name().unwrap().to_str().unwrap()]);
}

#[test]
fn a_stream_that_ends_early_is_refused_though_its_digests_are_true() {
    let tar = small().layers[0].tar();
    for length in [300, 512, 1024, 1500, 20_000] {
        let bench = Bench::new();
        std::fs::write(bench.path("root.tar"), &tar[..length]).unwrap();
        let output = convert(&bench, "tar:root.tar");
        // The first header alone is an archive that ends between entries, which tar allows.
        if length == 512 {
            assert!(output.status.success());
        } else {
            refused(&bench, &output, 1, &["layer 1 of 1", "ends in the middle"]);
        }
    }
}

#[test]
fn a_truncated_gzip_stream_is_refused() {
    let bench = Bench::new();
    let packed = Packing::Gzip.pack(&small().layers[0].tar());
    std::fs::write(bench.path("root.tar.gz"), &packed[..packed.len() - 9]).unwrap();
    refused(&bench, &convert(&bench, "tar:root.tar.gz"), 1, &["layer 1 of 1"]);
}

/// Rewrites the layout's manifest.
fn edit_manifest(layout: &Path, edit: impl FnOnce(&mut Value)) {
    let index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap()[7..].to_owned();
    let mut manifest: Value =
        serde_json::from_slice(&std::fs::read(layout.join("blobs/sha256").join(digest)).unwrap()).unwrap();
    edit(&mut manifest);
    let bytes = serde_json::to_vec(&manifest).unwrap();
    let digest = Sha256::of(&bytes);
    std::fs::write(layout.join("blobs/sha256").join(digest.to_hex()), &bytes).unwrap();
    let mut index = index;
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(bytes.len());
    std::fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
}

#[test]
fn encrypted_and_unknown_layers_are_refused_by_name() {
    for (media_type, word) in [
        ("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "encrypted"),
        ("application/vnd.example.layer", "not supported"),
    ] {
        let bench = Bench::new();
        let layout = small().oci_layout(&bench.path("image"), Packing::Gzip);
        edit_manifest(&layout, |manifest| manifest["layers"][0]["mediaType"] = json!(media_type));
        refused(&bench, &convert(&bench, "oci:image"), 1, &["layer sha256:", word, media_type]);
    }
}

#[test]
fn a_missing_tag_and_several_images_are_told_with_what_there_is() {
    let bench = Bench::new();
    let layout = small().oci_layout(&bench.path("image"), Packing::Gzip);
    refused(&bench, &convert(&bench, "oci:image:v9"), 1, &["it does not contain the tag `v9`", "latest"]);
    let mut index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let mut other = index["manifests"][0].clone();
    other["annotations"]["org.opencontainers.image.ref.name"] = json!("v2");
    index["manifests"].as_array_mut().unwrap().push(other);
    std::fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    refused(&bench, &convert(&bench, "oci:image"), 1, &["several images", "latest, v2"]);
    assert!(convert(&bench, "oci:image:v2").status.success());
}

#[test]
fn a_platform_is_chosen_from_an_index_and_a_missing_one_is_told() {
    let bench = Bench::new();
    let layout = small().oci_layout(&bench.path("image"), Packing::Gzip);
    let mut index: Value = serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
    let manifests = index["manifests"].as_array_mut().unwrap();
    manifests[0]["platform"] = json!({ "os": "linux", "architecture": "amd64" });
    let mut arm = manifests[0].clone();
    arm["platform"] = json!({ "os": "linux", "architecture": "arm", "variant": "v7" });
    let mut attestation = manifests[0].clone();
    attestation["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
    manifests.extend([arm, attestation]);
    std::fs::write(layout.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
    let with = |platform| {
        bench.coldpress(&["convert", "oci:image", "--store", "store", "-o", "out.cpm", "--platform", platform])
    };
    refused(&bench, &with("linux/s390x"), 1, &["no image for linux/s390x", "linux/amd64, linux/arm/v7"]);
    // The index says arm, but the image behind it is for amd64: it is not what was asked for.
    refused(&bench, &with("linux/arm"), 1, &["the image is for linux/amd64, not for linux/arm"]);
    assert!(with("linux/amd64").status.success());
}

/// Every byte of a manifest counts: one flipped bit anywhere, and it does not open.
#[test]
fn a_flipped_bit_anywhere_in_a_manifest_is_refused() {
    let bench = Bench::new();
    bench.convert(&small(), "app", &[]);
    let bytes = std::fs::read(bench.path("app.cpm")).unwrap();
    let key = coldpress::keys::KeyFile::decode(crate::support::common::TEST_KEY).unwrap();
    let opens = |bytes: &[u8]| {
        coldpress::manifest::BlockManifest::decode(bytes).and_then(|manifest| manifest.open(&key.wrapping_key)).is_ok()
    };
    assert!(opens(&bytes));
    for bit in 0..bytes.len() * 8 {
        let mut bad = bytes.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(!opens(&bad), "bit {bit}");
    }
    for length in 0..bytes.len() {
        assert!(!opens(&bytes[..length]), "cut to {length}");
    }
    assert!(!opens(&[&bytes[..], b"x"].concat()), "one byte more");
    std::fs::write(bench.path("bad.cpm"), &bytes[..bytes.len() - 1]).unwrap();
    let output = bench.coldread(&["ls", "bad.cpm"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("bad.cpm: not a valid block manifest: it is truncated"));
}

#[test]
fn a_damaged_chunk_is_never_read_and_verify_ends_with_3() {
    let bench = Bench::new();
    bench.convert(&sample(), "app", &[]);
    let victim =
        files(&bench.path("store/main")).into_iter().max_by_key(|path| path.metadata().unwrap().len()).unwrap();
    let mut bytes = std::fs::read(&victim).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&victim, bytes).unwrap();
    let output = bench.coldread(&["cat", "app.cpm", "/bin/app"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the SHA-256 of the stored object is sha256:"));
    let output = bench.coldpress(&["verify", "app.cpm"]);
    assert_eq!(output.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 of "), "{output:?}");
    let output = bench.coldpress(&["export", "app.cpm", "-o", "app.img"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(!bench.path("app.img").exists());
}

#[test]
fn a_chunk_under_anothers_name_is_refused() {
    let bench = Bench::new();
    bench.convert(&Image::new([Layer::new().file("data", &noise(2 << 20, 3))]), "app", &["--compression", "none"]);
    let chunks = files(&bench.path("store/main")).into_iter();
    let full: Vec<_> = chunks.filter(|path| path.metadata().unwrap().len() == 524_304).collect();
    // A true chunk, of the same length, but another one.
    std::fs::copy(&full[1], &full[0]).unwrap();
    let output = bench.coldread(&["cat", "app.cpm", "/data"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("the SHA-256 of the stored object is sha256:"),
        "{output:?}"
    );
    assert_eq!(bench.coldpress(&["verify", "app.cpm"]).status.code(), Some(3));
}

#[test]
fn a_missing_chunk_is_missing_or_refused() {
    let bench = Bench::new();
    bench.convert(&sample(), "app", &[]);
    std::fs::remove_file(&files(&bench.path("store/main"))[0]).unwrap();
    let output = bench.coldpress(&["verify", "app.cpm", "--json"]);
    assert_eq!(output.status.code(), Some(3));
    let json: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["verified"], false);
    assert!(json["store"]["bad_chunks"][0].as_str().unwrap().contains("missing from the store"), "{json}");
}

/// Whichever chunk is lost or damaged, its files are named, a few and how many more; with directories lost, those that are still known.
#[test]
fn verify_and_scrub_name_the_files_in_bad_chunks() {
    let bench = Bench::new();
    let small = (0..15).fold(Layer::new().dir("many"), |layer, i| layer.file(&format!("many/{i:02}"), b"small"));
    let image = Image::new([small, Layer::new().file("data", &noise(3 << 20, 5))]);
    bench.convert(&image, "app", &[]);
    let scrub = ["scrub", "app.cpm", "--store", "store", "--json"];
    let (mut named, mut regions) = (Vec::new(), Vec::new());
    for (number, path) in files(&bench.path("store/main")).into_iter().enumerate() {
        let bytes = std::fs::read(&path).unwrap();
        match number % 2 {
            0 => std::fs::remove_file(&path).unwrap(),
            _ => std::fs::write(&path, [&bytes[..bytes.len() - 1], &[!bytes[bytes.len() - 1]]].concat()).unwrap(),
        }
        let output = bench.coldpress(&["verify", "app.cpm", "--json"]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("hint: `coldpress convert IMAGE --heal app.cpm --store "), "{said}");
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        let found = json["store"]["bad_files"].as_array().unwrap();
        assert_eq!(found.len(), json["store"]["bad_chunks"].as_array().unwrap().len(), "{json:#}");
        let scrubbed: Value = serde_json::from_slice(&bench.coldpress(&scrub).stdout).unwrap();
        assert_eq!(scrubbed["bad_files"][0]["chunks"], json["store"]["bad_files"], "{scrubbed:#}");
        for chunk in found {
            let files = chunk["files"].as_array().unwrap();
            named.extend(files.iter().map(|file| file.as_str().unwrap().to_owned()));
            if files.iter().any(|file| file.as_str().unwrap().starts_with("/many/")) {
                assert_eq!((files.len(), &chunk["more_files"]), (10, &Value::from(5)), "{json:#}");
                let text = String::from_utf8(bench.coldpress(&["verify", "app.cpm"]).stdout).unwrap();
                assert!(text.contains("layer 1: /many/") && text.contains(" and 5 more\n"), "{text}");
            }
            if chunk["part"].as_str().unwrap().starts_with("metadata: ") {
                regions.push(json["store"]["unreadable"].as_u64().unwrap());
            }
        }
        std::fs::write(&path, bytes).unwrap();
    }
    assert!(named.contains(&"/data".to_owned()) && named.contains(&"/many/14".to_owned()), "{named:?}");
    assert!(regions.iter().any(|unreadable| *unreadable > 0), "{regions:?}");
    // Without the key, chunks are all that is known.
    std::fs::remove_file(&files(&bench.path("store/main"))[0]).unwrap();
    std::fs::remove_file(bench.path("coldpress.key")).unwrap();
    let text = String::from_utf8(bench.coldpress(&scrub[..4]).stdout).unwrap();
    assert!(text.contains("give --key to see which files are in them"), "{text}");
}

#[test]
fn another_key_and_another_image_are_denied() {
    let bench = Bench::new();
    let one = bench.convert(&small(), "one", &[]);
    let two = bench.convert(&sample(), "two", &[]);
    let expect = two["root_digest"].as_str().unwrap();
    let output = bench.coldread(&["ls", "one.cpm", "--expect", expect]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("not the expected") && said.contains(one["root_digest"].as_str().unwrap()), "{said}");
    stdout(&bench.coldread(&["ls", "one.cpm", "--expect", one["root_digest"].as_str().unwrap()]));
    assert!(bench.coldpress(&["keygen", "-o", "other.key"]).status.success());
    let output = bench.coldread(&["ls", "one.cpm", "--key", "file:other.key"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("not for the wrapping key"));
}

/// A worker's key file opens everything and converts nothing.
#[test]
fn a_key_file_without_a_salt_reads_and_does_not_convert() {
    let bench = Bench::new();
    bench.convert(&small(), "app", &[]);
    assert!(bench.coldpress(&["keygen", "--worker-of", "coldpress.key", "-o", "worker.key"]).status.success());
    let output = bench.coldread(&["cat", "app.cpm", "/etc/data", "--key", "file:worker.key"]);
    assert_eq!(output.stdout, noise(50_000, 1));
    let output =
        bench.coldpress(&["convert", "oci:app", "--store", "store", "-o", "out.cpm", "--key", "file:worker.key"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no salt: this key has none"));
}

#[test]
fn a_key_file_that_others_can_read_is_denied() {
    let bench = Bench::new();
    std::fs::set_permissions(bench.path("coldpress.key"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let output = convert(&bench, "tar:none.tar");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("chmod 600"));
}

#[test]
fn layers_of_just_the_limit_are_converted_and_of_a_byte_more_refused() {
    // With records that take room in the tar and none on the device, the uncompressed bytes are what the limit meets first.
    let meta = || Meta { pax: vec![("comment".to_owned(), vec![b'x'; 16_000])], ..Meta::default() };
    let image = Image::new([1, 2].map(|n| Layer::new().file_with(&n.to_string(), &noise(300_000, n), &meta())));
    let bytes: usize = image.layers.iter().map(|layer| layer.tar().len()).sum();
    for threads in ["1", "4"] {
        let bench = Bench::new();
        image.oci_layout(&bench.path("image"), Packing::Gzip);
        let convert = |most: usize| {
            let most = most.to_string();
            let args = ["convert", "oci:image", "--store", "store", "-o", "out.cpm", "--max-size", &most];
            bench.coldpress(&[&args[..], &["--threads", threads]].concat())
        };
        stdout(&convert(bytes));
        let output = convert(bytes - 1);
        assert_eq!(output.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&output.stderr).contains("--max-size"), "{output:?}");
    }
}

#[test]
fn a_key_file_may_have_comments_of_some_kibibytes() {
    let bench = Bench::new();
    let text = crate::support::common::TEST_KEY.replacen('\n', &format!("\n{}", "# comment\n".repeat(6_000)), 1);
    std::fs::write(bench.path("coldpress.key"), text).unwrap();
    bench.convert(&small(), "app", &[]);
}

#[test]
fn keygen_never_replaces_a_key() {
    let bench = Bench::new();
    let output = bench.coldpress(&["keygen"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(std::fs::read_to_string(bench.path("coldpress.key")).unwrap(), crate::support::common::TEST_KEY);
}

/// A full disk (a small tmpfs, so it needs root) is a matter of trying again, and leaves no manifest.
#[test]
fn a_full_disk_ends_with_4_and_leaves_nothing_half() {
    let bench = Bench::new();
    // Not in path order, so that it is kept in the temporary directory.
    let image = Image::new([Layer::new().file("data", &noise(3 << 20, 4)).file("before", b"late")]);
    image.oci_layout(&bench.path("image"), Packing::Gzip);
    let full = bench.path("full");
    std::fs::create_dir(&full).unwrap();
    let mounted = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&full)
        .status()
        .unwrap();
    assert!(mounted.success(), "this test needs root");
    let store = bench.coldpress(&["convert", "oci:image", "--store", "full/store", "-o", "out.cpm"]);
    let temp = bench.coldpress(&["convert", "oci:image", "--store", "store", "-o", "out.cpm", "--temp", "full"]);
    let left: Vec<_> = files(&full).into_iter().filter(|path| is_left_over(path)).collect();
    assert!(std::process::Command::new("umount").arg(&full).status().unwrap().success());
    for (output, what) in [(store, "store"), (temp, "temp")] {
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(4), "{what}: {said}");
        assert!(said.contains("No space left") && said.contains("run the same command again"), "{what}: {said}");
    }
    assert!(left.is_empty() && !bench.path("out.cpm").exists(), "{left:?}");
    assert!(convert(&bench, "oci:image").status.success(), "and the same again succeeds");
}

//! What counts as an image, which of several is taken, and what is said of an input that is something else.
//!
//! Sources of the right values: the OCI image specification 1.1 (descriptor.md), containerd's package `platforms`, moby's
//! `distribution/registry.go`, and what docker, containerd, umoci and skopeo do with such inputs.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA512, digest};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use coldpress::digest::{Sha256, to_hex};
use serde_json::{Value, json};

use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";

fn image(content: &str) -> Image {
    Image::new([Layer::new().file("which", content.as_bytes())])
}

fn read_json(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn write_json(path: &Path, value: &Value) {
    std::fs::write(path, serde_json::to_vec(value).unwrap()).unwrap();
}

/// Writes a blob into the layout `directory`; its digest and size as descriptors have them.
fn put_blob(directory: &Path, bytes: &[u8]) -> (String, usize) {
    let digest = Sha256::of(bytes);
    std::fs::write(directory.join("blobs/sha256").join(digest.to_hex()), bytes).unwrap();
    (digest.to_string(), bytes.len())
}

/// One image that a layout's index offers: what its file `which` has, its platform there, and what else its entry says.
struct Offer<'o> {
    which: &'o str,
    platform: Option<&'o str>,
    extra: Value,
}

fn offer<'o>(which: &'o str, platform: &'o str) -> Offer<'o> {
    Offer { which, platform: Some(platform), extra: json!({}) }
}

/// Writes the layout `multi`, whose configs all say linux/ARCHITECTURE of their entry, without a variant.
fn layout_of(bench: &Bench, offers: &[Offer<'_>]) -> PathBuf {
    let directory = bench.path("multi");
    let _ = std::fs::remove_dir_all(&directory);
    let entry = |offer: &Offer<'_>| {
        let mut parts = offer.platform.into_iter().flat_map(|platform| platform.split('/'));
        let (os, architecture, variant) = (parts.next(), parts.next(), parts.next());
        let architecture: &'static str = architecture.unwrap_or("amd64").to_owned().leak();
        Image { architecture, ..image(offer.which) }.oci_layout(&directory, Packing::Gzip);
        let mut entry = read_json(&directory.join("index.json"))["manifests"][0].take();
        let fields = entry.as_object_mut().unwrap();
        fields.remove("annotations");
        if let Some(os) = os {
            let mut platform = json!({ "os": os, "architecture": architecture });
            if let Some(variant) = variant {
                platform["variant"] = json!(variant);
            }
            fields.insert("platform".to_owned(), platform);
        }
        fields.extend(offer.extra.as_object().unwrap().clone());
        entry
    };
    let manifests: Vec<Value> = offers.iter().map(entry).collect();
    write_json(
        &directory.join("index.json"),
        &json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }),
    );
    directory
}

fn convert(bench: &Bench, reference: &str, options: &[&str]) -> Output {
    let args = [&["convert", reference, "--store", "store", "-o", "out.cpm"], options].concat();
    bench.coldpress(&args)
}

/// What the file `which` of the converted image has.
fn which(bench: &Bench, output: &Output) -> String {
    stdout(output);
    String::from_utf8(stdout(&bench.coldread(&["cat", "out.cpm", "/which", "--store", "store"]))).unwrap()
}

fn refusal(output: &Output) -> String {
    assert!(!output.status.success(), "it was converted");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_variant_that_the_request_can_run_is_taken() {
    let bench = Bench::new();
    for (offers, asked, taken) in [
        (&["linux/amd64/v3", "linux/amd64"][..], "linux/amd64", "linux/amd64"),
        (&["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"], "linux/amd64/v3", "linux/amd64/v2"),
        (&["linux/arm/v6", "linux/arm/v7"], "linux/arm", "linux/arm/v7"),
        (&["linux/arm/v7", "linux/arm/v6"], "linux/arm/v6", "linux/arm/v6"),
        (&["linux/arm/v5", "linux/arm/v6"], "linux/arm/v7", "linux/arm/v6"),
        (&["linux/amd64", "linux/arm64"], "linux/arm64/v8", "linux/arm64"),
        (&["linux/amd64", "linux/arm64/v8"], "linux/aarch64", "linux/arm64/v8"),
        (&["linux/arm64", "linux/amd64"], "linux/x86_64", "linux/amd64"),
    ] {
        let offers: Vec<Offer<'_>> = offers.iter().map(|platform| offer(platform, platform)).collect();
        layout_of(&bench, &offers);
        assert_eq!(which(&bench, &convert(&bench, "oci:multi", &["--platform", asked])), taken, "{asked}");
    }
    layout_of(&bench, &[offer("a", "linux/amd64/v3"), offer("b", "linux/arm/v7")]);
    let text = refusal(&convert(&bench, "oci:multi", &["--platform", "linux/amd64"]));
    assert!(text.contains("can be one of: linux/amd64/v3, linux/arm/v7"), "{text}");
}

#[test]
fn an_image_is_one_by_its_media_types_and_not_by_its_index_entry() {
    let bench = Bench::new();
    // apko and go-containerregistry set artifactType on image entries; where only some have it, none may be passed over.
    let config = json!({ "artifactType": "application/vnd.oci.image.config.v1+json" });
    let amd64 = Offer { extra: config, ..offer("amd64", "linux/amd64") };
    layout_of(&bench, &[amd64, offer("arm64", "linux/arm64")]);
    assert_eq!(which(&bench, &convert(&bench, "oci:multi", &["--platform", "linux/amd64"])), "amd64");

    // An attestation, as BuildKit marks it, beside the image; and alone.
    let attestation = || Offer {
        extra: json!({ "annotations": { "vnd.docker.reference.type": "attestation-manifest" } }),
        ..offer("attestation", "unknown/unknown")
    };
    layout_of(&bench, &[attestation(), offer("image", "linux/amd64")]);
    assert_eq!(which(&bench, &convert(&bench, "oci:multi", &[])), "image");
    layout_of(&bench, &[attestation()]);
    let text = refusal(&convert(&bench, "oci:multi", &[]));
    assert!(text.contains("only 1 attestation manifest"), "{text}");

    // An artifact (here a Helm chart) says what it is.
    let directory = image("x").oci_layout(&bench.path("chart"), Packing::Gzip);
    let index = read_json(&directory.join("index.json"));
    let hex = index["manifests"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap().to_owned();
    let mut manifest = read_json(&directory.join("blobs/sha256").join(hex));
    manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    let (digest, size) = put_blob(&directory, &serde_json::to_vec(&manifest).unwrap());
    let entry = json!({ "mediaType": manifest["mediaType"], "digest": digest, "size": size });
    write_json(&directory.join("index.json"), &json!({ "schemaVersion": 2, "manifests": [entry] }));
    let text = refusal(&convert(&bench, "oci:chart", &[]));
    assert!(text.contains("an artifact of type `application/vnd.cncf.helm.config.v1+json`"), "{text}");
}

#[test]
fn entries_without_a_platform_are_judged_by_their_configs() {
    let bench = Bench::new();
    let directory = layout_of(&bench, &[offer("amd64", "linux/amd64"), offer("arm64", "linux/arm64")]);
    let mut index = read_json(&directory.join("index.json"));
    for entry in index["manifests"].as_array_mut().unwrap() {
        entry.as_object_mut().unwrap().remove("platform");
    }
    write_json(&directory.join("index.json"), &index);
    assert_eq!(which(&bench, &convert(&bench, "oci:multi", &["--platform", "linux/arm64"])), "arm64");
}

#[test]
fn a_lone_image_of_another_machine_gives_a_warning() {
    let bench = Bench::new();
    Image { architecture: "s390x", ..image("z") }.oci_layout(&bench.path("other"), Packing::Gzip);
    let output = convert(&bench, "oci:other", &[]);
    assert!(output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("the image is for linux/s390x"), "{text}");
    let asked = convert(&bench, "oci:other", &["--platform", "linux/s390x"]);
    let text = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(asked.status.success() && !text.contains("warning"), "{text}");
}

#[test]
fn docker_archives_that_docker_load_takes() {
    let bench = Bench::new();
    let layer = Layer::new().file("which", b"lower case").tar();
    let config = json!({ "architecture": "amd64", "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [Sha256::of(&layer).to_string()] } });
    let config = serde_json::to_vec(&config).unwrap();
    let archive = |config_name: &str, layer_name: &str, keys: [&str; 2], bytes: &[u8]| {
        let manifest = json!([{ keys[0]: config_name, keys[1]: [layer_name] }]);
        let manifest = serde_json::to_vec(&manifest).unwrap();
        let tar =
            Layer::new().file(config_name, &config).file(layer_name, bytes).file("manifest.json", &manifest).tar();
        std::fs::write(bench.path("a.tar"), tar).unwrap();
    };
    // jib wrote keys in lower case, and compressed layers.
    archive("config.json", "l.tar.gz", ["config", "layers"], &Packing::Gzip.pack(&layer));
    assert_eq!(which(&bench, &convert(&bench, "docker-archive:a.tar", &[])), "lower case");
    // A config that somebody edited has another digest than its name says.
    archive(&format!("{}.json", "a".repeat(64)), "l.tar", ["Config", "Layers"], &layer);
    let output = convert(&bench, "docker-archive:a.tar", &[]);
    assert_eq!(which(&bench, &output), "lower case");
    assert!(String::from_utf8_lossy(&output.stderr).contains("was changed after the image was saved"));
    // A link to what is not there.
    let manifest = json!([{ "Config": "config.json", "Layers": ["l/layer.tar"] }]);
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let tar = Layer::new()
        .file("config.json", &config)
        .file("b.tar", &layer)
        .symlink("l/layer.tar", "b.tar")
        .file("manifest.json", &manifest)
        .tar();
    std::fs::write(bench.path("a.tar"), tar).unwrap();
    let text = refusal(&convert(&bench, "docker-archive:a.tar", &[]));
    assert!(text.contains("l/layer.tar: a link to `l/b.tar`, which is not in the archive"), "{text}");
}

#[test]
fn an_input_that_is_something_else_is_named() {
    let bench = Bench::new();
    image("x").docker_archive(&bench.path("docker.tar"), true);
    image("x").docker_archive(&bench.path("docker-new.tar"), false);
    image("x").oci_archive(&bench.path("oci.tar"), Packing::Gzip);
    image("x").oci_layout(&bench.path("layout/below"), Packing::Gzip);
    let root = Layer::new().dir("etc").file("etc/x", b"y").dir("usr").tar();
    std::fs::write(bench.path("root.tar"), root).unwrap();
    std::fs::write(bench.path("docker.tar.gz"), Packing::Gzip.pack(&std::fs::read(bench.path("docker.tar")).unwrap()))
        .unwrap();
    std::fs::write(bench.path("empty.tar"), b"").unwrap();
    std::fs::write(bench.path("zeros.tar"), vec![0; 10_240]).unwrap();
    std::fs::write(bench.path("a.zip"), b"PK\x03\x04rest of it").unwrap();
    File::create(bench.path("fs.ext4")).unwrap().set_len(8 << 20).unwrap();
    let made = Command::new("mkfs.ext4").args(["-q", "-F"]).arg(bench.path("fs.ext4")).status();
    assert!(made.expect("mkfs.ext4 (Debian's e2fsprogs) is installed").success());
    for (reference, words) in [
        ("tar:docker.tar", "write docker-archive:"),
        ("tar:docker-new.tar", "write docker-archive:"),
        ("tar:docker.tar.gz", "write docker-archive:"),
        ("tar:oci.tar", "write oci-archive:"),
        ("tar:empty.tar", "an empty file"),
        ("tar:zeros.tar", "without entries"),
        ("tar:fs.ext4", "an ext2, ext3 or ext4 file system image"),
        ("tar:a.zip", "not a tar archive but a zip archive"),
        ("docker-archive:root.tar", "write tar:"),
        ("docker-archive:oci.tar", "write oci-archive:"),
        ("docker-archive:a.zip", "a zip archive"),
        ("oci-archive:docker.tar", "write docker-archive:"),
        ("oci:layout", "layout/below"),
        ("oci:oci.tar", "oci-archive:oci.tar"),
        ("oci-archive:layout", "write oci:layout"),
        ("docker.tar", "docker-archive:docker.tar"),
        ("layout/below", "write oci:layout/below"),
        ("python:3.12", "docker://python:3.12"),
        ("docker://localhost:1/Team/App", "lower case"),
    ] {
        let text = refusal(&convert(&bench, reference, &[]));
        assert!(text.contains(words), "{reference}: {text}");
    }
    assert!(!bench.path("out.cpm").exists());
}

#[test]
fn a_root_file_system_of_one_odd_file_is_still_one() {
    let bench = Bench::new();
    for (name, file) in [("app.json", "app.json"), ("app", "app"), ("which", "sub/which.tar")] {
        std::fs::write(bench.path("r.tar"), Layer::new().file(file, name.as_bytes()).tar()).unwrap();
        stdout(&convert(&bench, "tar:r.tar", &[]));
    }
}

/// Starts the conversion of what is written to its standard input.
fn convert_from_pipe(bench: &Bench, reference: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_coldpress"))
        .args(["convert", reference, "--store", "store", "-o", "out.cpm", "--no-cache"])
        .current_dir(bench.dir.path())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn images_come_through_pipes() {
    let bench = Bench::new();
    image("docker").docker_archive(&bench.path("docker.tar"), true);
    image("oci").oci_archive(&bench.path("oci.tar"), Packing::Gzip);
    std::fs::write(bench.path("root.tar"), Layer::new().file("which", b"root").tar()).unwrap();
    for (reference, file, content) in [
        ("docker-archive:-", "docker.tar", "docker"),
        ("oci-archive:-", "oci.tar", "oci"),
        ("tar:-", "root.tar", "root"),
        ("tar:/dev/stdin", "root.tar", "root"),
    ] {
        let mut child = convert_from_pipe(&bench, reference);
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(&std::fs::read(bench.path(file)).unwrap()).unwrap();
        drop(pipe);
        assert_eq!(which(&bench, &child.wait_with_output().unwrap()), content, "{reference}");
    }
}

/// A producer that has nothing to say for a while, as `docker save` of a large image: the wait is reported.
#[test]
fn a_pipe_that_is_slow_is_reported_every_two_seconds() {
    let bench = Bench::new();
    image("slow").docker_archive(&bench.path("docker.tar"), true);
    let mut child = convert_from_pipe(&bench, "docker-archive:-");
    let mut pipe = child.stdin.take().unwrap();
    let mut errors = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    let began = Instant::now();
    errors.read_line(&mut line).unwrap();
    assert!(line.starts_with("coldpress: input: 0 B"), "{line}");
    assert!(began.elapsed() < Duration::from_secs(10), "the first report took {:?}", began.elapsed());
    pipe.write_all(&std::fs::read(bench.path("docker.tar")).unwrap()).unwrap();
    drop(pipe);
    assert_eq!(which(&bench, &child.wait_with_output().unwrap()), "slow");
}

/// OCI image specification, descriptor.md, "Embedded Content": the bytes in base64, of which size and digest must be verified.
#[test]
fn content_that_stands_in_its_descriptor_is_taken_from_there_and_verified() {
    let bench = Bench::new();
    let directory = image("embedded").oci_layout(&bench.path("image"), Packing::Gzip);
    let index_path = directory.join("index.json");
    let blob_path = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        directory.join("blobs/sha256").join(digest.strip_prefix("sha256:").unwrap())
    };
    let embed = |descriptor: &mut Value| {
        let path = blob_path(descriptor);
        descriptor["data"] = json!(STANDARD.encode(std::fs::read(&path).unwrap()));
        std::fs::remove_file(path).unwrap();
    };
    let mut index = read_json(&index_path);
    let mut manifest = read_json(&blob_path(&index["manifests"][0]));
    std::fs::remove_file(blob_path(&index["manifests"][0])).unwrap();
    embed(&mut manifest["config"]);
    embed(&mut manifest["layers"][0]);
    let (digest, size) = put_blob(&directory, &serde_json::to_vec(&manifest).unwrap());
    index["manifests"][0]["digest"] = json!(digest);
    index["manifests"][0]["size"] = json!(size);
    embed(&mut index["manifests"][0]);
    write_json(&index_path, &index);
    assert_eq!(std::fs::read_dir(directory.join("blobs/sha256")).unwrap().count(), 0);
    assert_eq!(which(&bench, &convert(&bench, "oci:image", &[])), "embedded");

    let good = index["manifests"][0].clone();
    let bytes = STANDARD.decode(good["data"].as_str().unwrap()).unwrap();
    let mut other = bytes.clone();
    other[0] ^= 1;
    for (data, reason) in [
        ("?".to_owned(), "not base64"),
        (STANDARD.encode(&bytes[1..]), "but the descriptor's size is"),
        (STANDARD.encode(other), "its digest is sha256:"),
    ] {
        index["manifests"][0]["data"] = json!(data);
        write_json(&index_path, &index);
        let text = refusal(&convert(&bench, "oci:image", &[]));
        assert!(text.contains(&format!("the `data` field of descriptor {digest}")) && text.contains(reason), "{text}");
    }
}

/// Rewrites the blob that `descriptor` names under its SHA-512 digest.
fn by_sha512(directory: &Path, descriptor: &mut Value, bytes: &[u8]) {
    let hex = to_hex(digest(&SHA512, bytes).as_ref());
    std::fs::create_dir_all(directory.join("blobs/sha512")).unwrap();
    std::fs::write(directory.join("blobs/sha512").join(&hex), bytes).unwrap();
    descriptor["digest"] = json!(format!("sha512:{hex}"));
    descriptor["size"] = json!(bytes.len());
}

#[test]
fn digests_by_sha512_are_checked() {
    let bench = Bench::new();
    for packing in [Packing::Gzip, Packing::Plain] {
        let directory = image("512").oci_layout(&bench.path("image"), packing);
        let blob = |descriptor: &Value| {
            let digest = descriptor["digest"].as_str().unwrap().replace(':', "/");
            std::fs::read(directory.join("blobs").join(digest)).unwrap()
        };
        let mut index = read_json(&directory.join("index.json"));
        let entry = &mut index["manifests"][0];
        let mut manifest: Value = serde_json::from_slice(&blob(entry)).unwrap();
        let (config, layer) = (blob(&manifest["config"]), blob(&manifest["layers"][0]));
        by_sha512(&directory, &mut manifest["config"], &config);
        by_sha512(&directory, &mut manifest["layers"][0], &layer);
        by_sha512(&directory, entry, &serde_json::to_vec(&manifest).unwrap());
        let named = format!("oci:image@{}", entry["digest"].as_str().unwrap());
        write_json(&directory.join("index.json"), &index);
        std::fs::remove_dir_all(directory.join("blobs/sha256")).unwrap();
        assert_eq!(which(&bench, &convert(&bench, "oci:image", &[])), "512");
        assert_eq!(which(&bench, &convert(&bench, &named, &[])), "512");
        // One bit of the layer's last byte, which is behind the end of its tar or in gzip's check.
        let path = directory.join("blobs").join(manifest["layers"][0]["digest"].as_str().unwrap().replace(':', "/"));
        let mut bytes = std::fs::read(&path).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&path, bytes).unwrap();
        refusal(&convert(&bench, "oci:image", &[]));
        std::fs::remove_dir_all(&directory).unwrap();
    }
}

#[test]
fn a_directory_as_skopeo_writes_it() {
    let bench = Bench::new();
    image("dir").oci_layout(&bench.path("image"), Packing::Gzip);
    let copied = Command::new("skopeo")
        .args(["copy", "--quiet", "oci:image:latest", "dir:copy"])
        .current_dir(bench.dir.path())
        .status()
        .expect("skopeo (Debian's skopeo) is installed");
    assert!(copied.success());
    assert_eq!(which(&bench, &convert(&bench, "dir:copy", &[])), "dir");
    let text = refusal(&convert(&bench, "dir:image", &[]));
    assert!(text.contains("manifest.json"), "{text}");
}

pub fn filter(program: &str, args: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child =
        Command::new(program).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap_or_else(|error| {
            panic!("{program} (Debian's package of that name, or xz-utils) is installed: {error}")
        });
    let (mut pipe, input) = (child.stdin.take().unwrap(), input.to_vec());
    let writer = std::thread::spawn(move || pipe.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    stdout(&output)
}

#[test]
fn xz_and_bzip2_are_read_as_docker_reads_them() {
    let bench = Bench::new();
    let big = noise(3 << 20, 5);
    let layer = Layer::new().file("which", b"packed").file("zeros", &vec![0; 3 << 20]).file("noise", &big);
    let plain = bench.convert(&Image::new([layer.clone()]), "plain", &[])["root_digest"].clone();
    for (program, args) in [
        ("xz", &["-c", "-2"][..]),
        ("xz", &["-c", "--block-size=1MiB", "-C", "crc32"]),
        ("bzip2", &["-c"]),
        ("xz", &["-c", "--x86", "--lzma2"]),
    ] {
        let packed = filter(program, args, &layer.tar());
        std::fs::write(bench.path("root.tar.packed"), &packed).unwrap();
        assert_eq!(which(&bench, &convert(&bench, "tar:root.tar.packed", &[])), "packed", "{program}");
        // A docker archive whose layer is packed has the root digest of one whose layer is not.
        Image::new([layer.clone()]).docker_archive(&bench.path("a.tar"), true);
        let whole = filter(program, args, &std::fs::read(bench.path("a.tar")).unwrap());
        std::fs::write(bench.path("a.tar.packed"), whole).unwrap();
        let json = bench.convert_from("docker-archive:a.tar.packed", "packed", &[]);
        assert_eq!(json["root_digest"], plain, "{program}");
        // Cut short, it is refused.
        std::fs::write(bench.path("root.tar.packed"), &packed[..packed.len() / 2]).unwrap();
        refusal(&convert(&bench, "tar:root.tar.packed", &[]));
    }
}

#[test]
fn what_stands_behind_the_last_gzip_member_is_passed_over() {
    let bench = Bench::new();
    let tar = Layer::new().file("which", b"gzip").tar();
    let (first, second) = tar.split_at(700);
    let members = [Packing::Gzip.pack(first), Packing::Gzip.pack(second)].concat();
    for behind in [&b""[..], &[0; 512], b"x", b"trailing garbage"] {
        std::fs::write(bench.path("r.tar.gz"), [&members, behind].concat()).unwrap();
        assert_eq!(which(&bench, &convert(&bench, "tar:r.tar.gz", &[])), "gzip", "{behind:?}");
    }
    // A further member that is none is an error.
    std::fs::write(bench.path("r.tar.gz"), [&members, &b"\x1F\x8B\x08broken"[..]].concat()).unwrap();
    refusal(&convert(&bench, "tar:r.tar.gz", &[]));
}

#[test]
fn a_nondistributable_layer_that_is_there_is_a_layer() {
    let bench = Bench::new();
    let directory = image("foreign").oci_layout(&bench.path("image"), Packing::Gzip);
    let mut index = read_json(&directory.join("index.json"));
    let path = index["manifests"][0]["digest"].as_str().unwrap().replace(':', "/");
    let mut manifest = read_json(&directory.join("blobs").join(path));
    let layer = &mut manifest["layers"][0];
    layer["mediaType"] = json!("application/vnd.oci.image.layer.nondistributable.v1.tar+gzip");
    layer["urls"] = json!(["https://layers.example/x"]);
    let blob = directory.join("blobs").join(layer["digest"].as_str().unwrap().replace(':', "/"));
    let (digest, size) = put_blob(&directory, &serde_json::to_vec(&manifest).unwrap());
    (index["manifests"][0]["digest"], index["manifests"][0]["size"]) = (json!(digest), json!(size));
    write_json(&directory.join("index.json"), &index);
    assert_eq!(which(&bench, &convert(&bench, "oci:image", &[])), "foreign");
    std::fs::remove_file(blob).unwrap();
    let text = refusal(&convert(&bench, "oci:image", &[]));
    assert!(text.contains("https://layers.example/x"), "{text}");
}

#[test]
fn all_platforms_in_one_run_are_each_what_one_alone_gives() {
    let bench = Bench::new();
    layout_of(
        &bench,
        &[offer("amd64", "linux/amd64"), offer("arm64", "linux/arm64/v8"), offer("again", "linux/x86_64")],
    );
    let args = ["convert", "oci:multi", "--store", "store", "-o", "app.cpm", "--all-platforms", "--json"];
    let json: Value = serde_json::from_slice(&stdout(&bench.coldpress(&args))).unwrap();
    let all = json["platforms"].as_array().unwrap();
    let manifests: Vec<&str> = all.iter().map(|one| one["manifest"].as_str().unwrap()).collect();
    assert_eq!(manifests, ["app.linux-amd64.cpm", "app.linux-arm64.cpm"]);
    for (one, platform) in all.iter().zip(["linux/amd64", "linux/arm64"]) {
        let alone = bench.convert_from("oci:multi", "alone", &["--platform", platform]);
        assert_eq!(one["root_digest"], alone["root_digest"], "{platform}");
        stdout(&bench.coldpress(&["verify", one["manifest"].as_str().unwrap(), "--store", "store"]));
    }
    let args = ["convert", "oci:multi", "--store", "store", "-o", "-", "--all-platforms"];
    assert_eq!(bench.coldpress(&args).status.code(), Some(2));
}

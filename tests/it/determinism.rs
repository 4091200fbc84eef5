//! The same image gives the same root digest and chunk names, however it travels and wherever it is converted; another
//! image does not.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::common::{Bench, Image, Layer, Meta, Packing, noise, stdout};

/// Two layers with all that flattening knows.
pub fn sample() -> Image {
    let base = Layer::new()
        .dir("./")
        .dir("bin")
        .file_with("bin/app", &noise(700_000, 1), &Meta::mode(0o755))
        .dir("etc")
        .file("etc/hosts", b"127.0.0.1 localhost\n")
        .file_with("etc/capable", b"x", &Meta::mode(0o755).xattr("user.note", b"kept"))
        .symlink("lib", "usr/lib")
        .entry(b'1', b"bin/app-again", b"bin/app", b"", &Meta::mode(0o755), (0, 0))
        .char_device("null", 1, 3);
    let top =
        Layer::new().whiteout("etc/hosts").dir("srv").file("srv/data", &noise(20_000, 2)).file("etc/motd", b"hello\n");
    Image::new([base, top])
}

fn names(bench: &Bench) -> BTreeSet<String> {
    let entries = std::fs::read_dir(bench.path("store/main")).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Root digest, and the names of all chunks, of one conversion on a bench of its own.
fn fingerprint(prepare: impl FnOnce(&Bench) -> String, options: &[&str]) -> (Value, BTreeSet<String>) {
    let bench = Bench::new();
    let reference = prepare(&bench);
    let json = bench.convert_from(&reference, "out", options);
    (json["root_digest"].clone(), names(&bench))
}

fn from_layout(image: &Image) -> (Value, BTreeSet<String>) {
    fingerprint(|bench| format!("oci:{}", image.oci_layout(&bench.path("image"), Packing::Gzip).display()), &[])
}

#[test]
fn every_form_of_an_image_gives_the_same_chunks() {
    let (image, wanted) = (sample(), from_layout(&sample()));
    for packing in [Packing::Plain, Packing::Zstd] {
        let got =
            fingerprint(|bench| format!("oci:{}", image.oci_layout(&bench.path("image"), packing).display()), &[]);
        assert_eq!(got, wanted, "{packing:?} layout");
    }
    let archive = |bench: &Bench| {
        format!("oci-archive:{}:latest", image.oci_archive(&bench.path("a.tar"), Packing::Gzip).display())
    };
    assert_eq!(fingerprint(archive, &[]), wanted, "oci-archive");
    for old in [true, false] {
        let archive =
            |bench: &Bench| format!("docker-archive:{}", image.docker_archive(&bench.path("a.tar"), old).display());
        assert_eq!(fingerprint(archive, &[]), wanted, "docker-archive, old: {old}");
    }
}

/// eStargz is gzip in many members, zstd:chunked is zstd in many frames with skippable ones between.
#[test]
fn layers_in_many_members_and_frames_are_read_to_their_end() {
    let tar = sample().layers[0].tar();
    let (front, back) = tar.split_at(300_000);
    let skippable = [&0x184D_2A50u32.to_le_bytes()[..], &5u32.to_le_bytes(), b"table"].concat();
    let gzip = [Packing::Gzip.pack(front), Packing::Gzip.pack(back), Packing::Gzip.pack(b"")].concat();
    let zstd = [&skippable[..], &Packing::Zstd.pack(front), &skippable, &Packing::Zstd.pack(back), &skippable].concat();
    let digest = |bytes: &[u8]| {
        fingerprint(
            |bench| {
                std::fs::write(bench.path("root.tar"), bytes).unwrap();
                "tar:root.tar".to_owned()
            },
            &[],
        )
    };
    let wanted = digest(&tar);
    assert_eq!(digest(&gzip), wanted);
    assert_eq!(digest(&zstd), wanted);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let image = sample();
    let with = |threads| {
        fingerprint(
            |bench| format!("oci:{}", image.oci_layout(&bench.path("image"), Packing::Gzip).display()),
            &["--threads", threads],
        )
    };
    assert_eq!(with("1"), with("8"));
}

/// A layer is sealed as it is read, or kept and sealed when all is known; the image is the same. A plain tar of files in path order
/// without anything odd is what each must equal.
#[test]
fn a_layer_in_any_order_gives_the_chunks_of_one_in_path_order() {
    let (a, b, c) = (noise(700_000, 1), noise(30_000, 2), noise(600_000, 3));
    let ordered = || Layer::new().file("d/a", &a).file("d/b", &b).file("d/c", &c);
    let linked = || Layer::new().file("d/a", &a).hardlink("d/b", "d/a").file("d/c", &c);
    let odd: [(&str, Layer, Layer); 7] = [
        ("backwards", Layer::new().file("d/c", &c).file("d/b", &b).file("d/a", &a), ordered()),
        ("the first last", Layer::new().file("d/b", &b).file("d/c", &c).file("d/a", &a), ordered()),
        ("an entry twice", Layer::new().file("d/a", &c).file("d/b", &b).file("d/a", &a).file("d/c", &c), ordered()),
        (
            "a file that becomes a symlink",
            Layer::new().file("d/0", &c).file("d/a", &a).symlink("d/0", "a").file("d/b", &b).file("d/c", &c),
            ordered().symlink("d/0", "a"),
        ),
        ("up and down again", Layer::new().file("d/a", &a).file("x/../d/b", &b).file("d/c", &c), ordered()),
        (
            "through a symlink of its own",
            Layer::new().file("d/a", &a).symlink("l", "d").file("l/b", &b).file("d/c", &c),
            ordered().symlink("l", "d"),
        ),
        ("a link before its file", Layer::new().file("d/b", &a).hardlink("d/a", "d/b").file("d/c", &c), linked()),
    ];
    for (what, odd, wanted) in odd {
        let implied = |layer: Layer| layer.dir("d");
        let image = |layer: Layer| Image::new([implied(layer), Layer::new().whiteout("d/c").file("top", b"top")]);
        let with = |image: &Image, packing, threads: &str| {
            let layout = |bench: &Bench| format!("oci:{}", image.oci_layout(&bench.path("image"), packing).display());
            let bench = Bench::new();
            let json = bench.convert_from(&layout(&bench), "out", &["--threads", threads]);
            (json["image_digest"].clone(), json["chunks"].clone())
        };
        let (odd, wanted) = (image(odd), image(wanted));
        let wanted = with(&wanted, Packing::Plain, "1");
        for (packing, threads) in
            [(Packing::Gzip, "1"), (Packing::Zstd, "2"), (Packing::Plain, "2"), (Packing::Gzip, "8")]
        {
            assert_eq!(with(&odd, packing, threads), wanted, "{what}, {packing:?}, {threads} threads");
        }
    }
}

/// What is sealed as it is read needs no room elsewhere, also below a layer that hides some of it.
#[test]
fn layers_in_path_order_need_no_temporary_directory() {
    let base = Layer::new().dir("d").file("d/a", &noise(700_000, 1)).symlink("d/l", &"long/".repeat(20));
    let image = |base: Layer| Image::new([base, Layer::new().whiteout("d/a").file("e", &noise(5_000, 2))]);
    let convert = |image: &Image, packing| {
        let bench = Bench::new();
        let layout = image.oci_layout(&bench.path("image"), packing);
        let reference = format!("oci:{}", layout.display());
        let command =
            ["convert", &reference, "--store", "store", "-o", "out.cpm", "--temp", "nowhere", "--threads", "2"];
        bench.coldpress(&command)
    };
    let ordered = convert(&image(base.clone()), Packing::Gzip);
    assert!(ordered.status.success(), "{}", String::from_utf8_lossy(&ordered.stderr));
    let unordered = image(base.file("d/0", b"late"));
    let plain = convert(&unordered, Packing::Plain);
    assert!(plain.status.success(), "a plain tar is read again: {}", String::from_utf8_lossy(&plain.stderr));
    let unordered = convert(&unordered, Packing::Gzip);
    assert_eq!(unordered.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unordered.stderr).contains("nowhere"));
}

/// Another user, directory, time zone, locale, umask and year. `faketime` (Debian's package of that name) sets the clock.
#[test]
fn who_where_and_when_change_nothing() {
    let image = sample();
    let wanted = from_layout(&image);
    let bench = Bench::new();
    image.oci_layout(&bench.path("image"), Packing::Gzip);
    // A directory that nobody may use, with a key of its own, since a key file may have one reader only.
    let home = bench.path("elsewhere");
    std::fs::create_dir(&home).unwrap();
    std::fs::copy(bench.path("coldpress.key"), home.join("nobody.key")).unwrap();
    std::fs::copy(env!("CARGO_BIN_EXE_coldpress"), home.join("coldpress")).unwrap();
    let script = "umask 0077; exec faketime '2031-07-01 03:04:05' ./coldpress convert oci:../image --store ../elsewhere/store \
                  --key file:nobody.key --temp . -o out.cpm --json";
    let chown = Command::new("chown").args(["-R", "nobody:nogroup"]).arg(&home).status().unwrap();
    assert!(chown.success(), "this test needs root");
    std::fs::set_permissions(bench.dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c", script])
        .current_dir(&home)
        .env("TZ", "Pacific/Kiritimati")
        .env("LC_ALL", "tr_TR.UTF-8")
        .output()
        .unwrap();
    let json: Value = serde_json::from_slice(&stdout(&output)).unwrap();
    assert_eq!(json["root_digest"], wanted.0);
    let store: BTreeSet<String> = std::fs::read_dir(home.join("store/main"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(store, wanted.1);
}

/// One changed byte anywhere is another image.
#[test]
fn one_changed_byte_changes_the_root_digest() {
    let base = |name: &str, data: &[u8], meta: &Meta| Image::new([Layer::new().dir("etc").file_with(name, data, meta)]);
    let plain = Meta::default();
    let mut images = vec![
        base("etc/a", b"x", &plain),
        base("etc/b", b"x", &plain),
        base("etc/a", b"y", &plain),
        base("etc/a", b"x\0", &plain),
        base("etc/a", b"x", &Meta { mtime: plain.mtime + 1, ..plain.clone() }),
        base("etc/a", b"x", &Meta::mode(0o600)),
        base("etc/a", b"x", &Meta { uid: 1, ..plain.clone() }),
        base("etc/a", b"x", &Meta { gid: 1, ..plain.clone() }),
        base("etc/a", b"x", &plain.clone().xattr("user.a", b"1")),
        base("etc/a", b"x", &plain.clone().xattr("user.a", b"2")),
        base("etc/a", b"x", &plain.clone().xattr("user.b", b"1")),
    ];
    let mut subsecond = plain.clone();
    subsecond.pax.push(("mtime".to_owned(), format!("{}.000000001", plain.mtime).into_bytes()));
    images.push(base("etc/a", b"x", &subsecond));
    let mut other_config = images[0].clone();
    other_config.config = json!({ "Cmd": ["/bin/app"], "Env": ["PATH=/sbin"], "WorkingDir": "/" });
    images.push(other_config);
    let digests: Vec<String> = images.iter().map(|image| from_layout(image).0.to_string()).collect();
    let distinct: BTreeSet<&String> = digests.iter().collect();
    assert_eq!(distinct.len(), images.len(), "{digests:#?}");
}

/// The salt makes the chunks' names and keys; the image stays the same.
#[test]
fn another_salt_seals_the_same_image_otherwise() {
    let bench = Bench::new();
    let one = bench.convert(&sample(), "one", &[]);
    std::fs::remove_file(bench.path("coldpress.key")).unwrap();
    stdout(&bench.coldpress(&["keygen"]));
    let two = bench.convert(&sample(), "two", &[]);
    assert_eq!(one["image_digest"], two["image_digest"]);
    assert_ne!(one["root_digest"], two["root_digest"]);
    assert_eq!(two["claimed_chunks"], 0, "no chunk is shared across salts");
    let none = bench.convert(&sample(), "none", &["--compression", "none"]);
    assert_eq!(none["image_digest"], two["image_digest"], "nor does the codec change the image");
}

/// Layout epoch 1 never changes: whoever changes a byte of these makes a new epoch.
#[test]
fn golden_digests_of_epoch_1() {
    let hidden = Image::new([
        Layer::new()
            .dir("a")
            .file("a/one", &noise(600_000, 7))
            .file("a/two", &noise(5_000, 8))
            .dir("a/b")
            .file("a/b/three", b"3"),
        Layer::new().whiteout("a/one").opaque("a/b").file("z", b"z"),
    ]);
    let many = Image::new([
        (0..3000).fold(Layer::new().dir("d"), |layer, n| layer.file(&format!("d/file-{n:05}"), b"content"))
    ]);
    let got: Vec<String> = [("sample", sample()), ("hidden", hidden), ("many", many)]
        .iter()
        .map(|(name, image)| {
            let bench = Bench::new();
            let json = bench.convert(image, "image", &["--compression", "none"]);
            format!("{name} {} {}", json["root_digest"].as_str().unwrap(), json["image_digest"].as_str().unwrap())
        })
        .collect();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/golden-epoch-1.txt");
    let wanted = std::fs::read_to_string(path).unwrap();
    assert_eq!(got, wanted.lines().collect::<Vec<_>>());
}

/// The vectors of the formats: what was made once is still read, and still made.
#[test]
fn the_published_vectors_are_read_and_made_again() {
    let bench = Bench::new();
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vectors");
    std::fs::copy(vectors.join("published-test.key"), bench.path("coldpress.key")).unwrap();
    std::fs::set_permissions(bench.path("coldpress.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    let (root, image) = (vectors.join("root.tar"), vectors.join("image.oci.tar.gz"));
    for (name, source) in [
        ("none", format!("tar:{}", root.display())),
        ("zstd", format!("tar:{}", root.display())),
        ("image", format!("oci-archive:{}", image.display())),
    ] {
        let wanted: Value =
            serde_json::from_slice(&std::fs::read(vectors.join(format!("{name}.json"))).unwrap()).unwrap();
        let manifest = vectors.join(format!("{name}.cpm")).display().to_string();
        let store = vectors.join(format!("store-{name}")).display().to_string();
        let verified =
            stdout(&bench.coldpress(&["verify", &manifest, "--store", &store, "--source", &source, "--json"]));
        let verified: Value = serde_json::from_slice(&verified).unwrap();
        assert_eq!((&verified["root_digest"], &verified["verified"]), (&wanted["root_digest"], &json!(true)), "{name}");
        let (path, text) = if name == "image" { ("/b", "top\n") } else { ("/etc/issue", "coldpress test vector\n") };
        assert_eq!(stdout(&bench.coldread(&["cat", &manifest, "--store", &store, path])), text.as_bytes());
    }
}

//! Conversions that cost only what changed: what the cache spares, and that it changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::common::{Bench, Image, Layer, Packing, TEST_KEY, noise, stdout};

const CACHED: [&str; 2] = ["--cache", "cache"];

fn base() -> Layer {
    Layer::new()
        .file("bin/app", &noise(700_000, 1))
        .file("etc/os", b"one")
        .hardlink("etc/same", "etc/os")
        .file("lib/data", &noise(1_500_000, 2))
        .symlink("lib64", "lib")
}

fn middle() -> Layer {
    Layer::new().file("opt/tool", &noise(600_000, 3)).file("etc/tool", b"two").hardlink("opt/os", "etc/os")
}

fn image(top: Layer) -> Image {
    Image::new([base(), middle(), top])
}

/// Converts `image` as `NAME`, with the layers of `unreadable` spoilt: who reads them fails.
fn convert_without(bench: &Bench, image: &Image, name: &str, unreadable: &[Layer], options: &[&str]) -> Output {
    let layout = image.oci_layout(&bench.path(name), Packing::Gzip);
    for layer in unreadable {
        spoil(&blob_of(&layout, layer));
    }
    let (reference, output) = (format!("oci:{name}"), format!("{name}.cpm"));
    bench.coldpress(&[&["convert", &reference, "--store", "store", "-o", &output, "--json"], options].concat())
}

fn blob_of(layout: &Path, layer: &Layer) -> PathBuf {
    let packed = Packing::Gzip.pack(&layer.tar());
    layout.join("blobs/sha256").join(coldpress::digest::Sha256::of(&packed).to_hex())
}

fn spoil(blob: &Path) {
    let length = fs::metadata(blob).unwrap().len();
    fs::write(blob, vec![0xAA; usize::try_from(length).unwrap()]).unwrap();
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&stdout(output)).unwrap()
}

/// What a conversion of `image` without anything known comes to.
fn cold(image: &Image) -> Value {
    Bench::new().convert(image, "app", &[])["root_digest"].clone()
}

fn entries(bench: &Bench) -> Vec<PathBuf> {
    let mut entries: Vec<_> = fs::read_dir(bench.path("cache")).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    entries
}

#[test]
fn a_known_layer_is_neither_read_nor_put_and_the_result_is_the_same() {
    let bench = Bench::new();
    let (one, two) = (image(Layer::new().file("app/v", b"1")), image(Layer::new().file("app/v", b"2")));
    let first = bench.convert(&one, "one", &CACHED);
    assert_eq!(first["known_chunks"], 0);
    let second = report(&convert_without(&bench, &two, "two", &[base(), middle()], &CACHED));
    assert_eq!(second["root_digest"], cold(&two));
    assert!(second["known_chunks"].as_u64().unwrap() >= 6, "{second:#}");
    // The whole image again: no layer is read.
    let top = Layer::new().file("app/v", b"2");
    let third = report(&convert_without(&bench, &two, "again", &[base(), middle(), top], &CACHED));
    assert_eq!((&third["root_digest"], &third["put_chunks"]), (&second["root_digest"], &0.into()));
    stdout(&bench.coldpress(&["verify", "two.cpm", "--store", "store"]));
    // Without the cache it matters what the layers hold.
    let refused = convert_without(&bench, &two, "cold", &[base()], &[]);
    assert!(!refused.status.success());
}

#[test]
fn hiding_a_file_of_a_base_layer_needs_that_layer_once() {
    let bench = Bench::new();
    bench.convert(&image(Layer::new().file("app/v", b"1")), "one", &CACHED);
    let hiding = |version: &[u8]| image(Layer::new().whiteout("lib/data").file("app/v", version));
    let refused = convert_without(&bench, &hiding(b"1"), "refused", &[base()], &CACHED);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("layer 1 of 3"), "{refused:?}");
    let read = report(&convert_without(&bench, &hiding(b"1"), "two", &[middle()], &CACHED));
    assert_eq!(read["root_digest"], cold(&hiding(b"1")));
    let known = report(&convert_without(&bench, &hiding(b"2"), "three", &[base(), middle()], &CACHED));
    assert_eq!(known["root_digest"], cold(&hiding(b"2")));
}

#[test]
fn an_entry_that_is_damaged_or_gone_is_a_miss() {
    let bench = Bench::new();
    let image = image(Layer::new().file("app/v", b"1"));
    let wanted = bench.convert(&image, "app", &CACHED)["root_digest"].clone();
    assert_eq!(entries(&bench).len(), 6, "a tree and chunks for each layer");
    for path in entries(&bench) {
        let good = fs::read(&path).unwrap();
        for (what, bad) in [
            ("flipped", good.iter().enumerate().map(|(at, byte)| byte ^ u8::from(at == good.len() / 2)).collect()),
            ("cut", good[..good.len() - 3].to_vec()),
            ("empty", Vec::new()),
            ("another's", fs::read(entries(&bench).into_iter().find(|other| *other != path).unwrap()).unwrap()),
        ] {
            fs::write(&path, &bad).unwrap();
            let again = bench.convert(&image, "app", &CACHED);
            assert_eq!(again["root_digest"], wanted, "{what}");
            assert_ne!(fs::read(&path).unwrap(), bad, "{what}: it is written again");
        }
        fs::remove_file(&path).unwrap();
        assert_eq!(bench.convert(&image, "app", &CACHED)["root_digest"], wanted);
        assert!(path.exists());
    }
}

#[test]
fn a_chunk_that_the_store_lost_is_put_again() {
    let bench = Bench::new();
    let image = image(Layer::new().file("app/v", b"1"));
    let first = bench.convert(&image, "app", &CACHED);
    for chunk in fs::read_dir(bench.path("store/main")).unwrap() {
        fs::remove_file(chunk.unwrap().path()).unwrap();
    }
    let second = bench.convert(&image, "app", &CACHED);
    assert_eq!((&first["root_digest"], &first["put_chunks"]), (&second["root_digest"], &second["put_chunks"]));
    stdout(&bench.coldpress(&["verify", "app.cpm", "--store", "store"]));
}

#[test]
fn the_cache_keeps_to_its_bound_and_to_its_scope() {
    let bench = Bench::new();
    let image = image(Layer::new().file("app/v", b"1"));
    bench.convert(&image, "app", &[&CACHED[..], &["--cache-max", "1KiB"]].concat());
    let length = |path: &PathBuf| fs::metadata(path).unwrap().len();
    assert!(entries(&bench).iter().map(length).sum::<u64>() <= 1024);
    bench.convert(&image, "app", &CACHED);
    let before = entries(&bench);
    // Another scope knows nothing of it, and leaves it.
    let other = report(&convert_without(&bench, &image, "other", &[], &[&CACHED[..], &["--scope", "other"]].concat()));
    assert_eq!(other["known_chunks"], 0);
    assert_eq!(entries(&bench).len(), 2 * before.len());
    let refused = convert_without(&bench, &image, "third", &[base()], &[&CACHED[..], &["--scope", "third"]].concat());
    assert!(!refused.status.success());
}

#[test]
fn the_cache_is_where_the_option_the_environment_or_the_user_s_home_says() {
    let bench = Bench::new();
    image(Layer::new()).oci_layout(&bench.path("app"), Packing::Gzip);
    let all = [("HOME", "home"), ("XDG_CACHE_HOME", "xdg"), ("COLDPRESS_CACHE", "named")];
    let convert = |environment: &[(&str, &str)], options: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldpress"));
        command.current_dir(bench.dir.path()).env_clear().envs(environment.iter().copied());
        stdout(
            &command.args(["convert", "oci:app", "--store", "store", "-o", "x.cpm"]).args(options).output().unwrap(),
        );
    };
    let places = ["home/.cache/coldpress", "xdg/coldpress", "named", "cache"];
    let there = || places.map(|place| bench.path(place).exists());
    convert(&all, &["--no-cache"]);
    assert_eq!(there(), [false; 4]);
    convert(&all, &CACHED);
    assert_eq!(there(), [false, false, false, true]);
    convert(&all, &[]);
    assert_eq!(there(), [false, false, true, true]);
    convert(&all[..2], &[]);
    assert_eq!(there(), [false, true, true, true]);
    convert(&all[..1], &[]);
    assert_eq!(there(), [true; 4]);
    for place in places {
        assert_eq!(fs::read_dir(bench.path(place)).unwrap().count(), 6, "{place}");
    }
}

#[test]
fn a_stolen_cache_tells_neither_names_nor_bytes_nor_keys() {
    let bench = Bench::new();
    let secret = "a-name-that-nobody-shall-see";
    let image = Image::new([Layer::new().file(secret, secret.as_bytes()).symlink("link", secret)]);
    bench.convert(&image, "app", &CACHED);
    let all: Vec<u8> = entries(&bench).iter().flat_map(|path| fs::read(path).unwrap()).collect();
    let has = |needle: &[u8]| all.windows(needle.len()).any(|window| window == needle);
    assert!(!has(secret.as_bytes()));
    for chunk in fs::read_dir(bench.path("store/main")).unwrap() {
        let name = chunk.unwrap().file_name().into_string().unwrap();
        let raw: Vec<u8> = (0..32).map(|at| u8::from_str_radix(&name[2 * at..2 * at + 2], 16).unwrap()).collect();
        assert!(!has(name.as_bytes()) && !has(&raw), "{name}");
    }
    assert!(TEST_KEY.contains(&"17".repeat(32)) && !has(&[0x17; 32]) && !has(&[0x42; 32]));
    for path in entries(&bench) {
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn limits_hold_for_layers_that_are_known() {
    let bench = Bench::new();
    let image = image(Layer::new().file("app/v", b"1"));
    bench.convert(&image, "app", &CACHED);
    for limit in ["1MiB", "2500KiB"] {
        let said = |options: &[&str]| {
            let options = [options, &["--max-size", limit]].concat();
            String::from_utf8(convert_without(&bench, &image, "app", &[], &options).stderr).unwrap()
        };
        assert_eq!(said(&CACHED), said(&[]));
        assert!(said(&CACHED).contains("--max-size"));
    }
}

#[test]
fn a_plan_says_what_would_be_put_and_puts_nothing() {
    let bench = Bench::new();
    let (one, two) = (image(Layer::new().file("app/v", b"1")), image(Layer::new().file("app/v", b"2")));
    one.oci_layout(&bench.path("one"), Packing::Gzip);
    two.oci_layout(&bench.path("two"), Packing::Gzip);
    let plan = |reference: &str, options: &[&str]| {
        report(&bench.coldpress(&[&["convert", reference, "--dry-run", "--json"], options].concat()))
    };
    let store = ["--store", "store"];
    let all = plan("oci:one", &store);
    assert!(!bench.path("store").exists());
    let put = bench.convert_from("oci:one", "one", &CACHED);
    assert_eq!((&all["new_chunks"], &all["new_bytes"]), (&put["new_chunks"], &put["new_bytes"]));
    let [by_store, by_base, by_cache] = [
        plan("oci:two", &store),
        plan("oci:two", &["--base", "one.cpm"]),
        plan("oci:two", &[&store[..], &CACHED].concat()),
    ];
    let put = bench.convert_from("oci:two", "two", &[]);
    for plan in [by_store, by_base, by_cache] {
        assert_eq!((&plan["new_chunks"], &plan["new_bytes"]), (&put["new_chunks"], &put["new_bytes"]), "{plan:#}");
        assert_eq!(plan["root_digest"], put["root_digest"]);
    }
}

#[test]
fn an_image_that_bloats_fails_its_build() {
    let bench = Bench::new();
    let one = image(Layer::new().file("app/v", b"1"));
    bench.convert(&one, "one", &[]);
    let two = image(Layer::new().file("app/bloat", &noise(3_000_000, 9)));
    let limit = ["--max-new-bytes", "1MiB"];
    let refused = convert_without(&bench, &two, "two", &[], &limit);
    assert_eq!(refused.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--max-new-bytes"));
    assert!(!bench.path("two.cpm").exists());
    let planned = convert_without(&bench, &two, "two", &[], &[&["--dry-run"], &limit[..]].concat());
    assert_eq!(planned.status.code(), Some(3));
    assert!(!planned.stdout.is_empty(), "a plan is told whole");
    let fine = convert_without(&bench, &image(Layer::new().file("app/v", b"2")), "three", &[], &limit);
    stdout(&fine);
}

/// Bytes of all files of the store.
fn stored_bytes(bench: &Bench) -> u64 {
    let files = fs::read_dir(bench.path("store/main")).unwrap().map(|entry| entry.unwrap().metadata().unwrap());
    files.filter(fs::Metadata::is_file).map(|file| file.len()).sum()
}

/// Beyond the limit nothing is uploaded, and all is counted: as much as without the limit, by layer and cause.
#[test]
fn a_limit_that_is_exceeded_says_how_much_was_needed() {
    let bench = Bench::new();
    let one = image(Layer::new().file("app/v", b"1"));
    bench.convert(&one, "one", &[]);
    let before = stored_bytes(&bench);
    let mut two = image(Layer::new().file("app/bloat", &noise(5_000_000, 9)));
    let steps = ["ADD base", "RUN tools", "COPY  bloat |\n `x` /app"].map(|step| json!({ "created_by": step }));
    two.history = Some(json!(steps));
    let limit = ["--max-new-bytes", "1MiB", "--base", "one.cpm", "--summary", "s.md", "--outputs", "o.txt"];
    let refused = convert_without(&bench, &two, "two", &[], &limit);
    assert_eq!(refused.status.code(), Some(3), "{refused:?}");
    let json: Value = serde_json::from_slice(&refused.stdout).unwrap();
    let found = &json["error"]["limit"];
    let uploaded = stored_bytes(&bench) - before;
    assert!(uploaded <= 1 << 20 && found["uploaded_bytes"] == uploaded, "{uploaded}: {found:#}");
    assert_eq!((&json["manifest"], &json["error"]["exit_code"]), (&Value::Null, &3.into()));
    assert!(!bench.path("two.cpm").exists());
    let (summary, outputs) = ["s.md", "o.txt"].map(|file| fs::read_to_string(bench.path(file)).unwrap()).into();
    // The same without the limit, from the same state of the store.
    let layers = found["platforms"][0]["layers"].as_array().unwrap();
    let new: u64 = layers.iter().map(|layer| layer["new_bytes"].as_u64().unwrap()).sum();
    assert_eq!((&found["new_bytes"], found["max_new_bytes"].as_u64()), (&new.into(), Some(1 << 20)));
    let last = layers.last().unwrap();
    assert_eq!((&last["layer"], &last["created_by"]), (&3.into(), &steps[2]["created_by"]), "{found:#}");
    assert!(last["new_bytes"].as_u64().unwrap() > 4_900_000, "{found:#}");
    let causes = found["platforms"][0]["causes"].as_array().unwrap();
    assert!(causes.iter().any(|cause| cause["cause"] == "data of a new layer"), "{found:#}");
    for wanted in [
        "**Too much is new**",
        "`--max-new-bytes` allows 1.0 MiB",
        "data of a new layer",
        "No manifest was written",
        "| `COPY bloat ¦ 'x' /app` |",
    ] {
        assert!(summary.contains(wanted), "{wanted}: {summary}");
    }
    for wanted in ["manifest=\n", &format!("new_bytes={new}\n"), "limit_exceeded=true\n", "new_layers=[{", "causes=[{"]
    {
        assert!(outputs.contains(wanted), "{wanted}: {outputs}");
    }
    let options = ["--store", "store", "-o", "two.cpm", "--max-new-bytes", "1MiB", "--base", "one.cpm"];
    let text = bench.coldpress(&[&["convert", "oci:two"], &options[..]].concat());
    let text = String::from_utf8_lossy(&text.stdout).into_owned() + &String::from_utf8_lossy(&text.stderr);
    for wanted in [
        "no manifest, --max-new-bytes exceeded",
        "  needed by\n",
        "  COPY bloat | `x` /app\n",
        "  new since --base\n",
        "allows\n  hint: ",
    ] {
        assert!(text.contains(wanted), "{wanted}: {text}");
    }
    let uploaded = stored_bytes(&bench) - before;
    let all = convert_without(&bench, &two, "two", &[], &[]);
    let all: Value = serde_json::from_slice(&stdout(&all)).unwrap();
    // What was uploaded before the limit is there now.
    assert_eq!(all["new_bytes"].as_u64().unwrap() + uploaded, new, "{all:#}");
}

#[test]
fn a_base_of_another_root_or_scope_is_refused() {
    let bench = Bench::new();
    let image = image(Layer::new());
    bench.convert(&image, "one", &[]);
    for options in [["--root", "r2"], ["--scope", "s"]] {
        let refused = convert_without(&bench, &image, "two", &[], &[&options[..], &["--base", "one.cpm"]].concat());
        assert_eq!(refused.status.code(), Some(1));
        assert!(String::from_utf8_lossy(&refused.stderr).contains("--base one.cpm: its chunks have root main"));
    }
}

#[test]
fn a_cache_that_cannot_be_written_is_read_and_said() {
    let bench = Bench::new();
    let image = image(Layer::new().file("app/v", b"1"));
    bench.convert(&image, "app", &CACHED);
    // Root writes where no mode allows it: a read-only mount says no to everyone.
    let cache = bench.path("cache");
    let mount = |args: &[&str]| {
        let status = Command::new("mount").args(args).arg(&cache).status().unwrap();
        assert!(status.success(), "mount (needs root)");
    };
    mount(&["--bind", cache.to_str().unwrap()]);
    mount(&["-o", "remount,bind,ro"]);
    let known = convert_without(&bench, &image, "known", &[base(), middle()], &CACHED);
    let two = image_with(b"2");
    let learned = convert_without(&bench, &two, "two", &[base(), middle()], &CACHED);
    assert!(Command::new("umount").arg(&cache).status().unwrap().success());
    assert!(report(&known)["put_chunks"] == 0 && known.stderr.is_empty(), "{known:?}");
    assert_eq!(report(&learned)["root_digest"], cold(&two));
    let said = String::from_utf8_lossy(&learned.stderr).into_owned();
    assert!(said.contains("warning: cannot write to the cache: cache: Read-only file system"), "{said}");
}

#[test]
fn a_cache_that_cannot_be_made_is_said_and_gone_without() {
    let bench = Bench::new();
    let image = image(Layer::new().file("app/v", b"1"));
    let mount = |args: &[&str]| {
        let status = Command::new("mount").args(args).arg(bench.path("parent")).status().unwrap();
        assert!(status.success(), "mount (needs root)");
    };
    fs::create_dir(bench.path("parent")).unwrap();
    mount(&["-t", "tmpfs", "-o", "ro", "tmpfs"]);
    image.oci_layout(&bench.path("app"), Packing::Gzip);
    let args = ["convert", "oci:app", "--store", "store", "-o", "app.cpm", "--json", "--cache"];
    let without = bench.coldpress(&[&args[..], &["parent/cache"]].concat());
    // A full one: there is room for its directory, and for no entry.
    mount(&["-o", "remount,rw,size=4k"]);
    fs::create_dir(bench.path("parent/cache")).unwrap();
    fs::write(bench.path("parent/filler"), [1; 4096]).unwrap();
    let full = bench.coldpress(&[&args[..], &["parent/cache"]].concat());
    assert!(Command::new("umount").arg(bench.path("parent")).status().unwrap().success());
    for (output, message) in [
        (&without, "warning: no cache: parent/cache: Read-only file system"),
        (&full, "warning: cannot write to the cache: parent/cache: No space left"),
    ] {
        assert_eq!(report(output)["root_digest"], cold(&image));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains(message), "{said}");
    }
}

#[test]
fn entries_that_are_links_fifos_or_another_user_s_are_misses() {
    let bench = Bench::new();
    let image = image(Layer::new().file("app/v", b"1"));
    bench.convert(&image, "app", &CACHED);
    let victim = bench.path("victim");
    fs::write(&victim, "a file of root's").unwrap();
    for what in ["symbolic link", "hard link", "FIFO", "another user's"] {
        for entry in entries(&bench) {
            fs::remove_file(&entry).unwrap();
            match what {
                "symbolic link" => std::os::unix::fs::symlink(&victim, &entry).unwrap(),
                "hard link" => fs::hard_link(&victim, &entry).unwrap(),
                "FIFO" => assert!(Command::new("mkfifo").arg(&entry).status().unwrap().success()),
                _ => {
                    fs::write(&entry, "").unwrap();
                    std::os::unix::fs::chown(&entry, Some(1), Some(1)).unwrap();
                }
            }
        }
        let again = report(&convert_without(&bench, &image, "again", &[], &CACHED));
        assert_eq!(again["root_digest"], cold(&image), "{what}");
        assert_eq!(fs::read(&victim).unwrap(), b"a file of root's", "{what}");
        // They were replaced by entries.
        let known = report(&convert_without(&bench, &image, "known", &[base(), middle()], &CACHED));
        assert_eq!(known["root_digest"], again["root_digest"], "{what}");
    }
    fs::set_permissions(bench.path("cache"), fs::Permissions::from_mode(0o1777)).unwrap();
    let warned = convert_without(&bench, &image, "warned", &[], &CACHED);
    let said = String::from_utf8_lossy(&warned.stderr).into_owned();
    assert!(said.contains("warning: cache cache: other users can write to it (mode 1777, expected 0700)"), "{said}");
}

fn image_with(version: &[u8]) -> Image {
    image(Layer::new().file("app/v", version))
}

#[test]
fn ten_processes_share_one_store_and_one_cache() {
    let bench = Bench::new();
    let images: Vec<Image> = (0..10u8).map(|version| image_with(&[version])).collect();
    for (number, image) in images.iter().enumerate() {
        image.oci_layout(&bench.path(&format!("app{number}")), Packing::Gzip);
    }
    let running: Vec<_> = (0..images.len())
        .map(|number| {
            Command::new(env!("CARGO_BIN_EXE_coldpress"))
                .current_dir(bench.dir.path())
                .args(["convert", &format!("oci:app{number}"), "--store", "store", "--cache", "cache", "--json"])
                .args(["-o", &format!("app{number}.cpm"), "--cache-max", "20KiB"])
                .stdout(std::process::Stdio::piped())
                .stderr(std::process::Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let reports: Vec<Value> = running.into_iter().map(|child| report(&child.wait_with_output().unwrap())).collect();
    let stored = fs::read_dir(bench.path("store/main")).unwrap().count() as u64;
    let put: u64 = reports.iter().map(|report| report["put_chunks"].as_u64().unwrap()).sum();
    assert_eq!(put, stored, "each chunk was put once");
    for (number, (image, report)) in images.iter().zip(&reports).enumerate() {
        assert_eq!(report["root_digest"], cold(image));
        stdout(&bench.coldpress(&["verify", &format!("app{number}.cpm"), "--store", "store"]));
    }
}

/// Layers that must be read again are, one after another: many of them are not all kept open at once.
#[test]
fn many_known_layers_that_a_store_has_not_are_read_again_within_few_files() {
    let bench = Bench::new();
    let layer = Layer::new().file("etc/data", &noise(5_000, 1));
    Image::new(vec![layer; 300]).oci_layout(&bench.path("app"), Packing::Gzip);
    let convert = |store: &str| {
        let mut command = Command::new("prlimit");
        command.args([
            "--nofile=64",
            env!("CARGO_BIN_EXE_coldpress"),
            "convert",
            "oci:app",
            "--store",
            store,
            "-o",
            "x.cpm",
        ]);
        command.args(CACHED).arg("--json").current_dir(bench.dir.path()).env_remove("HOME").output().unwrap()
    };
    let first = report(&convert("store"));
    assert_eq!(report(&convert("other"))["root_digest"], first["root_digest"]);
}

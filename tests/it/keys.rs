//! Keys in a key service (moto, which enforces what each user may do), other wrapping keys, and dedup scopes.

use std::process::Output;
use std::time::Duration;

use coldpress::keys::KeyFile;
use coldpress::manifest::BlockManifest;
use serde_json::Value;

use crate::kernel::Mount;
use crate::support::common::{Bench, Image, Layer, Packing, noise, stdout};
use crate::support::servers::Moto;

fn json(output: &Output) -> Value {
    serde_json::from_slice(&stdout(output)).unwrap()
}

fn refused(output: &Output, code: i32, words: &[&str]) {
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(code), "{message}");
    let is_error =
        |text: &[u8]| serde_json::from_slice(text).is_ok_and(|json: Value| json["error"]["exit_code"] == code);
    assert!(output.stdout.is_empty() || is_error(&output.stdout), "nothing is given out");
    for word in words {
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

fn image() -> Image {
    Image::new([Layer::new().file("greeting", b"hello from the image\n").file("noise", &noise(600_000, 3))])
}

#[test]
fn a_key_service_opens_for_who_may_and_for_the_right_context() {
    let moto = Moto::start();
    image().oci_layout(&moto.bench.path("app"), Packing::Gzip);
    let (key, hmac) = (moto.key(0), moto.hmac_key());
    let convert = |output: &str, application: &str| {
        let args = [
            "convert",
            "oci:app",
            "--store",
            "s3://chunks/p",
            "-o",
            output,
            "--json",
            "--key",
            &key,
            "--salt-key",
            &hmac,
            "--application",
            application,
        ];
        json(&moto.coldpress("converter", &args))
    };
    let report = convert("app.cpm", "shop");
    // The salt of the service is the same each time; the data key is not.
    let again = convert("again.cpm", "shop");
    assert_eq!(report["root_digest"], again["root_digest"]);
    assert_eq!(again["known_chunks"], again["unique_chunks"]);
    assert_ne!(
        std::fs::read(moto.bench.path("app.cpm")).unwrap(),
        std::fs::read(moto.bench.path("again.cpm")).unwrap()
    );

    let digest = report["root_digest"].as_str().unwrap();
    let cat = |user: &str, manifest: &str, more: &[&str]| {
        let args = [&["cat", manifest, "/greeting", "--store", "s3://chunks/p", "--key", &key], more].concat();
        moto.coldread(user, &args)
    };
    assert_eq!(stdout(&cat("worker", "app.cpm", &["--expect", digest])), b"hello from the image\n");
    // Who may not decrypt, and who may convert, open nothing.
    for user in ["reader", "converter", "nobody"] {
        refused(&cat(user, "app.cpm", &[]), 1, &["Decrypt", "403"]);
    }
    // A key of another number is not the manifest's.
    let other = moto.key(1);
    let args = ["cat", "app.cpm", "/greeting", "--store", "s3://chunks/p", "--key", &other];
    refused(&moto.coldread("worker", &args), 1, &["the manifest is not for the key"]);
    // An alias may be any.
    let args = ["cat", "app.cpm", "/greeting", "--store", "s3://chunks/p", "--key", "aws-kms://alias/shop"];
    assert_eq!(stdout(&moto.coldread("worker", &args)), b"hello from the image\n");

    // The clear part is part of the context: with another application the service itself refuses, before any seal is tried.
    let altered = |from: &str, to: &str, name: &str| {
        let mut bytes = std::fs::read(moto.bench.path("app.cpm")).unwrap();
        let at = bytes.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
        std::fs::write(moto.bench.path(name), bytes).unwrap();
    };
    altered("shop", "shoq", "altered.cpm");
    refused(&cat("worker", "altered.cpm", &[]), 1, &["Decrypt"]);

    // Another image of the same key opens, unless the digest is pinned.
    Image::new([Layer::new().file("greeting", b"from another image\n")])
        .oci_layout(&moto.bench.path("app"), Packing::Gzip);
    convert("other.cpm", "shop");
    assert_eq!(stdout(&cat("worker", "other.cpm", &[])), b"from another image\n");
    refused(&cat("worker", "other.cpm", &["--expect", digest]), 1, &["not the expected", digest]);

    // Who may not ask for a data key hears it before the first chunk.
    let args = [
        "convert",
        "oci:app",
        "--store",
        "s3://chunks/q",
        "-o",
        "x.cpm",
        "--key",
        &key,
        "--salt-file",
        "coldpress.key",
    ];
    refused(&moto.coldpress("worker", &args), 1, &["GenerateDataKey", "403"]);
    assert!(!moto.bench.path("x.cpm").exists());
}

#[test]
fn a_service_that_cannot_be_reached_and_one_without_credentials_are_told_apart() {
    let bench = Bench::new();
    image().oci_layout(&bench.path("app"), Packing::Gzip);
    let convert = |more: &[&str], credentials: bool| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_coldpress"));
        command.current_dir(bench.dir.path()).env_clear().env("HOME", bench.dir.path());
        command.env("AWS_REGION", "us-east-1").env("AWS_EC2_METADATA_DISABLED", "true");
        if credentials {
            command.env("AWS_ACCESS_KEY_ID", "a").env("AWS_SECRET_ACCESS_KEY", "b");
        }
        command.args([&["convert", "oci:app", "-o", "x.cpm"], more].concat()).output().unwrap()
    };
    let kms = [
        "--store",
        "store",
        "--key",
        "aws-kms://k",
        "--salt-file",
        "coldpress.key",
        "--kms-endpoint",
        "http://127.0.0.1:1",
    ];
    refused(&convert(&kms, true), 4, &["key aws-kms://k", "Connection refused"]);
    refused(&convert(&kms, false), 1, &["key aws-kms://k", "no credentials found"]);
    refused(&convert(&["--store", "s3://b"], false), 1, &["store s3://b", "no credentials found"]);
    let kms = [&kms[..7], &["http://192.0.2.1"]].concat();
    refused(&convert(&kms, true), 2, &["secrets would cross the network unencrypted"]);
}

#[test]
fn a_manifest_moves_to_another_key_and_nothing_else_of_it_changes() {
    let moto = Moto::start();
    let bench = &moto.bench;
    let report = bench.convert(&image(), "app", &[]);
    let (first, second) = (moto.key(0), moto.key(1));
    let rewrap = |user: &str, from: &str, key: &str, to: &str, output: &str| {
        moto.coldpress(user, &["rewrap", from, "--key", key, "--to", to, "-o", output, "--json"])
    };
    let cat = |user: &str, manifest: &str, key: &str| {
        moto.coldread(user, &["cat", manifest, "/greeting", "--store", "store", "--key", key])
    };
    let read_mounted = |manifest: &str, key: &str| {
        let mut command = moto.command(env!("CARGO_BIN_EXE_coldread"), &moto.url, "worker");
        command.args(["-v", "mount", manifest, "--store", "store", "--key", key, "mnt"]);
        let mut mount = Mount::by(bench, &mut command);
        mount.wait_for("is mounted at");
        let text = std::fs::read(mount.path("greeting")).unwrap();
        mount.unmount();
        mount.ends_well(Duration::from_secs(20));
        text
    };
    stdout(&rewrap("admin", "app.cpm", "file:coldpress.key", &first, "kms.cpm"));
    assert_eq!(read_mounted("kms.cpm", &first), b"hello from the image\n");
    refused(&cat("worker", "kms.cpm", "file:coldpress.key"), 1, &["the manifest is not for the wrapping key"]);
    // From one key of the service to another, by who may decrypt and encrypt.
    assert_eq!(
        json(&rewrap("rewrapper", "kms.cpm", &first, &second, "second.cpm"))["root_digest"],
        report["root_digest"]
    );
    assert_eq!(read_mounted("second.cpm", &second), b"hello from the image\n");
    refused(&rewrap("worker", "kms.cpm", &first, &second, "x.cpm"), 1, &["Encrypt", "403"]);
    assert!(!bench.path("x.cpm").exists());
    // Behind the wraps, not a byte is another.
    let tail = |name: &str| {
        let bytes = std::fs::read(bench.path(name)).unwrap();
        let wraps = u32::from_le_bytes(bytes[12..16].try_into().unwrap()) as usize;
        (bytes[16..24].to_vec(), bytes[24 + wraps..].to_vec())
    };
    assert_eq!(tail("app.cpm"), tail("kms.cpm"));
    assert_eq!(tail("app.cpm"), tail("second.cpm"));
    // Each is in the store as well, where nothing that it names is collected.
    let stored = |name: &str| {
        let digest = coldpress::digest::Sha256::of(&std::fs::read(bench.path(name)).unwrap());
        bench.path("store/manifests/main").join(digest.to_hex()).is_file()
    };
    assert!(["app.cpm", "kms.cpm", "second.cpm"].into_iter().all(stored));
    // In place, and back; the image is verified by the old key again.
    stdout(&rewrap("admin", "second.cpm", &second, "file:coldpress.key", "second.cpm"));
    assert_eq!(json(&bench.coldpress(&["verify", "second.cpm", "--store", "store", "--json"]))["verified"], true);
    // What was altered is not given a new key.
    let mut bytes = std::fs::read(bench.path("app.cpm")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(bench.path("bad.cpm"), bytes).unwrap();
    refused(&rewrap("admin", "bad.cpm", "file:coldpress.key", &first, "x.cpm"), 1, &["it was modified"]);
}

#[test]
fn every_bit_of_a_manifest_of_the_key_service_is_covered() {
    let moto = Moto::start();
    moto.bench.convert(&Image::new([Layer::new().file("f", b"x")]), "app", &[]);
    let key = moto.key(0);
    stdout(
        &moto.coldpress("admin", &["rewrap", "app.cpm", "--key", "file:coldpress.key", "--to", &key, "-o", "kms.cpm"]),
    );
    let bytes = std::fs::read(moto.bench.path("kms.cpm")).unwrap();
    // Each request takes moto some milliseconds: every part is met, not every bit; the bits are those of the key file's test.
    for at in (0..bytes.len()).step_by(29) {
        let mut bad = bytes.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(moto.bench.path("bad.cpm"), &bad).unwrap();
        let output = moto.coldpress("worker", &["inspect", "bad.cpm", "--key", &key]);
        assert_eq!(output.status.code(), Some(1), "byte {at}: {}", String::from_utf8_lossy(&output.stdout));
    }
}

/// Builds with age only; `make test` makes one.
#[cfg(feature = "age")]
#[test]
fn age_recipients_open_what_is_pinned() {
    let bench = Bench::new();
    let identity = |name: &str| {
        let (secret, recipient) = coldpress::keys::age::AgeKey::generate();
        std::fs::write(bench.path(name), secret.as_bytes()).unwrap();
        recipient
    };
    let (one, two) = (identity("one"), identity("two"));
    identity("three");
    let key = format!("age:{one},{two}");
    let report = bench.convert(&image(), "app", &["--key", &key, "--salt-file", "coldpress.key"]);
    let digest = report["root_digest"].as_str().unwrap();
    let cat = |key: &str, more: &[&str]| {
        bench.coldread(&[&["cat", "app.cpm", "/greeting", "--store", "store", "--key", key], more].concat())
    };
    for key in ["age:one", "age:two"] {
        assert_eq!(stdout(&cat(key, &["--expect", digest])), b"hello from the image\n");
    }
    refused(&cat("age:one", &[]), 2, &["--expect", "anyone"]);
    refused(&cat("age:three", &["--expect", digest]), 1, &["none of these age identities"]);
    refused(&cat(&key, &["--expect", digest]), 1, &["recipients only encrypt"]);
    // To and from the other kinds.
    let rewrap = |from: &str, key: &str, to: &str, output: &str| {
        stdout(&bench.coldpress(&["rewrap", from, "--key", key, "--to", to, "-o", output, "--expect", digest]));
    };
    rewrap("app.cpm", "age:two", "file:coldpress.key", "file.cpm");
    assert_eq!(json(&bench.coldpress(&["verify", "file.cpm", "--store", "store", "--json"]))["verified"], true);
    rewrap("file.cpm", "file:coldpress.key", "age:three", "app.cpm");
    assert_eq!(stdout(&cat("age:three", &["--expect", digest])), b"hello from the image\n");
}

#[test]
fn scopes_are_kept_apart_by_name_and_by_file() {
    let bench = Bench::new();
    let plain = bench.convert(&image(), "app", &[]);
    let named = bench.convert(&image(), "app", &["--scope", "team"]);
    let again = bench.convert(&image(), "app", &["--scope", "team"]);
    assert_ne!(plain["scope_id"], named["scope_id"]);
    assert_eq!((&again["scope_id"], &again["put_chunks"]), (&named["scope_id"], &0.into()));
    assert_eq!(plain["image_digest"], named["image_digest"]);
    // A scope is asked for again where an image is compared.
    let verify = |more: &[&str]| bench.coldpress(&[&["verify", "app.cpm", "--source", "oci:app"], more].concat());
    refused(&verify(&[]), 1, &["the manifest has deduplication scope", "the given salt has"]);
    stdout(&verify(&["--scope", "team"]));
    // Two with keys of their own share one salt.
    stdout(&bench.coldpress(&["keygen", "--salt-only", "-o", "team.salt"]));
    stdout(&bench.coldpress(&["keygen", "-o", "other.key"]));
    let one = bench.convert(&image(), "one", &["--salt-file", "team.salt"]);
    let two = bench.convert(&image(), "two", &["--salt-file", "team.salt", "--key", "file:other.key"]);
    assert_eq!((&one["root_digest"], &two["put_chunks"]), (&two["root_digest"], &0.into()));
    refused(&bench.coldpress(&["ls", "team.salt"]), 2, &[]);
    let output = bench.coldpress(&["inspect", "one.cpm", "--key", "file:team.salt"]);
    refused(&output, 1, &["no line `wrapping-key`"]);
}

/// Converts, verifies, reads and fails with markers in keys and content, as loudly as the programs can be asked to, and looks for
/// them in everything that was printed or written.
#[test]
fn no_secret_is_printed_or_written() {
    let moto = Moto::start();
    let bench = &moto.bench;
    let content = b"MARKER-OF-THE-CONTENT-5c1d".repeat(3);
    let mut image = Image::new([Layer::new().file("secret", &content).file("noise", &noise(700_000, 9))]);
    image.config["Env"] = serde_json::json!(["TOKEN=MARKER-OF-THE-CONFIG-77aa"]);
    std::fs::create_dir(bench.path("image")).unwrap();
    image.oci_layout(&bench.path("image/app"), Packing::Gzip);
    std::fs::create_dir(bench.path("temp")).unwrap();
    let loud = |user: &str, program: &str, args: &[&str]| {
        let mut command = moto.command(program, &moto.url, user);
        command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "full").env("AWS_LOG_LEVEL", "trace");
        command.env("COLDPRESS_LOG", "trace").env("COLDREAD_LOG", "trace");
        command
            .env("TMPDIR", bench.path("temp"))
            .env("COLDPRESS_CACHE", bench.path("cache"))
            .args(args)
            .output()
            .unwrap()
    };
    let (coldpress, coldread) = (env!("CARGO_BIN_EXE_coldpress"), env!("CARGO_BIN_EXE_coldread"));
    let (store, kms) = (["--store", "s3://chunks/p"], moto.key(0));
    let mut printed = Vec::new();
    let mut run = |user: &str, program: &str, args: &[&str], code: i32| {
        let output = loud(user, program, args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        printed.extend([output.stdout, output.stderr].concat());
    };
    let convert = |key| {
        ["convert", "oci:image/app", "--salt-file", "coldpress.key", "-o", "app.cpm", "--key", key, "--temp", "temp"]
    };
    run("converter", coldpress, &[&convert(&kms)[..], &store].concat(), 0);
    run("worker", coldpress, &[&["verify", "app.cpm", "--key", &kms][..], &store].concat(), 0);
    run("worker", coldread, &[&["ls", "-l", "app.cpm", "/", "--key", &kms][..], &store].concat(), 0);
    run("nobody", coldread, &[&["cat", "app.cpm", "/secret", "--key", &kms][..], &store].concat(), 1);
    run(
        "converter",
        coldread,
        &[&["cat", "app.cpm", "/secret", "--key", "file:coldpress.key"][..], &store].concat(),
        1,
    );
    run("nobody", coldpress, &[&convert("file:coldpress.key")[..], &["--store", "s3://chunks/q"]].concat(), 1);
    let rewrap = ["rewrap", "app.cpm", "--key", &kms, "--to", "file:coldpress.key", "-o", "file.cpm"];
    // A service that a manifest names must be named again.
    run("admin", coldpress, &rewrap, 2);
    run("admin", coldpress, &[&rewrap[..], &store].concat(), 0);
    run("reader", coldpress, &[&["scrub", "app.cpm"][..], &store].concat(), 0);
    run("converter", coldpress, &[&["doctor", "--as", "converter", "--key", &kms][..], &store].concat(), 3);

    // The chunks as the server keeps them, too.
    let stored = moto.boto(
        "admin",
        "import os\nfor o in s3.list_objects_v2(Bucket='chunks')['Contents']:\n    os.makedirs('stored', exist_ok=True)\n    \
         open('stored/' + o['Key'].replace('/', '_'), 'wb').write(s3.get_object(Bucket='chunks', Key=o['Key'])['Body'].read())\n\
         print(len(os.listdir('stored')))\n",
    );
    assert!(stored.trim().parse::<usize>().unwrap() > 3);
    let logged = String::from_utf8_lossy(&printed).into_owned();
    assert!(logged.contains("request to the store") && logged.contains("TrentService.GenerateDataKey"), "{logged}");
    let mut written = vec![("printed".to_owned(), printed)];
    let mut folders = vec![bench.dir.path().to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().map(|entry| entry.unwrap()) {
            // The image, the key file and the servers' own files are where the secrets come from.
            let name = entry.file_name().into_string().unwrap();
            match entry.file_type().unwrap().is_dir() {
                true if name != "image" => folders.push(entry.path()),
                false if !["coldpress.key", "users.json", "moto.log"].contains(&name.as_str()) => {
                    written.push((name, std::fs::read(entry.path()).unwrap()));
                }
                _ => {}
            }
        }
    }
    assert!(written.len() > 8, "the store, the cache and the manifests were read");
    let key = KeyFile::decode(crate::support::common::TEST_KEY).unwrap();
    let manifest = std::fs::read(bench.path("file.cpm")).unwrap();
    let manifest = BlockManifest::decode(&manifest).unwrap().open(&key).unwrap();
    let mut secrets = vec![
        content[..26].to_vec(),
        b"MARKER-OF-THE-CONFIG".to_vec(),
        key.wrapping_key.secret().expose().to_vec(),
        key.salt.as_ref().unwrap().secret().expose().to_vec(),
    ];
    secrets.extend(manifest.sealed.chunks.iter().map(|chunk| chunk.key.expose().to_vec()));
    for user in ["converter", "worker", "nobody", "admin", "reader"] {
        secrets.push(moto.secret_of(user).into_bytes());
    }
    for secret in secrets {
        let hex: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        for (name, bytes) in &written {
            for form in [&secret[..], hex.as_bytes()] {
                let found = bytes.windows(form.len()).any(|window| window == form);
                assert!(!found, "a secret of {} bytes is in {name}", secret.len());
            }
        }
    }
}

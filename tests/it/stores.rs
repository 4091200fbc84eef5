//! Stores behind services: moto, which enforces what each user may do, and a proxy that spoils requests.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coldpress::store::conformance::check;
use coldpress::store::{Settings, StoreUrl, open_collect, open_get, open_put};
use serde_json::Value;

use crate::support::common::{Image, Layer, Packing, noise, stdout};
use crate::support::servers::{Fault, Moto, Proxy};

/// Which store the suite is run against; without it a directory. Its credentials are the environment's.
const STORE: &str = "COLDPRESS_CONFORMANCE_STORE";
const ENDPOINT: &str = "COLDPRESS_CONFORMANCE_ENDPOINT";

#[test]
#[expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "told by the environment which store, it tells which it is"
)]
fn the_suite_that_every_store_passes() {
    let directory = tempfile::tempdir().unwrap();
    let named = std::env::var_os(STORE).unwrap_or_else(|| directory.path().join("store").into());
    let (url, root) = (StoreUrl::parse(&named).unwrap(), "main".parse().unwrap());
    let settings = Settings { endpoint: std::env::var(ENDPOINT).ok(), ..Settings::default() };
    let put = open_put(&url, &settings, &root).unwrap();
    let (get, collect) = (open_get(&url, &settings).unwrap(), open_collect(&url, &settings).unwrap());
    let salt = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    if let Some(warning) = put.warning() {
        println!("{warning}");
    }
    check(&*put, &*get, &*collect, salt).unwrap();
}

#[test]
fn moto_passes_the_suite() {
    let moto = Moto::start();
    let mut suite = moto.command(std::env::current_exe().unwrap().to_str().unwrap(), &moto.url, "admin");
    suite.args(["--exact", "stores::the_suite_that_every_store_passes", "--nocapture"]);
    let output = suite.env(STORE, "s3://chunks/suite").env(ENDPOINT, &moto.url).output().unwrap();
    let text = String::from_utf8_lossy(&stdout(&output)).into_owned();
    assert!(text.contains("1 passed") && !text.contains("If-None-Match"), "{text}");
}

/// An image of about `chunks` chunks.
fn image(chunks: usize) -> Image {
    let layer = (0..chunks).fold(Layer::new().dir("data"), |layer, n| {
        layer.file(&format!("data/{n:03}"), &noise(512 * 1024, 7 + n as u64))
    });
    Image::new([layer, Layer::new().file("greeting", b"hello\n")])
}

fn json(output: &std::process::Output) -> Value {
    serde_json::from_slice(&stdout(output)).unwrap()
}

fn moto_with(chunks: usize) -> Moto {
    let moto = Moto::start();
    image(chunks).oci_layout(&moto.bench.path("app"), Packing::Gzip);
    moto
}

const CONVERT: [&str; 7] = ["convert", "oci:app", "--store", "s3://chunks/p", "-o", "app.cpm", "--json"];

#[test]
fn who_may_only_put_converts_and_the_server_sees_puts_alone() {
    let moto = moto_with(20);
    let proxy = Proxy::before(&moto.url, |_, _, _| Fault::None);
    let report = json(&moto.coldpress_via(&proxy.url, "converter", &CONVERT));
    assert!(report["put_chunks"].as_u64().unwrap() > 20);
    assert_eq!(report["claimed_chunks"], 0);
    let seen = proxy.seen();
    assert!(seen.iter().all(|seen| seen.method == "PUT"), "{seen:?}");
    // Each chunk, the manifest, and the question whether puts are kept, twice.
    assert_eq!(seen.len() as u64, report["put_chunks"].as_u64().unwrap() + 3);

    // The same rights, by another client: the server refuses all else.
    let key = &seen[5].path["/chunks/".len()..];
    let codes = moto.boto(
        "converter",
        &format!(
            "k = '{key}'\nprint(code(lambda: s3.get_object(Bucket='chunks', Key=k)), code(lambda: s3.head_object(Bucket='chunks', Key=k)), \
             code(lambda: s3.list_objects_v2(Bucket='chunks')), code(lambda: s3.delete_object(Bucket='chunks', Key=k)))\n"
        ),
    );
    assert_eq!(codes.trim(), "403 403 403 403");

    // Who may get reads it, and verifies it whole.
    let verified = json(&moto.coldpress("reader", &["verify", "app.cpm", "--store", "s3://chunks/p", "--json"]));
    assert_eq!(verified["verified"], true);
    let cat = moto.coldread("reader", &["cat", "app.cpm", "/greeting", "--store", "s3://chunks/p"]);
    assert_eq!(stdout(&cat), b"hello\n");
    // Who may not is told so.
    let cat = moto.coldread("nobody", &["cat", "app.cpm", "/greeting", "--store", "s3://chunks/p"]);
    let message = String::from_utf8_lossy(&cat.stderr).into_owned();
    assert!(
        cat.status.code() == Some(1) && message.contains("access denied, or missing") && message.contains("403"),
        "{message}"
    );
    // Where a manifest says a bucket is, no credentials go of themselves.
    let cat = moto.coldread("reader", &["cat", "app.cpm", "/greeting"]);
    let message = String::from_utf8_lossy(&cat.stderr).into_owned();
    assert!(cat.status.code() == Some(2) && message.contains("give --store s3://chunks/p"), "{message}");
}

#[test]
fn who_may_not_put_is_told_before_any_work() {
    let moto = moto_with(1);
    let refused = moto.coldpress("nobody", &CONVERT);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{message}");
    assert!(message.contains("store s3://chunks/p") && message.contains("403"), "{message}");
    assert!(!moto.bench.path("app.cpm").exists());
    let missing = moto.coldpress("admin", &["convert", "oci:app", "--store", "s3://nowhere", "-o", "app.cpm"]);
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(missing.status.code() == Some(1) && message.contains("NoSuchBucket"), "{message}");
}

#[test]
fn a_layer_that_is_known_to_be_there_is_not_read_and_a_plan_needs_no_right_at_all() {
    let moto = moto_with(10);
    let first = json(&moto.coldpress("converter", &CONVERT));
    let mut changed = image(10);
    changed.layers[1] = Layer::new().file("greeting", b"good evening\n");
    // Only the changed layer can be read.
    let layout = changed.oci_layout(&moto.bench.path("app"), Packing::Gzip);
    let base = Packing::Gzip.pack(&changed.layers[0].tar());
    let blob = layout.join("blobs/sha256").join(coldpress::digest::Sha256::of(&base).to_hex());
    std::fs::write(&blob, vec![0; base.len()]).unwrap();
    // Planned by who has no credentials, of a service that is not asked.
    let mut plan = std::process::Command::new(env!("CARGO_BIN_EXE_coldpress"));
    plan.current_dir(moto.bench.dir.path()).env_clear().env("HOME", moto.bench.path("home"));
    plan.env("AWS_ENDPOINT_URL_S3", &moto.url).args([
        "convert",
        "oci:app",
        "--store",
        "s3://chunks/p",
        "--dry-run",
        "--json",
    ]);
    let plan = json(&plan.output().unwrap());
    let again = json(&moto.coldpress("converter", &CONVERT));
    let known = first["unique_chunks"].as_u64().unwrap() - again["put_chunks"].as_u64().unwrap();
    assert_eq!(again["known_chunks"], known, "{again:#}");
    assert_eq!((&plan["new_chunks"], &plan["new_bytes"]), (&again["new_chunks"], &again["new_bytes"]));
    assert_eq!(plan["root_digest"], again["root_digest"]);
    assert_eq!((&again["layer_shares"][1]["read"], &again["layer_shares"][2]["read"]), (&false.into(), &true.into()));
    // Where no cache survived, the last manifest spares the puts.
    changed.oci_layout(&moto.bench.path("app"), Packing::Gzip);
    let proxy = Proxy::before(&moto.url, |_, _, _| Fault::None);
    let based = [&CONVERT[..], &["--no-cache", "--base", "app.cpm"]].concat();
    let based = json(&moto.coldpress_via(&proxy.url, "converter", &based));
    assert_eq!((&based["root_digest"], &based["put_chunks"]), (&again["root_digest"], &0.into()));
    assert!(proxy.seen().len() <= 3, "the question at the start and the manifest: {:?}", proxy.seen());
    // A manifest of another bucket says nothing of this one.
    let elsewhere = ["convert", "oci:app", "--store", "s3://chunks/q", "-o", "q.cpm", "--base", "app.cpm"];
    let refused = moto.coldpress("converter", &elsewhere);
    let message = String::from_utf8_lossy(&refused.stderr);
    assert!(
        message.contains("its chunks are in s3://chunks/p, those of this conversion go to s3://chunks/q"),
        "{message}"
    );
}

#[test]
fn what_a_conversion_saw_stored_is_not_sent_again() {
    let moto = moto_with(10);
    let first = json(&moto.coldpress("converter", &CONVERT));
    let proxy = Proxy::before(&moto.url, |_, _, _| Fault::None);
    let again = json(&moto.coldpress_via(&proxy.url, "converter", &CONVERT));
    // Another address is another store, of which nothing is known: the answers tell what was there.
    assert_eq!(again["claimed_chunks"], first["put_chunks"]);
    let again = json(&moto.coldpress("converter", &CONVERT));
    assert_eq!(
        (&again["known_chunks"], &again["put_chunks"], &again["claimed_chunks"]),
        (&first["put_chunks"], &0.into(), &0.into())
    );
    let without = json(&moto.coldpress("converter", &[&CONVERT[..], &["--no-cache"]].concat()));
    assert_eq!(without["claimed_chunks"], first["put_chunks"]);
    // Who has no home to write to goes without a cache; one that was named must be there.
    let mut homeless = moto.command(env!("CARGO_BIN_EXE_coldpress"), &moto.url, "converter");
    let output = homeless.env("HOME", "/dev/null").args(CONVERT).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("warning: no cache: /dev/null/.cache/coldpress"));
    assert_eq!(json(&output)["claimed_chunks"], first["put_chunks"]);
    let output = moto.coldpress("converter", &[&CONVERT[..], &["--cache", "/dev/null/cache"]].concat());
    assert_eq!(output.status.code(), Some(1));
    // Another scope shares nothing.
    let other = json(&moto.coldpress("converter", &[&CONVERT[..], &["--scope", "other"]].concat()));
    assert_eq!((&other["known_chunks"], &other["claimed_chunks"]), (&0.into(), &0.into()));
    assert_eq!(other["image_digest"], first["image_digest"]);
    assert_ne!(other["root_digest"], first["root_digest"]);
}

#[test]
fn ten_processes_with_one_cache_put_what_they_share_once() {
    let moto = Moto::start();
    let images: Vec<Image> = (0..10u8)
        .map(|number| {
            let mut image = image(20);
            image.layers[1] = Layer::new().file("greeting", &[number]);
            image.oci_layout(&moto.bench.path(&format!("app{number}")), Packing::Gzip);
            image
        })
        .collect();
    let proxy = Proxy::before(&moto.url, |_, _, _| Fault::None);
    let running: Vec<_> = (0..images.len())
        .map(|number| {
            let mut command = moto.command(env!("CARGO_BIN_EXE_coldpress"), &proxy.url, "converter");
            command.args(["convert", &format!("oci:app{number}"), "-o", &format!("app{number}.cpm"), "--json"]);
            command.args(["--store", "s3://chunks/p", "--uploads", "8"]);
            command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    let reports: Vec<Value> = running.into_iter().map(|child| json(&child.wait_with_output().unwrap())).collect();
    let mut times = std::collections::BTreeMap::<String, usize>::new();
    for seen in proxy.seen().into_iter().filter(|seen| seen.path.starts_with("/chunks/p/main/")) {
        *times.entry(seen.path).or_default() += 1;
    }
    // Each asks first, by an object of its own, whether puts are kept.
    times.remove(&proxy.seen()[0].path);
    let sent: usize = times.values().sum();
    // One that waits for another too long puts by itself.
    assert!(sent * 10 <= times.len() * 11, "{sent} puts of {} chunks: {times:?}", times.len());
    for (number, (image, report)) in images.iter().zip(&reports).enumerate() {
        let local = moto.bench.convert(image, &format!("local{number}"), &[]);
        assert_eq!(report["root_digest"], local["root_digest"]);
        let verify = ["verify", &format!("app{number}.cpm"), "--store", "s3://chunks/p", "--json"];
        assert_eq!(json(&moto.coldpress("reader", &verify))["verified"], true);
    }
}

/// One request in ten fails, one put in a hundred is done and its answer lost.
#[test]
fn failing_requests_are_repeated_and_lost_answers_do_no_harm() {
    let moto = moto_with(60);
    let (busy, lost) = (Fault::Status(503), Fault::LostReply);
    let proxy = Proxy::before(&moto.url, move |n, _, _| match n {
        n if n % 33 == 7 => lost.clone(),
        n if n % 50 == 11 => Fault::Drop,
        n if n % 50 == 21 => Fault::Status(409),
        n if n % 50 == 31 => Fault::Status(500),
        n if n % 10 == 1 => busy.clone(),
        _ => Fault::None,
    });
    let report = json(&moto.coldpress_via(&proxy.url, "converter", &CONVERT));
    let seen = proxy.seen();
    let lost = seen.iter().filter(|seen| seen.fault == Fault::LostReply).count();
    assert!(lost > 0 && seen.iter().filter(|seen| seen.fault != Fault::None).count() * 10 > seen.len());
    // A put whose answer was lost is there when it is repeated: claimed, since nobody can say by whom.
    let (put, claimed) = (report["put_chunks"].as_u64().unwrap(), report["claimed_chunks"].as_u64().unwrap());
    assert_eq!(put + claimed, report["unique_chunks"].as_u64().unwrap());
    assert!(claimed <= lost as u64);
    let verified = json(&moto.coldpress("reader", &["verify", "app.cpm", "--store", "s3://chunks/p", "--json"]));
    assert_eq!(verified["verified"], true);
    assert_eq!(report["root_digest"], moto.bench.convert_from("oci:app", "local", &[])["root_digest"]);
}

#[test]
fn an_outage_of_30_seconds_is_waited_out() {
    let moto = moto_with(30);
    let (since, count) = (Mutex::new(None::<Instant>), AtomicUsize::new(0));
    let proxy = Proxy::before(&moto.url, move |_, _, _| {
        // From the tenth request on.
        let mut out = since.lock().unwrap();
        if count.fetch_add(1, Ordering::Relaxed) == 10 {
            *out = Some(Instant::now());
        }
        let out = out.is_some_and(|since| since.elapsed() < Duration::from_secs(30));
        if out { Fault::Drop } else { Fault::None }
    });
    let report = json(&moto.coldpress_via(&proxy.url, "converter", &CONVERT));
    assert!(proxy.seen().iter().any(|seen| seen.fault == Fault::Drop));
    assert_eq!(report["put_chunks"], report["unique_chunks"]);
}

#[test]
fn a_store_that_never_answers_is_given_up_soon_and_safe_to_ask_again() {
    let moto = moto_with(2);
    let dead = Proxy::before(&moto.url, |_, _, _| Fault::Drop);
    let started = Instant::now();
    let output = moto.coldpress_via(&dead.url, "converter", &CONVERT);
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(4), "{message}");
    assert!(message.contains("given up after") && message.contains("run the same command again"), "{message}");
    assert!(started.elapsed() < Duration::from_secs(30) && !moto.bench.path("app.cpm").exists());
    stdout(&moto.coldpress("converter", &CONVERT));
}

/// Bytes of what the cache knows to be stored.
fn noted(moto: &Moto) -> u64 {
    let Ok(entries) = std::fs::read_dir(moto.bench.path("home/.cache/coldpress")) else { return 0 };
    let entries = entries.map(|entry| entry.unwrap());
    let puts = entries.filter(|entry| entry.file_name().to_str().unwrap().starts_with("puts-"));
    puts.map(|entry| entry.metadata().unwrap().len()).sum()
}

#[test]
fn what_was_interrupted_sends_only_what_is_missing() {
    let moto = moto_with(40);
    let stuck = Arc::new(AtomicBool::new(true));
    let is_stuck = Arc::clone(&stuck);
    let proxy = Proxy::before(&moto.url, move |n, _, _| match n {
        25.. if is_stuck.load(Ordering::Relaxed) => Fault::Slow(Duration::from_secs(1000)),
        _ => Fault::None,
    });
    let mut first =
        moto.command(env!("CARGO_BIN_EXE_coldpress"), &proxy.url, "converter").args(CONVERT).spawn().unwrap();
    // Until what was answered is noted: nothing more comes.
    let mut before = 0;
    while proxy.seen().iter().filter(|seen| seen.status == 200).count() < 20 || noted(&moto) != before {
        before = noted(&moto);
        std::thread::sleep(Duration::from_secs(1));
    }
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(!moto.bench.path("app.cpm").exists());
    let done: BTreeSet<String> =
        proxy.seen().into_iter().filter(|seen| seen.status == 200).map(|seen| seen.path).collect();
    // The proxy's address is part of what a store is: the second run goes the same way.
    let before = proxy.seen().len();
    stuck.store(false, Ordering::Relaxed);
    let report = json(&moto.coldpress_via(&proxy.url, "converter", &CONVERT));
    let sent: BTreeSet<String> = proxy.seen().into_iter().skip(before).map(|seen| seen.path).collect();
    assert!(report["known_chunks"].as_u64().unwrap() >= 18, "{report}");
    // The question whether puts are kept is asked anew.
    assert!(sent.intersection(&done).count() <= 1, "{sent:?}");
}

#[test]
fn answers_that_are_short_are_asked_for_again_and_wrong_ones_never_used() {
    let moto = moto_with(12);
    stdout(&moto.coldpress("converter", &CONVERT));
    let verify = ["verify", "app.cpm", "--store", "s3://chunks/p", "--json"];
    let short = Proxy::before(&moto.url, |n, _, _| if n % 3 == 0 { Fault::ShortBody } else { Fault::None });
    assert_eq!(json(&moto.coldpress_via(&short.url, "reader", &verify))["verified"], true);
    let wrong = Proxy::before(&moto.url, |n, _, _| if n == 5 { Fault::WrongByte } else { Fault::None });
    let output = moto.coldpress_via(&wrong.url, "reader", &verify);
    assert_eq!(output.status.code(), Some(3));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let bad = report["store"]["bad_chunks"].as_array().unwrap();
    assert!(bad.len() == 1 && bad[0].as_str().unwrap().contains("the SHA-256 of the stored object is"), "{report}");
}

/// A server that takes the condition and overwrites, and one that does not know it.
#[test]
fn a_store_without_the_condition_is_named_and_used_all_the_same() {
    let moto = moto_with(3);
    for (status, asked, word) in [(200, 2, "ignores"), (501, 1, "does not know")] {
        let proxy =
            Proxy::before(&moto.url, move |n, _, _| if n < asked { Fault::Status(status) } else { Fault::None });
        let output = moto.coldpress_via(&proxy.url, "converter", &CONVERT);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() && message.contains(word), "{message}");
    }
}

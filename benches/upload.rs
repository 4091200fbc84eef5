//! Putting chunks to an S3 server: a whole conversion beside a bare client that puts the same objects, as many at a time.
//!
//! `make bench-upload` starts the servers. The bare client holds all objects in memory and does nothing but put them; the conversion reads,
//! inflates, hashes, seals and puts. Both are timed in turn; the medians' ratio counts, since machines are noisy.
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_precision_loss,
    reason = "a program for its author's terminal"
)]

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use object_store::aws::{AmazonS3, AmazonS3Builder};
use object_store::{ObjectStoreExt, PutPayload};
use tokio::task::JoinSet;

const RUNS: usize = 3;

fn main() {
    let Some((endpoint, image)) =
        std::env::var("COLDPRESS_BENCH_S3").ok().zip(std::env::var("COLDPRESS_BENCH_IMAGE").ok())
    else {
        println!(
            "set COLDPRESS_BENCH_S3 to a server with a bucket `chunks`, and COLDPRESS_BENCH_IMAGE; `make bench-upload` does"
        );
        return;
    };
    let work = tempfile::tempdir_in(std::env::var("COLDPRESS_BENCH_DIR").unwrap_or("/dev/shm".to_owned())).unwrap();
    let key = work.path().join("key");
    coldpress(&["keygen", "-q", "-o", key.to_str().unwrap()]);
    let objects = sealed(work.path(), &key, &image);
    let bytes: usize = objects.iter().map(Vec::len).sum();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    println!("{} objects, {} MB, {image}, at {endpoint}", objects.len(), bytes / 1_000_000);
    println!("in flight   bare MB/s   convert MB/s   ratio   peak MiB");
    for in_flight in [16, 32, 64] {
        let (mut bare, mut whole, mut peak) = (Vec::new(), Vec::new(), 0.0_f64);
        for run in 0..RUNS {
            let client = Arc::new(client(&endpoint));
            let started = Instant::now();
            runtime.block_on(put_all(
                &client,
                &objects,
                in_flight,
                &format!("bare-{in_flight}-{run}-{}", std::process::id()),
            ));
            bare.push(started.elapsed().as_secs_f64());
            let (seconds, mib) = convert(work.path(), &key, &image, &endpoint, in_flight, run);
            whole.push(seconds);
            peak = peak.max(mib);
        }
        let rate = |times: &mut Vec<f64>| {
            times.sort_by(f64::total_cmp);
            bytes as f64 / 1e6 / times[RUNS / 2]
        };
        let (bare, whole) = (rate(&mut bare), rate(&mut whole));
        println!("{in_flight:9}   {bare:9.0}   {whole:12.0}   {:5.2}   {peak:8.0}", whole / bare);
    }
}

fn coldpress(args: &[&str]) {
    assert!(Command::new(env!("CARGO_BIN_EXE_coldpress")).args(args).status().unwrap().success());
}

/// The sealed chunks of the image, as a conversion puts them.
fn sealed(work: &Path, key: &Path, image: &str) -> Vec<Vec<u8>> {
    let (store, manifest) = (work.join("store"), work.join("m.cpm"));
    let (store, manifest) = (store.to_str().unwrap(), manifest.to_str().unwrap());
    let key = format!("file:{}", key.display());
    coldpress(&["convert", image, "-q", "--store", store, "--key", &key, "-o", manifest, "--compression", "none"]);
    let chunks = std::fs::read_dir(Path::new(store).join("main")).unwrap();
    let objects = chunks.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect();
    std::fs::remove_dir_all(store).unwrap();
    objects
}

fn client(endpoint: &str) -> AmazonS3 {
    let builder = AmazonS3Builder::from_env().with_bucket_name("chunks").with_region("us-east-1");
    builder.with_endpoint(endpoint).with_allow_http(true).build().unwrap()
}

async fn put_all(client: &Arc<AmazonS3>, objects: &[Vec<u8>], in_flight: usize, prefix: &str) {
    let mut puts = JoinSet::new();
    for (number, object) in objects.iter().enumerate() {
        if puts.len() >= in_flight {
            puts.join_next().await.unwrap().unwrap();
        }
        let (client, path) = (Arc::clone(client), format!("{prefix}/{number}"));
        let payload = PutPayload::from(object.clone());
        puts.spawn(async move { client.put(&path.into(), payload).await.map(drop).unwrap() });
    }
    while let Some(put) = puts.join_next().await {
        put.unwrap();
    }
}

/// Seconds and peak MiB.
fn convert(work: &Path, key: &Path, image: &str, endpoint: &str, in_flight: usize, run: usize) -> (f64, f64) {
    let (manifest, peak) = (work.join("m.cpm"), work.join("peak"));
    let started = Instant::now();
    let status = Command::new("/usr/bin/time")
        .args([
            "-f",
            "%M",
            "-o",
            peak.to_str().unwrap(),
            env!("CARGO_BIN_EXE_coldpress"),
            "convert",
            image,
            "-q",
            "--no-cache",
        ])
        .args([
            "--store",
            &format!("s3://chunks/whole-{in_flight}-{run}-{}", std::process::id()),
            "--store-endpoint",
            endpoint,
        ])
        .args(["--key", &format!("file:{}", key.display()), "-o", manifest.to_str().unwrap()])
        .args(["--compression", "none", "--uploads", &in_flight.to_string()])
        .status()
        .unwrap();
    assert!(status.success());
    let seconds = started.elapsed().as_secs_f64();
    let kib: f64 = std::fs::read_to_string(peak).unwrap().trim().parse().unwrap();
    (seconds, kib / 1024.0)
}

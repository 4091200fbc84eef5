//! `miss_costs MANIFEST KEY-FILE ENDPOINT SOCKET`: what a reader waits for a chunk that no cache has, beside what the store takes for it.
//!
//! Each chunk of the image is asked for once through `coldread serve --nbd unix:SOCKET`, and once by the same client library from
//! the same store, an S3 server at ENDPOINT with a bucket `chunks`; in turn, in no order that anyone could read ahead of.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for measurements")]
#![expect(unreachable_pub, reason = "it is the tests'")]

#[path = "../tests/it/support/nbd_client.rs"]
mod nbd_client;

use std::time::{Duration, Instant};

use coldpress::keys::KeyFile;
use coldpress::manifest::BlockManifest;
use coldpress::store::ObjectName;
use nbd_client::Client;
use object_store::ObjectStoreExt;
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;

const CHUNK: u64 = coldpress::CHUNK_SIZE as u64;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [manifest, key, endpoint, socket] = &arguments[..] else { panic!("miss_costs MANIFEST KEY ENDPOINT SOCKET") };
    let key = KeyFile::decode(&std::fs::read_to_string(key).unwrap()).unwrap();
    let manifest = BlockManifest::decode(&std::fs::read(manifest).unwrap()).unwrap().open(&key.wrapping_key).unwrap();
    let builder = AmazonS3Builder::from_env().with_bucket_name("chunks").with_region("us-east-1");
    let store = std::sync::Arc::new(builder.with_endpoint(endpoint).with_allow_http(true).build().unwrap());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    // A request is timed where it runs.
    let plain = |name: ObjectName, length: u64| {
        let store = std::sync::Arc::clone(&store);
        let get = async move {
            let begun = Instant::now();
            let bytes = store.get(&Path::from(name.as_str())).await.unwrap().bytes().await.unwrap();
            assert_eq!(bytes.len() as u64, length);
            begun.elapsed()
        };
        runtime.block_on(runtime.spawn(get)).unwrap()
    };
    let mut client = Client::wait_for(socket.as_ref());
    let mut through = |chunk: u64| {
        let begun = Instant::now();
        // Not where it begins, which could be a sequential reader's.
        client.read(chunk * CHUNK + CHUNK / 2, 4096);
        begun.elapsed()
    };
    let chunks = &manifest.sealed.chunks;
    let step = (chunks.len() / 2 + 1..).find(|step| greatest_common_divisor(*step, chunks.len()) == 1).unwrap();
    let (mut plains, mut throughs) = (Vec::new(), Vec::new());
    for n in 0..chunks.len() {
        let chunk = &chunks[n * step % chunks.len()];
        let name = ObjectName::chunk(&manifest.clear.root, chunk.name);
        let mut ask_store = || plains.push(plain(name.clone(), chunk.stored.into()));
        if n % 2 == 0 {
            ask_store();
            throughs.push(through(chunk.index.0.into()));
        } else {
            throughs.push(through(chunk.index.0.into()));
            ask_store();
        }
    }
    let at = |times: &mut Vec<Duration>, of_100: usize| {
        times.sort_unstable();
        times[times.len() * of_100 / 100].as_secs_f64() * 1e3
    };
    println!("| {} chunks, one at a time, ms | p50 | p90 |\n|---|---|---|", chunks.len());
    let [store, coldread] = [&mut plains, &mut throughs].map(|times| [at(times, 50), at(times, 90)]);
    println!("| a plain GET | {:.2} | {:.2} |", store[0], store[1]);
    println!("| a read of 4 KiB through NBD that misses | {:.2} | {:.2} |", coldread[0], coldread[1]);
    println!("| difference | {:.2} | {:.2} |", coldread[0] - store[0], coldread[1] - store[1]);
}

fn greatest_common_divisor(a: usize, b: usize) -> usize {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

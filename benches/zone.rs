//! The zone's cache, measured beside what it cannot do without: `cargo bench --bench zone -- [parts] [tail]` (`make bench-zone`).
//!
//! Starts `redis-server` six times on loopback. `parts`: one chunk of 512 KiB from the zone, beside a plain GET of the same bytes from one
//! server, one SHA-256 and one opening, in turn. `tail`: 20,000 chunk reads, one of the six behind a proxy that takes
//! 20 ms, once for each code and five times for the default.
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a program for its author's terminal"
)]

#[path = "../tests/it/support/cache_servers.rs"]
#[expect(dead_code, unreachable_pub, reason = "the tests use more of it")]
mod cache_servers;

mod servers {
    pub(crate) fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }
}

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cache_servers::{CacheServer, Slowed};
use coldpress::Result;
use coldpress::crypto::convergent::{open, seal};
use coldpress::crypto::packed::Packer;
use coldpress::crypto::{ChunkKey, Codec, Salt, Secret};
use coldpress::digest::Sha256;
use coldpress::read::counts::Counts;
use coldpress::read::tier::{Place, Tier, Wanted};
use coldpress::store::ObjectName;
use coldpress::zone::resp::{Decoder, Reply, encode};
use coldpress::zone::stripe::{Code, Coder};
use coldpress::zone::{Settings, Zone, ZoneTier};

const CHUNK: usize = 512 << 10;
const CHUNKS: usize = 400;
const SERVERS: usize = 6;

struct Chunk {
    name: ObjectName,
    digest: Sha256,
    key: ChunkKey,
    sealed: Vec<u8>,
}

impl Chunk {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { name: &self.name, limit: self.sealed.len() as u64, key: &self.key, background: false }
    }
}

fn chunks() -> Vec<Chunk> {
    let salt = Salt::new(Secret::random().unwrap());
    let root = "main".parse().unwrap();
    let make = |number: usize| {
        let mut bytes: Vec<u8> = (0..CHUNK / 32)
            .flat_map(|n| *Sha256::of(&[number.to_le_bytes(), n.to_le_bytes()].concat()).as_bytes())
            .collect();
        let mut packer = Packer::new(Codec::None);
        let packed = packer.pack(&mut bytes);
        let (key, digest) = seal(&salt, packed);
        Chunk { name: ObjectName::chunk(&root, digest), digest, key, sealed: packed.clone() }
    };
    (0..CHUNKS).map(make).collect()
}

/// The store, as a map; counts what is asked of it.
struct Origin(Arc<Vec<Chunk>>, Arc<AtomicU64>);

impl Tier for Origin {
    fn get(&self, wanted: &Wanted<'_>, _: Instant) -> Result<(Vec<u8>, Place)> {
        self.1.fetch_add(1, Ordering::Relaxed);
        let chunk = self.0.iter().find(|chunk| chunk.name == *wanted.name).unwrap();
        std::thread::sleep(Duration::from_millis(30));
        Ok((chunk.sealed.clone(), Place::Origin))
    }
}

/// A plain client of one server, which waits in its read.
struct Plain(TcpStream, Decoder);

impl Plain {
    fn connect(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(stream, Decoder::default())
    }

    fn call(&mut self, words: &[&[u8]]) -> Reply {
        let mut out = Vec::new();
        encode(&mut out, words);
        self.0.write_all(&out).unwrap();
        self.1.read(&mut self.0, 1 << 20).unwrap().unwrap()
    }

    fn get(&mut self, key: &str) -> Vec<u8> {
        let Reply::Bytes(bytes) = self.call(&[b"GET", key.as_bytes()]) else { panic!("{key}") };
        bytes
    }
}

struct Bench {
    chunks: Arc<Vec<Chunk>>,
    tier: ZoneTier,
    zone: Arc<Zone>,
    asked: Arc<AtomicU64>,
}

/// A zone of `ports`, all chunks in it.
fn bench(ports: &[u16], code: Code, chunks: &Arc<Vec<Chunk>>) -> Bench {
    let addresses = ports.iter().map(|port| format!("redis://127.0.0.1:{port}").parse().unwrap()).collect();
    let settings = Settings { code, deadline: Duration::from_millis(5), lease: Duration::from_millis(500) };
    let zone = Zone::open(addresses, None, settings).unwrap();
    let asked = Arc::<AtomicU64>::default();
    let origin = Origin(Arc::clone(chunks), Arc::clone(&asked));
    let tier = ZoneTier::new(Box::new(origin), Arc::clone(&zone), Arc::<Counts>::default());
    let bench = Bench { chunks: Arc::clone(chunks), tier, zone, asked };
    std::thread::sleep(Duration::from_millis(200));
    // Twice: what could not be written the first time.
    for chunk in chunks.iter().chain(chunks.iter()) {
        let (bytes, _) = bench.tier.get(&chunk.wanted(), soon()).unwrap();
        assert!(bytes == chunk.sealed);
        bench.zone.finish();
    }
    bench.asked.store(0, Ordering::Relaxed);
    bench
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn micros(of: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    of();
    begun.elapsed().as_secs_f64() * 1e6
}

fn quantile(sorted: &[f64], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share).round() as usize]
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    quantile(&times, 0.5)
}

fn parts() {
    // With room for the chunks as they are, too.
    let servers: Vec<CacheServer> = (0..SERVERS).map(|_| CacheServer::with(&["--maxmemory", "1gb"])).collect();
    let ports: Vec<u16> = servers.iter().map(|server| server.port).collect();
    let chunks = Arc::new(chunks());
    let bench = bench(&ports, Code::default(), &chunks);
    let mut plain = Plain::connect(ports[0]);
    for (at, chunk) in chunks.iter().enumerate() {
        assert_eq!(plain.call(&[b"SET", format!("plain{at}").as_bytes(), &chunk.sealed]), Reply::Status);
    }
    let coder = Coder::new(Code::default());
    let mut bytes = vec![0; CHUNK];
    let [mut zone, mut found, mut get, mut sha, mut opened, mut split, mut join] = [const { Vec::new() }; 7];
    for round in 0..10 {
        for (at, chunk) in chunks.iter().enumerate() {
            let mut stored = Vec::new();
            let there = micros(|| stored = bench.tier.get(&chunk.wanted(), soon()).unwrap().0);
            // As the device does: the name, and the opening.
            let named = micros(|| open(Codec::None, chunk.digest, &chunk.key, &mut stored, &mut bytes).unwrap());
            found.push(there);
            zone.push(there + named);
            get.push(micros(|| stored = plain.get(&format!("plain{at}"))));
            let mut digest = None;
            sha.push(micros(|| digest = Some(Sha256::of(&stored))));
            // Both the name and the opening; the name's part is taken off.
            let all = micros(|| open(Codec::None, chunk.digest, &chunk.key, &mut stored, &mut bytes).unwrap());
            opened.push(all - sha[sha.len() - 1]);
            if round == 0 {
                let seal = coldpress::crypto::shard_seal::ShardSeal::of(&chunk.key);
                let mut shards = Vec::new();
                split.push(micros(|| shards = coder.split(&seal, &chunk.sealed)));
                let some = shards.into_iter().skip(2);
                let some = some.map(|shard| coder.check(&seal, chunk.sealed.len(), shard).unwrap()).collect();
                join.push(micros(|| assert!(coder.join(chunk.sealed.len(), some).is_some())));
            }
        }
    }
    let [zone, found, get, sha, opened, split, join] = [zone, found, get, sha, opened, split, join].map(median);
    println!("| µs, median of {} | |\n|---|---|", CHUNKS * 10);
    println!("| a chunk of 512 KiB from the zone, named and opened | {zone:.0} |");
    println!("| of these, until its sealed bytes are there | {found:.0} |");
    println!("| plain GET of it from one server | {get:.0} |\n| SHA-256 | {sha:.0} |\n| opening | {opened:.0} |");
    println!("| ratio | {:.2} |", zone / (get + sha + opened));
    println!("| splitting into 4+2, with tags | {split:.0} |\n| joining without two of data | {join:.0} |");
    println!("| from the store meanwhile | {} |", bench.asked.load(Ordering::Relaxed));
}

fn tail() {
    const READS: usize = 20_000;
    const THREADS: usize = 2;
    println!(
        "| code | run | p50 ms | p99 ms | p99.9 ms | most ms | over 10 ms | from the store | stored MB |\n|---|---|---|---|---|---|---|---|---|"
    );
    let chunks = Arc::new(chunks());
    let mut curves = String::from("code,milliseconds\n");
    for code in ["1+0", "1+1", "4+1", "4+2"] {
        let servers = CacheServer::some(SERVERS);
        let mut ports: Vec<u16> = servers.iter().map(|server| server.port).collect();
        let slowed = Slowed::of(ports[0]);
        slowed.by(Duration::from_millis(20));
        ports[0] = slowed.port;
        let bench = bench(&ports, code.parse().unwrap(), &chunks);
        let runs = if code == "4+2" { 5 } else { 1 };
        for run in 1..=runs {
            bench.asked.store(0, Ordering::Relaxed);
            let next = AtomicUsize::new(0);
            let mut times: Vec<f64> = std::thread::scope(|scope| {
                let reading = || {
                    let mut times = Vec::new();
                    while let n @ 0..READS = next.fetch_add(1, Ordering::Relaxed) {
                        let chunk = &bench.chunks[n.wrapping_mul(7919) % CHUNKS];
                        let mut found = None;
                        times.push(micros(|| found = Some(bench.tier.get(&chunk.wanted(), soon()).unwrap())) / 1e3);
                        assert!(found.unwrap().0 == chunk.sealed);
                    }
                    times
                };
                let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(reading)).collect();
                threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
            });
            times.sort_by(f64::total_cmp);
            let at = |share| quantile(&times, share);
            let slow = times.iter().filter(|time| **time > 10.0).count();
            let coder = Coder::new(code.parse().unwrap());
            let stored = coder.stored(chunks[0].sealed.len()) * coder.code().shards() * CHUNKS;
            println!(
                "| {code} | {run} | {:.2} | {:.2} | {:.2} | {:.1} | {slow} | {} | {:.0} |",
                at(0.5),
                at(0.99),
                at(0.999),
                at(1.0),
                bench.asked.load(Ordering::Relaxed),
                stored as f64 / 1e6,
            );
            if run == runs {
                (0..=1000).for_each(|part| curves += &format!("{code},{:.4}\n", at(f64::from(part) / 1000.0)));
            }
        }
    }
    if let Ok(path) = std::env::var("CURVES") {
        std::fs::write(path, curves).unwrap();
    }
}

fn main() {
    let wanted: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let wants = |part: &str| wanted.is_empty() || wanted.iter().any(|word| word == part);
    if wants("parts") {
        parts();
    }
    if wants("tail") {
        tail();
    }
}

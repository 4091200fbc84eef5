//! The zone's cache on real servers that are killed, stopped, emptied, filled with garbage, added and removed, and the programs over it.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coldpress::Result;
use coldpress::crypto::convergent::seal;
use coldpress::crypto::packed::Packer;
use coldpress::crypto::shard_seal::ShardSeal;
use coldpress::crypto::{ChunkKey, Codec, Salt, Secret};
use coldpress::read::counts::Counts;
use coldpress::read::disk_cache::{CachedTier, DiskCache};
use coldpress::read::tier::{Place, Tier, Wanted};
use coldpress::store::ObjectName;
use coldpress::zone::placement::{Seed, places};
use coldpress::zone::stripe::{Code, Coder};
use coldpress::zone::{Settings, Zone, ZoneTier};
use serde_json::Value;

use crate::nbd::{Serving, image};
use crate::support::cache_servers::{Apart, CacheServer, Hostile, Slowed, hostile, urls};
use crate::support::common::{Bench, noise, stdout};
use crate::support::nbd_client::Client;
use crate::support::slow_store::SlowStore;

struct Chunk {
    name: ObjectName,
    key: ChunkKey,
    sealed: Vec<u8>,
}

impl Chunk {
    fn wanted(&self) -> Wanted<'_> {
        Wanted { name: &self.name, limit: self.sealed.len() as u64, key: &self.key, background: false }
    }
}

fn chunks(count: u64) -> Arc<Vec<Chunk>> {
    let salt = Salt::new(Secret::random().unwrap());
    let root = "main".parse().unwrap();
    let make = |n: u64| {
        let mut bytes = noise(40_000 + usize::try_from(n).unwrap() * 3000, n);
        let mut packer = Packer::new(Codec::None);
        let packed = packer.pack(&mut bytes);
        let (key, digest) = seal(&salt, packed);
        Chunk { name: ObjectName::chunk(&root, digest), key, sealed: packed.clone() }
    };
    Arc::new((0..count).map(make).collect())
}

/// The next tier: what a store would give, counted by chunk.
struct Origin {
    chunks: Arc<Vec<Chunk>>,
    asked: Arc<Vec<AtomicU64>>,
    delay: Duration,
}

impl Tier for Origin {
    fn get(&self, wanted: &Wanted<'_>, _: Instant) -> Result<(Vec<u8>, Place)> {
        let at = self.chunks.iter().position(|chunk| chunk.name == *wanted.name).unwrap();
        self.asked[at].fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(self.delay);
        Ok((self.chunks[at].sealed.clone(), Place::Origin))
    }
}

/// A host of the zone.
struct Host {
    chunks: Arc<Vec<Chunk>>,
    tier: ZoneTier,
    zone: Arc<Zone>,
    asked: Arc<Vec<AtomicU64>>,
}

/// Longer than the default, since other tests run beside this one; what the default comes to is measured by `make bench-zone`.
const DEADLINE: Duration = Duration::from_millis(200);

impl Host {
    fn of(urls: &str, chunks: &Arc<Vec<Chunk>>) -> Self {
        let settings = Settings { code: "4+2".parse().unwrap(), deadline: DEADLINE, lease: Duration::from_secs(2) };
        Self::with(urls, chunks, settings, Duration::ZERO)
    }

    fn with(urls: &str, chunks: &Arc<Vec<Chunk>>, settings: Settings, delay: Duration) -> Self {
        let addresses = urls.split(',').map(|url| url.parse().unwrap()).collect();
        let zone = Zone::open(addresses, None, settings).unwrap();
        let asked: Arc<Vec<AtomicU64>> = Arc::new(chunks.iter().map(|_| AtomicU64::new(0)).collect());
        let origin = Origin { chunks: Arc::clone(chunks), asked: Arc::clone(&asked), delay };
        let tier = ZoneTier::new(Box::new(origin), Arc::clone(&zone), Arc::<Counts>::default());
        Self { chunks: Arc::clone(chunks), tier, zone, asked }
    }

    /// Reads a chunk, which must be true; where it was.
    fn read(&self, at: usize) -> Place {
        let chunk = &self.chunks[at];
        let begun = Instant::now();
        let (bytes, place) = self.tier.get(&chunk.wanted(), begun + Duration::from_secs(20)).unwrap();
        assert!(bytes == chunk.sealed, "chunk {at} is another");
        assert!(begun.elapsed() < Duration::from_secs(5), "chunk {at} took {:?}", begun.elapsed());
        place
    }

    fn read_all(&self) -> Vec<Place> {
        (0..self.chunks.len())
            .map(|at| {
                let place = self.read(at);
                self.zone.finish();
                place
            })
            .collect()
    }

    fn asked_of_origin(&self) -> u64 {
        self.asked.iter().map(|asked| asked.load(Ordering::SeqCst)).sum()
    }
}

/// Reads at random by `threads` while `happens`; how many reads, and how many of them came from the store.
fn under_load(host: &Host, threads: usize, happens: impl FnOnce()) -> (usize, u64) {
    let (before, ended, reads) = (host.asked_of_origin(), AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let (ended, reads) = (&ended, &reads);
            scope.spawn(move || {
                let mut n = thread * 17;
                while !ended.load(Ordering::Relaxed) {
                    n = (n * 31 + 7) % 10_007;
                    host.read(n % host.chunks.len());
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        happens();
        ended.store(true, Ordering::Relaxed);
    });
    (reads.into_inner(), host.asked_of_origin() - before)
}

/// Waits until a server has as many shards again.
fn until_it_holds(server: &CacheServer, shards: i64) {
    let begun = Instant::now();
    while server.keys() < shards {
        assert!(begun.elapsed() < Duration::from_secs(30), "{} of {shards}", server.keys());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until no server is passed over any more.
fn until_all_are_asked(host: &Host) {
    let begun = Instant::now();
    while host.zone.servers().any(|(_, _, fit)| !fit) {
        assert!(begun.elapsed() < Duration::from_secs(30), "one is still passed over");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn pause() {
    std::thread::sleep(Duration::from_millis(700));
}

#[test]
fn what_one_host_fetched_the_next_finds_without_the_store() {
    let servers = CacheServer::some(6);
    let chunks = chunks(20);
    let one = Host::of(&urls(&servers), &chunks);
    assert!(one.read_all().iter().all(|place| *place == Place::Origin));
    assert_eq!(one.zone.counts().filled.get(), 20);
    let other = Host::of(&urls(&servers), &chunks);
    assert!(other.read_all().iter().all(|place| *place == Place::Zone));
    assert_eq!(other.asked_of_origin(), 0);
    // Twenty shards and the counters on each, and nothing by which a chunk is known.
    for server in &servers {
        assert!((20..=22).contains(&server.keys()), "{}", server.keys());
    }
}

#[test]
fn no_wrong_byte_and_no_late_read_while_servers_are_killed_stopped_emptied_and_spoiled() {
    let mut servers = CacheServer::some(6);
    let chunks = chunks(40);
    let host = Host::of(&urls(&servers), &chunks);
    host.read_all();
    let (reads, origin) = under_load(&host, 3, || {
        // Two of six gone, one of them without a word.
        servers[0].kill();
        servers[1].signal("-STOP");
        pause();
        pause();
    });
    assert!(reads > 100, "{reads}");
    assert!(origin * 1000 <= reads as u64, "{origin} of {reads} from the store");
    let (_, origin) = under_load(&host, 3, || {
        servers[1].signal("-CONT");
        servers[0].restart();
        until_it_holds(&servers[0], 40);
        until_all_are_asked(&host);
        pause();
    });
    let late = host.zone.counts().late.get();
    assert_eq!(origin, 0, "while they come back; {late} late");
    let (_, origin) = under_load(&host, 3, || {
        servers[2].fill_with_garbage();
        servers[3].call(&[b"FLUSHALL"]);
        pause();
    });
    assert_eq!(origin, 0, "four were left");
    // What was lacking is repaired, until any four serve.
    under_load(&host, 1, || {
        until_it_holds(&servers[3], 40);
        pause();
    });
    assert!(host.zone.counts().repaired.get() >= 80);
    servers[4].kill();
    servers[5].kill();
    let before = host.asked_of_origin();
    host.read_all();
    assert!(host.asked_of_origin() - before <= 2, "the others were repaired");
}

#[test]
fn servers_are_added_and_removed_without_the_store_being_asked_for_all() {
    let servers = CacheServer::some(8);
    let chunks = chunks(60);
    Host::of(&urls(&servers[..7]), &chunks).read_all();
    // One more takes the place of one of six at most, one less likewise.
    for (count, what) in [(8, "added"), (7, "removed")] {
        let host = Host::of(&urls(&servers[..count]), &chunks);
        host.read_all();
        assert_eq!(host.asked_of_origin(), 0, "{what}");
    }
}

#[test]
fn a_hostile_server_costs_time_and_nothing_else() {
    let servers = CacheServer::some(4);
    let chunks = chunks(10);
    let settings = Settings { code: "4+2".parse().unwrap(), deadline: DEADLINE, lease: Duration::from_millis(300) };
    for (one, other) in [
        (Hostile::Endless, Hostile::Huge),
        (Hostile::Nonsense, Hostile::HangsUp),
        (Hostile::Silent, Hostile::Trickles),
        (Hostile::HasNothing, Hostile::Refuses),
    ] {
        servers.iter().for_each(|server| drop(server.call(&[b"FLUSHALL"])));
        let urls = format!("{},{},{}", urls(&servers), hostile(one), hostile(other));
        let host = Host::with(&urls, &chunks, settings, Duration::ZERO);
        host.read_all();
        let before = host.asked_of_origin();
        host.read_all();
        assert_eq!(host.asked_of_origin(), before, "{one:?} and {other:?}: the four true ones have all");
    }
}

/// Gives the same whatever it is asked for.
struct Liar(Vec<u8>);

impl Tier for Liar {
    fn get(&self, _: &Wanted<'_>, _: Instant) -> Result<(Vec<u8>, Place)> {
        Ok((self.0.clone(), Place::Origin))
    }
}

#[test]
fn what_the_store_gives_falsely_gets_no_shards() {
    let servers = CacheServer::some(6);
    let chunks = chunks(1);
    let wanted = chunks[0].wanted();
    let mut flipped = chunks[0].sealed.clone();
    flipped[100] ^= 1;
    let short = flipped[1..].to_vec();
    for lie in [Vec::new(), short, flipped] {
        let host = Host::of(&urls(&servers), &chunks);
        let tier = ZoneTier::new(Box::new(Liar(lie.clone())), Arc::clone(&host.zone), Arc::<Counts>::default());
        for _ in 0..40 {
            // Who opens it finds out.
            assert_eq!(
                tier.get(&wanted, Instant::now() + Duration::from_secs(20)).unwrap(),
                (lie.clone(), Place::Origin)
            );
        }
        host.zone.finish();
        assert_eq!(host.zone.counts().filled.get(), 0);
        // Leases are given back, and the writers still work.
        let begun = Instant::now();
        while servers.iter().any(|server| server.keys() > 0) {
            assert!(begun.elapsed() < Duration::from_secs(10), "something was written");
            std::thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(host.read(0), Place::Origin);
        host.zone.finish();
        assert_eq!(host.read(0), Place::Zone);
        servers.iter().for_each(|server| drop(server.call(&[b"FLUSHALL"])));
    }
}

/// One who has what opens the chunk, and the servers, can put shards there that are true and of other bytes.
#[test]
fn what_lies_in_the_zone_falsely_is_asked_of_the_store() {
    let servers = CacheServer::some(6);
    let (bench, chunks) = (Bench::new(), chunks(1));
    let wanted = chunks[0].wanted();
    let seal = ShardSeal::of(&chunks[0].key);
    let mut other = chunks[0].sealed.clone();
    other[100] ^= 1;
    let shards = Coder::new("4+2".parse().unwrap()).split(&seal, &other);
    let spoil = || {
        for (server, shard) in servers.iter().zip(&shards) {
            server.call(&[b"SET", format!("coldpress:{:?}", seal.id()).as_bytes(), shard]);
        }
    };
    let host = Host::of(&urls(&servers), &chunks);
    spoil();
    let soon = || Instant::now() + Duration::from_secs(20);
    let (bytes, place) = host.tier.get(&wanted, soon()).unwrap();
    assert!(place == Place::Zone && bytes == other);
    assert!(host.tier.forget(&wanted));
    host.zone.finish();
    // Even where it is there again.
    spoil();
    assert_eq!(host.read(0), Place::Origin);
    host.zone.finish();
    assert_eq!(host.read(0), Place::Zone, "it was written anew");
    // And behind a disk cache, while it comes back all the time.
    let cache = Arc::new(DiskCache::open(&bench.path("cache"), 1 << 30).unwrap());
    let tier = CachedTier::new(Box::new(host.tier), cache, Arc::<Counts>::default());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                spoil();
            }
        });
        for _ in 0..20 {
            let (bytes, _) = tier.get(&wanted, soon()).unwrap();
            assert!(bytes == chunks[0].sealed);
            fs::remove_dir_all(bench.path("cache/chunks")).unwrap();
            fs::create_dir(bench.path("cache/chunks")).unwrap();
        }
        ended.store(true, Ordering::Relaxed);
    });
}

#[test]
fn eight_servers_of_which_two_are_slow_and_one_is_killed_under_load_serve_without_the_store() {
    let mut servers = CacheServer::some(8);
    let slowed: Vec<Slowed> = servers[..2].iter().map(|server| Slowed::of(server.port)).collect();
    let through = slowed.iter().map(|slowed| format!("redis://127.0.0.1:{}", slowed.port));
    let zone = through.chain(servers[2..].iter().map(CacheServer::url)).collect::<Vec<_>>().join(",");
    let chunks = chunks(40);
    let host = Host::of(&zone, &chunks);
    host.read_all();
    let (reads, origin) = under_load(&host, 3, || {
        slowed.iter().for_each(|slowed| slowed.by(Duration::from_millis(50)));
        pause();
        servers[7].kill();
        pause();
        slowed.iter().for_each(|slowed| slowed.by(Duration::ZERO));
        pause();
    });
    assert!(reads > 100, "{reads}");
    assert!(origin * 1000 <= reads as u64, "{origin} of {reads} from the store");
}

/// The vectors of docs/reference/formats/zone-shard.md, made by tools/check_shards.py, which knows nothing of this program.
#[test]
fn shards_and_their_places_are_those_of_the_published_vectors() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/vectors/shards.json");
    let vectors: Vec<Value> = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    assert_eq!(vectors.len(), 6);
    for vector in &vectors {
        let bytes = |value: &Value| {
            let hex = value.as_str().unwrap();
            let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
            (0..hex.len()).step_by(2).map(byte).collect::<Vec<u8>>()
        };
        let texts = |value: &Value| -> Vec<String> { serde_json::from_value(value.clone()).unwrap() };
        let seal = ShardSeal::of(&ChunkKey::from_bytes(bytes(&vector["key"]).try_into().unwrap()));
        assert_eq!(format!("{:?}", seal.id()), vector["id"].as_str().unwrap());
        let code: Code = vector["code"].as_str().unwrap().parse().unwrap();
        let shards = Coder::new(code).split(&seal, &bytes(&vector["stored"]));
        let wanted: Vec<Vec<u8>> = vector["shards"].as_array().unwrap().iter().map(bytes).collect();
        assert!(shards == wanted, "{code}");
        let names = texts(&vector["servers"]);
        let seeds: Vec<Seed> = names.iter().map(|name| Seed::of(name)).collect();
        let places = places(&seeds, seal.id(), code.shards());
        let placed: Vec<&String> = places.iter().map(|place| &names[place.server]).collect();
        let wanted: Vec<Vec<String>> = vector["places"].as_array().unwrap().iter().map(texts).collect();
        assert_eq!(placed, wanted.iter().map(|place| &place[0]).collect::<Vec<_>>());
        let round = |key: &str| key.splitn(3, ':').nth(2).map_or(0, |round| round.parse().unwrap());
        assert!(places.iter().zip(&wanted).all(|(place, wanted)| place.round == round(&wanted[1])));
    }
}

#[test]
fn a_server_that_is_cut_off_is_lost_without_the_others_being_so() {
    let servers = CacheServer::some(4);
    let apart = [Apart::start(0), Apart::start(1)];
    let zone = format!("{},{},{}", urls(&servers), apart[0].url, apart[1].url);
    let chunks = chunks(40);
    let host = Host::of(&zone, &chunks);
    assert!(host.read_all().iter().all(|place| *place == Place::Origin));
    let other = Host::of(&zone, &chunks);
    assert!(other.read_all().iter().all(|place| *place == Place::Zone));
    let (reads, origin) = under_load(&host, 3, || {
        apart.iter().for_each(Apart::cut_off);
        pause();
        pause();
        pause();
    });
    assert!(reads > 100, "{reads}");
    assert!(origin * 1000 <= reads as u64, "{origin} of {reads} from the store");
    // Who begins now has no connection there, and waits for none.
    let third = Host::of(&zone, &chunks);
    assert!(third.read_all().iter().all(|place| *place == Place::Zone));
}

#[test]
fn a_zone_that_is_gone_costs_its_deadline_and_no_more() {
    let mut servers = CacheServer::some(6);
    let chunks = chunks(30);
    let settings = Settings {
        code: "4+2".parse().unwrap(),
        deadline: Duration::from_millis(20),
        lease: Duration::from_millis(500),
    };
    let host = Host::with(&urls(&servers), &chunks, settings, Duration::ZERO);
    host.read_all();
    servers.iter().take(3).for_each(|server| server.signal("-STOP"));
    servers.iter_mut().skip(3).for_each(CacheServer::kill);
    let begun = Instant::now();
    for round in 0..5 {
        (0..30).for_each(|at| assert_eq!(host.read(at), Place::Origin, "{round}"));
    }
    // A look and a lease each have their deadline; most reads need not wait, since servers that are down are left alone.
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    servers.iter().take(3).for_each(|server| server.signal("-CONT"));
}

#[test]
fn one_host_fetches_while_the_others_wait_and_a_lost_one_is_replaced() {
    let servers = CacheServer::some(6);
    let chunks = chunks(8);
    let settings = Settings { code: "4+2".parse().unwrap(), deadline: DEADLINE, lease: Duration::from_secs(3) };
    let hosts: Vec<Host> =
        (0..8).map(|_| Host::with(&urls(&servers), &chunks, settings, Duration::from_millis(100))).collect();
    std::thread::scope(|scope| {
        for host in &hosts {
            scope.spawn(|| (0..8).map(|at| host.read(at)).collect::<Vec<_>>());
        }
    });
    let asked: Vec<u64> =
        (0..8).map(|at| hosts.iter().map(|host| host.asked[at].load(Ordering::SeqCst)).sum()).collect();
    assert!(asked.iter().all(|asked| *asked == 1), "{asked:?}");
    assert!(hosts.iter().map(|host| host.zone.counts().waited.get()).sum::<u64>() >= 8 * 7 / 2);
    // A holder that is lost: its lease ends by itself, and who waited asks the store.
    servers.iter().for_each(|server| drop(server.call(&[b"FLUSHALL"])));
    let id = ShardSeal::of(&chunks[0].key).id();
    for server in &servers {
        server.call(&[b"SET", format!("coldpress:lease:{id:?}").as_bytes(), b"of one that died", b"PX", b"700"]);
    }
    let begun = Instant::now();
    assert_eq!(hosts[0].read(0), Place::Origin);
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(500) && took < Duration::from_secs(3), "{took:?}");
}

#[test]
fn servers_with_passwords_and_tls_serve_who_has_what_opens_them() {
    let bench = Bench::new();
    crate::registry::certificates(&bench);
    let path = |name: &str| bench.path(name).to_str().unwrap().to_owned();
    let server = CacheServer::with(&[
        "--tls-port",
        "PORT",
        "--tls-cert-file",
        &path("server.pem"),
        "--tls-key-file",
        &path("server.key"),
        "--tls-ca-cert-file",
        &path("ca.pem"),
        "--tls-auth-clients",
        "no",
        "--requirepass",
        "opensesame",
    ]);
    bench.block_image(&image(1), "app", &[]);
    fs::write(bench.path("password"), "opensesame\n").unwrap();
    fs::set_permissions(bench.path("password"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let url = format!("rediss://127.0.0.1:{}", server.port);
    let read = |options: &[&str]| {
        let serve = [
            "serve",
            "app.cpm",
            "--nbd",
            "unix:a.sock",
            "--metrics",
            "unix:m.sock",
            "--zone-code",
            "1+0",
            "--zone",
            &url,
        ];
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
        let serving = Serving::at(&bench, command.args(serve).args(["--zone-deadline", "500ms"]).args(options));
        Client::wait_for(&bench.path("a.sock")).read(0, 4 << 20);
        std::thread::sleep(Duration::from_millis(300));
        let status: Value =
            serde_json::from_slice(&stdout(&bench.coldread(&["status", "unix:m.sock", "--json"]))).unwrap();
        serving.end();
        status
    };
    let of = |status: &Value, tier: usize| status["tiers"][tier]["hits"].as_u64().unwrap();
    let good = ["--zone-tls-ca", "ca.pem", "--zone-password-file", "password"];
    let first = read(&good);
    assert!(of(&first, 3) > 0, "{first}");
    let second = read(&good);
    assert!(of(&second, 2) > 0 && of(&second, 3) == 0, "{second}");
    // Who has not both reads all the same, from the store.
    for options in [&good[..2], &good[2..]] {
        let status = read(options);
        assert!(of(&status, 2) == 0 && of(&status, 3) > 0, "{status}");
    }
    let zone = |options: &[&str]| bench.coldread(&[&["zone", "status", "--zone", &url], options].concat());
    let shown = String::from_utf8(stdout(&zone(&good))).unwrap();
    assert!(shown.contains(" up ") && !shown.contains("opensesame"), "{shown}");
    let refused = zone(&good[..2]);
    assert_eq!(refused.status.code(), Some(4), "{refused:?}");
    fs::set_permissions(bench.path("password"), std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let refused = zone(&good);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("chmod 600"), "{refused:?}");
}

/// Fifty hosts, each with a memory of its own and no disk cache, start one image on an empty zone.
#[test]
fn fifty_readers_that_start_at_once_ask_the_store_for_each_chunk_at_most_twice() {
    let servers = CacheServer::some(6);
    let bench = Bench::new();
    bench.block_image(&image(1), "app", &[]);
    let store = SlowStore::mount(&bench.path("store"), &bench.path("slow"), Duration::from_millis(30));
    let sockets: Vec<String> = (0..50).map(|n| format!("{n}.sock")).collect();
    let readers: Vec<_> = sockets
        .iter()
        .map(|socket| {
            // On two processors, fifty programs need longer for a chunk than the half second that a lease lasts elsewhere.
            Command::new(env!("CARGO_BIN_EXE_coldread"))
                .args(["serve", "app.cpm", "--store", "slow", "--zone", &urls(&servers), "--zone-lease", "10s"])
                .args([
                    "--zone-deadline",
                    "500ms",
                    "--threads",
                    "4",
                    "--requests",
                    "4",
                    "--nbd",
                    &format!("unix:{socket}"),
                ])
                .current_dir(bench.dir.path())
                .env("COLDREAD_RUN_DIR", bench.path("run"))
                .env_remove("COLDPRESS_KEY")
                .spawn()
                .unwrap()
        })
        .collect();
    let device = fs::read(bench.path("app.img")).unwrap();
    std::thread::scope(|scope| {
        for socket in &sockets {
            let (device, path) = (&device, bench.path(socket));
            scope.spawn(move || {
                let mut client = Client::wait_for(&path);
                for (at, chunk) in device.chunks(1 << 19).enumerate() {
                    assert!(client.read(at as u64 * (1 << 19), chunk.len() as u64) == chunk, "chunk {at}");
                }
            });
        }
    });
    for mut reader in readers {
        Command::new("kill").arg(reader.id().to_string()).status().unwrap();
        assert!(reader.wait().unwrap().success());
    }
    let requests = store.script.requests.lock().unwrap();
    let chunks: Vec<(&String, &u64)> = requests.iter().filter(|(name, _)| !name.contains("manifests")).collect();
    assert!(chunks.len() > 8);
    let often: Vec<_> = chunks.iter().filter(|(_, asked)| **asked > 2).collect();
    assert!(often.is_empty(), "{often:?}");
}

#[test]
fn starts_take_turns_where_a_rate_is_set() {
    let servers = CacheServer::some(2);
    let settings = Settings { code: "1+1".parse().unwrap(), deadline: DEADLINE, lease: Duration::ZERO };
    let hosts: Vec<Host> = (0..3).map(|_| Host::with(&urls(&servers), &chunks(1), settings, Duration::ZERO)).collect();
    let begun = Instant::now();
    let waited: Vec<Duration> = hosts.iter().map(|host| host.zone.wait_for_turn(1)).collect();
    // Three starts lie in three seconds, the first of which may be nearly over.
    assert!(begun.elapsed() > Duration::from_secs(1), "{waited:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "{waited:?}");
    let alone = Host::with(&hostile(Hostile::HangsUp), &chunks(1), settings, Duration::ZERO);
    assert!(alone.zone.wait_for_turn(1) < Duration::from_secs(2), "nobody tells whose turn it is");
}

#[test]
fn a_trace_is_recorded_and_planned_with() {
    let bench = Bench::new();
    bench.block_image(&image(1), "app", &[]);
    for _ in 0..2 {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
        let serving =
            Serving::at(&bench, command.args(["serve", "app.cpm", "--nbd", "unix:a.sock", "--trace", "host.trace"]));
        Client::wait_for(&bench.path("a.sock")).read(0, 8 << 20);
        serving.end();
    }
    let lines = fs::read_to_string(bench.path("host.trace")).unwrap().lines().count();
    let plan = |args: &[&str]| bench.coldread(&[&["zone", "plan"], args].concat());
    let planned: Value =
        serde_json::from_slice(&stdout(&plan(&["--trace", "host.trace", "--json", "-o", "plan.svg"]))).unwrap();
    assert_eq!(planned["asked"], lines);
    assert_eq!(planned["chunks"], lines / 2, "twice the same");
    stdout(&Command::new("xmllint").args(["--noout", "plan.svg"]).current_dir(bench.dir.path()).output().unwrap());
    let made = ["--make", "zipf:2000,0.9,50000", "--make", "cron:500,3600,24", "--goal", "3ms"];
    insta::assert_snapshot!("plan", String::from_utf8(stdout(&plan(&made))).unwrap());
    assert_eq!(stdout(&plan(&made)), stdout(&plan(&made)));
    fs::write(bench.path("bad.trace"), "1 a 5\nnothing\n").unwrap();
    let bad = plan(&["--trace", "bad.trace"]);
    assert!(String::from_utf8_lossy(&bad.stderr).contains("bad.trace: line 2"), "{bad:?}");
    assert_eq!(plan(&[]).status.code(), Some(2));
}

#[test]
fn what_is_wrong_with_a_zone_is_said_without_its_password() {
    let bench = Bench::new();
    let status = |zone: &str| {
        let output = bench.coldread(&["zone", "status", "--zone", zone]);
        (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, said) = status("redis://:hunter2@127.0.0.1:1,redis://127.0.0.1:1");
    assert!(code == 1 && said.contains("127.0.0.1:1 is listed twice"), "{said}");
    let (code, said) = status("redis://:hunter2@127.0.0.1:1");
    assert!(code == 4 && said.contains("no answer from 127.0.0.1:1"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let (code, said) = status("redis:hunter2");
    assert!(code == 2 && said.contains("redis://HOST") && !said.contains("hunter2"), "{said}");
    let (code, said) = status("redis://:hunter2@127.0.0.1:63x9");
    assert!(code == 2 && said.contains("--zone (COLDREAD_ZONE): ") && !said.contains("hunter2"), "{said}");
    assert_eq!(bench.coldread(&["zone", "status"]).status.code(), Some(2));
}

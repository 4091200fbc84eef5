//! Real cache servers: `redis-server` on loopback or in a network namespace, each a process of its own, and what can happen to it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use coldpress::zone::resp::{Decoder, Reply, encode};

use super::servers::free_port;

/// One server; gone when it is dropped.
pub struct CacheServer {
    process: Child,
    pub port: u16,
    directory: tempfile::TempDir,
    options: Vec<String>,
}

impl CacheServer {
    pub fn start() -> Self {
        Self::with(&[])
    }

    pub fn with(options: &[&str]) -> Self {
        let (port, directory) = (free_port(), tempfile::tempdir().unwrap());
        let options = options.iter().map(|option| option.replace("PORT", &port.to_string())).collect();
        let process = spawn(port, &directory, &options);
        Self { process, port, directory, options }
    }

    pub fn some(count: usize) -> Vec<Self> {
        (0..count).map(|_| Self::start()).collect()
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Again at the same address, empty.
    pub fn restart(&mut self) {
        self.process = spawn(self.port, &self.directory, &self.options);
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    pub fn call(&self, words: &[&[u8]]) -> Reply {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut out = Vec::new();
        encode(&mut out, words);
        stream.write_all(&out).unwrap();
        Decoder::default().read(&mut stream, 1 << 20).unwrap().expect("an answer in time")
    }

    /// Overwrites every shard with bytes of the same length that are no shard.
    pub fn fill_with_garbage(&self) {
        const SCRIPT: &str = "for _, k in ipairs(redis.call('keys', 'coldpress:*')) do \
            if redis.call('type', k).ok == 'string' then redis.call('set', k, string.rep('x', redis.call('strlen', k))) end end return 1";
        assert_eq!(self.call(&[b"EVAL", SCRIPT.as_bytes(), b"0"]), Reply::Number(1));
    }

    pub fn keys(&self) -> i64 {
        let Reply::Number(keys) = self.call(&[b"DBSIZE"]) else { panic!("no number") };
        keys
    }
}

fn spawn(port: u16, directory: &tempfile::TempDir, options: &Vec<String>) -> Child {
    let tls = options.iter().any(|option| option == "--tls-port");
    let process = Command::new("redis-server")
        .args([
            "--port",
            &if tls { 0 } else { port }.to_string(),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .args(["--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"])
        .args(options)
        .current_dir(directory.path())
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed (make test-tools)");
    let begun = Instant::now();
    while TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20), "redis-server did not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    process
}

impl Drop for CacheServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A server in a network namespace of its own, which can be cut off: what is sent there is then lost without a word. Needs root.
pub struct Apart {
    name: String,
    process: Child,
    pub url: String,
}

impl Apart {
    /// `number` tells it from others of this process.
    pub fn start(number: u8) -> Self {
        let id = std::process::id();
        let name = format!("cold{id}n{number}");
        let of = |host: u8| format!("10.{}.{}.{}", 64 + id / 64 % 64, id % 64 * 4 + u32::from(number) % 4, host);
        let ip = |words: &str| {
            let status = Command::new("ip").args(words.split(' ')).status().unwrap();
            assert!(status.success(), "ip {words}");
        };
        ip(&format!("netns add {name}"));
        ip(&format!("link add {name} type veth peer name inside netns {name}"));
        ip(&format!("addr add {}/30 dev {name}", of(1)));
        ip(&format!("link set {name} up"));
        ip(&format!("-n {name} addr add {}/30 dev inside", of(2)));
        ip(&format!("-n {name} link set inside up"));
        let process = Command::new("ip")
            .args([
                "netns",
                "exec",
                &name,
                "redis-server",
                "--port",
                "6379",
                "--bind",
                &of(2),
                "--protected-mode",
                "no",
            ])
            .args(["--save", "", "--appendonly", "no"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let begun = Instant::now();
        while TcpStream::connect((&*of(2), 6379)).is_err() {
            assert!(begun.elapsed() < Duration::from_secs(20), "redis-server did not start");
            std::thread::sleep(Duration::from_millis(5));
        }
        Self { name, process, url: format!("redis://{}", of(2)) }
    }

    pub fn cut_off(&self) {
        let status = Command::new("ip").args(["-n", &self.name, "addr", "flush", "dev", "inside"]).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

/// A proxy to a server, which holds back what goes to it as long as it is told.
pub struct Slowed {
    pub port: u16,
    millis: Arc<AtomicU64>,
}

impl Slowed {
    pub fn of(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let slowed = Self { port: listener.local_addr().unwrap().port(), millis: Arc::default() };
        let millis = Arc::clone(&slowed.millis);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                }
                pass(client.try_clone().unwrap(), server.try_clone().unwrap(), Arc::clone(&millis));
                pass(server, client, Arc::default());
            }
        });
        slowed
    }

    pub fn by(&self, delay: Duration) {
        self.millis.store(u64::try_from(delay.as_millis()).unwrap(), Ordering::Relaxed);
    }
}

/// Passes on what comes, each piece after so many milliseconds.
fn pass(mut from: TcpStream, mut to: TcpStream, millis: Arc<AtomicU64>) {
    let (send, receive) = channel::<(Instant, Vec<u8>)>();
    std::thread::spawn(move || {
        for (due, bytes) in receive {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if to.write_all(&bytes).is_err() {
                return;
            }
        }
    });
    std::thread::spawn(move || {
        let mut buf = vec![0; 256 << 10];
        while let Ok(read @ 1..) = from.read(&mut buf) {
            let due = Instant::now() + Duration::from_millis(millis.load(Ordering::Relaxed));
            if send.send((due, buf[..read].to_vec())).is_err() {
                return;
            }
        }
    });
}

/// As `--zone` wants them.
pub fn urls(servers: &[CacheServer]) -> String {
    servers.iter().map(CacheServer::url).collect::<Vec<_>>().join(",")
}

/// What a hostile server answers to whatever it is asked.
#[derive(Debug, Clone, Copy)]
pub enum Hostile {
    /// Bytes without end.
    Endless,
    /// A value said to be longer than any memory.
    Huge,
    /// What is no protocol.
    Nonsense,
    /// Nothing, and hangs up.
    HangsUp,
    /// Nothing, and stays.
    Silent,
    /// A byte now and then of a value that is long enough.
    Trickles,
    /// That there is none; so every lease is somebody else's.
    HasNothing,
    /// That it may not be asked.
    Refuses,
}

/// A server that harms as it can, until the process ends; its URL.
pub fn hostile(kind: Hostile) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut client in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut asked = [0; 4096];
                while let Ok(1..) = client.read(&mut asked) {
                    let answer: &[u8] = match kind {
                        Hostile::Endless => &[b'+'; 1 << 16],
                        Hostile::Huge => b"$999999999999\r\n",
                        Hostile::Nonsense => b"HTTP/1.1 200 OK\r\n\r\n",
                        Hostile::HangsUp => return,
                        Hostile::Silent => b"",
                        Hostile::Trickles => b"$10000\r\n",
                        Hostile::HasNothing => b"$-1\r\n",
                        Hostile::Refuses => b"-NOPERM \x1b[2J this user has no permissions\r\n",
                    };
                    let times = if matches!(kind, Hostile::Endless) { 10_000 } else { 1 };
                    if (0..times).any(|_| client.write_all(answer).is_err()) {
                        return;
                    }
                    while matches!(kind, Hostile::Trickles) && client.write_all(b"x").is_ok() {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
    });
    url
}

//! Servers that answer as a test likes, byte by byte, and programs that are run within bounds against them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::common::Bench;

/// Address space of a program, in KiB: `ulimit -v`.
const ADDRESS_SPACE: u32 = 500_000;
/// Memory that is in use at most, in KiB.
pub const MEMORY: u64 = 120_000;
pub const CREDENTIALS: [(&str, &str); 4] = [
    ("AWS_ACCESS_KEY_ID", "KEYMARK"),
    ("AWS_SECRET_ACCESS_KEY", "SECRETMARK"),
    ("AWS_SESSION_TOKEN", "TOKENMARK"),
    ("AWS_REGION", "us-east-1"),
];

/// A request as it came.
pub struct Asked {
    pub method: String,
    pub target: String,
    pub head: String,
    pub body: Vec<u8>,
}

impl Asked {
    pub fn read(from: &mut impl BufRead) -> std::io::Result<Self> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if from.read_line(&mut head)? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        let length = head.lines().find_map(|line| {
            line.split_once(':').filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))?.1.trim().parse().ok()
        });
        let mut body = vec![0; length.unwrap_or(0)];
        from.read_exact(&mut body)?;
        let mut words = head.split(' ').map(str::to_owned);
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        Ok(Self { method, target, head, body })
    }

    pub fn path(&self) -> String {
        self.target.split('?').next().unwrap_or_default().to_owned()
    }
}

pub type Objects = BTreeMap<String, Vec<u8>>;
/// Answers one request, the n-th; the connection ends with an error.
pub type Answers = dyn Fn(&mut TcpStream, &Asked, &Mutex<Objects>, usize) -> std::io::Result<()> + Send + Sync;

/// A server that answers as it likes.
pub struct Server {
    pub host: String,
    pub objects: Arc<Mutex<Objects>>,
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub fn start(
        objects: Objects,
        answers: impl Fn(&mut TcpStream, &Asked, &Mutex<Objects>, usize) -> std::io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (objects, heads) = (Arc::new(Mutex::new(objects)), Arc::<Mutex<Vec<String>>>::default());
        let server = Self { host: listener.local_addr().unwrap().to_string(), objects, heads };
        let (objects, heads, answers) = (
            Arc::clone(&server.objects),
            Arc::clone(&server.heads),
            Arc::<Answers>::from(Box::new(answers) as Box<Answers>),
        );
        let count = Arc::new(AtomicUsize::new(0));
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (objects, heads, answers, count) =
                    (Arc::clone(&objects), Arc::clone(&heads), Arc::clone(&answers), Arc::clone(&count));
                std::thread::spawn(move || {
                    let mut from = BufReader::new(client.try_clone().unwrap());
                    let mut to = client;
                    while let Ok(asked) = Asked::read(&mut from) {
                        heads.lock().unwrap().push(asked.head.clone());
                        if answers(&mut to, &asked, &objects, count.fetch_add(1, Ordering::Relaxed)).is_err() {
                            break;
                        }
                    }
                    let _ = to.shutdown(Shutdown::Both);
                });
            }
        });
        server
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.host)
    }

    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

pub fn answer(to: &mut TcpStream, status: u16, headers: &str, body: &[u8]) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status} Answer\r\n{headers}content-length: {}\r\n\r\n", body.len());
    to.write_all(&[head.as_bytes(), body].concat())
}

pub fn stored(to: &mut TcpStream) -> std::io::Result<()> {
    answer(to, 200, "etag: \"0\"\r\n", b"")
}

/// Sends `head` and then `piece` until the other side has enough.
pub fn endless(to: &mut TcpStream, head: &str, piece: &[u8]) -> std::io::Result<()> {
    to.write_all(head.as_bytes())?;
    loop {
        to.write_all(piece)?;
    }
}

pub fn chunked(status: u16) -> String {
    format!("HTTP/1.1 {status} Answer\r\netag: \"0\"\r\ntransfer-encoding: chunked\r\n\r\n")
}

/// A chunk of a chunked body.
pub fn http_chunk() -> Vec<u8> {
    [b"10000\r\n", &[b'x'; 65_536][..], b"\r\n"].concat()
}

/// A byte a second.
pub fn trickle(to: &mut TcpStream, head: &str, bytes: impl Iterator<Item = u8>) -> std::io::Result<()> {
    to.write_all(head.as_bytes())?;
    for byte in bytes {
        to.write_all(&[byte])?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(())
}

/// Puts the object, unless it is there.
pub fn put(to: &mut TcpStream, asked: &Asked, objects: &Mutex<Objects>, headers: &str) -> std::io::Result<()> {
    let new = {
        let mut objects = objects.lock().unwrap();
        let new = !objects.contains_key(&asked.path());
        objects.entry(asked.path()).or_insert_with(|| asked.body.clone());
        new
    };
    answer(to, if new { 200 } else { 412 }, headers, b"")
}

pub fn get(to: &mut TcpStream, asked: &Asked, objects: &Mutex<Objects>) -> std::io::Result<()> {
    match object(asked, objects) {
        Some(bytes) => answer(to, 200, "etag: \"0\"\r\n", &bytes),
        None => answer(to, 404, "", b""),
    }
}

pub fn object(asked: &Asked, objects: &Mutex<Objects>) -> Option<Vec<u8>> {
    objects.lock().unwrap().get(&asked.path()).cloned()
}

/// How a program ended that got no more than [`ADDRESS_SPACE`].
pub struct End {
    pub output: Output,
    pub message: String,
    pub took: Duration,
    pub peak_kib: u64,
}

/// Runs `program` in the directory of `bench`, with credentials and nothing else of this machine's environment.
pub fn run(bench: &Bench, program: &str, args: &[&str]) -> End {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {ADDRESS_SPACE}; exec \"$@\""), "sh", program]).args(args);
    command
        .current_dir(bench.dir.path())
        .env_clear()
        .env("HOME", bench.dir.path())
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("COLDPRESS_LOG", "trace")
        .env("COLDREAD_LOG", "trace");
    command.envs(CREDENTIALS).stdout(Stdio::piped()).stderr(Stdio::piped());
    let started = Instant::now();
    let child = command.spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let waiting = std::thread::spawn(move || child.wait_with_output().unwrap());
    let mut peak_kib = 0;
    while !waiting.is_finished() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
        peak_kib = peak_kib.max(peak.unwrap_or(0));
        std::thread::sleep(Duration::from_millis(5));
    }
    let output = waiting.join().unwrap();
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    End { output, message, took: started.elapsed(), peak_kib }
}

/// A lie, and what it comes to.
pub struct Case {
    pub name: &'static str,
    pub code: i32,
    /// What the error says, or nothing.
    pub words: &'static [&'static str],
    /// Whether only the clock ends it.
    pub slow: bool,
}

pub const fn case(name: &'static str, code: i32, words: &'static [&'static str]) -> Case {
    Case { name, code, words, slow: false }
}

pub const fn slow(name: &'static str, code: i32, words: &'static [&'static str]) -> Case {
    Case { name, code, words, slow: true }
}

impl Case {
    pub fn check(&self, end: &End) {
        self.check_within(end, MEMORY);
    }

    pub fn check_within(&self, end: &End, memory: u64) {
        let (name, message) = (self.name, &end.message);
        assert_eq!(end.output.status.code(), Some(self.code), "{name}: {message}");
        for word in self.words {
            assert!(message.contains(word), "{name}: `{word}` is not in: {message}");
        }
        assert!(end.peak_kib < memory, "{name}: {} KiB", end.peak_kib);
        let longest = if self.slow { 175 } else { 40 };
        assert!(end.took < Duration::from_secs(longest), "{name}: {:?}", end.took);
        for secret in ["SECRETMARK", "TOKENMARK", "\u{1b}"] {
            assert!(!message.contains(secret), "{name}: {message}");
        }
    }
}

/// The cases to try, all at once.
pub fn try_all(cases: &[Case], one: impl Fn(&Case) + Sync) {
    #[expect(clippy::disallowed_methods, reason = "asked for by the environment")]
    let all = std::env::var_os("COLDPRESS_LYING_SERVERS").is_some_and(|value| value == "all");
    std::thread::scope(|scope| {
        for case in cases.iter().filter(|case| all || !case.slow) {
            scope.spawn(|| one(case));
        }
    });
}

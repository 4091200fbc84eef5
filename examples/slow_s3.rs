//! `slow_s3 STORE MILLISECONDS [BYTES-PER-SECOND]`: serves the objects of a store in a directory over HTTP as S3 does, each request answered
//! after the given delay, and all answers together at most as fast as the given rate; for measurements.
//!
//! It prints `ready URL` and serves GET and HEAD of `/BUCKET/KEY` on loopback, with any bucket, until SIGTERM or SIGINT. Then it prints how many
//! requests there were, and the bytes of all answers. It checks no signature.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for measurements")]

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

struct Server {
    store: PathBuf,
    delay: Duration,
    rate: Option<f64>,
    /// When the link is free again.
    free: Mutex<Instant>,
    requests: AtomicU64,
    bytes: AtomicU64,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (store, delay, rate) = match &arguments[..] {
        [store, delay] => (store, delay, None),
        [store, delay, rate] => (store, delay, Some(rate.parse().unwrap())),
        _ => panic!("slow_s3 STORE MILLISECONDS [BYTES-PER-SECOND]"),
    };
    let server = Arc::new(Server {
        store: store.into(),
        delay: Duration::from_millis(delay.parse().unwrap()),
        rate,
        free: Mutex::new(Instant::now()),
        requests: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
    });
    let mut signals = Signals::new([SIGINT, SIGTERM]).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("ready http://{}", listener.local_addr().unwrap());
    let serving = Arc::clone(&server);
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            let server = Arc::clone(&serving);
            // A client that goes away ends its thread alone.
            thread::spawn(move || server.serve(&connection).is_ok());
        }
    });
    signals.forever().next();
    let (requests, bytes) = (server.requests.load(Ordering::Relaxed), server.bytes.load(Ordering::Relaxed));
    println!("{requests} requests, {bytes} bytes");
}

impl Server {
    /// Answers the requests of one connection, one after the other.
    fn serve(&self, connection: &TcpStream) -> std::io::Result<()> {
        connection.set_nodelay(true)?;
        let mut lines = BufReader::new(connection);
        loop {
            let Some((method, path, body)) = request(&mut lines)? else { return Ok(()) };
            std::io::copy(&mut (&mut lines).take(body), &mut std::io::sink())?;
            thread::sleep(self.delay);
            self.requests.fetch_add(1, Ordering::Relaxed);
            let key: &Path = Path::new(path.split('?').next().unwrap_or_default().trim_start_matches('/'));
            let key: PathBuf = key.components().skip(1).collect();
            let inside = key.components().all(|part| matches!(part, Component::Normal(_)));
            match File::open(self.store.join(&key))
                .ok()
                .filter(|file| inside && file.metadata().is_ok_and(|m| m.is_file()))
            {
                Some(mut file) => self.answer(connection, &mut file, method == "HEAD")?,
                None => {
                    let body = "<Error><Code>NoSuchKey</Code><Message>no such object</Message></Error>";
                    let head = format!("HTTP/1.1 404 Not Found\r\nContent-Length: {}\r\n\r\n", body.len());
                    (&mut &*connection).write_all(format!("{head}{body}").as_bytes())?;
                }
            }
        }
    }

    fn answer(&self, mut connection: &TcpStream, file: &mut File, head_only: bool) -> std::io::Result<()> {
        let length = file.metadata()?.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nETag: \"0\"\r\n\r\n");
        connection.write_all(head.as_bytes())?;
        if head_only {
            return Ok(());
        }
        self.bytes.fetch_add(length, Ordering::Relaxed);
        let Some(rate) = self.rate else { return std::io::copy(file, &mut connection).map(drop) };
        let mut piece = vec![0; 16 << 10];
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 {
                return Ok(());
            }
            #[expect(clippy::cast_precision_loss, reason = "a piece is short")]
            let cost = Duration::from_secs_f64(read as f64 / rate);
            let free = {
                let mut free = self.free.lock().unwrap();
                *free = (*free).max(Instant::now()) + cost;
                *free
            };
            thread::sleep(free.saturating_duration_since(Instant::now()));
            connection.write_all(&piece[..read])?;
        }
    }
}

/// Reads the head of a request: its method, its path and the length of its body.
fn request(lines: &mut impl BufRead) -> std::io::Result<Option<(String, String, u64)>> {
    let mut first = String::new();
    if lines.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut words = first.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut body = 0;
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            None if line.trim_end().is_empty() => return Ok(Some((method, path, body))),
            Some((name, value)) if name.eq_ignore_ascii_case("content-length") => {
                body = value.trim().parse().unwrap_or(0);
            }
            _ => {}
        }
    }
}

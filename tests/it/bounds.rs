//! Clients of `coldread serve` take bounded memory, number and threads, and none of them keeps the others from being served.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::nbd::{Serving, connect, run, served};
use crate::support::common::{Bench, noise};
use crate::support::nbd_client::Client;
use crate::support::servers::free_port;

/// A number of the process' `/proc/PID/status`.
fn proc_status(serving: &Serving, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", serving.process.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
    line.trim_start_matches(':').split_whitespace().next().unwrap().parse().unwrap()
}

/// Asks for 20 times 32 MiB as fast as the server takes it, and reads nothing.
fn ask_and_read_nothing(bench: &Bench) -> Client {
    let mut client = connect(bench, b"one");
    client.0.set_write_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut request = 0x2560_9513u32.to_be_bytes().to_vec();
    request.extend_from_slice(&[0; 20]);
    request.extend_from_slice(&(32u32 << 20).to_be_bytes());
    let _ = client.0.write_all(&request.repeat(20));
    client
}

#[test]
fn clients_that_ask_and_do_not_read_take_bounded_memory_and_are_dropped_when_others_wait() {
    let bench = served();
    let serving = Serving::with(&bench, &["one.cpm"], &["unix:a.sock"], &["--memory", "16MiB"]);
    let mut patient = connect(&bench, b"one");
    let expected = fs::read(bench.path("one.img")).unwrap()[..4096].to_vec();
    assert_eq!(patient.read(0, 4096), expected);
    let stalled: Vec<Client> = (0..24).map(|_| ask_and_read_nothing(&bench)).collect();
    std::thread::sleep(Duration::from_millis(500));
    let begun = Instant::now();
    assert_eq!(patient.read(0, 4096), expected, "a client that reads is served");
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(20), "{took:?}");
    let kib = proc_status(&serving, "VmHWM");
    // 64 MiB of buffers, 16 MiB of chunks, and the program.
    assert!(kib < 160 << 10, "{kib} KiB");
    drop(stalled);
    let said = serving.end();
    assert!(said.contains("disconnected a client: it took over 5 s"), "{said}");
}

#[test]
fn a_long_read_comes_in_pieces_and_is_what_the_file_has() {
    let bench = served();
    let serving = Serving::with(&bench, &["one.cpm"], &["unix:a.sock"], &["--client-memory", "16MiB"]);
    let device = fs::read(bench.path("one.img")).unwrap();
    let mut client = connect(&bench, b"one");
    for (at, length) in [(0, 32 << 20), (device.len() - (5 << 20) - 7, (5 << 20) + 7), (1_000_001, 2 << 20)] {
        assert!(client.read(at as u64, length as u64) == device[at..at + length], "{length} bytes from {at} on");
    }
    drop(client);
    serving.end();
    let refused = bench.coldread(&["serve", "one.cpm", "--nbd", "unix:b.sock", "--client-memory", "15MiB"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--client-memory: at least 16MiB"));
}

#[test]
fn clients_past_the_bound_are_disconnected_counted_and_reported() {
    let bench = served();
    let options = ["--max-clients", "2", "--metrics", "unix:m.sock"];
    let serving = Serving::with(&bench, &["one.cpm"], &["unix:a.sock"], &options);
    let mut connected: Vec<Client> = (0..2).map(|_| connect(&bench, b"one")).collect();
    for _ in 0..5 {
        let mut refused = UnixStream::connect(bench.path("a.sock")).unwrap();
        refused.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(refused.read(&mut [0; 18]).unwrap_or(0), 0, "a third client is not greeted");
    }
    connected.iter_mut().for_each(|client| assert_eq!(client.read(0, 4096).len(), 4096));
    let output = run(&bench, "curl", &["-sS", "--unix-socket", "m.sock", "http://localhost/metrics"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\ncoldread_clients 2\n") && text.contains("\ncoldread_refused_clients_total 5\n"), "{text}");
    drop(connected);
    // A place that is free again is given.
    let begun = Instant::now();
    while UnixStream::connect(bench.path("a.sock")).unwrap().read(&mut [0; 18]).unwrap_or(0) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(10), "nobody is served any more");
        std::thread::sleep(Duration::from_millis(10));
    }
    let said = serving.end();
    let reported: Vec<&str> = said.lines().filter(|line| line.contains("refused")).collect();
    assert_eq!(reported, ["coldread: a client was refused: --max-clients 2 are connected"], "one line in ten seconds");
}

/// A cgroup that bounds how many threads there may be.
struct Pids(PathBuf);

impl Pids {
    fn new(name: &str) -> Self {
        let (v1, v2) = (PathBuf::from("/sys/fs/cgroup/pids"), PathBuf::from("/sys/fs/cgroup"));
        let parent = if v1.is_dir() { v1 } else { v2 };
        let _ = fs::write(parent.join("cgroup.subtree_control"), "+pids");
        let group = parent.join(format!("coldpress-{name}-{}", std::process::id()));
        fs::create_dir(&group).unwrap_or_else(|error| panic!("{}: {error}: run this as root", group.display()));
        assert!(group.join("pids.max").exists(), "the kernel has no pids controller at {}", group.display());
        Self(group)
    }

    /// Puts the process in, and allows it `more` threads than it has.
    fn bound(&self, serving: &Serving, more: u64) {
        let threads = proc_status(serving, "Threads");
        fs::write(self.0.join("cgroup.procs"), serving.process.id().to_string()).unwrap();
        fs::write(self.0.join("pids.max"), (threads + more).to_string()).unwrap();
    }
}

impl Drop for Pids {
    fn drop(&mut self) {
        for _ in 0..100 {
            if fs::remove_dir(&self.0).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn where_no_more_threads_can_be_started_clients_are_served_or_disconnected() {
    let bench = served();
    let group = Pids::new("clients");
    let port = free_port();
    let metrics = format!("tcp:127.0.0.1:{port}");
    let serving = Serving::with(&bench, &["one.cpm"], &["unix:a.sock"], &["--metrics", &metrics]);
    let device = fs::read(bench.path("one.img")).unwrap();
    // One thread more: that of the first client. It has none to wait for what must be fetched.
    group.bound(&serving, 1);
    let mut first = connect(&bench, b"one");
    for at in [0, device.len() / 2, device.len() - (3 << 20)] {
        assert!(first.read(at as u64, 3 << 20) == device[at..at + (3 << 20)], "from {at} on");
    }
    for _ in 0..3 {
        let mut refused = UnixStream::connect(bench.path("a.sock")).unwrap();
        refused.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert_eq!(refused.read(&mut [0; 18]).unwrap(), 0, "it is disconnected");
    }
    let answer = ask(port, "127.0.0.1");
    assert!(answer.contains("coldread_refused_clients_total 3\n"), "{answer}");
    drop(first);
    let begun = Instant::now();
    let said = serving.end();
    assert!(begun.elapsed() < Duration::from_secs(8), "it ends");
    assert!(said.contains("a client was refused: no thread for it") && !said.contains("panicked"), "{said}");
}

/// What is answered to a GET of the metrics on loopback whose `Host` says this.
fn ask(port: u16, host: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    write!(stream, "GET /metrics HTTP/1.1\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn metrics_are_told_by_address_and_to_named_hosts_alone() {
    let bench = served();
    let port = free_port();
    let metrics = format!("tcp:127.0.0.1:{port}");
    let options = ["--metrics", &metrics, "--metrics-host", "reader.example"];
    let serving = Serving::with(&bench, &["one.cpm"], &["unix:a.sock"], &options);
    for host in ["127.0.0.1", &format!("127.0.0.1:{port}"), "localhost", "reader.example:80", "[::1]"] {
        assert!(ask(port, host).starts_with("HTTP/1.1 200 OK\r\n"), "{host}");
    }
    let refused = ask(port, "rebound.example");
    assert!(refused.starts_with("HTTP/1.1 421 ") && refused.contains("--metrics-host"), "{refused}");
    assert!(!refused.contains("coldread_"), "{refused}");
    assert!(ask(port, "a\r\nHost: 127.0.0.1").starts_with("HTTP/1.1 400 "), "two hosts");
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    let output = command.args(["status", &metrics]).output().unwrap();
    assert!(output.status.success());
    serving.end();
}

#[test]
fn who_asks_for_metrics_is_not_starved_by_those_who_stall() {
    let bench = served();
    let port = free_port();
    let metrics = format!("tcp:127.0.0.1:{port}");
    let serving = Serving::with(&bench, &["one.cpm"], &["unix:a.sock"], &["--metrics", &metrics]);
    let stalled: Vec<TcpStream> = (0..40)
        .map(|_| {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
            stream.write_all(b"GET /metrics HT").unwrap();
            stream
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..10 {
        assert!(ask(port, "127.0.0.1").starts_with("HTTP/1.1 200 OK\r\n"));
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(3), "{took:?}");
    drop(stalled);
    serving.end();
}

#[test]
fn a_long_write_comes_in_pieces_and_one_past_every_end_is_refused_whole() {
    let bench = served();
    let serving = Serving::with(&bench, &["one.cpm"], &["unix:a.sock"], &["--writable", "--client-memory", "16MiB"]);
    let mut device = fs::read(bench.path("one.img")).unwrap();
    let mut client = connect(&bench, b"one");
    let data = noise(32 << 20, 7);
    for (at, length) in [(1_000_001, 32 << 20), (4_096, 300_000), (7, 5), (262_143, 2), (0, 0)] {
        client.ask(1, 9, at as u64, length as u64);
        client.0.write_all(&data[..length]).unwrap();
        assert_eq!(client.answer(|_| 0), (9, Ok(Vec::new())), "{length} bytes at {at}");
        device[at..at + length].copy_from_slice(&data[..length]);
        assert!(client.read(at as u64, length as u64) == device[at..at + length], "{length} bytes at {at}");
    }
    for (at, length) in [(u64::MAX - 10, 1 << 20), (device.len() as u64 - 4_096, 1 << 20), (u64::MAX, 300_000)] {
        client.ask(1, 9, at, length as u64);
        client.0.write_all(&data[..length]).unwrap();
        assert_eq!(client.answer(|_| 0), (9, Err(28)), "{length} bytes at {at}");
    }
    assert!(client.read(0, 8 << 20) == device[..8 << 20], "nothing else was written");
    drop(client);
    serving.end();
}

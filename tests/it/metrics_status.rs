//! What is told of a reader: `--metrics`, read by curl and by Prometheus' own client library, `status`, `top`, `report`.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coldpress::ChunkIndex;
use coldpress::digest::Sha256;
use coldpress::read::profile::{Profile, Use};
use coldpress::read::tier::Place;
use serde_json::Value;

use crate::nbd::{Serving, run, served};
use crate::support::common::{Bench, stdout};
use crate::support::nbd_client::Client;
use crate::support::servers::{free_port, python};
use crate::support::slow_store::{Answer, SlowStore};

/// Prints each sample as a JSON object a line; fails where the text is not Prometheus'.
const PARSER: &str = "
import json, sys
from prometheus_client.parser import text_string_to_metric_families as parse
for family in parse(sys.stdin.read()):
    assert family.type != 'unknown' and family.documentation, family
    for s in family.samples:
        print(json.dumps({'type': family.type, 'name': s.name, 'labels': s.labels, 'value': s.value}))
";

/// All samples of a text, by a parser that is not ours.
struct Samples(Vec<Value>);

impl Samples {
    /// What curl gets at the socket `m.sock`.
    fn of(bench: &Bench) -> Self {
        let text =
            stdout(&run(bench, "curl", &["-sS", "--fail", "--unix-socket", "m.sock", "http://localhost/metrics"]));
        let mut parser = Command::new(python("python"))
            .args(["-c", PARSER])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        parser.stdin.take().unwrap().write_all(&text).unwrap();
        let parsed = stdout(&parser.wait_with_output().unwrap());
        Self(parsed.lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect())
    }

    /// The one of this name with this label.
    fn get(&self, name: &str, label: Option<(&str, &str)>) -> f64 {
        let fits = |sample: &&Value| {
            sample["name"] == name && label.is_none_or(|(label, value)| sample["labels"][label] == value)
        };
        let found: Vec<&Value> = self.0.iter().filter(fits).collect();
        assert_eq!(found.len(), 1, "{name} {label:?}: {found:?}");
        found[0]["value"].as_f64().unwrap()
    }
}

/// Serves `one` and, under a name that must be escaped, `two`, from a slow store, and tells at `m.sock`.
fn telling(options: &[&str]) -> (Bench, SlowStore, Serving) {
    let bench = served();
    fs::rename(bench.path("store"), bench.path("real")).unwrap();
    let store = SlowStore::mount(&bench.path("real"), &bench.path("store"), Duration::from_millis(5));
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["serve", "one.cpm", "se\"c\\ond=two.cpm", "--nbd", "unix:a.sock", "--metrics", "unix:m.sock"]);
    let serving = Serving::at(&bench, command.args(options).env_remove("COLDREAD_CACHE"));
    (bench, store, serving)
}

fn copy(bench: &Bench) {
    stdout(&run(bench, "nbdcopy", &["nbd+unix:///one?socket=a.sock", "copy.img"]));
    stdout(&run(bench, "cmp", &["copy.img", "one.img"]));
}

fn status(bench: &Bench) -> Value {
    serde_json::from_slice(&stdout(&bench.coldread(&["status", "unix:m.sock", "--json"]))).unwrap()
}

#[test]
fn what_is_told_is_what_the_store_saw() {
    // One chunk in memory, so that the second reading comes from the disk.
    let (bench, store, serving) =
        telling(&["--cache", "cache", "--memory", "512KiB", "--fill", "off", "--prefetch", "off"]);
    assert_eq!(fs::metadata(bench.path("m.sock")).unwrap().permissions().mode() & 0o777, 0o600);
    let samples = Samples::of(&bench);
    for (name, label) in
        [("coldread_origin_requests_total", None), ("coldread_tier_hits_total", Some(("tier", "origin")))]
    {
        assert!(samples.get(name, label).abs() < 0.5, "{name}");
    }
    let digests: Vec<String> = ["one.cpm", "two.cpm"]
        .map(|name| serde_json::from_slice::<Value>(&stdout(&bench.coldpress(&["inspect", name, "--json"]))).unwrap())
        .map(|said| said["root_digest"].as_str().unwrap().to_owned())
        .into();
    for (name, digest) in ["one", "se\"c\\ond"].into_iter().zip(&digests) {
        let info = samples.0.iter().find(|sample| sample["labels"]["image"] == name).unwrap();
        assert_eq!(
            (&info["name"], &info["labels"]["root_digest"]),
            (&"coldread_image_info".into(), &digest.as_str().into())
        );
    }
    copy(&bench);
    let first = Samples::of(&bench);
    copy(&bench);
    let samples = Samples::of(&bench);
    let requests = store.script.total() as f64;
    assert!(requests > 10.0);
    let equal = |value: f64, wanted: f64| (value - wanted).abs() < 0.5;
    assert!(equal(samples.get("coldread_origin_requests_total", None), requests));
    for (tier, samples) in [("origin", &first), ("disk", &samples)] {
        let hits = samples.get("coldread_tier_hits_total", Some(("tier", tier)));
        assert!(hits > 10.0, "{tier}");
        assert!(equal(samples.get("coldread_fetch_seconds_count", Some(("tier", tier))), hits), "{tier}");
        assert!(samples.get("coldread_fetch_seconds_sum", Some(("tier", tier))) > 0.0);
    }
    let from_origin = |samples: &Samples| samples.get("coldread_tier_hits_total", Some(("tier", "origin")));
    assert!(equal(from_origin(&samples), from_origin(&first)), "the second reading needs no store");
    // The same in the cache, in bytes, and in the histogram: no request took less than the store does.
    let kept: u64 = walk(&bench.path("cache/chunks")).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(equal(samples.get("coldread_cache_bytes", None), kept as f64));
    assert!(equal(samples.get("coldread_tier_bytes_total", Some(("tier", "origin"))), kept as f64));
    let early = samples.0.iter().find(|sample| {
        sample["name"] == "coldread_fetch_seconds_bucket"
            && sample["labels"]["tier"] == "origin"
            && sample["labels"]["le"] == "0.0025"
    });
    assert!(equal(early.unwrap()["value"].as_f64().unwrap(), 0.0));
    assert!(equal(samples.get("coldread_memory_bytes", None), 524_288.0));
    // `status` says the same.
    let said = status(&bench);
    assert_eq!(said["origin"]["requests"].as_f64(), Some(requests));
    assert_eq!(said["images"][0]["root_digest"], digests[0].as_str());
    let table = String::from_utf8(stdout(&bench.coldread(&["status", "unix:m.sock"]))).unwrap();
    for wanted in ["one ", "se\"c\\ond ", "memory ", "disk ", "origin ", "hit rate", &digests[0][..19]] {
        assert!(table.contains(wanted), "{wanted}: {table}");
    }
    serving.end();
    assert!(!bench.path("m.sock").exists());
}

fn walk(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

#[test]
fn failures_are_told_and_a_mount_tells_as_well() {
    let (bench, store, serving) = telling(&["--on-origin-loss", "eio"]);
    let mut client = Client::wait_for(&bench.path("a.sock"));
    store.script.set(Duration::ZERO, Answer::Refused);
    client.ask_only(0, 4096);
    assert_eq!(client.answer(|_| 4096).1, Err(5));
    let said = status(&bench);
    assert_eq!(said["failed_reads"], 1, "{said}");
    assert!(said["origin"]["failures"].as_u64().unwrap() >= 1, "{said}");
    store.script.set(Duration::ZERO, Answer::True);
    serving.end();
    let directory = bench.path("mnt");
    fs::create_dir(&directory).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    let mounted = Serving::at(&bench, command.args(["mount", "one.cpm", "mnt", "--metrics", "unix:m.sock"]));
    fs::read(directory.join("data/03")).unwrap();
    let said = status(&bench);
    assert_eq!(said["images"][0]["name"], "one");
    assert!(said["tiers"][3]["hits"].as_u64().unwrap() >= 2, "{said}");
    mounted.end();
}

#[test]
fn top_says_a_line_a_second_until_the_reader_goes() {
    let (bench, _store, serving) = telling(&[]);
    let mut top = Command::new(env!("CARGO_BIN_EXE_coldread"))
        .args(["top", "unix:m.sock"])
        .current_dir(bench.dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(top.stdout.take().unwrap()).lines();
    lines.next().unwrap().unwrap();
    copy(&bench);
    // All was read in one second, or in two.
    let busy = lines.by_ref().take(2).map(Result::unwrap).filter(|line| !line.contains("origin 0/s")).count();
    assert!(busy >= 1);
    serving.end();
    assert!(lines.all(|line| line.is_ok()));
    let mut said = String::new();
    top.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!(top.wait().unwrap().code(), Some(4), "{said}");
    let gone = bench.coldread(&["status", "unix:m.sock"]);
    assert!(String::from_utf8_lossy(&gone.stderr).contains("m.sock"), "{gone:?}");
    assert!(!gone.status.success());
}

/// Runs `coldread top` on a terminal, and ends it by a key or a signal; whether the terminal was changed and is as it was.
const TERMINAL: &str = r#"
import os, pty, select, signal, subprocess, sys, termios, time
program, end = sys.argv[1:]
ours, theirs = pty.openpty()
before = termios.tcgetattr(theirs)
child = subprocess.Popen([program, "top", "unix:m.sock"], stdin=theirs, stdout=theirs, stderr=theirs)
text, begun = b"", time.time()
while b"history of the last 2 s" not in text and time.time() < begun + 20:
    if select.select([ours], [], [], 1)[0]:
        text += os.read(ours, 65536)
during = termios.tcgetattr(theirs)
if end == "q":
    os.write(ours, b"xq")
else:
    child.send_signal(signal.SIGTERM)
code = child.wait(10)
while select.select([ours], [], [], 0.2)[0]:
    text += os.read(ours, 65536)
print(code, during != before, termios.tcgetattr(theirs) == before)
print(text.decode())
"#;

#[test]
fn top_on_a_terminal_has_a_title_and_a_history_and_ends_by_q() {
    let (bench, _store, serving) = telling(&[]);
    for (end, code) in [("q", "0"), ("signal", "-15")] {
        let output = Command::new(python("python"))
            .args(["-c", TERMINAL, env!("CARGO_BIN_EXE_coldread"), end])
            .current_dir(bench.dir.path())
            .output()
            .unwrap();
        let text = String::from_utf8(stdout(&output)).unwrap();
        assert_eq!(text.lines().next().unwrap(), format!("{code} True True"), "{text}");
        let title = format!("coldread {}: one, se\"c\\ond at nbd unix:a.sock", env!("CARGO_PKG_VERSION"));
        for wanted in [&title, "reads/s", "store/s", "failures/s", "q quits"] {
            assert!(text.contains(wanted), "{wanted}: {text}");
        }
    }
    serving.end();
}

/// Sends `request` whole; what comes back.
fn raw(bench: &Bench, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(bench.path("m.sock")).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_bad_client_harms_nobody() {
    let (bench, _store, serving) = telling(&[]);
    let long = format!("GET /metrics HTTP/1.1\r\nX: {}\r\n", "a".repeat(9000));
    for (request, status) in [
        (&b"GET /nothing HTTP/1.1\r\n\r\n"[..], "HTTP/1.1 404 "),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "HTTP/1.1 405 "),
        (b"NBDMAGIC\r\n\r\n", "HTTP/1.1 400 "),
        (b"GET /metrics HTTP/2\r\n\r\n", "HTTP/1.1 400 "),
        (b"\xFF\xFE\r\n\r\n", "HTTP/1.1 400 "),
        (long.as_bytes(), "HTTP/1.1 431 "),
        (b"GET /metrics HTTP/1.0\r\n\r\n", "HTTP/1.1 200 "),
    ] {
        let answer = raw(&bench, request);
        assert!(answer.starts_with(status), "{status}: {answer}");
    }
    // Those that say nothing take all places, and the longest of them makes room for who asks.
    let mut silent: Vec<UnixStream> = (0..16).map(|_| UnixStream::connect(bench.path("m.sock")).unwrap()).collect();
    let begun = Instant::now();
    for _ in 0..8 {
        assert!(raw(&bench, b"GET /metrics HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "));
        stdout(&bench.coldread(&["status", "unix:m.sock"]));
    }
    assert!(begun.elapsed() < Duration::from_secs(4), "who asks does not wait for them");
    silent[0].set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    assert_eq!(silent[0].read(&mut [0; 1]).unwrap(), 0, "it is hung up on");
    drop(silent);
    copy(&bench);
    serving.end();
}

#[test]
fn metrics_are_on_loopback_or_nowhere_and_others_are_told_apart() {
    let bench = served();
    let refused =
        bench.coldread(&["serve", "one.cpm", "--store", "store", "--nbd", "unix:a.sock", "--metrics", "tcp:0.0.0.0:9"]);
    assert_eq!(refused.status.code(), Some(2));
    let port = free_port();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["serve", "one.cpm", "--nbd", "unix:a.sock", "--metrics", &format!("tcp:127.0.0.1:{port}")]);
    let serving = Serving::at(&bench, &mut command);
    let head =
        stdout(&run(&bench, "curl", &["-sS", "-D-", "-o/dev/null", &format!("http://127.0.0.1:{port}/metrics")]));
    let head = String::from_utf8(head).unwrap();
    assert!(head.contains("Content-Type: text/plain; version=0.0.4"), "{head}");
    stdout(&bench.coldread(&["status", &format!("tcp:127.0.0.1:{port}")]));
    // What is no reader's.
    let other = bench.coldread(&["status", "unix:a.sock"]);
    assert_eq!(other.status.code(), Some(1), "{other:?}");
    serving.end();
}

/// A start of eight chunks in 200 ms, in a device of 40.
fn start() -> Profile {
    let used = |(at, took, place, index)| Use {
        at,
        took,
        place,
        index: ChunkIndex(index),
        name: Sha256::of(format!("chunk {index}").as_bytes()),
    };
    let uses = [
        (0, 31_200, Place::Origin, 0),
        (31_900, 28_400, Place::Origin, 1),
        (62_000, 30_100, Place::Origin, 17),
        (62_300, 44_000, Place::Origin, 30),
        (97_100, 600, Place::Disk, 18),
        (98_000, 0, Place::Memory, 19),
        (98_200, 700, Place::Disk, 20),
        (140_000, 55_000, Place::Origin, 39),
    ];
    Profile { root_digest: Sha256::of(b"an image"), device_chunks: 40, uses: uses.into_iter().map(used).collect() }
}

#[test]
fn a_start_is_drawn_as_it_was_looked_at_last() {
    let bench = Bench::new();
    fs::write(bench.path("app.profile"), start().encode()).unwrap();
    let said = stdout(&bench.coldread(&["report", "app.profile", "-o", "app.svg"]));
    let wanted = "8 of 40 chunks (20.0 %, 4.0 MiB): 1 from memory, 2 from disk, 5 from origin; the last after 0.195 s\n\
        slowest reads\n     55.0 ms after   140.0 ms  chunk 39, origin\n";
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with(wanted), "{said}");
    stdout(&run(&bench, "xmllint", &["--noout", "app.svg"]));
    let svg = fs::read_to_string(bench.path("app.svg")).unwrap();
    insta::assert_snapshot!("start", svg);
    assert_eq!(stdout(&bench.coldread(&["report", "app.profile"])), svg.as_bytes());
    let numbers: Value =
        serde_json::from_slice(&stdout(&bench.coldread(&["report", "app.profile", "--json"]))).unwrap();
    assert_eq!(numbers["root_digest"], Sha256::of(b"an image").to_string());
    assert_eq!(
        (&numbers["chunks"], &numbers["device_chunks"], &numbers["bytes"]),
        (&8.into(), &40.into(), &4_194_304.into())
    );
    assert_eq!(numbers["tiers"][2]["waited_seconds"], 0.1887);
    let bad = bench.coldread(&["report", "coldpress.key"]);
    assert!(String::from_utf8_lossy(&bad.stderr).contains("coldpress.key: line 1: "), "{bad:?}");
}

#[test]
fn a_recorded_start_is_drawn() {
    let bench = served();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    let serving =
        Serving::at(&bench, command.args(["serve", "one.cpm", "--nbd", "unix:a.sock", "--record", "start.profile"]));
    copy(&bench);
    serving.end();
    let numbers: Value =
        serde_json::from_slice(&stdout(&bench.coldread(&["report", "start.profile", "--json"]))).unwrap();
    let inspected: Value =
        serde_json::from_slice(&stdout(&bench.coldpress(&["inspect", "one.cpm", "--json"]))).unwrap();
    let (read, all) = (numbers["chunks"].as_u64().unwrap(), inspected["chunks"].as_u64().unwrap());
    assert!(read > 8 && read <= all, "{numbers} of {all}");
    stdout(&bench.coldread(&["report", "start.profile", "-o", "start.svg"]));
    stdout(&run(&bench, "xmllint", &["--noout", "start.svg"]));
}

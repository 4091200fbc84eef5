//! `coldread serve --nbd`, by the clients of others: libnbd's and qemu's.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::kernel::mounts_below;
use crate::support::common::{Bench, Image, Layer, noise, stdout};
use crate::support::nbd_client::Client;
use crate::support::servers::free_port;

pub fn image(seed: u64) -> Image {
    let layer =
        (0..12u64).fold(Layer::new(), |layer, n| layer.file(&format!("data/{n:02}"), &noise(400_000, seed + n)));
    Image::new([layer, Layer::new().file("etc/name", b"two")])
}

/// `coldread serve`, ended by SIGTERM when it is dropped.
pub struct Serving {
    pub process: Child,
    directory: PathBuf,
}

impl Serving {
    /// Serves `images` over NBD.
    fn start(bench: &Bench, images: &[&str], addresses: &[&str]) -> Self {
        Self::with(bench, images, addresses, &[])
    }

    pub fn with(bench: &Bench, images: &[&str], addresses: &[&str], options: &[&str]) -> Self {
        let doors: Vec<&str> = addresses.iter().flat_map(|address| ["--nbd", address]).collect();
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
        Self::at(bench, command.arg("serve").args(images).args(doors).args(options))
    }

    /// By a command that serves; ready when it says so to its service manager.
    pub fn at(bench: &Bench, command: &mut Command) -> Self {
        let manager = UnixDatagram::bind(bench.path("notify")).unwrap();
        manager.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        fs::set_permissions(bench.path("notify"), fs::Permissions::from_mode(0o777)).unwrap();
        let mut process = command
            .args(["--store", "store"])
            .current_dir(bench.dir.path())
            .env("NOTIFY_SOCKET", bench.path("notify"))
            .env("COLDREAD_RUN_DIR", bench.path("run"))
            .env_remove("COLDPRESS_KEY")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = [0; 64];
        let length =
            manager.recv(&mut said).unwrap_or_else(|_| panic!("not ready in 20 s: {}", where_it_stands(&mut process)));
        assert_eq!(&said[..length], b"READY=1");
        fs::remove_file(bench.path("notify")).unwrap();
        Self { process, directory: bench.dir.path().to_owned() }
    }

    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.process.id().to_string()]).status().unwrap();
        assert!(status.success());
    }

    /// Ends it by SIGTERM; what it said.
    pub fn end(mut self) -> String {
        self.signal("-TERM");
        let mut said = String::new();
        self.process.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        assert!(self.process.wait().unwrap().success(), "{said}");
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // One that ended well left no mount, and the store may be one of the test's.
        if self.process.try_wait().is_ok_and(|status| status.is_some_and(|status| status.success())) {
            return;
        }
        let _ = self.process.kill();
        let _ = self.process.wait();
        // Files that it could not unmount any more.
        for mount in mounts_below(&self.directory) {
            let _ = Command::new("umount").arg("--lazy").arg(mount).status();
        }
    }
}

/// What a process says, and what its threads and children do in the kernel, where that is told. Ends it.
fn where_it_stands(process: &mut Child) -> String {
    let threads = fs::read_dir(format!("/proc/{}/task", process.id())).into_iter().flatten().flatten();
    let children = threads.flat_map(|thread| {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let children: Vec<PathBuf> = children.split_whitespace().map(|id| PathBuf::from("/proc").join(id)).collect();
        [vec![thread.path()], children].concat()
    });
    let shown = children.map(|path| {
        let read = |name: &str| fs::read_to_string(path.join(name)).unwrap_or_default();
        format!("{} {}{}{}", path.display(), read("comm"), read("cmdline").replace('\0', " "), read("stack"))
    });
    let shown: Vec<String> = shown.collect();
    let ended = process.try_wait();
    let _ = process.kill();
    let mut said = String::new();
    let _ = process.stderr.take().unwrap().read_to_string(&mut said);
    format!("{ended:?}, said {said:?}\n{}", shown.join("\n"))
}

pub fn run(bench: &Bench, program: &str, args: &[&str]) -> Output {
    let output = Command::new(program).args(args).current_dir(bench.dir.path()).output();
    output.unwrap_or_else(|error| panic!("{program} ({error}): `make test-tools` installs it"))
}

pub fn served() -> Bench {
    let bench = Bench::new();
    for (name, seed) in [("one", 1), ("two", 100)] {
        bench.block_image(&image(seed), name, &[]);
    }
    bench
}

#[test]
fn other_programs_read_the_device_that_export_writes() {
    let bench = served();
    let port = free_port();
    let tcp = format!("tcp:127.0.0.1:{port}");
    let serving = Serving::start(&bench, &["one.cpm", "second=two.cpm"], &["unix:a.sock", &tcp]);
    assert_eq!(fs::metadata(bench.path("a.sock")).unwrap().permissions().mode() & 0o777, 0o600);
    for (export, file) in [("one", "one.img"), ("second", "two.img"), ("", "one.img")] {
        let (unix, inet) = (format!("nbd+unix:///{export}?socket=a.sock"), format!("nbd://127.0.0.1:{port}/{export}"));
        for uri in [&unix, &inet] {
            stdout(&run(&bench, "nbdcopy", &["--connections=4", "--requests=16", uri, "copy.img"]));
            stdout(&run(&bench, "cmp", &["copy.img", file]));
            fs::remove_file(bench.path("copy.img")).unwrap();
        }
        stdout(&run(&bench, "qemu-img", &["compare", "-f", "raw", "-F", "raw", &unix, file]));
    }
    let list: Value =
        serde_json::from_slice(&stdout(&run(&bench, "nbdinfo", &["--json", "--list", "nbd+unix:///?socket=a.sock"])))
            .unwrap();
    let names: Vec<&str> =
        list["exports"].as_array().unwrap().iter().map(|e| e["export-name"].as_str().unwrap()).collect();
    assert_eq!(names, ["one", "second"]);
    for export in list["exports"].as_array().unwrap() {
        assert_eq!((&export["is_read_only"], &export["can_multi_conn"]), (&true.into(), &true.into()), "{export:#}");
        assert_eq!(export["block_size_preferred"], 4096);
    }
    let missing = run(&bench, "nbdinfo", &["nbd+unix:///third?socket=a.sock"]);
    assert!(!missing.status.success());
    // A write is refused, and the connection goes on.
    let written = run(&bench, "qemu-io", &["-f", "raw", "-c", "write 0 4096", "nbd+unix:///one?socket=a.sock"]);
    assert!(!written.status.success());
    let said = serving.end();
    assert!(said.contains("is served as `second`"), "{said}");
    assert!(!bench.path("a.sock").exists());
}

#[test]
fn reads_of_every_alignment_at_once_are_those_of_the_file() {
    let bench = served();
    let serving = Serving::start(&bench, &["one.cpm"], &["unix:a.sock"]);
    let job = [
        "--name=job",
        "--ioengine=nbd",
        "--uri=nbd+unix:///one?socket=a.sock",
        "--rw=randread",
        "--bsrange=512-300k",
        "--bs_unaligned=1",
        "--iodepth=64",
        "--size=64M",
        "--time_based",
        "--runtime=3",
        "--randrepeat=1",
        "--output-format=json",
    ];
    let said = String::from_utf8(stdout(&run(&bench, "fio", &job))).unwrap();
    // It notes things before its JSON.
    let report: Value = serde_json::from_str(&said[said.find('{').unwrap()..]).unwrap();
    assert_eq!(report["jobs"][0]["error"], 0);
    assert!(report["jobs"][0]["read"]["total_ios"].as_u64().unwrap() > 1_000);
    // fio does not compare; so 400 reads are.
    let device = fs::read(bench.path("one.img")).unwrap();
    let mut commands = Vec::new();
    for n in 0..400u64 {
        let at = n * 7_919_003 % (device.len() as u64 - 300_000);
        let length = 1 + n * n * 97 % 299_999;
        commands.push((at, length));
    }
    let mut client = connect(&bench, b"one");
    let mut asking = commands.iter().zip(0u64..);
    // 64 at a time: who asks and does not listen is not answered in the end.
    asking.by_ref().take(64).for_each(|((at, length), cookie)| client.ask(0, cookie, *at, *length));
    for _ in 0..commands.len() {
        let (cookie, data) = client.answer(|cookie| commands[usize::try_from(cookie).unwrap()].1);
        let (at, length) = commands[usize::try_from(cookie).unwrap()];
        let (from, to) = (usize::try_from(at).unwrap(), usize::try_from(at + length).unwrap());
        assert!(data.unwrap() == device[from..to], "{at}+{length}");
        asking.by_ref().take(1).for_each(|((at, length), cookie)| client.ask(0, cookie, *at, *length));
    }
    drop(client);
    serving.end();
}

pub fn connect(bench: &Bench, export: &[u8]) -> Client {
    Client::greet(UnixStream::connect(bench.path("a.sock")).unwrap(), export)
}

#[test]
fn a_client_that_breaks_the_protocol_ends_its_own_session_only() {
    let bench = served();
    let serving = Serving::start(&bench, &["one.cpm"], &["unix:a.sock"]);
    let mut good = connect(&bench, b"");
    for nonsense in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 64], b"", &[0, 0, 0, 3, 1, 2, 3]] {
        let mut bad = UnixStream::connect(bench.path("a.sock")).unwrap();
        bad.write_all(nonsense).unwrap();
        bad.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = bad.read_to_end(&mut rest);
    }
    // Past the end, too long, unknown, and a write with its data: errors, and the next request is read where it begins.
    let size = fs::metadata(bench.path("one.img")).unwrap().len();
    for (kind, offset, length, error) in
        [(0, size, 1, 22), (0, 0, 33 << 20, 22), (99, 0, 0, 22), (4, 0, 4096, 1), (6, 0, 4096, 1), (0, u64::MAX, 2, 22)]
    {
        good.ask(kind, 7, offset, length);
        assert_eq!(good.answer(|_| 0), (7, Err(error)), "{kind} {offset} {length}");
    }
    good.ask(1, 8, 0, 5);
    good.0.write_all(b"hello").unwrap();
    assert_eq!(good.answer(|_| 0), (8, Err(1)));
    good.ask(3, 9, 0, 0);
    assert_eq!(good.answer(|_| 0), (9, Ok(Vec::new())));
    good.ask(0, 10, 1024, 16);
    assert_eq!(good.answer(|_| 16).0, 10);
    let said = serving.end();
    assert!(said.contains("disconnected a client: NBD protocol error"), "{said}");
}

#[test]
fn a_chunk_that_is_missing_or_damaged_is_an_error_of_its_read_and_no_other() {
    let bench = served();
    let serving = Serving::start(&bench, &["one.cpm"], &["unix:a.sock"]);
    let mut client = connect(&bench, b"one");
    client.ask(0, 1, 0, 4096);
    assert!(client.answer(|_| 4096).1.is_ok());
    for chunk in fs::read_dir(bench.path("store/main")).unwrap() {
        let path = chunk.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    client.ask(0, 2, 64 << 20, 4096);
    assert_eq!(client.answer(|_| 4096), (2, Err(5)));
    // What is in memory already is still true.
    client.ask(0, 3, 0, 4096);
    assert!(client.answer(|_| 4096).1.is_ok());
    let said = serving.end();
    assert!(said.contains("a read failed: chunk"), "{said}");
}

#[test]
fn what_was_asked_before_the_end_is_answered_and_a_stale_socket_is_put_away() {
    let bench = served();
    let mut serving = Serving::start(&bench, &["one.cpm"], &["unix:a.sock"]);
    let second =
        run(&bench, env!("CARGO_BIN_EXE_coldread"), &["serve", "one.cpm", "--store", "store", "--nbd", "unix:a.sock"]);
    assert!(String::from_utf8_lossy(&second.stderr).contains("Address already in use"), "{second:?}");
    serving.signal("-KILL");
    serving.process.wait().unwrap();
    assert!(bench.path("a.sock").exists());
    drop(serving);
    let serving = Serving::start(&bench, &["one.cpm"], &["unix:a.sock"]);
    let mut client = connect(&bench, b"one");
    for cookie in 0..32 {
        client.ask(0, cookie, cookie * 512 * 1024, 512 * 1024);
    }
    let begun = Instant::now();
    std::thread::sleep(Duration::from_millis(100));
    let ended = std::thread::spawn(move || serving.end());
    for _ in 0..32 {
        assert!(client.answer(|_| 512 * 1024).1.is_ok());
    }
    ended.join().unwrap();
    assert!(begun.elapsed() < Duration::from_secs(8));
    assert!(!bench.path("a.sock").exists());
}

/// Reads all of `one` once more, by a process of its own.
fn read_all(bench: &Bench, cache_max: &str) {
    let manager = ["--cache", "cache", "--cache-max", cache_max];
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command
        .args(["serve", "one.cpm", "--store", "store", "--nbd", "unix:b.sock"])
        .args(manager)
        .env("COLDREAD_RUN_DIR", bench.path("run"))
        .current_dir(bench.dir.path());
    let mut process = command.stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while UnixStream::connect(bench.path("b.sock")).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(10));
    }
    let copied = run(bench, "nbdcopy", &["nbd+unix:///?socket=b.sock", "copy.img"]);
    let ended = Command::new("kill").args(["-TERM", &process.id().to_string()]).status().unwrap();
    assert!(ended.success() && process.wait().unwrap().success());
    stdout(&copied);
    stdout(&run(bench, "cmp", &["copy.img", "one.img"]));
    fs::remove_file(bench.path("copy.img")).unwrap();
}

fn cached(bench: &Bench) -> Vec<std::path::PathBuf> {
    let directories = fs::read_dir(bench.path("cache/chunks")).unwrap().map(|entry| entry.unwrap().path());
    directories.flat_map(|path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())).collect()
}

#[test]
fn chunks_stay_on_the_disk_sealed_checked_and_within_their_bound() {
    let bench = served();
    read_all(&bench, "1GiB");
    let chunks = cached(&bench);
    assert!(chunks.len() > 10);
    for path in &chunks {
        let name = path.file_name().unwrap().to_str().unwrap();
        assert_eq!(coldpress::digest::Sha256::of(&fs::read(path).unwrap()).to_hex(), name, "as it is stored");
    }
    // The store is not needed any more; damaged copies are, and are fetched again once it is back.
    fs::rename(bench.path("store/main"), bench.path("store/away")).unwrap();
    read_all(&bench, "1GiB");
    fs::rename(bench.path("store/away"), bench.path("store/main")).unwrap();
    for (at, path) in chunks.iter().enumerate() {
        let mut bytes = fs::read(path).unwrap();
        match at % 3 {
            0 => bytes[at] ^= 1,
            1 => bytes.truncate(at),
            _ => fs::remove_file(path).unwrap(),
        }
        if at % 3 < 2 {
            fs::write(path, bytes).unwrap();
        }
    }
    read_all(&bench, "1GiB");
    assert_eq!(cached(&bench).len(), chunks.len());
    // Another bound is kept to from the start, and while chunks come.
    read_all(&bench, "2MiB");
    let bytes: u64 = cached(&bench).iter().map(|path| fs::metadata(path).unwrap().len()).sum();
    assert!(bytes <= 2 << 20, "{bytes}");
    assert_eq!(fs::metadata(bench.path("cache")).unwrap().permissions().mode() & 0o777, 0o700);
}

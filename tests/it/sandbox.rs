//! What a process of the programs gives up, and what is left in its memory.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::mpsc::channel;

use coldpress::sandbox::{Mode, Needs, Paths, enter};
use serde_json::Value;

use crate::nbd::{Serving, connect, image, run};
use crate::support::common::{Bench, stdout};

/// How often each of `patterns` is in the memory of a process that can be written to: its heap, stacks and data.
fn count_in_memory(process: u32, patterns: &[&[u8]]) -> Vec<usize> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let memory = File::open(format!("/proc/{process}/mem")).unwrap();
    let mut counts = vec![0; patterns.len()];
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let (range, rights) = (fields.next().unwrap(), fields.next().unwrap());
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let number = |text| u64::from_str_radix(text, 16).unwrap();
        let (start, end) = (number(start), number(end));
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        // What the kernel made of the process meanwhile may be gone.
        if memory.read_exact_at(&mut bytes, start).is_err() {
            continue;
        }
        for (count, pattern) in counts.iter_mut().zip(patterns) {
            *count += bytes.windows(pattern.len()).filter(|window| window == pattern).count();
        }
    }
    counts
}

/// Serves one image with `key` and returns the process's counts of `patterns` behind that of the manifest's chunk names.
fn counts_while_serving(bench: &Bench, key: &str, options: &[&str], patterns: &[&[u8]]) -> Vec<usize> {
    let serving =
        Serving::with(bench, &["app.cpm"], &["unix:a.sock"], &[&["--key", key, "--cache", "cache"], options].concat());
    // A read, so that the keys of chunks are in use.
    let mut client = connect(bench, b"app");
    client.read(0, 4096);
    drop(client);
    let chunk = fs::read_dir(bench.path("cache/chunks")).unwrap().next().unwrap().unwrap().path();
    let name = fs::read_dir(chunk).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let name = coldpress::digest::from_hex::<32>(&name).unwrap();
    let counts = count_in_memory(serving.process.id(), &[&[&name[..]], patterns].concat());
    serving.end();
    counts
}

#[test]
fn a_serving_reader_has_no_key_of_a_key_file_in_its_memory() {
    let bench = Bench::new();
    // Not the tests' own, whose bytes are all alike.
    stdout(&bench.coldpress(&["keygen", "-o", "random.key"]));
    bench.convert(&image(1), "app", &["--key", "file:random.key"]);
    let text = fs::read_to_string(bench.path("random.key")).unwrap();
    let secrets: Vec<&str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("wrapping-key = ").or_else(|| line.strip_prefix("salt = ")))
        .collect();
    let raw: Vec<[u8; 32]> = secrets.iter().map(|secret| coldpress::digest::from_hex(secret).unwrap()).collect();
    let patterns: Vec<&[u8]> =
        secrets.iter().map(|secret| secret.as_bytes()).chain(raw.iter().map(|raw| &raw[..])).collect();
    let counts = counts_while_serving(&bench, "file:random.key", &[], &patterns);
    assert!(counts[0] > 0, "what is known to be there is found");
    assert_eq!(counts[1..], [0; 4], "copies of the wrapping key and the salt, as text and as bytes");
}

/// The identity's text but for its checksum, in both cases.
#[cfg(feature = "age")]
#[test]
fn a_serving_reader_has_no_age_identity_in_its_memory() {
    let bench = Bench::new();
    let (identity, recipient) = coldpress::keys::age::AgeKey::generate();
    fs::write(bench.path("identity"), format!("{}\n", *identity)).unwrap();
    stdout(&bench.coldpress(&["keygen", "--salt-only", "-o", "salt.key"]));
    let key = format!("age:{recipient}");
    let digest = bench.convert(&image(1), "app", &["--key", &key, "--salt-file", "salt.key"]);
    let expect = ["--expect", digest["root_digest"].as_str().unwrap()];
    let upper = identity.strip_prefix("AGE-SECRET-KEY-1").unwrap();
    let upper = &upper[..upper.len() - 6];
    let counts =
        counts_while_serving(&bench, "age:identity", &expect, &[upper.as_bytes(), upper.to_lowercase().as_bytes()]);
    assert!(counts[0] > 0, "what is known to be there is found");
    assert_eq!(counts[1..], [0; 2]);
}

/// Ends a serving reader by a signal that dumps core; how it ended.
fn aborted(bench: &Bench) -> ExitStatus {
    let program =
        format!("ulimit -c unlimited; exec {} serve app.cpm --nbd unix:a.sock \"$@\"", env!("CARGO_BIN_EXE_coldread"));
    let mut serving = Serving::at(bench, Command::new("sh").args(["-c", &program, "sh"]));
    serving.signal("-ABRT");
    serving.process.wait().unwrap()
}

#[test]
fn a_reader_that_is_aborted_leaves_no_core() {
    let bench = Bench::new();
    bench.convert(&image(1), "app", &[]);
    let status = aborted(&bench);
    assert_eq!((status.signal(), status.core_dumped()), (Some(6), false));
    let mut plain = Command::new("sh");
    plain.args(["-c", "ulimit -c unlimited; kill -ABRT $$"]).current_dir(bench.dir.path());
    assert!(plain.status().unwrap().core_dumped(), "another program's core is dumped on this machine");
}

#[test]
fn without_root_files_appear_whole_all_the_same() {
    let bench = Bench::new();
    fs::create_dir(bench.path("home")).unwrap();
    fs::copy(bench.path("coldpress.key"), bench.path("home/coldpress.key")).unwrap();
    for path in ["home", "home/coldpress.key"] {
        chown(bench.path(path), Some(65534), Some(65534)).unwrap();
    }
    fs::set_permissions(bench.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    image(1).oci_layout(&bench.path("app"), crate::support::common::Packing::Gzip);
    let nobody = "setpriv --reuid=65534 --regid=65534 --clear-groups";
    let convert = format!(
        "cd home && {nobody} {} convert oci:../app --store store -o app.cpm --cache cache",
        env!("CARGO_BIN_EXE_coldpress")
    );
    stdout(&run(&bench, "sh", &["-c", &convert]));
    assert_eq!(fs::metadata(bench.path("home/app.cpm")).unwrap().uid(), 65534);
    let listing =
        fs::read_dir(bench.path("home")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = listing.collect();
    names.sort();
    assert_eq!(names, ["app.cpm", "cache", "coldpress.key", "store"], "no file was written aside");
    assert!(fs::read_dir(bench.path("home/cache")).unwrap().count() > 0);
}

fn read_all(bench: &Bench) -> Vec<u8> {
    let mut client = connect(bench, b"app");
    let size = fs::metadata(bench.path("app.img")).unwrap().len();
    let mut all = Vec::new();
    while (all.len() as u64) < size {
        let length = (size - all.len() as u64).min(1 << 20);
        all.extend(client.read(all.len() as u64, length));
    }
    all
}

fn mkfifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[test]
fn a_disk_cache_that_others_can_write_to_is_warned_of_and_never_followed() {
    let bench = Bench::new();
    bench.block_image(&image(1), "app", &[]);
    let (cache, victim) = (bench.path("cache"), bench.path("victim"));
    fs::create_dir(&victim).unwrap();
    let precious = victim.join("precious");
    fs::write(&precious, "longer than the number of bytes that a cache has taken, and of a boot as well").unwrap();
    for directory in ["locks", "chunks"] {
        fs::create_dir_all(cache.join(directory)).unwrap();
    }
    for name in ["taken", "writing", "measuring"] {
        symlink(&precious, cache.join("locks").join(name)).unwrap();
    }
    (0..32).for_each(|slot| mkfifo(&cache.join(format!("locks/slot-{slot}"))));
    for half in 0..256 {
        symlink(&victim, cache.join(format!("chunks/{half:02x}"))).unwrap();
    }
    for path in [cache.clone(), cache.join("locks"), cache.join("chunks")] {
        chown(&path, Some(1000), Some(1000)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let before = fs::read(&precious).unwrap();
    let serving = Serving::with(&bench, &["app.cpm"], &["unix:a.sock"], &["--cache", "cache"]);
    let device = fs::read(bench.path("app.img")).unwrap();
    assert!(read_all(&bench) == device, "links, FIFOs and foreign directories are misses");
    // A copy of a chunk as another user would leave it: what is right in it is not used either.
    for half in 0..256 {
        fs::remove_file(cache.join(format!("chunks/{half:02x}"))).unwrap();
    }
    for name in ["taken", "writing", "measuring"] {
        fs::remove_file(cache.join("locks").join(name)).unwrap();
    }
    let said = serving.end();
    assert!(said.contains("warning: --cache: cache: it belongs to user 1000"), "{said}");
    assert_eq!(fs::read(&precious).unwrap(), before);
    assert_eq!(fs::read_dir(&victim).unwrap().count(), 1);

    let serving = Serving::with(&bench, &["app.cpm"], &["unix:a.sock"], &["--cache", "cache"]);
    assert!(read_all(&bench) == device);
    serving.end();
    let copies = || -> Vec<_> {
        let directories = fs::read_dir(cache.join("chunks")).unwrap().map(|entry| entry.unwrap().path());
        directories.flat_map(|path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())).collect()
    };
    assert!(copies().len() > 5, "without the links it is used");
    for copy in copies() {
        fs::write(&copy, "bytes of another user").unwrap();
        chown(&copy, Some(1000), Some(1000)).unwrap();
    }
    let serving = Serving::with(&bench, &["app.cpm"], &["unix:a.sock"], &["--cache", "cache"]);
    assert!(read_all(&bench) == device, "files of another user are misses");
    serving.end();
    assert!(copies().iter().all(|copy| fs::metadata(copy).unwrap().uid() == 0), "and are replaced");
}

/// What /proc says of each thread of a process, by field.
fn of_threads(process: u32, field: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap().map(|entry| entry.unwrap().path());
    let statuses = threads.filter_map(|path| fs::read_to_string(path.join("status")).ok());
    let value = |status: String| {
        let line = status.lines().find_map(|line| line.strip_prefix(field).map(str::to_owned));
        line.unwrap_or_else(|| panic!("{field} in {status}")).trim().to_owned()
    };
    statuses.map(value).collect()
}

/// Each thread of a process has given up everything, and no new program gets more.
pub fn is_restricted(process: u32) {
    for (field, expected) in [
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("CapEff:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
        ("CapInh:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
    ] {
        let found = of_threads(process, field);
        assert!(found.len() > 1 && found.iter().all(|value| value == expected), "{field} {found:?}");
    }
}

#[test]
fn a_reader_that_serves_has_given_up_all_privileges_in_all_threads() {
    let bench = Bench::new();
    bench.block_image(&image(1), "app", &[]);
    let options = [
        "--cache",
        "cache",
        "--fuse",
        "fuse.img",
        "--vhost-user-blk",
        "vhost.sock",
        "--metrics",
        "unix:metrics.sock",
        "--record",
        "app.profile",
        "--sandbox",
        "require",
    ];
    let serving = Serving::with(&bench, &["app.cpm"], &["unix:a.sock"], &options);
    let process = serving.process.id();
    is_restricted(process);
    assert!(read_all(&bench) == fs::read(bench.path("app.img")).unwrap());
    stdout(&run(&bench, "cmp", &["fuse.img", "app.img"]));
    // Threads of clients that came later are no different.
    let mut client = connect(&bench, b"app");
    client.read(0, 4096);
    is_restricted(process);
    drop(client);
    let status: Value =
        serde_json::from_slice(&stdout(&bench.coldread(&["status", "unix:metrics.sock", "--json"]))).unwrap();
    let expected =
        serde_json::json!({ "no_new_privs": "on", "capabilities": "none", "landlock": "on", "seccomp": "on" });
    assert_eq!(status["sandbox"], expected);
    let said = serving.end();
    assert!(!said.contains("warning"), "{said}");
    for gone in ["a.sock", "vhost.sock", "metrics.sock", "fuse.img"] {
        assert!(!bench.path(gone).exists(), "{gone} is left behind: {said}");
    }
    assert!(bench.path("app.profile").exists());
}

#[test]
fn a_reader_can_leave_root() {
    let bench = Bench::new();
    bench.block_image(&image(1), "app", &[]);
    chown(bench.dir.path(), Some(65534), Some(65534)).unwrap();
    let options = ["--cache", "cache", "--fuse", "fuse.img", "--user", "65534:65534", "--sandbox", "require"];
    let serving = Serving::with(&bench, &["app.cpm"], &["unix:a.sock"], &options);
    let process = serving.process.id();
    is_restricted(process);
    for field in ["Uid:", "Gid:"] {
        assert!(of_threads(process, field).iter().all(|ids| ids.split_whitespace().all(|id| id == "65534")), "{field}");
    }
    assert!(of_threads(process, "Groups:").iter().all(String::is_empty));
    assert!(read_all(&bench) == fs::read(bench.path("app.img")).unwrap());
    stdout(&run(&bench, "cmp", &["fuse.img", "app.img"]));
    let mut owned: Vec<PathBuf> = ["a.sock", "cache", "cache/locks/taken"].map(|name| bench.path(name)).to_vec();
    let directories = fs::read_dir(bench.path("cache/chunks")).unwrap().map(|entry| entry.unwrap().path());
    owned.extend(directories.flat_map(|path| fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path())));
    assert!(owned.len() > 5 && owned.iter().all(|path| fs::metadata(path).unwrap().uid() == 65534));
    let said = serving.end();
    assert!(!said.contains("warning") && !bench.path("a.sock").exists(), "{said}");
    let refused = bench.coldread(&["serve", "app.cpm", "--store", "store", "--nbd", "unix:a.sock", "--user", "root"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn what_cannot_be_restricted_is_said_or_refused() {
    let bench = Bench::new();
    bench.convert(&image(1), "app", &[]);
    fs::create_dir(bench.path(".aws")).unwrap();
    fs::write(bench.path(".aws/config"), "[default]\nregion = x\ncredential_process = /bin/false\n").unwrap();
    let serve = |mode: &str| {
        let mut command = Command::new("timeout");
        command.args([
            "--signal=TERM",
            "2",
            env!("CARGO_BIN_EXE_coldread"),
            "serve",
            "app.cpm",
            "--nbd",
            "unix:a.sock",
        ]);
        command.args(["--store", "s3://chunks/p", "--store-endpoint", "http://127.0.0.1:1", "--sandbox", mode]);
        command.current_dir(bench.dir.path()).env("HOME", bench.dir.path()).env_remove("AWS_CONFIG_FILE");
        let output = command.output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (_, said) = serve("auto");
    let expected = "warning: not fully sandboxed: Landlock: ";
    assert!(said.contains(expected) && said.contains("has a credential_process, which is a program"), "{said}");
    let (code, said) = serve("require");
    assert!(code == Some(1) && said.contains("--sandbox require: Landlock: "), "{code:?} {said}");
    assert!(!bench.path("a.sock").exists(), "{said}");
}

/// System calls that a reader has no use for, and who took it over has.
const REFUSED: &[(&str, libc::c_long)] = &[
    ("execve", libc::SYS_execve),
    ("execveat", libc::SYS_execveat),
    ("ptrace", libc::SYS_ptrace),
    ("process_vm_readv", libc::SYS_process_vm_readv),
    ("kill", libc::SYS_kill),
    ("mount", libc::SYS_mount),
    ("umount2", libc::SYS_umount2),
    ("pivot_root", libc::SYS_pivot_root),
    ("chroot", libc::SYS_chroot),
    ("setns", libc::SYS_setns),
    ("unshare", libc::SYS_unshare),
    ("clone3", libc::SYS_clone3),
    ("bpf", libc::SYS_bpf),
    ("perf_event_open", libc::SYS_perf_event_open),
    ("io_uring_setup", libc::SYS_io_uring_setup),
    ("userfaultfd", libc::SYS_userfaultfd),
    ("keyctl", libc::SYS_keyctl),
    ("open_by_handle_at", libc::SYS_open_by_handle_at),
    ("init_module", libc::SYS_init_module),
    ("kexec_load", libc::SYS_kexec_load),
    ("setuid", libc::SYS_setuid),
    ("pidfd_getfd", libc::SYS_pidfd_getfd),
];

/// The error of a call whose arguments are all zero.
fn errno_of(call: libc::c_long, first: libc::c_long) -> i32 {
    #[expect(unsafe_code, reason = "the calls are made as who took a process over would make them")]
    // SAFETY: no call of these does anything with zeros.
    let done = unsafe { libc::syscall(call, first, 0, 0, 0, 0, 0) };
    if done == -1 { std::io::Error::last_os_error().raw_os_error().unwrap() } else { 0 }
}

/// Restricts this very process as a reader restricts itself, and tries what it shall not be able to do; a line for each that it could.
fn confined(directory: &Path) -> Vec<String> {
    // A thread that was there before is the one that tries.
    let (go, wait) = channel();
    let paths = directory.to_owned();
    let before = std::thread::spawn(move || {
        wait.recv().unwrap();
        attempts(&paths)
    });
    let paths = Paths { read: vec![directory.join("store")], write: vec![directory.join("cache")], ..Paths::default() };
    let report = enter(Mode::Require, &Needs { paths, ..Needs::default() }, None).unwrap();
    assert_eq!(report.capabilities, "none");
    go.send(()).unwrap();
    let mut could = before.join().unwrap();
    let path = directory.to_owned();
    could.extend(std::thread::spawn(move || attempts(&path)).join().unwrap());
    could
}

fn attempts(directory: &Path) -> Vec<String> {
    let mut could = Vec::new();
    let mut expect = |allowed: bool, what: &str, worked: bool| {
        if worked != allowed {
            could.push(format!("{what}: {}", if worked { "worked" } else { "was refused" }));
        }
    };
    let read = |name: &str| fs::read(directory.join(name)).is_ok();
    let write = |name: &str| fs::write(directory.join(name), "x").is_ok();
    expect(true, "reading the store", read("store/chunk"));
    expect(false, "writing to the store", write("store/chunk") || write("store/new"));
    expect(true, "writing to the cache", write("cache/new") && fs::remove_file(directory.join("cache/new")).is_ok());
    expect(false, "reading beside", read("beside") || fs::read_dir(directory).is_ok());
    expect(false, "writing beside", write("beside") || write("new"));
    expect(
        false,
        "a link out of the cache",
        fs::hard_link(directory.join("beside"), directory.join("cache/link")).is_ok(),
    );
    expect(false, "reading /etc/shadow", fs::read("/etc/shadow").is_ok());
    expect(false, "reading another process", fs::read("/proc/1/environ").is_ok());
    expect(false, "running a program", Command::new("true").status().is_ok());
    expect(false, "listening", TcpListener::bind("127.0.0.1:0").is_ok());
    for (name, call) in REFUSED {
        expect(false, name, errno_of(*call, 0) != libc::ENOSYS);
    }
    for family in [libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
        expect(false, "a socket of another family", errno_of(libc::SYS_socket, family.into()) != libc::ENOSYS);
    }
    // SIGCHLD: another process.
    expect(false, "fork", errno_of(libc::SYS_clone, libc::SIGCHLD.into()) != libc::ENOSYS);
    expect(false, "PR_SET_DUMPABLE", errno_of(libc::SYS_prctl, libc::PR_SET_DUMPABLE.into()) != libc::ENOSYS);
    could
}

/// The test runs itself as another process, since there is no way back.
#[test]
#[expect(clippy::disallowed_methods, clippy::print_stdout, reason = "how the test's two processes tell each other")]
fn who_takes_a_restricted_process_over_reaches_what_it_reached_and_no_more() {
    const DIRECTORY: &str = "COLDPRESS_TEST_CONFINED";
    if let Some(directory) = std::env::var_os(DIRECTORY) {
        let could = confined(Path::new(&directory));
        assert!(could.is_empty(), "{could:#?}");
        println!("everything as it should be");
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    for directory in ["store", "cache"] {
        fs::create_dir(temp.path().join(directory)).unwrap();
    }
    for file in ["store/chunk", "beside"] {
        fs::write(temp.path().join(file), "x").unwrap();
    }
    let name = "sandbox::who_takes_a_restricted_process_over_reaches_what_it_reached_and_no_more";
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(DIRECTORY, temp.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&stdout(&output)).into_owned();
    assert!(said.contains("everything as it should be"), "{said}");
}

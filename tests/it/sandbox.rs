//! What a process of the programs gives up, and what is left in its memory.

use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus};

use crate::common::{Bench, stdout};
use crate::nbd::{Serving, connect, image, run};

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
    image(1).oci_layout(&bench.path("app"), crate::common::Packing::Gzip);
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

//! Devices that are written to: by the kernel's ext4, by qemu and fio over NBD, and by threads against plain bytes.
//!
//! Whatever is written, the image stays: [`Image`]s are compared before and after by every byte of store and manifest.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use coldpress::ErrorKind;
use coldpress::digest::Sha256;
use coldpress::fs::{BlockDevice, WritableDevice};
use coldpress::keys::KeyFile;
use coldpress::manifest::BlockManifest;
use coldpress::read::{ChunkDevice, CowDevice};
use coldpress::store::{Settings, StoreUrl, open_get};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;
use rustix::process::Signal;

use crate::kernel::{Mount, entries};
use crate::nbd::{Serving, connect, run};
use crate::support::common::{Bench, Image, Layer, Mounted, TEST_KEY, e2fsck, listing, noise, stdout};

const PATIENCE: Duration = Duration::from_secs(20);
const READ: u16 = 0;
const WRITE: u16 = 1;
const TRIM: u16 = 4;
const WRITE_ZEROES: u16 = 6;
const BLOCK: usize = 4096;

/// An image with room, `app.cpm`, and its block image `app.img`.
fn converted() -> Bench {
    let bench = Bench::new();
    let lower = Layer::new().dir("etc").file("etc/hostname", b"made\n").file("etc/old", b"old\n").dir("data");
    let image = Image::new([
        lower,
        (0..8u64).fold(Layer::new(), |layer, n| layer.file(&format!("data/{n}"), &noise(500_000, n + 1))),
    ]);
    bench.block_image(&image, "app", &["--free", "64MiB"]);
    bench
}

/// Every byte of what is stored.
fn stored(bench: &Bench) -> BTreeMap<PathBuf, Sha256> {
    let files = fs::read_dir(bench.path("store/main")).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.is_file()).chain([bench.path("app.cpm")]);
    files.map(|path| (path.clone(), Sha256::of(&fs::read(path).unwrap()))).collect()
}

fn device(bench: &Bench) -> Arc<dyn BlockDevice> {
    let manifest = BlockManifest::decode(&fs::read(bench.path("app.cpm")).unwrap()).unwrap();
    let manifest = manifest.open(&KeyFile::decode(TEST_KEY).unwrap().wrapping_key).unwrap();
    let store = StoreUrl::Directory(bench.path("store"));
    Arc::new(ChunkDevice::plain(manifest, open_get(&store, &Settings::default()).unwrap()))
}

/// One in memory, one in a file.
fn both(bench: &Bench, most: u64) -> [CowDevice; 2] {
    let file = CowDevice::in_directory(device(bench), most, bench.dir.path()).unwrap();
    [CowDevice::in_memory(device(bench), most), file]
}

fn contents(device: &dyn BlockDevice) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(device.size()).unwrap()];
    device.read_at(0, &mut bytes).unwrap();
    bytes
}

#[derive(Debug, Clone)]
enum Step {
    Write(usize, usize, u64),
    Discard(usize, usize),
    Read(usize, usize),
}

/// A place of any alignment, mostly where others are as well, and a length.
fn place() -> impl Strategy<Value = (usize, usize)> {
    let at = prop_oneof![(0usize..64).prop_map(|n| n * BLOCK), 0usize..300_000, 0usize..8 << 20];
    let length = prop_oneof![(0usize..70).prop_map(|n| n * BLOCK), 0usize..10_000, 0usize..600_000];
    (at, length)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (place(), any::<u64>()).prop_map(|((at, length), seed)| Step::Write(at, length, seed)),
        2 => place().prop_map(|(at, length)| Step::Discard(at, length)),
        2 => place().prop_map(|(at, length)| Step::Read(at, length)),
    ]
}

#[test]
fn what_is_read_is_what_plain_bytes_would_be() {
    let bench = converted();
    let image = fs::read(bench.path("app.img")).unwrap();
    let config = Config { cases: 16, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let outcome = runner.run(&vec(step(), 1..40), |steps| {
        for device in both(&bench, 1 << 30) {
            let mut plain = image.clone();
            let mut buf = Vec::new();
            for step in &steps {
                match *step {
                    Step::Write(at, length, seed) => {
                        let bytes = noise(length, seed);
                        device.write_at(at as u64, &bytes).unwrap();
                        plain[at..at + length].copy_from_slice(&bytes);
                    }
                    Step::Discard(at, length) => {
                        device.discard(at as u64, length as u64).unwrap();
                        plain[at..at + length].fill(0);
                    }
                    Step::Read(at, length) => {
                        buf.resize(length, 1);
                        if device.read_at_hand(at as u64, &mut buf) {
                            prop_assert!(buf == plain[at..at + length], "at hand: {:?}", step);
                        }
                        device.read_at(at as u64, &mut buf).unwrap();
                        prop_assert!(buf == plain[at..at + length], "{:?}", step);
                    }
                }
            }
            prop_assert!(contents(&device) == plain);
        }
        Ok(())
    });
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

/// Each thread has every fourth run of 1,000 bytes, so that blocks belong to several of them.
#[test]
fn threads_that_write_parts_of_the_same_blocks_lose_nothing() {
    const THREADS: usize = 4;
    const RUN: usize = 1_000;
    let bench = converted();
    let size = 2 << 20;
    for device in both(&bench, 1 << 30) {
        let work = |thread: usize| {
            let runs: Vec<usize> = (0..size / RUN).filter(|run| run % THREADS == thread).map(|run| run * RUN).collect();
            let mut read = [0; RUN];
            for round in 0..3u64 {
                for (n, &at) in (0u64..).zip(&runs) {
                    let bytes = noise(RUN, round << 32 | n << 4 | thread as u64);
                    match (n + round) % 5 {
                        0 => device.discard(at as u64, RUN as u64).unwrap(),
                        _ => device.write_at(at as u64, &bytes).unwrap(),
                    }
                    device.read_at(at as u64, &mut read).unwrap();
                    let wanted = if (n + round) % 5 == 0 { &[0; RUN][..] } else { &bytes };
                    assert!(read[..] == *wanted, "byte {at} of thread {thread}");
                }
            }
            runs.into_iter().zip(0u64..).map(move |(at, n)| match (n + 2) % 5 {
                0 => (at, vec![0; RUN]),
                _ => (at, noise(RUN, 2 << 32 | n << 4 | thread as u64)),
            })
        };
        let mut plain = fs::read(bench.path("app.img")).unwrap();
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
            for (at, bytes) in threads.into_iter().flat_map(|thread| thread.join().unwrap()) {
                plain[at..at + RUN].copy_from_slice(&bytes);
            }
        });
        assert!(contents(&device) == plain);
    }
}

#[test]
fn a_full_device_refuses_what_is_more_and_takes_it_when_there_is_room_again() {
    let bench = converted();
    let image = fs::read(bench.path("app.img")).unwrap();
    for device in both(&bench, 4 * BLOCK as u64 + 100) {
        let block = |n: u64| n * BLOCK as u64;
        device.write_at(block(10), &[1; 4 * BLOCK]).unwrap();
        let refused = |result: coldpress::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::Full);
        refused(device.write_at(block(20), &[2; BLOCK]));
        refused(device.write_at(block(20) + 5, b"part"));
        // What has its place may be written again, whole or in part, and read.
        device.write_at(block(11), &[3; BLOCK]).unwrap();
        device.write_at(block(12) + 7, b"part").unwrap();
        let mut read = [0; BLOCK];
        device.read_at(block(20), &mut read).unwrap();
        assert!(read[..] == image[20 * BLOCK..21 * BLOCK], "a refused write changes nothing");
        // Zeros take no room, and give it back once.
        device.discard(block(100), block(1_000)).unwrap();
        device.discard(block(10), block(2)).unwrap();
        device.discard(block(10), block(2)).unwrap();
        device.write_at(block(100), &[4; 2 * BLOCK]).unwrap();
        refused(device.write_at(block(102), &[5; BLOCK]));
        let past = device.size() - 1;
        for result in [device.write_at(past, &[0; 2]), device.discard(u64::MAX, 2), device.read_at(past, &mut [0; 2])] {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::Input);
        }
    }
}

fn mount(bench: &Bench, options: &[&str]) -> Mount {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["-v", "mount", "app.cpm", "--store", "store", "mnt"]).args(options);
    command.current_dir(bench.dir.path()).env_remove("COLDPRESS_KEY").env_remove("COLDPRESS_STORE");
    let mut mount = Mount::by(bench, &mut command);
    mount.wait_for("is mounted at");
    mount
}

/// The device below a mount, as it is on no disk: the kernel has written all of it when it is read-only.
fn device_of(mount: &Mount, copy: &Path) {
    tool("mount", &["-o", "remount,ro", mount.point.to_str().unwrap()]);
    let source = stdout(&Command::new("findmnt").args(["-no", "SOURCE"]).arg(&mount.point).output().unwrap());
    let mut source = File::open(String::from_utf8(source).unwrap().trim()).unwrap();
    std::io::copy(&mut source, &mut File::create(copy).unwrap()).unwrap();
}

fn tool(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_kernel_writes_what_it_reads_again_and_the_image_stays() {
    let bench = converted();
    let before = stored(&bench);
    let mut original = mount(&bench, &[]);
    let untouched = listing(&original.point);
    original.unmount();
    original.ends_well(PATIENCE);
    for options in [&["--writable"][..], &["--writable", "--cow", "."]] {
        let mut mount = mount(&bench, options);
        let inode = mount.path("etc/hostname").metadata().unwrap().ino();
        fs::write(mount.path("etc/hostname"), b"written\n").unwrap();
        assert_eq!(mount.path("etc/hostname").metadata().unwrap().ino(), inode);
        File::options().append(true).open(mount.path("data/0")).unwrap().write_all(&noise(3_000_000, 77)).unwrap();
        fs::create_dir(mount.path("new")).unwrap();
        let mut new = File::create(mount.path("new/file")).unwrap();
        new.write_all(&noise(5_000_000, 78)).unwrap();
        new.sync_all().unwrap();
        drop(new);
        fs::hard_link(mount.path("new/file"), mount.path("new/link")).unwrap();
        fs::rename(mount.path("data/1"), mount.path("new/moved")).unwrap();
        fs::remove_file(mount.path("etc/old")).unwrap();
        fs::set_permissions(mount.path("data"), PermissionsExt::from_mode(0o700)).unwrap();
        File::options().write(true).open(mount.path("data/2")).unwrap().set_len(1_234).unwrap();
        let shown = listing(&mount.point);
        device_of(&mount, &bench.path("written.img"));
        e2fsck(&bench.path("written.img"));
        assert_eq!(listing(Mounted::new(&bench.path("written.img")).path()), shown, "it is on the device");
        assert_ne!(shown, untouched);
        mount.unmount();
        mount.ends_well(PATIENCE);
        let mut again = self::mount(&bench, &["--writable"]);
        assert_eq!(listing(&again.point), untouched, "what was written ended with its process");
        again.signal(Signal::INT);
        again.ends_well(PATIENCE);
    }
    assert_eq!(stored(&bench), before);
}

#[test]
fn what_is_deleted_gives_its_room_back_and_a_full_mount_is_read_on() {
    let bench = converted();
    fs::create_dir(bench.path("cow")).unwrap();
    let mut mount = mount(&bench, &["--writable", "--cow", "cow", "--cow-max", "32MiB"]);
    let write = |name: &str, mib: usize| {
        let mut file = File::create(mount.path(name))?;
        file.write_all(&noise(mib << 20, 5))?;
        file.sync_all()
    };
    let sync = || tool("sync", &["-f", mount.point.to_str().unwrap()]);
    let taken = || cow_file(&mount.child).metadata().unwrap().blocks() * 512;
    // More than there is room for at once.
    for _ in 0..2 {
        write("large", 24).unwrap();
        assert!(taken() >= 24 << 20, "{}", taken());
        fs::remove_file(mount.path("large")).unwrap();
        sync();
        assert!(taken() < 1 << 20, "{} bytes are still taken", taken());
    }
    write("kept", 8).unwrap();
    assert_eq!(write("large", 40).unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    rustix::fs::fadvise(File::open(mount.path("kept")).unwrap(), 0, None, rustix::fs::Advice::DontNeed).unwrap();
    assert!(fs::read(mount.path("data/5")).unwrap() == noise(500_000, 6));
    assert!(fs::read(mount.path("kept")).unwrap() == noise(8 << 20, 5));
    mount.wait_for("the write overlay is full");
    mount.unmount();
    mount.ends_well(PATIENCE);
}

#[test]
fn the_file_below_a_mount_keeps_its_size() {
    let bench = converted();
    let mut mount = mount(&bench, &["--writable"]);
    let directory = entries(&bench.path("run")).remove(0);
    let file = File::options().read(true).write(true).open(directory.join("image")).unwrap();
    let (size, mode) = (file.metadata().unwrap().len(), file.metadata().unwrap().mode());
    assert_eq!((size, mode & 0o7777), (fs::metadata(bench.path("app.img")).unwrap().len(), 0o600));
    file.set_len(size).unwrap();
    assert_eq!(file.set_len(size - 4096).unwrap_err().raw_os_error(), Some(1));
    assert_eq!(file.set_len(size + 4096).unwrap_err().raw_os_error(), Some(1));
    file.sync_all().unwrap();
    // Where no file is: the last blocks.
    let fallocate = |flags, offset, length| rustix::fs::fallocate(&file, flags, offset, length);
    let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    let at_end = |offset: u64| {
        let mut read = vec![0; 8192];
        file.read_exact_at(&mut read, size - 8192).unwrap();
        usize::try_from(offset).map(|offset| read[offset]).unwrap()
    };
    file.write_all_at(&[7; 8192], size - 8192).unwrap();
    fallocate(FallocateFlags::ZERO_RANGE, size - 8192, 100).unwrap();
    assert_eq!((at_end(99), at_end(100), at_end(8191)), (0, 7, 7));
    fallocate(punch, size - 4096, 1 << 30).unwrap();
    assert_eq!((at_end(4095), at_end(4096), at_end(8191)), (7, 0, 0));
    assert_eq!(fallocate(FallocateFlags::empty(), 0, 4096), Err(Errno::OPNOTSUPP));
    assert!(file.write_at(&[1; 10], size - 5).is_err());
    drop(file);
    mount.unmount();
    mount.ends_well(PATIENCE);
}

fn writable(bench: &Bench, options: &[&str]) -> Serving {
    Serving::with(bench, &["app.cpm"], &["unix:a.sock"], &[&["--writable"], options].concat())
}

const URI: &str = "nbd+unix:///app?socket=a.sock";

#[test]
fn fio_reads_back_what_it_wrote_of_every_alignment() {
    let bench = converted();
    let before = stored(&bench);
    for options in [&[][..], &["--cow", "."]] {
        let serving = writable(&bench, options);
        for size in ["--bs=4k", "--bs=1k", "--bs=96k"] {
            let job = [
                "--name=job",
                "--ioengine=nbd",
                "--rw=randwrite",
                "--iodepth=32",
                "--size=12M",
                "--offset=1M",
                "--randrepeat=1",
            ];
            let verify = ["--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", size];
            stdout(&run(&bench, "fio", &[&job[..], &verify, &[&format!("--uri={URI}")]].concat()));
        }
        serving.end();
    }
    assert_eq!(stored(&bench), before);
}

/// `qemu-io` with `commands`; what it says.
fn qemu_io(bench: &Bench, commands: &[&str]) -> String {
    let commands: Vec<&str> = commands.iter().flat_map(|command| ["-c", command]).collect();
    let output = run(bench, "qemu-io", &[&["-f", "raw", "--discard=unmap", URI], &commands[..]].concat());
    let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    format!("{}: {said}", output.status.success())
}

#[test]
fn qemu_writes_discards_and_zeros_and_all_clients_see_the_same() {
    let bench = converted();
    let serving = writable(&bench, &["--cow-max", "8MiB"]);
    let mut other = connect(&bench, b"app");
    let mut read = |at: u64, length: u64| {
        other.ask(READ, 1, at, length);
        other.answer(|_| length).1.unwrap()
    };
    let image = fs::read(bench.path("app.img")).unwrap();
    let said = qemu_io(
        &bench,
        &["write -P 7 1M 64k", "write -P 8 1000 3000", "write -f -P 9 2M 512", "flush", "read -P 7 1M 64k"],
    );
    assert!(said.starts_with("true") && !said.contains("fail"), "{said}");
    assert_eq!(read(1 << 20, 65_536), vec![7; 65_536]);
    let part = [&image[..1000], &[8; 3000], &image[4000..8192]].concat();
    assert!(read(0, 8192) == part);
    assert!(read(2 << 20, 4096) == [&[9; 512][..], &image[(2 << 20) + 512..(2 << 20) + 4096]].concat());
    // The data of the image as well: its first chunk is full of it.
    let said = qemu_io(&bench, &["discard 1M 32k", "write -z 1060k 8k", "write -z -u 0 64k", "discard 64M 32M"]);
    assert!(said.starts_with("true") && !said.contains("fail"), "{said}");
    assert!(read(1 << 20, 32_768) == vec![0; 32_768] && read((1 << 20) + 32_768, 4_096) == vec![7; 4_096]);
    assert!(read(1060 << 10, 8_192) == vec![0; 8_192] && read(0, 65_536) == vec![0; 65_536]);
    assert!(read(64 << 20, 1 << 20) == vec![0; 1 << 20]);
    // More than there is room for; reads go on, and what is given back is there for others.
    let said = qemu_io(&bench, &["write -P 3 16M 9M"]);
    assert!(said.contains("No space left on device"), "{said}");
    assert!(read(20 << 20, 4096) != image[20 << 20..(20 << 20) + 4096] && read(1 << 20, 1) == [0]);
    let said = qemu_io(&bench, &["discard 16M 9M", "write -P 4 16M 7M", "read -P 4 16M 7M"]);
    assert!(said.starts_with("true") && !said.contains("fail"), "{said}");
    let said = serving.end();
    assert_eq!(said.matches("the write overlay is full").count(), 1, "{said}");
    let info = stdout(&{
        let _serving = writable(&bench, &[]);
        run(&bench, "nbdinfo", &[URI])
    });
    let info = String::from_utf8(info).unwrap();
    for line in [
        "is_read_only: false",
        "can_multi_conn: true",
        "can_trim: true",
        "can_zero: true",
        "can_fua: true",
        "can_flush: true",
    ] {
        assert!(info.contains(line), "{line}: {info}");
    }
}

#[test]
fn requests_past_the_end_are_refused_one_by_one() {
    let bench = converted();
    let serving = writable(&bench, &[]);
    let mut client = connect(&bench, b"app");
    let size = fs::metadata(bench.path("app.img")).unwrap().len();
    for (kind, offset, length, error) in
        [(WRITE, size - 1, 2, 28), (WRITE, u64::MAX, 2, 28), (TRIM, size, 1, 22), (WRITE_ZEROES, size - 4096, 4097, 22)]
    {
        client.ask(kind, 5, offset, length);
        if kind == WRITE {
            client.0.write_all(&[1; 2]).unwrap();
        }
        assert_eq!(client.answer(|_| 0), (5, Err(error)), "{kind} {offset} {length}");
    }
    // Nothing, and the last byte.
    for (kind, offset, length) in [(WRITE, size, 0), (TRIM, 0, 0), (WRITE_ZEROES, size - 1, 1)] {
        client.ask(kind, 6, offset, length);
        assert_eq!(client.answer(|_| 0), (6, Ok(Vec::new())), "{kind} {offset} {length}");
    }
    client.ask(WRITE, 7, 0, 33 << 20);
    drop(client);
    let said = serving.end();
    assert!(said.contains("disconnected a client: NBD protocol error: a write that is too long"), "{said}");
}

/// The file of what was written, by its descriptor.
fn cow_file(process: &Child) -> File {
    let descriptors = format!("/proc/{}/fd", process.id());
    let mut paths = fs::read_dir(descriptors).unwrap().map(|entry| entry.unwrap().path());
    let is_cow = |path: &PathBuf| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("/cow/"));
    let path = paths.find(is_cow).expect("a file in the directory of --cow");
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn the_file_of_what_was_written_is_sealed_checked_and_gone_with_its_process() {
    let bench = converted();
    fs::create_dir(bench.path("cow")).unwrap();
    let mut serving = writable(&bench, &["--cow", "cow"]);
    let image = fs::read(bench.path("app.img")).unwrap();
    // Into the first file's second block, to its fifth.
    let file_at = (0..image.len()).step_by(BLOCK).find(|&at| image[at..].starts_with(&noise(16, 1))).unwrap();
    let block = |n: usize| file_at + n * BLOCK;
    let (at, pattern) = (block(1) + 1_000, b"a secret of the customer ".repeat(BLOCK * 3 / 25));
    let mut client = connect(&bench, b"app");
    client.ask(WRITE, 1, at as u64, pattern.len() as u64);
    client.0.write_all(&pattern).unwrap();
    assert_eq!(client.answer(|_| 0), (1, Ok(Vec::new())));
    let file = cow_file(&serving.process);
    let mut bytes = vec![0; BLOCK * 4];
    file.read_exact_at(&mut bytes, block(1) as u64).unwrap();
    assert_eq!(file.metadata().unwrap().len(), block(5) as u64, "as long as what was written goes");
    for known in [&pattern[..16], &image[block(1)..block(1) + 16], &[0; 16]] {
        assert!(!bytes.windows(known.len()).any(|window| window == known), "{}", known.escape_ascii());
    }
    // One block is altered, and another is put in place of the next.
    file.write_all_at(&[bytes[0] ^ 1], block(1) as u64).unwrap();
    file.write_all_at(&bytes[2 * BLOCK..3 * BLOCK], block(2) as u64).unwrap();
    let mut read = |at: usize, length: usize| {
        client.ask(READ, 2, at as u64, length as u64);
        client.answer(|_| length as u64).1
    };
    assert_eq!((read(block(1), 10), read(block(2), BLOCK)), (Err(5), Err(5)));
    assert!(read(block(3), BLOCK).unwrap() == pattern[block(3) - at..][..BLOCK]);
    assert!(read(block(0), BLOCK).unwrap() == image[block(0)..block(1)]);
    file.write_all_at(&bytes[BLOCK..2 * BLOCK], block(2) as u64).unwrap();
    assert!(read(block(2), BLOCK).unwrap() == pattern[block(2) - at..][..BLOCK]);
    assert_eq!(fs::read_dir(bench.path("cow")).unwrap().count(), 0, "it has no name");
    serving.signal("-KILL");
    serving.process.wait().unwrap();
    assert_eq!(fs::read_dir(bench.path("cow")).unwrap().count(), 0);
}

#[test]
fn where_the_file_cannot_be_is_said_before_anything_is_offered() {
    let bench = converted();
    let refused = |options: &[&str]| {
        let output =
            bench.coldread(&[&["serve", "app.cpm", "--store", "store", "--nbd", "unix:a.sock"], options].concat());
        assert!(!output.status.success() && !bench.path("a.sock").exists());
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let said = refused(&["--writable", "--cow", "nowhere"]);
    assert!(said.contains("nowhere: "), "{said}");
    let said = refused(&["--cow", "."]);
    assert!(said.contains("--writable"), "{said}");
}

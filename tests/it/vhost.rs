//! `coldread serve --vhost-user-blk`: a disk for virtual machines, by a client with rings of its own and by a guest's kernel.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use coldpress::digest::Sha256;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::GuestMemoryBackend;

use crate::nbd::{Serving, run, served};
use crate::support::common::{Bench, Image, Layer, Meta, noise, stdout};
use crate::support::vhost_client::{EVENT_IDX, Entry, GET_ID, Guest, IN, INDIRECT, LONGEST, NEXT, OUT, RING, WRITABLE};

fn disk(bench: &Bench) -> Serving {
    Serving::with(bench, &["one.cpm"], &[], &["--vhost-user-blk", "a.sock"])
}

fn connect(bench: &Bench) -> Guest {
    Guest::connect(&bench.path("a.sock"), 1, 0)
}

/// Reads the first block; `true` where it is that of `one`.
fn reads(bench: &Bench, guest: &mut Guest, place: u16) -> bool {
    guest.read(0, place, 2, 512);
    let image = fs::read(bench.path("one.img")).unwrap();
    guest.answers(0) == [(place, 0)] && guest.bytes(0, place, 512) == image[1024..1536]
}

/// Reads the whole device over `rings` rings, and compares.
fn reads_all(bench: &Bench, socket: &str, file: &str, rings: u16, refuse: u64) {
    let image = fs::read(bench.path(file)).unwrap();
    let mut guest = Guest::connect(&bench.path(socket), rings, refuse);
    assert_eq!(guest.size(), image.len() as u64);
    let step = usize::try_from(LONGEST).unwrap() / 512 * 512;
    for (n, want) in image.chunks(step * 8).enumerate() {
        let ring = n % usize::from(rings);
        let parts: Vec<&[u8]> = want.chunks(step).collect();
        for (place, part) in (0..).zip(&parts) {
            let sector = (n * step * 8 + usize::from(place) * step) as u64 / 512;
            guest.read(ring, place, sector, u32::try_from(part.len()).unwrap());
        }
        let mut left = parts.len();
        while left > 0 {
            for (place, status) in guest.answers(ring) {
                assert_eq!(status, 0);
                let part = parts[usize::from(place)];
                assert!(guest.bytes(ring, place, part.len()) == part, "{n} {place}");
                left -= 1;
            }
        }
    }
}

#[test]
fn a_guest_reads_the_device_that_export_writes_beside_other_doors() {
    let bench = served();
    let disks = ["--nbd", "unix:nbd.sock", "--vhost-user-blk", "one:a.sock", "--vhost-user-blk", "second:b.sock"];
    let serving = Serving::with(&bench, &["one.cpm", "second=two.cpm"], &[], &disks);
    for socket in ["a.sock", "b.sock"] {
        assert_eq!(fs::metadata(bench.path(socket)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    reads_all(&bench, "a.sock", "one.img", 1, 0);
    reads_all(&bench, "b.sock", "two.img", 3, EVENT_IDX);
    // Who has left may come again, and two at a time.
    std::thread::scope(|scope| {
        scope.spawn(|| reads_all(&bench, "a.sock", "one.img", 16, 0));
        scope.spawn(|| reads_all(&bench, "a.sock", "one.img", 2, 0));
        stdout(&run(&bench, "nbdcopy", &["nbd+unix:///second?socket=nbd.sock", "copy.img"]));
    });
    stdout(&run(&bench, "cmp", &["copy.img", "two.img"]));
    serving.end();
    for socket in ["a.sock", "b.sock", "nbd.sock"] {
        assert!(!bench.path(socket).exists());
    }
}

#[test]
fn reads_in_buffers_of_every_size_and_place_many_at_a_time_are_those_of_the_file() {
    let bench = served();
    let serving = disk(&bench);
    let image = fs::read(bench.path("one.img")).unwrap();
    let mut guest = Guest::connect(&bench.path("a.sock"), 4, 0);
    let mut asked = BTreeMap::new();
    let mut answered = 0;
    for n in 0..2_000u64 {
        let (ring, place) = ((n % 4) as usize, u16::try_from(n / 4 % 32).unwrap());
        while asked.contains_key(&(ring, place)) {
            for (place, status) in guest.answers(ring) {
                let (sector, cuts): (usize, Vec<(u64, u32)>) = asked.remove(&(ring, place)).unwrap();
                let mut bytes = Vec::new();
                let at = guest.data(ring, place);
                let room = guest.bytes(ring, place, usize::try_from(LONGEST).unwrap());
                for (address, length) in cuts {
                    let from = usize::try_from(address - at).unwrap();
                    bytes.extend_from_slice(&room[from..from + length as usize]);
                }
                assert_eq!(status, 0);
                assert!(bytes == image[sector * 512..sector * 512 + bytes.len()], "{sector}+{}", bytes.len());
                answered += 1;
            }
        }
        let length = 512 * (1 + n * n * 97 % 599);
        let sector = n * 7_919_003 % ((image.len() as u64 - length) / 512);
        // One buffer or many, of odd lengths, with odd gaps between.
        let pieces = 1 + n % 7;
        let mut cuts = Vec::new();
        let (mut at, mut left) = (guest.data(ring, place) + n % 3, length);
        for piece in (0..pieces).rev() {
            let part = if piece == 0 { left } else { (left / 2 + n % 5).min(left) };
            cuts.push((at, u32::try_from(part).unwrap()));
            left -= part;
            at += part + n % 11;
        }
        cuts.retain(|(_, length)| *length > 0);
        guest.ask(ring, place, IN, sector, &cuts);
        asked.insert((ring, place), (usize::try_from(sector).unwrap(), cuts));
    }
    assert!(answered > 1_800);
    drop(guest);
    serving.end();
}

#[test]
fn what_the_disk_says_of_itself() {
    let bench = served();
    let serving = disk(&bench);
    let mut guest = connect(&bench);
    // Read-only, without flush, discard and zeroing; rings of its own for each processor.
    assert_eq!(guest.features & (1 << 5 | 1 << 9 | 1 << 13 | 1 << 14), 1 << 5);
    assert_eq!(guest.config(20, 4), 512u32.to_le_bytes());
    assert_eq!(guest.config(34, 2), 16u16.to_le_bytes());
    assert_eq!(guest.config(0, 96).len(), 96);
    let data = guest.data(0, 0);
    guest.ask(0, 0, GET_ID, 0, &[(data, 20)]);
    assert_eq!(guest.answers(0), [(0, 0)]);
    assert_eq!(guest.bytes(0, 0, 20), b"one\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0");
    let sectors = guest.size() / 512;
    // Past the end, no whole sectors, writes, discards, what nobody knows: an error of that request alone.
    for (kind, sector, length, status) in [
        (IN, sectors, 512, 1),
        (IN, sectors - 1, 1024, 1),
        (IN, u64::MAX, 512, 1),
        (IN, u64::MAX / 512, 512, 1),
        (IN, 0, 500, 1),
        (OUT, 0, 512, 1),
        (11, 0, 16, 1),
        (13, 0, 16, 1),
        (99, 0, 512, 2),
        (4, 0, 512, 0),
    ] {
        guest.ask(0, 1, kind, sector, &[(data, length)]);
        assert_eq!(guest.answers(0), [(1, status)], "{kind} {sector} {length}");
    }
    assert!(reads(&bench, &mut guest, 2));
    serving.end();
}

#[test]
fn a_guest_that_breaks_its_ring_and_a_client_that_talks_nonsense_end_their_own_sessions_only() {
    let bench = served();
    let serving = disk(&bench);
    let mut good = connect(&bench);
    let outside = 1 << 40;
    let chains: [(&str, &[Entry]); 8] = [
        ("no place for a status", &[(0, 16, 0, 0)]),
        ("no header", &[(0, 16, WRITABLE, 0)]),
        ("a loop", &[(0, 16, NEXT, 0)]),
        ("a header outside memory", &[(outside, 16, NEXT, 1), (0, 1, WRITABLE, 0)]),
        ("a buffer outside memory", &[(0, 16, NEXT, 1), (outside, 512, NEXT | WRITABLE, 2), (0, 1, WRITABLE, 0)]),
        ("a buffer around the end of addresses", &[(0, 16, NEXT, 1), (u64::MAX - 8, 512, WRITABLE, 0)]),
        ("a table outside memory", &[(outside, 32, INDIRECT, 0)]),
        ("a table of a table", &[(2048, 16, INDIRECT, 0)]),
    ];
    for (what, entries) in chains {
        let mut bad = connect(&bench);
        bad.table(2048, &[(2048, 16, INDIRECT, 0)]);
        bad.table(bad.entry(0, 0), entries);
        bad.offer(0, 0);
        assert!(bad.is_hung_up_on(), "{what}");
        assert!(reads(&bench, &mut good, 0), "{what}");
    }
    for (what, claim, head) in [("more than the ring has", RING + 1, 0), ("an entry behind the table", 0, RING)] {
        let mut bad = connect(&bench);
        if claim > 0 {
            bad.claim(0, claim);
        } else {
            bad.offer(0, head);
        }
        assert!(bad.is_hung_up_on(), "{what}");
    }
    // Memory that is not there.
    let bad = connect(&bench);
    let region = bad.memory.iter().next().unwrap();
    let mut region = VhostUserMemoryRegionInfo::from_guest_region(region).unwrap();
    region.memory_size += 1 << 30;
    let _ = bad.frontend.set_mem_table(&[region]);
    assert!(bad.is_hung_up_on());
    for nonsense in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xFF; 64], b"", &[1, 0, 0, 0, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF]]
    {
        let mut bad = UnixStream::connect(bench.path("a.sock")).unwrap();
        bad.write_all(nonsense).unwrap();
        bad.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = bad.read_to_end(&mut Vec::new());
    }
    assert!(reads(&bench, &mut good, 3));
    let said = serving.end();
    assert_eq!(said.matches("virtio protocol error of the guest").count(), 10, "{said}");
    assert!(said.contains("disconnected a client: vhost-user protocol error"), "{said}");
    assert!(!said.contains("panic"), "{said}");
}

#[test]
fn a_chunk_that_is_damaged_is_an_error_of_its_read_and_no_other() {
    let bench = served();
    let serving = disk(&bench);
    let mut guest = connect(&bench);
    assert!(reads(&bench, &mut guest, 0));
    for chunk in fs::read_dir(bench.path("store/main")).unwrap() {
        let path = chunk.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(&path, bytes).unwrap();
    }
    guest.read(0, 1, (64 << 20) / 512, 4096);
    assert_eq!(guest.answers(0), [(1, 1)]);
    // What is in memory already is still true.
    assert!(reads(&bench, &mut guest, 2));
    let said = serving.end();
    assert!(said.contains("a read failed: chunk"), "{said}");
}

/// Asks for 32 chunks that are not in memory.
fn ask_for_much(guest: &mut Guest) {
    for place in 0..32 {
        guest.read(0, place, u64::from(place) * 1024, 512 << 10);
    }
}

fn hears_all(bench: &Bench, guest: &mut Guest) {
    let image = fs::read(bench.path("one.img")).unwrap();
    let mut left = 32;
    while left > 0 {
        for (place, status) in guest.answers(0) {
            let from = usize::from(place) << 19;
            assert_eq!(status, 0);
            assert!(guest.bytes(0, place, 512 << 10) == image[from..from + (512 << 10)], "{place}");
            left -= 1;
        }
    }
}

#[test]
fn what_was_asked_is_answered_before_the_end_and_before_a_ring_is_given_back() {
    let bench = served();
    let serving = disk(&bench);
    let mut guest = connect(&bench);
    ask_for_much(&mut guest);
    let next = guest.frontend.get_vring_base(0).unwrap();
    let answers: Vec<_> = std::iter::from_fn(|| guest.next_answer(0)).collect();
    // What was not taken by then is not answered later either.
    assert_eq!(answers.len(), usize::try_from(next).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(guest.next_answer(0), None);
    let mut guest = connect(&bench);
    ask_for_much(&mut guest);
    let ended = std::thread::spawn(move || serving.end());
    hears_all(&bench, &mut guest);
    assert!(guest.is_hung_up_on());
    ended.join().unwrap();
    assert!(!bench.path("a.sock").exists());
}

/// Descriptors and threads of a process.
type Open = (usize, usize);

#[test]
fn clients_that_vanish_leave_nothing_behind() {
    let bench = served();
    let serving = disk(&bench);
    let count = |what: &str| fs::read_dir(format!("/proc/{}/{what}", serving.process.id())).unwrap().count();
    let seen = || (count("fd"), count("task"));
    // Those that are left once nothing more comes or goes: threads that ask the store end when they had nothing to do for 10 s.
    let at_rest = |is_rest: &dyn Fn(&[Open]) -> bool| {
        let mut all = vec![seen()];
        while !is_rest(&all) {
            assert!(all.len() < 300, "{all:?}");
            std::thread::sleep(Duration::from_millis(100));
            all.push(seen());
        }
        *all.last().unwrap()
    };
    drop(connect(&bench));
    let before = at_rest(&|all| matches!(all, [.., first, _, _, _, last] if first == last));
    for _ in 0..20 {
        ask_for_much(&mut connect(&bench));
    }
    let mut guest = connect(&bench);
    ask_for_much(&mut guest);
    hears_all(&bench, &mut guest);
    drop(guest);
    at_rest(&|all| all.last().is_some_and(|now| now.0 <= before.0 && now.1 <= before.1));
    serving.end();
}

#[test]
fn a_socket_of_an_image_that_is_not_served_is_refused() {
    let bench = served();
    let refused = |args: &[&str]| {
        let output = bench.coldread(&[&["serve", "--store", "store"], args].concat());
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let said = refused(&["one.cpm", "--vhost-user-blk", "third:a.sock"]);
    assert!(said.contains("no image is named `third`"), "{said}");
    let said = refused(&["one.cpm"]);
    assert!(said.contains("--vhost-user-blk"), "{said}");
    assert!(!bench.path("a.sock").exists());
}

/// `tests/it/uml_proxy.py`.
struct Proxy(Child);

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Proxy {
    fn start(bench: &Bench, from: &str, to: &str) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/uml_proxy.py");
        let mut command = Command::new("python3");
        command.arg(script).args([from, to]).current_dir(bench.dir.path()).stdout(Stdio::piped());
        let mut process = command.spawn().unwrap();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut String::new()).unwrap();
        Self(process)
    }
}

fn busybox() -> Vec<u8> {
    fs::read("/bin/busybox").expect("busybox (`make test-tools` installs it)")
}

/// What a kernel unpacks and runs first: it finds the disk, and goes on from there.
fn initial_ram_disk(bench: &Bench) -> PathBuf {
    let root = bench.path("initial");
    for directory in ["bin", "dev", "proc", "root"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let modules = fs::read_dir("/usr/lib/uml/modules").expect("user-mode-linux (`make test-tools` installs it)");
    let driver = modules
        .map(|entry| entry.unwrap().path().join("kernel/drivers/block/virtio_blk.ko"))
        .find(|path| path.exists());
    fs::copy(driver.expect("its virtio_blk"), root.join("virtio_blk.ko")).unwrap();
    fs::write(root.join("bin/busybox"), busybox()).unwrap();
    symlink("busybox", root.join("bin/sh")).unwrap();
    let script = "#!/bin/sh\nbusybox mount -t devtmpfs none /dev\nbusybox insmod /virtio_blk.ko\n\
        busybox mount -t ext4 -o ro /dev/vda /root && exec busybox switch_root /root /bin/first\nbusybox poweroff -f\n";
    fs::write(root.join("init"), script).unwrap();
    for program in ["bin/busybox", "init"] {
        fs::set_permissions(root.join(program), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let pack = "cd initial && find . | busybox cpio -o -H newc > ../initial.cpio";
    stdout(&run(bench, "sh", &["-c", pack]));
    bench.path("initial.cpio")
}

/// `tests/it/uml_ptrace.c`, for User-Mode Linux on today's processors.
fn ptrace_of_today(bench: &Bench) -> PathBuf {
    let (source, library) = (concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/uml_ptrace.c"), bench.path("ptrace.so"));
    stdout(&run(bench, "cc", &["-shared", "-fPIC", "-O1", "-o", library.to_str().unwrap(), source, "-ldl"]));
    library
}

#[test]
fn a_kernel_boots_with_the_image_as_its_root() {
    let bench = Bench::new();
    let first = "#!/bin/busybox sh\nbusybox mount -t proc none /proc\nbusybox mount -t devtmpfs none /dev\n\
        busybox cat /etc/motd\nbusybox grep ' / ext4' /proc/mounts\n\
        busybox sha256sum /dev/vda /data\nbusybox poweroff -f\n";
    let program = Meta::mode(0o755);
    let layer = ["bin", "dev", "proc", "etc"].into_iter().fold(Layer::new(), Layer::dir);
    let data = noise(3_000_000, 7);
    let layer = layer.file_with("bin/busybox", &busybox(), &program).file_with("bin/first", first.as_bytes(), &program);
    let image = Image::new([layer.file("etc/motd", b"hello from the image\n"), Layer::new().file("data", &data)]);
    let file = bench.block_image(&image, "one", &[]);
    let serving = disk(&bench);
    let _proxy = Proxy::start(&bench, "uml.sock", "a.sock");
    let initial = initial_ram_disk(&bench);
    let disk = format!("virtio_uml.device={}:2", bench.path("uml.sock").display());
    let initial = format!("initrd={}", initial.display());
    let mut kernel = Command::new("timeout");
    kernel.args(["--kill-after=5", "60", "linux.uml", "mem=128M", &initial, &disk, "con=null", "con0=fd:0,fd:1"]);
    // It keeps a directory of its own there.
    kernel.current_dir(bench.dir.path()).env("HOME", bench.dir.path()).env("LD_PRELOAD", ptrace_of_today(&bench));
    let output = kernel.stdin(Stdio::null()).output();
    let output = output.expect("timeout and linux.uml (`make test-tools` installs them)");
    let said = String::from_utf8_lossy(&output.stdout).replace('\r', "");
    let whole = Sha256::of(&fs::read(file).unwrap()).to_hex();
    for line in [
        "hello from the image".to_owned(),
        "/dev/vda / ext4 ro,relatime 0 0".to_owned(),
        format!("{whole}  /dev/vda"),
        format!("{}  /data", Sha256::of(&data).to_hex()),
    ] {
        assert!(said.lines().any(|said| said == line), "{line}\n{said}");
    }
    serving.end();
}

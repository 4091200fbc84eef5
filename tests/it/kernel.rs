//! `coldread mount`: the real kernel reads an image through FUSE and a loop device, and nothing is left behind.
//!
//! Every test has a run directory of its own, so that what it leaves can be told from what others use.
//! Whatever a test waits for has a deadline, and dropping a mount takes it down however far it came.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use coldpress::digest::to_hex;
use coldpress::keys::KeyFile;
use coldpress::manifest::BlockManifest;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal};
use serde_json::Value;

use crate::readers::{assert_same, everything, host_listing, sparse};
use crate::support::common::{Bench, Image, Layer, Meta, TEST_KEY, noise, stdout};

/// For what should take a moment, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long Ctrl-C may take.
const PROMPT: Duration = Duration::from_secs(2);

/// `coldread -v mount` of an image, until it is dropped.
pub struct Mount {
    pub child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
    pub point: PathBuf,
    /// Its run directory.
    run: PathBuf,
    forgotten: bool,
}

impl Mount {
    /// Mounts `app.cpm` of `bench`, and waits until it is there.
    fn new(bench: &Bench) -> Self {
        let mut mount = Self::start(bench);
        mount.wait_for("is mounted at");
        mount
    }

    fn start(bench: &Bench) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
        command.args(["-v", "mount", "app.cpm", "--store", "store", "mnt"]);
        command.current_dir(bench.dir.path()).env_remove("COLDPRESS_KEY").env_remove("COLDPRESS_STORE");
        Self::by(bench, &mut command)
    }

    /// By a command that mounts at `mnt` and runs in the directory of `bench`.
    pub fn by(bench: &Bench, command: &mut Command) -> Self {
        let (point, run) = (bench.path("mnt"), bench.path("run"));
        std::fs::create_dir_all(&point).unwrap();
        let mut child = command.env("COLDREAD_RUN_DIR", &run).stderr(Stdio::piped()).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || stderr.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        Self { child, lines, said: Vec::new(), point, run, forgotten: false }
    }

    /// Waits for a line that contains `text`.
    pub fn wait_for(&mut self, text: &str) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => self.said.push(line),
                Err(error) => panic!("no line with `{text}` ({error}), but {:#?}", self.said),
            }
            if let Some(line) = self.said.last().filter(|line| line.contains(text)) {
                return line.clone();
            }
        }
    }

    pub fn path(&self, below: &str) -> PathBuf {
        self.point.join(below)
    }

    pub fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn unmount(&self) {
        let output = Command::new("umount").arg(&self.point).output().unwrap();
        assert!(output.status.success(), "umount: {}", String::from_utf8_lossy(&output.stderr));
    }

    fn exit_status(&mut self, patience: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + patience;
        loop {
            match self.child.try_wait().unwrap() {
                Some(status) => return Some(status),
                None if Instant::now() > deadline => return None,
                None => std::thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Waits for the end, which must be a success that leaves nothing behind; how many chunks were fetched.
    pub fn ends_well(&mut self, patience: Duration) -> u64 {
        let status = self.exit_status(patience);
        assert!(status.is_some(), "still running: {:#?}", self.said);
        let fetched = self.wait_for("fetched");
        assert!(status.unwrap().success(), "{status:?}: {:#?}", self.said);
        self.leaves_nothing();
        let number = fetched.split_whitespace().find_map(|word| word.parse().ok());
        number.unwrap_or_else(|| panic!("{fetched}"))
    }

    /// Leaves everything as it is: what a process that was killed left is the test's to look at.
    pub fn forget(mut self) {
        self.forgotten = true;
    }

    fn leaves_nothing(&self) {
        assert_eq!(mounts_below(self.point.parent().unwrap()), Vec::<PathBuf>::new());
        assert_eq!(loop_devices(&self.run), Vec::<String>::new());
        assert_eq!(entries(&self.run), Vec::<PathBuf>::new(), "something is left in the run directory");
        assert_eq!(std::fs::read_dir(&self.point).unwrap().count(), 0);
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.forgotten {
            return;
        }
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            self.signal(Signal::INT);
            if self.exit_status(Duration::from_secs(5)).is_none() {
                let _ = self.child.kill();
                let _ = self.child.wait();
            }
        }
        // What is left when the program failed: the deepest first.
        for mount in mounts_below(self.point.parent().unwrap()).iter().rev() {
            let _ = Command::new("umount").arg("--lazy").arg(mount).status();
        }
        for device in loop_devices(&self.run) {
            let _ = Command::new("losetup").args(["--detach", &device]).status();
        }
    }
}

/// Where something is mounted below `directory`.
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    points.filter(|point| point.starts_with(directory)).collect()
}

/// The entries of a run directory: what is left of processes that were killed, or what runs.
pub fn entries(run: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(run) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

/// Loop devices of files below `directory`.
pub fn loop_devices(directory: &Path) -> Vec<String> {
    let output =
        Command::new("losetup").args(["--list", "--noheadings", "--raw", "--output", "NAME,BACK-FILE"]).output();
    let text = String::from_utf8(stdout(&output.expect("losetup (Debian's mount) is installed"))).unwrap();
    let devices = text.lines().filter_map(|line| line.split_once(' '));
    devices.filter(|(_, file)| Path::new(file).starts_with(directory)).map(|(device, _)| device.to_owned()).collect()
}

/// A bench with an image `app.cpm`, whose block image e2fsck found faultless.
fn converted(image: &Image) -> Bench {
    let bench = Bench::new();
    std::fs::remove_file(bench.block_image(image, "app", &[])).unwrap();
    bench
}

fn two_layers() -> Image {
    let lower = Layer::new().dir("etc").file("etc/hostname", b"made\n").symlink("etc/link", "hostname");
    Image::new([lower, Layer::new().file("large", &noise(3_000_000, 5))])
}

fn end_with(signal: Signal) {
    let bench = converted(&two_layers());
    let mut mount = Mount::new(&bench);
    assert_eq!(std::fs::read(mount.path("etc/link")).unwrap(), b"made\n");
    mount.signal(signal);
    mount.ends_well(PROMPT);
}

#[test]
fn the_kernel_reads_everything_through_a_mount() {
    let (image, expected) = everything();
    let bench = converted(&image);
    let mut mount = Mount::new(&bench);
    assert_same(&host_listing(&mount.point), &expected);
    let list = Command::new("ls").arg("-lR").arg(&mount.point).output().unwrap();
    assert!(list.stderr.is_empty(), "{}", String::from_utf8_lossy(&list.stderr));
    assert!(String::from_utf8_lossy(&stdout(&list)).contains("to a file -> ../files/700000"));
    mount.unmount();
    assert!(mount.ends_well(PATIENCE) > 10);
}

#[test]
fn umount_from_outside_ends_the_process() {
    let bench = converted(&two_layers());
    let mut mount = Mount::new(&bench);
    assert_eq!(std::fs::read(mount.path("large")).unwrap(), noise(3_000_000, 5));
    mount.unmount();
    mount.ends_well(PATIENCE);
    // The same directory can be used again.
    let mut mount = Mount::new(&bench);
    assert_eq!(std::fs::read(mount.path("etc/hostname")).unwrap(), b"made\n");
    mount.unmount();
    mount.ends_well(PATIENCE);
}

#[test]
fn an_interrupt_ends_the_mount_within_two_seconds() {
    end_with(Signal::INT);
}

#[test]
fn termination_ends_the_mount_within_two_seconds() {
    end_with(Signal::TERM);
}

#[test]
fn mounting_costs_exactly_one_chunk() {
    let bench = converted(&two_layers());
    let mut mount = Mount::new(&bench);
    mount.unmount();
    assert_eq!(mount.ends_well(PATIENCE), 1);
    assert!(mount.said.iter().any(|line| line.contains("fetched 1 of ")), "{:?}", mount.said);
}

#[test]
fn a_mount_is_read_only() {
    let bench = converted(&two_layers());
    let mut mount = Mount::new(&bench);
    let error = std::fs::write(mount.path("etc/hostname"), b"other").unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
    mount.unmount();
    mount.ends_well(PATIENCE);
}

fn mount_tool(args: &[&str], point: &Path) {
    let output = Command::new("mount").args(args).arg(point).output().unwrap();
    assert!(output.status.success(), "mount: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn without_root_a_mount_says_that_it_needs_it() {
    let bench = converted(&two_layers());
    let mode = |mode| std::os::unix::fs::PermissionsExt::from_mode(mode);
    std::fs::set_permissions(bench.dir.path(), mode(0o755)).unwrap();
    std::fs::create_dir(bench.path("mnt")).unwrap();
    let program = bench.path("coldread");
    std::fs::copy(env!("CARGO_BIN_EXE_coldread"), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=nobody", "--regid=nogroup", "--clear-groups"])
        .arg(&program)
        .args(["mount", "app.cpm", "mnt"])
        .current_dir(bench.dir.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("mounting needs root"), "{output:?}");
}

/// What someone else mounts over it is theirs: it is not unmounted.
#[test]
fn a_mount_over_it_is_left_alone() {
    let bench = converted(&two_layers());
    let mut mount = Mount::new(&bench);
    mount_tool(&["-t", "tmpfs", "tmpfs"], &mount.point);
    mount.signal(Signal::INT);
    mount.wait_for("another file system, or none, is mounted here now");
    mount.unmount();
    assert!(mount.path("large").exists(), "the image is there again, since only the other mount went");
    mount.signal(Signal::INT);
    mount.ends_well(PROMPT);
}

/// A bind mount keeps the image in use; it ends with its last user.
#[test]
fn an_image_in_use_elsewhere_ends_with_its_last_user() {
    let bench = converted(&two_layers());
    let mut mount = Mount::new(&bench);
    let other = bench.path("other");
    std::fs::create_dir(&other).unwrap();
    mount_tool(&["--bind", mount.point.to_str().unwrap()], &other);
    mount.unmount();
    mount.signal(Signal::INT);
    mount.wait_for("still in use elsewhere");
    assert_eq!(std::fs::read(other.join("large")).unwrap(), noise(3_000_000, 5));
    assert!(Command::new("umount").arg(&other).status().unwrap().success());
    mount.ends_well(PROMPT);
}

#[test]
fn a_busy_mount_is_reported_and_can_be_ended_afterwards() {
    let bench = converted(&two_layers());
    let mut mount = Mount::new(&bench);
    let mut open = File::open(mount.path("large")).unwrap();
    mount.signal(Signal::INT);
    mount.wait_for("still mounted");
    assert!(mount.said.last().unwrap().contains("press Ctrl-C again"), "{:?}", mount.said);
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, noise(3_000_000, 5));
    drop(open);
    mount.signal(Signal::INT);
    mount.ends_well(PROMPT);
}

#[test]
fn a_lost_store_is_an_input_error_that_passes() {
    let bench = converted(&two_layers());
    let mut mount = Mount::new(&bench);
    assert_eq!(std::fs::read(mount.path("etc/hostname")).unwrap(), b"made\n");
    std::fs::rename(bench.path("store"), bench.path("gone")).unwrap();
    assert_eq!(std::fs::read(mount.path("large")).unwrap_err().raw_os_error(), Some(5));
    mount.wait_for("a read failed");
    std::fs::rename(bench.path("gone"), bench.path("store")).unwrap();
    assert!(std::fs::read(mount.path("large")).unwrap() == noise(3_000_000, 5));
    mount.signal(Signal::INT);
    mount.ends_well(PROMPT);
}

#[test]
fn a_store_that_stays_lost_does_not_keep_the_mount_from_ending() {
    for from_outside in [true, false] {
        let bench = converted(&two_layers());
        let mut mount = Mount::new(&bench);
        std::fs::remove_dir_all(bench.path("store")).unwrap();
        assert_eq!(
            std::fs::read_dir(&mount.point)
                .and_then(|mut entries| entries.next().transpose())
                .unwrap_err()
                .raw_os_error(),
            Some(5)
        );
        if from_outside {
            mount.unmount();
        } else {
            mount.signal(Signal::INT);
        }
        mount.ends_well(PROMPT);
    }
}

#[test]
fn one_that_is_unmounted_before_the_reader_knows_that_it_is_mounted_ends() {
    let bench = converted(&two_layers());
    // The real losetup; before it lets the device go, somebody unmounts, and all is over before it ends.
    let script = "#!/bin/sh\n[ \"$1\" != --detach ] || umount mnt\n/sbin/losetup \"$@\" && sleep 0.5\n";
    std::fs::create_dir(bench.path("bin")).unwrap();
    std::fs::write(bench.path("bin/losetup"), script).unwrap();
    std::fs::set_permissions(bench.path("bin/losetup"), PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", bench.path("bin").display());
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["-v", "mount", "app.cpm", "--store", "store", "mnt"]).env("PATH", path);
    let mut mount = Mount::by(&bench, command.current_dir(bench.dir.path()).env_remove("COLDPRESS_KEY"));
    mount.ends_well(PROMPT);
}

#[test]
fn a_damaged_chunk_is_an_input_error_of_its_file_alone() {
    let beside = Layer::new().file("beside", &noise(600_000, 8));
    let bench = converted(&Image::new([two_layers().layers, vec![beside]].concat()));
    // The second layer's second chunk.
    let manifest = BlockManifest::decode(&std::fs::read(bench.path("app.cpm")).unwrap()).unwrap();
    let manifest = manifest.open(&KeyFile::decode(TEST_KEY).unwrap().wrapping_key).unwrap();
    let index = manifest.sealed.layers[1].first_chunk + 1;
    let chunk = manifest.sealed.chunks.iter().find(|chunk| chunk.index.0 == index).unwrap();
    let object = bench.path("store/main").join(chunk.name.to_hex());
    let mut bytes = std::fs::read(&object).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::remove_file(&object).unwrap();
    std::fs::write(&object, bytes).unwrap();

    let mut mount = Mount::new(&bench);
    assert_eq!(std::fs::read(mount.path("large")).unwrap_err().raw_os_error(), Some(5));
    mount.wait_for("a read failed");
    let mut file = File::open(mount.path("large")).unwrap();
    let mut part = vec![0; 100_000];
    file.seek(SeekFrom::Start(2_000_000)).unwrap();
    file.read_exact(&mut part).unwrap();
    assert!(part == noise(3_000_000, 5)[2_000_000..2_100_000]);
    assert!(std::fs::read(mount.path("beside")).unwrap() == noise(600_000, 8));
    drop(file);
    mount.signal(Signal::INT);
    mount.ends_well(PROMPT);
}

#[test]
fn a_mount_that_cannot_be_leaves_nothing_behind() {
    let bench = converted(&two_layers());
    let refused = |mount: &mut Mount, code: i32, text: &str| {
        let status = mount.exit_status(PATIENCE).expect("a mount that cannot be ends");
        mount.wait_for(text);
        assert_eq!(status.code(), Some(code), "{:?}", mount.said);
        mount.leaves_nothing();
    };

    let output = bench.coldread(&["mount", "app.cpm", "not there"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("not there: no such directory"), "{said}");
    let output = bench.coldread(&["mount", "app.cpm", "app.cpm"]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));

    // The first chunk is what the kernel must have.
    let manifest = BlockManifest::decode(&std::fs::read(bench.path("app.cpm")).unwrap()).unwrap();
    let manifest = manifest.open(&KeyFile::decode(TEST_KEY).unwrap().wrapping_key).unwrap();
    std::fs::remove_file(bench.path("store/main").join(manifest.sealed.chunks[0].name.to_hex())).unwrap();
    refused(&mut Mount::start(&bench), 4, "error: mount: ");
    // A store that is not there is waited for as long as is said.
    std::fs::remove_dir_all(bench.path("store")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coldread"));
    command.args(["mount", "app.cpm", "--store", "store", "mnt", "--on-origin-loss", "eio"]);
    let mut mount = Mount::by(&bench, command.current_dir(bench.dir.path()).env_remove("COLDPRESS_KEY"));
    mount.wait_for("store: no such directory; reads wait for it");
    refused(&mut mount, 4, "error: mount: ");
}

#[test]
fn two_mounts_of_one_image_do_not_disturb_each_other() {
    let benches = [converted(&two_layers()), converted(&two_layers())];
    let [mut one, mut other] = benches.each_ref().map(Mount::new);
    assert_eq!(std::fs::read(one.path("etc/hostname")).unwrap(), b"made\n");
    one.signal(Signal::INT);
    one.ends_well(PROMPT);
    assert!(std::fs::read(other.path("large")).unwrap() == noise(3_000_000, 5));
    other.unmount();
    other.ends_well(PATIENCE);
}

#[test]
fn many_readers_at_once_read_the_same_bytes() {
    let files: Vec<_> = (0..24).map(|seed| noise(700_000, seed)).collect();
    let layer =
        files.iter().enumerate().fold(Layer::new(), |layer, (n, bytes)| layer.file(&format!("file {n}"), bytes));
    let bench = converted(&Image::new([layer]));
    let mut mount = Mount::new(&bench);
    std::thread::scope(|scope| {
        for reader in 0..8 {
            let (files, point) = (&files, &mount.point);
            scope.spawn(move || {
                for n in (0..files.len()).map(|n| (n + 3 * reader) % files.len()) {
                    assert!(std::fs::read(point.join(format!("file {n}"))).unwrap() == files[n], "file {n}");
                }
            });
        }
    });
    mount.unmount();
    mount.ends_well(PATIENCE);
}

#[test]
fn an_image_of_127_layers_is_mounted() {
    let layer = |n: usize| {
        let layer = Layer::new()
            .file(&format!("layer/{n}"), format!("of layer {n}").as_bytes())
            .file("last", &noise(5000, n as u64));
        if n > 1 { layer.whiteout(&format!("layer/{}", n - 2)) } else { layer }
    };
    let bench = converted(&Image::new((0..127).map(layer)));
    let mut mount = Mount::new(&bench);
    let mut names: Vec<_> =
        std::fs::read_dir(mount.path("layer")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort_unstable();
    assert_eq!(names, ["125", "126"]);
    assert_eq!(std::fs::read(mount.path("layer/125")).unwrap(), b"of layer 125");
    assert_eq!(std::fs::read(mount.path("last")).unwrap(), noise(5000, 126));
    mount.unmount();
    mount.ends_well(PATIENCE);
}

#[test]
fn a_path_of_4096_bytes_is_read() {
    // Sixteen names of 255 bytes with a slash before each: the kernel takes no such path at once, but takes each step.
    let names: Vec<String> = (0..16).map(|level| char::from(b'a' + level).to_string().repeat(255)).collect();
    let path = names.join("/");
    assert_eq!(format!("/{path}").len(), 4096);
    let bench = converted(&Image::new([Layer::new().file(&path, b"at the bottom")]));
    assert_eq!(stdout(&bench.coldread(&["cat", "app.cpm", &format!("/{path}")])), b"at the bottom");
    let mut mount = Mount::new(&bench);
    let mut at = rustix::fs::open(&mount.point, OFlags::PATH, Mode::empty()).unwrap();
    let (last, directories) = names.split_last().unwrap();
    for name in directories {
        at = rustix::fs::openat(&at, name.as_str(), OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let mut file = File::from(rustix::fs::openat(&at, last.as_str(), OFlags::RDONLY, Mode::empty()).unwrap());
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes, b"at the bottom");
    drop((at, file));
    mount.unmount();
    mount.ends_well(PATIENCE);
}

#[test]
fn a_directory_of_300_subdirectories_counts_those_that_are_not_hidden() {
    let layer = (0..300).fold(Layer::new().dir("many"), |layer, n| layer.dir(&format!("many/{n}")));
    let bench = converted(&Image::new([layer, Layer::new().whiteout("many/7").file("many/8/file", b"below")]));
    let mut mount = Mount::new(&bench);
    assert_eq!(mount.path("many").metadata().unwrap().nlink(), 301);
    assert_eq!(std::fs::read_dir(mount.path("many")).unwrap().count(), 299);
    assert_eq!(std::fs::read(mount.path("many/8/file")).unwrap(), b"below");
    assert!(!mount.path("many/7").exists());
    mount.unmount();
    mount.ends_well(PATIENCE);
}

#[test]
fn a_sparse_file_of_a_tebibyte_is_read_where_it_has_data() {
    let size = 1 << 40;
    let runs = [(0, noise(5000, 1)), (size / 2, noise(5000, 2)), (size - 5000, noise(5000, 3))];
    let (layer, _) = sparse(Layer::new(), "huge", size, &runs);
    let bench = converted(&Image::new([layer]));
    let mut mount = Mount::new(&bench);
    let mut file = File::open(mount.path("huge")).unwrap();
    assert_eq!(file.metadata().unwrap().len(), size);
    let mut part = vec![0; 5000];
    for (offset, bytes) in &runs {
        file.seek(SeekFrom::Start(*offset)).unwrap();
        file.read_exact(&mut part).unwrap();
        assert_eq!(&part, bytes);
    }
    file.seek(SeekFrom::Start(size / 4)).unwrap();
    file.read_exact(&mut part).unwrap();
    assert_eq!(part, [0; 5000]);
    drop(file);
    mount.unmount();
    mount.ends_well(PATIENCE);
}

#[test]
fn an_acl_has_the_form_that_the_kernel_shows() {
    // Version 2, then tag, permissions and id of: owner, user 1000, group, mask, others.
    let entries = [(1, 6, u32::MAX), (2, 4, 1000), (4, 4, u32::MAX), (0x10, 4, u32::MAX), (0x20, 0, u32::MAX)];
    let entry = |&(tag, permissions, id): &(u16, u16, u32)| {
        [&tag.to_le_bytes()[..], &permissions.to_le_bytes(), &id.to_le_bytes()].concat()
    };
    let acl = [&2u32.to_le_bytes()[..], &entries.iter().flat_map(entry).collect::<Vec<_>>()].concat();
    let meta = Meta::mode(0o640).xattr("system.posix_acl_access", &acl);
    let bench = converted(&Image::new([Layer::new().file_with("file", b"", &meta).file("other", b"")]));
    let shown = |path: &str| -> Value {
        serde_json::from_slice(&stdout(&bench.coldread(&["stat", "app.cpm", path, "--json"]))).unwrap()
    };
    let (file, other) = (shown("/file"), shown("/other"));
    assert_eq!(file["xattrs"]["system.posix_acl_access"], format!("0x{}", to_hex(&acl)), "{file}");
    assert_eq!(other.get("xattrs"), None, "{other}");
    let mut mount = Mount::new(&bench);
    let listing = host_listing(&mount.point);
    assert_eq!(listing[&b"file"[..]].xattrs[&b"system.posix_acl_access"[..]], acl);
    mount.unmount();
    mount.ends_well(PATIENCE);
}

//! Other readers judge our ext4: mkext4's verifying reader, ext4-view, debugfs and the kernel; `coldread` must say the same.
//!
//! One made image holds every kind of content. Each reader's whole listing, with the SHA-256 of every file, must be what went
//! in, as far as the reader can tell. (The crate ext4_rs is no judge: it needs a nightly compiler, and divides by the
//! superblock's descriptor size, which is 0 without the `64bit` feature.)

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::Command;

use coldpress::digest::Sha256;
use coldpress::fs::path::Display;
use rustix::fs::FallocateFlags;
use serde_json::Value;

use crate::support::common::{Bench, Image, Layer, Meta, Mounted, Packing, e2fsck, noise, stdout};

const BLOCK: u64 = 4096;
const MIB: u64 = 1 << 20;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    File { size: u64, sha256: String },
    Directory,
    Symlink(Vec<u8>),
    CharDevice(u32, u32),
    BlockDevice(u32, u32),
    Fifo,
}

impl Kind {
    pub fn file(bytes: &[u8]) -> Self {
        Self::File { size: bytes.len() as u64, sha256: Sha256::of(bytes).to_string() }
    }
}

/// Everything that a path's inode says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanos: u32,
    pub links: u64,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// By path; the root's is empty, others begin without a slash.
pub type Listing = BTreeMap<Vec<u8>, Seen>;

/// Layers in the making, and what they must read as.
struct Made {
    layers: Vec<Layer>,
    listing: Listing,
}

impl Made {
    fn new() -> Self {
        Self { layers: vec![Layer::new()], listing: Listing::new() }
    }

    fn next_layer(&mut self) {
        self.layers.push(Layer::new());
    }

    /// Changes the tar of the present layer.
    fn tar(&mut self, change: impl FnOnce(Layer) -> Layer) {
        let layer = self.layers.last_mut().unwrap();
        *layer = change(std::mem::take(layer));
    }

    fn see(&mut self, path: &[u8], kind: Kind, meta: &Meta) {
        let attributes = meta.pax.iter().filter_map(|(key, value)| Some((key.strip_prefix("SCHILY.xattr.")?, value)));
        let xattrs = attributes.map(|(name, value)| (name.as_bytes().to_vec(), value.clone())).collect();
        let Meta { mode, uid, gid, mtime, .. } = *meta;
        let seen = Seen { kind, mode, uid, gid, seconds: mtime, nanos: 0, links: 1, xattrs };
        self.listing.insert(path.to_vec(), seen);
    }

    fn file(&mut self, path: impl AsRef<[u8]>, data: &[u8], meta: &Meta) {
        let path = path.as_ref();
        self.tar(|layer| layer.entry(b'0', path, b"", data, meta, (0, 0)));
        self.see(path, Kind::file(data), meta);
    }

    fn dir(&mut self, path: &str, meta: &Meta) {
        self.tar(|layer| layer.dir_with(path, meta));
        self.see(path.trim_matches(['.', '/']).as_bytes(), Kind::Directory, meta);
    }

    fn symlink(&mut self, path: &str, target: &[u8], meta: &Meta) {
        self.tar(|layer| layer.entry(b'2', path.as_bytes(), target, b"", meta, (0, 0)));
        self.see(path.as_bytes(), Kind::Symlink(target.to_vec()), meta);
    }

    fn device(&mut self, path: &str, flag: u8, (major, minor): (u32, u32)) {
        self.tar(|layer| layer.entry(flag, path.as_bytes(), b"", b"", &Meta::default(), (major, minor)));
        let kind = match flag {
            b'3' => Kind::CharDevice(major, minor),
            b'4' => Kind::BlockDevice(major, minor),
            _ => Kind::Fifo,
        };
        self.see(path.as_bytes(), kind, &Meta::default());
    }

    /// A file of `size` bytes that has data at `runs` alone, in PAX's sparse form 1.0.
    fn sparse(&mut self, path: &str, size: u64, runs: &[(u64, Vec<u8>)]) {
        let (layer, data) = sparse(std::mem::take(self.layers.last_mut().unwrap()), path, size, runs);
        *self.layers.last_mut().unwrap() = layer;
        self.see(path.as_bytes(), Kind::file(&data), &Meta::default());
    }

    /// A file whose time is `seconds` and `nanos` behind them.
    fn timed(&mut self, path: &str, seconds: i64, nanos: u32) {
        let (whole, fraction) = match (seconds < 0, nanos) {
            (true, 1..) => (format!("-{}", -(seconds + 1)), 1_000_000_000 - nanos),
            _ => (seconds.to_string(), nanos),
        };
        let text = format!("{whole}.{fraction:09}");
        let meta = Meta { mtime: seconds, pax: vec![("mtime".to_owned(), text.into_bytes())], ..Meta::default() };
        self.file(path, b"a time", &meta);
        self.listing.get_mut(path.as_bytes()).unwrap().nanos = nanos;
    }

    /// Further names of the file `paths[0]`.
    fn links(&mut self, paths: &[&str]) {
        for path in &paths[1..] {
            self.tar(|layer| layer.hardlink(path, paths[0]));
        }
        // A hard link's entry gives the file its own mode, as containerd applies it.
        self.listing.get_mut(paths[0].as_bytes()).unwrap().mode = Meta::default().mode;
        self.set_links(paths);
    }

    /// All of `paths` are the names of the file that one of them is.
    fn set_links(&mut self, paths: &[&str]) {
        let mut seen = paths.iter().find_map(|path| self.listing.get(path.as_bytes())).unwrap().clone();
        seen.links = paths.len() as u64;
        paths.iter().for_each(|path| drop(self.listing.insert(path.as_bytes().to_vec(), seen.clone())));
    }

    /// Hides what lower layers have at `path`.
    fn hide(&mut self, path: &str) {
        self.tar(|layer| layer.whiteout(path));
        self.forget(path);
        self.listing.remove(path.as_bytes());
    }

    /// Forgets what is below `path`.
    fn forget(&mut self, path: &str) {
        let below = format!("{path}/");
        self.listing.retain(|known, _| !known.starts_with(below.as_bytes()));
    }

    fn finish(mut self) -> (Image, Listing) {
        let mut below: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        for (path, _) in self.listing.iter().filter(|(path, seen)| seen.kind == Kind::Directory && !path.is_empty()) {
            *below.entry(parent(path).to_vec()).or_default() += 1;
        }
        for (path, seen) in self.listing.iter_mut().filter(|(_, seen)| seen.kind == Kind::Directory) {
            seen.links = 2 + below.get(path).copied().unwrap_or(0);
        }
        (Image::new(self.layers), self.listing)
    }
}

fn parent(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(b"", |slash| &path[..slash])
}

/// `layer` with a sparse file more, and that file's bytes where they are few enough to be made (else none).
pub fn sparse(layer: Layer, path: &str, size: u64, runs: &[(u64, Vec<u8>)]) -> (Layer, Vec<u8>) {
    let mut map = format!("{}\n", runs.len());
    runs.iter().for_each(|(offset, bytes)| map.push_str(&format!("{offset}\n{}\n", bytes.len())));
    let mut body = map.into_bytes();
    body.resize(body.len().next_multiple_of(512), 0);
    let few = size <= 64 * MIB;
    let mut data = vec![0; if few { usize::try_from(size).unwrap() } else { 0 }];
    for (offset, bytes) in runs {
        body.extend_from_slice(bytes);
        if few {
            let at = usize::try_from(*offset).unwrap();
            data[at..at + bytes.len()].copy_from_slice(bytes);
        }
    }
    let records = [("major", "1"), ("minor", "0"), ("name", path), ("realsize", &size.to_string())];
    let pax = records.map(|(key, value)| (format!("GNU.sparse.{key}"), value.as_bytes().to_vec())).to_vec();
    (layer.entry(b'0', b"GNUSparseFile.0/file", b"", &body, &Meta { pax, ..Meta::default() }, (0, 0)), data)
}

/// An image with every kind of content, in four layers, and what must be read from it.
pub fn everything() -> (Image, Listing) {
    let mut made = Made::new();
    made.dir("./", &Meta { mode: 0o711, uid: 3, gid: 4, mtime: 1_600_000_000, ..Meta::default() });
    contents(&mut made);
    directories(&mut made);
    names_and_links(&mut made);
    metadata(&mut made);
    to_be_hidden(&mut made);
    made.next_layer();
    hiding(&mut made);
    made.next_layer();
    growing(&mut made);
    made.next_layer();
    made.file("last/of all", b"the fourth layer", &Meta::default());
    made.see(b"last", Kind::Directory, &Meta { mode: 0o755, mtime: 0, ..Meta::default() });
    made.finish()
}

fn contents(made: &mut Made) {
    made.dir("files", &Meta::mode(0o755));
    let sizes = [0, 1, 4095, 4096, 4097, 8192, 524_287, 524_288, 524_289, 700_000, 1_048_576, 1_300_001];
    for (seed, size) in (1..).zip(sizes) {
        made.file(format!("files/{size}"), &noise(size, seed), &Meta::default());
    }
    made.file("files/zeros", &[0; 600_000], &Meta::default());

    made.dir("sparse", &Meta::mode(0o755));
    let blocks = |count: u64| (0..count).map(|i| (2 * i * BLOCK, noise(4096, i + 100))).collect::<Vec<_>>();
    // An inode holds 4 extents, a block 340, and the inode's four indexes 1,360.
    for count in [4, 5, 340, 341, 1360, 1361, 1500] {
        made.sparse(&format!("sparse/{count} runs"), 2 * count * BLOCK, &blocks(count));
    }
    let unaligned = [(100, noise(200, 1)), (5000, noise(3192, 2)), (8192, noise(1, 3)), (50_000, noise(9000, 4))];
    made.sparse("sparse/unaligned", 70_001, &unaligned);
    let sharing = [(20_490, noise(20, 6)), (20_600, noise(5_000, 7)), (25_700, noise(1, 8)), (28_672, noise(10, 9))];
    made.sparse("sparse/runs that share blocks", 40_000, &sharing);
    made.sparse("sparse/starts and ends with holes", 3 * MIB + 1, &[(MIB, noise(600_000, 5))]);
    made.sparse("sparse/nothing but a hole", 10 * MIB, &[]);
}

fn directories(made: &mut Made) {
    // 253 entries of names of 8 bytes fill one block, "." and ".." with them.
    for count in [0, 1, 2, 100, 253, 254, 6000] {
        let directory = format!("directories/{count}");
        made.dir(&directory, &Meta::mode(0o755));
        for entry in 0..count {
            made.file(format!("{directory}/{entry:08}"), b"", &Meta::default());
        }
    }
    // What the directory hash must get right: every length of a name, every byte in it.
    made.dir("directories/hashed", &Meta::mode(0o755));
    for seed in 0..1500 {
        let mut name = noise(1 + seed % 255, seed as u64 + 1);
        // Every other one of ASCII alone.
        name.iter_mut().filter(|_| seed % 2 == 0).for_each(|byte| *byte &= 0x7F);
        name.iter_mut().filter(|byte| matches!(**byte, 0 | b'/')).for_each(|byte| *byte = b'x');
        name.splice(..name.len().min(4), format!("{seed:04}").into_bytes());
        made.file([b"directories/hashed/", &name[..]].concat(), &name, &Meta::default());
    }
    // The hash of this name is what the kernel keeps for the end of a directory, so it gives way; found by trying 4 billion.
    // It stands in a leaf of its own: 340 entries of 12 bytes fill each of those before it.
    made.dir("directories/last hash", &Meta::mode(0o755));
    for entry in 0..680 {
        made.file(format!("directories/last hash/{entry:04}"), b"", &Meta::default());
    }
    made.file("directories/last hash/000101ee3b75", b"", &Meta::default());
    made.dir("directories/long names", &Meta::mode(0o755));
    for entry in 0..300 {
        made.file(format!("directories/long names/{entry:0255}"), b"", &Meta::default());
    }
    made.see(b"directories", Kind::Directory, &Meta { mode: 0o755, mtime: 0, ..Meta::default() });
    let deep = (0..40).map(|level| level.to_string()).collect::<Vec<_>>();
    for depth in 1..=deep.len() {
        made.dir(&deep[..depth].join("/"), &Meta::mode(0o750));
    }
    made.file(format!("{}/bottom", deep.join("/")), b"deep down", &Meta::default());
}

fn names_and_links(made: &mut Made) {
    made.dir("names", &Meta::mode(0o755));
    let names: [&[u8]; 8] = [
        &[b'n'; 255],
        b"with space",
        "\u{fc}ml\u{e4}ut".as_bytes(),
        b"caf\xe9",
        b"line\nbreak",
        b"back\\slash",
        b"...",
        b"\x01\xff",
    ];
    for name in names {
        made.file([b"names/", name].concat(), name, &Meta::default());
    }
    made.dir("symlinks", &Meta::mode(0o755));
    for length in [1, 58, 59, 60, 61, 255, 4094, 4095] {
        let target: Vec<u8> = b"../files/".iter().copied().cycle().take(length).collect();
        made.symlink(&format!("symlinks/{length}"), &target, &Meta::mode(0o777));
    }
    made.symlink("symlinks/to a file", b"../files/700000", &Meta::mode(0o777));
    made.dir("links", &Meta::mode(0o755));
    made.file("links/first", &noise(5000, 9), &Meta::mode(0o600));
    made.links(&["links/first", "links/second", "files/third"]);
    made.dir("special", &Meta::mode(0o755));
    for (name, numbers) in [("small", (1, 3)), ("old", (255, 255)), ("new", (256, 0)), ("largest", (4095, 1_048_575))] {
        made.device(&format!("special/char {name}"), b'3', numbers);
        made.device(&format!("special/block {name}"), b'4', numbers);
    }
    made.device("special/pipe", b'6', (0, 0));
}

fn metadata(made: &mut Made) {
    made.dir("xattrs", &Meta::mode(0o755).xattr("user.on", b"a directory").xattr("trusted.t", &[b't'; 500]));
    let long = format!("user.{}", "n".repeat(200));
    let cases: [(&str, &[(&str, usize)]); 7] = [
        ("in the inode", &[("user.a", 3)]),
        ("empty", &[("user.empty", 0)]),
        ("several", &[("user.b", 5), ("trusted.a", 4), ("security.note", 3), ("user.aa", 2)]),
        ("in a block", &[("user.large", 3000)]),
        ("a long name", &[(&long, 10)]),
        ("split", &[("user.n0", 60), ("user.n1", 60), ("user.n2", 3800)]),
        ("as full as can be", &[("user.i", 68), ("user.full", 4040)]),
    ];
    for (seed, (name, attributes)) in (40..).zip(cases) {
        let add = |meta: Meta, &(key, length): &(&str, usize)| meta.xattr(key, &noise(length, seed));
        let meta = attributes.iter().fold(Meta::default(), add);
        made.file(format!("xattrs/{name}"), b"with attributes", &meta);
    }
    made.symlink("xattrs/symlink", b"several", &Meta::mode(0o777).xattr("trusted.on", b"a symlink"));
    made.symlink("xattrs/slow symlink", &[b's'; 100], &Meta::mode(0o777).xattr("trusted.on", &[b'x'; 300]));

    made.dir("modes", &Meta::mode(0o1777));
    for mode in [0, 0o4755, 0o2711, 0o6777, 0o1644] {
        made.file(format!("modes/{mode:o}"), b"", &Meta::mode(mode));
    }
    made.dir("owners", &Meta::mode(0o755));
    for id in [1, 65_535, 65_536, 2_097_152, u32::MAX - 1] {
        made.file(format!("owners/{id}"), b"", &Meta { uid: id, gid: id - 1, ..Meta::default() });
    }
    made.dir("times", &Meta::mode(0o755));
    // Without 2310 to 2378: e2fsck takes such times for mistakes of old kernels.
    let around = [-1, 0, 1].map(|near| [1_i64 << 31, 1 << 32, 3 << 31, 1 << 33].map(|time| time + near));
    let seconds = [-(1 << 31), -(1 << 31) + 1, -1, 0, 1, 3 << 32, 15_032_385_535];
    for seconds in around.into_iter().flatten().chain(seconds) {
        made.timed(&format!("times/{seconds}"), seconds, 0);
        made.timed(&format!("times/{seconds} and a bit"), seconds, 999_999_999);
    }
}

fn to_be_hidden(made: &mut Made) {
    for directory in ["hidden", "hidden/large", "opaque", "opaque/below"] {
        made.dir(directory, &Meta::mode(0o755));
    }
    for entry in 0..400 {
        made.file(format!("hidden/large/{entry:08}"), b"never to be seen", &Meta::default());
    }
    let runs: Vec<_> = (0..400).map(|i| (2 * i * BLOCK, noise(4096, i))).collect();
    made.sparse("hidden/sparse", 800 * BLOCK, &runs);
    made.file("hidden/xattr", b"", &Meta::default().xattr("user.x", &[1; 2000]));
    made.file("hidden/file", &noise(900_000, 70), &Meta::default());
    made.file("hidden/kept", &noise(900_000, 71), &Meta::default());
    made.file("opaque/below/file", b"hidden, too", &Meta::default());
    made.file("replaced by a directory", &noise(10_000, 72), &Meta::default());
    made.file("replaced by a file", &noise(10_000, 73), &Meta::default());
    for directory in ["grown", "grown far"] {
        made.dir(directory, &Meta::mode(0o755));
        for entry in 0..200 {
            made.file(format!("{directory}/{entry:08}"), b"", &Meta::default());
        }
    }
}

fn hiding(made: &mut Made) {
    for path in ["hidden/large", "hidden/sparse", "hidden/xattr", "hidden/file", "files/third", "files/8192"] {
        made.hide(path);
    }
    made.set_links(&["links/first", "links/second"]);
    made.tar(|layer| layer.opaque("opaque"));
    made.forget("opaque");
    made.file("opaque/new", b"seen", &Meta::default());
    made.dir("replaced by a directory", &Meta::mode(0o700));
    made.file("replaced by a directory/file", b"inside", &Meta::default());
    made.file("replaced by a file", b"other bytes", &Meta::mode(0o400));
}

/// Entries for directories that lower layers made: their blocks stand in two places.
fn growing(made: &mut Made) {
    for (directory, count) in [("grown", 100), ("grown far", 5000)] {
        for entry in 0..count {
            made.file(format!("{directory}/later {entry:08}"), b"", &Meta::default());
        }
    }
    made.tar(|layer| layer.hardlink("grown/link into a lower layer", "files/700000"));
    made.set_links(&["files/700000", "grown/link into a lower layer"]);
}

/// Fails with the first difference, not with two listings of thousands of lines.
pub fn assert_same(seen: &Listing, expected: &Listing) {
    for (path, want) in expected {
        assert_eq!(seen.get(path), Some(want), "{}", Display(path));
    }
    let more: Vec<_> =
        seen.keys().filter(|path| !expected.contains_key(*path)).map(|path| Display(path).to_string()).collect();
    assert!(more.is_empty(), "paths that nobody made: {more:?}");
}

/// `expected` without what a reader cannot tell.
fn but(expected: &Listing, forget: impl Fn(&mut Seen)) -> Listing {
    let mut listing = expected.clone();
    listing.values_mut().for_each(forget);
    listing
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

/// What the kernel shows below `root`.
pub fn host_listing(root: &Path) -> Listing {
    let (mut listing, mut todo) = (Listing::new(), vec![Vec::new()]);
    while let Some(path) = todo.pop() {
        let full = root.join(OsStr::from_bytes(&path));
        let metadata = full.symlink_metadata().unwrap();
        let (file_type, device) = (metadata.file_type(), metadata.rdev());
        let numbers = (rustix::fs::major(device), rustix::fs::minor(device));
        let kind = if file_type.is_dir() {
            todo.extend(
                std::fs::read_dir(&full).unwrap().map(|entry| join(&path, entry.unwrap().file_name().as_bytes())),
            );
            Kind::Directory
        } else if file_type.is_symlink() {
            Kind::Symlink(std::fs::read_link(&full).unwrap().into_os_string().into_vec())
        } else if file_type.is_char_device() {
            Kind::CharDevice(numbers.0, numbers.1)
        } else if file_type.is_block_device() {
            Kind::BlockDevice(numbers.0, numbers.1)
        } else if file_type.is_fifo() {
            Kind::Fifo
        } else {
            Kind::file(&std::fs::read(&full).unwrap())
        };
        let seen = Seen {
            kind,
            mode: metadata.mode() & 0o7777,
            uid: metadata.uid(),
            gid: metadata.gid(),
            seconds: metadata.mtime(),
            nanos: u32::try_from(metadata.mtime_nsec()).unwrap(),
            links: metadata.nlink(),
            xattrs: host_xattrs(&full),
        };
        listing.insert(path, seen);
    }
    listing
}

fn host_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65_536];
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(length);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// A block image in which mkext4 has verified every structure.
fn mkext4(image: &Path) -> mkext4::reader::Fs<File> {
    let fs = mkext4::reader::Fs::open(File::open(image).unwrap()).unwrap();
    assert_eq!(fs.verify().unwrap(), []);
    fs
}

/// What mkext4's reader shows, after it has verified every structure.
fn mkext4_listing(image: &Path) -> Listing {
    use mkext4::spec::inode::{FileType, Inode};
    let fs = mkext4(image);
    let (mut listing, mut todo) = (Listing::new(), vec![(Vec::new(), 2)]);
    while let Some((path, ino)) = todo.pop() {
        let inode = fs.inode(ino).unwrap();
        let numbers = inode.dev_numbers().unwrap_or_default();
        let kind = match inode.file_type() {
            FileType::Dir => {
                let entries =
                    fs.read_dir(ino).unwrap().into_iter().filter(|entry| entry.name != b"." && entry.name != b"..");
                todo.extend(entries.map(|entry| (join(&path, &entry.name), entry.inode)));
                Kind::Directory
            }
            FileType::Regular => Kind::file(&fs.read_file(ino).unwrap()),
            FileType::Symlink => Kind::Symlink(fs.symlink_target(ino).unwrap()),
            FileType::CharDev => Kind::CharDevice(numbers.0, numbers.1),
            FileType::BlockDev => Kind::BlockDevice(numbers.0, numbers.1),
            FileType::Fifo => Kind::Fifo,
            other => panic!("{other:?}"),
        };
        let (seconds, nanos) = Inode::timestamp(inode.mtime, inode.mtime_extra);
        let seen = Seen {
            kind,
            mode: u32::from(inode.mode & 0o7777),
            uid: inode.uid,
            gid: inode.gid,
            seconds,
            nanos,
            links: inode.links_count.into(),
            xattrs: fs
                .xattrs(ino)
                .unwrap()
                .into_iter()
                .map(|entry| (entry.full_name().unwrap(), entry.value))
                .collect(),
        };
        listing.insert(path, seen);
    }
    listing
}

/// A block image, as ext4-view reads it.
struct Device(File);

impl ext4_view::Ext4Read for Device {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.read_exact_at(into, start)?)
    }
}

fn ext4_view(image: &Path) -> ext4_view::Ext4 {
    ext4_view::Ext4::load(Box::new(Device(File::open(image).unwrap()))).unwrap()
}

/// What ext4-view shows of the paths that `wanted` takes; it tells no links, device numbers or xattrs.
fn ext4_view_listing(image: &Path, wanted: impl Fn(&[u8]) -> bool) -> Listing {
    use ext4_view::FileType;
    let fs = ext4_view(image);
    let (mut listing, mut todo) = (Listing::new(), vec![Vec::new()]);
    while let Some(path) = todo.pop() {
        let full = ext4_view::PathBuf::new(&[b"/", &path[..]].concat());
        let metadata = fs.symlink_metadata(&full).unwrap();
        let kind = match metadata.file_type() {
            FileType::Directory => {
                let names = fs.read_dir(&full).unwrap().map(Result::unwrap).collect::<Vec<_>>();
                let names = names.iter().map(ext4_view::DirEntry::file_name);
                let names = names.filter(|name| *name != "." && *name != "..");
                todo.extend(names.map(|name| join(&path, name.as_ref())).filter(|path| wanted(path)));
                Kind::Directory
            }
            FileType::Regular => Kind::file(&fs.read(&full).unwrap()),
            FileType::Symlink => Kind::Symlink(fs.read_link(&full).unwrap().as_ref().to_vec()),
            FileType::CharacterDevice => Kind::CharDevice(0, 0),
            FileType::BlockDevice => Kind::BlockDevice(0, 0),
            FileType::Fifo => Kind::Fifo,
            other => panic!("{other:?}"),
        };
        let seen = Seen {
            kind,
            mode: metadata.mode().into(),
            uid: metadata.uid(),
            gid: metadata.gid(),
            seconds: metadata.modified().seconds(),
            nanos: metadata.modified().nanoseconds(),
            links: 0,
            xattrs: BTreeMap::new(),
        };
        listing.insert(path, seen);
    }
    listing
}

/// What debugfs answers.
fn debugfs(image: &Path, request: &str) -> String {
    let output = Command::new("debugfs")
        .args(["-R", request])
        .arg(image)
        .output()
        .expect("debugfs (Debian's e2fsprogs) is installed");
    let complaint = String::from_utf8_lossy(&output.stderr).lines().skip(1).collect::<String>();
    assert!(output.status.success() && complaint.is_empty(), "debugfs {request}: {complaint}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A number of `dumpe2fs -h`.
fn superblock_number(image: &Path, label: &str) -> u64 {
    let output =
        Command::new("dumpe2fs").arg("-h").arg(image).output().expect("dumpe2fs (Debian's e2fsprogs) is installed");
    let text = String::from_utf8(stdout(&output)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(label)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {label} in {text}")).trim().parse().unwrap()
}

/// docs/reference/formats/ext4-layout.md, "What is constant", says what dumpe2fs shows.
#[test]
fn the_seeds_are_those_of_the_document() {
    let bench = Bench::new();
    let image = bench.block_image(&small_image(), "app", &[]);
    let output = Command::new("dumpe2fs").arg("-h").arg(&image).output().unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    let document = include_str!("../../docs/reference/formats/ext4-layout.md");
    for field in ["Checksum seed", "Directory Hash Seed", "Default directory hash"] {
        let line = shown.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let value = line.trim_start_matches(':').trim();
        assert!(document.contains(&format!("`{field}: {value}`")), "{field}: {value}");
    }
}

#[test]
fn mkext4_verifies_and_reads_everything() {
    let (image, expected) = everything();
    let device = Bench::new();
    assert_same(&mkext4_listing(&device.block_image(&image, "app", &[])), &expected);
}

#[test]
fn ext4_view_reads_all_but_some_times_and_names() {
    let (image, all) = everything();
    let bench = Bench::new();
    // It refuses inodes with a time whose lower 32 bits are negative: before 1970, from 2038 to 2106, and so on. In hashed
    // directories it looks for names with signed bytes, whatever the superblock says of the hash.
    let refused = |path: &[u8], seen: &Seen| {
        seen.seconds.rem_euclid(1 << 32) >= 1 << 31 || path.starts_with(b"directories/hashed/") && !path.is_ascii()
    };
    let expected: Listing = all.clone().into_iter().filter(|(path, seen)| !refused(path, seen)).collect();
    assert!(expected.contains_key(&b"times/4294967296"[..]));
    let told = but(&expected, |seen| {
        (seen.links, seen.xattrs) = (0, BTreeMap::new());
        if let Kind::CharDevice(major, minor) | Kind::BlockDevice(major, minor) = &mut seen.kind {
            (*major, *minor) = (0, 0);
        }
    });
    let image = bench.block_image(&image, "app", &[]);
    let listing = ext4_view_listing(&image, |path| expected.contains_key(path) || !all.contains_key(path));
    assert_same(&listing, &told);
}

#[test]
fn the_kernel_reads_everything_in_an_exported_image() {
    let (image, expected) = everything();
    let bench = Bench::new();
    let mounted = Mounted::new(&bench.block_image(&image, "app", &[]));
    assert_same(&host_listing(mounted.path()), &expected);
}

#[test]
fn debugfs_shows_times_attributes_extents_and_hashed_directories() {
    let (image, _) = everything();
    let bench = Bench::new();
    let image = bench.block_image(&image, "app", &[]);
    let ask = |request: &str| debugfs(&image, request);

    let stat = ask("stat \"/times/15032385535 and a bit\"");
    assert!(stat.contains("Mode:  0644   Flags: 0x80000") && stat.contains("Size: 6"), "{stat}");
    assert!(stat.contains("-- Thu May 10 22:38:55 2446") && stat.contains("mtime: 0x7fffffff:ee6b27ff"), "{stat}");
    assert!(ask("stat \"/special/block largest\"").contains("Device major/minor number: 4095:1048575"));
    assert!(ask("stat /symlinks/59").contains("Fast link dest: \"../files/../files/"));
    assert!(ask("stat /links/first").contains("Links: 2"));

    let attributes = ask("ea_list /xattrs/split");
    let sizes: Vec<_> =
        attributes.lines().filter_map(|line| line.trim().split_once(')')).map(|(size, _)| size).collect();
    assert_eq!(sizes.len(), 3, "{attributes}");
    for wanted in ["user.n0 (60", "user.n1 (60", "user.n2 (3800"] {
        assert!(sizes.contains(&wanted), "{attributes}");
    }

    for (runs, levels) in [(4, "0/ 0"), (5, "0/ 1"), (1360, "0/ 1"), (1361, "0/ 2"), (1500, "0/ 2")] {
        let extents = ask(&format!("ex \"/sparse/{runs} runs\""));
        assert!(extents.lines().skip(1).all(|line| line.trim_start().split('/').nth(1).is_some()), "{extents}");
        assert!(extents.contains(levels), "{runs}: {extents}");
    }

    for (entries, hashed) in [(253, false), (254, true), (6000, true)] {
        let flags = ask(&format!("stat /directories/{entries}"));
        assert_eq!(flags.contains("Flags: 0x81000"), hashed, "{flags}");
        if hashed {
            let tree = ask(&format!("htree_dump /directories/{entries}"));
            assert!(tree.contains("Hash Version: 1") && tree.contains("Indirect levels: 0"), "{tree}");
            let last = format!("{:08}", entries - 1);
            assert!(tree.contains(&last) && !tree.to_lowercase().contains("error"), "{tree}");
        }
    }
}

/// `ls -R --json`, with the bytes of all files by one `cat`.
fn coldread_listing(bench: &Bench) -> Listing {
    let lines = String::from_utf8(stdout(&bench.coldread(&["ls", "-R", "--json", "app.cpm"]))).unwrap();
    let root = String::from_utf8(stdout(&bench.coldread(&["stat", "--json", "app.cpm", "/"]))).unwrap();
    lines.lines().chain(root.lines()).map(|line| coldread_entry(&serde_json::from_str(line).unwrap())).collect()
}

fn coldread_entry(entry: &Value) -> (Vec<u8>, Seen) {
    let text = |key: &str| entry[key].as_str().unwrap();
    let number = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let device = || (number(&entry["device"][0]), number(&entry["device"][1]));
    let kind = match text("type") {
        "file" => Kind::File { size: entry["size"].as_u64().unwrap(), sha256: String::new() },
        "directory" => Kind::Directory,
        "symlink" => Kind::Symlink(text("target").as_bytes().to_vec()),
        "character device" => Kind::CharDevice(device().0, device().1),
        "block device" => Kind::BlockDevice(device().0, device().1),
        "pipe" => Kind::Fifo,
        other => panic!("{other}"),
    };
    let none = serde_json::Map::new();
    let xattrs = entry["xattrs"].as_object().unwrap_or(&none).iter();
    let seen = Seen {
        kind,
        mode: u32::from_str_radix(text("mode"), 8).unwrap(),
        uid: number(&entry["uid"]),
        gid: number(&entry["gid"]),
        seconds: entry["mtime_seconds"].as_i64().unwrap(),
        nanos: number(&entry["mtime_nanoseconds"]),
        links: entry["links"].as_u64().unwrap(),
        xattrs: xattrs
            .map(|(name, value)| (name.clone().into_bytes(), value.as_str().unwrap().as_bytes().to_vec()))
            .collect(),
    };
    (text("path").trim_start_matches('/').as_bytes().to_vec(), seen)
}

#[test]
fn coldread_lists_everything() {
    let (image, expected) = everything();
    let bench = Bench::new();
    bench.convert(&image, "app", &[]);
    // Paths and targets are shown escaped, values in hexadecimal.
    let shown = |bytes: &[u8]| Display(bytes).to_string().into_bytes();
    let mut told = but(&expected, |seen| {
        match &mut seen.kind {
            Kind::File { sha256, .. } => sha256.clear(),
            Kind::Symlink(target) => *target = shown(target),
            _ => {}
        }
        seen.xattrs
            .values_mut()
            .for_each(|value| *value = format!("0x{}", coldpress::digest::to_hex(value)).into_bytes());
    });
    told = told.into_iter().map(|(path, seen)| (shown(&path), seen)).collect();
    assert_same(&coldread_listing(&bench), &told);

    // The long listing has a line for each entry, and a title and an empty line for each directory.
    let text = String::from_utf8(stdout(&bench.coldread(&["ls", "-lR", "app.cpm"]))).unwrap();
    let directories = expected.values().filter(|seen| seen.kind == Kind::Directory).count();
    assert_eq!(text.lines().count(), expected.len() - 1 + 2 * directories);
    for line in [
        "-rwsr-xr-x   1     0     0           0 2023-11-14 22:13:20 4755",
        "brw-r--r--   1     0     0 4095, 1048575 2023-11-14 22:13:20 block largest",
        "-rw-r--r--   1     0     0           6 1901-12-13 20:45:52 -2147483648",
        "lrwxrwxrwx   1     0     0          15 2023-11-14 22:13:20 to a file -> ../files/700000",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line}");
    }
    let stat = String::from_utf8(stdout(&bench.coldread(&["stat", "app.cpm", "/links/second"]))).unwrap();
    assert!(
        stat.contains("mode    0644 (-rw-r--r--)")
            && stat.contains("2 links")
            && stat.contains("5000 bytes, 8192 allocated"),
        "{stat}"
    );
}

#[test]
fn coldread_cat_writes_every_byte() {
    let (image, expected) = everything();
    let bench = Bench::new();
    bench.convert(&image, "app", &[]);
    // An argument of a program can hold any byte but NUL, but `Bench` takes text.
    let files = expected.iter().filter_map(|(path, seen)| match &seen.kind {
        Kind::File { size, sha256 } if *size > 0 => Some((std::str::from_utf8(path).ok()?, *size, sha256)),
        _ => None,
    });
    let files: Vec<_> = files.collect();
    assert!(files.len() > 60, "{}", files.len());
    let args: Vec<&str> = ["cat", "app.cpm"].into_iter().chain(files.iter().map(|(path, ..)| *path)).collect();
    let written = stdout(&bench.coldread(&args));
    let mut rest = &written[..];
    for (path, size, sha256) in files {
        let (bytes, behind) = rest.split_at(usize::try_from(size).unwrap());
        assert_eq!(&Sha256::of(bytes).to_string(), sha256, "{path}");
        rest = behind;
    }
    assert!(rest.is_empty());
    assert_eq!(stdout(&bench.coldread(&["cat", "app.cpm", "/symlinks/to a file"])), noise(700_000, 10));
}

#[test]
fn coldread_cp_copies_everything_but_devices_and_pipes() {
    let (image, expected) = everything();
    let bench = Bench::new();
    bench.convert(&image, "app", &[]);
    // Each into a directory that is there; without the large directories, which take the host its time.
    let large = |path: &[u8]| path.starts_with(b"directories") || path.starts_with(b"grown far");
    let expected: Listing = expected.into_iter().filter(|(path, _)| !large(path)).collect();
    std::fs::create_dir(bench.path("copy")).unwrap();
    let mut left_out = String::new();
    for path in expected.keys().filter(|path| !path.is_empty() && !path.contains(&b'/')) {
        let output = bench.coldread(&["cp", "-r", "app.cpm", std::str::from_utf8(path).unwrap(), "copy"]);
        stdout(&output);
        left_out.push_str(&String::from_utf8(output.stderr).unwrap());
    }
    let lines = left_out.lines().filter(|line| line.contains("skipped, because") && line.contains("special/"));
    assert_eq!(lines.count(), 9, "{left_out}");

    // Owners, set-id bits, links and xattrs are not copied, and a symlink's time is that of the copy.
    let forget = |seen: &mut Seen| {
        (seen.uid, seen.gid, seen.links, seen.xattrs, seen.mode) = (0, 0, 1, BTreeMap::new(), seen.mode & 0o1777);
        match (&seen.kind, seen.seconds) {
            (Kind::Symlink(_), _) => (seen.seconds, seen.nanos) = (0, 0),
            // The kernel rounds at the ends of what the host's file system stores.
            (_, -2_147_483_648 | 15_032_385_535) => seen.nanos = 0,
            _ => {}
        }
    };
    let mut told = but(&expected, forget);
    told.retain(|_, seen| !matches!(seen.kind, Kind::CharDevice(..) | Kind::BlockDevice(..) | Kind::Fifo));
    let mut copied = but(&host_listing(&bench.path("copy")), forget);
    // The directory that was there is not the image's root.
    assert!(told.remove(&b""[..]).is_some() && copied.remove(&b""[..]).is_some());
    assert_same(&copied, &told);
    // The whole image under a new name; an existing one is not touched.
    let small = bench.convert(&small_image(), "small", &[]);
    assert_eq!(small["layers"], 2);
    stdout(&bench.coldread(&["cp", "-r", "small.cpm", "/", "whole"]));
    assert_eq!(std::fs::read(bench.path("whole/data")).unwrap(), noise(1_000_000, 1));
    let again = bench.coldread(&["cp", "small.cpm", "/etc/hostname", "whole/data"]);
    assert_eq!(again.status.code(), Some(1), "{}", String::from_utf8_lossy(&again.stderr));
    assert_eq!(std::fs::read(bench.path("whole/data")).unwrap(), noise(1_000_000, 1));
    let holes = bench.path("copy/sparse/nothing but a hole").metadata().unwrap();
    assert_eq!((holes.len(), holes.blocks()), (10 * MIB, 0));
}

#[test]
fn a_directory_of_a_hundred_thousand_entries_has_an_htree_of_two_levels() {
    const ENTRIES: usize = 100_000;
    let name = |entry: usize| format!("{entry:06} {}", "long".repeat(5 + entry % 7));
    let layer =
        (0..ENTRIES).fold(Layer::new().dir("many"), |layer, entry| layer.file(&format!("many/{}", name(entry)), b""));
    let layer = layer.file("beside", b"not in it");
    let bench = Bench::new();
    let image = bench.block_image(&Image::new([layer]), "app", &[]);
    let expected: Vec<String> = (0..ENTRIES).map(name).collect();
    let sorted = |mut names: Vec<String>| {
        names.sort_unstable();
        names
    };

    let fs = mkext4(&image);
    let entries = fs.read_dir(fs.resolve("/many").unwrap()).unwrap();
    let names =
        entries.into_iter().map(|entry| String::from_utf8(entry.name).unwrap()).filter(|name| !name.starts_with('.'));
    assert!(sorted(names.collect()) == expected, "mkext4 reads other names");

    let fs = ext4_view(&image);
    let names = fs.read_dir("/many").unwrap().map(|entry| entry.unwrap().file_name().as_str().unwrap().to_owned());
    assert!(sorted(names.filter(|name| !name.starts_with('.')).collect()) == expected, "ext4-view reads other names");
    for entry in (0..ENTRIES).step_by(199) {
        assert_eq!(fs.symlink_metadata(&*format!("/many/{}", name(entry))).unwrap().len(), 0);
    }
    assert!(!fs.exists("/many/000000").unwrap());

    let tree = debugfs(&image, "htree_dump /many");
    assert!(tree.contains("Indirect levels: 1"), "{}", &tree[..2000]);

    let mounted = Mounted::new(&image);
    let names = std::fs::read_dir(mounted.path().join("many"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());
    assert!(sorted(names.collect()) == expected, "the kernel reads other names");
    for entry in 0..ENTRIES {
        mounted.path().join("many").join(name(entry)).symlink_metadata().unwrap();
    }

    let names = String::from_utf8(stdout(&bench.coldread(&["ls", "app.cpm", "/many"]))).unwrap();
    assert!(sorted(names.lines().map(str::to_owned).collect()) == expected, "coldread reads other names");
    let last = format!("/many/{}", name(ENTRIES - 1));
    stdout(&bench.coldread(&["stat", "app.cpm", "/many/000000 longlonglonglonglong", &last]));

    // Full leaves and nodes are split where entries are added.
    drop(mounted);
    let mounted = writable(&image);
    for entry in 0..500 {
        std::fs::write(mounted.path().join(format!("many/more {entry}")), b"").unwrap();
        std::fs::remove_file(mounted.path().join("many").join(name(entry * 151))).unwrap();
    }
    drop(mounted);
    e2fsck(&image);
}

#[test]
fn a_file_of_more_blocks_than_one_extent_maps_is_read_whole() {
    // An extent maps 32,768 blocks. Zeros in a tar are data, but cost no chunk.
    let mut data = vec![0; usize::try_from(129 * MIB).unwrap() + 77];
    for (seed, at) in [(1, 0), (2, 128 * MIB - 2000), (3, 129 * MIB - 100)] {
        let at = usize::try_from(at).unwrap();
        let length = (data.len() - at).min(4000);
        data[at..at + length].copy_from_slice(&noise(length, seed));
    }
    let bench = Bench::new();
    let image = bench.block_image(&Image::new([Layer::new().file("large", &data)]), "app", &[]);
    let extents = debugfs(&image, "ex /large");
    assert_eq!(extents.lines().filter(|line| line.trim_start().starts_with("0/ 0")).count(), 2, "{extents}");
    let fs = mkext4(&image);
    assert!(fs.read_file(fs.resolve("/large").unwrap()).unwrap() == data, "mkext4 reads other bytes");
    let mounted = Mounted::new(&image);
    assert!(std::fs::read(mounted.path().join("large")).unwrap() == data, "the kernel reads other bytes");
    assert!(stdout(&bench.coldread(&["cat", "app.cpm", "/large"])) == data, "coldread reads other bytes");
}

fn small_image() -> Image {
    Image::new([
        Layer::new().dir("etc").file("etc/hostname", b"made\n"),
        Layer::new().file("data", &noise(1_000_000, 1)),
    ])
}

/// Mounted for writing until it is dropped.
fn writable(image: &Path) -> Mounted {
    let directory = tempfile::tempdir().unwrap();
    let output =
        Command::new("mount").args(["-t", "ext4", "-o", "loop,rw"]).arg(image).arg(directory.path()).output().unwrap();
    assert!(output.status.success(), "mount (needs root): {}", String::from_utf8_lossy(&output.stderr));
    Mounted(directory)
}

#[test]
fn free_space_is_there_and_can_be_used() {
    let bench = Bench::new();
    let image = bench.block_image(&small_image(), "app", &["--free", "1GiB"]);
    assert!(superblock_number(&image, "Free blocks") * BLOCK >= 1024 * MIB);
    assert!(superblock_number(&image, "Free inodes") >= 1024 * MIB / (16 * 1024));

    let mounted = writable(&image);
    let room = rustix::fs::statvfs(mounted.path()).unwrap();
    assert!(room.f_bavail * room.f_frsize >= 1024 * MIB, "{} blocks", room.f_bavail);
    assert!(room.f_ffree >= 65_536, "{} inodes", room.f_ffree);
    let written = noise(8 << 20, 7);
    std::fs::write(mounted.path().join("etc/written"), &written).unwrap();
    // The rest is allocated without writing it, 16 MiB a file, until there is no more.
    let mut files = 0;
    let full = loop {
        let file = File::create_new(mounted.path().join(format!("file {files}"))).unwrap();
        match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 16 * MIB) {
            Ok(()) => files += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(full, rustix::io::Errno::NOSPC);
    assert!((63..=70).contains(&files), "{files} files of 16 MiB");
    drop(mounted);
    e2fsck(&image);
    let mounted = Mounted::new(&image);
    assert!(std::fs::read(mounted.path().join("etc/written")).unwrap() == written);
    assert_eq!(std::fs::read(mounted.path().join("data")).unwrap(), noise(1_000_000, 1));
}

#[test]
fn by_default_some_mebibytes_can_be_written() {
    let bench = Bench::new();
    let image = bench.block_image(&small_image(), "app", &[]);
    let mounted = writable(&image);
    std::fs::create_dir(mounted.path().join("new")).unwrap();
    let mut file = File::create_new(mounted.path().join("new/file")).unwrap();
    (0..16).for_each(|part| file.write_all(&noise(1 << 20, part)).unwrap());
    file.sync_all().unwrap();
    (0..500).for_each(|n| std::fs::write(mounted.path().join(format!("etc/{n}")), b"").unwrap());
    std::fs::remove_file(mounted.path().join("data")).unwrap();
    drop((file, mounted));
    e2fsck(&image);
    let mut bytes = Vec::new();
    let mounted = Mounted::new(&image);
    File::open(mounted.path().join("new/file")).unwrap().read_to_end(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, 16 * MIB);
    assert_eq!(std::fs::read(mounted.path().join("data")).unwrap_err().kind(), ErrorKind::NotFound);
}

/// The kernel shares an attribute block that is there already, and finds it by the hash that the block says of itself.
#[test]
fn the_kernel_shares_an_attribute_block_with_a_file_that_it_writes() {
    let value = noise(3_000, 5);
    let layer = Layer::new().file_with("ours", b"", &Meta::default().xattr("user.large", &value));
    let bench = Bench::new();
    let file = bench.block_image(&Image::new([layer]), "app", &[]);
    let mounted = writable(&file);
    let (ours, written) = (mounted.path().join("ours"), mounted.path().join("written"));
    assert_eq!(host_xattrs(&ours)[&b"user.large"[..]], value);
    std::fs::write(&written, b"").unwrap();
    rustix::fs::setxattr(&written, "user.large", &value, rustix::fs::XattrFlags::empty()).unwrap();
    drop(mounted);
    e2fsck(&file);
    let block = |path: &str| {
        let said = debugfs(&file, &format!("stat {path}"));
        said.split_whitespace().skip_while(|word| *word != "ACL:").nth(1).unwrap().to_owned()
    };
    assert_ne!(block("/ours"), "0");
    assert_eq!(block("/ours"), block("/written"));
}

/// A device that ends with a group, and that group unused; and directories whose inodes stand in two groups.
#[test]
fn groups_are_counted_as_e2fsck_counts_them_at_their_ends() {
    let bench = Bench::new();
    small_image().oci_layout(&bench.path("small"), Packing::Plain);
    let device = |free: u64| {
        let args = ["convert", "oci:small", "--dry-run", "--json", "--free", &format!("{free}KiB")];
        let said: Value = serde_json::from_slice(&stdout(&bench.coldpress(&args))).unwrap();
        said["device_bytes"].as_u64().unwrap()
    };
    let free = (0..).map(|step| 500 * 1024 + step * 512).find(|free| device(*free).is_multiple_of(128 * MIB)).unwrap();
    bench.block_image(&small_image(), "whole", &["--free", &format!("{free}KiB")]);
    let many = (0..8_800).fold(Layer::new(), |layer, n| layer.dir(&n.to_string()));
    let file = bench.block_image(&Image::new([many]), "many", &["--free", "3GiB"]);
    let per_group = superblock_number(&file, "Inodes per group");
    assert!(
        (8_000..8_800 + 1_552).contains(&per_group),
        "{per_group} inodes a group: directories stand in two of them"
    );
}

/// Of over 480 GiB, whose descriptors leave less room before the inode table, and whose bitmaps stand behind it.
#[test]
fn hundreds_of_gibibytes_of_free_space_are_what_e2fsck_and_the_kernel_take_them_for() {
    for free in [30, 600] {
        let bench = Bench::new();
        let image = bench.block_image(&small_image(), "app", &["--free", &format!("{free}GiB")]);
        assert!(superblock_number(&image, "Free blocks") * BLOCK >= free * 1024 * MIB);
        let mounted = writable(&image);
        std::fs::write(mounted.path().join("written"), noise(5 << 20, 3)).unwrap();
        assert_eq!(std::fs::read(mounted.path().join("data")).unwrap(), noise(1_000_000, 1));
        drop(mounted);
        e2fsck(&image);
    }
}

#[test]
fn free_space_costs_no_chunk() {
    let bench = Bench::new();
    let chunks = |free: &str| {
        let said = bench.convert(&small_image(), &format!("free-{free}"), &["--free", free]);
        (said["chunks"].as_u64().unwrap(), said["device_bytes"].as_u64().unwrap())
    };
    let (none, some, much) = (chunks("0"), chunks("1GiB"), chunks("100GiB"));
    assert_eq!(none.0, some.0);
    assert!(none.1 + 1024 * MIB <= some.1 && some.1 < none.1 + 1100 * MIB);
    // The inodes for 100 GiB take whole groups, whose bitmaps say so, as does that of the last group.
    assert!(none.1 + 100 * 1024 * MIB <= much.1 && much.0 <= none.0 + 4, "{much:?}");
}

//! Made images, and the programs under test.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use coldpress::digest::Sha256;
use serde_json::{Value, json};

/// The time of every entry that says no other: 2023-11-14.
pub const MTIME: i64 = 1_700_000_000;

/// A layer's tar, written entry by entry.
#[derive(Clone, Default)]
pub struct Layer(Vec<u8>);

/// What an entry says besides its name and bytes.
#[derive(Clone)]
pub struct Meta {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub mtime: i64,
    /// Further PAX records, such as `SCHILY.xattr.user.x`.
    pub pax: Vec<(String, Vec<u8>)>,
}

impl Default for Meta {
    fn default() -> Self {
        Self { mode: 0o644, uid: 0, gid: 0, mtime: MTIME, pax: Vec::new() }
    }
}

impl Meta {
    pub fn mode(mode: u32) -> Self {
        Self { mode, ..Self::default() }
    }

    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        self.pax.push((format!("SCHILY.xattr.{name}"), value.to_vec()));
        self
    }
}

impl Layer {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn dir(self, path: &str) -> Self {
        self.entry(b'5', path.as_bytes(), b"", b"", &Meta::mode(0o755), (0, 0))
    }

    pub fn file(self, path: &str, data: &[u8]) -> Self {
        self.file_with(path, data, &Meta::default())
    }

    pub fn file_with(self, path: &str, data: &[u8], meta: &Meta) -> Self {
        self.entry(b'0', path.as_bytes(), b"", data, meta, (0, 0))
    }

    pub fn dir_with(self, path: &str, meta: &Meta) -> Self {
        self.entry(b'5', path.as_bytes(), b"", b"", meta, (0, 0))
    }

    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(b'2', path.as_bytes(), target.as_bytes(), b"", &Meta::mode(0o777), (0, 0))
    }

    pub fn hardlink(self, path: &str, target: &str) -> Self {
        self.entry(b'1', path.as_bytes(), target.as_bytes(), b"", &Meta::default(), (0, 0))
    }

    pub fn char_device(self, path: &str, major: u32, minor: u32) -> Self {
        self.entry(b'3', path.as_bytes(), b"", b"", &Meta::default(), (major, minor))
    }

    pub fn fifo(self, path: &str) -> Self {
        self.entry(b'6', path.as_bytes(), b"", b"", &Meta::default(), (0, 0))
    }

    /// `.wh.NAME` beside where `path` is.
    pub fn whiteout(self, path: &str) -> Self {
        let (parent, name) = path.rsplit_once('/').map_or(("", path), |(parent, name)| (parent, name));
        let separator = if parent.is_empty() { "" } else { "/" };
        self.file(&format!("{parent}{separator}.wh.{name}"), b"")
    }

    /// `.wh..wh..opq` inside `path`; the root with an empty one.
    pub fn opaque(self, path: &str) -> Self {
        let separator = if path.is_empty() { "" } else { "/" };
        self.file(&format!("{path}{separator}.wh..wh..opq"), b"")
    }

    /// Any entry: PAX records where the header's fields do not do.
    #[expect(clippy::too_many_arguments, reason = "as many as a header has fields")]
    pub fn entry(mut self, flag: u8, path: &[u8], link: &[u8], data: &[u8], meta: &Meta, device: (u32, u32)) -> Self {
        let mut pax = meta.pax.clone();
        let plain = |name: &[u8]| name.len() <= 100 && name.is_ascii();
        if !plain(path) {
            pax.push(("path".to_owned(), path.to_vec()));
        }
        if !plain(link) {
            pax.push(("linkpath".to_owned(), link.to_vec()));
        }
        for (key, value, largest) in [("uid", meta.uid, 0o777_7777), ("gid", meta.gid, 0o777_7777)] {
            if value > largest {
                pax.push((key.to_owned(), value.to_string().into_bytes()));
            }
        }
        if meta.mtime < 0 && !pax.iter().any(|(key, _)| key == "mtime") {
            pax.push(("mtime".to_owned(), meta.mtime.to_string().into_bytes()));
        }
        if !pax.is_empty() {
            let body: Vec<u8> = pax.iter().flat_map(|(key, value)| pax_record(key, value)).collect();
            self.header(b'x', b"pax", b"", body.len(), &Meta::default(), (0, 0));
            self.body(&body);
        }
        let short = |name: &[u8]| if plain(name) { name.to_vec() } else { b"long".to_vec() };
        self.header(flag, &short(path), &short(link), data.len(), meta, device);
        self.body(data);
        self
    }

    /// An entry whose header block `edit` changes before it is summed: what the fields of [`Meta`] cannot say.
    pub fn edited(mut self, flag: u8, path: &[u8], data: &[u8], edit: impl FnOnce(&mut [u8; 512])) -> Self {
        let at = self.0.len();
        self.header(flag, path, b"", data.len(), &Meta::default(), (0, 0));
        let mut block: [u8; 512] = self.0[at..].try_into().unwrap();
        edit(&mut block);
        put_sum(&mut block);
        self.0[at..].copy_from_slice(&block);
        self.body(data);
        self
    }

    #[expect(clippy::too_many_arguments, reason = "as many as a header has fields")]
    fn header(&mut self, flag: u8, path: &[u8], link: &[u8], size: usize, meta: &Meta, (major, minor): (u32, u32)) {
        let mut block = [0u8; 512];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path);
        put(100, format!("{:07o}", meta.mode).as_bytes());
        put(108, format!("{:07o}", meta.uid.min(0o777_7777)).as_bytes());
        put(116, format!("{:07o}", meta.gid.min(0o777_7777)).as_bytes());
        put(124, format!("{size:011o}").as_bytes());
        put(136, format!("{:011o}", meta.mtime.max(0)).as_bytes());
        put(156, &[flag]);
        put(157, link);
        put(257, b"ustar\x0000");
        put(329, format!("{major:07o}").as_bytes());
        put(337, format!("{minor:07o}").as_bytes());
        put_sum(&mut block);
        self.0.extend_from_slice(&block);
    }

    fn body(&mut self, data: &[u8]) {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// Bytes as they are: headers that no writer makes.
    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// The whole tar with its end.
    pub fn tar(&self) -> Vec<u8> {
        [&self.0[..], &[0; 1024]].concat()
    }
}

fn put_sum(block: &mut [u8; 512]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let length = (rest..rest + 20).find(|length| length.to_string().len() + rest == *length).unwrap();
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// Bytes that do not compress and differ with `seed`.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| step()).collect()
}

/// How a layer's blob is compressed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub fn pack(self, tar: &[u8]) -> Vec<u8> {
        match self {
            Self::Plain => tar.to_vec(),
            Self::Gzip => {
                let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
                out.write_all(tar).unwrap();
                out.finish().unwrap()
            }
            Self::Zstd => zstd::encode_all(tar, 1).unwrap(),
        }
    }

    fn media_type(self) -> &'static str {
        match self {
            Self::Plain => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }
}

/// A container image.
#[derive(Clone)]
pub struct Image {
    pub layers: Vec<Layer>,
    pub config: Value,
    pub architecture: &'static str,
    /// The config's history, if it has one.
    pub history: Option<Value>,
}

impl Image {
    pub fn new(layers: impl IntoIterator<Item = Layer>) -> Self {
        let config = json!({ "Cmd": ["/bin/app"], "Env": ["PATH=/bin"], "WorkingDir": "/" });
        Self { layers: layers.into_iter().collect(), config, architecture: "amd64", history: None }
    }

    pub fn config_json(&self) -> Vec<u8> {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| Sha256::of(&layer.tar()).to_string()).collect();
        let mut config = json!({
            "architecture": self.architecture, "os": "linux", "created": "2025-01-01T00:00:00Z", "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        if let Some(history) = &self.history {
            config["history"] = history.clone();
        }
        serde_json::to_vec(&config).unwrap()
    }

    /// Writes an OCI layout with one image, `latest`.
    pub fn oci_layout(&self, directory: &Path, packing: Packing) -> PathBuf {
        std::fs::create_dir_all(directory.join("blobs/sha256")).unwrap();
        let put = |bytes: &[u8]| {
            let digest = Sha256::of(bytes);
            std::fs::write(directory.join("blobs/sha256").join(digest.to_hex()), bytes).unwrap();
            (digest.to_string(), bytes.len())
        };
        let (digest, size) = put(&self.config_json());
        let config = json!({ "mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest, "size": size });
        let layers: Vec<Value> = self
            .layers
            .iter()
            .map(|layer| {
                let (digest, size) = put(&packing.pack(&layer.tar()));
                json!({ "mediaType": packing.media_type(), "digest": digest, "size": size })
            })
            .collect();
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest = json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers });
        let (digest, size) = put(&serde_json::to_vec(&manifest).unwrap());
        let index = json!({ "schemaVersion": 2, "manifests": [{
            "mediaType": media_type, "digest": digest, "size": size,
            "annotations": { "org.opencontainers.image.ref.name": "latest" },
        }]});
        std::fs::write(directory.join("index.json"), serde_json::to_vec(&index).unwrap()).unwrap();
        std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        directory.to_owned()
    }

    /// Writes the tar of an OCI layout.
    pub fn oci_archive(&self, file: &Path, packing: Packing) -> PathBuf {
        let directory = tempfile::tempdir().unwrap();
        self.oci_layout(directory.path(), packing);
        let mut out = tar::Builder::new(std::fs::File::create(file).unwrap());
        out.append_dir_all(".", directory.path()).unwrap();
        out.finish().unwrap();
        file.to_owned()
    }

    /// Writes what `docker save` wrote before version 25 (`old`), or since.
    pub fn docker_archive(&self, file: &Path, old: bool) -> PathBuf {
        let mut out = Layer::new();
        let config = self.config_json();
        let hex = Sha256::of(&config).to_hex();
        let config_name = if old { format!("{hex}.json") } else { format!("blobs/sha256/{hex}") };
        out = out.file(&config_name, &config);
        let mut names = Vec::new();
        for layer in &self.layers {
            let (tar, hex) = (layer.tar(), Sha256::of(&layer.tar()).to_hex());
            let name = if old { format!("{hex}/layer.tar") } else { format!("blobs/sha256/{hex}") };
            out = out.file(&name, &tar);
            names.push(name);
        }
        let manifest = json!([{ "Config": config_name, "RepoTags": ["app:latest"], "Layers": names }]);
        out = out.file("manifest.json", &serde_json::to_vec(&manifest).unwrap());
        std::fs::write(file, out.tar()).unwrap();
        file.to_owned()
    }
}

/// A directory with a key, a store, and images.
pub struct Bench {
    pub dir: tempfile::TempDir,
}

/// The fixed key of the golden digests: a test's key, not a default of the program.
pub const TEST_KEY: &str = "# coldpress key file 1\n\
    wrapping-key = 4242424242424242424242424242424242424242424242424242424242424242\n\
    salt = 1717171717171717171717171717171717171717171717171717171717171717\n";

impl Bench {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("coldpress.key");
        std::fs::write(&key, TEST_KEY).unwrap();
        std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        Self { dir }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `coldpress`, run in the directory, where it finds its key.
    pub fn coldpress(&self, args: &[&str]) -> Output {
        self.run(env!("CARGO_BIN_EXE_coldpress"), args)
    }

    pub fn coldread(&self, args: &[&str]) -> Output {
        self.run(env!("CARGO_BIN_EXE_coldread"), args)
    }

    fn run(&self, program: &str, args: &[&str]) -> Output {
        Command::new(program)
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("COLDPRESS_KEY")
            .env_remove("COLDPRESS_STORE")
            // No cache but where a test names one.
            .env_remove("COLDPRESS_CACHE")
            .env("COLDREAD_RUN_DIR", self.path("run"))
            .env_remove("XDG_CACHE_HOME")
            .env_remove("HOME")
            .output()
            .unwrap()
    }

    /// Converts `oci:NAME` to `NAME.cpm` with `options`; what `--json` says.
    pub fn convert(&self, image: &Image, name: &str, options: &[&str]) -> Value {
        image.oci_layout(&self.path(name), Packing::Gzip);
        self.convert_from(&format!("oci:{name}"), name, options)
    }

    /// Converts `reference` to `NAME.cpm` with `options`; what `--json` says.
    pub fn convert_from(&self, reference: &str, name: &str, options: &[&str]) -> Value {
        let output = format!("{name}.cpm");
        let args = [&["convert", reference, "--store", "store", "-o", &output, "--json"], options].concat();
        serde_json::from_slice(&stdout(&self.coldpress(&args))).unwrap()
    }

    /// Converts and exports; the block image's path, which e2fsck has found faultless.
    pub fn block_image(&self, image: &Image, name: &str, options: &[&str]) -> PathBuf {
        self.convert(image, name, options);
        let file = self.path(&format!("{name}.img"));
        stdout(&self.coldpress(&["export", &format!("{name}.cpm"), "-o", file.to_str().unwrap()]));
        e2fsck(&file);
        file
    }
}

/// What a program printed; it must have succeeded.
pub fn stdout(output: &Output) -> Vec<u8> {
    assert!(output.status.success(), "{:?}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    output.stdout.clone()
}

/// `e2fsck -fn` must exit with 0 and say nothing but its passes and its summary.
pub fn e2fsck(image: &Path) {
    let output =
        Command::new("e2fsck").arg("-fn").arg(image).output().expect("e2fsck (Debian's e2fsprogs) is installed");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said: Vec<&str> =
        text.lines().filter(|line| !line.starts_with("Pass ") && !line.contains("non-contiguous")).collect();
    assert!(output.status.success() && said.is_empty(), "e2fsck: {text}");
}

/// A block image, mounted read-only by the kernel until it is dropped.
pub struct Mounted(pub tempfile::TempDir);

impl Mounted {
    pub fn new(image: &Path) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let output = Command::new("mount")
            .args(["-t", "ext4", "-o", "loop,ro"])
            .arg(image)
            .arg(directory.path())
            .output()
            .unwrap();
        assert!(output.status.success(), "mount (needs root): {}", String::from_utf8_lossy(&output.stderr));
        Self(directory)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        // A program that another thread is about to start can have a directory of it open for a moment.
        let unmount = |options: &[&str]| {
            let output = Command::new("umount").args(options).arg(self.0.path()).output();
            output.is_ok_and(|output| output.status.success())
        };
        for _ in 0..50 {
            if unmount(&[]) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        unmount(&["--lazy"]);
    }
}

/// What stands below `root`, one line an entry, in path order: kind, mode and path, then what is out of the ordinary.
///
/// An owner other than 0:0, a time other than [`MTIME`] (`@`), content or target, more than one link, the first name of
/// the same inode, and xattrs. The root's own line is missing where nothing says anything of the root.
pub fn listing(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let line = line(root, "/", &mut BTreeMap::new());
    lines.extend((line != IMPLIED_ROOT).then_some(line));
    list_below(root, "", &mut BTreeMap::new(), &mut lines);
    lines
}

/// A root that no entry describes.
pub const IMPLIED_ROOT: &str = "directory 0755 / @0";

fn list_below(directory: &Path, above: &str, names: &mut BTreeMap<u64, String>, lines: &mut Vec<String>) {
    let mut entries: Vec<PathBuf> = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for entry in entries {
        let path = format!("{above}{}", entry.file_name().unwrap().as_bytes().escape_ascii());
        lines.push(line(&entry, &path, names));
        if entry.symlink_metadata().unwrap().is_dir() {
            list_below(&entry, &format!("{path}/"), names, lines);
        }
    }
}

fn line(entry: &Path, path: &str, names: &mut BTreeMap<u64, String>) -> String {
    let metadata = entry.symlink_metadata().unwrap();
    let mut line = format!("{} {:04o} {path}", kind(&metadata), metadata.mode() & 0o7777);
    if (metadata.uid(), metadata.gid()) != (0, 0) {
        line += &format!(" {}:{}", metadata.uid(), metadata.gid());
    }
    line += &shown_time(metadata.mtime(), metadata.mtime_nsec());
    if metadata.is_symlink() {
        line += &format!(" -> {}", std::fs::read_link(entry).unwrap().as_os_str().as_bytes().escape_ascii());
    }
    if metadata.is_file() {
        let content = std::fs::read(entry).unwrap();
        assert_eq!(content.len() as u64, metadata.size(), "{path}");
        line += &format!(" {}", shown(&content));
    }
    let ordinary = if metadata.is_dir() { 2 + directories_in(entry) } else { 1 };
    if metadata.nlink() != ordinary {
        line += &format!(" links {}", metadata.nlink());
    }
    if !metadata.is_dir() {
        match names.get(&metadata.ino()) {
            Some(first) => line += &format!(" same as {first}"),
            None => _ = names.insert(metadata.ino(), path.to_owned()),
        }
    }
    for (name, value) in xattrs(entry) {
        line += &format!(" {}={}", name.escape_ascii(), shown(&value));
    }
    line
}

fn kind(metadata: &Metadata) -> String {
    let kind = metadata.file_type();
    let device = || format!("{}:{}", rustix::fs::major(metadata.rdev()), rustix::fs::minor(metadata.rdev()));
    match () {
        () if kind.is_dir() => "directory".to_owned(),
        () if kind.is_symlink() => "symlink".to_owned(),
        () if kind.is_char_device() => format!("character device {}", device()),
        () if kind.is_block_device() => format!("block device {}", device()),
        () if kind.is_fifo() => "fifo".to_owned(),
        () => "file".to_owned(),
    }
}

fn directories_in(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_type().unwrap().is_dir()).count() as u64
}

/// As [`listing`] shows a time: not at all where it is [`MTIME`].
pub fn shown_time(secs: i64, nanos: i64) -> String {
    match (secs, nanos) {
        (MTIME, 0) => String::new(),
        (secs, 0) => format!(" @{secs}"),
        (secs, nanos) => format!(" @{secs}+{nanos:09}"),
    }
}

/// As [`listing`] shows bytes: zeros counted, other runs as text where they are short, else by length and digest.
pub fn shown(bytes: &[u8]) -> String {
    let mut parts = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let zeros = |bytes: &[u8]| bytes.iter().take_while(|byte| **byte == 0).count();
        let count = zeros(rest);
        if count >= 32 {
            parts.push(format!("{count} zeros"));
            rest = &rest[count..];
            continue;
        }
        let text = (1..rest.len()).find(|&at| rest[at] == 0 && zeros(&rest[at..]) >= 32).unwrap_or(rest.len());
        let (run, behind) = rest.split_at(text);
        parts.push(match run.len() {
            0..=64 => format!("\"{}\"", run.escape_ascii()),
            length => format!("{length} bytes {}", &Sha256::of(run).to_hex()[..8]),
        });
        rest = behind;
    }
    if parts.is_empty() { "\"\"".to_owned() } else { parts.join(" + ") }
}

fn xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let (mut names, mut value) = (vec![0; 65_536], vec![0; 65_536]);
    let length = rustix::fs::llistxattr(path, &mut names[..]).unwrap();
    let names = names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let read = |name: &[u8]| {
        let length = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        (name.to_vec(), value[..length].to_vec())
    };
    names.map(read).collect()
}

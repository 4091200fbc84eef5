//! Whole conversions against the floor that this machine sets, and against others. `make bench`; docs/explanation/performance.md.
//!
//! The floor is what must be done whoever does it, each part timed alone on one thread in the same run: decompressing the
//! layers with the library in use, one SHA-256 over their compressed and one over their uncompressed bytes, packing, keys,
//! sealing and names of all chunks, and putting the distinct ones into a store. Its sum, divided by the processors, is what
//! a conversion without any cost of its own would take.

#![expect(clippy::disallowed_methods, clippy::print_stdout, reason = "a program that prints a table")]

use std::collections::BTreeSet;
use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use coldpress::convert::{Options, Target, convert};
use coldpress::crypto::packed::{Packer, trimmed};
use coldpress::crypto::{Codec, Salt, Secret, convergent};
use coldpress::digest::Sha256Hasher;
use coldpress::manifest::OpenManifest;
use coldpress::progress::Silent;
use coldpress::read::device::fetch;
use coldpress::source::{self, ImageRef, Limits};
use coldpress::store::{ObjectName, Settings, StoreUrl, open_get, open_put};
use coldpress::{CHUNK_SIZE, source::Image};
use flate2::bufread::MultiGzDecoder;

const IMAGES: &str = "debian-base py-data node-app py-torch";
const RUNS: usize = 3;
type AnyError = Box<dyn Error>;

/// Seconds of each part of the floor.
#[derive(Default)]
struct Floor {
    inflate: Duration,
    hash_stored: Duration,
    hash_plain: Duration,
    pack: Duration,
    seal: Duration,
    write: Duration,
}

impl Floor {
    fn parts(&self) -> [f64; 6] {
        [self.inflate, self.hash_stored, self.hash_plain, self.pack, self.seal, self.write]
            .map(|part| part.as_secs_f64())
    }
}

fn timed<T>(total: &mut Duration, work: impl FnOnce() -> T) -> T {
    let started = Instant::now();
    let done = work();
    *total += started.elapsed();
    done
}

fn layers(image: &Image, floor: &mut Floor) -> Result<(), AnyError> {
    let mut piece = vec![0; 256 * 1024];
    for layer in &image.layers {
        let (mut stored, mut plain) = (Sha256Hasher::new(), Sha256Hasher::new());
        let mut blob = layer.blob.reader();
        loop {
            let n = blob.read(&mut piece)?;
            if n == 0 {
                break;
            }
            timed(&mut floor.hash_stored, || stored.update(&piece[..n]));
        }
        let mut inflated = MultiGzDecoder::new(BufReader::with_capacity(piece.len(), layer.blob.reader()));
        loop {
            let mut filled = 0;
            while filled < piece.len() {
                match timed(&mut floor.inflate, || inflated.read(&mut piece[filled..]))? {
                    0 => break,
                    n => filled += n,
                }
            }
            if filled == 0 {
                break;
            }
            timed(&mut floor.hash_plain, || plain.update(&piece[..filled]));
        }
        assert_eq!(layer.diff_id, Some(plain.finish()), "the layer is not what its config says");
        black_box(stored.finish());
    }
    Ok(())
}

/// The floor, each part the median of its times.
fn floor(image: &Image, codec: Codec, work: &Path) -> Result<[f64; 6], AnyError> {
    let stores = tempfile::tempdir_in(work)?;
    let made = stores.path().join("made");
    let converted = plain_chunks(image, &made)?;
    let mut times = Vec::new();
    for _ in 0..RUNS {
        let (mut floor, again) = (Floor::default(), stores.path().join("again"));
        layers(image, &mut floor)?;
        chunks(&converted, codec, &made, &again, &mut floor)?;
        std::fs::remove_dir_all(again)?;
        times.push(floor.parts());
    }
    Ok(std::array::from_fn(|part| {
        times.sort_by(|a, b| a[part].total_cmp(&b[part]));
        times[RUNS / 2][part]
    }))
}

/// The image's chunks without compression, in a store at `made`.
fn plain_chunks(image: &Image, made: &Path) -> Result<OpenManifest, AnyError> {
    let (salt, root) = (Salt::new(Secret::from_bytes([1; 32])), "main".parse()?);
    let options = Options {
        codec: Codec::None,
        free: 16 << 20,
        threads: std::thread::available_parallelism()?.get(),
        temp: std::env::temp_dir(),
        max_size: None,
        max_entries: None,
        root,
        application: String::new(),
        store_hint: String::new(),
    };
    let store = open_put(&StoreUrl::Directory(made.to_owned()), &Settings::default(), &options.root)?;
    Ok(convert(image, &salt, &options, Target { store: Some(&*store), cache: None }, &Silent)?.manifest)
}

/// All chunks are sealed again, into a store at `again`.
fn chunks(plain: &OpenManifest, codec: Codec, made: &Path, again: &Path, floor: &mut Floor) -> Result<(), AnyError> {
    let salt = Salt::new(Secret::from_bytes([2; 32]));
    let get = open_get(&StoreUrl::Directory(made.to_owned()), &Settings::default())?;
    let put = open_put(&StoreUrl::Directory(again.to_owned()), &Settings::default(), &plain.clear.root)?;
    let (mut packer, mut names, mut chunk) = (Packer::new(codec), BTreeSet::new(), vec![0; CHUNK_SIZE as usize]);
    for wanted in &plain.sealed.chunks {
        fetch(plain, &*get, wanted, &mut chunk)?;
        let mut trimmed = trimmed(&chunk).to_vec();
        let packed = timed(&mut floor.pack, || packer.pack(&mut trimmed));
        let (_, name) = timed(&mut floor.seal, || convergent::seal(&salt, packed));
        if names.insert(name) {
            let name = ObjectName::chunk(&plain.clear.root, name);
            timed(&mut floor.write, || put.put_if_absent(&name, packed))?;
        }
    }
    Ok(())
}

/// Wall and CPU seconds, and peak MiB.
type Figures = (f64, f64, f64);

/// Those of the median run by wall time; `command` gets a fresh folder.
fn runs(work: &Path, command: &dyn Fn(&Path) -> Command) -> Result<Figures, AnyError> {
    let mut times = Vec::new();
    for run in 0..RUNS {
        let folder = work.join(format!("run-{run}"));
        std::fs::create_dir_all(&folder)?;
        let report = folder.join("time");
        let inner = command(&folder);
        let mut outer = Command::new("/usr/bin/time");
        outer.args(["-q", "-f", "%e %U %S %M", "-o"]).arg(&report).arg(inner.get_program()).args(inner.get_args());
        let started = Instant::now();
        let output = outer.output()?;
        let wall = started.elapsed().as_secs_f64();
        if !output.status.success() {
            return Err(format!("{inner:?}: {}", String::from_utf8_lossy(&output.stderr)).into());
        }
        let said = std::fs::read_to_string(&report)?;
        let numbers: Vec<f64> = said.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        times.push((wall, numbers[1] + numbers[2], numbers[3] / 1024.0));
        std::fs::remove_dir_all(&folder)?;
    }
    times.sort_by(|a, b| a.0.total_cmp(&b.0));
    Ok(times[RUNS / 2])
}

fn ours(coldpress: &Path, layout: &Path, codec: Codec, work: &Path) -> Result<Figures, AnyError> {
    let key = work.join("key");
    if !key.exists() {
        let made = Command::new(coldpress).args(["keygen", "--quiet", "-o"]).arg(&key).status()?;
        assert!(made.success(), "keygen");
    }
    runs(work, &|folder| {
        let mut command = Command::new(coldpress);
        command.args(["convert", "--quiet", "--compression", &codec.to_string(), "--key"]);
        command.arg(format!("file:{}", key.display())).arg("--store").arg(folder.join("store"));
        command.arg("-o").arg(folder.join("out.cpm")).arg(format!("oci:{}", layout.display()));
        command
    })
}

/// Those that are installed, by what they do.
fn peers(layout: &Path, work: &Path) -> Result<Vec<(&'static str, Figures)>, AnyError> {
    let shell = |script: &'static str| {
        move |folder: &Path| {
            let mut command = Command::new("sh");
            command.args(["-euc", script, "sh"]).arg(layout).arg(folder);
            command
        }
    };
    let unpack = "tag=$(umoci ls --layout \"$1\" | head -n 1); umoci unpack --image \"$1:$tag\" \"$2/bundle\" >&2; ";
    let arcbox = PathBuf::from("target/peers/release/peers");
    let there = |program: &str| {
        Command::new("sh").args(["-c", &format!("command -v {program} >/dev/null")]).status().is_ok_and(|s| s.success())
    };
    let mut found = Vec::new();
    if arcbox.exists() {
        let measured = runs(work, &|folder| {
            let mut command = Command::new(&arcbox);
            command.arg(layout).arg(folder.join("image"));
            command
        })?;
        found.push(("arcbox-ext4, layers to one ext4", measured));
    }
    if there("umoci") && there("mke2fs") {
        let script = Box::leak(
            format!("{unpack} truncate -s 8G \"$2/image\"; mke2fs -q -t ext4 -d \"$2/bundle/rootfs\" \"$2/image\"")
                .into_boxed_str(),
        );
        found.push(("umoci unpack, mke2fs -d", runs(work, &shell(script))?));
    }
    if there("umoci") && Path::new("target/peers/mkext4/bin/mkfs").exists() {
        let mkfs = "target/peers/mkext4/bin/mkfs \"$2/bundle/rootfs\" \"$2/image\" 8589934592 >&2";
        let script = Box::leak(format!("{unpack} {mkfs}").into_boxed_str());
        found.push(("umoci unpack, mkext4", runs(work, &shell(script))?));
    }
    if there("umoci") && there("mkfs.erofs") {
        let script = Box::leak(format!("{unpack} mkfs.erofs \"$2/image\" \"$2/bundle/rootfs\" >&2").into_boxed_str());
        found.push(("umoci unpack, mkfs.erofs", runs(work, &shell(script))?));
    }
    Ok(found)
}

fn main() -> Result<(), AnyError> {
    let corpus = std::env::var_os("COLDPRESS_CORPUS").map(PathBuf::from);
    let corpus = corpus.ok_or("set COLDPRESS_CORPUS to the folder of the corpus")?;
    let work = std::env::var_os("COLDPRESS_BENCH_DIR").map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    let images = std::env::var("COLDPRESS_BENCH_IMAGES").unwrap_or_else(|_| IMAGES.to_owned());
    let with_peers = std::env::var_os("COLDPRESS_BENCH_PEERS").is_none_or(|peers| peers != "no");
    let coldpress = Path::new("target/release/coldpress");
    let processors = std::thread::available_parallelism()?.get();
    std::fs::create_dir_all(&work)?;
    println!("Seconds, median of {RUNS}; floor = sum of its parts / {processors}.\n");
    println!(
        "| image | codec | inflate (zlib-rs) | SHA-256 stored | SHA-256 plain | pack | key, GCM, name | write | floor | ours | CPU | MiB | ratio |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|---|---|---|");
    let mut others = Vec::new();
    for name in images.split_whitespace() {
        let layout = corpus.join(name);
        File::open(layout.join("index.json")).map_err(|error| format!("{}: {error}", layout.display()))?;
        let reference = ImageRef::OciLayout { directory: layout.clone(), tag: None, digest: None };
        let limits = Limits {
            temp: &std::env::temp_dir(),
            max_size: u64::MAX,
            max_file: u64::MAX,
            max_entries: u64::MAX,
            progress: &Silent,
        };
        let image = source::open(&reference, None, &source::Access::default(), limits)?;
        for codec in [Codec::None, Codec::DEFAULT] {
            let parts = floor(&image, codec, &work)?;
            let (wall, cpu, peak) = ours(coldpress, &layout, codec, &work)?;
            let least = parts.iter().sum::<f64>() / f64::from(u32::try_from(processors)?);
            let parts: Vec<String> = parts.iter().map(|part| format!("{part:.2}")).collect();
            println!(
                "| {name} | {codec} | {} | {least:.2} | {wall:.2} | {cpu:.2} | {peak:.0} | {:.2} |",
                parts.join(" | "),
                wall / least
            );
        }
        if with_peers {
            others.extend(peers(&layout, &work)?.into_iter().map(|(peer, figures)| (name.to_owned(), peer, figures)));
        }
    }
    if !others.is_empty() {
        println!("\n| image | peer | wall | CPU | MiB |\n|---|---|---|---|---|");
    }
    for (image, peer, (wall, cpu, peak)) in others {
        println!("| {image} | {peer} | {wall:.2} | {cpu:.2} | {peak:.0} |");
    }
    Ok(())
}

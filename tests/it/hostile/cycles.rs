//! File systems from outside that have directories in themselves: with true checksums, sealed under a true manifest.

use std::fs;
use std::os::unix::fs::FileExt;

use coldpress::crypto::convergent::seal;
use coldpress::crypto::packed::{Packer, trimmed};
use coldpress::keys::KeyFile;
use coldpress::manifest::BlockManifest;
use coldpress::manifest::names_of;
use coldpress::manifest::root_digest::root_digest;
use coldpress::{CHUNK_SIZE, ChunkIndex};

use super::*;

const BLOCK: usize = 4096;
/// Seeds the checksums of metadata (docs/reference/formats/ext4-layout.md).
const SEED: u32 = 0x636F_6C64;

/// The checksum of a directory's block, up to its tail.
fn directory_sum(ino: u32, block: &[u8]) -> u32 {
    let raw = |start: u32, bytes: &[u8]| !crc32c::crc32c_append(!start, bytes);
    raw(raw(raw(SEED, &ino.to_le_bytes()), &[0; 4]), &block[..BLOCK - 12])
}

/// The block of `device` in which an entry is called `name`, and where in it the entry is.
fn find_entry(device: &[u8], name: &[u8]) -> (usize, usize) {
    let at = device.windows(name.len()).position(|window| window == name).unwrap();
    (at / BLOCK * BLOCK, at % BLOCK - 8)
}

/// Makes the entry `name` of the directory `ino` one that is called the same and leads to the directory `to`.
fn redirect(device: &mut [u8], ino: u32, name: &[u8], to: u32) {
    let (block, at) = find_entry(device, name);
    let block = &mut device[block..block + BLOCK];
    block[at..at + 4].copy_from_slice(&to.to_le_bytes());
    block[at + 7] = 2;
    let sum = directory_sum(ino, block);
    block[BLOCK - 4..].copy_from_slice(&sum.to_le_bytes());
}

/// Seals what of `app` is other in `device`, and writes a manifest that says so as `evil.cpm`.
fn seal_again(bench: &Bench, device: &[u8]) {
    let key = KeyFile::decode(TEST_KEY).unwrap();
    let wrapping = key.wrapping_key;
    let mut manifest =
        BlockManifest::decode(&fs::read(bench.path("app.cpm")).unwrap()).unwrap().open(&wrapping).unwrap();
    let before = fs::File::open(bench.path("app.img")).unwrap();
    let codec = manifest.clear.recipe.codec;
    for at in 0..manifest.sealed.chunks.len() {
        let ChunkIndex(index) = manifest.sealed.chunks[at].index;
        let from = index as usize * CHUNK_SIZE as usize;
        let mut old = vec![0; CHUNK_SIZE as usize];
        before.read_exact_at(&mut old, from as u64).unwrap();
        let new = &device[from..from + old.len()];
        if old == new {
            continue;
        }
        let mut packer = Packer::new(codec);
        let mut chunk = trimmed(new).to_vec();
        let packed = packer.pack(&mut chunk);
        let (key, name) = seal(key.salt.as_ref().unwrap(), packed);
        fs::write(bench.path("store/main").join(name.to_hex()), &*packed).unwrap();
        let entry = &mut manifest.sealed.chunks[at];
        (entry.name, entry.key, entry.stored) = (name, key, u32::try_from(packed.len()).unwrap());
    }
    let sealed = &manifest.sealed;
    manifest.clear.names = names_of(&sealed.chunks);
    manifest.clear.root_digest = root_digest(
        &manifest.clear.recipe,
        sealed.device_chunks,
        &sealed.chunks,
        &sealed.config,
        &sealed.config_key,
        sealed.image_digest,
    );
    fs::write(bench.path("evil.cpm"), manifest.encode(&wrapping).unwrap()).unwrap();
}

#[test]
fn a_directory_in_itself_ends_every_walk_with_its_name() {
    let bench = Bench::new();
    let image = Image::new([Layer::new().dir("dir").file("dir/file-that-becomes-a-loop", b"").dir("dir/below")]);
    let file = bench.block_image(&image, "app", &[]);
    let device = fs::read(file).unwrap();
    let of = |path: &str| -> u32 {
        let output = bench.coldread(&["stat", "--json", "app.cpm", path, "--store", "store"]);
        let json: Value = serde_json::from_slice(&output.stdout).unwrap();
        u32::try_from(json["inode"].as_u64().unwrap()).unwrap()
    };
    let (directory, below) = (of("dir"), of("dir/below"));
    for (name, to) in [("itself", directory), ("the root", 2), ("one with another name", below)] {
        let mut evil = device.clone();
        redirect(&mut evil, directory, b"file-that-becomes-a-loop", to);
        seal_again(&bench, &evil);
        let walks: [&[&str]; 4] = [
            &["ls", "-R", "evil.cpm", "/", "--store", "store"],
            &["ls", "-lR", "evil.cpm", "dir", "--store", "store"],
            &["cp", "-r", "evil.cpm", "/", "out", "--store", "store"],
            &["diff", "app.cpm", "evil.cpm", "--store", "store"],
        ];
        for args in walks {
            let program = if args[0] == "diff" { COLDPRESS } else { COLDREAD };
            let ended = run(&bench, program, args);
            let named = ended.said.contains("dir")
                && ended.said.contains("appears twice: it contains itself, or has two names");
            assert!(ended.code == Some(1) && named && ended.took < MAX_TIME, "{name}, {args:?}: {}", ended.shown());
            let _ = fs::remove_dir_all(bench.path("out"));
        }
    }
}

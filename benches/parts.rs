//! The parts of a conversion, each alone on one thread, on a chunk of this machine's own program text. `make bench`.

use coldpress::CHUNK_SIZE;
use coldpress::crypto::packed::{Packer, trimmed};
use coldpress::crypto::{Codec, Salt, Secret, convergent};
use coldpress::digest::{Blake3, Sha256};
use divan::counter::BytesCount;
use divan::{Bencher, black_box};

fn main() {
    divan::main();
}

/// Half a MiB that compresses like programs do.
fn chunk() -> Vec<u8> {
    let mut text = std::fs::read("/proc/self/exe").expect("this program");
    text.truncate(CHUNK_SIZE as usize);
    text.resize(CHUNK_SIZE as usize, 1);
    text
}

#[divan::bench]
fn sha256(bencher: Bencher<'_, '_>) {
    let chunk = chunk();
    bencher.counter(BytesCount::new(CHUNK_SIZE)).bench_local(|| Sha256::of(black_box(&chunk)));
}

#[divan::bench]
fn blake3(bencher: Bencher<'_, '_>) {
    let chunk = chunk();
    bencher.counter(BytesCount::new(CHUNK_SIZE)).bench_local(|| Blake3::of(black_box(&chunk)));
}

#[divan::bench]
fn find_trailing_zeros_of_a_zero_chunk(bencher: Bencher<'_, '_>) {
    let chunk = vec![0; CHUNK_SIZE as usize];
    bencher.counter(BytesCount::new(CHUNK_SIZE)).bench_local(|| trimmed(black_box(&chunk)).len());
}

#[divan::bench(args = ["none", "zstd:1", "zstd:3"])]
fn pack(bencher: Bencher<'_, '_>, codec: &str) {
    let (chunk, codec): (_, Codec) = (chunk(), codec.parse().expect("a codec"));
    let mut packer = Packer::new(codec);
    bencher
        .counter(BytesCount::new(CHUNK_SIZE))
        .with_inputs(|| chunk.clone())
        .bench_local_refs(|chunk| packer.pack(black_box(chunk)).len());
}

/// Key, cipher and name: HMAC-SHA-256, AES-256-GCM, SHA-256.
#[divan::bench]
fn seal(bencher: Bencher<'_, '_>) {
    let (chunk, salt) = (chunk(), Salt::new(Secret::from_bytes([1; 32])));
    bencher
        .counter(BytesCount::new(CHUNK_SIZE))
        .with_inputs(|| chunk.clone())
        .bench_local_values(|mut packed| convergent::seal(&salt, &mut packed));
}

/// Name, cipher and unpacking.
#[divan::bench(args = ["none", "zstd:1"])]
fn open(bencher: Bencher<'_, '_>, codec: &str) {
    let (mut chunk, codec): (_, Codec) = (chunk(), codec.parse().expect("a codec"));
    let mut stored = Packer::new(codec).pack(&mut chunk).clone();
    let (key, name) = convergent::seal(&Salt::new(Secret::from_bytes([1; 32])), &mut stored);
    let mut opened = vec![0; CHUNK_SIZE as usize];
    bencher.counter(BytesCount::new(CHUNK_SIZE)).with_inputs(|| stored.clone()).bench_local_values(|mut stored| {
        convergent::open(codec, name, &key, &mut stored, &mut opened).expect("it opens");
    });
}

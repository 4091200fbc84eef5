//! What a conversion tells of its progress: all that it said it would do, in steps worth drawing.

use std::sync::Mutex;

use coldpress::convert::{Options, Target, convert};
use coldpress::crypto::Codec;
use coldpress::keys::KeyFile;
use coldpress::progress::{Progress, Stage};
use coldpress::source;

use crate::support::common::{Bench, Image, Layer, Packing, TEST_KEY, noise};

const MIB: u64 = 1 << 20;
const CHUNK: u64 = MIB / 2;

/// What was told, in its order.
#[derive(Default)]
struct Told {
    begun: Mutex<Vec<(Stage, u64)>>,
    steps: Mutex<Vec<(Stage, u64)>>,
}

impl Progress for Told {
    fn begin(&self, stage: Stage, total: u64) {
        self.begun.lock().unwrap().push((stage, total));
    }

    fn advance(&self, stage: Stage, bytes: u64) {
        self.steps.lock().unwrap().push((stage, bytes));
    }

    fn end(&self, _: Stage) {}

    fn warn(&self, message: &str) {
        panic!("{message}");
    }
}

/// Of a conversion of `image` by one thread: of each stage, how much work was said to come, and the steps done.
fn told(image: &Image, packing: Packing) -> [(u64, Vec<u64>); 2] {
    let bench = Bench::new();
    let reference = format!("oci:{}", image.oci_layout(&bench.path("image"), packing).display());
    let options = Options {
        codec: Codec::None,
        free: 0,
        threads: 1,
        temp: bench.path("."),
        max_size: None,
        max_entries: None,
        root: "main".parse().unwrap(),
        application: String::new(),
        store_hint: String::new(),
    };
    let salt = KeyFile::decode(TEST_KEY).unwrap().salt.unwrap();
    let progress = Told::default();
    let image =
        source::open(&reference.parse().unwrap(), None, &source::Access::default(), options.limits(&progress)).unwrap();
    convert(&image, &salt, &options, Target::default(), &progress).unwrap();
    let (begun, steps) = (progress.begun.into_inner().unwrap(), progress.steps.into_inner().unwrap());
    let layers = begun.iter().filter(|(stage, _)| matches!(stage, Stage::Layer(_))).count();
    assert_eq!((begun.len(), layers), (2 + image.layers.len(), image.layers.len()), "each begins once: {begun:?}");
    [Stage::Layers, Stage::Chunks].map(|stage| {
        let total = begun.iter().find(|(begun, _)| *begun == stage).unwrap().1;
        (total, steps.iter().filter(|(of, _)| *of == stage).map(|(_, bytes)| *bytes).collect())
    })
}

#[test]
fn every_stored_byte_of_the_layers_is_told_in_steps_of_a_mebibyte() {
    let layer = Layer::new().file("a", &noise(7_000_000, 1)).file("b", &noise(6_000_000, 2));
    let length = Packing::Gzip.pack(&layer.tar()).len() as u64;
    let [(total, steps), _] = told(&Image::new([layer]), Packing::Gzip);
    assert_eq!((total, steps.iter().sum()), (length, length), "{steps:?}");
    let (last, others) = steps.split_last().unwrap();
    // The thread that inflates is some MiB ahead of who tells.
    assert!(*last > 0 && others.len() >= 2 && others.iter().all(|step| *step >= MIB), "{steps:?}");
}

/// A layer that is not in path order is told of again, when its chunks are made; then comes the metadata, whose last chunk in a
/// small image is that of the directory blocks, at 26 MiB of 64.
#[test]
fn every_chunk_that_is_made_behind_the_layers_is_told() {
    let unordered = Layer::new().file("b", &noise(600_000, 1)).file("a", b"in a chunk before it");
    let [(length, layers), (total, steps)] = told(&Image::new([unordered]), Packing::Plain);
    assert_eq!(layers.iter().sum::<u64>(), length, "no byte is told twice");
    assert_eq!((total, steps.iter().sum()), (3 * CHUNK + 64 * MIB, 3 * CHUNK + 26 * MIB), "{steps:?}");
}

//! `peers LAYOUT FILE`: all layers of the one image in the OCI layout LAYOUT, unpacked by arcbox-ext4 into the ext4 image
//! FILE. Layers are inflated by the same library as coldpress's.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use arcbox_ext4::Formatter;
use flate2::bufread::MultiGzDecoder;
use serde_json::Value;

type AnyError = Box<dyn std::error::Error>;

fn blob(layout: &Path, descriptor: &Value) -> Result<PathBuf, AnyError> {
    let digest = descriptor["digest"].as_str().ok_or("no digest")?;
    Ok(layout.join("blobs").join(digest.replace(':', "/")))
}

fn main() -> Result<(), AnyError> {
    let mut args = std::env::args_os().skip(1).map(PathBuf::from);
    let (Some(layout), Some(out)) = (args.next(), args.next()) else { return Err("usage: peers LAYOUT FILE".into()) };
    let index: Value = serde_json::from_reader(File::open(layout.join("index.json"))?)?;
    let manifest: Value = serde_json::from_reader(File::open(blob(&layout, &index["manifests"][0])?)?)?;
    let layers = manifest["layers"].as_array().ok_or("no layers")?;
    let stored: u64 = layers.iter().filter_map(|layer| layer["size"].as_u64()).sum();
    let mut image = Formatter::new(&out, 4096, stored * 8)?;
    for layer in layers {
        let stored = BufReader::with_capacity(1 << 18, File::open(blob(&layout, layer)?)?);
        image.unpack_tar(MultiGzDecoder::new(stored))?;
    }
    Ok(image.close()?)
}

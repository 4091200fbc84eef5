//! Layers in: inflated and checked side by side, their entries applied, their bytes kept where they can be read again.
//!
//! A compressed layer's tar goes to a file without a name in the temporary directory, so nothing is left behind however the
//! process ends; a plain one is read again from where it is.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::flatten::{self, LayerTree};
use super::tar::{TarError, TarReader};
use crate::digest::Sha256;
use crate::fs::ext4::write::LayerBytes;
use crate::fs::tree::{LayerIndex, Tree};
use crate::progress::{Progress, Stage};
use crate::source::{Blob, Image, LayerReader, LayerSource};
use crate::{Error, ErrorKind, Result};

/// An image's layers, applied onto one another.
pub struct Flattened {
    /// What they make together.
    pub tree: Tree,
    /// What each is.
    pub layers: Vec<IngestedLayer>,
    /// Their files' bytes.
    pub bytes: IngestedBytes,
}

/// A layer that was read and found true.
#[derive(Debug, Clone, Copy)]
pub struct IngestedLayer {
    /// The digest of its tar.
    pub diff_id: Sha256,
    /// Bytes of its tar.
    pub tar_bytes: u64,
}

/// Where each layer's uncompressed tar can be read.
pub struct IngestedBytes(Vec<TarBytes>);

enum TarBytes {
    InPlace(Blob),
    Unpacked(File),
}

impl LayerBytes for IngestedBytes {
    fn read_at(&self, layer: LayerIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self.0[usize::from(layer.0)] {
            TarBytes::InPlace(blob) => blob.read_at(offset, buf),
            TarBytes::Unpacked(file) => file.read_exact_at(buf, offset),
        }
    }
}

/// Reads and flattens all layers of `image`, `threads` at once.
///
/// # Errors
/// `Corrupt` where a layer is not what its digests say, `Input` or `Unsupported` for an entry, naming layer and entry.
pub fn ingest(image: &Image, threads: usize, temp: &Path, progress: &dyn Progress) -> Result<Flattened> {
    let total = image.layers.iter().map(|layer| layer.blob.length()).sum();
    progress.begin(Stage::Layers, total);
    let read = read_all(image, threads, temp, progress)?;
    progress.end(Stage::Layers);
    let mut tree = flatten::empty();
    let (mut layers, mut bytes) = (Vec::new(), Vec::new());
    for (index, layer) in read.into_iter().enumerate() {
        flatten::merge(&mut tree, &layer.tree).map_err(|error| error.within(layer_name(image, index)))?;
        layers.push(layer.what);
        bytes.push(layer.bytes);
    }
    Ok(Flattened { tree, layers, bytes: IngestedBytes(bytes) })
}

fn layer_name(image: &Image, index: usize) -> String {
    let layer = &image.layers[index];
    let name = layer.digest.or(layer.diff_id).map_or_else(|| layer.blob.name().to_owned(), |digest| digest.to_string());
    format!("layer {} of {} ({name})", index + 1, image.layers.len())
}

struct ReadLayer {
    tree: LayerTree,
    what: IngestedLayer,
    bytes: TarBytes,
}

/// The largest layers first, so that the last thread to end ends early.
fn read_all(image: &Image, threads: usize, temp: &Path, progress: &dyn Progress) -> Result<Vec<ReadLayer>> {
    let mut order: Vec<usize> = (0..image.layers.len()).collect();
    order.sort_by_key(|&index| std::cmp::Reverse(image.layers[index].blob.length()));
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<ReadLayer>>>> = order.iter().map(|_| Mutex::new(None)).collect();
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, order.len().max(1)) {
            scope.spawn(|| {
                while let Some(&index) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let layer = read_one(&image.layers[index], temp, progress)
                        .map_err(|error| error.within(layer_name(image, index)));
                    if layer.is_err() {
                        // The others need not start.
                        next.store(order.len(), Ordering::Relaxed);
                    }
                    *done[index].lock().expect("no thread panics with it") = Some(layer);
                }
            });
        }
    });
    let mut results: Vec<_> =
        done.into_iter().map(|slot| slot.into_inner().expect("no thread panics with it")).collect();
    if let Some(failed) = results.iter_mut().find_map(|slot| slot.take_if(|layer| layer.is_err())) {
        failed?;
    }
    Ok(results.into_iter().map(|slot| slot.expect("every layer was read").expect("none failed")).collect())
}

fn read_one(source: &LayerSource, temp: &Path, progress: &dyn Progress) -> Result<ReadLayer> {
    let mut reader = source.read()?;
    let mut tree = LayerTree::default();
    let plain = source.is_plain()?;
    let mut file =
        if plain { None } else { Some(tempfile::tempfile_in(temp).map_err(|error| Error::file(temp, error))?) };
    let told = {
        let to = file.as_mut().map(|file| BufWriter::with_capacity(1 << 20, file));
        let mut copy = Copy { from: &mut reader, to, failed: None, progress, told: 0 };
        let walked = walk(&mut copy, &mut tree);
        let copied = copy.finish();
        // A full disk is not the stream's fault.
        let told = copied.map_err(|error| Error::file(temp, error))?;
        walked?;
        told
    };
    let (diff_id, tar_bytes) = reader.finish()?;
    progress.advance(Stage::Layers, source.blob.length() - told);
    let bytes = match file {
        None => TarBytes::InPlace(source.blob.clone()),
        Some(file) => TarBytes::Unpacked(file),
    };
    Ok(ReadLayer { tree, what: IngestedLayer { diff_id, tar_bytes }, bytes })
}

fn walk(stream: &mut impl Read, tree: &mut LayerTree) -> Result<()> {
    let mut tar = TarReader::new(stream);
    while let Some(entry) = tar.next_entry().map_err(tar_error)? {
        tree.apply(entry)?;
    }
    Ok(())
}

fn tar_error(error: TarError) -> Error {
    match error {
        TarError::Io(source) => Error::io("its bytes", source),
        TarError::Type { .. } => Error::new(ErrorKind::Unsupported, error.to_string()),
        TarError::Truncated(_) => Error::new(ErrorKind::Corrupt, error.to_string()),
        TarError::Header { .. } | TarError::Entry { .. } => Error::new(ErrorKind::Input, error.to_string()),
    }
}

/// Copies what is read through it, and tells of progress.
struct Copy<'a, 'b, W: Write> {
    from: &'a mut LayerReader<'b>,
    to: Option<BufWriter<W>>,
    failed: Option<io::Error>,
    progress: &'a dyn Progress,
    /// Bytes of the blob that were told.
    told: u64,
}

impl<W: Write> Read for Copy<'_, '_, W> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.from.read(buf)?;
        if let Some(to) = &mut self.to
            && let Err(error) = to.write_all(&buf[..n])
        {
            self.failed = Some(error);
            self.to = None;
            return Err(io::Error::other("cannot be kept"));
        }
        let read = self.from.stored_bytes_read();
        if read - self.told >= 1 << 20 {
            self.progress.advance(Stage::Layers, read - self.told);
            self.told = read;
        }
        Ok(n)
    }
}

impl<W: Write> Copy<'_, '_, W> {
    /// How many of the blob's bytes were told of.
    fn finish(self) -> io::Result<u64> {
        match (self.failed, self.to) {
            (Some(error), _) => Err(error),
            (None, Some(mut to)) => to.flush().map(|()| self.told),
            (None, None) => Ok(self.told),
        }
    }
}

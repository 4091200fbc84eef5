//! Reading of layers: they are decompressed and checked, their entries are applied, and their chunks are sealed meanwhile.
//!
//! The top layer is read first, so that it is known what it hides when the layers below are read. A layer whose chunks cannot be
//! sealed at once (its order is unusual, or layers above it are still being read) is read later from its file if it is a plain tar.
//! Any other is spooled to an unlinked temporary file, so that nothing is left behind however the process ends.

use std::fs::File;
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use super::budget::Budget;
use super::flatten::{self, LayerTree, Usage};
use super::known_layers::{KnownLayer, KnownLayers, Measures};
use super::seal::Sealing;
use super::segment::{SegmentError, SegmentWriter};
use super::tar::{EntryKind, TarError, TarReader};
use crate::digest::{Blake3, Sha256};
use crate::fs::ext4::BLOCK_SIZE;
use crate::fs::ext4::write::LayerBytes;
use crate::fs::path::Display;
use crate::fs::tree::{Content, Data, LayerIndex, Tree};
use crate::printable::size;
use crate::progress::{Progress, Stage};
use crate::source::{Blob, Image, LayerReader, LayerSource, Limits};
use crate::threads::side_by_side;
use crate::{Error, ErrorKind, Result};

/// Maximum number of runs in all sparse files of a layer.
const MAX_RUNS: usize = 1 << 22;

/// An image after all of its layers have been read and merged.
pub struct FlattenedImage {
    /// The tree of all layers.
    pub tree: Tree,
    /// The layers, base first.
    pub layers: Vec<IngestedLayer>,
}

/// A layer that was read and is authentic, or was taken from the cache.
#[derive(Debug)]
pub struct IngestedLayer {
    /// The digest of the uncompressed tar.
    pub diff_id: Sha256,
    /// The length of the uncompressed tar, in bytes.
    pub tar_bytes: u64,
    /// The state of its files' bytes.
    pub bytes: TarBytes,
    /// The usage that was charged to the limits.
    pub usage: Usage,
}

/// The state of a layer's files' bytes.
#[derive(Debug)]
pub enum TarBytes {
    /// The chunks of the segment were handed over, with this placement ([`super::segment::digest_of`]).
    Sealed(Blake3),
    /// They are in this plain tar.
    InPlace(Blob),
    /// The tar was spooled to this file.
    Spooled(File),
    /// The layer was taken from the cache, and not read.
    Known,
    /// The chunks were handed over by their index on the device.
    Emitted,
}

impl LayerBytes for Vec<IngestedLayer> {
    fn read_at(&self, layer: LayerIndex, offset: u64, buf: &mut [u8]) -> io::Result<()> {
        match &self[usize::from(layer.0)].bytes {
            TarBytes::InPlace(blob) => blob.read_at(offset, buf),
            TarBytes::Spooled(file) => file.read_exact_at(buf, offset),
            TarBytes::Sealed(_) | TarBytes::Known | TarBytes::Emitted => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

/// The reader of an image's layers.
pub struct Ingest<'a> {
    image: &'a Image,
    limits: Limits<'a>,
    sealing: Option<&'a Sealing<'a>>,
    known: Option<KnownLayers<'a>>,
    progress: &'a dyn Progress,
    /// Uncompressed size of the layers that were read, in bytes.
    size: AtomicU64,
    budget: Budget,
}

struct ReadLayer {
    tree: Arc<LayerTree>,
    what: IngestedLayer,
}

impl<'a> Ingest<'a> {
    /// Creates a reader of the layers of `image`; those in the cache `known` are not read. `sealing` receives the chunks that can
    /// be sealed at once; without it, no layer is spooled.
    pub fn new(
        image: &'a Image,
        limits: Limits<'a>,
        sealing: Option<&'a Sealing<'a>>,
        known: Option<KnownLayers<'a>>,
        progress: &'a dyn Progress,
    ) -> Self {
        let budget = Budget::new(limits.max_entries, limits.max_size);
        Self { image, limits, sealing, known, progress, size: AtomicU64::new(0), budget }
    }

    /// Reads and flattens all layers, `at_once` of them concurrently.
    ///
    /// # Errors
    /// `Corrupt` where a layer does not match its digests, `Input` or `Unsupported` for an entry, naming layer and entry.
    pub fn all(&self, at_once: usize) -> Result<FlattenedImage> {
        // From the top down, as they are read.
        let mut known: Vec<_> = (0..self.image.layers.len()).rev().map(|index| self.recall(index)).collect();
        known.reverse();
        let unread =
            || self.image.layers.iter().zip(&known).filter(|(_, known)| known.is_none()).map(|(layer, _)| &layer.blob);
        for blob in unread().rev() {
            blob.want();
        }
        self.progress.begin(
            Stage::Layers,
            unread().fold(0, |sum: u64, blob| sum.saturating_add(blob.length().unwrap_or_default())),
        );
        let read = self.read_all(at_once, known)?;
        self.progress.end(Stage::Layers);
        let mut tree = flatten::empty();
        let mut layers = Vec::with_capacity(read.len());
        for (index, layer) in read.into_iter().enumerate() {
            let from = Arc::into_inner(layer.tree).expect("nobody reads a layer below any more");
            flatten::merge(&mut tree, from).map_err(|error| error.within(self.layer_name(index)))?;
            layers.push(layer.what);
        }
        Ok(FlattenedImage { tree, layers })
    }

    /// Returns the name of a layer in errors.
    #[must_use]
    pub fn layer_name(&self, index: usize) -> String {
        let layer = &self.image.layers[index];
        let digest = layer.digest.or(layer.diff_id.map(Into::into));
        let name = digest.map_or_else(|| layer.blob.name().to_owned(), |digest| digest.to_string());
        format!("layer {} of {} ({name})", index + 1, self.image.layers.len())
    }

    /// Returns a layer from the cache, if it is there and within the limits.
    fn recall(&self, index: usize) -> Option<ReadLayer> {
        let diff_id = self.image.layers[index].diff_id?;
        let KnownLayer { tree, measures } = self.known?.layer(diff_id)?;
        let Measures { tar_bytes, largest_file, sparse_bytes, usage } = measures;
        let left = self.limits.max_size.checked_sub(self.size.load(Ordering::Relaxed))?;
        if tar_bytes > left || largest_file > self.limits.max_file || sparse_bytes > self.limits.max_size {
            return None;
        }
        self.budget.charge(usage).ok()?;
        self.size.fetch_add(tar_bytes, Ordering::Relaxed);
        let what = IngestedLayer { diff_id, tar_bytes, bytes: TarBytes::Known, usage };
        Some(ReadLayer { tree: Arc::new(tree), what })
    }

    /// Reads the layers that are not `known`, from the top down.
    fn read_all(&self, at_once: usize, known: Vec<Option<ReadLayer>>) -> Result<Vec<ReadLayer>> {
        let count = known.len();
        let (begun, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
        let done: Mutex<Vec<Option<Result<ReadLayer>>>> =
            Mutex::new(known.into_iter().map(|layer| layer.map(Ok)).collect());
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let Some(index) = count.checked_sub(begun.fetch_add(1, Ordering::Relaxed) + 1) else { return };
                let above = {
                    let done = done.lock().expect("no thread panics with it");
                    if done[index].is_some() {
                        continue;
                    }
                    above(&done[index + 1..])
                };
                let layer = self.read(index, above.as_deref());
                if layer.is_err() {
                    // The other threads need not start a layer, nor wait for a download.
                    stop.store(true, Ordering::Relaxed);
                    for layer in &self.image.layers {
                        layer.blob.give_up();
                    }
                }
                done.lock().expect("no thread panics with it")[index] = Some(layer);
            }
        };
        // This thread reads too: what it frees of a layer when that is merged, it can use again at once (glibc keeps freed memory by
        // thread: 33 bytes a file).
        side_by_side(at_once.clamp(1, count.max(1)), work);
        let mut done = done.into_inner().expect("no thread panicked with it");
        let is_cause = |layer: &Result<ReadLayer>| layer.as_ref().is_err_and(|error| !Blob::was_given_up(error));
        if let Some(failed) = done.iter_mut().find_map(|slot| slot.take_if(|layer| is_cause(layer))) {
            failed?;
        }
        Ok(done.into_iter().map(|slot| slot.expect("every layer was read").expect("none failed")).collect())
    }

    fn read(&self, index: usize, above: Option<&[Arc<LayerTree>]>) -> Result<ReadLayer> {
        let layer = LayerIndex(u16::try_from(index).map_err(|_| flatten::too_many_layers())?);
        let source = &self.image.layers[index];
        let mut reading = LayerIngest { ingest: self, layer, source, reported: 0 };
        self.progress.begin(Stage::Layer(layer.0), source.blob.length().unwrap_or_default());
        let sealed = match (self.sealing, above) {
            (Some(sealing), Some(above)) => reading.seal(SegmentWriter::new(layer, above, sealing)),
            _ => Ok(None),
        };
        let read = sealed.and_then(|read| read.map_or_else(|| reading.spool(), Ok));
        self.progress.end(Stage::Layer(layer.0));
        read.map_err(|error| error.within(self.layer_name(index)))
    }

    /// Reads a layer again whose placement in `before` is not that of the layout, and spools it.
    ///
    /// # Errors
    /// As [`Ingest::all`].
    pub fn read_again(&self, index: usize, before: &IngestedLayer) -> Result<IngestedLayer> {
        self.size.fetch_sub(before.tar_bytes, Ordering::Relaxed);
        self.budget.release(before.usage);
        Ok(self.read(index, None)?.what)
    }
}

/// Returns the trees of `layers`; `None` unless all of them have been read.
fn above(layers: &[Option<Result<ReadLayer>>]) -> Option<Vec<Arc<LayerTree>>> {
    layers.iter().map(|slot| Some(Arc::clone(&slot.as_ref()?.as_ref().ok()?.tree))).collect()
}

/// The read of one layer.
struct LayerIngest<'a> {
    ingest: &'a Ingest<'a>,
    layer: LayerIndex,
    source: &'a LayerSource,
    /// Number of bytes of the blob that were reported as progress.
    reported: u64,
}

impl LayerIngest<'_> {
    /// Returns the uncompressed size that the layer may have, in bytes.
    fn left(&self) -> u64 {
        self.ingest.limits.max_size.saturating_sub(self.ingest.size.load(Ordering::Relaxed))
    }

    /// Reads the layer and seals its chunks in one pass; `None` where its order does not allow that.
    fn seal(&mut self, mut segment: SegmentWriter<'_>) -> Result<Option<ReadLayer>> {
        let (limits, budget) = (self.ingest.limits, &self.ingest.budget);
        let mut reader = self.source.read(self.left())?;
        let mut copy = CopyingReader { from: &mut reader, to: None::<BufWriter<File>>, failed: None, reading: self };
        let (tree, measures) = match walk(&mut copy, limits, budget, Some(&mut segment)) {
            Ok(walked) => walked,
            Err(WalkError::Unordered) => return Ok(None),
            Err(WalkError::Failed(error)) => return Err(error),
        };
        let placed = segment.finish()?;
        self.check(reader, tree, measures, TarBytes::Sealed(placed)).map(Some)
    }

    fn spool(&mut self) -> Result<ReadLayer> {
        let (limits, budget) = (self.ingest.limits, &self.ingest.budget);
        let mut reader = self.source.read(self.left())?;
        let temp = self.ingest.limits.temp;
        let to = if self.ingest.sealing.is_none() || self.source.is_plain()? {
            None
        } else {
            Some(tempfile::tempfile_in(temp).map_err(|error| Error::file(temp, error))?)
        };
        let file = to.as_ref().map(File::try_clone).transpose().map_err(|error| Error::file(temp, error))?;
        let to = to.map(|file| BufWriter::with_capacity(1 << 20, file));
        let mut copy = CopyingReader { from: &mut reader, to, failed: None, reading: self };
        let walked = walk(&mut copy, limits, budget, None);
        // A full disk is reported instead of the error of the stream.
        copy.finish().map_err(|error| Error::file(temp, error))?;
        let (tree, measures) = match walked {
            Ok(walked) => walked,
            Err(WalkError::Failed(error)) => return Err(error),
            Err(WalkError::Unordered) => unreachable!("only segments ask for an order"),
        };
        let bytes = file.map_or_else(|| TarBytes::InPlace(self.source.blob.clone()), TarBytes::Spooled);
        self.check(reader, tree, measures, bytes)
    }

    fn check(
        &mut self,
        reader: LayerReader<'_>,
        tree: LayerTree,
        measures: Measures,
        bytes: TarBytes,
    ) -> Result<ReadLayer> {
        let (diff_id, tar_bytes) = reader.finish()?;
        // The check before the read did not count layers that were read concurrently.
        let (read, most) = (self.ingest.size.fetch_add(tar_bytes, Ordering::Relaxed), self.ingest.limits.max_size);
        if tar_bytes > most.saturating_sub(read) {
            let message = format!("the decompressed size of the layers exceeds --max-size {}", size(most));
            return Err(Error::new(ErrorKind::Input, message));
        }
        if let Some(known) = self.ingest.known {
            known.remember_layer(diff_id, &tree, Measures { tar_bytes, ..measures });
        }
        self.report_progress(self.source.blob.length().unwrap_or_default());
        let what = IngestedLayer { diff_id, tar_bytes, bytes, usage: measures.usage };
        Ok(ReadLayer { tree: Arc::new(tree), what })
    }

    fn report_progress(&mut self, read: u64) {
        if read > self.reported {
            for stage in [Stage::Layers, Stage::Layer(self.layer.0)] {
                self.ingest.progress.advance(stage, read - self.reported);
            }
            self.reported = read;
        }
    }
}

/// The reason why a walk ended before the end of the layer.
enum WalkError {
    Unordered,
    Failed(Error),
}

impl From<Error> for WalkError {
    fn from(error: Error) -> Self {
        Self::Failed(error)
    }
}

impl From<SegmentError> for WalkError {
    fn from(stop: SegmentError) -> Self {
        match stop {
            SegmentError::Unordered => Self::Unordered,
            SegmentError::Tar(error) => Self::Failed(tar_error(error)),
            SegmentError::Sealing(error) => Self::Failed(error),
        }
    }
}

fn walk(
    stream: &mut impl Read,
    limits: Limits<'_>,
    budget: &Budget,
    mut segment: Option<&mut SegmentWriter<'_>>,
) -> Result<(LayerTree, Measures), WalkError> {
    let mut tar = TarReader::new(stream);
    let mut tree = LayerTree::default();
    let mut sizes = Sizes::default();
    let mut charge = budget.begin();
    while let Some(entry) = tar.next_entry().map_err(tar_error)? {
        if let EntryKind::File(content) = &entry.kind {
            check_size(&entry.path, content, limits, &mut sizes)?;
        }
        let with_data = segment.is_some() && matches!(entry.kind, EntryKind::File(_) | EntryKind::Symlink(_));
        let path = with_data.then(|| entry.path.clone());
        tree.apply(entry).map_err(Error::from)?;
        charge.grow_to(tree.usage())?;
        if let (Some(path), Some(segment)) = (path, &mut segment)
            && let Some(kind) = tree.kind_at(&path)
        {
            segment.place(&path, kind, &mut tar)?;
        }
    }
    let Sizes { bytes, largest, .. } = sizes;
    let usage = charge.keep();
    Ok((tree, Measures { largest_file: largest, sparse_bytes: bytes, usage, ..Measures::default() }))
}

/// The sizes of a layer's files. In a sparse file, a run of one byte takes a record in memory and a block on the device.
#[derive(Default)]
struct Sizes {
    runs: usize,
    bytes: u64,
    /// The size of the largest file, sparse or not, in bytes.
    largest: u64,
}

fn check_size(path: &[u8], content: &Content, limits: Limits<'_>, sizes: &mut Sizes) -> Result<()> {
    let refuse = |reason: String| Err(Error::new(ErrorKind::Input, format!("`{}`: {reason}", Display(path))));
    if content.size > limits.max_file {
        return refuse(format!(
            "a file of {} is larger than the {} that --max-size allows",
            size(content.size),
            size(limits.max_file)
        ));
    }
    sizes.largest = sizes.largest.max(content.size);
    if let Data::Sparse(runs) = &content.data {
        sizes.runs += runs.len();
        if sizes.runs > MAX_RUNS {
            return refuse(format!(
                "the layer's sparse files up to this entry have more than {MAX_RUNS} data segments"
            ));
        }
        sizes.bytes += runs.len() as u64 * u64::from(BLOCK_SIZE);
        if sizes.bytes > limits.max_size {
            let most = size(limits.max_size);
            return refuse(format!(
                "the layer's sparse files up to this entry take more than the {most} that --max-size allows"
            ));
        }
    }
    Ok(())
}

fn tar_error(error: TarError) -> Error {
    match error {
        TarError::Io(source) => match source.downcast::<Error>() {
            Ok(error) => error,
            Err(source) => Error::io("cannot be read", source),
        },
        TarError::Type { .. } => Error::new(ErrorKind::Unsupported, error.to_string()),
        TarError::Truncated(_) => Error::new(ErrorKind::Corrupt, error.to_string()),
        TarError::Header { .. } | TarError::NotANumber { .. } | TarError::Entry { .. } => {
            Error::new(ErrorKind::Input, error.to_string())
        }
    }
}

/// A reader that spools what is read through it, and reports progress.
struct CopyingReader<'a, 'b, 'c, W: Write> {
    from: &'a mut LayerReader<'b>,
    to: Option<BufWriter<W>>,
    failed: Option<io::Error>,
    reading: &'a mut LayerIngest<'c>,
}

impl<W: Write> Read for CopyingReader<'_, '_, '_, W> {
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
        if read >= self.reading.reported + (1 << 20) {
            self.reading.report_progress(read);
        }
        Ok(n)
    }
}

impl<W: Write> CopyingReader<'_, '_, '_, W> {
    fn finish(self) -> io::Result<()> {
        match (self.failed, self.to) {
            (Some(error), _) => Err(error),
            (None, Some(mut to)) => to.flush(),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::tree::Run;
    use crate::progress::Silent;

    #[test]
    fn sizes_and_sparse_runs_are_allowed_up_to_their_limits() {
        let file = |size: u64, runs: usize| {
            let run = Run { offset: 0, length: 1, source: 512 };
            Content { size, data: Data::Sparse(vec![run; runs].into()) }
        };
        let limits = |bytes| Limits {
            temp: std::path::Path::new("."),
            max_size: bytes,
            max_file: bytes,
            max_entries: bytes,
            progress: &Silent,
        };
        let check = |files: &[Content], limits| {
            let mut sizes = Sizes::default();
            files.iter().try_for_each(|content| check_size(b"f", content, limits, &mut sizes))
        };
        assert!(check(&[file(1_000, 0)], limits(1_000)).is_ok());
        assert!(check(&[file(1_001, 0)], limits(1_000)).is_err());
        let all = u64::MAX;
        assert!(check(&[file(1, MAX_RUNS - 1), file(1, 1)], limits(all)).is_ok());
        assert!(check(&[file(1, MAX_RUNS - 1), file(1, 2)], limits(all)).is_err());
        // A run of one byte takes a block.
        let blocks = u64::from(BLOCK_SIZE);
        assert!(check(&[file(1, 2), file(1, 3)], limits(5 * blocks)).is_ok());
        assert!(check(&[file(1, 2), file(1, 3)], limits(5 * blocks - 1)).is_err());
    }
}

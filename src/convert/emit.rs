//! The stages of a conversion between reading the layers and the finished device: plan the layout, decide for each layer what is left of
//! its data chunks, and emit these and the metadata.
//!
//! Nearly all data chunks are handed over while the layers are read ([`super::segment`]). What is left here is the data of layers whose
//! placement in the finished layout is another one, the data of spooled layers, and all metadata.

use super::flatten;
use super::ingest::{FlattenedImage, Ingest, IngestedLayer, TarBytes};
use super::known_layers::KnownLayers;
use super::options::Options;
use super::seal::{ChunkPlace, Sealing};
use super::segment::digest_of;
use crate::digest::Blake3;
use crate::fs::ext4::layout::{Layout, LayoutError, Segment};
use crate::fs::ext4::write::LayerBytes;
use crate::fs::tree::{LayerIndex, Tree};
use crate::manifest::LayerInfo;
use crate::progress::{Progress, Stage};
use crate::source::Image;
use crate::{CHUNK_SIZE, ChunkIndex, Error, Result};

/// The result of emitting all chunks except the first.
pub(super) struct EmittedChunks {
    pub(super) layers: Vec<EmittedLayer>,
    /// The device's size in chunks.
    pub(super) device_chunks: u32,
    /// The first chunk, with a UUID of zeros.
    pub(super) first_chunk: Vec<u8>,
}

/// A layer whose chunks have been emitted.
pub(super) struct EmittedLayer {
    pub(super) info: LayerInfo,
    /// The first chunk of the segment, if the chunks were handed over by their number in it; `None` if by their index on the device.
    pub(super) segment_start: Option<u32>,
    /// The digest of the placement, if no earlier conversion has cached its chunks.
    pub(super) new_placement: Option<Blake3>,
    /// Whether the layer was read, and not taken from the cache.
    pub(super) was_read: bool,
}

/// What is left to do for the data chunks of a layer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Remaining {
    /// All chunks were handed over by their number in the segment.
    Nothing,
    /// The chunks are emitted from the spooled or plain tar.
    Emit,
    /// The layer is read again and spooled, then its chunks are emitted: those before are placed otherwise, or are not in the store.
    ReadAgain,
}

/// The plan for the data chunks of one layer.
struct LayerPlan {
    segment: Segment,
    remaining: Remaining,
    new_placement: Option<Blake3>,
    was_read: bool,
}

/// Reads the layers of `image` and emits every chunk of the device except the first.
///
/// # Errors
/// Those of the image, naming layer and entry; `Internal` where sealing has failed, whose error [`Sealing::finish`] returns.
pub(super) fn emit_chunks(
    image: &Image,
    options: &Options,
    sealing: &Sealing<'_>,
    known: Option<KnownLayers<'_>>,
    progress: &dyn Progress,
) -> Result<EmittedChunks> {
    let ingest = Ingest::new(image, options.limits(progress), Some(sealing), known, progress);
    // A thread that decompresses keeps about one thread that seals busy.
    let FlattenedImage { tree, mut layers } = ingest.all(options.threads.div_ceil(2))?;
    let layout = plan_layout(&tree, options.free, &ingest)?;
    let plans = plan_layers(&layout, &layers, known, sealing)?;
    request_blobs(image, &plans);
    progress.begin(Stage::Chunks, remaining_chunks(&layout, &plans) * u64::from(CHUNK_SIZE));
    for (index, plan) in plans.iter().enumerate().filter(|(_, plan)| plan.remaining != Remaining::Nothing) {
        // One after another, so that at most one of them is spooled at a time.
        if plan.remaining == Remaining::ReadAgain {
            layers[index] = ingest.read_again(index, &layers[index])?;
        }
        emit_segment(&layout, plan.segment, &layers, sealing, progress)?;
        layers[index].bytes = TarBytes::Emitted;
    }
    let first_chunk = emit_metadata(&layout, sealing, progress)?;
    progress.end(Stage::Chunks);
    let device_chunks =
        u32::try_from(layout.device_bytes() / u64::from(CHUNK_SIZE)).expect("the layout is below 2^32 blocks");
    let layers = layers.iter().zip(plans).map(|(layer, plan)| plan.finish(layer)).collect();
    Ok(EmittedChunks { layers, device_chunks, first_chunk })
}

fn plan_layout<'t>(tree: &'t Tree, free: u64, ingest: &Ingest<'_>) -> Result<Layout<'t>> {
    Layout::new(tree, free).map_err(|error| match error {
        LayoutError::Inode { layer, .. } => Error::from(error).within(ingest.layer_name(layer.0.into())),
        LayoutError::TooLarge => error.into(),
    })
}

/// Compares how each layer was placed with the finished layout, and takes chunks of earlier conversions from the cache.
fn plan_layers(
    layout: &Layout<'_>,
    layers: &[IngestedLayer],
    known: Option<KnownLayers<'_>>,
    sealing: &Sealing<'_>,
) -> Result<Vec<LayerPlan>> {
    let mut plans = Vec::with_capacity(layers.len());
    for (index, (layer, segment)) in layers.iter().zip(layout.segments()).enumerate() {
        let layer_index = LayerIndex(u16::try_from(index).map_err(|_| flatten::too_many_layers())?);
        let placement = digest_of(layout, layer_index);
        let cached = known.and_then(|known| known.chunks(layer.diff_id, placement));
        let cached = cached.filter(|chunks| chunks.iter().all(|(number, _)| *number < segment.chunks));
        let new_placement = cached.is_none().then_some(placement);
        let remaining = match &layer.bytes {
            TarBytes::Sealed(placed) if *placed == placement => Remaining::Nothing,
            TarBytes::Known if segment.chunks == 0 => Remaining::Nothing,
            TarBytes::Known if cached.is_some_and(|chunks| sealing.recall(layer_index, chunks)) => Remaining::Nothing,
            TarBytes::Sealed(_) | TarBytes::Known => Remaining::ReadAgain,
            TarBytes::InPlace(_) | TarBytes::Spooled(_) | TarBytes::Emitted => Remaining::Emit,
        };
        let was_read = !matches!(layer.bytes, TarBytes::Known) || remaining != Remaining::Nothing;
        plans.push(LayerPlan { segment: *segment, remaining, new_placement, was_read });
    }
    Ok(plans)
}

/// Requests the blobs of layers that are read again, so that downloads start before their turn.
fn request_blobs(image: &Image, plans: &[LayerPlan]) {
    for (layer, plan) in image.layers.iter().zip(plans) {
        if plan.remaining == Remaining::ReadAgain {
            layer.blob.want();
        }
    }
}

/// Returns the number of chunks that are left: data of layers, and everything before the data region.
fn remaining_chunks(layout: &Layout<'_>, plans: &[LayerPlan]) -> u64 {
    let metadata = layout.segments().first().map_or(0, |segment| u64::from(segment.first_chunk));
    let data = plans.iter().filter(|plan| plan.remaining != Remaining::Nothing);
    metadata + data.map(|plan| u64::from(plan.segment.chunks)).sum::<u64>()
}

fn emit_segment(
    layout: &Layout<'_>,
    segment: Segment,
    layers: &dyn LayerBytes,
    sealing: &Sealing<'_>,
    progress: &dyn Progress,
) -> Result<()> {
    for index in (segment.first_chunk..segment.first_chunk + segment.chunks).map(ChunkIndex) {
        let mut chunk = sealing.buffer();
        layout.data_chunk(index, layers, &mut chunk).map_err(|error| Error::io("cannot read a layer again", error))?;
        sealing.put(ChunkPlace::Device(index), chunk)?;
        progress.advance(Stage::Chunks, CHUNK_SIZE.into());
    }
    Ok(())
}

/// Emits the metadata chunks except the first, which is returned.
fn emit_metadata(layout: &Layout<'_>, sealing: &Sealing<'_>, progress: &dyn Progress) -> Result<Vec<u8>> {
    let mut reported = 0;
    layout.metadata(&mut |index, bytes| {
        let mut chunk = sealing.buffer();
        chunk.copy_from_slice(bytes);
        progress.advance(Stage::Chunks, u64::from(index.0 - reported) * u64::from(CHUNK_SIZE));
        reported = index.0;
        sealing.put(ChunkPlace::Device(index), chunk)
    })
}

impl LayerPlan {
    fn finish(self, layer: &IngestedLayer) -> EmittedLayer {
        let Segment { first_chunk, chunks } = self.segment;
        let info = LayerInfo { diff_id: layer.diff_id, first_chunk, chunks, tar_bytes: layer.tar_bytes };
        let segment_start = (self.remaining == Remaining::Nothing).then_some(first_chunk);
        EmittedLayer { info, segment_start, new_placement: self.new_placement, was_read: self.was_read }
    }
}

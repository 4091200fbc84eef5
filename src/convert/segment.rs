//! The chunks of a layer's segment, filled while the layer is read. Nearly all layers have their files in path order, which is the
//! order in the block image (docs/reference/formats/ext4-layout.md), so their chunks can be sealed at once and nothing is spooled.
//!
//! Whether a layer is in order is known only at its end, and what the layers above hide only as far as they have been read. So the
//! writer computes a digest of its placement; [`digest_of`] computes that of the finished layout, and where the two differ the
//! layer is read again.

use std::io::Read;
use std::sync::Arc;

use super::flatten::LayerTree;
use super::seal::{ChunkPlace, Sealing};
use super::tar::{TarError, TarReader};
use crate::digest::{Blake3, Blake3Hasher};
use crate::fs::ext4::data_blocks::{block_runs, data_blocks};
use crate::fs::ext4::layout::{Layout, SegmentCursor};
use crate::fs::path::raw_components;
use crate::fs::tree::{Content, Kind, LayerIndex, Run};
use crate::{CHUNK_SIZE, Error};

const CHUNK: u64 = CHUNK_SIZE as u64;
const BLOCK: u64 = 4096;

/// The reason why a segment cannot be filled in one pass.
#[derive(Debug)]
pub enum SegmentError {
    /// The layer is not in path order.
    Unordered,
    /// The layer cannot be read.
    Tar(TarError),
    /// A chunk cannot be sealed or uploaded.
    Sealing(Error),
}

impl From<TarError> for SegmentError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// Fills a part of a file's bytes, from an offset in it on.
type Fill<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), SegmentError> + 'a;

/// A writer of the chunks of one layer's segment, ascending.
pub struct SegmentWriter<'a> {
    layer: LayerIndex,
    /// The trees of all layers above.
    above: &'a [Arc<LayerTree>],
    sealing: &'a Sealing<'a>,
    cursor: SegmentCursor,
    last: Vec<u8>,
    placed: Blake3Hasher,
    chunk: Option<PartialChunk>,
}

/// The chunk that is being filled.
struct PartialChunk {
    index: u32,
    /// A buffer of a chunk's length; the content after `filled` is undefined.
    bytes: Vec<u8>,
    filled: usize,
}

impl<'a> SegmentWriter<'a> {
    /// Creates a writer of an empty segment.
    pub fn new(layer: LayerIndex, above: &'a [Arc<LayerTree>], sealing: &'a Sealing<'a>) -> Self {
        let (last, placed) = (Vec::new(), Blake3Hasher::default());
        Self { layer, above, sealing, cursor: SegmentCursor::default(), last, placed, chunk: None }
    }

    /// Allocates the data of the tar's last entry, which is at `path`, and reads its bytes into chunks.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn place(&mut self, path: &[u8], kind: &Kind, tar: &mut TarReader<impl Read>) -> Result<(), SegmentError> {
        let blocks = data_blocks(kind);
        if blocks == 0 {
            return Ok(());
        }
        if raw_components(path).any(|part| part == b"..") || raw_components(path).le(raw_components(&self.last)) {
            return Err(SegmentError::Unordered);
        }
        self.last.clear();
        self.last.extend_from_slice(path);
        let start = self.cursor.place(blocks).ok_or(SegmentError::Unordered)?;
        let visible = !self.above.iter().any(|layer| layer.hides(path));
        note(&mut self.placed, start, visible, kind);
        if !visible {
            return Ok(());
        }
        let at = u64::from(start) * BLOCK;
        match kind {
            Kind::File(content) => self.file(at, content, tar),
            Kind::Symlink(target) => self.write(at, target.len() as u64, &mut |from, part| {
                let from = usize::try_from(from).expect("within a symlink");
                part.copy_from_slice(&target[from..from + part.len()]);
                Ok(())
            }),
            _ => unreachable!("only files and symlinks have data"),
        }
    }

    fn file(&mut self, at: u64, content: &Content, tar: &mut TarReader<impl Read>) -> Result<(), SegmentError> {
        let (mut at, mut blocks) = (at, block_runs(content).into_iter().peekable());
        for Run { offset, length, source } in content.runs() {
            // Blocks that no run touches are not allocated.
            while let Some((first, count)) = blocks.next_if(|(first, count)| u64::from(first + count) * BLOCK <= offset)
            {
                debug_assert!(u64::from(first) * BLOCK < offset);
                at += u64::from(count) * BLOCK;
            }
            let &(first, _) = blocks.peek().expect("every run stands in a run of blocks");
            let to = at + (offset - u64::from(first) * BLOCK);
            self.write(to, length, &mut |from, part| Ok(tar.read_data(source + from, part)?))?;
        }
        Ok(())
    }

    /// Writes `length` bytes at offset `at` of the segment, after all earlier writes; `read` reads the bytes from an offset on.
    fn write(&mut self, at: u64, length: u64, read: &mut Fill<'_>) -> Result<(), SegmentError> {
        let mut done = 0;
        while done < length {
            let (index, inside) = ((at + done) / CHUNK, (at + done) % CHUNK);
            let index = u32::try_from(index).expect("the cursor stays below 2^32 blocks");
            let count = (length - done).min(CHUNK - inside);
            let chunk = self.chunk_at(index)?;
            let within = |value: u64| usize::try_from(value).expect("within a chunk");
            let (from, to) = (within(inside), within(inside + count));
            // Segments are written forward.
            chunk.bytes[chunk.filled..from].fill(0);
            read(done, &mut chunk.bytes[from..to])?;
            chunk.filled = to;
            done += count;
        }
        Ok(())
    }

    fn chunk_at(&mut self, index: u32) -> Result<&mut PartialChunk, SegmentError> {
        if self.chunk.as_ref().is_none_or(|chunk| chunk.index != index) {
            self.flush().map_err(SegmentError::Sealing)?;
        }
        Ok(self.chunk.get_or_insert_with(|| PartialChunk { index, bytes: self.sealing.buffer(), filled: 0 }))
    }

    fn flush(&mut self) -> Result<(), Error> {
        match self.chunk.take() {
            Some(PartialChunk { index, mut bytes, filled }) => {
                bytes.truncate(filled);
                self.sealing.put(ChunkPlace::Segment(self.layer, index), bytes)
            }
            None => Ok(()),
        }
    }

    /// Seals the last chunk, and returns the digest of the placement.
    ///
    /// # Errors
    /// Those of sealing.
    pub fn finish(mut self) -> Result<Blake3, Error> {
        self.flush()?;
        Ok(self.placed.finish())
    }
}

/// Returns the digest of the placement of `layer` in `layout`, as [`SegmentWriter::finish`] does for its own.
#[must_use]
pub fn digest_of(layout: &Layout<'_>, layer: LayerIndex) -> Blake3 {
    let mut placed = Blake3Hasher::default();
    for data in layout.placed_data(layer) {
        note(&mut placed, data.start, data.visible, data.kind);
    }
    placed.finish()
}

/// Adds the placement of one inode to the digest: everything that the segment's bytes depend on, apart from those of the layer.
fn note(placed: &mut Blake3Hasher, start: u32, visible: bool, kind: &Kind) {
    placed.update(&start.to_le_bytes());
    placed.update(&[u8::from(visible)]);
    match kind {
        Kind::File(content) => {
            for Run { offset, length, source } in content.runs() {
                for part in [1, offset, length, source] {
                    placed.update(&part.to_le_bytes());
                }
            }
            placed.update(&0u64.to_le_bytes());
        }
        Kind::Symlink(target) => {
            placed.update(&(target.len() as u64).to_le_bytes());
            placed.update(target);
        }
        _ => unreachable!("only files and symlinks have data"),
    }
}

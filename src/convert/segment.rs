//! A layer's segment, made while the layer is read: nearly all layers have their files in path order already, which is the
//! order in the block image (docs/reference/formats/ext4-layout.md), so their chunks can be sealed as they come and nothing waits on disk.
//!
//! That a layer is in order is known only at its end, and what of it the layers above hide only as far as they are known.
//! So the writer notes what it placed where; [`digest_of`] says what the finished layout wants, and where the two differ
//! the layer is read once more.

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

/// Why a segment cannot be made in one pass.
#[derive(Debug)]
pub enum SegmentError {
    /// The layer is not in path order.
    Unordered,
    /// Its bytes cannot be had.
    Tar(TarError),
    /// A chunk cannot be sealed or put.
    Sealing(Error),
}

impl From<TarError> for SegmentError {
    fn from(error: TarError) -> Self {
        Self::Tar(error)
    }
}

/// Fills a part of what is written, from an offset on.
type Fill<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), SegmentError> + 'a;

/// Makes the chunks of one layer's segment, ascending.
pub struct SegmentWriter<'a> {
    layer: LayerIndex,
    /// The layers above, all of them.
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
    /// Of a chunk's length; what stands behind `filled` means nothing.
    bytes: Vec<u8>,
    filled: usize,
}

impl<'a> SegmentWriter<'a> {
    /// Nothing is placed yet.
    pub fn new(layer: LayerIndex, above: &'a [Arc<LayerTree>], sealing: &'a Sealing<'a>) -> Self {
        let (last, placed) = (Vec::new(), Blake3Hasher::default());
        Self { layer, above, sealing, cursor: SegmentCursor::default(), last, placed, chunk: None }
    }

    /// Places what the tar's last entry brought at `path`, and reads its bytes.
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
            // Blocks that no run touches take no address.
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

    /// Puts `length` bytes at `at` of the segment, behind all that was put before; `read` yields those from an offset on.
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

    /// The last chunk goes; what was placed.
    ///
    /// # Errors
    /// Those of sealing.
    pub fn finish(mut self) -> Result<Blake3, Error> {
        self.flush()?;
        Ok(self.placed.finish())
    }
}

/// What [`SegmentWriter::finish`] says where it placed everything as `layout` does.
#[must_use]
pub fn digest_of(layout: &Layout<'_>, layer: LayerIndex) -> Blake3 {
    let mut placed = Blake3Hasher::default();
    for data in layout.placed_data(layer) {
        note(&mut placed, data.start, data.visible, data.kind);
    }
    placed.finish()
}

/// Everything that a segment's bytes depend on, apart from the layer's.
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

//! What the chunks of an image hold: the layer or the metadata region that each belongs to, and the files with bytes in it.
//!
//! Directories and inodes of the whole image are read for this, files are not.

use std::collections::{BTreeMap, BTreeSet};

use crate::fs::ext4::layout::{EPOCH, Region};
use crate::fs::ext4::read::{Ext4, FileType};
use crate::fs::ext4::walk::DirectoryWalk;
use crate::fs::path::Display;
use crate::manifest::OpenManifest;
use crate::read::ChunkDevice;
use crate::{CHUNK_SIZE, ChunkIndex, Result};

const CHUNK: u64 = CHUNK_SIZE as u64;
/// Files that are kept of a chunk; further ones are counted.
const KEPT: usize = 3;

/// A part of the device: the metadata, or a layer's data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Band {
    /// Its name.
    pub label: String,
    /// Its first chunk.
    pub from: u32,
    /// The chunk behind its last.
    pub to: u32,
}

/// The files of a chunk, those with the most bytes in it first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Files {
    /// Paths that can be printed, with bytes.
    pub largest: Vec<(u64, String)>,
    /// How many there are.
    pub count: usize,
}

/// An image by its chunks.
#[derive(Debug)]
pub struct ImageMap {
    /// What the image is called.
    pub name: String,
    /// Ascending, metadata first.
    pub bands: Vec<Band>,
    /// By chunk, where files have bytes in it.
    pub files: BTreeMap<u32, Files>,
    /// By chunk, in the metadata.
    regions: BTreeMap<u32, Region>,
}

impl ImageMap {
    /// Reads which files have bytes in `chunks` of the image of `device`.
    ///
    /// # Errors
    /// Those of the device and of [`Ext4`].
    pub fn read(name: &str, device: &ChunkDevice, chunks: &BTreeSet<u32>) -> Result<Self> {
        let manifest = device.manifest();
        let regions = chunks.iter().filter_map(|chunk| Some((*chunk, region(manifest, ChunkIndex(*chunk))?))).collect();
        let mut map = Self { name: name.to_owned(), bands: bands(manifest), files: BTreeMap::new(), regions };
        let fs = Ext4::open(device)?;
        let root = fs.lookup(b"", false)?;
        let (mut todo, mut walk, mut seen) = (vec![(Vec::new(), root)], DirectoryWalk::default(), BTreeSet::new());
        while let Some((path, node)) = todo.pop() {
            if node.stat.file_type == FileType::Directory {
                walk.enter(&path, &node)?;
                for (name, ino) in fs.read_dir(&node)? {
                    todo.push(([&path[..], b"/", &name].concat(), fs.node(ino)?));
                }
            } else if node.stat.file_type != FileType::File || (node.stat.links > 1 && !seen.insert(node.stat.ino)) {
                continue;
            }
            for (from, to, at) in fs.data(&node)?.into_iter().filter(|(from, to, _)| from < to) {
                map.note(chunks, &path, at, at + (to - from));
            }
        }
        Ok(map)
    }

    /// Notes that the file at `path` has these bytes of the device.
    fn note(&mut self, chunks: &BTreeSet<u32>, path: &[u8], from: u64, to: u64) {
        let number = |chunk: u64| u32::try_from(chunk).unwrap_or(u32::MAX);
        for chunk in chunks.range(number(from / CHUNK)..number(to.div_ceil(CHUNK))) {
            let begin = ChunkIndex(*chunk).byte_offset();
            let bytes = to.min(begin + CHUNK) - from.max(begin);
            let files = self.files.entry(*chunk).or_default();
            let path = if path.is_empty() { "/".to_owned() } else { Display(path).to_string() };
            // A file of several stretches is one file.
            if let Some(known) = files.largest.iter_mut().find(|(_, known)| *known == path) {
                known.0 += bytes;
            } else {
                files.count += 1;
                files.largest.push((bytes, path));
            }
            files.largest.sort_by(|one, two| two.0.cmp(&one.0).then_with(|| one.1.cmp(&two.1)));
            files.largest.truncate(KEPT);
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests(name: &str, bands: Vec<Band>, files: impl IntoIterator<Item = (u32, Files)>) -> Self {
        Self { name: name.to_owned(), bands, files: files.into_iter().collect(), regions: BTreeMap::new() }
    }

    /// Returns what `chunk` is a part of: `layer 2`, or `metadata: inode table`.
    #[must_use]
    pub fn part(&self, chunk: u32) -> String {
        part(&self.bands, self.regions.get(&chunk).copied(), chunk)
    }
}

/// Returns what `chunk` of the image of `manifest` is a part of: `layer 2`, or `metadata: inode table`.
#[must_use]
pub fn part_of(manifest: &OpenManifest, chunk: ChunkIndex) -> String {
    part(&bands(manifest), region(manifest, chunk), chunk.0)
}

fn part(bands: &[Band], region: Option<Region>, chunk: u32) -> String {
    let band = bands.iter().find(|band| (band.from..band.to).contains(&chunk));
    let label = band.map_or("past the image", |band| &band.label);
    region.map_or_else(|| label.to_owned(), |region| format!("{label}: {region}"))
}

fn bands(manifest: &OpenManifest) -> Vec<Band> {
    let sealed = &manifest.sealed;
    let data = sealed.layers.first().map_or(sealed.device_chunks, |layer| layer.first_chunk);
    let layers = (1..).zip(&sealed.layers).filter(|(_, layer)| layer.chunks > 0).map(|(number, layer)| Band {
        label: format!("layer {number}"),
        from: layer.first_chunk,
        to: layer.first_chunk.saturating_add(layer.chunks),
    });
    std::iter::once(Band { label: "metadata".to_owned(), from: 0, to: data }).chain(layers).collect()
}

/// Returns the metadata region of `chunk`, if the image has a layout that this program knows.
fn region(manifest: &OpenManifest, chunk: ChunkIndex) -> Option<Region> {
    let sealed = &manifest.sealed;
    let data = sealed.layers.first().map_or(sealed.device_chunks, |layer| layer.first_chunk);
    let is_known = manifest.clear.recipe.epoch == EPOCH && chunk.0 < data;
    Region::of(chunk, sealed.device_chunks, data).filter(|_| is_known)
}

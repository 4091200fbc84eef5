//! Why each new chunk is new: what stands in it of which file, and what became of that file.
//!
//! Files stand in their layer's segment in path order (docs/reference/formats/ext4-layout.md), so one that grows moves those behind it. Layers of
//! the two images belong together by DiffID, else by the files that they share.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::chunks::layer_at;
use super::files::{Found, Pair, Stretch, walk};
use super::{Cause, Change, Count, Diff, FileDiff, LayerDiff, Move, Shift, Touch, Why};
use crate::fs::ext4::BLOCK_SIZE;
use crate::fs::ext4::read::{FileType, Stat};
use crate::fs::path::raw_components;
use crate::manifest::LayerInfo;
use crate::read::ChunkDevice;
use crate::{CHUNK_SIZE, ChunkIndex, Result};

const CHUNK: u64 = CHUNK_SIZE as u64;
const BLOCK: u64 = BLOCK_SIZE as u64;
const CHUNK_BLOCKS: u64 = CHUNK / BLOCK;

/// Compares the files of two images, and says in `diff` why each chunk is new.
pub(super) fn find(diff: &mut Diff, a: &ChunkDevice, b: &ChunkDevice) -> Result<()> {
    let layers = [a, b].map(|device| &device.manifest().sealed.layers[..]);
    let mut found =
        Files { layers, new: places_of_new(diff, b), files: Vec::new(), placed: Vec::new(), touches: vec![] };
    found.touches.resize_with(diff.new.len(), Vec::new);
    walk(a, b, &mut |pair| {
        found.note(pair);
        Ok(())
    })?;
    found.forget_further_names();
    let belonging = belonging(&diff.layers, &found.placed);
    let moves = moves(&found.placed, &belonging, layers[1].len());
    found.touch_data(&belonging, &moves);
    found.finish(diff, &moves);
    Ok(())
}

/// Every place of each new chunk.
fn places_of_new(diff: &Diff, b: &ChunkDevice) -> BTreeMap<ChunkIndex, usize> {
    let manifest = b.manifest();
    let names: BTreeMap<_, _> =
        (0..).zip(&diff.new).filter_map(|(number, chunk)| Some((manifest.chunk(chunk.index)?.name, number))).collect();
    let chunks = manifest.sealed.chunks.iter();
    chunks.filter_map(|chunk| Some((chunk.index, *names.get(&chunk.name)?))).collect()
}

/// Where a file's data stands in its layer's segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    layer: usize,
    block: u64,
    blocks: u64,
}

/// A file with data.
struct Placed {
    path: Arc<[u8]>,
    stats: [Option<Stat>; 2],
    a: Option<Place>,
    b: Option<Place>,
    changed: bool,
    /// Not where both have the same.
    other_holes: bool,
}

struct Files<'m> {
    layers: [&'m [LayerInfo]; 2],
    new: BTreeMap<ChunkIndex, usize>,
    files: Vec<FileDiff>,
    placed: Vec<Placed>,
    /// By new chunk.
    touches: Vec<Vec<Touch>>,
}

impl Files<'_> {
    fn note(&mut self, pair: Pair<'_>) {
        let path: Arc<[u8]> = pair.path.into();
        let stat = |found: &Option<Found>| found.as_ref().map(|found| found.node.stat);
        let place = |found: &Option<Found>, side: usize| place_of(&found.as_ref()?.data, self.layers[side]);
        let (a, b) = (place(&pair.a, 0), place(&pair.b, 1));
        if a.is_some() || b.is_some() {
            let changed = pair.changes.iter().any(|change| !change.is_metadata());
            let stats = [stat(&pair.a), stat(&pair.b)];
            let other_holes = shape(&pair.a) != shape(&pair.b);
            self.placed.push(Placed { path: path.clone(), stats, a, b, changed, other_holes });
        }
        self.touch_metadata(&path, &pair);
        if !pair.changes.is_empty() {
            let (a, b) = (stat(&pair.a), stat(&pair.b));
            self.files.push(FileDiff { path, changes: pair.changes, a, b, new: Count::default(), moved: None });
        }
    }

    /// Inodes and directories in new chunks.
    fn touch_metadata(&mut self, path: &Arc<[u8]>, pair: &Pair<'_>) {
        let Some(why) = why_of_inode(pair) else { return };
        let inode = pair.b.as_ref().or(pair.a.as_ref()).map(|found| found.inode_at / CHUNK);
        inode.into_iter().for_each(|chunk| self.touch(chunk, path, why));
        let directory = pair.b.as_ref().filter(|found| found.node.stat.file_type == FileType::Directory);
        let Some(directory) = directory else { return };
        let why = match why {
            Why::Added => Why::Added,
            _ if pair.other_entries => Why::Entries,
            _ if is_elsewhere(pair) => Why::Moved,
            _ => return,
        };
        for chunk in
            directory.data.iter().flat_map(|part| part.at / CHUNK..(part.at + part.to - part.from).div_ceil(CHUNK))
        {
            self.touch(chunk, path, why);
        }
    }

    fn touch(&mut self, chunk: u64, path: &Arc<[u8]>, why: Why) {
        let chunk = u32::try_from(chunk).ok().map(ChunkIndex);
        let Some(&number) = chunk.and_then(|chunk| self.new.get(&chunk)) else { return };
        let touches = &mut self.touches[number];
        if touches.last().is_none_or(|last| last.path != *path) {
            touches.push(Touch { path: path.clone(), why });
        }
    }

    /// A file of several names is told of by the one that both images have, else by its first.
    fn forget_further_names(&mut self) {
        let several = |stat: &Stat| stat.links > 1;
        let mut seen = [BTreeSet::new(), BTreeSet::new()];
        let both = |placed: &Placed| placed.stats.iter().all(Option::is_some);
        for pass in [true, false] {
            self.placed.retain(|placed| {
                if both(placed) != pass {
                    return true;
                }
                let mut known = true;
                for (seen, stat) in seen.iter_mut().zip(&placed.stats) {
                    if let Some(stat) = stat {
                        known &= several(stat) && !seen.insert(stat.ino);
                    }
                }
                !known
            });
        }
    }

    fn touch_data(&mut self, belonging: &Belonging, moves: &BTreeMap<usize, Move>) {
        let placed = std::mem::take(&mut self.placed);
        for (number, file) in placed.iter().enumerate() {
            let why = match (file.stats[0], file.changed, moves.contains_key(&number)) {
                (None, ..) => Why::Added,
                (_, true, _) => Why::Content,
                (_, _, true) => Why::Moved,
                _ => Why::Neighbour,
            };
            if let Some(place) = file.b {
                self.touch_place(place, &file.path, why);
            }
            let old = file.a.and_then(|place| Some(Place { layer: *belonging.of_a.get(&place.layer)?, ..place }));
            if let Some(old) = old.filter(|old| file.b != Some(*old)) {
                let why = match file.b {
                    _ if file.stats[1].is_none() => Why::Removed,
                    Some(place) if place.layer == old.layer => why,
                    _ => Why::Replaced,
                };
                self.touch_place(old, &file.path, why);
            }
        }
        self.placed = placed;
    }

    /// Place in a segment of the second image.
    fn touch_place(&mut self, place: Place, path: &Arc<[u8]>, why: Why) {
        let layer = &self.layers[1][place.layer];
        let chunks = place.block / CHUNK_BLOCKS..(place.block + place.blocks).div_ceil(CHUNK_BLOCKS);
        for chunk in chunks.filter(|chunk| *chunk < u64::from(layer.chunks)) {
            self.touch(u64::from(layer.first_chunk) + chunk, path, why);
        }
    }

    fn finish(self, diff: &mut Diff, moves: &BTreeMap<usize, Move>) {
        let mut caused = BTreeMap::<Arc<[u8]>, Count>::new();
        for (chunk, mut touches) in diff.new.iter_mut().zip(self.touches) {
            touches.sort_by_key(|touch| touch.why);
            if chunk.layer.is_some() {
                for touch in touches.iter().filter(|touch| touch.why <= Why::Moved) {
                    caused.entry(touch.path.clone()).or_default().add(chunk.bytes);
                }
                if matches!(chunk.cause, Cause::NewLayer | Cause::OldLayer) {
                    chunk.cause = Cause::Data(touches.first().map_or(Why::Neighbour, |touch| touch.why));
                }
            }
            chunk.touches = touches;
        }
        let mut files: BTreeMap<Arc<[u8]>, FileDiff> =
            self.files.into_iter().map(|file| (file.path.clone(), file)).collect();
        for (number, moved) in moves {
            let Placed { path, stats: [a, b], .. } = &self.placed[*number];
            if caused.contains_key(path) {
                let none = || FileDiff {
                    path: path.clone(),
                    changes: Vec::new(),
                    a: *a,
                    b: *b,
                    new: Count::default(),
                    moved: None,
                };
                let file = files.entry(path.clone()).or_insert_with(none);
                file.changes.push(Change::Moved);
                file.moved = Some(moved.clone());
            }
        }
        let mut files: Vec<FileDiff> = files.into_values().collect();
        for file in &mut files {
            file.new = caused.get(&file.path).copied().unwrap_or_default();
        }
        files.sort_by(|one, two| raw_components(&one.path).cmp(raw_components(&two.path)));
        diff.files = Some(files);
    }
}

fn place_of(data: &[Stretch], layers: &[LayerInfo]) -> Option<Place> {
    let first = data.first()?;
    let layer = layer_at(layers, ChunkIndex(u32::try_from(first.at / CHUNK).ok()?))?;
    let block = first.at / BLOCK - u64::from(layers[layer].first_chunk) * CHUNK_BLOCKS;
    Some(Place { layer, block, blocks: data.iter().map(|part| (part.to - part.from).div_ceil(BLOCK)).sum() })
}

/// Which bytes of a file are on the device.
fn shape(found: &Option<Found>) -> Vec<(u64, u64)> {
    found.iter().flat_map(|found| &found.data).map(|part| (part.from, part.to)).collect()
}

/// Whether the bytes of both stand elsewhere on the device.
fn is_elsewhere(pair: &Pair<'_>) -> bool {
    let data = |found: &Option<Found>| found.as_ref().map(|found| found.data.clone());
    data(&pair.a) != data(&pair.b)
}

/// Why the inode of the second image, or the place of the first's, is another; `None` where it is the same.
fn why_of_inode(pair: &Pair<'_>) -> Option<Why> {
    let (Some(a), Some(b)) = (&pair.a, &pair.b) else {
        return Some(if pair.a.is_none() { Why::Added } else { Why::Removed });
    };
    let (a, b) = (&a.node.stat, &b.node.stat);
    match () {
        () if pair.changes.iter().any(|change| !change.is_metadata()) => Some(Why::Content),
        () if pair.other_entries => Some(Why::Entries),
        () if !pair.changes.is_empty() => Some(Why::Metadata),
        () if a.ino != b.ino => Some(Why::Moved),
        () if is_elsewhere(pair) => Some(Why::Address),
        () => None,
    }
}

/// Which layer of the one image is which of the other.
#[derive(Debug, Default, PartialEq, Eq)]
struct Belonging {
    of_a: BTreeMap<usize, usize>,
    of_b: BTreeMap<usize, usize>,
}

impl Belonging {
    fn insert(&mut self, a: usize, b: usize) {
        self.of_a.insert(a, b);
        self.of_b.insert(b, a);
    }
}

/// By DiffID; the others by how many files they have in common, most first.
fn belonging(rows: &[LayerDiff], placed: &[Placed]) -> Belonging {
    let mut belonging = Belonging::default();
    for (a, b) in rows.iter().filter_map(|row| Some((row.a?, row.b?))) {
        belonging.insert(a, b);
    }
    let mut common = BTreeMap::<(usize, usize), u64>::new();
    for (a, b) in placed.iter().filter_map(|file| Some((file.a?.layer, file.b?.layer))) {
        *common.entry((a, b)).or_default() += 1;
    }
    let mut common: Vec<_> = common.into_iter().collect();
    common.sort_by_key(|&((a, b), count)| (std::cmp::Reverse(count), a.abs_diff(b)));
    for ((a, b), _) in common {
        if !belonging.of_a.contains_key(&a) && !belonging.of_b.contains_key(&b) {
            belonging.insert(a, b);
        }
    }
    belonging
}

/// The files that moved with the same bytes, by their number in `placed`.
fn moves(placed: &[Placed], belonging: &Belonging, layers: usize) -> BTreeMap<usize, Move> {
    let mut moves = BTreeMap::new();
    for layer in 0..layers {
        match belonging.of_b.get(&layer) {
            Some(&before) => moves_within(placed, before, layer, &mut moves),
            None => {
                let here = placed.iter().enumerate().filter(|(_, file)| file.b.is_some_and(|b| b.layer == layer));
                moves.extend(
                    here.filter(|(_, file)| file.a.is_some() && !file.changed).map(|(n, _)| (n, Move::Elsewhere)),
                );
            }
        }
    }
    moves
}

/// Goes through a layer of both images in the order of their data, and keeps in mind what last shifted those behind it.
fn moves_within(placed: &[Placed], layer_a: usize, layer_b: usize, moves: &mut BTreeMap<usize, Move>) {
    let in_order = |of: fn(&Placed) -> Option<Place>, layer: usize| {
        let here =
            placed.iter().enumerate().filter_map(|(n, file)| Some((of(file).filter(|at| at.layer == layer)?, n)));
        let mut here: Vec<(Place, usize)> = here.collect();
        here.sort_by_key(|(place, number)| (place.block, *number));
        here
    };
    let in_a = in_order(|file| file.a, layer_a);
    let at_a: BTreeMap<usize, usize> = in_a.iter().enumerate().map(|(at, (_, number))| (*number, at)).collect();
    let (mut next_a, mut shift) = (0, None);
    for (place, number) in in_order(|file| file.b, layer_b) {
        let file = &placed[number];
        let Some(&at) = at_a.get(&number) else {
            if file.a.is_some() && !file.changed {
                moves.insert(number, Move::Elsewhere);
            }
            shift = Some((file.path.clone(), Shift::Added));
            continue;
        };
        let gone = in_a.get(next_a..at).unwrap_or_default().iter().rev();
        let gone = gone.map(|(_, number)| &placed[*number]).find(|file| file.b.is_none_or(|b| b.layer != layer_b));
        shift = gone.map(|gone| (gone.path.clone(), Shift::Removed)).or(shift);
        next_a = next_a.max(at + 1);
        let before = in_a[at].0;
        if !file.changed && before.block != place.block {
            let moved = shift.clone().map_or(Move::Elsewhere, |(path, shift)| Move::Behind(path, shift));
            moves.insert(number, moved);
        } else if !file.changed && file.other_holes {
            moves.insert(number, Move::Holes);
        }
        if before.blocks != place.blocks {
            shift = Some((file.path.clone(), Shift::Resized));
        }
    }
}

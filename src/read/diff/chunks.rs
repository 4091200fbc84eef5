//! What two manifests say: settings, config, layers, chunks.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::{Cause, Diff, NewChunk};
use crate::ChunkIndex;
use crate::digest::Sha256;
use crate::fs::ext4::layout::{EPOCH, Region};
use crate::manifest::{ChunkRef, Clear, LayerInfo, OpenManifest};

/// Chunks and their stored bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Count {
    /// How many.
    pub chunks: u64,
    /// Their bytes as stored.
    pub bytes: u64,
}

impl Count {
    /// One more.
    pub fn add(&mut self, bytes: u64) {
        self.chunks += 1;
        self.bytes += bytes;
    }
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { chunks: self.chunks + other.chunks, bytes: self.bytes + other.bytes }
    }
}

/// Distinct chunks by who has them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Shares {
    /// The first image alone.
    pub only_a: Count,
    /// The second image alone.
    pub only_b: Count,
    /// Both.
    pub both: Count,
}

/// Distinct chunks by what they hold at their first place.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Before the data.
    pub metadata: Shares,
    /// In segments.
    pub data: Shares,
}

impl Totals {
    /// Both kinds.
    #[must_use]
    pub fn all(&self) -> Shares {
        let Self { metadata: one, data: two } = self;
        Shares { only_a: one.only_a + two.only_a, only_b: one.only_b + two.only_b, both: one.both + two.both }
    }

    fn of(&mut self, is_data: bool) -> &mut Shares {
        if is_data { &mut self.data } else { &mut self.metadata }
    }
}

/// A layer of either image or both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerDiff {
    /// The digest of its tar.
    pub diff_id: Sha256,
    /// Its place in the first image, the base being 0.
    pub a: Option<usize>,
    /// Its place in the second image.
    pub b: Option<usize>,
    /// Chunks of its segment, in the second image where that has it.
    pub chunks: u32,
    /// Distinct ones that the second image alone has; of a layer that is gone, the first alone.
    pub only: Count,
}

/// What the manifests say differently.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Setting {
    /// Its name.
    pub name: &'static str,
    /// Of the first.
    pub a: String,
    /// Of the second.
    pub b: String,
    /// Whether equal content has other chunks for it, or is stored apart.
    pub parts: bool,
}

pub(super) fn compare(a: &OpenManifest, b: &OpenManifest) -> Diff {
    let settings = settings(&a.clear, &b.clear);
    let mut totals = Totals::default();
    let mut layers = layers(&a.sealed.layers, &b.sealed.layers);
    let mut new = Vec::new();
    let (in_a, in_b) = (first_places(a), first_places(b));
    // Under another root an equal chunk is another object.
    let kept_apart = a.clear.root != b.clear.root;
    for chunk in in_a.values() {
        let bytes = u64::from(chunk.stored);
        if kept_apart || !in_b.contains_key(&chunk.name) {
            totals.of(chunk.index.0 >= data_start(a)).only_a.add(bytes);
            let layer = layer_at(&a.sealed.layers, chunk.index);
            let gone = layers.iter_mut().find(|row| row.b.is_none() && row.a == layer && layer.is_some());
            if let Some(gone) = gone {
                gone.only.add(bytes);
            }
        }
    }
    let sealed_apart = settings.iter().any(|setting| setting.parts);
    for chunk in in_b.values() {
        let (bytes, shares) = (u64::from(chunk.stored), totals.of(chunk.index.0 >= data_start(b)));
        if !kept_apart && in_a.contains_key(&chunk.name) {
            shares.both.add(bytes);
            continue;
        }
        shares.only_b.add(bytes);
        let layer = layer_at(&b.sealed.layers, chunk.index);
        if let Some(layer) = layer {
            layers[layer].only.add(bytes);
        }
        let cause = match (sealed_apart, layer) {
            (true, _) => Cause::Sealing,
            (false, Some(layer)) if layers[layer].a.is_some() => Cause::OldLayer,
            (false, Some(_)) => Cause::NewLayer,
            (false, None) => zone_of(b, chunk.index).map_or(Cause::Metadata, Cause::Zone),
        };
        new.push(NewChunk { index: chunk.index, bytes, layer, cause, touches: Vec::new() });
    }
    new.sort_by_key(|chunk| chunk.index);
    Diff {
        settings,
        config: config(&a.sealed.config, &b.sealed.config),
        same_root_digest: a.clear.root_digest == b.clear.root_digest,
        totals,
        layers,
        new,
        files: None,
    }
}

fn settings(a: &Clear, b: &Clear) -> Vec<Setting> {
    let of = |clear: &Clear| {
        let recipe = &clear.recipe;
        [
            ("epoch", recipe.epoch.to_string(), false),
            ("compression", recipe.codec.to_string(), true),
            ("compression_version", recipe.codec_version.to_string(), false),
            ("free_bytes", recipe.free.to_string(), false),
            ("platform", recipe.platform.clone(), false),
            ("scope_id", clear.scope.to_string(), true),
            ("root", clear.root.as_str().to_owned(), true),
            ("application", clear.application.clone(), false),
        ]
    };
    let differ = of(a).into_iter().zip(of(b)).filter(|((_, a, _), (_, b, _))| a != b);
    differ.map(|((name, a, parts), (_, b, _))| Setting { name, a, b, parts }).collect()
}

/// The names of the config's fields that differ, not what they say: there may be secrets in them.
fn config(a: &str, b: &str) -> Vec<String> {
    if a == b {
        return Vec::new();
    }
    let fields = |text: &str| {
        let mut fields = BTreeMap::new();
        let value = serde_json::from_str(text).unwrap_or_default();
        for (name, value) in object(&value) {
            match (name.as_str(), object(value)) {
                ("config", below) => fields.extend(below.map(|(name, value)| (name.clone(), value.clone()))),
                _ => _ = fields.insert(name.clone(), value.clone()),
            }
        }
        fields
    };
    let (a, b) = (fields(a), fields(b));
    let names: BTreeSet<_> = a.keys().chain(b.keys()).collect();
    names.into_iter().filter(|name| a.get(*name) != b.get(*name)).cloned().collect()
}

fn object(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flatten()
}

/// Layers of one DiffID are the same, the first with the first.
fn layers(a: &[LayerInfo], b: &[LayerInfo]) -> Vec<LayerDiff> {
    let row = |layer: &LayerInfo, a, b| LayerDiff {
        diff_id: layer.diff_id,
        a,
        b,
        chunks: layer.chunks,
        only: Count::default(),
    };
    let mut left: Vec<usize> = (0..a.len()).collect();
    let mut rows = Vec::with_capacity(b.len());
    for (place, layer) in b.iter().enumerate() {
        let same = left.iter().position(|&at| a[at].diff_id == layer.diff_id).map(|at| left.remove(at));
        rows.push(row(layer, same, Some(place)));
    }
    rows.extend(left.into_iter().map(|at| row(&a[at], Some(at), None)));
    rows
}

/// Every name once, with the first of its places.
fn first_places(manifest: &OpenManifest) -> BTreeMap<Sha256, &ChunkRef> {
    manifest.sealed.chunks.iter().rev().map(|chunk| (chunk.name, chunk)).collect()
}

/// The chunk at which the first segment starts.
fn data_start(manifest: &OpenManifest) -> u32 {
    manifest.sealed.layers.first().map_or(manifest.sealed.device_chunks, |layer| layer.first_chunk)
}

/// In whose segment a chunk is.
pub(super) fn layer_at(layers: &[LayerInfo], chunk: ChunkIndex) -> Option<usize> {
    layers.iter().position(|layer| chunk.0.checked_sub(layer.first_chunk).is_some_and(|at| at < layer.chunks))
}

fn zone_of(manifest: &OpenManifest, chunk: ChunkIndex) -> Option<Region> {
    let known = manifest.clear.recipe.epoch == EPOCH;
    Region::of(chunk, manifest.sealed.device_chunks, data_start(manifest)).filter(|_| known)
}

//! A small image whose every byte is known: 24 chunks, some all zero, each with a pattern of its own at its beginning.

use std::sync::{Arc, OnceLock};

use crate::crypto::Secret;
use crate::crypto::convergent::{Salt, ScopeId, seal};
use crate::crypto::packed::{Codec, Packer};
use crate::digest::{Blake3, Sha256};
use crate::manifest::{ChunkRef, Clear, OpenManifest, Recipe, Sealed};
use crate::sync::scheduler::Random;
use crate::{CHUNK_SIZE, ChunkIndex};

pub(super) const CHUNKS: u32 = 24;
const ZEROS: [u32; 3] = [3, 4, 17];
/// Longest pattern; what is behind it in a chunk is zero.
pub(super) const PATTERN: usize = 12 << 10;

/// An image, and what a store has of it.
pub(super) struct Image {
    pub(super) manifest: OpenManifest,
    /// By the chunk's index: its object.
    sealed: Vec<Vec<u8>>,
    /// By the chunk's index: what it begins with.
    patterns: Vec<Vec<u8>>,
}

impl Image {
    /// Returns the image; it is made once.
    pub(super) fn get() -> Arc<Self> {
        static IMAGE: OnceLock<Arc<Image>> = OnceLock::new();
        Arc::clone(IMAGE.get_or_init(|| Arc::new(Self::make())))
    }

    fn make() -> Self {
        let salt = Salt::new(Secret::from_bytes([7; 32]));
        let patterns: Vec<Vec<u8>> = (0..CHUNKS).map(pattern).collect();
        let (mut chunks, mut sealed) = (Vec::new(), Vec::new());
        for (index, pattern) in (0..CHUNKS).zip(&patterns) {
            let mut chunk = pattern.clone();
            chunk.resize(CHUNK_SIZE as usize, 0);
            let mut packed = Packer::new(Codec::None).pack(&mut chunk).clone();
            let (key, name) = seal(&salt, &mut packed);
            if !pattern.is_empty() {
                let stored = u32::try_from(packed.len()).unwrap();
                chunks.push(ChunkRef { index: ChunkIndex(index), name, key, stored });
            }
            sealed.push(packed);
        }
        Self { manifest: manifest(chunks), sealed, patterns }
    }

    /// Returns the index of the chunk with this name.
    pub(super) fn index_of(&self, name: Sha256) -> Option<ChunkIndex> {
        self.manifest.sealed.chunks.iter().find(|chunk| chunk.name == name).map(|chunk| chunk.index)
    }

    pub(super) fn object(&self, index: ChunkIndex) -> Vec<u8> {
        self.sealed[index.0 as usize].clone()
    }

    /// Returns the first byte from `offset` on where `bytes` are not those of the device.
    pub(super) fn difference(&self, offset: u64, bytes: &[u8]) -> Option<u64> {
        let (size, mut at) = (CHUNK_SIZE as usize, 0);
        while at < bytes.len() {
            let position = usize::try_from(offset).unwrap() + at;
            let (chunk, inside) = (position / size, position % size);
            let pattern = &self.patterns[chunk];
            let part = &bytes[at..bytes.len().min(at + size - inside)];
            let known = pattern.get(inside..).unwrap_or_default();
            let (with, zeros) = part.split_at(part.len().min(known.len()));
            if let Some(wrong) = with.iter().zip(known).position(|(is, should)| is != should) {
                return Some((position + wrong) as u64);
            }
            if let Some(wrong) = zeros.iter().position(|byte| *byte != 0) {
                return Some((position + with.len() + wrong) as u64);
            }
            at += part.len();
        }
        None
    }
}

/// Returns a chunk by chance.
pub(super) fn any_chunk(random: &mut Random) -> ChunkIndex {
    ChunkIndex(u32::try_from(random.below(CHUNKS as usize)).expect("there are few"))
}

fn pattern(index: u32) -> Vec<u8> {
    if ZEROS.contains(&index) {
        return Vec::new();
    }
    let length = PATTERN / (1 + index as usize % 5);
    let words = (0..).flat_map(|word: u32| (word.wrapping_mul(0x9E37_79B1) ^ (index + 1)).to_le_bytes());
    words.map(|byte| byte | 1).take(length).collect()
}

fn manifest(chunks: Vec<ChunkRef>) -> OpenManifest {
    let mut names: Vec<Sha256> = chunks.iter().map(|chunk| chunk.name).collect();
    names.sort_unstable();
    let sealed = Sealed {
        device_chunks: CHUNKS,
        chunks,
        image_digest: Blake3::from_bytes([7; 32]),
        config: String::new(),
        config_key: Secret::from_bytes([8; 32]),
        source: None,
        store: String::new(),
        layers: Vec::new(),
    };
    let recipe = Recipe { epoch: 1, codec: Codec::None, codec_version: 0, free: 0, platform: String::new() };
    let clear = Clear {
        recipe,
        root: "main".parse().unwrap(),
        scope: ScopeId::from_bytes([9; 16]),
        application: String::new(),
        root_digest: Sha256::from_bytes([1; 32]),
        names,
    };
    OpenManifest { clear, sealed }
}

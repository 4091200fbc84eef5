//! The two digests that identify an image (docs/reference/formats/block-manifest.md, "Digests").
//!
//! The **image digest** covers plaintext chunks and config, and is the same under every salt and codec. The **root digest** covers
//! recipe, geometry, every chunk's name and key, and a commitment to the config: a reader can check it before it reads a chunk.

use super::chunk_ref::ChunkRef;
use super::codec::Encoder;
use super::recipe::Recipe;
use crate::ChunkIndex;
use crate::crypto::Secret;
use crate::crypto::convergent::mac;
use crate::digest::{Blake3, Sha256};

const IMAGE_LABEL: &[u8] = b"coldpress image digest v1\n";
const UUID_LABEL: &[u8] = b"coldpress uuid v1\n";
const ROOT_LABEL: &[u8] = b"coldpress root digest v1\n";

/// A chunk that is not all zero, and the BLAKE3 digest of it without its trailing zeros.
pub type Leaf = (ChunkIndex, Blake3);

fn tree(label: &[u8], device_chunks: u32, leaves: &[Leaf], config: &[u8]) -> Blake3 {
    let mut out = Encoder::default();
    out.raw(label);
    out.u32(device_chunks);
    out.count(leaves.len());
    for (index, leaf) in leaves {
        out.u32(index.0);
        out.raw(leaf.as_bytes());
    }
    out.raw(config);
    Blake3::of(&out.0)
}

/// Returns the image digest of `leaves`, all chunks that are not zero, ascending, and of the config's normal form.
#[must_use]
pub fn image_digest(device_chunks: u32, leaves: &[Leaf], config: &str) -> Blake3 {
    tree(IMAGE_LABEL, device_chunks, leaves, Blake3::of(config.as_bytes()).as_bytes())
}

/// Returns the file system's UUID (RFC 9562, version 8), derived from all chunks; the first one with a UUID of zeros.
#[must_use]
pub fn uuid(device_chunks: u32, leaves: &[Leaf]) -> [u8; 16] {
    let digest = tree(UUID_LABEL, device_chunks, leaves, &[]);
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest.as_bytes()[..16]);
    uuid[6] = uuid[6] & 0x0F | 0x80;
    uuid[8] = uuid[8] & 0x3F | 0x80;
    uuid
}

/// Returns the root digest, which pins an image wherever its block manifest is read. `chunks` ascend.
#[must_use]
pub fn root_digest(
    recipe: &Recipe,
    device_chunks: u32,
    chunks: &[ChunkRef],
    config: &str,
    config_key: &Secret,
    image_digest: Blake3,
) -> Sha256 {
    let mut out = Encoder::default();
    out.raw(ROOT_LABEL);
    recipe.encode(&mut out);
    out.u32(device_chunks);
    out.count(chunks.len());
    for chunk in chunks {
        out.u32(chunk.index.0);
        out.raw(chunk.name.as_bytes());
        out.raw(chunk.key.expose());
    }
    out.raw(&mac(config_key, config.as_bytes()));
    out.raw(image_digest.as_bytes());
    let digest = Sha256::of(&out.0);
    zeroize::Zeroize::zeroize(&mut out.0);
    digest
}

//! Proof that a store has a whole image: every chunk is stored, authentic and can be decrypted, and all of them together with the config
//! give the image digest (the root digest was checked when the manifest was decoded).

use std::ops::ControlFlow;
use std::sync::Mutex;

use crate::crypto::packed::trimmed;
use crate::digest::Blake3;
use crate::manifest::OpenManifest;
use crate::manifest::root_digest::image_digest;
use crate::progress::Progress;
use crate::read::device::fetch_all;
use crate::store::Get;
use crate::{ChunkIndex, Error, ErrorKind, Result};

/// What was found.
#[derive(Debug)]
pub struct StoreReport {
    /// Chunks that were fetched and decrypted.
    pub good: usize,
    /// The chunks that are missing or damaged, ascending, with the error of each.
    pub bad: Vec<(ChunkIndex, Error)>,
    /// The image digest of all chunks together; `None` where one is bad.
    pub image_digest: Option<Blake3>,
}

/// Fetches every chunk of `manifest` from `store` with `threads` threads.
///
/// # Errors
/// `Unavailable` where the store cannot be asked; a chunk that is missing or wrong is no error, but in the report.
pub fn verify_store(
    manifest: &OpenManifest,
    store: &dyn Get,
    threads: usize,
    progress: &dyn Progress,
) -> Result<StoreReport> {
    let results = Mutex::new(Vec::new());
    fetch_all(manifest, store, threads, progress, &|at, chunk| {
        let leaf = chunk.map(|chunk| Blake3::of(trimmed(chunk)));
        let unavailable = leaf.as_ref().is_err_and(|error| error.kind() == ErrorKind::Unavailable);
        results.lock().expect("no thread panics with it").push((at, leaf));
        if unavailable { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    let mut results = results.into_inner().expect("no thread panics with it");
    results.sort_by_key(|(at, _)| *at);
    let (mut leaves, mut bad) = (Vec::new(), Vec::new());
    for (at, leaf) in results {
        match leaf {
            Ok(leaf) => leaves.push((manifest.sealed.chunks[at].index, leaf)),
            Err(error) if error.kind() == ErrorKind::Unavailable => return Err(error),
            Err(error) => bad.push((manifest.sealed.chunks[at].index, error)),
        }
    }
    let sealed = &manifest.sealed;
    let image_digest = bad.is_empty().then(|| image_digest(sealed.device_chunks, &leaves, &sealed.config));
    Ok(StoreReport { good: leaves.len(), bad, image_digest })
}

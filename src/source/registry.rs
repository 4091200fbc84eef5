//! An image in a registry: its manifest and config at once, its layers when they are read.
//!
//! Several blobs are on their way at a time, the layer that is read first in front; each goes to a file without a name and is
//! read behind its end. Blobs that nobody reads are never asked for.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use oci_spec::image::{Descriptor, ImageManifest};

use super::blob::MAX_DOCUMENT;
use super::index::{Chosen, Wanted, choose};
use super::oci_layout::{Content, config_of, descriptor_of, digest_of, images};
use super::spool::{Fetch, Spool};
use super::{Blob, Image, ImageConfig, Limits, Platform};
use crate::digest::{ContentDigest, Sha256};
use crate::printable::size;
use crate::registry::{Client, RegistryRef, Settings, artifact};
use crate::{Error, ErrorKind, Result};

/// Blobs on their way at a time.
const AT_ONCE: usize = 4;

/// Finds the image `reference`, and of it what is `wanted`.
pub(super) fn open(
    reference: &RegistryRef,
    wanted: Wanted<'_>,
    settings: &Settings,
    limits: Limits<'_>,
) -> Result<Vec<Image>> {
    let client = Arc::new(Client::new(reference, settings)?);
    let top = client.manifest(&reference.what())?;
    let descriptor = descriptor_of(&top.bytes, top.digest.into(), Some(&top.media_type))?;
    let manifests = BTreeMap::from([(top.digest, top.bytes)]);
    let pull = Pull { client: Arc::clone(&client), temp: limits.temp.to_owned(), state: Mutex::default() };
    let images = images(&Remote { client: &client, manifests, pull: Some(Arc::new(pull)) }, vec![descriptor], wanted)?;
    for image in &images {
        let stored = image.layers.iter().fold(0u64, |sum, layer| sum.saturating_add(layer.size.unwrap_or_default()));
        if stored > limits.max_size {
            let message =
                format!("its compressed layers have {}, more than --max-size {}", size(stored), size(limits.max_size));
            return Err(Error::new(ErrorKind::Input, message));
        }
    }
    Ok(images)
}

/// What a name in a registry leads to.
#[derive(Debug)]
pub enum Top {
    /// An image.
    Image {
        /// Of its platform.
        manifest: Box<Descriptor>,
        /// What it says of itself.
        config: ImageConfig,
    },
    /// A block manifest's artifact: its manifest.
    Artifact(Vec<u8>),
}

/// What `what`, a tag or a digest, is for `platform`; `None` where there is nothing.
///
/// # Errors
/// Those of the registry and of the image.
pub fn top_of(client: &Client, what: &str, platform: Option<&Platform>) -> Result<Option<Top>> {
    let top = match client.manifest(what) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    if ImageManifest::from_reader(&top.bytes[..]).is_ok_and(|manifest| artifact::is_artifact(&manifest)) {
        return Ok(Some(Top::Artifact(top.bytes)));
    }
    let remote = Remote { client, manifests: BTreeMap::from([(top.digest, top.bytes.clone())]), pull: None };
    let Chosen { descriptor, manifest } =
        choose(&remote, vec![descriptor_of(&top.bytes, top.digest.into(), Some(&top.media_type))?], platform)?;
    let config = config_of(&remote, &manifest)?;
    Ok(Some(Top::Image { manifest: Box::new(descriptor), config }))
}

/// The block manifests, of one root digest, that are beside the image `reference`, or the one that it names itself; with the root
/// digest `expect`, where one is given.
///
/// # Errors
/// `NotFound` where there is none; those of the registry.
pub fn block_manifest(
    reference: &RegistryRef,
    platform: Option<&Platform>,
    settings: &Settings,
    expect: Option<Sha256>,
) -> Result<Vec<Vec<u8>>> {
    let client = Client::new(reference, settings)?;
    let found = top_of(&client, &reference.what(), platform).and_then(|top| match top {
        None => Err(Error::new(ErrorKind::NotFound, "the registry has no such image")),
        Some(Top::Artifact(manifest)) => artifact::read(&client, &manifest).map(|bytes| vec![bytes]),
        Some(Top::Image { manifest, .. }) => {
            let digest = digest_of(&manifest)?.as_sha256().ok_or_else(|| {
                let message =
                    format!("{}: block manifests are attached to images of sha256 digests only", manifest.digest());
                Error::new(ErrorKind::Unsupported, message)
            });
            artifact::find(&client, digest?, expect)
        }
    });
    found.map_err(|error| error.within(reference))
}

struct Remote<'a> {
    client: &'a Client,
    /// Those that were read already.
    manifests: BTreeMap<Sha256, Vec<u8>>,
    /// For layers; without it, nothing but documents is read.
    pull: Option<Arc<Pull>>,
}

impl Content for Remote<'_> {
    fn manifest(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        let digest = digest_of(descriptor)?;
        if let Some(bytes) = digest.as_sha256().and_then(|digest| self.manifests.get(&digest)) {
            return Ok(bytes.clone());
        }
        let bytes = self.client.manifest(&digest.to_string())?.bytes;
        if bytes.len() as u64 != descriptor.size() {
            let message = format!(
                "manifest {digest}: its size is {} bytes, its descriptor says {}",
                bytes.len(),
                descriptor.size()
            );
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        Ok(bytes)
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Blob> {
        let (digest, size) = (digest_of(descriptor)?, descriptor.size());
        let pull = self.pull.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "no layer is asked for here"))?;
        let spool = Spool::new(&pull.temp, Some(size));
        let mut state = pull.state();
        state.blobs.push((digest, size, Arc::clone(&spool)));
        let number = state.blobs.len() - 1;
        Ok(Blob::fetched(&format!("blob {digest}"), Arc::clone(pull) as _, number, spool, Some(size)))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>> {
        self.client.blob_bytes(digest_of(descriptor)?, descriptor.size(), MAX_DOCUMENT)
    }
}

/// What pulls blobs.
struct Pull {
    client: Arc<Client>,
    temp: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    blobs: Vec<(ContentDigest, u64, Arc<Spool>)>,
    wanted: BTreeSet<usize>,
    waiting: VecDeque<usize>,
    running: usize,
}

impl Pull {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }

    /// Pulls what waits, until nothing does.
    fn work(&self) {
        loop {
            let (digest, size, spool) = {
                let mut state = self.state();
                let Some(number) = state.waiting.pop_front() else {
                    state.running -= 1;
                    return;
                };
                state.blobs[number].clone()
            };
            let pulled = self.client.blob(digest, size, &|| spool.written(), &mut |bytes| spool.write(bytes));
            // Its reader names the blob.
            let named = format!("blob {digest}: ");
            let unnamed = |error: Error| {
                let message = error.chain();
                let unnamed = Error::new(error.kind(), message.strip_prefix(&named).unwrap_or(&message));
                error.hint().into_iter().fold(unnamed, Error::with_hint)
            };
            spool.end(pulled.map_err(unnamed));
        }
    }
}

impl Fetch for Pull {
    fn want(self: Arc<Self>, number: usize) {
        let mut state = self.state();
        if !state.wanted.insert(number) {
            return;
        }
        state.waiting.push_back(number);
        if state.running < AT_ONCE {
            state.running += 1;
            drop(state);
            let puller = Arc::clone(&self);
            let thread = std::thread::Builder::new().name("pull".to_owned()).spawn(move || puller.work());
            if let Err(error) = thread {
                let mut state = self.state();
                state.running -= 1;
                // Those that run take it; if none does, its reader hears of it.
                if state.running == 0 {
                    let error = Error::io("a thread that pulls blobs", error);
                    state.blobs[number].2.end(Err(error));
                }
            }
        }
    }

    fn begin(self: Arc<Self>) {}
}

//! `coldpress export`.

use std::os::unix::fs::FileExt;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use coldpress::manifest::OpenManifest;
use coldpress::progress::{Progress, Stage};
use coldpress::read::device::fetch;
use coldpress::store::Get;
use coldpress::{CHUNK_SIZE, Error};
use serde_json::json;

use crate::args::{Cli, ExportArgs};
use crate::output;
use crate::shared::failure::CommandResult;
use crate::size::show;

const BLOCK: usize = 4096;

/// Writes bytes at an offset of the file.
type Write<'a> = dyn Fn(u64, &[u8]) -> Result<(), Error> + Sync + 'a;

pub fn run(cli: &Cli, args: &ExportArgs) -> CommandResult {
    let key = args.key.require()?;
    let manifest = args.manifest.open(&key)?;
    let store = args.store.open(&manifest)?;
    let file = output::aside(&args.output)?;
    file.as_file().set_len(manifest.device_bytes()).map_err(|error| Error::file(&args.output, error))?;
    let progress = output::progress(cli);
    let write = |offset, bytes: &[u8]| {
        file.as_file().write_all_at(bytes, offset).map_err(|error| Error::file(&args.output, error))
    };
    copy(&manifest, &store, args.threads.threads(), &*progress, &write)?;
    output::into_place(file, &args.output)?;
    let text = format!(
        "{}: {} ({} chunks)\n",
        args.output.display(),
        show(manifest.device_bytes()),
        manifest.sealed.chunks.len()
    );
    let json = json!({
        "output": args.output,
        "device_bytes": manifest.device_bytes(),
        "chunks": manifest.sealed.chunks.len(),
        "root_digest": manifest.clear.root_digest,
        "image_digest": manifest.sealed.image_digest,
    });
    Ok(output::result(cli, &text, &json)?)
}

/// Fetches all chunks, and writes the blocks of them that are not zero.
fn copy(
    manifest: &OpenManifest,
    store: &dyn Get,
    threads: usize,
    progress: &dyn Progress,
    write: &Write<'_>,
) -> Result<(), Error> {
    let chunks = &manifest.sealed.chunks;
    progress.begin(Stage::Fetch, chunks.len() as u64 * u64::from(CHUNK_SIZE));
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                let mut buf = vec![0; CHUNK_SIZE as usize];
                while let Some(wanted) = chunks.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let copied = fetch(manifest, store, wanted, &mut buf)
                        .and_then(|()| sparse(wanted.index.byte_offset(), &buf, write));
                    if let Err(error) = copied {
                        next.store(chunks.len(), Ordering::Relaxed);
                        failed.lock().expect("no thread panics with it").get_or_insert(error);
                    }
                    progress.advance(Stage::Fetch, CHUNK_SIZE.into());
                }
            });
        }
    });
    progress.end(Stage::Fetch);
    failed.into_inner().expect("no thread panics with it").map_or(Ok(()), Err)
}

/// Writes the runs of blocks that are not zero.
fn sparse(offset: u64, chunk: &[u8], write: &Write<'_>) -> Result<(), Error> {
    let is_zero = |block: &[u8; BLOCK]| block.iter().all(|&byte| byte == 0);
    let (blocks, _) = chunk.as_chunks::<BLOCK>();
    let mut at = offset;
    for run in blocks.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        if !is_zero(&run[0]) {
            write(at, run.as_flattened())?;
        }
        at += run.as_flattened().len() as u64;
    }
    Ok(())
}

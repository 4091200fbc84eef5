//! `coldpress export`.

use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Mutex;

use coldpress::Error;
use coldpress::manifest::OpenManifest;
use coldpress::progress::Progress;
use coldpress::read::device::fetch_all;
use coldpress::store::Get;
use serde_json::json;

use crate::args::{Cli, ExportArgs};
use crate::output;
use crate::shared::failure::CommandResult;
use crate::shared::files::write_whole;
use crate::size::show;

const BLOCK: usize = 4096;

/// Writes bytes at an offset of the file.
type Write<'a> = dyn Fn(u64, &[u8]) -> Result<(), Error> + Sync + 'a;

pub fn run(cli: &Cli, args: &ExportArgs) -> CommandResult {
    let key = args.from.key.require()?;
    let manifest = args.from.manifest.open(&*key)?;
    let store = args.from.store.open(&manifest)?;
    let progress = output::progress(cli);
    let fail = |error| Error::file(&args.output, error);
    write_whole(&args.output, |file| {
        file.set_len(manifest.device_bytes()).map_err(fail)?;
        let write = |offset, bytes: &[u8]| file.write_all_at(bytes, offset).map_err(fail);
        copy(&manifest, &*store, args.threads.threads(), &*progress, &write)
    })?;
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
    let failed = Mutex::new(None);
    fetch_all(manifest, store, threads, progress, &|at, chunk| {
        let offset = manifest.sealed.chunks[at].index.byte_offset();
        match chunk.and_then(|chunk| sparse(offset, chunk, write)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => {
                failed.lock().expect("no thread panics with it").get_or_insert(error);
                ControlFlow::Break(())
            }
        }
    });
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

//! `coldpress export`: the block image as a sparse file, on a block device, or as a stream.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Condvar, Mutex, MutexGuard};

use coldpress::fs::ext4::journal::{Block, add_journal};
use coldpress::fs::ext4::{BLOCK_SIZE, BlockAddr};
use coldpress::manifest::OpenManifest;
use coldpress::output_file::{self, Destination, Options};
use coldpress::progress::Progress;
use coldpress::read::ChunkDevice;
use coldpress::read::device::fetch_all;
use coldpress::store::Get;
use coldpress::{CHUNK_SIZE, ChunkIndex, Error, ErrorKind};
use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;
use serde_json::json;

use crate::args::{Cli, ExportArgs};
use crate::output;
use crate::shared::failure::CommandResult;
use crate::size::show;

const BLOCK: usize = BLOCK_SIZE as usize;
/// Zeros that are written at a time.
static ZEROS: [u8; 1 << 16] = [0; 1 << 16];
/// The content may be secret, so the file is for this user alone.
const MODE: u32 = 0o600;

pub fn run(cli: &Cli, args: &ExportArgs) -> CommandResult {
    let path = output::named(&args.output);
    let destination = Destination::of(path)?;
    let key = args.from.key.require()?;
    let manifest = args.from.manifest.open(&*key)?;
    let store = args.from.store.open(&manifest)?;
    let journal = match args.journal {
        Some(size) => add_journal(&ChunkDevice::plain(manifest.clone(), args.from.store.open(&manifest)?), size.0)?,
        None => BTreeMap::new(),
    };
    let progress = output::progress(cli);
    let changes = Changes::of(journal);
    let threads = args.threads.threads();
    let export = Export { manifest: &manifest, store: &*store, threads, progress: &*progress, changes };
    export.to(&destination)?;
    let next = match &destination {
        Destination::File(_) => format!("next: sudo mount -o loop,ro {} DIR\n", path.display()),
        Destination::BlockDevice(_) => format!("next: sudo mount -o ro {} DIR\n", path.display()),
        _ => String::new(),
    };
    let (size, chunks) = (show(manifest.device_bytes()), manifest.sealed.chunks.len());
    let text = format!("{}: {size} ({chunks} chunks)\n{next}", path.display());
    let json = json!({
        "output": path,
        "device_bytes": manifest.device_bytes(),
        "chunks": manifest.sealed.chunks.len(),
        "root_digest": manifest.clear.root_digest,
        "image_digest": manifest.sealed.image_digest,
        "journal_bytes": args.journal.map(|size| size.0),
    });
    Ok(output::result_beside(cli, &destination, &text, &json)?)
}

/// An image, and what fetches it.
struct Export<'a> {
    manifest: &'a OpenManifest,
    store: &'a dyn Get,
    threads: usize,
    progress: &'a dyn Progress,
    changes: Changes,
}

/// The blocks of an image that its export does not take from the store, by chunk.
struct Changes(BTreeMap<ChunkIndex, Vec<(usize, Block)>>);

impl Changes {
    fn of(blocks: BTreeMap<BlockAddr, Block>) -> Self {
        let mut chunks: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (addr, block) in blocks {
            let in_chunk = CHUNK_SIZE / BLOCK_SIZE;
            let at = (addr.0 % in_chunk) as usize * BLOCK;
            chunks.entry(ChunkIndex(addr.0 / in_chunk)).or_default().push((at, block));
        }
        Self(chunks)
    }

    /// Applies the changes of the chunk `index` to its bytes.
    fn apply<'b>(&self, index: ChunkIndex, bytes: &'b [u8]) -> Cow<'b, [u8]> {
        let mut bytes = Cow::Borrowed(bytes);
        for (at, block) in self.0.get(&index).into_iter().flatten() {
            bytes.to_mut()[*at..*at + BLOCK].copy_from_slice(block);
        }
        bytes
    }
}

/// Takes an image's chunks, by several threads in any order.
trait Sink: Sync {
    /// Writes the chunk `number` at `offset`; between `end`, where the chunk before it ends, and `offset` are zeros.
    fn chunk(&self, number: usize, end: u64, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    /// Writes zeros from `end`, where the last chunk ends, to `length`, the end of the device.
    fn end(&self, end: u64, length: u64) -> Result<(), Error>;

    /// Ends waiting: a chunk will not come.
    fn stop(&self) {}
}

impl Export<'_> {
    fn to(&self, destination: &Destination) -> Result<(), Error> {
        match destination {
            Destination::File(path) => {
                let options = Options { mode: MODE, sync: false };
                output_file::replace(path, options, |file| {
                    file.set_len(self.manifest.device_bytes()).map_err(|error| Error::file(path, error))?;
                    let bytes = self.manifest.sealed.chunks.len() as u64 * u64::from(CHUNK_SIZE);
                    self.copy(&SparseFile { path, file, bytes })
                })
            }
            Destination::BlockDevice(path) => {
                let device = output_file::open_block_device(path, self.manifest.device_bytes())?;
                let written = self.copy(&Device(path, &device));
                let written = written.and_then(|()| device.sync_all().map_err(|error| Error::file(path, error)));
                written
                    .map_err(|error| error.within(format!("{}: the device was written in part only", path.display())))
            }
            Destination::Stream(path) | Destination::Descriptor(path) => {
                let file = output_file::open_stream(path)?;
                let stream = Stream { path, file, turn: Mutex::default(), moved: Condvar::new() };
                self.copy(&stream).map_err(|error| output_file::not_all_was_read(path, error))
            }
        }
    }

    /// Fetches all chunks, and gives them to `sink`.
    fn copy(&self, sink: &dyn Sink) -> Result<(), Error> {
        let (failed, stored) = (Mutex::new(None), &self.manifest.sealed.chunks);
        // Chunks of the image that are zero have no bytes in the store, but some have changes.
        let mut written: BTreeSet<ChunkIndex> = stored.iter().map(|chunk| chunk.index).collect();
        written.extend(self.changes.0.keys());
        let written: Vec<ChunkIndex> = written.into_iter().collect();
        let end_of = |before: usize| {
            let last = before.checked_sub(1).map(|at| written[at].byte_offset() + u64::from(CHUNK_SIZE));
            last.unwrap_or_default()
        };
        let number_of = |index: ChunkIndex| written.partition_point(|other| *other < index);
        let write = |number: usize, bytes: &[u8]| {
            let index = written[number];
            sink.chunk(number, end_of(number), index.byte_offset(), &self.changes.apply(index, bytes))
        };
        // Writes the chunks between the stored chunk before `at` and the chunk `number`.
        let write_zero_chunks = |at: usize, number: usize| {
            let first = at.checked_sub(1).map_or(0, |before| number_of(stored[before].index) + 1);
            (first..number).try_for_each(|number| write(number, &[0; CHUNK_SIZE as usize]))
        };
        fetch_all(self.manifest, self.store, self.threads, self.progress, &|at, chunk| {
            let number = number_of(stored[at].index);
            let done = chunk.and_then(|chunk| write_zero_chunks(at, number).and_then(|()| write(number, chunk)));
            match done {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => {
                    failed.lock().expect("no thread panics with it").get_or_insert(error);
                    sink.stop();
                    ControlFlow::Break(())
                }
            }
        });
        match failed.into_inner().expect("no thread panics with it") {
            Some(error) => Err(error),
            None => {
                write_zero_chunks(stored.len(), written.len())?;
                sink.end(end_of(written.len()), self.manifest.device_bytes())
            }
        }
    }
}

/// Calls `write` with each run of blocks of `chunk`, its offset, and whether it is all zero.
fn each_run(
    offset: u64,
    chunk: &[u8],
    mut write: impl FnMut(u64, &[u8], bool) -> Result<(), Error>,
) -> Result<(), Error> {
    let is_zero = |block: &[u8; BLOCK]| block.iter().all(|&byte| byte == 0);
    let (blocks, _) = chunk.as_chunks::<BLOCK>();
    let mut at = offset;
    for run in blocks.chunk_by(|a, b| is_zero(a) == is_zero(b)) {
        write(at, run.as_flattened(), is_zero(&run[0]))?;
        at += run.as_flattened().len() as u64;
    }
    Ok(())
}

/// A new file of the device's length: what is not written is a hole.
struct SparseFile<'a> {
    path: &'a Path,
    file: &'a File,
    /// Bytes of the chunks that are written.
    bytes: u64,
}

impl Sink for SparseFile<'_> {
    fn chunk(&self, _: usize, _: u64, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        each_run(offset, bytes, |at, run, zero| match zero {
            true => Ok(()),
            false => self.file.write_all_at(run, at).map_err(|error| Error::file_of(self.path, self.bytes, error)),
        })
    }

    fn end(&self, _: u64, _: u64) -> Result<(), Error> {
        Ok(())
    }
}

/// A block device, which keeps what is not written: zeros are written, too.
struct Device<'a>(&'a Path, &'a File);

impl Device<'_> {
    fn zero(&self, from: u64, to: u64) -> Result<(), Error> {
        if from == to {
            return Ok(());
        }
        // The kernel does it by a discard or a command of the device where it can.
        let zeroed = fallocate(self.1, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE, from, to - from);
        let zeroed = match zeroed {
            Err(Errno::OPNOTSUPP | Errno::INVAL | Errno::NODEV) => self.write_zeros(from, to),
            zeroed => zeroed.map_err(Into::into),
        };
        zeroed.map_err(|error| Error::file(self.0, error))
    }

    fn write_zeros(&self, mut from: u64, to: u64) -> std::io::Result<()> {
        while from < to {
            let length = (to - from).min(ZEROS.len() as u64);
            self.1.write_all_at(&ZEROS[..usize::try_from(length).expect("is that of a buffer")], from)?;
            from += length;
        }
        Ok(())
    }
}

impl Sink for Device<'_> {
    fn chunk(&self, _: usize, end: u64, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        self.zero(end, offset)?;
        each_run(offset, bytes, |at, run, zero| match zero {
            true => self.zero(at, at + run.len() as u64),
            false => self.1.write_all_at(run, at).map_err(|error| Error::file(self.0, error)),
        })
    }

    fn end(&self, end: u64, length: u64) -> Result<(), Error> {
        self.zero(end, length)
    }
}

/// A character device, FIFO or open file, which is written front to back: each thread waits for its chunk's turn.
struct Stream<'a> {
    path: &'a Path,
    file: File,
    turn: Mutex<Turn>,
    moved: Condvar,
}

#[derive(Default)]
struct Turn {
    /// The number of the chunk that is next.
    next: usize,
    stopped: bool,
}

impl Stream<'_> {
    fn turn(&self) -> MutexGuard<'_, Turn> {
        self.turn.lock().expect("no thread panics with it")
    }

    fn write(&self, bytes: &[u8]) -> Result<(), Error> {
        (&self.file).write_all(bytes).map_err(|error| Error::file(self.path, error))
    }

    fn zeros(&self, mut length: u64) -> Result<(), Error> {
        while length > 0 {
            let part = length.min(ZEROS.len() as u64);
            self.write(&ZEROS[..usize::try_from(part).expect("is that of a buffer")])?;
            length -= part;
        }
        Ok(())
    }
}

impl Sink for Stream<'_> {
    fn chunk(&self, number: usize, end: u64, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        // Chunks are handed out in ascending order, so the one whose turn it is is under way.
        let waiting = |turn: &mut Turn| turn.next != number && !turn.stopped;
        let mut turn = self.moved.wait_while(self.turn(), waiting).expect("no thread panics with it");
        if turn.stopped {
            return Err(Error::new(ErrorKind::Internal, "another chunk failed"));
        }
        self.zeros(offset - end)?;
        self.write(bytes)?;
        turn.next += 1;
        drop(turn);
        self.moved.notify_all();
        Ok(())
    }

    fn end(&self, end: u64, length: u64) -> Result<(), Error> {
        self.zeros(length - end)
    }

    fn stop(&self) {
        self.turn().stopped = true;
        self.moved.notify_all();
    }
}

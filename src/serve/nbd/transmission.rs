//! NBD's requests and their answers.
//!
//! What is in memory is answered by the thread that reads the requests, and so are whole blocks that are written; what must be fetched,
//! also what is around parts of blocks, goes to threads that wait, so that one miss delays nobody else. Where no thread can be started,
//! the thread that reads the requests waits itself.
//!
//! Data passes in pieces of at most [`PIECE`] bytes, in buffers that all clients share.

use std::io::{self, BufReader, Read, Write};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use super::super::Watch;
use super::super::buffers::{Account, PIECE};
use super::patience::Patient;
use super::workers::Workers;
use super::{BLOCK, MAX_DATA, array, broken, u32_of};
use crate::fs::{BlockDevice, WritableDevice};
use crate::{Error, ErrorKind};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Data of a write is received in pieces of this size.
const WRITE_PIECE: u32 = 256 << 10;

mod command {
    pub(super) const READ: u16 = 0;
    pub(super) const WRITE: u16 = 1;
    pub(super) const DISCONNECT: u16 = 2;
    pub(super) const FLUSH: u16 = 3;
    pub(super) const TRIM: u16 = 4;
    pub(super) const WRITE_ZEROES: u16 = 6;
}

mod errno {
    pub(super) const PERMISSION: u32 = 1;
    pub(super) const IO: u32 = 5;
    pub(super) const INVALID: u32 = 22;
    pub(super) const NO_SPACE: u32 = 28;
}

/// A request, without the data of a write.
struct Request {
    kind: u16,
    cookie: u64,
    offset: u64,
    length: u32,
}

/// Parts of blocks, and where they go.
type Parts = Vec<(u64, Vec<u8>)>;

/// What is left to do for a request by who may wait; of a write that is parts of the first and of the last block.
struct Job {
    request: Request,
    /// At most 8 KiB, in memory of their own: who waits for a thread holds no buffer that others wait for.
    parts: Parts,
}

fn request(from: &mut impl Read) -> io::Result<Option<Request>> {
    let mut magic = [0; 4];
    // Between two requests a client may simply leave.
    if from.read(&mut magic[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut magic[1..])?;
    if u32::from_be_bytes(magic) != REQUEST_MAGIC {
        return Err(broken("a request without the magic number"));
    }
    // Each is on its disk before it is answered, as far as it ever is, and zeros may always be holes.
    let _flags = array::<2>(from)?;
    let kind = array(from).map(u16::from_be_bytes)?;
    let cookie = array(from).map(u64::from_be_bytes)?;
    let offset = array(from).map(u64::from_be_bytes)?;
    Ok(Some(Request { kind, cookie, offset, length: u32_of(from)? }))
}

/// Answers all requests of a client; `hang_up` ends its connection in both directions.
pub(super) fn run<R: Read, W: Write + Send>(
    mut from: BufReader<Patient<'_, R>>,
    to: Patient<'_, W>,
    device: &dyn BlockDevice,
    client: &Client<'_>,
) -> io::Result<()> {
    let to = Mutex::new(to);
    let session = Session { to: &to, device, client, gone: AtomicBool::new(false), failed: Mutex::default() };
    let workers = Workers::new(client.threads);
    let ended = std::thread::scope(|scope| {
        // However this thread ends, the others do not wait for more from it.
        let _ending = OnDrop(|| workers.end());
        let start = || {
            let work = || session.work(&workers);
            std::thread::Builder::new().name("fetch".to_owned()).spawn_scoped(scope, work).is_ok()
        };
        session.requests(&mut from, &|job| workers.submit(job, start))
    });
    // What a thread hung up for is why nothing more could be read.
    let failed = session.failed.lock().expect("no thread panics with it").take();
    failed.map_or(ended, Err)
}

/// What serves one client.
pub(super) struct Client<'a> {
    /// Misses that may be under way.
    pub(super) threads: usize,
    pub(super) watch: &'a dyn Watch,
    pub(super) account: &'a Account<'a>,
    /// Ends the connection in both directions.
    pub(super) hang_up: &'a (dyn Fn() + Sync),
}

struct OnDrop<F: Fn()>(F);

impl<F: Fn()> Drop for OnDrop<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

struct Session<'a, W: Write> {
    to: &'a Mutex<Patient<'a, W>>,
    device: &'a dyn BlockDevice,
    client: &'a Client<'a>,
    /// What is answered reaches nobody any more.
    gone: AtomicBool,
    /// Why, where a thread that waits found out.
    failed: Mutex<Option<io::Error>>,
}

/// Hands a job to a thread that may wait, or gives it back where there is none.
type Submit<'s> = dyn Fn(Job) -> Option<Job> + 's;

impl<W: Write> Session<'_, W> {
    /// Answers requests until the client leaves; those that must wait for something are handed on.
    fn requests<R: Read>(&self, from: &mut BufReader<Patient<'_, R>>, submit: &Submit<'_>) -> io::Result<()> {
        while let Some(request) = request(from)? {
            if request.kind == command::DISCONNECT {
                break;
            }
            if let Some(job) = self.begin(request, from)?
                && let Some(job) = submit(job)
            {
                self.finish(&job)?;
            }
        }
        Ok(())
    }

    /// Answers a request, or says what is left to do before.
    fn begin<R: Read>(&self, request: Request, from: &mut BufReader<Patient<'_, R>>) -> io::Result<Option<Job>> {
        let Request { kind, cookie, offset, length } = request;
        let inside = offset.checked_add(length.into()).is_some_and(|end| end <= self.device.size());
        let later = |request, parts| Ok(Some(Job { request, parts }));
        match (kind, self.device.writable()) {
            (command::READ, _) if inside && length <= MAX_DATA => {
                let length = length as usize;
                if length > PIECE {
                    return later(request, Vec::new());
                }
                let mut buf = self.client.account.take(length);
                match self.device.read_at_hand(offset, &mut buf) {
                    true => self.answer(cookie, 0, &buf)?,
                    false => return later(request, Vec::new()),
                }
            }
            (command::WRITE, writable) => {
                if length > MAX_DATA {
                    return Err(broken("a write that is too long"));
                }
                // Also where it is refused: behind it begins the next request.
                let written = self.receive(from, offset, length, writable.filter(|_| inside))?;
                match (writable, written) {
                    (None, _) => self.answer(cookie, errno::PERMISSION, &[])?,
                    (Some(_), _) if !inside => self.answer(cookie, errno::NO_SPACE, &[])?,
                    (_, Ok(parts)) if parts.is_empty() => self.answer(cookie, 0, &[])?,
                    (_, Ok(parts)) => return later(request, parts),
                    (_, Err(error)) => self.refuse(cookie, &error)?,
                }
            }
            (command::TRIM | command::WRITE_ZEROES, None) => self.answer(cookie, errno::PERMISSION, &[])?,
            (command::TRIM | command::WRITE_ZEROES, Some(_)) if inside => return later(request, Vec::new()),
            // What was answered is done, and lives as long as this process, whatever is flushed.
            (command::FLUSH, _) => self.answer(cookie, 0, &[])?,
            _ => self.answer(cookie, errno::INVALID, &[])?,
        }
        Ok(None)
    }

    /// Receives the data of a write, and writes the whole blocks of it, for which nothing must be fetched, to `device`, if that is
    /// given, until one fails. Returns the parts of blocks before and behind them.
    fn receive<R: Read>(
        &self,
        from: &mut BufReader<Patient<'_, R>>,
        offset: u64,
        length: u32,
        device: Option<&dyn WritableDevice>,
    ) -> io::Result<Result<Parts, Error>> {
        let (mut received, mut done) = (0, Ok(Parts::new()));
        while received < length {
            // Pieces end where blocks do. An offset that is past everything is never added to.
            let inside = (offset % u64::from(WRITE_PIECE) + u64::from(received)) % u64::from(WRITE_PIECE);
            let room = u64::from(WRITE_PIECE) - inside;
            let piece = u64::from(length - received).min(room);
            let mut buf = self.client.account.take(usize::try_from(piece).expect("a piece is short"));
            from.get_mut().begin_piece();
            from.read_exact(&mut buf)?;
            from.get_mut().end();
            if let (Ok(parts), Some(device)) = (&mut done, device) {
                let at = offset + u64::from(received);
                match write_blocks(device, at, &buf) {
                    Ok(ranges) => {
                        parts.extend(ranges.into_iter().map(|range| (at + range.start as u64, buf[range].to_vec())));
                    }
                    Err(error) => done = Err(error),
                }
            }
            received += u32::try_from(piece).expect("a piece is short");
        }
        Ok(done)
    }

    /// Does what may wait, until no more comes; once the client is gone, it is only taken.
    fn work(&self, workers: &Workers<Job>) {
        // A client whose answers nobody gives is not left waiting.
        let _end = OnDrop(|| {
            if std::thread::panicking() {
                (self.client.hang_up)();
            }
        });
        workers.work(|job| {
            if !self.gone.load(Ordering::Relaxed)
                && let Err(error) = self.finish(&job)
            {
                self.gone.store(true, Ordering::Relaxed);
                self.failed.lock().expect("no thread panics with it").get_or_insert(error);
                // The thread that reads notices.
                (self.client.hang_up)();
            }
        });
    }

    fn finish(&self, Job { request, parts }: &Job) -> io::Result<()> {
        let &Request { kind, cookie, offset, length } = request;
        let done = match self.device.writable() {
            Some(device) if kind == command::WRITE => {
                parts.iter().try_for_each(|(offset, bytes)| device.write_at(*offset, bytes))
            }
            Some(device) if kind != command::READ => device.discard(offset, length.into()),
            _ => return self.read(cookie, offset, length as usize),
        };
        match done {
            Ok(()) => self.answer(cookie, 0, &[]),
            Err(error) => self.refuse(cookie, &error),
        }
    }

    /// Answers a read whose data may have to be fetched.
    fn read(&self, cookie: u64, offset: u64, length: usize) -> io::Result<()> {
        let mut buf = self.client.account.take(length.min(PIECE));
        if length <= PIECE {
            return match self.device.read_at(offset, &mut buf) {
                Ok(()) => self.answer(cookie, 0, &buf),
                Err(error) => self.fail(cookie, &error),
            };
        }
        // Behind a good head an error could not be told: each piece is read before, and then once more where it is in memory now.
        let pieces = || (0..length).step_by(PIECE).map(|from| (offset + from as u64, PIECE.min(length - from)));
        for (at, length) in pieces() {
            if let Err(error) = self.device.read_at(at, &mut buf[..length]) {
                return self.fail(cookie, &error);
            }
        }
        let mut to = self.to.lock().expect("no thread panics with it");
        to.write_all(&head(cookie, 0))?;
        for (at, length) in pieces() {
            let piece = &mut buf[..length];
            self.device.read_at(at, piece).map_err(|error| {
                self.client.watch.failed(&error);
                io::Error::other("a read failed in the middle of its reply")
            })?;
            send(&mut to, piece)?;
        }
        to.flush()
    }

    fn fail(&self, cookie: u64, error: &Error) -> io::Result<()> {
        self.client.watch.failed(error);
        self.answer(cookie, errno::IO, &[])
    }

    fn refuse(&self, cookie: u64, error: &Error) -> io::Result<()> {
        self.client.watch.write_failed(error);
        let number = if error.kind() == ErrorKind::Full { errno::NO_SPACE } else { errno::IO };
        self.answer(cookie, number, &[])
    }

    fn answer(&self, cookie: u64, error: u32, data: &[u8]) -> io::Result<()> {
        let mut to = self.to.lock().expect("no thread panics with it");
        to.write_all(&head(cookie, error))?;
        send(&mut to, data)?;
        to.flush()
    }
}

fn head(cookie: u64, error: u32) -> [u8; 16] {
    let mut head = [0; 16];
    head[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
    head[4..8].copy_from_slice(&error.to_be_bytes());
    head[8..].copy_from_slice(&cookie.to_be_bytes());
    head
}

/// Sends data that a buffer holds.
fn send(to: &mut Patient<'_, impl Write>, data: &[u8]) -> io::Result<()> {
    if data.is_empty() {
        return Ok(());
    }
    to.begin_piece();
    to.write_all(data)?;
    to.end();
    Ok(())
}

/// Writes the whole blocks of `bytes`, for which nothing must be fetched; where in `bytes` the parts of blocks before and behind them are.
fn write_blocks(device: &dyn WritableDevice, offset: u64, bytes: &[u8]) -> Result<Vec<Range<usize>>, Error> {
    let block = u64::from(BLOCK);
    let before = usize::try_from(offset.next_multiple_of(block) - offset).expect("less than a block").min(bytes.len());
    let whole = before + (bytes.len() - before) / BLOCK as usize * BLOCK as usize;
    device.write_at(offset + before as u64, &bytes[before..whole])?;
    Ok([0..before, whole..bytes.len()].into_iter().filter(|part| !part.is_empty()).collect())
}

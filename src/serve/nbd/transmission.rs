//! NBD's requests and their answers.
//!
//! What is in memory is answered by the thread that reads the requests, and so are whole blocks that are written; what must be fetched,
//! also what is around parts of blocks, goes to threads that wait, so that one miss delays nobody else.

use std::io::{self, Read, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use super::super::Watch;
use super::{BLOCK, MAX_DATA, array, broken, u32_of};
use crate::fs::{BlockDevice, WritableDevice};
use crate::{Error, ErrorKind};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Requests that wait for a thread.
const AHEAD: usize = 64;

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

/// What is left to do for a request by who may wait; of a write that is parts of the first and of the last block.
struct Job {
    request: Request,
    parts: Vec<(u64, Vec<u8>)>,
}

fn request(from: &mut impl Read) -> io::Result<Option<Request>> {
    let mut magic = [0; 4];
    // Between two requests a client may simply leave.
    if from.read(&mut magic[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut magic[1..])?;
    if u32::from_be_bytes(magic) != REQUEST_MAGIC {
        return Err(broken("a request without its magic"));
    }
    // Each is on its disk before it is answered, as far as it ever is, and zeros may always be holes.
    let _flags = array::<2>(from)?;
    let kind = array(from).map(u16::from_be_bytes)?;
    let cookie = array(from).map(u64::from_be_bytes)?;
    let offset = array(from).map(u64::from_be_bytes)?;
    Ok(Some(Request { kind, cookie, offset, length: u32_of(from)? }))
}

/// Answers all requests of a client.
pub(super) fn run<W: Write + Send>(
    mut from: impl Read,
    to: &Mutex<W>,
    device: &dyn BlockDevice,
    threads: usize,
    watch: &dyn Watch,
) -> io::Result<()> {
    let (jobs, receive) = sync_channel::<Job>(AHEAD);
    let (receive, gone) = (Mutex::new(receive), AtomicBool::new(false));
    let session = Session { to, device, watch };
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| session.work(&receive, &gone));
        }
        let ended = session.requests(&mut from, &jobs);
        // What was handed on is answered, and nothing more comes.
        drop(jobs);
        ended
    })
}

struct Session<'a, W: Write> {
    to: &'a Mutex<W>,
    device: &'a dyn BlockDevice,
    watch: &'a dyn Watch,
}

impl<W: Write> Session<'_, W> {
    /// Answers requests until the client leaves; those that must wait for something are handed on.
    fn requests(&self, from: &mut impl Read, jobs: &SyncSender<Job>) -> io::Result<()> {
        let mut buf = Vec::new();
        while let Some(request) = request(from)? {
            if request.kind == command::DISCONNECT {
                break;
            }
            if let Some(job) = self.begin(request, from, &mut buf)? {
                // Those that work are there as long as this.
                jobs.send(job).map_err(|_| io::ErrorKind::BrokenPipe)?;
            }
        }
        Ok(())
    }

    /// Answers a request, or says what is left to do before.
    fn begin(&self, request: Request, from: &mut impl Read, buf: &mut Vec<u8>) -> io::Result<Option<Job>> {
        let Request { kind, cookie, offset, length } = request;
        let inside = offset.checked_add(length.into()).is_some_and(|end| end <= self.device.size());
        let later = |request, parts| Ok(Some(Job { request, parts }));
        match (kind, self.device.writable()) {
            (command::READ, _) if inside && length <= MAX_DATA => {
                buf.resize(length as usize, 0);
                match self.device.read_at_hand(offset, buf) {
                    true => self.answer(cookie, 0, buf)?,
                    false => return later(request, Vec::new()),
                }
            }
            (command::WRITE, writable) => {
                // Also where it is refused: behind it begins the next request.
                receive(from, length, buf)?;
                match writable {
                    None => self.answer(cookie, errno::PERMISSION, &[])?,
                    Some(_) if !inside => self.answer(cookie, errno::NO_SPACE, &[])?,
                    Some(device) => match write_blocks(device, offset, buf) {
                        Ok(parts) if parts.is_empty() => self.answer(cookie, 0, &[])?,
                        Ok(parts) => return later(request, parts),
                        Err(error) => self.refuse(cookie, &error)?,
                    },
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

    /// Does what may wait, until no more comes; once the client is `gone`, it is only taken.
    fn work(&self, jobs: &Mutex<Receiver<Job>>, gone: &AtomicBool) {
        let mut buf = Vec::new();
        loop {
            let job = jobs.lock().expect("no thread panics with it").recv();
            let Ok(job) = job else { return };
            if gone.load(Ordering::Relaxed) {
                continue;
            }
            // The thread that reads will notice.
            gone.fetch_or(self.finish(&job, &mut buf).is_err(), Ordering::Relaxed);
        }
    }

    fn finish(&self, Job { request, parts }: &Job, buf: &mut Vec<u8>) -> io::Result<()> {
        let &Request { kind, cookie, offset, length } = request;
        let done = match self.device.writable() {
            Some(device) if kind == command::WRITE => {
                parts.iter().try_for_each(|(offset, bytes)| device.write_at(*offset, bytes))
            }
            Some(device) if kind != command::READ => device.discard(offset, length.into()),
            _ => {
                buf.resize(length as usize, 0);
                return match self.device.read_at(offset, buf) {
                    Ok(()) => self.answer(cookie, 0, buf),
                    Err(error) => {
                        self.watch.failed(&error);
                        self.answer(cookie, errno::IO, &[])
                    }
                };
            }
        };
        match done {
            Ok(()) => self.answer(cookie, 0, &[]),
            Err(error) => self.refuse(cookie, &error),
        }
    }

    fn refuse(&self, cookie: u64, error: &Error) -> io::Result<()> {
        self.watch.write_failed(error);
        let number = if error.kind() == ErrorKind::Full { errno::NO_SPACE } else { errno::IO };
        self.answer(cookie, number, &[])
    }

    fn answer(&self, cookie: u64, error: u32, data: &[u8]) -> io::Result<()> {
        let mut head = [0; 16];
        head[..4].copy_from_slice(&REPLY_MAGIC.to_be_bytes());
        head[4..8].copy_from_slice(&error.to_be_bytes());
        head[8..].copy_from_slice(&cookie.to_be_bytes());
        let mut to = self.to.lock().expect("no thread panics with it");
        to.write_all(&head)?;
        to.write_all(data)?;
        to.flush()
    }
}

/// The data of a write.
fn receive(from: &mut impl Read, length: u32, buf: &mut Vec<u8>) -> io::Result<()> {
    if length > MAX_DATA {
        return Err(broken("a write of too many bytes"));
    }
    buf.resize(length as usize, 0);
    from.read_exact(buf)
}

/// Writes the whole blocks of `bytes`, for which nothing must be fetched; the parts of blocks before and behind them.
fn write_blocks(device: &dyn WritableDevice, offset: u64, bytes: &[u8]) -> Result<Vec<(u64, Vec<u8>)>, Error> {
    let block = u64::from(BLOCK);
    let before = usize::try_from(offset.next_multiple_of(block) - offset).expect("less than a block").min(bytes.len());
    let (before, rest) = bytes.split_at(before);
    let whole = rest.len() / BLOCK as usize * BLOCK as usize;
    let (whole, behind) = rest.split_at(whole);
    let first = offset + before.len() as u64;
    device.write_at(first, whole)?;
    let parts = [(offset, before), (first + whole.len() as u64, behind)];
    Ok(parts.into_iter().filter(|(_, part)| !part.is_empty()).map(|(at, part)| (at, part.to_vec())).collect())
}

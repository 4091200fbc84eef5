//! A blob on its way: kept in a file without a name as it comes, and read behind it, by several threads if need be.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock};

use crate::{Error, ErrorKind, Result};

/// Brings blobs that somebody wants.
pub(super) trait Fetch: Send + Sync {
    /// The blob `number` will be read; those that are wanted first come first.
    fn want(self: Arc<Self>, number: usize);

    /// Somebody waits for a blob: all that will be read is wanted by now.
    fn begin(self: Arc<Self>);
}

/// The error of a reader that waits for a blob of which nobody needs more.
pub(super) const GIVEN_UP: &str = "not needed any more";

/// What came of a blob so far.
pub(super) struct Spool {
    temp: PathBuf,
    /// Its bytes when it is complete.
    size: Option<u64>,
    file: OnceLock<File>,
    state: Mutex<State>,
    more: Condvar,
}

#[derive(Default)]
struct State {
    written: u64,
    /// `Some` when no more comes, with why where that is too early.
    end: Option<Result<(), Failure>>,
}

/// The parts of an error, for each of its readers.
struct Failure {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { kind: error.kind(), message: error.chain(), hint: error.hint().map(str::to_owned) }
    }
}

impl Spool {
    /// Returns an empty spool, whose file will be in the directory `temp` and have `size` bytes if that is known.
    pub(super) fn new(temp: &Path, size: Option<u64>) -> Arc<Self> {
        let (file, state, more) = (OnceLock::new(), Mutex::default(), Condvar::new());
        Arc::new(Self { temp: temp.to_owned(), size, file, state, more })
    }

    /// How many bytes came.
    pub(super) fn written(&self) -> u64 {
        self.state().written
    }

    /// Whether all came, or no more will.
    pub(super) fn ended(&self) -> bool {
        self.state().end.is_some()
    }

    /// Keeps the next `bytes`. There is one writer.
    pub(super) fn write(&self, bytes: &[u8]) -> Result<()> {
        if self.ended() {
            return Err(Error::new(ErrorKind::Unavailable, GIVEN_UP));
        }
        let written = self.written();
        let fail = |error| match self.size {
            Some(size) => Error::file_of(&self.temp, size.saturating_sub(written), error),
            None => Error::file(&self.temp, error),
        };
        let file = match self.file.get() {
            Some(file) => file,
            None => {
                let file = tempfile::tempfile_in(&self.temp).map_err(fail)?;
                self.file.get_or_init(|| file)
            }
        };
        file.write_all_at(bytes, written).map_err(fail)?;
        self.state().written += bytes.len() as u64;
        self.more.notify_all();
        Ok(())
    }

    /// Takes a file that has all bytes; none came before.
    pub(super) fn take(&self, file: File) -> io::Result<()> {
        let length = file.metadata()?.len();
        self.file.get_or_init(|| file);
        self.state().written = length;
        self.more.notify_all();
        Ok(())
    }

    /// No more comes; what was said first stays.
    pub(super) fn end(&self, how: Result<()>) {
        self.state().end.get_or_insert(how.map_err(Failure::from));
        self.more.notify_all();
    }

    /// Reads from `offset` on what there is, and waits where there is nothing yet; 0 at the end.
    pub(super) fn read_at(&self, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let mut state = self.state();
        while state.written <= offset && state.end.is_none() {
            state = self.more.wait(state).expect("no thread panics with it");
        }
        let left = state.written.saturating_sub(offset);
        if left == 0 {
            return match &state.end {
                Some(Err(Failure { kind, message, hint })) => {
                    let error = Error::new(*kind, message.clone());
                    Err(io::Error::other(hint.iter().cloned().fold(error, Error::with_hint)))
                }
                _ => Ok(0),
            };
        }
        drop(state);
        let wanted = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.file.get().expect("something was written").read_at(&mut buf[..wanted], offset)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no thread panics with it")
    }
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool").field("written", &self.written()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_is_read_behind_it_and_a_failure_ends_it() {
        let spool = Spool::new(&std::env::temp_dir(), None);
        let reader = Arc::clone(&spool);
        let read = std::thread::spawn(move || {
            let (mut all, mut buf) = (Vec::new(), [0; 3]);
            loop {
                match reader.read_at(all.len() as u64, &mut buf) {
                    Ok(0) => return (all, None),
                    Ok(n) => all.extend_from_slice(&buf[..n]),
                    Err(error) => return (all, Some(Error::io("blob", error).kind())),
                }
            }
        });
        spool.write(b"some ").unwrap();
        spool.write(b"bytes").unwrap();
        spool.end(Err(Error::new(ErrorKind::Denied, "no more")));
        assert_eq!(read.join().unwrap(), (b"some bytes".to_vec(), Some(ErrorKind::Denied)));
    }
}

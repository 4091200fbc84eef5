//! How long a client may take: as long as it likes, unless it has not chosen an export yet, or holds memory that others wait for.
//!
//! The streams below time out after a moment without a byte, which is no error here but the occasion to look at the clock.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::serve::buffers::Account;

/// How long the handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(30);
/// How long a client may take to send or receive one piece while others wait for memory: 400 KiB a second.
const PIECE_TIME: Duration = Duration::from_secs(5);

/// One direction of a client's connection.
pub(super) struct Patient<'a, S> {
    stream: S,
    account: &'a Account<'a>,
    state: State,
}

#[derive(Clone, Copy)]
enum State {
    /// The client chooses an export, since then.
    Handshake(Instant),
    /// Nothing is held for the client.
    Idle,
    /// A piece that is in memory is received or sent, since then.
    Piece(Instant),
}

impl<'a, S> Patient<'a, S> {
    pub(super) fn new(stream: S, account: &'a Account<'a>) -> Self {
        Self { stream, account, state: State::Handshake(Instant::now()) }
    }

    /// A piece begins to go through the stream.
    pub(super) fn begin_piece(&mut self) {
        self.state = State::Piece(Instant::now());
    }

    /// The piece, or the handshake, is over.
    pub(super) fn end(&mut self) {
        self.state = State::Idle;
    }

    /// Refuses to wait any longer where the client took too long.
    fn check(&self) -> io::Result<()> {
        let late = |what: &str| Err(io::Error::new(io::ErrorKind::TimedOut, what.to_owned()));
        match self.state {
            State::Handshake(since) if since.elapsed() > HANDSHAKE => late("it chose no export in 30 s"),
            State::Piece(since) if since.elapsed() > PIECE_TIME && self.account.others_starve() => {
                late("it took over 5 s for 2 MiB or less while other clients waited for memory")
            }
            _ => Ok(()),
        }
    }

    fn patiently<T>(&mut self, mut once: impl FnMut(&mut S) -> io::Result<T>) -> io::Result<T> {
        loop {
            let done = once(&mut self.stream);
            // A signal interrupts a read with a timeout, whatever SA_RESTART says (signal(7)): the one that restricts each thread.
            let waits = |error: &io::Error| {
                matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
            };
            match done {
                Err(error) if waits(&error) => self.check()?,
                done => {
                    self.check()?;
                    return done;
                }
            }
        }
    }
}

impl<S: Read> Read for Patient<'_, S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.patiently(|stream| stream.read(buf))
    }
}

impl<S: Write> Write for Patient<'_, S> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.patiently(|stream| stream.write(buf))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.patiently(Write::flush)
    }
}

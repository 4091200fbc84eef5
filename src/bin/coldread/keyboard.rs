//! The keyboard of a terminal, key by key. The terminal is as it was before when the program ends, by a signal as well.

use std::io::Stdin;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use coldpress::{Error, Result};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::{Handle, Signals};

/// A terminal that hands over keys without waiting for a line; as it was before when this is dropped.
pub struct Keyboard {
    stdin: Stdin,
    before: Termios,
    signals: Handle,
    /// Whether it was closed: nothing more comes from it.
    is_closed: bool,
}

impl Keyboard {
    /// Returns the keyboard, if standard input is a terminal.
    pub fn open() -> Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !isatty(&stdin) {
            return Ok(None);
        }
        let fail = |error: std::io::Error| Error::io("the terminal", error);
        let before = tcgetattr(&stdin).map_err(|error| fail(error.into()))?;
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(fail)?;
        let (handle, saved) = (signals.handle(), before.clone());
        let work = move || {
            if let Some(signal) = signals.forever().next() {
                let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, &saved);
                let _ = signal_hook::low_level::emulate_default_handler(signal);
            }
        };
        std::thread::Builder::new().name("signals".to_owned()).spawn(work).map_err(fail)?;
        let keyboard = Self { stdin, before, signals: handle, is_closed: false };
        let mut by_key = keyboard.before.clone();
        by_key.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        tcsetattr(&keyboard.stdin, OptionalActions::Now, &by_key).map_err(|error| fail(error.into()))?;
        Ok(Some(keyboard))
    }

    /// Waits for `time`; returns early with `true` if `q` is typed.
    pub fn waits_for_quit(&mut self, time: Duration) -> Result<bool> {
        let end = Instant::now() + time;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if self.is_closed {
                std::thread::sleep(left);
                return Ok(false);
            }
            let timeout = Timespec::try_from(left).ok();
            let mut waiting = [PollFd::new(&self.stdin, PollFlags::IN)];
            match poll(&mut waiting, timeout.as_ref()) {
                Ok(0) => return Ok(false),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Error::io("the terminal", error.into())),
            }
            let mut keys = [0; 64];
            match rustix::io::read(self.stdin.as_fd(), &mut keys) {
                Ok(0) | Err(_) => self.is_closed = true,
                Ok(n) if keys[..n].iter().any(|key| key.eq_ignore_ascii_case(&b'q')) => return Ok(true),
                Ok(_) => {}
            }
        }
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        let _ = tcsetattr(&self.stdin, OptionalActions::Now, &self.before);
        self.signals.close();
    }
}

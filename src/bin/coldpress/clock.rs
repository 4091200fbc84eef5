//! How long a command has been running, by whichever clock says the longest: the one that counts since the machine started, suspend
//! included, or the wall clock, which also goes on while a virtual machine is stopped.

use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A moment on both clocks.
#[derive(Debug, Clone, Copy)]
pub struct Started {
    since_boot: Duration,
    wall: SystemTime,
}

impl Started {
    /// Now.
    #[expect(
        clippy::disallowed_methods,
        reason = "how long a conversion takes decides whether it may succeed, not what it makes"
    )]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(time.tv_nsec).unwrap_or_default();
        Self { since_boot: Duration::new(seconds, nanos), wall: SystemTime::now() }
    }

    /// Returns the time since then.
    pub fn elapsed(&self) -> Duration {
        self.until(Self::now())
    }

    fn until(&self, now: Self) -> Duration {
        // A wall clock that was set back counts nothing.
        let wall = now.wall.duration_since(self.wall).unwrap_or_default();
        wall.max(now.since_boot.saturating_sub(self.since_boot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_later_clock_counts() {
        let seconds = Duration::from_secs;
        let at = |since_boot, wall| Started {
            since_boot: seconds(since_boot),
            wall: SystemTime::UNIX_EPOCH + seconds(wall),
        };
        let began = at(100, 1_000);
        for (now, elapsed) in [
            (at(150, 1_050), 50),
            // The machine was stopped, and its wall clock set when it went on.
            (at(150, 90_000), 89_000),
            // The wall clock was set back.
            (at(90_100, 500), 90_000),
            (at(100, 900), 0),
        ] {
            assert_eq!(began.until(now), seconds(elapsed));
        }
        assert!(Started::now().elapsed() < seconds(60));
    }
}

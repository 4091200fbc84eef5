//! When a request is made again, and when no more.
//!
//! Every request here is safe to repeat: puts are of objects named by their content, if absent. So whatever says "later" or
//! leaves open whether it was carried out is tried again, with random waits that double, until [`PATIENCE`] ends.

use std::time::{Duration, Instant};

use crate::crypto::random_bytes;
use crate::{Error, ErrorKind, Result};

/// How long one object's requests are repeated: longer than a service's restart.
pub(super) const PATIENCE: Duration = Duration::from_secs(100);
/// The same where nothing has ever answered: more likely its address is wrong.
pub(super) const PATIENCE_AT_FIRST: Duration = Duration::from_secs(15);
/// The longest wait after the first failure; it doubles with each further.
const FIRST: Duration = Duration::from_millis(200);
/// No wait is longer than this.
const LONGEST: Duration = Duration::from_secs(5);

/// Why a request came to nothing.
#[derive(Debug)]
pub(super) enum Failure {
    /// It may come to something later.
    Again {
        /// What was answered.
        error: Error,
        /// The service asks to wait this long.
        after: Option<Duration>,
    },
    /// It will not.
    Final(Error),
}

/// Makes `request` until it succeeds, fails for good, or the patience ends, which is asked for after each.
///
/// # Errors
/// The last one's.
pub(super) fn repeat<T>(patience: impl Fn() -> Duration, mut request: impl FnMut() -> Result<T, Failure>) -> Result<T> {
    let started = Instant::now();
    let mut longest = FIRST;
    loop {
        let (error, after) = match request() {
            Ok(value) => return Ok(value),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again { error, after }) => (error, after),
        };
        let wait = jittered(longest)?.max(after.unwrap_or_default());
        if started.elapsed() + wait > patience() {
            let message = format!("given up after {} seconds", started.elapsed().as_secs());
            return Err(Error::caused(ErrorKind::Unavailable, message, error));
        }
        std::thread::sleep(wait);
        longest = (longest * 2).min(LONGEST);
    }
}

/// Between none and all of `longest`: clients that failed together do not come back together.
fn jittered(longest: Duration) -> Result<Duration> {
    Ok(longest.mul_f64(f64::from(u16::from_le_bytes(random_bytes()?)) / f64::from(u16::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again() -> Failure {
        Failure::Again { error: Error::new(ErrorKind::Unavailable, "busy"), after: Some(Duration::ZERO) }
    }

    #[test]
    fn what_may_succeed_is_repeated_and_what_cannot_is_not() {
        let mut count = 0;
        let result = repeat(
            || PATIENCE,
            || {
                count += 1;
                if count < 4 { Err(again()) } else { Ok(count) }
            },
        );
        assert_eq!(result.unwrap(), 4);
        let mut count = 0;
        let refused = || Failure::Final(Error::new(ErrorKind::Denied, "no"));
        let result = repeat(
            || PATIENCE,
            || {
                count += 1;
                if count < 2 { Err::<(), _>(again()) } else { Err(refused()) }
            },
        );
        assert_eq!((result.unwrap_err().kind(), count), (ErrorKind::Denied, 2));
    }

    #[test]
    fn a_service_that_asks_for_more_than_all_patience_is_given_up_at_once() {
        let far = || Failure::Again { error: Error::new(ErrorKind::Unavailable, "busy"), after: Some(PATIENCE * 2) };
        let result = repeat(|| PATIENCE, || Err::<(), _>(far()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

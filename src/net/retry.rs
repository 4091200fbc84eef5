//! Retries: which failures are retried, with which waits, and for how long.
//!
//! Every request here can be repeated safely: objects are named by their content and uploaded only if absent. So every answer that asks to
//! come back later, and every request whose outcome is unknown, is retried with random waits that double, until [`PATIENCE`] ends.

use std::cell::Cell;
use std::time::Duration;

use super::wait::Wait;
use crate::printable::Printable;
use crate::random::random_bytes;
use crate::sync::{elapsed, now, sleep};
use crate::{Error, ErrorKind, Result};

/// How long the requests for one object are retried: longer than a restart of a service.
pub(crate) const PATIENCE: Duration = Duration::from_secs(100);
/// How long requests are retried where the service has never answered: more likely the address is wrong.
pub(crate) const PATIENCE_AT_FIRST: Duration = Duration::from_secs(15);
/// The longest wait after the first failure; it doubles with each further failure.
const FIRST: Duration = Duration::from_millis(200);
/// The upper bound of that wait.
const LONGEST: Duration = Duration::from_secs(5);

/// The reason why a request failed.
#[derive(Debug)]
pub enum Failure {
    /// A transient failure: a retry may succeed.
    Again {
        /// The failure.
        error: Error,
        /// How long the service asks to wait.
        after: Option<Duration>,
    },
    /// A permanent failure.
    Final(Error),
}

/// The service that a request is for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Service<'a> {
    /// What messages call it, such as `registry ghcr.io`.
    pub(crate) name: &'a str,
    /// Maximum time of one request without an answer.
    pub(crate) timeout: Duration,
}

thread_local! {
    static ATTEMPT: Cell<u32> = const { Cell::new(1) };
}

/// Returns the number of the attempt that this thread makes, 1 being the first.
pub(crate) fn attempt() -> u32 {
    ATTEMPT.get()
}

/// Runs `request` as a part of the attempt `number`, which another thread began.
pub(crate) fn in_attempt<T>(number: u32, request: impl FnOnce() -> T) -> T {
    let before = ATTEMPT.replace(number);
    let output = request();
    ATTEMPT.set(before);
    output
}

/// Repeats `request` to `service` until it succeeds, fails permanently, or has been retried for longer than `patience`, which is
/// evaluated after each failure.
///
/// # Errors
/// Those of the last request.
pub(crate) fn repeat<T>(
    service: Service<'_>,
    patience: impl Fn() -> Duration,
    mut request: impl FnMut() -> Result<T, Failure>,
) -> Result<T> {
    let started = now();
    let mut longest = FIRST;
    let (waiting, mut number) = (Wait::begin(service.name, service.timeout), 1);
    loop {
        let (error, after) = match in_attempt(number, &mut request) {
            Ok(value) => return Ok(value),
            Err(Failure::Final(error)) => return Err(error),
            Err(Failure::Again { error, after }) => (error, after),
        };
        let wait = jittered(longest)?.max(after.unwrap_or_default());
        if elapsed(started) + wait > patience() {
            let message = format!("given up after {} seconds", elapsed(started).as_secs());
            // The service's own fault may have a better one.
            let hint = error
                .hint()
                .unwrap_or("nothing is damaged; run the same command again when the service answers")
                .to_owned();
            return Err(Error::caused(ErrorKind::Unavailable, message, error).with_hint(hint));
        }
        tracing::info!(
            service = %Printable(service.name),
            attempt = number,
            error = %Printable(&error.chain()),
            wait_ms = milliseconds(wait),
            "the request failed and is retried after a wait"
        );
        waiting.failed(&error, patience().saturating_sub(elapsed(started)), wait + service.timeout);
        sleep(wait);
        longest = (longest * 2).min(LONGEST);
        number += 1;
    }
}

/// Returns a duration in whole milliseconds, for a log.
pub(crate) fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// How long a `Retry-After` asks to wait: a number of seconds, or a time, which the answer's own `Date` says how far it is, so that
/// clocks need not agree.
pub(crate) fn asked_wait(retry_after: &str, date: Option<&str>) -> Option<Duration> {
    let text = retry_after.trim();
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // So many that they do not fit are as good as for ever.
        return Some(Duration::from_secs(text.parse().unwrap_or(u64::MAX)));
    }
    Some(Duration::from_secs(http_date(text)?.saturating_sub(http_date(date?)?)))
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`, the only form that may still be sent.
pub(crate) fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.trim().split(' ').collect();
    let &[_, day, month, year, time, "GMT"] = &words[..] else { return None };
    let clock: Vec<u64> = time.split(':').map(|part| part.parse().ok()).collect::<Option<_>>()?;
    let (&[hour, minute, second], day, year) = (&clock[..], day.parse::<u64>().ok()?, year.parse::<u64>().ok()?) else {
        return None;
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64;
    if !(1970..=9999).contains(&year) || day > 31 || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years that begin in March end with the leap day.
    let (year, month) = if month < 2 { (year - 1, month + 10) } else { (year, month - 2) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day;
    Some(days.checked_sub(719_469)? * 86_400 + hour * 3600 + minute * 60 + second)
}

/// Between none and all of `longest`: clients that failed together do not come back together.
pub(crate) fn jittered(longest: Duration) -> Result<Duration> {
    Ok(longest.mul_f64(f64::from(u16::from_le_bytes(random_bytes()?)) / f64::from(u16::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: Service<'_> = Service { name: "a service", timeout: PATIENCE };

    fn again() -> Failure {
        Failure::Again { error: Error::new(ErrorKind::Unavailable, "busy"), after: Some(Duration::ZERO) }
    }

    #[test]
    fn what_may_succeed_is_repeated_and_what_cannot_is_not() {
        let mut count = 0;
        let result = repeat(
            SERVICE,
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
            SERVICE,
            || PATIENCE,
            || {
                count += 1;
                if count < 2 { Err::<(), _>(again()) } else { Err(refused()) }
            },
        );
        assert_eq!((result.unwrap_err().kind(), count), (ErrorKind::Denied, 2));
    }

    #[test]
    fn a_wait_is_asked_for_in_seconds_or_until_a_time() {
        let seconds = |text, date| asked_wait(text, date).map(|wait| wait.as_secs());
        assert_eq!(http_date("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("Thu, 29 Feb 2024 23:59:59 GMT"), Some(1_709_251_199));
        assert_eq!(seconds(" 12 ", None), Some(12));
        assert_eq!(seconds("99999999999999999999", None), Some(u64::MAX));
        let date = Some("Thu, 29 Feb 2024 23:59:50 GMT");
        assert_eq!(seconds("Fri, 01 Mar 2024 00:00:10 GMT", date), Some(20));
        assert_eq!(seconds("Thu, 29 Feb 2024 23:59:00 GMT", date), Some(0), "it is past");
        assert_eq!(seconds("Fri, 01 Mar 2024 00:00:10 GMT", None), None);
        for nonsense in
            ["", "soon", "-1", "Fri, 01 Mar 2024 00:00 GMT", "Fri, 01 Xyz 2024 00:00:10 GMT", "a b c d e GMT"]
        {
            assert_eq!(seconds(nonsense, date), None, "{nonsense}");
        }
        assert_eq!(http_date("Fri, 01 Mar 99999999999999999 00:00:10 GMT"), None);
    }

    #[test]
    fn a_service_that_asks_for_more_than_all_patience_is_given_up_at_once() {
        let far = || Failure::Again { error: Error::new(ErrorKind::Unavailable, "busy"), after: Some(PATIENCE * 2) };
        let result = repeat(SERVICE, || PATIENCE, || Err::<(), _>(far()));
        assert_eq!(result.unwrap_err().kind(), ErrorKind::Unavailable);
    }
}

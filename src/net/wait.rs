//! What this process waits for: requests to services without an answer yet, and the pauses between retries.
//!
//! A program that wants to report waits calls [`watch`] once and [`silent`] every now and then. Without that nothing is recorded, and
//! no behaviour depends on what is recorded.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

static IS_WATCHED: AtomicBool = AtomicBool::new(false);
static WAITS: Mutex<Waits> = Mutex::new(Waits { next: 0, open: BTreeMap::new(), heard: BTreeMap::new() });

struct Waits {
    next: u64,
    open: BTreeMap<u64, Record>,
    /// When a request to a service last ended, by the service.
    heard: BTreeMap<Arc<str>, Instant>,
}

struct Record {
    service: Arc<str>,
    since: Instant,
    timeout: Duration,
    /// When the request under way ends without an answer.
    request_ends: Instant,
    /// When no more requests are made; known once one has failed.
    until: Option<Instant>,
    failures: u32,
    cause: Option<String>,
}

impl Record {
    /// The time until the wait ends: that of the retries, and of the last request behind them.
    fn left(&self, now: Instant) -> Duration {
        let end = self.until.filter(|until| *until > now).unwrap_or(self.request_ends);
        end.saturating_duration_since(now)
    }
}

/// A wait that nothing bounds has this long left, at least in days.
pub const UNBOUNDED: Duration = Duration::from_secs(365 * 24 * 3600);

/// A service that has not answered for some time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Silence {
    /// What is waited for, such as `store s3://chunks at http://127.0.0.1:9000`.
    pub service: String,
    /// The time since its last answer, or since the first request.
    pub lasted: Duration,
    /// The time until the wait ends with an error; zero where that is due.
    pub left: Duration,
    /// Requests that have failed since.
    pub failures: u32,
    /// Why the last of them failed.
    pub cause: Option<String>,
}

/// Returns the time `after` a moment; a year where nothing bounds it.
fn end(from: Instant, after: Duration) -> Instant {
    from + after.min(UNBOUNDED)
}

fn waits() -> MutexGuard<'static, Waits> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts recording what this process waits for.
pub fn watch() {
    IS_WATCHED.store(true, Ordering::Relaxed);
}

/// Returns the services that have not answered for `least` or longer, one entry each.
#[must_use]
pub fn silent(least: Duration) -> Vec<Silence> {
    let (waits, now) = (waits(), Instant::now());
    let mut by_service = BTreeMap::<&str, Silence>::new();
    for record in waits.open.values() {
        let since = waits.heard.get(&record.service).map_or(record.since, |heard| record.since.max(*heard));
        let (lasted, left) = (now.saturating_duration_since(since), record.left(now));
        let entry = by_service.entry(&record.service).or_insert_with(|| Silence {
            service: record.service.to_string(),
            lasted,
            left,
            failures: record.failures,
            cause: record.cause.clone(),
        });
        entry.lasted = entry.lasted.max(lasted);
        entry.left = entry.left.max(left);
        if record.failures > entry.failures {
            (entry.failures, entry.cause) = (record.failures, record.cause.clone());
        }
    }
    by_service.into_values().filter(|silence| silence.lasted >= least).collect()
}

/// Notes that a part of an answer of `service` came.
pub(crate) fn heard(service: &str) {
    if !IS_WATCHED.load(Ordering::Relaxed) {
        return;
    }
    let (mut waits, now) = (waits(), Instant::now());
    for record in waits.open.values_mut().filter(|record| *record.service == *service) {
        (record.since, record.request_ends) = (now, end(now, record.timeout));
        (record.until, record.failures, record.cause) = (None, 0, None);
    }
}

/// A wait for a service, from the first request to the last answer. Ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Wait(Option<u64>);

impl Wait {
    /// Begins a wait for `service`, whose first request ends after `timeout` at the latest.
    pub(crate) fn begin(service: &str, timeout: Duration) -> Self {
        if !IS_WATCHED.load(Ordering::Relaxed) {
            return Self(None);
        }
        let (mut waits, since) = (waits(), Instant::now());
        waits.next += 1;
        let id = waits.next;
        let service =
            waits.heard.get_key_value(service).map_or_else(|| Arc::from(service), |(known, _)| Arc::clone(known));
        waits.open.insert(
            id,
            Record {
                service,
                since,
                timeout,
                request_ends: end(since, timeout),
                until: None,
                failures: 0,
                cause: None,
            },
        );
        Self(Some(id))
    }

    /// Notes that a request failed because of `error`. No request begins later than in `left`, and the next one ends in `next`.
    pub(crate) fn failed(&self, error: &Error, left: Duration, next: Duration) {
        let now = Instant::now();
        if let Some(id) = self.0
            && let Some(record) = waits().open.get_mut(&id)
        {
            record.failures += 1;
            record.cause = Some(error.chain());
            (record.until, record.request_ends) = (Some(end(now, left)), end(now, next));
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            let mut waits = waits();
            if let Some(record) = waits.open.remove(&id) {
                waits.heard.insert(record.service, Instant::now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    fn of(service: &str) -> Option<Silence> {
        silent(Duration::ZERO).into_iter().find(|silence| silence.service == service)
    }

    #[test]
    fn a_wait_is_reported_with_its_last_failure_until_it_ends() {
        watch();
        let wait = Wait::begin("store a", Duration::from_secs(15));
        let before = of("store a").unwrap();
        assert_eq!((before.failures, before.cause), (0, None));
        assert!(before.left > Duration::from_secs(14), "{:?}", before.left);
        wait.failed(&Error::new(ErrorKind::Unavailable, "refused"), Duration::from_secs(3), Duration::from_secs(60));
        let after = of("store a").unwrap();
        assert_eq!((after.failures, after.cause.as_deref()), (1, Some("refused")));
        assert!(after.left <= Duration::from_secs(3));
        heard("store a");
        assert_eq!(of("store a").unwrap().failures, 0);
        drop(wait);
        assert_eq!(of("store a"), None);
    }

    #[test]
    fn a_service_that_answers_others_is_not_silent() {
        watch();
        let _slow = Wait::begin("store b", Duration::from_secs(15));
        std::thread::sleep(Duration::from_millis(60));
        assert!(of("store b").unwrap().lasted >= Duration::from_millis(60));
        drop(Wait::begin("store b", Duration::from_secs(15)));
        assert!(of("store b").unwrap().lasted < Duration::from_millis(60));
    }
}

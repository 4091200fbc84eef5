//! Credentials that are kept until half of their time is over, and renewed without anybody waiting for it.
//!
//! A source that fails while the credentials at hand are still valid stops nothing. It is asked at most twice a minute, however many
//! requests need credentials and however short the credentials live.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::credential_feature::AwsCredentialFeature;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, SharedCredentialsProvider, future};

use super::Heard;
use crate::error::{first_cause, first_line};
use crate::net::wait::Wait;
use crate::{Error, ErrorKind, Result};

/// Credentials are renewed so long before they expire, or when half of their time is over.
const SPARE: Duration = Duration::from_secs(300);
/// Minimum time between two requests for credentials.
const SPACING: Duration = Duration::from_secs(30);
/// Maximum time that the whole chain may take: programs and services of many kinds are asked.
const TIMEOUT: Duration = Duration::from_secs(60);

/// The credentials of a chain of sources, renewed in time.
pub(crate) struct RenewedCredentials {
    chain: SharedCredentialsProvider,
    heard: Arc<Heard>,
    state: Mutex<State>,
    /// Held by who asks.
    asking: tokio::sync::Mutex<()>,
}

#[derive(Default)]
struct State {
    current: Option<Credentials>,
    /// When half of their time is over, or they expire soon.
    renew_at: Option<SystemTime>,
    asked: Option<Instant>,
    /// A service said that they expired, whatever their own time says.
    rejected: bool,
}

impl fmt::Debug for RenewedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RenewedCredentials(..)")
    }
}

/// What is to be done for credentials.
enum Step {
    Use(Credentials),
    /// Use them, and renew them in the background.
    UseAndRenew(Credentials),
    /// Ask, after a wait.
    Ask(Duration),
}

impl State {
    fn step(&self, now: SystemTime) -> Step {
        let spaced = self.asked.map(|asked| SPACING.saturating_sub(asked.elapsed())).unwrap_or_default();
        let Some(current) = &self.current else { return Step::Ask(Duration::ZERO) };
        match current.expiry() {
            // A file or a variable; looking there again costs nobody anything.
            None if self.rejected => Step::Ask(Duration::ZERO),
            Some(expiry) if self.rejected || expiry <= now => Step::Ask(spaced),
            Some(_) if self.renew_at.is_some_and(|at| at <= now) && spaced.is_zero() => {
                Step::UseAndRenew(current.clone())
            }
            _ => Step::Use(current.clone()),
        }
    }

    fn renew(&mut self, found: &Credentials, now: SystemTime) {
        self.renew_at = found.expiry().map(|expiry| {
            let left = expiry.duration_since(now).unwrap_or_default();
            now + left.saturating_sub(SPARE).max(left / 2)
        });
        self.current = Some(found.clone());
        self.rejected = false;
    }
}

impl RenewedCredentials {
    pub(super) fn new(chain: SharedCredentialsProvider, heard: Arc<Heard>) -> Arc<Self> {
        Arc::new(Self { chain, heard, state: Mutex::default(), asking: tokio::sync::Mutex::default() })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a service takes the current credentials for expired.
    pub(crate) fn reject(&self) {
        self.state().rejected = true;
    }

    async fn provide(self: Arc<Self>) -> Result<Credentials> {
        match self.step() {
            Step::Use(credentials) => Ok(credentials),
            Step::UseAndRenew(credentials) => {
                // One is enough.
                if let Ok(asking) = self.asking.try_lock() {
                    drop(asking);
                    self.state().asked = Some(Instant::now());
                    let this = Arc::clone(&self);
                    // What fails is tried again later, by who needs it.
                    tokio::spawn(async move {
                        let _asking = this.asking.lock().await;
                        drop(this.ask().await);
                    });
                }
                Ok(credentials)
            }
            Step::Ask(_) => {
                let _asking = self.asking.lock().await;
                // Who held it may have asked for all.
                match self.step() {
                    Step::Use(credentials) | Step::UseAndRenew(credentials) => Ok(credentials),
                    Step::Ask(wait) => {
                        tokio::time::sleep(wait).await;
                        self.ask().await
                    }
                }
            }
        }
    }

    fn step(&self) -> Step {
        self.state().step(now())
    }

    async fn ask(&self) -> Result<Credentials> {
        self.state().asked = Some(Instant::now());
        self.heard.listen();
        let waiting = Wait::begin("the source of the AWS credentials", TIMEOUT);
        let found = tokio::time::timeout(TIMEOUT, self.chain.provide_credentials()).await;
        drop(waiting);
        let passes = self.heard.passes();
        let found = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return Err(reason(&error, passes)),
            Err(_) => {
                let message = format!("no AWS credentials within {} seconds", TIMEOUT.as_secs());
                return Err(Error::new(ErrorKind::Unavailable, message));
            }
        };
        let mut state = self.state();
        let is_same = |before: &Credentials| {
            before.access_key_id() == found.access_key_id() && before.session_token() == found.session_token()
        };
        if state.rejected && state.current.as_ref().is_some_and(is_same) {
            let message = "the AWS credentials have expired, and their source still returns the same ones";
            // Who gives credentials that expire may give others soon.
            let kind = if found.expiry().is_some() { ErrorKind::Unavailable } else { ErrorKind::Denied };
            return Err(Error::new(kind, message).with_hint(RENEW));
        }
        state.renew(&found, now());
        let lasts = found.expiry().and_then(|expiry| expiry.duration_since(now()).ok());
        let sources = found.get_property::<Vec<AwsCredentialFeature>>().map(Vec::as_slice).unwrap_or_default();
        tracing::info!(?sources, expire_in_s = lasts.map(|lasts| lasts.as_secs()), "AWS credentials");
        Ok(found)
    }
}

#[expect(clippy::disallowed_methods, reason = "when credentials expire is said by the clock")]
fn now() -> SystemTime {
    SystemTime::now()
}

const LOOK: &str = "docs/reference/stores.md lists where credentials are looked for: environment, profile, single sign-on, web identity, container, instance";
const RENEW: &str = "renew the credentials where they come from (such as by `aws sso login`) and run the command again";

fn reason(error: &CredentialsError, passes: bool) -> Error {
    let why = first_line(&first_cause(error)).to_owned();
    let (kind, message) = match error {
        CredentialsError::CredentialsNotLoaded(_) => (ErrorKind::Denied, why),
        CredentialsError::ProviderTimedOut(_) => {
            (ErrorKind::Unavailable, format!("the source of the AWS credentials does not respond: {why}"))
        }
        _ if passes => (ErrorKind::Unavailable, format!("the source of the AWS credentials is unavailable: {why}")),
        _ => (ErrorKind::Denied, format!("the source of the AWS credentials returned none: {why}")),
    };
    let error = Error::new(kind, message);
    if kind == ErrorKind::Denied { error.with_hint(LOOK) } else { error }
}

/// The credentials as clients take them.
#[derive(Debug)]
pub(super) struct Shared(pub(super) Arc<RenewedCredentials>);

impl ProvideCredentials for Shared {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        let credentials = Arc::clone(&self.0);
        future::ProvideCredentials::new(
            async move { credentials.provide().await.map_err(CredentialsError::provider_error) },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: SystemTime = SystemTime::UNIX_EPOCH;

    fn lasting(seconds: u64) -> Credentials {
        Credentials::new("id", "secret", None, Some(START + Duration::from_secs(seconds)), "test")
    }

    /// What is done `seconds` after credentials of 60 seconds came, having been asked for so long ago.
    fn after(seconds: u64, asked: Option<Instant>) -> Step {
        let mut state = State::default();
        state.renew(&lasting(60), START);
        state.asked = asked;
        state.step(START + Duration::from_secs(seconds))
    }

    #[test]
    fn credentials_are_renewed_at_half_of_their_time_and_not_more_than_twice_a_minute() {
        let now = Some(Instant::now());
        assert!(matches!(State::default().step(START), Step::Ask(Duration::ZERO)));
        assert!(matches!(after(29, None), Step::Use(_)));
        assert!(matches!(after(31, None), Step::UseAndRenew(_)));
        assert!(matches!(after(31, now), Step::Use(_)), "asked a moment ago");
        assert!(matches!(after(61, now), Step::Ask(wait) if wait > SPACING / 2));
    }

    #[test]
    fn credentials_of_hours_are_renewed_five_minutes_before_they_end() {
        let mut state = State::default();
        state.renew(&lasting(3600), START);
        assert!(matches!(state.step(START + Duration::from_secs(3299)), Step::Use(_)));
        assert!(matches!(state.step(START + Duration::from_secs(3301)), Step::UseAndRenew(_)));
    }

    #[test]
    fn what_a_service_rejects_is_not_used_again() {
        let mut state = State::default();
        state.renew(&lasting(3600), START);
        (state.rejected, state.asked) = (true, Some(Instant::now()));
        assert!(matches!(state.step(START), Step::Ask(wait) if wait > SPACING / 2));
        // Nobody is asked for those of a file.
        state.current = Some(Credentials::new("id", "secret", None, None, "test"));
        assert!(matches!(state.step(START), Step::Ask(Duration::ZERO)));
    }
}

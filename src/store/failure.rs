//! What the answer of a service means: which kind of error, which next step, and whether the request may be made again.
//!
//! Nothing that a service sends is repeated but its error code: addresses, headers and bodies can hold credentials.

use std::borrow::Cow;
use std::time::Duration;

use super::http::{Answer, Redirect, error_code};
use super::url::Service;
use super::{azure, google, s3};
use crate::error::{first_cause, first_line};
use crate::net::endpoint::is_link_local;
use crate::net::retry::Failure;
use crate::{Error, ErrorKind};

/// Returns what the failure of a request means; `answer` is empty where none was noted.
pub(super) fn failure(
    service: Service,
    object: impl std::fmt::Display,
    error: &object_store::Error,
    answer: &Answer,
) -> Failure {
    use object_store::Error as E;
    if let Some(refused) = answer.refused {
        return Failure::Final(Error::new(
            ErrorKind::Corrupt,
            format!("object {object}: invalid response of the service: {refused}"),
        ));
    }
    if let Some(error) = credential_failure(service, &object, error, answer) {
        return error;
    }
    let reason = Reason::of(error, answer);
    let set_right = s3::is_set_right(error);
    let kind = match (answer.status, error) {
        _ if set_right => ErrorKind::Unavailable,
        _ if let Some(kind) = reason.code.as_deref().and_then(s3::kind).filter(|_| service == Service::S3) => kind,
        _ if matches!(reason.code.as_deref(), Some("RequestTimeout" | "SlowDown" | "InternalError")) => {
            ErrorKind::Unavailable
        }
        _ if matches!(reason.code.as_deref(), Some("ExpiredToken" | "InvalidToken")) => ErrorKind::Denied,
        _ if reason.code.as_deref().is_some_and(is_immutable) => ErrorKind::Denied,
        (Some(408 | 409 | 429), _) => ErrorKind::Unavailable,
        (Some(507), _) => ErrorKind::Full,
        (Some(501), _) => ErrorKind::Unsupported,
        (Some(401 | 403), _) => ErrorKind::Denied,
        (Some(404), _) => ErrorKind::NotFound,
        (Some(500..=599) | None, E::Generic { .. }) => ErrorKind::Unavailable,
        (_, E::NotFound { .. }) => ErrorKind::NotFound,
        (_, E::PermissionDenied { .. } | E::Unauthenticated { .. }) => ErrorKind::Denied,
        (_, E::AlreadyExists { .. } | E::Precondition { .. }) => ErrorKind::Unavailable,
        (_, E::NotImplemented { .. } | E::NotSupported { .. }) => ErrorKind::Unsupported,
        // The body broke off.
        (Some(200..=299), _) => ErrorKind::Unavailable,
        _ => ErrorKind::Input,
    };
    let next = next_step(service, reason.code.as_deref().unwrap_or_default(), answer);
    let error = Error::new(kind, format!("object {object}: {}", reason.text(service, answer)));
    let error = match next {
        Some(next) => error.with_hint(next),
        None => error,
    };
    match kind {
        ErrorKind::Unavailable => {
            Failure::Again { error, after: answer.retry_after.map(|after| after.min(MOST_AFTER)) }
        }
        _ => Failure::Final(error),
    }
}

/// Returns the next step that fits what a service calls the fault.
fn next_step(service: Service, code: &str, answer: &Answer) -> Option<Cow<'static, str>> {
    match service {
        Service::S3 => s3::next_step(code, answer),
        Service::Azure => azure::next_step(code).map(Cow::from),
        Service::Gcs => google::next_step(code).map(Cow::from),
    }
}

/// Returns what it means that no credentials came: of our own clients, which say why, and of `object_store`'s, of which the last answer
/// is known. `None` where the failure is the store's.
fn credential_failure(
    service: Service,
    object: &impl std::fmt::Display,
    error: &object_store::Error,
    answer: &Answer,
) -> Option<Failure> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    let own = std::iter::from_fn(|| {
        let error = cause?;
        cause = error.source();
        Some(error)
    });
    let own = own.filter_map(|error| error.downcast_ref::<Error>()).next();
    let error = match (own, &answer.credentials_from) {
        (Some(own), _) => {
            let error = Error::new(own.kind(), format!("object {object}: {}", own.chain()));
            match own.hint() {
                Some(hint) => error.with_hint(hint.to_owned()),
                None => error,
            }
        }
        (None, Some(host)) => {
            let kind = match answer.status {
                Some(400..=407) => ErrorKind::Denied,
                _ => ErrorKind::Unavailable,
            };
            let reason = match (answer.status, &answer.code) {
                (Some(status), Some(code)) => format!("{host} answered {status} ({code})"),
                (Some(status), None) => format!("{host} answered {status}"),
                (None, _) => format!("{host}: {}", first_line(&first_cause(error))),
            };
            let is_machine = is_link_local(host) || host == "metadata.google.internal";
            let next = match service {
                Service::Azure if is_machine => azure::NO_IDENTITY,
                Service::Gcs if is_machine => google::NO_IDENTITY,
                _ => {
                    "check the identity's tenant, client, secret or token; docs/reference/stores.md lists where credentials are looked for"
                }
            };
            Error::new(kind, format!("object {object}: no credentials: {reason}")).with_hint(next)
        }
        (None, None) => return None,
    };
    Some(match error.kind() {
        ErrorKind::Unavailable => {
            Failure::Again { error, after: answer.retry_after.map(|after| after.min(MOST_AFTER)) }
        }
        _ => Failure::Final(error),
    })
}

/// No service may make a client wait longer between two requests.
const MOST_AFTER: Duration = Duration::from_secs(60);

/// What was answered, without addresses, headers or bodies: these can have credentials in them.
struct Reason {
    /// The service's own word, such as `AccessDenied`.
    code: Option<String>,
    /// What happened where there was no answer.
    innermost: String,
}

impl Reason {
    fn of(error: &object_store::Error, answer: &Answer) -> Self {
        let innermost = first_cause(error);
        let code = answer.code.clone().or_else(|| error_code(innermost.as_bytes()));
        Self { code, innermost }
    }

    fn text(self, service: Service, answer: &Answer) -> String {
        let with_region = |to: &Redirect| {
            let region = to.region.clone().or_else(|| answer.region.clone());
            redirected(service, &Redirect { region, ..to.clone() })
        };
        let redirect = answer.redirect.as_ref().map(with_region).unwrap_or_default();
        match (answer.status, self.code) {
            (Some(status), Some(code)) => format!("the service answered {status} ({code}){redirect}"),
            (Some(status), None) => format!("the service answered {status}{redirect}"),
            (None, Some(code)) => format!("the service answered {code}"),
            (None, None) => first_line(&self.innermost).to_owned(),
        }
    }
}

/// What to say of a redirect, which is not followed.
fn redirected(service: Service, to: &Redirect) -> String {
    let host = match &to.host {
        Some(host) => {
            format!(" and redirects to {host}; redirects are not followed, since credentials would go there too")
        }
        None => String::new(),
    };
    let of_aws = |host: &String| host.ends_with(".amazonaws.com") || host.ends_with(".amazonaws.com.cn");
    match &to.region {
        Some(region) => format!("{host}; the bucket is in the region {region}: give --store-region {region}"),
        None if service == Service::S3 && to.host.as_ref().is_none_or(of_aws) => {
            format!("{host}; is the bucket in another region? (--store-region)")
        }
        None if to.host.is_some() => format!("{host}; if the store is there, name it with --store-endpoint"),
        None => host,
    }
}

/// Returns whether Azure says that a policy or a legal hold keeps an object as it is.
pub(super) fn is_immutable(code: &str) -> bool {
    matches!(code, "BlobImmutableDueToPolicy" | "BlobImmutableDueToLegalHold")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a service answers, as `object_store` tells of it.
    fn answered(status: u16, body: &str) -> Failure {
        let error = object_store::Error::Generic { store: "S3", source: format!("status {status}").into() };
        let mut answer = Answer { status: Some(status), ..Answer::default() };
        answer.note_error(body.as_bytes());
        failure(Service::S3, "o", &error, &answer)
    }

    fn kind(failure: &Failure) -> ErrorKind {
        match failure {
            Failure::Again { error, .. } | Failure::Final(error) => error.kind(),
        }
    }

    #[test]
    fn answers_are_told_apart_by_status_and_code() {
        for (status, body, wanted) in [
            (400, "<Code>RequestTimeout</Code>", ErrorKind::Unavailable),
            (400, "<Code>ExpiredToken</Code>", ErrorKind::Denied),
            (400, "<Code>BadDigest</Code>", ErrorKind::Input),
            (403, "", ErrorKind::Denied),
            (404, "<Code>NoSuchBucket</Code>", ErrorKind::NotFound),
            (409, "", ErrorKind::Unavailable),
            (429, "", ErrorKind::Unavailable),
            (403, "<Code>RequestLimitExceeded</Code>", ErrorKind::Unavailable),
            (403, "<Code>QuotaExceeded</Code>", ErrorKind::Full),
            (507, "", ErrorKind::Full),
            (200, "<Code>InternalError</Code>", ErrorKind::Unavailable),
            (501, "", ErrorKind::Unsupported),
            (503, "<Code>SlowDown</Code>", ErrorKind::Unavailable),
        ] {
            assert_eq!(kind(&answered(status, body)), wanted, "{status} {body}");
        }
    }

    #[test]
    fn a_body_is_not_told_but_for_its_code() {
        let text = |failure: Failure| match failure {
            Failure::Again { error, .. } | Failure::Final(error) => error.to_string(),
        };
        let told = text(answered(403, "<Code>SignatureDoesNotMatch</Code><Key>secret</Key>"));
        assert_eq!(told, "object o: the service answered 403 (SignatureDoesNotMatch)");
        assert!(text(answered(403, "<Code>a secret: x</Code>")).ends_with("answered 403"));
    }

    #[test]
    fn a_redirect_names_its_host_and_the_next_step_that_fits() {
        let told = |service, host: Option<&str>, region: Option<&str>| {
            redirected(service, &Redirect { host: host.map(str::to_owned), region: region.map(str::to_owned) })
        };
        assert_eq!(told(Service::S3, None, None), "; is the bucket in another region? (--store-region)");
        assert!(told(Service::S3, Some("s3.eu-west-1.amazonaws.com"), None).ends_with("(--store-region)"));
        assert!(told(Service::S3, Some("x"), Some("eu-west-1")).ends_with("give --store-region eu-west-1"));
        let elsewhere = told(Service::S3, Some("evil.example:8443"), None);
        assert!(elsewhere.contains("redirects to evil.example:8443") && elsewhere.ends_with("--store-endpoint"));
        assert_eq!(told(Service::Azure, None, None), "");
    }
}

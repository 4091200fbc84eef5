//! The addresses that a person gives for services: an object store's and a key service's endpoint.
//!
//! Credentials and data keys never cross a network in clear, so an address without TLS has to be on this machine, unless a
//! person insists.

use std::net::IpAddr;

use reqwest::Url;

use crate::{Error, ErrorKind, Result};

/// What a person can do about an address without TLS on another machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlainHttp {
    /// It is allowed.
    Allowed,
    /// It is refused, and the option of this name allows it.
    RefusedUnless(&'static str),
    /// It is refused.
    Refused,
}

/// Checks an address that `name` stands for, such as an option's name.
///
/// # Errors
/// `Input` where it is no address of a service, or is without TLS on another machine and that is not allowed.
pub fn check(name: &str, endpoint: &str, plain_http: PlainHttp) -> Result<()> {
    let refuse = |what: String| Err(Error::new(ErrorKind::Input, format!("{name}: {what}")));
    let Some(url) = parse(endpoint) else {
        return refuse("expected https://HOST[:PORT], without user, query and fragment".to_owned());
    };
    if url.scheme() == "https" || plain_http == PlainHttp::Allowed || is_loopback(endpoint) {
        return Ok(());
    }
    let insist = match plain_http {
        PlainHttp::RefusedUnless(option) => format!(", or give {option}"),
        _ => String::new(),
    };
    refuse(format!(
        "http:// is accepted for loopback addresses only, since secrets would cross the network unencrypted; use https://{insist}"
    ))
}

/// Checks the address of a service that gives tokens, such as a cloud's metadata service: with TLS anywhere; without, on this machine or at
/// a link-local address, which no router forwards. It may have a query.
///
/// # Errors
/// `Input` where it is no address, or tokens would cross a network in clear.
pub(crate) fn check_metadata(name: &str, url: &str) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::Input, format!("{name}: {what}")));
    let Some(url) = Url::parse(url).ok().filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
    else {
        return refuse("expected https://HOST[:PORT]/PATH");
    };
    let host = url.host_str().unwrap_or_default();
    if url.scheme() == "https" || is_local(host) || is_link_local(host) {
        return Ok(());
    }
    refuse(
        "http:// is accepted for loopback and for link-local addresses of metadata services only, since tokens would cross the network unencrypted; use https://",
    )
}

/// Whether an address is on this machine, whatever its scheme.
#[must_use]
pub fn is_loopback(endpoint: &str) -> bool {
    let Some(url) = parse(endpoint) else { return false };
    url.host_str().is_some_and(is_local)
}

/// The host and port that a URL's requests go to.
pub(crate) fn authority(url: &str) -> Option<String> {
    let url = Url::parse(url).ok()?;
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

/// Whether a URL's host is this machine.
pub(crate) fn is_local(host: &str) -> bool {
    host == "localhost" || ip(host).is_some_and(|address| address.is_loopback())
}

/// Whether a URL's host is an address of the metadata services of clouds: link-local, or the one of AWS for IPv6.
pub(crate) fn is_link_local(host: &str) -> bool {
    match ip(host) {
        Some(IpAddr::V4(address)) => address.is_link_local(),
        Some(IpAddr::V6(address)) => address.is_unicast_link_local() || address.segments()[..2] == [0xfd00, 0x0ec2],
        None => false,
    }
}

fn ip(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// The host of a `Location`, and its port where that is not the usual one: what may be printed of it, since path and query can have
/// credentials in them. A location may be relative to `url`, the address that was asked.
pub(crate) fn redirect_host(url: &str, location: &str) -> Option<String> {
    let to = Url::parse(url).ok()?.join(location).ok()?;
    let host = to.host_str()?;
    Some(to.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
}

/// An address with nothing in it that could stand for another than it seems.
fn parse(endpoint: &str) -> Option<Url> {
    let url = Url::parse(endpoint).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    plain.then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_without_tls_is_on_this_machine_or_insisted_on() {
        for (endpoint, allowed) in [
            ("https://s3.example", true),
            ("https://10.0.0.1:9000/path", true),
            ("http://127.0.0.1:9000", true),
            ("http://127.9.9.9", true),
            ("http://localhost:9000/", true),
            ("http://[::1]:9000", true),
            ("http://s3.example", false),
            ("http://10.0.0.1:9000", false),
            ("http://127.0.0.1.example:9000", false),
            ("http://localhost:80@s3.example", false),
            ("http://0.0.0.0:9000", false),
        ] {
            assert_eq!(check("x", endpoint, PlainHttp::Refused).is_ok(), allowed, "{endpoint}");
        }
        check("x", "http://10.0.0.1:9000", PlainHttp::Allowed).unwrap();
        for nonsense in
            ["", "s3.example", "127.0.0.1:9000", "ftp://s3.example", "https://", "https://u:p@h", "http://h?q"]
        {
            let refused = check("--x", nonsense, PlainHttp::Allowed).unwrap_err();
            assert!(refused.to_string().starts_with("--x: expected https://"), "{nonsense}: {refused}");
        }
    }

    #[test]
    fn tokens_come_with_tls_or_from_next_door() {
        for (url, allowed) in [
            ("https://tokens.example/x?audience=y", true),
            ("http://169.254.169.254/metadata/identity/oauth2/token", true),
            ("http://[fd00:ec2::254]/latest", true),
            ("http://[fe80::1]/", true),
            ("http://localhost:42356/msi/token", true),
            ("http://10.0.0.1/msi/token", false),
            ("http://169.254.169.254.example/", false),
            ("169.254.169.254", false),
            ("file:///etc/passwd", false),
        ] {
            assert_eq!(check_metadata("x", url).is_ok(), allowed, "{url}");
        }
    }

    #[test]
    fn a_redirect_is_named_by_its_host_alone() {
        let from = "https://bucket.s3.example/key?sig=SECRET";
        for (location, host) in [
            ("https://evil.example/key?sig=SECRET", "evil.example"),
            ("https://user:SECRET@evil.example:8443/", "evil.example:8443"),
            ("//evil.example/x", "evil.example"),
            ("/elsewhere?x", "bucket.s3.example"),
        ] {
            assert_eq!(redirect_host(from, location).as_deref(), Some(host), "{location}");
        }
        assert_eq!(redirect_host(from, "https://"), None);
    }
}

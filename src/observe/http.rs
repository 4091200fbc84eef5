//! As much of HTTP/1.1 as it takes to tell who asks how the reader is, and to ask: one GET a connection, no body but the answer's.
//!
//! What comes from the other side is bounded in bytes and in time, so that it can spoil its own connection and nothing else.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

use crate::{Error, ErrorKind, Result};

/// How long one side may take for its part; a stream's own time-out is to be shorter.
pub const PATIENCE: Duration = Duration::from_secs(5);
/// Longest head of a request.
const MAX_HEAD: usize = 8 << 10;
/// Longest answer that is read.
const MAX_ANSWER: u64 = 16 << 20;

/// An answer's media type and body.
pub type Page = (&'static str, String);

/// Host names that requests may be for, beside IP addresses and localhost: a web page can only ask by a name that it knows to resolve to
/// this machine, so an unknown name may be one of its own.
#[derive(Debug, Clone)]
pub enum Hosts {
    /// Any: no web page reaches a socket of the file system.
    Any,
    /// These, in lower case.
    Named(Vec<String>),
}

impl Hosts {
    /// Returns whether a request is answered whose `Host` header says this.
    #[must_use]
    pub fn allow(&self, host: &str) -> bool {
        let Self::Named(names) = self else { return true };
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|digit| digit.is_ascii_digit()) => name,
            _ => host,
        };
        let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']'));
        let is_address = bare.map_or(name.parse::<Ipv4Addr>().is_ok(), |name| name.parse::<Ipv6Addr>().is_ok());
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        is_address || name == "localhost" || name.ends_with(".localhost") || names.contains(&name)
    }
}

/// Reads one request of `stream` and answers it with the page that `pages` has for its path.
///
/// # Errors
/// Those of the stream.
pub fn answer(stream: &mut (impl Read + Write), hosts: &Hosts, pages: &dyn Fn(&str) -> Option<Page>) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let head = match head(stream, until)? {
        Ok(head) => head,
        Err(status) => return write(stream, status, "", &plain(status)),
    };
    let mut lines = head.split("\r\n");
    let words: Vec<&str> = lines.next().unwrap_or_default().split(' ').collect();
    let [method, path, version @ ("HTTP/1.1" | "HTTP/1.0")] = words[..] else {
        return write(stream, "400 Bad Request", "", &plain("400 Bad Request"));
    };
    let fields = lines.filter_map(|line| line.split_once(':'));
    let named: Vec<&str> =
        fields.filter(|(name, _)| name.eq_ignore_ascii_case("host")).map(|(_, value)| value.trim()).collect();
    match named[..] {
        [host] if !hosts.allow(host) => {
            let message =
                "not a host name of this server; ask by IP address or localhost, or start it with --metrics-host NAME";
            return write(stream, "421 Misdirected Request", "", &plain(message));
        }
        [_] => {}
        [] if version == "HTTP/1.0" || matches!(hosts, Hosts::Any) => {}
        _ => {
            return write(
                stream,
                "400 Bad Request",
                "",
                &plain("400 Bad Request: exactly one Host header is required"),
            );
        }
    }
    if method != "GET" {
        return write(stream, "405 Method Not Allowed", "Allow: GET\r\n", &plain("only GET is answered"));
    }
    match pages(path.split('?').next().unwrap_or_default()) {
        Some(page) => write(stream, "200 OK", "", &page),
        None => write(stream, "404 Not Found", "", &plain("there are /metrics and /status")),
    }
}

fn plain(text: &str) -> Page {
    ("text/plain; charset=utf-8", format!("{text}\n"))
}

/// A request's head, when all of it came; else what to answer.
fn head(stream: &mut impl Read, until: Instant) -> io::Result<Result<String, &'static str>> {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        if head.len() > MAX_HEAD {
            return Ok(Err("431 Request Header Fields Too Large"));
        }
        let timed_out = |error: &io::Error| matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut);
        match stream.read(&mut part) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) => head.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted || timed_out(&error) => {}
            Err(error) => return Err(error),
        }
        if Instant::now() > until {
            return Ok(Err("408 Request Timeout"));
        }
    }
    Ok(String::from_utf8(head).map_err(|_| "400 Bad Request"))
}

fn write(stream: &mut impl Write, status: &str, header: &str, (media_type, body): &Page) -> io::Result<()> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\n{header}Content-Type: {media_type}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

/// Asks for `path`; the body of the answer.
///
/// # Errors
/// `Unavailable` where the response is incomplete came, `Input` where it is not one of [`answer`].
pub fn get(stream: &mut (impl Read + Write), path: &str) -> Result<Vec<u8>> {
    let lost = |error| Error::caused(ErrorKind::Unavailable, "the response is incomplete", error);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(lost)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(lost)?;
    if answer.is_empty() {
        return Err(lost(io::ErrorKind::UnexpectedEof.into()));
    }
    let strange = || Error::new(ErrorKind::Input, "not the response of `coldread --metrics`");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(strange)?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).map_err(|_| strange())?;
    let mut lines = head.split("\r\n");
    match lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")) {
        Some("200 OK") => {}
        Some(status) if status.starts_with("503 ") => {
            return Err(Error::new(ErrorKind::Unavailable, "too many requests at a time"));
        }
        _ => return Err(strange()),
    }
    let length = lines.find_map(|line| line.strip_prefix("Content-Length: ")).and_then(|length| length.parse().ok());
    if length != Some(body.len()) {
        return Err(lost(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_named_hosts_are_answered() {
        let hosts = Hosts::Named(vec!["metrics.example".to_owned()]);
        for host in [
            "127.0.0.1",
            "127.0.0.1:9464",
            "[::1]:9464",
            "[::1]",
            "localhost",
            "LOCALHOST:1",
            "a.localhost",
            "10.0.3.7:80",
            "Metrics.Example:9464",
            "metrics.example.",
        ] {
            assert!(hosts.allow(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:9464",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "[evil]:1",
            "::1",
            "[127.0.0.1]",
            "metrics.example:port",
            "xmetrics.example",
        ] {
            assert!(!hosts.allow(host), "{host}");
        }
        assert!(Hosts::Any.allow("evil.example"));
    }
}

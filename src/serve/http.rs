//! As much of HTTP/1.1 as it takes to tell who asks how the reader is, and to ask: one GET a connection, no body but the answer's.
//!
//! What comes from the other side is bounded in bytes and in time, so that it can spoil its own connection and nothing else.

use std::io::{self, Read, Write};
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

/// Reads one request of `stream` and answers it with the page that `pages` has for its path.
///
/// # Errors
/// Those of the stream.
pub fn answer(stream: &mut (impl Read + Write), pages: &dyn Fn(&str) -> Option<Page>) -> io::Result<()> {
    let until = Instant::now() + PATIENCE;
    let head = match head(stream, until)? {
        Ok(head) => head,
        Err(status) => return write(stream, status, "", &plain(status)),
    };
    let words: Vec<&str> = head.split(' ').collect();
    let [method, path, "HTTP/1.1" | "HTTP/1.0"] = words[..] else {
        return write(stream, "400 Bad Request", "", &plain("400 Bad Request"));
    };
    if method != "GET" {
        return write(stream, "405 Method Not Allowed", "Allow: GET\r\n", &plain("only GET is answered"));
    }
    match pages(path.split('?').next().unwrap_or_default()) {
        Some(page) => write(stream, "200 OK", "", &page),
        None => write(stream, "404 Not Found", "", &plain("there are /metrics and /status")),
    }
}

/// Tells who asks that there are too many.
///
/// # Errors
/// Those of the stream.
pub fn turn_away(stream: &mut impl Write) -> io::Result<()> {
    write(stream, "503 Service Unavailable", "", &plain("too many at once"))
}

fn plain(text: &str) -> Page {
    ("text/plain; charset=utf-8", format!("{text}\n"))
}

/// The first line of a request's head, when all of the head came; else what to answer.
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
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Ok(String::from_utf8(line.to_vec()).map_err(|_| "400 Bad Request"))
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
/// `Unavailable` where no whole answer came, `Input` where it is not one of [`answer`].
pub fn get(stream: &mut (impl Read + Write), path: &str) -> Result<Vec<u8>> {
    let lost = |error| Error::caused(ErrorKind::Unavailable, "no whole answer", error);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(lost)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER).read_to_end(&mut answer).map_err(lost)?;
    if answer.is_empty() {
        return Err(lost(io::ErrorKind::UnexpectedEof.into()));
    }
    let strange = || Error::new(ErrorKind::Input, "not an answer of coldread's --metrics");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or_else(strange)?;
    let body = answer.split_off(end + 4);
    let head = String::from_utf8(answer).map_err(|_| strange())?;
    let mut lines = head.split("\r\n");
    match lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")) {
        Some("200 OK") => {}
        Some(status) if status.starts_with("503 ") => {
            return Err(Error::new(ErrorKind::Unavailable, "too many ask at once"));
        }
        _ => return Err(strange()),
    }
    let length = lines.find_map(|line| line.strip_prefix("Content-Length: ")).and_then(|length| length.parse().ok());
    if length != Some(body.len()) {
        return Err(lost(io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(body)
}

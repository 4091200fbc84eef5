//! A connection to a cache server: TCP or a Unix socket, with TLS where its URL says so. It never blocks but where its user says until when.

use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

#[cfg(test)]
use super::network::{Connection, network};
use super::resp::{Decoder, Reply, encode};
use crate::sync::{Mutex, now};
use crate::{Error, ErrorKind as Kind, Result};

/// Where servers listen unless said otherwise.
const PORT: u16 = 6379;

/// A cache server, and what opens it.
#[derive(Clone)]
pub struct Address {
    /// Without user and password; all hosts must give the same, since it decides what lies there.
    name: String,
    way: Way,
    user: String,
    password: String,
    database: u32,
    /// What the name was found to be last.
    found: Arc<Mutex<Vec<SocketAddr>>>,
}

#[derive(Clone)]
enum Way {
    Tcp { host: String, port: u16, tls: bool },
    Unix(PathBuf),
}

impl Address {
    /// `HOST:PORT`, or a socket's path.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is spoken to by TLS.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        matches!(self.way, Way::Tcp { tls: true, .. })
    }

    /// The same with `password`, unless it has one.
    #[must_use]
    pub fn with_password(mut self, password: &str) -> Self {
        if self.password.is_empty() {
            password.clone_into(&mut self.password);
        }
        self
    }

    /// Looks its name up; takes as long as that takes.
    pub(super) fn find(&self) -> io::Result<()> {
        if let Way::Tcp { host, port, .. } = &self.way {
            let found = (host.as_str(), *port).to_socket_addrs()?.collect();
            *self.found.lock() = found;
        }
        Ok(())
    }

    /// Whether it is known where it is.
    pub(super) fn is_found(&self) -> bool {
        matches!(self.way, Way::Unix(_)) || !self.found().is_empty()
    }

    fn found(&self) -> Vec<SocketAddr> {
        self.found.lock().clone()
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        // What stands in a URL may be a password, so errors do not repeat it.
        let error = || {
            "not the address of a cache server; use redis://HOST[:PORT], rediss:// for TLS, or redis+unix:///PATH"
                .to_owned()
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(error)?;
        let (login, rest) = rest.rsplit_once('@').unwrap_or(("", rest));
        let (user, password) = login.split_once(':').unwrap_or((login, ""));
        let (user, password) = (decoded(user).ok_or_else(error)?, decoded(password).ok_or_else(error)?);
        let of = |name: String, way, database, found: Option<SocketAddr>| {
            let found = Arc::new(Mutex::new(found.into_iter().collect()));
            Self { name, way, user, password, database, found }
        };
        let tls = match scheme {
            "redis" | "valkey" => false,
            "rediss" | "valkeys" => true,
            "redis+unix" | "valkey+unix" | "unix" if rest.starts_with('/') => {
                return Ok(of(rest.to_owned(), Way::Unix(rest.into()), 0, None));
            }
            _ => return Err(error()),
        };
        let (server, database) = rest.split_once('/').unwrap_or((rest, ""));
        let database = if database.is_empty() { 0 } else { database.parse().map_err(|_| error())? };
        let bracketed = server.strip_prefix('[').and_then(|server| server.split_once(']'));
        let (host, port) = match bracketed {
            Some((host, port)) => (host, port),
            None => server.split_at(server.find(':').unwrap_or(server.len())),
        };
        let port = match port.strip_prefix(':') {
            Some(port) => port.parse().map_err(|_| error())?,
            None if port.is_empty() => PORT,
            None => return Err(error()),
        };
        let safe =
            |c: char| c.is_ascii_alphanumeric() || "-._".contains(c) || (bracketed.is_some() && ":%".contains(c));
        if host.is_empty() || !host.chars().all(safe) {
            return Err(error());
        }
        let name = if bracketed.is_some() { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
        // An address needs no looking up.
        let found = host.parse().ok().map(|host: IpAddr| SocketAddr::new(host, port));
        Ok(of(name, Way::Tcp { host: host.to_owned(), port, tls }, database, found))
    }
}

/// Of a URL's part, with its `%XX`.
fn decoded(text: &str) -> Option<String> {
    let mut parts = text.split('%');
    let mut bytes = parts.next()?.as_bytes().to_vec();
    for part in parts {
        let hex = part.get(..2)?;
        bytes.push(u8::from_str_radix(hex, 16).ok()?);
        bytes.extend_from_slice(&part.as_bytes()[2..]);
    }
    String::from_utf8(bytes).ok()
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// TLS to servers whose certificates are of the authorities in `file`, or else of those that this system trusts.
///
/// # Errors
/// Those of the file; `Input` where there is no certificate in it.
pub fn tls(file: Option<&Path>) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(path) => {
            let bad = || Error::new(Kind::Input, format!("{}: no certificates in PEM", path.display()));
            let text = std::fs::read(path).map_err(|error| Error::file(path, error))?;
            for certificate in CertificateDer::pem_slice_iter(&text) {
                roots.add(certificate.map_err(|_| bad())?).map_err(|_| bad())?;
            }
            if roots.is_empty() {
                return Err(bad());
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let message = "TLS to cache servers: this system has no trusted CA certificates; give those of the servers with --zone-tls-ca";
                return Err(Error::new(Kind::Input, message));
            }
        }
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let config = versions.map_err(|error| Error::caused(Kind::Internal, "TLS", error))?;
    Ok(Arc::new(config.with_root_certificates(roots).with_no_client_auth()))
}

enum Stream {
    #[cfg(test)]
    Simulated(Connection),
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
            Self::Tls(stream) => stream.sock.as_fd(),
            #[cfg(test)]
            Self::Simulated(_) => unreachable!("the network of a simulation has no descriptors"),
        }
    }

    fn as_read_write(&mut self) -> &mut dyn ReadWrite {
        match self {
            Self::Tcp(stream) => stream,
            Self::Unix(stream) => stream,
            Self::Tls(stream) => stream,
            #[cfg(test)]
            Self::Simulated(stream) => stream,
        }
    }
}

trait ReadWrite: Read + Write {}

impl<S: Read + Write> ReadWrite for S {}

/// A connection.
pub(super) struct Link {
    stream: Stream,
    decoder: Decoder,
    /// Replies that are still to come before the next that is asked for: of what opened it, and of what nobody waits for any more.
    owed: u32,
    /// Longest value that may come.
    limit: usize,
    out: Vec<u8>,
}

impl Link {
    /// A connection to `address`, there by `until`.
    pub(super) fn connect(address: &Address, tls: Option<&Arc<ClientConfig>>, until: Instant) -> io::Result<Self> {
        #[cfg(test)]
        if let Some(network) = network() {
            let stream = Stream::Simulated(network.connect(&address.name, until)?);
            return Ok(Self { stream, decoder: Decoder::default(), owed: 0, limit: 0, out: Vec::new() });
        }
        let stream = match &address.way {
            Way::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_nonblocking(true)?;
                Stream::Unix(stream)
            }
            Way::Tcp { host, tls: wanted, .. } => {
                let stream = connect(&address.found(), until)?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                match tls.filter(|_| *wanted) {
                    None => Stream::Tcp(stream),
                    Some(config) => {
                        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                        let session = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                        Stream::Tls(Box::new(StreamOwned::new(session, stream)))
                    }
                }
            }
        };
        let mut link = Self { stream, decoder: Decoder::default(), owed: 0, limit: 0, out: Vec::new() };
        link.open(address, until)?;
        Ok(link)
    }

    /// Sends what opens the server; nobody waits for its answers, which come before the first that is asked for.
    fn open(&mut self, address: &Address, until: Instant) -> io::Result<()> {
        let (user, password) = (address.user.as_bytes(), address.password.as_bytes());
        match (user, password) {
            ([], []) => {}
            ([], password) => self.add(&[b"AUTH", password]),
            (user, password) => self.add(&[b"AUTH", user, password]),
        }
        if address.database != 0 {
            self.add(&[b"SELECT", address.database.to_string().as_bytes()]);
        }
        // TLS has to be agreed upon here, so that a later wait is one for the server's answer alone.
        while let Stream::Tls(stream) = &mut self.stream
            && stream.conn.is_handshaking()
        {
            match stream.conn.complete_io(&mut stream.sock) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(self.stream.fd(), PollFlags::IN, until)?,
                Err(error) => return Err(error),
            }
        }
        self.send(until)
    }

    fn add(&mut self, words: &[&[u8]]) {
        encode(&mut self.out, words);
        self.owed += 1;
    }

    /// Sends what is to be sent, by `until`.
    fn send(&mut self, until: Instant) -> io::Result<()> {
        let out = std::mem::take(&mut self.out);
        let mut left = &out[..];
        while !left.is_empty() {
            match self.stream.as_read_write().write(left) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => left = &left[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(self.stream.fd(), PollFlags::OUT, until)?,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        loop {
            match self.stream.as_read_write().flush() {
                Err(error) if error.kind() == ErrorKind::WouldBlock => wait(self.stream.fd(), PollFlags::OUT, until)?,
                flushed => return flushed,
            }
        }
    }

    /// Asks; the reply is to be a value of at most `limit` bytes, or a short one.
    pub(super) fn ask(&mut self, words: &[&[u8]], limit: usize, until: Instant) -> io::Result<()> {
        self.add(words);
        self.limit = self.limit.max(limit);
        self.send(until)
    }

    /// The reply to what was asked last, if it has come.
    pub(super) fn reply(&mut self) -> io::Result<Option<Reply>> {
        while self.owed > 0 {
            let Some(reply) = self.decoder.read(&mut self.stream.as_read_write(), self.limit)? else {
                return Ok(None);
            };
            self.owed -= 1;
            match reply {
                // What does not open is no cache.
                Reply::Refused(why) if self.owed > 0 => return Err(io::Error::other(refusal(&why))),
                reply if self.owed == 0 => return Ok(Some(reply)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// The same, waited for until it comes, or `until`.
    pub(super) fn wait_for_reply(&mut self, until: Instant) -> io::Result<Reply> {
        loop {
            if let Some(reply) = self.reply()? {
                return Ok(reply);
            }
            if !wait_for_any(std::iter::once(&*self), until)?.contains(&true) {
                return Err(ErrorKind::TimedOut.into());
            }
        }
    }

    /// Bytes that ever came.
    pub(super) fn received(&self) -> u64 {
        self.decoder.received()
    }

    #[cfg(test)]
    fn simulated(&self) -> &Connection {
        match &self.stream {
            Stream::Simulated(connection) => connection,
            _ => unreachable!("a simulation connects to nothing else"),
        }
    }
}

/// What a server says that refuses: its first word, which is a code, since the rest is the server's own.
pub(super) fn refusal(why: &str) -> String {
    let code: String = why.chars().take_while(char::is_ascii_alphanumeric).take(32).collect();
    format!("it responds {code}")
}

fn connect(found: &[SocketAddr], until: Instant) -> io::Result<TcpStream> {
    let mut last = io::Error::other("its host name cannot be resolved");
    for (address, others) in found.iter().zip((1..=found.len()).rev()) {
        // One that does not answer leaves time for the others.
        let left = until.saturating_duration_since(now()) / u32::try_from(others).unwrap_or(u32::MAX);
        if left.is_zero() {
            break;
        }
        match TcpStream::connect_timeout(address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Waits until bytes have arrived on one of `links`, or `until`; returns for each whether they have.
pub(super) fn wait_for_any<'l>(links: impl Iterator<Item = &'l Link>, until: Instant) -> io::Result<Vec<bool>> {
    #[cfg(test)]
    if let Some(network) = network() {
        let connections: Vec<&Connection> = links.map(Link::simulated).collect();
        return Ok(network.wait(&connections, until));
    }
    let mut fds: Vec<PollFd<'_>> =
        links.map(|link| PollFd::from_borrowed_fd(link.stream.fd(), PollFlags::IN)).collect();
    let is_ready = poll_until(&mut fds, until)?;
    Ok(fds.iter().map(|fd| is_ready && !fd.revents().is_empty()).collect())
}

fn wait(fd: BorrowedFd<'_>, flags: PollFlags, until: Instant) -> io::Result<()> {
    match poll_until(&mut [PollFd::from_borrowed_fd(fd, flags)], until)? {
        true => Ok(()),
        false => Err(ErrorKind::TimedOut.into()),
    }
}

/// Waits until one of `fds` is ready, or `until`; which it was.
fn poll_until(fds: &mut [PollFd<'_>], until: Instant) -> io::Result<bool> {
    loop {
        let left = until.saturating_duration_since(now());
        match poll(fds, Some(&timespec(left))) {
            Ok(ready) if ready > 0 => return Ok(true),
            Ok(_) => return Ok(false),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn timespec(left: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX), tv_nsec: left.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_named_without_what_opens_them() {
        for (text, name, tls) in [
            ("redis://cache-1", "cache-1:6379", false),
            ("rediss://user:pass@cache-1:7000/2", "cache-1:7000", true),
            ("valkeys://127.0.0.1:7000", "127.0.0.1:7000", true),
            ("redis://:p%40ss@[::1]:7000/", "[::1]:7000", false),
            ("redis+unix:///run/cache.sock", "/run/cache.sock", false),
        ] {
            let address: Address = text.parse().unwrap();
            assert_eq!((address.name(), address.has_tls()), (name, tls));
            assert_eq!(format!("{address:?}"), name);
        }
        for bad in
            ["", "cache-1", "http://cache-1", "redis://", "redis://user:secret@", "redis://:secret%4@a", "redis://a:x"]
        {
            let said = bad.parse::<Address>().unwrap_err();
            assert!(said.contains("redis://HOST") && !said.contains("secret"), "{said}");
        }
    }

    #[test]
    fn what_opens_a_server_is_taken_from_its_url_or_given_apart() {
        let of = |text: &str| text.parse::<Address>().unwrap();
        let address = of("redis://me:p%40%3a%2Fss@cache/3");
        assert_eq!((&*address.user, &*address.password, address.database), ("me", "p@:/ss", 3));
        assert_eq!(of("redis://cache").with_password("apart").password, "apart");
        assert_eq!(of("redis://:own@cache").with_password("apart").password, "own");
    }
}

//! Sockets on which a reader is asked, and from which it is: of the file system, for this user alone, or on loopback.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use coldpress::{Error, Result};
use rustix::fs::Mode;
use rustix::process::umask;

/// Where something is offered.
#[derive(Debug, Clone)]
pub enum Address {
    Unix(PathBuf),
    Tcp(SocketAddr),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl FromStr for Address {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
            return Ok(Self::Unix(path.into()));
        }
        let address = text.strip_prefix("tcp:").and_then(|address| address.parse::<SocketAddr>().ok());
        match address.filter(|address| address.ip().is_loopback()) {
            Some(address) => Ok(Self::Tcp(address)),
            None => Err(format!("`{text}` is not a local address; use unix:PATH, or tcp:127.0.0.1:PORT")),
        }
    }
}

/// A connection.
pub enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Stream {
    /// To who listens at `address`.
    pub fn connect(address: &Address) -> Result<Self> {
        match address {
            Address::Unix(path) => UnixStream::connect(path).map(Self::Unix).map_err(|error| Error::file(path, error)),
            Address::Tcp(address) => {
                TcpStream::connect(address).map(Self::Tcp).map_err(|error| Error::io(address, error))
            }
        }
    }

    /// How long one reading or writing may take.
    pub fn set_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Unix(stream) => {
                stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)))
            }
            Self::Tcp(stream) => {
                stream.set_read_timeout(Some(timeout)).and_then(|()| stream.set_write_timeout(Some(timeout)))
            }
        }
    }

    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Unix(stream) => Self::Unix(stream.try_clone()?),
            Self::Tcp(stream) => Self::Tcp(stream.try_clone()?),
        })
    }

    /// Ends the connection in both directions.
    pub fn hang_up(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    /// No more requests; answers still go.
    pub fn end(&self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Read),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Read),
        };
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buf),
            Self::Tcp(stream) => stream.read(buf),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(buf),
            Self::Tcp(stream) => stream.write(buf),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
        }
    }
}

/// A socket that is listened on; its name is gone when this is dropped.
pub struct Socket(Option<PathBuf>);

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Hands who connects to `accept`, on one thread.
pub fn listen(address: &Address, accept: impl Fn(Stream) + Send + 'static) -> Result<Socket> {
    match address {
        Address::Unix(path) => listen_at(path, move |listener| {
            each(|| listener.accept().map(|(stream, _)| stream), |stream| accept(Stream::Unix(stream)));
        }),
        Address::Tcp(address) => {
            let listener = TcpListener::bind(address).map_err(|error| Error::io(address, error))?;
            // Answers are whole messages already.
            let at_once = |stream: TcpStream| stream.set_nodelay(true).map(|()| Stream::Tcp(stream)).ok();
            let work =
                move || each(|| listener.accept().map(|(stream, _)| stream), |stream| _ = at_once(stream).map(&accept));
            spawn("listen", work).map_err(|error| Error::io(address, error))?;
            Ok(Socket(None))
        }
    }
}

/// Hands what is listened on at `path` to `accept`, on one thread, for those who take clients by themselves.
pub fn listen_at(path: &Path, accept: impl FnOnce(UnixListener) + Send + 'static) -> Result<Socket> {
    let listener = bind(path).map_err(|error| Error::file(path, error))?;
    spawn("listen", move || accept(listener)).map_err(|error| Error::file(path, error))?;
    Ok(Socket(Some(path.to_owned())))
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Takes connections for ever. What is short, such as descriptors, may be there again in a moment.
fn each<S>(take: impl Fn() -> io::Result<S>, use_it: impl Fn(S)) {
    loop {
        match take() {
            Ok(stream) => use_it(stream),
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A socket that only this user opens; one that nobody listens on any more is put out of the way.
fn bind(path: &Path) -> io::Result<UnixListener> {
    let is_socket = path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket());
    if is_socket && UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused) {
        std::fs::remove_file(path)?;
    }
    // The mode of a socket is the umask's, from the start.
    let before = umask(Mode::from_raw_mode(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

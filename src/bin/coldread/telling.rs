//! `--metrics`: tells who asks what the reader of this process has done.
//!
//! Each who asks has a thread of its own for a few seconds at most, so that one that stalls delays nobody.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use coldpress::serve::http::{self, Page};
use coldpress::serve::metrics;
use coldpress::serve::status::Status;
use coldpress::{Error, Result};

use crate::sockets::{self, Address, Socket, Stream};

/// Who may ask at a time.
const MOST: usize = 16;
/// How long one reading or writing may take: all of a request has [`http::PATIENCE`].
const STALL: Duration = Duration::from_secs(1);

/// Tells at `address` what `status` says, until what this gives is dropped.
pub fn start(address: &Address, status: impl Fn() -> Status + Send + Sync + 'static) -> Result<Socket> {
    let (status, asking) = (Arc::new(status), Arc::new(AtomicUsize::new(0)));
    sockets::listen(address, move |mut stream| {
        let (status, place) = (Arc::clone(&status), Place::take(&asking));
        let answer = move || {
            // Who goes away without an answer is no news to anyone.
            let _ = stream.set_timeout(STALL).and_then(|()| match &place {
                Some(_) => http::answer(&mut stream, &|path| page(path, &*status)),
                None => http::turn_away(&mut stream),
            });
        };
        // Without a thread it is hung up on.
        let _ = std::thread::Builder::new().name("metrics".to_owned()).spawn(answer);
    })
}

fn page(path: &str, status: &dyn Fn() -> Status) -> Option<Page> {
    match path {
        "/metrics" => Some((metrics::MEDIA_TYPE, metrics::encode(&status()))),
        "/status" => serde_json::to_string(&status()).ok().map(|json| ("application/json", json)),
        _ => None,
    }
}

/// One of the places of those who ask; free again when it is dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(asking: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(asking));
        (asking.fetch_add(1, Ordering::Relaxed) < MOST).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What the reader at `address` tells.
pub fn ask(address: &Address) -> Result<Status> {
    let mut stream = Stream::connect(address)?;
    stream.set_timeout(http::PATIENCE).map_err(|error| Error::io("a connection", error))?;
    let shown = match address {
        Address::Unix(path) => path.display().to_string(),
        Address::Tcp(address) => address.to_string(),
    };
    let body = http::get(&mut stream, "/status").map_err(|error| error.within(&shown))?;
    serde_json::from_slice(&body).map_err(|error| {
        Error::caused(
            coldpress::ErrorKind::Input,
            format!("{shown}: not the status of a reader of this version"),
            error,
        )
    })
}

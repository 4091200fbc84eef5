//! `--metrics`: tells who asks what the reader of this process has done.
//!
//! Each who asks has a thread of its own for a few seconds at most. Where all places are taken, the one who asks for longest is hung up on: who
//! asks in earnest is done in a moment, so those who stall delay nobody.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use coldpress::observe::http::{self, Hosts, Page};
use coldpress::observe::metrics;
use coldpress::observe::status::Status;
use coldpress::{Error, Result};

use crate::sockets::{self, Address, Socket, Stream};

/// Who may ask at a time.
const MOST: usize = 16;
/// How long one reading or writing may take: all of a request has [`http::PATIENCE`].
const STALL: Duration = Duration::from_secs(1);

/// Tells at `address` what `status` says, until what this gives is dropped. Requests over TCP are answered for IP addresses, localhost and
/// the host names `names`.
pub fn start(
    address: &Address,
    names: Vec<String>,
    status: impl Fn() -> Status + Send + Sync + 'static,
) -> Result<Socket> {
    let hosts = match address {
        Address::Unix(_) => Hosts::Any,
        Address::Tcp(_) => Hosts::Named(names.into_iter().map(|name| name.to_ascii_lowercase()).collect()),
    };
    let answer = Arc::new(move |stream: &mut Stream| {
        // Who goes away without an answer is no news to anyone.
        let _ = stream.set_timeout(STALL).and_then(|()| http::answer(stream, &hosts, &|path| page(path, &status)));
    });
    let asking = Arc::new(Asking::default());
    sockets::listen(address, move |stream| {
        let Some(place) = Asking::enter(&asking, &stream) else { return };
        // The place and the stream stay here where no thread can be started.
        let job = Arc::new(Mutex::new(Some((place, stream))));
        let (work, theirs) = (Arc::clone(&answer), Arc::clone(&job));
        let work = move || {
            let taken = theirs.lock().expect("no thread panics with it").take();
            if let Some((_place, mut stream)) = taken {
                work(&mut stream);
            }
        };
        if std::thread::Builder::new().name("metrics".to_owned()).spawn(work.clone()).is_err() {
            work();
        }
    })
}

fn page(path: &str, status: &dyn Fn() -> Status) -> Option<Page> {
    match path {
        "/metrics" => Some((metrics::MEDIA_TYPE, metrics::encode(&status()))),
        "/status" => serde_json::to_string(&status()).ok().map(|json| ("application/json", json)),
        _ => None,
    }
}

/// Who asks, the longest first.
#[derive(Default)]
struct Asking(Mutex<(u64, VecDeque<(u64, Stream)>)>);

impl Asking {
    /// Takes a place for who asks by `stream`; where there is none, that of who asks for longest.
    fn enter(asking: &Arc<Self>, stream: &Stream) -> Option<Place> {
        let handle = stream.try_clone().ok()?;
        let mut asking_now = asking.0.lock().expect("no thread panics with it");
        let (count, streams) = &mut *asking_now;
        if streams.len() >= MOST
            && let Some((_, oldest)) = streams.pop_front()
        {
            oldest.hang_up();
        }
        *count += 1;
        streams.push_back((*count, handle));
        Some(Place { asking: Arc::clone(asking), number: *count })
    }
}

/// One of the places of those who ask; free again when it is dropped.
struct Place {
    asking: Arc<Asking>,
    number: u64,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.asking.0.lock().expect("no thread panics with it").1.retain(|(number, _)| *number != self.number);
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

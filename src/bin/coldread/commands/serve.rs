//! `coldread serve`: images at doors that programs open by themselves.

mod vhost_user;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use coldpress::fs::BlockDevice;
use coldpress::read::ChunkDevice;
use coldpress::read::counts::Counts;
use coldpress::serve::Watch;
use coldpress::serve::buffers::{Buffers, MIN_BYTES};
use coldpress::serve::nbd::{self, Exports, Service};
use coldpress::{Error, Result};

use super::events::{DRAIN, Event, catch_signals, notify, say};
use super::fuse_file::FuseFile;
use crate::args::{Cli, NamedImage, ServeArgs};
use crate::reading::Reading;
use crate::run_state::{ImageRecord, Plan, Registration, RunDirectory};
use crate::sandbox::Collected;
use crate::shared::failure::{CommandResult, Failure};
use crate::shared::manifests::ManifestArgs;
use crate::sockets::{self, Address, Socket, Stream};

pub fn run(cli: &Cli, args: &ServeArgs) -> CommandResult {
    if args.client_memory.0 < MIN_BYTES {
        return Err(Failure::Usage(format!("--client-memory: at least {}MiB", MIN_BYTES >> 20)));
    }
    args.user.check()?;
    let mut exports = Exports::default();
    let reading = args.reading.open(args.recording.record.is_some(), args.user.user.as_ref())?;
    args.reading.check_number(args.images.len(), args.recording.record.is_some())?;
    let (mut devices, mut offers) = (Vec::new(), Vec::new());
    for image in &args.images {
        let device = Arc::new(open(args, image, &reading)?);
        let offered = args.writable.over(Arc::clone(&device) as Arc<dyn BlockDevice>)?;
        if !exports.add(&image.name, Arc::clone(&offered)) {
            return Err(Failure::Usage(format!(
                "two images are named `{}`; give other names: NAME=MANIFEST",
                image.name
            )));
        }
        devices.push(device);
        offers.push(offered);
    }
    // Before anything is offered, so that an early signal leaves nothing behind.
    let (send, events) = channel();
    catch_signals(send.clone())?;
    let registration = register(args, &devices)?;
    let server = Arc::new(Server {
        exports,
        threads: args.threads.threads.into(),
        buffers: Buffers::new(args.client_memory.0),
        clients: Mutex::default(),
        max_clients: args.max_clients.into(),
        counts: reading.counts(),
    });
    let mut sockets = args.nbd.iter().map(|address| listen(address, &server)).collect::<Result<Vec<_>>>()?;
    for asked in &args.vhost_user_blk {
        let (at, path) = asked.resolve(&args.images)?;
        sockets.push(vhost_user::listen(path, &args.images[at].name, Arc::clone(&offers[at]), &server)?);
    }
    let mut files = Vec::new();
    for asked in &args.fuse {
        let (at, path) = asked.resolve(&args.images)?;
        let source = registration.as_ref().map_or_else(|| "coldread".to_owned(), Registration::source);
        files.push(FuseFile::open(Arc::clone(&offers[at]), path, &source, args.threads.threads, send.clone())?);
    }
    let named = args.images.iter().map(|image| image.name.clone()).zip(devices.iter().cloned());
    let nbd = args.nbd.iter().map(|address| format!("nbd {address}"));
    let disks = args.vhost_user_blk.iter().map(|path| format!("vhost-user-blk {path}"));
    let exports = args.fuse.iter().map(ToString::to_string).chain(nbd).chain(disks).collect();
    let _metrics = reading.metrics(named.collect(), exports)?;
    let mut collected = Collected::default();
    reading.collect(args.recording.record.as_deref(), &mut collected)?;
    args.nbd.iter().for_each(|address| collected.listens(address));
    for asked in &args.vhost_user_blk {
        collected.socket(asked.resolve(&args.images)?.1);
    }
    files.iter().for_each(|file| collected.fuse(file.path()));
    // Root's entry is not another user's to remove; the next start does it.
    registration.iter().filter(|_| args.user.user.is_none()).for_each(|entry| collected.registered(entry));
    args.sandbox.enter(&collected, args.user.user.as_ref(), &reading.entered)?;
    reading.begin();
    notify("READY=1")?;
    for (image, device) in args.images.iter().zip(&devices) {
        let root = device.manifest().clear.root_digest;
        say(&format!("{root} is served as `{}`; Ctrl-C or SIGTERM end it", image.name));
    }
    exported(args).iter().for_each(|line| say(line));
    wait(&events, sockets.len() + files.len());
    notify("STOPPING=1")?;
    // Nobody new; who is here hears the answers to what was asked.
    drop(sockets);
    close(files, &server);
    for device in &devices {
        super::tell_fetched(cli, device);
        reading.write_record(device, args.recording.record.as_deref())?;
    }
    Ok(())
}

/// Returns where clients find the exports, a line each.
fn exported(args: &ServeArgs) -> Vec<String> {
    let nbd = args.nbd.iter().map(|address| format!("listening for NBD clients on {address}"));
    let disks = args.vhost_user_blk.iter().map(|export| format!("vhost-user-blk disk on {export}"));
    let files = args.fuse.iter().map(|export| format!("FUSE file {export}"));
    nbd.chain(disks).chain(files).collect()
}

/// Writes this process's entry in the run directory. Without one it is served all the same, and `coldread ps` does not list it.
fn register(args: &ServeArgs, devices: &[Arc<ChunkDevice>]) -> Result<Option<Registration>, Failure> {
    let at_path = |(_, path): (usize, &Path)| resolve(path);
    let named = args.images.iter().zip(devices);
    let sockets =
        args.vhost_user_blk.iter().map(|asked| Ok(asked.resolve(&args.images).map(at_path)??.display().to_string()));
    let sockets = sockets.collect::<Result<Vec<_>, Failure>>()?;
    let plan = Plan {
        command: "serve",
        images: named.map(|(image, device)| ImageRecord::named(&image.name, device)).collect(),
        files: args
            .fuse
            .iter()
            .map(|asked| Ok(asked.resolve(&args.images).map(at_path)??))
            .collect::<Result<_, Failure>>()?,
        exports: args
            .nbd
            .iter()
            .map(|address| format!("nbd {address}"))
            .chain(sockets.into_iter().map(|path| format!("vhost-user-blk {path}")))
            .collect(),
        ..Plan::default()
    };
    match RunDirectory::open().and_then(|directory| Ok(directory.register(&plan)?)) {
        Ok(registration) => Ok(Some(registration)),
        Err(Failure::Usage(message)) => {
            say(&format!("not listed by `coldread ps`: {message}"));
            Ok(None)
        }
        Err(Failure::Error(error)) => {
            say(&format!("not listed by `coldread ps`: {}", error.chain()));
            Ok(None)
        }
    }
}

/// Resolves the path of a file that need not exist yet.
fn resolve(path: &Path) -> Result<PathBuf> {
    let fail = |error| Error::file(path, error);
    let absolute = std::path::absolute(path).map_err(fail)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => Ok(parent.canonicalize().map_err(fail)?.join(name)),
        _ => Ok(absolute),
    }
}

/// Closes the files side by side, while clients hear their last answers; one after the other where no threads can be started.
fn close(files: Vec<FuseFile>, server: &Server) {
    let files: Vec<_> = files.into_iter().map(|file| Mutex::new(Some(file))).collect();
    let close = |file: &Mutex<Option<FuseFile>>| {
        let file = file.lock().expect("no thread panics with it").take();
        file.into_iter().for_each(FuseFile::close);
    };
    std::thread::scope(|scope| {
        let later: Vec<_> = files
            .iter()
            .filter(|file| std::thread::Builder::new().spawn_scoped(scope, || close(file)).is_err())
            .collect();
        server.drain();
        later.into_iter().for_each(close);
    });
}

/// Until a signal comes, or the last of the `doors` is gone.
fn wait(events: &Receiver<Event>, mut doors: usize) {
    // A sender lives as long as the thread that catches signals.
    for event in events {
        match event {
            Event::Signal => return,
            Event::Gone(path) => {
                say(&format!("{} was unmounted", path.display()));
                doors -= 1;
                if doors == 0 {
                    return;
                }
            }
            Event::Closed => {}
        }
    }
}

fn open(args: &ServeArgs, image: &NamedImage, reading: &Reading<'_>) -> Result<ChunkDevice, Failure> {
    let key = args.key.require()?;
    let manifest =
        ManifestArgs { manifest: image.manifest.clone(), expect: args.expect, registry: args.registry.clone() };
    let opened = manifest.open(&*key)?;
    reading.device(opened, &image.manifest, &args.store)
}

struct Server {
    exports: Exports,
    threads: usize,
    buffers: Buffers,
    clients: Mutex<Clients>,
    max_clients: usize,
    counts: Arc<Counts>,
}

/// Takes no more requests of a client; what it asked is still answered.
type End = Box<dyn Fn() + Send>;

/// Who is connected, to end it.
#[derive(Default)]
struct Clients {
    next: u64,
    connected: BTreeMap<u64, End>,
    /// Who comes now is ended at once.
    ending: bool,
    refusals: Refusals,
}

impl Clients {
    /// A client's number, until it leaves.
    fn enrol(&mut self, end: End) -> u64 {
        if self.ending {
            end();
        }
        self.next += 1;
        self.connected.insert(self.next, end);
        self.next
    }
}

/// How often refused clients are reported.
const REPORT: Duration = Duration::from_secs(10);

/// Clients that were refused and not reported yet.
#[derive(Default)]
struct Refusals {
    unreported: u64,
    reported: Option<Instant>,
}

impl Refusals {
    /// Counts a refused client; the line to report, at most one in ten seconds.
    fn count(&mut self, reason: &str) -> Option<String> {
        self.unreported += 1;
        if self.reported.is_some_and(|reported| reported.elapsed() < REPORT) {
            return None;
        }
        self.reported = Some(Instant::now());
        Some(match std::mem::take(&mut self.unreported) {
            1 => format!("a client was refused: {reason}"),
            count => format!("{count} clients were refused, the last one: {reason}"),
        })
    }
}

/// Who is cut off is no news to anyone; who was hung up on is.
fn tell_ended(ended: io::Result<()>) {
    if let Err(error) = ended
        && matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::TimedOut)
    {
        say(&format!("disconnected a client: {error}"));
    }
}

struct Said;

impl Watch for Said {
    fn failed(&self, error: &Error) {
        say(&format!("a read failed: {}", error.chain()));
    }

    fn write_failed(&self, error: &Error) {
        super::tell_write_failed(error);
    }
}

impl Server {
    fn clients(&self) -> MutexGuard<'_, Clients> {
        self.clients.lock().expect("no thread panics with it")
    }

    fn drain(&self) {
        let mut clients = self.clients();
        clients.ending = true;
        clients.connected.values().for_each(|end| end());
        drop(clients);
        let begun = Instant::now();
        while !self.clients().connected.is_empty() && begun.elapsed() < DRAIN {
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    fn leave(&self, number: u64) {
        if self.clients().connected.remove(&number).is_some() {
            self.counts.clients.end();
        }
    }

    /// Reports that a client is refused.
    fn refuse(&self, clients: &mut Clients, reason: &str) {
        self.counts.refused_clients.add(1);
        if let Some(line) = clients.refusals.count(reason) {
            say(&line);
        }
    }

    /// Returns a client's number, or `None` where there are too many.
    fn enrol(&self, clients: &mut Clients, end: End) -> Option<u64> {
        if clients.connected.len() >= self.max_clients {
            self.refuse(clients, &format!("--max-clients {} are connected", self.max_clients));
            return None;
        }
        self.counts.clients.add(1);
        Some(clients.enrol(end))
    }

    /// Serves one client to its end, on a thread of its own.
    fn accept(self: &Arc<Self>, stream: Stream) {
        let Ok(handle) = stream.try_clone() else { return };
        // Before it can ask for anything.
        let mut clients = self.clients();
        let Some(number) = self.enrol(&mut clients, Box::new(move || handle.end())) else { return };
        drop(clients);
        let connected = Connected { server: Arc::clone(self), number, stream };
        let work = move || {
            let Connected { server, stream, .. } = &connected;
            tell_ended(stream.set_timeout(TICK).and_then(|()| {
                let service = Service {
                    exports: &server.exports,
                    buffers: &server.buffers,
                    threads: server.threads,
                    watch: &Said,
                };
                let hang_up = || stream.hang_up();
                match stream {
                    Stream::Unix(stream) => nbd::serve(stream, stream, &hang_up, &service),
                    Stream::Tcp(stream) => nbd::serve(stream, stream, &hang_up, &service),
                }
            }));
        };
        if let Err(error) = std::thread::Builder::new().name("client".to_owned()).spawn(work) {
            self.refuse(&mut self.clients(), &format!("no thread for it: {error}"));
        }
    }
}

/// How often it is seen whether a client that does nothing takes too long.
const TICK: Duration = Duration::from_secs(1);

/// A client of NBD; it is hung up on when this is dropped, however its thread ends.
struct Connected {
    server: Arc<Server>,
    number: u64,
    stream: Stream,
}

impl Drop for Connected {
    fn drop(&mut self) {
        self.stream.hang_up();
        self.server.leave(self.number);
    }
}

fn listen(address: &Address, server: &Arc<Server>) -> Result<Socket> {
    let server = Arc::clone(server);
    sockets::listen(address, move |stream| server.accept(stream))
}

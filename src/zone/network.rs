//! A simulated network of cache servers, for the simulation of the read path.
//!
//! Commands and replies take their time; servers slow down, hang, restart without their content, refuse, and return other bytes than were
//! stored. Events happen when their time has come and somebody looks: nobody can tell the difference.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::sync::scheduler::{Random, Simulated, current};
use crate::sync::{Condvar, Mutex, now};

const MS: Duration = Duration::from_millis(1);
/// How often a server that hangs looks whether it still does.
const HANG: Duration = Duration::from_millis(700);

fn thread() -> Simulated {
    current().expect("only simulated threads use the simulated network")
}

/// Returns the network of the simulation that the calling thread belongs to, if it does.
pub(super) fn network() -> Option<Arc<Network>> {
    current()?.environment()?.downcast().ok()
}

/// How a server behaves for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mood {
    /// It answers in less than a millisecond.
    Well,
    /// It takes up to 100 ms.
    Slow,
    /// It takes commands and answers none until it is well again.
    Hangs,
    /// It accepts no connection, and has none.
    Down,
    /// It refuses to store anything.
    Full,
}

impl Mood {
    const ALL: [Self; 5] = [Self::Well, Self::Slow, Self::Hangs, Self::Down, Self::Full];
}

/// The servers and their connections.
pub(crate) struct Network {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    random: Random,
    /// Whether one message in 200 takes long without a reason.
    has_stragglers: bool,
    servers: BTreeMap<String, Server>,
    wires: HashMap<u64, Wire>,
    events: BTreeMap<(Duration, u64), Event>,
    numbers: u64,
}

struct Server {
    mood: Mood,
    values: BTreeMap<Vec<u8>, Value>,
}

struct Value {
    bytes: Vec<u8>,
    ends: Option<Duration>,
}

/// A connection, as the network has it.
struct Wire {
    server: String,
    /// What arrived at the client.
    arrived: VecDeque<u8>,
    is_broken: bool,
    /// When the last command arrives, and the last reply.
    last: (Duration, Duration),
}

enum Event {
    Command { wire: u64, words: Vec<Vec<u8>> },
    Reply { wire: u64, bytes: Vec<u8> },
}

impl Event {
    fn wire(&self) -> u64 {
        let (Self::Command { wire, .. } | Self::Reply { wire, .. }) = self;
        *wire
    }
}

/// The client's end of a connection.
pub(super) struct Connection {
    network: Arc<Network>,
    number: u64,
    /// Of a command that was not sent whole yet.
    out: Vec<u8>,
}

impl Network {
    /// Makes a network with servers of these names.
    pub(crate) fn new(names: &[String], random: Random, has_stragglers: bool) -> Arc<Self> {
        let server = |name: &String| (name.clone(), Server { mood: Mood::Well, values: BTreeMap::new() });
        let servers = names.iter().map(server).collect();
        let (wires, events) = (HashMap::new(), BTreeMap::new());
        let state = State { random, has_stragglers, servers, wires, events, numbers: 0 };
        Arc::new(Self { state: Mutex::new(state), changed: Condvar::new() })
    }

    /// Has something go wrong with some server.
    pub(crate) fn disturb(&self) {
        let now = thread().time();
        let mut state = self.state.lock();
        state.advance(now);
        let names: Vec<String> = state.servers.keys().cloned().collect();
        let name = &names[state.random.below(names.len())];
        let kind = state.random.below(12);
        match kind {
            0..7 => {
                let mood = Mood::ALL[state.random.below(Mood::ALL.len())];
                state.set_mood(name, mood, now);
            }
            7 => state.restart(name),
            8 => state.break_wires(name),
            _ => state.spoil(name, kind == 9),
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Has all servers be well again.
    pub(crate) fn calm(&self) {
        let now = thread().time();
        let mut state = self.state.lock();
        let names: Vec<String> = state.servers.keys().cloned().collect();
        names.iter().for_each(|name| state.set_mood(name, Mood::Well, now));
        drop(state);
        self.changed.notify_all();
    }

    /// Connects to the server `name`, by `until`.
    pub(super) fn connect(self: Arc<Self>, name: &str, until: Instant) -> io::Result<Connection> {
        let mut state = self.state.lock();
        let latency = state.latency(name);
        let mood = state.servers.get(name).map(|server| server.mood).ok_or(ErrorKind::NotFound)?;
        drop(state);
        let left = until.saturating_duration_since(now());
        match mood {
            Mood::Hangs => {
                crate::sync::sleep(left);
                return Err(ErrorKind::TimedOut.into());
            }
            _ if latency > left => {
                crate::sync::sleep(left);
                return Err(ErrorKind::TimedOut.into());
            }
            _ => crate::sync::sleep(latency),
        }
        if mood == Mood::Down {
            return Err(ErrorKind::ConnectionRefused.into());
        }
        let mut state = self.state.lock();
        state.numbers += 1;
        let number = state.numbers;
        let wire =
            Wire { server: name.to_owned(), arrived: VecDeque::new(), is_broken: false, last: Default::default() };
        state.wires.insert(number, wire);
        drop(state);
        Ok(Connection { network: self, number, out: Vec::new() })
    }

    /// Waits until something arrived on one of `connections`, or `until`; on which.
    pub(super) fn wait(&self, connections: &[&Connection], until: Instant) -> Vec<bool> {
        let mut state = self.state.lock();
        loop {
            let time = thread().time();
            state.advance(time);
            let is_ready = |connection: &&Connection| {
                state.wires.get(&connection.number).is_none_or(|wire| wire.is_broken || !wire.arrived.is_empty())
            };
            let ready: Vec<bool> = connections.iter().map(is_ready).collect();
            let left = until.saturating_duration_since(now());
            if ready.contains(&true) || left.is_zero() {
                return ready;
            }
            let is_own = |event: &Event| connections.iter().any(|connection| connection.number == event.wire());
            let next = state.events.iter().find(|(_, event)| is_own(event)).map(|((at, _), _)| *at - time);
            let most = next.map_or(left, |next| next.min(left)).max(Duration::from_nanos(1));
            state = self.changed.wait_timeout(state, most).0;
        }
    }
}

impl State {
    fn latency(&mut self, name: &str) -> Duration {
        match self.servers.get(name).map(|server| server.mood) {
            Some(Mood::Slow) => self.random.time(MS, MS * 100),
            _ if self.has_stragglers && self.random.one_in(200) => self.random.time(MS, MS * 50),
            _ => self.random.time(MS / 50, MS / 2),
        }
    }

    fn add(&mut self, at: Duration, event: Event) {
        self.numbers += 1;
        self.events.insert((at, self.numbers), event);
    }

    /// Has happen what has happened until `now`.
    fn advance(&mut self, now: Duration) {
        while let Some(((at, _), event)) = self
            .events
            .first_key_value()
            .is_some_and(|((at, _), _)| *at <= now)
            .then(|| self.events.pop_first().expect("there is one"))
        {
            match event {
                Event::Command { wire, words } => self.carry_out(at, wire, &words),
                Event::Reply { wire, bytes } => {
                    if let Some(wire) = self.wires.get_mut(&wire).filter(|wire| !wire.is_broken) {
                        wire.arrived.extend(bytes);
                    }
                }
            }
        }
    }

    fn carry_out(&mut self, at: Duration, wire: u64, words: &[Vec<u8>]) {
        let Some(name) = self.wires.get(&wire).filter(|wire| !wire.is_broken).map(|wire| wire.server.clone()) else {
            return;
        };
        let server = self.servers.get_mut(&name).expect("a wire ends at a server");
        if server.mood == Mood::Hangs {
            let later = at + HANG;
            self.add(later, Event::Command { wire, words: words.to_vec() });
            return;
        }
        let bytes = server.reply(at, words);
        let latency = self.latency(&name);
        let last = &mut self.wires.get_mut(&wire).expect("it was looked at above").last.1;
        *last = (*last).max(at + latency);
        let arrives = *last;
        self.add(arrives, Event::Reply { wire, bytes });
    }

    fn set_mood(&mut self, name: &str, mood: Mood, now: Duration) {
        self.advance(now);
        if mood == Mood::Down {
            self.break_wires(name);
        }
        self.servers.get_mut(name).expect("it is a server").mood = mood;
    }

    fn restart(&mut self, name: &str) {
        self.break_wires(name);
        self.servers.get_mut(name).expect("it is a server").values.clear();
    }

    fn break_wires(&mut self, name: &str) {
        self.wires.values_mut().filter(|wire| wire.server == name).for_each(|wire| wire.is_broken = true);
    }

    /// Changes a bit of one value, or loses it.
    fn spoil(&mut self, name: &str, lose: bool) {
        let values = &mut self.servers.get_mut(name).expect("it is a server").values;
        let chosen = self.random.below(values.len().max(1));
        let Some(key) = values.keys().nth(chosen).cloned() else { return };
        if lose {
            values.remove(&key);
            return;
        }
        let bytes = &mut values.get_mut(&key).expect("it was found above").bytes;
        if !bytes.is_empty() {
            let at = self.random.below(bytes.len());
            bytes[at] ^= 1 << self.random.below(8);
        }
    }
}

impl Server {
    /// Carries out one command; the reply to it.
    fn reply(&mut self, now: Duration, words: &[Vec<u8>]) -> Vec<u8> {
        let words: Vec<&[u8]> = words.iter().map(Vec::as_slice).collect();
        self.values.retain(|_, value| value.ends.is_none_or(|ends| now < ends));
        let number = |number: usize| format!(":{number}\r\n").into_bytes();
        let time = |text: &[u8]| str::from_utf8(text).unwrap().parse().unwrap();
        match words[..] {
            [b"SET", ..] if self.mood == Mood::Full => b"-OOM command not allowed\r\n".to_vec(),
            [b"SET", key, value] => {
                self.values.insert(key.to_vec(), Value { bytes: value.to_vec(), ends: None });
                b"+OK\r\n".to_vec()
            }
            [b"SET", key, _, b"NX", b"PX", _] if self.values.contains_key(key) => b"$-1\r\n".to_vec(),
            [b"SET", key, value, b"NX", b"PX", lasts] => {
                let ends = Some(now + Duration::from_millis(time(lasts)));
                self.values.insert(key.to_vec(), Value { bytes: value.to_vec(), ends });
                b"+OK\r\n".to_vec()
            }
            [b"GET", key] => match self.values.get(key) {
                Some(value) => {
                    let mut reply = format!("${}\r\n", value.bytes.len()).into_bytes();
                    reply.extend_from_slice(&value.bytes);
                    reply.extend_from_slice(b"\r\n");
                    reply
                }
                None => b"$-1\r\n".to_vec(),
            },
            [b"EXISTS", key] => number(usize::from(self.values.contains_key(key))),
            [b"DEL", key] => number(usize::from(self.values.remove(key).is_some())),
            // The one script that is sent: it deletes what has this value.
            [b"EVAL", _, b"1", key, token] => {
                let holds = self.values.get(key).is_some_and(|value| value.bytes == token);
                if holds {
                    self.values.remove(key);
                }
                number(usize::from(holds))
            }
            [b"INCR", key] => {
                let value = self.values.entry(key.to_vec()).or_insert(Value { bytes: Vec::new(), ends: None });
                let next = str::from_utf8(&value.bytes).ok().and_then(|text| text.parse().ok()).unwrap_or(0usize) + 1;
                value.bytes = next.to_string().into_bytes();
                number(next)
            }
            _ => thread().fail(format!("a command that no zone sends: {:?}", words[0].escape_ascii().to_string())),
        }
    }
}

impl Read for Connection {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let time = thread().time();
        let mut state = self.network.state.lock();
        state.advance(time);
        let pieces = state.random.one_in(10);
        let wire = state.wires.get_mut(&self.number).ok_or(ErrorKind::NotConnected)?;
        match wire.arrived.len() {
            0 if wire.is_broken => Err(ErrorKind::ConnectionReset.into()),
            0 => Err(ErrorKind::WouldBlock.into()),
            length => {
                let most = if pieces { 1 } else { length };
                let taken = most.min(buf.len());
                buf[..taken].iter_mut().zip(wire.arrived.drain(..taken)).for_each(|(to, byte)| *to = byte);
                Ok(taken)
            }
        }
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.extend_from_slice(bytes);
        let time = thread().time();
        let network = Arc::clone(&self.network);
        let mut state = network.state.lock();
        state.advance(time);
        let wire = state.wires.get(&self.number).ok_or(ErrorKind::NotConnected)?;
        if wire.is_broken {
            return Err(ErrorKind::BrokenPipe.into());
        }
        let name = wire.server.clone();
        while let Some(words) = take_command(&mut self.out) {
            let latency = state.latency(&name);
            let last = &mut state.wires.get_mut(&self.number).expect("it was looked at above").last.0;
            *last = (*last).max(time + latency);
            let arrives = *last;
            state.add(arrives, Event::Command { wire: self.number, words });
        }
        drop(state);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if current().is_some() {
            self.network.state.lock().wires.remove(&self.number);
        }
    }
}

/// Takes the first command from `out`, if it is there whole.
fn take_command(out: &mut Vec<u8>) -> Option<Vec<Vec<u8>>> {
    fn line(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
        let length = bytes.get(at..)?.windows(2).position(|pair| pair == b"\r\n")?;
        let number = str::from_utf8(&bytes[at + 1..at + length]).ok()?.parse().ok()?;
        Some((number, at + length + 2))
    }
    let (count, mut at) = line(out, 0)?;
    let mut words = Vec::new();
    for _ in 0..count {
        let (length, begins) = line(out, at)?;
        words.push(out.get(begins..begins + length)?.to_vec());
        at = begins + length + 2;
    }
    out.drain(..at);
    Some(words)
}

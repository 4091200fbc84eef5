//! What the cache servers say of themselves, when they are asked.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::connection::refusal;
use super::resp::Reply;
use super::server::Server;
use super::{FILLED, REPAIRED, Zone};
use crate::sync::now;

/// How long a server may take to say it.
const PATIENCE: Duration = Duration::from_secs(1);
/// Longest text of `INFO`.
const INFO: usize = 64 << 10;

/// One server; all since it was started, and of all hosts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ServerState {
    /// Its name.
    pub name: String,
    /// Whether it answers.
    pub up: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What lies there: shards, a few counters.
    pub keys: u64,
    /// Bytes that it uses.
    pub memory_bytes: u64,
    /// Bytes that it may use; 0 where it has no bound.
    pub max_memory_bytes: u64,
    /// Keys that it was asked for and had.
    pub hits: u64,
    /// Keys that it was asked for and had not.
    pub misses: u64,
    /// Keys that it threw out.
    pub evicted: u64,
    /// Shards written after a chunk was fetched.
    pub filled: u64,
    /// Shards written because they were missing or not true.
    pub repaired: u64,
}

impl Zone {
    /// What each server says of itself.
    #[must_use]
    pub fn states(&self) -> Vec<ServerState> {
        let asked: Vec<_> = std::thread::scope(|scope| {
            let start = |server| std::thread::Builder::new().spawn_scoped(scope, move || state(server));
            let asking: Vec<_> = self.0.servers.iter().map(|server| (server, start(server))).collect();
            let answer = |(server, thread): (_, std::io::Result<std::thread::ScopedJoinHandle<'_, _>>)| match thread {
                Ok(thread) => thread.join().ok().flatten(),
                // No thread can be started: one after the other.
                Err(_) => state(server),
            };
            asking.into_iter().map(answer).collect()
        });
        let name = |server: &Arc<Server>| server.address.name().to_owned();
        let states = self.0.servers.iter().zip(asked);
        states
            .map(|(server, state)| match state {
                Some(state) => ServerState { name: name(server), up: true, ..state },
                None => ServerState { name: name(server), why: server.why(), ..ServerState::default() },
            })
            .collect()
    }
}

fn state(server: &Arc<Server>) -> Option<ServerState> {
    let until = now() + PATIENCE;
    let info = match server.call(&[b"INFO"], INFO, until).ok()? {
        Reply::Bytes(info) => info,
        Reply::Refused(why) => {
            server.broken(&refusal(&why));
            return None;
        }
        _ => return None,
    };
    let info = String::from_utf8_lossy(&info);
    let number = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|number| number.trim_end().parse().ok()).unwrap_or(0)
    };
    let counted = |key: &str| match server.call(&[b"GET", key.as_bytes()], INFO, until) {
        Ok(Reply::Bytes(number)) => str::from_utf8(&number).ok()?.parse().ok(),
        _ => None,
    };
    let Ok(Reply::Number(keys)) = server.call(&[b"DBSIZE"], 0, until) else { return None };
    Some(ServerState {
        name: String::new(),
        up: true,
        why: None,
        keys: u64::try_from(keys).unwrap_or(0),
        memory_bytes: number("used_memory"),
        max_memory_bytes: number("maxmemory"),
        hits: number("keyspace_hits"),
        misses: number("keyspace_misses"),
        evicted: number("evicted_keys"),
        filled: counted(FILLED).unwrap_or(0),
        repaired: counted(REPAIRED).unwrap_or(0),
    })
}

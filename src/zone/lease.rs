//! Who of the zone fetches a chunk that its cache does not have: who holds the lease.
//!
//! A key on the server that ranks first for the chunk, set where it was not, which ends by itself, and is deleted only by who set it. A
//! server that does not answer gives no lease, and then nobody waits for anybody.

use std::time::{Duration, Instant};

use super::Shared;
use super::resp::Reply;
use super::server::Lost;
use crate::crypto::shard_seal::ZoneId;
use crate::digest::to_hex;
use crate::random::random_bytes;
use crate::sync::now;

/// Deletes the key where it still has the holder's token.
const RELEASE: &str = "if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end return 0";

/// What became of asking for a lease.
pub(super) enum Asked {
    Held(Lease),
    /// Another has it.
    Taken,
    /// No answer; it may be held all the same.
    None(Option<Lease>),
}

/// The right to fetch, until it ends.
pub(super) struct Lease {
    server: usize,
    key: String,
    token: String,
}

/// Asks for the lease of a chunk, on the server that ranks `first` for it, waiting for its answer `until`.
pub(super) fn ask(zone: &Shared, id: ZoneId, first: usize, lasts: Duration, until: Instant) -> Asked {
    let Ok(token) = random_bytes::<16>() else { return Asked::None(None) };
    let lease = Lease { server: first, key: key(id), token: to_hex(&token) };
    let lasts = lasts.as_millis().to_string();
    let (key, token) = (lease.key.as_bytes(), lease.token.as_bytes());
    let words: [&[u8]; 6] = [b"SET", key, token, b"NX", b"PX", lasts.as_bytes()];
    match zone.servers[first].command(&words, 0, until) {
        Ok(Reply::Status) => Asked::Held(lease),
        Ok(Reply::Nothing) => Asked::Taken,
        Ok(_) => Asked::None(None),
        Err(Lost) => Asked::None(Some(lease)),
    }
}

/// Whether a chunk's lease is held; not where nobody tells.
pub(super) fn is_held(zone: &Shared, id: ZoneId, first: usize, until: Instant) -> bool {
    matches!(zone.servers[first].command(&[b"EXISTS", key(id).as_bytes()], 0, until), Ok(Reply::Number(1)))
}

fn key(id: ZoneId) -> String {
    format!("coldpress:lease:{id:?}")
}

impl Lease {
    /// Gives it back, if it has not ended; nobody waits for the answer. What does not arrive ends by itself.
    pub(super) fn release(self, zone: &Shared, patience: Duration) {
        let words: [&[u8]; 5] = [b"EVAL", RELEASE.as_bytes(), b"1", self.key.as_bytes(), self.token.as_bytes()];
        zone.servers[self.server].tell(&words, now() + patience);
    }
}

//! The shared part of all clients of network services: AWS configuration and credentials, allowed addresses, retries, reports of
//! waits, and the threads that requests run on.
//!
//! Nothing here depends on a store, a key service or a registry; each of them has its own requests, and interprets its own answers.

pub(crate) mod aws;
pub mod endpoint;
pub(crate) mod retry;
pub mod runtime;
pub mod wait;

//! What every client of a service on the network shares: AWS's configuration and credentials, the addresses that are allowed, retries, and
//! the threads that requests run on.
//!
//! Nothing here knows a store, a key service or a registry; each of them brings its own requests and meaning of answers.

pub(crate) mod aws;
pub mod endpoint;
pub(crate) mod retry;
pub mod runtime;

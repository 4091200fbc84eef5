//! What the tests share: images made on the spot, the programs under test, real servers, and clients that break rules on purpose.
//!
//! Nothing here is a test. Benches and examples include single files of this folder by `#[path]`; so these files name each other by `super::`.

pub mod cache_servers;
pub mod common;
pub mod failing_disk;
pub mod nbd_client;
pub mod scripted_servers;
pub mod servers;
pub mod slow_store;
pub mod vhost_client;

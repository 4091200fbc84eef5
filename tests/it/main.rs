//! Integration tests: small images made here, converted by the real programs, judged by e2fsck, the kernel and others.
//!
//! Those that mount need root, FUSE and loop devices, and fail without them; `make test` says what it needs.
#![expect(unreachable_pub, clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod blocks;
mod bounds;
mod bundle;
mod cache_servers;
mod cli;
mod clouds;
mod common;
mod determinism;
mod dialects;
mod diff;
mod documents;
mod doors;
mod engines;
mod failing_disk;
mod faults;
mod fill;
mod flattening;
mod hostile;
mod incremental;
mod inside;
mod journal;
mod kernel;
mod keys;
mod kills;
mod kms;

mod liar;
mod lying_servers;
mod module_order;
mod nbd;
mod nbd_client;
mod outputs;
mod pages;
mod pictures;
mod pipelines;
mod power_cut;
mod progress;
mod property;
mod readers;
mod reading;
mod registry;
mod run_state;
mod s3;
mod sandbox;
mod servers;
mod sharing;
mod slow_store;
mod sources;
mod stores;
mod told;
mod upkeep;
mod vhost;
mod vhost_client;
mod waits;
mod words;
mod writable;
mod zone;

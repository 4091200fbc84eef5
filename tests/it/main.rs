//! Integration tests: small images made here, converted by the real programs, judged by e2fsck, the kernel and others.
//!
//! Those that mount need root, FUSE and loop devices, and fail without them; `make test` says what it needs.
#![expect(unreachable_pub, clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod cli;
mod common;
mod determinism;
mod faults;
mod flattening;
mod hostile;
mod kernel;
mod keys;
mod kills;
mod progress;
mod property;
mod readers;
mod servers;
mod sharing;
mod stores;
mod upkeep;

//! Integration tests: small images made here, converted by the real programs, judged by e2fsck, the kernel and others.
//!
//! Those that mount need root, FUSE and loop devices, and fail without them; `make test` says what it needs.

mod common;
mod flattening;
mod property;
mod readers;
mod kernel;
mod determinism;
mod sharing;
mod faults;
mod cli;

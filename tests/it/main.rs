//! Integration tests: small images made here, converted by the real programs, judged by e2fsck, the kernel and others.
//!
//! Those that mount need root, FUSE and loop devices, and fail without them; `make test` says what it needs.
#![expect(unreachable_pub, clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod blocks;
mod bounds;
mod bundle;
mod cli;
mod clouds;
mod completions_man;
mod determinism;
mod diff;
mod documents;
mod engines;
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
mod learning;
mod lying_servers;
mod metrics_status;
mod module_order;
mod nbd;
mod outputs;
mod pictures;
mod pipelines;
mod power_cut;
mod progress;
mod property;
mod read_faults;
mod readers;
mod registry;
mod run_state;
mod s3;
mod sandbox;
mod scrub_doctor;
mod serve_fuse;
mod settings;
mod sharing;
mod sources;
mod stores;
mod support;
mod tar_dialects;
mod vhost;
mod waits;
mod words;
mod writable;
mod zone;

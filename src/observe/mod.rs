//! What a running reader reports: one [`status`] of all counters, as JSON and as Prometheus [`metrics`], over [`http`].
//!
//! Both pages are made of the same status, so they cannot disagree. Nothing here changes what is counted.

pub mod http;
pub mod metrics;
pub mod status;

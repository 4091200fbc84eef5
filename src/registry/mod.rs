//! Registries, as the OCI distribution specification has them: manifests, blobs, and what refers to an image.
//!
//! The client is ours over `reqwest`, and not `oci-client`, which tells nothing of an answer's headers: `Retry-After` could not
//! be honoured, nor a server without referrers told from one with (docs/design.md, "Registries").

pub mod artifact;
pub mod auth;
mod client;
pub mod credentials;
mod login_file;
pub mod reference;
mod refusal;

pub use client::{Client, Fetched, MAX_MANIFEST, Settings};
pub use credentials::{Credentials, Login};
pub use reference::{ParseRegistryRefError, RegistryRef};

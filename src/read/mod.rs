//! Sealed chunks become a device again; only chunks that are read are fetched, and every one is verified. [`scrub`] looks after
//! them without a key.
//!
//! A chunk's way: [`origin`] → [`zone`] → [`disk_cache`] → opened in [`device`] → [`memory`] → a reader.

pub mod ahead;
pub mod counts;
pub mod cow;
pub mod device;
pub mod diff;
pub mod disk_cache;
pub mod fill;
mod flights;
pub mod memory;
pub mod origin;
pub mod picture;
mod private_directory;
pub mod profile;
mod room;
pub mod scrub;
#[cfg(test)]
mod simulation;
pub mod slots;
pub mod stored_manifest;
pub mod tier;
pub mod verify;
pub mod zone;

pub use cow::CowDevice;
pub use device::ChunkDevice;

//! Sealed chunks become a device again; only chunks that are read are fetched, and every one is verified. [`scrub`] looks after
//! them without a key.

pub mod device;
pub mod scrub;
pub mod verify;

pub use device::ChunkDevice;

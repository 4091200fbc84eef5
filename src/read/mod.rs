//! Sealed chunks become a device again; only chunks that are read are fetched, and every one is verified.

pub mod device;
pub mod verify;

pub use device::ChunkDevice;

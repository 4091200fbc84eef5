//! How a read works: encrypted chunks become a block device, and only chunks that are read are fetched.
//!
//! 1. **Open.** [`crate::manifest::BlockManifest::open`] decrypts a block manifest and checks it against its root digest. Nothing is
//!    fetched.
//! 2. **Serve.** [`ChunkDevice`] is a [`crate::fs::BlockDevice`] for the manifest; [`crate::serve`] exports it over NBD, FUSE or
//!    vhost-user-blk, and [`crate::fs::ext4::read::Ext4`] reads single files from it.
//! 3. **Look up.** A read is divided into chunks. Chunks that are all zero are in no store. For each other chunk, the cache levels are tried in
//!    order: decrypted chunks in memory ([`memory`]), then encrypted chunks on the disk ([`disk_cache`]), in the zone cache of several
//!    hosts, and in the object store ([`origin`]). Concurrent reads of one chunk share one request.
//! 4. **Authenticate.** [`device`] checks the SHA-256 of the stored bytes, decrypts them, and unpacks the chunk
//!    ([`crate::crypto::convergent::open`]). No byte reaches a reader before.
//! 5. **Fetch ahead.** A startup profile ([`profile`]) names the chunks that earlier startups read, and [`ahead`] fetches them before they
//!    are read. [`fill`] copies the rest of the image in the background.
//! 6. **Write.** Blocks that are written go to an overlay ([`cow`]); chunks are never changed.
//!
//! Every cache level is optional: without it, reads are slower and still succeed.

pub mod ahead;
pub mod counts;
pub mod cow;
pub mod device;
pub mod diff;
pub mod disk_cache;
pub mod fill;
mod flights;
pub mod gate;
pub mod learned;
pub mod learning;
pub mod memory;
pub mod origin;
pub mod picture;
mod private_directory;
pub mod profile;
mod room;
pub mod slots;
pub mod stored_manifest;
pub mod tier;

pub use cow::CowDevice;
pub use device::ChunkDevice;

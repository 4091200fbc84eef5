//! Exports: a block device is offered over FUSE, NBD and vhost-user-blk.

pub mod buffers;
pub mod fuse;
pub mod nbd;
pub mod vhost_blk;

use crate::Error;

/// Told of what happens at a door.
pub trait Watch: Send + Sync + 'static {
    /// The last opener closed it.
    fn closed(&self) {}

    /// The door is gone: we closed it, or another did.
    fn ended(&self) {}

    /// A read failed; the reader gets EIO.
    fn failed(&self, error: &Error);

    /// A write or a discard failed; the writer gets ENOSPC where the device is full, else EIO.
    fn write_failed(&self, _error: &Error) {}
}

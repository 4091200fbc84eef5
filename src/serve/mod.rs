//! Doors through which a device is offered to others.

pub mod fuse;

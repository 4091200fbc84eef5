//! Analysis of what is stored and of what was recorded: nothing here serves a reader.
//!
//! [`scrub`] checks a store without a key, [`verify`] checks every chunk of one image, and [`zone_sizing`] computes from recorded
//! requests how large a zone cache should be. Nothing here changes a store.

pub mod scrub;
pub mod verify;
pub mod zone_picture;
pub mod zone_sizing;

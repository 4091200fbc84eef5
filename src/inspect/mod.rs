//! Analysis of what is stored and of what was recorded: nothing here serves a reader.
//!
//! [`scrub`] checks a store without a key, [`verify`] checks every chunk of one image, [`chunk_files`] names the files in bad chunks, and [`zone_sizing`] computes from recorded
//! requests how large a zone cache should be. Nothing here changes a store.

pub mod chunk_files;
pub mod scrub;
pub mod verify;
pub mod zone_picture;
pub mod zone_sizing;

//! A recorded startup as a picture, as a page and as numbers: `coldread report`.
//!
//! The profile alone says when each chunk was read, from which cache level, and how long its reader waited. With the image, each chunk also
//! has its layer and its files.

mod chart;
mod image_map;
mod numbers;

pub use chart::{html, svg};
pub use image_map::{ImageMap, part_of};
pub use numbers::{Numbers, SlowRead, TierShare};

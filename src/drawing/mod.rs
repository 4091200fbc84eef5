//! Pictures that the programs draw: SVG that stands alone, and HTML pages around it.
//!
//! Neither has a script or fetches anything, and both follow the reader's light or dark mode. Colours are attributes of each element,
//! so a page whose styles a content security policy blocks is still readable; the style sheet only adds the dark colours and what a pointer
//! shows. Every text is escaped here, whatever it holds, and cut to the width it has. The same input gives the same bytes.

pub mod page;
pub mod palette;
pub mod scale;
pub mod svg;
pub mod text;

pub use page::Page;
pub use scale::Scale;
pub use svg::{Anchor, Drawing};

//! How long work tells of itself. The library counts; `bin` draws.

use std::fmt;

/// Receives what a conversion or a verification has done. Called from several threads.
pub trait Progress: Send + Sync {
    /// A stage begins that will take `total` bytes of work; 0 where nobody knows.
    fn begin(&self, stage: Stage, total: u64);

    /// `bytes` more of the stage are done.
    fn advance(&self, stage: Stage, bytes: u64);

    /// The stage is done.
    fn end(&self, stage: Stage);

    /// A person should know this, though the work goes on.
    fn warn(&self, message: &str);
}

/// A part of the work that a person can tell from the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// An archive that comes through a pipe is copied to a temporary file; its length is not known.
    Input,
    /// Layers are read, decompressed and checked; counted in bytes as stored.
    Layers,
    /// One of them, the base being 0; counted in bytes as stored.
    Layer(u16),
    /// The chunks that were not made while layers were read are made, sealed and put; counted in bytes of the block image.
    Chunks,
    /// Chunks are fetched and opened; counted in bytes of the block image.
    Fetch,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Input => f.write_str("input"),
            Self::Layers => f.write_str("layers"),
            Self::Layer(index) => write!(f, "layer {}", u32::from(*index) + 1),
            Self::Chunks => f.write_str("chunks"),
            Self::Fetch => f.write_str("fetch"),
        }
    }
}

/// Says nothing.
#[derive(Debug, Default, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&self, _: Stage, _: u64) {}
    fn advance(&self, _: Stage, _: u64) {}
    fn end(&self, _: Stage) {}
    fn warn(&self, _: &str) {}
}

//! Two images, compared: chunks and layers by their manifests alone, files and causes through the reader of both.
//!
//! Every chunk that the second has and the first has not gets one cause: the zone of the metadata that it is of, or what
//! happened to the files in it. No file's bytes are held, and those under equal chunks are not read.

mod causes;
mod chunks;
mod files;

use std::sync::Arc;

use crate::fs::ext4::layout::Region;
use crate::fs::ext4::read::Stat;
use crate::manifest::OpenManifest;
use crate::{ChunkIndex, Result};

use super::ChunkDevice;
pub use chunks::{Count, LayerDiff, Setting, Shares, Totals};

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Only the second image has it.
    Added,
    /// Only the first image has it.
    Removed,
    /// It is of another type, or another device.
    Type,
    /// A file's bytes.
    Content,
    /// A symlink's target.
    Target,
    /// It has other names besides, in number.
    Links,
    /// Permissions.
    Mode,
    /// Owner or group.
    Owner,
    /// Time of last modification.
    Mtime,
    /// Extended attributes.
    Xattrs,
    /// The same bytes stand elsewhere in their layer's segment, and so in new chunks.
    Moved,
}

impl Change {
    /// The word for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Type => "type",
            Self::Content => "content",
            Self::Target => "target",
            Self::Links => "links",
            Self::Mode => "mode",
            Self::Owner => "owner",
            Self::Mtime => "mtime",
            Self::Xattrs => "xattrs",
            Self::Moved => "moved",
        }
    }

    /// Whether it leaves type, bytes and place as they are.
    #[must_use]
    pub fn is_metadata(self) -> bool {
        matches!(self, Self::Links | Self::Mode | Self::Owner | Self::Mtime | Self::Xattrs)
    }
}

/// What happened to a file that stands before others in its layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shift {
    /// It is new there.
    Added,
    /// It is gone from there.
    Removed,
    /// It takes more or fewer blocks.
    Resized,
}

/// Where the bytes of a moved file went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Move {
    /// Forward or back in their segment, for what happened to this file before it.
    Behind(Arc<[u8]>, Shift),
    /// In another order, or into another layer.
    Elsewhere,
    /// Apart or together: what was a hole is zeros, or the reverse.
    Holes,
}

/// A file that differs.
#[derive(Debug, Clone)]
pub struct FileDiff {
    /// Its path.
    pub path: Arc<[u8]>,
    /// Ascending.
    pub changes: Vec<Change>,
    /// Of the first image.
    pub a: Option<Stat>,
    /// Of the second image.
    pub b: Option<Stat>,
    /// New chunks of data that it has a part in; one that several files share counts for each.
    pub new: Count,
    /// Where [`Change::Moved`].
    pub moved: Option<Move>,
}

/// Why a file's part of a chunk makes it another one, the weightiest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Why {
    /// Its bytes changed.
    Content,
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its bytes now are those of another layer, which hides the ones that stood here.
    Replaced,
    /// The same bytes stand elsewhere.
    Moved,
    /// A directory's entries are others.
    Entries,
    /// What its inode says changed.
    Metadata,
    /// Its inode says that its bytes stand elsewhere.
    Address,
    /// It is the same; another in its chunk is not.
    Neighbour,
}

impl Why {
    /// In words.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Content => "content changed",
            Self::Added => "file added",
            Self::Removed => "file removed",
            Self::Replaced => "hidden by another layer",
            Self::Moved => "moved",
            Self::Entries => "entries changed",
            Self::Metadata => "metadata changed",
            Self::Address => "its data moved",
            Self::Neighbour => "beside one that changed",
        }
    }
}

/// Why a chunk is new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The second image is sealed in another way, or kept apart from the first.
    Sealing,
    /// Metadata of this zone changed.
    Zone(Region),
    /// Metadata changed, of a layout that this program does not know.
    Metadata,
    /// Files did; see [`Why`].
    Data(Why),
    /// It is of a layer that the first image has not; files were not compared.
    NewLayer,
    /// It is of a layer that both have, of which another layer hides more or less; files were not compared.
    OldLayer,
}

/// A file in a new chunk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Touch {
    /// Its path.
    pub path: Arc<[u8]>,
    /// Its part in it.
    pub why: Why,
}

/// A chunk of the second image that the first has not.
#[derive(Debug, Clone)]
pub struct NewChunk {
    /// Its first place on the device.
    pub index: ChunkIndex,
    /// Its stored bytes.
    pub bytes: u64,
    /// The layer whose segment it is of, the first being 0.
    pub layer: Option<usize>,
    /// Why it is new.
    pub cause: Cause,
    /// The files in it, the weightiest reason first, then as they stand; in metadata, those that have a part in the change. Empty
    /// where files were not compared.
    pub touches: Vec<Touch>,
}

/// What two images differ in.
#[derive(Debug)]
pub struct Diff {
    /// What the manifests say differently besides chunks and layers.
    pub settings: Vec<Setting>,
    /// The config's fields that differ.
    pub config: Vec<String>,
    /// Whether the root digests are equal.
    pub same_root_digest: bool,
    /// Distinct chunks.
    pub totals: Totals,
    /// The second image's layers, then those that only the first has.
    pub layers: Vec<LayerDiff>,
    /// By place.
    pub new: Vec<NewChunk>,
    /// In path order; `None` where they were not compared.
    pub files: Option<Vec<FileDiff>>,
}

impl Diff {
    /// Compares all that manifests tell: no store is asked.
    #[must_use]
    pub fn of(a: &OpenManifest, b: &OpenManifest) -> Self {
        chunks::compare(a, b)
    }

    /// Compares the files, too, and finds what they have to do with each new chunk.
    ///
    /// # Errors
    /// Those of the devices and of [`crate::fs::ext4::read::Ext4`], saying of which image.
    pub fn compare_files(&mut self, a: &ChunkDevice, b: &ChunkDevice) -> Result<()> {
        causes::find(self, a, b)
    }

    /// Whether nothing differs.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let at = |(place, layer): (usize, &LayerDiff)| layer.a == Some(place) && layer.b == Some(place);
        self.same_root_digest && self.settings.is_empty() && self.layers.iter().enumerate().all(at)
    }

    /// New chunks by cause.
    #[must_use]
    pub fn causes(&self) -> Vec<(Cause, Count)> {
        let mut causes = std::collections::BTreeMap::<Cause, Count>::new();
        for chunk in &self.new {
            causes.entry(chunk.cause).or_default().add(chunk.bytes);
        }
        causes.into_iter().collect()
    }
}

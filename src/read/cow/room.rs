//! Where changed blocks are kept: in memory, or sealed in a file without a name.
//!
//! In the file a block stands where it stands on the device, so nothing is allocated here; it is as sparse as the changes are. What is
//! in it opens by what is in memory alone ([`Kept`]), and that goes with the process.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::{ReadWriteFlags, preadv2};

use super::{BLOCK, Block};
use crate::crypto::block_seal::{BlockSeal, Seal};
use crate::{Error, ErrorKind, Result};

pub(super) enum Room {
    Memory,
    File { file: File, key: BlockSeal },
}

/// A block that is kept.
pub(super) enum Kept {
    Plain(Box<Block>),
    Sealed(Seal),
}

impl Room {
    /// A file in `directory`, gone when the process ends, however it ends.
    pub(super) fn in_directory(directory: &Path) -> Result<Self> {
        let file = tempfile::tempfile_in(directory).map_err(|error| Error::file(directory, error))?;
        Ok(Self::File { file, key: BlockSeal::new()? })
    }

    /// Keeps a block that was not kept before.
    pub(super) fn keep(&self, block: u64, bytes: &Block) -> Result<Kept> {
        let Self::File { file, key } = self else { return Ok(Kept::Plain(Box::new(*bytes))) };
        let mut sealed = *bytes;
        let seal = key.seal(&mut sealed);
        file.write_all_at(&sealed, block * BLOCK).map_err(|error| {
            let kind = match error.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::Full,
                _ => ErrorKind::Unavailable,
            };
            Error::caused(kind, format!("block {block} of the write overlay"), error)
        })?;
        Ok(Kept::Sealed(seal))
    }

    /// Keeps `bytes` in place of what was kept; after an error that is still so, or does not open.
    pub(super) fn replace(&self, block: u64, bytes: &Block, kept: &mut Kept) -> Result<()> {
        match kept {
            Kept::Plain(place) => place.copy_from_slice(bytes),
            Kept::Sealed(_) => *kept = self.keep(block, bytes)?,
        }
        Ok(())
    }

    /// Fills `buf` with what is kept of `block`; `None` where that is on a disk and is not waited for.
    pub(super) fn read(&self, block: u64, kept: &Kept, buf: &mut Block, wait: bool) -> Result<Option<()>> {
        let (file, key, seal) = match (self, kept) {
            (_, Kept::Plain(bytes)) => {
                buf.copy_from_slice(&bytes[..]);
                return Ok(Some(()));
            }
            (Self::File { file, key }, Kept::Sealed(seal)) => (file, key, seal),
            (Self::Memory, Kept::Sealed(_)) => unreachable!("memory keeps nothing sealed"),
        };
        let object = || format!("block {block} of the write overlay");
        if wait {
            file.read_exact_at(buf, block * BLOCK).map_err(|error| Error::io(object(), error))?;
        } else {
            let read = preadv2(file, &mut [IoSliceMut::new(buf)], block * BLOCK, ReadWriteFlags::NOWAIT);
            if read.ok() != Some(buf.len()) {
                return Ok(None);
            }
        }
        let altered = |_| Error::new(ErrorKind::Corrupt, format!("{}: its file was modified", object()));
        key.open(seal, buf).map_err(altered).map(Some)
    }

    /// Gives the disk back what blocks `first` to `end` took of it, where its file system can.
    pub(super) fn forget(&self, first: u64, end: u64) {
        if let Self::File { file, .. } = self {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            // Where it cannot, the place waits for the next who writes there.
            let _ = fallocate(file, flags, first * BLOCK, (end - first) * BLOCK);
        }
    }
}

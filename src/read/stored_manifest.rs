//! The clear parts of the block manifests in a store, read in pieces: a client with upload permission alone can put anything under a
//! manifest's name, of any length, so only what a scrub needs is held, and nothing before the lengths agree.

use crate::digest::Sha256Hasher;
use crate::manifest::v1::{HEAD_BYTES, MAX_BYTES};
use crate::manifest::{BlockManifest, Clear};
use crate::store::{Get, ObjectName, RootId, Sink};
use crate::{Error, ErrorKind, Result};

/// Reads the clear part of the manifest `object` of `root`, and checks that the object's bytes are those of its name.
///
/// # Errors
/// `Corrupt`, `Unsupported`, `NotFound` or `Denied` where the object is no manifest that can be read; `Unavailable` where the store
/// cannot be asked.
pub fn read_clear(store: &dyn Get, root: &RootId, object: &ObjectName) -> Result<Clear> {
    let mut reader = Reader::default();
    store.stream(object, MAX_BYTES, &mut reader)?;
    let clear = reader.finish(root, object);
    clear.map_err(|error| error.within(format!("object {object}")))
}

/// Takes the bytes of a manifest, and holds those up to the end of its clear part.
#[derive(Default)]
struct Reader {
    hasher: Sha256Hasher,
    /// The object's bytes, as the store says.
    length: u64,
    /// How many of the first bytes are needed; as many as the head has until it is there.
    wanted: u64,
    start: Vec<u8>,
}

impl Sink for Reader {
    fn begin(&mut self, length: u64) -> Result<()> {
        *self = Self { length, wanted: HEAD_BYTES, ..Self::default() };
        Ok(())
    }

    fn take(&mut self, mut piece: &[u8]) -> Result<()> {
        self.hasher.update(piece);
        if (self.start.len() as u64) < HEAD_BYTES {
            piece = self.keep(piece)?;
            if self.start.len() as u64 == HEAD_BYTES {
                self.wanted = self.checked_end()?;
            }
        }
        self.keep(piece).map(drop)
    }
}

impl Reader {
    /// Keeps of `piece` what is wanted, and returns the rest.
    fn keep<'p>(&mut self, piece: &'p [u8]) -> Result<&'p [u8]> {
        let missing = usize::try_from(self.wanted).unwrap_or(usize::MAX).saturating_sub(self.start.len());
        let (kept, rest) = piece.split_at(missing.min(piece.len()));
        self.start.try_reserve(kept.len()).map_err(|error| {
            Error::caused(ErrorKind::Unavailable, "the clear part needs more memory than is available", error)
        })?;
        self.start.extend_from_slice(kept);
        Ok(rest)
    }

    /// Where the clear part ends, if the head's lengths make up the object's.
    fn checked_end(&self) -> Result<u64> {
        let said = BlockManifest::length(&self.start)?;
        if said != self.length {
            let message = format!("its header says {said} bytes, the object has {}", self.length);
            return Err(Error::new(ErrorKind::Corrupt, message));
        }
        BlockManifest::clear_end(&self.start)
    }

    fn finish(self, root: &RootId, object: &ObjectName) -> Result<Clear> {
        let corrupt = |message: String| Err(Error::new(ErrorKind::Corrupt, message));
        let found = self.hasher.finish();
        if *object != ObjectName::manifest(root, found) {
            return corrupt(format!("its SHA-256 is {found}, which is not its name"));
        }
        let clear = BlockManifest::decode_clear(&self.start)?;
        match clear.root == *root {
            true => Ok(clear),
            false => corrupt(format!("it is a manifest of the root {}, but stored under {root}", clear.root)),
        }
    }
}

/// Whether the bytes under `object` are of no use to anyone: not those of its name, or no manifest of its root.
///
/// # Errors
/// `Unavailable` where the store cannot be asked.
pub fn is_damaged(store: &dyn Get, root: &RootId, object: &ObjectName) -> Result<bool> {
    match read_clear(store, root, object) {
        Ok(_) => Ok(false),
        Err(error) => match error.kind() {
            ErrorKind::Corrupt | ErrorKind::NotFound => Ok(true),
            // A later version's manifest is of use to a later version.
            ErrorKind::Unsupported | ErrorKind::Denied => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Sha256;

    #[test]
    fn lengths_are_checked_before_anything_is_held() {
        let head = |wraps: u32, clear: u32, sealed: u32| {
            let mut head = b"\x89CPM\r\n\x1a\n\x01\0\0\0".to_vec();
            head.extend([wraps, clear, sealed].into_iter().flat_map(u32::to_le_bytes));
            head
        };
        let taken = |bytes: &[u8], length: u64| {
            let mut reader = Reader::default();
            reader.begin(length)?;
            for piece in bytes.chunks(5) {
                reader.take(piece)?;
            }
            Ok::<_, Error>(reader)
        };
        let good = [head(2, 10, 1000), vec![7; 1012]].concat();
        assert_eq!(taken(&good, 1036).unwrap().start, good[..36]);
        for (bytes, length) in [(good.clone(), 1035), (head(2, u32::MAX, 1000), 1036), (vec![b'x'; 100], 100)] {
            assert_eq!(taken(&bytes, length).err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
        }
        // An object of fewer bytes than a head has is none that can be decoded.
        let reader = taken(&good[..7], 7).unwrap();
        let root: RootId = "main".parse().unwrap();
        let name = ObjectName::manifest(&root, Sha256::of(&good[..7]));
        assert_eq!(reader.finish(&root, &name).err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
    }
}

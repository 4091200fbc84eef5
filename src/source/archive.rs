//! A directory or a tar archive, as files by name: what an OCI layout or a docker archive stands in.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::blob::{Blob, open_input};
use super::layer::{Compression, LayerSource};
use super::{Limits, recognize};
use crate::fs::path::{Display, components};
use crate::{Error, ErrorKind, Result};

/// Most links that one name in an archive may lead through (old `docker save` links equal layers once).
pub(super) const MAX_LINKS: usize = 8;

/// Most bytes of an extended header.
const MAX_EXTENDED: u64 = 8 << 20;
/// Bytes of a tar header.
const TAR_HEADER: u64 = 512;

/// Files by name.
#[derive(Debug)]
pub(super) enum Container {
    Directory(PathBuf),
    Archive { blob: Blob, members: BTreeMap<Vec<u8>, Member> },
}

#[derive(Debug)]
pub(super) enum Member {
    File {
        offset: u64,
        length: u64,
    },
    /// The clean name of another member.
    Link(Vec<u8>),
}

impl Container {
    pub(super) fn directory(path: &Path) -> Result<Self> {
        let metadata = path.metadata().map_err(|error| Error::file(path, error))?;
        if !metadata.is_dir() {
            let shown = path.display();
            let message = format!(
                "{shown}: not a directory; if it is an archive, write oci-archive:{shown} or docker-archive:{shown}"
            );
            return Err(Error::new(ErrorKind::Input, message));
        }
        Ok(Self::Directory(path.to_owned()))
    }

    /// Lists the archive; a compressed one is first unpacked into an unlinked file.
    pub(super) fn archive(path: &Path, limits: Limits<'_>) -> Result<Self> {
        if path.is_dir() {
            let shown = path.display();
            let message = format!("{shown}: a directory, not an archive; if it is an image layout, write oci:{shown}");
            return Err(Error::new(ErrorKind::Input, message));
        }
        Self::of_archive(open_input(path, limits)?, &path.display().to_string(), limits)
    }

    /// The same for an archive that is open; `shown` stands for it in errors.
    pub(super) fn of_archive(stored: Blob, shown: &str, limits: Limits<'_>) -> Result<Self> {
        let compression = Compression::detect(&stored)?;
        let blob = match compression {
            Compression::None => stored,
            _ => inflate(stored, limits)?,
        };
        let members = list(&blob).map_err(|error| {
            let unpacked = compression.name().map_or_else(String::new, |name| format!("unpacked from {name}, it is "));
            let what = recognize::by_content(&blob).map_or_else(String::new, |what| format!(" but {what}"));
            let message = format!("{shown}: {unpacked}not a tar archive{what}");
            // The crate's errors can have bytes of the file in them.
            match error.to_string().contains(char::REPLACEMENT_CHARACTER) {
                true => Error::new(ErrorKind::Corrupt, message),
                false => Error::caused(ErrorKind::Corrupt, message, error),
            }
        })?;
        if members.is_empty() {
            return Err(Error::new(ErrorKind::Corrupt, recognize::no_entries(shown, &blob)));
        }
        Ok(Self::Archive { blob, members })
    }

    /// `error`, of opening `name`, with what the container is instead.
    pub(super) fn explain(&self, name: &str, error: Error) -> Error {
        let found = match self {
            Self::Directory(directory) => recognize::directory(directory),
            Self::Archive { members, .. } => recognize::by_names(members.keys().map(Vec::as_slice)),
        };
        match found {
            Some(what) if error.kind() == ErrorKind::NotFound => {
                Error::new(ErrorKind::Input, format!("{name} is missing: this is {what}"))
            }
            _ => error,
        }
    }

    /// The file `name`.
    pub(super) fn open(&self, name: &str) -> Result<Blob> {
        let missing = || Error::new(ErrorKind::NotFound, format!("the archive does not contain `{name}`"));
        match self {
            Self::Directory(directory) => Blob::open(&directory.join(name)),
            Self::Archive { blob, members } => {
                let mut key = clean(name.as_bytes());
                for followed in 0..MAX_LINKS {
                    let dangling = || {
                        let message = format!("{name}: a link to `{}`, which is not in the archive", Display(&key));
                        Error::new(ErrorKind::NotFound, message)
                    };
                    let missing = || if followed == 0 { missing() } else { dangling() };
                    match members.get(&key).ok_or_else(missing)? {
                        Member::File { offset, length } => {
                            return blob.part(name, *offset, *length).ok_or_else(missing);
                        }
                        Member::Link(target) => key.clone_from(target),
                    }
                }
                Err(Error::new(ErrorKind::Input, format!("{name}: more than {MAX_LINKS} links must be followed")))
            }
        }
    }
}

fn inflate(stored: Blob, Limits { temp, max_size, .. }: Limits<'_>) -> Result<Blob> {
    let name = stored.name().to_owned();
    let source = LayerSource { blob: stored, digest: None, size: None, diff_id: None };
    let mut file = tempfile::tempfile_in(temp).map_err(|error| Error::file(temp, error))?;
    let mut reader = source.read(max_size)?;
    io::copy(&mut reader, &mut file).map_err(|error| Error::io(&name, error))?;
    let (_, length) = reader.finish()?;
    Ok(Blob::of_file(&name, file, length))
}

fn list(blob: &Blob) -> io::Result<BTreeMap<Vec<u8>, Member>> {
    let length = blob.length().ok_or(io::ErrorKind::InvalidInput)?;
    if (1..TAR_HEADER).contains(&length) {
        let message = format!("its {length} bytes are fewer than the {TAR_HEADER} of a tar header");
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
    }
    let seekable = || SeekableBlob { blob: blob.clone(), length, at: 0 };
    // The crate reads extended headers whole: their sizes are looked at first.
    for entry in tar::Archive::new(seekable()).entries_with_seek()?.raw(true) {
        let entry = entry?;
        let extended = matches!(entry.header().as_bytes()[156], b'x' | b'g' | b'L' | b'K');
        if extended && entry.size() > MAX_EXTENDED {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "an extended header is larger than 8 MiB"));
        }
        if entry.raw_file_position().checked_add(entry.size()).is_none_or(|end| end > length) {
            let message =
                format!("`{}` extends past the end of the archive; it may be truncated", Display(&entry.path_bytes()));
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
        }
    }
    let mut archive = tar::Archive::new(seekable());
    let mut members = BTreeMap::new();
    for entry in archive.entries_with_seek()? {
        let entry = entry?;
        let name = clean(&entry.path_bytes());
        let link = || entry.link_name_bytes().unwrap_or_default().into_owned();
        let member = match entry.header().entry_type() {
            tar::EntryType::Regular | tar::EntryType::Continuous => {
                let (offset, size) = (entry.raw_file_position(), entry.size());
                if offset.checked_add(size).is_none_or(|end| end > length) {
                    let message =
                        format!("`{}` extends past the end of the archive; it may be truncated", Display(&name));
                    return Err(io::Error::new(io::ErrorKind::UnexpectedEof, message));
                }
                Member::File { offset, length: size }
            }
            // A symlink's target counts from its own directory, a hard link's from the root.
            tar::EntryType::Symlink => Member::Link(clean(&[&name, &b"/../"[..], &link()].concat())),
            tar::EntryType::Link => Member::Link(clean(&link())),
            _ => continue,
        };
        members.insert(name, member);
    }
    Ok(members)
}

/// A member's name without what means nothing.
pub(super) fn clean(name: &[u8]) -> Vec<u8> {
    components(name).join(&b'/')
}

/// A blob with a position, as the crate `tar` wants it.
struct SeekableBlob {
    blob: Blob,
    length: u64,
    at: u64,
}

impl io::Read for SeekableBlob {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // A member that was passed over may have ended behind the archive.
        let left = self.length.checked_sub(self.at).ok_or(io::ErrorKind::UnexpectedEof)?;
        let n = buf.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.blob.read_at(self.at, &mut buf[..n])?;
        self.at += n as u64;
        Ok(n)
    }
}

impl io::Seek for SeekableBlob {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let (base, by) = match to {
            io::SeekFrom::Start(at) => (at, 0),
            io::SeekFrom::End(by) => (self.length, by),
            io::SeekFrom::Current(by) => (self.at, by),
        };
        self.at = base.checked_add_signed(by).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

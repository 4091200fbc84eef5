//! What an input is that is not what its transport says, so that the error can name it and what to write instead.
//!
//! Nothing here decides how an image is read: a wrong guess gives a wrong hint, never a wrong image.

use std::io::Read;
use std::path::Path;

use super::blob::Blob;
use super::layer::{LayerReader, LayerSource};
use crate::{Error, ErrorKind, Result};

/// The first bytes of what people give for a tar: where they stand, what they are, and of what.
const MAGICS: [(usize, &[u8], &str); 9] = [
    (1080, b"\x53\xEF", "an ext2, ext3 or ext4 file system image; pack its files with tar"),
    (1024, b"\xE2\xE1\xF5\xE0", "an EROFS file system image; pack its files with tar"),
    (0, b"hsqs", "a squashfs file system image; pack its files with tar"),
    (0, b"XFSB", "an XFS file system image; pack its files with tar"),
    (0, b"QFI\xFB", "a qcow2 disk image; pack its files with tar"),
    (0, b"PK\x03\x04", "a zip archive; pack its files with tar"),
    (0, b"7z\xBC\xAF\x27\x1C", "a 7z archive; pack its files with tar"),
    (0, b"\x7FELF", "a program (ELF); pack it with tar"),
    (0, b"{", "a JSON document"),
];

/// Names at the root of a file system, by which a tar is known to be one.
const ROOT_DIRECTORIES: [&[u8]; 10] =
    [b"bin", b"dev", b"etc", b"home", b"lib", b"opt", b"root", b"sbin", b"usr", b"var"];

/// Describes `blob` by its first bytes.
pub(super) fn by_content(blob: &Blob) -> Option<&'static str> {
    let mut start = Vec::new();
    blob.reader().take(2048).read_to_end(&mut start).ok()?;
    let found = MAGICS.iter().find(|(at, magic, _)| start.get(*at..).is_some_and(|rest| rest.starts_with(magic)));
    found.map(|(_, _, what)| *what)
}

/// Says why the tar archive `shown`, which is `blob` inflated, has no entries.
pub(super) fn no_entries(shown: &str, blob: &Blob) -> String {
    match (blob.length(), by_content(blob)) {
        (Some(0), _) => format!("{shown}: an empty file, not a tar archive"),
        (_, Some(what)) => format!("{shown}: not a tar archive but {what}"),
        _ => format!("{shown}: a tar archive without entries, or nothing but zeros"),
    }
}

/// Describes an archive by the clean names in it; `None` where it could be anything.
pub(super) fn by_names<'n>(names: impl Iterator<Item = &'n [u8]>) -> Option<String> {
    let mut found = Names::default();
    names.for_each(|name| found.add(name));
    found.verdict()
}

/// Describes a directory that has no image layout at its top.
pub(super) fn directory(path: &Path) -> Option<String> {
    let below = std::fs::read_dir(path).ok()?.flatten().find(|entry| entry.path().join("oci-layout").is_file());
    match below {
        Some(entry) => Some(format!("the directory above an image layout; write oci:{}", entry.path().display())),
        None if path.join("manifest.json").is_file() => {
            Some(format!("a directory as skopeo writes it; write dir:{}", path.display()))
        }
        None => None,
    }
}

/// Refuses a tar that is no root file system: an archive of an image, another kind of file, or one without entries.
///
/// # Errors
/// `Input`, saying what it is and what to write instead. A tar that cannot be read passes: reading it says more.
pub(super) fn check_root_file_system(path: &Path, blob: &Blob, limit: u64) -> Result<()> {
    let source = LayerSource { blob: blob.clone(), digest: None, size: None, diff_id: None };
    let mut archive = tar::Archive::new(source.read(limit)?);
    let judged = judge(&mut archive, path, blob);
    // The layer is read again at once, and two decoders need twice the memory.
    archive.into_inner().close();
    judged
}

/// Judges by the names of the members and, where there are none, by the content.
fn judge(archive: &mut tar::Archive<LayerReader<'_>>, path: &Path, blob: &Blob) -> Result<()> {
    let mut found = Names::default();
    // Raw: without reading extended headers into memory. Their names do not matter here.
    for entry in archive.entries().into_iter().flat_map(|entries| entries.raw(true)) {
        let Ok(entry) = entry else {
            return match by_content(blob).filter(|_| !found.any) {
                None => Ok(()),
                Some(what) => {
                    let message = format!("{}: not a tar archive but {what}", path.display());
                    Err(Error::new(ErrorKind::Input, message))
                }
            };
        };
        let name = super::archive::clean(&entry.path_bytes());
        found.add(&name);
        if !name.is_empty() && !is_of_image_archive(&name) {
            return Ok(());
        }
    }
    let message = match found.verdict() {
        None if found.any => return Ok(()),
        None => no_entries(&path.display().to_string(), blob),
        Some(what) => format!("{}: not a root file system but {what}", path.display()),
    };
    Err(Error::new(ErrorKind::Input, message))
}

/// Whether `name` can stand in what `docker save` writes, or in an image layout.
fn is_of_image_archive(name: &[u8]) -> bool {
    let parts: Vec<&[u8]> = name.split(|byte| *byte == b'/').collect();
    let has_end = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end.as_bytes()));
    match parts[..] {
        [b"blobs", ..] => true,
        [top] if ROOT_DIRECTORIES.contains(&top) => false,
        [b"repositories" | b"oci-layout"] => true,
        [top] => has_end(&[".json", ".tar", ".tar.gz"]) || !top.contains(&b'.'),
        [_, b"layer.tar" | b"VERSION" | b"json"] => true,
        _ => false,
    }
}

/// What the names in an archive tell.
#[derive(Default)]
struct Names {
    any: bool,
    docker: bool,
    layout: bool,
    index: bool,
    root: bool,
    below: Option<Vec<u8>>,
}

impl Names {
    fn add(&mut self, name: &[u8]) {
        self.any = true;
        match name {
            b"manifest.json" => self.docker = true,
            b"oci-layout" => self.layout = true,
            b"index.json" => self.index = true,
            _ => {}
        }
        let top = name.split(|byte| *byte == b'/').next().unwrap_or_default();
        self.root |= ROOT_DIRECTORIES.contains(&top);
        if let Some(directory) = name.strip_suffix(b"/oci-layout") {
            self.below = Some(directory.to_owned());
        }
    }

    fn verdict(&self) -> Option<String> {
        if self.docker {
            Some("an image that docker save wrote; write docker-archive:FILE".to_owned())
        } else if self.layout && self.index {
            Some("an OCI image layout; write oci-archive:FILE".to_owned())
        } else if let Some(below) = &self.below {
            let below = String::from_utf8_lossy(below).escape_debug().to_string();
            Some(format!("an archive of an image layout in the directory `{below}`; unpack it and write oci:{below}"))
        } else if self.root {
            Some("a root file system, as docker export writes it; write tar:FILE".to_owned())
        } else {
            None
        }
    }
}

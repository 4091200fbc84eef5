//! `other_readers IMG DIR`: do mkext4's verifying reader, ext4-view and this crate's own reader see in the block image IMG
//! what the kernel shows of it at DIR, every file?
//!
//! For `make test-corpus`, which mounts IMG at DIR after others have judged that mount. ext4-view 1.0 refuses times before
//! 1970 and from 2038 to 2106, and symlinks with a component of over 255 bytes: those inodes are left out for it, and counted.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::ExitCode;

use coldpress::digest::Sha256;
use coldpress::fs::BlockDevice;
use coldpress::fs::ext4::read::{Ext4, FileType};

/// What is compared of an entry: letter of its type, permissions, owner, group, and digest of bytes or target.
type Seen = (char, u32, u32, u32, Option<Sha256>);
type Listing = BTreeMap<Vec<u8>, Seen>;
type AnyError = Box<dyn std::error::Error>;

struct Image(File, u64);

impl BlockDevice for Image {
    fn size(&self) -> u64 {
        self.1
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> coldpress::Result<()> {
        self.0.read_exact_at(buf, offset).map_err(|error| coldpress::Error::io("image", error))
    }
}

impl ext4_view::Ext4Read for Image {
    fn read(&mut self, start: u64, into: &mut [u8]) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Ok(self.0.read_exact_at(into, start)?)
    }
}

fn open(path: &Path) -> Result<Image, AnyError> {
    let file = File::open(path)?;
    let length = file.metadata()?.len();
    Ok(Image(file, length))
}

fn join(path: &[u8], name: &[u8]) -> Vec<u8> {
    if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() }
}

/// What the kernel shows; and what ext4-view refuses.
fn kernel(top: &Path) -> Result<(Listing, Vec<Vec<u8>>), AnyError> {
    let (mut listing, mut refused, mut todo) = (Listing::new(), Vec::new(), vec![(Vec::new(), top.to_owned())]);
    while let Some((rel, path)) = todo.pop() {
        let meta = path.symlink_metadata()?;
        let kind = meta.file_type();
        let (letter, digest) = if kind.is_dir() {
            for entry in std::fs::read_dir(&path)? {
                let entry = entry?;
                todo.push((join(&rel, entry.file_name().as_bytes()), entry.path()));
            }
            ('d', None)
        } else if kind.is_symlink() {
            let target = std::fs::read_link(&path)?;
            if target.iter().any(|part| part.len() > 255) {
                refused.push(rel.clone());
            }
            ('l', Some(Sha256::of(target.as_os_str().as_bytes())))
        } else if kind.is_file() {
            ('f', Some(Sha256::of(&std::fs::read(&path)?)))
        } else {
            (
                if kind.is_char_device() {
                    'c'
                } else if kind.is_block_device() {
                    'b'
                } else {
                    'p'
                },
                None,
            )
        };
        if meta.mtime() < 0 || (0x8000_0000..0x1_0000_0000).contains(&meta.mtime()) {
            refused.push(rel.clone());
        }
        listing.insert(rel, (letter, meta.mode() & 0o7777, meta.uid(), meta.gid(), digest));
    }
    Ok((listing, refused))
}

fn own(image: &Path) -> Result<Listing, AnyError> {
    let device = open(image)?;
    let fs = Ext4::open(&device)?;
    let (mut listing, mut todo) = (Listing::new(), vec![(Vec::new(), fs.lookup(b"/", false)?)]);
    while let Some((path, node)) = todo.pop() {
        let (letter, digest) = match node.stat.file_type {
            FileType::Directory => {
                for (name, ino) in fs.read_dir(&node)? {
                    todo.push((join(&path, &name), fs.node(ino)?));
                }
                ('d', None)
            }
            FileType::File => {
                let mut bytes = vec![0; usize::try_from(node.stat.size)?];
                fs.read(&node, 0, &mut bytes)?;
                ('f', Some(Sha256::of(&bytes)))
            }
            FileType::Symlink => ('l', Some(Sha256::of(&fs.read_link(&node)?))),
            FileType::CharDevice(_) => ('c', None),
            FileType::BlockDevice(_) => ('b', None),
            FileType::Fifo => ('p', None),
        };
        listing.insert(path, (letter, node.stat.mode.into(), node.stat.uid, node.stat.gid, digest));
    }
    Ok(listing)
}

/// mkext4 verifies every structure first.
fn mkext4_reader(image: &Path) -> Result<Listing, AnyError> {
    use mkext4::spec::inode::FileType;
    let fs = mkext4::reader::Fs::open(File::open(image)?).map_err(|error| format!("mkext4: {error}"))?;
    let issues: Vec<_> =
        fs.verify().map_err(|error| format!("mkext4: {error}"))?.into_iter().map(|issue| issue.what).collect();
    if !issues.is_empty() {
        return Err(format!("mkext4 finds: {issues:?}").into());
    }
    let (mut listing, mut todo) = (Listing::new(), vec![(Vec::new(), 2)]);
    while let Some((path, ino)) = todo.pop() {
        let fail = |error| format!("mkext4: {error}");
        let inode = fs.inode(ino).map_err(fail)?;
        let (letter, digest) = match inode.file_type() {
            FileType::Dir => {
                for entry in fs
                    .read_dir(ino)
                    .map_err(fail)?
                    .into_iter()
                    .filter(|entry| entry.name != b"." && entry.name != b"..")
                {
                    todo.push((join(&path, &entry.name), entry.inode));
                }
                ('d', None)
            }
            FileType::Regular => ('f', Some(Sha256::of(&fs.read_file(ino).map_err(fail)?))),
            FileType::Symlink => ('l', Some(Sha256::of(&fs.symlink_target(ino).map_err(fail)?))),
            FileType::CharDev => ('c', None),
            FileType::BlockDev => ('b', None),
            _ => ('p', None),
        };
        listing.insert(path, (letter, u32::from(inode.mode & 0o7777), inode.uid, inode.gid, digest));
    }
    Ok(listing)
}

fn view(image: &Path, refused: &[Vec<u8>]) -> Result<Listing, AnyError> {
    use ext4_view::FileType;
    let fs = ext4_view::Ext4::load(Box::new(open(image)?))?;
    let (mut listing, mut todo) = (Listing::new(), vec![Vec::new()]);
    while let Some(path) = todo.pop() {
        let full = ext4_view::PathBuf::new(&join(b"", &[b"/", &path[..]].concat()));
        let meta = fs.symlink_metadata(&full)?;
        let (letter, digest) = match meta.file_type() {
            FileType::Directory => {
                for entry in fs.read_dir(&full)? {
                    let entry = entry?;
                    let (name, path) = (entry.file_name(), join(&path, entry.file_name().as_ref()));
                    if name != "." && name != ".." && !refused.contains(&path) {
                        todo.push(path);
                    }
                }
                ('d', None)
            }
            FileType::Regular => ('f', Some(Sha256::of(&fs.read(&full)?))),
            FileType::Symlink => ('l', Some(Sha256::of(fs.read_link(&full)?.as_ref()))),
            FileType::CharacterDevice => ('c', None),
            FileType::BlockDevice => ('b', None),
            _ => ('p', None),
        };
        listing.insert(path, (letter, meta.mode().into(), meta.uid(), meta.gid(), digest));
    }
    Ok(listing)
}

fn compare(reader: &str, found: &Listing, wanted: &Listing) -> Result<(), AnyError> {
    let differs = |path: &&Vec<u8>| found.get(*path) != wanted.get(*path);
    match found.keys().chain(wanted.keys()).find(differs) {
        None => Ok(()),
        Some(path) => {
            Err(format!("{reader}: {}: {:?}, the kernel {:?}", path.escape_ascii(), found.get(path), wanted.get(path))
                .into())
        }
    }
}

fn run() -> Result<String, AnyError> {
    let paths: Vec<_> = std::env::args_os().skip(1).collect();
    let [image, mounted] = &paths[..] else { return Err("usage: other_readers IMG DIR".into()) };
    let image = Path::new(image);
    let (wanted, refused) = kernel(Path::new(mounted))?;
    compare("own reader", &own(image)?, &wanted)?;
    compare("mkext4", &mkext4_reader(image)?, &wanted)?;
    let without =
        wanted.iter().filter(|(path, _)| !refused.contains(path)).map(|(path, seen)| (path.clone(), *seen)).collect();
    compare("ext4-view", &view(image, &refused)?, &without)?;
    Ok(format!(
        "  {} entries: mkext4, ext4-view ({} that it refuses aside) and the own reader agree with the kernel",
        wanted.len(),
        refused.len()
    ))
}

#[expect(clippy::print_stdout, clippy::print_stderr, reason = "a program")]
fn main() -> ExitCode {
    match run() {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("other_readers: {error}");
            ExitCode::FAILURE
        }
    }
}

//! `coldread tar`: a subtree as a tar archive on standard output, file data as it is fetched.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::fd::AsFd;

use coldpress::Result;
use coldpress::fs::ext4::InodeNumber;
use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::fs::path::components;

use super::cat::each_part;
use super::{bytes, is_terminal, open, tell_fetched};
use crate::args::{Cli, TarArgs};
use crate::shared::failure::{CommandResult, Failure};
use crate::shared::stdout;
use crate::tar_stream::{Entry, Kind, padding, write_end, write_header};
use crate::tree_walk::{Moment, walk};

pub fn run(cli: &Cli, args: &TarArgs) -> CommandResult {
    if is_terminal() {
        let message = "an archive is not written to a terminal; redirect standard output: coldread tar … > FILE";
        return Err(Failure::Usage(message.to_owned()));
    }
    let out = std::io::stdout().as_fd().try_clone_to_owned().map_err(stdout::failed)?.into();
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    let mut archive = Archive { fs: &fs, out: BufWriter::with_capacity(1 << 20, out), names: BTreeMap::new() };
    let done = args.paths.iter().try_for_each(|path| {
        let node = fs.lookup(bytes(path), false)?;
        // As of `tar -c .`: GNU tar sets a directory's time when it leaves it, which it knows by the beginnings of names.
        let member = match components(bytes(path)).join(&b'/') {
            root if root.is_empty() => b".".to_vec(),
            member => member,
        };
        walk(&fs, &member, &node, usize::MAX, &mut |moment, entry| match moment {
            Moment::Before => archive.add(entry.path, entry.node),
            Moment::After => Ok(()),
        })
    });
    let done =
        done.and_then(|()| write_end(&mut archive.out).and_then(|()| archive.out.flush()).map_err(stdout::failed));
    tell_fetched(cli, &device);
    Ok(done?)
}

struct Archive<'a> {
    fs: &'a Ext4<'a>,
    out: BufWriter<File>,
    /// The member that has the data of each file with several names.
    names: BTreeMap<InodeNumber, Vec<u8>>,
}

impl Archive<'_> {
    fn add(&mut self, path: &[u8], node: &Node) -> Result<()> {
        let stat = &node.stat;
        let is_directory = stat.file_type == FileType::Directory;
        if !is_directory && stat.links > 1 {
            match self.names.get(&stat.ino) {
                // Asked for twice.
                Some(first) if components(first) == components(path) => return Ok(()),
                Some(first) => {
                    let first = first.clone();
                    return self.header(path, node, Kind::HardLink(&first));
                }
                None => _ = self.names.insert(stat.ino, path.to_owned()),
            }
        }
        match stat.file_type {
            FileType::Directory => self.header(&[path, b"/"].concat(), node, Kind::Directory),
            FileType::File => {
                self.header(path, node, Kind::File(stat.size))?;
                let out = &mut self.out;
                each_part(self.fs, node, &mut |_, part| out.write_all(part).map_err(stdout::failed))?;
                self.out.write_all(padding(stat.size)).map_err(stdout::failed)
            }
            FileType::Symlink => {
                let link = self.fs.read_link(node)?;
                self.header(path, node, Kind::Symlink(&link))
            }
            FileType::CharDevice(device) => self.header(path, node, Kind::CharDevice(device)),
            FileType::BlockDevice(device) => self.header(path, node, Kind::BlockDevice(device)),
            FileType::Fifo => self.header(path, node, Kind::Fifo),
        }
    }

    fn header(&mut self, path: &[u8], node: &Node, kind: Kind<'_>) -> Result<()> {
        let xattrs = self.fs.xattrs(node)?;
        let stat = &node.stat;
        let (mode, uid, gid, mtime) = (stat.mode, stat.uid, stat.gid, stat.mtime);
        let entry = Entry { path, kind, mode, uid, gid, mtime, xattrs: &xattrs };
        write_header(&mut self.out, &entry).map_err(stdout::failed)
    }
}

//! `coldread ls`.

use std::io::IsTerminal;

use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::fs::ext4::walk::DirectoryWalk;
use coldpress::fs::path::Display;
use coldpress::{Error, Result};

use super::stat::node_json;
use super::{bytes, mode_text, open, tell_fetched, time_text, write_out};
use crate::args::{Cli, LsArgs};
use crate::shared::failure::CommandResult;

pub fn run(cli: &Cli, args: &LsArgs) -> CommandResult {
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    let titles = args.paths.len() > 1 || args.recursive;
    let terminal = std::io::stdout().is_terminal();
    let listed = args.paths.iter().try_for_each(|path| {
        let node = fs.lookup(bytes(path), true)?;
        let listing = Listing { fs: &fs, args, titles, terminal };
        listing.show(bytes(path), &node).map_err(|error: Error| error.within(path.display()))
    });
    tell_fetched(cli, &device);
    Ok(listed?)
}

struct Listing<'a> {
    fs: &'a Ext4<'a>,
    args: &'a LsArgs,
    titles: bool,
    /// Whether names go to a terminal.
    terminal: bool,
}

impl Listing<'_> {
    /// A directory's entries, or the line of anything else. Directories below come by a stack, not by recursion.
    fn show(&self, path: &[u8], node: &Node) -> Result<()> {
        if node.stat.file_type != FileType::Directory {
            return self.line(path, path, node);
        }
        let (mut todo, mut walk) = (vec![(path.to_vec(), node.clone())], DirectoryWalk::default());
        while let Some((path, node)) = todo.pop() {
            walk.enter(&path, &node)?;
            if self.titles && !self.args.json {
                write_out(format!("{}:\n", Display(&path)).as_bytes())?;
            }
            let mut below = Vec::new();
            for (name, ino) in self.fs.read_dir(&node)? {
                let full = [path.trim_ascii_end().strip_suffix(b"/").unwrap_or(&path), b"/", &name].concat();
                if !self.args.long && !self.args.recursive && !self.args.json {
                    self.name(&name)?;
                    continue;
                }
                let entry = self.fs.node(ino)?;
                self.line(&full, &name, &entry)?;
                if self.args.recursive && entry.stat.file_type == FileType::Directory {
                    below.push((full, entry));
                }
            }
            if self.titles && !self.args.json {
                write_out(b"\n")?;
            }
            todo.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// Prints a name as it is for programs, escaped for a terminal.
    fn name(&self, name: &[u8]) -> Result<()> {
        if self.terminal {
            return write_out(format!("{}\n", Display(name)).as_bytes());
        }
        write_out(&[name, b"\n"].concat())
    }

    fn line(&self, path: &[u8], name: &[u8], node: &Node) -> Result<()> {
        if self.args.json {
            return write_out(format!("{}\n", node_json(self.fs, path, node)?).as_bytes());
        }
        if !self.args.long {
            return self.name(name);
        }
        let stat = &node.stat;
        let size = match stat.file_type {
            FileType::CharDevice(device) | FileType::BlockDevice(device) => {
                format!("{}, {}", device.major, device.minor)
            }
            _ => stat.size.to_string(),
        };
        let time = time_text(stat.mtime);
        let mut line =
            format!("{} {:3} {:>5} {:>5} {size:>11} {} ", mode_text(node), stat.links, stat.uid, stat.gid, &time[..19]);
        line.push_str(&Display(name).to_string());
        if stat.file_type == FileType::Symlink {
            line.push_str(&format!(" -> {}", Display(&self.fs.read_link(node)?)));
        }
        write_out(format!("{line}\n").as_bytes())
    }
}

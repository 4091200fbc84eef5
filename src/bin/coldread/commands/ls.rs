//! `coldread ls`.

use std::cmp::Reverse;

use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::fs::ext4::walk::DirectoryWalk;
use coldpress::fs::path::Display;
use coldpress::fs::tree::Timestamp;
use coldpress::{Error, Result};

use super::stat::node_json;
use super::{bytes, is_terminal, mode_text, open, shown_path, tell_fetched, time_text};
use crate::args::{Cli, LsArgs};
use crate::human::human;
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;

pub fn run(cli: &Cli, args: &LsArgs) -> CommandResult {
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    let titles = args.paths.len() > 1 || args.recursive;
    let listed = args.paths.iter().try_for_each(|path| {
        let node = fs.lookup(bytes(path), true)?;
        let listing = Listing { fs: &fs, args, titles, terminal: is_terminal() };
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
                print(format!("{}:\n", Display(&path)).as_bytes())?;
            }
            let mut below = Vec::new();
            if self.needs_inodes() {
                for (name, entry) in self.entries(&node)? {
                    let full = [path.trim_ascii_end().strip_suffix(b"/").unwrap_or(&path), b"/", &name].concat();
                    self.line(&full, &name, &entry)?;
                    let is_below = name != b"." && name != b"..";
                    if self.args.recursive && is_below && entry.stat.file_type == FileType::Directory {
                        below.push((full, entry));
                    }
                }
            } else {
                self.names(&node)?.iter().try_for_each(|name| self.name(name))?;
            }
            if self.titles && !self.args.json {
                print(b"\n")?;
            }
            todo.extend(below.into_iter().rev());
        }
        Ok(())
    }

    /// Whether more than a directory's names is wanted. Their inodes are elsewhere, and would be fetched for nothing.
    fn needs_inodes(&self) -> bool {
        let args = self.args;
        args.long || args.recursive || args.json || args.by_size || args.by_time
    }

    fn names(&self, node: &Node) -> Result<Vec<Vec<u8>>> {
        let dots: &[&[u8]] = if self.args.all { &[b".", b".."] } else { &[] };
        let mut names: Vec<Vec<u8>> = dots.iter().map(|name| name.to_vec()).collect();
        names.extend(self.fs.read_dir(node)?.into_iter().map(|(name, _)| name));
        names.sort();
        if self.args.reverse {
            names.reverse();
        }
        Ok(names)
    }

    /// The entries of a directory, sorted; those that are alike by name.
    fn entries(&self, node: &Node) -> Result<Vec<(Vec<u8>, Node)>> {
        let mut entries = Vec::new();
        if self.args.all {
            entries.push((b".".to_vec(), node.clone()));
            entries.push((b"..".to_vec(), self.fs.parent(node)?));
        }
        for (name, ino) in self.fs.read_dir(node)? {
            entries.push((name, self.fs.node(ino)?));
        }
        entries.sort_by(|(a_name, a), (b_name, b)| {
            let key = |node: &Node| {
                let size = if self.args.by_size { node.stat.size } else { 0 };
                let time = if self.args.by_time { node.stat.mtime } else { Timestamp::default() };
                Reverse((size, time))
            };
            key(a).cmp(&key(b)).then_with(|| a_name.cmp(b_name))
        });
        if self.args.reverse {
            entries.reverse();
        }
        Ok(entries)
    }

    /// Prints a name as it is for programs, escaped for a terminal.
    fn name(&self, name: &[u8]) -> Result<()> {
        print(&[&*shown_path(name, self.terminal), b"\n"].concat())
    }

    fn line(&self, path: &[u8], name: &[u8], node: &Node) -> Result<()> {
        if self.args.json {
            return print(format!("{}\n", node_json(self.fs, path, node)?).as_bytes());
        }
        if !self.args.long {
            return self.name(name);
        }
        let stat = &node.stat;
        let size = match stat.file_type {
            FileType::CharDevice(device) | FileType::BlockDevice(device) => {
                format!("{}, {}", device.major, device.minor)
            }
            _ if self.args.human_readable => human(stat.size),
            _ => stat.size.to_string(),
        };
        let time = time_text(stat.mtime);
        let mut line =
            format!("{} {:3} {:>5} {:>5} {size:>11} {} ", mode_text(node), stat.links, stat.uid, stat.gid, &time[..19]);
        line.push_str(&Display(name).to_string());
        if stat.file_type == FileType::Symlink {
            line.push_str(&format!(" -> {}", Display(&self.fs.read_link(node)?)));
        }
        print(format!("{line}\n").as_bytes())
    }
}

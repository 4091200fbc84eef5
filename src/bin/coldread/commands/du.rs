//! `coldread du`.

use std::collections::BTreeSet;

use coldpress::Result;
use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::fs::path::Display;
use serde_json::json;

use super::{bytes, is_terminal, open, shown_path, tell_fetched};
use crate::args::{Cli, DuArgs};
use crate::human::human;
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;
use crate::tree_walk::{Entry, Moment, walk};

pub fn run(cli: &Cli, args: &DuArgs) -> CommandResult {
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    // A file counts once, also below two of the paths.
    let mut counted = BTreeSet::new();
    let done = args.paths.iter().try_for_each(|path| {
        let node = fs.lookup(bytes(path), false)?;
        let mut sums = vec![0];
        walk(&fs, bytes(path), &node, usize::MAX, &mut |moment, entry| {
            let stat = &entry.node.stat;
            let is_directory = stat.file_type == FileType::Directory;
            if is_directory && moment == Moment::Before {
                sums.push(0);
                return Ok(());
            }
            let size = match moment {
                Moment::After => sums.pop().expect("it was entered"),
                Moment::Before if stat.links > 1 && !counted.insert(stat.ino) => return Ok(()),
                Moment::Before => apparent(entry.node),
            };
            *sums.last_mut().expect("there is that of all") += size;
            if is_shown(args, entry, is_directory) { line(args, entry.path, size) } else { Ok(()) }
        })
    });
    tell_fetched(cli, &device);
    Ok(done?)
}

/// Returns what a file counts for: as for coreutils since 9.2, only files and symlinks have a size.
fn apparent(node: &Node) -> u64 {
    match node.stat.file_type {
        FileType::File | FileType::Symlink => node.stat.size,
        _ => 0,
    }
}

fn is_shown(args: &DuArgs, entry: &Entry<'_>, is_directory: bool) -> bool {
    let max_depth = if args.summarize { 0 } else { args.max_depth.unwrap_or(usize::MAX) };
    entry.depth == 0 || (entry.depth <= max_depth && (is_directory || args.all))
}

fn line(args: &DuArgs, path: &[u8], size: u64) -> Result<()> {
    if args.json {
        return print(format!("{}\n", json!({ "path": Display(path).to_string(), "bytes": size })).as_bytes());
    }
    let size = match (args.human_readable, args.bytes) {
        (true, _) => human(size),
        (_, true) => size.to_string(),
        _ => size.div_ceil(1024).to_string(),
    };
    print(&[size.as_bytes(), b"\t", &*shown_path(path, is_terminal()), b"\n"].concat())
}

//! `coldread find`.

use std::ffi::OsString;

use coldpress::fs::ext4::read::Ext4;

use super::stat::node_json;
use super::{bytes, is_terminal, open, shown_path, tell_fetched, type_letter};
use crate::args::{Cli, FindArgs, TypeLetter};
use crate::glob;
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;
use crate::tree_walk::{Entry, Moment, walk};

pub fn run(cli: &Cli, args: &FindArgs) -> CommandResult {
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    // What follows a NUL reads no escapes.
    let terminal = is_terminal() && !args.print0;
    let done = args.paths.iter().try_for_each(|path| {
        let node = fs.lookup(bytes(path), false)?;
        walk(&fs, bytes(path), &node, args.maxdepth.unwrap_or(usize::MAX), &mut |moment, entry| {
            if moment == Moment::After || !is_wanted(args, entry) {
                return Ok(());
            }
            if args.json {
                return print(format!("{}\n", node_json(&fs, entry.path, entry.node)?).as_bytes());
            }
            let end: &[u8] = if args.print0 { b"\0" } else { b"\n" };
            print(&[&*shown_path(entry.path, terminal), end].concat())
        })
    });
    tell_fetched(cli, &device);
    Ok(done?)
}

fn is_wanted(args: &FindArgs, entry: &Entry<'_>) -> bool {
    let is_match =
        |pattern: &Option<OsString>, text| pattern.as_ref().is_none_or(|pattern| glob::matches(bytes(pattern), text));
    let letter = match type_letter(entry.node.stat.file_type) {
        '-' => 'f',
        letter => letter,
    };
    is_match(&args.name, last_component(entry.path))
        && is_match(&args.path, entry.path)
        && (args.types.is_empty() || args.types.contains(&TypeLetter(letter)))
        && args.size.is_none_or(|size| size.holds(entry.node.stat.size))
}

/// Returns what `--name` is compared with: of `/` that is `/`, of `etc/` it is `etc`.
fn last_component(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(path.len().min(1), |last| last + 1);
    let path = &path[..end];
    if path == b"/" { path } else { path.rsplit(|byte| *byte == b'/').next().unwrap_or(path) }
}

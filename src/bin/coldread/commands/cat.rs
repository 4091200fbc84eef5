//! `coldread cat`.

use coldpress::fs::ext4::read::{Ext4, FileType, Node};
use coldpress::{CHUNK_SIZE, Error, ErrorKind, Result};

use super::{bytes, open, tell_fetched};
use crate::args::{CatArgs, Cli};
use crate::shared::failure::CommandResult;
use crate::shared::stdout::print;

pub fn run(cli: &Cli, args: &CatArgs) -> CommandResult {
    let device = open(&args.source)?;
    let fs = Ext4::open(&device)?;
    let written = args.paths.iter().try_for_each(|path| {
        let node = fs.lookup(bytes(path), true)?;
        let found = node.stat.file_type;
        if found != FileType::File {
            let message = format!("{}: a {}, expected a regular file", path.display(), found.name());
            return Err(Error::new(ErrorKind::Input, message));
        }
        each_part(&fs, &node, &mut |_, part| print(part)).map_err(|error| error.within(path.display()))
    });
    tell_fetched(cli, &device);
    Ok(written?)
}

/// Calls `visit` with the file's bytes, part by part, and the offset of each.
pub fn each_part(fs: &Ext4<'_>, node: &Node, visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>) -> Result<()> {
    let mut buf = vec![0; CHUNK_SIZE as usize];
    let mut at = 0;
    loop {
        let n = fs.read(node, at, &mut buf)?;
        if n == 0 {
            return Ok(());
        }
        visit(at, &buf[..n])?;
        at += n as u64;
    }
}

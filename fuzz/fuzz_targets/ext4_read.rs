//! The ext4 reader on a small device whose bytes the input overwrites; checksums count as true under `cfg(fuzzing)`.
#![no_main]

use std::sync::LazyLock;

use coldpress::convert::flatten::{self, LayerTree};
use coldpress::convert::tar::TarReader;
use coldpress::crypto::packed::trimmed;
use coldpress::fs::BlockDevice;
use coldpress::fs::ext4::layout::Layout;
use coldpress::fs::ext4::read::{Ext4, FileType};
use coldpress::{Error, ErrorKind, Result};
use libfuzzer_sys::fuzz_target;

/// The metadata of a made image, by chunk: the only bytes that are not zero.
static METADATA: LazyLock<(u64, Vec<(u64, Vec<u8>)>)> = LazyLock::new(|| {
    let tar = include_bytes!("../seed.tar");
    let (mut reader, mut layer, mut tree) = (TarReader::new(&tar[..]), LayerTree::default(), flatten::empty());
    while let Some(entry) = reader.next_entry().expect("the seed is a tar") {
        layer.apply(entry).expect("the seed is legal");
    }
    flatten::merge(&mut tree, layer).expect("the seed is legal");
    let layout = Layout::new(&tree, 0).expect("the seed is small");
    let mut chunks = Vec::new();
    let first = layout.metadata(&mut |index, chunk| {
        chunks.push((index.byte_offset(), trimmed(chunk).to_vec()));
        Ok(())
    });
    chunks.push((0, trimmed(&first.expect("metadata is made without I/O")).to_vec()));
    (layout.device_bytes(), chunks)
});

struct Device(Vec<(u64, Vec<u8>)>);

impl BlockDevice for Device {
    fn size(&self) -> u64 {
        METADATA.0
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > self.size()) {
            return Err(Error::new(ErrorKind::Input, "past the end"));
        }
        buf.fill(0);
        let end = offset + buf.len() as u64;
        for (start, chunk) in &self.0 {
            let (from, to) = (offset.max(*start), end.min(start + chunk.len() as u64));
            if from < to {
                let part = &chunk[(from - start) as usize..(to - start) as usize];
                buf[(from - offset) as usize..(to - offset) as usize].copy_from_slice(part);
            }
        }
        Ok(())
    }
}

fuzz_target!(|bytes: &[u8]| {
    // Each six bytes overwrite one: which chunk, where in it, with what.
    let mut chunks = METADATA.1.clone();
    for patch in bytes.chunks_exact(6) {
        let which = usize::from(patch[0]) % chunks.len();
        let chunk = &mut chunks[which].1;
        let at = u32::from_le_bytes([patch[1], patch[2], patch[3], 0]) as usize % chunk.len();
        chunk[at] = patch[4] ^ patch[5];
    }
    let device = Device(chunks);
    let Ok(fs) = Ext4::open(&device) else { return };
    let Ok(root) = fs.lookup(b"/", true) else { return };
    let mut todo = vec![root];
    let mut buf = vec![0; 8192];
    for _ in 0..64 {
        let Some(node) = todo.pop() else { break };
        let _ = fs.xattrs(&node);
        match node.stat.file_type {
            FileType::Directory => {
                let entries = fs.read_dir(&node).unwrap_or_default();
                todo.extend(entries.into_iter().filter_map(|(_, ino)| fs.node(ino).ok()));
            }
            FileType::Symlink => _ = fs.read_link(&node),
            _ => _ = fs.read(&node, node.stat.size.saturating_sub(100), &mut buf),
        }
    }
    let _ = fs.lookup(b"dir/link/sub/file", true);
});

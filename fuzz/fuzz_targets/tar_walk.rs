//! A layer's tar stream, applied and merged; two layers, so that the second meets what the first left.
#![no_main]

use coldpress::convert::flatten::{self, LayerTree};
use coldpress::convert::tar::TarReader;
use coldpress::fs::ext4::layout::Layout;
use libfuzzer_sys::fuzz_target;

fn layer(bytes: &[u8]) -> Option<LayerTree> {
    let (mut reader, mut tree) = (TarReader::new(bytes), LayerTree::default());
    while let Some(entry) = reader.next_entry().ok()? {
        tree.apply(entry).ok()?;
    }
    Some(tree)
}

fuzz_target!(|bytes: &[u8]| {
    let mut tree = flatten::empty();
    for part in [bytes, &bytes[bytes.len() / 1024 * 512..]] {
        let Some(layer) = layer(part) else { return };
        if flatten::merge(&mut tree, layer).is_err() {
            return;
        }
    }
    // What flattening lets through must be planned and written, or refused.
    if let Ok(layout) = Layout::new(&tree, 0) {
        if layout.device_bytes() < 1 << 30 {
            layout.metadata(&mut |_, _| Ok(())).expect("metadata is made without I/O");
        }
    }
});

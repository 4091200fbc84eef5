//! A layer's tree as a cache keeps it. An even first byte: bytes that may be one, which must be refused or merged and planned without
//! harm; an odd one: a layer's tar, whose tree must come back as it was.
#![no_main]

use coldpress::convert::flatten::{self, LayerTree};
use coldpress::convert::tar::TarReader;
use coldpress::fs::ext4::layout::Layout;
use libfuzzer_sys::fuzz_target;

fn encoded(tree: &LayerTree) -> Vec<u8> {
    let mut out = Vec::new();
    tree.encode(&mut out).expect("a vector takes all");
    out
}

fn layer(bytes: &[u8]) -> Option<LayerTree> {
    let (mut reader, mut tree) = (TarReader::new(bytes), LayerTree::default());
    while let Some(entry) = reader.next_entry().ok()? {
        tree.apply(entry).ok()?;
    }
    Some(tree)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, mut bytes)) = bytes.split_first() else { return };
    let decoded = match kind % 2 {
        0 => LayerTree::decode(&mut bytes),
        _ => {
            let Some(tree) = layer(bytes) else { return };
            let kept = encoded(&tree);
            let decoded = LayerTree::decode(&mut &kept[..]).expect("what is encoded is decoded");
            assert!(encoded(&decoded) == kept);
            Ok(decoded)
        }
    };
    let Ok(decoded) = decoded else { return };
    let mut tree = flatten::empty();
    if flatten::merge(&mut tree, decoded).is_err() {
        return;
    }
    if let Ok(layout) = Layout::new(&tree, 0) {
        if layout.device_bytes() < 1 << 30 {
            layout.metadata(&mut |_, _| Ok(())).expect("metadata is made without I/O");
        }
    }
});

//! The half-MD4 hash that orders the names in an htree directory.
//!
//! It is part of the on-disk format (kernel documentation, "Hash Tree Directories") and has no security function. Names are taken
//! as signed bytes (`EXT2_FLAGS_SIGNED_HASH`), as by mke2fs on x86: some readers support nothing else. The tests compare it with
//! debugfs `dx_hash`.

use super::spec::HASH_SEED;

/// The hash that the kernel reserves for the end of the directory.
const END: u32 = 0x7FFF_FFFF << 1;

/// Returns the hash of an entry's name; its lowest bit is always 0.
pub(super) fn hash(name: &[u8]) -> u32 {
    let mut state = HASH_SEED;
    let mut rest = name;
    while !rest.is_empty() {
        transform(&mut state, &words(rest));
        rest = &rest[rest.len().min(32)..];
    }
    match state[1] & !1 {
        END => END - 2,
        hash => hash,
    }
}

/// Returns the first 32 bytes of `rest` as eight words, padded with the length of `rest`.
fn words(rest: &[u8]) -> [u32; 8] {
    let length = super::spec::small(rest.len()) & 0xFF;
    let pad = length * 0x0101_0101;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(rest.chunks(4)) {
        *word = bytes.iter().fold(pad, |value, &byte| (value << 8).wrapping_add_signed(byte.cast_signed().into()));
    }
    words
}

fn transform(state: &mut [u32; 4], x: &[u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    const ROUNDS: [(Mix, u32, [u32; 4], [usize; 8]); 3] = [
        (|x, y, z| z ^ (x & (y ^ z)), 0, [3, 7, 11, 19], [0, 1, 2, 3, 4, 5, 6, 7]),
        (|x, y, z| (x & y).wrapping_add((x ^ y) & z), 0x5A82_7999, [3, 5, 9, 13], [1, 3, 5, 7, 0, 2, 4, 6]),
        (|x, y, z| x ^ y ^ z, 0x6ED9_EBA1, [3, 9, 11, 15], [3, 7, 2, 6, 1, 5, 0, 4]),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, shifts, order) in ROUNDS {
        for (step, &index) in order.iter().enumerate() {
            let sum = a.wrapping_add(mix(b, c, d)).wrapping_add(x[index]).wrapping_add(constant);
            (a, b, c, d) = (d, sum.rotate_left(shifts[step % 4]), b, c);
        }
    }
    for (word, add) in state.iter_mut().zip([a, b, c, d]) {
        *word = word.wrapping_add(add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    /// debugfs 1.47 (`dx_hash -h half_md4 -s SEED NAME`) is the judge; it takes names as signed bytes, too.
    #[test]
    fn agrees_with_debugfs() {
        let words: Vec<u8> = HASH_SEED.iter().flat_map(|word| word.to_le_bytes()).collect();
        let hex = crate::digest::to_hex(&words);
        let seed = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]);
        for name in [
            "a",
            "hello",
            "four",
            "a-name-of-exactly-32-bytes-1234.",
            "x".repeat(33).as_str(),
            "y".repeat(255).as_str(),
        ] {
            let request = format!("dx_hash -h half_md4 -s {seed} {name}");
            let out = Command::new("debugfs")
                .args(["-R", &request])
                .output()
                .expect("debugfs (Debian's e2fsprogs) is installed");
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            let want = format!("0x{:08x}", hash(name.as_bytes()));
            assert!(text.contains(&want), "{name}: want {want} in {text}{}", String::from_utf8_lossy(&out.stderr));
        }
    }
}

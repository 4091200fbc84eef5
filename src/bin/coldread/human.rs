//! Sizes as `ls -h` and `du -h` print them: powers of 1024, rounded up, with one decimal below 10.

/// Returns `bytes` for people: `999`, `1.0K`, `9.8M`, `17G`.
pub fn human(bytes: u64) -> String {
    if bytes < 1024 {
        return bytes.to_string();
    }
    let mut unit = 1_u128 << 10;
    for letter in ['K', 'M', 'G', 'T', 'P', 'E'] {
        let bytes = u128::from(bytes);
        let (tenths, whole) = ((bytes * 10).div_ceil(unit), bytes.div_ceil(unit));
        if tenths < 100 {
            return format!("{}.{}{letter}", tenths / 10, tenths % 10);
        }
        if whole < 1024 || letter == 'E' {
            return format!("{whole}{letter}");
        }
        unit <<= 10;
    }
    unreachable!("2^64 bytes are 16 E")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_coreutils() {
        // Checked: ls 9.1.
        for (bytes, text) in [
            (0, "0"),
            (1023, "1023"),
            (1024, "1.0K"),
            (1025, "1.1K"),
            (10_138, "10K"),
            (10_137, "9.9K"),
            (1_047_552, "1023K"),
            (1_047_553, "1.0M"),
            (u64::MAX, "16E"),
        ] {
            assert_eq!(human(bytes), text, "{bytes}");
        }
    }
}

//! Sizes as people write them: bytes, or KiB, MiB, GiB, TiB.

use std::str::FromStr;

/// The units, the largest first.
pub const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("`{text}` is not a size; use a number of bytes, or one with KiB, MiB, GiB or TiB");
        let unit = UNITS.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
        let (number, bytes) = unit.unwrap_or((text, 1));
        let number: u64 = number.trim().parse().map_err(|_| error())?;
        number.checked_mul(bytes).map(Self).ok_or_else(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!("16MiB".parse(), Ok(Size(16 << 20)));
        assert_eq!("4096".parse(), Ok(Size(4096)));
        assert_eq!("1 GiB".parse(), Ok(Size(1 << 30)));
        for bad in ["", "MiB", "-1", "1.5GiB", "1MB", "99999999999TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}

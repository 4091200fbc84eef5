//! Sizes as people write them: bytes, K M G T (powers of 1024), KB MB GB TB (powers of 1000), KiB MiB GiB TiB.

use std::str::FromStr;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("`{text}` is not a size; use a number of bytes, or a size such as 10M, 1.5GiB or 10MB");
        let digits =
            text.trim().find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.trim().len());
        let (number, unit) = text.trim().split_at(digits);
        let unit = bytes_of(unit.trim()).ok_or_else(error)?;
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() || number.ends_with('.') || fraction.len() > 9 || (!fraction.is_empty() && unit == 1) {
            return Err(error());
        }
        let whole: u64 = whole.parse().map_err(|_| error())?;
        // Nine digits of 10^-9 times a unit of less than 2^41 fit in 128 bits.
        let billionths: u32 = format!("{fraction:0<9}").parse().map_err(|_| error())?;
        let rest = u128::from(billionths) * u128::from(unit) / 1_000_000_000;
        let bytes = u128::from(whole) * u128::from(unit) + rest;
        u64::try_from(bytes).map(Self).map_err(|_| error())
    }
}

/// Returns how many bytes a unit has; the case of its letters does not matter.
fn bytes_of(unit: &str) -> Option<u64> {
    let unit = unit.to_ascii_lowercase();
    let power =
        |unit: &str| Some(1 + u32::try_from(["k", "m", "g", "t"].iter().position(|letter| *letter == unit)?).ok()?);
    match (unit.strip_suffix("ib"), unit.strip_suffix('b')) {
        (_, Some("")) => Some(1),
        (Some(letter), _) => Some(1024_u64.pow(power(letter)?)),
        (None, Some(letter)) => Some(1000_u64.pow(power(letter)?)),
        (None, None) if unit.is_empty() => Some(1),
        (None, None) => Some(1024_u64.pow(power(&unit)?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("4096", 4096),
            ("0", 0),
            ("100B", 100),
            ("10K", 10 << 10),
            ("10k", 10 << 10),
            ("10M", 10 << 20),
            ("10MB", 10_000_000),
            ("16MiB", 16 << 20),
            ("1 GiB", 1 << 30),
            ("1.5GiB", 3 << 29),
            ("0.1G", 107_374_182),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for bad in ["", "MiB", "-1", "1.", ".5G", "1.5", "1.5.5G", "1XB", "1iB", "1 M B", "99999999999TiB"] {
            assert!(bad.parse::<Size>().is_err(), "{bad}");
        }
    }
}

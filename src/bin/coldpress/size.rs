//! Sizes as people read them, and shares.

use std::str::FromStr;

use crate::shared::size::UNITS;

/// A share of 2^32, written in percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(pub u64);

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error =
            || format!("`{text}` is not a share; use a number above 0 and up to 100 with %, such as 1% or 0.5%");
        let percent: f64 = text.strip_suffix('%').ok_or_else(error)?.trim().parse().map_err(|_| error())?;
        if !(percent > 0.0 && percent <= 100.0) {
            return Err(error());
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 2^32")]
        let share = (percent / 100.0 * 4_294_967_296.0) as u64;
        Ok(Self(share.max(1)))
    }
}

/// `bytes` with one digit behind the point, in the largest unit that leaves at least 1.
pub fn show(bytes: u64) -> String {
    match UNITS.iter().rev().take_while(|(_, unit)| bytes >= *unit).last() {
        // Tenths by whole numbers, rounded.
        Some((name, unit)) => {
            let tenths = (u128::from(bytes) * 10 + u128::from(unit / 2)) / u128::from(*unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown() {
        assert_eq!([show(0), show(1023), show(1536), show(268_435_456)], ["0 B", "1023 B", "1.5 KiB", "256.0 MiB"]);
    }
}

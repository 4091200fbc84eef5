//! Shares of a whole, and sizes as `coldpress` prints them.

use std::str::FromStr;

pub use coldpress::printable::size as show;

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

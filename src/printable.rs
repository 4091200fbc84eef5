//! Text from images, servers and users, as it may be printed: no character of it moves the cursor, hides, or reorders what
//! stands around it. Every program and message uses this one rule (docs/reference/cli.md, "Names in messages").

use std::fmt::{self, Write};

/// Returns whether `c` is escaped where it is printed: the control characters C0, DEL and C1, and what Unicode formats text with
/// and does not show: bidirectional controls, line and paragraph separators, zero-width and invisible characters, tags.
#[must_use]
pub fn is_escaped(c: char) -> bool {
    c.is_control()
        || matches!(
            c,
            '\u{AD}'
                | '\u{61C}'
                | '\u{180E}'
                | '\u{200B}'..='\u{200F}'
                | '\u{2028}'..='\u{202E}'
                | '\u{2060}'..='\u{206F}'
                | '\u{FEFF}'
                | '\u{FFF9}'..='\u{FFFB}'
                | '\u{E0000}'..='\u{E007F}'
        )
}

/// One line of text: characters that [`is_escaped`] names are written as Rust writes them, `\n` or `\u{202e}`.
#[derive(Clone, Copy)]
pub struct Printable<'a>(pub &'a str);

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|c| match is_escaped(c) {
            true => write!(f, "{}", c.escape_default()),
            false => f.write_char(c),
        })
    }
}

/// Returns `text` with what [`is_escaped`] names escaped, except the ends of its lines.
#[must_use]
pub fn lines(text: &str) -> String {
    text.split_inclusive('\n').fold(String::with_capacity(text.len()), |mut out, line| {
        let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
        let _ = write!(out, "{}{end}", Printable(line));
        out
    })
}

/// Returns `bytes` with one decimal in the largest unit that gives at least 1, such as `1.5 KiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)].map(|(name, power)| (name, 1u64 << power));
    match units.into_iter().find(|(_, unit)| bytes >= *unit) {
        // Tenths by whole numbers, rounded.
        Some((name, unit)) => {
            let tenths = (u128::from(bytes) * 10 + u128::from(unit / 2)) / u128::from(unit);
            format!("{}.{} {name}", tenths / 10, tenths % 10)
        }
        None => format!("{bytes} B"),
    }
}

/// Returns a JSON text of the same meaning in which no string holds a character that [`is_escaped`] names.
#[must_use]
pub fn json(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        if is_escaped(c) && c != '\n' {
            c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                let _ = write!(out, "\\u{unit:04x}");
            });
        } else {
            out.push(c);
        }
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown() {
        assert_eq!([size(0), size(1023), size(1536), size(268_435_456)], ["0 B", "1023 B", "1.5 KiB", "256.0 MiB"]);
    }

    #[test]
    fn what_a_terminal_would_act_on_or_hide_is_escaped_and_nothing_else() {
        let escaped = [
            "\0\u{7}\u{1b}\u{7f}\u{9b}\u{85}",
            "\u{ad}\u{61c}\u{180e}\u{200b}\u{200c}\u{200d}\u{200e}\u{200f}",
            "\u{2028}\u{2029}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}",
            "\u{2060}\u{2066}\u{2067}\u{2068}\u{2069}\u{206f}\u{feff}\u{fff9}\u{fffb}\u{e0000}\u{e0041}\u{e007f}",
        ];
        for c in escaped.iter().flat_map(|text| text.chars()) {
            let shown = Printable(&c.to_string()).to_string();
            assert!(shown.starts_with('\\') && shown.is_ascii(), "{shown}");
        }
        let kept = "a b~\u{a0}ü é ع 日本 \u{2010}\u{202f}\u{2070}\u{fffd}😀 \\";
        assert_eq!(Printable(kept).to_string(), kept);
        assert_eq!(Printable("a\u{202e}b\n").to_string(), "a\\u{202e}b\\n");
    }

    #[test]
    fn lines_stay_lines_and_json_keeps_its_meaning() {
        assert_eq!(lines("a\u{1b}[2J\nb\r\n\nc"), "a\\u{1b}[2J\nb\\r\n\nc");
        let value = serde_json::json!({ "a": "x\u{202e}\u{9b}\u{e0041}\n\"" });
        let text = json(&format!("{value:#}"));
        assert!(text.chars().all(|c| c == '\n' || !is_escaped(c)), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }
}

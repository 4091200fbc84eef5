//! Text in pictures: escaped for XML and HTML, measured, and cut to a width.
//!
//! Readers have different fonts. Widths are those of `DejaVu Sans`, which is wider than most, and never too small for it.

use crate::printable::is_escaped;

/// Widths of the characters from U+0020 to U+007E in hundredths of the font's size (checked: DejaVu Sans 2.37).
const WIDTHS: [u8; 95] = [
    32, 41, 46, 84, 64, 96, 78, 28, 40, 40, 50, 84, 32, 37, 32, 34, 64, 64, 64, 64, 64, 64, 64, 64, 64, 64, 34, 34, 84,
    84, 84, 54, 100, 69, 69, 70, 78, 64, 58, 78, 76, 30, 30, 66, 56, 87, 75, 79, 61, 79, 70, 64, 62, 74, 69, 99, 69,
    62, 69, 40, 34, 40, 84, 50, 50, 62, 64, 55, 64, 62, 36, 64, 64, 28, 28, 58, 28, 98, 64, 62, 64, 64, 42, 53, 40, 64,
    60, 82, 60, 60, 53, 64, 34, 64, 84,
];
/// The same of all other characters: a full-width one or an emoji.
const OTHER: u8 = 130;
/// How much wider bold text is.
const BOLD: f64 = 1.27;

/// Returns `text` as the content of an element or of a quoted attribute. What would not be visible is escaped as in messages, so that
/// no character is left that XML forbids.
#[must_use]
pub fn escape(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{FFFE}' | '\u{FFFF}' => out.extend(c.escape_default()),
            c if is_escaped(c) => out.extend(c.escape_default()),
            c => out.push(c),
        }
        out
    })
}

/// Returns the most that `text` is wide at `size`, in the unit of the size.
#[must_use]
pub fn width(text: &str, size: f64, is_bold: bool) -> f64 {
    let hundredths: u32 = text.chars().map(char_width).sum();
    f64::from(hundredths) / 100.0 * size * if is_bold { BOLD } else { 1.0 }
}

fn char_width(c: char) -> u32 {
    match c {
        // These are written as an escape of up to ten characters.
        c if is_escaped(c) => 640,
        c => {
            let ascii = (u32::from(c)).checked_sub(0x20).and_then(|at| WIDTHS.get(at as usize));
            u32::from(*ascii.unwrap_or(&OTHER))
        }
    }
}

/// Returns `text`, with an ellipsis for its middle if it is wider than `most`: names differ at their ends.
#[must_use]
pub fn fit(text: &str, size: f64, is_bold: bool, most: f64) -> String {
    if width(text, size, is_bold) <= most {
        return text.to_owned();
    }
    let chars: Vec<char> = text.chars().collect();
    let shortened = |kept: usize| {
        let head = kept.div_ceil(3);
        let tail = kept - head;
        chars[..head].iter().chain(['…'].iter()).chain(&chars[chars.len() - tail..]).collect::<String>()
    };
    let (mut fits, mut too_long) = (0, chars.len());
    while too_long - fits > 1 {
        let middle = usize::midpoint(fits, too_long);
        if width(&shortened(middle), size, is_bold) <= most {
            fits = middle;
        } else {
            too_long = middle;
        }
    }
    shortened(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_hostile_is_left() {
        let hostile = "<script>alert('1')</script>&\"\u{0}\u{1b}]0;\u{202e}\u{ffff}\n";
        let escaped = escape(hostile);
        assert_eq!(
            escaped,
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\\u{0}\\u{1b}]0;\\u{202e}\\u{ffff}\\n"
        );
    }

    #[test]
    fn what_is_too_wide_loses_its_middle() {
        assert_eq!(fit("short", 12.0, false, 100.0), "short");
        let cut = fit("/usr/lib/python3/dist-packages/a/very/long/path/to/module.so", 12.0, false, 200.0);
        assert!(cut.starts_with("/usr") && cut.ends_with("module.so") && cut.contains('…'), "{cut}");
        assert!(width(&cut, 12.0, false) <= 200.0);
        assert_eq!(fit("anything", 12.0, false, 1.0), "…");
        let wide = fit(&"漢".repeat(100), 12.0, true, 150.0);
        assert!(wide.chars().count() < 10, "{wide}");
    }
}

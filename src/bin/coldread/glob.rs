//! Patterns as fnmatch(3) matches them in the C locale, on bytes: `*`, `?`, `[a-z]`, `[!a-z]`, `[[:digit:]]` and `\c`.
//!
//! As for `find -name` and `find -path`, no character is special in the text: `*` matches `/` and a leading dot.

/// Returns whether the whole of `text` matches `pattern`, in time proportional to the product of their lengths at most.
pub fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut from) = (0, 0);
    // Where the last star is, and the text that it is tried with.
    let mut star = None;
    loop {
        let step = match pattern.get(at) {
            None if from == text.len() => return true,
            None => None,
            Some(b'*') => {
                star = Some((at + 1, from));
                at += 1;
                continue;
            }
            Some(_) => text.get(from).and_then(|byte| one(&pattern[at..], *byte)),
        };
        match (step, star) {
            (Some(length), _) => (at, from) = (at + length, from + 1),
            (None, Some((behind, tried))) if tried < text.len() => {
                star = Some((behind, tried + 1));
                (at, from) = (behind, tried + 1);
            }
            _ => return false,
        }
    }
}

/// Returns how much of `pattern` stands for `byte`, if its beginning matches it.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern {
        [b'?', ..] => Some(1),
        [b'[', rest @ ..] => match bracket(rest, byte) {
            Some((true, length)) => Some(1 + length),
            Some((false, _)) => None,
            // Without an end it is an ordinary character.
            None => (byte == b'[').then_some(1),
        },
        [b'\\', escaped, ..] => (*escaped == byte).then_some(2),
        // A backslash at the end matches nothing (checked: glibc 2.36).
        [b'\\'] => None,
        [literal, ..] => (*literal == byte).then_some(1),
        [] => None,
    }
}

/// Returns whether `byte` is in the bracket expression whose rest this is, and the rest's length up to and with `]`; `None` where that is
/// missing.
fn bracket(rest: &[u8], byte: u8) -> Option<(bool, usize)> {
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    let start = usize::from(negated);
    let (mut at, mut found) = (start, false);
    loop {
        match &rest[at.min(rest.len())..] {
            [] => return None,
            [b']', ..] if at > start => return Some((found != negated, at + 1)),
            [b'[', b':', class @ ..] if class_length(class).is_some() => {
                let length = class_length(class)?;
                found |= is_in_class(&class[..length], byte);
                at += length + 4;
            }
            _ => {
                let (low, behind) = member(rest, at)?;
                match rest.get(behind..) {
                    Some([b'-', next, ..]) if *next != b']' => {
                        let (high, end) = member(rest, behind + 1)?;
                        found |= (low..=high).contains(&byte);
                        at = end;
                    }
                    _ => {
                        found |= low == byte;
                        at = behind;
                    }
                }
            }
        }
    }
}

/// Returns the character at `at` of a bracket expression, which may be escaped, and the place behind it.
fn member(rest: &[u8], at: usize) -> Option<(u8, usize)> {
    match rest.get(at..)? {
        [b'\\', escaped, ..] => Some((*escaped, at + 2)),
        [byte, ..] => Some((*byte, at + 1)),
        [] => None,
    }
}

/// Returns the length of a class's name, if `:]` follows it.
fn class_length(class: &[u8]) -> Option<usize> {
    let length = class.iter().take_while(|byte| byte.is_ascii_lowercase()).count();
    class[length..].starts_with(b":]").then_some(length)
}

fn is_in_class(name: &[u8], byte: u8) -> bool {
    match name {
        b"alpha" => byte.is_ascii_alphabetic(),
        b"digit" => byte.is_ascii_digit(),
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"upper" => byte.is_ascii_uppercase(),
        b"lower" => byte.is_ascii_lowercase(),
        b"space" => byte.is_ascii_whitespace() || byte == 0x0B,
        b"blank" => byte == b' ' || byte == b'\t',
        b"punct" => byte.is_ascii_punctuation(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        b"cntrl" => byte.is_ascii_control(),
        b"graph" => byte.is_ascii_graphic(),
        b"print" => byte == b' ' || byte.is_ascii_graphic(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_whole_texts() {
        for (pattern, text, wanted) in [
            ("*", "", true),
            ("*.so*", "libc.so.6", true),
            ("*.so", "libc.so.6", false),
            ("a*b*c", "axxbxxbc", true),
            ("a*b*c", "axxbxxb", false),
            ("?", "", false),
            ("[a-c]x", "bx", true),
            ("[!a-c]x", "bx", false),
            ("[]x]", "]", true),
            ("[a-]", "-", true),
            ("[", "[", true),
            ("[a", "[a", true),
            ("[[:digit:]]*", "7z", true),
            ("\\*", "*", true),
            ("\\*", "x", false),
            ("*/etc/*", "/a/etc/b/c", true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), wanted, "{pattern} {text}");
        }
        // A pattern that is exponential where every star is retried.
        assert!(!matches(&b"*a".repeat(40), &[b'a'; 39]));
        assert!(matches(b"*[\xe9]", b"caf\xe9"));
    }
}

//! The colours of pictures, for light and dark mode.
//!
//! Text has a contrast of at least 4.5 to its background in both (checked by tools/check_pictures.py).

use std::fmt::Write;

/// A colour by its class: what it paints, in light mode and in dark mode.
struct Colour(&'static str, Paint, &'static str, &'static str);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Paint {
    Fill,
    Stroke,
}

use Paint::{Fill, Stroke};

const COLOURS: [Colour; 18] = [
    Colour("paper", Fill, "#ffffff", "#15171c"),
    Colour("text", Fill, "#1f2328", "#e6e8eb"),
    Colour("soft", Fill, "#57606a", "#a8b0ba"),
    Colour("band", Fill, "#f1f4f8", "#1e222a"),
    Colour("axis", Stroke, "#6e7681", "#8b949e"),
    Colour("grid", Stroke, "#e1e4e8", "#2f343d"),
    Colour("limit", Stroke, "#c62828", "#ff8a80"),
    Colour("memory", Fill, "#59a14f", "#7fc97a"),
    Colour("memory-line", Stroke, "#59a14f", "#7fc97a"),
    Colour("disk", Fill, "#4e79a7", "#7ba6d6"),
    Colour("disk-line", Stroke, "#4e79a7", "#7ba6d6"),
    Colour("zone", Fill, "#b07aa1", "#d4a6c8"),
    Colour("zone-line", Stroke, "#b07aa1", "#d4a6c8"),
    Colour("origin", Fill, "#e67e22", "#ffab57"),
    Colour("origin-line", Stroke, "#e67e22", "#ffab57"),
    Colour("same", Fill, "#c8d1dc", "#3d4654"),
    Colour("new", Fill, "#e67e22", "#ffab57"),
    Colour("gone", Fill, "#8c959f", "#6e7681"),
];

/// Returns the attributes of an element of this class: its name, and its colour in light mode.
///
/// # Panics
/// Where no colour has this name.
#[must_use]
pub fn paint(class: &str) -> String {
    let Colour(_, paint, light, _) =
        COLOURS.iter().find(|colour| colour.0 == class).expect("every class that is drawn has a colour");
    match paint {
        Paint::Fill => format!("class=\"{class}\" fill=\"{light}\""),
        Paint::Stroke => format!("class=\"{class}\" stroke=\"{light}\" fill=\"none\""),
    }
}

/// Returns the style sheet: the dark colours, and what a pointer shows. `.tip` is hidden by an attribute, so it stays hidden where
/// styles are blocked.
#[must_use]
pub fn style() -> String {
    let mut dark = String::new();
    for Colour(class, paint, _, colour) in &COLOURS {
        let property = if *paint == Fill { "fill" } else { "stroke" };
        let _ = write!(dark, ".{class}{{{property}:{colour}}}");
    }
    format!(
        ".read:hover .tip,.read:focus .tip{{visibility:visible}}.read:hover path,.read:focus path{{stroke-width:12}}.read{{outline:none}}\
         @media(prefers-color-scheme:dark){{{dark}}}"
    )
}

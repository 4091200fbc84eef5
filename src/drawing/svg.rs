//! An SVG that grows element by element.

use std::fmt::Write;

use super::palette::{paint, style};
use super::text::{escape, fit, width};

/// The size of ordinary text.
pub const TEXT: f64 = 12.0;
/// The size of titles, which are bold.
pub const TITLE: f64 = 16.0;
/// How far text stays from the picture's edges.
const MARGIN: f64 = 4.0;

/// Which end of a text stands at its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anchor {
    /// Its start.
    Start,
    /// Its middle.
    Middle,
    /// Its end.
    End,
}

/// A picture of a fixed width; its height is known when it is finished.
#[derive(Debug)]
pub struct Drawing {
    width: f64,
    title: String,
    out: String,
}

impl Drawing {
    /// Starts a picture; `title` is its name for those who cannot see it.
    #[must_use]
    pub fn new(width: f64, title: &str) -> Self {
        Self { width, title: title.to_owned(), out: String::new() }
    }

    /// Adds elements that are written already.
    pub fn raw(&mut self, elements: &str) {
        self.out.push_str(elements);
        self.out.push('\n');
    }

    /// Adds text, cut to what room the picture has for it.
    pub fn text(&mut self, class: &str, anchor: Anchor, at: (f64, f64), content: &str) {
        let room = match anchor {
            Anchor::Start => self.width - at.0,
            Anchor::Middle => (self.width - at.0).min(at.0) * 2.0,
            Anchor::End => at.0,
        };
        self.text_within(class, anchor, at, room - MARGIN, content);
    }

    /// Adds text, cut to `most` units.
    pub fn text_within(&mut self, class: &str, anchor: Anchor, at: (f64, f64), most: f64, content: &str) {
        self.out.push_str(&text_element(class, anchor, at, &fit(content, TEXT, false, most), ""));
    }

    /// Adds the heading.
    pub fn heading(&mut self, (x, y): (f64, f64), content: &str) {
        let content = fit(content, TITLE, true, self.width - x - MARGIN);
        let more = format!(" font-size=\"{TITLE}\" font-weight=\"bold\"");
        self.out.push_str(&text_element("text", Anchor::Start, (x, y), &content, &more));
    }

    /// Adds text that is read from below, with its middle at this place.
    pub fn upright(&mut self, class: &str, (x, y): (f64, f64), most: f64, content: &str) {
        let content = escape(&fit(content, TEXT, false, most));
        let _ = writeln!(
            self.out,
            "<text {} text-anchor=\"middle\" transform=\"translate({x:.1} {y:.1}) rotate(-90)\">{content}</text>",
            paint(class)
        );
    }

    /// Adds a line.
    pub fn line(&mut self, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
        let _ = writeln!(self.out, "<path {} d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>", paint(class));
    }

    /// Adds a path by its data, with further attributes.
    pub fn path(&mut self, class: &str, more: &str, data: &str) {
        let _ = writeln!(self.out, "<path {}{more} d=\"{data}\"/>", paint(class));
    }

    /// Adds a rectangle.
    pub fn rect(&mut self, class: &str, (x, y): (f64, f64), (width, height): (f64, f64)) {
        let _ = writeln!(
            self.out,
            "<rect {} x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\"/>",
            paint(class)
        );
    }

    /// Returns the whole picture, `height` high, with its style sheet.
    #[must_use]
    pub fn finish(self, height: f64) -> String {
        let style = format!("<style>{}</style>\n", style());
        self.element(height, &style)
    }

    /// Returns the picture for a page, which has the style sheet.
    #[must_use]
    pub fn inline(self, height: f64) -> String {
        self.element(height, "")
    }

    fn element(self, height: f64, style: &str) -> String {
        let Self { width, title, out } = self;
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" role=\"img\" \
             font-family=\"sans-serif\" font-size=\"{TEXT}\">\n<title>{}</title>\n{style}<rect {} width=\"{width}\" height=\"{height}\"/>\n{out}</svg>\n",
            escape(&title),
            paint("paper"),
        )
    }
}

/// Returns a text element; `content` is escaped, and `more` has further attributes.
#[must_use]
pub fn text_element(class: &str, anchor: Anchor, (x, y): (f64, f64), content: &str, more: &str) -> String {
    let anchor = match anchor {
        Anchor::Start => "",
        Anchor::Middle => " text-anchor=\"middle\"",
        Anchor::End => " text-anchor=\"end\"",
    };
    format!("<text {}{anchor}{more} x=\"{x:.1}\" y=\"{y:.1}\">{}</text>\n", paint(class), escape(content))
}

/// Returns the most that ordinary text is wide.
#[must_use]
pub fn text_width(content: &str) -> f64 {
    width(content, TEXT, false)
}

//! A page of HTML around pictures and tables, as one file.
//!
//! Its own content security policy forbids scripts, forms and requests, and allows the one style sheet by its digest: what an image's
//! names may hold can never run. The page is well-formed XML as well.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::palette;
use super::text::escape;
use crate::digest::Sha256;

const STYLE: &str = "\
:root{color-scheme:light dark}body{font:14px/1.5 system-ui,sans-serif;margin:1.5rem;color:#1f2328;background:#fff}\
h1{font-size:1.4rem}h2{font-size:1.1rem;margin-top:2rem}svg{max-width:100%;height:auto}\
table{border-collapse:collapse}th,td{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top;border-bottom:1px solid #e1e4e8}\
.number{text-align:right;font-variant-numeric:tabular-nums;white-space:nowrap}code,.name{font-family:ui-monospace,monospace;overflow-wrap:anywhere}\
.note{color:#57606a}\
@media(prefers-color-scheme:dark){body{color:#e6e8eb;background:#15171c}th,td{border-color:#2f343d}.note{color:#a8b0ba}}";

/// A cell of a table.
#[derive(Debug, Clone)]
pub enum Cell {
    /// A number with its unit.
    Number(String),
    /// Words of ours.
    Words(String),
    /// A name from outside.
    Name(String),
}

/// A page that grows from above.
#[derive(Debug)]
pub struct Page {
    title: String,
    body: String,
}

impl Page {
    /// Starts a page with its title and heading.
    #[must_use]
    pub fn new(title: &str) -> Self {
        Self { title: title.to_owned(), body: format!("<h1>{}</h1>\n", escape(title)) }
    }

    /// Adds a heading.
    pub fn heading(&mut self, text: &str) {
        self.body.push_str(&format!("<h2>{}</h2>\n", escape(text)));
    }

    /// Adds a paragraph.
    pub fn paragraph(&mut self, text: &str) {
        self.body.push_str(&format!("<p>{}</p>\n", escape(text)));
    }

    /// Adds a remark.
    pub fn note(&mut self, text: &str) {
        self.body.push_str(&format!("<p class=\"note\">{}</p>\n", escape(text)));
    }

    /// Adds a picture that [`super::Drawing::inline`] made.
    pub fn picture(&mut self, svg: &str) {
        self.body.push_str(svg);
    }

    /// Adds a table with its column heads.
    pub fn table(&mut self, heads: &[&str], rows: impl IntoIterator<Item = Vec<Cell>>) {
        let rows: Vec<Vec<Cell>> = rows.into_iter().collect();
        let is_number = |column: usize| matches!(rows.first().and_then(|row| row.get(column)), Some(Cell::Number(_)));
        self.body.push_str("<table><thead><tr>");
        for (column, head) in heads.iter().enumerate() {
            let class = if is_number(column) { " class=\"number\"" } else { "" };
            self.body.push_str(&format!("<th{class}>{}</th>", escape(head)));
        }
        self.body.push_str("</tr></thead><tbody>\n");
        for row in &rows {
            self.body.push_str("<tr>");
            for cell in row {
                let (class, text) = match cell {
                    Cell::Number(text) => (" class=\"number\"", text),
                    Cell::Words(text) => ("", text),
                    Cell::Name(text) => (" class=\"name\"", text),
                };
                self.body.push_str(&format!("<td{class}>{}</td>", escape(text)));
            }
            self.body.push_str("</tr>\n");
        }
        self.body.push_str("</tbody></table>\n");
    }

    /// Returns the whole page.
    #[must_use]
    pub fn finish(self) -> String {
        let style = format!("{STYLE}{}", palette::style());
        let digest = STANDARD.encode(Sha256::of(style.as_bytes()).as_bytes());
        format!(
            "<!DOCTYPE html>\n<html xmlns=\"http://www.w3.org/1999/xhtml\" lang=\"en\"><head><meta charset=\"utf-8\"/>\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'\"/>\n\
             <meta name=\"viewport\" content=\"width=device-width\"/>\n<title>{}</title>\n<style>{style}</style></head>\n<body>\n{}</body></html>\n",
            escape(&self.title),
            self.body
        )
    }
}

//! What `coldpress diff` writes for reviewers: Markdown for a pull request or a CI job's page, and a page of HTML.
//!
//! Both have the same tables. Names come from outside: they are code spans in Markdown and escaped text in HTML.

use coldpress::drawing::page::Cell;
use coldpress::drawing::{Anchor, Drawing, Page, Scale};
use coldpress::fs::ext4::read::Stat;
use coldpress::read::diff::{Count, Diff, FileDiff, LayerDiff};

use super::diff::{cause_text, changes_text, shown_path, state};
use super::report::code;
use crate::args::DiffArgs;
use crate::size::show;

/// Files in the Markdown, and on the page.
const FILES: usize = 10;
const FILES_OF_PAGE: usize = 200;

/// A table: its heading, its column heads, its rows, and a remark below it.
struct Table {
    heading: &'static str,
    heads: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
    note: Option<String>,
}

/// Returns the comparison as Markdown.
pub fn markdown(args: &DiffArgs, diff: &Diff) -> String {
    let mut out = format!("### coldpress diff: {} → {}\n\n", code(&args.a.to_string()), code(&args.b.to_string()));
    if diff.is_empty() {
        return out + "Nothing differs.\n\n";
    }
    for table in tables(args, diff, FILES) {
        if !table.heading.is_empty() {
            out.push_str(&format!("**{}**\n\n", table.heading));
        }
        out.push_str(&format!("| {} |\n|", table.heads.join(" | ")));
        for cell in &table.rows[0] {
            out.push_str(if matches!(cell, Cell::Number(_)) { "---:|" } else { "---|" });
        }
        out.push('\n');
        for row in &table.rows {
            let cells: Vec<String> = row.iter().map(markdown_cell).collect();
            out.push_str(&format!("| {} |\n", cells.join(" | ")));
        }
        out.push_str(&table.note.map_or_else(|| "\n".to_owned(), |note| format!("\n{note}\n\n")));
    }
    out
}

fn markdown_cell(cell: &Cell) -> String {
    match cell {
        Cell::Number(text) | Cell::Words(text) => text.clone(),
        Cell::Name(text) => code(text),
    }
}

/// Returns the comparison as a page.
pub fn html(args: &DiffArgs, diff: &Diff) -> String {
    let mut page = Page::new(&format!("coldpress diff: {} → {}", args.a, args.b));
    if diff.is_empty() {
        page.paragraph("Nothing differs.");
        return page.finish();
    }
    page.picture(&picture(diff));
    for table in tables(args, diff, FILES_OF_PAGE) {
        if !table.heading.is_empty() {
            page.heading(table.heading);
        }
        page.table(&table.heads, table.rows);
        if let Some(note) = table.note {
            page.note(&note);
        }
    }
    page.finish()
}

fn tables(args: &DiffArgs, diff: &Diff, files: usize) -> Vec<Table> {
    let mut tables = vec![totals(diff)];
    tables.extend(settings(diff));
    tables.push(layers(&diff.layers));
    tables.extend(causes(diff));
    tables.extend(diff.files.as_deref().and_then(|found| biggest(found, files)));
    if diff.files.is_none()
        && let Some(last) = tables.last_mut()
    {
        let why = if args.no_files { "--no-files was given" } else { "no store that has both images was given" };
        last.note = Some(format!("Files were not compared: {why}."));
    }
    tables
}

fn totals(diff: &Diff) -> Table {
    let all = diff.totals.all();
    let row = |name: &str, count: Count| vec![words(name), number(count.chunks), size(count.bytes)];
    Table {
        heading: "",
        heads: vec!["", "chunks", "bytes as stored"],
        rows: vec![
            row("to upload, if the store has the older image", all.only_b),
            row("to download, on a host that has all of the older image, at most", all.only_b),
            row("to download, on a host that has nothing of it, at most", all.only_b + all.both),
            row("in both images", all.both),
            row("in the older image only", all.only_a),
        ],
        note: None,
    }
}

fn settings(diff: &Diff) -> Option<Table> {
    let mut rows: Vec<Vec<Cell>> = diff
        .settings
        .iter()
        .map(|setting| vec![words(setting.name), Cell::Name(setting.a.clone()), Cell::Name(setting.b.clone())])
        .collect();
    // Values of the config may be secrets, so only its fields are named.
    rows.extend(
        diff.config.iter().map(|field| vec![Cell::Name(format!("config: {field}")), words("differs"), words("")]),
    );
    let note = diff
        .settings
        .iter()
        .any(|setting| setting.parts)
        .then(|| "A setting that changes every chunk differs, so equal content has different chunks.".to_owned());
    (!rows.is_empty()).then(|| Table { heading: "Settings and config", heads: vec!["", "older", "newer"], rows, note })
}

fn layers(layers: &[LayerDiff]) -> Table {
    let place = |place: Option<usize>| place.map_or_else(|| "–".to_owned(), |place| (place + 1).to_string());
    let row = |layer: &LayerDiff| {
        vec![
            Cell::Number(place(layer.a)),
            Cell::Number(place(layer.b)),
            words(state(layer)),
            Cell::Name(layer.diff_id.to_string()[..19].to_owned()),
            number(layer.only.chunks),
            size(layer.only.bytes),
        ]
    };
    Table {
        heading: "Layers",
        heads: vec![
            "older",
            "newer",
            "state",
            "DiffID",
            "chunks that the other image does not have",
            "bytes as stored",
        ],
        rows: layers.iter().map(row).collect(),
        note: None,
    }
}

fn causes(diff: &Diff) -> Option<Table> {
    let rows: Vec<Vec<Cell>> = diff
        .causes()
        .into_iter()
        .map(|(cause, count)| vec![words(&cause_text(cause)), number(count.chunks), size(count.bytes)])
        .collect();
    (!rows.is_empty()).then(|| Table {
        heading: "Why chunks are new",
        heads: vec!["cause", "chunks", "bytes as stored"],
        rows,
        note: None,
    })
}

/// The files with the most new bytes, then those that differ without.
fn biggest(files: &[FileDiff], most: usize) -> Option<Table> {
    let mut sorted: Vec<&FileDiff> = files.iter().collect();
    sorted.sort_by_key(|file| std::cmp::Reverse(file.new.bytes));
    let bytes = |stat: &Option<Stat>| Cell::Number(stat.map_or_else(|| "–".to_owned(), |stat| show(stat.size)));
    let row = |file: &&FileDiff| {
        vec![
            Cell::Name(shown_path(&file.path)),
            words(&changes_text(file)),
            bytes(&file.a),
            bytes(&file.b),
            number(file.new.chunks),
            size(file.new.bytes),
        ]
    };
    let more = files.len().saturating_sub(most);
    let mut note = "A chunk that several files share counts for each of them.".to_owned();
    if more > 0 {
        note += &format!(" {more} more files differ; `coldpress diff --all` lists them.");
    }
    (!files.is_empty()).then(|| Table {
        heading: "Files with the most new bytes",
        heads: vec!["file", "change", "older size", "newer size", "new chunks", "their bytes as stored"],
        rows: sorted.iter().take(most).map(row).collect(),
        note: Some(note),
    })
}

fn words(text: &str) -> Cell {
    Cell::Words(text.to_owned())
}

fn number(value: u64) -> Cell {
    Cell::Number(value.to_string())
}

fn size(bytes: u64) -> Cell {
    Cell::Number(show(bytes))
}

const WIDTH: f64 = 900.0;
const LEFT: f64 = 260.0;
const RIGHT: f64 = 780.0;
const TOP: f64 = 84.0;
const ROW: f64 = 24.0;

/// A bar for the metadata and for each layer of the newer image: chunks that it shares with the older one, and new ones.
fn picture(diff: &Diff) -> String {
    let metadata = diff.totals.metadata;
    let mut bars = vec![("metadata".to_owned(), metadata.both.chunks, metadata.only_b.chunks)];
    for layer in &diff.layers {
        let Some(place) = layer.b else { continue };
        let label = format!("layer {}, {}", place + 1, &layer.diff_id.to_string()[..19]);
        bars.push((label, u64::from(layer.chunks).saturating_sub(layer.only.chunks), layer.only.chunks));
    }
    let most = bars.iter().map(|(_, both, new)| both + new).max().unwrap_or(0).max(1);
    #[expect(clippy::cast_precision_loss, reason = "for a picture")]
    let x = |chunks: u64| Scale { most: most as f64, from: LEFT, to: RIGHT }.at(chunks as f64);
    let mut out = Drawing::new(WIDTH, "New chunks by layer");
    out.heading((16.0, 28.0), "New chunks by layer");
    for (at, class, text) in [(16.0, "same", "also in the older image"), (200.0, "new", "new")] {
        out.rect(class, (at, 46.0), (12.0, 12.0));
        out.text("text", Anchor::Start, (at + 18.0, 56.0), text);
    }
    let mut y = TOP;
    for (label, both, new) in bars {
        out.text_within("text", Anchor::End, (LEFT - 8.0, y + 12.0), LEFT - 16.0, &label);
        out.rect("same", (LEFT, y), (x(both) - LEFT, 16.0));
        out.rect("new", (x(both), y), (x(both + new) - x(both), 16.0));
        out.text("text", Anchor::Start, (x(both + new) + 6.0, y + 12.0), &format!("{new} of {}", both + new));
        y += ROW;
    }
    out.text("soft", Anchor::Middle, (f64::midpoint(LEFT, RIGHT), y + 14.0), "chunks of 512 KiB");
    out.inline(y + 30.0)
}

//! The picture of a startup: above, when each chunk of the device was read and how long its reader waited; below, how many had arrived by
//! then; at the end, the slowest reads.
//!
//! A few reads that end long after all others do not stretch the time axis: it breaks, they are drawn behind the break, and their time is
//! written beside them.

use std::collections::BTreeMap;

use super::image_map::ImageMap;
use super::numbers::{Numbers, SlowRead, end, seconds, slowest, span};
use crate::CHUNK_SIZE;
use crate::drawing::page::Cell;
use crate::drawing::palette::paint;
use crate::drawing::scale::shown;
use crate::drawing::svg::{text_element, text_width};
use crate::drawing::text::fit;
use crate::drawing::{Anchor, Drawing, Page, Scale};
use crate::read::profile::{Profile, Use};
use crate::read::tier::Place;

const MIB: f64 = 1_048_576.0;
const WIDTH: f64 = 960.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 872.0;
/// Upper and lower edges of the chunk map and of the sums.
const MAP: (f64, f64) = (116.0, 416.0);
const SUMS: (f64, f64) = (456.0, 586.0);
/// The first line of the slowest reads, and how far lines are apart.
const TABLE: f64 = 656.0;
const LINE: f64 = 19.0;
/// How wide the part behind the break of the time axis is.
const BEHIND: f64 = 64.0;
/// Reads that a page lists.
const LISTED: usize = 200;

/// Returns the picture as an SVG that stands alone.
#[must_use]
pub fn svg(profile: &Profile, image: Option<&ImageMap>) -> String {
    let numbers = Numbers::of(profile, image);
    let (drawing, height) = draw(profile, image, &numbers, false);
    drawing.finish(height)
}

/// Returns the picture as a page that shows what each mark stands for when it is pointed at, and the slowest reads with all names.
#[must_use]
pub fn html(profile: &Profile, image: Option<&ImageMap>) -> String {
    let numbers = Numbers::of(profile, image);
    let (drawing, height) = draw(profile, image, &numbers, true);
    let mut page = Page::new(&title(&numbers));
    page.picture(&drawing.inline(height));
    page.note("Point at a mark to see its chunk, its time and its files.");
    let mut uses: Vec<&Use> = profile.uses.iter().collect();
    uses.sort_by_key(|used| (std::cmp::Reverse(used.took), used.at, used.index));
    page.heading(if uses.len() > LISTED { "Slowest 200 reads" } else { "All reads, the slowest first" });
    let heads = ["waited", "requested at", "chunk", "from", "part", "files"];
    page.table(
        &heads[..if image.is_some() { 6 } else { 4 }],
        uses.into_iter().take(LISTED).map(|used| row(used, image)),
    );
    page.note(&format!("Image {}, {} chunks of 512 KiB.", numbers.root_digest, numbers.device_chunks));
    page.finish()
}

fn row(used: &Use, image: Option<&ImageMap>) -> Vec<Cell> {
    let read = SlowRead::of(used, image);
    let mut cells = vec![
        Cell::Number(span(read.waited_seconds)),
        Cell::Number(span(read.at_seconds)),
        Cell::Number(read.chunk.to_string()),
        Cell::Words(read.tier.to_owned()),
    ];
    if let Some(part) = read.part {
        let more = if read.more_files > 0 { format!(" and {} more", read.more_files) } else { String::new() };
        cells.extend([Cell::Words(part), Cell::Name(read.files.join("  ") + &more)]);
    }
    cells
}

fn title(numbers: &Numbers) -> String {
    let digest: String = numbers.root_digest.chars().take("sha256:".len() + 12).collect();
    numbers.image.as_ref().map_or_else(|| format!("Startup of {digest}…"), |name| format!("Startup of {name}"))
}

fn draw(profile: &Profile, image: Option<&ImageMap>, numbers: &Numbers, with_tips: bool) -> (Drawing, f64) {
    let title = title(numbers);
    let mut out = Drawing::new(WIDTH, &title);
    out.heading((LEFT, 30.0), &title);
    out.text("soft", Anchor::Start, (LEFT, 52.0), &numbers.sentence());
    legend(&mut out, numbers);
    let time = Time::of(profile, numbers);
    let places = Scale { most: f64::from(profile.device_chunks.max(1)), from: MAP.1, to: MAP.0 };
    if let Some(image) = image {
        bands(&mut out, image, &places);
    }
    map_axes(&mut out, &time, &places);
    let marks = Marks { time: &time, places: &places };
    if with_tips {
        marks.draw_with_tips(&mut out, profile, image);
    } else {
        marks.draw(&mut out, profile);
    }
    marks.label(&mut out, profile);
    let chunks = Scale { most: (numbers.chunks as f64 * 1.05).max(1.0), from: SUMS.1, to: SUMS.0 };
    sums_axes(&mut out, &time, &chunks);
    sums(&mut out, &profile.uses, &time, &chunks);
    time.draw_break(&mut out);
    let height = table(&mut out, numbers);
    (out, height)
}

/// The time axis.
struct Time {
    scale: Scale,
    /// Whether some reads end behind its break.
    is_broken: bool,
}

impl Time {
    fn of(profile: &Profile, numbers: &Numbers) -> Self {
        // Something stands at the last moment, so a little is left behind it.
        let scale = |most: f64, to: f64| Scale { most: (most * 1.02).max(1e-3), from: LEFT, to };
        match break_at(profile.uses.iter().map(end).collect()) {
            Some(most) => Self { scale: scale(most, RIGHT - BEHIND), is_broken: true },
            None => Self { scale: scale(numbers.seconds, RIGHT), is_broken: false },
        }
    }

    fn is_behind(&self, moment: f64) -> bool {
        self.is_broken && moment > self.scale.most
    }

    fn at(&self, moment: f64) -> f64 {
        if self.is_behind(moment) { RIGHT - BEHIND / 2.0 } else { self.scale.at(moment) }
    }

    fn ticks(&self, out: &mut Drawing, (top, bottom): (f64, f64), with_label: bool) {
        let is_millis = self.scale.most < 2.0;
        for tick in self.scale.ticks(8.0, 1e-4) {
            let x = self.scale.at(tick);
            out.line("grid", (x, top), (x, bottom));
            if with_label {
                out.text("soft", Anchor::Middle, (x, bottom + 17.0), &shown(if is_millis { tick * 1e3 } else { tick }));
            }
        }
        if with_label {
            let unit = if is_millis { "milliseconds" } else { "seconds" };
            let middle = f64::midpoint(LEFT, self.scale.to);
            out.text("soft", Anchor::Middle, (middle, bottom + 36.0), &format!("{unit} since the startup began"));
        }
        if with_label && self.is_broken {
            out.text("soft", Anchor::Middle, (RIGHT - BEHIND / 2.0 + 4.0, bottom + 17.0), "later");
        }
    }

    fn draw_break(&self, out: &mut Drawing) {
        if self.is_broken {
            let x = self.scale.to + 5.0;
            for y in [MAP.0, MAP.1, SUMS.0, SUMS.1] {
                out.path("paper", "", &format!("M{:.1} {:.1}l6 -12h4l-6 12z", x - 2.0, y + 6.0));
                out.path(
                    "axis",
                    "",
                    &format!("M{:.1} {:.1}l6 -12M{:.1} {:.1}l6 -12", x - 2.0, y + 6.0, x + 2.0, y + 6.0),
                );
            }
        }
    }
}

/// Returns where the time axis breaks: behind all reads but the few that end more than twice as late as the last of the others.
fn break_at(mut ends: Vec<f64>) -> Option<f64> {
    ends.sort_by(f64::total_cmp);
    let (last, few) = (*ends.last()?, (ends.len() / 50).max(1));
    let bulk = *ends.get(ends.len().checked_sub(few + 1)?)?;
    let limit = ends.iter().copied().take_while(|moment| *moment <= bulk * 1.5).last()?;
    (ends.len() >= 5 && limit > 0.0 && last > limit * 2.0).then_some(limit)
}

fn legend(out: &mut Drawing, numbers: &Numbers) {
    let mut x = LEFT;
    for tier in &numbers.tiers {
        let text = format!("{}: {} read, {} waited", tier.tier, tier.chunks, span(tier.waited_seconds));
        out.rect(tier.tier, (x, 72.0), (12.0, 12.0));
        out.text("text", Anchor::Start, (x + 18.0, 82.0), &text);
        x += 18.0 + text_width(&text) + 20.0;
    }
}

/// Metadata and layers behind the map; every other one has a background, and those with room have their names.
fn bands(out: &mut Drawing, image: &ImageMap, places: &Scale) {
    let edge = |chunk: u32| places.at(f64::from(chunk));
    for band in image.bands.iter().step_by(2) {
        let (top, bottom) = (edge(band.to), edge(band.from));
        out.rect("band", (LEFT, top), (RIGHT - LEFT, (bottom - top).max(0.5)));
    }
    let mut by_height: Vec<_> = image.bands.iter().collect();
    by_height.sort_by_key(|band| std::cmp::Reverse(band.to - band.from));
    let mut written: Vec<f64> = Vec::new();
    for band in by_height {
        let middle = f64::midpoint(edge(band.from), edge(band.to)) + 4.0;
        if written.iter().all(|y| (y - middle).abs() >= 14.0) {
            out.text_within("soft", Anchor::Start, (RIGHT + 8.0, middle), WIDTH - RIGHT - 12.0, &band.label);
            written.push(middle);
        }
    }
}

fn frame(out: &mut Drawing, (top, bottom): (f64, f64)) {
    out.path("axis", "", &format!("M{LEFT} {top}V{bottom}H{RIGHT}V{top}"));
}

fn map_axes(out: &mut Drawing, time: &Time, places: &Scale) {
    time.ticks(out, MAP, false);
    for tick in places.ticks(6.0, 1.0) {
        let y = places.at(tick);
        out.line("grid", (LEFT, y), (RIGHT, y));
        out.text("soft", Anchor::End, (LEFT - 6.0, y + 4.0), &shown(tick));
    }
    out.upright("soft", (18.0, f64::midpoint(MAP.0, MAP.1)), MAP.1 - MAP.0, "chunk of the device (512 KiB)");
    frame(out, MAP);
}

/// A mark for each chunk, from when it was requested to when it arrived.
struct Marks<'a> {
    time: &'a Time,
    places: &'a Scale,
}

impl Marks<'_> {
    /// Returns where the mark of a read starts, its height, and how long it is.
    fn of(&self, used: &Use) -> (f64, f64, f64) {
        let (x, y) = (self.time.at(seconds(used.at)), self.places.at(f64::from(used.index.0) + 0.5));
        (x, y, (self.time.at(end(used)) - x).max(3.0))
    }

    fn thickness(&self) -> f64 {
        ((MAP.1 - MAP.0) / self.places.most).clamp(2.5, 10.0)
    }

    /// One path for each cache level. What takes longest is drawn first, so that it hides nothing.
    fn draw(&self, out: &mut Drawing, profile: &Profile) {
        for place in Place::ALL.into_iter().rev() {
            let mark = |used: &Use| {
                let (x, y, length) = self.of(used);
                format!("M{x:.1} {y:.1}h{length:.1}")
            };
            let data: String = profile.uses.iter().filter(|used| used.place == place).map(mark).collect();
            if !data.is_empty() {
                let width = format!(" stroke-width=\"{:.1}\"", self.thickness());
                out.path(&format!("{}-line", place.name()), &width, &data);
            }
        }
    }

    /// One group for each read, with the line that shows what it is while a pointer is on it.
    fn draw_with_tips(&self, out: &mut Drawing, profile: &Profile, image: Option<&ImageMap>) {
        for place in Place::ALL.into_iter().rev() {
            let class = format!("{}-line", place.name());
            for used in profile.uses.iter().filter(|used| used.place == place) {
                let (x, y, length) = self.of(used);
                let read = SlowRead::of(used, image);
                let content = if read.part.is_some() { format!(", {}", read.content()) } else { String::new() };
                let tip = format!(
                    "chunk {}: waited {} for {}, requested at {}{content}",
                    read.chunk,
                    span(read.waited_seconds),
                    read.tier,
                    span(read.at_seconds)
                );
                let tip = fit(&tip, crate::drawing::svg::TEXT, false, WIDTH - LEFT - 8.0);
                out.raw(&format!(
                    "<g class=\"read\" tabindex=\"0\"><path {} stroke-width=\"{:.1}\" d=\"M{x:.1} {y:.1}h{length:.1}\"/>{}</g>",
                    paint(&class),
                    self.thickness(),
                    text_element("text", Anchor::Start, (LEFT, 105.0), &tip, " visibility=\"hidden\"")
                        .replacen("class=\"text\"", "class=\"text tip\"", 1)
                        .trim_end(),
                ));
            }
        }
    }

    /// Numbers the slowest reads, and writes the time of those that end behind the break, where there is room.
    fn label(&self, out: &mut Drawing, profile: &Profile) {
        let mut written: Vec<(f64, f64, f64)> = Vec::new();
        let mut write = |out: &mut Drawing, anchor: Anchor, (x, y): (f64, f64), text: &str| {
            let width = text_width(text);
            let from = if anchor == Anchor::End { x - width } else { x };
            let is_free = |(start, end, height): &(f64, f64, f64)| {
                from > end + 2.0 || from + width < start - 2.0 || (height - y).abs() > 12.0
            };
            if y > MAP.0 + 8.0 && written.iter().all(is_free) {
                out.text("text", anchor, (x, y), text);
                written.push((from, from + width, y));
            }
        };
        for (number, used) in (1..).zip(slowest(profile)) {
            let (x, y, length) = self.of(used);
            if self.time.is_behind(end(used)) {
                out.path("axis", " stroke-width=\"1.5\"", &format!("M{:.1} {:.1}l6 5l-6 5", x + length, y - 5.0));
                write(out, Anchor::End, (RIGHT - 4.0, y - 9.0), &format!("{number}: {}", span(end(used))));
            } else if x + length + 16.0 < self.time.scale.to {
                write(out, Anchor::Start, (x + length + 4.0, y + 4.0), &number.to_string());
            } else {
                write(out, Anchor::End, (x - 4.0, y + 4.0), &number.to_string());
            }
        }
    }
}

/// How many chunks had arrived by when: those from the origin, on them those from the disk, on them those from the memory.
fn sums(out: &mut Drawing, uses: &[Use], time: &Time, chunks: &Scale) {
    let mut ends: Vec<(f64, Place)> = uses.iter().map(|used| (end(used), used.place)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    for place in Place::ALL.into_iter().filter(|place| uses.iter().any(|used| used.place == *place)) {
        // What comes within a tenth of a pixel is one step.
        let mut steps: BTreeMap<u64, (f64, f64)> = BTreeMap::new();
        for (count, (moment, _)) in (1u32..).zip(ends.iter().filter(|(_, of)| *of >= place)) {
            let x = time.at(*moment);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "from 0 to 10 times the width"
            )]
            steps.insert((x * 10.0).round() as u64, (x, chunks.at(f64::from(count))));
        }
        let steps: String = steps.values().map(|(x, y)| format!("H{x:.1}V{y:.1}")).collect();
        out.path(place.name(), "", &format!("M{LEFT} {}{steps}H{RIGHT}V{}Z", SUMS.1, SUMS.1));
    }
    frame(out, SUMS);
}

fn sums_axes(out: &mut Drawing, time: &Time, chunks: &Scale) {
    time.ticks(out, SUMS, true);
    for tick in chunks.ticks(5.0, 1.0) {
        let y = chunks.at(tick);
        out.line("grid", (LEFT, y), (RIGHT, y));
        out.text("soft", Anchor::End, (LEFT - 6.0, y + 4.0), &shown(tick));
    }
    let chunk = f64::from(CHUNK_SIZE) / MIB;
    let mebibytes = Scale { most: chunks.most * chunk, ..*chunks };
    for tick in mebibytes.ticks(5.0, chunk) {
        let y = mebibytes.at(tick);
        out.line("axis", (RIGHT, y), (RIGHT + 5.0, y));
        out.text_within("soft", Anchor::Start, (RIGHT + 9.0, y + 4.0), 56.0, &shown(tick));
    }
    let middle = f64::midpoint(SUMS.0, SUMS.1);
    out.upright("soft", (18.0, middle), SUMS.1 - SUMS.0, "chunks read so far");
    out.upright("soft", (WIDTH - 8.0, middle), SUMS.1 - SUMS.0, "MiB read so far");
}

/// Lists the slowest reads; returns the picture's height.
fn table(out: &mut Drawing, numbers: &Numbers) -> f64 {
    if numbers.slowest.is_empty() {
        return TABLE - 16.0;
    }
    let columns = [100.0, 180.0, 270.0, 340.0, 356.0, 424.0];
    let line = |out: &mut Drawing, y: f64, class: &str, cells: [&str; 6]| {
        for (column, (x, cell)) in columns.into_iter().zip(cells).enumerate() {
            let (anchor, most) = match column {
                0..=3 => (Anchor::End, 78.0),
                4 => (Anchor::Start, 60.0),
                _ => (Anchor::Start, WIDTH - 8.0 - x),
            };
            out.text_within(class, anchor, (x, y), most, cell);
        }
    };
    let holds = if numbers.image.is_some() { "what the chunk holds" } else { "" };
    line(out, TABLE, "soft", ["", "waited", "requested", "chunk", "from", holds]);
    for (number, (read, y)) in numbers.slowest.iter().zip((1u32..).map(|n| TABLE + LINE * f64::from(n))).enumerate() {
        let cells = [
            (number + 1).to_string(),
            span(read.waited_seconds),
            span(read.at_seconds),
            read.chunk.to_string(),
            read.tier.to_owned(),
            read.content(),
        ];
        line(out, y, "text", cells.each_ref().map(String::as_str));
    }
    TABLE + LINE * numbers.slowest.len() as f64 + 16.0
}

#[cfg(test)]
mod tests {
    use super::super::image_map::{Band, Files};
    use super::*;
    use crate::ChunkIndex;
    use crate::digest::Sha256;

    fn profile(uses: &[(u64, u64, Place, u32)]) -> Profile {
        let used = |(at, took, place, index): &(u64, u64, Place, u32)| Use {
            at: *at,
            took: *took,
            place: *place,
            index: ChunkIndex(*index),
            name: Sha256::of(b"a chunk"),
        };
        Profile { root_digest: Sha256::of(b"an image"), device_chunks: 64, uses: uses.iter().map(used).collect() }
    }

    #[test]
    fn the_numbers_are_those_of_the_profile() {
        let numbers = Numbers::of(
            &profile(&[
                (0, 30_000, Place::Origin, 0),
                (1_000, 40_000, Place::Origin, 9),
                (35_000, 500, Place::Disk, 3),
            ]),
            None,
        );
        assert_eq!((numbers.chunks, numbers.bytes, numbers.seconds), (3, 3 << 19, 0.041));
        let tiers: Vec<_> = numbers.tiers.iter().map(|tier| (tier.tier, tier.chunks, tier.waited_seconds)).collect();
        assert_eq!(tiers, [("memory", 0, 0.0), ("disk", 1, 0.0005), ("origin", 2, 0.07)]);
        assert_eq!(numbers.slowest.iter().map(|read| read.chunk).collect::<Vec<_>>(), [9, 0, 3]);
    }

    #[test]
    fn nothing_and_far_too_much_are_drawn() {
        for uses in [&[][..], &[(u64::MAX, u64::MAX, Place::Disk, u32::MAX), (0, 0, Place::Origin, 0)]] {
            for picture in [svg(&profile(uses), None), html(&profile(uses), None)] {
                assert!(!picture.contains("NaN") && !picture.contains("inf"), "{picture}");
            }
        }
    }

    /// A read of 60 s among others of 30 ms leaves the axis at their scale.
    #[test]
    fn one_straggler_does_not_stretch_the_axis() {
        let reads: Vec<_> = (0..40).map(|n| (u64::from(n) * 10_000, 30_000, Place::Origin, n)).collect();
        let with = |late: &[(u64, u64, Place, u32)]| profile(&[&reads[..], late].concat());
        let late = with(&[(200_000, 60_000_000, Place::Origin, 50)]);
        let time = Time::of(&late, &Numbers::of(&late, None));
        assert!(time.is_broken && (0.42..0.45).contains(&time.scale.most), "{}", time.scale.most);
        assert!(svg(&late, None).contains(">1: 60.20 s<"));
        for (ends, wanted) in [
            (vec![1.0, 1.1, 1.2, 1.3, 60.0], Some(1.3)),
            (vec![1.0, 1.1, 1.2, 1.3, 2.5], None),
            (vec![1.0, 60.0], None),
            (vec![0.0; 9], None),
            (vec![], None),
        ] {
            assert_eq!(break_at(ends.clone()), wanted, "{ends:?}");
        }
    }

    /// Names come from outside, and stand in the picture, in the page's head, and in its tables.
    #[test]
    fn hostile_names_are_escaped() {
        let hostile = "</text><script>alert(1)</script>&\"'\u{202e}\u{7}";
        let files = Files { largest: vec![(1, format!("/{hostile}"))], count: 1 };
        let band = Band { label: "layer 1".to_owned(), from: 0, to: 64 };
        let image = ImageMap::for_tests(hostile, vec![band], [(9, files)]);
        let profile = profile(&[(0, 30_000, Place::Origin, 0), (1_000, 40_000, Place::Origin, 9)]);
        for picture in [svg(&profile, Some(&image)), html(&profile, Some(&image))] {
            assert!(picture.contains("&lt;script&gt;") && !picture.contains("<script"), "{picture}");
            assert!(picture.contains("\\u{202e}") && !picture.contains(['\u{202e}', '\u{7}']), "{picture}");
        }
    }
}

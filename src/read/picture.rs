//! A recorded start as a picture and as numbers: `coldread report`.
//!
//! An SVG that stands alone: no scripts, nothing fetched, light or dark as its reader has it. The same profile gives the same bytes.

use std::fmt::Write;

use serde::Serialize;

use super::profile::{Profile, Use};
use super::tier::Place;
use crate::CHUNK_SIZE;

/// What is said of a start in numbers.
#[derive(Debug, PartialEq, Serialize)]
pub struct Numbers {
    /// `sha256:HEX`, of the image.
    pub root_digest: String,
    /// Of its device, zeros among them.
    pub device_chunks: u32,
    /// Those that were read.
    pub chunks: usize,
    /// Of these, opened.
    pub bytes: u64,
    /// Until the last of them was there.
    pub seconds: f64,
    /// Memory, disk, the zone where one was used, origin.
    pub tiers: Vec<OfTier>,
}

/// What came from one tier.
#[derive(Debug, PartialEq, Serialize)]
pub struct OfTier {
    /// Its name.
    pub tier: &'static str,
    /// Chunks.
    pub chunks: usize,
    /// How long readers waited for them, added up.
    pub waited_seconds: f64,
}

impl Numbers {
    /// Of `profile`.
    #[must_use]
    pub fn of(profile: &Profile) -> Self {
        let tier = |place: Place| {
            let (mut chunks, mut waited) = (0, 0u64);
            for used in profile.uses.iter().filter(|used| used.place == place) {
                chunks += 1;
                waited = waited.saturating_add(used.took);
            }
            OfTier { tier: place.name(), chunks, waited_seconds: seconds(waited) }
        };
        Self {
            root_digest: profile.root_digest.to_string(),
            device_chunks: profile.device_chunks,
            chunks: profile.uses.len(),
            bytes: profile.uses.len() as u64 * u64::from(CHUNK_SIZE),
            seconds: profile.uses.iter().map(end).fold(0.0, f64::max),
            tiers: Place::ALL
                .into_iter()
                .map(tier)
                .filter(|tier| tier.chunks > 0 || tier.tier != Place::Zone.name())
                .collect(),
        }
    }

    /// In a sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let share = self.chunks as f64 * 100.0 / f64::from(self.device_chunks.max(1));
        let of: Vec<String> = self.tiers.iter().map(|tier| format!("{} from {}", tier.chunks, tier.tier)).collect();
        format!(
            "{} of {} chunks ({share:.1} %, {:.1} MiB): {}; the last after {:.3} s",
            self.chunks,
            self.device_chunks,
            self.bytes as f64 / MIB,
            of.join(", "),
            self.seconds,
        )
    }
}

const MIB: f64 = 1_048_576.0;
const WIDTH: f64 = 960.0;
const HEIGHT: f64 = 660.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 884.0;
/// Upper and lower edges of the chunk map and of the sums.
const MAP: (f64, f64) = (104.0, 404.0);
const SUMS: (f64, f64) = (468.0, 608.0);

const STYLE: &str = "\
text{font:12px sans-serif;fill:#333}.title{font-size:16px;font-weight:bold}.end{text-anchor:end}.middle{text-anchor:middle}
.paper{fill:#fff}.axis{stroke:#777;fill:none}.grid{stroke:#e3e3e3;fill:none}
.memory{fill:#59a14f}.disk{fill:#4e79a7}.origin{fill:#f28e2b}.zone{fill:#b07aa1}
.mark.memory{fill:none;stroke:#59a14f}.mark.disk{fill:none;stroke:#4e79a7}.mark.origin{fill:none;stroke:#f28e2b}.mark.zone{fill:none;stroke:#b07aa1}
@media(prefers-color-scheme:dark){text{fill:#ddd}.paper{fill:#15171c}.axis{stroke:#999}.grid{stroke:#2c3038}
.memory{fill:#7fc97a}.disk{fill:#7ba6d6}.origin{fill:#ffab57}.zone{fill:#d4a6c8}
.mark.memory{stroke:#7fc97a}.mark.disk{stroke:#7ba6d6}.mark.origin{stroke:#ffab57}.mark.zone{stroke:#d4a6c8}}";

/// The picture: above, when each chunk of the device was read first and how long its reader waited; below, how many there were.
#[must_use]
pub fn svg(profile: &Profile) -> String {
    let numbers = Numbers::of(profile);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}\" height=\"{HEIGHT}\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">\n\
         <title>Start of {digest}</title>\n<style>{STYLE}</style>\n\
         <rect class=\"paper\" width=\"{WIDTH}\" height=\"{HEIGHT}\"/>\n",
        digest = numbers.root_digest,
    );
    let short: String = numbers.root_digest.chars().take("sha256:".len() + 12).collect();
    text(&mut out, "title", (LEFT, 28.0), &format!("Start of {short}…"));
    text(&mut out, "", (LEFT, 50.0), &numbers.sentence());
    legend(&mut out, &numbers);
    // Something stands at the last moment, so a little is left behind it.
    let time = Scale { most: (numbers.seconds * 1.02).max(1e-3), from: LEFT, to: RIGHT };
    let places = Scale { most: f64::from(profile.device_chunks.max(1)), from: MAP.1, to: MAP.0 };
    map_axes(&mut out, &time, &places);
    marks(&mut out, &profile.uses, &time, &places);
    let chunks = Scale { most: (numbers.chunks as f64 * 1.05).max(1.0), from: SUMS.1, to: SUMS.0 };
    sums_axes(&mut out, &time, &chunks);
    sums(&mut out, &profile.uses, &time, &chunks);
    frame(&mut out, SUMS);
    out.push_str("</svg>\n");
    out
}

/// From 0 to `most` on a line from `from` to `to`.
struct Scale {
    most: f64,
    from: f64,
    to: f64,
}

impl Scale {
    fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.most).clamp(0.0, 1.0)
    }

    /// Round numbers on it, about `count`, whole multiples of `least`.
    fn ticks(&self, count: f64, least: f64) -> Vec<f64> {
        let power = 10f64.powf((self.most / count).log10().floor());
        let wanted = self.most / count;
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= wanted);
        let step = step.unwrap_or(self.most).max(least);
        (0u32..100).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.most).collect()
    }
}

fn seconds(micros: u64) -> f64 {
    micros as f64 / 1e6
}

/// When a chunk was there.
fn end(used: &Use) -> f64 {
    seconds(used.at.saturating_add(used.took))
}

fn text(out: &mut String, class: &str, (x, y): (f64, f64), content: &str) {
    let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
    let _ = writeln!(out, "<text{class} x=\"{x:.1}\" y=\"{y:.1}\">{content}</text>");
}

/// Written from below.
fn upright(out: &mut String, (x, y): (f64, f64), content: &str) {
    let _ = writeln!(out, "<text class=\"middle\" transform=\"translate({x:.1} {y:.1}) rotate(-90)\">{content}</text>");
}

fn line(out: &mut String, class: &str, (x1, y1): (f64, f64), (x2, y2): (f64, f64)) {
    let _ = writeln!(out, "<path class=\"{class}\" d=\"M{x1:.1} {y1:.1}L{x2:.1} {y2:.1}\"/>");
}

fn legend(out: &mut String, numbers: &Numbers) {
    // Four leave room for the note at the end as three do.
    let step = if numbers.tiers.len() > 3 { 145.0 } else { 180.0 };
    for (tier, x) in numbers.tiers.iter().zip((0u32..).map(|n| LEFT + step * f64::from(n))) {
        let _ = writeln!(out, "<rect class=\"{}\" x=\"{x:.1}\" y=\"68\" width=\"12\" height=\"12\"/>", tier.tier);
        text(out, "", (x + 18.0, 78.0), &format!("{}, waited {:.3} s", tier.tier, tier.waited_seconds));
    }
    text(out, "end", (RIGHT, 78.0), "length of a mark: how long its reader waited");
}

fn time_axis(out: &mut String, time: &Scale, (top, bottom): (f64, f64), label: bool) {
    let millis = time.most < 2.0;
    for tick in time.ticks(8.0, 1e-4) {
        let x = time.at(tick);
        line(out, "grid", (x, top), (x, bottom));
        let shown = if millis { format!("{}", rounded(tick * 1e3)) } else { format!("{}", rounded(tick)) };
        text(out, "middle", (x, bottom + 16.0), &shown);
    }
    if label {
        let unit = if millis { "milliseconds" } else { "seconds" };
        text(out, "middle", (f64::midpoint(LEFT, RIGHT), bottom + 36.0), &format!("{unit} since the start"));
    }
}

/// Without what binary fractions add.
fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

fn frame(out: &mut String, (top, bottom): (f64, f64)) {
    let _ = writeln!(out, "<path class=\"axis\" d=\"M{LEFT} {top}V{bottom}H{RIGHT}V{top}\"/>");
}

fn map_axes(out: &mut String, time: &Scale, places: &Scale) {
    time_axis(out, time, MAP, false);
    for tick in places.ticks(6.0, 1.0) {
        let y = places.at(tick);
        line(out, "grid", (LEFT, y), (RIGHT, y));
        text(out, "end", (LEFT - 6.0, y + 4.0), &rounded(tick).to_string());
    }
    upright(out, (22.0, f64::midpoint(MAP.0, MAP.1)), "chunk of the device, 512 KiB each");
    frame(out, MAP);
}

/// One mark a chunk, from when it was asked for to when it came. What took longest is drawn first, so that it hides nothing.
fn marks(out: &mut String, uses: &[Use], time: &Scale, places: &Scale) {
    let thick = ((MAP.1 - MAP.0) / places.most).clamp(2.5, 10.0);
    for place in Place::ALL.into_iter().rev() {
        let mut path = String::new();
        for used in uses.iter().filter(|used| used.place == place) {
            let (x, y) = (time.at(seconds(used.at)), places.at(f64::from(used.index.0) + 0.5));
            let length = (time.at(end(used)) - x).max(3.0);
            let _ = write!(path, "M{x:.1} {y:.1}h{length:.1}");
        }
        if !path.is_empty() {
            let _ = writeln!(out, "<path class=\"mark {place}\" stroke-width=\"{thick:.1}\" d=\"{path}\"/>");
        }
    }
}

/// How many chunks had come by when: those from the origin, on them those from the disk, on them those from the memory.
fn sums(out: &mut String, uses: &[Use], time: &Scale, chunks: &Scale) {
    let mut ends: Vec<(f64, Place)> = uses.iter().map(|used| (end(used), used.place)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    for place in Place::ALL.into_iter().filter(|place| uses.iter().any(|used| used.place == *place)) {
        let mut steps: Vec<(String, f64)> = Vec::new();
        let below = ends.iter().filter(|(_, of)| *of >= place);
        for (count, (at, _)) in (1u32..).zip(below) {
            let x = format!("{:.1}", time.at(*at));
            // What comes within a tenth of a pixel is one step.
            steps.pop_if(|(last, _)| *last == x);
            steps.push((x, chunks.at(f64::from(count))));
        }
        let steps: String = steps.iter().map(|(x, y)| format!("H{x}V{y:.1}")).collect();
        let _ = writeln!(out, "<path class=\"{place}\" d=\"M{LEFT} {}{steps}H{RIGHT}V{}Z\"/>", SUMS.1, SUMS.1);
    }
}

fn sums_axes(out: &mut String, time: &Scale, chunks: &Scale) {
    time_axis(out, time, SUMS, true);
    for tick in chunks.ticks(5.0, 1.0) {
        let y = chunks.at(tick);
        line(out, "grid", (LEFT, y), (time.to, y));
        text(out, "end", (LEFT - 6.0, y + 4.0), &rounded(tick).to_string());
    }
    let chunk = f64::from(CHUNK_SIZE) / MIB;
    let mebibytes = Scale { most: chunks.most * chunk, ..*chunks };
    for tick in mebibytes.ticks(5.0, chunk) {
        let y = mebibytes.at(tick);
        line(out, "axis", (RIGHT, y), (RIGHT + 5.0, y));
        text(out, "", (RIGHT + 9.0, y + 4.0), &rounded(tick).to_string());
    }
    let middle = f64::midpoint(SUMS.0, SUMS.1);
    upright(out, (22.0, middle), "chunks read so far");
    upright(out, (WIDTH - 12.0, middle), "MiB");
}

#[cfg(test)]
mod tests {
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
        let numbers = Numbers::of(&profile(&[
            (0, 30_000, Place::Origin, 0),
            (1_000, 40_000, Place::Origin, 9),
            (35_000, 500, Place::Disk, 3),
        ]));
        assert_eq!((numbers.chunks, numbers.bytes, numbers.seconds), (3, 3 << 19, 0.041));
        let tiers: Vec<_> = numbers.tiers.iter().map(|tier| (tier.tier, tier.chunks, tier.waited_seconds)).collect();
        assert_eq!(tiers, [("memory", 0, 0.0), ("disk", 1, 0.0005), ("origin", 2, 0.07)]);
    }

    #[test]
    fn nothing_and_far_too_much_are_drawn() {
        for uses in [&[][..], &[(u64::MAX, u64::MAX, Place::Disk, u32::MAX), (0, 0, Place::Origin, 0)]] {
            let svg = svg(&profile(uses));
            assert!(svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }

    #[test]
    fn ticks_are_round_and_few() {
        let ticks = |most, least| Scale { most, from: 0.0, to: 1.0 }.ticks(6.0, least);
        assert_eq!(ticks(100.0, 1.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(3.0, 1.0), [0.0, 1.0, 2.0, 3.0]);
        assert!(ticks(1.8e13, 1e-4).len() < 20);
    }
}

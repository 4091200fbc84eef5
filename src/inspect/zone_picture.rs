//! A sizing plan as a picture: hit rate, cost and latency over the size of the cache, each on an axis of its own with its unit.

use super::zone_sizing::{Plan, Size};
use crate::drawing::palette::paint;
use crate::drawing::scale::shown;
use crate::drawing::{Anchor, Drawing, Scale};
use crate::printable::size;

const WIDTH: f64 = 900.0;
const LEFT: f64 = 96.0;
const RIGHT: f64 = 850.0;
/// Upper edge of the first panel, height of each, and what stands between two.
const TOP: f64 = 84.0;
const HEIGHT: f64 = 120.0;
const GAP: f64 = 34.0;

/// One quantity.
struct Panel<'a> {
    class: &'a str,
    label: String,
    of: fn(&Size) -> f64,
    /// The end of its axis.
    most: f64,
    /// The value that is not to be exceeded.
    limit: Option<f64>,
}

/// Returns the plan as an SVG that stands alone; costs are in `currency`.
#[must_use]
pub fn svg(plan: &Plan, currency: &str) -> String {
    let chosen = &plan.sizes[plan.chosen()];
    let mut out = Drawing::new(WIDTH, "Size of a zone's cache");
    out.heading((LEFT, 30.0), &format!("Size of a zone's cache: {} requests for {} chunks", plan.asked, plan.chunks));
    let text = format!(
        "recommended: {} of encrypted chunks, in {} of memory of all servers together",
        size(chosen.bytes),
        size(chosen.memory_bytes)
    );
    out.text("soft", Anchor::Start, (LEFT, 52.0), &text);
    let x = Sizes::of(plan);
    let mut top = TOP;
    for panel in panels(plan, currency) {
        draw(&mut out, plan, &x, &panel, top);
        top += HEIGHT + GAP;
    }
    let bottom = top - GAP;
    out.path("limit", " stroke-dasharray=\"5 4\"", &format!("M{0:.1} {TOP}V{bottom}", x.at(chosen)));
    ticks(&mut out, plan, &x, bottom);
    out.text(
        "soft",
        Anchor::Middle,
        (f64::midpoint(LEFT, RIGHT), bottom + 38.0),
        "encrypted chunks in the cache (logarithmic)",
    );
    out.finish(bottom + 54.0)
}

fn panels<'a>(plan: &Plan, currency: &str) -> [Panel<'a>; 3] {
    let most = |of: fn(&Size) -> f64, limit: f64| plan.sizes.iter().map(of).fold(limit.max(1e-9), f64::max) * 1.05;
    let goal = plan.prices.goal_millis;
    [
        Panel {
            class: "disk-line",
            label: "hit rate, %".to_owned(),
            of: |size| size.hit_rate * 100.0,
            most: 100.0,
            limit: None,
        },
        Panel {
            class: "origin-line",
            label: format!("cost, {currency} a month"),
            of: |size| size.cost_month,
            most: most(|size| size.cost_month, 0.0),
            limit: None,
        },
        Panel {
            class: "memory-line",
            label: "latency, ms".to_owned(),
            of: |size| size.latency_millis,
            most: most(|size| size.latency_millis, goal),
            limit: Some(goal),
        },
    ]
}

/// Where sizes stand: by their logarithms.
struct Sizes {
    low: f64,
    high: f64,
}

impl Sizes {
    fn of(plan: &Plan) -> Self {
        let logarithm = |size: &Size| (size.bytes.max(1) as f64).ln();
        Self { low: logarithm(&plan.sizes[0]), high: logarithm(&plan.sizes[plan.sizes.len() - 1]) }
    }

    fn at(&self, size: &Size) -> f64 {
        let share = ((size.bytes.max(1) as f64).ln() - self.low) / (self.high - self.low).max(1e-9);
        LEFT + (RIGHT - LEFT) * share
    }
}

fn draw(out: &mut Drawing, plan: &Plan, x: &Sizes, panel: &Panel<'_>, top: f64) {
    let bottom = top + HEIGHT;
    let y = Scale { most: panel.most, from: bottom, to: top };
    for tick in y.ticks(4.0, 1e-5) {
        out.line("grid", (LEFT, y.at(tick)), (RIGHT, y.at(tick)));
        out.text("soft", Anchor::End, (LEFT - 8.0, y.at(tick) + 4.0), &shown(tick));
    }
    out.path("axis", "", &format!("M{LEFT} {top}V{bottom}H{RIGHT}"));
    // In words above the curves, where nothing crosses them.
    let value = (panel.of)(&plan.sizes[plan.chosen()]);
    let goal = panel.limit.map_or_else(String::new, |limit| format!("; goal: {}, dotted", shown(limit)));
    let label = format!("{} (recommended size: {value:.2}{goal})", panel.label);
    out.text("text", Anchor::Start, (LEFT, top - 8.0), &label);
    let points: Vec<String> =
        plan.sizes.iter().map(|size| format!("{:.1},{:.1}", x.at(size), y.at((panel.of)(size)))).collect();
    out.raw(&format!("<polyline {} stroke-width=\"2\" points=\"{}\"/>", paint(panel.class), points.join(" ")));
    if let Some(limit) = panel.limit {
        out.path("limit", " stroke-dasharray=\"2 3\"", &format!("M{LEFT} {0:.1}H{RIGHT}", y.at(limit)));
    }
}

/// Writes sizes below the axis, as many as have room.
fn ticks(out: &mut Drawing, plan: &Plan, x: &Sizes, bottom: f64) {
    let mut free = 0.0;
    for of in &plan.sizes {
        let (at, text) = (x.at(of), size(of.bytes));
        let half = crate::drawing::svg::text_width(&text) / 2.0;
        if at - half >= free && at + half <= WIDTH - 4.0 {
            out.line("axis", (at, bottom), (at, bottom + 5.0));
            out.text("soft", Anchor::Middle, (at, bottom + 19.0), &text);
            free = at + half + 40.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::zone_sizing::{Made, Prices};
    use super::*;

    #[test]
    fn each_quantity_has_an_axis_with_its_unit() {
        let prices = Prices {
            memory_gib_month: 3.0,
            thousand_requests: 0.0004,
            transfer_gib: 0.0,
            overhead: 1.5,
            zone_millis: 1.0,
            origin_millis: 30.0,
            goal_millis: 5.0,
        };
        for made in
            [Made::Zipf { chunks: 1000, exponent: 1.0, asked: 20_000 }, Made::Cron { chunks: 1, every: 1, scans: 1 }]
        {
            let svg = svg(&Plan::of(&made.trace(1, 0), prices).unwrap(), "<€>");
            for label in ["hit rate, %", "cost, &lt;€&gt; a month", "latency, ms", "goal: 5, dotted", "in the cache"]
            {
                assert!(svg.contains(label), "{label}");
            }
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}

//! The last minutes of a number that is measured once a second, as a line of blocks.

use std::collections::VecDeque;

/// Number of values that are kept: five minutes.
const KEPT: usize = 300;
/// Number of blocks in a line; each is the largest of as many values as fit.
const WIDTH: usize = 60;
const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Values of one number.
pub struct History {
    values: VecDeque<f64>,
    show: fn(f64) -> String,
}

impl History {
    pub fn new(show: fn(f64) -> String) -> Self {
        Self { values: VecDeque::new(), show }
    }

    pub fn add(&mut self, value: f64) {
        if self.values.len() == KEPT {
            self.values.pop_front();
        }
        self.values.push_back(value);
    }

    /// Returns for how many seconds values are kept.
    pub fn seconds(&self) -> usize {
        self.values.len()
    }

    /// Returns the line with smallest, mean and largest value, and the values over time.
    #[expect(clippy::cast_precision_loss, reason = "a mean for people")]
    pub fn line(&self, label: &str) -> String {
        let least = self.values.iter().copied().reduce(f64::min).unwrap_or_default();
        let most = self.values.iter().copied().reduce(f64::max).unwrap_or_default();
        let mean = self.values.iter().fold(0.0, |sum, value| sum + value) / self.values.len().max(1) as f64;
        let show = self.show;
        format!("{label:<11}{:>11}{:>11}{:>11}  {}\n", show(least), show(mean), show(most), self.blocks(most))
    }

    /// Returns the blocks, the newest value at the right; the highest is `most`.
    fn blocks(&self, most: f64) -> String {
        let values: Vec<f64> = self.values.iter().copied().collect();
        let together = values.len().div_ceil(WIDTH).max(1);
        let parts = values.rchunks(together).map(|part| part.iter().copied().fold(0.0, f64::max));
        let mut blocks: Vec<char> = parts.map(|value| block(value, most)).collect();
        blocks.reverse();
        blocks.into_iter().collect()
    }
}

fn block(value: f64, most: f64) -> char {
    let last = BLOCKS.len() - 1;
    // The lowest one is for nothing at all.
    let level = (1..=last)
        .rev()
        .find(|level| most > 0.0 && value * f64::from(u8::try_from(last).unwrap_or(7)) > most * (*level as f64 - 1.0));
    BLOCKS[level.filter(|_| value > 0.0).unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_shows_the_range_and_the_newest_value_last() {
        let mut history = History::new(|value| format!("{value:.1}"));
        assert_eq!(history.line("x").trim_end(), "x                  0.0        0.0        0.0");
        [0.0, 1.0, 4.0, 8.0, 7.0, 0.0].into_iter().for_each(|value| history.add(value));
        assert_eq!(history.line("x"), "x                  0.0        3.3        8.0  ▁▂▅██▁\n");
        (0..1000).for_each(|value| history.add(f64::from(value)));
        let line = history.line("x");
        assert_eq!((history.seconds(), line.trim_end().split("  ").last().unwrap().chars().count()), (300, 60));
        assert!(line.trim_end().ends_with('█'), "{line}");
    }
}

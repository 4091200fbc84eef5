//! Axes: where a value stands, and which round values are written.

/// From 0 to `most` on a line from `from` to `to`.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// The value at the line's end.
    pub most: f64,
    /// Where 0 stands.
    pub from: f64,
    /// Where `most` stands.
    pub to: f64,
}

impl Scale {
    /// Returns where `value` stands; values beyond the ends stand at the ends.
    #[must_use]
    pub fn at(&self, value: f64) -> f64 {
        self.from + (self.to - self.from) * (value / self.most).clamp(0.0, 1.0)
    }

    /// Returns about `count` round values, whole multiples of `least`.
    #[must_use]
    pub fn ticks(&self, count: f64, least: f64) -> Vec<f64> {
        let power = 10f64.powf((self.most / count).log10().floor());
        let wanted = self.most / count;
        let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= wanted);
        let step = step.unwrap_or(self.most).max(least);
        (0u32..100).map(|n| f64::from(n) * step).take_while(|tick| *tick <= self.most * (1.0 + 1e-9)).collect()
    }
}

/// Returns `value` with at most five digits after the point, and none that a binary fraction added.
#[must_use]
pub fn shown(value: f64) -> String {
    ((value * 1e5).round() / 1e5).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_few() {
        let ticks = |most, least| Scale { most, from: 0.0, to: 1.0 }.ticks(6.0, least);
        assert_eq!(ticks(100.0, 1.0), [0.0, 20.0, 40.0, 60.0, 80.0, 100.0]);
        assert_eq!(ticks(3.0, 1.0), [0.0, 1.0, 2.0, 3.0]);
        assert!(ticks(1.8e13, 1e-4).len() < 20);
        assert_eq!(shown(0.1 + 0.2), "0.3");
    }
}

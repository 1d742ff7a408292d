//! Several measurements of one thing.

/// The values of several rounds, in any unit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Samples(Vec<f64>);

impl Samples {
    /// One more.
    pub(super) fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The value that half of them do not exceed; 0 of none.
    pub(super) fn median(&self) -> f64 {
        self.percentile(0.5)
    }

    /// Most of what separates them, 10th to 90th percentile, as a part of the median; of few, all.
    pub(super) fn spread(&self) -> f64 {
        let median = self.median().abs();
        if median == 0.0 {
            return 0.0;
        }
        (self.percentile(0.9) - self.percentile(0.1)) / median
    }

    /// Between the two values next to it in proportion; 0.99 is the 99th percentile.
    pub(super) fn percentile(&self, part: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let at = part * sorted.len().saturating_sub(1) as f64;
        let (below, above) = (at.floor() as usize, at.ceil() as usize);
        let (Some(below), Some(above)) = (sorted.get(below), sorted.get(above)) else {
            return 0.0;
        };
        below + (above - below) * at.fract()
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wild_value_moves_neither_median_nor_spread_far() {
        let calm: Samples = (0..11).map(|n| 100.0 + f64::from(n)).collect();
        let wild: Samples = calm.0.iter().copied().chain([9000.0]).collect();
        assert_eq!(calm.median(), 105.0);
        assert_eq!(wild.median(), 105.5);
        assert!((calm.spread() - 8.0 / 105.0).abs() < 1e-9);
        assert!(wild.spread() < 0.1, "{}", wild.spread());
    }

    #[test]
    fn percentile_lies_between_its_neighbours() {
        let samples: Samples = [4.0, 1.0, 3.0, 2.0].into_iter().collect();
        assert_eq!(samples.median(), 2.5);
        assert_eq!(samples.percentile(0.0), 1.0);
        assert_eq!(samples.percentile(1.0), 4.0);
        assert_eq!(samples.len(), 4);
    }

    #[test]
    fn nothing_is_measured_without_a_sample() {
        assert_eq!(Samples::default().median(), 0.0);
        assert_eq!(Samples::default().spread(), 0.0);
    }
}

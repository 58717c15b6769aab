//! Numbers counted in bins.

use serde::Serialize;

/// Counts of numbers between two bounds, in bins of one width. What lies beyond a bound is counted in the bin next to it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Histogram {
    /// Where the first bin begins.
    pub low: f64,
    /// Where the last bin ends.
    pub high: f64,
    /// By bin.
    pub counts: Vec<u64>,
    /// The smallest number; infinite without numbers.
    pub min: f64,
    /// The largest number; infinite without numbers.
    pub max: f64,
}

impl Histogram {
    /// No numbers yet.
    pub(crate) fn new(low: f64, high: f64, bins: usize) -> Self {
        Self { low, high, counts: vec![0; bins], min: f64::INFINITY, max: f64::NEG_INFINITY }
    }

    /// Counts a number.
    pub(crate) fn add(&mut self, value: f64) {
        let bins = self.counts.len();
        let bin = (value - self.low) / (self.high - self.low) * bins as f64;
        // A cast saturates: what lies before the first bin becomes 0.
        self.counts[(bin as usize).min(bins - 1)] += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds the numbers of another histogram with the same bins.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// How many numbers there are.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The share of the numbers in each bin; zeros without numbers.
    pub(crate) fn shares(&self) -> Vec<f64> {
        let total = self.total().max(1) as f64;
        self.counts.iter().map(|&count| count as f64 / total).collect()
    }

    /// The number below which a share `q` of them lies, to a bin's width; `None` without numbers.
    pub(crate) fn quantile(&self, q: f64) -> Option<f64> {
        let wanted = q * self.total() as f64;
        let width = (self.high - self.low) / self.counts.len() as f64;
        let mut before = 0.0;
        for (bin, &count) in self.counts.iter().enumerate().filter(|(_, count)| **count > 0) {
            let count = count as f64;
            if before + count >= wanted {
                let value = self.low + width * (bin as f64 + (wanted - before) / count);
                return Some(value.clamp(self.min, self.max));
            }
            before += count;
        }
        None
    }

    /// Where each bin begins, and at last where the last one ends.
    pub(crate) fn edges(&self) -> impl Iterator<Item = f64> {
        let (low, bins) = (self.low, self.counts.len());
        let width = (self.high - self.low) / bins as f64;
        (0..=bins).map(move |bin| low + width * bin as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_again_to_a_bin() {
        let (mut first, mut second) =
            (Histogram::new(0.0, 10.0, 100), Histogram::new(0.0, 10.0, 100));
        assert_eq!(first.quantile(0.5), None);
        for value in 0..1000 {
            if value % 2 == 0 { &mut first } else { &mut second }.add(f64::from(value) / 100.0);
        }
        first.merge(&second);
        assert_eq!((first.total(), first.min, first.max), (1000, 0.0, 9.99));
        for q in [0.0, 0.05, 0.5, 1.0] {
            assert!((first.quantile(q).unwrap() - 10.0 * q).abs() < 0.11, "{q}");
        }
        assert!(first.shares().iter().all(|share| (share - 0.01).abs() < 0.0011));
    }

    #[test]
    fn what_lies_outside_is_counted_at_the_border() {
        let mut histogram = Histogram::new(0.0, 1.0, 4);
        for value in [-5.0, 0.0, 1.0, 7.0] {
            histogram.add(value);
        }
        assert_eq!(histogram.counts, [2, 0, 0, 2]);
        assert_eq!((histogram.min, histogram.max), (-5.0, 7.0));
    }
}

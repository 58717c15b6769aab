//! Histograms.

use serde::Serialize;

/// A histogram with bins of equal width. Values out of range are counted in the first or last bin.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Histogram {
    /// Lower edge of the first bin.
    pub low: f64,
    /// Upper edge of the last bin.
    pub high: f64,
    /// The count of each bin.
    pub counts: Vec<u64>,
    /// The smallest value; infinite if there is none.
    pub min: f64,
    /// The largest value; infinite if there is none.
    pub max: f64,
}

impl Histogram {
    /// An empty histogram.
    pub(crate) fn new(low: f64, high: f64, bins: usize) -> Self {
        Self { low, high, counts: vec![0; bins], min: f64::INFINITY, max: f64::NEG_INFINITY }
    }

    /// Counts a value.
    pub(crate) fn add(&mut self, value: f64) {
        let bins = self.counts.len();
        let bin = (value - self.low) / (self.high - self.low) * bins as f64;
        // The cast saturates: values before the first bin become 0.
        self.counts[(bin as usize).min(bins - 1)] += 1;
        self.min = self.min.min(value);
        self.max = self.max.max(value);
    }

    /// Adds the counts of another histogram with the same bins.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.counts.iter_mut().zip(&other.counts).for_each(|(mine, theirs)| *mine += theirs);
        self.min = self.min.min(other.min);
        self.max = self.max.max(other.max);
    }

    /// The number of values.
    pub(crate) fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// The fraction of the values in each bin; zeros if there are none.
    pub(crate) fn fractions(&self) -> Vec<f64> {
        let total = self.total().max(1) as f64;
        self.counts.iter().map(|&count| count as f64 / total).collect()
    }

    /// The `q` quantile, accurate to a bin's width; `None` without values.
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

    /// The edges of the bins, one more than there are bins.
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
    fn quantiles_are_accurate_to_a_bin() {
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
        assert!(first.fractions().iter().all(|fraction| (fraction - 0.01).abs() < 0.0011));
    }

    #[test]
    fn values_out_of_range_are_counted_at_the_border() {
        let mut histogram = Histogram::new(0.0, 1.0, 4);
        for value in [-5.0, 0.0, 1.0, 7.0] {
            histogram.add(value);
        }
        assert_eq!(histogram.counts, [2, 0, 0, 2]);
        assert_eq!((histogram.min, histogram.max), (-5.0, 7.0));
    }
}

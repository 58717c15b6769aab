//! The confusion matrix.

/// Counts of examples by class and prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Confusion {
    classes: usize,
    /// `[class, prediction]`.
    counts: Vec<u64>,
}

impl Confusion {
    /// A matrix of zeros.
    pub fn new(classes: usize) -> Self {
        Self { classes, counts: vec![0; classes * classes] }
    }

    /// Counts an example.
    pub fn count(&mut self, class: usize, prediction: usize) {
        self.counts[class * self.classes + prediction] += 1;
    }

    /// The counts of a class by prediction.
    pub fn row(&self, class: usize) -> &[u64] {
        &self.counts[class * self.classes..][..self.classes]
    }

    /// The number of classes.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The number of examples.
    pub fn examples(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Correct predictions as a fraction of the examples; 0 without examples.
    pub fn accuracy(&self) -> f64 {
        let correct: u64 = (0..self.classes).map(|class| self.row(class)[class]).sum();
        correct as f64 / self.examples().max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_classes_and_columns_predictions() {
        let mut confusion = Confusion::new(3);
        for (class, prediction) in [(0, 0), (0, 2), (1, 1), (1, 1)] {
            confusion.count(class, prediction);
        }
        assert_eq!((confusion.row(0), confusion.row(1)), (&[1, 0, 1][..], &[0, 2, 0][..]));
        assert_eq!((confusion.examples(), confusion.accuracy()), (4, 0.75));
    }
}

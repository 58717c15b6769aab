//! How often each augmentation was asked for, and whether what is found is likely then.

use scrl_schemas::{BlurKind, PrepOptions};

use super::distributions::{Distributions, Steps};
use crate::views::method::{
    BLUR_PROBABILITY, FLIP_PROBABILITY, GRAYSCALE_PROBABILITY, JITTER_PROBABILITY,
    SOLARIZE_PROBABILITY,
};

/// Standard deviations from what was asked for, beyond which chance is no explanation: once in 16,000 such numbers.
const UNLIKELY: f64 = 4.0;

/// How often a step was asked for in one view, and how often it is found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Frequency {
    /// Views.
    pub views: u64,
    /// Views that have it.
    pub count: u64,
    /// The probability asked for.
    pub asked: f64,
}

impl Frequency {
    /// The share of views that have it; 0 without views.
    pub fn share(&self) -> f64 {
        self.count as f64 / self.views.max(1) as f64
    }

    /// Whether chance does not explain the difference from what was asked.
    pub fn is_odd(&self) -> bool {
        let expected = self.asked * self.views as f64;
        let deviation = (expected * (1.0 - self.asked)).sqrt();
        (self.count as f64 - expected).abs() > UNLIKELY * deviation + 0.5
    }
}

/// One step of augmentation in both views.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// What it is called in the columns.
    pub name: &'static str,
    /// In view 1 and view 2.
    pub views: [Frequency; 2],
}

/// Every step that happens by chance, in the order in which they are applied.
pub(super) fn steps(options: &PrepOptions, found: &Distributions) -> Vec<Step> {
    let blur = if options.blur == BlurKind::None { [0.0; 2] } else { BLUR_PROBABILITY };
    type Count = fn(&Steps) -> u64;
    let table: [(&'static str, Count, [f64; 2]); 5] = [
        ("flip", |steps| steps.flip, [FLIP_PROBABILITY; 2]),
        ("jitter", |steps| steps.jitter, [JITTER_PROBABILITY; 2]),
        ("grayscale", |steps| steps.grayscale, [GRAYSCALE_PROBABILITY; 2]),
        ("blur", |steps| steps.blur, blur),
        ("solarize", |steps| steps.solarize, SOLARIZE_PROBABILITY),
    ];
    table
        .map(|(name, count, asked)| {
            let views = [0, 1].map(|view| Frequency {
                views: found.rows,
                count: count(&found.views[view].steps),
                asked: asked[view],
            });
            Step { name, views }
        })
        .to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_is_told_from_a_fault() {
        let frequency = |count, asked| Frequency { views: 1000, count, asked };
        assert!(!frequency(520, 0.5).is_odd());
        assert!(frequency(600, 0.5).is_odd());
        assert!(!frequency(1000, 1.0).is_odd() && frequency(999, 1.0).is_odd());
        assert!(!frequency(0, 0.0).is_odd() && frequency(1, 0.0).is_odd());
    }
}

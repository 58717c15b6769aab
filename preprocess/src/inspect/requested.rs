//! The requested frequency of each augmentation, and whether the one found agrees with it.

use scrl_schemas::{BlurKind, PrepOptions};

use super::distributions::{Distributions, Steps};
use crate::views::params::decimal;

/// Standard deviations from the requested frequency that chance exceeds once in 16,000 times.
const UNLIKELY: f64 = 4.0;

const VERTICAL_FLIP: &str = "vertical_flip";
/// One, two or three quarter turns.
const TURNS: &str = "turns";

/// The requested frequency of a step in one view, and the one found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Frequency {
    /// The number of views.
    pub views: u64,
    /// The number of views with the step.
    pub count: u64,
    /// The requested probability.
    pub requested: f64,
}

impl Frequency {
    /// The fraction of views with the step; 0 without views.
    pub fn found(&self) -> f64 {
        self.count as f64 / self.views.max(1) as f64
    }

    /// Whether the difference from the requested frequency is too large for chance.
    pub fn is_odd(&self) -> bool {
        let expected = self.requested * self.views as f64;
        let deviation = (expected * (1.0 - self.requested)).sqrt();
        (self.count as f64 - expected).abs() > UNLIKELY * deviation + 0.5
    }
}

/// One step of augmentation in both views.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Step {
    /// Its name in the columns.
    pub name: &'static str,
    /// In view 1 and view 2.
    pub views: [Frequency; 2],
}

/// Every random step, in the order in which they are applied; vertical flips and turns only where
/// they were requested or found.
pub(super) fn steps(options: &PrepOptions, found: &Distributions) -> Vec<Step> {
    let requested = &options.steps;
    let blur = if options.blur == BlurKind::None { [0.0; 2] } else { requested.blur_probability };
    type Count = fn(&Steps) -> u64;
    let table: [(&'static str, Count, [f32; 2]); 7] = [
        ("flip", |steps| steps.flip, [requested.flip; 2]),
        (VERTICAL_FLIP, |steps| steps.vertical_flip, [requested.vertical_flip; 2]),
        (TURNS, |steps| steps.turns, [requested.quarter_turns; 2]),
        ("jitter", |steps| steps.jitter, [requested.jitter[0]; 2]),
        ("grayscale", |steps| steps.grayscale, [requested.grayscale; 2]),
        ("blur", |steps| steps.blur, blur),
        ("solarize", |steps| steps.solarize, requested.solarize),
    ];
    let steps = table.into_iter().map(|(name, count, requested)| {
        let views = [0, 1].map(|view| Frequency {
            views: found.rows,
            count: count(&found.views[view].steps),
            requested: decimal(requested[view]),
        });
        Step { name, views }
    });
    let is_shown = |step: &Step| {
        ![VERTICAL_FLIP, TURNS].contains(&step.name)
            || step.views.iter().any(|of| of.count > 0 || of.requested > 0.0)
    };
    steps.filter(is_shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chance_differs_from_a_fault() {
        let frequency = |count, requested| Frequency { views: 1000, count, requested };
        assert!(!frequency(520, 0.5).is_odd());
        assert!(frequency(600, 0.5).is_odd());
        assert!(!frequency(1000, 1.0).is_odd() && frequency(999, 1.0).is_odd());
        assert!(!frequency(0, 0.0).is_odd() && frequency(1, 0.0).is_odd());
    }
}

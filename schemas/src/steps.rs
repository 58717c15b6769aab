//! The probabilities and strengths of the steps of a view after its crop.

use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};

/// How often, and how strongly, each step is applied. `dataset.toml` has only what differs from
/// [`StepOptions::PAPER`], so that the files of the paper's values stay as they are.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct StepOptions {
    /// Probability that a view is mirrored left to right.
    pub flip: f32,
    /// Probability that a view is mirrored top to bottom.
    pub vertical_flip: f32,
    /// Probability that a view is turned by one, two or three quarter turns, each equally likely.
    pub quarter_turns: f32,
    /// Color jitter: its probability, then how far the factors of brightness, contrast and
    /// saturation may be from 1, and how far the hue may be shifted, in turns.
    pub jitter: [f32; 5],
    /// Probability of grayscale.
    pub grayscale: f32,
    /// Probability of blur, of view 1 and view 2.
    pub blur_probability: [f32; 2],
    /// Probability of solarization, of view 1 and view 2.
    pub solarize: [f32; 2],
}

impl StepOptions {
    /// The augmentations of the paper, which are those of BYOL (Grill et al. 2020, table 6).
    pub const PAPER: Self = Self {
        flip: 0.5,
        vertical_flip: 0.0,
        quarter_turns: 0.0,
        jitter: [0.8, 0.4, 0.4, 0.2, 0.1],
        grayscale: 0.2,
        blur_probability: [1.0, 0.1],
        solarize: [0.0, 0.2],
    };
}

impl Default for StepOptions {
    fn default() -> Self {
        Self::PAPER
    }
}

impl Serialize for StepOptions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let paper = &Self::PAPER;
        let mut map = serializer.serialize_map(None)?;
        entry(&mut map, "flip", &self.flip, &paper.flip)?;
        entry(&mut map, "vertical-flip", &self.vertical_flip, &paper.vertical_flip)?;
        entry(&mut map, "quarter-turns", &self.quarter_turns, &paper.quarter_turns)?;
        entry(&mut map, "jitter", &self.jitter, &paper.jitter)?;
        entry(&mut map, "grayscale", &self.grayscale, &paper.grayscale)?;
        entry(&mut map, "blur-probability", &self.blur_probability, &paper.blur_probability)?;
        entry(&mut map, "solarize", &self.solarize, &paper.solarize)?;
        map.end()
    }
}

/// Writes a value that is not the paper's.
fn entry<M: SerializeMap, T: PartialEq + Serialize>(
    map: &mut M,
    name: &str,
    value: &T,
    paper: &T,
) -> Result<(), M::Error> {
    if value == paper { Ok(()) } else { map.serialize_entry(name, value) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_differs_from_the_paper_is_written() {
        let text = |steps: &StepOptions| toml::to_string(steps).unwrap();
        assert_eq!(text(&StepOptions::PAPER), "");
        let steps = StepOptions {
            flip: 0.3,
            vertical_flip: 0.5,
            quarter_turns: 0.75,
            jitter: [0.8, 0.4, 0.4, 0.0, 0.0],
            grayscale: 0.0,
            blur_probability: [0.5, 0.5],
            solarize: [0.1, 0.0],
        };
        let expected = "flip = 0.3\nvertical-flip = 0.5\nquarter-turns = 0.75\n\
                        jitter = [0.8, 0.4, 0.4, 0.0, 0.0]\ngrayscale = 0.0\n\
                        blur-probability = [0.5, 0.5]\nsolarize = [0.1, 0.0]\n";
        assert_eq!(text(&steps), expected);
        assert_eq!(toml::from_str::<StepOptions>(expected).unwrap(), steps);
        assert_eq!(toml::from_str::<StepOptions>("").unwrap(), StepOptions::PAPER);
    }
}

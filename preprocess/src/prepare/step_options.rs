//! The options of the steps after the crop.

use clap::Args;
use scrl_schemas::{Preset, StepOptions};

use super::values::{numbers, require};
use crate::Result;

/// Probabilities and strengths of the steps; what is missing has the preset's value.
#[derive(Args, Clone, Debug, Default)]
pub struct StepArguments {
    /// Probability that a view is mirrored left to right [default: 0.5]
    #[arg(long, value_name = "P")]
    pub flip: Option<f32>,

    /// Probability that a view is mirrored top to bottom [default: 0; 0.5 with --preset aerial]
    #[arg(long, value_name = "P")]
    pub vertical_flip: Option<f32>,

    /// Probability of one, two or three quarter turns: of 0.75, all four directions are equally
    /// likely [default: 0; 0.75 with --preset aerial]
    #[arg(long, value_name = "P")]
    pub quarter_turns: Option<f32>,

    /// Color jitter: its probability, and how far brightness, contrast, saturation and hue may
    /// change [default: 0.8,0.4,0.4,0.2,0.1; 0.8,0.4,0.4,0,0 with --preset gray]
    #[arg(long, value_name = "P,B,C,S,H", value_parser = numbers::<5>)]
    pub jitter: Option<[f32; 5]>,

    /// Probability of grayscale [default: 0.2; 0 with --preset gray]
    #[arg(long, value_name = "P")]
    pub grayscale: Option<f32>,

    /// Probabilities of blur, of view 1 and view 2 [default: 1,0.1]
    #[arg(long, value_name = "P1,P2", value_parser = numbers::<2>)]
    pub blur_probability: Option<[f32; 2]>,

    /// Probabilities of solarization, of view 1 and view 2 [default: 0,0.2]
    #[arg(long, value_name = "P1,P2", value_parser = numbers::<2>)]
    pub solarize: Option<[f32; 2]>,
}

/// The steps of a preset.
fn preset_steps(preset: Preset) -> StepOptions {
    let paper = StepOptions::PAPER;
    match preset {
        Preset::Paper | Preset::Reference => paper,
        // Every direction is as likely as any other.
        Preset::Aerial => StepOptions { vertical_flip: 0.5, quarter_turns: 0.75, ..paper },
        // Nothing that mixes the channels.
        Preset::Gray => {
            let [probability, brightness, contrast, ..] = paper.jitter;
            let jitter = [probability, brightness, contrast, 0.0, 0.0];
            StepOptions { jitter, grayscale: 0.0, ..paper }
        }
    }
}

impl StepArguments {
    /// Fills in the preset's values and checks all.
    pub(super) fn resolve(&self, preset: Preset) -> Result<StepOptions> {
        let default = preset_steps(preset);
        let steps = StepOptions {
            flip: self.flip.unwrap_or(default.flip),
            vertical_flip: self.vertical_flip.unwrap_or(default.vertical_flip),
            quarter_turns: self.quarter_turns.unwrap_or(default.quarter_turns),
            jitter: self.jitter.unwrap_or(default.jitter),
            grayscale: self.grayscale.unwrap_or(default.grayscale),
            blur_probability: self.blur_probability.unwrap_or(default.blur_probability),
            solarize: self.solarize.unwrap_or(default.solarize),
        };
        check(&steps)?;
        Ok(steps)
    }
}

fn check(steps: &StepOptions) -> Result<()> {
    let is_probability = |value: &f32| (0.0..=1.0).contains(value);
    for (option, value) in [
        ("flip", steps.flip),
        ("vertical-flip", steps.vertical_flip),
        ("quarter-turns", steps.quarter_turns),
        ("grayscale", steps.grayscale),
    ] {
        require(is_probability(&value), option, "give a probability from 0 to 1")?;
    }
    for (option, values) in
        [("blur-probability", steps.blur_probability), ("solarize", steps.solarize)]
    {
        let reason = "give a probability from 0 to 1 for each view, such as 1,0.1";
        require(values.iter().all(is_probability), option, reason)?;
    }
    // Factors of brightness, contrast and saturation from 0 to 2, and half a turn of the hue: all
    // colors.
    let [probability_to_saturation @ .., hue] = &steps.jitter;
    let is_valid =
        probability_to_saturation.iter().all(is_probability) && (0.0..=0.5).contains(hue);
    let reason = "give P, B, C and S from 0 to 1 and H from 0 to 0.5, such as 0.8,0.4,0.4,0.2,0.1";
    require(is_valid, "jitter", reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_preset_is_overridden_by_options() {
        let given = StepArguments { quarter_turns: Some(0.0), ..StepArguments::default() };
        let steps = given.resolve(Preset::Aerial).unwrap();
        assert_eq!(steps, StepOptions { vertical_flip: 0.5, ..StepOptions::PAPER });
        let steps = StepArguments::default().resolve(Preset::Gray).unwrap();
        assert_eq!((steps.jitter, steps.grayscale), ([0.8, 0.4, 0.4, 0.0, 0.0], 0.0));
    }

    #[test]
    fn invalid_values_name_their_option() {
        let none = StepArguments::default;
        for (given, option) in [
            (StepArguments { flip: Some(1.5), ..none() }, "--flip"),
            (StepArguments { vertical_flip: Some(-0.1), ..none() }, "--vertical-flip"),
            (StepArguments { quarter_turns: Some(f32::NAN), ..none() }, "--quarter-turns"),
            (StepArguments { jitter: Some([0.8, 1.1, 0.0, 0.0, 0.0]), ..none() }, "--jitter"),
            (StepArguments { jitter: Some([0.8, 0.4, 0.4, 0.2, 0.6]), ..none() }, "--jitter"),
            (StepArguments { grayscale: Some(2.0), ..none() }, "--grayscale"),
            (StepArguments { blur_probability: Some([1.0, 2.0]), ..none() }, "--blur-probability"),
            (StepArguments { solarize: Some([-1.0, 0.0]), ..none() }, "--solarize"),
        ] {
            let message = given.resolve(Preset::Paper).unwrap_err().to_string();
            assert!(message.starts_with(&format!("{option}: ")), "{message}");
        }
    }
}

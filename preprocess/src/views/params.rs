//! The random parameters of a view.

use libm::{exp, log, sqrt};
use scrl_schemas::{BlurKind, ColorJitter, ColorStep, Crop, PrepOptions, ViewParams};

use super::method::{
    BLUR_SIGMA, CROP_RATIO, CROP_TRIES, HUE_GRID, JITTER_GRID, RESIZE_BLUR_FACTORS, SIGMA_GRID,
};
use super::rng::{Purpose, Stream};
use crate::images::ImageSize;

/// Which of the two views of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewIndex {
    /// View 1: always blurred, never solarized.
    First,
    /// View 2: rarely blurred, sometimes solarized.
    Second,
}

impl ViewIndex {
    fn purpose(self) -> Purpose {
        match self {
            Self::First => Purpose::View1,
            Self::Second => Purpose::View2,
        }
    }
}

/// Draws one view of an image of size `source`. The result depends on the arguments alone.
pub fn draw_view(
    seed: u64,
    epoch: u32,
    image_id: u64,
    view: ViewIndex,
    source: ImageSize,
    options: &PrepOptions,
) -> ViewParams {
    let random = &mut Stream::new(seed, epoch, image_id, view.purpose());
    let steps = &options.steps;
    let crop = draw_crop(random, source, options.crop_scale);
    let flip = random.chance(decimal(steps.flip));
    let jitter = draw_jitter(random, steps.jitter);
    let grayscale = random.chance(decimal(steps.grayscale));
    let blur = draw_blur(random, decimal(steps.blur_probability[view as usize]), options.blur);
    let solarize = random.chance(decimal(steps.solarize[view as usize]));
    // Drawn last, so that all else is the same with and without them.
    let vertical_flip = random.chance(decimal(steps.vertical_flip));
    let turns = draw_turns(random, decimal(steps.quarter_turns));
    ViewParams { crop, flip, vertical_flip, turns, jitter, grayscale, blur, solarize }
}

/// Draws a crop of `scale` of the image's area, as torchvision's `RandomResizedCrop.get_params`.
pub fn draw_crop(random: &mut Stream, source: ImageSize, scale: [f32; 2]) -> Crop {
    let (width, height) = (f64::from(source.width), f64::from(source.height));
    let area = width * height;
    for _ in 0..CROP_TRIES {
        let target = area * random.uniform(decimal(scale[0]), decimal(scale[1]));
        let ratio = exp(random.uniform(log(CROP_RATIO[0]), log(CROP_RATIO[1])));
        let w = sqrt(target * ratio).round_ties_even();
        let h = sqrt(target / ratio).round_ties_even();
        if (1.0..=width).contains(&w) && (1.0..=height).contains(&h) {
            let (w, h) = (w as i32, h as i32);
            let y = random.below((source.height - h) as u64 + 1) as i32;
            let x = random.below((source.width - w) as u64 + 1) as i32;
            return Crop { x, y, width: w, height: h };
        }
    }
    // The largest center crop within the range of ratios.
    let ratio = width / height;
    let (w, h) = if ratio < CROP_RATIO[0] {
        (source.width, (width / CROP_RATIO[0]).round_ties_even() as i32)
    } else if ratio > CROP_RATIO[1] {
        ((height * CROP_RATIO[1]).round_ties_even() as i32, source.height)
    } else {
        (source.width, source.height)
    };
    let (w, h) = (w.clamp(1, source.width), h.clamp(1, source.height));
    Crop { x: (source.width - w) / 2, y: (source.height - h) / 2, width: w, height: h }
}

/// The decimal number that was given: 0.2 and not 0.200000003, so that the bounds equal those of a
/// program that reads the option as a double.
pub(crate) fn decimal(value: f32) -> f64 {
    rounded(f64::from(value))
}

fn rounded(value: f64) -> f64 {
    (value * 1e6).round() / 1e6
}

/// Factors that may be this far from 1.
pub(crate) fn factors(strength: f32) -> [f64; 2] {
    let strength = decimal(strength);
    [rounded(1.0 - strength), rounded(1.0 + strength)]
}

/// Hue shifts of at most this many turns.
pub(crate) fn hue_shifts(strength: f32) -> [f64; 2] {
    [-decimal(strength), decimal(strength)]
}

/// Draws color jitter of this probability and these strengths of brightness, contrast, saturation and
/// hue.
fn draw_jitter(
    random: &mut Stream,
    [probability, brightness, contrast, saturation, hue]: [f32; 5],
) -> Option<ColorJitter> {
    // Drawn whether applied or not, so that later draws do not depend on it.
    let applied = random.chance(decimal(probability));
    let mut order = ColorStep::ALL;
    random.shuffle(&mut order);
    let jitter = ColorJitter {
        brightness: draw_on_grid(random, factors(brightness), JITTER_GRID),
        contrast: draw_on_grid(random, factors(contrast), JITTER_GRID),
        saturation: draw_on_grid(random, factors(saturation), JITTER_GRID),
        hue: draw_on_grid(random, hue_shifts(hue), HUE_GRID),
        order,
    };
    applied.then_some(jitter)
}

/// One, two or three quarter turns with this probability, else none.
fn draw_turns(random: &mut Stream, probability: f64) -> i8 {
    let applied = random.chance(probability);
    let turns = 1 + random.below(3) as i8;
    if applied { turns } else { 0 }
}

/// A multiple of `grid` between the bounds, each equally likely. The grid is too fine to be
/// visible, and halves the size of a number in a shard.
fn draw_on_grid(random: &mut Stream, [low, high]: [f64; 2], grid: f64) -> f32 {
    let (first, last) = ((low / grid).ceil(), (high / grid).floor());
    ((first + random.below((last - first) as u64 + 1) as f64) * grid) as f32
}

fn draw_blur(random: &mut Stream, probability: f64, kind: BlurKind) -> Option<f32> {
    let applied = random.chance(probability);
    let strength = match kind {
        BlurKind::None => return None,
        BlurKind::Gaussian => draw_on_grid(random, BLUR_SIGMA, SIGMA_GRID),
        BlurKind::Resize => {
            RESIZE_BLUR_FACTORS[random.below(RESIZE_BLUR_FACTORS.len() as u64) as usize]
        }
    };
    applied.then_some(strength)
}

#[cfg(test)]
mod tests {
    use scrl_schemas::StepOptions;

    use super::*;
    use crate::views::method::test_options;

    fn draws(view: ViewIndex, source: ImageSize, options: &PrepOptions) -> Vec<ViewParams> {
        (0..20_000).map(|id| draw_view(3, 1, id, view, source, options)).collect()
    }

    fn fraction(views: &[ViewParams], f: impl Fn(&ViewParams) -> bool) -> f64 {
        views.iter().filter(|view| f(view)).count() as f64 / views.len() as f64
    }

    #[test]
    fn frequencies_are_those_of_the_paper() {
        let source = ImageSize { width: 500, height: 375 };
        let options = test_options();
        for (view, blur, solarize) in [(ViewIndex::First, 1.0, 0.0), (ViewIndex::Second, 0.1, 0.2)]
        {
            let views = draws(view, source, &options);
            for (found, expected) in [
                (fraction(&views, |v| v.flip), 0.5),
                (fraction(&views, |v| v.jitter.is_some()), 0.8),
                (fraction(&views, |v| v.grayscale), 0.2),
                (fraction(&views, |v| v.blur.is_some()), blur),
                (fraction(&views, |v| v.solarize), solarize),
            ] {
                assert!((found - expected).abs() < 0.015, "{found} for {expected}");
            }
        }
    }

    /// Every step of another probability and strength; what is drawn does not depend on the others.
    #[test]
    fn probabilities_and_strengths_are_those_of_the_options() {
        let source = ImageSize { width: 500, height: 375 };
        let steps = StepOptions {
            flip: 0.1,
            vertical_flip: 0.3,
            quarter_turns: 0.75,
            jitter: [0.6, 1.0, 0.9, 0.0, 0.5],
            grayscale: 0.7,
            blur_probability: [0.2, 0.4],
            solarize: [0.25, 0.0],
        };
        let options = PrepOptions { steps, ..test_options() };
        let views = draws(ViewIndex::First, source, &options);
        for (found, expected) in [
            (fraction(&views, |v| v.flip), 0.1),
            (fraction(&views, |v| v.vertical_flip), 0.3),
            (fraction(&views, |v| v.turns == 1), 0.25),
            (fraction(&views, |v| v.turns == 2), 0.25),
            (fraction(&views, |v| v.turns == 3), 0.25),
            (fraction(&views, |v| v.jitter.is_some()), 0.6),
            (fraction(&views, |v| v.grayscale), 0.7),
            (fraction(&views, |v| v.blur.is_some()), 0.2),
            (fraction(&views, |v| v.solarize), 0.25),
        ] {
            assert!((found - expected).abs() < 0.015, "{found} for {expected}");
        }
        let strength = |of: fn(&ColorJitter) -> f32| {
            let values = views.iter().filter_map(|view| view.jitter.as_ref().map(of));
            let [low, high] = [f32::min, f32::max].map(|f| values.clone().reduce(f).unwrap());
            [low, high].map(|value| (value * 100.0).round() / 100.0)
        };
        assert_eq!(strength(|jitter| jitter.brightness), [0.0, 2.0]);
        assert_eq!(strength(|jitter| jitter.contrast), [0.1, 1.9]);
        assert_eq!(strength(|jitter| jitter.saturation), [1.0, 1.0]);
        assert_eq!(strength(|jitter| jitter.hue), [-0.5, 0.5]);
        // Flips and turns come last: with the paper's other values, all else is the paper's.
        let steps = StepOptions { vertical_flip: 0.5, quarter_turns: 0.75, ..StepOptions::PAPER };
        let aerial = draws(ViewIndex::Second, source, &PrepOptions { steps, ..test_options() });
        let paper = draws(ViewIndex::Second, source, &test_options());
        for (aerial, paper) in aerial.iter().zip(&paper) {
            assert_eq!((paper.vertical_flip, paper.turns), (false, 0));
            assert_eq!(&ViewParams { vertical_flip: false, turns: 0, ..*aerial }, paper);
        }
    }

    #[test]
    fn every_value_lies_in_its_range() {
        let options = test_options();
        for source in [(500, 375), (1, 1), (3, 2000), (2000, 3), (33, 40)] {
            let source = ImageSize { width: source.0, height: source.1 };
            for view in draws(ViewIndex::First, source, &options) {
                let crop = view.crop;
                assert!(
                    crop.x >= 0 && crop.y >= 0 && crop.width >= 1 && crop.height >= 1,
                    "{crop:?}"
                );
                assert!(
                    crop.x + crop.width <= source.width && crop.y + crop.height <= source.height
                );
                if let Some(jitter) = view.jitter {
                    assert!(
                        (0.6..=1.4).contains(&jitter.brightness)
                            && (0.6..=1.4).contains(&jitter.contrast)
                    );
                    assert!(
                        (0.8..=1.2).contains(&jitter.saturation)
                            && (-0.1..=0.1).contains(&jitter.hue)
                    );
                }
                assert!((0.1..=2.0).contains(&view.blur.unwrap()));
            }
        }
    }

    #[test]
    fn crops_have_the_requested_area_and_ratio() {
        let options = test_options();
        let views = draws(ViewIndex::Second, ImageSize { width: 1000, height: 1000 }, &options);
        let areas: Vec<f64> = views
            .iter()
            .map(|v| f64::from(v.crop.width) * f64::from(v.crop.height) / 1e6)
            .collect();
        assert!(areas.iter().all(|area| (0.199..1.0001).contains(area)));
        for view in &views {
            let ratio = f64::from(view.crop.width) / f64::from(view.crop.height);
            assert!((0.745..1.342).contains(&ratio), "{ratio}");
        }
    }

    #[test]
    fn resize_blur_draws_one_of_three_factors() {
        let options = PrepOptions { blur: BlurKind::Resize, ..test_options() };
        let views = draws(ViewIndex::First, ImageSize { width: 50, height: 40 }, &options);
        for factor in RESIZE_BLUR_FACTORS {
            let found = fraction(&views, |v| v.blur == Some(factor));
            assert!((found - 1.0 / 3.0).abs() < 0.02, "{factor}: {found}");
        }
    }
}

//! Intervals by bootstrap over images: the boxes of an image succeed and fail together, so whole
//! images are drawn, with replacement, and all quantities are computed anew of each draw (Efron and
//! Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3: the percentile interval).

use rayon::prelude::*;
use scrl_preprocess::views::rng::{Purpose, Stream};

/// Draws of as many images as there are.
pub(super) const RESAMPLES: u64 = 10_000;

/// The part of the draws inside an interval.
const CONFIDENCE: f64 = 0.95;

/// Takes the place of the epoch in the key of the draws.
const NO_EPOCH: u32 = u32::MAX - 1;

/// The 95 % intervals of ratios of sums over images. `images` has the same columns for each image;
/// a ratio is that of the sums of two columns, such as correct boxes and boxes. `None` where fewer
/// than two images count in the denominator: of one image nobody knows how images differ.
///
/// The sums are of integers and every draw has a random stream of its own, so that the result is
/// the same on any number of threads.
pub(super) fn intervals(
    images: &[Vec<i64>],
    ratios: &[[usize; 2]],
    seed: u64,
) -> Vec<Option<[f64; 2]>> {
    let columns = images.first().map_or(0, Vec::len);
    let draw = |number| {
        let mut random = Stream::new(seed, NO_EPOCH, number, Purpose::Evaluation);
        let mut sums = vec![0; columns];
        for _ in images {
            let image = &images[random.below(images.len() as u64) as usize];
            sums.iter_mut().zip(image).for_each(|(sum, value)| *sum += value);
        }
        sums
    };
    let draws: Vec<Vec<i64>> = (0..RESAMPLES).into_par_iter().map(draw).collect();
    let interval = |&[numerator, denominator]: &[usize; 2]| {
        if images.iter().filter(|image| image[denominator] != 0).count() < 2 {
            return None;
        }
        let counted = draws.iter().filter(|sums| sums[denominator] != 0);
        let mut found: Vec<f64> =
            counted.map(|sums| sums[numerator] as f64 / sums[denominator] as f64).collect();
        found.sort_unstable_by(f64::total_cmp);
        let tail = (1.0 - CONFIDENCE) / 2.0;
        Some([quantile(&found, tail), quantile(&found, 1.0 - tail)])
    };
    ratios.par_iter().map(interval).collect()
}

/// A quantile of sorted values, linear between two of them as NumPy's.
fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor();
    let (low, high) = (sorted[below as usize], sorted[position.ceil() as usize]);
    low + (high - low) * (position - below)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    struct Golden {
        /// The difference and the boxes of each image.
        images: Vec<[i64; 2]>,
        interval: [f64; 2],
        standard_error: f64,
    }

    #[test]
    fn an_interval_is_scipys() {
        // Written by scripts/make_goldens_bootstrap.py.
        let text = include_str!("../../../tests/goldens/bootstrap/expected.json");
        let golden: Golden = serde_json::from_str(text).unwrap();
        let images: Vec<Vec<i64>> = golden.images.iter().map(|image| image.to_vec()).collect();
        let [Some(found)] = intervals(&images, &[[0, 1]], 0)[..] else { panic!("an interval") };
        // The standard error of a quantile of 10,000 normal values is 0.027 of their deviation;
        // SciPy drew a million.
        let allowed = 4.0 * 0.027 * golden.standard_error;
        for (found, expected) in found.into_iter().zip(golden.interval) {
            assert!((found - expected).abs() < allowed, "{found} instead of {expected}");
        }
        assert_eq!(intervals(&images, &[[0, 1]], 0)[0], Some(found));
        assert_ne!(intervals(&images, &[[0, 1]], 1)[0], Some(found));
    }

    #[test]
    fn equal_ones_differ_by_nothing_and_one_image_shows_nothing() {
        let images = vec![vec![0, 3, 0], vec![0, 5, 2], vec![0, 1, 0]];
        let found = intervals(&images, &[[0, 1], [1, 1], [0, 2]], 7);
        assert_eq!(found, [Some([0.0, 0.0]), Some([1.0, 1.0]), None]);
        assert_eq!(intervals(&images[..1], &[[1, 1]], 7), [None]);
    }

    #[test]
    fn quantiles_are_linear_between_values() {
        assert_eq!(
            [0.0, 0.25, 0.5, 1.0].map(|q| quantile(&[1.0, 2.0, 4.0], q)),
            [1.0, 1.5, 2.0, 4.0]
        );
    }
}

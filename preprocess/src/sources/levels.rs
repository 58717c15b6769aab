//! The window of `--levels auto`: percentiles of the values of some images.

use rayon::prelude::*;
use scrl_schemas::Levels;

use super::catalog::Sources;
use crate::Result;
use crate::images::{Decoding, SampledValues, sample_values};
use crate::views::rng::{Purpose, Stream};

/// Images whose values are looked at, at most.
const MOST_IMAGES: usize = 1000;
/// The percentiles that become 0 and 255, as fractions.
const PERCENTILES: [f64; 2] = [0.005, 0.995];
/// Images that use less than this of their type's range are hardly visible in it.
const NARROW: f64 = 1.0 / 8.0;

/// The window that suits images with samples of more than 8 bits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FittingWindow {
    /// The values that become 0 and 255.
    pub window: [f64; 2],
    /// The largest value of the samples' type, if all have one.
    pub largest: Option<f64>,
    /// Images that were looked at.
    pub images: usize,
}

impl Sources {
    /// Looks at values of some of the images whose samples have more than 8 bits, chosen by the
    /// seed, on all threads of the current pool. `None` if there are none. At most 70 MB of values
    /// are in memory.
    ///
    /// # Errors
    /// If a file is gone; images that cannot be decoded are left out.
    pub fn fitting_window(&self, seed: u64, how: Decoding) -> Result<Option<FittingWindow>> {
        let mut chosen = self.deep().to_vec();
        if chosen.len() > MOST_IMAGES {
            Stream::new(seed, 0, 0, Purpose::LevelsSample).shuffle(&mut chosen);
            chosen.truncate(MOST_IMAGES);
        }
        let values = |&image_id: &u32| {
            let (_, bytes) = self.read(image_id)?;
            Ok(sample_values(&bytes, how).ok().filter(|found| !found.values.is_empty()))
        };
        let found: Vec<Option<SampledValues>> =
            chosen.par_iter().map(values).collect::<Result<_>>()?;
        Ok(fit(found.into_iter().flatten().collect()))
    }

    /// The window of these levels, with a line for the user where one was chosen or is missing.
    ///
    /// # Errors
    /// As [`Sources::fitting_window`].
    pub fn choose_window(
        &self,
        levels: Levels,
        seed: u64,
        how: Decoding,
    ) -> Result<(Option<[f64; 2]>, Option<String>)> {
        if self.deep().is_empty() && levels == Levels::Full {
            return Ok((None, None));
        }
        let fitting = match levels {
            Levels::Window(_) => None,
            Levels::Full | Levels::Auto => self.fitting_window(seed, how)?,
        };
        Ok(match (levels, fitting) {
            (Levels::Auto, Some(found)) => (Some(found.window), Some(found.taken())),
            (Levels::Auto, None) | (Levels::Window(_), _) if self.deep().is_empty() => {
                let what = "no image has samples of more than 8 bits";
                (None, Some(format!("--levels {levels}: {what}, so it changes nothing")))
            }
            (Levels::Full, Some(found)) => (None, found.advice()),
            _ => (None, None),
        })
    }
}

impl FittingWindow {
    /// The line that says which window was taken.
    fn taken(&self) -> String {
        let [low, high] = self.window.map(number);
        let plural = if self.images == 1 { "" } else { "s" };
        let images = self.images;
        format!(
            "--levels auto: {low}..{high} become 0 to 255, of a sample of {images} image{plural}"
        )
    }

    /// What to say where the whole range is shown and little of it is used.
    fn advice(&self) -> Option<String> {
        let largest = self.largest?;
        let [low, high] = self.window;
        if high - low >= NARROW * largest {
            return None;
        }
        let bits = (largest + 1.0).log2().ceil();
        Some(format!(
            "{bits}-bit images use {}..{} of 0..{}: views will hardly show it; --levels \
             {low}..{high} spreads them (or --levels auto)",
            number(low),
            number(high),
            number(largest)
        ))
    }
}

/// The window that suits these images.
fn fit(images: Vec<SampledValues>) -> Option<FittingWindow> {
    let count = images.len();
    let largest: Option<Vec<f64>> = images.iter().map(|found| found.largest).collect();
    let largest = largest.and_then(|of_each| of_each.into_iter().reduce(f64::max));
    let mut values: Vec<f64> = images.into_iter().flat_map(|found| found.values).collect();
    values.sort_unstable_by(f64::total_cmp);
    let (&least, &most) = (values.first()?, values.last()?);
    let at = PERCENTILES.map(|part| values[(part * (values.len() - 1) as f64).round() as usize]);
    let window = match at {
        [low, high] if low < high => [low, high],
        // Where nearly all pixels are equal, the others count.
        _ if least < most => [least, most],
        // Where all are, they are gray.
        _ => [least - 0.5 * least.abs().max(1.0), least + 0.5 * least.abs().max(1.0)],
    };
    // Floats so far apart that their difference is none.
    let window = if (window[1] - window[0]).is_finite() { window } else { window.map(|v| v / 2.0) };
    Some(FittingWindow { window, largest, images: count })
}

/// A number with its thousands apart, if it is an integer of several.
fn number(value: f64) -> String {
    if value.fract() != 0.0 || value.abs() >= 1e15 {
        return value.to_string();
    }
    let sign = if value < 0.0 { "-" } else { "" };
    format!("{sign}{}", indicatif::HumanCount(value.abs() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(values: impl Iterator<Item = f64>, largest: Option<f64>) -> SampledValues {
        SampledValues { values: values.collect(), largest }
    }

    #[test]
    fn percentiles_of_all_values_make_the_window() {
        let halves = [0..500, 500..1001].map(|part| image(part.map(f64::from), Some(65_535.0)));
        let found = fit(halves.to_vec()).unwrap();
        assert_eq!(
            found,
            FittingWindow { window: [5.0, 995.0], largest: Some(65_535.0), images: 2 }
        );
        assert_eq!(found.taken(), "--levels auto: 5..995 become 0 to 255, of a sample of 2 images");
        assert_eq!(
            found.advice().unwrap(),
            "16-bit images use 5..995 of 0..65,535: views will hardly show it; --levels 5..995 \
             spreads them (or --levels auto)"
        );
    }

    #[test]
    fn nothing_is_advised_where_the_range_is_used_or_there_is_none() {
        let wide = image((0..=8).map(|v| f64::from(v) * 1024.0), Some(65_535.0));
        assert_eq!(fit(vec![wide]).unwrap().advice(), None);
        assert_eq!(fit(vec![image([0.0, 1.0].into_iter(), None)]).unwrap().advice(), None);
        assert_eq!(fit(Vec::new()), None);
    }

    #[test]
    fn a_window_has_a_width_whatever_the_values_are() {
        let window = |values: Vec<f64>| fit(vec![image(values.into_iter(), None)]).unwrap().window;
        assert_eq!(window([vec![0.0; 999], vec![3.0]].concat()), [0.0, 3.0]);
        assert_eq!(window(vec![7.0]), [3.5, 10.5]);
        assert_eq!(window(vec![0.0; 5]), [-0.5, 0.5]);
        assert_eq!(window(vec![-f64::MAX, f64::MAX]), [-f64::MAX / 2.0, f64::MAX / 2.0]);
        let [low, high] = window(vec![1e300; 3]);
        assert!(low < 1e300 && 1e300 < high);
    }
}

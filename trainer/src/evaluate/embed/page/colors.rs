//! Feature maps as colors: the three leading principal components of all their pixels as red,
//! green and blue.

use image::RgbImage;
use image::imageops::{FilterType, resize};
use scrl_preprocess::inspect::page::data_url;

use super::FeatureMap;
use super::sprites::{fit, pixels};
use crate::Result;
use crate::evaluate::embed::pca;

/// The longer side of an image on the page.
const SIDE: u32 = 224;

/// The percentages of the values of a component that become 0 and 255.
const PERCENTILES: [f64; 2] = [0.02, 0.98];

/// An image and its maps as data URLs, all of one size.
pub(super) struct Colored {
    pub size: [u32; 2],
    pub image: String,
    /// One of each arm.
    pub arms: Vec<String>,
}

/// The images with the colors of their feature maps, which mean the same in all images of an arm.
pub(super) fn colored(maps: &[FeatureMap]) -> Result<Vec<Colored>> {
    let arms = maps.iter().map(|map| map.arms.len()).min().unwrap_or(0);
    let mut of_arms = Vec::new();
    for arm in 0..arms {
        of_arms.push(colors(maps.iter().map(|map| &map.arms[arm]))?);
    }
    let mut colored = Vec::new();
    for (number, map) in maps.iter().enumerate() {
        let image = fit(&pixels(&map.image), SIDE);
        let [width, height] = [image.width(), image.height()];
        let smooth = |arm: &Vec<RgbImage>| {
            Ok(data_url(&resize(&arm[number], width, height, FilterType::CatmullRom))?)
        };
        let arms = of_arms.iter().map(smooth).collect::<Result<_>>()?;
        colored.push(Colored { size: [width, height], image: data_url(&image)?, arms });
    }
    Ok(colored)
}

/// The maps of one arm as images, a pixel for each of theirs.
fn colors<'a>(
    maps: impl Iterator<Item = &'a (Vec<f32>, [usize; 3])> + Clone,
) -> Result<Vec<RgbImage>> {
    let channels = maps.clone().map(|(_, [_, _, channels])| *channels).next().unwrap_or(0);
    let pixels: Vec<f32> = maps.clone().flat_map(|(values, _)| values).copied().collect();
    let components = pca::components(&pixels, channels, 3)?.project(&pixels);
    let ranges = [0, 1, 2].map(|axis| range(components.iter().skip(axis).step_by(3)));
    let mut left = components.chunks_exact(3);
    let image = |&(_, [height, width, _]): &(Vec<f32>, [usize; 3])| {
        RgbImage::from_fn(width as u32, height as u32, |_, _| {
            let pixel = left.next().unwrap_or(&[0.0; 3]);
            image::Rgb([0, 1, 2].map(|axis| level(pixel[axis], ranges[axis])))
        })
    };
    Ok(maps.map(image).collect())
}

/// The percentiles of values.
fn range<'a>(values: impl Iterator<Item = &'a f32>) -> [f32; 2] {
    let mut sorted: Vec<f32> = values.copied().filter(|value| value.is_finite()).collect();
    sorted.sort_unstable_by(f32::total_cmp);
    let last = sorted.len().saturating_sub(1) as f64;
    PERCENTILES.map(|at| sorted.get((at * last).round() as usize).copied().unwrap_or(0.0))
}

/// A value within a range as a level; gray if the range is a point.
fn level(value: f32, [low, high]: [f32; 2]) -> u8 {
    let fraction = if high > low { (value - low) / (high - low) } else { 0.5 };
    // NaN becomes 0.
    (fraction * 255.0).round() as u8
}

#[cfg(test)]
mod tests {
    use scrl_preprocess::images::{self, ImageSize};

    use super::*;

    #[test]
    fn a_direction_of_the_features_is_a_color_in_all_images() {
        // The left half has one feature, the right half another, which all maps share.
        let map = |height: usize, width: usize| {
            let value = |i: usize| if i % width < width / 2 { [3.0, 0.0] } else { [0.0, 1.0] };
            let values = (0..height * width).flat_map(value).collect();
            (values, [height, width, 2])
        };
        let maps = [map(4, 6), map(2, 2)];
        let images = colors(maps.iter()).unwrap();
        assert_eq!(images[0].dimensions(), (6, 4));
        for image in &images {
            let [left, right] = [0, image.width() - 1].map(|x| image.get_pixel(x, 1).0);
            // The first component tells them apart; there is no other.
            assert_eq!([left[0], right[0]], [255, 0]);
            assert_eq!([&left[1..], &right[1..]], [[128, 128]; 2]);
        }
    }

    #[test]
    fn levels_keep_to_the_percentiles() {
        let values: Vec<f32> = (0..101).map(|i| i as f32).collect();
        let found = range(values.iter());
        assert_eq!(found, [2.0, 98.0]);
        assert_eq!([-50.0, 2.0, 50.0, 98.0, 1e9].map(|x| level(x, found)), [0, 0, 128, 255, 255]);
        assert_eq!((level(f32::NAN, found), level(1.0, [1.0, 1.0])), (0, 128));
        assert_eq!(range([].iter()), [0.0, 0.0]);
    }

    #[test]
    fn maps_of_equal_pixels_are_gray_and_there_may_be_none() {
        let map = FeatureMap {
            image: images::RgbImage { size: ImageSize { width: 1, height: 1 }, pixels: vec![7; 3] },
            arms: vec![(vec![0.25; 3 * 3 * 5], [3, 3, 5]), (vec![1.0; 4], [1, 1, 4])],
        };
        let found = colored(&[map]).unwrap();
        assert_eq!((found[0].size, found[0].arms.len()), ([SIDE, SIDE], 2));
        assert!(colored(&[]).unwrap().is_empty());
    }
}

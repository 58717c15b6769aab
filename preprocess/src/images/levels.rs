//! Samples of more than 8 bits: the range that becomes the levels 0 to 255, and values of some of
//! them from which such a range is chosen.

use super::rgb_image::ImageSize;

/// Values of an image that are looked at to choose a window, at most.
const MOST_VALUES: usize = 8192;

/// The values that become 0 and 255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Scale {
    low: f64,
    high: f64,
}

impl Scale {
    /// From 0 to the largest value.
    pub fn up_to(high: f64) -> Self {
        Self { low: 0.0, high }
    }

    /// The window if there is one, else up to the largest value.
    pub fn new(window: Option<[f64; 2]>, largest: f64) -> Self {
        window.map_or(Self::up_to(largest), |[low, high]| Self { low, high })
    }

    /// The level of a value: to the nearest, halves up; NaN is 0.
    pub fn level(self, value: f64) -> u8 {
        // The conversion ends at 0 and 255, and takes NaN to 0.
        ((value - self.low) * 255.0 / (self.high - self.low) + 0.5) as u8
    }
}

/// Values of an image whose samples have more than 8 bits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SampledValues {
    /// Finite values on a grid over the image, without those that stand for no data.
    pub values: Vec<f64>,
    /// The largest value that the samples' type has; `None` for floats and numbers with a sign.
    pub largest: Option<f64>,
}

/// Which pixels of an image are looked at: those on a square grid.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid(usize);

impl Grid {
    pub fn over(size: ImageSize) -> Self {
        let [width, height] = [size.width, size.height].map(|side| side as usize);
        let mut step = 1;
        while width.div_ceil(step) * height.div_ceil(step) > MOST_VALUES {
            step += 1;
        }
        Self(step)
    }

    /// Whether a row or a column has pixels of the grid.
    pub fn has(self, at: usize) -> bool {
        at.is_multiple_of(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sixteen_bits_are_divided_by_257_and_rounded() {
        let full = Scale::new(None, 65_535.0);
        for value in 0..=u16::MAX {
            let rounded = ((u32::from(value) + 128) / 257) as u8;
            assert_eq!(full.level(f64::from(value)), rounded, "{value}");
        }
    }

    #[test]
    fn a_window_is_clipped_and_rounds_halves_up() {
        let window = Scale::new(Some([-1.0, 1.0]), 65_535.0);
        let levels = [-1e300, -1.0, 0.0, 0.5, 1.0, 7.0, f64::INFINITY].map(|v| window.level(v));
        assert_eq!(levels, [0, 0, 128, 191, 255, 255, 255]);
        assert_eq!((window.level(f64::NAN), window.level(f64::NEG_INFINITY)), (0, 0));
        // 94 of 940 values are 25.5 levels.
        assert_eq!(Scale::new(Some([51_241.0, 52_181.0]), 0.0).level(51_335.0), 26);
    }

    #[test]
    fn a_grid_has_at_most_so_many_pixels_but_never_none() {
        for (width, height) in [(1, 1), (640, 480), (1, 100_000), (15_360, 14_400)] {
            let grid = Grid::over(ImageSize { width, height });
            let count = |length: i32| (0..length as usize).filter(|&at| grid.has(at)).count();
            let pixels = count(width) * count(height);
            assert!((1..=MOST_VALUES).contains(&pixels), "{width}×{height}: {pixels}");
        }
    }
}

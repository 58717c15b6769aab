//! The pixels of a scene while it is drawn.

use std::str::FromStr;

use crate::noise::{Rgb, mix};

/// Smallest side of a scene in pixels.
const SMALLEST: u32 = 64;

/// Width and height in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    pub width: u32,
    pub height: u32,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split_once('x')
            .and_then(|(width, height)| {
                Some(Self { width: width.parse().ok()?, height: height.parse().ok()? })
            })
            .filter(|size| {
                (SMALLEST..=8192).contains(&size.width) && (SMALLEST..=8192).contains(&size.height)
            })
            .ok_or_else(|| {
                format!("give width and height, such as 320x240, from {SMALLEST} to 8192 pixels")
            })
    }
}

/// Colors by pixel, row after row.
pub struct Canvas {
    pub size: Size,
    pub pixels: Vec<Rgb>,
}

impl Canvas {
    /// A canvas with a color for each pixel, given its center.
    pub fn new(size: Size, color: impl Fn(f64, f64) -> Rgb) -> Self {
        let row = |y| (0..size.width).map(move |x| (f64::from(x) + 0.5, f64::from(y) + 0.5));
        Self { size, pixels: (0..size.height).flat_map(row).map(|(x, y)| color(x, y)).collect() }
    }

    /// Lays a color over the pixels within `reach` of a point, with an opacity from 0 to 1.
    pub fn paint(&mut self, center: [f64; 2], reach: f64, color: impl Fn(f64, f64) -> (Rgb, f64)) {
        let range = |center: f64, end: u32| {
            let limit = f64::from(end);
            (center - reach).clamp(0.0, limit) as usize
                ..(center + reach).ceil().clamp(0.0, limit) as usize
        };
        let columns = range(center[0], self.size.width);
        for y in range(center[1], self.size.height) {
            for x in columns.clone() {
                let pixel = &mut self.pixels[y * self.size.width as usize + x];
                let (color, opacity) = color(x as f64 + 0.5, y as f64 + 0.5);
                *pixel = mix(*pixel, color, opacity);
            }
        }
    }
}

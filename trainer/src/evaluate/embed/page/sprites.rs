//! Many small images in one, so that the page stays small.

use image::RgbImage;
use image::imageops::{FilterType, replace, resize, thumbnail};
use scrl_preprocess::images;
use scrl_preprocess::inspect::page::data_url;

use crate::Result;

/// Images in cells of one size, row by row.
pub(super) struct Sheet {
    /// The image with all of them as a data URL.
    pub url: String,
    /// Cells of a row of the sheet.
    pub columns: u32,
    /// The side of a cell.
    pub cell: u32,
    /// Width and height of each image, which lies at the upper left of its cell.
    pub sizes: Vec<[u32; 2]>,
}

impl Sheet {
    /// A sheet of images no larger than a cell. `cell` is a multiple of 16, the side of what JPEG
    /// compresses at a time, so that no image shines into another.
    pub fn new(images: &[RgbImage], cell: u32) -> Result<Self> {
        // One cell at least, so that there is an image.
        let count = images.len().max(1) as u32;
        let columns = f64::from(count).sqrt().ceil() as u32;
        let mut sheet = RgbImage::new(columns * cell, count.div_ceil(columns) * cell);
        let mut sizes = Vec::new();
        for (number, image) in (0..).zip(images) {
            let [x, y] = [number % columns * cell, number / columns * cell];
            replace(&mut sheet, image, x.into(), y.into());
            sizes.push([image.width(), image.height()]);
        }
        Ok(Self { url: data_url(&sheet)?, columns, cell, sizes })
    }

    /// An image of the sheet as HTML, `side` CSS pixels at the longer side. Its `class` must have
    /// the sheet as its background.
    pub fn span(&self, number: usize, class: &str, side: u32) -> String {
        let scale = f64::from(side) / f64::from(self.cell);
        let [width, height] = self.sizes[number].map(|side| f64::from(side) * scale);
        let number = number as u32;
        let [x, y] = [number % self.columns * side, number / self.columns * side];
        format!(
            "<span class=\"{class}\" style=\"width:{width:.1}px;height:{height:.1}px;\
             background-size:{}px auto;background-position:-{x}px -{y}px\"></span>",
            self.columns * side
        )
    }
}

/// A decoded image.
pub(super) fn pixels(image: &images::RgbImage) -> RgbImage {
    let [width, height] = [image.size.width, image.size.height].map(i32::unsigned_abs);
    RgbImage::from_raw(width, height, image.pixels.clone()).unwrap_or_default()
}

/// The image with its longer side `side` pixels long.
pub(super) fn fit(image: &RgbImage, side: u32) -> RgbImage {
    let [width, height] = [image.width(), image.height()];
    let longer = f64::from(width.max(height).max(1));
    let scaled = |length: u32| (f64::from(length * side) / longer).round().max(1.0) as u32;
    let [to_width, to_height] = [scaled(width), scaled(height)];
    if width == 0 || height == 0 {
        RgbImage::new(1, 1)
    } else if width >= to_width && height >= to_height {
        thumbnail(image, to_width, to_height)
    } else {
        resize(image, to_width, to_height, FilterType::Triangle)
    }
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn images_of_any_size_have_their_cells() {
        let images = [(1, 1), (300, 200), (1, 5000), (96, 96), (7, 3)]
            .map(|(width, height)| RgbImage::from_pixel(width, height, Rgb([200, 10, 90])))
            .map(|image| fit(&image, 48));
        let sheet = Sheet::new(&images, 48).unwrap();
        assert_eq!((sheet.columns, sheet.cell), (3, 48));
        assert_eq!(sheet.sizes, [[48, 48], [48, 32], [1, 48], [48, 48], [48, 21]]);
        assert!(sheet.url.starts_with("data:image/jpeg;base64,"));
        let span = sheet.span(4, "t", 24);
        assert_eq!(
            span,
            "<span class=\"t\" style=\"width:24.0px;height:10.5px;background-size:72px auto;\
             background-position:-24px -24px\"></span>"
        );
        assert_eq!(Sheet::new(&[], 48).unwrap().sizes.len(), 0);
    }
}

//! Bicubic resizing on bytes, as Pillow's `resize(…, BICUBIC)`: a = −0.5, antialiased when
//! shrinking.

use fast_image_resize::images::{TypedCroppedImage, TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use scrl_schemas::Crop;

use crate::images::RgbImage;

/// A resizer and its buffers.
#[derive(Default)]
pub(super) struct Resize {
    resizer: Resizer,
    small: Vec<u8>,
}

/// Catmull-Rom is the bicubic filter with a = −0.5; "convolution" widens it when shrinking.
fn bicubic() -> ResizeOptions {
    ResizeOptions::new().resize_alg(ResizeAlg::Convolution(FilterType::CatmullRom)).use_alpha(false)
}

impl Resize {
    /// Resizes the crop, and nothing outside it, to `into_width` × `into_height` pixels.
    pub(super) fn crop(
        &mut self,
        source: &RgbImage,
        crop: Crop,
        [into_width, into_height]: [u32; 2],
        view: &mut [u8],
    ) {
        let (width, height) = (source.size.width as u32, source.size.height as u32);
        let whole = TypedImageRef::<U8x3>::from_buffer(width, height, &source.pixels)
            .expect("an image has three bytes a pixel");
        let [x, y, w, h] = [crop.x, crop.y, crop.width, crop.height]
            .map(|side| u32::try_from(side).expect("a crop lies within its source"));
        let cut = TypedCroppedImage::new(whole, x, y, w, h).expect("a crop lies within its source");
        let mut view = TypedImage::<U8x3>::from_buffer(into_width, into_height, view)
            .expect("a view has three bytes a pixel");
        self.resizer.resize_typed(&cut, &mut view, &bicubic()).expect("both images have pixels");
    }

    /// The reference's blur: down by `factor` and up again, each side rounded down.
    pub(super) fn blur(&mut self, view: &mut [u8], size: u32, factor: f32) {
        // The decimal factor, 1.2 and not 1.20000005: it matters where the quotient is an integer.
        let factor = (f64::from(factor) * 10.0).round() / 10.0;
        let side = ((f64::from(size) / factor).floor() as u32).max(1);
        self.small.resize(side as usize * side as usize * 3, 0);
        let mut small = TypedImage::<U8x3>::from_buffer(side, side, &mut self.small)
            .expect("three bytes a pixel");
        let mut large =
            TypedImage::<U8x3>::from_buffer(size, size, view).expect("three bytes a pixel");
        let both_have_pixels = "both images have pixels";
        self.resizer.resize_typed(&large, &mut small, &bicubic()).expect(both_have_pixels);
        self.resizer.resize_typed(&small, &mut large, &bicubic()).expect(both_have_pixels);
    }
}

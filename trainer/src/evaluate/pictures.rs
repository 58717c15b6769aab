//! A picture's pixels on their way into a backbone.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use scrl_preprocess::images::ImageSize;
use scrl_preprocess::images::{RgbImage, Unreadable, decode};
use scrl_preprocess::views::render::Renderer;
use scrl_schemas::Exif;

use crate::ops::normalize_pixels;
use crate::{Error, Result};

/// Decodes an image as it lies in its file: the boxes of COCO's lists are those of the image before any turning.
pub(super) fn decode_upright(bytes: &[u8]) -> std::result::Result<RgbImage, Unreadable> {
    decode(bytes, Exif::Ignore)
}

/// A whole image as `size` × `size` pixels.
pub(super) fn squeeze(image: &RgbImage, size: u32) -> RgbImage {
    Renderer::default().resize(image, ImageSize { width: size as i32, height: size as i32 })
}

/// The middle `size` × `size` pixels of an image whose shorter side becomes `shorter`, as torchvision's `Resize` and
/// `CenterCrop` give them.
pub(super) fn centre(image: &RgbImage, shorter: u32, size: u32) -> RgbImage {
    let ImageSize { width, height } = image.size;
    let longer = |a: i32, b: i32| (i64::from(shorter) * i64::from(a) / i64::from(b)) as i32;
    let resized = match width <= height {
        true => ImageSize { width: shorter as i32, height: longer(height, width) },
        false => ImageSize { width: longer(width, height), height: shorter as i32 },
    };
    let resized = Renderer::default().resize(image, resized);
    let side = size as usize;
    // Python rounds halves to even, as torchvision does here.
    let margin = |whole: i32| (f64::from(whole - size as i32) / 2.0).round_ties_even() as usize;
    let (left, top) = (margin(resized.size.width), margin(resized.size.height));
    let row = resized.size.width as usize * 3;
    let pixels = (top..top + side)
        .flat_map(|y| &resized.pixels[y * row + left * 3..][..side * 3])
        .copied()
        .collect();
    RgbImage { size: ImageSize { width: size as i32, height: size as i32 }, pixels }
}

/// Mirrors an image, left to right.
pub(super) fn mirror(image: &mut RgbImage) {
    for row in image.pixels.chunks_exact_mut(image.size.width as usize * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// Makes pictures on all threads, and of them a batch `[N, size, size, 3]`, normalised.
pub(super) fn batch<T: Sync>(
    which: &[T],
    size: u32,
    picture: impl Fn(&T) -> Result<RgbImage> + Send + Sync,
) -> Result<Tensor> {
    let pictures = which.par_iter().map(picture).collect::<Result<Vec<RgbImage>>>()?;
    let side = size as usize;
    let pixels: Vec<u8> = pictures.into_iter().flat_map(|picture| picture.pixels).collect();
    let bytes = Tensor::from_vec(pixels, (which.len(), side, side, 3), &Device::Cpu)?;
    normalize_pixels(&bytes, DType::F32).map_err(Error::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: i32, height: i32) -> RgbImage {
        let pixels = (0..width * height * 3).map(|i| (i % 251) as u8).collect();
        RgbImage { size: ImageSize { width, height }, pixels }
    }

    #[test]
    fn a_picture_of_the_right_size_is_only_cut() {
        let picture = centre(&image(7, 4), 4, 3);
        // Margins of 2 and of 0.5, which Python rounds to 0.
        let whole = image(7, 4);
        for y in 0..3 {
            assert_eq!(picture.pixels[y * 9..][..9], whole.pixels[(y * 7 + 2) * 3..][..9]);
        }
    }

    #[test]
    fn mirrored_twice_is_the_picture() {
        let mut picture = image(5, 2);
        mirror(&mut picture);
        assert_eq!(picture.pixels[..3], image(5, 2).pixels[12..15]);
        mirror(&mut picture);
        assert_eq!(picture, image(5, 2));
    }
}

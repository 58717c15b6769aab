//! Images as inputs of a backbone: decoded, resized, cropped, flipped, batched.

use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use scrl_preprocess::images::{ImageSize, RgbImage, Unreadable, decode};
use scrl_preprocess::views::render::Renderer;
use scrl_schemas::Exif;

use crate::ops::normalize_pixels;
use crate::{Error, Result};

/// Decodes an image without turning it upright: COCO's boxes are in the coordinates of the stored
/// image.
pub(super) fn decode_as_stored(bytes: &[u8]) -> std::result::Result<RgbImage, Unreadable> {
    decode(bytes, Exif::Ignore)
}

/// The image resized to `size` × `size` pixels, whatever its aspect ratio.
pub(super) fn resize(image: &RgbImage, size: u32) -> RgbImage {
    Renderer::default().resize(image, ImageSize { width: size as i32, height: size as i32 })
}

/// The center `size` × `size` pixels of the image, resized so that its shorter side is `shorter`:
/// torchvision's `Resize` and `CenterCrop`.
pub(super) fn center_crop(image: &RgbImage, shorter: u32, size: u32) -> RgbImage {
    let ImageSize { width, height } = image.size;
    let longer = |a: i32, b: i32| (i64::from(shorter) * i64::from(a) / i64::from(b)) as i32;
    let resized = match width <= height {
        true => ImageSize { width: shorter as i32, height: longer(height, width) },
        false => ImageSize { width: longer(width, height), height: shorter as i32 },
    };
    let resized = Renderer::default().resize(image, resized);
    let side = size as usize;
    // torchvision uses Python's round, which rounds halves to even.
    let margin = |length: i32| (f64::from(length - size as i32) / 2.0).round_ties_even() as usize;
    let (left, top) = (margin(resized.size.width), margin(resized.size.height));
    let row = resized.size.width as usize * 3;
    let pixels = (top..top + side)
        .flat_map(|y| &resized.pixels[y * row + left * 3..][..side * 3])
        .copied()
        .collect();
    RgbImage { size: ImageSize { width: size as i32, height: size as i32 }, pixels }
}

/// Flips an image horizontally.
pub(super) fn flip(image: &mut RgbImage) {
    for row in image.pixels.chunks_exact_mut(image.size.width as usize * 3) {
        row.as_chunks_mut::<3>().0.reverse();
    }
}

/// A batch `[N, size, size, 3]`, normalized, of what `input` makes of each item, on all threads.
pub(super) fn batch<T: Sync>(
    items: &[T],
    size: u32,
    input: impl Fn(&T) -> Result<RgbImage> + Send + Sync,
) -> Result<Tensor> {
    let inputs = items.par_iter().map(input).collect::<Result<Vec<RgbImage>>>()?;
    let side = size as usize;
    let pixels: Vec<u8> = inputs.into_iter().flat_map(|input| input.pixels).collect();
    let bytes = Tensor::from_vec(pixels, (items.len(), side, side, 3), &Device::Cpu)?;
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
    fn an_image_of_the_right_size_is_only_cropped() {
        let cropped = center_crop(&image(7, 4), 4, 3);
        // Margins of 2 and of 0.5, which Python rounds to 0.
        let full = image(7, 4);
        for y in 0..3 {
            assert_eq!(cropped.pixels[y * 9..][..9], full.pixels[(y * 7 + 2) * 3..][..9]);
        }
    }

    #[test]
    fn flipped_twice_is_the_same_image() {
        let mut flipped = image(5, 2);
        flip(&mut flipped);
        assert_eq!(flipped.pixels[..3], image(5, 2).pixels[12..15]);
        flip(&mut flipped);
        assert_eq!(flipped, image(5, 2));
    }
}

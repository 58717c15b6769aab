//! A view's pixels to the bytes that a shard stores.

use image_webp::{ColorType, WebPEncoder};
use scrl_schemas::{EncodedImage, Encoding};

use crate::{Error, Result};

/// Encodes `[size, size, 3]` bytes; `None` for recipes, which store no pixels.
///
/// `name` is the picture's file name without its ending.
///
/// # Errors
/// [`Error::Encode`] where the encoder refuses, which no size that passes for an option makes it do.
pub fn encode_view(
    pixels: &[u8],
    size: u32,
    encoding: Encoding,
    quality: u8,
    name: &str,
) -> Result<Option<EncodedImage>> {
    match encoding {
        Encoding::Webp => {
            // Photos take a little over half of their pixels' bytes.
            let mut bytes = Vec::with_capacity(pixels.len() * 3 / 4);
            WebPEncoder::new(&mut bytes)
                .encode(pixels, size, size, ColorType::Rgb8)
                .map_err(|error| Error::Encode(error.to_string()))?;
            bytes.shrink_to_fit();
            Ok(Some(EncodedImage { bytes, path: format!("{name}.webp") }))
        }
        Encoding::Jpeg => {
            let mut bytes = Vec::with_capacity(pixels.len() / 4);
            let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, quality);
            encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
            encoder
                .encode(pixels, size as u16, size as u16, jpeg_encoder::ColorType::Rgb)
                .map_err(|error| Error::Encode(error.to_string()))?;
            bytes.shrink_to_fit();
            Ok(Some(EncodedImage { bytes, path: format!("{name}.jpg") }))
        }
        Encoding::Recipe => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels() -> Vec<u8> {
        (0..48 * 48).flat_map(|i| [(i % 48 * 5) as u8, (i / 48 * 5) as u8, 77]).collect()
    }

    #[test]
    fn webp_comes_back_exactly_and_jpeg_nearly() {
        for (encoding, name, limit) in [(Encoding::Webp, "a.webp", 0), (Encoding::Jpeg, "a.jpg", 8)] {
            let image = encode_view(&pixels(), 48, encoding, 95, "a").unwrap().unwrap();
            assert_eq!(image.path, name);
            let back = image::load_from_memory(&image.bytes).unwrap().into_rgb8().into_raw();
            let worst = back.iter().zip(pixels()).map(|(&a, b)| a.abs_diff(b)).max().unwrap();
            assert!(worst <= limit, "{encoding}: {worst}");
        }
        assert!(encode_view(&pixels(), 48, Encoding::Recipe, 95, "a").unwrap().is_none());
    }
}

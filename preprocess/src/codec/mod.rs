//! A view's pixels to the bytes that a shard stores.

mod webp;

use scrl_schemas::{EncodedImage, ViewEncoding};

use crate::{Error, Result};
use webp::WebpEncoder;

/// Encodes views and reuses its buffers; one for each thread.
#[derive(Default)]
pub struct ViewEncoder {
    webp: WebpEncoder,
    jpeg: Vec<u8>,
}

impl ViewEncoder {
    /// Encodes `[size, size]` pixels, red, green, blue and 0; `None` for recipes, which store no
    /// pixels.
    ///
    /// `name` is the image's file name without its ending.
    ///
    /// # Errors
    /// [`Error::Encode`] if the encoder fails; it does for no size that `--size` accepts.
    pub fn encode(
        &mut self,
        pixels: &[[u8; 4]],
        size: u32,
        encoding: ViewEncoding,
        quality: u8,
        name: &str,
    ) -> Result<Option<EncodedImage>> {
        let (bytes, ending) = match encoding {
            ViewEncoding::Webp => (self.webp.encode(pixels, size as usize, size as usize), "webp"),
            ViewEncoding::Jpeg => {
                self.jpeg.clear();
                let mut encoder = jpeg_encoder::Encoder::new(&mut self.jpeg, quality);
                encoder.set_sampling_factor(jpeg_encoder::SamplingFactor::F_1_1);
                encoder
                    .encode(
                        pixels.as_flattened(),
                        size as u16,
                        size as u16,
                        jpeg_encoder::ColorType::Rgba,
                    )
                    .map_err(|error| Error::Encode(error.to_string()))?;
                (self.jpeg.as_slice(), "jpg")
            }
            ViewEncoding::Recipe => return Ok(None),
        };
        // A copy of the exact length: thousands of rows wait in memory.
        Ok(Some(EncodedImage { bytes: bytes.to_vec(), path: format!("{name}.{ending}") }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels() -> Vec<[u8; 4]> {
        (0..48 * 48).map(|i| [(i % 48 * 5) as u8, (i / 48 * 5) as u8, 77, 0]).collect()
    }

    #[test]
    fn webp_is_lossless_and_jpeg_close() {
        for (encoding, name, limit) in
            [(ViewEncoding::Webp, "a.webp", 0), (ViewEncoding::Jpeg, "a.jpg", 8)]
        {
            let image =
                ViewEncoder::default().encode(&pixels(), 48, encoding, 95, "a").unwrap().unwrap();
            assert_eq!(image.path, name);
            let back = image::load_from_memory(&image.bytes).unwrap().into_rgb8().into_raw();
            let expected =
                pixels().into_iter().flat_map(|[red, green, blue, _]| [red, green, blue]);
            let worst = back.iter().zip(expected).map(|(&a, b)| a.abs_diff(b)).max().unwrap();
            assert!(worst <= limit, "{encoding}: {worst}");
        }
        assert!(
            ViewEncoder::default()
                .encode(&pixels(), 48, ViewEncoding::Recipe, 95, "a")
                .unwrap()
                .is_none()
        );
    }
}

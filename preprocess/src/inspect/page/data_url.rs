//! Images inside HTML.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use image::RgbImage;
use jpeg_encoder::{ColorType, Encoder, SamplingFactor};

use crate::{Error, Result};

/// The quality of the JPEG images on a page.
const QUALITY: u8 = 82;

/// The image as a JPEG data URL.
///
/// # Errors
/// [`Error::Encode`] if a side is 0 or over 65,535 pixels.
pub fn data_url(image: &RgbImage) -> Result<String> {
    let fail = |error: &dyn std::fmt::Display| Error::Encode(error.to_string());
    let width = u16::try_from(image.width()).map_err(|error| fail(&error))?;
    let height = u16::try_from(image.height()).map_err(|error| fail(&error))?;
    let mut bytes = Vec::new();
    let mut encoder = Encoder::new(&mut bytes, QUALITY);
    encoder.set_sampling_factor(SamplingFactor::R_4_2_0);
    encoder.encode(image.as_raw(), width, height, ColorType::Rgb).map_err(|error| fail(&error))?;
    Ok(format!("data:image/jpeg;base64,{}", STANDARD.encode(bytes)))
}

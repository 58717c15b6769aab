//! An image in memory, and why a file is not one; what all formats share.

use std::fmt;

use image::ImageFormat;
use image::metadata::Orientation;

/// More pixels than this are refused as a decompression bomb, by default: twice Pillow's
/// `MAX_IMAGE_PIXELS`, where it raises.
pub const MAX_SOURCE_PIXELS: u64 = 2 * (1024 * 1024 * 1024 / 4 / 3);

/// Larger files are refused before they are read, in bytes.
pub const MAX_SOURCE_BYTES: u64 = 1 << 30;

/// Width and height of an image in pixels, both at least 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageSize {
    /// Pixels from left to right.
    pub width: i32,
    /// Pixels from top to bottom.
    pub height: i32,
}

/// Memory that a decoder may take for each pixel, in bytes: 16 bits in four channels, decoded and
/// before that.
pub const MAX_BYTES_PER_PIXEL: u64 = 16;
/// Memory that a decoder may take whatever the image's size: tables, rows, color profiles.
pub const SPARE_BYTES: u64 = 64 << 20;

/// Why an image has no rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Unreadable {
    pub(super) fn because(reason: impl fmt::Display) -> Self {
        // One line of some length, whatever the decoder says: the reason becomes a cell of a table.
        let words = reason.to_string().split_whitespace().collect::<Vec<_>>().join(" ");
        // What the standard library says of a file that is cut short.
        let words = words.replace("failed to fill whole buffer", "the file ends too soon");
        Self(words.chars().take(MAX_REASON).collect())
    }

    /// With the kind of image before it, where the decoder did not say it.
    pub(super) fn of(self, format: ImageFormat) -> Self {
        let name = match format {
            ImageFormat::Jpeg => "JPEG",
            ImageFormat::Png => "PNG",
            ImageFormat::WebP => "WebP",
            ImageFormat::Bmp => "BMP",
            ImageFormat::Tiff => "TIFF",
            ImageFormat::Gif => "GIF",
            ImageFormat::Pnm => "PNM",
            _ => return self,
        };
        if self.0.starts_with(name) { self } else { Self(format!("{name}: {}", self.0)) }
    }
}

/// Characters of a reason that are kept.
const MAX_REASON: usize = 300;

/// An image in memory: rows from the top, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Width and height in pixels.
    pub size: ImageSize,
    /// `[height, width, 3]`, red first.
    pub pixels: Vec<u8>,
}

/// The content of a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Width and height in pixels, as stored or turned upright.
    pub size: ImageSize,
    pub(super) orientation: Orientation,
    /// Whether the samples have more than 8 bits.
    pub is_deep: bool,
    /// Samples of a pixel of which only the first three are shown, as nothing says what they are;
    /// 0 for other images.
    pub bands: u16,
}

impl Header {
    /// Of an image of 8 bits a sample.
    pub(super) fn of_bytes(size: ImageSize, orientation: Orientation) -> Self {
        Self { size, orientation, is_deep: false, bands: 0 }
    }
}

/// Refuses an image without pixels, or with more than `most`.
pub(super) fn check_size(width: u64, height: u64, most: u64) -> Result<ImageSize, Unreadable> {
    if width == 0 || height == 0 {
        return Err(Unreadable::because("no pixels"));
    }
    if width.saturating_mul(height) > most {
        let limit = match most / 1_000_000 {
            0 => most.to_string(),
            millions => format!("{millions} million"),
        };
        return Err(Unreadable::because(format!(
            "{width}×{height} pixels: more than {limit}; see --max-pixels"
        )));
    }
    // Both fit: neither is above the number of pixels, which an option keeps below 2³¹.
    Ok(ImageSize { width: width as i32, height: height as i32 })
}

/// Pixels of an image of this size.
pub(super) fn area(size: ImageSize) -> usize {
    size.width as usize * size.height as usize
}

/// Gray to RGB.
pub(super) fn spread(gray: impl ExactSizeIterator<Item = u8>) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(gray.len() * 3);
    pixels.extend(gray.flat_map(|level| [level; 3]));
    pixels
}

/// The first three of every `channels` samples.
pub(super) fn first_three(samples: &[u8], channels: usize) -> Vec<u8> {
    let mut pixels = Vec::with_capacity(samples.len() / channels * 3);
    pixels.extend(samples.chunks_exact(channels).flat_map(|pixel| [pixel[0], pixel[1], pixel[2]]));
    pixels
}

/// Pillow's step from inks (255 = full) to RGB, to the last bit.
pub(super) fn ink_to_rgb([cyan, magenta, yellow, black]: [u8; 4]) -> [u8; 3] {
    let light = 255 - black;
    [cyan, magenta, yellow].map(|ink| light - scale(ink, light))
}

/// `a · b / 255`, rounded.
pub(super) fn scale(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    ((product + (product >> 8)) >> 8) as u8
}

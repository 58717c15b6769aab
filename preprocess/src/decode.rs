//! A file's bytes to RGB pixels, as Pillow's `Image.open(…).convert("RGB")` gives them.
//!
//! The content decides which decoder is used; the file's name plays no part. Whatever is wrong with a file becomes an
//! [`Unreadable`] with a reason: a damaged image never stops a run.

use std::fmt;
use std::io::Cursor;

use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};
use scrl_schemas::Exif;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::draw::ImageSize;
use crate::method::MAX_SOURCE_PIXELS;

/// Memory that a decoder other than JPEG's may take, in bytes: 16 bits in four channels of the largest image.
const MAX_DECODER_BYTES: u64 = MAX_SOURCE_PIXELS * 8;

/// Why an image has no rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable(pub String);

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Unreadable {
    fn because(reason: impl fmt::Display) -> Self {
        // One line, whatever the decoder says: the reason becomes a cell of a table.
        Self(reason.to_string().split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// An image in memory: rows from the top, three bytes a pixel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RgbImage {
    /// Width and height in pixels.
    pub size: ImageSize,
    /// `[height, width, 3]`, red first.
    pub pixels: Vec<u8>,
}

/// Reads width and height from a file's first bytes or all of them, and refuses what [`decode`] would refuse for its
/// size. With [`Exif::Apply`], the size is that after turning.
///
/// # Errors
/// [`Unreadable`] where the header is damaged, unknown or promises too many pixels.
pub fn read_size(bytes: &[u8], exif: Exif) -> Result<ImageSize, Unreadable> {
    let (size, turn) = match recognize(bytes)? {
        ImageFormat::Jpeg => {
            let (_, size, orientation) = open_jpeg(bytes)?;
            (size, orientation)
        }
        format => {
            let (mut decoder, size) = open_other(bytes, format)?;
            (size, decoder.orientation().map_or(1, image::metadata::Orientation::to_exif))
        }
    };
    let sideways = exif == Exif::Apply && turn >= 5;
    Ok(if sideways { ImageSize { width: size.height, height: size.width } } else { size })
}

/// Decodes an image whole.
///
/// # Errors
/// [`Unreadable`] with the reason where the file is damaged, cut short, of an unknown kind or too large.
pub fn decode(bytes: &[u8], exif: Exif) -> Result<RgbImage, Unreadable> {
    let (image, orientation) = match recognize(bytes)? {
        ImageFormat::Jpeg => decode_jpeg(bytes)?,
        format => decode_other(bytes, format)?,
    };
    match exif {
        Exif::Ignore => Ok(image),
        Exif::Apply => turn_upright(image, orientation),
    }
}

fn recognize(bytes: &[u8]) -> Result<ImageFormat, Unreadable> {
    if bytes.is_empty() {
        return Err(Unreadable::because("empty file"));
    }
    let format =
        image::guess_format(bytes).map_err(|_| Unreadable::because("not an image of a known kind"))?;
    match format {
        ImageFormat::Jpeg
        | ImageFormat::Png
        | ImageFormat::WebP
        | ImageFormat::Bmp
        | ImageFormat::Tiff
        | ImageFormat::Gif => Ok(format),
        other => Err(Unreadable::because(format!("{other:?} images are not supported"))),
    }
}

fn check_size(width: u64, height: u64) -> Result<ImageSize, Unreadable> {
    if width == 0 || height == 0 {
        return Err(Unreadable::because("no pixels"));
    }
    if width.saturating_mul(height) > MAX_SOURCE_PIXELS {
        let limit = MAX_SOURCE_PIXELS / 1_000_000;
        return Err(Unreadable::because(format!("{width}×{height} pixels: more than {limit} million")));
    }
    Ok(ImageSize { width: width as i32, height: height as i32 })
}

type Jpeg<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

/// Reads the header; the last number is the EXIF orientation.
fn open_jpeg(bytes: &[u8]) -> Result<(Jpeg<'_>, ImageSize, u8), Unreadable> {
    let options = DecoderOptions::new_fast()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(|error| Unreadable::because(format!("JPEG: {error:?}")))?;
    let (width, height) = decoder.dimensions().ok_or_else(|| Unreadable::because("JPEG: no size"))?;
    let size = check_size(width as u64, height as u64)?;
    let orientation = decoder
        .exif()
        .and_then(|chunk| image::metadata::Orientation::from_exif_chunk(chunk))
        .map_or(1, image::metadata::Orientation::to_exif);
    Ok((decoder, size, orientation))
}

fn decode_jpeg(bytes: &[u8]) -> Result<(RgbImage, u8), Unreadable> {
    let (mut decoder, size, orientation) = open_jpeg(bytes)?;
    // The decoder fills what is missing with gray; an image cut short is no image.
    if !jpeg_has_its_end(bytes) {
        return Err(Unreadable::because("JPEG: cut short, its end is missing"));
    }
    let expected = size.width as usize * size.height as usize * 3;
    if decoder.output_buffer_size() != Some(expected) {
        return Err(Unreadable::because("JPEG: neither gray, color nor CMYK"));
    }
    let mut pixels = vec![0; expected];
    decoder.decode_into(&mut pixels).map_err(|error| Unreadable::because(format!("JPEG: {error:?}")))?;
    Ok((RgbImage { size, pixels }, orientation))
}

/// Whether an end marker follows the first scan. (Thumbnails in the header have end markers of their own.)
fn jpeg_has_its_end(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xDA;
    const END_OF_IMAGE: [u8; 2] = [0xFF, 0xD9];
    let mut at = 2;
    while let Some(&[mark, kind, high, low]) = bytes.get(at..at + 4).and_then(|b| b.first_chunk::<4>()) {
        if mark != 0xFF {
            break;
        }
        if kind == START_OF_SCAN {
            return bytes[at..].windows(2).rev().any(|pair| pair == END_OF_IMAGE);
        }
        // Fill bytes before a marker, and markers that stand alone.
        let alone = matches!(kind, 0x01 | 0xD0..=0xD8);
        at += match kind {
            0xFF => 1,
            _ if alone => 2,
            _ => 2 + usize::from(u16::from_be_bytes([high, low])),
        };
    }
    // No orderly chain of segments: leave the judgment to the decoder.
    true
}

/// Reads the header of anything but JPEG.
fn open_other(bytes: &[u8], format: ImageFormat) -> Result<(impl ImageDecoder + '_, ImageSize), Unreadable> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_alloc = Some(MAX_DECODER_BYTES);
    reader.limits(limits);
    let decoder = reader.into_decoder().map_err(Unreadable::because)?;
    let (width, height) = decoder.dimensions();
    let size = check_size(u64::from(width), u64::from(height))?;
    Ok((decoder, size))
}

fn decode_other(bytes: &[u8], format: ImageFormat) -> Result<(RgbImage, u8), Unreadable> {
    let (mut decoder, size) = open_other(bytes, format)?;
    let orientation = decoder.orientation().map_or(1, image::metadata::Orientation::to_exif);
    let image = DynamicImage::from_decoder(decoder).map_err(Unreadable::because)?;
    // Transparency is dropped, not blended: the colors as stored.
    Ok((RgbImage { size, pixels: image.into_rgb8().into_raw() }, orientation))
}

fn turn_upright(image: RgbImage, orientation: u8) -> Result<RgbImage, Unreadable> {
    let Some(orientation) = image::metadata::Orientation::from_exif(orientation) else { return Ok(image) };
    let (width, height) = (image.size.width as u32, image.size.height as u32);
    let pixels = image::RgbImage::from_raw(width, height, image.pixels)
        .ok_or_else(|| Unreadable::because("size and pixels disagree"))?;
    let mut turned = DynamicImage::ImageRgb8(pixels);
    turned.apply_orientation(orientation);
    let size = ImageSize { width: turned.width() as i32, height: turned.height() as i32 };
    Ok(RgbImage { size, pixels: turned.into_rgb8().into_raw() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient() -> image::RgbImage {
        image::RgbImage::from_fn(37, 23, |x, y| image::Rgb([(x * 6) as u8, (y * 10) as u8, 90]))
    }

    fn encoded(format: ImageFormat) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        gradient().write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    }

    #[test]
    fn lossless_kinds_come_back_exactly() {
        for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
            let bytes = encoded(format);
            let size = read_size(&bytes, Exif::Ignore).unwrap();
            assert_eq!((size.width, size.height), (37, 23), "{format:?}");
            let image = decode(&bytes, Exif::Ignore).unwrap();
            assert_eq!(image.pixels, gradient().into_raw(), "{format:?}");
        }
    }

    #[test]
    fn transparency_is_dropped() {
        let mut bytes = Cursor::new(Vec::new());
        let clear = image::RgbaImage::from_pixel(4, 4, image::Rgba([10, 20, 30, 0]));
        clear.write_to(&mut bytes, ImageFormat::Png).unwrap();
        let image = decode(bytes.get_ref(), Exif::Ignore).unwrap();
        assert_eq!(&image.pixels[..3], [10, 20, 30]);
    }

    #[test]
    fn a_jpeg_cut_short_is_refused_whatever_it_lacks() {
        let whole = encoded(ImageFormat::Jpeg);
        assert!(decode(&whole, Exif::Ignore).is_ok());
        for length in [20, whole.len() / 2, whole.len() - 2] {
            let reason = decode(&whole[..length], Exif::Ignore).unwrap_err();
            assert!(reason.0.contains("JPEG"), "{reason}");
        }
    }

    #[test]
    fn nonsense_is_refused_with_a_reason_of_one_line() {
        let mut png = encoded(ImageFormat::Png);
        png.truncate(60);
        for bytes in [&b""[..], b"GIF89a", b"hello, this is text", &png] {
            let reason = decode(bytes, Exif::Ignore).unwrap_err();
            assert!(!reason.0.is_empty() && !reason.0.contains('\n'), "{reason:?}");
        }
    }

    #[test]
    fn a_header_that_promises_too_much_is_refused_before_memory_is_taken() {
        let mut png = encoded(ImageFormat::Png);
        // Width and height of IHDR, then its checksum.
        png[16..24].copy_from_slice(&[0, 0, 0xEA, 0x60, 0, 0, 0xEA, 0x60]);
        let checksum = crc32(&png[12..29]);
        png[29..33].copy_from_slice(&checksum.to_be_bytes());
        let reason = decode(&png, Exif::Ignore).unwrap_err();
        assert!(reason.0.contains("60000×60000"), "{reason}");
        assert_eq!(read_size(&png, Exif::Ignore), Err(reason));
    }

    fn crc32(bytes: &[u8]) -> u32 {
        !bytes.iter().fold(u32::MAX, |crc, &byte| {
            (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
        })
    }

    #[test]
    fn exif_turns_only_when_asked() {
        let image = RgbImage { size: ImageSize { width: 2, height: 1 }, pixels: vec![1, 1, 1, 2, 2, 2] };
        let turned = turn_upright(image, 6).unwrap();
        assert_eq!((turned.size.width, turned.size.height), (1, 2));
        assert_eq!(turned.pixels, [1, 1, 1, 2, 2, 2]);
    }
}

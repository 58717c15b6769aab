//! PNG and BMP.

use std::io::Cursor;

use image::codecs::{bmp::BmpDecoder, png::PngDecoder};
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, Limits};

use super::{Header, MAX_BYTES_A_PIXEL, SPARE_BYTES, Unreadable, check_size, first_three, spread};

type Bytes<'a> = Cursor<&'a [u8]>;

pub(super) fn header(bytes: &[u8], format: ImageFormat) -> Result<Header, Unreadable> {
    match format {
        ImageFormat::Png => header_of(&mut open_png(bytes)?),
        _ => header_of(&mut open_bmp(bytes)?),
    }
}

pub(super) fn decode(bytes: &[u8], format: ImageFormat) -> Result<(Header, Vec<u8>), Unreadable> {
    match format {
        ImageFormat::Png => {
            let mut decoder = open_png(bytes)?;
            Ok((header_of(&mut decoder)?, pixels(decoder, is_gray16(bytes))?))
        }
        _ => {
            let mut decoder = open_bmp(bytes)?;
            Ok((header_of(&mut decoder)?, pixels(decoder, false)?))
        }
    }
}

/// The size stands at a fixed place, and is checked before the decoder sees the file: what chunks before the pixels
/// may unpack to, such as a color profile, is limited by it.
fn open_png(bytes: &[u8]) -> Result<PngDecoder<Bytes<'_>>, Unreadable> {
    const WIDTH_AND_HEIGHT: std::ops::Range<usize> = 16..24;
    let places =
        bytes.get(WIDTH_AND_HEIGHT).ok_or_else(|| Unreadable::because("PNG: cut short"))?;
    let number = |at: usize| {
        u64::from(u32::from_be_bytes([places[at], places[at + 1], places[at + 2], places[at + 3]]))
    };
    let (width, height) = (number(0), number(4));
    check_size(width, height)?;
    check_palette(bytes)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(width * height * MAX_BYTES_A_PIXEL / 2 + SPARE_BYTES / 4);
    PngDecoder::with_limits(Cursor::new(bytes), limits).map_err(Unreadable::because)
}

/// Refuses a palette that ends within a color, at which the decoder would panic.
fn check_palette(bytes: &[u8]) -> Result<(), Unreadable> {
    let mut chunks = bytes.get(8..).unwrap_or_default();
    while let Some((header, rest)) = chunks.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]) as usize;
        match &header[4..] {
            b"PLTE" if !length.is_multiple_of(3) => {
                return Err(Unreadable::because("PNG: half a color in its palette"));
            }
            b"IDAT" => break,
            // On past the data and the checksum.
            _ => chunks = rest.get(length + 4..).unwrap_or_default(),
        }
    }
    Ok(())
}

/// Whether a PNG's pixels are 16 bits of gray each.
fn is_gray16(bytes: &[u8]) -> bool {
    const BITS_AND_COLOR: std::ops::Range<usize> = 24..26;
    bytes.get(BITS_AND_COLOR) == Some(&[16, 0])
}

fn open_bmp(bytes: &[u8]) -> Result<BmpDecoder<Bytes<'_>>, Unreadable> {
    BmpDecoder::new(Cursor::new(bytes)).map_err(Unreadable::because)
}

fn header_of(decoder: &mut impl ImageDecoder) -> Result<Header, Unreadable> {
    let (width, height) = decoder.dimensions();
    let size = check_size(u64::from(width), u64::from(height))?;
    Ok(Header { size, orientation: decoder.orientation().unwrap_or(Orientation::NoTransforms) })
}

/// Transparency is dropped, not blended: the colors as stored. Of 16 bits the upper eight are kept, except that gray
/// without an opacity for each pixel is clipped at 255, as Pillow does it.
fn pixels(decoder: impl ImageDecoder, gray16: bool) -> Result<Vec<u8>, Unreadable> {
    let image = DynamicImage::from_decoder(decoder).map_err(Unreadable::because)?;
    let upper = |samples: Vec<u16>| {
        samples.into_iter().map(|sample| (sample >> 8) as u8).collect::<Vec<_>>()
    };
    let clip = |level: u16| level.min(255) as u8;
    Ok(match image {
        DynamicImage::ImageLuma8(image) => spread(image.into_raw().into_iter()),
        DynamicImage::ImageLumaA8(image) => {
            spread(image.into_raw().chunks_exact(2).map(|pixel| pixel[0]))
        }
        DynamicImage::ImageRgb8(image) => image.into_raw(),
        DynamicImage::ImageRgba8(image) => first_three(&image.into_raw(), 4),
        DynamicImage::ImageLuma16(image) => spread(image.into_raw().into_iter().map(clip)),
        // One level was declared transparent.
        DynamicImage::ImageLumaA16(image) if gray16 => {
            spread(image.into_raw().chunks_exact(2).map(|pixel| clip(pixel[0])))
        }
        DynamicImage::ImageLumaA16(image) => {
            spread(upper(image.into_raw()).chunks_exact(2).map(|pixel| pixel[0]))
        }
        DynamicImage::ImageRgb16(image) => upper(image.into_raw()),
        DynamicImage::ImageRgba16(image) => first_three(&upper(image.into_raw()), 4),
        other => return Err(Unreadable::because(format!("samples of {:?}", other.color()))),
    })
}

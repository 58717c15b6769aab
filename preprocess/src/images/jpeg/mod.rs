//! JPEG: baseline and progressive; gray, YCbCr, RGB, and the inks CMYK and YCCK.

mod markers;
mod rewrite;

use std::ops::RangeInclusive;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use self::rewrite::{Color, MAX_SCANS, Markers, Rewritten};
use crate::images::decode::Decoding;
use crate::images::rgb_image::{
    Header, ImageSize, MAX_SOURCE_PIXELS, Unreadable, area, check_size, ink_to_rgb,
};

/// Pixels times scans beyond which an image is refused: some seconds of work.
const MAX_SCANNED_PIXELS: usize = 4_000_000_000;
/// The most pixels that a byte can stand for: one bit for each block of 8 by 8, and half of the
/// blocks left out by subsampling.
const MAX_PIXELS_A_BYTE: usize = 8 * 64 * 2;

pub(super) fn header(bytes: &[u8], how: Decoding) -> Result<Header, Unreadable> {
    Ok(open(bytes, how.max_pixels)?.1)
}

pub(super) fn decode(bytes: &[u8], how: Decoding) -> Result<(Header, Vec<u8>), Unreadable> {
    let (markers, header) = open(bytes, how.max_pixels)?;
    let (color, stream) = (markers.color, rewrite(markers, how.lenient)?);
    let mut pixels = vec![0; area(header.size) * 3];
    read(&stream, color, &mut pixels)?;
    Ok((header, pixels))
}

/// Decodes an image of `size` into `pixels`, `[height, width, 3]`, and leaves one of another size
/// undecoded. Returns the size that the image has.
pub(super) fn decode_view(
    bytes: &[u8],
    size: ImageSize,
    pixels: &mut [u8],
) -> Result<ImageSize, Unreadable> {
    let (markers, header) = open(bytes, MAX_SOURCE_PIXELS)?;
    if header.size == size {
        let (color, stream) = (markers.color, rewrite(markers, false)?);
        read(&stream, color, pixels)?;
    }
    Ok(header.size)
}

fn open(bytes: &[u8], max_pixels: u64) -> Result<(Markers<'_>, Header), Unreadable> {
    let markers = Markers::open(bytes)?;
    let ImageSize { width, height } = markers.size();
    let size = check_size(width as u64, height as u64, max_pixels)?;
    let orientation = markers.orientation;
    Ok((markers, Header::of_bytes(size, orientation)))
}

/// The file as the decoder gets to see it. Refused is what is broken, if not `lenient`, and what
/// would take too long.
fn rewrite(markers: Markers<'_>, lenient: bool) -> Result<Vec<u8>, Unreadable> {
    let size = markers.size();
    let Rewritten { stream, scans, fault } = markers.rewrite();
    if let Some(fault) = fault.filter(|_| !lenient) {
        return Err(fault.into());
    }
    let ImageSize { width, height } = size;
    if area(size) / MAX_PIXELS_A_BYTE > stream.len() {
        let reason = format!("JPEG: too few bytes for {width}×{height} pixels");
        return Err(Unreadable(reason));
    }
    if scans * area(size) > MAX_SCANNED_PIXELS {
        return Err(Unreadable(format!("JPEG: {scans} scans of {width}×{height} pixels")));
    }
    Ok(stream)
}

/// A JPEG inside another file: a strip or a tile of a TIFF.
pub(super) struct Part<'a> {
    /// A JPEG of tables alone, which the data lack; or nothing.
    pub tables: &'a [u8],
    pub data: &'a [u8],
    /// Whether three components are luma and chroma, whatever the JPEG itself says.
    pub is_ycc: bool,
    /// The width that it must have, and the heights that it may have.
    pub width: usize,
    pub heights: RangeInclusive<usize>,
    /// The components that it must have.
    pub samples: usize,
}

/// Decodes to `[height, width, samples]`: gray, RGB, or four components as they are stored.
pub(super) fn decode_part(part: &Part) -> Result<Vec<u8>, Unreadable> {
    // From both the mark of the beginning, and of the tables that of the end.
    let tables = part.tables.get(2..part.tables.len().saturating_sub(2)).unwrap_or_default();
    let start = part.data.get(..2).unwrap_or_default();
    let file = [start, tables, part.data.get(2..).unwrap_or_default()].concat();
    let mut markers = Markers::open(&file)?;
    let size = markers.size();
    let [width, height] = [size.width as usize, size.height as usize];
    if width != part.width || !part.heights.contains(&height) {
        let reason = format!("JPEG: {width}×{height} pixels in a strip or tile of other size");
        return Err(Unreadable(reason));
    }
    let (colors, samples) = match markers.color {
        Color::Gray => (ColorSpace::Luma, 1),
        Color::YCbCr | Color::Rgb => (ColorSpace::RGB, 3),
        Color::Cmyk | Color::Ycck => (ColorSpace::CMYK, 4),
    };
    if samples != part.samples {
        return Err(Unreadable::because("JPEG: another number of components than samples"));
    }
    markers.color = match samples {
        1 => Color::Gray,
        3 if part.is_ycc => Color::YCbCr,
        3 => Color::Rgb,
        _ => Color::Cmyk,
    };
    let mut bytes = vec![0; area(size) * samples];
    fill(&rewrite(markers, false)?, colors, &mut bytes)?;
    Ok(bytes)
}

/// Decodes to RGB.
fn read(stream: &[u8], color: Color, pixels: &mut [u8]) -> Result<(), Unreadable> {
    if color != Color::Cmyk {
        return fill(stream, ColorSpace::RGB, pixels);
    }
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    let mut white = vec![[0; 4]; pixels.len()];
    fill(stream, ColorSpace::CMYK, white.as_flattened_mut())?;
    // Stored as what the inks leave white, whether or not Adobe's mark says so: Pillow assumes the
    // same.
    for (pixel, white) in pixels.iter_mut().zip(white) {
        *pixel = ink_to_rgb(white.map(|level| 255 - level));
    }
    Ok(())
}

fn fill(stream: &[u8], colors: ColorSpace, samples: &mut [u8]) -> Result<(), Unreadable> {
    let options = DecoderOptions::new_fast()
        .jpeg_set_out_colorspace(colors)
        .jpeg_set_max_scans(MAX_SCANS)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(stream), options);
    let refused = |error| Unreadable::because(format!("JPEG: {error:?}"));
    decoder.decode_headers().map_err(refused)?;
    if decoder.output_buffer_size() != Some(samples.len()) {
        return Err(Unreadable::because("JPEG: neither gray, color nor CMYK"));
    }
    decoder.decode_into(samples).map_err(refused)
}

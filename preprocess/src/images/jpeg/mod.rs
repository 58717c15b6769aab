//! JPEG: baseline and progressive; gray, YCbCr, RGB, and the inks CMYK and YCCK.

mod markers;
mod rewrite;

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use self::rewrite::{Color, MAX_SCANS, Markers, Rewritten};
use crate::images::rgb_image::{Header, ImageSize, Unreadable, area, check_size, ink_to_rgb};

/// Pixels times scans beyond which an image is refused: some seconds of work.
const MAX_SCANNED_PIXELS: usize = 4_000_000_000;
/// The most pixels that a byte can stand for: one bit for each block of 8 by 8, and half of the
/// blocks left out by subsampling.
const MAX_PIXELS_A_BYTE: usize = 8 * 64 * 2;

pub(super) fn header(bytes: &[u8]) -> Result<Header, Unreadable> {
    Ok(open(bytes)?.1)
}

pub(super) fn decode(bytes: &[u8], lenient: bool) -> Result<(Header, Vec<u8>), Unreadable> {
    let (markers, header) = open(bytes)?;
    let (color, stream) = (markers.color, rewrite(markers, lenient)?);
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
    let (markers, header) = open(bytes)?;
    if header.size == size {
        let (color, stream) = (markers.color, rewrite(markers, false)?);
        read(&stream, color, pixels)?;
    }
    Ok(header.size)
}

fn open(bytes: &[u8]) -> Result<(Markers<'_>, Header), Unreadable> {
    let markers = Markers::open(bytes)?;
    let ImageSize { width, height } = markers.size();
    let size = check_size(width as u64, height as u64)?;
    let orientation = markers.orientation;
    Ok((markers, Header { size, orientation }))
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

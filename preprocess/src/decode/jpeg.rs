//! JPEG: baseline and progressive; gray, YCbCr, RGB, and the inks CMYK and YCCK.

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{Header, Unreadable, area, check_size, ink_to_rgb};

/// Scans of a progressive image beyond which it is refused. Encoders write about ten; each costs a pass over the image.
const MAX_SCANS: usize = 100;

type Jpeg<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

pub(super) fn header(bytes: &[u8]) -> Result<Header, Unreadable> {
    Ok(open(bytes)?.1)
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Header, Vec<u8>), Unreadable> {
    let (mut decoder, header) = open(bytes)?;
    // The decoder fills what is missing with gray; an image cut short is no image.
    if !has_its_end(bytes) {
        return Err(Unreadable::because("JPEG: cut short, its end is missing"));
    }
    let inks = decoder.input_colorspace() == Some(ColorSpace::CMYK)
        && decoder.info().is_some_and(|info| info.components == 4);
    if inks {
        let options = decoder.options().jpeg_set_out_colorspace(ColorSpace::CMYK);
        decoder.set_options(options);
    }
    let channels = if inks { 4 } else { 3 };
    let expected = area(header.size) * channels;
    if decoder.output_buffer_size() != Some(expected) {
        return Err(Unreadable::because("JPEG: neither gray, color nor CMYK"));
    }
    let mut pixels = vec![0; expected];
    decoder.decode_into(&mut pixels).map_err(refused)?;
    if inks {
        // Stored as what the inks leave white, whether or not Adobe's mark says so: Pillow assumes the same.
        let (whole, _) = pixels.as_chunks::<4>();
        pixels = whole.iter().flat_map(|left| ink_to_rgb(left.map(|level| 255 - level))).collect();
    }
    Ok((header, pixels))
}

fn open(bytes: &[u8]) -> Result<(Jpeg<'_>, Header), Unreadable> {
    let options = DecoderOptions::new_fast()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .jpeg_set_max_scans(MAX_SCANS)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(refused)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| Unreadable::because("JPEG: no size"))?;
    let size = check_size(width as u64, height as u64)?;
    let orientation = decoder
        .exif()
        .and_then(|chunk| Orientation::from_exif_chunk(chunk))
        .unwrap_or(Orientation::NoTransforms);
    Ok((decoder, Header { size, orientation }))
}

fn refused(error: impl std::fmt::Debug) -> Unreadable {
    Unreadable::because(format!("JPEG: {error:?}"))
}

/// Whether an end marker follows the first scan. (Thumbnails in the header have end markers of their own.)
fn has_its_end(bytes: &[u8]) -> bool {
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

//! JPEG: baseline and progressive; gray, YCbCr, RGB, and the inks CMYK and YCCK.

use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use super::{Header, Unreadable, area, check_size, ink_to_rgb};
use crate::images::ImageSize;

/// Scans beyond which an image is refused. Encoders write about ten; each costs a pass over the image.
const MAX_SCANS: usize = 100;
/// Pixels times scans beyond which an image is refused: some seconds of work.
const MAX_SCANNED_PIXELS: usize = 4_000_000_000;
/// The most pixels that a byte can stand for: one bit for each block of 8 by 8, and half of the blocks left out by
/// subsampling.
const MAX_PIXELS_A_BYTE: usize = 8 * 64 * 2;

const START_OF_SCAN: u8 = 0xDA;
const END_OF_IMAGE: u8 = 0xD9;

type Jpeg<'a> = JpegDecoder<ZCursor<&'a [u8]>>;

pub(super) fn header(bytes: &[u8]) -> Result<Header, Unreadable> {
    Ok(open(bytes)?.1)
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Header, Vec<u8>), Unreadable> {
    let (decoder, header) = open(bytes)?;
    check_scans(bytes, header.size)?;
    let mut pixels = vec![0; area(header.size) * 3];
    read(decoder, &mut pixels)?;
    Ok((header, pixels))
}

/// Decodes an image of `size` into `pixels`, `[height, width, 3]`, and leaves one of another size undecoded. Returns the
/// size that the image has.
pub(super) fn decode_view(
    bytes: &[u8],
    size: ImageSize,
    pixels: &mut [u8],
) -> Result<ImageSize, Unreadable> {
    let (decoder, header) = open(bytes)?;
    if header.size == size {
        check_scans(bytes, size)?;
        read(decoder, pixels)?;
    }
    Ok(header.size)
}

/// Refuses what the decoder would fill with gray or take too long for.
fn check_scans(bytes: &[u8], size: ImageSize) -> Result<(), Unreadable> {
    // The decoder fills what is missing with gray; an image cut short is no image.
    if !has_its_end(bytes) {
        return Err(Unreadable::because("JPEG: cut short, its end is missing"));
    }
    if area(size) / MAX_PIXELS_A_BYTE > bytes.len() {
        let ImageSize { width, height } = size;
        return Err(Unreadable::because(format!(
            "JPEG: too few bytes for {width}×{height} pixels"
        )));
    }
    let scans = count_scans(bytes);
    if scans > MAX_SCANS || scans * area(size) > MAX_SCANNED_PIXELS {
        return Err(Unreadable::because(format!(
            "JPEG: {scans} scans, more than any encoder writes"
        )));
    }
    Ok(())
}

/// Decodes to RGB.
fn read(mut decoder: Jpeg<'_>, pixels: &mut [u8]) -> Result<(), Unreadable> {
    let inks = decoder.input_colorspace() == Some(ColorSpace::CMYK)
        && decoder.info().is_some_and(|info| info.components == 4);
    if !inks {
        return fill(&mut decoder, pixels);
    }
    let options = decoder.options().jpeg_set_out_colorspace(ColorSpace::CMYK);
    decoder.set_options(options);
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    let mut white = vec![[0; 4]; pixels.len()];
    fill(&mut decoder, white.as_flattened_mut())?;
    // Stored as what the inks leave white, whether or not Adobe's mark says so: Pillow assumes the same.
    for (pixel, white) in pixels.iter_mut().zip(white) {
        *pixel = ink_to_rgb(white.map(|level| 255 - level));
    }
    Ok(())
}

fn fill(decoder: &mut Jpeg<'_>, samples: &mut [u8]) -> Result<(), Unreadable> {
    if decoder.output_buffer_size() != Some(samples.len()) {
        return Err(Unreadable::because("JPEG: neither gray, color nor CMYK"));
    }
    decoder.decode_into(samples).map_err(refused)
}

fn open(bytes: &[u8]) -> Result<(Jpeg<'_>, Header), Unreadable> {
    let options = DecoderOptions::new_fast()
        .jpeg_set_out_colorspace(ColorSpace::RGB)
        .jpeg_set_max_scans(MAX_SCANS)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder
        .decode_headers()
        .map_err(|error| foreign_coding(bytes).unwrap_or_else(|| refused(error)))?;
    let (width, height) =
        decoder.dimensions().ok_or_else(|| Unreadable::because("JPEG: no size"))?;
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

/// The reason where the frame is of a kind that hardly anyone writes and the decoder does not know.
fn foreign_coding(bytes: &[u8]) -> Option<Unreadable> {
    let reason = Segments::of(bytes).find_map(|(kind, _)| match kind {
        0xC3 => Some("lossless coding"),
        0xC5..=0xC7 => Some("hierarchical coding"),
        0xC9..=0xCB | 0xCD..=0xCF => Some("arithmetic coding"),
        _ => None,
    })?;
    Some(Unreadable::because(format!("JPEG: {reason} is not supported")))
}

/// Whether an end marker follows the first scan. (Thumbnails in the header have end markers of their own.)
fn has_its_end(bytes: &[u8]) -> bool {
    let first = Segments::of(bytes).find(|&(kind, _)| kind == START_OF_SCAN);
    // No orderly chain of segments: leave the judgment to the decoder.
    first
        .is_none_or(|(_, at)| bytes[at..].windows(2).rev().any(|pair| pair == [0xFF, END_OF_IMAGE]))
}

/// Scans up to the image's end. One, without looking further, where a baseline image's first scan has all components:
/// the decoder stops after it.
fn count_scans(bytes: &[u8]) -> usize {
    let (mut scans, mut components) = (0, None);
    for (kind, at) in Segments::of(bytes) {
        match kind {
            // Components stand after length, bits, height and width; in a scan after the length.
            0xC0 | 0xC1 => components = bytes.get(at + 9),
            START_OF_SCAN
                if scans == 0 && components.is_some() && bytes.get(at + 4) == components =>
            {
                return 1;
            }
            START_OF_SCAN => scans += 1,
            END_OF_IMAGE => break,
            _ => {}
        }
    }
    scans
}

/// The markers of a file and their places, as far as they follow each other in good order; what is between a scan's
/// header and the next marker counts as the scan.
struct Segments<'a> {
    bytes: &'a [u8],
    at: usize,
    /// Whether a scan's data begin at `at`.
    within_scan: bool,
}

impl<'a> Segments<'a> {
    fn of(bytes: &'a [u8]) -> Self {
        // After the mark of the image's start.
        Self { bytes, at: 2, within_scan: false }
    }
}

impl Iterator for Segments<'_> {
    type Item = (u8, usize);

    fn next(&mut self) -> Option<Self::Item> {
        if std::mem::take(&mut self.within_scan) {
            // Within a scan 0xFF is followed by zero or is a restart marker.
            let is_marker = |pair: &[u8]| pair[0] == 0xFF && !matches!(pair[1], 0 | 0xD0..=0xD7);
            self.at += self.bytes.get(self.at..)?.windows(2).position(is_marker)?;
        }
        // Fill bytes may stand before a marker.
        while self.bytes.get(self.at..self.at + 2)? == [0xFF, 0xFF] {
            self.at += 1;
        }
        let at = self.at;
        let &[mark, kind] = self.bytes.get(at..)?.first_chunk()?;
        if mark != 0xFF {
            return None;
        }
        let alone = matches!(kind, 0x01 | 0xD0..=0xD9);
        self.at += 2;
        if !alone {
            let length = *self.bytes.get(self.at..)?.first_chunk()?;
            self.at += usize::from(u16::from_be_bytes(length));
        }
        self.within_scan = kind == START_OF_SCAN;
        Some((kind, at))
    }
}

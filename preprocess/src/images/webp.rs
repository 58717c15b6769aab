//! WebP: lossy and lossless; of an animation the first frame.

use std::io::Cursor;

use image::metadata::Orientation;
use image_webp::WebPDecoder;

use super::decode::Decoding;
use super::rgb_image::{Header, ImageSize, MAX_SOURCE_PIXELS, Unreadable, area, check_size};

type Decoder<'a> = WebPDecoder<Cursor<&'a [u8]>>;

pub(super) fn header(bytes: &[u8], how: Decoding) -> Result<Header, Unreadable> {
    Ok(open(bytes, how.max_pixels)?.1)
}

pub(super) fn decode(bytes: &[u8], how: Decoding) -> Result<(Header, Vec<u8>), Unreadable> {
    let (decoder, header) = open(bytes, how.max_pixels)?;
    let length =
        bytes.get(4..).and_then(|rest| rest.first_chunk()).copied().map(u32::from_le_bytes);
    if !how.lenient && length.is_some_and(|length| length as usize + 8 > bytes.len()) {
        return Err(Unreadable::because("WebP: the file ends too soon"));
    }
    let mut pixels = vec![0; area(header.size) * 3];
    read(decoder, &mut pixels)?;
    Ok((header, pixels))
}

/// Decodes an image of `size` into `pixels`, `[height, width, 3]`, and leaves one of another size
/// undecoded. Returns the size that the image has.
pub(super) fn decode_view(
    bytes: &[u8],
    size: ImageSize,
    pixels: &mut [u8],
) -> Result<ImageSize, Unreadable> {
    let (decoder, header) = open(bytes, MAX_SOURCE_PIXELS)?;
    if header.size == size {
        read(decoder, pixels)?;
    }
    Ok(header.size)
}

/// Decodes to RGB.
fn read(mut decoder: Decoder<'_>, pixels: &mut [u8]) -> Result<(), Unreadable> {
    if !decoder.has_alpha() {
        return decoder.read_image(pixels).map_err(refused);
    }
    let (pixels, _) = pixels.as_chunks_mut::<3>();
    let mut with_alpha = vec![[0; 4]; pixels.len()];
    decoder.read_image(with_alpha.as_flattened_mut()).map_err(refused)?;
    // Transparency is dropped, not blended: the colors as stored.
    for (pixel, [red, green, blue, _]) in pixels.iter_mut().zip(with_alpha) {
        *pixel = [red, green, blue];
    }
    Ok(())
}

fn open(bytes: &[u8], max_pixels: u64) -> Result<(Decoder<'_>, Header), Unreadable> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refused)?;
    // No chunk is longer than the file, whatever it says of itself.
    decoder.set_memory_limit(bytes.len());
    let (width, height) = decoder.dimensions();
    let size = check_size(u64::from(width), u64::from(height), max_pixels)?;
    // The decoder would unpack a frame before it compares.
    if largest_frame(bytes.get(12..).unwrap_or_default(), true) > area(size) {
        return Err(Unreadable::because("WebP: a frame larger than its canvas"));
    }
    // Only where the header announces it, as libwebp does: it stands at the end, and an answer from
    // a file's first bytes has to be that from all of them.
    let exif = if announces_exif(bytes) { decoder.exif_metadata().map_err(refused)? } else { None };
    let orientation = exif
        .and_then(|chunk| {
            Orientation::from_exif_chunk(chunk.strip_prefix(b"Exif\0\0").unwrap_or(&chunk))
        })
        .unwrap_or(Orientation::NoTransforms);
    Ok((decoder, Header::of_bytes(size, orientation)))
}

fn announces_exif(bytes: &[u8]) -> bool {
    const EXIF: u8 = 8;
    bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & EXIF != 0)
}

/// Pixels of the largest frame among these chunks, by the frames' own headers. Frames of an
/// animation lie one level deeper, where `descend` leads.
fn largest_frame(mut chunks: &[u8], descend: bool) -> usize {
    const HEADER_BYTES: usize = 8;
    const FRAME_HEADER_BYTES: usize = 16;
    let mut largest = 0;
    while let Some((header, rest)) = chunks.split_first_chunk::<HEADER_BYTES>() {
        let length = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        let data = &rest[..length.min(rest.len())];
        let pixels = match &header[..4] {
            b"ANMF" if descend => {
                largest_frame(data.get(FRAME_HEADER_BYTES..).unwrap_or_default(), false)
            }
            b"VP8 " => data.get(6..10).map_or(0, |size| {
                let side =
                    |low: u8, high: u8| usize::from(u16::from_le_bytes([low, high]) & 0x3FFF);
                side(size[0], size[1]) * side(size[2], size[3])
            }),
            b"VP8L" => data.get(1..5).map_or(0, |size| {
                let packed = u32::from_le_bytes([size[0], size[1], size[2], size[3]]) as usize;
                ((packed & 0x3FFF) + 1) * ((packed >> 14 & 0x3FFF) + 1)
            }),
            _ => 0,
        };
        largest = largest.max(pixels);
        chunks = rest.get(length + length % 2..).unwrap_or_default();
    }
    largest
}

fn refused(error: impl std::fmt::Display) -> Unreadable {
    Unreadable::because(format!("WebP: {error}"))
}

//! WebP: lossy and lossless; of an animation the first frame.

use std::io::Cursor;

use image::metadata::Orientation;
use image_webp::WebPDecoder;

use super::{Header, Unreadable, area, check_size, first_three};

type Decoder<'a> = WebPDecoder<Cursor<&'a [u8]>>;

pub(super) fn header(bytes: &[u8]) -> Result<Header, Unreadable> {
    Ok(open(bytes)?.1)
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Header, Vec<u8>), Unreadable> {
    let (mut decoder, header) = open(bytes)?;
    let channels = if decoder.has_alpha() { 4 } else { 3 };
    let mut pixels = vec![0; area(header.size) * channels];
    decoder.read_image(&mut pixels).map_err(refused)?;
    if channels == 4 {
        // Transparency is dropped, not blended: the colors as stored.
        pixels = first_three(&pixels, 4);
    }
    Ok((header, pixels))
}

fn open(bytes: &[u8]) -> Result<(Decoder<'_>, Header), Unreadable> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refused)?;
    // No chunk is longer than the file, whatever it says of itself.
    decoder.set_memory_limit(bytes.len());
    let (width, height) = decoder.dimensions();
    let size = check_size(u64::from(width), u64::from(height))?;
    // Only where the header announces it, as libwebp does: it stands at the end, and an answer from a file's first bytes
    // has to be that from all of them.
    let exif = if announces_exif(bytes) { decoder.exif_metadata().map_err(refused)? } else { None };
    let orientation = exif
        .and_then(|chunk| Orientation::from_exif_chunk(chunk.strip_prefix(b"Exif\0\0").unwrap_or(&chunk)))
        .unwrap_or(Orientation::NoTransforms);
    Ok((decoder, Header { size, orientation }))
}

fn announces_exif(bytes: &[u8]) -> bool {
    const EXIF: u8 = 8;
    bytes.get(12..16) == Some(b"VP8X") && bytes.get(20).is_some_and(|flags| flags & EXIF != 0)
}

fn refused(error: impl std::fmt::Display) -> Unreadable {
    Unreadable::because(format!("WebP: {error}"))
}

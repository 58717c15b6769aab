//! TIFF: the first page; gray and RGB, with and without opacity.

use std::io::Cursor;

use image::codecs::tiff::TiffDecoder;
use image::error::UnsupportedErrorKind;
use image::{DynamicImage, ImageDecoder, ImageError, Limits};

use super::raster::{header_of, image, pixels, upper};
use super::rgb_image::{Header, MAX_BYTES_PER_PIXEL, SPARE_BYTES, Unreadable, area};

type Tiff<'a> = TiffDecoder<Cursor<&'a [u8]>>;

// Numbers of tags.
const BITS: u16 = 258;
const COMPRESSION: u16 = 259;
const PHOTOMETRIC: u16 = 262;
const SAMPLES: u16 = 277;
const TILE_WIDTH: u16 = 322;
const TILE_HEIGHT: u16 = 323;
const EXTRA_SAMPLES: u16 = 338;

pub(super) fn header(bytes: &[u8]) -> Result<Header, Unreadable> {
    Ok(open(bytes)?.1)
}

pub(super) fn decode(bytes: &[u8], lenient: bool) -> Result<(Header, Vec<u8>), Unreadable> {
    let (decoder, header) = open(bytes)?;
    let extra = Directory::new(bytes).and_then(|directory| directory.tag(EXTRA_SAMPLES));
    let associated = extra == Some(1);
    let pixels = match image(decoder, lenient)? {
        DynamicImage::ImageRgba8(image) if associated => undo_alpha(&image.into_raw()),
        DynamicImage::ImageRgba16(image) if associated => undo_alpha(&upper(image.into_raw())),
        image => pixels(image, false)?,
    };
    Ok((header, pixels))
}

/// Colors that were multiplied by their opacity, as they were before.
fn undo_alpha(samples: &[u8]) -> Vec<u8> {
    let undo = |&[red, green, blue, alpha]: &[u8; 4]| {
        let full = |level| (u32::from(level) * 255 / u32::from(alpha).max(1)).min(255) as u8;
        [red, green, blue].map(full)
    };
    samples.as_chunks().0.iter().flat_map(undo).collect()
}

fn open(bytes: &[u8]) -> Result<(Tiff<'_>, Header), Unreadable> {
    let directory =
        Directory::new(bytes).ok_or_else(|| Unreadable::because("TIFF: the file ends too soon"))?;
    if let Some(tag) = directory.overlong_tag() {
        let reason = format!("TIFF: tag {tag} promises more than the file has");
        return Err(Unreadable(reason));
    }
    let unsupported = match (directory.tag(PHOTOMETRIC), directory.tag(COMPRESSION)) {
        (Some(3), _) => Some("a palette"),
        (Some(5), _) => Some("CMYK"),
        // The decoder would make room for whatever size the JPEG inside claims.
        (_, Some(6 | 7)) => Some("JPEG compression"),
        _ => None,
    };
    if let Some(unsupported) = unsupported {
        return Err(Unreadable::because(format!("TIFF: {unsupported} is not supported")));
    }
    let refused = |error| match error {
        ImageError::Unsupported(error)
            if matches!(error.kind(), UnsupportedErrorKind::Color(_)) =>
        {
            let [samples, bits] = [SAMPLES, BITS].map(|number| directory.tag(number).unwrap_or(1));
            let kind = format!("{samples} samples of {bits} bits");
            Unreadable::because(format!("TIFF: {kind} a pixel are not supported"))
        }
        error => Unreadable::because(error),
    };
    let mut decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(refused)?;
    let header = header_of(&mut decoder)?;
    let mut limits = Limits::default();
    limits.max_alloc = Some(area(header.size) as u64 * MAX_BYTES_PER_PIXEL / 2 + SPARE_BYTES);
    decoder.set_limits(limits).map_err(Unreadable::because)?;
    let tile = [TILE_WIDTH, TILE_HEIGHT].map(|side| directory.tag(side).map_or(0, u64::from));
    if tile[0] * tile[1] > area(header.size) as u64 + SPARE_BYTES / 16 {
        // To skip what is beyond the image would take for ever.
        return Err(Unreadable::because("TIFF: tiles far larger than the image"));
    }
    Ok((decoder, header))
}

/// The first directory of a TIFF.
struct Directory<'a> {
    bytes: &'a [u8],
    little: bool,
    /// Where its entries lie, of 12 bytes each: tag, type, count, and the value or its place.
    entries: Vec<usize>,
}

impl<'a> Directory<'a> {
    fn new(bytes: &'a [u8]) -> Option<Self> {
        let little = bytes.starts_with(b"II");
        let mut directory = Self { bytes, little, entries: Vec::new() };
        let start = directory.long(4)? as usize;
        let count = usize::from(directory.short(start)?);
        directory.entries = (0..count).map(|entry| start + 2 + 12 * entry).collect();
        Some(directory)
    }

    fn short(&self, at: usize) -> Option<u16> {
        let field = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.little { u16::from_le_bytes(field) } else { u16::from_be_bytes(field) })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let field = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.little { u32::from_le_bytes(field) } else { u32::from_be_bytes(field) })
    }

    /// The first value of a tag.
    fn tag(&self, number: u16) -> Option<u32> {
        let &at = self.entries.iter().find(|&&at| self.short(at) == Some(number))?;
        // Two shorts stand in the entry itself, of three the first stands elsewhere.
        match (self.short(at + 2)?, self.long(at + 4)?) {
            (3, 1 | 2) => self.short(at + 8).map(u32::from),
            (3, _) => self.short(self.long(at + 8)? as usize).map(u32::from),
            (_, 1) => self.long(at + 8),
            (_, _) => self.long(self.long(at + 8)? as usize),
        }
    }

    /// A tag with more values than the file has room for. The decoder would take memory for them.
    fn overlong_tag(&self) -> Option<u16> {
        let is_overlong = |&&at: &&usize| {
            let bytes = match self.short(at + 2) {
                Some(3 | 8) => 2,
                Some(4 | 9 | 11 | 13) => 4,
                Some(5 | 10 | 12 | 16..=18) => 8,
                _ => 1,
            };
            self.long(at + 4).is_some_and(|count| count as usize * bytes > self.bytes.len())
        };
        self.entries.iter().find(is_overlong).and_then(|&at| self.short(at))
    }
}

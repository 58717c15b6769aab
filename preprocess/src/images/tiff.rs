//! TIFF: the first page.

use std::borrow::Cow;
use std::io::Cursor;

use image::metadata::Orientation;
use tiff::ColorType;
use tiff::decoder::{Decoder, DecodingResult, Limits};
use tiff::tags::Tag;

use super::{
    Header, MAX_BYTES_A_PIXEL, SPARE_BYTES, Unreadable, area, check_size, first_three, ink_to_rgb,
    spread,
};

type Tiff<'a> = Decoder<Cursor<Cow<'a, [u8]>>>;

/// Values of the tag `ExtraSamples`: the colors were multiplied by their opacity.
const ASSOCIATED_ALPHA: u16 = 1;

pub(super) fn header(bytes: &[u8]) -> Result<Header, Unreadable> {
    Ok(open(bytes)?.1)
}

pub(super) fn decode(bytes: &[u8]) -> Result<(Header, Vec<u8>), Unreadable> {
    let (mut decoder, header, indexed) = open(bytes)?;
    let kind = decoder.colortype().map_err(refused)?;
    let palette =
        if indexed { Some(decoder.get_tag_u16_vec(Tag::ColorMap).map_err(refused)?) } else { None };
    let extra = decoder.find_tag_unsigned_vec::<u16>(Tag::ExtraSamples).map_err(refused)?;
    let associated = extra.is_some_and(|extra| extra.first() == Some(&ASSOCIATED_ALPHA));
    let channels = usize::from(kind.num_samples());
    let samples = samples(&mut decoder, header, kind, channels, indexed)?;
    let pixels = match kind {
        _ if let Some(palette) = palette => look_up(&samples, &palette)?,
        ColorType::Gray(_) | ColorType::GrayA(_) | ColorType::Multiband { num_samples: 2, .. } => {
            spread(samples.chunks_exact(channels).map(|pixel| pixel[0]))
        }
        ColorType::RGB(_) => samples,
        ColorType::RGBA(_) if associated => {
            samples.as_chunks::<4>().0.iter().flat_map(|&pixel| undo_alpha(pixel)).collect()
        }
        ColorType::RGBA(_) => first_three(&samples, channels),
        ColorType::CMYK(_) => {
            samples.as_chunks::<4>().0.iter().flat_map(|&inks| ink_to_rgb(inks)).collect()
        }
        ColorType::YCbCr(_) => {
            samples.as_chunks::<3>().0.iter().flat_map(|&pixel| ycc_to_rgb(pixel)).collect()
        }
        other => {
            return Err(Unreadable::because(format!("TIFF: {other:?} samples are not supported")));
        }
    };
    if pixels.len() != area(header.size) * 3 {
        return Err(Unreadable::because("TIFF: more or fewer samples than pixels"));
    }
    Ok((header, pixels))
}

/// Opens the first page. The flag says that samples are indices: the decoder does not know palettes, and is shown an
/// image of gray levels in their place.
fn open(bytes: &[u8]) -> Result<(Tiff<'_>, Header, bool), Unreadable> {
    let (bytes, indexed) = palette_as_gray(bytes)?;
    let mut decoder = Decoder::new(Cursor::new(bytes)).map_err(refused)?;
    let (width, height) = decoder.dimensions().map_err(refused)?;
    let size = check_size(u64::from(width), u64::from(height))?;
    let mut limits = Limits::default();
    let budget = area(size) * MAX_BYTES_A_PIXEL as usize / 2;
    // The first also limits the values of tags.
    limits.decoding_buffer_size = budget + SPARE_BYTES as usize;
    limits.intermediate_buffer_size = budget + SPARE_BYTES as usize;
    limits.ifd_value_size = SPARE_BYTES as usize;
    decoder = decoder.with_limits(limits);
    let orientation = decoder.find_tag_unsigned::<u8>(Tag::Orientation).ok().flatten();
    let orientation =
        orientation.and_then(Orientation::from_exif).unwrap_or(Orientation::NoTransforms);
    Ok((decoder, Header { size, orientation }, indexed))
}

/// Turns "palette" in the first directory into "gray, black is zero".
fn palette_as_gray(bytes: &[u8]) -> Result<(Cow<'_, [u8]>, bool), Unreadable> {
    const PHOTOMETRIC: u16 = 262;
    const PALETTE: u16 = 3;
    const BLACK_IS_ZERO: u8 = 1;
    let directory =
        Directory::first(bytes).ok_or_else(|| Unreadable::because("TIFF: cut short"))?;
    let mut place = None;
    for entry in 0..directory.entries {
        let at = directory.start + entry * Directory::ENTRY_BYTES;
        let (tag, kind, count) =
            directory.entry(at).ok_or_else(|| Unreadable::because("TIFF: cut short"))?;
        // The decoder would make room for what a tag promises before it looks whether the file has as much.
        if value_bytes(kind) * count as usize > bytes.len() {
            return Err(Unreadable::because(format!(
                "TIFF: tag {tag} promises more than the file has"
            )));
        }
        if tag == PHOTOMETRIC && directory.short(at + 8) == Some(PALETTE) {
            place = Some(if directory.little { at + 8 } else { at + 9 });
        }
    }
    Ok(match place {
        None => (Cow::Borrowed(bytes), false),
        Some(place) => {
            let mut copy = bytes.to_vec();
            copy[place] = BLACK_IS_ZERO;
            (Cow::Owned(copy), true)
        }
    })
}

/// Bytes of one value of a tag, by the number of its type.
fn value_bytes(kind: u16) -> usize {
    match kind {
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        5 | 10 | 12 | 16..=18 => 8,
        _ => 1,
    }
}

/// The first directory of a TIFF, undigested.
struct Directory<'a> {
    bytes: &'a [u8],
    little: bool,
    /// Where the first entry begins.
    start: usize,
    entries: usize,
}

impl<'a> Directory<'a> {
    const ENTRY_BYTES: usize = 12;

    fn first(bytes: &'a [u8]) -> Option<Self> {
        let mut directory = Self { bytes, little: bytes.starts_with(b"II"), start: 0, entries: 0 };
        let start = directory.long(4)? as usize;
        directory.entries = usize::from(directory.short(start)?);
        directory.start = start + 2;
        Some(directory)
    }

    /// Tag, type and count.
    fn entry(&self, at: usize) -> Option<(u16, u16, u32)> {
        Some((self.short(at)?, self.short(at + 2)?, self.long(at + 4)?))
    }

    fn short(&self, at: usize) -> Option<u16> {
        let field = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.little { u16::from_le_bytes(field) } else { u16::from_be_bytes(field) })
    }

    fn long(&self, at: usize) -> Option<u32> {
        let field = *self.bytes.get(at..)?.first_chunk()?;
        Some(if self.little { u32::from_le_bytes(field) } else { u32::from_be_bytes(field) })
    }
}

/// All samples as bytes, `channels` to a pixel. Of 16 bits the upper eight are kept, except that gray is clipped at 255
/// and indices have no more than eight, as in Pillow.
fn samples(
    decoder: &mut Tiff<'_>,
    header: Header,
    kind: ColorType,
    channels: usize,
    indexed: bool,
) -> Result<Vec<u8>, Unreadable> {
    let unsupported = || Unreadable::because(format!("TIFF: {kind:?} samples are not supported"));
    if channels > 4 {
        return Err(unsupported());
    }
    check_tiles(decoder, header)?;
    let mut raw = DecodingResult::U8(Vec::new());
    let layout = decoder.read_image_to_buffer(&mut raw).map_err(refused)?;
    if raw.as_buffer(0).byte_len() < layout.complete_len {
        return Err(Unreadable::because("TIFF: needs more memory than its size allows"));
    }
    let bits = kind.bit_depth();
    let samples = match raw {
        DecodingResult::U8(bytes) if bits == 8 => bytes,
        DecodingResult::U8(bytes) if matches!(bits, 1 | 2 | 4) && channels == 1 => {
            unpack(&bytes, header.size.width as usize, bits, !indexed)
        }
        DecodingResult::U16(words) if bits == 16 && channels == 1 && !indexed => {
            words.into_iter().map(|level| level.min(255) as u8).collect()
        }
        DecodingResult::U16(words) if bits == 16 && !indexed => {
            words.into_iter().map(|sample| (sample >> 8) as u8).collect()
        }
        // The step to an integer cuts off the fraction and what lies beyond its range.
        DecodingResult::F32(levels) if channels == 1 && !indexed => {
            levels.into_iter().map(|level| level as u8).collect()
        }
        _ => return Err(unsupported()),
    };
    if layout.planes <= 1 {
        return Ok(samples);
    }
    let pixels = area(header.size);
    if layout.planes != channels || samples.len() != pixels * channels {
        return Err(Unreadable::because("TIFF: its planes do not fit its pixels"));
    }
    let interleave = |pixel: usize| (0..channels).map(move |channel| (pixel, channel));
    Ok((0..pixels)
        .flat_map(interleave)
        .map(|(pixel, channel)| samples[channel * pixels + pixel])
        .collect())
}

/// Refuses tiles and JPEG data that stand for far more pixels than the image has: to skip them would take for ever.
fn check_tiles(decoder: &mut Tiff<'_>, header: Header) -> Result<(), Unreadable> {
    const SPARE_PIXELS: u64 = 1 << 22;
    const JPEG: u16 = 7;
    let too_large = || Unreadable::because("TIFF: tiles far larger than the image");
    let limit = area(header.size) as u64 + SPARE_PIXELS;
    let (width, height) = decoder.chunk_dimensions();
    let tiled = decoder.find_tag(Tag::TileWidth).map_err(refused)?.is_some();
    if tiled && u64::from(width) * u64::from(height) > limit {
        return Err(too_large());
    }
    if decoder.find_tag_unsigned(Tag::Compression).map_err(refused)? != Some(JPEG) {
        return Ok(());
    }
    let (places, lengths) = match tiled {
        true => (Tag::TileOffsets, Tag::TileByteCounts),
        false => (Tag::StripOffsets, Tag::StripByteCounts),
    };
    let places = decoder.get_tag_u64_vec(places).map_err(refused)?;
    let lengths = decoder.get_tag_u64_vec(lengths).map_err(refused)?;
    let bytes = decoder.inner().get_ref();
    for (place, length) in places.into_iter().zip(lengths) {
        let range = place as usize..place.saturating_add(length) as usize;
        let data = bytes.get(range).ok_or_else(|| Unreadable::because("TIFF: cut short"))?;
        if area(super::jpeg::header(data)?.size) as u64 > limit {
            return Err(too_large());
        }
    }
    Ok(())
}

/// One byte for each sample of fewer bits; gray levels are spread over 0 to 255, indices are kept.
fn unpack(bytes: &[u8], width: usize, bits: u8, gray: bool) -> Vec<u8> {
    let each = usize::from(8 / bits);
    let highest = (1u8 << bits) - 1;
    let factor = if gray { 255 / highest } else { 1 };
    let sample = |row: &[u8], x: usize| {
        let shift = 8 - usize::from(bits) * (x % each + 1);
        ((row[x / each] >> shift) & highest) * factor
    };
    let rows = bytes.chunks_exact(width.div_ceil(each));
    rows.flat_map(|row| (0..width).map(move |x| sample(row, x))).collect()
}

/// `palette` holds all reds, then all greens, then all blues, in 16 bits.
fn look_up(indices: &[u8], palette: &[u16]) -> Result<Vec<u8>, Unreadable> {
    let colors = palette.len() / 3;
    let level = |index: u8, channel: usize| {
        let index = usize::from(index);
        if index < colors { (palette[channel * colors + index] >> 8) as u8 } else { 0 }
    };
    Ok(indices
        .iter()
        .flat_map(|&index| [level(index, 0), level(index, 1), level(index, 2)])
        .collect())
}

/// Colors that were multiplied by their opacity, as they were before.
fn undo_alpha([red, green, blue, alpha]: [u8; 4]) -> [u8; 3] {
    let full = |level: u8| (u32::from(level) * 255 / u32::from(alpha).max(1)).min(255) as u8;
    [red, green, blue].map(full)
}

/// The full-range YCbCr of JPEG.
fn ycc_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let [y, cb, cr] = [f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0];
    [y + 1.402 * cr, y - 0.344_136 * cb - 0.714_136 * cr, y + 1.772 * cb]
        .map(|level| level.round() as u8)
}

fn refused(error: impl std::fmt::Display) -> Unreadable {
    Unreadable::because(format!("TIFF: {error}"))
}

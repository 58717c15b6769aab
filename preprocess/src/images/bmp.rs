//! BMP: of 1 to 32 bits; runs of 4 and 8 bits are read here, as Pillow reads them.

use std::borrow::Cow;
use std::io::Cursor;

use image::codecs::bmp::BmpDecoder;
use image::metadata::Orientation;

use super::decode::Decoding;
use super::raster::{header_of, image, pixels};
use super::rgb_image::{Header, Unreadable, area, check_size};

/// Where the header begins, behind the file's own.
const HEADER: usize = 14;
/// The headers that give room to a compression.
const HEADER_BYTES: [usize; 6] = [40, 52, 56, 64, 108, 124];
const OS2_HEADER_BYTES: usize = 64;

pub(super) fn header(bytes: &[u8], how: Decoding) -> Result<Header, Unreadable> {
    match Runs::of(bytes, how.max_pixels)? {
        Some(runs) => Ok(runs.header),
        None => header_of(&mut open(&with_plain_header(bytes))?, how),
    }
}

pub(super) fn decode(bytes: &[u8], how: Decoding) -> Result<(Header, Vec<u8>), Unreadable> {
    if let Some(runs) = Runs::of(bytes, how.max_pixels)? {
        return Ok((runs.header, runs.decode(how.lenient)?));
    }
    let bytes = with_plain_header(bytes);
    let mut decoder = open(&bytes)?;
    Ok((header_of(&mut decoder, how)?, pixels(image(decoder, how.lenient)?)?))
}

fn open(bytes: &[u8]) -> Result<BmpDecoder<Cursor<&[u8]>>, Unreadable> {
    BmpDecoder::new(Cursor::new(bytes)).map_err(Unreadable::because)
}

fn long(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// Makes a header of the second OS/2, or one with several planes, one of Windows 3.
fn with_plain_header(bytes: &[u8]) -> Cow<'_, [u8]> {
    let one_plane = bytes.get(HEADER + 12..HEADER + 14) == Some(&[1, 0]);
    let size = long(bytes, HEADER).unwrap_or(0) as usize;
    let more = match size {
        OS2_HEADER_BYTES => size - HEADER_BYTES[0],
        _ if one_plane || !HEADER_BYTES.contains(&size) => return Cow::Borrowed(bytes),
        _ => 0,
    };
    let Some(offset) = long(bytes, 10).filter(|_| bytes.len() > HEADER + size) else {
        return Cow::Borrowed(bytes);
    };
    let mut plain = bytes.to_vec();
    plain[10..14].copy_from_slice(&offset.saturating_sub(more as u32).to_le_bytes());
    plain[HEADER..HEADER + 4].copy_from_slice(&((size - more) as u32).to_le_bytes());
    plain[HEADER + 12..HEADER + 14].copy_from_slice(&[1, 0]);
    plain.drain(HEADER + size - more..HEADER + size);
    Cow::Owned(plain)
}

/// An image in runs.
struct Runs<'a> {
    header: Header,
    top_down: bool,
    /// Two pixels to a byte.
    half_bytes: bool,
    /// Four bytes for each color, blue first.
    palette: &'a [u8],
    data: &'a [u8],
    /// Whether the data begin at an odd byte of the file.
    odd: bool,
}

impl<'a> Runs<'a> {
    /// None where the image is not in runs.
    fn of(bytes: &'a [u8], max_pixels: u64) -> Result<Option<Self>, Unreadable> {
        let field = |at: usize| long(bytes, HEADER + at);
        let size = field(0).unwrap_or(0) as usize;
        let (half_bytes, bits) = match field(16) {
            Some(1) => (false, 8),
            Some(2) => (true, 4),
            _ => return Ok(None),
        };
        if !HEADER_BYTES.contains(&size) || bytes.get(HEADER + 14..HEADER + 16) != Some(&[bits, 0])
        {
            return Ok(None);
        }
        let cut = || Unreadable::because("BMP: the file ends too soon");
        let [width, height, colors] = [4, 8, 32].map(field);
        let height = height.ok_or_else(cut)?.cast_signed();
        let [columns, rows] = [width.map_or(0, u64::from), height.unsigned_abs().into()];
        let size_of_image = check_size(columns, rows, max_pixels)?;
        let colors = match colors.ok_or_else(cut)? as usize {
            0 => 1 << bits,
            colors => colors,
        };
        let palette = bytes.get(HEADER + size..).ok_or_else(cut)?;
        let palette = &palette[..palette.len().min(4 * colors)];
        let offset = match long(bytes, 10).ok_or_else(cut)? as usize {
            // The palette counts as what stands before the data.
            offset if offset == 0 || offset == HEADER + size => HEADER + size + 4 * colors,
            offset => offset,
        };
        Ok(Some(Self {
            header: Header::of_bytes(size_of_image, Orientation::NoTransforms),
            top_down: height < 0,
            half_bytes,
            palette,
            data: bytes.get(offset..).unwrap_or_default(),
            odd: !offset.is_multiple_of(2),
        }))
    }

    fn decode(&self, lenient: bool) -> Result<Vec<u8>, Unreadable> {
        let mut indices = self.indices();
        let pixels = area(self.header.size);
        if indices.len() < pixels && !lenient {
            return Err(Unreadable::because("BMP: its runs end too soon"));
        }
        indices.resize(pixels, 0);
        let color = |index: u8| match self.palette.get(4 * usize::from(index)..) {
            Some(&[blue, green, red, ..]) => [red, green, blue],
            // The palette that Pillow begins with.
            _ => [index; 3],
        };
        let rows = indices.chunks_exact(self.header.size.width as usize);
        let colors = |row: &[u8]| row.iter().flat_map(|&index| color(index)).collect::<Vec<_>>();
        Ok(match self.top_down {
            true => rows.flat_map(colors).collect(),
            false => rows.rev().flat_map(colors).collect(),
        })
    }

    /// What the runs fill, in the order of the file. Pixels that a jump leaves out are 0, and a run
    /// ends where its row does.
    fn indices(&self) -> Vec<u8> {
        let (width, pixels) = (self.header.size.width as usize, area(self.header.size));
        let two = |byte: &u8| [byte >> 4, byte & 15];
        let (mut indices, mut x, mut at) = (Vec::new(), 0, 0);
        while let Some(&[count, value]) = self.data.get(at..).and_then(|rest| rest.first_chunk())
            && indices.len() < pixels
        {
            at += 2;
            match (usize::from(count), usize::from(value)) {
                (0, 0) => {
                    indices.resize(indices.len().next_multiple_of(width), 0);
                    x = 0;
                }
                (0, 1) => break,
                (0, 2) => {
                    let Some(&[right, up]) =
                        self.data.get(at..).and_then(|rest| rest.first_chunk())
                    else {
                        break;
                    };
                    at += 2;
                    let jump = usize::from(right) + usize::from(up) * width;
                    indices.resize((indices.len() + jump).min(pixels), 0);
                    x = indices.len() % width;
                }
                (0, count) => {
                    let left = count.min(pixels - indices.len());
                    let bytes = if self.half_bytes { left.div_ceil(2) } else { left };
                    let Some(literal) = self.data.get(at..at + bytes) else { break };
                    match self.half_bytes {
                        true => indices.extend(literal.iter().flat_map(two).take(left)),
                        false => indices.extend(literal),
                    }
                    x += count;
                    at += bytes;
                    at += usize::from(at.is_multiple_of(2) == self.odd);
                }
                (count, _) => {
                    let count = count.min(width.saturating_sub(x));
                    let pair = if self.half_bytes { two(&value) } else { [value; 2] };
                    indices.extend(pair.iter().cycle().take(count));
                    x += count;
                }
            }
        }
        indices
    }
}

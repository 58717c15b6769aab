//! The bytes of strips and tiles, unpacked.
//!
//! The `tiff` crate unpacks the bytes of a chunk, which it is given as an image of their own: a
//! gray one of 8 bits whose rows are the bytes of the chunk's rows. What bytes mean is decided here
//! for all kinds of samples alike.

use std::borrow::Cow;
use std::io::Cursor;

use tiff::decoder::{Decoder, Limits};

use super::directory::{Field, cut};
use super::layout::{Colors, Compression, Layout};
use crate::images::jpeg;
use crate::images::rgb_image::Unreadable;

const STRIP_OFFSETS: u16 = 273;
const STRIP_BYTES: u16 = 279;
const TILE_OFFSETS: u16 = 324;
const TILE_BYTES: u16 = 325;
const JPEG_TABLES: u16 = 347;

/// The chunks of an image.
pub(super) struct Chunks<'a> {
    layout: &'a Layout<'a>,
    offsets: Field<'a>,
    lengths: Option<Field<'a>>,
    /// What the JPEGs of all chunks begin with.
    tables: &'a [u8],
    /// Chunks from left to right and from top to bottom.
    pub across: usize,
    pub down: usize,
}

/// An unpacked chunk.
pub(super) struct Chunk<'a> {
    pub bytes: Cow<'a, [u8]>,
    /// Bytes of a row.
    pub stride: usize,
    /// What broke off the rest, which is zero; of a broken JPEG there are no bytes.
    pub fault: Option<Unreadable>,
}

impl<'a> Chunks<'a> {
    pub fn open(layout: &'a Layout<'a>) -> Result<Self, Unreadable> {
        let directory = &layout.directory;
        let tags = match layout.is_tiled {
            true => [TILE_OFFSETS, TILE_BYTES],
            false => [STRIP_OFFSETS, STRIP_BYTES],
        };
        let sides = [layout.size().width as usize, layout.size().height as usize];
        let across = sides[0].div_ceil(layout.chunk[0]);
        let down = sides[1].div_ceil(layout.chunk[1]);
        let planes = if layout.is_planar { layout.samples } else { 1 };
        let offsets = directory.field(tags[0])?;
        let offsets = offsets.filter(|offsets| offsets.count / planes >= across * down);
        let offsets =
            offsets.ok_or_else(|| Unreadable::because("TIFF: too few strips or tiles"))?;
        let lengths = directory.field(tags[1])?;
        let tables = directory.field(JPEG_TABLES)?.map_or(&[][..], |field| field.bytes());
        Ok(Self { layout, offsets, lengths, tables, across, down })
    }

    /// The chunk of a column and a row of chunks, unpacked up to so many rows; of one plane, where
    /// each sample has its own. `None` for one that the file leaves out.
    pub fn read(
        &self,
        [column, row]: [usize; 2],
        plane: usize,
        rows: usize,
    ) -> Result<Option<Chunk<'a>>, Unreadable> {
        let index = (plane * self.down + row) * self.across + column;
        let offset = self.offsets.get(index).ok_or_else(cut)? as usize;
        let length = self.lengths.and_then(|lengths| lengths.get(index));
        if (offset, length) == (0, Some(0)) {
            return Ok(None);
        }
        let Layout { directory, compression, .. } = self.layout;
        let rest = directory.bytes.get(offset..).unwrap_or_default();
        // Where nothing is packed the length is known without the file's word for it.
        let length = length.map_or(rest.len(), |length| rest.len().min(length as usize));
        let packed = if *compression == Compression::None { rest } else { &rest[..length] };
        let packed = match self.layout.bits_are_reversed && *compression != Compression::Jpeg {
            true => Cow::Owned(packed.iter().map(|byte| byte.reverse_bits()).collect()),
            false => Cow::Borrowed(packed),
        };
        match compression {
            Compression::Jpeg => self.read_jpeg(&packed, rows).map(Some),
            _ => self.unpack(packed, rows).map(Some),
        }
    }

    /// Bytes of a row of a chunk, and how many such rows so many of pixels take.
    fn shape(&self, rows: usize) -> [usize; 2] {
        let Layout { chunk: [width, _], samples, bits, subsampling, .. } = *self.layout;
        if subsampling != [1, 1] {
            let [across, down] = subsampling;
            return [width.div_ceil(across) * (across * down + 2), rows.div_ceil(down)];
        }
        let samples = if self.layout.is_planar { 1 } else { samples };
        [(width * samples * bits).div_ceil(8), rows]
    }

    fn unpack(&self, packed: Cow<'a, [u8]>, rows: usize) -> Result<Chunk<'a>, Unreadable> {
        let [stride, rows] = self.shape(rows);
        let length = stride * rows;
        if self.layout.compression == Compression::None && packed.len() >= length {
            let bytes = match packed {
                Cow::Borrowed(bytes) => Cow::Borrowed(&bytes[..length]),
                Cow::Owned(bytes) => Cow::Owned(bytes),
            };
            return Ok(Chunk { bytes, stride, fault: None });
        }
        let mut bytes = vec![0; length];
        let fault = match self.layout.compression {
            Compression::None => {
                bytes[..packed.len()].copy_from_slice(&packed);
                Some(cut())
            }
            // The width in pixels is part of this code.
            Compression::Fax => fill(&packed, [self.layout.chunk[0], rows], [4, 1], &mut bytes),
            Compression::Packed(packing) => {
                fill(&packed, [stride, rows], [packing as u16, 8], &mut bytes)
            }
            Compression::Zstandard => {
                // At once, without a window of a size that the data name: so it needs room for all.
                bytes.resize(stride * self.shape(self.layout.chunk[1])[1], 0);
                match zstd::bulk::decompress_to_buffer(&packed[..], &mut bytes[..]) {
                    Ok(found) => (found < length).then(cut),
                    Err(error) => Some(Unreadable::because(error)),
                }
            }
            Compression::Jpeg => None,
        };
        for row in bytes.chunks_exact_mut(stride) {
            self.undo_predictor(row);
        }
        Ok(Chunk { bytes: Cow::Owned(bytes), stride, fault })
    }

    /// Sums up the differences that a row is stored as.
    fn undo_predictor(&self, row: &mut [u8]) {
        let Layout { predictor, bits, samples, is_planar, ref directory, .. } = *self.layout;
        let samples = if is_planar { 1 } else { samples };
        match (predictor, bits) {
            (2, 8) => add_up::<1>(row, samples, directory.little),
            (2, 16) => add_up::<2>(row, samples, directory.little),
            (2, 32) => add_up::<4>(row, samples, directory.little),
            (2, 64) => add_up::<8>(row, samples, directory.little),
            (3, bits) => {
                add_up::<1>(row, samples, true);
                // The highest bytes of all samples come first.
                let (width, count) = (bits / 8, row.len() * 8 / bits);
                let sorted = row.to_vec();
                for (index, sample) in row.chunks_exact_mut(width).enumerate() {
                    for (place, byte) in sample.iter_mut().enumerate() {
                        let place = if directory.little { width - 1 - place } else { place };
                        *byte = sorted[place * count + index];
                    }
                }
            }
            _ => {}
        }
    }

    fn read_jpeg(&self, data: &[u8], rows: usize) -> Result<Chunk<'a>, Unreadable> {
        let Layout { chunk, ref colors, samples, is_planar, .. } = *self.layout;
        let samples = if is_planar { 1 } else { samples };
        let part = jpeg::Part {
            tables: self.tables,
            data,
            is_ycc: *colors == Colors::YCbCr && !is_planar,
            width: chunk[0],
            heights: rows..=chunk[1],
            samples,
        };
        let stride = chunk[0] * samples;
        Ok(match jpeg::decode_part(&part) {
            Ok(bytes) => Chunk { bytes: Cow::Owned(bytes), stride, fault: None },
            Err(fault) => Chunk { bytes: Cow::Borrowed(&[]), stride, fault: Some(fault) },
        })
    }
}

/// Adds to each sample of `N` bytes the one before it of the same kind.
fn add_up<const N: usize>(row: &mut [u8], samples: usize, little: bool) {
    let number = |bytes: [u8; N]| {
        let mut wide = [0; 8];
        for (place, byte) in bytes.into_iter().enumerate() {
            wide[if little { place } else { N - 1 - place }] = byte;
        }
        u64::from_le_bytes(wide)
    };
    let (numbers, _) = row.as_chunks_mut::<N>();
    for index in samples..numbers.len() {
        let sum = number(numbers[index]).wrapping_add(number(numbers[index - samples]));
        let sum = sum.to_le_bytes();
        for (place, byte) in numbers[index].iter_mut().enumerate() {
            *byte = sum[if little { place } else { N - 1 - place }];
        }
    }
}

/// Unpacks as much of `packed` as there is into `bytes`: rows of an image of this size, compression
/// and number of bits.
fn fill(
    packed: &[u8],
    [width, height]: [usize; 2],
    [compression, bits]: [u16; 2],
    bytes: &mut [u8],
) -> Option<Unreadable> {
    const SHORT: u16 = 3;
    const LONG: u16 = 4;
    let entries = [
        (256, LONG, width as u32),
        (257, LONG, height as u32),
        (258, SHORT, bits.into()),
        (259, SHORT, compression.into()),
        // Black is 0, so that nothing is inverted.
        (262, SHORT, 1),
        (273, LONG, 0),
        (277, SHORT, 1),
        (278, LONG, height as u32),
        (279, LONG, packed.len() as u32),
    ];
    let start = 8 + 2 + 12 * entries.len() + 4;
    let mut file = Vec::with_capacity(start + packed.len());
    file.extend(b"II*\0\x08\0\0\0");
    file.extend((entries.len() as u16).to_le_bytes());
    for (tag, kind, value) in entries {
        let value = if tag == 273 { start as u32 } else { value };
        file.extend(u16::to_le_bytes(tag).into_iter().chain(kind.to_le_bytes()));
        file.extend(1u32.to_le_bytes().into_iter().chain(value.to_le_bytes()));
    }
    file.extend([0; 4]);
    file.extend(packed);
    let decoder = Decoder::new(Cursor::new(file)).map(|it| it.with_limits(Limits::unlimited()));
    decoder.and_then(|mut decoder| decoder.read_image_bytes(bytes)).err().map(Unreadable::because)
}

//! The samples of an image, row by row.

use half::f16;

use super::chunks::{Chunk, Chunks};
use super::layout::{Layout, Number};
use crate::images::rgb_image::Unreadable;

/// Samples of pixels that follow each other, those of one pixel together.
pub(super) enum Samples<'a> {
    /// Of 8 bits and fewer, as stored.
    Bytes(&'a [u8]),
    /// Of more.
    Values(&'a [f64]),
}

/// Where samples stand in a row of a file, and where they go.
#[derive(Clone, Copy)]
struct Places {
    /// Samples from a pixel to the next in the file.
    stride: usize,
    /// The samples taken of each pixel.
    taken: usize,
    /// Samples from a pixel to the next in the result, and the first of those taken.
    step: usize,
    first: usize,
}

/// Calls `see` with the left end and the row of some pixels and their samples, until all have been
/// seen, the ones of a chunk after those of another. If `lenient`, samples that cannot be read are
/// zero.
pub(super) fn for_each(
    layout: &Layout,
    lenient: bool,
    mut see: impl FnMut([usize; 2], Samples),
) -> Result<(), Unreadable> {
    let chunks = Chunks::open(layout)?;
    let [width, height] = layout.chunk;
    let [columns, rows] = [layout.size().width as usize, layout.size().height as usize];
    let used = layout.used();
    let (mut bytes, mut values) = (Vec::new(), Vec::new());
    let mut is_empty = true;
    for row in 0..chunks.down {
        for column in 0..chunks.across {
            let [left, top] = [column * width, row * height];
            let [across, down] = [width.min(columns - left), height.min(rows - top)];
            let mut planes = Vec::new();
            for plane in 0..if layout.is_planar { used } else { 1 } {
                let chunk = chunks.read([column, row], plane, down)?;
                if let Some(fault) = chunk.as_ref().and_then(|chunk| chunk.fault.clone())
                    && !lenient
                {
                    return Err(fault);
                }
                planes.extend(chunk.filter(|chunk| !chunk.bytes.is_empty()));
            }
            if planes.is_empty() || (layout.is_planar && planes.len() < used) {
                continue;
            }
            is_empty = false;
            for y in 0..down {
                let samples = if !layout.header.is_deep {
                    bytes.resize(across * used, 0);
                    fill_bytes(layout, &planes, y, &mut bytes);
                    Samples::Bytes(&bytes)
                } else {
                    values.resize(across * used, 0.0);
                    fill_values(layout, &planes, y, &mut values);
                    Samples::Values(&values)
                };
                see([left, top + y], samples);
            }
        }
    }
    if is_empty {
        return Err(Unreadable::because("TIFF: every strip or tile is empty"));
    }
    Ok(())
}

/// The planes' rows, and where their samples stand.
fn rows_of<'a>(
    layout: &Layout,
    planes: &'a [Chunk],
    y: usize,
) -> impl Iterator<Item = (&'a [u8], Places)> {
    let (used, samples, is_planar) = (layout.used(), layout.samples, layout.is_planar);
    planes.iter().enumerate().map(move |(plane, chunk)| {
        let places = match is_planar {
            true => Places { stride: 1, taken: 1, step: used, first: plane },
            false => Places { stride: samples, taken: used, step: used, first: 0 },
        };
        (&chunk.bytes[y * chunk.stride..][..chunk.stride], places)
    })
}

fn fill_bytes(layout: &Layout, planes: &[Chunk], y: usize, bytes: &mut [u8]) {
    let [across, down] = layout.subsampling;
    if [across, down] != [1, 1] {
        // Each unit has the luma of all its pixels and then its chroma.
        let [chunk] = planes else { return };
        let units = &chunk.bytes[y / down * chunk.stride..][..chunk.stride];
        for (x, pixel) in bytes.chunks_exact_mut(layout.used()).enumerate() {
            let unit = &units[x / across * (across * down + 2)..][..across * down + 2];
            pixel[0] = unit[y % down * across + x % across];
            pixel[1..3].copy_from_slice(&unit[across * down..]);
        }
        return;
    }
    for (row, places) in rows_of(layout, planes, y) {
        match layout.bits {
            8 if places.stride == places.step => bytes.copy_from_slice(&row[..bytes.len()]),
            8 => spread(bytes, places, |index| row[index]),
            bits => spread(bytes, places, |index| packed(row, bits, index) as u8),
        }
    }
}

fn fill_values(layout: &Layout, planes: &[Chunk], y: usize, values: &mut [f64]) {
    let little = layout.directory.little;
    for (row, places) in rows_of(layout, planes, y) {
        /// A sample of a type that has as many bytes as `$width`.
        macro_rules! number {
            ($type:ty) => {
                |index| {
                    const WIDTH: usize = size_of::<$type>();
                    let mut bytes = [0; WIDTH];
                    bytes.copy_from_slice(&row[index * WIDTH..][..WIDTH]);
                    match little {
                        true => <$type>::from_le_bytes(bytes) as f64,
                        false => <$type>::from_be_bytes(bytes) as f64,
                    }
                }
            };
        }
        match (layout.number, layout.bits) {
            (Number::Unsigned, 16) => spread(values, places, number!(u16)),
            (Number::Unsigned, 32) => spread(values, places, number!(u32)),
            (Number::Unsigned, 64) => spread(values, places, number!(u64)),
            (Number::Unsigned, 24) => spread(values, places, |index| {
                let mut bytes = [0; 4];
                bytes[..3].copy_from_slice(&row[index * 3..][..3]);
                if !little {
                    bytes[..3].reverse();
                }
                f64::from(u32::from_le_bytes(bytes))
            }),
            (Number::Signed, 8) => spread(values, places, number!(i8)),
            (Number::Signed, 16) => spread(values, places, number!(i16)),
            (Number::Signed, 32) => spread(values, places, number!(i32)),
            (Number::Signed, 64) => spread(values, places, number!(i64)),
            (Number::Float, 32) => spread(values, places, number!(f32)),
            (Number::Float, 64) => spread(values, places, number!(f64)),
            (Number::Float, 16) => {
                let bits = number!(u16);
                spread(values, places, |index| half(bits(index) as u16));
            }
            (_, bits) => spread(values, places, |index| f64::from(packed(row, bits, index))),
        }
    }
}

/// Fills in the samples of one plane, or of all, which `get` reads by their number in the row.
fn spread<T>(into: &mut [T], places: Places, get: impl Fn(usize) -> T) {
    let Places { stride, taken, step, first } = places;
    for (x, pixel) in into.chunks_exact_mut(step).enumerate() {
        for (k, sample) in pixel[first..first + taken].iter_mut().enumerate() {
            *sample = get(x * stride + k);
        }
    }
}

/// A sample of at most 16 bits in a row without gaps, whose highest bit comes first.
fn packed(row: &[u8], bits: usize, index: usize) -> u16 {
    let at = index * bits;
    let bytes = [0, 1, 2].map(|next| row.get(at / 8 + next).map_or(0, |&byte| u32::from(byte)));
    let word = bytes[0] << 16 | bytes[1] << 8 | bytes[2];
    (word >> (24 - at % 8 - bits) & ((1 << bits) - 1)) as u16
}

/// A float of 16 bits.
fn half(bits: u16) -> f64 {
    f16::from_bits(bits).to_f64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_unpacked_across_bytes() {
        let row = [0b1010_1100, 0b0101_0011, 0b1111_0000];
        assert_eq!((0..4).map(|i| packed(&row, 2, i)).collect::<Vec<_>>(), [2, 2, 3, 0]);
        assert_eq!((0..2).map(|i| packed(&row, 12, i)).collect::<Vec<_>>(), [0xAC5, 0x3F0]);
        assert_eq!(packed(&row, 14, 0), 0b10_1011_0001_0100);
    }

    #[test]
    fn half_floats_are_those_of_the_standard() {
        let cases =
            [(0x3C00, 1.0), (0xC000, -2.0), (0x3555, 0.333_251_953_125), (0x0001, 2f64.powi(-24))];
        for (bits, value) in cases {
            assert_eq!(half(bits), value);
        }
        assert_eq!((half(0x7C00), half(0xFC00)), (f64::INFINITY, f64::NEG_INFINITY));
        assert!(half(0x7E00).is_nan());
    }
}

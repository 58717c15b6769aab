//! Pixels between two steps: 16-bit integers in 64ths of a level.
//!
//! A vector holds twice as many of them as of float32 numbers, and sums and products of integers
//! are the same on every processor, whatever the width of its vectors. A step rounds to a 64th of a
//! level; views are rounded to bytes once, at the end.

use super::transpose::ROWS;

/// Units of one level of a byte.
const LEVEL: i16 = 64;
/// The value of level 255.
pub(super) const WHITE: i16 = 255 * LEVEL;
/// Values of a row that are computed together, in registers; rows are padded to a multiple of it.
pub(super) const BLOCK: usize = 32;

/// `value` · `factor` / 2¹⁵, rounded, halves up.
#[inline(always)]
pub(super) fn times(value: i16, factor: i16) -> i16 {
    ((i32::from(value) * i32::from(factor) + (1 << 14)) >> 15) as i16
}

/// `value` · `factor` / 2¹⁶, rounded down: what the compiler turns into one instruction by itself.
#[inline(always)]
pub(super) fn times_half(value: i16, factor: i16) -> i16 {
    ((i32::from(value) * i32::from(factor)) >> 16) as i16
}

/// The same without signs.
#[inline(always)]
pub(super) fn times_half_unsigned(value: u16, factor: u16) -> u16 {
    ((u32::from(value) * u32::from(factor)) >> 16) as u16
}

/// A byte's value.
#[inline(always)]
pub(super) fn from_byte(byte: u8) -> i16 {
    i16::from(byte) << 6
}

/// The byte next to a value from 0 to [`WHITE`].
#[inline(always)]
pub(super) fn to_byte(value: i16) -> u8 {
    ((value + LEVEL / 2) >> 6) as u8
}

/// Values from the beginning of a cache line on: vectors that cross lines take twice as long.
#[derive(Debug, Default)]
pub(super) struct Aligned {
    memory: Vec<i16>,
    start: usize,
    len: usize,
}

impl Aligned {
    /// Bytes of a cache line.
    const LINE: usize = 64;

    /// Makes room for so many values, whatever they are.
    pub fn resize(&mut self, len: usize) {
        let spare = Self::LINE / size_of::<i16>();
        if self.memory.len() < len + spare {
            self.memory.resize(len + spare, 0);
        }
        self.start = self.memory.as_ptr().align_offset(Self::LINE);
        self.len = len;
    }

    #[inline(always)]
    pub fn values(&self) -> &[i16] {
        &self.memory[self.start..][..self.len]
    }

    #[inline(always)]
    pub fn values_mut(&mut self) -> &mut [i16] {
        &mut self.memory[self.start..][..self.len]
    }
}

/// Red, green and blue of a view as separate planes.
#[derive(Debug, Default)]
pub(super) struct Planes {
    /// Pixels of a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Values from one row to the next, a multiple of [`BLOCK`].
    pub stride: usize,
    /// `[height, stride]` each, from 0 to [`WHITE`], and rows of any content up to a multiple of
    /// [`ROWS`].
    pub planes: [Aligned; 3],
}

impl Planes {
    /// Makes room for `height` rows of `width` pixels, whatever they are.
    pub fn resize(&mut self, width: usize, height: usize) {
        self.width = width;
        self.height = height;
        self.stride = width.next_multiple_of(BLOCK);
        for plane in &mut self.planes {
            plane.resize(self.stride * height.next_multiple_of(ROWS));
        }
    }

    /// Each row of the three planes.
    #[inline(always)]
    pub fn rows(&mut self) -> impl Iterator<Item = [&mut [i16]; 3]> {
        let stride = self.stride;
        let [red, green, blue] = &mut self.planes;
        red.values_mut()
            .chunks_exact_mut(stride)
            .zip(green.values_mut().chunks_exact_mut(stride))
            .zip(blue.values_mut().chunks_exact_mut(stride))
            .map(|((red, green), blue)| [red, green, blue])
            .take(self.height)
    }
}

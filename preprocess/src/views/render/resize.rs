//! Bicubic resizing as Pillow's `resize(…, BICUBIC)`: a = −0.5, antialiased when shrinking.
//!
//! First down the columns, where the values to sum lie one above the other, then along the rows.
//! For that, blocks of [`ROWS`] rows are transposed, so that again one instruction computes a value
//! of each row. Pillow goes along the rows first and rounds to bytes in between; here what is
//! between both is in 64ths of a level, limited to the values of a byte as Pillow's is.

use scrl_schemas::Crop;

use super::fixed::{Aligned, Planes, WHITE, from_byte};
use super::transpose::{ROWS, to_columns, to_rows};
use super::vector::{VALUES, Vectors};
use crate::images::RgbImage;

/// Pixels to resize: `[height, width, 3]` bytes.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub pixels: &'a [u8],
    pub width: usize,
    pub height: usize,
}

impl<'a> From<&'a RgbImage> for Source<'a> {
    fn from(image: &'a RgbImage) -> Self {
        let (width, height) = (image.size.width as usize, image.size.height as usize);
        Self { pixels: &image.pixels, width, height }
    }
}

/// The filter's radius in pixels of the larger image.
const SUPPORT: f64 = 2.0;
/// The weight 1; at the borders weights are larger. [`times`](Vectors::times) makes half of the
/// product of it, so twice the values are summed.
const ONE: i32 = 1 << 14;
/// Vectors of a row that are summed together, in registers.
const SPAN: usize = 8;

/// For each pixel of a side of the result, which pixels of the source it is the sum of.
#[derive(Debug, Default)]
struct Filter {
    /// The first of the source's pixels.
    starts: Vec<usize>,
    /// Pixels of the source to sum.
    taps: usize,
    /// `[result, taps]`: their weights.
    weights: Vec<i16>,
    /// How far the first lies from the center of what the pixel covers.
    distances: Vec<f64>,
    /// `[taps, result]`: the weights before they are rounded.
    exact: Vec<f64>,
    /// Their sums.
    sums: Vec<f64>,
}

impl Filter {
    /// Computes the weights for a side of `from` pixels that becomes `into` pixels.
    #[inline(always)]
    fn set(&mut self, from: usize, into: usize) {
        let scale = from as f64 / into as f64;
        let widening = scale.max(1.0);
        let radius = SUPPORT * widening;
        let taps = ((2.0 * radius).ceil() as usize).min(from);
        self.taps = taps;
        self.starts.clear();
        self.distances.clear();
        for index in 0..into {
            let center = (index as f64 + 0.5) * scale;
            let start = ((center - radius + 0.5).max(0.0) as usize).min(from - taps);
            self.starts.push(start);
            self.distances.push(start as f64 + 0.5 - center);
        }
        self.sums.clear();
        self.sums.resize(into, 0.0);
        self.exact.resize(taps * into, 0.0);
        // All pixels of the result together, so that it is vectorized.
        for (tap, exact) in self.exact.chunks_exact_mut(into).enumerate() {
            let rows = exact.iter_mut().zip(&mut self.sums).zip(&self.distances);
            for ((exact, sum), distance) in rows {
                *exact = bicubic((distance + tap as f64) / widening);
                *sum += *exact;
            }
        }
        self.weights.resize(taps * into, 0);
        for (index, weights) in self.weights.chunks_exact_mut(taps).enumerate() {
            let unit = f64::from(ONE) / self.sums[index];
            let mut lacking = ONE;
            for (weight, exact) in weights.iter_mut().zip(self.exact[index..].iter().step_by(into))
            {
                *weight = rounded(exact * unit);
                lacking -= i32::from(*weight);
            }
            // What rounding leaves goes to the pixel nearest to the center, the largest.
            let largest = &mut weights[(0.5 - self.distances[index]) as usize];
            *largest += lacking as i16;
        }
    }

    /// The weights of each pixel.
    #[inline(always)]
    fn weights(&self) -> std::slice::ChunksExact<'_, i16> {
        self.weights.chunks_exact(self.taps)
    }
}

/// The bicubic filter with a = −0.5 at a distance from its center.
#[inline(always)]
fn bicubic(distance: f64) -> f64 {
    let x = distance.abs().min(SUPPORT);
    let inner = (1.5 * x - 2.5) * x * x + 1.0;
    let outer = -0.5 * (((x - 5.0) * x + 8.0) * x - 4.0);
    if x < 1.0 { inner } else { outer }
}

/// The integer next to a number of less than 2¹⁵.
#[inline(always)]
fn rounded(number: f64) -> i16 {
    // Adding it moves the integer into the lowest bits.
    const SHIFT: f64 = 1.5 * (1u64 << 52) as f64;
    (number + SHIFT).to_bits() as i16
}

/// A resizer and its buffers.
#[derive(Debug, Default)]
pub(super) struct Resize {
    down: Filter,
    along: Filter,
    /// Rows of the source as twice their values, in a ring.
    source: Aligned,
    /// `[ROWS, taps]`: which place of the ring holds a row of the source.
    places: Vec<usize>,
    /// [`ROWS`] rows resized down the columns, twice their values.
    rows: Aligned,
    /// The same transposed: `[column, channel, ROWS]`.
    columns: Aligned,
    /// The columns of the result, `[channel, column, ROWS]`.
    narrow: Aligned,
}

impl Resize {
    /// Resizes the whole image.
    #[inline(always)]
    pub(super) fn whole<S: Vectors>(
        &mut self,
        simd: S,
        source: Source<'_>,
        into: [usize; 2],
        planes: &mut Planes,
    ) {
        let (width, height) = (source.width as i32, source.height as i32);
        self.crop(simd, source, Crop { x: 0, y: 0, width, height }, into, false, planes);
    }

    /// Resizes the crop, and nothing outside it, to `width` × `height` pixels, and mirrors it if
    /// `flip`.
    #[inline(always)]
    pub(super) fn crop<S: Vectors>(
        &mut self,
        simd: S,
        source: Source<'_>,
        crop: Crop,
        [width, height]: [usize; 2],
        flip: bool,
        planes: &mut Planes,
    ) {
        assert!(crop.is_within(source.width, source.height), "a crop lies within its source");
        let [left, top, from_width, from_height] =
            [crop.x, crop.y, crop.width, crop.height].map(|side| side as usize);
        self.down.set(from_height, height);
        self.along.set(from_width, width);
        planes.resize(width, height);
        let (starts, taps) = (&self.down.starts, self.down.taps);
        let values = from_width * 3;
        let stride = values.next_multiple_of(SPAN * VALUES);
        // Rows of the source that a block of rows needs.
        let needed = |y: usize| starts[y]..starts[(y + ROWS).min(height) - 1] + taps;
        let ring = (0..height).step_by(ROWS).map(|y| needed(y).len()).max().unwrap_or(0);
        self.source.resize(ring * stride);
        self.rows.resize(ROWS * stride);
        self.columns.resize(ROWS * stride);
        self.narrow.resize(3 * ROWS * planes.stride);
        let mut read = 0;
        for y in (0..height).step_by(ROWS) {
            for row in needed(y).start.max(read)..needed(y).end {
                let bytes = &source.pixels[((top + row) * source.width + left) * 3..][..values];
                let into = &mut self.source.values_mut()[row % ring * stride..][..values];
                for (value, &byte) in into.iter_mut().zip(bytes) {
                    *value = 2 * from_byte(byte);
                }
            }
            read = needed(y).end;
            let starts = &starts[y..height.min(y + ROWS)];
            self.places.clear();
            for &start in starts {
                self.places.extend((start..start + taps).map(|row| row % ring));
            }
            let weights = self.down.weights().skip(y);
            let places = self.places.chunks_exact(taps);
            sum_rows(
                simd,
                self.source.values(),
                stride,
                places.zip(weights),
                self.rows.values_mut(),
            );
            to_columns(self.rows.values(), stride, self.columns.values_mut());
            sum_columns(
                simd,
                self.columns.values(),
                &self.along,
                flip,
                planes.stride,
                self.narrow.values_mut(),
            );
            let narrow = self.narrow.values().chunks_exact(planes.stride * ROWS);
            for (plane, narrow) in planes.planes.iter_mut().zip(narrow) {
                to_rows(narrow, &mut plane.values_mut()[y * planes.stride..], planes.stride);
            }
        }
    }
}

/// Sums rows of the source, given by their places and weights, for each row of `out`.
#[inline(always)]
fn sum_rows<'a, S: Vectors>(
    simd: S,
    source: &[i16],
    stride: usize,
    rows: impl Iterator<Item = (&'a [usize], &'a [i16])> + Clone,
    out: &mut [i16],
) {
    let source = source.as_chunks::<VALUES>().0.as_chunks::<SPAN>().0;
    let out = out.as_chunks_mut::<VALUES>().0.as_chunks_mut::<SPAN>().0;
    let spans = stride / (SPAN * VALUES);
    // Span by span, so that those of all rows are in the first-level cache.
    for span in 0..spans {
        for (row, (places, weights)) in rows.clone().enumerate() {
            let mut sums = [simd.splat(0); SPAN];
            for (place, &weight) in places.iter().zip(weights) {
                let weight = simd.splat(weight);
                let values = &source[place * spans + span];
                for i in 0..SPAN {
                    sums[i] = simd.add(sums[i], simd.times(simd.load(&values[i]), weight));
                }
            }
            let out = &mut out[row * spans + span];
            for i in 0..SPAN {
                let sum = limited(simd, sums[i]);
                simd.store(simd.add(sum, sum), &mut out[i]);
            }
        }
    }
}

/// Sums columns, `[column, channel, ROWS]`, for each column of `out`, `[channel, stride, ROWS]`.
#[inline(always)]
fn sum_columns<S: Vectors>(
    simd: S,
    columns: &[i16],
    filter: &Filter,
    flip: bool,
    stride: usize,
    out: &mut [i16],
) {
    let (columns, _) = columns.as_chunks::<ROWS>().0.as_chunks::<3>();
    let (out, _) = out.as_chunks_mut::<ROWS>();
    let width = filter.starts.len();
    for (column, (&start, weights)) in filter.starts.iter().zip(filter.weights()).enumerate() {
        let mut sums = [simd.splat(0); 3];
        for (values, &weight) in columns[start..][..filter.taps].iter().zip(weights) {
            let weight = simd.splat(weight);
            for i in 0..3 {
                sums[i] = simd.add(sums[i], simd.times(simd.load(&values[i]), weight));
            }
        }
        let column = if flip { width - 1 - column } else { column };
        for i in 0..3 {
            simd.store(limited(simd, sums[i]), &mut out[i * stride + column]);
        }
    }
}

/// Within the values of a byte.
#[inline(always)]
fn limited<S: Vectors>(simd: S, sum: S::V) -> S::V {
    simd.min(simd.max(sum, simd.splat(0)), simd.splat(WHITE))
}

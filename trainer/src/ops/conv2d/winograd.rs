//! Convolutions of 3×3 with stride 1 by Winograd's algorithm F(4×4, 3×3) (Lavin and Gray, 2016):
//! 4×4 outputs from 36 products for each pair of channels instead of 144.
//!
//! A tile of 6×6 inputs and the filter are transformed, multiplied place by place with sums over
//! channels, and the 36 sums are transformed to 4×4 outputs. The gradient of the filter is the
//! adjoint: tiles of the input and of the output's gradient are transformed, multiplied with sums
//! over tiles, and the sums transformed to the filter. The polynomials behind the transforms are
//! evaluated at 0, ±1, ½, −2 and ∞: of all points the ones with the smallest rounding errors
//! (Barabasz et al., 2020). With 64 to 512 channels these are 0.9e-6 to 1.3e-6 of the result's
//! norm, those of one sum after another 0.3e-6 to 0.9e-6.

use std::cell::RefCell;

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::block::{ROWS, Sums};
use super::products::Panels;
use crate::ops::cpu::{compute, compute_pieces};
use crate::ops::geometry::Geometry;
use crate::ops::matrix::{Matrix, Store, multiply};

/// Outputs of a tile, each way.
const OUT: usize = 4;
/// Inputs of a tile, each way.
const IN: usize = OUT + 2;
/// Products of a tile for each pair of channels.
const PLACES: usize = IN * IN;
/// Channels must be a multiple of this: the widest block.
const CHANNELS: usize = 32;
/// Terms that are summed one after another: shorter sums have smaller rounding errors, and their
/// part of the filter stays in the cache.
const TERMS: usize = 128;
/// Tiles that are transformed and multiplied together.
const CHUNK_TILES: usize = 48;
/// Tiles whose products are summed one after another for the filter's gradient.
const SLAB: usize = 128;

/// Whether a convolution is computed here: where that takes fewer products than one by one. The
/// number of images does not matter, so that an image's numbers are the same in any batch.
pub(super) fn suits(g: &Geometry) -> bool {
    // Of three taps, one is outside the map at either end.
    let one_by_one = (3 * g.h - 2) * (3 * g.w - 2);
    (g.kh, g.kw, g.stride, g.padding) == (3, 3, 1, 1)
        && g.i.is_multiple_of(CHANNELS)
        && g.o.is_multiple_of(CHANNELS)
        && PLACES * Tiles { n: 1, ..Tiles::of(g) }.count() < one_by_one
}

/// The tiles of a batch of maps.
#[derive(Clone, Copy)]
struct Tiles {
    n: usize,
    h: usize,
    w: usize,
    down: usize,
    across: usize,
}

impl Tiles {
    fn of(g: &Geometry) -> Self {
        let (down, across) = (g.h.div_ceil(OUT), g.w.div_ceil(OUT));
        Self { n: g.n, h: g.h, w: g.w, down, across }
    }

    fn count(&self) -> usize {
        self.n * self.down * self.across
    }

    /// The pixels of `map` of a square of `SIDE` whose corner stands `outside` pixels up and left
    /// of tile `index`; `zeros` outside the map.
    #[inline(always)]
    fn square<'a, const SIDE: usize>(
        &self,
        map: &'a [f32],
        zeros: &'a [f32],
        index: usize,
        outside: usize,
    ) -> [[&'a [f32]; SIDE]; SIDE] {
        let channels = zeros.len();
        let (row, x) = (index / self.across, index % self.across * OUT);
        let (image, y) = (row / self.down, row % self.down * OUT);
        let mut square = [[zeros; SIDE]; SIDE];
        for (dy, line) in square.iter_mut().enumerate() {
            let Some(y) = (y + dy).checked_sub(outside).filter(|y| *y < self.h) else { continue };
            for (dx, pixel) in line.iter_mut().enumerate() {
                if let Some(x) = (x + dx).checked_sub(outside).filter(|x| *x < self.w) {
                    let at = ((image * self.h + y) * self.w + x) * channels;
                    *pixel = &map[at..at + channels];
                }
            }
        }
        square
    }
}

/// A map `[N, h, w, C]` convolved with the filter in `panels`, whose taps are `reversed` or not:
/// the output of a convolution, or the gradient of its input.
pub(super) fn convolve(g: &Geometry, source: &[f32], panels: &Panels, reversed: bool) -> Vec<f32> {
    let tiles = Tiles::of(g);
    let filter = transform_filter(panels, reversed);
    let line = g.w * panels.outputs;
    let bands = tiles.n * tiles.down;
    let chunk = chunk_bands(bands, tiles.across);
    let bands_of = |index: usize| index * chunk..((index + 1) * chunk).min(bands);
    // A band is one row of tiles; the last one of an image may be less high.
    let height = |band: usize| OUT.min(g.h - band % tiles.down * OUT);
    let sizes = (0..bands.div_ceil(chunk))
        .map(|index| bands_of(index).map(height).sum::<usize>() * line)
        .collect();
    let zeros = vec![0.0; panels.terms];
    let work = |index, output: &mut [f32]| {
        let bands = bands_of(index);
        let (first, count) = (bands.start * tiles.across, bands.len() * tiles.across);
        let rows = count.next_multiple_of(ROWS);
        SCRATCH.with_borrow_mut(|scratch| {
            let [transformed, products] = scratch;
            transformed.resize(rows * PLACES * panels.terms, 0.0);
            products.resize(rows * PLACES * panels.width, 0.0);
            let (zeros, filter) = (&zeros[..], &filter[..]);
            Arch::new().dispatch(Chunk {
                tiles,
                source,
                zeros,
                panels,
                filter,
                first,
                count,
                transformed,
                products,
                output,
            });
        });
    };
    compute_pieces(sizes, work).0
}

thread_local! {
    /// The transformed inputs and the products of a chunk, which are always written before they are
    /// read.
    static SCRATCH: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// Rows of tiles in a chunk; this changes who computes a sum, never the sum.
fn chunk_bands(bands: usize, across: usize) -> usize {
    let threads = rayon::current_num_threads();
    let chunks = (bands * across).div_ceil(CHUNK_TILES);
    let chunks = if chunks < 8 * threads { chunks.next_multiple_of(threads) } else { chunks };
    bands.div_ceil(chunks)
}

/// By panel, then place: the terms as in [`Panels`].
fn transform_filter(panels: &Panels, reversed: bool) -> Vec<f32> {
    let size = panels.terms * panels.width;
    let work = |panel, to: &mut [f32]| {
        let mut from = [[&[][..]; 3]; 3];
        for (tap, from) in from.as_flattened_mut().iter_mut().enumerate() {
            *from = panels.get(panel, if reversed { 8 - tap } else { tap });
        }
        Arch::new().dispatch(Transform::<Filter, 3, IN> { from, to, line: Filter });
    };
    compute(panels.outputs / panels.width * PLACES * size, PLACES * size, work).0
}

/// Some tiles, all channels of them.
struct Chunk<'a> {
    tiles: Tiles,
    source: &'a [f32],
    zeros: &'a [f32],
    panels: &'a Panels,
    filter: &'a [f32],
    first: usize,
    count: usize,
    /// By tile, then place: the channels of the input.
    transformed: &'a mut [f32],
    /// By tile, then place: the sums of a panel.
    products: &'a mut [f32],
    output: &'a mut [f32],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { tiles, source, zeros, panels, filter, first, .. } = self;
        let (terms, width, outputs) = (panels.terms, panels.width, panels.outputs);
        let tile_size = PLACES * terms;
        for (index, to) in self.transformed.chunks_exact_mut(tile_size).take(self.count).enumerate()
        {
            let from = tiles.square(source, zeros, first + index, 1);
            Transform::<Input, IN, IN> { from, to, line: Input }.with_simd(simd);
        }
        let first_pixel = pixel_row(tiles, first);
        let mut square = vec![0.0; OUT * OUT * width];
        for (panel, filter) in filter.chunks_exact(tile_size * width).enumerate() {
            for (place, filter) in filter.chunks_exact(terms * width).enumerate() {
                let blocks = self.transformed.chunks_exact(ROWS * tile_size);
                let products = self.products.chunks_exact_mut(ROWS * PLACES * width);
                for (tiles, products) in blocks.zip(products) {
                    for (part, filter) in filter.chunks(TERMS * width).enumerate() {
                        let mut rows = [zeros; ROWS];
                        for (row, tile) in rows.iter_mut().zip(tiles.chunks_exact(tile_size)) {
                            let first = place * terms + part * TERMS;
                            *row = &tile[first..first + filter.len() / width];
                        }
                        let mut sums = Sums::zero(simd);
                        sums.add_rows(simd, rows, filter);
                        for (row, tile) in products.chunks_exact_mut(PLACES * width).enumerate() {
                            let to = &mut tile[place * width..][..width];
                            match part {
                                0 => sums.write(row, to),
                                _ => sums.add_to(simd, row, to),
                            }
                        }
                    }
                }
            }
            for (index, products) in
                self.products.chunks_exact(PLACES * width).take(self.count).enumerate()
            {
                let mut from = [[zeros; IN]; IN];
                for (place, from) in from.as_flattened_mut().iter_mut().enumerate() {
                    *from = &products[place * width..][..width];
                }
                Transform::<Output, IN, OUT> { from, to: &mut square, line: Output }
                    .with_simd(simd);
                let tile = first + index;
                let (y, x) = (tile / tiles.across % tiles.down * OUT, tile % tiles.across * OUT);
                let row = pixel_row(tiles, tile) - first_pixel;
                for (dy, line) in square.chunks_exact(OUT * width).take(tiles.h - y).enumerate() {
                    for (dx, pixel) in line.chunks_exact(width).take(tiles.w - x).enumerate() {
                        let at = ((row + dy) * tiles.w + x + dx) * outputs + panel * width;
                        self.output[at..at + width].copy_from_slice(pixel);
                    }
                }
            }
        }
    }
}

/// The first row of pixels, of all images below one another, that a tile covers.
fn pixel_row(tiles: Tiles, tile: usize) -> usize {
    let band = tile / tiles.across;
    band / tiles.down * tiles.h + band % tiles.down * OUT
}

/// The input and the gradient of the output give the gradient of the filter, `[O, 3, 3, I]`.
pub(super) fn filter_gradient(g: &Geometry, input: &[f32], grad: &[f32]) -> Vec<f32> {
    let tiles = Tiles::of(g);
    let slab = SLAB.min(tiles.count());
    let zeros = vec![0.0; g.i.max(g.o)];
    let mut inputs = vec![0.0; slab * PLACES * g.i];
    let mut grads = vec![0.0; slab * PLACES * g.o];
    // By place: `[O, I]`.
    let mut sums = vec![0.0; PLACES * g.o * g.i];
    for first in (0..tiles.count()).step_by(slab) {
        let count = slab.min(tiles.count() - first);
        inputs.par_chunks_mut(PLACES * g.i).take(count).enumerate().for_each(|(index, to)| {
            let from = tiles.square(input, &zeros[..g.i], first + index, 1);
            Arch::new().dispatch(Transform::<Input, IN, IN> { from, to, line: Input });
        });
        grads.par_chunks_mut(PLACES * g.o).take(count).enumerate().for_each(|(index, to)| {
            let from = tiles.square(grad, &zeros[..g.o], first + index, 0);
            Arch::new().dispatch(Transform::<Grad, OUT, IN> { from, to, line: Grad });
        });
        sums.par_chunks_mut(g.o * g.i).enumerate().for_each(|(place, sums)| {
            let of = |numbers, channels: usize| {
                Matrix::with_stride(numbers, count, channels, PLACES * channels)
            };
            let grads = of(&grads[place * g.o..], g.o).transposed();
            let inputs = of(&inputs[place * g.i..], g.i);
            let store = if first == 0 { Store::Replace } else { Store::Add };
            multiply(sums, grads, inputs, store, gemm::Parallelism::None);
        });
    }
    let work = |output, to: &mut [f32]| {
        let mut from = [[&[][..]; IN]; IN];
        for (place, from) in from.as_flattened_mut().iter_mut().enumerate() {
            *from = &sums[(place * g.o + output) * g.i..][..g.i];
        }
        Arch::new().dispatch(Transform::<FilterGrad, IN, 3> { from, to, line: FilterGrad });
    };
    compute(g.o * g.patch(), g.patch(), work).0
}

/// A linear transform of a line of `A` vectors to `B`.
trait Line<const A: usize, const B: usize> {
    fn apply<S: Simd>(&self, simd: S, line: [S::f32s; A]) -> [S::f32s; B];
}

/// A line of inputs.
struct Input;
/// A line of products, to outputs.
struct Output;
/// A line of the filter.
struct Filter;
/// A line of the gradient of the output.
struct Grad;
/// A line of sums, to the gradient of the filter.
struct FilterGrad;

/// `factor·x + y`.
#[inline(always)]
fn add<S: Simd>(simd: S, factor: f32, x: S::f32s, y: S::f32s) -> S::f32s {
    simd.mul_add_f32s(simd.splat_f32s(factor), x, y)
}

#[inline(always)]
fn scale<S: Simd>(simd: S, factor: f32, x: S::f32s) -> S::f32s {
    simd.mul_f32s(simd.splat_f32s(factor), x)
}

impl Line<6, 6> for Input {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, [d0, d1, d2, d3, d4, d5]: [S::f32s; 6]) -> [S::f32s; 6] {
        let (even, odd) = (simd.sub_f32s(d4, d2), simd.sub_f32s(d3, d1));
        [
            add(simd, 1.5, odd, simd.sub_f32s(simd.add_f32s(d0, even), d2)),
            add(simd, 2.5, d3, simd.sub_f32s(add(simd, 0.5, d2, d4), d1)),
            add(simd, 0.5, d3, simd.add_f32s(add(simd, -2.5, d2, d4), d1)),
            add(simd, 2.0, odd, even),
            add(simd, -0.5, odd, even),
            add(simd, 1.5, even, simd.sub_f32s(simd.sub_f32s(d5, odd), d3)),
        ]
    }
}

impl Line<6, 4> for Output {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, [m0, m1, m2, m3, m4, m5]: [S::f32s; 6]) -> [S::f32s; 4] {
        let (even, odd) = (simd.add_f32s(m1, m2), simd.sub_f32s(m1, m2));
        [
            simd.add_f32s(simd.add_f32s(m0, even), simd.add_f32s(m3, m4)),
            add(simd, -2.0, m4, add(simd, 0.5, m3, odd)),
            add(simd, 4.0, m4, add(simd, 0.25, m3, even)),
            add(simd, -8.0, m4, add(simd, 0.125, m3, simd.add_f32s(odd, m5))),
        ]
    }
}

impl Line<3, 6> for Filter {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, [g0, g1, g2]: [S::f32s; 3]) -> [S::f32s; 6] {
        let outer = simd.add_f32s(g0, g2);
        [
            g0,
            scale(simd, 1.0 / 3.0, simd.add_f32s(outer, g1)),
            scale(simd, -1.0 / 3.0, simd.sub_f32s(outer, g1)),
            scale(simd, -16.0 / 15.0, add(simd, 0.25, g2, add(simd, 0.5, g1, g0))),
            scale(simd, 1.0 / 15.0, add(simd, 4.0, g2, add(simd, -2.0, g1, g0))),
            g2,
        ]
    }
}

impl Line<4, 6> for Grad {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, [y0, y1, y2, y3]: [S::f32s; 4]) -> [S::f32s; 6] {
        let (even, odd) = (simd.add_f32s(y0, y2), simd.add_f32s(y1, y3));
        [
            y0,
            simd.add_f32s(even, odd),
            simd.sub_f32s(even, odd),
            add(simd, 0.125, y3, add(simd, 0.25, y2, add(simd, 0.5, y1, y0))),
            add(simd, -8.0, y3, add(simd, 4.0, y2, add(simd, -2.0, y1, y0))),
            y3,
        ]
    }
}

impl Line<6, 3> for FilterGrad {
    #[inline(always)]
    fn apply<S: Simd>(&self, simd: S, [u0, u1, u2, u3, u4, u5]: [S::f32s; 6]) -> [S::f32s; 3] {
        let (u1, u2) = (scale(simd, 1.0 / 3.0, u1), scale(simd, -1.0 / 3.0, u2));
        let (u3, u4) = (scale(simd, -16.0 / 15.0, u3), scale(simd, 1.0 / 15.0, u4));
        let (even, odd) = (simd.add_f32s(u1, u2), simd.sub_f32s(u1, u2));
        [
            simd.add_f32s(simd.add_f32s(u0, even), simd.add_f32s(u3, u4)),
            add(simd, -2.0, u4, add(simd, 0.5, u3, odd)),
            add(simd, 4.0, u4, add(simd, 0.25, u3, simd.add_f32s(even, u5))),
        ]
    }
}

/// The transform of a square both ways, by `line`: runs of channels at `A` × `A` places to `B` ×
/// `B` places one after another. Its result is transposed, so that a second transform sets it
/// right.
struct Transform<'a, L, const A: usize, const B: usize> {
    from: [[&'a [f32]; A]; A],
    to: &'a mut [f32],
    line: L,
}

impl<L: Line<A, B>, const A: usize, const B: usize> WithSimd for Transform<'_, L, A, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let vectors = self.from[0][0].len() / S::F32_LANES;
        let mut from = [[&[][..]; A]; A];
        for (from, numbers) in from.as_flattened_mut().iter_mut().zip(self.from.as_flattened()) {
            *from = &S::as_simd_f32s(numbers).0[..vectors];
        }
        let to = &mut S::as_mut_simd_f32s(self.to).0[..B * B * vectors];
        for vector in 0..vectors {
            let mut half = [[simd.splat_f32s(0.0); A]; B];
            for (place, from) in from.iter().enumerate() {
                let mut numbers = [simd.splat_f32s(0.0); A];
                for (number, from) in numbers.iter_mut().zip(from) {
                    *number = from[vector];
                }
                for (half, number) in half.iter_mut().zip(self.line.apply(simd, numbers)) {
                    half[place] = number;
                }
            }
            for (row, half) in half.into_iter().enumerate() {
                for (column, number) in self.line.apply(simd, half).into_iter().enumerate() {
                    to[(row * B + column) * vectors + vector] = number;
                }
            }
        }
    }
}

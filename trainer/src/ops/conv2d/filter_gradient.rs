//! The gradient of the filter: sums over all output pixels of products of an output's gradient and
//! a number of its patch.
//!
//! Pixels are processed slab by slab. The gradients of a slab are laid out once, six channels side
//! by side; the patches are laid out by whoever needs them, [`width`] numbers of each, and used for
//! all output channels while they lie in the cache.

use gemm::Parallelism;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::block::{ROWS, Sums, copy_line, width};
use super::winograd;
use crate::ops::geometry::{Geometry, Pixel};
use crate::ops::matrix::{Matrix, Store, multiply};

/// Pixels of a slab.
const SLAB: usize = 256;
/// Gradients that are laid out at a time.
const LAID_OUT: usize = 1 << 22;
/// Into how many pieces of work a filter is cut, times 16 columns: where it has fewer columns,
/// pixels are divided up as well.
const PIECES: usize = 64;

/// The input and the gradient of the output give the gradient of the filter, `[O, kh, kw, I]`.
pub(super) fn filter_gradient(g: Geometry, input: &[f32], grad: &[f32]) -> Vec<f32> {
    if winograd::suits(&g) {
        return winograd::filter_gradient(&g, input, grad);
    }
    if (g.kh, g.kw, g.stride, g.padding) == (1, 1, 1, 0) {
        let grad = Matrix::new(grad, g.pixels(), g.o).transposed();
        let mut filter = vec![0.0; g.o * g.i];
        let input = Matrix::new(input, g.pixels(), g.i);
        multiply(&mut filter, grad, input, Store::Replace, Parallelism::Rayon(0));
        return filter;
    }
    match g.padded(input) {
        Some((g, input)) => sum(g, &input, grad, g.kw),
        None => sum(g, input, grad, 1),
    }
}

/// The same where `side_by_side` pixels of a patch's line lie side by side.
fn sum(g: Geometry, input: &[f32], grad: &[f32], side_by_side: usize) -> Vec<f32> {
    let (width, patch) = (width(), g.patch());
    let pixels = g.out_pixels();
    let slabs = pixels.div_ceil(SLAB);
    let panels = patch.div_ceil(width);
    // From the shape alone, as this decides the order of the sums.
    let shares = (PIECES * 16 / patch).clamp(1, slabs);
    let blocks = g.o.div_ceil(ROWS);
    // By panel, then share: the sums for all output channels.
    let mut sums = vec![0.0; panels * shares * blocks * ROWS * width];
    let slabs_at_a_time = (LAID_OUT / (SLAB * blocks * ROWS)).max(1);
    let mut laid_out = vec![[0.0; ROWS]; slabs_at_a_time.min(slabs) * blocks * SLAB];
    for first in (0..slabs).step_by(slabs_at_a_time) {
        let range = first..(first + slabs_at_a_time).min(slabs);
        let grad = &grad[first * SLAB * g.o..(range.end * SLAB).min(pixels) * g.o];
        laid_out
            .par_chunks_mut(blocks * SLAB)
            .zip(grad.par_chunks(SLAB * g.o))
            .for_each(|(laid_out, grad)| lay_out(g.o, grad, laid_out));
        sums.par_chunks_mut(blocks * ROWS * width).enumerate().for_each(|(index, sums)| {
            let (panel, share) = (index / shares, index % shares);
            let segments =
                segments(g, side_by_side, panel * width..((panel + 1) * width).min(patch));
            let mut patches = vec![0.0; SLAB * width];
            for slab in range.clone().filter(|slab| slab % shares == share) {
                let gradients = &laid_out[(slab - first) * blocks * SLAB..][..blocks * SLAB];
                let pixels = slab * SLAB..((slab + 1) * SLAB).min(pixels);
                let (segments, patches) = (&segments, &mut patches[..]);
                let slab = Slab { g, input, segments, pixels, width, gradients, patches, sums };
                Arch::new().dispatch(slab);
            }
        });
    }
    collect(g, &sums, shares, width)
}

/// Lays out the gradients of a slab: by block of output channels, then pixel.
fn lay_out(channels: usize, grad: &[f32], laid_out: &mut [[f32; ROWS]]) {
    /// Pixels whose gradients stay in the cache between one block and the next.
    const TILE: usize = 16;
    for (tile, grad) in grad.chunks(TILE * channels).enumerate() {
        for (block, laid_out) in laid_out.chunks_exact_mut(SLAB).enumerate() {
            let first = block * ROWS;
            let count = ROWS.min(channels - first);
            for (to, from) in laid_out[tile * TILE..].iter_mut().zip(grad.chunks_exact(channels)) {
                match from[first..].first_chunk() {
                    Some(from) => *to = *from,
                    None => to[..count].copy_from_slice(&from[first..]),
                }
            }
        }
    }
}

/// A part of a panel that lies side by side in the input.
struct Segment {
    dy: usize,
    dx: usize,
    /// How far from the first channel of that pixel.
    offset: usize,
    length: usize,
    /// The first column.
    column: usize,
}

/// The parts of some numbers of a patch.
fn segments(g: Geometry, side_by_side: usize, numbers: std::ops::Range<usize>) -> Vec<Segment> {
    let run = side_by_side * g.i;
    let mut found = Vec::new();
    let mut at = numbers.start;
    while at < numbers.end {
        let (tap, offset) = (at / run * side_by_side, at % run);
        let length = (run - offset).min(numbers.end - at);
        found.push(Segment {
            dy: tap / g.kw,
            dx: tap % g.kw,
            offset,
            length,
            column: at - numbers.start,
        });
        at += length;
    }
    found
}

/// What a slab adds to the sums of a panel.
struct Slab<'a> {
    g: Geometry,
    input: &'a [f32],
    segments: &'a [Segment],
    pixels: std::ops::Range<usize>,
    width: usize,
    gradients: &'a [[f32; ROWS]],
    patches: &'a mut [f32],
    sums: &'a mut [f32],
}

impl WithSimd for Slab<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { g, input, segments, pixels, width, gradients, patches, sums } = self;
        let count = pixels.len();
        let mut at = Pixel::at(pixels.start, g.out_h, g.out_w);
        for line in patches.chunks_exact_mut(width).take(count) {
            for segment in segments {
                let to = &mut line[segment.column..segment.column + segment.length];
                match g.seen(at, segment.dy, segment.dx) {
                    Some(from) => {
                        copy_line::<S>(&input[from + segment.offset..][..segment.length], to)
                    }
                    None => to.fill(0.0),
                }
            }
            at.x += 1;
            if at.x == g.out_w {
                (at.x, at.y) = (0, at.y + 1);
            }
            if at.y == g.out_h {
                (at.y, at.image) = (0, at.image + 1);
            }
        }
        let blocks = gradients.chunks_exact(SLAB).zip(sums.chunks_exact_mut(ROWS * width));
        for (gradients, sums) in blocks {
            let mut products = Sums::zero(simd);
            products.add_interleaved(simd, &gradients[..count], patches);
            for (row, sums) in sums.chunks_exact_mut(width).enumerate() {
                products.add_to(simd, row, sums);
            }
        }
    }
}

/// Adds up the shares, in their order, and puts each number where it belongs in the filter.
fn collect(g: Geometry, sums: &[f32], shares: usize, width: usize) -> Vec<f32> {
    /// Outputs collected together, whose sums of a panel are a long run of memory.
    const OUTPUTS: usize = 32;
    let patch = g.patch();
    let share_size = sums.len() / (patch.div_ceil(width) * shares);
    let mut filter = vec![0.0; g.o * patch];
    filter.par_chunks_mut(OUTPUTS * patch).enumerate().for_each(|(index, filter)| {
        for (share, sums) in sums.chunks_exact(share_size).enumerate() {
            let first = share / shares * width;
            let columns = width.min(patch - first);
            let rows = sums[index * OUTPUTS * width..].chunks_exact(width);
            for (numbers, sums) in filter.chunks_exact_mut(patch).zip(rows) {
                let numbers = &mut numbers[first..first + columns];
                numbers.iter_mut().zip(sums).for_each(|(number, sum)| *number += sum);
            }
        }
    });
    filter
}

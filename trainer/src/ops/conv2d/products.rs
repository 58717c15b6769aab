//! The forward pass and the gradient of the input: each output is a sum over taps, and within a tap
//! over channels that lie side by side in memory. Blocks of six output pixels and a few channels
//! read them from where they are; nothing is laid out as patches.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::block::{ROWS, Sums, width};
use super::winograd;
use crate::ops::cpu::compute;
use crate::ops::geometry::{Geometry, Pixel};

/// Numbers that the blocks of a chunk should read and write at most, to find them in the cache.
const CHUNK_NUMBERS: usize = 1 << 16;
/// The fewest output pixels of a chunk: each chunk reads the whole filter.
const CHUNK_MIN_PIXELS: usize = 96;
/// The most.
const CHUNK_MAX_PIXELS: usize = 1536;
/// Terms after which sums go back to memory: the part of the filter that they read then stays in
/// the cache.
const TERMS: usize = 384;
/// Stands for a place in the padding.
const NOWHERE: usize = usize::MAX;

/// `[N, H, W, I]` with `[O, kh, kw, I]` gives `[N, H', W', O]`.
pub(super) fn forward(g: Geometry, input: &[f32], filter: &[f32]) -> Vec<f32> {
    if let Some((g, input)) = g.padded(input) {
        // What lies side by side is a line of the patch, as long as a tap of more channels.
        let panels = Panels::of_outputs(filter, g.o, g.kh, g.kw * g.i);
        let offset = |at: Pixel, dy: usize| g.seen(at, dy, 0);
        return Products {
            source: &input,
            panels,
            taps: g.kh,
            stride: 1,
            h: g.out_h,
            w: g.out_w,
            offset,
        }
        .compute(g.out_pixels());
    }
    let panels = Panels::of_outputs(filter, g.o, g.taps(), g.i);
    if winograd::suits(&g) {
        return winograd::convolve(&g, input, &panels, false);
    }
    let offset = |at: Pixel, tap: usize| g.seen(at, tap / g.kw, tap % g.kw);
    Products { source: input, panels, taps: g.taps(), stride: 1, h: g.out_h, w: g.out_w, offset }
        .compute(g.out_pixels())
}

/// The gradient of the output and the filter give the gradient of the input.
pub(super) fn data_gradient(g: Geometry, grad: &[f32], filter: &[f32]) -> Vec<f32> {
    let panels = Panels::of_inputs(filter, g.o, g.taps(), g.i);
    if winograd::suits(&g) {
        return winograd::convolve(&g, grad, &panels, true);
    }
    let offset = |at: Pixel, tap: usize| g.seen_by(at, tap / g.kw, tap % g.kw);
    Products { source: grad, panels, taps: g.taps(), stride: g.stride, h: g.h, w: g.w, offset }
        .compute(g.pixels())
}

/// A filter laid out for blocks: panels of [`width`] outputs, in which each term's factors lie side
/// by side.
pub(super) struct Panels {
    numbers: Vec<f32>,
    pub outputs: usize,
    /// Terms of a tap.
    pub terms: usize,
    taps: usize,
    pub width: usize,
}

impl Panels {
    /// For sums over what a filter `[outputs, taps, terms]` has last.
    fn of_outputs(filter: &[f32], outputs: usize, taps: usize, terms: usize) -> Self {
        let mut panels = Self::zeros(outputs, taps, terms);
        let width = panels.width;
        let numbers = panels.numbers.par_chunks_mut(taps * terms * width);
        numbers.zip(filter.par_chunks(width * taps * terms)).for_each(|(panel, filter)| {
            for (column, filter) in filter.chunks(taps * terms).enumerate() {
                let places = panel[column..].iter_mut().step_by(width);
                places.zip(filter).for_each(|(place, number)| *place = *number);
            }
        });
        panels
    }

    /// For sums over what a filter `[terms, taps, outputs]` has first.
    fn of_inputs(filter: &[f32], terms: usize, taps: usize, outputs: usize) -> Self {
        let mut panels = Self::zeros(outputs, taps, terms);
        let width = panels.width;
        panels.numbers.par_chunks_mut(taps * terms * width).enumerate().for_each(
            |(panel, numbers)| {
                let first = panel * width;
                let count = width.min(outputs - first);
                for (index, line) in numbers.chunks_mut(width).enumerate() {
                    let (tap, term) = (index / terms, index % terms);
                    let from = (term * taps + tap) * outputs + first;
                    line[..count].copy_from_slice(&filter[from..from + count]);
                }
            },
        );
        panels
    }

    fn zeros(outputs: usize, taps: usize, terms: usize) -> Self {
        let width = width();
        let numbers = vec![0.0; outputs.div_ceil(width) * taps * terms * width];
        Self { numbers, outputs, terms, taps, width }
    }

    #[inline(always)]
    pub fn get(&self, panel: usize, tap: usize) -> &[f32] {
        let size = self.terms * self.width;
        &self.numbers[(panel * self.taps + tap) * size..][..size]
    }
}

/// A map of sums of products, `[N, h, w, outputs]`.
struct Products<'a, Offset> {
    source: &'a [f32],
    panels: Panels,
    taps: usize,
    /// Pixels this far apart, both ways, see the same taps.
    stride: usize,
    h: usize,
    w: usize,
    /// Where in the source a pixel's terms of a tap lie; `None` where all are zero.
    offset: Offset,
}

impl<Offset: Fn(Pixel, usize) -> Option<usize> + Sync> Products<'_, Offset> {
    fn compute(&self, pixels: usize) -> Vec<f32> {
        let outputs = self.panels.outputs;
        let chunk = self.chunk_pixels(pixels);
        let zeros = vec![0.0; self.panels.terms];
        let work = |index, output: &mut [f32]| {
            let first = index * chunk;
            let blocks = self.blocks(first..first + output.len() / outputs);
            let Self { source, panels, .. } = self;
            let chunk = Chunk { source, zeros: &zeros, panels, blocks: &blocks, output };
            Arch::new().dispatch(chunk);
        };
        compute(pixels * outputs, chunk * outputs, work).0
    }

    /// Output pixels of a chunk; this changes who computes a sum, never the sum.
    fn chunk_pixels(&self, pixels: usize) -> usize {
        let numbers = self.panels.terms.max(self.panels.outputs);
        let fitting = (CHUNK_NUMBERS / numbers).clamp(CHUNK_MIN_PIXELS, CHUNK_MAX_PIXELS);
        let threads = rayon::current_num_threads();
        let chunks = pixels.div_ceil(fitting);
        // Few chunks are as many for each thread.
        let chunks = if chunks < 8 * threads { chunks.next_multiple_of(threads) } else { chunks };
        pixels.div_ceil(chunks).next_multiple_of(ROWS)
    }

    /// The blocks of some output pixels, those together that see the same taps.
    fn blocks(&self, pixels: std::ops::Range<usize>) -> Blocks {
        let first = pixels.start;
        let mut places: Vec<(usize, Pixel)> =
            pixels.map(|index| (index - first, Pixel::at(index, self.h, self.w))).collect();
        if self.stride > 1 {
            places.sort_by_key(|(_, at)| (at.y % self.stride, at.x % self.stride));
        }
        let blocks = places.len().div_ceil(ROWS);
        let mut outputs = vec![[NOWHERE; ROWS]; blocks];
        let mut offsets = vec![[NOWHERE; ROWS]; blocks * self.taps];
        for (block, places) in places.chunks(ROWS).enumerate() {
            for (row, (place, _)) in places.iter().enumerate() {
                outputs[block][row] = place * self.panels.outputs;
            }
            for tap in 0..self.taps {
                let offsets = &mut offsets[tap * blocks + block];
                for (offset, (_, at)) in offsets.iter_mut().zip(places) {
                    *offset = (self.offset)(*at, tap).unwrap_or(NOWHERE);
                }
            }
        }
        Blocks { outputs, offsets }
    }
}

/// Blocks of a chunk.
struct Blocks {
    /// Where in the chunk the rows of each block begin.
    outputs: Vec<[usize; ROWS]>,
    /// By tap, then block: where in the source the terms of each row begin.
    offsets: Vec<[usize; ROWS]>,
}

/// Some output pixels, all channels of them.
struct Chunk<'a> {
    source: &'a [f32],
    zeros: &'a [f32],
    panels: &'a Panels,
    blocks: &'a Blocks,
    output: &'a mut [f32],
}

impl WithSimd for Chunk<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self { source, zeros, panels, blocks, output } = self;
        let count = blocks.outputs.len();
        let group = (TERMS / panels.terms).clamp(1, panels.taps);
        for (panel, first_column) in (0..panels.outputs).step_by(panels.width).enumerate() {
            let columns = panels.width.min(panels.outputs - first_column);
            for first_tap in (0..panels.taps).step_by(group) {
                for (block, places) in blocks.outputs.iter().enumerate() {
                    let mut sums = Sums::zero(simd);
                    if first_tap > 0 {
                        for (row, place) in
                            places.iter().enumerate().filter(|(_, place)| **place != NOWHERE)
                        {
                            sums.read(row, &output[place + first_column..][..columns]);
                        }
                    }
                    for tap in first_tap..(first_tap + group).min(panels.taps) {
                        let offsets = &blocks.offsets[tap * count + block];
                        if *offsets == [NOWHERE; ROWS] {
                            continue;
                        }
                        let mut rows = [zeros; ROWS];
                        for (row, offset) in rows.iter_mut().zip(offsets) {
                            if *offset != NOWHERE {
                                *row = &source[*offset..][..panels.terms];
                            }
                        }
                        sums.add_rows(simd, rows, panels.get(panel, tap));
                    }
                    for (row, place) in
                        places.iter().enumerate().filter(|(_, place)| **place != NOWHERE)
                    {
                        sums.write(row, &mut output[place + first_column..][..columns]);
                    }
                }
            }
        }
    }
}

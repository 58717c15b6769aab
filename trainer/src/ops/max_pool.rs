//! Max-pooling.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor, bail};
use multiversion::multiversion;
use rayon::prelude::*;

use super::f32s;

/// The largest value of each channel in each window; `[N, H, W, C]` → `[N, H', W', C]`. What lies outside the map never
/// wins; of equal values the first in reading order does, as in PyTorch.
#[derive(Clone, Copy, Debug)]
pub struct MaxPool {
    /// Side of the window in pixels.
    pub kernel: usize,
    /// Step between windows in pixels.
    pub stride: usize,
    /// Pixels by which the first window stands outside; at most half the kernel.
    pub padding: usize,
}

#[derive(Clone, Copy)]
struct Geometry {
    h: usize,
    w: usize,
    c: usize,
    out_h: usize,
    out_w: usize,
}

impl MaxPool {
    fn geometry(&self, dims: &[usize]) -> Result<Geometry> {
        let &[_, h, w, c] = dims else { bail!("max-pool takes [N, H, W, C], got {dims:?}") };
        let out = |side: usize| (side + 2 * self.padding - self.kernel) / self.stride + 1;
        Ok(Geometry { h, w, c, out_h: out(h), out_w: out(w) })
    }

    /// The pixels of the window of an output pixel, in reading order, as offsets into one image's pixels.
    fn window(&self, g: Geometry, y: usize, x: usize) -> impl Iterator<Item = usize> {
        let range = |at: usize, side: usize| {
            let start = at * self.stride;
            start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(side)
        };
        let xs = range(x, g.w);
        range(y, g.h).flat_map(move |y| xs.clone().map(move |x| y * g.w + x))
    }
}

impl CustomOp1 for MaxPool {
    fn name(&self) -> &'static str {
        "max-pool"
    }

    fn cpu_fwd(&self, input: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let g = self.geometry(layout.dims())?;
        let input = f32s(input, layout)?;
        let n = layout.dims()[0];
        let mut output = vec![f32::NEG_INFINITY; n * g.out_h * g.out_w * g.c];
        output.par_chunks_mut(g.out_h * g.out_w * g.c).zip(input.par_chunks(g.h * g.w * g.c)).for_each(
            |(output, input)| {
                for (pixel, output) in output.chunks_exact_mut(g.c).enumerate() {
                    for from in self.window(g, pixel / g.out_w, pixel % g.out_w) {
                        raise(output, &input[from * g.c..][..g.c]);
                    }
                }
            },
        );
        Ok((CpuStorage::F32(output), (n, g.out_h, g.out_w, g.c).into()))
    }

    fn bwd(&self, input: &Tensor, _output: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        input.apply_op2_no_bwd(grad, &MaxPoolGradient(*self)).map(Some)
    }
}

/// (input, gradient of the output) → gradient of the input.
struct MaxPoolGradient(MaxPool);

impl CustomOp2 for MaxPoolGradient {
    fn name(&self) -> &'static str {
        "max-pool-gradient"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = self.0.geometry(input_layout.dims())?;
        let (input, grad) = (f32s(input, input_layout)?, f32s(grad, grad_layout)?);
        let mut result = vec![0.0; input.len()];
        let image = g.h * g.w * g.c;
        result
            .par_chunks_mut(image)
            .zip(input.par_chunks(image))
            .zip(grad.par_chunks(g.out_h * g.out_w * g.c))
            .for_each_init(
                || (vec![0.0; g.c], vec![0u32; g.c]),
                |(best, winner), ((result, input), grad)| {
                    for (pixel, grad) in grad.chunks_exact(g.c).enumerate() {
                        best.fill(f32::NEG_INFINITY);
                        for from in self.0.window(g, pixel / g.out_w, pixel % g.out_w) {
                            raise_and_note(best, winner, &input[from * g.c..][..g.c], from as u32);
                        }
                        for (channel, (winner, grad)) in winner.iter().zip(grad).enumerate() {
                            result[*winner as usize * g.c + channel] += grad;
                        }
                    }
                },
            );
        Ok((CpuStorage::F32(result), input_layout.shape().clone()))
    }
}

/// Raises each number to the other where that is larger.
#[multiversion(targets = "simd")]
fn raise(best: &mut [f32], values: &[f32]) {
    best.iter_mut().zip(values).for_each(|(best, value)| *best = if *value > *best { *value } else { *best });
}

/// Raises likewise, and notes who was larger.
#[multiversion(targets = "simd")]
fn raise_and_note(best: &mut [f32], winner: &mut [u32], values: &[f32], who: u32) {
    for ((best, winner), value) in best.iter_mut().zip(winner).zip(values) {
        let wins = *value > *best;
        *best = if wins { *value } else { *best };
        *winner = if wins { who } else { *winner };
    }
}

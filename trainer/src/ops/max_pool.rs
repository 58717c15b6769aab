//! Max-pooling.

use candle_core::{DType, Result, Tensor, bail};
use scrl_preprocess::vectorized;

use super::autograd::Op;
use super::cpu::{compute, f32s};
use super::gpu::{Arg, Gpu, grid};

/// The largest value of each channel in each window; `[N, H, W, C]` → `[N, H', W', C]`. What lies
/// outside the map never wins; of equal values the first in reading order does, as in PyTorch.
#[derive(Debug)]
pub struct MaxPool {
    kernel: usize,
    stride: usize,
    padding: usize,
    /// Which pixel of each window won, on a device.
    winners: Option<Tensor>,
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
    /// Windows of `kernel` pixels, `stride` pixels apart, the first of which stands `padding`
    /// pixels outside: at most half the kernel.
    pub fn new(kernel: usize, stride: usize, padding: usize) -> Self {
        Self { kernel, stride, padding, winners: None }
    }

    /// Height or width of the output for that of the input.
    pub(crate) fn output(&self, side: usize) -> usize {
        (side + 2 * self.padding - self.kernel) / self.stride + 1
    }

    fn geometry(&self, dims: &[usize]) -> Result<Geometry> {
        let &[_, h, w, c] = dims else { bail!("max-pool takes [N, H, W, C], got {dims:?}") };
        Ok(Geometry { h, w, c, out_h: self.output(h), out_w: self.output(w) })
    }

    /// The pixels of the window of an output pixel, in reading order, as offsets into one image's
    /// pixels.
    fn window(&self, g: Geometry, y: usize, x: usize) -> impl Iterator<Item = usize> {
        let range = |at: usize, side: usize| {
            let start = at * self.stride;
            start.saturating_sub(self.padding)..(start + self.kernel - self.padding).min(side)
        };
        let xs = range(x, g.w);
        range(y, g.h).flat_map(move |y| xs.clone().map(move |x| y * g.w + x))
    }
}

impl Op<1> for MaxPool {
    fn forward(&mut self, [x]: [&Tensor; 1]) -> Result<Tensor> {
        let g = self.geometry(x.dims())?;
        let (n, shape) = (x.dim(0)?, (x.dim(0)?, g.out_h, g.out_w, g.c));
        if let Some(gpu) = Gpu::of(x) {
            if (self.kernel, self.stride, self.padding) != (3, 2, 1) {
                bail!("the max-pool kernel is for windows of 3, stride 2, padding 1, not {self:?}");
            }
            let y = gpu.empty(shape, x.dtype())?;
            let winners = gpu.empty(shape, DType::U8)?;
            launch(&gpu, "max_pool", [x, &y, &winners], x, &y)?;
            self.winners = Some(winners);
            return Ok(y);
        }
        let (numbers, image, out_image) = (f32s(x)?, g.h * g.w * g.c, g.out_h * g.out_w * g.c);
        let work = |index, y: &mut [f32]| {
            let x = &numbers[index * image..][..image];
            for (pixel, y) in y.chunks_exact_mut(g.c).enumerate() {
                y.fill(f32::NEG_INFINITY);
                for from in self.window(g, pixel / g.out_w, pixel % g.out_w) {
                    vectorized!(raise(y, &x[from * g.c..][..g.c]));
                }
            }
        };
        let (y, _) = compute(n * out_image, out_image, work);
        Tensor::from_vec(y, shape, x.device())
    }

    fn backward(
        &self,
        [x]: [&Tensor; 1],
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 1]> {
        let g = self.geometry(x.dims())?;
        if let (Some(gpu), Some(winners)) = (Gpu::of(grad), &self.winners) {
            let dx = gpu.empty(x.shape(), x.dtype())?;
            launch(&gpu, "max_pool_backward", [grad, winners, &dx], x, &dx)?;
            return Ok([Some(dx)]);
        }
        let (numbers, y, grad) = (f32s(x)?, f32s(y)?, f32s(grad)?);
        let (image, out_image) = (g.h * g.w * g.c, g.out_h * g.out_w * g.c);
        let work = |index, dx: &mut [f32]| {
            let x = &numbers[index * image..][..image];
            let outputs = index * out_image..(index + 1) * out_image;
            let pixels = y[outputs.clone()].chunks_exact(g.c).zip(grad[outputs].chunks_exact(g.c));
            let mut rest = vec![0.0; g.c];
            for (pixel, (y, grad)) in pixels.enumerate() {
                rest.copy_from_slice(grad);
                for from in self.window(g, pixel / g.out_w, pixel % g.out_w) {
                    let range = from * g.c..(from + 1) * g.c;
                    let (dx, x) = (&mut dx[range.clone()], &x[range]);
                    vectorized!(give_to_winners(dx, x, y, &mut rest));
                }
            }
        };
        let (dx, _) = compute(x.elem_count(), image, work);
        Ok([Some(Tensor::from_vec(dx, x.shape(), x.device())?)])
    }

    fn reads_input(&self, _: usize) -> bool {
        self.winners.is_none()
    }

    fn reads_output(&self) -> bool {
        self.winners.is_none()
    }
}

/// Either kernel for maps like `x`, a thread for each pack of `result`.
fn launch(
    gpu: &Gpu,
    kernel: &'static str,
    tensors: [&Tensor; 3],
    x: &Tensor,
    result: &Tensor,
) -> Result<()> {
    let (n, h, w, c) = x.dims4()?;
    let threads = grid::line(grid::packs(result.elem_count(), c, x.dtype())?)?;
    let sizes = [Arg::int(n)?, Arg::int(h)?, Arg::int(w)?, Arg::int(c)?];
    let arguments = [&tensors.map(Arg::Tensor)[..], &sizes].concat();
    gpu.launch(kernel, x.dtype(), threads, &arguments)
}

/// Raises each number to its value where that is larger.
#[inline(always)]
fn raise(best: &mut [f32], values: &[f32]) {
    best.iter_mut()
        .zip(values)
        .for_each(|(best, value)| *best = if *value > *best { *value } else { *best });
}

/// Adds to each number the rest of its channel's gradient where its input is the largest of the
/// window, `y`; nothing is left for later inputs of the window.
#[inline(always)]
fn give_to_winners(dx: &mut [f32], x: &[f32], y: &[f32], rest: &mut [f32]) {
    for (((dx, x), y), rest) in dx.iter_mut().zip(x).zip(y).zip(rest) {
        let wins = x == y;
        *dx += if wins { *rest } else { 0.0 };
        *rest = if wins { 0.0 } else { *rest };
    }
}

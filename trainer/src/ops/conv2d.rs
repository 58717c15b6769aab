//! Convolution as matrix products over patches.
//!
//! In `[N, H, W, C]` a 1×1 convolution is one product of the map, seen as a matrix of pixels by channels, with the
//! filter. Any other is the same product after each output pixel's patch has been laid out as a row (im2col); that is
//! done a tile of rows at a time, so that patches stay in the cache. Both gradients are products of the same kind.

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor, bail};
use rayon::prelude::*;

use super::f32s;
use super::matmul::{Matrix, Store, Workers, multiply};

/// Floats of patches that a tile may hold in the forward pass and the data gradient, where each thread has a tile.
const TILE_FLOATS: usize = 1 << 18;

/// The fewest output pixels of a tile: below this, reading the filter again for each tile dominates.
const TILE_MIN_ROWS: usize = 96;

/// Floats of patches that a tile may hold in the filter gradient, where all threads work on one.
const FILTER_TILE_FLOATS: usize = 1 << 21;

/// A convolution without bias: `[N, H, W, I]` with a filter `[O, kh, kw, I]` gives `[N, H', W', O]`.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    /// Step between neighbouring output pixels, in input pixels, both ways.
    pub stride: usize,
    /// Zeros around the input, in pixels, all sides.
    pub padding: usize,
    /// Whether the gradient of the input is wanted; the first layer of a network does not need it.
    pub input_gradient: bool,
}

/// The sizes of one application.
#[derive(Clone, Copy)]
struct Geometry {
    n: usize,
    h: usize,
    w: usize,
    i: usize,
    o: usize,
    kh: usize,
    kw: usize,
    out_h: usize,
    out_w: usize,
    stride: usize,
    padding: usize,
}

impl Geometry {
    fn new(conv: &Conv2d, input: &[usize], filter: &[usize]) -> Result<Self> {
        let (&[n, h, w, i], &[o, kh, kw, filter_i]) = (input, filter) else {
            bail!("conv2d takes [N, H, W, I] and [O, kh, kw, I], got {input:?} and {filter:?}");
        };
        let (stride, padding) = (conv.stride, conv.padding);
        if filter_i != i || h + 2 * padding < kh || w + 2 * padding < kw {
            bail!("conv2d of {input:?} with a filter {filter:?} and padding {padding}");
        }
        let out_h = (h + 2 * padding - kh) / stride + 1;
        let out_w = (w + 2 * padding - kw) / stride + 1;
        Ok(Self { n, h, w, i, o, kh, kw, out_h, out_w, stride, padding })
    }

    fn input_len(&self) -> usize {
        self.n * self.h * self.w * self.i
    }

    /// Output pixels.
    fn rows(&self) -> usize {
        self.n * self.out_h * self.out_w
    }

    /// Floats of a patch.
    fn patch(&self) -> usize {
        self.kh * self.kw * self.i
    }

    /// Whether the input already is the matrix of patches.
    fn is_pointwise(&self) -> bool {
        self.kh == 1 && self.kw == 1 && self.stride == 1 && self.padding == 0
    }

    /// Lays out the patches of the output pixels `first..first + patches.len() / self.patch()`, a row each.
    fn gather(&self, input: &[f32], first: usize, patches: &mut [f32]) {
        for (row, patch) in patches.chunks_exact_mut(self.patch()).enumerate() {
            let pixel = first + row;
            let (image, y, x) =
                (pixel / (self.out_h * self.out_w), pixel / self.out_w % self.out_h, pixel % self.out_w);
            let image = &input[image * self.h * self.w * self.i..][..self.h * self.w * self.i];
            for (dy, line) in patch.chunks_exact_mut(self.kw * self.i).enumerate() {
                match (y * self.stride + dy).checked_sub(self.padding).filter(|y| *y < self.h) {
                    Some(y) => self.gather_line(&image[y * self.w * self.i..][..self.w * self.i], x, line),
                    None => line.fill(0.0),
                }
            }
        }
    }

    /// One line of a patch: `kw` neighbouring input pixels, which lie side by side in memory.
    fn gather_line(&self, input: &[f32], x: usize, line: &mut [f32]) {
        let left = x * self.stride;
        let before = self.padding.saturating_sub(left).min(self.kw);
        let start = (left + before - self.padding).min(self.w);
        let inside = (self.w - start).min(self.kw - before);
        line[..before * self.i].fill(0.0);
        line[before * self.i..(before + inside) * self.i]
            .copy_from_slice(&input[start * self.i..(start + inside) * self.i]);
        line[(before + inside) * self.i..].fill(0.0);
    }

    /// The reverse of [`Geometry::gather`] for the patches of one whole image: adds each to where it came from.
    fn scatter(&self, patches: &[f32], image: &mut [f32]) {
        for (pixel, patch) in patches.chunks_exact(self.patch()).enumerate() {
            let (y, x) = (pixel / self.out_w, pixel % self.out_w);
            for (dy, line) in patch.chunks_exact(self.kw * self.i).enumerate() {
                let Some(y) = (y * self.stride + dy).checked_sub(self.padding).filter(|y| *y < self.h) else {
                    continue;
                };
                for (dx, values) in line.chunks_exact(self.i).enumerate() {
                    let Some(x) = (x * self.stride + dx).checked_sub(self.padding).filter(|x| *x < self.w)
                    else {
                        continue;
                    };
                    let target = &mut image[(y * self.w + x) * self.i..][..self.i];
                    target.iter_mut().zip(values).for_each(|(t, v)| *t += v);
                }
            }
        }
    }
}

fn forward(g: Geometry, input: &[f32], filter: &[f32]) -> Vec<f32> {
    let mut output = vec![0.0; g.rows() * g.o];
    let filter = Matrix::new(filter, g.o, g.patch()).transposed();
    if g.is_pointwise() {
        let input = Matrix::new(input, g.rows(), g.i);
        multiply(&mut output, input, filter, Store::Replace, Workers::All);
        return output;
    }
    let tile = (TILE_FLOATS / g.patch()).max(TILE_MIN_ROWS);
    output.par_chunks_mut(tile * g.o).enumerate().for_each_init(Vec::new, |patches, (index, output)| {
        let rows = output.len() / g.o;
        patches.resize(rows * g.patch(), 0.0);
        g.gather(input, index * tile, patches);
        let patches = Matrix::new(patches, rows, g.patch());
        multiply(output, patches, filter, Store::Replace, Workers::Caller);
    });
    output
}

fn data_gradient(g: Geometry, grad: &[f32], filter: &[f32]) -> Vec<f32> {
    if g.is_pointwise() {
        let mut result = vec![0.0; g.input_len()];
        let (grad, filter) = (Matrix::new(grad, g.rows(), g.o), Matrix::new(filter, g.o, g.i));
        multiply(&mut result, grad, filter, Store::Replace, Workers::All);
        return result;
    }
    if g.stride == 1 && g.kh == g.kw && g.padding < g.kh {
        return forward(g.reversed(), grad, &reversed_filter(g, filter));
    }
    let mut result = vec![0.0; g.input_len()];
    let filter = Matrix::new(filter, g.o, g.patch());
    let pixels = g.out_h * g.out_w;
    result.par_chunks_mut(g.h * g.w * g.i).zip(grad.par_chunks(pixels * g.o)).for_each_init(
        Vec::new,
        |patches, (image, grad)| {
            patches.resize(pixels * g.patch(), 0.0);
            let grad = Matrix::new(grad, pixels, g.o);
            multiply(patches, grad, filter, Store::Replace, Workers::Caller);
            g.scatter(patches, image);
        },
    );
    result
}

impl Geometry {
    /// The convolution that takes the output's gradient to the input's, for stride 1 and square filters.
    fn reversed(&self) -> Self {
        Self {
            h: self.out_h,
            w: self.out_w,
            i: self.o,
            o: self.i,
            out_h: self.h,
            out_w: self.w,
            padding: self.kh - 1 - self.padding,
            ..*self
        }
    }
}

/// `[O, kh, kw, I]` turned by half a turn and with channels exchanged: `[I, kh, kw, O]`.
fn reversed_filter(g: Geometry, filter: &[f32]) -> Vec<f32> {
    let taps = g.kh * g.kw;
    let mut reversed = vec![0.0; filter.len()];
    reversed.par_chunks_mut(taps * g.o).enumerate().for_each(|(i, filter_of_i)| {
        for (tap, values) in filter_of_i.chunks_exact_mut(g.o).enumerate() {
            let from = (taps - 1 - tap) * g.i + i;
            values.iter_mut().enumerate().for_each(|(o, value)| *value = filter[o * taps * g.i + from]);
        }
    });
    reversed
}

fn filter_gradient(g: Geometry, input: &[f32], grad: &[f32]) -> Vec<f32> {
    let mut result = vec![0.0; g.o * g.patch()];
    if g.is_pointwise() {
        let grad = Matrix::new(grad, g.rows(), g.o).transposed();
        let input = Matrix::new(input, g.rows(), g.i);
        multiply(&mut result, grad, input, Store::Replace, Workers::All);
        return result;
    }
    let tile = (FILTER_TILE_FLOATS / g.patch()).clamp(1, g.rows());
    let mut patches = vec![0.0; tile * g.patch()];
    for (index, grad) in grad.chunks(tile * g.o).enumerate() {
        let rows = grad.len() / g.o;
        let patches = &mut patches[..rows * g.patch()];
        let piece = rows.div_ceil(64).max(1);
        patches.par_chunks_mut(piece * g.patch()).enumerate().for_each(|(part, patches)| {
            g.gather(input, index * tile + part * piece, patches);
        });
        let grad = Matrix::new(grad, rows, g.o).transposed();
        let patches = Matrix::new(patches, rows, g.patch());
        multiply(&mut result, grad, patches, Store::Add, Workers::All);
    }
    result
}

impl CustomOp2 for Conv2d {
    fn name(&self) -> &'static str {
        "conv2d"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        filter: &CpuStorage,
        filter_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = Geometry::new(self, input_layout.dims(), filter_layout.dims())?;
        let output = forward(g, f32s(input, input_layout)?, f32s(filter, filter_layout)?);
        Ok((CpuStorage::F32(output), (g.n, g.out_h, g.out_w, g.o).into()))
    }

    fn bwd(
        &self,
        input: &Tensor,
        filter: &Tensor,
        _output: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let geometry = Geometry::new(self, input.dims(), filter.dims())?;
        let input_grad = match self.input_gradient {
            true => Some(grad.apply_op2_no_bwd(filter, &DataGradient(geometry))?),
            false => None,
        };
        let filter_grad = input.apply_op2_no_bwd(grad, &FilterGradient(geometry))?;
        Ok((input_grad, Some(filter_grad)))
    }
}

/// (gradient of the output, filter) → gradient of the input.
struct DataGradient(Geometry);

impl CustomOp2 for DataGradient {
    fn name(&self) -> &'static str {
        "conv2d-data-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        filter: &CpuStorage,
        filter_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = self.0;
        let result = data_gradient(g, f32s(grad, grad_layout)?, f32s(filter, filter_layout)?);
        Ok((CpuStorage::F32(result), (g.n, g.h, g.w, g.i).into()))
    }
}

/// (input, gradient of the output) → gradient of the filter.
struct FilterGradient(Geometry);

impl CustomOp2 for FilterGradient {
    fn name(&self) -> &'static str {
        "conv2d-filter-gradient"
    }

    fn cpu_fwd(
        &self,
        input: &CpuStorage,
        input_layout: &Layout,
        grad: &CpuStorage,
        grad_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let g = self.0;
        let result = filter_gradient(g, f32s(input, input_layout)?, f32s(grad, grad_layout)?);
        Ok((CpuStorage::F32(result), (g.o, g.kh, g.kw, g.i).into()))
    }
}

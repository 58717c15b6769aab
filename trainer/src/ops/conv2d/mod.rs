//! Convolution, and both of its gradients, on maps `[N, H, W, C]`.
//!
//! In this layout the channels of a pixel lie side by side, so all three are sums of products of runs of memory with
//! parts of the filter; [`super::kernel`] computes them a block at a time.

mod filter_gradient;
mod geometry;
mod products;

use candle_core::{CpuStorage, CustomOp2, Layout, Result, Shape, Tensor};

use super::f32s;
use filter_gradient::filter_gradient;
use geometry::Geometry;
use products::{data_gradient, forward};

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

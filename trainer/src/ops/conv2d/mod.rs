//! Convolution, and both of its gradients, on maps `[N, H, W, C]`.
//!
//! In this layout the channels of a pixel lie side by side, so on the CPU all three are sums of
//! products of runs of memory with parts of the filter; [`block`] computes them a block at a time.

mod block;
mod device;
mod filter_gradient;
mod products;
mod winograd;

use candle_core::{DType, Result, Tensor};

use super::autograd::{Op, sums};
use super::cpu::f32s;
use super::geometry::{Geometry, Pass};
use super::gpu::{Gpu, grid};
pub use device::filter_gradients_by_cudnn;
use filter_gradient::filter_gradient;
use products::{data_gradient, forward};

/// A convolution without bias: `[N, H, W, I]` with a filter `[O, kh, kw, I]` gives
/// `[N, H', W', O]`.
#[derive(Clone, Copy, Debug)]
pub struct Conv2d {
    /// Step between neighboring output pixels, in input pixels, both ways.
    pub stride: usize,
    /// Zeros around the input, in pixels, all sides.
    pub padding: usize,
    /// Whether the gradient of the input is wanted; the first layer of a network does not need it.
    pub input_gradient: bool,
}

impl Conv2d {
    /// The passes that cuDNN computes on a GPU, with the sizes that it is given; `g` has those on
    /// the CPU. The others are matrix products or not wanted.
    pub fn passes_by_cudnn(&self, g: &Geometry, dtype: DType) -> Vec<(Geometry, Pass)> {
        // Only on the CPU have pixels three channels, see `normalize_pixels`.
        let g = Geometry { i: g.i.next_multiple_of(grid::lanes(dtype)), ..*g };
        [Pass::Forward, Pass::Data, Pass::Filter]
            .into_iter()
            .filter(|&pass| pass != Pass::Data || self.input_gradient)
            .filter(|&pass| !device::is_product(&g, pass))
            .map(|pass| (g, pass))
            .collect()
    }

    fn geometry(&self, x: &Tensor, filter: &Tensor) -> Result<Geometry> {
        Geometry::new(self.stride, self.padding, x.dims(), filter.dims())
    }
}

impl Op<2> for Conv2d {
    fn forward(&mut self, [x, filter]: [&Tensor; 2]) -> Result<Tensor> {
        if let Some(gpu) = Gpu::of(x) {
            let filter = device::matching_filter(x, filter)?;
            return device::forward(&gpu, &self.geometry(x, &filter)?, x, &filter);
        }
        let g = self.geometry(x, filter)?;
        let y = forward(g, &f32s(x)?, &f32s(filter)?);
        Tensor::from_vec(y, (g.n, g.out_h, g.out_w, g.o), x.device())
    }

    fn backward(
        &self,
        [x, filter]: [&Tensor; 2],
        y: &Tensor,
        grad: &Tensor,
    ) -> Result<[Option<Tensor>; 2]> {
        if Gpu::of(x).is_some() {
            return self.backward_onto([x, filter], y, grad, [None, None]);
        }
        let g = self.geometry(x, filter)?;
        let (numbers, weights, grad) = (f32s(x)?, f32s(filter)?, f32s(grad)?);
        let dx = match self.input_gradient {
            true => {
                Some(Tensor::from_vec(data_gradient(g, &grad, &weights), x.shape(), x.device())?)
            }
            false => None,
        };
        let dfilter =
            Tensor::from_vec(filter_gradient(g, &numbers, &grad), filter.shape(), x.device())?;
        Ok([dx, Some(dfilter)])
    }

    /// On a device, products add to what is there by themselves.
    fn backward_onto(
        &self,
        [x, filter]: [&Tensor; 2],
        y: &Tensor,
        grad: &Tensor,
        [dx, dfilter]: [Option<Tensor>; 2],
    ) -> Result<[Option<Tensor>; 2]> {
        let Some(gpu) = Gpu::of(x) else {
            return sums([dx, dfilter], self.backward([x, filter], y, grad)?);
        };
        let channels = filter.dim(3)?;
        let filter = device::matching_filter(x, filter)?;
        let g = self.geometry(x, &filter)?;
        let dx = match self.input_gradient {
            true => Some(device::data_gradient(&gpu, &g, grad, &filter, dx)?),
            false => dx,
        };
        Ok([dx, Some(device::filter_gradient(&gpu, &g, x, grad, channels, dfilter)?)])
    }

    fn reads_output(&self) -> bool {
        false
    }
}

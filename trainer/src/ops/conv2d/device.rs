//! Convolutions on a device: those of 1×1 with stride 1 are matrix products, the others cuDNN's.

use std::fmt;

use candle_core::{DType, Result, Tensor, bail};

use super::super::gpu::Gpu;
use super::{Conv2d, Geometry, data_gradient, filter_gradient, forward as forward_on_cpu};
use crate::ops::f32s;

/// The most elements that a tensor may have. Many engines index tensors with 32-bit integers.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// Which of a convolution's three tensors is computed from the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    /// The output, from input and filter.
    Forward,
    /// The gradient of the input, from that of the output and the filter.
    Data,
    /// The gradient of the filter, from the input and the gradient of the output.
    Filter,
}

impl fmt::Display for Pass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Forward => "forward pass",
            Self::Data => "input gradient",
            Self::Filter => "filter gradient",
        })
    }
}

pub(super) fn forward(gpu: &Gpu, conv: &Conv2d, x: &Tensor, filter: &Tensor) -> Result<Tensor> {
    let filter = working_filter(x, filter)?;
    let g = Geometry::new(conv, x.dims(), filter.dims())?;
    if is_product(&g) {
        let y = x.reshape((g.pixels(), g.i))?.matmul(&filter.reshape((g.o, g.i))?.t()?)?;
        return y.reshape((g.n, g.h, g.w, g.o));
    }
    convolve(gpu, &g, Pass::Forward, x, &filter)
}

pub(super) fn backward(
    gpu: &Gpu,
    conv: &Conv2d,
    x: &Tensor,
    filter: &Tensor,
    grad: &Tensor,
) -> Result<[Option<Tensor>; 2]> {
    let inputs = filter.dim(3)?;
    let filter = working_filter(x, filter)?;
    let g = Geometry::new(conv, x.dims(), filter.dims())?;
    let (dx, dfilter) = if is_product(&g) {
        let grad = grad.reshape((g.pixels(), g.o))?;
        let dx = match conv.input_gradient {
            true => Some(grad.matmul(&filter.reshape((g.o, g.i))?)?.reshape(x.shape())?),
            false => None,
        };
        (dx, grad.t()?.matmul(&x.reshape((g.pixels(), g.i))?)?.reshape(filter.shape())?)
    } else {
        let dx = match conv.input_gradient {
            true => Some(convolve(gpu, &g, Pass::Data, grad, &filter)?),
            false => None,
        };
        (dx, convolve(gpu, &g, Pass::Filter, x, grad)?)
    };
    let dfilter = dfilter.narrow(3, 0, inputs)?.to_dtype(DType::F32)?.contiguous()?;
    Ok([dx, Some(dfilter)])
}

/// The filter in the numbers of the map, with zeros for channels that only the map has.
fn working_filter(x: &Tensor, filter: &Tensor) -> Result<Tensor> {
    let missing = x.dim(3)?.saturating_sub(filter.dim(3)?);
    let filter = filter.detach().to_dtype(x.dtype())?;
    if missing == 0 { Ok(filter) } else { filter.pad_with_zeros(3, 0, missing)?.contiguous() }
}

/// Whether a convolution is a matrix product as it lies in memory.
fn is_product(g: &Geometry) -> bool {
    (g.kh, g.kw, g.stride, g.padding) == (1, 1, 1, 0)
}

/// Fails if one of the tensors is too large for cuDNN.
fn check_size(g: &Geometry) -> Result<()> {
    let (input, output, filter) = (g.h * g.w * g.i, g.out_h * g.out_w * g.o, g.o * g.patch());
    let fits = MOST_ELEMENTS / input.max(output).max(1);
    if fits == 0 || filter > MOST_ELEMENTS {
        bail!("a {g} is too large for cuDNN even with a single view");
    }
    if g.n > fits {
        bail!(
            "a {g} has a tensor of more than {MOST_ELEMENTS} elements, the most that cuDNN can index: at most {} \
             pairs of views fit; use a smaller --batch-size, with --accumulate to make up for it",
            fits / 2
        );
    }
    Ok(())
}

/// One pass from its two operands, in the order of [`Pass`].
fn convolve(gpu: &Gpu, g: &Geometry, pass: Pass, a: &Tensor, b: &Tensor) -> Result<Tensor> {
    check_size(g)?;
    let shape = match pass {
        Pass::Forward => (g.n, g.out_h, g.out_w, g.o),
        Pass::Data => (g.n, g.h, g.w, g.i),
        Pass::Filter => (g.o, g.kh, g.kw, g.i),
    };
    match gpu {
        #[cfg(feature = "cuda")]
        Gpu::Cuda(device) => super::super::gpu::cuda::convolve(device, g, pass, shape.into(), a, b),
        Gpu::Emulated(_) => {
            let (a_, b_) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
            let (a_, b_) = (f32s(&a_)?, f32s(&b_)?);
            let numbers = match pass {
                Pass::Forward => forward_on_cpu(*g, &a_, &b_),
                Pass::Data => data_gradient(*g, &a_, &b_),
                Pass::Filter => filter_gradient(*g, &a_, &b_),
            };
            Tensor::from_vec(numbers, shape, a.device())?.to_dtype(a.dtype())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_batch_that_cudnn_takes_is_named() {
        let conv = Conv2d { stride: 2, padding: 3, input_gradient: false };
        let of =
            |views: usize| Geometry::new(&conv, &[views, 224, 224, 8], &[64, 7, 7, 8]).unwrap();
        assert!(check_size(&of(2674)).is_ok());
        let message = check_size(&of(2676)).unwrap_err().to_string();
        assert!(
            message.contains("at most 1337 pairs of views fit; use a smaller --batch-size"),
            "{message}"
        );
    }
}

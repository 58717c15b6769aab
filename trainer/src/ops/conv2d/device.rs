//! Convolutions on a device: those of 1×1 with stride 1 are matrix products, the others cuDNN's.

use candle_core::{DType, Result, Tensor, bail};

use super::filter_gradient::filter_gradient;
use super::products;
use crate::ops::cpu::f32s;
use crate::ops::geometry::{Geometry, Pass};
use crate::ops::gpu::Gpu;
#[cfg(feature = "cuda")]
use crate::ops::gpu::cuda;

/// The most elements that a tensor may have. Many engines index tensors with 32-bit integers.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// The output of `x` with a [`matching_filter`].
pub(super) fn forward(gpu: &Gpu, g: &Geometry, x: &Tensor, filter: &Tensor) -> Result<Tensor> {
    if is_product(g) {
        let y = x.reshape((g.pixels(), g.i))?.matmul(&filter.reshape((g.o, g.i))?.t()?)?;
        return y.reshape((g.n, g.h, g.w, g.o));
    }
    convolve(gpu, g, Pass::Forward, x, filter)
}

/// The gradients of `x`, if it is wanted, and of a [`matching_filter`].
pub(super) fn backward(
    gpu: &Gpu,
    g: &Geometry,
    [x, filter, grad]: [&Tensor; 3],
    input_gradient: bool,
) -> Result<(Option<Tensor>, Tensor)> {
    if is_product(g) {
        let grad = grad.reshape((g.pixels(), g.o))?;
        let dx = match input_gradient {
            true => Some(grad.matmul(&filter.reshape((g.o, g.i))?)?.reshape(x.shape())?),
            false => None,
        };
        return Ok((
            dx,
            grad.t()?.matmul(&x.reshape((g.pixels(), g.i))?)?.reshape(filter.shape())?,
        ));
    }
    let dx = match input_gradient {
        true => Some(convolve(gpu, g, Pass::Data, grad, filter)?),
        false => None,
    };
    Ok((dx, convolve(gpu, g, Pass::Filter, x, grad)?))
}

/// The filter in the type of the map, with zeros for channels that only the map has.
pub(super) fn matching_filter(x: &Tensor, filter: &Tensor) -> Result<Tensor> {
    let missing = x.dim(3)?.saturating_sub(filter.dim(3)?);
    let filter = filter.detach().to_dtype(x.dtype())?;
    if missing == 0 { Ok(filter) } else { filter.pad_with_zeros(3, 0, missing)?.contiguous() }
}

/// Whether a convolution is a matrix product as it lies in memory.
pub(super) fn is_product(g: &Geometry) -> bool {
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
            "a {g} has a tensor of more than {MOST_ELEMENTS} elements, the most that cuDNN can \
             index: at most {} pairs of views fit; use a smaller --batch-size, \
             with --accumulate to make up for it",
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
        Gpu::Cuda(device) => cuda::convolve(device, g, pass, shape.into(), a, b),
        Gpu::Emulated(_) => {
            let (a_, b_) = (a.to_dtype(DType::F32)?, b.to_dtype(DType::F32)?);
            let (a_, b_) = (f32s(&a_)?, f32s(&b_)?);
            let numbers = match pass {
                Pass::Forward => products::forward(*g, &a_, &b_),
                Pass::Data => products::data_gradient(*g, &a_, &b_),
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
        let of = |views: usize| Geometry::new(2, 3, &[views, 224, 224, 8], &[64, 7, 7, 8]).unwrap();
        assert!(check_size(&of(2674)).is_ok());
        let message = check_size(&of(2676)).unwrap_err().to_string();
        assert!(
            message.contains("at most 1337 pairs of views fit; use a smaller --batch-size"),
            "{message}"
        );
    }
}

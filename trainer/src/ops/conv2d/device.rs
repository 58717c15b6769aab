//! Convolutions on a device: those of 1×1 with stride 1 are matrix products, and so is the gradient
//! of the input of 1×1 with any stride; the others are cuDNN's.

use std::sync::atomic::{AtomicBool, Ordering};

use candle_core::{DType, Result, Tensor, bail};

use super::{filter_gradient as cpu_filter_gradient, products};
use crate::ops::add::{add_in_place, add_pixels};
use crate::ops::cpu::f32s;
use crate::ops::geometry::{Geometry, Pass};
use crate::ops::gpu::Gpu;
#[cfg(feature = "cuda")]
use crate::ops::gpu::cuda;
use crate::ops::weight_copies::weight_as;

/// The most elements that a tensor may have. Many engines index tensors with 32-bit integers.
const MOST_ELEMENTS: usize = i32::MAX as usize;

/// Whether the gradients of 1×1 filters are matrix products; otherwise they are cuDNN's.
static FILTERS_ARE_PRODUCTS: AtomicBool = AtomicBool::new(true);

/// Lets cuDNN compute the gradients of 1×1 filters, to measure which way is faster. Both repeat
/// their bits, but not each other's.
pub fn filter_gradients_by_cudnn() {
    FILTERS_ARE_PRODUCTS.store(false, Ordering::Relaxed);
}

/// The output of `x` with a [`matching_filter`].
pub(super) fn forward(gpu: &Gpu, g: &Geometry, x: &Tensor, filter: &Tensor) -> Result<Tensor> {
    if is_product(g, Pass::Forward) {
        let filter = filter.reshape((g.o, g.i))?.t()?;
        let y = gpu.product(&x.reshape((g.pixels(), g.i))?, &filter, x.dtype(), None)?;
        return y.reshape((g.n, g.h, g.w, g.o));
    }
    convolve(gpu, g, Pass::Forward, x, filter)
}

/// The gradient of the input from that of the output, added to the one `before`.
pub(super) fn data_gradient(
    gpu: &Gpu,
    g: &Geometry,
    grad: &Tensor,
    filter: &Tensor,
    before: Option<Tensor>,
) -> Result<Tensor> {
    let shape = (g.n, g.h, g.w, g.i);
    if is_product(g, Pass::Data) {
        let rows = grad.reshape((g.out_pixels(), g.o))?;
        let sum = before.clone().filter(|_| g.stride == 1);
        let product = gpu.product(&rows, &filter.reshape((g.o, g.i))?, grad.dtype(), sum)?;
        if g.stride == 1 {
            return product.reshape(shape);
        }
        let sum = before.map_or_else(|| Tensor::zeros(shape, grad.dtype(), grad.device()), Ok)?;
        let values = product.reshape((g.n, g.out_h, g.out_w, g.i))?;
        add_pixels(gpu, &sum, &values, g.stride)?;
        return Ok(sum);
    }
    let gradient = convolve(gpu, g, Pass::Data, grad, filter)?;
    let Some(before) = before else { return Ok(gradient) };
    add_in_place(&before, &gradient)?;
    Ok(before)
}

/// The gradient of a filter `[O, kh, kw, I]`, float32, added to the one `before`; its input may
/// have further channels.
pub(super) fn filter_gradient(
    gpu: &Gpu,
    g: &Geometry,
    x: &Tensor,
    grad: &Tensor,
    channels: usize,
    before: Option<Tensor>,
) -> Result<Tensor> {
    if is_product(g, Pass::Filter)
        && channels == g.i
        && FILTERS_ARE_PRODUCTS.load(Ordering::Relaxed)
    {
        let (rows, x) = (grad.reshape((g.pixels(), g.o))?, x.reshape((g.pixels(), g.i))?);
        let gradient = gpu.product(&rows.t()?, &x, DType::F32, before)?;
        return gradient.reshape((g.o, g.kh, g.kw, g.i));
    }
    let gradient = convolve(gpu, g, Pass::Filter, x, grad)?;
    let gradient = gradient.narrow(3, 0, channels)?.to_dtype(DType::F32)?.contiguous()?;
    let Some(before) = before else { return Ok(gradient) };
    add_in_place(&before, &gradient)?;
    Ok(before)
}

/// The filter in the type of the map, with zeros for channels that only the map has.
pub(super) fn matching_filter(x: &Tensor, filter: &Tensor) -> Result<Tensor> {
    let missing = x.dim(3)?.saturating_sub(filter.dim(3)?);
    let filter = weight_as(filter, x.dtype())?;
    if missing == 0 { Ok(filter) } else { filter.pad_with_zeros(3, 0, missing)?.contiguous() }
}

/// Whether a pass is a matrix product. Of 1×1 convolutions with a stride that is the gradient of the
/// input, each pixel of which goes to one pixel of the output at most.
pub(super) fn is_product(g: &Geometry, pass: Pass) -> bool {
    let is_1x1 = (g.kh, g.kw, g.padding) == (1, 1, 0);
    is_1x1 && (g.stride == 1 || pass == Pass::Data)
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
                Pass::Filter => cpu_filter_gradient::filter_gradient(*g, &a_, &b_),
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

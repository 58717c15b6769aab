//! Sums in place.

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;
use scrl_preprocess::vectorized;

use super::cpu::{CHUNK, change, f32s};
use super::gpu::{Arg, Gpu, grid};

/// `sum ← sum + values`, two contiguous tensors of as many values and one type.
pub(super) fn add_in_place(sum: &Tensor, values: &Tensor) -> Result<()> {
    let count = sum.elem_count();
    if (count, sum.dtype()) != (values.elem_count(), values.dtype()) {
        bail!("a sum of {sum:?} and {values:?}");
    }
    if let Some(gpu) = Gpu::of(sum) {
        let threads = grid::line(count.div_ceil(grid::lanes(sum.dtype())))?;
        let arguments = [Arg::Tensor(sum), Arg::Tensor(values), Arg::Long(count as i64)];
        return gpu.launch("add", sum.dtype(), threads, &arguments);
    }
    let values = f32s(values)?;
    change(sum, |sum| {
        let chunks = sum.par_chunks_mut(CHUNK).zip(values.par_chunks(CHUNK));
        chunks.for_each(|(sum, values)| vectorized!(add(sum, values)));
    })
}

/// Adds a map `[N, H', W', C]` to every `stride`th pixel of every `stride`th row of a map
/// `[N, H, W, C]` of a device, in place.
pub(super) fn add_pixels(gpu: &Gpu, sum: &Tensor, values: &Tensor, stride: usize) -> Result<()> {
    let ((_, h, w, c), (n, out_h, out_w, _)) = (sum.dims4()?, values.dims4()?);
    let threads = grid::line(grid::packs(values.elem_count(), c, sum.dtype())?)?;
    let mut arguments = vec![Arg::Tensor(sum), Arg::Tensor(values)];
    for size in [n, out_h, out_w, h, w, c, stride] {
        arguments.push(Arg::int(size)?);
    }
    gpu.launch("add_pixels", sum.dtype(), threads, &arguments)
}

#[inline(always)]
fn add(sum: &mut [f32], values: &[f32]) {
    sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
}

//! What the CPU paths share: access to a tensor's numbers.
//!
//! Inner loops are functions of their own, marked `#[multiversion(targets = "simd")]`: compiled once for each set of vector
//! instructions, the widest one that the processor has being called at run time.

use candle_core::{CpuStorage, Layout, Result, bail};

/// Numbers in a piece of element-wise work: large enough to outweigh handing it to a thread, small enough for the
/// second-level cache.
pub(crate) const CHUNK: usize = 1 << 15;

/// The numbers of a contiguous float32 tensor.
pub(crate) fn f32s<'a>(storage: &'a CpuStorage, layout: &Layout) -> Result<&'a [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&numbers[start..end]),
        (CpuStorage::F32(_), None) => bail!("expected a contiguous tensor, got {layout:?}"),
        _ => bail!("expected float32 on the CPU"),
    }
}

/// The numbers of a contiguous float32 tensor, to be changed.
pub(crate) fn f32s_mut<'a>(storage: &'a mut CpuStorage, layout: &Layout) -> Result<&'a mut [f32]> {
    match (storage, layout.contiguous_offsets()) {
        (CpuStorage::F32(numbers), Some((start, end))) => Ok(&mut numbers[start..end]),
        (CpuStorage::F32(_), None) => bail!("expected a contiguous tensor, got {layout:?}"),
        _ => bail!("expected float32 on the CPU"),
    }
}

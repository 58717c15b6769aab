//! What the CPU paths share: access to a tensor's numbers. Inner loops are called by
//! [`scrl_preprocess::vectorized`].

use std::cell::Cell;
use std::mem::MaybeUninit;
use std::ops::{Deref, Range};

use candle_core::{CpuStorage, InplaceOp1, Layout, Result, Storage, StorageRef, Tensor, bail};
use rayon::prelude::*;

/// Numbers in a piece of element-wise work: large enough to outweigh handing it to a thread, small
/// enough for the second-level cache.
pub(crate) const CHUNK: usize = 1 << 15;

/// Keeps memory that is freed for the allocations to come, all of them: each step frees and
/// allocates the same maps, and memory new from the system is paid for page by page. This is the
/// whole process's and of glibc only; other allocators do as they do.
pub fn keep_freed_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: sets two numbers under the allocator's own lock.
    unsafe {
        // Large blocks come from the heap, too, and the heap never shrinks.
        libc::mallopt(libc::M_MMAP_MAX, 0);
        libc::mallopt(libc::M_TRIM_THRESHOLD, -1);
    }
}

/// `count` numbers, computed on all threads `size` at a time, and what `work` returns for each
/// piece. It gets the number of the piece and the piece, all zero.
pub(crate) fn compute<R: Send>(
    count: usize,
    size: usize,
    work: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> (Vec<f32>, Vec<R>) {
    let sizes = (0..count).step_by(size).map(|first| size.min(count - first));
    compute_pieces(sizes.collect(), work)
}

/// As [`compute`], with pieces of these `sizes`. Zeros that the same thread overwrites cost little,
/// unlike those of `vec!`, which the calling thread writes.
pub(crate) fn compute_pieces<R: Send>(
    sizes: Vec<usize>,
    work: impl Fn(usize, &mut [f32]) -> R + Sync,
) -> (Vec<f32>, Vec<R>) {
    let count = sizes.iter().sum();
    let mut numbers = Vec::with_capacity(count);
    let mut rest = &mut numbers.spare_capacity_mut()[..count];
    let mut pieces = Vec::with_capacity(sizes.len());
    for size in sizes {
        pieces.push(rest.split_off_mut(..size).expect("the sizes sum up to the count"));
    }
    let pieces = pieces.into_par_iter().enumerate();
    let results = pieces.map(|(index, piece)| work(index, zeroed(piece))).collect();
    // SAFETY: the pieces are all of the numbers, and each was zeroed.
    unsafe { numbers.set_len(count) };
    (numbers, results)
}

/// Fills `numbers` with zeros.
fn zeroed(numbers: &mut [MaybeUninit<f32>]) -> &mut [f32] {
    numbers.fill(MaybeUninit::new(0.0));
    // SAFETY: each number was just written.
    unsafe { numbers.assume_init_mut() }
}

/// The numbers of a tensor, locked for reading.
pub(crate) struct F32s<'a> {
    storage: StorageRef<'a>,
    range: Range<usize>,
}

impl Deref for F32s<'_> {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match &*self.storage {
            Storage::Cpu(CpuStorage::F32(numbers)) => &numbers[self.range.clone()],
            _ => unreachable!("`f32s` looked"),
        }
    }
}

/// The numbers of a contiguous float32 tensor on the CPU.
pub(crate) fn f32s(tensor: &Tensor) -> Result<F32s<'_>> {
    let (storage, layout) = tensor.storage_and_layout();
    match (&*storage, layout.contiguous_offsets()) {
        (Storage::Cpu(CpuStorage::F32(_)), Some((start, end))) => {
            Ok(F32s { storage, range: start..end })
        }
        (Storage::Cpu(CpuStorage::F32(_)), None) => {
            bail!("expected a contiguous tensor, got {layout:?}")
        }
        _ => {
            bail!("expected float32 on the CPU, got {:?} on {:?}", tensor.dtype(), tensor.device())
        }
    }
}

/// Calls `work` with the numbers of a contiguous float32 tensor on the CPU, to change them.
pub(crate) fn change(tensor: &Tensor, work: impl FnOnce(&mut [f32])) -> Result<()> {
    tensor.inplace_op1(&Change(Cell::new(Some(work))))
}

/// [`change`] as candle lets a storage be changed.
struct Change<F>(Cell<Option<F>>);

impl<F: FnOnce(&mut [f32])> InplaceOp1 for Change<F> {
    fn name(&self) -> &'static str {
        "change"
    }

    fn cpu_fwd(&self, storage: &mut CpuStorage, layout: &Layout) -> Result<()> {
        match (storage, layout.contiguous_offsets(), self.0.take()) {
            (CpuStorage::F32(numbers), Some((start, end)), Some(work)) => {
                work(&mut numbers[start..end]);
                Ok(())
            }
            _ => bail!("expected contiguous float32, got {layout:?}"),
        }
    }
}

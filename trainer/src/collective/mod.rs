//! What the processes of a run exchange: they train one model, each on its part of every batch.
//!
//! [`Ranks`] is what the rest of the crate holds; a backend implements [`Collective`]: [`Alone`],
//! [`Threads`] for tests, connections by TCP, and with the feature `mpi` the processes of an MPI
//! launcher. A backend only moves bytes between hosts. Whatever is added up is added here, in the
//! order of the ranks, because the reductions of MPI libraries add in orders of their own. Tensors
//! of GPUs are gathered and added up by NCCL, without a way over the hosts.
//!
//! Every rank must call the same functions in the same order.

mod address;
#[cfg(feature = "mpi")]
mod mpi;
#[cfg(feature = "nccl")]
mod nccl;
mod start;
mod sums;
mod tcp;
mod threads;

use std::fmt::{self, Debug};
use std::ops::{Deref, Range};
use std::sync::Arc;

use candle_core::{DType, Device, Result, Tensor, bail};
use pulp::bytemuck::{Pod, cast_slice, cast_slice_mut};
use scrl_cli::World;

pub use start::{run, threads_of_rank};
pub(crate) use sums::PendingSums;
pub use threads::Threads;

use crate::Error;
use crate::ops::cpu::{change, f32s};
use crate::ops::gpu::{self, Gpu, to_host};

/// Bytes of numbers added up at a time, which bounds the memory for those of the other ranks.
const BLOCK_BYTES: usize = 16 << 20;

/// Sums of fewer bytes are gathered whole: one message where dividing the work takes two.
const SMALL_BYTES: usize = 32 << 10;

/// Moves bytes between the ranks of a run.
pub trait Collective: Debug + Send + Sync {
    /// This process's number, from 0.
    fn rank(&self) -> usize;

    /// The number of processes.
    fn size(&self) -> usize;

    /// Fills `all` with the bytes of all ranks, one after another; each gives as many.
    fn all_gather(&self, bytes: &[u8], all: &mut [u8]);

    /// Sends each rank its part of `bytes`, which are cut into as many equal parts as there are
    /// ranks, and fills `parts` with those that this rank is sent, one after another.
    fn all_to_all(&self, bytes: &[u8], parts: &mut [u8]);

    /// Ends every process of the run with this exit code.
    fn abort(&self, code: u8) -> !;
}

/// A single process.
#[derive(Clone, Copy, Debug)]
pub struct Alone;

impl Collective for Alone {
    fn rank(&self) -> usize {
        0
    }

    fn size(&self) -> usize {
        1
    }

    fn all_gather(&self, bytes: &[u8], all: &mut [u8]) {
        all.copy_from_slice(bytes);
    }

    fn all_to_all(&self, bytes: &[u8], parts: &mut [u8]) {
        parts.copy_from_slice(bytes);
    }

    fn abort(&self, code: u8) -> ! {
        std::process::exit(code.into())
    }
}

/// The processes of a run. Clones share the backend.
#[derive(Clone, Debug)]
pub struct Ranks {
    hosts: Arc<dyn Collective>,
    /// Connects their GPUs, where they compute on some.
    #[cfg(feature = "nccl")]
    gpus: Option<Arc<nccl::Nccl>>,
}

impl Default for Ranks {
    fn default() -> Self {
        Self::new(Alone)
    }
}

impl Deref for Ranks {
    type Target = dyn Collective;

    fn deref(&self) -> &Self::Target {
        &*self.hosts
    }
}

impl fmt::Display for Ranks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.world(), f)
    }
}

impl Ranks {
    /// The ranks that `backend` connects.
    pub fn new(backend: impl Collective + 'static) -> Self {
        Self {
            hosts: Arc::new(backend),
            #[cfg(feature = "nccl")]
            gpus: None,
        }
    }

    /// The same ranks with their devices connected, of which this one's is `device`: all compute on
    /// the CPU, or each on a GPU of its own.
    ///
    /// # Errors
    /// [`Error::Ranks`] if their devices differ in kind or are the same; [`Error::Device`] from NCCL.
    pub fn on(&self, device: &Device) -> crate::Result<Self> {
        if self.is_alone() {
            return Ok(self.clone());
        }
        let place = gpu::place(device).map_err(|error| Error::Device(error.to_string()))?;
        check_places(&self.gather_texts(&place)).map_err(Error::Ranks)?;
        #[cfg(feature = "nccl")]
        if let Device::Cuda(device) = device {
            return self.connected(device);
        }
        Ok(self.clone())
    }

    /// The same ranks with their GPUs connected by NCCL, also of a single process, which then takes
    /// the way of several.
    ///
    /// # Errors
    /// [`Error::Device`] from NCCL.
    #[cfg(feature = "nccl")]
    pub fn connected(&self, device: &candle_core::CudaDevice) -> crate::Result<Self> {
        let gpus = nccl::Nccl::connect(self, device).map_err(Error::Device)?;
        Ok(Self { gpus: Some(gpus), ..self.clone() })
    }

    /// This process's rank, and the number of processes.
    pub fn world(&self) -> World {
        World { rank: self.rank() as u32, size: self.size() as u32 }
    }

    /// Whether this is the only process, and has nothing to exchange.
    pub fn is_alone(&self) -> bool {
        #[cfg(feature = "nccl")]
        if self.gpus.is_some() {
            return false;
        }
        self.size() == 1
    }

    /// Whether this is the rank that writes files and talks to the user.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// This rank's part of `count` things, a multiple of the number of ranks.
    pub fn part(&self, count: usize) -> Range<usize> {
        let part = count / self.size();
        self.rank() * part..(self.rank() + 1) * part
    }

    /// Whether any rank says so.
    pub fn any(&self, flag: bool) -> bool {
        self.gather(&[u8::from(flag)]).contains(&1)
    }

    /// Waits until all ranks are here.
    pub(crate) fn wait_for_all(&self) {
        self.any(false);
    }

    /// The text of each rank.
    pub fn gather_texts(&self, text: &str) -> Vec<String> {
        let texts = self.gather_unequal(text.as_bytes());
        texts.into_iter().map(|text| String::from_utf8_lossy(&text).into_owned()).collect()
    }

    /// The values of all ranks, one after another; each gives as many.
    pub(crate) fn gather<T: Pod>(&self, own: &[T]) -> Vec<T> {
        let mut all = vec![T::zeroed(); self.size() * own.len()];
        self.all_gather(cast_slice(own), cast_slice_mut(&mut all));
        all
    }

    /// The values of each rank, which may differ in number.
    fn gather_unequal<T: Pod>(&self, own: &[T]) -> Vec<Vec<T>> {
        let lengths = self.gather(&[own.len()]);
        let longest = lengths.iter().copied().max().unwrap_or(0);
        let mut padded = own.to_vec();
        padded.resize(longest, T::zeroed());
        let all = self.gather(&padded);
        let of_rank = |(rank, length)| all[rank * longest..][..length].to_vec();
        lengths.into_iter().enumerate().map(of_rank).collect()
    }

    /// The rows of all ranks' tensors `[R, …]`, float32, in the order of the ranks.
    pub(crate) fn gather_rows(&self, tensor: &Tensor) -> Result<Tensor> {
        if self.is_alone() {
            return Ok(tensor.clone());
        }
        let here = to_host(tensor)?.to_dtype(DType::F32)?.contiguous()?;
        let all = self.gather_unequal(&f32s(&here)?).concat();
        let mut dims = tensor.dims().to_vec();
        let Some((rows, rest)) = dims.split_first_mut() else { bail!("a scalar has no rows") };
        *rows = all.len() / rest.iter().product::<usize>().max(1);
        Tensor::from_vec(all, dims, tensor.device())
    }

    /// The contiguous float32 tensors of all ranks, each as large, on a device: `[ranks, …]`. The host
    /// does not wait for the device.
    pub(crate) fn gather_on(&self, gpu: &Gpu, own: &Tensor) -> Result<Tensor> {
        let all = gpu.empty([&[self.size()], own.dims()].concat(), DType::F32)?;
        #[cfg(feature = "nccl")]
        if let Some(gpus) = &self.gpus {
            gpus.gather(own, &all)?;
            return Ok(all);
        }
        if !own.device().is_cpu() {
            bail!("GPUs that are not connected");
        }
        let own = f32s(own)?;
        change(&all, |all| self.all_gather(cast_slice(&own), cast_slice_mut(all)))?;
        Ok(all)
    }

    /// Replaces contiguous float32 tensors by their sums over the ranks, on the CPU added in the
    /// ranks' order. On a device the sums are there when [`Ranks::wait_for_sums`] was called.
    fn sum(&self, tensors: &[Tensor]) -> Result<()> {
        #[cfg(feature = "nccl")]
        if let Some(gpus) = &self.gpus {
            return gpus.sum(tensors);
        }
        tensors.iter().try_for_each(|tensor| {
            if !tensor.device().is_cpu() {
                bail!("GPUs that are not connected");
            }
            change(tensor, |numbers| {
                numbers.chunks_mut(BLOCK_BYTES / 4).for_each(|block| self.sum_block(block));
            })
        })
    }

    /// Lets the device's later work wait for the sums that were begun.
    fn wait_for_sums(&self) -> Result<()> {
        #[cfg(feature = "nccl")]
        if let Some(gpus) = &self.gpus {
            gpus.wait_for_sums()?;
        }
        Ok(())
    }

    fn sum_block(&self, block: &mut [f32]) {
        if size_of_val(block) < SMALL_BYTES {
            let all = self.gather(block);
            return add_parts(&all, block);
        }
        // Each rank adds up a part of the block and shows it to all.
        let part = block.len().div_ceil(self.size());
        let mut padded = block.to_vec();
        padded.resize(part * self.size(), 0.0);
        let mut parts = vec![0.0; padded.len()];
        self.all_to_all(cast_slice(&padded), cast_slice_mut(&mut parts));
        let mut sum = vec![0.0; part];
        add_parts(&parts, &mut sum);
        self.all_gather(cast_slice(&sum), cast_slice_mut(&mut padded));
        block.copy_from_slice(&padded[..block.len()]);
    }
}

/// Checks that all ranks compute on CPUs, or each on a GPU of its own; a place is a GPU's, or empty.
fn check_places(places: &[String]) -> std::result::Result<(), String> {
    let on_gpu = places.iter().filter(|place| !place.is_empty()).count();
    if let Some(other) = places.iter().position(|place| place.is_empty() != places[0].is_empty()) {
        let device = |rank: usize| if places[rank].is_empty() { "the CPU" } else { "a GPU" };
        return Err(format!(
            "rank 0 is on {}, rank {other} on {}; choose with --device",
            device(0),
            device(other)
        ));
    }
    for (rank, place) in places.iter().enumerate().take(on_gpu) {
        if let Some(before) = places[..rank].iter().position(|other| other == place) {
            return Err(format!(
                "ranks {before} and {rank} are on the same GPU, {place}; start one process for each"
            ));
        }
    }
    Ok(())
}

/// Replaces `sum` by the sum of the parts, each as long, that lie one after another in `parts`.
fn add_parts(parts: &[f32], sum: &mut [f32]) {
    if sum.is_empty() {
        return;
    }
    let (first, rest) = parts.split_at(sum.len());
    sum.copy_from_slice(first);
    for part in rest.chunks_exact(sum.len()) {
        sum.iter_mut().zip(part).for_each(|(sum, number)| *sum += number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_added_in_the_order_of_the_ranks() {
        // In another order, or divided otherwise, 1 would be lost or found.
        let number = |rank: usize, index: usize| match rank {
            0 => 1e8,
            1 => -1e8 + index as f32 * 8.0,
            _ => 1.0,
        };
        for length in [0, 3, SMALL_BYTES / 4 + 5, BLOCK_BYTES / 4 + 7] {
            let sums = Threads::run(3, |ranks| {
                let numbers: Vec<f32> = (0..length).map(|i| number(ranks.rank(), i % 5)).collect();
                let tensor = Tensor::from_vec(numbers, length, &Device::Cpu).unwrap();
                ranks.sum(std::slice::from_ref(&tensor)).unwrap();
                tensor.to_vec1::<f32>().unwrap()
            });
            let expected: Vec<f32> =
                (0..length).map(|i| number(0, i) + number(1, i % 5) + number(2, i)).collect();
            assert!(sums.iter().all(|sum| *sum == expected), "{length}");
        }
    }

    #[test]
    fn each_rank_has_a_gpu_of_its_own() {
        let check = |places: &[&str]| {
            check_places(&places.iter().map(|place| (*place).to_owned()).collect::<Vec<_>>())
        };
        assert_eq!(check(&["", ""]), Ok(()));
        assert_eq!(check(&["GPU a", "GPU b"]), Ok(()));
        assert!(check(&["GPU a", ""]).unwrap_err().starts_with("rank 0 is on a GPU, rank 1 on"));
        assert!(check(&["GPU a", "GPU b", "GPU a"]).unwrap_err().starts_with("ranks 0 and 2 are"));
    }

    #[test]
    fn ranks_may_give_different_amounts() {
        let gathered = Threads::run(3, |ranks| {
            let rows = ranks.rank() * 2;
            let numbers: Vec<f32> =
                (0..3 * rows).map(|i| (100 * ranks.rank() + i) as f32).collect();
            let tensor = Tensor::from_vec(numbers, (rows, 3), &Device::Cpu).unwrap();
            let texts = ranks.gather_texts(&"x".repeat(ranks.rank()));
            assert_eq!(texts, ["", "x", "xx"]);
            assert!(ranks.any(ranks.rank() == 2) && !ranks.any(false));
            assert_eq!(ranks.part(12), ranks.rank() * 4..ranks.rank() * 4 + 4);
            ranks.gather_rows(&tensor).unwrap().to_vec2::<f32>().unwrap()
        });
        assert_eq!(gathered[0].len(), 6);
        assert_eq!(gathered[0][2], [200.0, 201.0, 202.0]);
        assert!(gathered.iter().all(|rows| *rows == gathered[0]));
    }
}

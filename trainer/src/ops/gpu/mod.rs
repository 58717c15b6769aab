//! GPUs: CUDA's, or in tests an emulation on the CPU.
//!
//! `Gpu` launches the kernels of `kernels/` on tensors; `cuda` has what only CUDA can do, and
//! [`Transfers`] bring batches to the GPU and losses back.

mod address;
mod array;
#[cfg(feature = "cuda")]
pub(crate) mod cuda;
mod device;
pub(crate) mod grid;
#[cfg(not(feature = "cuda"))]
mod none;
mod product;
mod transfer;

use serde::{Deserialize, Serialize};

pub(crate) use address::address;
pub use array::Array;
#[cfg(feature = "cuda")]
pub use cuda::{
    Engine, Engines, cudnn_version, engines_without_device, free_memory, open, peak_memory, why_not,
};
#[cfg(feature = "cuda")]
pub(crate) use cuda::{count, model, place, plans};
pub(crate) use device::{Arg, Gpu};
pub use device::{Emulator, emulate};
#[cfg(not(feature = "cuda"))]
pub(crate) use none::{count, model, place, plans};
#[cfg(not(feature = "cuda"))]
pub use none::{free_memory, open, peak_memory, why_not};
pub use transfer::{Fetch, Transfers};
pub(crate) use transfer::{room, to_host};

/// The most memory of a GPU that a program's tensors and workspaces took at one time, in bytes.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct PeakMemory {
    /// What they used.
    pub used: u64,
    /// What was reserved for them: more, where freed pieces were of other sizes.
    pub reserved: u64,
}

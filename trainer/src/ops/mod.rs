//! The computations of a training step, one file each: forward and backward, on the CPU and on a
//! CUDA device.
//!
//! A computation with a gradient is an [`Op`]; one without is a function. Either looks up with
//! `Gpu::of` where its tensors lie: on the CPU it works on slices of float32, on a device it
//! launches the kernels of `kernels/`, whose maps are float32 or bfloat16. [`Tape`] runs them
//! forward and backward. Feature maps are `[N, H, W, C]`, row-major; parameters, statistics and
//! losses are float32 throughout. Matrix products on a device are cuBLAS's, casts and sums of small
//! tensors are candle's.
//!
//! Results do not depend on the number of threads: work is cut into pieces by the shape alone, and
//! pieces are summed in their order.

mod add;
mod autograd;
mod avg_pool;
mod batch_norm;
mod batch_statistics;
mod conv2d;
mod cosine_loss;
pub(crate) mod cpu;
mod cross_entropy;
mod embedding_std;
mod exact_sums;
mod geometry;
pub mod gpu;
mod linear;
pub(crate) mod matrix;
mod max_pool;
mod normalize;
pub mod profile;
mod roi_align;
pub(crate) mod weight_copies;

pub use autograd::{Gradients, Normalization, Op, Tape};
pub use avg_pool::GlobalAveragePool;
pub use batch_norm::BatchNorm;
pub use batch_statistics::{batch_statistics, update_running};
pub use conv2d::{Conv2d, filter_gradients_by_cudnn};
pub use cosine_loss::CosineLoss;
pub use cpu::keep_freed_memory;
pub use cross_entropy::{CrossEntropy, UNKNOWN_CLASS, count_correct};
pub use embedding_std::embedding_std;
pub use geometry::{Geometry, Pass};
pub use linear::Linear;
pub use max_pool::MaxPool;
pub use normalize::{IMAGENET_MEAN, IMAGENET_STD, normalize_pixels};
pub(crate) use roi_align::MOST_CELLS;
pub use roi_align::{MOST_ROIS, RoiAlign};

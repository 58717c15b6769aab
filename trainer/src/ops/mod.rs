//! The computations of a training step, one file each: forward and backward, on the CPU and on a CUDA device.
//!
//! A computation with a gradient is an [`Op`]; one without is a function. Either asks `Gpu::of` where its tensors lie:
//! on the CPU it works on slices of float32, on a device it launches the kernels of `kernels/`, whose maps are float32
//! or bfloat16. [`Tape`] runs ops and walks back. Feature maps are `[N, H, W, C]`, row-major; parameters, statistics and
//! losses are float32 throughout. Matrix products on a device, casts and sums of small tensors are candle's.
//!
//! Results do not depend on the number of threads: work is cut into pieces by the shape alone, and sums over pieces
//! are taken in the order of the pieces.

mod autograd;
mod avg_pool;
mod batch_norm;
mod conv2d;
mod cosine_loss;
mod cpu;
mod cross_entropy;
mod embedding_std;
pub mod gpu;
mod kernel;
mod linear;
mod max_pool;
mod normalize;
pub mod profile;
mod roi_align;

pub use autograd::{Gradients, Normalization, Op, Tape};
pub use avg_pool::GlobalAveragePool;
pub use batch_norm::{BatchNorm, batch_statistics, update_running};
pub use conv2d::Conv2d;
pub use cosine_loss::CosineLoss;
pub(crate) use cpu::{CHUNK, change, f32s};
pub use cross_entropy::{CrossEntropy, UNKNOWN_CLASS, count_correct};
pub use embedding_std::embedding_std;
pub use linear::Linear;
pub use max_pool::MaxPool;
pub use normalize::{IMAGENET_MEAN, IMAGENET_STD, normalize_pixels};
pub use roi_align::{MOST_ROIS, RoiAlign};

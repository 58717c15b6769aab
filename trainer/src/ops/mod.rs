//! The computations of a training step, one file each, forward and backward.
//!
//! Every computation is a candle custom op: `cpu_fwd` holds the CPU path, `bwd` composes the gradient of further
//! custom ops, and a CUDA path is added by implementing `cuda_fwd` beside `cpu_fwd`; the model knows neither.
//! [`Tape`] runs them and walks back. Feature maps are `[N, H, W, C]`, row-major, float32.
//!
//! Results do not depend on the number of threads: work is cut into pieces by the shape alone, and sums over pieces
//! are taken in the order of the pieces.

mod avg_pool;
mod batch_norm;
mod conv2d;
mod cosine_loss;
mod cpu;
mod cross_entropy;
mod kernel;
mod linear;
mod matmul;
mod max_pool;
mod normalize;
mod roi_align;
mod tape;
mod unit_spread;

pub use avg_pool::GlobalAveragePool;
pub use batch_norm::{BatchNorm, BatchStatistics};
pub use conv2d::Conv2d;
pub use cosine_loss::CosineLoss;
pub(crate) use cpu::{CHUNK, f32s, f32s_mut};
pub use cross_entropy::{CountRight, CrossEntropy, UNKNOWN_CLASS};
pub use linear::Linear;
pub use max_pool::MaxPool;
pub use normalize::{IMAGENET_MEAN, IMAGENET_STD, NormalizePixels};
pub use roi_align::RoiAlign;
pub use tape::{Gradients, Normalization, Tape};
pub use unit_spread::UnitSpread;

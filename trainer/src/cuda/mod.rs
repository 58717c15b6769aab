//! Training steps on an NVIDIA GPU.
//!
//! A step is written down once, as a list of kernels, convolutions and matrix products over numbered buffers
//! ([`Program`]), and then run again and again: nothing is allocated and nothing is decided while steps run, and the
//! whole list can be recorded as a CUDA graph. Who runs it is a [`Backend`]: [`Gpu`] on CUDA's libraries, or, in the tests,
//! an emulation on the CPU that executes the very same kernel sources.
//!
//! ```text
//! Parameters of the learner → layout.rs (where each lies on the device)
//! batch → staging → schedule/ (input → backbone → RoIs → heads → loss → backward → LARS, moving average) → outcome
//! ```
//!
//! | | |
//! |---|---|
//! | `kernels/*.cu`, `kernels.rs` | the kernels, and how each is launched |
//! | `program.rs` | lists of work, and the plan of their buffers |
//! | `schedule/` | what a step consists of, forward and backward |
//! | `layout.rs` | what stays on the device between steps |
//! | `learner.rs` | the learner whose steps run there |
//! | `gpu/` | CUDA: the driver, cuDNN, cuBLASLt, NVRTC, all loaded when the program runs |
//!
//! Maps are `[N, H, W, C]` in bfloat16 or float32; weights, gradients, statistics and the loss are float32 in both.

mod backend;
mod gpu;
mod kernels;
mod layout;
mod learner;
mod program;
mod schedule;

pub use backend::{Backend, Outcome, Places};
pub use gpu::{Gpu, Part, why_not};
pub use kernels::{Arrays, MapShape, Mask, NormPlaces, Rows, SOURCES, Table, source};
pub use learner::{CudaConfig, CudaLearner, MicroBatch, StepScalars};
pub use program::{
    Argument, ConvolutionShape, Convolve, Launch, Multiply, Numbers, Op, Operand, Pass, ProductShape,
    Program, Recorder, Work,
};

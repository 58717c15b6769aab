//! A training run: its options ([`Options`]), resolved ([`TrainConfig`]); a step ([`Learner`]); the
//! loop ([`train`]); and the files that it leaves ([`Output`]).

mod agreement;
mod checkpoint;
mod config;
mod drawing;
mod guard;
mod initialize;
mod learner;
mod memory;
mod metrics;
mod options;
mod output;
mod pipeline;
mod tensorboard;
mod trainer;

pub use checkpoint::{Checkpoint, CheckpointInfo};
pub(crate) use config::check_out;
pub use config::{Hyperparameters, TrainConfig};
pub use learner::{Computed, Evaluated, Labels, Learner, LearnerConfig, MicroBatch};
pub use memory::StepMemory;
pub use metrics::Metrics;
pub use options::{
    DeviceChoice, Method, OnlineEval, Optimizer, Options, Precision, Preset, Resume, TargetInit,
};
pub use output::Output;
pub use trainer::{Summary, train};

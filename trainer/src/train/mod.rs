//! A training run: its options ([`Options`]), resolved ([`TrainConfig`]); a step ([`Learner`]); the
//! loop ([`train`]); and the files that it leaves ([`Output`]).

mod agreement;
mod checkpoint;
mod config;
mod defaults;
mod device;
mod drawing;
mod eigenvalues;
mod guard;
mod health;
mod held_out;
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
pub use defaults::Recorded;
pub use device::{DeviceChoice, DeviceConfig, DeviceOptions, Precision};
pub(crate) use device::{is_gpu, open_device};
pub use learner::{Computed, Evaluated, Labels, Learner, LearnerConfig, MicroBatch};
pub use memory::StepMemory;
pub use metrics::Metrics;
pub use options::{
    HealthCheck, Method, OnlineEval, Optimizer, Options, Preset, Resume, TargetInit,
};
pub use output::Output;
pub use trainer::{Summary, train};

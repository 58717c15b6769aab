//! A run of training: its options ([`TrainConfig`]), the loop ([`train`]), and the files it leaves.

mod checkpoint;
mod config;
mod engine;
mod guard;
mod initialize;
mod learner;
mod metrics;
mod options;
mod output;
mod run;
mod tensorboard;

pub use checkpoint::{Checkpoint, CheckpointInfo};
pub use config::{
    DeviceChoice, Method, OnlineEval, Precision, Preset, Resume, TargetInit, TrainConfig,
};
pub use engine::EmbeddingStd;
pub use guard::healthy_embedding_std;
pub use initialize::{Initialized, TargetStart};
pub use learner::{Computed, Evaluated, Labels, Learner, LearnerConfig};
pub use metrics::Metrics;
pub use options::Options;
pub use output::Output;
pub use run::{Plan, Progress, train};

//! A run of training: its options ([`TrainConfig`]), the loop ([`train`]), and the files it leaves.

mod checkpoint;
mod config;
mod engine;
mod guard;
mod metrics;
mod options;
mod output;
mod tensorboard;
mod train;

pub use checkpoint::{Checkpoint, CheckpointInfo};
pub use config::{DeviceChoice, Method, OnlineEval, Precision, Preset, Resume, TargetInit, TrainConfig};
pub use engine::EmbeddingStd;
pub use guard::healthy_embedding_std;
pub use metrics::Metrics;
pub use options::Options;
pub use output::Output;
pub use train::{Plan, Progress, train};

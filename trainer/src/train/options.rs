//! The options of scrl-train, as given on the command line or in a file.

use std::path::PathBuf;

use clap::Args;

use super::{DeviceChoice, Method, OnlineEval, Precision, Preset, Resume, TargetInit};
use crate::model::Arch;

/// Every option of a run that may be given; [`super::TrainConfig::resolve`] fills in what is missing.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Folder for checkpoints, metrics and the backbone [default: runs/ and the time]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Whose learning rate, decay and τ₀: paper, reference-200 or reference-1000 [default: paper]
    #[arg(long, value_name = "NAME")]
    pub preset: Option<Preset>,

    /// resnet18, resnet34, resnet50 or resnet101 [default: resnet50]
    #[arg(long, value_name = "NAME")]
    pub arch: Option<Arch>,

    /// scrl compares matched boxes, byol whole views [default: scrl]
    #[arg(long, value_name = "NAME")]
    pub method: Option<Method>,

    /// Pairs a process takes at a time [default: 256]
    #[arg(long, value_name = "PAIRS")]
    pub batch_size: Option<usize>,

    /// Batches whose gradients make one step; batch norm still sees one batch at a time [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,

    /// Epochs of the schedule [default: as many as were planned]
    #[arg(long, value_name = "N")]
    pub epochs: Option<u32>,

    /// Stop after so many steps; the schedule stays
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,

    /// Epochs in which the learning rate rises [default: 10]
    #[arg(long, value_name = "N")]
    pub warmup_epochs: Option<u32>,

    /// Learning rate for 256 pairs a step [default: the preset's]
    #[arg(long, value_name = "LR")]
    pub lr: Option<f64>,

    /// Weight decay [default: the preset's]
    #[arg(long, value_name = "WD")]
    pub weight_decay: Option<f64>,

    /// τ₀ of the target's EMA [default: the preset's]
    #[arg(long, value_name = "TAU")]
    pub ema: Option<f64>,

    /// Width inside projector and predictor [default: 4096]
    #[arg(long, value_name = "N")]
    pub hidden: Option<usize>,

    /// Width out of projector and predictor [default: 256]
    #[arg(long, value_name = "N")]
    pub projection: Option<usize>,

    /// Where the target network starts: random (or as in --init), or online for a copy [default: random]
    #[arg(long, value_name = "NAME")]
    pub target_init: Option<TargetInit>,

    /// Seed of the initial weights [default: 0]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,

    /// auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long, value_name = "NAME")]
    pub device: Option<DeviceChoice>,

    /// f32 or bf16 [default: bf16 on CUDA, f32 on the CPU]
    #[arg(long, value_name = "NAME")]
    pub precision: Option<Precision>,

    /// Where recipe shards find their sources [default: the folder recorded]
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,

    /// Start from the weights in a checkpoint, a backbone.safetensors, a torchvision state dict (.safetensors or .pth),
    /// or a checkpoint of the paper's authors; heads that it lacks or that have other widths stay random, and a
    /// target that it lacks is as --target-init says. A run that goes on does not read it again
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,

    /// Wait for epochs that scrl-prep is still making
    #[arg(long)]
    pub follow: bool,

    /// Note used-up epochs in SHARDS/consumed.json, so that scrl-prep --keep removes them
    #[arg(long)]
    pub consume: bool,

    /// auto: from the newest whole checkpoint in --out; no; or a checkpoint file [default: auto]
    #[arg(long, value_name = "HOW")]
    pub resume: Option<Resume>,

    /// Steps between checkpoints [default: an epoch's]
    #[arg(long, value_name = "STEPS")]
    pub checkpoint_every: Option<u64>,

    /// Steps between lines of metrics [default: 10]
    #[arg(long, value_name = "STEPS")]
    pub log_every: Option<u64>,

    /// Whether a linear classifier learns beside the backbone, which it does not touch: on, off, or auto for on where
    /// the shards have labels [default: auto]
    #[arg(long, value_name = "HOW")]
    pub online_eval: Option<OnlineEval>,

    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
}

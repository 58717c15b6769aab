//! The command line, and how it becomes [`Options`].

use std::path::PathBuf;

use clap::Parser;
use scrl_cli::Everywhere;
use scrl_trainer::model::Arch;
use scrl_trainer::run::{Method, OnlineEval, Options, Precision, Preset, Resume, TargetInit};

const EXAMPLES: &str = "\
Examples:
  scrl-train shards/                                  ResNet-50 as in the paper
  scrl-train --arch resnet18 --batch-size 16 --out runs/small shards/
  scrl-train --method byol --max-steps 100 --log-every 1 shards/
  scrl-train --follow --consume shards/               while scrl-prep --keep 3 makes them
  scrl-train --init resnet50.pth --target-init online shards/     start from torchvision's weights
  scrl-train --config small.toml --lr 0.3 shards/     options from a file; the command line wins

The same command goes on where an earlier one stopped, as long as --out is the same.";

/// Pretrains a detection backbone from the shards that scrl-prep made.
#[derive(Parser)]
#[command(name = "scrl-train", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Arguments {
    /// Folder that scrl-prep wrote
    pub shards: PathBuf,

    /// Folder for checkpoints, metrics and the backbone [default: runs/ and the time]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Whose learning rate, decay and τ₀: paper, reference-200 or reference-1000 [default: paper]
    #[arg(long, value_name = "NAME")]
    preset: Option<Preset>,

    /// resnet18, resnet34, resnet50 or resnet101 [default: resnet50]
    #[arg(long, value_name = "NAME")]
    arch: Option<Arch>,

    /// scrl compares matched boxes, byol whole views [default: scrl]
    #[arg(long, value_name = "NAME")]
    method: Option<Method>,

    /// Pairs a process takes at a time [default: 256]
    #[arg(long, value_name = "PAIRS")]
    batch_size: Option<usize>,

    /// Batches whose gradients make one step; batch norm still sees one batch at a time [default: 1]
    #[arg(long, value_name = "N")]
    accumulate: Option<usize>,

    /// Epochs of the schedule [default: as many as were planned]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,

    /// Stop after so many steps; the schedule stays
    #[arg(long, value_name = "N")]
    max_steps: Option<u64>,

    /// Epochs in which the learning rate rises [default: 10]
    #[arg(long, value_name = "N")]
    warmup_epochs: Option<u32>,

    /// Learning rate for 256 pairs a step [default: the preset's]
    #[arg(long, value_name = "LR")]
    lr: Option<f64>,

    /// Weight decay [default: the preset's]
    #[arg(long, value_name = "WD")]
    weight_decay: Option<f64>,

    /// τ₀ of the target's EMA [default: the preset's]
    #[arg(long, value_name = "TAU")]
    ema: Option<f64>,

    /// Width inside projector and predictor [default: 4096]
    #[arg(long, value_name = "N")]
    hidden: Option<usize>,

    /// Width out of projector and predictor [default: 256]
    #[arg(long, value_name = "N")]
    projection: Option<usize>,

    /// Where the target network starts: random (or as in --init), or online for a copy [default: random]
    #[arg(long, value_name = "NAME")]
    target_init: Option<TargetInit>,

    /// Seed of the initial weights [default: 0]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// auto, cpu, cuda or cuda:N [default: auto]
    #[arg(long, value_name = "NAME")]
    device: Option<String>,

    /// f32 or bf16 [default: bf16 on CUDA, f32 on the CPU]
    #[arg(long, value_name = "NAME")]
    precision: Option<Precision>,

    /// Where recipe shards find their sources [default: the folder recorded]
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,

    /// Start from the weights in a checkpoint, a backbone.safetensors, a torchvision state dict (.safetensors or .pth),
    /// or a checkpoint of the paper's authors; heads that it lacks or that have other widths stay random, and a
    /// target that it lacks is as --target-init says. A run that goes on does not read it again
    #[arg(long, value_name = "FILE")]
    init: Option<PathBuf>,

    /// Wait for epochs that scrl-prep is still making
    #[arg(long)]
    follow: bool,

    /// Note used-up epochs in SHARDS/consumed.json, so that scrl-prep --keep removes them
    #[arg(long)]
    consume: bool,

    /// auto: from the newest whole checkpoint in --out; no; or a checkpoint file [default: auto]
    #[arg(long, value_name = "HOW")]
    resume: Option<String>,

    /// Steps between checkpoints [default: an epoch's]
    #[arg(long, value_name = "STEPS")]
    checkpoint_every: Option<u64>,

    /// Steps between lines of metrics [default: 10]
    #[arg(long, value_name = "STEPS")]
    log_every: Option<u64>,

    /// Whether a linear classifier learns beside the backbone, which it does not touch: on, off, or auto for on where
    /// the shards have labels [default: auto]
    #[arg(long, value_name = "HOW")]
    online_eval: Option<OnlineEval>,

    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    threads: Option<usize>,

    /// Say nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _everywhere: Everywhere,
}

impl Arguments {
    /// The options as given.
    pub fn options(self) -> Options {
        Options {
            out: self.out,
            preset: self.preset,
            arch: self.arch,
            method: self.method,
            batch_size: self.batch_size,
            accumulate: self.accumulate,
            epochs: self.epochs,
            max_steps: self.max_steps,
            warmup_epochs: self.warmup_epochs,
            lr: self.lr,
            weight_decay: self.weight_decay,
            ema: self.ema,
            hidden: self.hidden,
            projection: self.projection,
            target_init: self.target_init,
            seed: self.seed,
            device: self.device,
            precision: self.precision,
            images: self.images,
            init: self.init,
            follow: self.follow,
            consume: self.consume,
            resume: self.resume,
            checkpoint_every: self.checkpoint_every,
            log_every: self.log_every,
            online_eval: self.online_eval,
            threads: self.threads,
        }
    }
}

/// How to resume, from an option's text.
pub fn resume(options: &Options) -> Resume {
    // Any text is an answer: what is neither auto nor no is a path.
    options.resume.as_deref().unwrap_or("auto").parse().unwrap_or(Resume::Auto)
}

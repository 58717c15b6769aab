//! The options of scrl-train, as given on the command line or in a file.

use std::path::PathBuf;

use clap::Args;
use scrl_cli::choices;
use scrl_schemas::named_choice;

use super::device::DeviceOptions;
use crate::model::Arch;

named_choice! {
    /// The source of the defaults of the optimizer, its learning rate and weight decay, τ₀, and how
    /// a run starts.
    pub enum Preset {
        /// The one of `small` and `paper` that fits the length of the schedule.
        Auto = "auto",
        /// The paper's text.
        Paper = "paper",
        /// The authors' code for 200 epochs.
        Reference200 = "reference-200",
        /// The authors' code for 1000 epochs.
        Reference1000 = "reference-1000",
        /// Our own, for up to a few million pairs and batches of less than 512: see
        /// `docs/small-data.md`.
        Small = "small",
    }
}

named_choice! {
    /// The optimizer of the online network.
    pub enum Optimizer {
        /// SGD whose steps are adapted to the norm of each tensor.
        Lars = "lars",
        /// SGD with momentum.
        Sgd = "sgd",
    }
}

named_choice! {
    /// The regions that the loss compares between the views.
    pub enum Method {
        /// Matched boxes.
        Scrl = "scrl",
        /// Entire views.
        Byol = "byol",
    }
}

named_choice! {
    /// The initial values of the target network.
    pub enum TargetInit {
        /// Its own random values.
        Random = "random",
        /// A copy of the online network.
        Online = "online",
    }
}

named_choice! {
    /// Whether a linear classifier learns beside the backbone, to show how good its features are.
    pub enum OnlineEval {
        /// If the shards have labels.
        Auto = "auto",
        /// Yes.
        On = "on",
        /// No.
        Off = "off",
    }
}

named_choice! {
    /// Whether effective rank and box retrieval are measured on held-out pairs.
    pub enum HealthCheck {
        /// Where an epoch has enough pairs.
        Auto = "auto",
        /// No; every pair of epoch 0 is trained on.
        Off = "off",
    }
}

/// The checkpoint to resume from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The newest intact checkpoint in the output folder, if there is one.
    Auto,
    /// None: the output folder must hold no run.
    No,
    /// This checkpoint.
    From(PathBuf),
}

impl std::str::FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "no" => Self::No,
            path => Self::From(path.into()),
        })
    }
}

/// Every option of a run. What is missing is filled in by [`super::TrainConfig::resolve`].
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Folder for checkpoints, metrics and the backbone [default: runs/ and the time]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,

    /// Defaults of the paper's text, of its authors' code for 200 or 1000 epochs, or for small data;
    /// auto is small for schedules of less than a million pairs and steps of less than 512, else
    /// paper [default: auto]
    #[arg(long, value_name = "NAME", value_parser = choices!(Preset))]
    pub preset: Option<Preset>,

    /// lars, or sgd with momentum [default: the preset's; sgd in small, lars in others]
    #[arg(long, value_name = "NAME", value_parser = choices!(Optimizer))]
    pub optimizer: Option<Optimizer>,

    /// LARS's trust coefficient: a tensor's step is this part of its norm times the learning rate
    /// [default: 0.001]
    #[arg(long, value_name = "TRUST")]
    pub trust: Option<f64>,

    /// The backbone [default: resnet50]
    #[arg(long, value_name = "NAME", value_parser = choices!(Arch))]
    pub arch: Option<Arch>,

    /// scrl compares matched boxes, byol entire views [default: scrl]
    #[arg(long, value_name = "NAME", value_parser = choices!(Method))]
    pub method: Option<Method>,

    /// Pairs of a micro-batch, which all processes of the run divide among them [default: the largest
    /// power of two up to 256 that leaves eight steps in an epoch]
    #[arg(long, value_name = "PAIRS")]
    pub batch_size: Option<usize>,

    /// Micro-batches whose gradients make one step; batch norm sees one at a time [default: 1]
    #[arg(long, value_name = "N")]
    pub accumulate: Option<usize>,

    /// Epochs of the schedule [default: the shards' planned epochs when the run begins]
    #[arg(long, value_name = "N")]
    pub epochs: Option<u32>,

    /// Stop after N steps; the schedule does not change
    #[arg(long, value_name = "N")]
    pub max_steps: Option<u64>,

    /// Epochs of the learning rate's linear warm-up [default: the preset's; 1 in small, 10 in others]
    #[arg(long, value_name = "N")]
    pub warmup_epochs: Option<u32>,

    /// Learning rate for 256 pairs a step; scaled linearly [default: the preset's]
    #[arg(long, value_name = "LR")]
    pub lr: Option<f64>,

    /// Weight decay [default: the preset's]
    #[arg(long, value_name = "WD")]
    pub weight_decay: Option<f64>,

    /// τ₀ of the target network's EMA [default: the preset's]
    #[arg(long, value_name = "TAU")]
    pub ema: Option<f64>,

    /// Hidden width of projector and predictor [default: 4096]
    #[arg(long, value_name = "N")]
    pub hidden: Option<usize>,

    /// Output width of projector and predictor [default: 256]
    #[arg(long, value_name = "N")]
    pub projection: Option<usize>,

    /// Initial values of the target network: random (or those of --init), or a copy of the online
    /// network [default: the preset's; online in small, random in others]
    #[arg(long, value_name = "NAME", value_parser = choices!(TargetInit))]
    pub target_init: Option<TargetInit>,

    /// Seed of the initial weights [default: 0]
    #[arg(long, value_name = "S")]
    pub seed: Option<u64>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub compute: DeviceOptions,

    /// Where recipe shards find their source images [default: the recorded folder]
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,

    /// Start from the weights in a checkpoint, a run's folder, or any published ResNet as
    /// .safetensors, .pth or .pkl: torchvision, timm, the paper's authors, MoCo, SwAV, DenseCL,
    /// PixPro, DINO, VISSL, Lightly, solo-learn, OpenMMLab, Detectron2, or a folder of transformers.
    /// Heads that it lacks or that have other widths stay random; for a target network that it
    /// lacks --target-init decides. A run that resumes does not read it again
    #[arg(long, value_name = "FILE")]
    pub init: Option<PathBuf>,

    /// Wait for epochs that scrl-prep is still writing
    #[arg(long)]
    pub follow: bool,

    /// Record consumed epochs in SHARDS/consumed.json, so that scrl-prep --keep removes them
    #[arg(long)]
    pub consume: bool,

    /// auto for the newest intact checkpoint in --out, no, or a checkpoint file [default: auto]
    #[arg(long, value_name = "HOW")]
    pub resume: Option<Resume>,

    /// Whether the last pairs of epoch 0 are held out, to measure at each checkpoint how many
    /// dimensions the features use and how well they find matching boxes [default: auto]
    #[arg(long, value_name = "HOW", value_parser = choices!(HealthCheck))]
    pub health: Option<HealthCheck>,

    /// Steps between checkpoints [default: those of an epoch]
    #[arg(long, value_name = "STEPS")]
    pub checkpoint_every: Option<u64>,

    /// Steps between lines of metrics [default: 10]
    #[arg(long, value_name = "STEPS")]
    pub log_every: Option<u64>,

    /// Whether a linear classifier learns beside the backbone, without an effect on it; auto is on
    /// where the shards have labels [default: auto]
    #[arg(long, value_name = "HOW", value_parser = choices!(OnlineEval))]
    pub online_eval: Option<OnlineEval>,

    /// Threads that compute, and as many that decode [default: all cores, divided among the
    /// processes on this machine]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
}

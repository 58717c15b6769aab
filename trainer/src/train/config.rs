//! A run, resolved from its options.

use std::path::PathBuf;

use candle_core::Device;
use scrl_schemas::named_choice;
use serde::{Deserialize, Serialize};

use super::Options;
use crate::data::Dataset;
use crate::model::Arch;
use crate::ops::{MOST_ROIS, gpu};
use crate::{Error, Result};

named_choice! {
    /// Whose learning rate, decay and τ₀.
    pub enum Preset {
        /// The paper's text.
        Paper = "paper",
        /// The authors' code for 200 epochs.
        Reference200 = "reference-200",
        /// The authors' code for 1000 epochs.
        Reference1000 = "reference-1000",
    }
}

named_choice! {
    /// What is compared between the views.
    pub enum Method {
        /// Matched boxes.
        Scrl = "scrl",
        /// Whole views.
        Byol = "byol",
    }
}

named_choice! {
    /// Where the target network starts.
    pub enum TargetInit {
        /// From random values of its own.
        Random = "random",
        /// As a copy of the online network.
        Online = "online",
    }
}

named_choice! {
    /// Numbers of the feature maps.
    pub enum Precision {
        /// bfloat16 with float32 master weights.
        Bf16 = "bf16",
        /// float32 throughout.
        F32 = "f32",
    }
}

named_choice! {
    /// Whether a classifier learns beside the backbone, to show how good its features are.
    pub enum OnlineEval {
        /// If the shards have labels.
        Auto = "auto",
        /// Yes.
        On = "on",
        /// No.
        Off = "off",
    }
}

/// What a preset sets: the paper's section 4, and the authors' code.
struct PresetValues {
    base_lr: f64,
    weight_decay: f64,
    tau: f64,
}

impl Preset {
    fn values(self) -> PresetValues {
        match self {
            Self::Paper | Self::Reference200 => {
                PresetValues { base_lr: 0.45, weight_decay: 1e-6, tau: 0.97 }
            }
            Self::Reference1000 => PresetValues { base_lr: 0.2, weight_decay: 1.5e-6, tau: 0.996 },
        }
    }
}

/// With fewer there is nothing to tell apart.
const LEAST_CLASSES: u64 = 2;

/// On which device to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceChoice {
    /// A GPU if this program can use one and there is one, otherwise the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of this number.
    Cuda(usize),
}

impl std::str::FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = text.strip_prefix("cuda:").and_then(|number| number.parse().ok());
                number
                    .map(Self::Cuda)
                    .ok_or_else(|| format!("{text:?} is none of auto, cpu, cuda, cuda:N"))
            }
        }
    }
}

/// From where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// From the newest whole checkpoint in the output folder, if there is one.
    Auto,
    /// Not at all: the output folder must hold no run.
    No,
    /// From this checkpoint.
    From(PathBuf),
}

impl std::str::FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> std::result::Result<Self, Self::Err> {
        Ok(match text {
            "auto" => Self::Auto,
            "no" => Self::No,
            path => Self::From(path.into()),
        })
    }
}

/// A run, resolved: the content of `config.toml`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainConfig {
    /// The prepared folder.
    pub shards: PathBuf,
    /// The output folder.
    pub out: PathBuf,
    /// Where the defaults of lr, decay and τ₀ came from.
    pub preset: Preset,
    /// The backbone.
    pub arch: Arch,
    /// What is compared.
    pub method: Method,
    /// Pairs a micro-step.
    pub batch_size: usize,
    /// Micro-steps a step.
    pub accumulate: usize,
    /// Epochs of the schedule.
    pub epochs: u32,
    /// Steps after which to stop early; the schedule does not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// Epochs of warm-up.
    pub warmup_epochs: u32,
    /// Learning rate for a global batch of 256 pairs.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// τ₀ of the EMA.
    pub ema: f64,
    /// Width inside projector and predictor.
    pub hidden: usize,
    /// Width out of them.
    pub projection: usize,
    /// Where the target starts.
    pub target_init: TargetInit,
    /// Of the initial weights.
    pub seed: u64,
    /// The device used: `cpu` or `cuda:N`.
    pub device: String,
    /// Why a device that was left open is the CPU.
    #[serde(skip)]
    pub why_cpu: Option<String>,
    /// Numbers of the feature maps.
    pub precision: Precision,
    /// Where the sources of recipe shards lie.
    pub images: PathBuf,
    /// The file of the initial weights; a run that goes on from a checkpoint does not read it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Whether to wait for epochs still being made.
    #[serde(default)]
    pub follow: bool,
    /// Whether to note in `consumed.json` which epochs are used up.
    #[serde(default)]
    pub consume: bool,
    /// Steps between checkpoints; with `consume` there is one at every epoch's end as well.
    pub checkpoint_every: u64,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Whether there is an online evaluation: on or off.
    pub online_eval: OnlineEval,
    /// Threads that compute, and as many that decode.
    pub threads: usize,
}

fn refuse<T>(option: &'static str, reason: impl Into<String>) -> Result<T> {
    Err(Error::Option { option, reason: reason.into() })
}

/// The resolved name of the CPU.
const CPU: &str = "cpu";

/// What a resolved GPU's name begins with.
const CUDA: &str = "cuda:";

/// Where to compute, and if that is the CPU because no GPU can be used, why.
fn resolve_device(choice: DeviceChoice) -> Result<(String, Option<String>)> {
    match choice {
        DeviceChoice::Cpu => Ok((CPU.to_owned(), None)),
        DeviceChoice::Auto => match gpu::why_not(0) {
            None => Ok((format!("{CUDA}0"), None)),
            reason => Ok((CPU.to_owned(), reason)),
        },
        DeviceChoice::Cuda(number) => match gpu::why_not(number) {
            None => Ok((format!("{CUDA}{number}"), None)),
            Some(reason) => refuse("device", format!("{reason}; or use --device cpu")),
        },
    }
}

impl TrainConfig {
    /// The learning rate at the end of warm-up: `lr` is for 256 pairs a step.
    pub fn peak_lr(&self) -> f64 {
        const BASE_BATCH: f64 = 256.0;
        self.lr * (self.batch_size * self.accumulate) as f64 / BASE_BATCH
    }

    /// The device to compute on, ready for use.
    pub fn open_device(&self) -> Result<Device> {
        match self.device.strip_prefix(CUDA).and_then(|number| number.parse().ok()) {
            Some(number) => gpu::open(number).map_err(|error| Error::Device(error.to_string())),
            None => Ok(Device::Cpu),
        }
    }

    /// Fills in defaults and checks what does not fit the dataset. `default_out` is used where no `--out` is given.
    pub fn resolve(given: Options, dataset: &Dataset, default_out: PathBuf) -> Result<Self> {
        let manifest = dataset.manifest();
        let preset = given.preset.unwrap_or(Preset::Paper);
        let values = preset.values();
        let (device, why_cpu) = resolve_device(given.device.unwrap_or(DeviceChoice::Auto))?;
        let usual = if device == CPU { Precision::F32 } else { Precision::Bf16 };
        let precision = given.precision.unwrap_or(usual);
        if precision == Precision::Bf16 && device == CPU {
            return refuse("precision", "bf16 needs a GPU; on the CPU it is f32");
        }
        let batch_size = given.batch_size.unwrap_or(256);
        let accumulate = given.accumulate.unwrap_or(1);
        let pairs = (batch_size * accumulate) as u64;
        if pairs == 0 {
            return refuse("batch-size", "a step needs at least one pair");
        }
        if dataset.rows_per_epoch() == 0 {
            let reason = "the shards have no rows: none of the images could be read, and sources.parquet says why";
            return Err(Error::dataset(dataset.layout().root(), reason));
        }
        let steps_per_epoch = dataset.rows_per_epoch() / pairs;
        if steps_per_epoch == 0 {
            let rows = dataset.rows_per_epoch();
            return refuse(
                "batch-size",
                format!("{pairs} pairs a step, but an epoch has only {rows}; choose less"),
            );
        }
        let epochs = given.epochs.unwrap_or(manifest.epochs);
        if epochs == 0 || epochs > manifest.epochs {
            return refuse("epochs", format!("the folder has {} planned epochs", manifest.epochs));
        }
        let classes = manifest.counts.classes;
        let online_eval = match given.online_eval.unwrap_or(OnlineEval::Auto) {
            OnlineEval::On if classes < LEAST_CLASSES => {
                let shards = dataset.layout().root().display();
                let way_out = "prepare images in a folder for each class, or leave it out";
                return refuse("online-eval", format!("{shards} has {classes} classes; {way_out}"));
            }
            OnlineEval::Auto if classes < LEAST_CLASSES => OnlineEval::Off,
            OnlineEval::Auto => OnlineEval::On,
            given => given,
        };
        let config = Self {
            shards: dataset.layout().root().to_owned(),
            out: given.out.unwrap_or(default_out),
            preset,
            arch: given.arch.unwrap_or(Arch::Resnet50),
            method: given.method.unwrap_or(Method::Scrl),
            batch_size,
            accumulate,
            epochs,
            max_steps: given.max_steps,
            warmup_epochs: given.warmup_epochs.unwrap_or(10),
            lr: given.lr.unwrap_or(values.base_lr),
            weight_decay: given.weight_decay.unwrap_or(values.weight_decay),
            ema: given.ema.unwrap_or(values.tau),
            hidden: given.hidden.unwrap_or(4096),
            projection: given.projection.unwrap_or(256),
            target_init: given.target_init.unwrap_or(TargetInit::Random),
            seed: given.seed.unwrap_or(0),
            device,
            why_cpu,
            precision,
            images: given.images.unwrap_or_else(|| manifest.images.clone().into()),
            init: given.init,
            follow: given.follow,
            consume: given.consume,
            checkpoint_every: given.checkpoint_every.unwrap_or(steps_per_epoch),
            log_every: given.log_every.unwrap_or(10),
            online_eval,
            threads: given
                .threads
                .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        };
        config.check()?;
        if config.device != CPU {
            config.check_for_gpu(manifest.options.boxes as usize)?;
        }
        Ok(config)
    }

    /// What the kernels ask of the sizes: see `ops/kernels/`.
    fn check_for_gpu(&self, boxes: usize) -> Result<()> {
        let pack = if self.precision == Precision::Bf16 { 8 } else { 4 };
        for (option, value) in [("hidden", self.hidden), ("projection", self.projection)] {
            if !value.is_multiple_of(pack) {
                return refuse(
                    option,
                    format!("{value} is no multiple of {pack}, which a GPU needs"),
                );
            }
        }
        if boxes > MOST_ROIS {
            let reason =
                format!("the shards have up to {boxes} boxes a pair, a GPU takes {MOST_ROIS}");
            return refuse(
                "device",
                format!("{reason}; use --device cpu, or prepare with --boxes {MOST_ROIS}"),
            );
        }
        Ok(())
    }

    fn check(&self) -> Result<()> {
        for (option, value) in [
            ("hidden", self.hidden as u64),
            ("projection", self.projection as u64),
            ("checkpoint-every", self.checkpoint_every),
            ("log-every", self.log_every),
            ("threads", self.threads as u64),
            ("max-steps", self.max_steps.unwrap_or(1)),
        ] {
            if value == 0 {
                return refuse(option, "must be at least 1");
            }
        }
        for (option, value) in [("lr", self.lr), ("weight-decay", self.weight_decay)] {
            if !value.is_finite() || value < 0.0 {
                return refuse(option, "must be a number of at least 0");
            }
        }
        if !(0.0..=1.0).contains(&self.ema) {
            return refuse("ema", "must lie between 0 and 1");
        }
        Ok(())
    }

    /// The options that decide what the steps compute: all but places, the length of the run, and how it is watched.
    pub fn computation(&self) -> toml::Table {
        const WITHOUT_EFFECT: [&str; 11] = [
            "shards",
            "out",
            "images",
            // Its effect is in the first checkpoint, and the file may be gone by then.
            "init",
            "max-steps",
            "follow",
            "consume",
            "checkpoint-every",
            "log-every",
            "threads",
            "device",
        ];
        let mut table =
            toml::Table::try_from(self).expect("a configuration holds only plain values");
        table.retain(|option, _| !WITHOUT_EFFECT.contains(&option));
        table
    }

    /// The text of `config.toml`.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a configuration holds only plain values")
    }
}

//! A run, resolved from its options.

use std::path::{Path, PathBuf};

use scrl_schemas::store;
use serde::Serialize;

use super::defaults::{Choice, Recorded, scheduled_pairs};
use super::device::{DeviceConfig, Precision, is_gpu};
use super::options::{HealthCheck, Method, OnlineEval, Optimizer, Options, Preset, TargetInit};
use crate::Result;
use crate::collective::{Ranks, threads_of_rank};
use crate::data::Dataset;
use crate::error::refuse;
use crate::model::Arch;
use crate::ops::MOST_ROIS;

/// LARS's trust coefficient in the paper.
const TRUST: f64 = 0.001;

/// Pairs of a step at which the learning rate is the given one (linear scaling rule).
const BASE_BATCH: f64 = 256.0;

/// Classes that an online evaluation needs at least.
const LEAST_CLASSES: u64 = 2;

/// The largest integer that TOML can hold.
const LARGEST: u64 = i64::MAX as u64;

/// The options that decide what the steps compute. A checkpoint records them, and a run resumes
/// only from a checkpoint with the same ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Hyperparameters {
    /// The source of defaults; never [`Preset::Auto`].
    pub preset: Preset,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// LARS's trust coefficient; `None` for SGD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trust: Option<f64>,
    /// The backbone.
    pub arch: Arch,
    /// The regions that the loss compares.
    pub method: Method,
    /// Pairs of a micro-batch, of all processes.
    pub batch_size: usize,
    /// Micro-batches of a step.
    pub accumulate: usize,
    /// Epochs of the schedule.
    pub epochs: u32,
    /// Epochs of warm-up.
    pub warmup_epochs: u32,
    /// Learning rate for a step of 256 pairs.
    pub lr: f64,
    /// Weight decay.
    pub weight_decay: f64,
    /// τ₀ of the EMA.
    pub ema: f64,
    /// Hidden width of projector and predictor.
    pub hidden: usize,
    /// Output width of both.
    pub projection: usize,
    /// The initial values of the target network.
    pub target_init: TargetInit,
    /// Seed of the initial weights.
    pub seed: u64,
    /// The number format of the feature maps.
    pub precision: Precision,
    /// Whether there is an online evaluation: on or off.
    pub online_eval: OnlineEval,
}

impl Hyperparameters {
    /// Pairs of a step.
    pub fn pairs_per_step(&self) -> usize {
        self.batch_size * self.accumulate
    }

    /// The learning rate at the end of warm-up: `lr`, scaled to the pairs of a step.
    pub(crate) fn peak_lr(&self) -> f64 {
        self.lr * self.pairs_per_step() as f64 / BASE_BATCH
    }

    /// Those whose defaults depend on the shards.
    pub(super) fn recorded(&self) -> Recorded {
        let Self { preset, batch_size, epochs, .. } = *self;
        Recorded { preset, batch_size, epochs }
    }

    /// The options by their names.
    pub(crate) fn to_table(&self) -> toml::Table {
        toml::Table::try_from(self).expect("numbers that TOML can hold, and names")
    }
}

/// A run, resolved: the content of `config.toml`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TrainConfig {
    /// The shards folder.
    pub shards: PathBuf,
    /// The output folder.
    pub out: PathBuf,
    /// The options that decide what the steps compute.
    #[serde(flatten)]
    pub hyperparameters: Hyperparameters,
    /// Steps after which to stop early; the schedule does not change.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_steps: Option<u64>,
    /// The device used: `cpu` or `cuda:N`.
    pub device: String,
    /// The reason why `--device auto` chose the CPU.
    #[serde(skip)]
    pub why_cpu: Option<String>,
    /// What was chosen for this dataset and why, a line for each option.
    #[serde(skip)]
    pub chosen: Vec<String>,
    /// The source images of recipe shards.
    pub images: PathBuf,
    /// The file of the initial weights. Its effect is in the first checkpoint: a resumed run does
    /// not read it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init: Option<PathBuf>,
    /// Whether to wait for epochs that are still being written.
    pub follow: bool,
    /// Whether to record consumed epochs in `consumed.json`.
    pub consume: bool,
    /// Whether effective rank and box retrieval are measured.
    pub health: HealthCheck,
    /// Steps between checkpoints; with `consume` there is one at the end of every epoch as well.
    pub checkpoint_every: u64,
    /// Steps between lines of metrics.
    pub log_every: u64,
    /// Threads that compute, and as many that decode.
    pub threads: usize,
}

impl TrainConfig {
    /// Fills in defaults and checks every value, also against the dataset and the processes that
    /// share the run. `default_out` is used where no `--out` is given; a run that resumes keeps
    /// what is `recorded` of it.
    ///
    /// # Errors
    /// [`Error::Option`](crate::Error::Option) for the first invalid value;
    /// [`Error::Dataset`](crate::Error::Dataset) for shards without rows.
    pub fn resolve(
        given: Options,
        dataset: &Dataset,
        default_out: PathBuf,
        ranks: &Ranks,
        recorded: Option<Recorded>,
    ) -> Result<Self> {
        let manifest = dataset.manifest();
        let DeviceConfig { name: device, why_cpu, precision } =
            given.compute.resolve(!ranks.is_alone())?;
        let Choice { recorded: Recorded { preset, batch_size, epochs }, accumulate, chosen } =
            Choice::new(&given, dataset, ranks.size(), recorded)?;
        let steps_per_epoch = dataset.rows_per_epoch() / (batch_size * accumulate) as u64;
        let values = preset.values();
        let out = given.out.unwrap_or(default_out);
        check_out(&out)?;
        let online_eval = given.online_eval.unwrap_or(OnlineEval::Auto);
        let optimizer = given.optimizer.unwrap_or(values.optimizer);
        let config = Self {
            shards: dataset.paths().root().to_owned(),
            out,
            hyperparameters: Hyperparameters {
                preset,
                optimizer,
                trust: resolve_trust(given.trust, optimizer)?,
                arch: given.arch.unwrap_or(Arch::Resnet50),
                method: given.method.unwrap_or(Method::Scrl),
                batch_size,
                accumulate,
                epochs,
                warmup_epochs: given.warmup_epochs.unwrap_or(values.warmup_epochs),
                lr: given.lr.unwrap_or(values.base_lr),
                weight_decay: given.weight_decay.unwrap_or(values.weight_decay),
                ema: given.ema.unwrap_or(values.tau),
                hidden: given.hidden.unwrap_or(4096),
                projection: given.projection.unwrap_or(256),
                target_init: given.target_init.unwrap_or(values.target_init),
                seed: given.seed.unwrap_or(0),
                precision,
                online_eval: resolve_online_eval(online_eval, dataset)?,
            },
            max_steps: given.max_steps,
            device,
            why_cpu,
            chosen,
            images: given.images.unwrap_or_else(|| manifest.images.clone().into()),
            init: given.init,
            follow: given.follow,
            consume: given.consume,
            health: given.health.unwrap_or(HealthCheck::Auto),
            checkpoint_every: given.checkpoint_every.unwrap_or(steps_per_epoch),
            log_every: given.log_every.unwrap_or(10),
            threads: given.threads.map_or_else(threads_of_rank, usize::from),
        };
        config.check()?;
        if is_gpu(&config.device) {
            config.check_for_gpu(manifest.options.boxes as usize)?;
        }
        Ok(config)
    }

    /// Pairs that the run sees: fewer than those of the schedule with [`Self::max_steps`].
    pub fn pairs(&self, dataset: &Dataset) -> u64 {
        let pairs = self.hyperparameters.pairs_per_step() as u64;
        let most = self.max_steps.map_or(u64::MAX, |steps| steps.saturating_mul(pairs));
        scheduled_pairs(dataset.rows_per_epoch(), pairs, self.hyperparameters.epochs).min(most)
    }

    /// The text of `config.toml`.
    ///
    /// # Errors
    /// If a path is not valid UTF-8.
    pub(crate) fn to_toml(&self) -> std::result::Result<String, toml::ser::Error> {
        toml::to_string(self)
    }

    fn check(&self) -> Result<()> {
        let Hyperparameters { hidden, projection, seed, lr, weight_decay, ema, trust, .. } =
            self.hyperparameters;
        for (option, value, least) in [
            ("hidden", hidden as u64, 1),
            ("projection", projection as u64, 1),
            ("seed", seed, 0),
            ("checkpoint-every", self.checkpoint_every, 1),
            ("log-every", self.log_every, 1),
            ("max-steps", self.max_steps.unwrap_or(1), 1),
        ] {
            if value < least {
                return refuse(option, "must be at least 1");
            }
            if value > LARGEST {
                return refuse(option, format!("must be at most {LARGEST}"));
            }
        }
        for (option, value) in
            [("lr", lr), ("weight-decay", weight_decay), ("trust", trust.unwrap_or(0.0))]
        {
            if !value.is_finite() || value < 0.0 {
                return refuse(option, "must be a number of at least 0");
            }
        }
        if !(0.0..=1.0).contains(&ema) {
            return refuse("ema", "must lie between 0 and 1");
        }
        Ok(())
    }

    /// The limits of the CUDA kernels: see `ops/kernels/`.
    fn check_for_gpu(&self, boxes: usize) -> Result<()> {
        let Hyperparameters { precision, hidden, projection, .. } = self.hyperparameters;
        let pack = if precision == Precision::Bf16 { 8 } else { 4 };
        for (option, value) in [("hidden", hidden), ("projection", projection)] {
            if !value.is_multiple_of(pack) {
                return refuse(
                    option,
                    format!("{value} is no multiple of {pack}, which a GPU needs"),
                );
            }
        }
        if boxes > MOST_ROIS {
            return refuse(
                "device",
                format!(
                    "the shards have up to {boxes} boxes a pair, a GPU takes {MOST_ROIS}; use \
                     --device cpu, or prepare with --boxes {MOST_ROIS}"
                ),
            );
        }
        Ok(())
    }
}

/// Refuses an object store as the place of a run's files, some of which grow.
pub(crate) fn check_out(out: &Path) -> Result<()> {
    if store::is_url(out) {
        return refuse(
            "out",
            "is a local folder; copy it into the object store when it is complete",
        );
    }
    Ok(())
}

/// LARS's trust coefficient, which SGD has not.
fn resolve_trust(given: Option<f64>, optimizer: Optimizer) -> Result<Option<f64>> {
    match optimizer {
        Optimizer::Lars => Ok(Some(given.unwrap_or(TRUST))),
        Optimizer::Sgd if given.is_some() => {
            refuse("trust", "is LARS's; leave it out, or give --optimizer lars")
        }
        Optimizer::Sgd => Ok(None),
    }
}

fn resolve_online_eval(given: OnlineEval, dataset: &Dataset) -> Result<OnlineEval> {
    let classes = dataset.manifest().counts.classes;
    match given {
        OnlineEval::On if classes < LEAST_CLASSES => {
            let shards = dataset.paths().root().display();
            let advice = "prepare images in a folder for each class, or leave it out";
            refuse("online-eval", format!("{shards} has {classes} classes; {advice}"))
        }
        OnlineEval::Auto if classes < LEAST_CLASSES => Ok(OnlineEval::Off),
        OnlineEval::Auto => Ok(OnlineEval::On),
        given => Ok(given),
    }
}

//! The command line, and how it becomes the configuration of a protocol.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};
use scrl_cli::{CompletionScript, OptionsFile};
use scrl_trainer::Error;
use scrl_trainer::evaluate::{LinearConfig, ProbeConfig, RoiConfig, Start, Subject};
use scrl_trainer::model::Arch;
use scrl_trainer::weights::Branch;

const EXAMPLES: &str = "\
Examples:
  scrl-eval roi --train-images train2017 --train-boxes instances_train2017.json \\
      --val-images val2017 --val-boxes instances_val2017.json --checkpoint run/backbone.safetensors
  scrl-eval roi --config coco.toml --checkpoint random --arch resnet18     folders and lists from a file
  scrl-eval linear --images train --val val --checkpoint resnet50.pth --out eval/resnet50
  scrl-eval linear --images photos --crops 4 --network target --checkpoint step-00001000.safetensors

The same command goes on where an earlier one stopped, as long as --out is the same.";

const ROI_DEFAULTS: Defaults = Defaults { size: 800, batch_size: 512, lr: |_| 0.1 };
const LINEAR_DEFAULTS: Defaults =
    Defaults { size: 224, batch_size: 256, lr: |batch_size| 0.2 * batch_size as f64 / 256.0 };

/// What differs between the protocols.
struct Defaults {
    size: u32,
    batch_size: usize,
    lr: fn(usize) -> f64,
}

/// Tells how good a backbone is: a linear layer learns classes from its features, which stay as they are.
#[derive(Parser)]
#[command(name = "scrl-eval", version, after_help = EXAMPLES, max_term_width = 110)]
pub struct Arguments {
    #[command(subcommand)]
    pub protocol: Protocol,

    #[command(flatten)]
    _script: CompletionScript,
}

#[derive(Subcommand)]
pub enum Protocol {
    /// Classes of the objects in ground-truth boxes, from RoIAligned features (section 4.2.5 of the paper)
    #[command(after_help = EXAMPLES)]
    Roi(RoiOptions),
    /// Classes of whole photos, from pooled features
    #[command(after_help = EXAMPLES)]
    Linear(LinearOptions),
}

/// Options of both protocols.
#[derive(Args)]
pub struct Common {
    /// A checkpoint of scrl-train, a backbone.safetensors, weights of torchvision or of the paper's authors; or random
    #[arg(long, value_name = "FILE|random")]
    checkpoint: Option<String>,

    /// Whose backbone: online or target [default: online]
    #[arg(long, value_name = "NAME")]
    network: Option<Branch>,

    /// Of random weights, which are those that scrl-train begins with for --seed: resnet18, 34, 50 or 101
    /// [default: resnet50]
    #[arg(long, value_name = "NAME")]
    arch: Option<Arch>,

    /// Folder for results.json, confusion.png and features [default: runs/ and the time]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,

    /// Side of the pictures in pixels [default: 800 for roi, 224 for linear]
    #[arg(long, value_name = "PIXELS")]
    size: Option<u32>,

    /// Pictures that go through the backbone at a time [default: 8]
    #[arg(long, value_name = "N")]
    images_per_batch: Option<usize>,

    /// Epochs of the linear layer [default: 80]
    #[arg(long, value_name = "N")]
    epochs: Option<u32>,

    /// Epochs in which its learning rate rises [default: 5]
    #[arg(long, value_name = "N")]
    warmup_epochs: Option<u32>,

    /// Boxes or photos a step of the linear layer [default: 512 for roi, 256 for linear]
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,

    /// Its learning rate at the peak [default: 0.1 for roi, 0.2 · batch size / 256 for linear]
    #[arg(long, value_name = "LR")]
    lr: Option<f64>,

    /// Seed of random weights, of the linear layer and of its augmentation [default: 0]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,

    /// Threads [default: all cores]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,

    /// Say nothing but errors
    #[arg(long)]
    pub quiet: bool,

    #[command(flatten)]
    _file: OptionsFile,
}

/// Options of the RoI protocol.
#[derive(Args)]
pub struct RoiOptions {
    /// Folder of the images to train on
    #[arg(long, value_name = "DIR")]
    train_images: Option<PathBuf>,

    /// Their boxes, in COCO's format
    #[arg(long, value_name = "FILE.json")]
    train_boxes: Option<PathBuf>,

    /// Folder of the images to validate with
    #[arg(long, value_name = "DIR")]
    val_images: Option<PathBuf>,

    /// Their boxes
    #[arg(long, value_name = "FILE.json")]
    val_boxes: Option<PathBuf>,

    #[command(flatten)]
    pub common: Common,
}

/// Options of the global protocol.
#[derive(Args)]
pub struct LinearOptions {
    /// Photos in a folder for each class, or whatever else scrl-prep takes classes from
    #[arg(long, value_name = "DIR")]
    images: Option<PathBuf>,

    /// Others to validate with [default: every fifth photo of each class is held back]
    #[arg(long, value_name = "DIR")]
    val: Option<PathBuf>,

    /// Random crops of each training photo, used in turns; with fewer than epochs they are computed once
    /// [default: one for each epoch, as in the paper]
    #[arg(long, value_name = "N")]
    crops: Option<u32>,

    #[command(flatten)]
    pub common: Common,
}

fn refuse<T>(option: &'static str, reason: impl Into<String>) -> Result<T, Error> {
    Err(Error::Option { option, reason: reason.into() })
}

impl Common {
    fn subject(&self, defaults: &Defaults) -> Result<Subject, Error> {
        let seed = self.seed.unwrap_or(0);
        let start = match self.checkpoint.as_deref() {
            None => {
                return refuse(
                    "checkpoint",
                    "missing; the file of the weights to judge, or random",
                );
            }
            Some("random") => Start::Random(self.arch.unwrap_or(Arch::Resnet50), seed),
            Some(_) if self.arch.is_some() => {
                return refuse(
                    "arch",
                    "is for random weights; a checkpoint has its own, so leave it out",
                );
            }
            Some(path) => Start::File(path.into(), self.network.unwrap_or(Branch::Online)),
        };
        let batch_size = self.batch_size.unwrap_or(defaults.batch_size);
        let subject = Subject {
            start,
            out: self.out.clone().unwrap_or_else(scrl_cli::default_out),
            size: self.size.unwrap_or(defaults.size),
            images_per_batch: self.images_per_batch.unwrap_or(8),
            probe: ProbeConfig {
                epochs: self.epochs.unwrap_or(80),
                warmup_epochs: self.warmup_epochs.unwrap_or(5),
                lr: self.lr.unwrap_or((defaults.lr)(batch_size)),
                batch_size,
                seed,
            },
        };
        for (option, value) in [
            ("images-per-batch", subject.images_per_batch),
            ("epochs", subject.probe.epochs as usize),
            ("batch-size", batch_size),
            ("threads", self.threads.unwrap_or(1)),
        ] {
            if value == 0 {
                return refuse(option, "must be at least 1");
            }
        }
        if !(32..=4096).contains(&subject.size) {
            return refuse("size", "must be from 32 to 4096 pixels");
        }
        if !subject.probe.lr.is_finite() || subject.probe.lr < 0.0 {
            return refuse("lr", "must be a number of at least 0");
        }
        Ok(subject)
    }
}

impl RoiOptions {
    /// The configuration.
    pub fn resolve(&self) -> Result<RoiConfig, Error> {
        let given = |option, path: &Option<PathBuf>, what: &str| match path {
            Some(path) => Ok(path.clone()),
            None => refuse(option, format!("missing; {what}")),
        };
        let (folder, list) = ("a folder of images", "a list of boxes in COCO's format");
        Ok(RoiConfig {
            subject: self.common.subject(&ROI_DEFAULTS)?,
            train_images: given("train-images", &self.train_images, folder)?,
            train_boxes: given("train-boxes", &self.train_boxes, list)?,
            val_images: given("val-images", &self.val_images, folder)?,
            val_boxes: given("val-boxes", &self.val_boxes, list)?,
        })
    }
}

impl LinearOptions {
    /// The configuration.
    pub fn resolve(&self) -> Result<LinearConfig, Error> {
        let subject = self.common.subject(&LINEAR_DEFAULTS)?;
        let Some(images) = self.images.clone() else {
            return refuse("images", "missing; photos in a folder for each class");
        };
        if self.crops == Some(0) {
            return refuse("crops", "must be at least 1");
        }
        let crops = self.crops.unwrap_or(subject.probe.epochs);
        Ok(LinearConfig { subject, images, val: self.val.clone(), crops })
    }
}

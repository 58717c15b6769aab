//! The options of scrl-eval, and the configurations that they resolve to.

use std::path::PathBuf;

use clap::{Args, value_parser};
use scrl_cli::choices;
use scrl_preprocess::images::PixelOptions;

use super::frozen_backbone::BackboneSource;
use super::linear_layer::LinearLayerConfig;
use crate::model::Arch;
use crate::ops::MOST_CELLS;
use crate::train::{DeviceConfig, DeviceOptions, check_out, is_gpu};
use crate::weights::Branch;
use crate::{Error, Result};

/// Options of a backbone whose features are computed.
#[derive(Args, Clone, Debug)]
pub struct BackboneOptions {
    /// Weights of the backbone: a run's folder, a checkpoint, or any other file or folder that
    /// scrl-train --init reads; or random
    #[arg(long, value_name = "FILE|random")]
    pub checkpoint: String,

    /// Which network's backbone: the trained one, or its EMA or momentum encoder [default: the one
    /// that people use of such a file; online in checkpoints]
    #[arg(long, value_name = "NAME", value_parser = choices!(Branch))]
    pub network: Option<Branch>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub inputs: InputOptions,
}

/// Options of a backbone's inputs, and of what computes.
#[derive(Args, Clone, Debug)]
pub struct InputOptions {
    /// Architecture of random weights, which are those that scrl-train begins with for --seed
    /// [default: resnet50]
    #[arg(long, value_name = "NAME", value_parser = choices!(Arch))]
    pub arch: Option<Arch>,

    /// Side of the backbone's inputs in pixels [default: 800 for boxes, 224 for images]
    #[arg(long, value_name = "PIXELS", value_parser = value_parser!(u32).range(32..=4096))]
    pub size: Option<u32>,

    /// Images in a batch of the backbone whose statistics its batch norms track; features are
    /// computed of at least as many at a time
    #[arg(long, value_name = "N", default_value_t = 8,
        value_parser = value_parser!(u32).range(1..))]
    pub images_per_batch: u32,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub pixels: PixelOptions,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub compute: DeviceOptions,

    /// Seed of random weights, and of all that is drawn
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub seed: u64,
}

/// Options of all protocols.
#[derive(Args, Clone, Debug)]
pub struct EvalOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub backbone: BackboneOptions,

    /// Folder for results.json, confusion.png and features [default: runs/ and the time]
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Options of the linear layer's training.
#[derive(Args, Clone, Debug)]
pub struct LinearLayerOptions {
    /// Epochs of the linear layer
    #[arg(long, value_name = "N", default_value_t = 80,
        value_parser = value_parser!(u32).range(1..))]
    pub epochs: u32,

    /// Epochs of its warm-up
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub warmup_epochs: u32,

    /// Boxes or images in a step of the linear layer [default: 512 for roi, 256 for linear]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub batch_size: Option<u32>,

    /// Its learning rate at the peak [default: 0.1 for roi, 0.2 · batch size / 256 for linear]
    #[arg(long, value_name = "LR", value_parser = parse_lr)]
    pub lr: Option<f64>,
}

fn parse_lr(text: &str) -> std::result::Result<f64, String> {
    let lr = text.parse().ok().filter(|lr: &f64| lr.is_finite() && *lr >= 0.0);
    lr.ok_or_else(|| "give a number of at least 0".to_owned())
}

/// Options of the RoI protocol.
#[derive(Args, Clone, Debug)]
pub struct RoiOptions {
    #[command(flatten)]
    #[allow(missing_docs)]
    pub files: BoxFiles,

    /// Fit the linear layer on at most N boxes of each class, drawn by --seed [default: all]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub boxes_per_class: Option<u32>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: EvalOptions,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub linear_layer: LinearLayerOptions,
}

/// Options of the linear protocol.
#[derive(Args, Clone, Debug)]
pub struct LinearOptions {
    /// Images in a folder for each class, or another source with classes that scrl-prep reads
    #[arg(long, value_name = "DIR")]
    pub images: PathBuf,

    /// Validation images [default: every fifth training image of each class]
    #[arg(long, value_name = "DIR")]
    pub val: Option<PathBuf>,

    /// Random crops of each training image, used in turns; fewer than epochs are computed only once
    /// [default: one for each epoch, as in the paper]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub crops: Option<u32>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: EvalOptions,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub linear_layer: LinearLayerOptions,
}

/// Options of the classification by nearest neighbors: those of images, or those of boxes.
#[derive(Args, Clone, Debug)]
pub struct KnnOptions {
    /// Images in a folder for each class, or another source with classes that scrl-prep reads
    #[arg(long, value_name = "DIR")]
    pub images: Option<PathBuf>,

    /// Validation images [default: every fifth training image of each class]
    #[arg(long, value_name = "DIR")]
    pub val: Option<PathBuf>,

    /// For boxes instead: folder of the training images
    #[arg(long, value_name = "DIR")]
    pub train_images: Option<PathBuf>,

    /// Their boxes, in COCO's format
    #[arg(long, value_name = "FILE.json")]
    pub train_boxes: Option<PathBuf>,

    /// Folder of the validation images
    #[arg(long, value_name = "DIR")]
    pub val_images: Option<PathBuf>,

    /// Their boxes
    #[arg(long, value_name = "FILE.json")]
    pub val_boxes: Option<PathBuf>,

    /// Look for neighbors among at most N boxes of each class, drawn by --seed [default: all]
    #[arg(long, value_name = "N", value_parser = value_parser!(u32).range(1..))]
    pub boxes_per_class: Option<u32>,

    #[command(flatten)]
    #[allow(missing_docs)]
    pub common: EvalOptions,
}

/// The resolved options of a backbone and of its inputs.
#[derive(Clone, Debug)]
pub struct BackboneConfig {
    /// Where its weights come from.
    pub source: BackboneSource,
    /// Side of its inputs in pixels.
    pub size: u32,
    /// Images in a batch; tracked statistics of batch norms depend on it.
    pub images_per_batch: usize,
    /// How pixels are read.
    pub pixels: PixelOptions,
    /// What computes.
    pub device: DeviceConfig,
    /// Seed of random weights, and of all that is drawn.
    pub seed: u64,
}

/// The resolved options of all protocols.
#[derive(Clone, Debug)]
pub struct EvalConfig {
    /// The backbone and its inputs.
    pub backbone: BackboneConfig,
    /// The folder for results and features, made where it is missing.
    pub out: PathBuf,
}

/// Training and validation images with boxes.
#[derive(Args, Clone, Debug)]
pub struct BoxFiles {
    /// Folder of the training images
    #[arg(long, value_name = "DIR")]
    pub train_images: PathBuf,

    /// Their boxes, in COCO's format
    #[arg(long, value_name = "FILE.json")]
    pub train_boxes: PathBuf,

    /// Folder of the validation images
    #[arg(long, value_name = "DIR")]
    pub val_images: PathBuf,

    /// Their boxes
    #[arg(long, value_name = "FILE.json")]
    pub val_boxes: PathBuf,
}

/// Training and validation images with classes.
#[derive(Clone, Debug)]
pub struct ImageFiles {
    /// Images with classes.
    pub images: PathBuf,
    /// Validation images; without them every fifth training image of each class.
    pub val: Option<PathBuf>,
}

/// The resolved options of the RoI protocol.
#[derive(Clone, Debug)]
pub struct RoiConfig {
    /// The options of all protocols.
    pub common: EvalConfig,
    /// The images with their boxes.
    pub files: BoxFiles,
    /// The most training boxes of a class for the linear layer; `None` for all.
    pub boxes_per_class: Option<usize>,
    /// The linear layer's training.
    pub linear_layer: LinearLayerConfig,
}

/// The resolved options of the linear protocol.
#[derive(Clone, Debug)]
pub struct LinearConfig {
    /// The options of all protocols.
    pub common: EvalConfig,
    /// The images.
    pub files: ImageFiles,
    /// Random crops of each training image. With at least as many as epochs, each epoch computes
    /// its own; fewer are computed once, stored, and used in turns.
    pub crops: u32,
    /// The linear layer's training.
    pub linear_layer: LinearLayerConfig,
}

/// The resolved options of the classification by nearest neighbors.
#[derive(Clone, Debug)]
pub struct KnnConfig {
    /// The options of all protocols.
    pub common: EvalConfig,
    /// What is classified.
    pub files: KnnFiles,
}

/// What nearest neighbors classify.
#[derive(Clone, Debug)]
pub enum KnnFiles {
    /// Whole images.
    Images(ImageFiles),
    /// Boxes, with the most training boxes of a class; `None` for all.
    Boxes(BoxFiles, Option<usize>),
}

impl BackboneConfig {
    /// What features on a GPU differ by from the CPU's, as a part of a cache's key.
    pub(super) fn on_gpu(&self) -> String {
        let DeviceConfig { name, precision, .. } = &self.device;
        if is_gpu(name) { format!(" on a GPU in {precision}") } else { String::new() }
    }
}

/// Inputs of a backbone: what their limits and defaults depend on.
pub(super) struct InputDefaults {
    size: u32,
    /// Cells of the last map, one way, that a GPU takes.
    most_cells: usize,
}

/// Images with boxes.
pub(super) const OF_BOXES: InputDefaults = InputDefaults { size: 800, most_cells: MOST_CELLS };

/// Images with classes.
pub(super) const OF_IMAGES: InputDefaults = InputDefaults { size: 224, most_cells: usize::MAX };

/// Defaults of the linear layer that depend on the protocol.
pub(super) struct LayerDefaults {
    batch_size: u32,
    /// The learning rate for a batch size.
    lr: fn(u32) -> f64,
}

/// On boxes.
pub(super) const ROI: LayerDefaults = LayerDefaults { batch_size: 512, lr: |_| 0.1 };
const LINEAR: LayerDefaults =
    LayerDefaults { batch_size: 256, lr: |batch_size| 0.2 * f64::from(batch_size) / 256.0 };

/// Pixels of an input, one way, for a cell of the last map.
const STRIDE: usize = 32;

/// Elements of the backbone's largest map for each pixel of its input: 64 channels at half its size.
const ELEMENTS_PER_PIXEL: u64 = 16;

impl BackboneOptions {
    /// The weights of `--checkpoint`, or of another option that takes a file or `random`.
    pub(super) fn source(&self, checkpoint: &str) -> Result<BackboneSource> {
        let InputOptions { arch, seed, .. } = self.inputs;
        Ok(match checkpoint {
            "random" => BackboneSource::Random(arch.unwrap_or(Arch::Resnet50), seed),
            _ if arch.is_some() => {
                let reason = "is for random weights; a checkpoint has its own, so leave it out";
                return Err(Error::Option { option: "arch", reason: reason.to_owned() });
            }
            path => BackboneSource::File(path.into(), self.network),
        })
    }

    pub(super) fn resolve(self, defaults: &InputDefaults) -> Result<BackboneConfig> {
        let source = self.source(&self.checkpoint)?;
        self.inputs.resolve(source, defaults)
    }
}

impl InputOptions {
    /// Fills in the defaults for a backbone.
    pub(super) fn resolve(
        self,
        source: BackboneSource,
        defaults: &InputDefaults,
    ) -> Result<BackboneConfig> {
        let device = self.compute.resolve(false)?;
        let (size, images) = (self.size.unwrap_or(defaults.size), self.images_per_batch);
        if is_gpu(&device.name) {
            check_for_gpu(size, images, defaults.most_cells)?;
        }
        let (images_per_batch, pixels, seed) = (images as usize, self.pixels, self.seed);
        Ok(BackboneConfig { source, size, images_per_batch, pixels, device, seed })
    }
}

impl EvalOptions {
    fn resolve(self, defaults: &InputDefaults) -> Result<EvalConfig> {
        let backbone = self.backbone.resolve(defaults)?;
        let out = self.out.unwrap_or_else(scrl_cli::default_out);
        check_out(&out)?;
        Ok(EvalConfig { backbone, out })
    }
}

impl LinearLayerOptions {
    pub(super) fn resolve(self, defaults: &LayerDefaults, seed: u64) -> LinearLayerConfig {
        let batch_size = self.batch_size.unwrap_or(defaults.batch_size);
        LinearLayerConfig {
            epochs: self.epochs,
            warmup_epochs: self.warmup_epochs,
            lr: self.lr.unwrap_or_else(|| (defaults.lr)(batch_size)),
            batch_size: batch_size as usize,
            seed,
        }
    }
}

/// The limits of the CUDA kernels and of cuDNN.
fn check_for_gpu(size: u32, images: u32, most_cells: usize) -> Result<()> {
    let refuse = |option, reason| Err(Error::Option { option, reason });
    if (size as usize).div_ceil(STRIDE) > most_cells {
        let most = most_cells * STRIDE;
        return refuse(
            "size",
            format!("RoIAlign on a GPU takes at most {most}; or use --device cpu"),
        );
    }
    let most = i32::MAX as u64 / (ELEMENTS_PER_PIXEL * u64::from(size) * u64::from(size));
    if u64::from(images) > most {
        return refuse("images-per-batch", format!("a GPU takes at most {most} of this --size"));
    }
    Ok(())
}

impl RoiOptions {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`Error::Option`] for an architecture beside a checkpoint, for a device that cannot be used
    /// or takes less, and for an `out` in an object store.
    pub fn resolve(self) -> Result<RoiConfig> {
        let common = self.common.resolve(&OF_BOXES)?;
        let linear_layer = self.linear_layer.resolve(&ROI, common.backbone.seed);
        let boxes_per_class = self.boxes_per_class.map(|most| most as usize);
        Ok(RoiConfig { common, files: self.files, boxes_per_class, linear_layer })
    }
}

impl LinearOptions {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`Error::Option`] for an architecture beside a checkpoint, for a device that cannot be used
    /// or takes less, and for an `out` in an object store.
    pub fn resolve(self) -> Result<LinearConfig> {
        let common = self.common.resolve(&OF_IMAGES)?;
        let linear_layer = self.linear_layer.resolve(&LINEAR, common.backbone.seed);
        let crops = self.crops.unwrap_or(linear_layer.epochs);
        let files = ImageFiles { images: self.images, val: self.val };
        Ok(LinearConfig { common, files, crops, linear_layer })
    }
}

impl KnnOptions {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// [`Error::Option`] for options of images beside those of boxes, where some are missing, and
    /// for those that [`RoiOptions::resolve`] refuses.
    pub fn resolve(self) -> Result<KnnConfig> {
        let refuse = |option, reason: &str| Err(Error::Option { option, reason: reason.into() });
        let boxes = [
            ("train-images", self.train_images),
            ("train-boxes", self.train_boxes),
            ("val-images", self.val_images),
            ("val-boxes", self.val_boxes),
        ];
        let given = boxes.iter().find(|(_, path)| path.is_some()).map(|(option, _)| *option);
        let given = given.or(self.boxes_per_class.map(|_| "boxes-per-class"));
        let images = self.images.is_some() || self.val.is_some();
        let (files, defaults) = match (self.images, given) {
            (_, Some(option)) if images => {
                return refuse(
                    option,
                    "is for boxes, and --images and --val are for whole images; \
                                       leave out the one or the other",
                );
            }
            (Some(images), _) => {
                (KnnFiles::Images(ImageFiles { images, val: self.val }), &OF_IMAGES)
            }
            (None, None) => {
                return refuse(
                    "images",
                    "is missing: give --images for whole images; or for boxes \
                                         --train-images, --train-boxes, --val-images, --val-boxes",
                );
            }
            (None, Some(_)) => {
                let mut paths = Vec::new();
                for (option, path) in boxes {
                    let Some(path) = path else {
                        return refuse(
                            option,
                            "is missing: boxes need --train-images, \
                                               --train-boxes, --val-images, --val-boxes",
                        );
                    };
                    paths.push(path);
                }
                let [train_images, train_boxes, val_images, val_boxes] =
                    paths.try_into().expect("four options");
                let files = BoxFiles { train_images, train_boxes, val_images, val_boxes };
                let most = self.boxes_per_class.map(|most| most as usize);
                (KnnFiles::Boxes(files, most), &OF_BOXES)
            }
        };
        Ok(KnnConfig { common: self.common.resolve(defaults)?, files })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gpu_cannot_take_is_refused() {
        let refused = |size, images, most_cells| {
            check_for_gpu(size, images, most_cells).unwrap_err().to_string()
        };
        check_for_gpu(2048, 31, MOST_CELLS).unwrap();
        check_for_gpu(4096, 7, usize::MAX).unwrap();
        assert!(
            refused(2049, 8, MOST_CELLS).starts_with("--size: RoIAlign on a GPU takes at most")
        );
        assert!(
            refused(2048, 32, MOST_CELLS).starts_with("--images-per-batch: a GPU takes at most 31")
        );
    }
}

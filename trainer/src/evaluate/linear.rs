//! The linear evaluation usual on ImageNet: classification of images from pooled features.
//!
//! The backbone is frozen and normalizes with the running statistics of its weights. The linear
//! layer learns from a random crop of each image, flipped at random, a new one in every epoch; it
//! is validated on center crops.

use candle_core::{Device, Tensor};
use scrl_cli::Reporter;
use scrl_preprocess::images::{ImageSize, RgbImage};
use scrl_preprocess::views::method::FLIP_PROBABILITY;
use scrl_preprocess::views::params::draw_crop;
use scrl_preprocess::views::render::{RenderOptions, Renderer};
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_schemas::{BlurKind, ViewParams};

use super::cache::{Cache, FeaturesFile, features_file, join_features};
use super::class_images::{ClassImage, ClassImages};
use super::frozen_backbone::{BackboneSource, FrozenBackbone};
use super::inputs::{batch, center_crop};
use super::linear_layer::{LinearLayer, TrainingSet};
use super::options::{EvalConfig, LinearConfig};
use super::results::{Examples, Results};
use crate::collective::Ranks;
use crate::model::Classifier;
use crate::{Error, Result};

/// Area of a training crop as a fraction of the image's, as in torchvision's `RandomResizedCrop`.
const CROP_SCALE: [f32; 2] = [0.08, 1.0];

/// The shorter side of an image from which a center crop of 224 pixels is taken.
const SHORTER_FOR_224: u32 = 256;

/// Images whose features are stored in one file.
const IMAGES_PER_FILE: usize = 1024;

/// Evaluates a backbone by the classes of images. `out/features` lets a stopped evaluation resume.
/// Several `ranks` divide stored features among them, and the first one alone has the results.
///
/// # Errors
/// If a file cannot be read or written, or the images are unusable; [`Error::Stopped`] if the
/// program is asked to stop.
pub fn evaluate_images(
    config: &LinearConfig,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Option<Results>> {
    let common = &config.common;
    let backbone = FrozenBackbone::new(&common.source)?;
    let images = ClassImages::find(&config.images, None, reporter)?;
    let given = config.val.as_ref();
    let given = given.map(|path| ClassImages::find(path, Some(&images.classes), reporter));
    let given = given.transpose()?;
    let (train, val_images, val) = match &given {
        Some(given) => (images.images.clone(), given, given.images.clone()),
        None => {
            let [train, val] = images.split();
            reporter.say(format_args!(
                "no --val: {} of {} images are the validation split",
                val.len(),
                images.images.len()
            ));
            (train, &images, val)
        }
    };
    if train.is_empty() || val.is_empty() {
        let reason = "too few images for a validation split; give others with --val";
        return Err(Error::dataset(&config.images, reason));
    }
    let key = key(config, &backbone, [&images, val_images])?;
    let cache = Cache::new(&common.out.join("features"), &key)?;
    let extractor = Extractor { config, backbone: &backbone, cache: &cache, ranks };
    if matches!(common.source, BackboneSource::Random(..)) {
        extractor.compute_statistics(&images, &train, reporter)?;
    }
    let val_classes: Vec<usize> = val.iter().map(|image| image.class).collect();
    let status = "features of the validation images";
    let validation = extractor.features(("val", status), val_images, &val, None, reporter)?;
    let crops = TrainingCrops::new(&extractor, &images, train, reporter)?;
    let (Some(validation), Some(mut crops)) = (validation, crops) else { return Ok(None) };
    // With stored features an epoch takes a moment, so only the others have checkpoints.
    let checkpoint_key =
        crops.stored.is_empty().then(|| format!("{key} {:?}", common.linear_layer));
    let checkpoints = checkpoint_key.map(|key| Cache::new(&common.out.join("features"), &key));
    let checkpoints = checkpoints.transpose()?;
    let layer = LinearLayer::train(
        &common.linear_layer,
        backbone.arch().channels(),
        images.classes.len(),
        &mut crops,
        checkpoints.as_ref(),
        reporter,
    )?;
    let confusion = layer.validate(&validation, &val_classes)?;
    let examples =
        [&crops.classes, &val_classes].map(|classes| Examples { classes, left_out: None });
    let backbone = (common, backbone.arch());
    Ok(Some(Results::new("linear", backbone, &images.classes, examples, &layer, confusion)))
}

/// All that the features depend on.
fn key(
    config: &LinearConfig,
    backbone: &FrozenBackbone,
    splits: [&ClassImages; 2],
) -> Result<String> {
    let EvalConfig { size, images_per_batch, linear_layer, .. } = &config.common;
    Ok(format!(
        "linear weights {:08x} size {size} images-per-batch {images_per_batch} seed {} \
         split {} images {:08x} {:08x}",
        backbone.checksum()?,
        linear_layer.seed,
        config.val.is_none(),
        splits[0].checksum(),
        splits[1].checksum()
    ))
}

/// Computes features of images, or takes them from the cache.
struct Extractor<'a> {
    config: &'a LinearConfig,
    backbone: &'a FrozenBackbone,
    cache: &'a Cache,
    ranks: &'a Ranks,
}

impl Extractor<'_> {
    /// Computes the running statistics of random weights on center crops of the training images.
    fn compute_statistics(
        &self,
        images: &ClassImages,
        train: &[ClassImage],
        reporter: &Reporter,
    ) -> Result<()> {
        let size = self.config.common.images_per_batch.min(train.len());
        reporter.begin("batches", (train.len() / size) as u64, 0);
        reporter.set_status("statistics of the batch norms");
        for (number, of_batch) in train.chunks_exact(size).enumerate() {
            let inputs = self.inputs(images, of_batch, None)?;
            self.backbone.update_statistics(&inputs, number)?;
            reporter.step(1)?;
        }
        reporter.log();
        Ok(())
    }

    /// A batch of inputs: random crops of some epoch, or center crops.
    fn inputs(
        &self,
        images: &ClassImages,
        of_batch: &[ClassImage],
        epoch: Option<u32>,
    ) -> Result<Tensor> {
        let size = self.config.common.size;
        batch(of_batch, size, |image| {
            let decoded = images.decode(image.image_id)?;
            Ok(match epoch {
                Some(epoch) => self.random_crop(&decoded, image.image_id, epoch),
                None => {
                    let shorter = f64::from(size * SHORTER_FOR_224) / 224.0;
                    center_crop(&decoded, shorter.round() as u32, size)
                }
            })
        })
    }

    fn random_crop(&self, image: &RgbImage, image_id: u32, epoch: u32) -> RgbImage {
        let EvalConfig { size, linear_layer, .. } = &self.config.common;
        let random = &mut Stream::new(linear_layer.seed, epoch, image_id.into(), Purpose::View1);
        let params = ViewParams {
            crop: draw_crop(random, image.size, CROP_SCALE),
            flip: random.chance(FLIP_PROBABILITY),
            jitter: None,
            grayscale: false,
            blur: None,
            solarize: false,
        };
        let mut pixels = vec![[0; 3]; *size as usize * *size as usize];
        let options = RenderOptions { size: *size, blur: BlurKind::None };
        Renderer::default().render(image, &params, options, &mut pixels);
        let side = *size as i32;
        RgbImage { size: ImageSize { width: side, height: side }, pixels: pixels.into_flattened() }
    }

    /// Features `[n, C]` of some images, batch by batch.
    fn batches<'b>(
        &'b self,
        images: &'b ClassImages,
        which: &'b [ClassImage],
        epoch: Option<u32>,
    ) -> impl Iterator<Item = Result<Tensor>> + 'b {
        which.chunks(self.config.common.images_per_batch).map(move |of_batch| {
            let map = self.backbone.forward(&self.inputs(images, of_batch, epoch)?)?;
            Ok(Classifier::features(&map)?)
        })
    }

    /// Features `[N, C]` of all images, stored in files. On the first rank; the others compute their
    /// part.
    fn features(
        &self,
        (prefix, status): (&str, &str),
        images: &ClassImages,
        which: &[ClassImage],
        epoch: Option<u32>,
        reporter: &Reporter,
    ) -> Result<Option<Tensor>> {
        let chunks: Vec<&[ClassImage]> = which.chunks(IMAGES_PER_FILE).collect();
        let file = |(number, chunk): (usize, &&[ClassImage])| FeaturesFile {
            name: format!("{prefix}-{number:05}"),
            images: chunk.len(),
        };
        let files: Vec<FeaturesFile> = chunks.iter().enumerate().map(file).collect();
        let found = self.cache.divide(&files, status, (self.ranks, reporter), |place| {
            let mut batches = Vec::new();
            for features in self.batches(images, chunks[place], epoch) {
                let features = features?;
                reporter.step(features.dim(0)? as u64)?;
                batches.push(features);
            }
            features_file(&batches)
        })?;
        found.map(|files| join_features(&files)).transpose()
    }
}

/// Random crops of the training images.
struct TrainingCrops<'a> {
    extractor: &'a Extractor<'a>,
    images: &'a ClassImages,
    train: Vec<ClassImage>,
    classes: Vec<usize>,
    /// Features of one crop of each image, used in turns; empty if every epoch has its own crops.
    stored: Vec<Tensor>,
}

impl<'a> TrainingCrops<'a> {
    fn new(
        extractor: &'a Extractor<'a>,
        images: &'a ClassImages,
        train: Vec<ClassImage>,
        reporter: &Reporter,
    ) -> Result<Option<Self>> {
        let config = extractor.config;
        let mut stored = Vec::new();
        if config.crops < config.common.linear_layer.epochs {
            for crop in 0..config.crops {
                let number = crop + 1;
                let status =
                    format!("features of the training images, crop {number} of {}", config.crops);
                let file = (&*format!("train-{crop:05}"), &*status);
                stored.push(extractor.features(file, images, &train, Some(crop), reporter)?);
            }
        }
        // Without stored features the first rank computes those of every epoch alone.
        if !extractor.ranks.is_first() {
            return Ok(None);
        }
        let stored = stored.into_iter().flatten().collect();
        let classes = train.iter().map(|image| image.class).collect();
        Ok(Some(Self { extractor, images, train, classes, stored }))
    }
}

impl TrainingSet for TrainingCrops<'_> {
    fn classes(&self) -> &[usize] {
        &self.classes
    }

    fn features(&mut self, epoch: u32, indices: &[usize]) -> Result<Tensor> {
        if self.stored.is_empty() {
            let which: Vec<ClassImage> = indices.iter().map(|&index| self.train[index]).collect();
            let batches = self.extractor.batches(self.images, &which, Some(epoch));
            return Ok(Tensor::cat(&batches.collect::<Result<Vec<_>>>()?, 0)?);
        }
        let rows: Vec<u32> = indices.iter().map(|&index| index as u32).collect();
        let features = &self.stored[epoch as usize % self.stored.len()];
        Ok(features.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }
}

//! The linear evaluation usual on ImageNet: classification of images from pooled features.
//!
//! The backbone is frozen and normalizes with the running statistics of its weights. The linear
//! layer learns from a random crop of each image, flipped at random, a new one in every epoch; it
//! is validated on center crops.

use candle_core::Tensor;
use scrl_cli::Reporter;
use scrl_preprocess::images::{ImageSize, RgbImage};
use scrl_preprocess::views::method::FLIP_PROBABILITY;
use scrl_preprocess::views::params::draw_crop;
use scrl_preprocess::views::render::{RenderOptions, Renderer};
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_schemas::{BlurKind, ViewParams};

use super::cache::{Cache, Part};
use super::class_images::{ClassImage, ClassImages};
use super::features::{
    compute_features, compute_statistics, explain_out_of_memory, images_per_batch,
};
use super::frozen_backbone::{BackboneSource, FrozenBackbone};
use super::inputs::{Inputs, center_crop, decode_ahead, inputs, key_of};
use super::linear_layer::{LinearLayer, TrainingSet, TrainingStep, select_rows};
use super::options::{EvalConfig, LinearConfig};
use super::results::{Examples, Results};
use crate::collective::Ranks;
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
    evaluate(config, ranks, reporter).map_err(explain_out_of_memory)
}

fn evaluate(config: &LinearConfig, ranks: &Ranks, reporter: &Reporter) -> Result<Option<Results>> {
    let common = &config.common;
    let backbone = FrozenBackbone::new(&common.source, &common.device, reporter)?;
    let pixels = (common.pixels, common.linear_layer.seed);
    let images = ClassImages::find(&config.images, None, pixels, reporter)?;
    let given = config.val.as_ref();
    let given = given.map(|path| ClassImages::find(path, Some(&images), pixels, reporter));
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
    let cache = Cache::of_ranks(&common.out.join("features"), &key, ranks)?;
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
        [backbone.arch().channels(), images.classes.len()],
        backbone.device(),
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
         split {} images {:08x} {:08x}{}{}",
        backbone.checksum()?,
        linear_layer.seed,
        config.val.is_none(),
        splits[0].checksum(),
        splits[1].checksum(),
        key_of(splits[0].decoding),
        config.common.on_gpu()
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
        let batches: Vec<&[ClassImage]> = train.chunks_exact(size).collect();
        let decode = |of_batch: &[ClassImage]| decode_crops(self.config, images, of_batch, None);
        compute_statistics(self.backbone, &batches, self.config.common.size, decode, reporter)
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
        let part = |(number, chunk): (usize, &&[ClassImage])| Part {
            files: vec![format!("{prefix}-{number:05}")],
            images: chunk.len(),
        };
        let parts: Vec<Part> = chunks.iter().enumerate().map(part).collect();
        let found =
            self.cache.divide(&parts, status, (self.ranks, reporter), |missing, store| {
                let chunks: Vec<&[ClassImage]> =
                    missing.iter().map(|&number| chunks[number]).collect();
                compute_features(
                    self.backbone,
                    &chunks,
                    (self.images_per_batch(), 1),
                    |of_batch| decode_crops(self.config, images, of_batch, epoch),
                    |_| None,
                    reporter,
                    |number, features| store(missing[number], features),
                )
            })?;
        Ok(found.and_then(|mut files| files.pop()))
    }

    /// Images of a batch whose features are computed.
    fn images_per_batch(&self) -> usize {
        let EvalConfig { images_per_batch: given, size, .. } = self.config.common;
        images_per_batch(given, size, 1)
    }
}

/// A batch of inputs: random crops of some epoch, or center crops.
fn decode_crops(
    config: &LinearConfig,
    images: &ClassImages,
    of_batch: &[ClassImage],
    epoch: Option<u32>,
) -> Result<Inputs> {
    let EvalConfig { size, linear_layer, .. } = &config.common;
    inputs(of_batch, *size, false, |image| {
        let decoded = images.decode(image.image_id)?;
        Ok(match epoch {
            Some(epoch) => {
                let id = image.image_id.into();
                let random = Stream::new(linear_layer.seed, epoch, id, Purpose::View1);
                random_crop(&decoded, *size, random)
            }
            None => {
                let shorter = f64::from(size * SHORTER_FOR_224) / 224.0;
                center_crop(&decoded, shorter.round() as u32, *size)
            }
        })
    })
}

/// A crop drawn from `random`.
fn random_crop(image: &RgbImage, size: u32, mut random: Stream) -> RgbImage {
    let crop = draw_crop(&mut random, image.size, CROP_SCALE);
    let flip = random.chance(FLIP_PROBABILITY);
    let params = ViewParams { flip, ..ViewParams::of_crop(crop) };
    let mut pixels = vec![[0; 3]; size as usize * size as usize];
    let options = RenderOptions { size, blur: BlurKind::None };
    Renderer::default().render(image, &params, options, &mut pixels);
    let side = size as i32;
    RgbImage { size: ImageSize { width: side, height: side }, pixels: pixels.into_flattened() }
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

    fn unit(&self) -> &'static str {
        "images"
    }

    fn visit(&mut self, epoch: u32, batches: &[&[usize]], step: &mut TrainingStep) -> Result<()> {
        if !self.stored.is_empty() {
            let crop = epoch as usize % self.stored.len();
            return batches.iter().try_for_each(|indices| {
                let rows = indices.iter().map(|&index| (crop, index));
                step(indices, select_rows(&self.stored, rows)?)
            });
        }
        let Self { extractor, images, train, .. } = self;
        let Extractor { config, backbone, .. } = **extractor;
        let which: Vec<Vec<ClassImage>> =
            batches.iter().map(|indices| indices.iter().map(|&i| train[i]).collect()).collect();
        let per_batch = extractor.images_per_batch();
        // The batches of the backbone, the last ones of a step with its indices.
        let mut of_backbone: Vec<(Option<&[usize]>, &[ClassImage])> = Vec::new();
        for (indices, which) in batches.iter().zip(&which) {
            of_backbone.extend(which.chunks(per_batch).map(|images| (None, images)));
            if let Some((step, _)) = of_backbone.last_mut() {
                *step = Some(*indices);
            }
        }
        let mut features = Vec::new();
        let decode = |&(_, of_batch): &(_, &[ClassImage])| {
            decode_crops(config, images, of_batch, Some(epoch))
        };
        decode_ahead(&of_backbone, decode, |(indices, _), inputs| {
            features.push(backbone.features(&inputs, None)?);
            match indices {
                Some(indices) => step(indices, Tensor::cat(&std::mem::take(&mut features), 0)?),
                None => Ok(()),
            }
        })
    }
}

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

use super::cache::Cache;
use super::class_images::{ClassSplits, ids};
use super::features::{Extractor, explain_out_of_memory};
use super::frozen_backbone::FrozenBackbone;
use super::image_features::VALIDATION;
use super::inputs::{Inputs, decode_ahead, inputs};
use super::linear_layer::{LinearLayer, TrainingSet, TrainingStep, select_rows};
use super::options::{EvalConfig, LinearConfig};
use super::results::{Examples, Predictor, Results};
use super::source_images::SourceImages;
use crate::Result;
use crate::collective::Ranks;

/// Area of a training crop as a fraction of the image's, as in torchvision's `RandomResizedCrop`.
const CROP_SCALE: [f32; 2] = [0.08, 1.0];

/// Evaluates a backbone by the classes of images. `out/features` lets a stopped evaluation resume.
/// Several `ranks` divide stored features among them, and the first one alone has the results.
///
/// # Errors
/// If a file cannot be read or written, or the images are unusable; [`Error::Stopped`](crate::Error::Stopped)
/// if the program is asked to stop.
pub fn evaluate_images(
    config: &LinearConfig,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Option<Results>> {
    evaluate(config, ranks, reporter).map_err(explain_out_of_memory)
}

fn evaluate(config: &LinearConfig, ranks: &Ranks, reporter: &Reporter) -> Result<Option<Results>> {
    let EvalConfig { backbone: of_backbone, out } = &config.common;
    let backbone = FrozenBackbone::new(&of_backbone.source, &of_backbone.device, reporter)?;
    let splits = ClassSplits::find(&config.files, of_backbone, reporter)?;
    let ClassSplits { train, val, .. } = &splits;
    let key = splits.key(of_backbone, &backbone)?;
    let cache = out.join("features");
    let extractor = Extractor::new(of_backbone, &backbone, (&cache, &key), ranks)?;
    extractor.image_statistics(splits.train_source(), &ids(train), reporter)?;
    let val_classes: Vec<usize> = val.iter().map(|image| image.class).collect();
    let validation =
        extractor.image_features(VALIDATION, splits.val_source(), &ids(val), reporter)?;
    let crops = TrainingCrops::new(config, &extractor, &splits, reporter)?;
    let (Some(validation), Some(mut crops)) = (validation, crops) else { return Ok(None) };
    // With stored features an epoch takes a moment, so only the others have checkpoints.
    let checkpoint_key =
        crops.stored.is_empty().then(|| format!("{key} {:?}", config.linear_layer));
    let checkpoints = checkpoint_key.map(|key| Cache::new(&cache, &key));
    let checkpoints = checkpoints.transpose()?;
    let layer = LinearLayer::train(
        &config.linear_layer,
        [backbone.arch().channels(), splits.classes().len()],
        backbone.device(),
        &mut crops,
        checkpoints.as_ref(),
        reporter,
    )?;
    let confusion = layer.validate(&validation, &val_classes)?;
    let examples =
        [&crops.classes, &val_classes].map(|classes| Examples { classes, left_out: None });
    let backbone = (&config.common, backbone.arch());
    let layer = Predictor::Linear(&config.linear_layer, &layer);
    Ok(Some(Results::new("linear", backbone, splits.classes(), examples, &layer, confusion)))
}

/// A batch of inputs: random crops of some epoch.
fn random_crops(
    source: &SourceImages,
    ids: &[u32],
    (size, seed): (u32, u64),
    epoch: u32,
) -> Result<Inputs> {
    inputs(ids, size, false, |&id| {
        let random = Stream::new(seed, epoch, id.into(), Purpose::View1);
        Ok(random_crop(&source.decode(id)?, size, random))
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
    source: &'a SourceImages,
    ids: Vec<u32>,
    classes: Vec<usize>,
    /// Side of a crop in pixels, and the seed.
    drawn: (u32, u64),
    /// Features of one crop of each image, used in turns; empty if every epoch has its own crops.
    stored: Vec<Tensor>,
}

impl<'a> TrainingCrops<'a> {
    fn new(
        config: &LinearConfig,
        extractor: &'a Extractor<'a>,
        splits: &'a ClassSplits,
        reporter: &Reporter,
    ) -> Result<Option<Self>> {
        let (source, ids) = (splits.train_source(), ids(&splits.train));
        let drawn = (extractor.config.size, extractor.config.seed);
        let mut stored = Vec::new();
        if config.crops < config.linear_layer.epochs {
            for crop in 0..config.crops {
                let number = crop + 1;
                let status =
                    format!("features of the training images, crop {number} of {}", config.crops);
                let set = (&*format!("train-{crop:05}"), &*status);
                let crops = |ids: &[u32]| random_crops(source, ids, drawn, crop);
                stored.push(extractor.crop_features(set, &ids, crops, reporter)?);
            }
        }
        // Without stored features the first rank computes those of every epoch alone.
        if !extractor.ranks.is_first() {
            return Ok(None);
        }
        let stored = stored.into_iter().flatten().collect();
        let classes = splits.train.iter().map(|image| image.class).collect();
        Ok(Some(Self { extractor, source, ids, classes, drawn, stored }))
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
        let Self { extractor, source, ref ids, drawn, .. } = *self;
        let which: Vec<Vec<u32>> =
            batches.iter().map(|indices| indices.iter().map(|&i| ids[i]).collect()).collect();
        let per_batch = extractor.images_per_batch(1);
        // The batches of the backbone, the last ones of a step with its indices.
        let mut of_backbone: Vec<(Option<&[usize]>, &[u32])> = Vec::new();
        for (indices, which) in batches.iter().zip(&which) {
            of_backbone.extend(which.chunks(per_batch).map(|ids| (None, ids)));
            if let Some((step, _)) = of_backbone.last_mut() {
                *step = Some(*indices);
            }
        }
        let mut features = Vec::new();
        let decode = |&(_, ids): &(_, &[u32])| random_crops(source, ids, drawn, epoch);
        decode_ahead(&of_backbone, decode, |(indices, _), inputs| {
            features.push(extractor.backbone.features(&inputs, None)?);
            match indices {
                Some(indices) => step(indices, Tensor::cat(&std::mem::take(&mut features), 0)?),
                None => Ok(()),
            }
        })
    }
}

//! The protocol of section 4.2.5: classification of ground-truth boxes from RoIAligned features.
//!
//! Images are resized to one size, and flipped at random for training. The backbone is frozen,
//! except that the running statistics of its batch norms are computed anew on the training images.
//! RoIAlign to 1×1 on the last feature map gives the features of each box, and a linear layer
//! learns the classes. Flips are the only augmentation, so each box has just two feature vectors,
//! which are computed once.

use std::fs;

use candle_core::{Device, Tensor};
use scrl_cli::Reporter;
use scrl_preprocess::images::RgbImage;
use scrl_preprocess::views::rng::{Purpose, Stream};

use super::annotations::{AnnotatedImage, AnnotatedImages};
use super::cache::{Cache, FeaturesFile, Tensors, features_file, join_features};
use super::frozen_backbone::FrozenBackbone;
use super::inputs::{batch, decode_as_stored, flip, resize};
use super::linear_layer::{LinearLayer, TrainingSet};
use super::options::{EvalConfig, RoiConfig};
use super::results::{Examples, Results};
use crate::collective::Ranks;
use crate::ops::{Op, RoiAlign};
use crate::{Error, Result};

/// The running statistics are means over at most this many batches, evenly spread over the images.
const STATISTICS_BATCHES: usize = 200;

/// Takes the place of the epoch in the key of the random choice of boxes.
const NO_EPOCH: u32 = u32::MAX;

/// Images whose features are stored in one file.
const IMAGES_PER_FILE: usize = 64;

/// Evaluates a backbone by the classes of boxes. Features are stored in `out/features`; a stopped
/// evaluation resumes from them. Several `ranks` divide the features among them, and the first one
/// alone has the results.
///
/// # Errors
/// If a file cannot be read or written, or an annotation file is unusable; [`Error::Stopped`] if
/// the program is asked to stop.
pub fn evaluate_boxes(
    config: &RoiConfig,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Option<Results>> {
    let common = &config.common;
    let backbone = FrozenBackbone::new(&common.source)?;
    let train = AnnotatedImages::read(&config.train_boxes, &config.train_images, None, reporter)?;
    let val = AnnotatedImages::read(&config.val_boxes, &config.val_images, Some(&train), reporter)?;
    for (file, images) in [(&config.train_boxes, &train), (&config.val_boxes, &val)] {
        if let Some(left_out) = images.left_out.describe() {
            reporter.say(format_args!("left out of {}: {left_out}", file.display()));
        }
    }
    let key = key(common, &backbone, [&train, &val])?;
    let cache = Cache::new(&common.out.join("features"), &key)?;
    let extractor = Extractor { config: common, backbone: &backbone, cache: &cache, ranks };
    // The others find those of the first rank in the cache.
    if !ranks.is_first() {
        ranks.wait_for_all();
    }
    extractor.compute_statistics(&train.images, reporter)?;
    if ranks.is_first() {
        ranks.wait_for_all();
    }
    let features = extractor.features(Split::Training, &train.images, reporter)?;
    let validation = extractor.features(Split::Validation, &val.images, reporter)?;
    let (Some(features), Some(validation)) = (features, validation) else { return Ok(None) };
    let seed = common.linear_layer.seed;
    let all_classes = classes_of(&train.images);
    let rows = choose(&all_classes, config.boxes_per_class, seed);
    let mut boxes = TrainingBoxes {
        features: Tensor::cat(&features, 0)?,
        all: all_classes.len(),
        classes: rows.iter().map(|&row| all_classes[row]).collect(),
        rows,
        images: (0..)
            .zip(&train.images)
            .flat_map(|(i, image)| vec![i; image.boxes.len()])
            .collect(),
        seed,
    };
    let (channels, classes) = (backbone.arch().channels(), train.classes.len());
    let layer =
        LinearLayer::train(&common.linear_layer, channels, classes, &mut boxes, None, reporter)?;
    let val_classes = classes_of(&val.images);
    let confusion = layer.validate(&validation[0], &val_classes)?;
    let examples = [
        Examples { classes: &boxes.classes, left_out: Some(train.left_out) },
        Examples { classes: &val_classes, left_out: Some(val.left_out) },
    ];
    let backbone = (common, backbone.arch());
    Ok(Some(Results::new("roi", backbone, &train.classes, examples, &layer, confusion)))
}

fn classes_of(images: &[AnnotatedImage]) -> Vec<usize> {
    images.iter().flat_map(|image| &image.boxes).map(|labeled| labeled.class).collect()
}

/// All that the features depend on.
fn key(
    config: &EvalConfig,
    backbone: &FrozenBackbone,
    splits: [&AnnotatedImages; 2],
) -> Result<String> {
    let images = splits.map(|split| {
        split
            .images
            .iter()
            .fold(0, |sum, image| crc32c::crc32c_append(sum, format!("{image:?}").as_bytes()))
    });
    Ok(format!(
        "roi weights {:08x} size {} images-per-batch {} images {:08x} {:08x}",
        backbone.checksum()?,
        config.size,
        config.images_per_batch,
        images[0],
        images[1]
    ))
}

#[derive(Clone, Copy)]
enum Split {
    Training,
    Validation,
}

/// Computes features of boxes, or takes them from the cache.
struct Extractor<'a> {
    config: &'a EvalConfig,
    backbone: &'a FrozenBackbone,
    cache: &'a Cache,
    ranks: &'a Ranks,
}

impl Extractor<'_> {
    /// Computes the batch norms' running statistics on the images, every second one flipped.
    fn compute_statistics(&self, images: &[AnnotatedImage], reporter: &Reporter) -> Result<()> {
        const NAME: &str = "statistics";
        if let Some(found) = self.cache.find(NAME)
            && self.backbone.set_statistics(&found)?
        {
            return Ok(());
        }
        let numbered: Vec<(usize, &AnnotatedImage)> = images.iter().enumerate().collect();
        let size = self.config.images_per_batch.min(numbered.len());
        // A shorter last batch would count as much as the others, so it is left out.
        let batches: Vec<_> = numbered.chunks_exact(size).collect();
        let interval = batches.len().div_ceil(STATISTICS_BATCHES);
        reporter.begin("batches", batches.len().div_ceil(interval) as u64, 0);
        reporter.set_status("statistics of the batch norms");
        for (number, images) in batches.into_iter().step_by(interval).enumerate() {
            let inputs = batch(images, self.config.size, |(index, image)| {
                self.input(image, index % 2 == 1)
            })?;
            self.backbone.update_statistics(&inputs, number)?;
            reporter.step(1)?;
        }
        reporter.log();
        self.cache.store(NAME, &self.backbone.statistics())
    }

    /// The features `[boxes, C]` of all boxes: for training of the images and of the flipped
    /// images, for validation of the images. On the first rank; the others compute their part.
    fn features(
        &self,
        split: Split,
        images: &[AnnotatedImage],
        reporter: &Reporter,
    ) -> Result<Option<Vec<Tensor>>> {
        let (prefix, status, flips): (_, _, &[bool]) = match split {
            Split::Training => ("train", "features of the training boxes", &[false, true]),
            Split::Validation => ("val", "features of the validation boxes", &[false]),
        };
        let chunks: Vec<&[AnnotatedImage]> = images.chunks(IMAGES_PER_FILE).collect();
        let parts: Vec<(usize, bool)> = (0..chunks.len())
            .flat_map(|number| flips.iter().map(move |&flipped| (number, flipped)))
            .collect();
        let file = |&(number, flipped): &(usize, bool)| {
            let side = if flipped { "mirrored" } else { "upright" };
            let name = format!("{prefix}-{side}-{number:05}");
            FeaturesFile { name, images: chunks[number].len() }
        };
        let files: Vec<FeaturesFile> = parts.iter().map(file).collect();
        let found = self.cache.divide(&files, status, (self.ranks, reporter), |place| {
            let (number, flipped) = parts[place];
            self.compute(chunks[number], flipped, reporter)
        })?;
        let Some(found) = found else { return Ok(None) };
        let of_side = |&flipped: &bool| {
            let found = found.iter().zip(&parts).filter(|(_, part)| part.1 == flipped);
            join_features(found.map(|(file, _)| file))
        };
        flips.iter().map(of_side).collect::<Result<_>>().map(Some)
    }

    /// The features of one file.
    fn compute(
        &self,
        images: &[AnnotatedImage],
        flipped: bool,
        reporter: &Reporter,
    ) -> Result<Tensors> {
        let mut batches = Vec::new();
        for images in images.chunks(self.config.images_per_batch) {
            let inputs = batch(images, self.config.size, |image| self.input(image, flipped))?;
            let map = self.backbone.forward(&inputs)?;
            batches.push(RoiAlign.forward([&map, &rois(images, self.config.size, flipped)?])?);
            reporter.step(images.len() as u64)?;
        }
        features_file(&batches)
    }

    fn input(&self, image: &AnnotatedImage, flipped: bool) -> Result<RgbImage> {
        let bytes = fs::read(&image.path).map_err(Error::io(&image.path))?;
        let decoded = decode_as_stored(&bytes)
            .map_err(|reason| Error::dataset(&image.path, reason.to_string()))?;
        let mut input = resize(&decoded, self.config.size);
        if flipped {
            flip(&mut input);
        }
        Ok(input)
    }
}

/// The boxes of a batch as RoIs `[R, 5]`: the index of the image, and x0, y0, x1, y1 in pixels of
/// the input.
fn rois(images: &[AnnotatedImage], size: u32, flipped: bool) -> Result<Tensor> {
    let size = f64::from(size);
    let mut rows = Vec::new();
    for (number, image) in images.iter().enumerate() {
        let scale = [size / f64::from(image.size.width), size / f64::from(image.size.height)];
        for labeled in &image.boxes {
            let [x0, y0, x1, y1] = labeled.corners;
            let [mut x0, y0, mut x1, y1] =
                [x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]];
            if flipped {
                (x0, x1) = (size - x1, size - x0);
            }
            rows.extend([number as f32, x0 as f32, y0 as f32, x1 as f32, y1 as f32]);
        }
    }
    let count = rows.len() / 5;
    Ok(Tensor::from_vec(rows, (count, 5), &Device::Cpu)?)
}

/// The indices of the boxes to train on: all, or `most` of each class drawn at random, in ascending
/// order.
fn choose(classes: &[usize], most: Option<usize>, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..classes.len()).collect();
    let Some(most) = most else { return indices };
    Stream::new(seed, NO_EPOCH, u64::MAX, Purpose::Evaluation).shuffle(&mut indices);
    let mut counts = vec![0; classes.iter().max().map_or(0, |last| last + 1)];
    indices.retain(|&index| {
        counts[classes[index]] += 1;
        counts[classes[index]] <= most
    });
    indices.sort_unstable();
    indices
}

/// The training boxes, each image flipped at random in each epoch.
struct TrainingBoxes {
    /// `[2R, C]`: all boxes in the images, then all boxes in the flipped images.
    features: Tensor,
    /// R.
    all: usize,
    /// The boxes to train on, as rows of the features.
    rows: Vec<usize>,
    /// The class of each of these.
    classes: Vec<usize>,
    /// The index of each row's image.
    images: Vec<u64>,
    seed: u64,
}

impl TrainingSet for TrainingBoxes {
    fn classes(&self) -> &[usize] {
        &self.classes
    }

    fn features(&mut self, epoch: u32, indices: &[usize]) -> Result<Tensor> {
        let row = |&index: &usize| {
            let row = self.rows[index];
            let mut random = Stream::new(self.seed, epoch, self.images[row], Purpose::Evaluation);
            (row + if random.chance(0.5) { self.all } else { 0 }) as u32
        };
        let rows: Vec<u32> = indices.iter().map(row).collect();
        Ok(self.features.index_select(&Tensor::new(rows, &Device::Cpu)?, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use scrl_preprocess::images::ImageSize;

    use super::super::annotations::LabeledBox;
    use super::*;

    #[test]
    fn some_boxes_of_each_class_are_chosen_by_the_seed() {
        let classes: Vec<usize> = (0..60).map(|index| [0, 0, 0, 0, 2][index % 5]).collect();
        assert_eq!(choose(&classes, None, 1), (0..60).collect::<Vec<_>>());
        let chosen = choose(&classes, Some(20), 1);
        let of = |class| chosen.iter().filter(|&&index| classes[index] == class).count();
        assert_eq!((of(0), of(2)), (20, 12));
        assert!(chosen.is_sorted() && chosen != choose(&classes, Some(20), 2));
    }

    #[test]
    fn boxes_are_resized_and_flipped_with_their_images() {
        let boxes = vec![LabeledBox { corners: [10.0, 5.0, 30.0, 50.0], class: 0 }];
        let size = ImageSize { width: 100, height: 50 };
        let image = AnnotatedImage { path: "a".into(), bytes: 1, size, boxes };
        let rois = |flipped| {
            let rois = rois(std::slice::from_ref(&image), 200, flipped).unwrap();
            rois.to_vec2::<f32>().unwrap()
        };
        assert_eq!(rois(false), [[0.0, 20.0, 20.0, 60.0, 200.0]]);
        assert_eq!(rois(true), [[0.0, 140.0, 20.0, 180.0, 200.0]]);
    }
}

//! The protocol of section 4.2.5: classification of ground-truth boxes from RoIAligned features.
//!
//! Images are resized to one size, and flipped at random for training. The backbone is frozen,
//! except that the running statistics of its batch norms are computed anew on the training images.
//! RoIAlign to 1×1 on the last feature map gives the features of each box, and a linear layer
//! learns the classes. Flips are the only augmentation, so each box has just two feature vectors,
//! which are computed once.

use std::path::Path;

use candle_core::Tensor;
use scrl_cli::Reporter;
use scrl_preprocess::images::Decoding;
use scrl_preprocess::sources::{Examine, Sources};
use scrl_preprocess::views::rng::{Purpose, Stream};
use scrl_schemas::{Levels, SourceOptions};

use super::annotations::{AnnotatedImage, AnnotatedImages};
use super::cache::{Cache, Part};
use super::features::{
    compute_features, compute_statistics, explain_out_of_memory, images_per_batch,
};
use super::frozen_backbone::FrozenBackbone;
use super::inputs::{ResizedImages, decoding, flip, inputs, key_of, with_window};
use super::linear_layer::{LinearLayer, TrainingSet, TrainingStep, select_rows};
use super::options::{BoxesOptions, EvalConfig, RoiConfig};
use super::results::{Examples, Results};
use crate::Result;
use crate::collective::Ranks;

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
/// If a file cannot be read or written, or an annotation file is unusable;
/// [`Error::Stopped`](crate::Error::Stopped) if the program is asked to stop.
pub fn evaluate_boxes(
    config: &RoiConfig,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Option<Results>> {
    evaluate(config, ranks, reporter).map_err(explain_out_of_memory)
}

fn evaluate(config: &RoiConfig, ranks: &Ranks, reporter: &Reporter) -> Result<Option<Results>> {
    let common = &config.common;
    let backbone = FrozenBackbone::new(&common.source, &common.device, reporter)?;
    let boxes = AnnotatedBoxes::read(&config.boxes, common, reporter)?;
    let folder = common.out.join("features");
    let Some(features) = boxes.features(&backbone, common, &folder, (ranks, reporter))? else {
        return Ok(None);
    };
    let AnnotatedBoxes { train, val, .. } = boxes;
    let seed = common.linear_layer.seed;
    let most = |_| config.boxes_per_class.unwrap_or(usize::MAX);
    let rows = choose(&classes_of(&train.images), most, seed);
    let mut examples = TrainingBoxes::new(features.train, rows, &train, seed);
    let layer = LinearLayer::train(
        &common.linear_layer,
        [backbone.arch().channels(), train.classes.len()],
        backbone.device(),
        &mut examples,
        None,
        reporter,
    )?;
    let val_classes = classes_of(&val.images);
    let confusion = layer.validate(&features.val, &val_classes)?;
    let examples = [
        Examples { classes: &examples.classes, left_out: Some(train.left_out) },
        Examples { classes: &val_classes, left_out: Some(val.left_out) },
    ];
    let backbone = (common, backbone.arch());
    Ok(Some(Results::new("roi", backbone, &train.classes, examples, &layer, confusion)))
}

/// The images of both splits and their boxes.
pub(super) struct AnnotatedBoxes {
    /// Those of the training.
    pub train: AnnotatedImages,
    /// Those of the validation, with the same classes.
    pub val: AnnotatedImages,
    resized: ResizedImages,
    decoding: Decoding,
}

/// Features of boxes.
pub(super) struct BoxFeatures {
    /// `[boxes, C]` each: of the training images, and of the flipped ones.
    pub train: Vec<Tensor>,
    /// `[boxes, C]`.
    pub val: Tensor,
}

impl AnnotatedBoxes {
    /// Reads the annotation files and checks every image.
    pub fn read(boxes: &BoxesOptions, config: &EvalConfig, reporter: &Reporter) -> Result<Self> {
        let decoding = choose_levels(boxes, config, reporter)?;
        let resized = ResizedImages::new(config.size, decoding);
        let read =
            |boxes, images, train| AnnotatedImages::read(boxes, images, train, &resized, reporter);
        let train = read(&boxes.train_boxes, &boxes.train_images, None)?;
        let val = read(&boxes.val_boxes, &boxes.val_images, Some(&train))?;
        for (file, images) in [(&boxes.train_boxes, &train), (&boxes.val_boxes, &val)] {
            if let Some(left_out) = images.left_out.describe() {
                reporter.say(format_args!("left out of {}: {left_out}", file.display()));
            }
        }
        Ok(Self { train, val, resized, decoding })
    }

    /// Computes the features, or takes them from `folder`. On the first of the ranks; the others
    /// compute their part.
    pub fn features(
        &self,
        backbone: &FrozenBackbone,
        config: &EvalConfig,
        folder: &Path,
        (ranks, reporter): (&Ranks, &Reporter),
    ) -> Result<Option<BoxFeatures>> {
        let Self { train, val, resized, decoding } = self;
        let key = key(config, backbone, [train, val])? + &key_of(*decoding);
        let cache = Cache::of_ranks(folder, &key, ranks)?;
        let extractor = Extractor { config, backbone, resized, cache: &cache, ranks };
        // The others find those of the first rank in the cache.
        if !ranks.is_first() {
            ranks.wait_for_all();
        }
        extractor.compute_statistics(&train.images, reporter)?;
        if ranks.is_first() {
            ranks.wait_for_all();
        }
        let of_train = extractor.features(Split::Training, &train.images, reporter)?;
        let of_val = extractor.features(Split::Validation, &val.images, reporter)?;
        let (Some(train), Some(mut val)) = (of_train, of_val) else { return Ok(None) };
        Ok(Some(BoxFeatures { train, val: val.remove(0) }))
    }
}

/// How images are decoded. For `--levels auto` the folder of the training images is listed.
fn choose_levels(
    boxes: &BoxesOptions,
    config: &EvalConfig,
    reporter: &Reporter,
) -> Result<Decoding> {
    let EvalConfig { pixels, ref linear_layer, .. } = *config;
    let how = decoding(pixels);
    if pixels.levels() != Levels::Auto {
        return Ok(how);
    }
    let options = SourceOptions::default();
    let training = Sources::find(&boxes.train_images, &options, how, Examine::Header)?;
    with_window(&training, pixels, linear_layer.seed, reporter)
}

/// The class of each box.
pub(super) fn classes_of(images: &[AnnotatedImage]) -> Vec<usize> {
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
        "roi weights {:08x} size {} images-per-batch {} images {:08x} {:08x}{}",
        backbone.checksum()?,
        config.size,
        config.images_per_batch,
        images[0],
        images[1],
        config.on_gpu()
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
    resized: &'a ResizedImages,
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
        let batches: Vec<_> = batches.into_iter().step_by(interval).collect();
        let decode = |images: &[(usize, &AnnotatedImage)]| {
            inputs(images, self.config.size, false, |(index, image)| {
                let mut input = self.resized.get(&image.path)?;
                if index % 2 == 1 {
                    flip(&mut input);
                }
                Ok(input)
            })
        };
        compute_statistics(self.backbone, &batches, self.config.size, decode, reporter)?;
        self.cache.store(NAME, &self.backbone.statistics()?)
    }

    /// The features `[boxes, C]` of all boxes: for training of the images and of the flipped
    /// images, for validation of the images. On the first rank; the others compute their part.
    fn features(
        &self,
        split: Split,
        images: &[AnnotatedImage],
        reporter: &Reporter,
    ) -> Result<Option<Vec<Tensor>>> {
        let (prefix, status, sides): (_, _, &[&str]) = match split {
            Split::Training => {
                ("train", "features of the training boxes", &["upright", "mirrored"])
            }
            Split::Validation => ("val", "features of the validation boxes", &["upright"]),
        };
        let chunks: Vec<&[AnnotatedImage]> = images.chunks(IMAGES_PER_FILE).collect();
        let part = |(number, chunk): (usize, &&[AnnotatedImage])| Part {
            files: sides.iter().map(|side| format!("{prefix}-{side}-{number:05}")).collect(),
            images: chunk.len(),
        };
        let parts: Vec<Part> = chunks.iter().enumerate().map(part).collect();
        let EvalConfig { size, images_per_batch: given, .. } = *self.config;
        let (resized, mirrored) = (self.resized, sides.len() > 1);
        self.cache.divide(&parts, status, (self.ranks, reporter), |missing, store| {
            let chunks: Vec<&[AnnotatedImage]> =
                missing.iter().map(|&number| chunks[number]).collect();
            compute_features(
                self.backbone,
                &chunks,
                (images_per_batch(given, size, sides.len()), sides.len()),
                |images| inputs(images, size, mirrored, |image| resized.get(&image.path)),
                |images| Some(rois(images, size, mirrored)),
                reporter,
                |number, features| store(missing[number], features),
            )
        })
    }
}

/// The boxes of a batch as RoIs, five numbers each: the index of the input, and x0, y0, x1, y1 in
/// pixels of the input. With `mirrored`, those in the flipped inputs after all others.
fn rois(images: &[AnnotatedImage], size: u32, mirrored: bool) -> Vec<f32> {
    let size = f64::from(size);
    let mut rois = Vec::new();
    let sides = [false, true].into_iter().take(1 + usize::from(mirrored));
    let inputs = sides.flat_map(|flipped| images.iter().map(move |image| (flipped, image)));
    for (number, (flipped, image)) in inputs.enumerate() {
        let scale = [size / f64::from(image.size.width), size / f64::from(image.size.height)];
        for labeled in &image.boxes {
            let [x0, y0, x1, y1] = labeled.corners;
            let [mut x0, y0, mut x1, y1] =
                [x0 * scale[0], y0 * scale[1], x1 * scale[0], y1 * scale[1]];
            if flipped {
                (x0, x1) = (size - x1, size - x0);
            }
            rois.extend([number as f32, x0 as f32, y0 as f32, x1 as f32, y1 as f32]);
        }
    }
    rois
}

/// The indices of the boxes to train on, in ascending order: of a class with `n` boxes `most(n)`,
/// drawn at random. Of one seed a smaller choice is a part of a larger one.
pub(super) fn choose(classes: &[usize], most: impl Fn(usize) -> usize, seed: u64) -> Vec<usize> {
    let mut indices: Vec<usize> = (0..classes.len()).collect();
    Stream::new(seed, NO_EPOCH, u64::MAX, Purpose::Evaluation).shuffle(&mut indices);
    let mut counts = vec![0; classes.iter().max().map_or(0, |last| last + 1)];
    classes.iter().for_each(|&class| counts[class] += 1);
    let mut left: Vec<usize> = counts.into_iter().map(most).collect();
    indices.retain(|&index| {
        let left = &mut left[classes[index]];
        let is_chosen = *left > 0;
        *left = left.saturating_sub(1);
        is_chosen
    });
    indices.sort_unstable();
    indices
}

/// Training boxes, each image flipped at random in each epoch.
pub(super) struct TrainingBoxes {
    /// `[R, C]` each: all boxes in the images, and all boxes in the flipped images.
    features: Vec<Tensor>,
    /// The boxes to train on, as rows of the features.
    rows: Vec<usize>,
    /// The class of each of these.
    classes: Vec<usize>,
    /// The index of each row's image.
    images: Vec<u64>,
    seed: u64,
}

impl TrainingBoxes {
    /// The boxes of `rows`, with the features of all.
    pub fn new(features: Vec<Tensor>, rows: Vec<usize>, of: &AnnotatedImages, seed: u64) -> Self {
        let all_classes = classes_of(&of.images);
        let images = (0..).zip(&of.images);
        Self {
            features,
            classes: rows.iter().map(|&row| all_classes[row]).collect(),
            rows,
            images: images.flat_map(|(i, image)| vec![i; image.boxes.len()]).collect(),
            seed,
        }
    }
}

impl TrainingSet for TrainingBoxes {
    fn classes(&self) -> &[usize] {
        &self.classes
    }

    fn unit(&self) -> &'static str {
        "boxes"
    }

    fn visit(&mut self, epoch: u32, batches: &[&[usize]], step: &mut TrainingStep) -> Result<()> {
        let row = |&index: &usize| {
            let row = self.rows[index];
            let mut random = Stream::new(self.seed, epoch, self.images[row], Purpose::Evaluation);
            (usize::from(random.chance(0.5)), row)
        };
        batches.iter().try_for_each(|indices| {
            step(indices, select_rows(&self.features, indices.iter().map(row))?)
        })
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
        assert_eq!(choose(&classes, |boxes| boxes, 1), (0..60).collect::<Vec<_>>());
        let chosen = choose(&classes, |_| 20, 1);
        let of = |class| chosen.iter().filter(|&&index| classes[index] == class).count();
        assert_eq!((of(0), of(2)), (20, 12));
        assert!(chosen.is_sorted() && chosen != choose(&classes, |_| 20, 2));
    }

    #[test]
    fn boxes_are_resized_and_flipped_with_their_images() {
        let boxes = vec![LabeledBox { corners: [10.0, 5.0, 30.0, 50.0], class: 0 }];
        let size = ImageSize { width: 100, height: 50 };
        let image = AnnotatedImage { path: "a".into(), bytes: 1, size, boxes };
        let images = [image.clone(), image];
        assert_eq!(rois(&images[..1], 200, false), [0.0, 20.0, 20.0, 60.0, 200.0]);
        let expected = [
            [0.0, 20.0, 20.0, 60.0, 200.0],
            [1.0, 20.0, 20.0, 60.0, 200.0],
            [2.0, 140.0, 20.0, 180.0, 200.0],
            [3.0, 140.0, 20.0, 180.0, 200.0],
        ];
        assert_eq!(rois(&images, 200, true), expected.as_flattened());
    }
}

//! The protocol of section 4.2.5: classification of ground-truth boxes from RoIAligned features.
//!
//! Images are resized to one size, and flipped at random for training. The backbone is frozen,
//! except that the running statistics of its batch norms are computed anew on the training images.
//! RoIAlign to 1×1 on the last feature map gives the features of each box, and a linear layer
//! learns the classes. Flips are the only augmentation, so each box has just two feature vectors,
//! which are computed once.

use candle_core::Tensor;
use scrl_cli::Reporter;
use scrl_preprocess::views::rng::{Purpose, Stream};

use super::annotations::AnnotatedImage;
use super::box_features::{BoxSplits, TRAINING, VALIDATION, box_key, choose, classes_of};
use super::features::{Extractor, explain_out_of_memory};
use super::frozen_backbone::FrozenBackbone;
use super::linear_layer::{LinearLayer, TrainingSet, TrainingStep, select_rows};
use super::options::{EvalConfig, RoiConfig};
use super::results::{Examples, Predictor, Results};
use crate::Result;
use crate::collective::Ranks;

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
    let EvalConfig { backbone: of_backbone, out } = &config.common;
    let backbone = FrozenBackbone::new(&of_backbone.source, &of_backbone.device, reporter)?;
    let BoxSplits { train, val, resized } = BoxSplits::read(&config.files, of_backbone, reporter)?;
    let key = box_key(of_backbone, &backbone, &[&train, &val], &resized)?;
    let cache = (&*out.join("features"), &*key);
    let extractor = Extractor::new(of_backbone, &backbone, cache, ranks)?;
    extractor.box_statistics(&train.images, &resized, reporter)?;
    let features = extractor.box_features(TRAINING, &train.images, &resized, true, reporter)?;
    let validation = extractor.box_features(VALIDATION, &val.images, &resized, false, reporter)?;
    let (Some(features), Some(validation)) = (features, validation) else { return Ok(None) };
    let seed = config.linear_layer.seed;
    let most = |boxes| config.boxes_per_class.unwrap_or(boxes);
    let rows = choose(&classes_of(&train.images), most, seed);
    let mut boxes = TrainingBoxes::new(features, rows, &train.images, seed);
    let layer = LinearLayer::train(
        &config.linear_layer,
        [backbone.arch().channels(), train.classes.len()],
        backbone.device(),
        &mut boxes,
        None,
        reporter,
    )?;
    let val_classes = classes_of(&val.images);
    let confusion = layer.validate(&validation[0], &val_classes)?;
    let examples = [
        Examples { classes: &boxes.classes, left_out: Some(train.left_out) },
        Examples { classes: &val_classes, left_out: Some(val.left_out) },
    ];
    let backbone = (&config.common, backbone.arch());
    let layer = Predictor::Linear(&config.linear_layer, &layer);
    Ok(Some(Results::new("roi", backbone, &train.classes, examples, &layer, confusion)))
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
    /// The boxes of `rows`, with the features of all, upright and mirrored.
    pub fn new(
        features: Vec<Tensor>,
        rows: Vec<usize>,
        images: &[AnnotatedImage],
        seed: u64,
    ) -> Self {
        let all_classes = classes_of(images);
        Self {
            features,
            classes: rows.iter().map(|&row| all_classes[row]).collect(),
            rows,
            images: (0..).zip(images).flat_map(|(i, image)| vec![i; image.boxes.len()]).collect(),
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

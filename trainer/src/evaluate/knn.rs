//! Classification of images or boxes by votes of nearest neighbors, without any training.
//!
//! Each validation example gets the class with the most votes of the `k` most similar training
//! examples, of which each votes with exp(cosine similarity / 0.07), as in DINO's evaluation.
//! Features are those of the linear protocols, of upright images and center crops.

use candle_core::Tensor;
use scrl_cli::Reporter;

use super::annotations::LeftOut;
use super::box_features::{self, BoxSplits, box_key, choose, classes_of};
use super::class_images::{ClassImage, ClassSplits, ids};
use super::confusion::Confusion;
use super::features::{Extractor, explain_out_of_memory};
use super::frozen_backbone::FrozenBackbone;
use super::image_features;
use super::linear_layer::select_rows;
use super::neighbors::{Neighbor, nearest, normalized};
use super::options::{BoxFiles, EvalConfig, ImageFiles, KnnConfig, KnnFiles};
use super::results::{Examples, Predictor, Results};
use crate::Result;
use crate::collective::Ranks;
use crate::ops::cpu::f32s;

/// Numbers of neighbors, in ascending order.
pub(super) const NEIGHBORS: [usize; 2] = [20, 200];

const TEMPERATURE: f64 = 0.07;

/// Examples with their features `[N, C]` and classes.
struct Labeled {
    features: Tensor,
    classes: Vec<usize>,
    left_out: Option<LeftOut>,
}

/// The names of the classes, and the training and the validation examples.
type Splits = (Vec<String>, [Labeled; 2]);

/// Evaluates a backbone by the classes of nearest neighbors. Features are stored in `out/features`,
/// for the other protocols as well; a stopped evaluation resumes from them. Several `ranks` divide
/// the features among them, and the first one alone has the results.
///
/// # Errors
/// If a file cannot be read or written, or the images are unusable;
/// [`Error::Stopped`](crate::Error::Stopped) if the program is asked to stop.
pub fn evaluate_neighbors(
    config: &KnnConfig,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Option<Results>> {
    evaluate(config, ranks, reporter).map_err(explain_out_of_memory)
}

fn evaluate(config: &KnnConfig, ranks: &Ranks, reporter: &Reporter) -> Result<Option<Results>> {
    let of_backbone = &config.common.backbone;
    let backbone = FrozenBackbone::new(&of_backbone.source, &of_backbone.device, reporter)?;
    let common = (&config.common, &backbone, ranks);
    let splits = match &config.files {
        KnnFiles::Images(files) => images(files, common, reporter)?,
        KnnFiles::Boxes(files, most) => boxes(files, *most, common, reporter)?,
    };
    let Some((names, [train, val])) = splits else { return Ok(None) };
    let [few, many] = classify(
        (&train.features, &train.classes),
        &val.features,
        names.len(),
        reporter,
    )?
    .map(|predicted| {
        let mut confusion = Confusion::new(names.len());
        val.classes.iter().zip(predicted).for_each(|(&class, found)| confusion.count(class, found));
        confusion
    });
    let predictor = Predictor::Neighbors { top1_k200: many.accuracy() };
    let examples = [&train, &val]
        .map(|split| Examples { classes: &split.classes, left_out: split.left_out.clone() });
    let backbone = (&config.common, backbone.arch());
    Ok(Some(Results::new("knn", backbone, &names, examples, &predictor, few)))
}

/// What all features come from.
type Common<'a> = (&'a EvalConfig, &'a FrozenBackbone, &'a Ranks);

/// The features of images, on the first rank.
fn images(
    files: &ImageFiles,
    (EvalConfig { backbone: config, out }, backbone, ranks): Common,
    reporter: &Reporter,
) -> Result<Option<Splits>> {
    let splits = ClassSplits::find(files, config, reporter)?;
    let (cache, key) = (out.join("features"), splits.key(config, backbone)?);
    let extractor = Extractor::new(config, backbone, (&cache, &key), ranks)?;
    extractor.image_statistics(splits.train_source(), &ids(&splits.train), reporter)?;
    let features = |set, source, images: &[ClassImage]| -> Result<Option<Labeled>> {
        let features = extractor.image_features(set, source, &ids(images), reporter)?;
        let classes = images.iter().map(|image| image.class).collect();
        Ok(features.map(|features| Labeled { features, classes, left_out: None }))
    };
    let train = features(image_features::TRAINING, splits.train_source(), &splits.train)?;
    let val = features(image_features::VALIDATION, splits.val_source(), &splits.val)?;
    Ok(train.zip(val).map(|(train, val)| (splits.classes().to_vec(), [train, val])))
}

/// The features of boxes, with at most `most` training boxes of a class, on the first rank.
fn boxes(
    files: &BoxFiles,
    most: Option<usize>,
    (EvalConfig { backbone: config, out }, backbone, ranks): Common,
    reporter: &Reporter,
) -> Result<Option<Splits>> {
    let BoxSplits { train, val, resized } = BoxSplits::read(files, config, reporter)?;
    let key = box_key(config, backbone, &[&train, &val], &resized)?;
    let extractor = Extractor::new(config, backbone, (&out.join("features"), &key), ranks)?;
    extractor.box_statistics(&train.images, &resized, reporter)?;
    let features = |set, images| extractor.box_features(set, images, &resized, false, reporter);
    let of_train = features(box_features::TRAINING, &train.images)?;
    let of_val = features(box_features::VALIDATION, &val.images)?;
    let (Some(of_train), Some(mut of_val)) = (of_train, of_val) else { return Ok(None) };
    let classes = classes_of(&train.images);
    let rows = choose(&classes, |boxes| most.unwrap_or(boxes), config.seed);
    let train_split = Labeled {
        features: select_rows(&of_train, rows.iter().map(|&row| (0, row)))?,
        classes: rows.iter().map(|&row| classes[row]).collect(),
        left_out: Some(train.left_out),
    };
    let val_split = Labeled {
        features: of_val.remove(0),
        classes: classes_of(&val.images),
        left_out: Some(val.left_out),
    };
    Ok(Some((train.classes, [train_split, val_split])))
}

/// The predicted classes for each of [`NEIGHBORS`], by training examples with their features and
/// classes.
pub(super) fn classify(
    (train, labels): (&Tensor, &[usize]),
    val: &Tensor,
    classes: usize,
    reporter: &Reporter,
) -> Result<[Vec<usize>; 2]> {
    let channels = val.dim(1)?;
    let [few, many] = NEIGHBORS;
    if labels.len() < many {
        let all = labels.len();
        reporter
            .say(format_args!("only {all} training examples: all of them are the {many} nearest"));
    }
    let queries = normalized(&f32s(val)?, channels);
    let bank = normalized(&f32s(train)?, channels);
    reporter.begin("examples", (queries.len() / channels) as u64, 0);
    reporter.set_status("nearest neighbors");
    let vote = |_, neighbors: &[Neighbor]| {
        [few, many].map(|k| {
            let nearest = &neighbors[..k.min(neighbors.len())];
            vote(nearest.iter().map(|near| (labels[near.row], near.similarity)), classes)
        })
    };
    let predicted = nearest([&queries, &bank], (channels, many), |_, _| false, vote, reporter)?;
    reporter.log();
    Ok([0, 1].map(|k| predicted.iter().map(|predicted| predicted[k]).collect()))
}

/// The class with the most votes; the first of equal ones.
fn vote(neighbors: impl Iterator<Item = (usize, f32)>, classes: usize) -> usize {
    let mut votes = vec![0.0; classes];
    for (class, similarity) in neighbors {
        votes[class] += (f64::from(similarity) / TEMPERATURE).exp();
    }
    (1..classes).fold(0, |best, class| if votes[class] > votes[best] { class } else { best })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn the_first_of_equal_classes_wins_and_similar_neighbors_outvote_many() {
        assert_eq!(vote([(2, 0.5), (1, 0.5)].into_iter(), 4), 1);
        // exp(0.2 / 0.07) = 17.4.
        let near = |others| std::iter::once((1, 0.9)).chain(vec![(0, 0.7); others]);
        assert_eq!((vote(near(17), 2), vote(near(18), 2)), (1, 0));
    }

    #[test]
    fn predictions_are_those_of_scikit_learn() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens/knn.safetensors");
        let golden = candle_core::safetensors::load(path, &Device::Cpu).unwrap();
        let numbers = |name: &str| -> Vec<usize> {
            let numbers = golden[name].to_vec1::<i64>().unwrap();
            numbers.into_iter().map(|number| number as usize).collect()
        };
        let labels = numbers("classes");
        let classes = labels.iter().max().unwrap() + 1;
        let [few, many] =
            classify((&golden["train"], &labels), &golden["val"], classes, &Reporter::silent())
                .unwrap();
        assert_eq!((few, many), (numbers("k20"), numbers("k200")));
        assert_ne!(numbers("k20"), numbers("k200"));
    }

    #[test]
    fn fewer_training_examples_than_neighbors_all_vote() {
        let tensor = |rows: [[f32; 2]; 3]| Tensor::new(&rows, &Device::Cpu).unwrap();
        let features = tensor([[1.0, 0.0], [0.0, 2.0], [0.1, 1.0]]);
        let val = tensor([[3.0, 0.1], [0.0, 1.0], [0.0, 0.0]]);
        let predicted = classify((&features, &[2, 0, 0]), &val, 3, &Reporter::silent()).unwrap();
        assert_eq!(predicted, [[2, 0, 0], [2, 0, 0]]);
    }
}

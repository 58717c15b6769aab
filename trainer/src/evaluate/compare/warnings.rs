//! What makes the numbers of a comparison doubtful.

use std::path::Path;

use scrl_cli::{Reporter, Stopped};

use super::leak::{self, Copy};
use super::options::CompareConfig;
use super::results::Setup;
use super::summary::Summary;
use crate::evaluate::BackboneSource;
use crate::evaluate::annotations::AnnotatedImages;

/// Of fewer boxes an accuracy of a half has a standard error of more than 3.5 points.
const FEW_BOXES: usize = 200;

/// Of fewer images draws with replacement say little about others.
const FEW_IMAGES: usize = 20;

/// Classes that a warning names.
const NAMED: usize = 5;

/// What is found of an arm, or why nothing is known.
type Outcome = Result<Option<String>, String>;

/// Looks for validation images that the layers or the backbones have learned from, and says what is
/// found.
///
/// # Errors
/// If the program is asked to stop.
pub(super) fn leaks(
    config: &CompareConfig,
    [train, val]: [&AnnotatedImages; 2],
    reporter: &Reporter,
) -> Result<Vec<String>, Stopped> {
    let mut warnings = Vec::new();
    let mut warn = |text: String| {
        reporter.say(format_args!("warning: {text}"));
        warnings.push(text);
    };
    let count = val.images.len();
    let in_training = leak::in_training(&val.images, &train.images, reporter);
    reporter.check_stop()?;
    match in_training {
        Ok(copies) => {
            if let Some(found) = found(&copies, count) {
                warn(format!("{found} are training images as well: all accuracies are too high"));
            }
        }
        Err(reason) => warn(format!("validation images among the training images: {reason}")),
    }
    // What is found, or why that is not known, and of which arms: they may share a pretraining.
    let mut outcomes: Vec<(Outcome, Vec<&str>)> = Vec::new();
    let images = config.pretraining_images.as_deref();
    for arm in &config.arms {
        for source in &arm.runs {
            let BackboneSource::File(file, _) = source else { continue };
            let copies = leak::in_pretraining(&val.images, file, images, reporter);
            reporter.check_stop()?;
            let outcome = match copies {
                // Nobody knows what published weights were trained on.
                Ok(None) => continue,
                Ok(Some(copies)) => Ok(found(&copies, count)),
                Err(reason) => Err(reason),
            };
            match outcomes.iter_mut().find(|(other, _)| *other == outcome) {
                Some((_, names)) if names.contains(&&*arm.name) => {}
                Some((_, names)) => names.push(&arm.name),
                None => outcomes.push((outcome, vec![&arm.name])),
            }
        }
    }
    for (outcome, names) in outcomes {
        let pretraining = format!("in the pretraining of {}", names.join(" and "));
        match outcome {
            Ok(Some(found)) => {
                warn(format!("{found} were {pretraining}: accuracies may be too high"));
            }
            Ok(None) => reporter.say(format_args!("no validation image was {pretraining}")),
            Err(reason) => warn(format!(
                "whether validation images were {pretraining} is not known: {reason}; if its \
                 images lie elsewhere now, give --pretraining-images"
            )),
        }
    }
    Ok(warnings)
}

/// Such as `2 of 607 validation images, such as val/a.jpg (b.jpg),`; `None` without copies.
fn found(copies: &[Copy], of: usize) -> Option<String> {
    let Copy { image, other } = copies.first()?;
    let name = |path: &Path| path.display().to_string();
    Some(format!(
        "{} of {of} validation images, byte for byte, such as {} ({}),",
        copies.len(),
        name(image),
        name(other)
    ))
}

/// What the validation boxes are too few for.
pub(super) fn few_boxes(found: &Summary, setup: &Setup) -> Vec<String> {
    let mut warnings = Vec::new();
    let Setup { val_boxes, val_images, .. } = setup;
    let plural = if *val_images == 1 { "" } else { "s" };
    if *val_images < 2 {
        warnings.push(format!(
            "all {val_boxes} validation boxes are of one image: nothing tells a difference from \
             chance; use at least {FEW_IMAGES} images"
        ));
    } else if *val_boxes < FEW_BOXES || *val_images < FEW_IMAGES {
        let widths = found.differences[0].iter().filter_map(|it| it.interval);
        let half = widths.map(|[low, high]| (high - low) / 2.0).fold(0.0, f64::max);
        warnings.push(format!(
            "only {val_boxes} validation boxes of {val_images} image{plural}: the intervals are ± \
             {:.1} points wide, and smaller differences cannot be seen; use at least {FEW_BOXES} \
             boxes of {FEW_IMAGES} images",
            100.0 * half
        ));
    }
    let named = |is: &dyn Fn(usize, usize) -> bool| {
        let found = found.classes.iter().filter(|class| is(class.train, class.val));
        let names: Vec<&str> = found.map(|class| &*class.name).collect();
        let more = if names.len() > NAMED { ", …" } else { "" };
        (names.len(), names[..names.len().min(NAMED)].join(", ") + more)
    };
    let (count, names) = named(&|_, val| val == 0);
    if count > 0 {
        let all = found.classes.len();
        warnings.push(format!(
            "{count} of {all} classes have no validation boxes and are not measured: {names}"
        ));
    }
    let (count, names) = named(&|train, val| train == 0 && val > 0);
    if count > 0 {
        warnings.push(format!(
            "{count} classes have validation boxes but no training boxes, and are never \
             recognized: {names}"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::LinearLayerConfig;
    use crate::evaluate::compare::summary::{self, Boxes, summarize};
    use crate::train::Precision;

    /// The warnings for images of ten boxes each, all of one class of three.
    fn warnings_of(images: usize) -> Vec<String> {
        let boxes = 10 * images;
        let arm = |right: bool| summary::Outcome {
            right: vec![(0..boxes).map(|number| right || number % 3 == 0).collect()],
            varies: true,
        };
        let of = Boxes {
            images: (0..boxes).map(|number| number / 10).collect(),
            classes: &vec![1; boxes],
        };
        let names = ["cat", "dog", "cow"].map(str::to_owned);
        let summary = summarize(&[vec![arm(false), arm(true)]], &of, (&names, &[5, 0, 5]), 0);
        let setup = Setup {
            train_boxes: 10,
            train_images: 1,
            val_boxes: boxes,
            val_images: images,
            k: 20,
            seeds: vec![0],
            resamples: 1,
            size: 64,
            device: "cpu".to_owned(),
            precision: Precision::F32,
            linear_layer: LinearLayerConfig {
                epochs: 1,
                warmup_epochs: 0,
                lr: 0.1,
                batch_size: 1,
                seed: 0,
            },
        };
        few_boxes(&summary, &setup)
    }

    #[test]
    fn too_few_boxes_are_warned_of() {
        let classes = [
            "2 of 3 classes have no validation boxes and are not measured: cat, cow",
            "1 classes have validation boxes but no training boxes, and are never recognized: dog",
        ];
        assert_eq!(warnings_of(20), classes);
        let one = warnings_of(1);
        assert!(one[0].starts_with("all 10 validation boxes are of one image"), "{}", one[0]);
        assert_eq!(one[1..], classes);
        let few = &warnings_of(19)[0];
        assert!(few.starts_with("only 190 validation boxes of 19 images: the intervals are ± "));
    }
}

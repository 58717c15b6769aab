//! Does it help? Backbones compared on the same boxes (`scrl-eval compare`).
//!
//! ```text
//! options ─ arms ─┐             ┌─ labels ─ linear layers ─┐            ┌─ results.json
//! boxes ──────────┴─ features ──┴─ k-NN ───────────────────┴─ summary ──┼─ page ─ plot
//!    └─ leak, few boxes ─ warnings                  bootstrap ──┘       └─ table
//! ```
//!
//! Every measure tells of each validation box whether an arm classified it correctly, so that arms
//! are compared box by box.

mod arms;
mod bootstrap;
mod detection;
mod labels;
mod leak;
mod measure;
mod options;
mod page;
mod plot;
mod results;
mod summary;
#[cfg(test)]
mod summary_tests;
mod warnings;

pub use arms::Arm;
pub use options::{CompareConfig, CompareOptions};
pub use results::{ArmDifference, ArmResults, Comparison, Setup};
pub use summary::{Accuracy, ClassSummary, Difference, Measure};

use scrl_cli::Reporter;

use super::box_features::BoxSplits;
use super::features::explain_out_of_memory;
use super::knn::NEIGHBORS;

use crate::Result;
use crate::collective::Ranks;
use bootstrap::RESAMPLES;
use measure::Measuring;
use summary::{Boxes, Outcome, summarize};

/// Compares backbones by linear layers on the features of boxes, on fractions of the labels, and by
/// k-NN. Features are stored in `out/features`, a folder for each backbone; a stopped comparison
/// resumes from them. Several `ranks` divide the features among them, and the first one alone has
/// the results.
///
/// # Errors
/// If a file cannot be read or written, or an annotation file is unusable;
/// [`Error::Stopped`](crate::Error::Stopped) if the program is asked to stop.
pub fn compare(
    config: &CompareConfig,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Option<Comparison>> {
    evaluate(config, ranks, reporter).map_err(explain_out_of_memory)
}

fn evaluate(
    config: &CompareConfig,
    ranks: &Ranks,
    reporter: &Reporter,
) -> Result<Option<Comparison>> {
    let names: Vec<&str> = config.arms.iter().map(|arm| &*arm.name).collect();
    let detection = detection::read(&config.detection, &names)?;
    let boxes = BoxSplits::read(&config.files, &config.common.backbone, reporter)?;
    let BoxSplits { train, val, .. } = &boxes;
    let mut warnings = match ranks.is_first() {
        true => warnings::leaks(config, [train, val], reporter)?,
        false => Vec::new(),
    };
    let measuring = Measuring::new(config, &boxes, ranks, reporter);
    let measures = measuring.measures();
    let mut outcomes: Vec<Vec<Outcome>> = measures.iter().map(|_| Vec::new()).collect();
    let mut arms = Vec::new();
    for arm in &config.arms {
        reporter.say(format_args!("arm {}", arm.name));
        let Some((arch, of_measures)) = measuring.arm(arm)? else { continue };
        outcomes.iter_mut().zip(of_measures).for_each(|(all, outcome)| all.push(outcome));
        let checkpoints = arm.runs.iter().map(ToString::to_string).collect();
        arms.push((arm.name.clone(), checkpoints, arch));
    }
    if !ranks.is_first() {
        return Ok(None);
    }
    let Measuring { train_classes, val_classes, .. } = &measuring;
    let images = val.images.iter().enumerate();
    let of_boxes = Boxes {
        images: images.flat_map(|(i, image)| vec![i; image.boxes.len()]).collect(),
        classes: val_classes,
    };
    let mut counts = vec![0; train.classes.len()];
    train_classes.iter().for_each(|&class| counts[class] += 1);
    let summary = summarize(&outcomes, &of_boxes, (&train.classes, &counts), config.seeds[0]);
    let setup = Setup {
        train_boxes: train_classes.len(),
        train_images: train.images.len(),
        val_boxes: val_classes.len(),
        val_images: val.images.len(),
        k: NEIGHBORS[0],
        seeds: config.seeds.clone(),
        resamples: RESAMPLES,
        size: config.common.backbone.size,
        device: config.common.backbone.device.name.clone(),
        precision: config.common.backbone.device.precision,
        linear_layer: config.linear_layer.clone(),
    };
    let few = warnings::few_boxes(&summary, &setup);
    few.iter().for_each(|text| reporter.say(format_args!("warning: {text}")));
    warnings.extend(few);
    Ok(Some(Comparison::new(arms, measures, summary, &detection, warnings, setup)))
}
